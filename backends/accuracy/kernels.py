"""Predictions of the files of kernels, each row by the constants that a calibration has for its set."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TypeVar

import numpy as np
from attrs import frozen
from numpy.typing import NDArray

from plandsl.backends.accuracy.answer import Answer, Floats, Mask, Texts
from plandsl.backends.calibrate.kind import AnyKind
from plandsl.backends.calibrate.table import WRONG, Table
from plandsl.spec.constants import FORMS, Band, FormConstants, missing
from plandsl.spec.hardware import CalibrationSpec, GpuSpec, LinkSpec

NO_GPU = "the catalog has no such GPU"
NO_UNITS = "the number of units of the GPU is not known"
NO_LINK = "the catalog has no node of this GPU"
NO_FORM = "no form answers such a row"
NO_CONSTANTS = "no calibration has constants for this"
NO_NUMBER = "the form gives no number"


def wrong_cell(column: str) -> str:
    """Why a row has no answer that has a wrong cell in a column."""
    return f"a wrong cell in `{column}`"


T = TypeVar("T")
Rows = NDArray[np.int64]
"""Where rows stand in the file."""

WRONG_ROW = (ArithmeticError, AssertionError, LookupError, TypeError, ValueError)
"""What a form raises on a row that is none: a dtype it never heard of, a size that is missing."""


@frozen
class Shelf:
    """Where a prediction takes its figures from: GPUs, links of their nodes, and their calibrations, best first."""

    gpu: Callable[[str], GpuSpec | None]
    link: Callable[[str], LinkSpec | None]
    calibrations: Callable[[str], Sequence[CalibrationSpec]]


@frozen(eq=False)
class Predicted:
    """Answers for one metric: the rows that count, what was measured, and the answer, all for every row of the file."""

    counted: Mask
    measured: Floats
    answer: Answer


class _Sheet:
    """An answer that is being filled in."""

    def __init__(self, measured: Floats) -> None:
        self.measured = measured
        self.predicted, self.low, self.high = (np.full(len(measured), np.nan) for _ in range(3))
        self.reason = np.full(len(measured), NO_FORM, dtype=object)

    def write(self, at: Rows, predicted: Floats, band: Band | None) -> None:
        """Answers for rows; what is no number stays refused."""
        good = np.isfinite(predicted) & (predicted > 0)
        self.reason[at[~good]] = NO_NUMBER
        at, predicted = at[good], predicted[good]
        ends = np.array([(np.nan, np.nan) if band is None else band.at(seconds) for seconds in predicted]).reshape(
            -1, 2
        )
        self.predicted[at], self.low[at], self.high[at] = predicted, predicted * ends[:, 0], predicted * ends[:, 1]
        self.reason[at] = ""


@frozen(eq=False)
class Group:
    """The rows of one GPU and one set, the links of the GPU's node added, and where they stand in the file."""

    key: str
    gpu: GpuSpec
    kind: AnyKind
    path: str
    at: Rows
    rows: Table


@frozen(eq=False)
class _Claim:
    """What a kind says of each row: whether it is its own, its set, and why there is none."""

    kind: AnyKind
    mine: Mask
    sets: Texts
    reason: Texts

    def where(self, mask: Mask) -> _Claim:
        return _Claim(self.kind, self.mine[mask], self.sets[mask], self.reason[mask])


def metrics(kinds: Sequence[AnyKind]) -> list[str]:
    """What the kinds of one file predict."""
    return list(dict.fromkeys(kind.metric for kind in kinds))


def predict(table: Table, kinds: Sequence[AnyKind], shelf: Shelf) -> dict[str, Predicted]:
    """Answers for a file by metric; ``kinds`` are those of the file.

    A row counts once for each metric that a kind claims it for; one that no kind claims counts for the first metric.
    """
    with np.errstate(all="ignore"):
        return _by_metric(table, kinds, shelf)


def _by_metric(table: Table, kinds: Sequence[AnyKind], shelf: Shelf) -> dict[str, Predicted]:
    claims = [_claim(kind, table) for kind in kinds]
    claimed = np.any([c.mine for c in claims], axis=0)
    out = {}
    for i, metric in enumerate(metrics(kinds)):
        of = [c for c in claims if c.kind.metric == metric]
        counted = np.any([c.mine for c in of], axis=0)
        sheet = _predict(table, of, metric, shelf)
        for column in filter(None, np.unique(table.texts(WRONG))):
            sheet.reason[table.texts(WRONG) == column] = wrong_cell(column)
        answer = Answer(sheet.predicted, sheet.low, sheet.high, sheet.reason.astype(np.str_))
        out[metric] = Predicted(counted | ~claimed if i == 0 else counted, sheet.measured, answer)
    return out


