"""Times of arrival, drawn from how a workload describes them."""

from __future__ import annotations

from typing import NamedTuple, assert_never

import numpy as np

from plandsl.backends.cost.serving.draws import Floats, Purpose, Stream
from plandsl.diagnostics import PlanError
from plandsl.spec.traffic import Arrivals, AtOnce, OnOff, Steady, Traced, Varying
from plandsl.traces import read_trace


def draw_arrivals(arrivals: Arrivals, n: int, seed: int, kind: int = 0) -> Floats:
    """The times of the first ``n`` arrivals in seconds, increasing.

    A Poisson process of changing rate is one of rate 1 on a clock that runs at that rate: the k-th arrival is at the
    time t at which the expected number of arrivals equals the sum of k exponential numbers with mean 1.
    """
    gaps = Stream(seed, Purpose.GAPS, kind)
    match arrivals:
        case Steady():
            return _steady(arrivals, n, gaps)
        case AtOnce():
            return np.zeros(n)
        case OnOff():
            expected = np.cumsum(gaps.exponential(n))
            return _switching(arrivals, float(expected[-1]), Stream(seed, Purpose.PHASES, kind)).times(expected)
        case Varying():
            return _Clock.of(arrivals).times(np.cumsum(gaps.exponential(n)))
        case Traced():
            return _Clock.of(rates_of(arrivals)).times(np.cumsum(gaps.exponential(n)))
        case _:
            assert_never(arrivals)


def _steady(arrivals: Steady, n: int, gaps: Stream) -> Floats:
    """The first arrival is one gap after time 0; where gaps are equal, at time 0."""
    if arrivals.shape is None:
        return np.arange(n) / arrivals.rate
    drawn = gaps.exponential(n) if arrivals.shape == 1 else gaps.gamma(n, arrivals.shape)
    times = np.cumsum(drawn) / arrivals.rate
    return times * (n / arrivals.rate / times[-1]) if arrivals.scaled else times


class _Clock(NamedTuple):
    """Segments of constant ``rate``, by their ``start`` and the arrivals ``expected`` before it.

    The last rate stays, unless the segments start again ``every`` so many seconds.
    """

    start: Floats
    rate: Floats
    expected: Floats
    every: float | None = None

    @classmethod
    def of(cls, varying: Varying) -> _Clock:
        """The segments of a list of times and rates."""
        start, rate = (np.array(column, float) for column in zip(*varying.steps, strict=True))
        return cls.of_segments(start, rate, varying.every)

    @classmethod
    def of_segments(cls, start: Floats, rate: Floats, every: float | None = None) -> _Clock:
        """Segments by their start and their rate."""
        return cls(start, rate, np.concatenate(([0.0], np.cumsum(rate[:-1] * np.diff(start)))), every)

    def times(self, expected: Floats) -> Floats:
        """The time at which so many arrivals are expected."""
        if self.every is None:
            return self._within(expected)
        each = self.expected[-1] + self.rate[-1] * (self.every - self.start[-1])
        turns = np.floor(expected / each)
        within = np.minimum(self._within(expected - turns * each), self.every)
        out: Floats = turns * self.every + within
        return out

    def _within(self, expected: Floats) -> Floats:
        """The same, before the segments start again. A segment of rate 0 has no arrivals, and is never found."""
        moving = np.flatnonzero(self.rate > 0)
        at = moving[np.maximum(np.searchsorted(self.expected[moving], expected, side="right") - 1, 0)]
        out: Floats = self.start[at] + np.maximum(expected - self.expected[at], 0.0) / self.rate[at]
        return out


def _switching(arrivals: OnOff, expected: float, phases: Stream) -> _Clock:
    """On and off, in turn, until so many arrivals are expected."""
    means = np.array([arrivals.on, arrivals.off])
    each = arrivals.high * arrivals.on + arrivals.low * arrivals.off
    lasts, have = [np.empty(0)], 0.0
    while have <= expected:
        pairs = min(int((expected - have) / each * 1.1) + 16, 1_000_000)
        drawn = np.tile(means, pairs) * (1.0 if arrivals.fixed else phases.exponential(2 * pairs))
        lasts.append(drawn)
        have += float(np.cumsum(drawn[::2])[-1] * arrivals.high + np.cumsum(drawn[1::2])[-1] * arrivals.low)
    all_lasts = np.concatenate(lasts)
    rate = np.tile([arrivals.high, arrivals.low], len(all_lasts) // 2)
    return _Clock.of_segments(np.concatenate(([0.0], np.cumsum(all_lasts)[:-1])), rate)


def rates_of(traced: Traced) -> Varying:
    """The rate of a trace: arrivals in each bin over its length. After the last bin the trace starts again.

    Raises `PlanError` where the trace is wrong.
    """
    trace, wrong = read_trace(traced.file)
    if trace is None or wrong:
        raise PlanError(wrong)
    seconds = np.frombuffer(trace.seconds)
    counts = np.bincount(((seconds - seconds.min()) / traced.bin).astype(np.int64))
    rates = counts * (traced.scale / traced.bin)
    steps = tuple((at * traced.bin, float(rate)) for at, rate in enumerate(rates))
    return Varying(steps, len(rates) * traced.bin)
