"""Rows of a CSV file or of JSON lines, with the place of each cell; wrong rows become diagnostics."""

from __future__ import annotations

import csv
import json
import math
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from plandsl import limits
from plandsl.diagnostics import Diagnostic, Label, Span, clip
from plandsl.files import TooLong, read_lines
from plandsl.measurements import repeated
from plandsl.spec.traffic import FileSpec

LATEST = 1e12
"""Largest time in a row, in seconds."""


class BadRow(Exception):
    """A row that cannot be read: why, and the columns of its line where that is, from 1; the last is one past it."""

    def __init__(self, why: str, columns: tuple[int, int] = (1, 2), hint: str = "") -> None:
        self.why, self.columns, self.hint = why, columns, hint
        super().__init__(why)


# ---- a row


class Cells:
    """One row: its cells by column name, and where they stand in the line."""

    def __init__(self, cells: dict[str, Any], line: str, json_line: bool) -> None:
        self.cells, self.line, self.json = cells, line, json_line

    def columns(self, name: str) -> tuple[int, int]:
        """The columns of the line in which the cell stands."""
        if self.json:
            at = self.line.find(f'"{name}"')
            return (at + 1, at + len(name) + 3) if at >= 0 else (1, 2)
        if '"' in self.line or name not in self.cells:
            return 1, len(self.line) + 1
        at = list(self.cells).index(name)
        parts = self.line.split(",")
        start = sum(len(part) + 1 for part in parts[:at]) + 1
        return start, start + max(len(parts[at]), 1)

    def get(self, name: str) -> Any:
        """A cell. Raises `BadRow` if there is none."""
        if name in self.cells and self.cells[name] != "":
            return self.cells[name]
        raise BadRow(f"the row has no `{name}`", self.columns(name))

    def count(self, name: str, least: int, most: int | None = None) -> int:
        """A whole number from ``least`` to ``most`` (the largest dimension)."""
        most = limits.MAX_DIMENSION if most is None else most
        cell = self.get(name)
        number = self._number(cell) if isinstance(cell, str) else cell
        if type(number) is int and least <= number <= most:
            return number
        if isinstance(number, float) and float(number).is_integer():
            number = int(number)
        if isinstance(number, int) and not isinstance(number, bool) and least <= number <= most:
            return number
        why = f"`{name}` is `{clip(_text(cell))}`, not a whole number from {least:,} to {most:,}"
        raise BadRow(why, self.columns(name))

    def seconds(self, name: str, unit: float) -> float:
        """A time in seconds."""
        cell = self.get(name)
        number = self._number(cell) if isinstance(cell, str) else cell
        if isinstance(number, int | float) and not isinstance(number, bool) and 0 <= number <= LATEST / unit:
            return number * unit
        raise BadRow(f"`{name}` is `{clip(_text(cell))}`, not a time from 0 to {LATEST / unit:g}", self.columns(name))

    @staticmethod
    def _number(cell: str) -> float | int:
        if len(cell) > 40:
            return math.nan
        try:
            return int(cell) if cell.strip().isdecimal() else float(cell)
        except ValueError:
            return math.nan


def _text(cell: Any) -> str:
    return cell if isinstance(cell, str) else json.dumps(cell)


_DATE = re.compile(r"(\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?(Z|[+-]\d\d:\d\d)?", re.ASCII)
_START = datetime(1970, 1, 1, tzinfo=UTC)


@lru_cache(maxsize=16)
def _seconds(moment: str, zone: str) -> int:
    """Whole seconds since 1970. Neighbouring rows often share their second. Raises ValueError."""
    since = datetime.fromisoformat(moment + zone.replace("Z", "+00:00")) - _START
    return since.days * 86_400 + since.seconds


def nanoseconds(row: Cells, name: str) -> int:
    """A date and time, in nanoseconds since 1970; without an offset it is in UTC."""
    text = row.get(name)
    found = _DATE.fullmatch(text.strip()) if isinstance(text, str) else None
    try:
        if found is not None:
            return _seconds(found[1], found[3] or "Z") * 10**9 + int((found[2] or "").ljust(9, "0"))
    except ValueError:
        pass
    hint = "such as 2023-11-16 18:17:03.9799600"
    raise BadRow(f"`{name}` is `{clip(_text(text))}`, not a date and time", row.columns(name), hint)


