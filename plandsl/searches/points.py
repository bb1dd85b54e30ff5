"""Collect what a picture shows of a search while it runs, in memory that does not grow with the search."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
from attrs import define
from numpy.typing import NDArray

from plandsl.searches.front import Floats
from plandsl.searches.run import MEMORY, Found, Table
from plandsl.searches.space import Space
from plandsl.searches.tally import NO_ROWS, Rows
from plandsl.spec.search import DEGREES, Choice, Combination, SearchSpec

CLOUD = 20_000
"""Points that are kept, over all plans together."""

ALONG = ("batch", "concurrency")
"""Loads that trade latency for throughput. Curves run along the first of them that varies."""

ON_CURVE = 32
"""Most points of one curve."""

CELLS = 24
"""Most rows and columns of a map. Neighbouring values of a longer field share a cell."""


@define
class Cells:
    """A map over two fields.

    ``best`` [rows, columns] is the best goal of each cell, signed so that more is better; -inf where no configuration
    meets every requirement. ``ends`` [rows, columns, 1 + reasons] counts the configurations that meet every
    requirement, and then the configurations that each reason rules out.
    """

    best: Floats
    ends: NDArray[np.int64]


class Points:
    """Takes the rows of a search as they come. Samples and curves hold configurations that fit, maps hold all.

    ``clouds`` has a sample of rows for each plan, ``curves`` the best throughput at each batch for each plan; a plan is
    named by its degrees where degrees vary. ``maps`` has each pair of fields. The result does not depend on the order
    or grouping in which rows come.
    """

    def __init__(self, search: SearchSpec) -> None:
        self.search = search
        self.goal = search.all_goals[0]
        self.vertical = "throughput" if self.goal.metric == "throughput" else "throughput_per_gpu"
        self.reasons = (MEMORY, *(r.text for r in search.requires))
        self.fields = tuple(c for c in search.choices if len(c.settings) > 1)
        plans = [c for c in self.fields if not c.load]
        degrees = [c for c in plans if c.path.removeprefix("sharding.") in DEGREES]
        self.named = {c.path for c in degrees or plans}
        self.along = next(
            (c for name in ALONG for c in Space(search).grid.choices if c.load == name and c in self.fields), None
        )
        self.clouds: dict[str, Rows] = {}
        self.curves: dict[str, Rows] = {}
        self.quota = CLOUD
        self.maps = {(a.path, b.path): self._empty_cells(a, b) for a, b in combinations(self.fields, 2)}
        self._settings = {c.path: {s.text: i for i, s in enumerate(c.settings)} for c in self.fields}

    def __call__(self, found: Found, table: Table) -> None:
        """Take the rows of one job, all of one plan."""
        if not len(table.rows.numbers):
            return
        combination = found.combination(int(table.rows.numbers[0]))
        plan = self.group_of(combination)
        at: dict[str, Any] = {
            c.path: np.intp(self._settings[c.path][s.text]) for c, s in combination if c.path in self._settings
        }
        at |= _places(found, table.rows.numbers)
        fits = table.rows.take(table.why != MEMORY)
        self._add_to_sample(plan, fits)
        if self.along is not None:
            self.curves[plan] = self._curve(found, self.curves.get(plan, NO_ROWS).joined(fits))
        self._add_to_maps(at, table)

    def group_of(self, combination: Combination) -> str:
        """The name of the plan by which points are grouped: its degrees above 1, or all degrees where all are 1."""
        said = [(c, s) for c, s in combination if c.path in self.named]
        large = [(c, s) for c, s in said if not (c.path.removeprefix("sharding.") in DEGREES and s.value == 1)]
        return ", ".join(f"{c.name} {s.text}" for c, s in large or said) or self.search.name

    def _add_to_sample(self, plan: str, rows: Rows) -> None:
        """Add rows to a plan's sample, which keeps the rows with the smallest hashed numbers."""
        self.clouds[plan] = thin(self.clouds.get(plan, NO_ROWS).joined(rows), self.quota)
        while sum(len(r.numbers) for r in self.clouds.values()) > CLOUD and self.quota > 1:
            self.quota //= 2
            self.clouds = {name: thin(r, self.quota) for name, r in self.clouds.items()}

    def _curve(self, found: Found, rows: Rows) -> Rows:
        """The row with the most throughput at each value of the curve's field, for at most `ON_CURVE` values."""
        assert self.along is not None
        size = len(self.along.settings)
        place = _places(found, rows.numbers)[self.along.path]
        shown = np.unique(np.linspace(0, size - 1, min(size, ON_CURVE)).round().astype(int))
        kept = np.isin(place, shown)
        rows, place = rows.take(kept), place[kept]
        order = np.lexsort([rows.numbers, -rows.column(self.vertical), place])
        firsts = np.unique(place[order], return_index=True)[1]
        return rows.take(order[firsts])

    def _add_to_maps(self, at: dict[str, Any], table: Table) -> None:
        end = np.zeros(len(table.why), np.intp)
        for i, reason in enumerate(self.reasons, 1):
            end[table.why == reason] = i
        value = table.rows.column(self.goal.metric) * (1 if self.goal.most else -1)
        met = (end == 0) & np.isfinite(value)
        for (a, b), cells in self.maps.items():
            (_, columns, ends), size = cells.ends.shape, cells.best.size
            bins = (at[p] * n // len(self._settings[p]) for p, n in zip((a, b), cells.best.shape, strict=True))
            row, column = bins
            cell = np.broadcast_to(row * columns + column, end.shape)
            cells.ends += np.bincount(cell * ends + end, minlength=size * ends).reshape(cells.ends.shape)
            np.maximum.at(cells.best.reshape(-1), cell[met], value[met])

    def _empty_cells(self, a: Choice, b: Choice) -> Cells:
        shape = tuple(min(CELLS, len(c.settings)) for c in (a, b))
        return Cells(np.full(shape, -np.inf), np.zeros((*shape, 1 + len(self.reasons)), np.int64))


def _places(found: Found, numbers: NDArray[np.int64]) -> dict[str, NDArray[np.int64]]:
    """The index of each configuration's value among the values of each load, by path."""
    grid, out = found.space.grid, {}
    place = numbers % grid.size
    for choice, size in zip(reversed(grid.choices), reversed(grid.shape), strict=True):
        place, out[choice.path] = np.divmod(place, size)
    return out


def thin(rows: Rows, quota: int) -> Rows:
    """At most ``quota`` of the rows. The choice does not depend on the order in which rows came."""
    if len(rows.numbers) <= quota:
        return rows
    key = rows.numbers.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)  # Knuth's multiplicative hash, one to one
    return rows.take(np.sort(np.argpartition(key, quota)[:quota]))
