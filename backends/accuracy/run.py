"""From a folder of measurements to errors: read each known file, predict its rows, compare."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from attrs import frozen

from plandsl.backends.accuracy import serving
from plandsl.backends.accuracy.answer import Answer, Mask, Texts
from plandsl.backends.accuracy.kernels import Shelf, predict
from plandsl.backends.accuracy.score import Judged, judge
from plandsl.backends.calibrate.declare import tables_of
from plandsl.backends.calibrate.kind import AnyKind
from plandsl.backends.calibrate.kinds import KINDS
from plandsl.backends.calibrate.table import Lenient, Table, read_table
from plandsl.diagnostics import Diagnostic, PlanError
from plandsl.files import is_there
from plandsl.measurements import FILE, MEASURED
from plandsl.progress import Tick, silent

Deployments = Callable[[Table, str], dict[str, Answer]]
"""Predicts the rows of a file of whole deployments, named without its ending, by metric."""

SERVING = {f"{file}.csv": metrics for file, metrics in serving.METRICS.items()}
"""Files of whole deployments, and what of them is predicted."""


@frozen(eq=False)
class Evaluation:
    """Every metric of every known file, the files that were left alone, and notes about wrong cells (N450)."""

    judged: tuple[Judged, ...]
    skipped: tuple[str, ...]
    notes: tuple[Diagnostic, ...] = ()

    def as_json(self) -> dict[str, object]:
        """The machine form: a row for each group, and the totals of each file."""
        rows = [
            {"file": j.file, "gpu": gpu, "group": group, "metric": j.metric, **some.score().as_json()}
            for j in self.judged
            for gpu, group, some in j.by_group()
        ]
        totals = [{"file": j.file, "metric": j.metric, **j.score().as_json()} for j in self.judged]
        notes = [note.as_json() for note in self.notes]
        return {"rows": rows, "totals": totals, "skipped": list(self.skipped), "notes": notes}


def evaluate(place: Path, shelf: Shelf, deployments: Deployments, tick: Tick = silent) -> Evaluation:
    """Compare predictions with every row of a file, or of the known files of a folder.

    A file may hold rows of several tables, as `planc measure` writes them. ``tick`` hears how many tables are done, of
    how many.

    Raises `PlanError` (E450) where there is no known file, and on files that are no tables.
    """
    known = list(dict.fromkeys([*(kind.file for kind in KINDS), *SERVING]))
    found = [path for path in (sorted(place.glob("*.csv")) if os.path.isdir(place) else [place]) if is_there(path)]
    files = [(name, path) for path in found for name in sorted(_tables(path, known), key=known.index)]
    if not files:
        hint = f"files are known by name: {', '.join(known)}; or by a column `{FILE}` that has such names"
        if place.suffix in (".json", ".jsonl"):
            hint = f"the result of a benchmark is for `planc compare PLAN {place}`"
        raise PlanError([Diagnostic("E450", f"no measurements in {place}", hint=hint)])
    out: list[Judged] = []
    notes: list[Diagnostic] = []
    for done, (name, path) in enumerate(sorted(files, key=lambda one: known.index(one[0])), 1):
        out += judged(name, path, shelf, deployments, notes)
        tick(done, len(files))
    read_ = {path for _, path in files}
    return Evaluation(tuple(out), tuple(path.name for path in found if path not in read_), tuple(notes))


def _tables(path: Path, known: Sequence[str]) -> set[str]:
    """The known tables that a file holds: the table of the file's name, or each table that its column `FILE` names."""
    if path.name in known:
        return {path.name}
    try:
        return (tables_of(path) or set()) & set(known)
    except PlanError:  # another file of the folder, which is no table
        return set()


def judged(
    name: str, path: Path, shelf: Shelf, deployments: Deployments, notes: list[Diagnostic] | None = None
) -> Iterator[Judged]:
    """Every metric of the table ``name`` of a file; ``notes`` get one about its wrong cells."""
    table, stem = read(path, name, notes), name.removesuffix(".csv")
    if not len(table):
        return
    if name in SERVING:
        yield from _deployments(stem, table, deployments)
        return
    for whole, counted in compare(stem, table, usable(name, path, table), shelf):
        yield whole.where(counted)


def compare(file: str, table: Table, kinds: Sequence[AnyKind], shelf: Shelf) -> Iterator[tuple[Judged, Mask]]:
    """Every metric of one file of kernels: all its rows, and those that count for the metric."""
    groups, gpus = kernel_groups(table), table.texts("gpu")
    answers = predict(table, kinds, shelf)
    anything = np.any([np.isfinite(p.measured) for p in answers.values()], axis=0)
    for name, found in answers.items():
        # a row that was measured in another way is no gap in this one
        of = found.counted & (np.isfinite(found.measured) | ~anything)
        yield judge(file, name, gpus, groups, measured=found.measured, answer=found.answer), of


def read(path: Path, name: str = "", notes: list[Diagnostic] | None = None) -> Table:
    """A file, or its rows of the table ``name`` if it holds several tables.

    A cell that is no number of its column costs its row and no other; ``notes`` get one that names them (N450).
    """
    lenient = Lenient(_measured)
    table = read_table(path, ("gpu",), part=name, lenient=lenient)
    if lenient.told and notes is not None:
        first, *more = lenient.told
        others = "" if not more else f"; {len(more):,} more cells are wrong"
        notes.append(
            Diagnostic("N450", f"{path}, {first}{others}", hint="such a row is counted, and has no prediction")
        )
    return table


def usable(name: str, path: Path, table: Table) -> list[AnyKind]:
    """The kinds of table ``name`` whose columns the file has. Raises `PlanError` where there is none."""
    kinds = [kind for kind in KINDS if kind.file == name]
    found = [kind for kind in kinds if set(kind.columns) <= set(table.columns)]
    if not found:
        read_table(path, kinds[0].columns)
    return found


def kernel_groups(table: Table) -> Texts:
    """The dtype of each row."""
    for name in ("dtype", "kv_dtype"):
        if name in table.columns:
            return np.where(table.texts(name) == "", "unstated", table.texts(name))
    return np.full(len(table), "any")


def _deployments(file: str, table: Table, deployments: Deployments) -> Iterator[Judged]:
    names = [name for name in SERVING[f"{file}.csv"] if name in table.columns]
    if not names:
        why = f"{file}.csv has none of the columns {', '.join(SERVING[f'{file}.csv'])}"
        raise PlanError([Diagnostic("E450", why)])
    with np.errstate(all="ignore"):
        answers = deployments(table, file)
    groups = serving.group(table)
    for name in names:
        whole = judge(file, name, table.texts("gpu"), groups, measured=table.numbers(name), answer=answers[name])
        yield whole.where(np.isfinite(whole.measured))


def _measured(column: str, cell: str) -> float:
    """The number in a wrong cell of a measured column, for `judge` to refuse; nan for that of any other column."""
    try:
        value = float(cell) if column in MEASURED else np.nan
    except ValueError:
        return np.nan
    return value if np.isfinite(value) else np.nan
