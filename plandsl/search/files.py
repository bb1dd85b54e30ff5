"""Write every configuration of a search to a CSV or, with an extra, Parquet file; whole or not at all."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np

from plandsl.diagnostics import Diagnostic, PlanError
from plandsl.files import write_whole
from plandsl.search.run import Found, Table
from plandsl.search.values import FIELDS, METRICS
from plandsl.spec.search import Choice


class CsvSheet:
    """Writes rows as CSV, with a heading."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = io.TextIOWrapper(file, encoding="utf-8", newline="")
        self.writer: Any = None

    def __call__(self, found: Found, table: Table) -> None:
        """Write the rows of one job."""
        columns = _columns(found, table)
        if self.writer is None:
            self.writer = csv.writer(self.file, lineterminator="\n")
            self.writer.writerow(columns)
        self.writer.writerows(zip(*(_blank(c) for c in columns.values()), strict=True))

    def close(self) -> None:
        """End the file."""
        self.file.detach()


class ParquetSheet:
    """Writes rows as Parquet, a row group for each job."""

    def __init__(self, file: BinaryIO) -> None:
        try:
            import pyarrow
            import pyarrow.parquet
        except ImportError as error:
            hint = "pip install 'plandsl[parquet]', or write a .csv"
            raise PlanError([Diagnostic("E410", "writing Parquet needs pyarrow", hint=hint)]) from error
        self.file, self.arrow = file, pyarrow
        self.writer: Any = None

    def __call__(self, found: Found, table: Table) -> None:
        """Write the rows of one job."""
        made = self.arrow.table(_columns(found, table))
        if self.writer is None:
            self.writer = self.arrow.parquet.ParquetWriter(self.file, made.schema)
        self.writer.write_table(made)

    def close(self) -> None:
        """End the file."""
        if self.writer is not None:
            self.writer.close()


Sheet = CsvSheet | ParquetSheet
"""Takes the rows of a search as they come. A row has its number, the choices, the metrics, and ``why`` it is out.

The first call makes the heading, with rows or without.
"""

SHEETS: dict[str, Callable[[BinaryIO], Sheet]] = {".csv": CsvSheet, ".parquet": ParquetSheet}
"""Sheets by the ending of the file name."""


@contextmanager
def open_sheet(path: Path) -> Iterator[Sheet]:
    """A sheet that writes to ``path``. The file appears when the block ends without an error, and not before.

    Raises `PlanError` where it cannot be written, or has another ending than `SHEETS`.
    """
    if path.suffix not in SHEETS:
        raise PlanError([Diagnostic("E400", f"`{path.name}` ends neither in .csv nor in .parquet")])
    with write_whole(path) as file, closing(SHEETS[path.suffix](file)) as sheet:
        yield sheet


def _blank(column: Any) -> list[Any]:
    """Cells of a column, empty where a value is not finite, such as a cost without a price."""
    if column.dtype.kind != "f" or np.isfinite(column).all():
        return cast("list[Any]", column.tolist())
    return [x if math.isfinite(x) else "" for x in column.tolist()]


def _columns(found: Found, table: Table) -> dict[str, Any]:
    """Columns by name, each an array: number, choices, metrics, ``why``."""
    numbers, grid = table.rows.numbers, found.space.grid
    out: dict[str, Any] = {"configuration": numbers}
    place = numbers % grid.size
    places: dict[str, Any] = {}
    for choice, size in zip(reversed(grid.choices), reversed(grid.shape), strict=True):
        place, i = np.divmod(place, size)
        places[choice.path] = _values(choice)[i]
    combination = {} if not len(numbers) else {c.path: s.value for c, s in found.combination(int(numbers[0]))}
    for choice in found.search.choices:
        known = _values(choice)
        out[choice.name] = places.get(choice.path, np.full(len(numbers), combination.get(choice.path, 0), known.dtype))
    out |= {FIELDS[name]: table.rows.column(name) for name in METRICS}
    out["why"] = table.why.astype(str)
    return out


def _values(choice: Choice) -> Any:
    """The values of a field as an array of whole numbers, numbers or words: one type for all plans of the search."""
    values = np.array([s.value for s in choice.settings])
    whole = values.dtype.kind != "U" and (values == np.floor(values)).all()
    return values.astype(np.int64) if whole else values
