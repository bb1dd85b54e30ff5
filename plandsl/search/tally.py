"""What is kept of a search while it runs: the best, the front, what was refused and why, what came nearest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from attrs import define, field
from numpy.typing import NDArray

from plandsl.search.front import Floats, first, pareto
from plandsl.search.values import METRICS, MOST
from plandsl.spec.search import Goal


class Rows(NamedTuple):
    """Configurations by number, and their metrics [rows, `METRICS`] in SI units."""

    numbers: NDArray[np.int64]
    metrics: Floats

    def take(self, which: NDArray[np.intp] | NDArray[np.bool_]) -> Rows:
        """Some of them."""
        return Rows(self.numbers[which], self.metrics[which])

    def column(self, metric: str) -> Floats:
        """One metric of all rows."""
        return self.metrics[:, METRICS.index(metric)]

    def with_(self, other: Rows) -> Rows:
        """These and those."""
        if not len(other.numbers):
            return self
        if not len(self.numbers):
            return other
        return Rows(np.concatenate([self.numbers, other.numbers]), np.concatenate([self.metrics, other.metrics]))


NO_ROWS = Rows(np.empty(0, np.int64), np.empty((0, len(METRICS))))


@define
class Tally:
    """Of ``seen`` configurations: ``met`` fit and meet every requirement.

    Of those ``top`` has the ``keep`` best by the ``goals``, ``front`` what none beats in all of ``weighed``. ``missed``
    counts, by reason, those that are out: each by the first reason that holds. ``nearest`` is the one that misses the
    requirements by the least, ``gap`` by how much: the largest factor, as a logarithm. Tallies add up, in any grouping,
    to the same.
    """

    goals: tuple[Goal, ...]
    weighed: tuple[Goal, ...]
    keep: int
    seen: int = 0
    met: int = 0
    top: Rows = NO_ROWS
    front: Rows = NO_ROWS
    missed: dict[str, int] = field(factory=dict)
    nearest: Rows = NO_ROWS
    gap: float = float("inf")
    best: dict[str, float] = field(factory=dict)
    """Of each metric, the best value of a configuration that fits, whatever else it misses."""

    def merge(self, other: Tally) -> None:
        """Add what another part of the search found."""
        self.seen, self.met = self.seen + other.seen, self.met + other.met
        self.top = self.ranked(self.top.with_(other.top))
        self.front = self.unbeaten(self.front.with_(other.front))
        for reason, count in other.missed.items():
            self.missed[reason] = self.missed.get(reason, 0) + count
        if (other.gap, other.nearest.numbers.tolist()) < (self.gap, self.nearest.numbers.tolist()):
            self.gap, self.nearest = other.gap, other.nearest
        for metric, value in other.best.items():
            pick = max if metric in MOST else min
            self.best[metric] = pick(value, self.best.get(metric, value))

    def ranked(self, rows: Rows) -> Rows:
        """The first of ``rows``: by the goals, then by number."""
        keys = [-rows.column(g.metric) if g.most else rows.column(g.metric) for g in self.goals]
        order = np.argsort(rows.numbers, kind="stable")
        rows = rows.take(order)
        return rows.take(first([k[order] for k in keys], self.keep))

    def unbeaten(self, rows: Rows) -> Rows:
        """The front of ``rows``, by number."""
        rows = rows.take(np.argsort(rows.numbers, kind="stable"))
        return rows.take(pareto(self.costs(rows)))

    def costs(self, rows: Rows) -> Floats:
        """What the front is judged by, the smaller the better."""
        return np.stack([-rows.column(g.metric) if g.most else rows.column(g.metric) for g in self.weighed], axis=1)


def tally(
    out: Tally, numbers: NDArray[np.int64], metrics: Mapping[str, Floats],
    failing: Sequence[tuple[str, NDArray[np.bool_], Floats]], given: NDArray[np.bool_] | None,
) -> None:  # fmt: skip
    """Fill ``out`` from flat arrays.

    ``failing`` are the reasons in order, where each holds, and by how much (a logarithm); ``given`` leaves out what the
    conditions do not admit.
    """
    admitted = np.ones(len(numbers), bool) if given is None else given
    out.seen = int(admitted.sum())
    fine = admitted.copy()
    gap = np.zeros(len(numbers))
    for reason, fails, by in failing:
        if count := int((fails & fine).sum()):
            out.missed[reason] = count
        fine &= ~fails
        gap = np.maximum(gap, np.where(fails, by, 0.0))
    out.met = int(fine.sum())
    table = np.stack([metrics[name] for name in METRICS], axis=1) if len(numbers) else NO_ROWS.metrics
    rows = Rows(numbers, table)
    if out.met:
        met = rows.take(fine)
        out.top, out.front = out.ranked(met), out.unbeaten(met)
    elif out.seen:
        which = np.flatnonzero(admitted)
        nearest = which[np.argmin(gap[which])]
        out.gap, out.nearest = float(gap[nearest]), rows.take(np.array([nearest]))
    fits = admitted & ~failing[0][1]
    if fits.any():
        for i, name in enumerate(METRICS):
            values = table[fits, i]
            out.best[name] = float(values.max() if name in MOST else values.min())
