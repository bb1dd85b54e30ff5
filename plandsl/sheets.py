"""Tables of arrays as CSV or, with an extra, Parquet files; whole or not at all."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np

from plandsl.diagnostics import Diagnostic, PlanError, visible
from plandsl.files import write_whole


class CsvSheet:
    """Writes rows as CSV, with a heading."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = io.TextIOWrapper(file, encoding="utf-8", newline="")
        self.writer: Any = None

    def __call__(self, columns: Mapping[str, Any]) -> None:
        """Write rows: an array for each column."""
        if self.writer is None:
            self.writer = csv.writer(self.file, lineterminator="\n")
            self.writer.writerow(columns)
        self.writer.writerows(zip(*(_blank(c) for c in columns.values()), strict=True))

    def close(self) -> None:
        """End the file."""
        self.file.detach()


class ParquetSheet:
    """Writes rows as Parquet, a row group for each call."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.arrow = file, _parquet()
        self.writer: Any = None

    def __call__(self, columns: Mapping[str, Any]) -> None:
        """Write rows: an array for each column."""
        made = self.arrow.table(dict(columns))
        if self.writer is None:
            self.writer = self.arrow.parquet.ParquetWriter(self.file, made.schema)
        self.writer.write_table(made)

    def close(self) -> None:
        """End the file."""
        if self.writer is not None:
            self.writer.close()


def check_sheet_path(path: Path) -> None:
    """Raise `PlanError` where ``path`` has no ending of a sheet (E400), or the library for it is missing (E410)."""
    if path.suffix not in SHEETS:
        raise PlanError([Diagnostic("E400", f"`{path.name}` ends neither in .csv nor in .parquet")])
    if path.suffix == ".parquet":
        _parquet()


def _parquet() -> Any:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        hint = "pip install 'plandsl[parquet]', or write a .csv"
        raise PlanError([Diagnostic("E410", "writing Parquet needs pyarrow", hint=hint)]) from error
    return pyarrow


Sheet = CsvSheet | ParquetSheet
"""Takes rows as they come. The first call makes the heading, with rows or without."""

SHEETS: dict[str, Callable[[BinaryIO], Sheet]] = {".csv": CsvSheet, ".parquet": ParquetSheet}
"""Sheets by the ending of the file name."""


@contextmanager
def open_sheet(path: Path) -> Iterator[Sheet]:
    """A sheet that writes to ``path``. The file appears when the block ends without an error, and not before.

    Raises `PlanError` where it cannot be written, or has another ending than `SHEETS`.
    """
    check_sheet_path(path)
    with write_whole(path) as file, closing(SHEETS[path.suffix](file)) as sheet:
        yield sheet


FORMULA = ("=", "+", "-", "@")
"""How a text begins that a spreadsheet takes for a formula."""

NUMBER = re.compile(r"[+-]?[\d.]+(e[+-]?\d+)?")
"""A text that begins so and is none."""


def _plain(text: Any) -> Any:
    """A text that is no formula: one starts with ``'``. Characters that steer a terminal are written as codes."""
    if not isinstance(text, str):
        return text
    text = visible(text)
    return f"'{text}" if text.startswith(FORMULA) and not NUMBER.fullmatch(text) else text


def _blank(column: Any) -> list[Any]:
    """Cells of a column, empty where a value is not finite, such as a cost without a price."""
    if column.dtype.kind in "UO":
        cells = column.tolist()
        shown = {text: _plain(text) for text in set(cells)}  # most columns have few
        return [shown[text] for text in cells]
    if column.dtype.kind != "f" or np.isfinite(column).all():
        return cast("list[Any]", column.tolist())
    return [x if math.isfinite(x) else "" for x in column.tolist()]
