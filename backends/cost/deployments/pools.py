"""A pool of servers for each phase: prompts here, tokens there, KV cache in between.

Sources of the idea: Zhong et al., "DistServe", OSDI 2024; Patel et al., "Splitwise", ISCA 2024.
"""

from __future__ import annotations

from typing import NamedTuple

from plandsl.backends.cost.deployments.batch import Prefilled, decode_step, prefilled
from plandsl.backends.cost.deployments.deployment import Deployment, Metrics
from plandsl.backends.cost.deployments.replicas import Occupied, Replicas
from plandsl.backends.cost.deployments.transfer import Moved, Transfer
from plandsl.backends.cost.num import maximum, minimum, where
from plandsl.backends.cost.time.phase import PhaseTimes
from plandsl.ir.types import Number
from plandsl.spec.plan import PlanSpec, SplitSpec


class Rates(NamedTuple):
    """Requests/s that each pool, and the link between them, sustain; what is moved; the slowest sets the pace."""

    prefill: Number
    transfer: Number
    decode: Number
    moved: Moved

    @property
    def least(self) -> Number:
        """Requests/s of the whole."""
        return minimum(minimum(self.prefill, self.transfer), self.decode)


class Batches(NamedTuple):
    """Batches in both pools: prompts in one, the mean decode step in the other, TPOT with both, and the rates."""

    first: Prefilled
    decode: PhaseTimes
    tpot: Number
    rates: Rates


class Pools(Deployment):
    """Both pools under one load: ``batch`` is that of the decode pool, the other one's is its plan's."""

    def __init__(self, plan: PlanSpec, split: SplitSpec, prefill: Replicas, decode: Replicas) -> None:
        super().__init__(plan)
        self.split, self.prefill, self.decode = split, prefill, decode
        self._transfer = Transfer(split, prefill.memory, decode.memory)

    @property
    def pools(self) -> tuple[Replicas, ...]:
        """That of prefill, and that of decode."""
        return self.prefill, self.decode

    @property
    def transfer(self) -> Transfer:
        """What lies between them."""
        return self._transfer

    def on(self, plan: PlanSpec) -> Pools:
        """The same under other figures."""
        split = plan.split
        assert split is not None, "other figures leave the pools"
        return Pools(plan, split, self.prefill.on(split.prefill), self.decode.on(split.decode))

    def guessing(self, tokens: Number, acceptance: Number) -> Pools:
        """The same with other guesses, each right with chance ``acceptance``; numbers or arrays, as a load."""
        return Pools(self.plan, self.split, *(pool.guessing(tokens, acceptance) for pool in self.pools))

    def batches(self, first: Number, second: Number, i: Number, o: Number) -> Batches:
        """Batches of ``first`` prompts in one pool, and of ``second`` requests in the other.

        The first token is made by the prefill, and does not wait for the transfer (DistServe; TensorRT-LLM and SGLang
        hand it over with the cache). The others do: ``tpot = step + exposed transfer / (output - 1)``. A request has
        its place in the decode pool from the start of its transfer, so that of ``places`` of them

            rates = replicas in_flight batch / (period + admit batch),  that of ports,  places / ((output - 1) tpot)
        """
        ours, theirs = self.prefill, self.decode
        prompts, decode = prefilled(ours.one, first, i), decode_step(theirs.one, second, i, o)
        engine, steps = theirs.plan.runs_on, maximum(o - 1, 1)
        moved = self.transfer.moved(first, i, prompts.times.through)
        tpot = (decode.period + engine.step + engine.request * second) / theirs.gain + moved.exposed / steps
        rates = Rates(
            ours.n * ours.in_flight * first / prompts.period,
            moved.rate,
            theirs.n * theirs.in_flight * second / (steps * tpot),
            moved,
        )
        return Batches(prompts, decode, tpot, rates)

    def together(self, b: Number, i: Number, o: Number) -> Metrics:
        """Batches of ``b`` requests in the decode pool, fed by batches of the prefill pool's own size."""
        first = self.prefill.plan.workload.batch
        prompts, decode, tpot, rates = self.batches(first, b, i, o)
        held = fuller(self.prefill.occupied(first, i, o, ongoing=False), self.decode.occupied(b, i, o, ongoing=False))
        throughput = rates.least * o
        return Metrics(
            ttft=prompts.ttft,
            tpot=tpot,
            latency=prompts.ttft + (o - 1) * tpot,
            throughput=throughput,
            throughput_per_gpu=throughput / self.gpus,
            **held._asdict(),
            max_batch=self.decode.max_batch(i, o, ongoing=False),
            prefill=prompts.times,
            decode=decode,
            joined=first,
            batch=b,
        )

    @property
    def gpus(self) -> int:
        """GPUs of both pools."""
        return sum(pool.plan.sharding.ranks for pool in self.pools)

    def ongoing(self, n: Number, i: Number, o: Number, requests: Number | None) -> Metrics:
        """Requests that follow one another through both pools."""
        raise AssertionError("the grammar refuses requests that follow one another")


def fuller(prefill: Occupied, decode: Occupied) -> Occupied:
    """The memory of the pool that is fuller; both must fit, and the cache is that of the decode pool."""
    fuller = prefill.used > decode.used
    return decode._replace(
        memory=where(fuller, prefill.memory, decode.memory),
        used=where(fuller, prefill.used, decode.used),
        fits=prefill.fits & decode.fits,
    )
