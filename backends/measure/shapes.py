"""The cases of a plan: the shapes that its cost model looks up in tables of measurements, at the sizes of its load."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from copy import copy
from typing import NamedTuple

from plandsl.backends.cost.answers.lines import PhaseLines
from plandsl.backends.cost.answers.names import op_names
from plandsl.backends.cost.deployments.deployment import Metrics
from plandsl.backends.cost.machine.measured import Grid, Line, Otherwise
from plandsl.backends.cost.machine.tables import Measured, Shape
from plandsl.backends.cost.time.phase import ProgramRun
from plandsl.backends.cost.work.costing import Costing
from plandsl.backends.measure import cases
from plandsl.backends.measure.cases import PAYLOADS, SIZES, Case
from plandsl.ir.names import region_of
from plandsl.ir.types import Number

Point = tuple[int, ...]


class Asked(NamedTuple):
    """Cases of a plan, those of its own load first, and the names in reports of ops that no table holds."""

    cases: tuple[Case, ...]
    missing: tuple[str, ...]


class _Heard:
    """The shapes and sizes that were asked for, in order."""

    def __init__(self) -> None:
        self.points: dict[tuple[Shape, Point], None] = {}

    def add(self, shape: Shape, *sizes: Number) -> None:
        self.points[shape, tuple(max(round(float(size)), 1) for size in sizes)] = None


class _Line(Line):
    """Notes the rows that it is asked for."""

    heard: _Heard
    shape: Shape

    def seconds(self, rows: Number, otherwise: Otherwise) -> Number:
        self.heard.add(self.shape, rows * self.scale)
        return otherwise()


class _Grid(Grid):
    """Notes the batch and the context that it is asked for: whole prompts, or one query of each request."""

    heard: _Heard
    shape: Shape

    def seconds(self, batch: Number, position: Number, context: Number, otherwise: Otherwise) -> Number:
        if bool(position == (context if self.prefill else 1)):
            self.heard.add(self.shape, batch, context)
        return otherwise()


class _Recorder(Measured):
    """Tables without rows that note what they are asked for."""

    def __init__(self) -> None:
        super().__init__([])
        self.heard = _Heard()

    def line(self, shapes: Iterable[Shape], scale: float = 1.0) -> Line | None:
        shape = next(iter(shapes), None)
        if shape is None:
            return None
        made = _Line((), scale)
        made.heard, made.shape = self.heard, shape
        return made

    def grid(self, shapes: Iterable[Shape], prefill: bool) -> Grid | None:
        shape = next(iter(shapes), None)
        if shape is None:
            return None
        made = _Grid((), prefill)
        made.heard, made.shape = self.heard, shape
        return made


def plan_cases(metrics: Iterable[Metrics]) -> Asked:
    """What plans ask under their loads, then the same shapes at sizes around these, for tables and fits."""
    heard, missing = _Heard(), dict[str, None]()
    for one in metrics:
        for times in (one.prefill, one.decode):
            for run in times.runs:
                for name in _listen(run, heard):
                    missing[name] = None
    own = [case for shape, point in heard.points for case in _cases(shape, point)]
    around = [case for shape, point in _around(list(heard.points)) for case in _cases(shape, point)]
    links = [cases.collective("p2p", 2, size) for size in PAYLOADS if any(c.file == cases.COLLECTIVE for c in own)]
    return Asked(tuple(dict.fromkeys((*own, *links, *around))), tuple(missing))


def _listen(run: ProgramRun, heard: _Heard) -> Iterator[str]:
    """Ask every op of a program for its seconds; gives the names of ops that look nothing up."""
    phase, at, program = run.phase, PhaseLines.of(run).at, run.phase.schedule.program
    machine, recorder = copy(phase.machine), _Recorder()
    machine.measured = recorder
    costing = Costing(program, machine, phase.extents, None)
    for name, works in phase.work.items():
        region = program.region(region_of(name))
        for op, title, own in zip(region.ops, op_names(region), works, strict=True):
            recorder.heard = _Heard()
            costing.work_in_node(op).seconds(at)
            heard.points.update(recorder.heard.points)
            if not recorder.heard.points and float(own.seconds(at)) > 0:
                yield f"{op.facts.word} {title}" if title != op.facts.word else title


def _around(points: list[tuple[Shape, Point]]) -> Iterator[tuple[Shape, Point]]:
    """Powers of 4 up to the largest size of a shape; of attention, such contexts, for batches up to 4 times larger."""
    by_shape: dict[Shape, list[Point]] = {}
    for shape, point in points:
        by_shape.setdefault(shape, []).append(point)
    for shape, found in by_shape.items():
        longest = max(point[-1] for point in found)
        sizes = [size for size in (PAYLOADS if shape[0] == "collective" else (1, *SIZES)) if size < longest]
        if len(found[0]) == 1:
            yield from ((shape, (size,)) for size in sizes)
        else:
            most = max(point[0] for point in found)
            batches = dict.fromkeys((1, *(b for b in SIZES if b < most), *(p[0] for p in found), 4 * most))
            yield from ((shape, (b, size)) for b in batches for size in (*sizes, longest) if size > 1)


def _cases(shape: Shape, point: Point) -> Iterator[Case]:
    match shape:
        case ("gemm", str(dtype), n, k):
            yield cases.gemm(dtype, point[0], int(n), int(k))
        case ("elementwise", str(op), str(dtype), cols):
            yield cases.elementwise(op, dtype, point[0], int(cols))
        case ("collective", str(op), ranks):
            yield cases.collective(op, int(ranks), point[0])
        case ("prefill", str(dtype), str(kept), heads, kv_heads, dim, window, causal):
            made = _heads(heads, kv_heads, dim)
            made = made._replace(dtype=dtype, kv_dtype=kept, window=int(window), causal=bool(causal))
            yield cases.prefill(made, *point)
        case ("decode", str(kept), heads, kv_heads, dim, window):
            made = _heads(heads, kv_heads, dim)._replace(dtype=kept, kv_dtype=kept, window=int(window))
            yield cases.decode(made, *point)
        case _:
            raise AssertionError(f"no table has the shape {shape}")


def _heads(*sizes: str | float | bool) -> cases.Shape:
    """Heads, KV heads and the dimension of a head, in formats that are set later."""
    heads, kv_heads, dim = map(int, sizes)
    return cases.Shape(heads, kv_heads, dim, dtype="", kv_dtype="")
