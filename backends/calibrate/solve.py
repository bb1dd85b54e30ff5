"""The constants that come closest to measurements. Needs scipy, the extra `fit`.

A loss of few constants and many kinks has several valleys. Few rows tell them apart: from several starts robust least
squares go down on those, the best go on with all rows, and a simplex on the loss itself takes the best to the ground.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Generic

import numpy as np
from attrs import evolve, field, frozen

from plandsl.backends.calibrate.kind import Floats, Kind
from plandsl.backends.calibrate.table import Table
from plandsl.diagnostics import Diagnostic, PlanError
from plandsl.spec.constants import C, build, names, values
from plandsl.spec.hardware import GpuSpec

PRIOR = 0.002
"""Price, in mean absolute logarithm of the error, of a constant that strays one `loose` from its start."""

FEW = 120
"""Rows of a GPU that tell valleys apart."""

STARTS = 6
"""Starts drawn by lot, beside the middle and the end of a search along each constant in turn."""

REACH = 2.0
"""How far from the middle they are drawn, in `loose`."""

KEPT = 3
"""Valleys that are followed with all rows."""

WIDE, NARROW = 0.1, 0.01
"""Errors, as logarithms, below which least squares take the corner of an absolute value as round."""

GRADIENTS = 15
"""Gradients of least squares at most."""

POLISH = 40
"""Evaluations of a simplex at most, for each constant."""


@frozen(eq=False)
class Loss(Generic[C]):
    """The mean over GPUs of the mean absolute logarithm of predicted / measured, and a weak prior.

    Least absolute deviations: outliers, of which measured kernels have plenty, do not pull. Each GPU counts the same.
    A point ``y`` says of each constant how far it strays from its start, as a logarithm and in `loose` of its kind.
    """

    kind: Kind[C]
    rows: Mapping[GpuSpec, Table]
    middle: Floats = field(init=False)
    loose: Floats = field(init=False)
    most: Floats = field(init=False)
    measured: Mapping[GpuSpec, Floats] = field(init=False)
    weight: Floats = field(init=False)

    @middle.default
    def _middle(self) -> Floats:
        found: Floats = np.log(list(values(self.kind.start).values()))
        return found

    @loose.default
    def _loose(self) -> Floats:
        return np.array([self.kind.loose.get(name, 0.5) for name in names(type(self.kind.start))])

    @most.default
    def _most(self) -> Floats:
        return np.array([self.kind.most.get(name, np.inf) for name in names(type(self.kind.start))])

    @measured.default
    def _measured(self) -> Mapping[GpuSpec, Floats]:
        return {gpu: np.log(table.numbers(self.kind.metric)) for gpu, table in self.rows.items()}

    @weight.default
    def _weight(self) -> Floats:
        return np.concatenate([np.full(len(t), 1 / len(t) / len(self.rows)) for t in self.rows.values()])

    def constants(self, y: Floats) -> C:
        """The constants at ``y``."""
        return build(type(self.kind.start), np.minimum(np.exp(self.middle + self.loose * y), self.most).tolist())

    def off(self, y: Floats) -> Floats:
        """Logarithm of predicted / measured of every row."""
        c = self.constants(y)
        return np.concatenate([np.log(self.kind.seconds(c, g, t)) - self.measured[g] for g, t in self.rows.items()])

    def __call__(self, y: Floats) -> float:
        """The loss at ``y``."""
        return float((self.weight * np.abs(self.off(y))).sum() + PRIOR * (y**2).sum())

    def residuals(self, y: Floats) -> Floats:
        """What least squares are of: every row, and every constant by the prior."""
        return np.concatenate([self.off(y), (2 * PRIOR) ** 0.5 * y])

    def rounded(self, width: float) -> Callable[[Floats], Floats]:
        """What scipy makes of squared residuals, so that half of the sum is the loss, its corners ``width`` round.

        ``|off|`` becomes ``(off^2 + width^2)^(1/2) - width``; the prior stays a square. Value, first and second
        derivative by the square.
        """
        n = len(self.weight)

        def rho(square: Floats) -> Floats:
            root, prior = np.sqrt(square[:n] + width**2), square[n:]
            rows = self.weight * (2 * (root - width), 1 / root, -0.5 / root**3)
            return np.concatenate([rows, [prior, np.ones(len(prior)), np.zeros(len(prior))]], axis=1)

        return rho


def solve(loss: Loss[C]) -> C:
    """The constants with the least loss, to four digits. Raises `PlanError` (E451) without scipy."""
    few = evolve(loss, rows={gpu: table.thinned(FEW) for gpu, table in loss.rows.items()})
    middle = np.zeros(len(loss.middle))
    lot = np.random.default_rng(1).uniform(-REACH, REACH, (STARTS, len(middle)))
    valleys = [_down(few, y, WIDE) for y in (middle, along(few, middle), *lot)]
    best = sorted(valleys, key=few)[:KEPT]
    ends = [_down(loss, _down(loss, y, WIDE), NARROW) for y in best]
    return _four_digits(loss.constants(polished(loss, min(ends, key=loss))))


def solve_quickly(loss: Loss[C]) -> C:
    """The same from two starts and without the last simplex, for fits of which there are many."""
    middle = np.zeros(len(loss.middle))
    ends = [_down(loss, y, WIDE) for y in (middle, along(loss, middle))]
    return _four_digits(loss.constants(_down(loss, min(ends, key=loss), NARROW)))


def _down(loss: Loss[C], y: Floats, width: float) -> Floats:
    """The ground that robust least squares reach from ``y``."""
    return least_squares(loss.residuals, y, loss.rounded(width))


def least_squares(
    residuals: Callable[[Floats], Floats], y: Floats, rho: str | Callable[[Floats], Floats] = "linear"
) -> Floats:
    """The point with the least sum of ``rho(residual^2)`` that a descent from ``y`` reaches (scipy's `least_squares`).

    Derivatives are differences over steps of 0.001.
    """
    optimize = _optimize()
    found: Floats = optimize.least_squares(
        residuals, y, jac=lambda at: optimize.approx_fprime(at, residuals, 1e-3), loss=rho, max_nfev=GRADIENTS,
        ftol=1e-5, xtol=1e-4,
    ).x  # fmt: skip
    return found


def along(loss: Callable[[Floats], float], y: Floats) -> Floats:
    """Twice along each direction in turn (Powell 1964): it crosses the hills between valleys."""
    found: Floats = _optimize().minimize(loss, y, method="Powell", options={"maxiter": 2, "xtol": 0.05, "ftol": 1e-3}).x
    return found


def polished(loss: Callable[[Floats], float], y: Floats) -> Floats:
    """The ground below ``y`` of the loss itself, corners and all (Nelder and Mead 1965)."""
    options = {
        "initial_simplex": np.vstack([y, y + 0.3 * np.eye(len(y))]), "maxfev": POLISH * len(y), "xatol": 1e-3,
        "fatol": 1e-6, "adaptive": True,
    }  # fmt: skip
    found: Floats = _optimize().minimize(loss, y, method="Nelder-Mead", options=options).x
    return found


def _four_digits(constants: C) -> C:
    return build(type(constants), [float(f"{value:.4g}") for value in values(constants).values()])


def _optimize() -> ModuleType:
    try:
        from scipy import optimize
    except ImportError as error:
        hint = "`pip install 'plandsl[fit]'`"
        raise PlanError([Diagnostic("E451", "fitting constants needs scipy", hint=hint)]) from error
    found: ModuleType = optimize
    return found
