"""Numbers from the distributions that a workload states."""

from __future__ import annotations

from typing import assert_never

import numpy as np

from plandsl import limits
from plandsl.backends.cost.serving.draws import Floats, Ints, Purpose, Stream, exp, log
from plandsl.diagnostics import PlanError
from plandsl.spec.traffic import (
    Distribution,
    Empirical,
    Exponential,
    Fixed,
    Lengths,
    Lognormal,
    Normal,
    Uniform,
    Zipf,
)
from plandsl.traces import read_column


def draw_lengths(lengths: Lengths, n: int, seed: int, kind: int) -> tuple[Ints, Ints]:
    """Tokens of ``n`` requests of a class, in and out, each from a stream of its own."""
    return (
        draw_whole(lengths.input, Stream(seed, Purpose.INPUT, kind), n),
        draw_whole(lengths.output, Stream(seed, Purpose.OUTPUT, kind), n),
    )


def draw_whole(distribution: Distribution, stream: Stream, n: int, least: int = 1) -> Ints:
    """``n`` whole numbers from ``least``: `draw`, rounded to the nearest. `Uniform` includes both ends."""
    if isinstance(distribution, Uniform):
        low, high = distribution
        return np.minimum(low + np.floor(stream.uniform(n) * (high - low + 1)), high).astype(np.int64)
    return np.clip(np.rint(draw(distribution, stream, n)), least, limits.MAX_DIMENSION).astype(np.int64)


def draw(distribution: Distribution, stream: Stream, n: int) -> Floats:
    """``n`` numbers, zero or more."""
    match distribution:
        case Fixed(value):
            return np.full(n, float(value))
        case Uniform(low, high):
            return low + (high - low) * stream.uniform(n)
        case Normal(mean, sigma, bounds):
            return _bounded(mean + sigma * stream.normal(n), bounds.low, bounds.high)
        case Exponential(mean, bounds):
            return _bounded(mean * stream.exponential(n), bounds.low, bounds.high)
        case Lognormal():
            drawn = exp(np.clip(distribution.mu + distribution.sigma * stream.normal(n), -700.0, 700.0))
            return _bounded(drawn, distribution.bounds.low, distribution.bounds.high)
        case Zipf(exponent, low, high):
            upto = np.cumsum(exp(-exponent * log(np.arange(low, high + 1, dtype=np.float64))))
            found: Floats = np.searchsorted(upto[:-1], stream.uniform(n) * upto[-1], side="right").astype(np.float64)
            return found + low
        case Empirical(file, column):
            values, wrong = read_column(file, column)
            if values is None or wrong:
                raise PlanError(wrong)
            return np.array(values)[(stream.uniform(n) * len(values)).astype(np.int64)]
        case _:
            assert_never(distribution)


def _bounded(values: Floats, low: float | None, high: float | None) -> Floats:
    out: Floats = np.clip(values, 0.0 if low is None else low, np.inf if high is None else high)
    return out
