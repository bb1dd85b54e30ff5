"""Measurements as columns: reads CSV files of the documented schema into numpy arrays."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
from attrs import frozen
from numpy.typing import NDArray

from plandsl.diagnostics import Diagnostic, PlanError
from plandsl.measurements import AT_MOST, FILE, NUMBERS, Unfit, read_number, read_rows

Column = NDArray[np.float64] | NDArray[np.str_]


@frozen
class Table:
    """Columns of equal length: numbers where a measurement has numbers (blank is nan), else text."""

    columns: dict[str, Column]

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()))) if self.columns else 0

    def __getitem__(self, name: str) -> Column:
        return self.columns[name]

    def numbers(self, name: str, default: float = np.nan) -> NDArray[np.float64]:
        """A column as numbers; ``default`` where the table lacks it or the cell is blank."""
        if name not in self.columns or self.columns[name].dtype.kind != "f":
            return np.full(len(self), default)
        values = self.columns[name].astype(np.float64)
        return np.where(np.isnan(values), default, values)

    def texts(self, name: str) -> NDArray[np.str_]:
        """A column as text; empty where the table lacks it."""
        if name not in self.columns:
            return np.full(len(self), "")
        return self.columns[name].astype(np.str_)

    def where(self, mask: NDArray[np.bool_]) -> Table:
        """The rows that ``mask`` picks."""
        return Table({name: column[mask] for name, column in self.columns.items()})

    def thinned(self, most: int) -> Table:
        """At most ``most`` rows, picked as by lot, the same ones each time."""
        if len(self) <= most:
            return self
        keep = np.zeros(len(self), dtype=np.bool_)
        keep[np.random.default_rng(1).permutation(len(self))[:most]] = True
        return self.where(keep)


def joined(tables: Sequence[Table]) -> Table:
    """The rows of all ``tables``. Where a table lacks a column, its rows have blanks there."""
    names = dict.fromkeys(name for table in tables for name in table.columns)
    return Table({name: _joined_column(tables, name) for name in names})


def _joined_column(tables: Sequence[Table], name: str) -> Column:
    if name in NUMBERS:
        return np.concatenate([table.numbers(name) for table in tables])
    return np.concatenate([table.texts(name) for table in tables])


WRONG = "(wrong)"
"""A column that is added where a wrong cell costs its row alone: the column of the first such cell, or nothing."""


class Lenient:
    """Wrong cells of a file that does not fail for them: each is told, and costs its row.

    ``instead`` gives a number that stands in the place of a wrong cell of a column, nan for none. Where it gives one,
    the row stays as it is.
    """

    def __init__(self, instead: Callable[[str, str], float]) -> None:
        self.instead = instead
        self.found: list[tuple[int, str]] = []
        self.rows: dict[int, str] = {}

    def take(self, column: str, cell: str, row: int, why: str) -> float:
        """The number in the place of a wrong cell in a row."""
        self.found.append((row, why))
        number = self.instead(column, cell)
        if np.isnan(number):
            self.rows.setdefault(row, column)
        return number

    @property
    def told(self) -> list[str]:
        """What is wrong with which row, in the order of the rows."""
        return [f"row {row}: {why}" for row, why in sorted(self.found)]

    def marked(self, rows: Sequence[int]) -> dict[str, Column]:
        """The column `WRONG` for the rows of these numbers, if any of them is wrong."""
        return {WRONG: np.array([self.rows.get(row, "") for row in rows], dtype=np.str_)} if self.rows else {}


def read_table(
    path: Path,
    needed: tuple[str, ...] = (),
    blank: tuple[str, ...] = (),
    part: str = "",
    lenient: Lenient | None = None,
) -> Table:
    """Read one CSV file, or of one that holds several tables (`FILE`) the rows of the table ``part``.

    ``needed`` columns must be there, and hold a number in every row where they hold numbers, those of ``blank`` apart.
    ``lenient`` takes numbers that are none, or that lie out of range.

    Raises `PlanError` (E450), with row and column, on what is no table, and on such numbers without ``lenient``.
    """
    try:
        header, rows = _rows(path, needed)
        if part and FILE in header:
            at = header.index(FILE)
            rows = [(number, cells) for number, cells in rows if cells[at] == part]
        filled = set(needed).difference(blank)
        columns = {name: _column(name, [(at, row[i]) for at, row in rows], name in filled, lenient)
                   for i, name in enumerate(header)}  # fmt: skip
        _check_pairs(Table({name: columns[name] for name in needed}), [at for at, _ in rows])
        return Table(columns if lenient is None else columns | lenient.marked([at for at, _ in rows]))
    except OSError as error:
        raise PlanError([Diagnostic("E450", f"cannot read {path}: {error.strerror}")]) from error
    except Unfit as unfit:
        raise PlanError([Diagnostic("E450", f"{path} cannot be used: {unfit}", hint=unfit.hint)]) from unfit


def _rows(path: Path, needed: tuple[str, ...]) -> tuple[list[str], list[tuple[int, list[str]]]]:
    lines = list(read_rows(path))
    if not lines:
        raise Unfit("it is empty: it has no header")
    (_, header), *rows = lines
    if missing := [name for name in needed if name not in header]:
        raise Unfit(f"it has no column {', '.join(missing)}", f"its columns are {', '.join(header)}")
    return header, rows


def _column(name: str, cells: Iterable[tuple[int, str]], filled: bool, lenient: Lenient | None) -> Column:
    if name not in NUMBERS:
        return np.array([cell for _, cell in cells], dtype=np.str_)
    values = []
    for at, cell in cells:
        try:
            values.append(read_number(name, cell) if cell or filled else np.nan)
        except Unfit as unfit:
            if lenient is None:
                raise Unfit(f"row {at}: {unfit}", unfit.hint) from None
            values.append(lenient.take(name, cell, at, f"{unfit}, and {unfit.hint}"))
    return np.array(values, dtype=np.float64)


def _check_pairs(table: Table, rows: list[int]) -> None:
    """Raise `Unfit` where one number of a row exceeds another that bounds it; ``rows`` are the rows' numbers."""
    for less, more in AT_MOST:
        wrong = np.flatnonzero(table.numbers(less) > table.numbers(more))
        for i in wrong[:1]:
            values = f"`{less}` is {table.numbers(less)[i]:g}, and `{more}` {table.numbers(more)[i]:g}"
            raise Unfit(f"row {rows[i]}: {values}", f"`{less}` is at most `{more}`")
