"""Robust fitting of a few constants in logarithms."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from attrs import frozen

from plandsl.backends.calibrate.kind import AnyKind, Floats, Kind
from plandsl.backends.calibrate.table import Table
from plandsl.spec.constants import C, FormConstants, made, values
from plandsl.spec.hardware import GpuSpec

HELD_OUT = 5
"""One shape in so many is kept from the fit."""

PRIOR = 0.002
"""Price, in mean absolute logarithm of the error, of a constant that strays one `loose` from its start."""

THIN = 30
"""Fewer rows than this make a calibration that is called thin."""


@frozen
class Errors:
    """Relative errors of predictions: median, mean, 90th percentile, bias, and the 80 % band (factors)."""

    rows: int
    median: float
    mean: float
    p90: float
    bias: float
    low: float
    high: float


@frozen
class Fitted:
    """The constants of one set on one GPU, and their errors on fitted and on held-out rows."""

    path: str
    constants: FormConstants
    seen: Errors
    unseen: Errors | None


def errors(predicted: Floats, measured: Floats) -> Errors:
    """Errors of ``predicted`` against ``measured``; the band holds the middle 80 % of measured / predicted."""
    ratio = predicted / measured
    off = np.abs(ratio - 1)
    low, high = np.quantile(1 / ratio, (0.1, 0.9))
    return Errors(
        len(ratio), float(np.median(off)), float(off.mean()), float(np.quantile(off, 0.9)),
        float(np.median(ratio) - 1), float(low), float(high),
    )  # fmt: skip


def held_out(kind: AnyKind, rows: Table) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """Which rows the fit must not see: whole shapes, by a fixed hash of the shape."""
    mixed = kind.shape(rows).astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    out: np.ndarray[tuple[int], np.dtype[np.bool_]] = (mixed >> np.uint64(40)) % np.uint64(HELD_OUT) == 0
    return out


def fit(kind: Kind[C], gpu: GpuSpec, rows: Table, path: str) -> Fitted:
    """Fit one set of constants to ``rows``, which are all of one GPU and one set.

    Least absolute deviations of the logarithm: outliers, of which measured kernels have plenty, do not pull.
    """
    begin = values(kind.start)
    unseen = held_out(kind, rows)
    if (~unseen).sum() < 2 * len(begin):
        unseen = np.zeros(len(rows), dtype=bool)
    train, test = rows.where(~unseen), rows.where(unseen)
    measured = np.log(train.numbers(kind.metric))
    names = list(begin)
    middle = np.log([begin[n] for n in names])
    loose = np.array([kind.loose.get(n, 0.5) for n in names])

    def loss(x: Floats) -> float:
        constants = made(type(kind.start), np.exp(x))
        off = np.log(kind.seconds(constants, gpu, train)) - measured
        return float(np.abs(off).mean() + PRIOR * (((x - middle) / loose) ** 2).sum())

    best = descend(loss, middle)
    constants = made(type(kind.start), [round_to(math.exp(v), 4) for v in best])
    seen = errors(kind.seconds(constants, gpu, train), train.numbers(kind.metric))
    other = errors(kind.seconds(constants, gpu, test), test.numbers(kind.metric)) if len(test) else None
    return Fitted(path, constants, seen, other)


def descend(loss: Callable[[Floats], float], start: Floats, rounds: int = 60) -> Floats:
    """Coordinate descent with a step of its own for each constant, grown on success and shrunk on failure."""
    x, best = start.copy(), loss(start)
    step = np.full(len(x), 0.4)
    for _ in range(rounds):
        for i in range(len(x)):
            for sign in (1.0, -1.0):
                trial = x.copy()
                trial[i] += sign * step[i]
                if (found := loss(trial)) < best:
                    x, best = trial, found
                    step[i] *= 1.3
                    break
            else:
                step[i] *= 0.6
        if step.max() < 1e-3:
            break
    return x


def round_to(value: float, digits: int) -> float:
    """``value`` to so many significant digits."""
    return float(f"{value:.{digits}g}")


__all__ = ["Errors", "Fitted", "descend", "errors", "fit", "held_out"]
