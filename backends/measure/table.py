"""The file of measured rows: all tables in one CSV file, which is whole after every row."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from plandsl.backends.measure.cases import Case
from plandsl.diagnostics import Diagnostic, PlanError, clip
from plandsl.files import write_file
from plandsl.measurements import FILE, NUMBERS, Unfit, read_number, read_rows

POINT = (
    "metric", "config", "op", "dtype", "kv_dtype", "m", "n", "k", "batch", "seq_q", "seq_kv", "kv_len", "n_heads",
    "n_kv_heads", "head_dim", "window", "causal", "rows", "cols", "n_ranks", "n_nodes", "bytes", "cuda_graph",
)  # fmt: skip
"""Columns that say what is measured, of all tables."""

MEASURED = ("time_s", "median_s", "p90_s", "repetitions", "value", "unit")
"""Columns of a result. ``time_s`` is the least of the repetitions, beside their median and 90th percentile."""

ABOUT = ("kernel", "backend", "framework", "device", "source")

HEADER = (FILE, "gpu", *POINT, *MEASURED, *ABOUT)

Cells = dict[str, str]
Key = tuple[str, frozenset[tuple[str, str]]]


class Rows:
    """The rows of a file, and those that are added to it.

    ``library`` is what measures, with its version.

    Raises `PlanError` on a file that holds anything else (E552), rows of another GPU or device (E553), or rows of
    another library (E541).
    """

    def __init__(self, path: Path, gpu: str, device: str, library: str = "") -> None:
        self.path, self.gpu, self.device = path, gpu, device
        self.library = library.partition(" ")[0]
        self.rows: list[Cells] = []
        if os.path.lexists(path):
            self.rows = _read(path)
            self._check_machine()
        self.found = {_key(row) for row in self.rows}
        self.kept = len(self.rows)
        write_file(path, _text(self.rows))  # a path that cannot be written is told before anything is measured

    def _check_machine(self) -> None:
        for name, own in (("gpu", self.gpu), ("device", self.device)):
            others = {row[name] for row in self.rows} - {own}
            if others:
                why = f"{self.path} has rows of the {name} `{clip(min(others))}`, and this one is `{own}`"
                hint = f"--gpu {min(others)} goes on with it" if name == "gpu" else "name another file with -o"
                raise PlanError([Diagnostic("E553", why, hint=hint)])
        others = {row["framework"].partition(" ")[0] for row in self.rows} - {self.library, ""}
        if others and self.library:
            why = f"{self.path} has rows that {clip(min(others))} measured, and {self.library} measures now"
            raise PlanError([Diagnostic("E541", why, hint=f"--with {clip(min(others))}, or another file with -o")])

    def has(self, case: Case) -> bool:
        """Whether a row of ``case`` is there."""
        return case.key in self.found

    def add(self, case: Case, result: Mapping[str, object]) -> None:
        """Write the file with one row more; it replaces the old one as a whole."""
        row = dict.fromkeys(HEADER, "") | dict(case.cells) | {k: str(v) for k, v in result.items()}
        row |= {FILE: case.file, "gpu": self.gpu, "device": self.device, "source": "planc measure"}
        write_file(self.path, _text([*self.rows, row]))
        self.rows.append(row)
        self.found.add(case.key)

    def results(self, file: str) -> list[Cells]:
        """The rows of a table."""
        return [row for row in self.rows if row[FILE] == file]


def _key(row: Cells) -> Key:
    return row[FILE], frozenset((name, row[name]) for name in POINT if row[name])


def _text(rows: Sequence[Cells]) -> str:
    out = io.StringIO()
    lines = csv.DictWriter(out, HEADER, lineterminator="\n")
    lines.writeheader()
    lines.writerows(rows)
    return out.getvalue()


def _read(path: Path) -> list[Cells]:
    hint = "name another file with -o, or remove this one"
    try:
        rows = [cells for _, cells in read_rows(path)]
    except OSError as error:
        raise PlanError([Diagnostic("E552", f"cannot read {path}: {error.strerror}", hint=hint)]) from error
    except Unfit as unfit:
        raise PlanError([Diagnostic("E552", f"{path} is no file of `planc measure`: {unfit}", hint=hint)]) from unfit
    if not rows:  # an empty file, as `mktemp` makes
        return []
    if tuple(rows[0]) != HEADER:
        why = f"{path} is no file of `planc measure`: it has other columns"
        raise PlanError([Diagnostic("E552", why, hint=hint)])
    found = [dict(zip(HEADER, row, strict=True)) for row in rows[1:]]
    for at, row in enumerate(found, 2):
        try:
            for name, cell in row.items():
                if cell and name in NUMBERS:
                    read_number(name, cell)
        except Unfit as unfit:
            why = f"row {at} of {path} cannot be kept: {unfit}"
            raise PlanError([Diagnostic("E552", why, hint=f"{unfit.hint}; {hint}")]) from unfit
    return found