# ---- files


class Reading:
    """Reads the rows of one file, and collects findings."""

    def __init__(self, file: FileSpec) -> None:
        self.file = file
        self.found: list[Diagnostic] = []
        self.wrong = 0
        self.header: list[str] | None = None
        self.json: bool | None = None  # whether each line is a JSON object; None before the first line

    def fail(self, line: int, wrong: BadRow) -> None:
        """Record a finding in a line of the file."""
        self.wrong += 1
        if self.wrong <= limits.MAX_ERRORS:
            start, end = wrong.columns
            span = Span(self.file.shown, line, start, line, end)
            labels = () if self.file.span is None else (Label(self.file.span, "this file is read here"),)
            self.found.append(Diagnostic("E452", wrong.why, span, hint=wrong.hint, labels=labels))

    def finish(self) -> tuple[Diagnostic, ...]:
        """All findings; the last one counts those that are not shown."""
        if self.wrong > limits.MAX_ERRORS:
            why = f"{self.wrong - limits.MAX_ERRORS:,} further rows of {self.file.shown} are wrong"
            self.found.append(Diagnostic("E452", why, self.file.span, hint="is this the right format?"))
        return tuple(self.found)

    def rows(self) -> Iterator[tuple[int, Cells]]:
        """The rows of the file, by line; of a CSV file those after the header, which is then in ``header``."""
        number = 0
        try:
            for number, data in read_lines(self.file.path, limits.MAX_TRACE_BYTES, limits.MAX_TRACE_LINE):
                try:
                    row = self._row(data, number)
                except BadRow as wrong:
                    self.fail(number, wrong)
                    if self.json is None or (not self.json and self.header is None):  # no row can be understood
                        return
                else:
                    if row is not None:
                        yield number, row
        except TooLong as error:
            most, what = limits.MAX_TRACE_LINE, f"the line is longer than {limits.MAX_TRACE_LINE:,} bytes"
            if error.line is None:
                most, what = limits.MAX_TRACE_BYTES, f"the file is larger than {limits.MAX_TRACE_BYTES:,} bytes"
            hint = most.hint("split the file, or add `requests = N`: then only the first N rows are read")
            self.fail(error.line or number + 1, BadRow(what, hint=hint))
        except OSError as error:
            self.fail(1, BadRow(f"cannot read this file: {error.strerror}"))

    def _row(self, data: bytes, number: int) -> Cells | None:
        try:
            line = data.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise BadRow("the line is not UTF-8 text", (error.start + 1, error.end + 1)) from None
        if not line.strip():
            return None
        if self.json is None:
            self.json = line.lstrip()[0] in "{["
        if self.json:
            return self._json_row(line)
        cells = _split(line)
        if self.header is None:
            if (twice := repeated(cells)) is not None:
                raise BadRow(f"the column `{clip(twice)}` is named twice", (1, len(line) + 1), "rename one of the two")
            self.header = cells
            return None
        if len(cells) != len(self.header):
            why = f"the row has {len(cells)} cells, but the header has {len(self.header)}"
            raise BadRow(why, (1, len(line) + 1))
        return Cells(dict(zip(self.header, cells, strict=True)), line, False)

    def _json_row(self, line: str) -> Cells:
        try:
            value = json.loads(line)
        except json.JSONDecodeError as error:
            raise BadRow(f"the line is no JSON: {error.msg}", (error.colno, error.colno + 1)) from None
        except RecursionError:
            raise BadRow("the line is no JSON: nested too deeply") from None
        except ValueError:  # a whole number of thousands of digits
            raise BadRow("the line has a number that is too long") from None
        if isinstance(value, dict):
            return Cells(value, line, True)
        hint = "a trace in JSON has one object in each line; ShareGPT's own file has texts: count the tokens of each "
        hint += "prompt and answer, and write `input_length` and `output_length`"
        raise BadRow("the line is no JSON object", (1, 2), hint)


def _split(line: str) -> list[str]:
    if '"' not in line:
        return [cell.strip() for cell in line.split(",")]
    try:
        return [cell.strip() for cell in next(csv.reader([line], strict=True))]
    except (csv.Error, StopIteration) as error:
        raise BadRow(f"the line is no CSV: {error}", (1, len(line) + 1)) from None
