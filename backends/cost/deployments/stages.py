"""Seconds and bytes of any layers on any stage, by which a cut of layers into stages is balanced.

They come from one compiled plan under its own load, with any cut.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from itertools import accumulate, pairwise

from attrs import evolve

from plandsl.backends.cost.deployments.batch import resident_tokens
from plandsl.backends.cost.deployments.contents import Contents
from plandsl.backends.cost.deployments.deployment import Deployment
from plandsl.backends.cost.deployments.memory import Held, ProgramMemory
from plandsl.backends.cost.deployments.profile import Parts
from plandsl.backends.cost.deployments.single import Single
from plandsl.backends.cost.time.phase import PhaseModel, PhaseTimes
from plandsl.ir.names import EMBEDDING, HEAD, RECV, SEND, RegionName
from plandsl.ir.program import Part, Program, Region
from plandsl.values import sum_up


class StageCosts:
    """Seconds and bytes of any layers on any stage of ``model``'s plan."""

    def __init__(self, model: Deployment) -> None:
        metrics, load = model.evaluate(), model.plan.workload
        one = model.pools[0].one
        self.memory, main = one.memory, one.main
        self.stages, self.output = len(self.memory.weights), load.output
        program = main.prefill.schedule.program
        self.blocks = [region for region in program.regions if region.layers is not None]
        self.counts = [_layer_counts(block, model.plan.model.layers) for block in self.blocks]
        phases = ((main.prefill, metrics.prefill), (main.decode, metrics.decode))
        self.spans = [[self._spans(*phase, stage) for phase in phases] for stage in range(self.stages)]
        length, rounds = resident_tokens(one, load.input, load.output, ongoing=metrics.served is not None)
        pieces = _single_pieces(program, self.blocks)
        memory = piece_memory(main, tuple(pieces.values()))
        engine, self.profile = model.plan.engine, memory.profile
        self.parts = (
            {n: memory.profile.parts(i) for i, n in enumerate(pieces)}
            if engine is not None and self.profile.step
            else None
        )
        self.graph_layer = engine.graph_layer if engine is not None and engine.graphs_in_budget else 0.0
        self.held = {n: memory.held(i, metrics.batch, length, load.input, rounds) for i, n in enumerate(pieces)}

    def seconds(self, stage: int, start: int, stop: int) -> tuple[float, float]:
        """Seconds of a batch's prefill, and of all its decode steps, on a stage that runs layers ``start..stop``."""
        prefill, decode = self.spans[stage]
        layers = [counts[stop] - counts[start] for counts in self.counts]
        return _total_seconds(prefill, layers), self.output * _total_seconds(decode, layers)

    def slowest(self, cut: Sequence[int]) -> float:
        """Seconds of the slowest stage in prefill plus the slowest stage in decode; ``cut`` has each stage's layers."""
        ends = pairwise(accumulate(cut, initial=0))
        prefill, decode = zip(*(self.seconds(stage, *end) for stage, end in enumerate(ends)), strict=True)
        return float(max(prefill) + max(decode))

    def fits(self, stage: int, start: int, stop: int) -> bool:
        """Whether the GPUs of a stage have room for layers ``start..stop`` and what else it holds."""
        held = self.hold(stage, start, stop)
        return bool(held.total <= self.memory.capacity(stage, held.weights, held.activations, held.buffers))

    def hold(self, stage: int, start: int, stop: int) -> Held:
        """What a GPU of a stage holds with layers ``start..stop``."""
        layers = {
            block.name: counts[stop] - counts[start] for block, counts in zip(self.blocks, self.counts, strict=True)
        }
        ends = RECV if stage else EMBEDDING, SEND if stage < self.stages - 1 else HEAD
        names = [n for n in (*layers, *ends) if layers.get(n, 1)]
        there = [(self.held[n], layers.get(n, 1)) for n in names]
        weights, cache = (sum_up(count * float(h[part]) for h, count in there) for part in (0, 1))
        step, buffers = (max(float(h[part]) for h, _ in there) for part in (2, 3))
        if self.parts is not None:
            step = float(self.profile.add_up(reduce(Parts.join, (self.parts[n] for n in names))))
            buffers += self.graph_layer * max(stop - start - 1, 0)  # a piece has the graphs of one layer
        return Held(weights, cache, step, buffers)

    def _spans(self, phase: PhaseModel, times: PhaseTimes, stage: int) -> tuple[float, list[float]]:
        """Seconds of the embedding and the head, where a stage has them, and of one layer of each block."""

        def span(region: RegionName) -> float:
            return float(times.regions[phase.run(stage, region)].span)

        ends = [EMBEDDING] * (stage == 0) + [HEAD] * (stage == self.stages - 1)
        return sum_up(map(span, ends)), [span(block.name) for block in self.blocks]


def _total_seconds(spans: tuple[float, list[float]], layers: list[int]) -> float:
    ends, blocks = spans
    return ends + sum_up(count * each for count, each in zip(layers, blocks, strict=True))


def _layer_counts(block: Region, layers: int) -> list[int]:
    """How many of the first 0, 1, 2, ... layers of the model belong to a block."""
    assert block.layers is not None, "a block has layers"
    own = set(block.every.select(block.layers))
    return list(accumulate((layer in own for layer in range(layers)), initial=0))


def _single_pieces(program: Program, blocks: list[Region]) -> dict[RegionName, tuple[Part, ...]]:
    """What stages are made of, each by itself: the ends, and one layer of each block."""
    found: dict[RegionName, tuple[Part, ...]] = {r.name: (Part(r.name),) for r in program.regions if r.layers is None}
    for block in blocks:
        assert block.layers is not None, "a block has layers"
        first = block.every.select(block.layers)[0]
        found[block.name] = (Part(block.name, (first, first + 1), block.every),)
    return found


def piece_memory(model: Single, pieces: tuple[tuple[Part, ...], ...]) -> ProgramMemory:
    """The memory of a plan whose stages are ``pieces``, none of which has GPUs of its own: all are on one kind."""
    prefill, decode = (evolve(phase.schedule.program, stages=pieces) for phase in (model.prefill, model.decode))
    return ProgramMemory(Contents(prefill, decode, model.prefill.extents), model.plan.kinds[0], model.plan.queries)
