"""What a picture shows of a search, collected while it runs, in memory that does not grow with the search."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
from attrs import define
from numpy.typing import NDArray

from plandsl.search.front import Floats
from plandsl.search.run import MEMORY, Found, Table
from plandsl.search.tally import NO_ROWS, Rows
from plandsl.spec.search import DEGREES, Choice, Combination, SearchSpec

CLOUD = 20_000
"""Points that are kept in all."""

ALONG = ("batch", "concurrency")
"""Loads along which throughput is bought with latency: the first that varies makes the curves."""

ON_CURVE = 32
"""Points of one curve."""

CELLS = 24
"""Rows and columns of a map; of a field with more values, neighbours share one."""


@define
class Cells:
    """A map over two fields: of each cell [rows, columns] the best goal, and how many configurations end how.

    ``best`` is signed so that more is better, -inf where nothing meets all. ``ends`` [rows, columns, 1 + reasons]
    counts those that meet all and those that each reason rules out.
    """

    best: Floats
    ends: NDArray[np.int64]


class Points:
    """Takes the rows of a search as they come; of those that fit it keeps a sample and curves, of all of them maps.

    ``clouds`` are samples and ``curves`` the best throughput at each batch, by plan, which is said by its degrees where
    those vary. ``maps`` has each pair of fields. None of it depends on the order or the grouping of what comes.
    """

    def __init__(self, search: SearchSpec) -> None:
        self.search = search
        self.goal = search.wanted[0]
        self.vertical = "throughput" if self.goal.metric == "throughput" else "throughput_per_gpu"
        self.reasons = (MEMORY, *(r.text for r in search.requires))
        self.fields = tuple(c for c in search.choices if len(c.settings) > 1)
        plans = [c for c in self.fields if not c.load]
        degrees = [c for c in plans if c.path.removeprefix("sharding.") in DEGREES]
        self.named = {c.path for c in degrees or plans}
        self.along = next((c for name in ALONG for c in self.fields if c.load == name), None)
        self.clouds: dict[str, Rows] = {}
        self.curves: dict[str, Rows] = {}
        self.quota = CLOUD
        self.maps = {(a.path, b.path): self._empty(a, b) for a, b in combinations(self.fields, 2)}
        self._settings = {c.path: {s.text: i for i, s in enumerate(c.settings)} for c in self.fields}

    def __call__(self, found: Found, table: Table) -> None:
        """Take the rows of one job, which are of one plan."""
        if not len(table.rows.numbers):
            return
        combination = found.combination(int(table.rows.numbers[0]))
        plan = self._name(combination)
        at: dict[str, Any] = {
            c.path: np.intp(self._settings[c.path][s.text]) for c, s in combination if c.path in self._settings
        }
        at |= _places(found, table.rows.numbers)
        fits = table.rows.take(table.why != MEMORY)
        self._sample(plan, fits)
        if self.along is not None:
            self.curves[plan] = self._curve(found, self.curves.get(plan, NO_ROWS).with_(fits))
        self._map(at, table)

    def _name(self, combination: Combination) -> str:
        """The plan that the points are grouped by: its degrees but those of 1, unless all are."""
        said = [(c, s) for c, s in combination if c.path in self.named]
        large = [(c, s) for c, s in said if not (c.path.removeprefix("sharding.") in DEGREES and s.value == 1)]
        return ", ".join(f"{c.name} {s.text}" for c, s in large or said) or self.search.name

    def _sample(self, plan: str, rows: Rows) -> None:
        """Add to a plan's sample: those whose numbers, scrambled, are the least."""
        self.clouds[plan] = _thinned(self.clouds.get(plan, NO_ROWS).with_(rows), self.quota)
        while sum(len(r.numbers) for r in self.clouds.values()) > CLOUD and self.quota > 1:
            self.quota //= 2
            self.clouds = {name: _thinned(r, self.quota) for name, r in self.clouds.items()}

    def _curve(self, found: Found, rows: Rows) -> Rows:
        """The best throughput at each value of what the curve runs along, at `ON_CURVE` of the values."""
        assert self.along is not None
        size = len(self.along.settings)
        place = _places(found, rows.numbers)[self.along.path]
        shown = np.unique(np.linspace(0, size - 1, min(size, ON_CURVE)).round().astype(int))
        kept = np.isin(place, shown)
        rows, place = rows.take(kept), place[kept]
        order = np.lexsort([rows.numbers, -rows.column(self.vertical), place])
        firsts = np.unique(place[order], return_index=True)[1]
        return rows.take(order[firsts])

    def _map(self, at: dict[str, Any], table: Table) -> None:
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

    def _empty(self, a: Choice, b: Choice) -> Cells:
        shape = tuple(min(CELLS, len(c.settings)) for c in (a, b))
        return Cells(np.full(shape, -np.inf), np.zeros((*shape, 1 + len(self.reasons)), np.int64))


def _places(found: Found, numbers: NDArray[np.int64]) -> dict[str, NDArray[np.int64]]:
    """Where configurations stand among the values of each load, by path."""
    grid, out = found.space.grid, {}
    place = numbers % grid.size
    for choice, size in zip(reversed(grid.choices), reversed(grid.shape), strict=True):
        place, out[choice.path] = np.divmod(place, size)
    return out


def _thinned(rows: Rows, quota: int) -> Rows:
    """At most ``quota`` of the rows, any, but the same ones in whatever order they came."""
    if len(rows.numbers) <= quota:
        return rows
    key = rows.numbers.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)  # Knuth's multiplicative hash, one to one
    return rows.take(np.sort(np.argpartition(key, quota)[:quota]))
