"""The facts of a plan that pictures show, gathered once: the shares of each rank, the time of each op, the traffic."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import NamedTuple

from plandsl.answers.estimate import Estimate
from plandsl.answers.occupancy import Memory
from plandsl.answers.phases import OpTime
from plandsl.backends.cost.answers.lines import PhaseLines
from plandsl.backends.cost.answers.ranks import stage_ranks
from plandsl.backends.cost.deployments.deployment import Deployment
from plandsl.backends.cost.time.phase import ProgramRun
from plandsl.ir.collectives import HOP_WORDS
from plandsl.ir.extents import Extents
from plandsl.ir.names import ENDS, SEND, RunKey
from plandsl.ir.program import PREFILL, Program, show_layers
from plandsl.ir.types import Dim, TensorType, block_range
from plandsl.spec.formats import as_written
from plandsl.spec.hardware import GpuSpec
from plandsl.units import show_count
from plandsl.values import sum_up

TIMES = "\N{MULTIPLICATION SIGN}"


class Traffic(NamedTuple):
    """All runs of one collective over one axis in a pass of one stage: bytes of a rank's buffers, and seconds."""

    op: str
    axis: str
    runs: int
    bytes: float
    seconds: float


class Facts:
    """The facts of one plan in one phase, as plain numbers; ``run``: of another program than the one that ran in it."""

    def __init__(self, model: Deployment, estimate: Estimate, phase: str, run: ProgramRun | None = None) -> None:
        self.model, self.estimate, self.phase = model, estimate, phase
        run = run or (model.own.prefill if phase == PREFILL else model.own.decode).main
        self.times = run.times
        self.phase_model = run.phase
        self.plan = run.plan
        self.schedule = self.phase_model.schedule
        self.program: Program = self.schedule.program
        context = int(run.context)
        bind = {**run.bind, "context": context}
        self.extents = Extents(self.program, bind, self.phase_model.extents.mesh)
        self._costs = PhaseLines(self.phase_model, run.times, bind, context)

    # ---- the mesh

    def degrees(self) -> str:
        """The mesh in words: ``stage 2 x tensor 4``."""
        axes = [f"{name} {size}" for name, size in self.program.mesh.axes if size > 1]
        return f" {TIMES} ".join(axes) or "one GPU"

    def index(self, rank: int, axes: tuple[str, ...]) -> int:
        """Position of ``rank`` along ``axes`` together, major first."""
        mesh = self.program.mesh
        return mesh.index(mesh.coordinates(rank), axes)

    @cached_property
    def groups(self) -> dict[tuple[int, int], list[int]]:
        """Ranks by replica and stage."""
        placed = stage_ranks(self.plan, self.program)
        return {(r, s): ranks for s, stage in enumerate(placed) for r, ranks in enumerate(stage)}

    @cached_property
    def gpus(self) -> list[GpuSpec]:
        """The GPU of each rank of a plan on unlike GPUs; empty for other plans."""
        if len(self.plan.kinds) == 1:
            return []
        from plandsl.ir.kinds import rank_gpus

        return rank_gpus(self.plan)

    def memory_of(self, rank: int, stage: int) -> Memory:
        """The memory of a rank of a stage, with the capacity of its own GPU."""
        held = self.estimate.stages[stage]
        return held._replace(capacity=self.gpus[rank].memory * self.plan.memory_fraction) if self.gpus else held

    @property
    def inner_axes(self) -> list[tuple[str, int]]:
        """Axes larger than 1 within one stage of one replica, major first."""
        outer = (*self.plan.sharding.replica_axes, *self.program.stage_axes)
        return [(n, s) for n, s in self.program.mesh.axes if s > 1 and n not in outer]

    # ---- the shares of ranks

    def shares(self, rank: int) -> list[str]:
        """A rank's part of each split dimension of weights, cache and activations: ``heads 16..32 of 64``."""
        stage = self.index(rank, self.program.stage_axes)
        found: dict[tuple[str, tuple[str, ...]], None] = {}
        cached: dict[tuple[str, tuple[str, ...]], None] = {}
        rows: dict[tuple[str, tuple[str, ...]], None] = {}
        parts = sorted(self.program.stages[stage], key=lambda p: p.layers is None)  # what layers split comes first
        for part in parts:
            region = self.program.region(part.region)
            found |= dict.fromkeys((d.name, d.axes) for w in region.weights for d in w.type.dims if d.axes)
            for op in region.ops:
                if op.keyword == "cache_write":
                    cached |= dict.fromkeys((d.name, d.axes) for v in op.results for d in v.type.dims if d.axes)
            if region.layers is not None:
                rows |= dict.fromkeys((d.name, d.axes) for v in region.args for d in v.type.dims if d.axes)
        lines = [self._share(rank, name, axes, "") for name, axes in found]
        lines += [self._share(rank, n, a, "cached ") for n, a in cached if (n, a) not in found and n != "batch"]
        return [line for line in (*lines, *(self._share(rank, n, a, "") for n, a in rows)) if line]

    def _share(self, rank: int, name: str, axes: tuple[str, ...], before: str) -> str:
        ways = self.program.mesh.ways(axes)
        if ways == 1:
            return ""
        size = int(self.extents.sizes[name])
        start, stop = block_range(name, size, self.index(rank, axes), ways)
        return f"{before}{name} {start}..{stop} of {size}"

    # ---- times

    @cached_property
    def ops(self) -> dict[RunKey, list[OpTime]]:
        """One run of each op in program order, by region (or by run, where stages run a region differently)."""
        return {run: self._costs.lines(run, 1) for run in self.phase_model.work}

    def traffic(self, stage: int) -> list[Traffic]:
        """Collectives of one pass over a stage."""
        total: dict[tuple[str, str], Traffic] = {}
        for part in self.program.stages[stage]:
            for op in self.ops[self.phase_model.run(stage, part.region)]:
                if op.communicates and op.op not in HOP_WORDS and op.time_s > 0:
                    old = total.get((op.op, op.axis), Traffic(op.op, op.axis, 0, 0.0, 0.0))
                    n = part.repeats
                    total[op.op, op.axis] = Traffic(
                        op.op, op.axis, old.runs + n, old.bytes + n * op.bytes, old.seconds + n * op.time_s
                    )
        return list(total.values())

    @property
    def hop(self) -> tuple[float, float]:
        """The bytes that a rank sends to the next stage, and the seconds; zeros for a plan of one stage."""
        if len(self.program.stages) < 2:
            return 0.0, 0.0
        return sum_up(op.bytes * op.count for op in self.ops[SEND]), float(self.times.hop)

    # ---- shapes

    def dims(self, type_: TensorType) -> list[tuple[str, int]]:
        """Local sizes by dimension; adjacent ``batch`` and ``position`` become one dimension, ``tokens``."""
        out: list[tuple[str, int]] = []
        dims = list(type_.dims)
        while dims:
            first = dims.pop(0)
            size = self._size(first)
            if first.name == "batch" and dims and dims[0].name == "position":
                out.append(("tokens", size * self._size(dims.pop(0))))
            else:
                out.append((first.name, size))
        return out

    def _size(self, dim: Dim) -> int:
        return int(self.extents.local(dim))

    def shape(self, type_: TensorType) -> str:
        """The local shape as text: ``bf16 [tokens 8192, heads 8, head_dim 128]``."""
        return f"{as_written(type_.dtype)} [{', '.join(f'{n} {s}' for n, s in self.dims(type_))}]"

    def stages(self) -> Iterator[tuple[int, float]]:
        """Each stage and its seconds for one batch."""
        for i, stage in enumerate(self.times.stages):
            yield i, float(stage.span)


def stage_words(facts: Facts, stage: int) -> str:
    """The layers and regions that a stage runs, as text: ``layers 0..63, embedding``."""
    parts = facts.program.stages[stage]
    blocks = [f"layers {show_layers(part.layers, part.every)}" for part in parts if part.layers is not None]
    ends = [str(part.region) for part in parts if part.region in ENDS]
    if len(blocks) > 1:
        first, last = facts.estimate.layers[stage]
        blocks = [f"layers {first}..{last}"]
    return ", ".join(blocks + ends)


def flops(count: float) -> str:
    """Format FLOP: ``3.99e13`` -> ``39.9 TFLOP``."""
    return show_count(count, "FLOP")
