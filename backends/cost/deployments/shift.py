"""A server with two shardings on one KV cache: the number of tokens in a step selects one.

Source of the rule: arXiv 2509.16495, shift parallelism.
"""

from __future__ import annotations

from collections.abc import Hashable
from functools import cached_property
from typing import NamedTuple

from attrs import evolve

from plandsl.backends.cost.deployments.blocks import Layers
from plandsl.backends.cost.deployments.contents import find_kinds
from plandsl.backends.cost.deployments.memory import MemoryModel, ProgramMemory
from plandsl.backends.cost.deployments.server import Server
from plandsl.backends.cost.deployments.single import Single
from plandsl.backends.cost.deployments.step import Step
from plandsl.backends.cost.num import maximum, where
from plandsl.backends.cost.time.phase import PhaseTimes, Played
from plandsl.ir.types import Mesh, Number, TensorType, Value
from plandsl.spec.plan import PlanSpec


class Modes(NamedTuple):
    """Two servers: ``base`` takes steps of more than ``threshold`` tokens, ``tensor`` the others."""

    threshold: int
    base: Server
    tensor: Server


class Shift:
    """A `Server` that runs steps of more than ``threshold`` tokens on ``base``, all others on ``tensor``.

    Memory holds both.
    """

    queries: Number = 1
    gain: Number = 1
    guesses: None = None
    tower: None = None

    def __init__(
        self, plan: PlanSpec, threshold: int, base: Single, tensor: Single, memory: ShiftMemory | None = None
    ) -> None:
        self.plan, self.threshold, self.base, self.tensor = plan, threshold, base, tensor
        self.in_flight = base.in_flight
        self.memory = memory or both_memories(plan, threshold, base.memory, tensor.memory)

    def on(self, plan: PlanSpec) -> Shift:
        """The same server with the figures of ``plan``."""
        base, tensor = plan.modes
        return Shift(plan, self.threshold, self.base.on(base), self.tensor.on(tensor), self.memory.on(plan))

    def guessing(self, tokens: Number, acceptance: Number) -> Shift:
        """Itself: it has no guesses."""
        return self

    @property
    def main(self) -> Single:
        """The server of large steps."""
        return self.base

    @property
    def modes(self) -> Modes:
        """Both servers."""
        return Modes(self.threshold, self.base, self.tensor)

    def step(self, step: Step, in_flight: Number) -> PhaseTimes:
        """Times of a step, with the sharding for its number of tokens."""
        large = step.tokens > self.threshold
        if isinstance(large, bool):
            return (self.base if large else self.tensor).step(step, in_flight)
        return _choose(large, self.base.step(step, in_flight), self.tensor.step(step, in_flight))


def _choose(condition: Number, a: PhaseTimes, b: PhaseTimes) -> PhaseTimes:
    """``a`` where ``condition`` holds, ``b`` elsewhere. Times of single ops are in the runs of both."""

    def played(x: Played, y: Played) -> Played:
        return Played(where(condition, x.span, y.span), where(condition, x.compute, y.compute))

    ones, others = where(condition, 1.0, 0.0), where(condition, 0.0, 1.0)
    return PhaseTimes(
        {},
        {name: played(a.regions[name], b.regions[name]) for name in a.regions if name in b.regions},
        stages=[played(x, y) for x, y in zip(a.stages, b.stages, strict=True)],
        hop=where(condition, a.hop, b.hop),
        through=where(condition, a.through, b.through),
        period=where(condition, a.period, b.period),
        hops=where(condition, a.hops, b.hops),
        runs=(*(r._replace(weight=ones) for r in a.runs), *(r._replace(weight=others) for r in b.runs)),
    )


class ShiftMemory(MemoryModel):
    """Memory with both shardings: the cache of either, the ``weights`` of both, and the larger step's activations."""

    def __init__(self, plan: PlanSpec, base: ProgramMemory, tensor: ProgramMemory, weights: list[Number]) -> None:
        super().__init__(plan, base.program)
        self.base, self.tensor, self.weights = base, tensor, weights

    @cached_property
    def adapters(self) -> list[Number]:
        """Bytes of the adapters among the weights: those of either sharding, equal parts once."""
        shared = shared_weights(self.base, self.tensor)
        of_tensor = self.tensor.contents.adapters_of
        return [held + of_tensor(stage, shared) for stage, held in enumerate(self.base.adapters)]

    @property
    def main(self) -> ProgramMemory:
        """The memory of the programs for large steps."""
        return self.base

    def on(self, plan: PlanSpec) -> ShiftMemory:
        """The same on GPUs with other memory."""
        return ShiftMemory(plan, self.base.on(plan), self.tensor, self.weights)

    def verifying(self, queries: Number) -> ShiftMemory:
        """The same with ``queries`` tokens of each request in a decode step."""
        base, tensor = self.base.verifying(queries), self.tensor.verifying(queries)
        return ShiftMemory(self.plan, base, tensor, self.weights)

    @cached_property
    def kinds(self) -> list[int]:
        """As both shardings have them."""
        return find_kinds(self.base.kinds, self.tensor.kinds)

    def of_stage(self, stage: int) -> Hashable:
        """What a stage holds of either."""
        return self.weights[stage], self.base.of_stage(stage), self.tensor.of_stage(stage)

    def kv_per_request(self, stage: int, length: Number) -> Number:
        """Bytes that a request keeps on a GPU of ``stage``, in the one cache."""
        return self.base.kv_per_request(stage, length)

    def layers(self, stage: int) -> list[Layers]:
        """The one cache."""
        return self.base.layers(stage)

    def profiled(self, stage: int) -> Number:
        """Bytes of the larger of both profiled steps."""
        return maximum(self.base.profiled(stage), self.tensor.profiled(stage))

    def step(self, stage: int, batch: Number, input_: Number) -> tuple[Number, Number]:
        """Bytes of activations and collective buffers in the largest step of either sharding."""
        ours, theirs = self.base.step(stage, batch, input_), self.tensor.step(stage, batch, input_)
        return maximum(ours[0], theirs[0]), maximum(ours[1], theirs[1])


def both_memories(plan: PlanSpec, threshold: int, base: ProgramMemory, tensor: ProgramMemory) -> ShiftMemory:
    """Memory with both shardings; steps of ``tensor`` have at most ``threshold`` tokens.

    Where every rank holds the same part of a weight in both shardings, it holds this part once.
    """
    shared = shared_weights(base, tensor)
    weights = [held + tensor.contents.weights_of(stage, shared) for stage, held in enumerate(base.weights)]
    small = evolve(tensor.plan, step_tokens=min(plan.step_tokens, threshold))
    return ShiftMemory(plan, base.on(plan), tensor.on(small), weights)


def shared_weights(base: ProgramMemory, tensor: ProgramMemory) -> set[tuple[str, Value]]:
    """The weights of ``tensor``, by region, of which every rank holds the same part in both shardings."""
    first, second = base.program, tensor.program
    there = {(r.name, w.name, _layout(w.type, first.mesh)) for r in first.regions for w in r.weights}
    found = ((r.name, w) for r in second.regions for w in r.weights)
    return {(name, w) for name, w in found if (name, w.name, _layout(w.type, second.mesh)) in there}


def _layout(type_: TensorType, mesh: Mesh) -> tuple[object, ...]:
    """How a weight lies, whatever the axes are called: by the size and the stride of those that cut it."""
    cuts = (tuple((mesh.size(a), mesh.stride(a)) for a in d.axes if mesh.size(a) > 1) for d in type_.dims)
    return type_.dtype, tuple(zip(type_.names, cuts, strict=True))
