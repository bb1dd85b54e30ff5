"""What a search keeps while it runs: the best rows, the front, counts of reasons, and the nearest configuration."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from attrs import define, field
from numpy.typing import NDArray

from plandsl.searches.front import Floats, first_rows, pareto
from plandsl.searches.values import METRICS, MOST
from plandsl.spec.search import Goal


class Rows(NamedTuple):
    """Configurations by number, and their metrics [rows, `METRICS`] in SI units."""

    numbers: NDArray[np.int64]
    metrics: Floats

    def take(self, which: NDArray[np.intp] | NDArray[np.bool_]) -> Rows:
        """The rows at these indices, or where this mask is true."""
        return Rows(self.numbers[which], self.metrics[which])

    def column(self, metric: str) -> Floats:
        """One metric, of all rows."""
        return self.metrics[:, METRICS.index(metric)]

    def joined(self, other: Rows) -> Rows:
        """These rows, then the rows of ``other``."""
        if not len(other.numbers):
            return self
        if not len(self.numbers):
            return other
        return Rows(np.concatenate([self.numbers, other.numbers]), np.concatenate([self.metrics, other.metrics]))


NO_ROWS = Rows(np.empty(0, np.int64), np.empty((0, len(METRICS))))


@define
class Tally:
    """The result of ``seen`` configurations, ``met`` of which fit and meet every requirement.

    Among the ``met``, ``top`` has the ``keep`` best by ``goals``, and ``front`` the Pareto front in the metrics of
    ``weighed``; ``unrated`` counts those of the ``met`` that lack one of these metrics. ``missed`` counts the other
    configurations by reason, each under the first reason that rules it out.
    ``nearest`` is the configuration with the smallest gap; ``gap`` is the logarithm of the largest factor by which it
    misses a requirement. ``close`` has the ``keep`` best of those that miss one by at most ``near``, also a logarithm;
    none where it is 0. Merging tallies in any grouping gives the same tally.
    """

    goals: tuple[Goal, ...]
    weighed: tuple[Goal, ...]
    keep: int
    seen: int = 0
    met: int = 0
    top: Rows = NO_ROWS
    front: Rows = NO_ROWS
    unrated: int = 0
    missed: dict[str, int] = field(factory=dict)
    nearest: Rows = NO_ROWS
    gap: float = float("inf")
    near: float = 0.0
    close: Rows = NO_ROWS
    best: dict[str, float] = field(factory=dict)
    """The best value of each metric among configurations that fit in memory, whatever else they miss."""

    def merge(self, other: Tally) -> None:
        """Add the tally of another part of the search."""
        self.seen, self.met = self.seen + other.seen, self.met + other.met
        self.unrated += other.unrated
        self.top = self.best_rows(self.top.joined(other.top))
        self.front = self.front_rows(self.front.joined(other.front))
        self.close = self.best_rows(self.close.joined(other.close))
        for reason, count in other.missed.items():
            self.missed[reason] = self.missed.get(reason, 0) + count
        if (other.gap, other.nearest.numbers.tolist()) < (self.gap, self.nearest.numbers.tolist()):
            self.gap, self.nearest = other.gap, other.nearest
        for metric, value in other.best.items():
            pick = max if metric in MOST else min
            self.best[metric] = pick(value, self.best.get(metric, value))

    def best_rows(self, rows: Rows) -> Rows:
        """The ``keep`` best of ``rows``, by the goals, then by number."""
        keys = [-rows.column(g.metric) if g.most else rows.column(g.metric) for g in self.goals]
        order = np.argsort(rows.numbers, kind="stable")
        rows = rows.take(order)
        return rows.take(first_rows([k[order] for k in keys], self.keep))

    def front_rows(self, rows: Rows) -> Rows:
        """The front of ``rows``, in order of number."""
        rows = rows.take(np.argsort(rows.numbers, kind="stable"))
        return rows.take(pareto(self.costs(rows)))

    def costs(self, rows: Rows) -> Floats:
        """The metrics that decide the front [rows, weighed], signed so that less is better."""
        return np.stack([-rows.column(g.metric) if g.most else rows.column(g.metric) for g in self.weighed], axis=1)


def fill_tally(
    out: Tally, numbers: NDArray[np.int64], metrics: Mapping[str, Floats],
    failing: Sequence[tuple[str, NDArray[np.bool_], Floats]], given: NDArray[np.bool_] | None,
    soft: Collection[str] = (),
) -> None:  # fmt: skip
    """Fill ``out`` from flat arrays.

    ``failing`` has, for each reason in order, where it rules a configuration out, and the logarithm of the factor by
    which it is missed. ``given`` masks the configurations that the conditions admit; None admits all. ``soft`` are the
    reasons for which one may be `Tally.close`.
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
        out.top, out.front = out.best_rows(met), out.front_rows(met)
        out.unrated = int((~np.isfinite(out.costs(met)).all(axis=1)).sum())
    elif out.seen:
        which = np.flatnonzero(admitted)
        nearest = which[np.argmin(gap[which])]
        out.gap, out.nearest = float(gap[nearest]), rows.take(np.array([nearest]))
    fits = admitted & ~failing[0][1]
    if out.near:
        hard = [fails for reason, fails, _ in failing if reason not in soft]
        close = admitted & ~fine & (gap <= out.near) & ~np.any(hard, axis=0)
        out.close = out.best_rows(rows.take(close))
    if fits.any():
        for i, name in enumerate(METRICS):
            values = table[fits, i]
            if np.isnan(values).all():  # a metric that no plan of the search has
                continue
            out.best[name] = float(values.max() if name in MOST else values.min())
