"""Files of measured kernels: their rows by shape, and findings about files that cannot be used.

docs/calibration.md lists the kinds of files; a file's columns tell its kind. Rows of other GPUs are skipped.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from typing import NamedTuple

from plandsl.backends.cost.machine.measured import Curve, Grid, Line, Surface
from plandsl.diagnostics import Diagnostic, PlanError, clip
from plandsl.measurements import FILE, HINT, NUMBERS, Unfit, read_number, read_rows
from plandsl.spec.hardware import GpuSpec, TableSpec
from plandsl.spec.plan import PlanSpec

Shape = tuple[str | float | bool, ...]
"""What interpolation keeps fixed: the kind of kernel, number formats, widths, heads, ranks."""

Point = tuple[float, ...]
"""The sizes that interpolation runs over: one size, or batch and context."""

Times = dict[Shape, dict[Point, float]]
Row = Mapping[str, str]

KERNEL = ("kernel", "framework", "backend", "dtype", "cuda_graph")
"""Columns that tell one kernel from another."""


class Sort(NamedTuple):
    """A kind of table: its columns, and what a row measures; None where no op of a plan matches the row."""

    columns: tuple[str, ...]
    measures: Callable[[Row], tuple[Shape, Point] | None]


# ---- rows


def _read_cell(row: Row, name: str, default: float | None = None) -> float:
    """The number in a cell, or ``default`` where the cell is empty or missing. Raises `Unfit`."""
    cell = row.get(name, "")
    return default if not cell and default is not None else read_number(name, cell)


def _gemm(row: Row) -> tuple[Shape, Point] | None:
    """Skips rows that also quantise their input, since plans have an op for that."""
    if _read_cell(row, "act_quant_included", 0.0):
        return None
    return gemm_shape(row["dtype"], _read_cell(row, "n"), _read_cell(row, "k")), (_read_cell(row, "m"),)


def gemm_shape(dtype: str, n: float, k: float) -> Shape:
    """The shape of a GEMM, to interpolate over m."""
    return "gemm", dtype, n, k


def _heads(row: Row) -> Shape:
    return *(_read_cell(row, name) for name in ("n_heads", "n_kv_heads", "head_dim")), _read_cell(row, "window", 0.0)


def _prefill(row: Row) -> tuple[Shape, Point] | None:
    """Skips rows whose prompt is partly in the cache."""
    context, dtype = _read_cell(row, "seq_kv"), row["dtype"]
    if _read_cell(row, "seq_q") != context:
        return None
    causal = _read_cell(row, "causal", 1.0) > 0
    return ("prefill", dtype, row["kv_dtype"] or dtype, *_heads(row), causal), (_read_cell(row, "batch"), context)


def _decode(row: Row) -> tuple[Shape, Point]:
    return ("decode", row["kv_dtype"], *_heads(row)), (_read_cell(row, "batch"), _read_cell(row, "kv_len"))


def _elementwise(row: Row) -> tuple[Shape, Point]:
    return ("elementwise", row["op"], row["dtype"], _read_cell(row, "cols")), (_read_cell(row, "rows"),)


def _collective(row: Row) -> tuple[Shape, Point] | None:
    """Skips rows of several nodes."""
    if _read_cell(row, "n_nodes", 1.0) > 1:
        return None
    op = "p2p" if row["op"] == "p2p_send_recv" else row["op"]
    return ("collective", op, _read_cell(row, "n_ranks")), (_read_cell(row, "bytes"),)


_ATTENTION = ("batch", "n_heads", "n_kv_heads", "head_dim", "time_s")

SORTS = {
    "gemm": Sort(("gpu", "dtype", "m", "n", "k", "time_s"), _gemm),
    "attention_prefill": Sort(("gpu", "dtype", "kv_dtype", "seq_q", "seq_kv", *_ATTENTION), _prefill),
    "attention_decode": Sort(("gpu", "kv_dtype", "kv_len", *_ATTENTION), _decode),
    "elementwise": Sort(("gpu", "op", "dtype", "rows", "cols", "time_s"), _elementwise),
    "collective": Sort(("gpu", "op", "backend", "n_ranks", "n_nodes", "bytes", "cuda_graph", "time_s"), _collective),
}
"""The kinds of `backends/calibrate/kinds` that ops are looked up in, without numpy."""

BY_FILE = {("collectives" if name == "collective" else name) + ".csv": sort for name, sort in SORTS.items()}
"""The kinds by the names of their files, which stand in the column `FILE` of a file that holds several tables."""


# ---- files


class Content(NamedTuple):
    """What one file measures, by the GPU that its rows name, and which GPUs it names."""

    times: dict[str, Times]
    gpus: tuple[str, ...]


@lru_cache(maxsize=64)
def _content(path: str, stamp: tuple[int, int], gpus: frozenset[str]) -> Content:
    """The rows of ``gpus`` in a file; the ``stamp`` is its size and time of change, so a changed file is read again."""
    rows = read_rows(path, resolved=True)
    _, header = next(rows, (1, []))
    sort = next((sort for sort in SORTS.values() if set(sort.columns) <= set(header)), None)
    table = header.index(FILE) if FILE in header else None
    if sort is None:
        shown = clip(", ".join(header)) or "none"
        raise Unfit(f"no table of measured kernels has these columns: {shown}", HINT)
    gpu = header.index("gpu")
    found: dict[str, dict[tuple[Shape, Point], dict[Shape, list[float]]]] = {}
    for at, cells in rows:
        points = found.setdefault(cells[gpu], {})
        if table is not None:
            sort = BY_FILE.get(cells[table])
        if cells[gpu] in gpus and sort is not None:
            _add_row(dict(zip(header, cells, strict=True)), sort, points, at)
    return Content({g: _fastest_times(points) for g, points in found.items() if g in gpus}, tuple(found))


def _add_row(row: Row, sort: Sort, points: dict[tuple[Shape, Point], dict[Shape, list[float]]], at: int) -> None:
    try:
        for name in NUMBERS.keys() & row.keys():
            _read_cell(row, name, 0.0)
        time, key = _read_cell(row, "time_s"), sort.measures(row)
    except Unfit as unfit:
        raise Unfit(f"row {at}: {unfit}", unfit.hint) from None
    if key is not None:
        kernel = tuple(row.get(name, "") for name in KERNEL)
        points.setdefault(key, {}).setdefault(kernel, []).append(time)


def _fastest_times(points: dict[tuple[Shape, Point], dict[Shape, list[float]]]) -> Times:
    """One time for each point: the median of each kernel's repetitions, for the fastest kernel."""
    out: Times = {}
    for (shape, point), kernels in points.items():
        out.setdefault(shape, {})[point] = min(map(_median, kernels.values()))
    return out


