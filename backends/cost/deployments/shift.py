"""The cost model of a plan with two shardings on one KV cache: each step takes one of them, by its tokens.

Source of the rule: arXiv 2509.16495, shift parallelism.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import copy

from attrs import evolve

from plandsl.backends.cost.deployments.memory import MemoryModel
from plandsl.backends.cost.deployments.prefix import reused
from plandsl.backends.cost.deployments.single import CostModel, Metrics
from plandsl.backends.cost.num import least, maximum, plain, where
from plandsl.backends.cost.time.phase import PhaseModel, PhaseTimes, Played
from plandsl.estimate import Mode, Shift
from plandsl.ir.program import DECODE, PREFILL
from plandsl.ir.types import Mesh, Number, TensorType
from plandsl.spec.plan import PlanSpec, ShiftSpec

MOST = 2**17
"""Tokens of a step up to which a crossover is looked for."""


class ShiftModel(CostModel):
    """Steps of more than ``threshold`` tokens are timed by ``base``, the others by ``tensor``; memory has both.

    A prefill step has batch * input tokens, less those reused, a decode step batch * queries. ``prefill``,
    ``decode`` and what else does not depend on the sharding are those of ``base``.
    """

    straight = False

    def __init__(self, plan: PlanSpec, shift: ShiftSpec, base: CostModel, tensor: CostModel) -> None:
        self.plan, self.base, self.tensor, self.threshold = plan, base, tensor, shift.threshold
        self.prefill, self.decode, self.in_flight = base.prefill, base.decode, base.in_flight
        self.memory = ShiftMemory(plan, shift, base, tensor)

    def on(self, plan: PlanSpec) -> ShiftModel:
        """The same schedules and memory under other figures."""
        other = copy(self)
        other.plan, other.memory = plan, self.memory.on(plan)
        base, tensor = plan.modes
        other.base, other.tensor = self.base.on(base), self.tensor.on(tensor)
        other.prefill, other.decode = other.base.prefill, other.base.decode
        return other

    def prefill_times(self, batch: Number, input_: Number, in_flight: Number) -> PhaseTimes:
        """Prefill of one batch."""
        tokens = batch * (input_ - reused(self.plan, input_))
        return self._timed(tokens, lambda model: model.prefill_times(batch, input_, in_flight))

    def decode_times(self, batch: Number, input_: Number, output: Number, queries: Number = 1) -> PhaseTimes:
        """One decode step of one batch, averaged over the growing context."""
        return self._timed(batch * queries, lambda model: model.decode_times(batch, input_, output, queries))

    def _timed(self, tokens: Number, time: Callable[[CostModel], PhaseTimes]) -> PhaseTimes:
        if plain(tokens):
            return time(self._mode(tokens))
        return _either(tokens > self.threshold, time(self.base), time(self.tensor))

    def _mode(self, tokens: Number) -> CostModel:
        return self.base if tokens > self.threshold else self.tensor

    def taken(self, phase: str, metrics: Metrics) -> CostModel:
        """The model of the sharding that a phase takes under the plan's own load."""
        joined, batch = self.requests(metrics)
        input_ = self.plan.workload.input
        if phase == PREFILL:
            return self._mode(joined * (input_ - reused(self.plan, input_)))
        return self._mode(batch * self.plan.queries)

    def by_tokens(self, phase: str, tokens: Number, of: Callable[[PhaseModel], Number]) -> Number:
        """What is so of a phase, by the sharding that takes a step of ``tokens``."""
        large = tokens > self.threshold
        return where(large, self.base.by_tokens(phase, tokens, of), self.tensor.by_tokens(phase, tokens, of))

    def shift(self, metrics: Metrics) -> Shift:
        """Both shardings by themselves, which one each phase takes, and where they cross."""
        load, names = self.plan.workload, {id(self.base): "base", id(self.tensor): "tensor"}
        prefill, decode = (names[id(self.taken(phase, metrics))] for phase in (PREFILL, DECODE))
        return Shift(
            self.threshold,
            prefill,
            decode,
            mode_of(self.base),
            mode_of(self.tensor),
            self._crossover(lambda model, n: model.prefill_times(1, n, self.in_flight).through),
            self._crossover(lambda model, n: model.decode_times(n, load.input, load.output, self.plan.queries).period),
        )

    def _crossover(self, time: Callable[[CostModel, int], Number]) -> int | None:
        """The number of tokens from which the base is the faster.

        Times have steps (padding, tiles), so that the two may cross more than once; this is one such number.
        """
        return least(lambda tokens: bool(time(self.base, tokens) < time(self.tensor, tokens)), MOST)


def mode_of(model: CostModel) -> Mode:
    """What a plan would take with one sharding alone."""
    metrics, sharding = model.evaluate(), model.plan.sharding
    mesh = tuple((a.name, a.size) for a in sharding.axes if a.size > 1)
    return Mode(sharding.name, mesh, float(metrics.ttft), float(metrics.tpot))


def _either(condition: Number, a: PhaseTimes, b: PhaseTimes) -> PhaseTimes:
    """``a`` where ``condition`` holds, ``b`` elsewhere. Their ops differ, so times of single ops are left out."""

    def played(x: Played, y: Played) -> Played:
        return Played(where(condition, x.span, y.span), where(condition, x.compute, y.compute))

    return PhaseTimes(
        {},
        {name: played(a.regions[name], b.regions[name]) for name in a.regions if name in b.regions},
        [played(x, y) for x, y in zip(a.stages, b.stages, strict=True)],
        where(condition, a.hop, b.hop),
        where(condition, a.through, b.through),
        where(condition, a.period, b.period),
        where(condition, a.hops, b.hops),
    )


class ShiftMemory(MemoryModel):
    """Memory with both shardings: the cache of either, the weights of both, and the larger step's activations.

    A weight of which every rank holds the same part in both is there once. Steps of the second have at most
    ``threshold`` tokens.
    """

    def __init__(self, plan: PlanSpec, shift: ShiftSpec, base: CostModel, tensor: CostModel) -> None:
        first, second = base.prefill.schedule.program, tensor.prefill.schedule.program
        super().__init__(first, base.decode.schedule.program, plan, base.prefill.extents)
        small = evolve(tensor.plan, step_tokens=min(plan.step_tokens, shift.threshold))
        self.second = MemoryModel(second, tensor.decode.schedule.program, small, tensor.prefill.extents)
        there = {(r.name, w.name, _lies(w.type, first.mesh)) for r in first.regions for w in r.weights}
        weights = ((r.name, w) for r in second.regions for w in r.weights)
        shared = {(name, w) for name, w in weights if (name, w.name, _lies(w.type, second.mesh)) in there}
        self.weights = [held + self.second._weights(stage, shared) for stage, held in enumerate(self.weights)]

    def step(self, stage: int, batch: Number, input_: Number) -> tuple[Number, Number]:
        """Bytes of activations and collective buffers in the largest step of either sharding."""
        ours, theirs = super().step(stage, batch, input_), self.second.step(stage, batch, input_)
        return maximum(ours[0], theirs[0]), maximum(ours[1], theirs[1])


def _lies(type_: TensorType, mesh: Mesh) -> tuple[object, ...]:
    """How a weight lies, whatever the axes are called: by the size and the stride of those that cut it."""
    cuts = (tuple((mesh.size(a), mesh.stride(a)) for a in d.axes if mesh.size(a) > 1) for d in type_.dims)
    return type_.dtype, tuple(zip(type_.names, cuts, strict=True))
