"""Bands of serving engines, from residuals of rows that their fits did not see."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from plandsl.backends.calibrate.conformal import ENOUGH, LEVEL, Margin, Residuals, margin, outward
from plandsl.backends.calibrate.table import Column, Table, read_table
from plandsl.diagnostics import Diagnostic, PlanError
from plandsl.spec.engine_bands import DISTANCES, LOADS, SERVED, EngineBands, Factors, Served

COLUMNS = ("engine", "gpu", "model", "dense", "lengths", "metric", "predicted", "measured", "fold")
"""What a table of residuals has.

``dense`` is 1 for models without experts, ``lengths`` is ``jittered`` where requests differ in length, and ``fold``
says what was left out of the fit together with the row: its ``gpu``, ``model``, ``source`` or ``version``.
"""

NUMBERS = ("dense", "concurrency", "predicted", "measured")
"""Its columns of numbers."""

METRICS = {"ttft_s": "ttft", "tpot_s": "tpot", "output_tok_per_s": "throughput"}
"""Metrics in such a table, and the words of the bands."""

FOLDS = {"seen": ("source", "version"), "model": ("model",), "gpu": ("gpu",)}
"""Folds that stand for a distance. A plan does not say which version of an engine will run: it may be any other."""

COMMENT = "# bands:"
STATED = (*(f"{metric}_{end} =" for metric in SERVED for end in ("low", "high")), COMMENT)
"""How lines of an engine begin that the section `bands` replaces."""

Mask = NDArray[np.bool_]


class ServerBands(NamedTuple):
    """The bands of an engine, and how many pairs of GPU and model stand behind each class of loads."""

    bands: EngineBands
    pairs: dict[str, int]


def server_bands(table: Table, extra: Sequence[str] = (), level: float = LEVEL) -> dict[str, ServerBands]:
    """The bands of each engine in a table of residuals, and of ``extra`` engines, which may have none of its rows.

    Rows of an engine with one model on one GPU err together, so each such group counts once. A class with few groups
    borrows from the same loads of all engines, these from all loads of models of the kind, these from all.
    """
    classes = _Classes(table)
    names = dict.fromkeys((*map(str, np.unique(table.texts("engine"))), *extra))
    return {name: classes.engine(name, level) for name in names}


def read_residuals(path: Path, needed: tuple[str, ...] = COLUMNS) -> Table:
    """A table of residuals from a CSV file. Raises `PlanError` (E450) where it is no table, or a cell no number."""
    table = read_table(path, needed)
    return Table({name: _numbers(path, name, cells) for name, cells in table.columns.items()})


def _numbers(path: Path, name: str, cells: Column) -> Column:
    """A column with its numbers, where it has some; an empty cell is none."""
    if name not in NUMBERS or cells.dtype.kind == "f":
        return cells
    try:
        return np.array([float(cell or "nan") for cell in cells], dtype=np.float64)
    except ValueError as error:
        why = f"{path} cannot be used: `{name}` has a cell that is no number ({error})"
        raise PlanError([Diagnostic("E450", why, hint=f"`{name}` has numbers, or empty cells")]) from error


def load_classes(table: Table) -> NDArray[np.str_]:
    """The class in `LOADS` of each row of a table of residuals."""
    kinds = np.where(table.numbers("dense") > 0, "dense_", "moe_")
    return np.char.add(kinds, np.where(table.texts("lengths") == "jittered", "jittered", "fixed"))


class _Classes:
    """The residuals of a table by class."""

    def __init__(self, table: Table) -> None:
        predicted, measured = table.numbers("predicted"), table.numbers("measured")
        good = (predicted > 0) & (measured > 0) & np.isfinite(predicted) & np.isfinite(measured)
        logs = np.log(np.where(good, measured, 1.0) / np.where(good, predicted, 1.0))
        parts = (table.texts(name) for name in ("engine", "gpu", "model"))
        groups = np.array([" ".join(names) for names in zip(*parts, strict=True)], dtype=np.str_)
        self.all = Residuals(logs, logs, groups)
        self.loads = load_classes(table)
        self.metrics = np.array([METRICS.get(name, name) for name in table.texts("metric")])
        self.good: Mask = good
        self.engines, self.models, self.gpus = (table.texts(name) for name in ("engine", "model", "gpu"))
        self.folds = {distance: np.isin(table.texts("fold"), names) for distance, names in FOLDS.items()}
        self.kinds = {name: np.char.startswith(self.loads, name) for name in ("dense", "moe")}

    def engine(self, name: str, level: float) -> ServerBands:
        """The bands of one engine, or of one that the table lacks."""
        mine = self.engines == name
        known = mine & self.good
        gpus, models = (tuple(map(str, np.unique(names[known]))) for names in (self.gpus, self.models))
        factors = tuple(self._factors(mine, level))
        pairs = {load: len(np.unique(self.all.groups[known & (self.loads == load)])) for load in LOADS}
        return ServerBands(EngineBands(gpus, models, factors), pairs)

    def _factors(self, mine: Mask, level: float) -> Iterator[tuple[str, Factors]]:
        for load in LOADS:
            seen: dict[str, Margin] = {}
            for distance in DISTANCES:
                for metric in SERVED:
                    band = margin(tuple(self._chain(mine, load, distance, metric)), level)
                    band = outward(seen.setdefault(metric, outward((0.0, 0.0), band)), band)
                    yield f"{load}.{distance}.{metric}", (float(np.exp(band[0])), float(np.exp(band[1])))

    def _chain(self, mine: Mask, load: str, distance: str, metric: str) -> Iterator[Residuals]:
        """A class and the wider ones behind it."""
        of = self.good & (self.metrics == metric)
        folded = of & self.folds[distance]
        alike = folded & (self.loads == load)
        kind = folded & self.kinds[load.partition("_")[0]]
        for mask in (alike & mine, alike, kind, folded if folded.any() else of):
            yield self.all.where(mask)


def band_of_rows(others: Table, rows: Table, level: float = LEVEL) -> tuple[NDArray[np.float64], ...]:
    """The ends of the bands of ``rows``, from residuals of ``others``: what these lack is new."""
    classes, asked = _Classes(others), _Classes(rows)
    made = {engine: classes.engine(engine, level).bands for engine in map(str, np.unique(asked.engines))}
    dense, jittered = rows.numbers("dense") > 0, rows.texts("lengths") == "jittered"
    ends = []
    for at, metric in enumerate(asked.metrics):
        gpu, model = str(asked.gpus[at]), str(asked.models[at])
        served = Served(((gpu,),), model, experts=not dense[at], jittered=bool(jittered[at]))
        found = made[str(asked.engines[at])].find(str(metric), served)
        assert found is not None, "every class has a band of every metric"
        ends.append(found)
    low, high = np.array(ends).T
    return low, high


# ---- as text


def with_bands(text: str, found: ServerBands) -> str:
    """The text of an engine with these bands instead of those that it has."""
    lines, depth = [], 0
    for line in text.splitlines():
        word = line.strip()
        if depth or word == "bands {":
            depth += word.count("{") - word.count("}")
        elif not word.startswith(STATED):
            lines.append(line)
    at = next(i for i, line in enumerate(lines) if line.strip() == "assumed {" or line == "}")
    return "\n".join([*lines[:at], *(f"  {line}" for line in band_lines(found)), *lines[at:], ""])


def band_lines(found: ServerBands) -> Iterator[str]:
    """The section `bands` of an engine, and a comment that says how much of it is borrowed."""
    behind = ", ".join(f"{load} {pairs}" for load, pairs in found.pairs.items() if pairs) or "none"
    yield f"{COMMENT} pairs of GPU and model that were left out: {behind}"
    if few := [load for load in LOADS if found.pairs[load] < ENOUGH]:
        yield f"{COMMENT} mostly borrowed from other engines: {', '.join(few)}"
    yield "bands {"
    for name, words in (("gpus", found.bands.gpus), ("models", found.bands.models)):
        if words:
            quoted = ", ".join(f'"{word}"' for word in words)
            yield f"  {name} = [{quoted}]"
    known = dict(found.bands.factors)
    for load in LOADS:
        yield f"  {load} {{"
        for distance in DISTANCES:
            told = ((metric, known.get(f"{load}.{distance}.{metric}")) for metric in SERVED)
            ends = ", ".join(f"{metric} = [{f[0]:.4g}, {f[1]:.4g}]" for metric, f in told if f)
            yield f"    {distance} {{ {ends} }}"
        yield "  }"
    yield "}"
