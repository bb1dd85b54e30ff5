"""Percentiles and means of what a run measured, each with the interval that the run's length leaves it."""

from __future__ import annotations

from collections.abc import Iterator
from math import sqrt

import numpy as np

from plandsl.answers.simulation import Figure, Spread
from plandsl.backends.cost.serving.requests import Floats, Ints

QUANTILES = (0.5, 0.9, 0.95, 0.99)
"""Percentiles that are told."""

BATCHES = (20, 10, 5)
"""Numbers of batches, most first."""

STUDENT = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131, 2.120,
    2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
)  # fmt: skip
"""The 97.5 % quantile of Student's t, with one degree of freedom and more."""

NORMAL = 1.959964
"""The same of the normal distribution."""

BEYOND = 10
"""Requests that must lie beyond a percentile for it to be told without a warning."""


def least_for(share: float) -> int:
    """The fewest requests of which a percentile is told without a warning; ``share`` is 0.99 for p99."""
    return round(BEYOND / (1 - share))


NO_FIGURE = Figure(float("nan"), float("nan"))
NO_SPREAD = Spread(NO_FIGURE, NO_FIGURE, NO_FIGURE, p95=NO_FIGURE, p99=NO_FIGURE, number=0)
"""What is told of no values."""


def spread(values: Floats, number: Ints | None = None) -> Spread:
    """Of ``values`` in the order of time, each measured ``number`` times (None: once). Those that are NaN are left out.

    Percentiles interpolate between neighbours, as numpy's do. Intervals by batch means: the run is cut into batches of
    equal length, as many as leave a value beyond the percentile in each, and the percentiles of the batches spread as t
    says. Source: Law, "Simulation Modeling and Analysis", 5th edition, section 9.5.3.
    """
    there = np.isfinite(values)
    kept = values if there.all() else values[there]
    sample = _Sample(kept, None if number is None else number[there])
    if not sample.total:
        return NO_SPREAD
    p50, p90, p95, p99 = (sample.percentile(q) for q in QUANTILES)
    return Spread(sample.mean_figure, p50, p90, p95, p99, number=sample.total)


def figure(values: Floats, percentile: float | None = None) -> Figure:
    """A percentile of ``values`` in the order of time, or their mean, as `spread` has it; NaN counts as no value."""
    kept = values[np.isfinite(values)]
    if not len(kept):
        return NO_FIGURE
    sample = _Sample(kept)
    if percentile is None:
        return sample.mean_figure
    return sample.percentile(percentile / 100)


class _Sample:
    """Values in the order of time, and how often each was measured; None: once."""

    def __init__(self, values: Floats, times: Ints | None = None) -> None:
        self.values, self.times, self.total = values, times, len(values)
        if times is None:
            self.sorted = np.sort(values)
            return
        order = np.argsort(values, kind="stable")
        self.sorted, self.ends = values[order], np.cumsum(times[order])
        self.total = int(self.ends[-1]) if len(values) else 0

    @property
    def mean(self) -> float:
        """The mean."""
        return float((self.values if self.times is None else self.values * self.times).sum() / self.total)

    @property
    def mean_figure(self) -> Figure:
        """The mean with its interval."""
        return Figure(self.mean, half_width([part.mean for part in self.batches(1)]))

    def quantile(self, q: float) -> float:
        """The value at the place ``q (n - 1)``, counted from 0, between the values at whole places."""
        place = q * float(self.total - 1)
        low = int(place)
        at = [low, min(low + 1, self.total - 1)]
        if self.times is not None:
            at = np.searchsorted(self.ends, at, side="right").tolist()
        below, above = self.sorted[at].tolist()
        return float(below + (above - below) * (place - low))

    def percentile(self, q: float) -> Figure:
        """The same with its interval."""
        return Figure(self.quantile(q), half_width([part.quantile(q) for part in self.batches(round(1 / (1 - q)))]))

    def batches(self, least: int) -> Iterator[_Sample]:
        """Batches in which ``least`` values were measured on average, none where they would be too few."""
        most = min(self.total // least, len(self.values))
        count = next((count for count in BATCHES if count <= most), 0)
        if count:
            times = [None] * count if self.times is None else np.array_split(self.times, count)
            yield from map(_Sample, np.array_split(self.values, count), times)


def student(degrees: int) -> float:
    """The 97.5 % quantile of Student's t with so many degrees of freedom, to 0.001.

    Source: Abramowitz and Stegun, "Handbook of Mathematical Functions", 1964: table 26.10, and beyond it 26.7.5.
    """
    if degrees <= len(STUDENT):
        return STUDENT[degrees - 1]
    z = NORMAL
    return z + (z**3 + z) / (4 * degrees) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * degrees**2)


def half_width(means: list[float]) -> float:
    """Half the width of the 95 % interval around the mean of ``means``; NaN of fewer than two."""
    if len(means) < 2:
        return float("nan")
    return student(len(means) - 1) * float(np.std(means, ddof=1)) / sqrt(len(means))
