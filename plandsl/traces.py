"""Traces: files of recorded requests, read line by line without losing a row silently.

    format     file        time of a request                 tokens                             in addition
    azure      CSV         TIMESTAMP, a date and time        ContextTokens, GeneratedTokens
    mooncake   JSON lines  timestamp, milliseconds           input_length, output_length        hash_ids, of 512 tokens
    bailian    JSON lines  timestamp, seconds                input_length, output_length        hash_ids, of 16 tokens;
                                                                                                chat_id, parent_chat_id
    burstgpt   CSV         Timestamp, seconds                Request tokens, Response tokens    Session ID
    vidur      CSV         arrived_at, seconds               num_prefill_tokens, num_decode_tokens
    sharegpt   either      none                              input_length, output_length

A row that generated no token is a request that failed: it is left out, and counted in a note (N452). Every other row
that cannot be understood is an error (E452) with its line and column.
"""

from __future__ import annotations

import csv
import json
import math
import os
import re
from array import array
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, NamedTuple

from plandsl.diagnostics import Diagnostic, Label, Span, clip
from plandsl.files import TooLong, read_lines
from plandsl.limits import MAX_DIMENSION, MAX_ERRORS, MAX_TRACE_BYTES, MAX_TRACE_LINE
from plandsl.spec.plan import WorkloadSpec
from plandsl.spec.traffic import ClassSpec, Distribution, Empirical, FileSpec, Traced, TrafficSpec

ENDINGS = (".csv", ".jsonl", ".json")
"""How the name of a trace ends."""

LATEST = 1e12
"""Largest time in a trace, in seconds."""


class Layout(NamedTuple):
    """A format: the columns of time, input and output, the seconds of a unit of time, and tokens of a hash id."""

    time: str
    input: str
    output: str
    json: bool
    unit: float = 1.0
    block: int = 0


LAYOUTS = {
    "azure": Layout("TIMESTAMP", "ContextTokens", "GeneratedTokens", False),
    "mooncake": Layout("timestamp", "input_length", "output_length", True, 1e-3, 512),
    "bailian": Layout("timestamp", "input_length", "output_length", True, 1.0, 16),
    "burstgpt": Layout("Timestamp", "Request tokens", "Response tokens", False),
    "vidur": Layout("arrived_at", "num_prefill_tokens", "num_decode_tokens", False),
    "sharegpt": Layout("", "input_length", "output_length", True),
}
FORMATS = tuple(LAYOUTS)


class Trace(NamedTuple):
    """The rows of a trace in the order of the file.

    ``seconds`` count from the first row, or are empty if the format has no times. ``ids`` are the hash ids of all
    prompts, one prompt after another, each of ``block`` tokens; those of request i are
    ``ids[offsets[i]:offsets[i + 1]]``. ``block`` 0: there are none. ``session`` numbers conversations, -1 for a request
    without one; empty if the format has none. ``failed`` rows generated no token, and are left out.
    """

    format: str
    seconds: array[float]
    input: array[int]
    output: array[int]
    offsets: array[int]
    ids: array[int]
    block: int
    session: array[int]
    failed: int


class Wrong(Exception):
    """A row that cannot be read: why, and the columns of its line where that is, from 1; the last is one past it."""

    def __init__(self, why: str, columns: tuple[int, int] = (1, 2), hint: str = "") -> None:
        self.why, self.columns, self.hint = why, columns, hint
        super().__init__(why)


# ---- rows


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
        """A cell. Raises `Wrong` if there is none."""
        if name in self.cells and self.cells[name] != "":
            return self.cells[name]
        raise Wrong(f"the row has no `{name}`", self.columns(name))

    def count(self, name: str, least: int, most: int = MAX_DIMENSION) -> int:
        """A whole number from ``least`` to ``most``."""
        cell = self.get(name)
        number = self._number(cell) if isinstance(cell, str) else cell
        if type(number) is int and least <= number <= most:
            return number
        if isinstance(number, float) and number.is_integer():
            number = int(number)
        if isinstance(number, int) and not isinstance(number, bool) and least <= number <= most:
            return number
        why = f"`{name}` is `{clip(_text(cell))}`, not a whole number from {least:,} to {most:,}"
        raise Wrong(why, self.columns(name))

    def seconds(self, name: str, unit: float) -> float:
        """A time in seconds."""
        cell = self.get(name)
        number = self._number(cell) if isinstance(cell, str) else cell
        if isinstance(number, int | float) and not isinstance(number, bool) and 0 <= number <= LATEST / unit:
            return number * unit
        raise Wrong(f"`{name}` is `{clip(_text(cell))}`, not a time from 0 to {LATEST / unit:g}", self.columns(name))

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


