"""Constants of one set on one GPU, and how far they are off on rows that the fit saw and on others."""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
from attrs import evolve, frozen

from plandsl.backends.calibrate.conformal import Margin
from plandsl.backends.calibrate.distance import NOTHING_LEFT, Left, off
from plandsl.backends.calibrate.kind import AnyKind, Floats, Kind
from plandsl.backends.calibrate.solve import Loss, solve
from plandsl.backends.calibrate.table import Table
from plandsl.spec.constants import C, FormConstants, names
from plandsl.spec.hardware import GpuSpec

HELD_OUT = 5
"""One shape in so many is kept from the fit."""

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
    """The constants of one set on one GPU, and their errors on fitted and on held-out rows.

    ``derived`` says how the constants were made where no rows of the set were fitted. ``left``: residuals of rows that
    the fit did not see. ``sizes``: the least and the most seconds of the rows by the form, None where these are of
    several GPUs, or there are none.
    """

    path: str
    constants: FormConstants
    seen: Errors
    unseen: Errors | None
    derived: str = ""
    left: Left = NOTHING_LEFT
    sizes: tuple[float, float] | None = None

    @property
    def spread(self) -> Margin:
        """The 80 % band of the rows that the fit saw, as logarithms."""
        return math.log(self.seen.low), math.log(self.seen.high)


def errors(predicted: Floats, measured: Floats) -> Errors:
    """Errors of ``predicted`` against ``measured``; the band holds the middle 80 % of measured / predicted."""
    ratio = predicted / measured
    off = np.abs(ratio - 1)
    low, high = np.quantile(1 / ratio, (0.1, 0.9))
    return Errors(
        rows=len(ratio), median=float(np.median(off)), mean=float(off.mean()), p90=float(np.quantile(off, 0.9)),
        bias=float(np.median(ratio) - 1), low=float(low), high=float(high),
    )  # fmt: skip


def held_out(kind: AnyKind, rows: Table) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """Which rows the fit must not see: whole shapes, by a fixed hash of the shape."""
    mixed = kind.shape(rows).astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    out: np.ndarray[tuple[int], np.dtype[np.bool_]] = (mixed >> np.uint64(40)) % np.uint64(HELD_OUT) == 0
    return out


def fit(
    kind: Kind[C], gpu: GpuSpec, rows: Table, path: str, found: Mapping[str, FormConstants] = MappingProxyType({})
) -> Fitted:
    """Fit one set of constants to ``rows``, which are all of one GPU and one set.

    Rows of `held_out` shapes are kept from the fit, where enough are left. ``found`` are sets of this GPU that were
    fitted before, for constants that these rows do not tell.
    """
    kind = kind.anchored(path, rows, found)
    unseen = held_out(kind, rows)
    if (~unseen).sum() < 2 * len(names(type(kind.start))):
        unseen = np.zeros(len(rows), dtype=bool)
    train, test = rows.where(~unseen), rows.where(unseen)
    constants = solve(Loss(kind, {gpu: train}))
    seen = errors(kind.seconds(constants, gpu, train), train.numbers(kind.metric))
    other = errors(kind.seconds(constants, gpu, test), test.numbers(kind.metric)) if len(test) else None
    size = kind.seconds(constants, gpu, rows)
    made = Fitted(path, constants, seen, other, sizes=(float(size.min()), float(size.max())))
    return evolve(made, left=Left(near=off(constants, kind, gpu, test, f"{gpu.name} {path}").beyond(made.spread)))