def _median(times: list[float]) -> float:
    ordered, middle = sorted(times), len(times) // 2
    return ordered[middle] if len(times) % 2 else (ordered[middle - 1] + ordered[middle]) / 2


# ---- what a plan names


def _gpu_names(gpu: GpuSpec, table: TableSpec) -> list[set[str]]:
    """Names of ``gpu`` in rows, best first: its own name and its aliases in the catalog, then names of its bases."""
    target = dict(table.aliases)

    def entry(name: str) -> str:
        for _ in range(8):
            name = target.get(name, name)
        return name

    out: list[set[str]] = []
    for name in (gpu.name, *gpu.bases):
        out += [{name}, {other for other in (*target, *target.values()) if entry(other) == entry(name)}]
    return out


def _read(table: TableSpec, gpu: GpuSpec) -> tuple[Times, Diagnostic | None]:
    """What a file holds for ``gpu``, or what is wrong with it."""
    names = _gpu_names(gpu, table)
    try:
        stat = os.stat(table.path)
        content = _content(table.path, (stat.st_size, stat.st_mtime_ns), frozenset().union(*names))
    except OSError as error:
        return {}, Diagnostic("E209", f'cannot read "{table.shown}": {error.strerror}', table.span)
    except Unfit as unfit:
        return {}, Diagnostic("E450", f'"{table.shown}" cannot be used: {unfit}', table.span, hint=unfit.hint)
    for group in names:
        if found := _merge(content.times[name] for name in sorted(group) if name in content.times):
            return found, None
    if any(name in content.times for group in names for name in group):
        return {}, None  # rows of this GPU, though of kernels that plans do not run
    others = clip(", ".join(content.gpus))
    hint = f"its rows are of {others}" if others else "it has no rows"
    return {}, Diagnostic("W206", f'"{table.shown}" has no row of `{gpu.name}`', table.span, hint=hint)


def _merge(tables: Iterable[Times]) -> Times:
    """Points of all ``tables``; the fastest time where several tables have a point."""
    out: Times = {}
    for times in tables:
        for shape, points in times.items():
            into = out.setdefault(shape, {})
            for point, time in points.items():
                into[point] = min(time, into.get(point, time))
    return out


def findings(plan: PlanSpec) -> list[Diagnostic]:
    """What is wrong with the tables of a plan and its GPU."""
    read = (_read(table, plan.node.gpu)[1] for table in (*plan.measured, *plan.node.gpu.measured))
    return [found for found in read if found]


class Measured:
    """The tables of a plan, then those of its GPU, by shape."""

    def __init__(self, levels: list[Times]) -> None:
        self.levels = levels

    @classmethod
    def of(cls, plan: PlanSpec) -> Measured:
        """Raises `PlanError` on a file that cannot be used."""
        if errors := [d for d in findings(plan) if d.severity == "error"]:
            raise PlanError(errors)
        gpu = plan.node.gpu
        return cls([_merge(_read(table, gpu)[0] for table in level) for level in (plan.measured, gpu.measured)])

    def line(self, shapes: Iterable[Shape], scale: float = 1.0) -> Line | None:
        """The curves of the first measured one of ``shapes``, over ``scale`` times the rows."""
        found = tuple(_curve({p[0]: t for p, t in points.items()}) for points in self._points(shapes))
        return Line(found, scale) if found else None

    def grid(self, shapes: Iterable[Shape], prefill: bool) -> Grid | None:
        """The surfaces of the first measured one of ``shapes``, over batch and context."""
        found = tuple(map(_surface, self._points(shapes)))
        return Grid(found, prefill) if found else None

    def _points(self, shapes: Iterable[Shape]) -> list[dict[Point, float]]:
        wanted = tuple(shapes)
        firsts = (next((level[s] for s in wanted if s in level), None) for level in self.levels)
        return [points for points in firsts if points]


def _curve(points: dict[float, float]) -> Curve:
    sizes = tuple(sorted(points))
    return Curve(sizes, tuple(points[size] for size in sizes))


def _surface(points: dict[Point, float]) -> Surface:
    by_batch: dict[float, dict[float, float]] = {}
    for (batch, context), time in points.items():
        by_batch.setdefault(batch, {})[context] = time
    batches = tuple(sorted(by_batch))
    return Surface(batches, tuple(_curve(by_batch[batch]) for batch in batches))
