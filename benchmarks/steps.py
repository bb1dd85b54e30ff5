"""Times of recorded steps under constants of an engine, and the constants that fit measurements best."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy.optimize import least_squares

from benchmarks.recording import Features, Recording
from plandsl.backends.calibrate.robust import soften
from plandsl.backends.cost.serving.requests import Floats

Constants = Mapping[str, float]
"""Fields of an engine that are fitted, by name."""

METRICS = ("ttft_s", "tpot_s", "output_tok_per_s")

START = {
    "prefill": 0.95, "decode": 0.95, "links": 0.9, "step": 0.2e-3, "step_rank": 15e-6, "request": 15e-6, "first": 20e-3,
    "first_request": 0.2e-3,
}  # fmt: skip
"""Where fits start: rates, and seconds as `EngineSpec` has them."""

LOOSE = {
    "prefill": 0.02, "decode": 0.02, "links": 0.05, "step": 0.7, "step_rank": 0.7, "request": 0.7, "first": 0.7,
    "first_request": 0.7,
}  # fmt: skip
"""How far a constant may be from what it is drawn to, as a logarithm: one standard deviation.

Rates hardly move: what is far from them is an error of kernels, and not of the engine. With widths of 0.1 and 0.3
instead, TPOT of models without experts that were left out is off by two points more.
"""

STARTS = (0.0, 1.0, -1.0)
"""Starts of the search, in standard deviations from what the constants are drawn to."""


class Steps:
    """Recorded steps of several rows, ready to be timed at once."""

    def __init__(
        self, recordings: Sequence[Recording], features: Sequence[Features], ranks: Sequence[int], measured: Floats
    ) -> None:
        self.ranks, self.measured, self.rows = np.array(ranks, np.float64), measured, len(recordings)
        sizes = [recording.weights.shape[1] for recording in recordings]
        self.of = np.repeat(np.arange(self.rows), sizes)
        self.weights = np.concatenate([r.weights for r in recordings], axis=1)
        self.features = Features(*map(np.concatenate, zip(*features, strict=True)))
        self.late, self.running, self.rounds, self.tokens = (
            np.array([getattr(r, name) for r in recordings]) for name in ("late", "running", "rounds", "tokens")
        )

    def seconds(self, c: Constants) -> Floats:
        """Seconds of each step: kernels and collectives at the engine's rates, and what `ServerClock` adds."""
        f = self.features
        kernels = f.prefill / c["prefill"] + f.decode / c["decode"] + f.links / c["links"]
        each = c["step"] + c["step_rank"] * (self.ranks - 1)
        host = each[self.of] + c["request"] * f.rows
        found: Floats = kernels + np.where(f.alone > 0, 0.0, host)
        return found

    def predict(self, c: Constants) -> Floats:
        """The metrics of each row, float64[rows, 3], in the order of `METRICS`.

        A request that comes later than a step's end, by what the engine adds to first tokens, waits for the rest of
        a step: ``E[t^2] / (2 E[t])``, as it is more likely to come in a long one.
        """
        seconds = self.seconds(c)
        ttft, tpot, duration = (np.bincount(self.of, row * seconds, self.rows) for row in self.weights)
        rest = self.late * np.bincount(self.of, self.weights[2] * seconds**2, self.rows) / (2 * duration)
        delay = c["first"] + c["step_rank"] * (self.ranks - 1) + c["first_request"] * self.running
        ttft = ttft + delay + rest * (delay > 0)
        return np.stack([ttft, tpot, self.tokens / (duration + self.rounds * delay)], axis=1)

    def errors(self, c: Constants) -> Floats:
        """Logarithms of predicted over measured, NaN where nothing was measured."""
        found: Floats = np.log(self.predict(c) / np.where(self.measured > 0, self.measured, np.nan))
        return found


class Fit(NamedTuple):
    """Constants, and their 80 % intervals as factors."""

    constants: dict[str, float]
    interval: dict[str, float]


def fit(steps: Steps, counts: Floats, drawn: Constants, loose: float = 1.0, starts: Sequence[float] = STARTS) -> Fit:
    """The constants with the least robust squares of errors, and of their distance from what they are ``drawn`` to.

    ``counts`` float64[rows]: how much each row counts. ``loose`` scales `LOOSE`. Robust as `soft_l1` of scipy.
    """
    names = list(LOOSE)
    middle = np.log([drawn[name] for name in names])
    width = loose * np.array([LOOSE[name] for name in names])
    there = steps.measured > 0
    scale = np.broadcast_to(np.sqrt(counts)[:, None], there.shape)[there]

    def read(y: Floats) -> dict[str, float]:
        return dict(zip(names, map(float, np.exp(middle + width * y)), strict=True))

    def residuals(y: Floats) -> Floats:
        return np.concatenate([scale * soften(steps.errors(read(y))[there]), y])

    found = [least_squares(residuals, np.full(len(names), start), bounds=(-4, 4)) for start in starts]
    best = min(found, key=lambda result: float(result.cost))
    spread = np.sqrt(np.diag(np.linalg.inv(best.jac.T @ best.jac)))
    wide = np.exp(1.2816 * spread * width)
    return Fit(read(best.x), dict(zip(names, map(float, wide), strict=True)))
