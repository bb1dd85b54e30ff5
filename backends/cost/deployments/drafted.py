"""The cost model of a plan that guesses tokens ahead: a draft runs before each step, which verifies its guesses.

A step of the model takes each request's next token and ``k`` guesses of those after it; the first guess that is wrong
ends what counts, and the model's own token takes its place. Source: Leviathan, Kalman and Matias, "Fast inference from
transformers via speculative decoding", 2023, arXiv 2211.17192.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from attrs import evolve

from plandsl.backends.cost.deployments.memory import MemoryModel
from plandsl.backends.cost.deployments.shift import ShiftModel, mode_of
from plandsl.backends.cost.deployments.single import CostModel, Metrics
from plandsl.backends.cost.num import largest, maximum, where
from plandsl.backends.cost.time.phase import PhaseTimes
from plandsl.estimate import Shift, Speculated
from plandsl.ir.types import Number
from plandsl.spec.plan import PlanSpec, SpeculateSpec


def tokens_per_step(acceptance: Sequence[Number]) -> Number:
    """Expected tokens that a step brings, whose guesses are right with the chances ``acceptance``, one after the other.

    ``1 + a_1 + a_1 a_2 + ...``: a guess counts where it and all before it are right, and the model adds one token.
    With one chance ``a`` for all ``k`` it is ``(1 - a^(k+1)) / (1 - a)`` (arXiv 2211.17192, equation 1).
    """
    total: Number = 1.0
    chance: Number = 1.0
    for rate in acceptance:
        chance = chance * rate
        total = total + chance
    return total


def alike(acceptance: Number, tokens: Number) -> Number:
    """`tokens_per_step` of ``tokens`` guesses with one ``acceptance``, either of which may be an array."""
    wrong = maximum(1 - acceptance, 1e-12)
    return where(acceptance < 1, (1 - acceptance ** (tokens + 1)) / wrong, tokens + 1.0)


def break_even(gain: float, tokens: int) -> float | None:
    """The acceptance of each of ``tokens`` guesses from which a step brings ``gain`` tokens; None where it never does.

    Their sum grows with the acceptance: bisected.
    """
    if gain > tokens + 1:
        return None
    low, high = 0.0, 1.0
    if gain <= 1:
        return low
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if tokens_per_step([middle] * tokens) < gain else (low, middle)
    return high


class SpeculateModel(CostModel):
    """Times of ``verify`` with those of its ``draft`` before them: one prefill, and a step for each guess.

    Batches in flight draft one after the other, on the GPUs of every stage. ``plain`` gives the model of the same plan
    without guesses. ``tokens`` and ``gain`` are those of the plan unless given.
    """

    straight = False

    def __init__(
        self,
        plan: PlanSpec,
        speculate: SpeculateSpec,
        verify: CostModel,
        draft: CostModel | None,
        plain: Callable[[], CostModel],
        tokens: Number | None = None,
        gain: Number | None = None,
    ) -> None:
        self.plan, self.speculate, self.verify, self.draft, self.plain = plan, speculate, verify, draft, plain
        self.prefill, self.decode, self.in_flight = verify.prefill, verify.decode, verify.in_flight
        self.tokens = speculate.tokens if tokens is None else tokens
        self.gain = tokens_per_step(speculate.acceptance) if gain is None else gain
        self.memory = held = SpeculateMemory(verify.memory, draft.memory if draft else None, self.tokens, speculate.own)
        self.added = held.added
        if draft is not None:
            draft.in_flight = verify.in_flight

    def guessing(self, tokens: Number, acceptance: Number) -> SpeculateModel:
        """The same with other guesses, each right with chance ``acceptance``; numbers or arrays, as a load."""
        gain = alike(acceptance, tokens)
        return SpeculateModel(self.plan, self.speculate, self.verify, self.draft, self.plain, tokens, gain)

    def prefill_times(self, batch: Number, input_: Number, in_flight: Number) -> PhaseTimes:
        """Prefill of one batch, by both models."""
        times = self.verify.prefill_times(batch, input_, in_flight)
        return times if self.draft is None else _after(self.draft.prefill_times(batch, input_, in_flight), 1, times)

    def decode_times(self, batch: Number, input_: Number, output: Number, queries: Number = 1) -> PhaseTimes:
        """One step of one batch that verifies all guesses, and the steps that make them."""
        times = self.verify.decode_times(batch, input_, output, self.tokens + queries)
        if self.draft is None:
            return times
        return _after(self.draft.decode_times(batch, input_, output), self.tokens, times)

    def resident(self, input_: Number, output: Number, ongoing: bool) -> tuple[Number, Number]:
        """Tokens of KV cache that a request holds, its guesses among them, and in-flight batches that hold theirs."""
        kept, rounds = super().resident(input_, output, ongoing)
        return kept + self.tokens, rounds

    def taken(self, phase: str, metrics: Metrics) -> CostModel:
        """The model of the sharding that a phase takes under the plan's own load."""
        return self.verify.taken(phase, metrics)

    def shift(self, metrics: Metrics) -> Shift | None:
        """Of two shardings, each with the draft."""
        found = self.verify.shift(metrics)
        if found is None or not isinstance(self.verify, ShiftModel):
            return None
        base, tensor = (
            SpeculateModel(mode.plan, self.speculate, mode, self.draft, self.plain)
            for mode in (self.verify.base, self.verify.tensor)
        )
        return evolve(found, base=mode_of(base), tensor=mode_of(tensor))

    def speculated(self, metrics: Metrics) -> Speculated:
        """What the draft takes, what its guesses bring, and from which acceptance on they are worth it."""
        others = 0.0 if metrics.served is None else metrics.served.others
        step = float((metrics.tpot - others) * self.gain)
        plain = float(self.plain().evaluate().tpot)
        drafted, draft = float(metrics.decode.drafted), self.draft
        mesh = draft.plan.sharding.axes if draft else ()
        worth = plain - others
        return Speculated(
            draft=draft.plan.model.name if draft else None,
            mesh=tuple((a.name, a.size) for a in mesh if a.size > 1),
            acceptance=self.speculate.acceptance,
            tokens_per_step=float(self.gain),
            step_s=step,
            draft_s=drafted,
            draft_prefill_s=float(metrics.prefill.drafted),
            draft_weights_bytes=float(self.added),
            plain_tpot_s=plain,
            break_even=break_even(step / worth, self.speculate.tokens) if worth > 0 else 0.0,
        )


