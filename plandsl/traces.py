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

import os
from array import array
from functools import lru_cache
from typing import Any, NamedTuple

from plandsl import limits
from plandsl.diagnostics import Diagnostic, clip
from plandsl.rows import BadRow, Cells, Reading, nanoseconds
from plandsl.spec.plan import WorkloadSpec
from plandsl.spec.traffic import ClassSpec, Distribution, Empirical, FileSpec, Traced, TrafficSpec

ENDINGS = (".csv", ".jsonl", ".json")
"""How the name of a trace ends."""


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
    "mooncake": Layout("timestamp", "input_length", "output_length", True, unit=1e-3, block=512),
    "bailian": Layout("timestamp", "input_length", "output_length", True, unit=1.0, block=16),
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
    without one; empty if the format has none. ``adapter`` numbers the adapters that a column names from 1, in the order
    of the file, 0 for an empty cell; empty without such a column. ``failed`` rows generated no token, and are left out.
    """

    format: str
    seconds: array[float]
    input: array[int]
    output: array[int]
    offsets: array[int]
    ids: array[int]
    block: int
    session: array[int]
    adapter: array[int]
    failed: int


def recognise(names: list[str], json_rows: bool) -> str:
    """The format of a file by its columns, or by the keys of its first row; empty if it has none of the formats."""
    have = set(names)
    if json_rows and "timestamp" in have:
        return "bailian" if "chat_id" in have else "mooncake"
    tables = (name for name, layout in LAYOUTS.items() if not layout.json and {layout.time, layout.input} <= have)
    return next(tables, "sharegpt" if {"input_length", "output_length"} <= have else "")


class _Columns:
    """The columns of a trace while it is read."""

    def __init__(self, named: str, column: str = "") -> None:
        self.format, self.column = named, column
        self.layout = LAYOUTS[named]
        self.seconds, self.input, self.output = array("d"), array("q"), array("q")
        self.offsets, self.ids, self.session = array("q", [0]), array("q"), array("q")
        self.adapter = array("q")
        self.failed = 0
        self._names: dict[str, int] = {}
        self._start: int | None = None
        self._roots: dict[Any, int] = {}

    def add(self, row: Cells) -> None:
        """Add a row. Raises `BadRow`, and then nothing is added."""
        layout = self.layout
        first, then = row.count(layout.input, 0), row.count(layout.output, 0)
        at = self._time(row) if layout.time else 0.0
        ids = self._ids(row) if layout.block else ()
        session = self._session(row)
        name = self._name(row, self.column) if self.column else ""
        if then == 0:
            self.failed += 1
            return
        if first == 0:
            raise BadRow(f"`{layout.input}` is 0", row.columns(layout.input), "a request has at least one token")
        self.input.append(first)
        self.output.append(then)
        if layout.time:
            self.seconds.append(at)
        if layout.block:
            self.ids.extend(ids)
            self.offsets.append(len(self.ids))
        if session is not None:
            self.session.append(session)
        if self.column:
            self.adapter.append(self._names.setdefault(name, len(self._names) + 1) if name else 0)

    def _time(self, row: Cells) -> float:
        if self.format != "azure":
            return row.seconds(self.layout.time, self.layout.unit)
        now = nanoseconds(row, self.layout.time)
        self._start = now if self._start is None else self._start
        return (now - self._start) / 1e9

    def _ids(self, row: Cells) -> list[int]:
        ids = row.cells.get("hash_ids", [])
        if not isinstance(ids, list) or not all(type(i) is int and 0 <= i < 2**62 for i in ids):
            raise BadRow("`hash_ids` is not a list of whole numbers from 0", row.columns("hash_ids"))
        return ids

    def _session(self, row: Cells) -> int | None:
        """The conversation that a row belongs to; None if the format has no conversations."""
        if self.format == "burstgpt":
            name = self._name(row, "Session ID")
            return self._roots.setdefault(name, len(self._roots)) if name else -1
        if self.format != "bailian":
            return None
        chat, parent = row.count("chat_id", 0, 2**62), row.count("parent_chat_id", -1, 2**62)
        root = self._roots.get(parent) if parent >= 0 else None
        self._roots[chat] = root = len(self._roots) if root is None else root
        return root

    @staticmethod
    def _name(row: Cells, column: str) -> str:
        """The name in a cell, such as that of an adapter or of a conversation; empty if the row has none."""
        cell = row.cells.get(column)
        if cell is None:
            return ""
        if isinstance(cell, str | int) and not isinstance(cell, bool):
            return str(cell).strip()
        raise BadRow(f"`{column}` is neither a text nor a number", row.columns(column))

    def trace(self) -> Trace:
        """All rows."""
        block = self.layout.block if len(self.ids) else 0
        session = self.session if any(one >= 0 for one in self.session) else array("q")
        return Trace(
            self.format,
            self.seconds,
            self.input,
            self.output,
            offsets=self.offsets,
            ids=self.ids,
            block=block,
            session=session,
            adapter=self.adapter,
            failed=self.failed,
        )


def read_trace(
    file: FileSpec, named: str = "", rows: int | None = None, column: str = ""
) -> tuple[Trace | None, tuple[Diagnostic, ...]]:
    """The first ``rows`` requests of a trace, or all, and what is wrong with it; None if a row is wrong.

    ``column``: the one that names adapters; empty: none does.
    """
    return _trace(file, named, rows, column, _stamp(file))


def trace_of(traffic: TrafficSpec, rows: int | None) -> tuple[Trace | None, tuple[Diagnostic, ...]]:
    """`read_trace` of the trace of a load that has one."""
    assert traffic.trace is not None, "the caller has looked"
    column = "" if traffic.adapters is None else traffic.adapters.column
    return read_trace(traffic.trace.file, traffic.trace.format, rows, column)


def _stamp(file: FileSpec) -> tuple[str | int, ...]:
    """Changes when the file changes, or a limit of what is read of it."""
    try:
        found = os.stat(file.path)
        return file.path, found.st_size, found.st_mtime_ns, *limits.SETTING
    except OSError:
        return file.path, -1, -1, *limits.SETTING


@lru_cache(maxsize=2)
def _trace(
    file: FileSpec, named: str, rows: int | None, column: str, _stamp: tuple[str | int, ...]
) -> tuple[Trace | None, tuple[Diagnostic, ...]]:
    reading = Reading(file)
    columns = None if not named else _Columns(named, column)
    for number, row in reading.rows():
        if columns is None:
            found = recognise(list(row.cells), row.json)
            if not found:
                shown = clip(", ".join(row.cells)) or "none"
                hint = f"formats: {', '.join(FORMATS)}; docs/traffic.md lists their columns"
                reading.fail(1, BadRow(f"the format is not known by its columns: {shown}", hint=hint))
                break
            columns = _Columns(found, column)
        if column and column not in row.cells and not row.json:
            reading.fail(1, BadRow(f"the file has no column `{column}`", hint=_columns_hint(row)))
            break
        try:
            columns.add(row)
        except BadRow as wrong:
            reading.fail(number, wrong)
        if rows is not None and len(columns.input) >= rows:
            break
    if not reading.wrong and (columns is None or not columns.input):
        lost = 0 if columns is None else columns.failed
        reading.fail(1, BadRow("every row generated no token" if lost else "the file has no requests"))
    elif not reading.wrong and column and columns is not None and not any(columns.adapter):
        reading.fail(1, BadRow(f"no row names an adapter in `{column}`"))
    found_wrong = reading.finish()
    return (None if found_wrong or columns is None else columns.trace()), found_wrong


def _columns_hint(row: Cells) -> str:
    return f"its columns are {', '.join(list(row.cells)[:12])}"


def read_column(file: FileSpec, name: str) -> tuple[array[float] | None, tuple[Diagnostic, ...]]:
    """The numbers of one column of a CSV file, and what is wrong with it; None if a row is wrong.

    A file with a single column need not name it so.
    """
    return _column(file, name, _stamp(file))


@lru_cache(maxsize=8)
def _column(
    file: FileSpec, name: str, _stamp: tuple[str | int, ...]
) -> tuple[array[float] | None, tuple[Diagnostic, ...]]:
    reading, values = Reading(file), array("d")
    for number, row in reading.rows():
        header = reading.header or list(row.cells)
        column = name if name in header or len(header) != 1 else header[0]
        if column not in header:
            hint = f'{_columns_hint(row)}; choose one with `column = "..."`'
            reading.fail(1, BadRow(f"the file has no column `{name}`", hint=hint))
            break
        try:
            values.append(row.seconds(column, 1.0))
        except BadRow as wrong:
            reading.fail(number, wrong)
    if not reading.wrong and not values:
        reading.fail(1, BadRow("the file has no rows"))
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
            found += wrong or _times_missing(trace, one.arrivals.file) or _bins_missing(trace, one.arrivals)
        for distribution in one.lengths or ():
            found += _drawn(distribution, whole=True)
        if one.adapters is not None and one.adapters.which is not None:
            found += _drawn(one.adapters.which, whole=True, what="number of an adapter")
        if one.sessions is not None:
            found += [*_drawn(one.sessions.turns, whole=True), *_drawn(one.sessions.think, whole=False)]
    if traffic.trace is not None:
        file = traffic.trace.file
        trace, wrong = trace_of(traffic, load.requests)
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


def _bins_missing(trace: Trace | None, traced: Traced) -> list[Diagnostic]:
    lasts = 0.0 if trace is None else max(trace.seconds) - min(trace.seconds)
    if lasts < limits.MAX_BINS * traced.bin:
        return []
    why = f"{traced.file.shown} lasts {lasts:g} s: more than {limits.MAX_BINS:,} bins of {traced.bin:g} s"
    least = float(f"{2 * lasts / limits.MAX_BINS:.1g}")  # one digit, and in any case long enough
    shown = f"{least:_.0f}" if least >= 1 else f"{least:g}"
    hint = limits.MAX_BINS.hint(f"`bin = {shown} s`, or correct the times of the file", lasts / traced.bin + 1)
    return [Diagnostic("E240", why, traced.file.span, hint=hint)]


def _counted(load: WorkloadSpec, trace: Trace, file: FileSpec) -> list[Diagnostic]:
    """Findings about the number of requests of a trace."""
    found = []
    have = len(trace.input)
    if load.requests is not None and have < load.requests:
        why = f"the load has {load.requests:,} requests, but {file.shown} has {have:,}"
        found.append(Diagnostic("E452", why, file.span, hint="drop `requests`, or lower it"))
    if trace.failed:
        rows = "1 row" if trace.failed == 1 else f"{trace.failed:,} rows"
        why = f"{rows} of {file.shown} generated no token: left out, as failed requests are"
        found.append(Diagnostic("N452", why, file.span))
    return found


def _drawn(distribution: Distribution, whole: bool, what: str = "length") -> list[Diagnostic]:
    """What is wrong with the file of a distribution; numbers of tokens are ``whole``, and at least 1.

    ``what``: the word for one of its numbers.
    """
    if not isinstance(distribution, Empirical):
        return []
    values, wrong = read_column(distribution.file, distribution.column)
    bad = [v for v in values or () if whole and not (v.is_integer() and 1 <= v <= limits.MAX_DIMENSION)]
    if not bad:
        return list(wrong)
    file = distribution.file
    why = f"{len(bad):,} numbers of {file.shown} are no {what}s, such as {bad[0]:g}"
    return [Diagnostic("E452", why, file.span, hint=f"a {what} is a whole number from 1 to {limits.MAX_DIMENSION:,}")]