def _nanoseconds(row: Cells, name: str) -> int:
    """A date and time, in nanoseconds since 1970; without an offset it is in UTC."""
    text = row.get(name)
    found = _DATE.fullmatch(text.strip()) if isinstance(text, str) else None
    try:
        if found is not None:
            return _seconds(found[1], found[3] or "Z") * 10**9 + int((found[2] or "").ljust(9, "0"))
    except ValueError:
        pass
    hint = "such as 2023-11-16 18:17:03.9799600"
    raise Wrong(f"`{name}` is `{clip(_text(text))}`, not a date and time", row.columns(name), hint)


# ---- files


class _Reading:
    """Reads the rows of one file, and collects findings."""

    def __init__(self, file: FileSpec) -> None:
        self.file = file
        self.found: list[Diagnostic] = []
        self.wrong = 0
        self.header: list[str] | None = None
        self.json: bool | None = None  # whether each line is a JSON object; None before the first line

    def fail(self, line: int, wrong: Wrong) -> None:
        """Record a finding in a line of the file."""
        self.wrong += 1
        if self.wrong <= MAX_ERRORS:
            start, end = wrong.columns
            span = Span(self.file.shown, line, start, line, end)
            labels = () if self.file.span is None else (Label(self.file.span, "this file is read here"),)
            self.found.append(Diagnostic("E452", wrong.why, span, hint=wrong.hint, labels=labels))

    def finish(self) -> tuple[Diagnostic, ...]:
        """All findings; the last one counts those that are not shown."""
        if self.wrong > MAX_ERRORS:
            why = f"{self.wrong - MAX_ERRORS:,} further rows of {self.file.shown} are wrong"
            self.found.append(Diagnostic("E452", why, self.file.span, hint="is this the right format?"))
        return tuple(self.found)

    def rows(self) -> Iterator[tuple[int, Cells]]:
        """The rows of the file, by line; of a CSV file those after the header, which is then in ``header``."""
        number = 0
        try:
            for number, data in read_lines(self.file.path, MAX_TRACE_BYTES, MAX_TRACE_LINE):
                try:
                    row = self._row(data, number)
                except Wrong as wrong:
                    self.fail(number, wrong)
                    if self.json is None or (not self.json and self.header is None):  # no row can be understood
                        return
                else:
                    if row is not None:
                        yield number, row
        except TooLong as error:
            what = f"the line is longer than {MAX_TRACE_LINE:,} bytes"
            if error.line is None:
                what = f"the file is larger than {MAX_TRACE_BYTES:,} bytes"
            hint = "split the file, or add `requests = N`: then only the first N rows are read"
            self.fail(error.line or number + 1, Wrong(what, hint=hint))
        except OSError as error:
            self.fail(1, Wrong(f"cannot read this file: {error.strerror}"))

    def _row(self, data: bytes, number: int) -> Cells | None:
        try:
            line = data.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise Wrong("the line is not UTF-8 text", (error.start + 1, error.end + 1)) from None
        if not line.strip():
            return None
        if self.json is None:
            self.json = line.lstrip()[0] in "{["
        if self.json:
            return self._json_row(line)
        cells = _split(line)
        if self.header is None:
            self.header = cells
            return None
        if len(cells) != len(self.header):
            why = f"the row has {len(cells)} cells, but the header has {len(self.header)}"
            raise Wrong(why, (1, len(line) + 1))
        return Cells(dict(zip(self.header, cells, strict=True)), line, False)

    def _json_row(self, line: str) -> Cells:
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            column = getattr(error, "colno", 1)
            raise Wrong(
                f"the line is no JSON: {getattr(error, 'msg', 'nested too deeply')}", (column, column + 1)
            ) from None
        if isinstance(value, dict):
            return Cells(value, line, True)
        hint = "a trace in JSON has one object in each line; ShareGPT's own file has texts: count the tokens of each "
        hint += "prompt and answer, and write `input_length` and `output_length`"
        raise Wrong("the line is no JSON object", (1, 2), hint)


def _split(line: str) -> list[str]:
    if '"' not in line:
        return [cell.strip() for cell in line.split(",")]
    try:
        return [cell.strip() for cell in next(csv.reader([line], strict=True))]
    except (csv.Error, StopIteration) as error:
        raise Wrong(f"the line is no CSV: {error}", (1, len(line) + 1)) from None


