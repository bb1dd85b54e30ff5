"""The cost model of a plan with a pool of GPUs for each phase: prompts here, tokens there, KV cache in between.

Sources of the idea: Zhong et al., "DistServe", OSDI 2024; Patel et al., "Splitwise", ISCA 2024.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from attrs import evolve

from plandsl.backends.cost.answers.estimate import estimate, price, requirement
from plandsl.backends.cost.deployments.single import CostModel, Metrics
from plandsl.backends.cost.deployments.transfer import Moved, Transfer
from plandsl.backends.cost.num import maximum, minimum, where
from plandsl.diagnostics import Diagnostic
from plandsl.estimate import BANDED, Band, Estimate, Pool, Pools, Sent
from plandsl.ir.program import PREFILL
from plandsl.ir.types import Number
from plandsl.spec.plan import PlanSpec, SplitSpec
from plandsl.units import show_rate


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


class SplitModel(CostModel):
    """Both pools under one load: ``batch`` is that of the decode pool, the other one's is its plan's."""

    straight = False

    def __init__(self, plan: PlanSpec, split: SplitSpec, first: CostModel, second: CostModel) -> None:
        self.plan, self.split, self.first, self.second = plan, split, first, second
        self.prefill, self.decode, self.in_flight = first.prefill, second.decode, second.in_flight
        self.memory = second.memory
        self.transfer = Transfer(split, first.memory, second.memory)

    def taken(self, phase: str, metrics: Metrics) -> CostModel:
        """The model of the pool, and sharding, that a phase runs on."""
        pool = self.first if phase == PREFILL else self.second
        return pool.taken(phase, pool.evaluate())

    def evaluate(
        self,
        batch: Number | None = None,
        input: Number | None = None,
        output: Number | None = None,
        concurrency: Number | None = None,
        requests: Number | None = None,
    ) -> Metrics:
        """All metrics; the load is a static one."""
        assert (concurrency, requests) == (None, None), "the grammar refuses requests that follow one another"
        load = self.plan.workload
        b, i, o = (
            own if given is None else given
            for own, given in ((load.batch, batch), (load.input, input), (load.output, output))
        )
        return self.both(self.first.plan.workload.batch, b, i, o)[0]

    def both(self, first: Number, second: Number, i: Number, o: Number) -> tuple[Metrics, Rates]:
        """Metrics and rates of batches of ``first`` prompts in one pool, and of ``second`` requests in the other.

        The first token is made by the prefill, and does not wait for the transfer (DistServe; TensorRT-LLM and SGLang
        hand it over with the cache). The others do: ``tpot = step + exposed transfer / (output - 1)``. A request has
        its place in the decode pool from the start of its transfer, so that of ``places`` of them

            rates = replicas in_flight batch / (period + admit batch),  that of ports,  places / ((output - 1) tpot)
        """
        a, d = self.first.evaluate(first, i, o), self.second.evaluate(second, i, o)
        moved = self.transfer.moved(first, i, a.prefill.through)
        steps = maximum(o - 1, 1)
        tpot = d.tpot + moved.exposed / steps
        ours, theirs = self.first.plan, self.second.plan
        period = a.prefill.period + ours.runs_on.admit * first
        rates = Rates(
            ours.sharding.replicas * self.first.in_flight * first / period,
            moved.rate,
            theirs.sharding.replicas * self.second.in_flight * second / (steps * tpot),
            moved,
        )
        fuller = a.used > d.used
        throughput = rates.least * o
        gpus = ours.sharding.ranks + theirs.sharding.ranks
        return (
            d._replace(
                ttft=a.ttft,
                tpot=tpot,
                latency=a.ttft + (o - 1) * tpot,
                throughput=throughput,
                throughput_per_gpu=throughput / gpus,
                memory=where(fuller, a.memory, d.memory),
                used=where(fuller, a.used, d.used),
                fits=a.fits & d.fits,
                prefill=a.prefill,
            ),
            rates,
        )


def split_estimate(model: SplitModel, notes: Sequence[Diagnostic] = ()) -> Estimate:
    """The full answer: each phase from its pool, memory of the fuller one, what limits, and what would balance."""
    a, d = estimate(model.first), estimate(model.second)
    plan, load = model.plan, model.plan.workload
    metrics, rates = model.both(model.first.plan.workload.batch, load.batch, load.input, load.output)
    wait = float(metrics.tpot) - d.tpot_s
    decode = evolve(d.decode, time_s=float(metrics.tpot), waiting_s=wait)
    fuller = max((a, model.first), (d, model.second), key=lambda one: one[0].memory.total / one[0].memory.capacity)
    gpus = a.gpus + d.gpus
    paid = price(plan)
    cost = None if paid is None else paid / float(metrics.throughput) * 1e6
    return evolve(
        d,
        gpus=gpus,
        ttft_s=float(metrics.ttft),
        tpot_s=float(metrics.tpot),
        latency_s=float(metrics.latency),
        throughput_tokens_per_s=float(metrics.throughput),
        memory=fuller[0].memory,
        prefill=a.prefill,
        decode=decode,
        requires=tuple(requirement(r, metrics, a.prefill, decode, cost) for r in plan.requires),
        notes=tuple(notes),
        assumed=_assumed(model.split, a, d),
        calibration=", ".join(dict.fromkeys((a.calibration, d.calibration))),
        cost_usd_per_mtok=cost,
        bands=_bands(a, d, metrics, rates, wait),
        pools=_pools(model, a, d, rates),
    )


def _assumed(split: SplitSpec, a: Estimate, d: Estimate) -> tuple[tuple[str, str, str], ...]:
    """What either pool takes for granted, and the link: its bandwidth is taken as reached."""
    link = [(split.between or "transfer", "bandwidth", f"{show_rate(split.bandwidth)} a port, reached in full")]
    if split.kv_transfer is None:
        link.append(("transfer", "kv_transfer", "after the prefill"))
    return tuple(dict.fromkeys((*a.assumed, *d.assumed, *link)))


def _bands(a: Estimate, d: Estimate, m: Metrics, rates: Rates, wait: float) -> tuple[tuple[str, Band], ...]:
    """TTFT as in its pool, TPOT as in the other with the transfer, the rate by what limits it."""
    ttft, step = a.band("ttft_s"), d.band("tpot_s")
    if ttft is None or step is None:
        return ()
    tpot, steps = (step[0] + wait, step[1] + wait), float(m.latency - m.ttft) / float(m.tpot)
    latency = ttft[0] + steps * tpot[0], ttft[1] + steps * tpot[1]
    limits = {"prefill": (a.ttft_s, ttft), "transfer": (1.0, (1.0, 1.0)), "decode": (float(m.tpot), tpot)}
    value, (low, high) = limits[_limit(rates)]
    rate = float(m.throughput) * value / high, float(m.throughput) * value / low
    return tuple(zip(BANDED, (ttft, tpot, latency, rate), strict=True))


def _limit(rates: Rates) -> str:
    return min(("prefill", "transfer", "decode"), key=lambda name: float(getattr(rates, name)))


def _pools(model: SplitModel, a: Estimate, d: Estimate, rates: Rates) -> Pools:
    """What each pool holds and sustains, and the decode replicas that one of prefill feeds."""
    split, moved = model.split, rates.moved
    sent = Sent(
        split.kv_transfer or "after",
        split.between,
        split.bandwidth,
        split.latency,
        float(moved.request),
        float(moved.sent),
        float(moved.received),
        float(moved.seconds),
        float(moved.exposed),
        float(rates.transfer),
    )
    first, second = (
        Pool(pool.plan.machine, e, float(rate))
        for pool, e, rate in ((model.first, a, rates.prefill), (model.second, d, rates.decode))
    )
    balance = (first.requests_per_s / a.replicas) / (second.requests_per_s / d.replicas)
    return Pools(first, second, sent, _limit(rates), balance)
