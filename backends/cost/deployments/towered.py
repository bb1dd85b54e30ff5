"""A server whose model has a tower: before a step with prompts, the tower encodes the images of these prompts."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

from plandsl.backends.cost.deployments.blocks import Layers
from plandsl.backends.cost.deployments.memory import MemoryModel, ProgramMemory
from plandsl.backends.cost.deployments.server import Server
from plandsl.backends.cost.deployments.shift import Modes
from plandsl.backends.cost.deployments.single import Single
from plandsl.backends.cost.deployments.step import Prompt, Step
from plandsl.backends.cost.num import maximum
from plandsl.backends.cost.time.phase import TOWER, PhaseTimes
from plandsl.ir.types import Number
from plandsl.spec.plan import PlanSpec

if TYPE_CHECKING:
    from plandsl.backends.cost.deployments.drafted import Guesses


class Towered:
    """A `Server` that runs ``tower`` before ``inner``, on the GPUs of every stage, in steps that have prompts.

    The images of a load are spread evenly over its prompt tokens, so a step of ``n`` of them encodes

        n images / input

    images. Batches in flight are encoded one after the other.
    """

    def __init__(self, inner: Server, tower: Single) -> None:
        self.plan, self.inner, self.tower = inner.plan, inner, tower
        self.in_flight, self.queries, self.gain = inner.in_flight, inner.queries, inner.gain
        self.memory = TowerMemory(inner.memory, tower.memory)

    def on(self, plan: PlanSpec) -> Towered:
        """The same server with the figures of ``plan``."""
        own = plan.tower_plan
        assert own is not None, "other figures leave the tower"
        return Towered(self.inner.on(plan), self.tower.on(own))

    def guessing(self, tokens: Number, acceptance: Number) -> Towered:
        """The same server with ``tokens`` guesses of chance ``acceptance`` each; numbers or arrays, as a load."""
        return Towered(self.inner.guessing(tokens, acceptance), self.tower)

    @property
    def main(self) -> Single:
        """The server of the language model."""
        return self.inner.main

    @cached_property
    def modes(self) -> Modes | None:
        """The servers of both shardings, each with the tower; None for one sharding."""
        found = self.inner.modes
        if found is None:
            return None
        return Modes(found.threshold, Towered(found.base, self.tower), Towered(found.tensor, self.tower))

    @property
    def guesses(self) -> Guesses | None:
        """What guesses tokens ahead; None without guesses."""
        return self.inner.guesses

    def step(self, step: Step, in_flight: Number) -> PhaseTimes:
        """Times of a step: the tower, where prompts have images, then the step of the language model."""
        times = self.inner.step(step, in_flight)
        load = self.plan.workload
        if step.prompt is None or not load.images:
            return times
        images = step.prompt.tokens * (load.images / load.input)
        return _add_tower(self.tower.step(Step(Prompt(images, self.tower.plan.workload.input)), in_flight), times)


def _add_tower(tower: PhaseTimes, times: PhaseTimes) -> PhaseTimes:
    """``times`` of a step, with a tower that runs before it."""
    return times._replace(
        through=times.through + tower.through,
        period=times.period + tower.period,
        drafted=times.drafted + tower.through,
        encoded=times.encoded + tower.through,
        runs=(*times.runs, *(run._replace(part=TOWER) for run in tower.runs)),
    )


class TowerMemory(MemoryModel):
    """Memory with a tower: its weights on the GPUs of every stage, and the activations of the larger step."""

    def __init__(self, target: MemoryModel, tower: ProgramMemory) -> None:
        super().__init__(target.plan, target.program)
        self.target, self.tower, self.draft = target, tower, target.draft
        self.added = tower.weights[0]
        self.weights = [held + self.added for held in target.weights]

    @property
    def main(self) -> ProgramMemory:
        """The memory of the language model."""
        return self.target.main

    @property
    def kinds(self) -> list[int]:
        """As the model has them."""
        return self.target.kinds

    def of_stage(self, stage: int) -> tuple[object, ...]:
        """What a stage holds; of the tower every stage holds the same."""
        return self.weights[stage], self.target.of_stage(stage)

    def verifying(self, queries: Number) -> TowerMemory:
        """The same with ``queries`` tokens of each request in a decode step."""
        return TowerMemory(self.target.verifying(queries), self.tower)

    def kv_per_request(self, stage: int, length: Number) -> Number:
        """Bytes that a request keeps on a GPU of ``stage``: the tower keeps nothing."""
        return self.target.kv_per_request(stage, length)

    def layers(self, stage: int) -> list[Layers]:
        """The caches of the language model."""
        return self.target.layers(stage)

    def profiled(self, stage: int) -> Number:
        """Bytes of the larger of both profiled steps."""
        return maximum(self.target.profiled(stage), self.tower.profiled(0))

    def step(self, stage: int, batch: Number, input_: Number) -> tuple[Number, Number]:
        """Bytes of activations and collective buffers in the larger step: of the language model, or of the tower."""
        ours, load = self.target.step(stage, batch, input_), self.tower.plan.workload
        images = batch * input_ * (self.plan.workload.images / self.plan.workload.input)
        theirs = self.tower.step(0, maximum(images, 1), load.input)
        return maximum(ours[0], theirs[0]), maximum(ours[1], theirs[1])