def _after(draft: PhaseTimes, runs: Number, times: PhaseTimes) -> PhaseTimes:
    """``times`` of a phase before which a draft runs so often."""
    return times._replace(
        through=times.through + runs * draft.through,
        period=times.period + runs * draft.period,
        drafted=runs * draft.through,
    )


class SpeculateMemory(MemoryModel):
    """Memory with a draft: its weights and cache on the GPUs of every stage, and the larger step's activations.

    A draft that is the model's ``own`` reads the embedding and the head of it where a stage holds them.
    """

    def __init__(self, target: MemoryModel, draft: MemoryModel | None, tokens: Number, own: bool) -> None:
        self.target, self.draft = target, draft
        self.program, self.plan, self.extents = target.program, target.plan, target.extents
        self.capacities, self.block, self.reserve = target.capacities, target.block, target.reserve
        self.weights, self.caches, self.steps = target.weights, target.caches, target.steps
        target.queries = self.queries = tokens + 1
        self.added: Number = 0.0
        if draft is not None:
            added = [self._added(draft, stage, own) for stage in range(len(target.weights))]
            self.weights = [held + more for held, more in zip(target.weights, added, strict=True)]
            self.added = largest(added)

    def _added(self, draft: MemoryModel, stage: int, own: bool) -> Number:
        """Weights of the draft on a GPU of one stage, but those that are there already."""
        here = {region.name for region, _ in self._regions(stage) if region.layers is None} if own else set()
        return draft._weights(0, {(r.name, w) for r, _ in draft._regions(0) if r.name in here for w in r.weights})

    def kv_per_request(self, stage: int, length: Number) -> Number:
        """Bytes that a request keeps on a GPU of ``stage``, in both caches.

        Where the draft's GPUs share the requests of a batch otherwise, a local request stands for as many of theirs.
        """
        held = self.target.kv_per_request(stage, length)
        if self.draft is None:
            return held
        return held + self.draft.kv_per_request(0, length) * self._ways(stage) / self.draft._ways(0)

    def step(self, stage: int, batch: Number, input_: Number) -> tuple[Number, Number]:
        """Bytes of activations and collective buffers in the largest step of either model."""
        ours = self.target.step(stage, batch, input_)
        if self.draft is None:
            return ours
        theirs = self.draft.step(0, batch, input_)
        return maximum(ours[0], theirs[0]), maximum(ours[1], theirs[1])
