"""Predictions beside measurements, and the few numbers that sum them up."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from attrs import frozen

from plandsl.backends.accuracy.answer import Answer, Floats, Mask, Texts

UNMEASURED = "nothing was measured"
NOT_POSITIVE = "what was measured is not above zero"
NOT_SANE = "what was measured is no time or rate of a machine"
SANE = (1e-12, 1e12)
"""Seconds or tokens per second outside of this are no measurement, and no prediction."""


@frozen
class Score:
    """Errors of the answered rows of a group: absolute relative ones.

    ``bias`` is the median of predicted / measured - 1, ``in_band`` the share of measurements inside the predicted
    80 % band. None where nothing was answered.
    """

    n: int
    answered: int
    median: float | None
    mean: float | None
    p90: float | None
    bias: float | None
    in_band: float | None
    refused: tuple[tuple[str, int], ...]

    def as_json(self) -> dict[str, object]:
        """By the names of the machine form."""
        return {
            "n": self.n, "answered": self.answered, "median_ape": self.median, "mean_ape": self.mean,
            "p90_ape": self.p90, "bias": self.bias, "in_band_80": self.in_band, "refused": dict(self.refused),
        }  # fmt: skip


@frozen(eq=False)
class Judged:
    """One metric of one file: for each row its GPU, its group, what was measured, and the answer."""

    file: str
    metric: str
    gpus: Texts
    groups: Texts
    measured: Floats
    answer: Answer

    def __len__(self) -> int:
        return len(self.measured)

    def where(self, mask: Mask) -> Judged:
        """The rows that ``mask`` picks."""
        picked = self.gpus[mask], self.groups[mask], self.measured[mask], self.answer.where(mask)
        return Judged(self.file, self.metric, *picked)

    def by_group(self) -> Iterator[tuple[str, str, Judged]]:
        """GPU, group, and their rows; in the order of the alphabet."""
        for gpu in np.unique(self.gpus):
            mine = self.where(self.gpus == gpu)
            for group in np.unique(mine.groups):
                yield str(gpu), str(group), mine.where(mine.groups == group)

    def score(self) -> Score:
        """The errors of all rows together."""
        ok = self.answer.answered
        reasons, counts = np.unique(self.answer.reason[~ok], return_counts=True)
        refused = tuple((str(r), int(c)) for r, c in zip(reasons, counts, strict=True))
        if not ok.any():
            return Score(
                n=len(self), answered=0, median=None, mean=None, p90=None, bias=None, in_band=None, refused=refused
            )
        measured, answer = self.measured[ok], self.answer.where(ok)
        ratio = answer.predicted / measured
        off = np.abs(ratio - 1)
        return Score(
            n=len(self), answered=int(ok.sum()), median=float(np.median(off)), mean=float(off.mean()),
            p90=float(np.quantile(off, 0.9)), bias=float(np.median(ratio) - 1), in_band=_inside(measured, answer),
            refused=refused,
        )  # fmt: skip


def judge(file: str, metric: str, gpus: Texts, groups: Texts, measured: Floats, answer: Answer) -> Judged:
    """Predictions beside measurements; rows without a measurement above zero are refused, whatever was predicted."""
    reason = answer.reason.astype(object)
    found = np.isfinite(measured)
    reason[~found] = UNMEASURED
    reason[found & (measured <= 0)] = NOT_POSITIVE
    reason[found & (measured > 0) & ~_sane(measured)] = NOT_SANE
    lost = (reason == "") & ~_sane(answer.predicted)
    reason[lost] = "the form gives no number"
    kept = Answer(answer.predicted, answer.low, answer.high, reason.astype(np.str_))
    return Judged(file, metric, gpus, groups, measured=measured, answer=kept)


def _sane(values: Floats) -> Mask:
    return np.asarray((values >= SANE[0]) & (values <= SANE[1]), dtype=np.bool_)


def _inside(measured: Floats, answer: Answer) -> float | None:
    banded = np.isfinite(answer.low) & np.isfinite(answer.high)
    if not banded.any():
        return None
    inside = (measured >= answer.low) & (measured <= answer.high)
    return float(inside[banded].mean())