def recognise(names: list[str], json_rows: bool) -> str:
    """The format of a file by its columns, or by the keys of its first row; empty if it has none of the formats."""
    have = set(names)
    if json_rows and "timestamp" in have:
        return "bailian" if "chat_id" in have else "mooncake"
    tables = (name for name, layout in LAYOUTS.items() if not layout.json and {layout.time, layout.input} <= have)
    return next(tables, "sharegpt" if {"input_length", "output_length"} <= have else "")


class _Columns:
    """The columns of a trace while it is read."""

    def __init__(self, named: str) -> None:
        self.format = named
        self.layout = LAYOUTS[named]
        self.seconds, self.input, self.output = array("d"), array("q"), array("q")
        self.offsets, self.ids, self.session = array("q", [0]), array("q"), array("q")
        self.failed = 0
        self._start: int | None = None
        self._roots: dict[Any, int] = {}

    def add(self, row: Cells) -> None:
        """Add a row. Raises `Wrong`, and then nothing is added."""
        layout = self.layout
        first, then = row.count(layout.input, 0), row.count(layout.output, 0)
        at = self._time(row) if layout.time else 0.0
        ids = self._ids(row) if layout.block else ()
        session = self._session(row)
        if then == 0:
            self.failed += 1
            return
        if first == 0:
            raise Wrong(f"`{layout.input}` is 0", row.columns(layout.input), "a request has at least one token")
        self.input.append(first)
        self.output.append(then)
        if layout.time:
            self.seconds.append(at)
        if layout.block:
            self.ids.extend(ids)
            self.offsets.append(len(self.ids))
        if session is not None:
            self.session.append(session)

    def _time(self, row: Cells) -> float:
        if self.format != "azure":
            return row.seconds(self.layout.time, self.layout.unit)
        now = _nanoseconds(row, self.layout.time)
        self._start = now if self._start is None else self._start
        return (now - self._start) / 1e9

    def _ids(self, row: Cells) -> list[int]:
        ids = row.cells.get("hash_ids", [])
        if not isinstance(ids, list) or not all(type(i) is int and 0 <= i < 2**62 for i in ids):
            raise Wrong("`hash_ids` is not a list of whole numbers from 0", row.columns("hash_ids"))
        return ids

    def _session(self, row: Cells) -> int | None:
        """The conversation that a row belongs to; None if the format has no conversations."""
        if self.format == "burstgpt":
            name = row.cells.get("Session ID")
            return None if name is None else self._number(name) if name else -1
        if self.format != "bailian":
            return None
        chat, parent = row.count("chat_id", 0, 2**62), row.count("parent_chat_id", -1, 2**62)
        root = self._roots.get(parent) if parent >= 0 else None
        self._roots[chat] = root = len(self._roots) if root is None else root
        return root

    def _number(self, name: str) -> int:
        return self._roots.setdefault(name, len(self._roots))

    def trace(self) -> Trace:
        """All rows."""
        block = self.layout.block if len(self.ids) else 0
        return Trace(
            self.format,
            self.seconds,
            self.input,
            self.output,
            offsets=self.offsets,
            ids=self.ids,
            block=block,
            session=self.session,
            failed=self.failed,
        )


def read_trace(file: FileSpec, named: str = "", rows: int | None = None) -> tuple[Trace | None, tuple[Diagnostic, ...]]:
    """The first ``rows`` requests of a trace, or all, and what is wrong with it; None if a row is wrong."""
    return _trace(file, named, rows, _stamp(file))


def _stamp(file: FileSpec) -> tuple[str, int, int]:
    """Changes when the file changes."""
    try:
        found = os.stat(file.path)
        return file.path, found.st_size, found.st_mtime_ns
    except OSError:
        return file.path, -1, -1


@lru_cache(maxsize=2)
def _trace(
    file: FileSpec, named: str, rows: int | None, _stamp: tuple[str, int, int]
) -> tuple[Trace | None, tuple[Diagnostic, ...]]:
    reading = _Reading(file)
    columns = None if not named else _Columns(named)
    for number, row in reading.rows():
        if columns is None:
            found = recognise(list(row.cells), row.json)
            if not found:
                shown = clip(", ".join(row.cells)) or "none"
                hint = f"formats: {', '.join(FORMATS)}; docs/traffic.md lists their columns"
                reading.fail(1, Wrong(f"the format is not known by its columns: {shown}", hint=hint))
                break
            columns = _Columns(found)
        try:
            columns.add(row)
        except Wrong as wrong:
            reading.fail(number, wrong)
        if rows is not None and len(columns.input) >= rows:
            break
    if not reading.wrong and (columns is None or not columns.input):
        reading.fail(1, Wrong("the file has no requests"))
    found_wrong = reading.finish()
    return (None if found_wrong or columns is None else columns.trace()), found_wrong