def grouped(table: Table, kinds: Sequence[AnyKind], shelf: Shelf) -> list[Group]:
    """All groups of a file that constants could answer."""
    with np.errstate(all="ignore"):
        return _groups(_Sheet(np.full(len(table), np.nan)), table, [_claim(kind, table) for kind in kinds], shelf)


def _claim(kind: AnyKind, table: Table) -> _Claim:
    try:
        return _Claim(kind, kind.where(table), kind.sets(table), kind.reason(table))
    except WRONG_ROW:
        nothing = np.full(len(table), "")
        why = np.full(len(table), NO_FORM)
        return _Claim(kind, np.ones(len(table), dtype=np.bool_), nothing, why)


def _predict(table: Table, claims: Sequence[_Claim], metric: str, shelf: Shelf) -> _Sheet:
    """Every calibration, best first, is asked for the rows that have no answer yet."""
    sheet = _Sheet(table.numbers(metric))
    groups = _groups(sheet, table, claims, shelf)
    for key in dict.fromkeys(g.key for g in groups):
        for calibration in shelf.calibrations(key):
            for group in groups:
                if group.key == key:
                    _answer(sheet, group, calibration)
    return sheet


def _groups(sheet: _Sheet, table: Table, claims: Sequence[_Claim], shelf: Shelf) -> list[Group]:
    """Groups that constants could answer, in the order of the kinds; the other rows are refused."""
    out: list[Group] = []
    keys = table.texts("gpu")
    for key in np.unique(keys):
        at = np.flatnonzero(keys == key)
        here = np.asarray(keys == key, dtype=np.bool_)
        gpu = shelf.gpu(str(key))
        if gpu is None or gpu.units is None:
            sheet.reason[at] = NO_GPU if gpu is None else NO_UNITS
            continue
        rows, link = table.where(here), shelf.link(str(key))
        ours: list[Group] = []
        for claim in reversed(claims):  # so that the reason which stands is the first kind's
            ours = [*_sets(sheet, rows, at, claim.where(here), key=str(key), gpu=gpu, link=link), *ours]
        out += ours
    return out


def _sets(
    sheet: _Sheet, table: Table, at: Rows, claim: _Claim, key: str, gpu: GpuSpec, link: LinkSpec | None
) -> Iterator[Group]:
    """Groups of one GPU and one kind; ``at`` is where the rows of the table stand in the file."""
    kind = claim.kind
    for path in np.unique(claim.sets[claim.mine]):
        of = claim.mine & (claim.sets == path)
        if not path or not kind.answers(gpu, str(path)):
            sheet.reason[at[of]] = claim.reason[of]
            continue
        if kind.linked is not None and link is None:
            sheet.reason[at[of]] = NO_LINK
            continue
        for part, rows in worked(table.where(of), partial(_linked, kind, link)):
            here = at[of][part]
            sheet.measured[here] = rows.numbers(kind.metric)  # a link may turn a published bandwidth into a time
            sheet.reason[here] = NO_CONSTANTS
            yield Group(key, gpu, kind, str(path), at=here, rows=rows)


def _linked(kind: AnyKind, link: LinkSpec | None, rows: Table) -> Table:
    return rows if kind.linked is None or link is None else kind.linked(rows, link)


def _answer(sheet: _Sheet, group: Group, calibration: CalibrationSpec) -> None:
    """What a calibration knows of the rows of a group that have no answer yet."""
    for path in (group.path, *group.kind.instead(group.path)):
        waiting = np.asarray(sheet.reason[group.at] != "", dtype=np.bool_)
        section = calibration.section(path) if waiting.any() else {}
        form = FORMS[path.partition(".")[0]]
        if missing(form, section):  # it has no such section, or one that was fitted to another form
            continue
        constants = calibration.constants(form, path)
        assert constants is not None, "the section is there"
        predicted = _seconds(group.kind, constants, group.gpu, group.rows.where(waiting))
        sheet.write(group.at[waiting], predicted, constants.band)


def _seconds(kind: AnyKind, constants: FormConstants, gpu: GpuSpec, rows: Table) -> Floats:
    """What the form says, nan for the rows it fails on."""
    out = np.full(len(rows), np.nan)
    for at, found in worked(rows, lambda some: kind.seconds(constants, gpu, some)):
        out[at] = found
    return out


def worked(rows: Table, call: Callable[[Table], T]) -> list[tuple[Rows, T]]:
    """What ``call`` makes of rows, and of which.

    Where it fails the rows are halved until those it fails on are left out: one wrong row costs no other.
    """
    try:
        return [(np.arange(len(rows)), call(rows))]
    except WRONG_ROW:
        if len(rows) < 2:
            return []
    half = len(rows) // 2
    first = np.arange(len(rows)) < half
    rest = [(at + half, found) for at, found in worked(rows.where(~first), call)]
    return [*worked(rows.where(first), call), *rest]
