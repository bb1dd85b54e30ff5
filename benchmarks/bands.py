"""How many measurements lie in bands that were made without them: `python -m benchmarks.bands RESIDUALS.csv [--write]`.

RESIDUALS.csv is what `python -m benchmarks.engines DATA --residuals RESIDUALS.csv` writes. Each GPU, model and source
is left out once: of the fit that predicted its rows, and of the residuals that the bands are made from. With `--write`
the engines of the catalog get the bands of all residuals.
"""

from __future__ import annotations

import sys
from itertools import product
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks.engine_memory import with_memory
from plandsl.backends.accuracy.serving import catalog_name
from plandsl.backends.calibrate.servers import (
    METRICS,
    band_of_rows,
    load_classes,
    read_residuals,
    server_bands,
    with_bands,
)
from plandsl.backends.calibrate.table import Table
from plandsl.grammar.fmt import format_text
from plandsl.spec.engine_bands import LOADS, SERVED

ENGINES = Path(__file__).resolve().parent.parent / "plandsl" / "catalog" / "engines"

LEFT_OUT = ("gpu", "model", "source")
"""Columns of which each value is left out."""

KINDS = ("dense", "moe")
"""Both classes of lengths together."""

FEWEST = 4
"""Rows of a group from which its pairs are compared."""

Floats = NDArray[np.float64]
Names = NDArray[np.str_]


class Held(NamedTuple):
    """Rows of a class of loads, the share of them that lies in its bands, and the median width of these: high / low.

    ``groups``: the mean of the shares of each model on each GPU and engine, which rows of a large group do not sway.
    """

    left_out: str
    load: str
    metric: str
    rows: int
    share: float
    groups: float
    width: float


class Rows(NamedTuple):
    """A table of residuals: measured / predicted of each row, its metric and its class of loads."""

    table: Table
    ratio: Floats
    metrics: Names
    loads: Names

    @classmethod
    def read(cls, path: Path) -> Rows:
        """The rows of a file."""
        table = read_residuals(path)
        ratio = table.numbers("measured") / table.numbers("predicted")
        metrics = np.array([METRICS.get(name, name) for name in table.texts("metric")])
        return cls(table, ratio, metrics, load_classes(table))

    @property
    def groups(self) -> Names:
        """The engine, GPU and model of each row."""
        names = (self.table.texts(name) for name in ("engine", "gpu", "model"))
        return np.array([" ".join(parts) for parts in zip(*names, strict=True)])

    def of(self, fold: str) -> NDArray[np.bool_]:
        """The rows of one fold that have a residual."""
        found: NDArray[np.bool_] = (self.table.texts("fold") == fold) & (self.ratio > 0) & np.isfinite(self.ratio)
        return found


def held(path: Path) -> list[Held]:
    """The share of rows in bands by what was left out, class of loads and metric."""
    rows = Rows.read(path)
    out = []
    for column in LEFT_OUT:
        mine, names = rows.of(column), rows.table.texts(column)
        ends = np.full((2, len(names)), np.nan)
        for name in np.unique(names[mine]):
            away = names == name
            ends[:, mine & away] = band_of_rows(rows.table.where(~away), rows.table.where(mine & away))
        inside, groups = (rows.ratio >= ends[0]) & (rows.ratio <= ends[1]), rows.groups
        for load, metric in product((*LOADS, *KINDS), SERVED):
            of = mine & np.char.startswith(rows.loads, load) & (rows.metrics == metric)
            if of.any():
                width, share = float(np.median(ends[1, of] / ends[0, of])), float(inside[of].mean())
                each = float(np.mean([inside[of & (groups == name)].mean() for name in np.unique(groups[of])]))
                out.append(Held(column, load, metric, rows=int(of.sum()), share=share, groups=each, width=width))
    return out


class Choice(NamedTuple):
    """Errors of one class of loads and metric, as factors that 80 % of rows stay within.

    ``band``: half the width of the band of all rows; ``pair``: how far errors of two configurations of one engine,
    model and GPU differ, the median of groups.
    """

    load: str
    metric: str
    groups: int
    band: float
    pair: float


def choices(path: Path) -> list[Choice]:
    """Whether two configurations of one engine, model and GPU can be told apart better than by their bands."""
    rows = Rows.read(path)
    groups = rows.groups
    out = []
    for load, metric in product(LOADS, SERVED):
        of = rows.of("gpu") & (rows.loads == load) & (rows.metrics == metric)
        some = [np.log(rows.ratio[of & (groups == name)]) for name in np.unique(groups[of])]
        pairs = [np.abs(np.subtract.outer(r, r))[np.triu_indices(len(r), 1)] for r in some if len(r) >= FEWEST]
        if pairs:
            low, high = np.quantile(np.log(rows.ratio[of]), (0.1, 0.9))
            pair = float(np.exp(np.median([np.quantile(p, 0.8) for p in pairs])))
            out.append(Choice(load, metric, len(pairs), band=float(np.exp((high - low) / 2)), pair=pair))
    return out


def write(path: Path) -> None:
    """Write the bands into the engines of the catalog."""
    table = read_residuals(path)
    models = np.array([catalog_name(model) for model in table.texts("model")])
    table = Table(table.columns | {"model": models})
    for file in sorted(ENGINES.glob("*.plan")):
        found = server_bands(table, extra=(file.stem,))[file.stem]
        text = with_memory(with_bands(file.read_text(encoding="utf-8"), found), file.stem)
        file.write_text(format_text(text, file.stem), encoding="utf-8")


def main(path: Path) -> None:
    """Print the shares."""
    for found in held(path):
        print(
            f"{found.left_out:6} {found.load:15} {found.metric:11} {found.rows:5} rows  "
            f"in band {found.share:6.1%}, groups {found.groups:6.1%}  high / low {found.width:5.2f}"
        )
    for c in choices(path):
        print(f"choice {c.load:15} {c.metric:11} {c.groups:5} groups  band x{c.band:.2f}  pairs x{c.pair:.2f}")


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3) or sys.argv[2:] not in ([], ["--write"]):
        sys.exit("usage: python -m benchmarks.bands RESIDUALS.csv [--write]")
    main(Path(sys.argv[1]))
    if sys.argv[2:]:
        write(Path(sys.argv[1]))