def read_column(file: FileSpec, name: str) -> tuple[array[float] | None, tuple[Diagnostic, ...]]:
    """The numbers of one column of a CSV file, and what is wrong with it; None if a row is wrong.

    A file with a single column need not name it so.
    """
    return _column(file, name, _stamp(file))


@lru_cache(maxsize=8)
def _column(
    file: FileSpec, name: str, _stamp: tuple[str, int, int]
) -> tuple[array[float] | None, tuple[Diagnostic, ...]]:
    reading, values = _Reading(file), array("d")
    for number, row in reading.rows():
        header = reading.header or list(row.cells)
        column = name if name in header or len(header) != 1 else header[0]
        if column not in header:
            hint = f'its columns are {", ".join(header[:12])}; choose one with `column = "..."`'
            reading.fail(1, Wrong(f"the file has no column `{name}`", hint=hint))
            break
        try:
            values.append(row.seconds(column, 1.0))
        except Wrong as wrong:
            reading.fail(number, wrong)
    if not reading.wrong and not values:
        reading.fail(1, Wrong("the file has no rows"))
    found = reading.finish()
    return (None if found else values), found


# ---- findings of a plan


def findings(load: WorkloadSpec) -> list[Diagnostic]:
    """What is wrong with the files of a load, and how many requests of its trace failed."""
    traffic = load.traffic
    if traffic is None:
        return []
    found: list[Diagnostic] = []
    parts: tuple[TrafficSpec | ClassSpec, ...] = (traffic, *traffic.classes)
    for one in parts:
        if isinstance(one.arrivals, Traced):
            trace, wrong = read_trace(one.arrivals.file)
            found += wrong or _times_missing(trace, one.arrivals.file)
        for distribution in one.lengths or ():
            found += _drawn(distribution, whole=True)
        if one.sessions is not None:
            found += [*_drawn(one.sessions.turns, whole=True), *_drawn(one.sessions.think, whole=False)]
    if traffic.trace is not None:
        file = traffic.trace.file
        trace, wrong = read_trace(file, traffic.trace.format, load.requests)
        found += wrong
        if traffic.arrivals is None and load.concurrency is None:
            found += _times_missing(trace, file)
        found += () if trace is None else _counted(load, trace, file)
    return found


def _times_missing(trace: Trace | None, file: FileSpec) -> list[Diagnostic]:
    if trace is None or trace.seconds:
        return []
    hint = "add `rate = 12 req/s` or `concurrency = 64`: the requests are then taken in the order of the file"
    return [Diagnostic("E452", f"{file.shown} does not say when requests arrive", file.span, hint=hint)]


def _counted(load: WorkloadSpec, trace: Trace, file: FileSpec) -> list[Diagnostic]:
    """Findings about the number of requests of a trace."""
    found = []
    have = len(trace.input)
    if load.requests is not None and have < load.requests:
        why = f"the load has {load.requests:,} requests, but {file.shown} has {have:,}"
        found.append(Diagnostic("E452", why, file.span, hint="drop `requests`, or lower it"))
    if trace.failed:
        why = f"{trace.failed:,} rows of {file.shown} generated no token: requests that failed, which are left out"
        found.append(Diagnostic("N452", why, file.span))
    return found


def _drawn(distribution: Distribution, whole: bool) -> list[Diagnostic]:
    """What is wrong with the file of a distribution; numbers of tokens are ``whole``, and at least 1."""
    if not isinstance(distribution, Empirical):
        return []
    values, wrong = read_column(distribution.file, distribution.column)
    bad = [v for v in values or () if whole and not (v.is_integer() and 1 <= v <= MAX_DIMENSION)]
    if not bad:
        return list(wrong)
    file = distribution.file
    why = f"{len(bad):,} numbers of {file.shown} are no lengths, such as {bad[0]:g}"
    return [Diagnostic("E452", why, file.span, hint=f"a length is a whole number from 1 to {MAX_DIMENSION:,}")]
