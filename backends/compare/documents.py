"""From the bytes of a result file to JSON objects, one for each run, with their places for diagnostics."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from plandsl import limits
from plandsl.backends.compare.formats import FORMATS, Format
from plandsl.diagnostics import Diagnostic, PlanError, Span, clip, either, nearest
from plandsl.files import read_file


class Document(NamedTuple):
    """One run: its object, the file that it is from, its place there (empty: it is the whole file), its format.

    ``outer`` is the object of the whole file, which says what all its runs have in common.
    """

    file: str
    at: str
    format: Format
    data: dict[str, Any]
    outer: Any

    @property
    def name(self) -> str:
        """File and place, as diagnostics and reports have them."""
        return f"{self.file}, {self.at}" if self.at else self.file


def read_documents(path: str) -> list[Document]:
    """The runs of one file.

    Raises `PlanError`: E560 where it cannot be read or is no JSON, E561 where no known tool wrote it.
    """
    try:
        data = read_file(Path(path), limits.MAX_BENCH_BYTES)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        hint = f"name the files in it: {clip(path)}/*.json" if os.path.isdir(path) else _near(path)
        raise PlanError([Diagnostic("E560", f"cannot read {clip(path)}: {reason}", hint=hint)]) from error
    if len(data) > limits.MAX_BENCH_BYTES:
        why = f"{path} is larger than {limits.MAX_BENCH_BYTES:,} bytes"
        hint = "write the result without each request: `vllm bench serve` without `--save-detailed`, one run a file"
        raise PlanError([Diagnostic("E560", why, hint=limits.MAX_BENCH_BYTES.hint(hint))])
    return parse_documents(data, path)


def parse_documents(data: bytes, file: str) -> list[Document]:
    """The runs in the bytes of a file. Raises as `read_documents` does."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise PlanError([Diagnostic("E560", f"{file} is no text in UTF-8: byte {error.start:,}", hint=_HINT)]) from None
    found: list[Document] = []
    for at, value in _values(text, file):
        found += _documents(file, at, value)
        if len(found) > limits.MAX_BENCH_RUNS:
            why = f"{file} has more than {limits.MAX_BENCH_RUNS:,} runs"
            raise PlanError([Diagnostic("E560", why, hint=limits.MAX_BENCH_RUNS.hint("compare fewer runs at once"))])
    return found


def _near(path: str) -> str:
    """The files beside a path that is none whose names are near to it."""
    folder = Path(path).parent
    names = [one.name for one in folder.iterdir()] if os.path.isdir(folder) else []
    near = [] if Path(path).name in names else nearest(Path(path).name, names)
    return f"did you mean {either([str(folder / one) for one in near])}?" if near else _HINT


_SHOWN = 2**20
"""Bytes of a file up to which a diagnostic shows the line that it is about."""

_HINT = "a result file is the JSON that the benchmark writes, for example with `vllm bench serve --save-result`"


class _NotJson(ValueError):
    """A text that is no JSON: why, and where."""

    def __init__(self, why: str, line: int = 1, column: int = 1) -> None:
        self.why, self.line, self.column = why, line, column
        super().__init__(why)


def _load(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        why = error.msg[:1].lower() + error.msg[1:].removesuffix(" starting at")
        raise _NotJson(why, error.lineno, error.colno) from None
    except RecursionError:
        raise _NotJson("it nests too deeply") from None
    except ValueError:  # a whole number of thousands of digits
        raise _NotJson("it holds a number that is too long") from None


def _values(text: str, file: str) -> Iterator[tuple[str, Any]]:
    """The JSON values of a file with their places: one value, or a value on each line."""
    if not text.strip():
        raise PlanError([Diagnostic("E560", f"{file} is empty", hint=_HINT)])
    try:
        yield "", _load(text)
        return
    except _NotJson as error:
        whole = error
    lines = [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    if len(lines) < 2 or not lines[0][1].rstrip().endswith("}"):
        raise _no_json(file, whole, text)
    for number, line in lines:
        try:
            yield f"line {number}", _load(line)
        except _NotJson as error:
            raise _no_json(file, _NotJson(error.why, number, error.column), text) from None


def _no_json(file: str, found: _NotJson, text: str) -> PlanError:
    span = Span(file, found.line, found.column, found.line, found.column + 1)
    shown_ = {file: text} if len(text) < _SHOWN else {}
    return PlanError([Diagnostic("E560", f"{file} is no valid JSON: {found.why}", span, hint=_HINT)], shown_)


def _documents(file: str, at: str, value: Any) -> Iterator[Document]:
    """The runs in one JSON value: the value alone, the items of a list, or the items of the list that a format has."""
    items = [(at, value)]
    if isinstance(value, list):
        items = [(_join(at, f"[{i}]"), item) for i, item in enumerate(value)]
    if not items:
        raise PlanError([Diagnostic("E561", f"{_place(file, at)} is an empty list", hint=_KNOWN)])
    for place, item in items:
        if not isinstance(item, dict):
            why = f"{_place(file, place)} is {shown(item)}, and the result of a run is an object"
            raise PlanError([Diagnostic("E561", why, hint=_KNOWN)])
        yield from _runs(file, place, item)


def _runs(file: str, place: str, item: dict[str, Any]) -> Iterator[Document]:
    for one in FORMATS:
        if one.each and isinstance(runs := item.get(one.each[0]), list) and runs:
            for i, run in enumerate(runs):
                if isinstance(run, dict) and is_of(one, run):
                    yield Document(file, _join(place, f"{one.each[0]}[{i}]"), one, run, item)
                    continue
                why = f"{_place(file, place)}: `{one.each[0]}[{i}]` is no run of {one.title}"
                marks = " or ".join(f"`{'.'.join(group[0])}`" for group in one.marks)
                raise PlanError([Diagnostic("E561", why, hint=f"such a run has {marks}")])
            return
    found = next((one for one in FORMATS if not one.each and is_of(one, item)), None)
    if found is None:
        keys = ", ".join(map(shown, list(item)[:6])) or "no keys"
        why = f"{_place(file, place)} is no result of a known benchmark: it has {keys}"
        raise PlanError([Diagnostic("E561", why, hint=_KNOWN)])
    yield Document(file, place, found, item, item)


_KNOWN = "known are the results of " + ", ".join(one.title for one in reversed(FORMATS))


def is_of(one: Format, data: dict[str, Any]) -> bool:
    """Whether an object is a run of a format."""
    return any(all(look_up(data, path) is not None for path in group) for group in one.marks)


def shown(value: Any) -> str:
    """A value of a file for a message, in ASCII, because a string may hold what a terminal cannot print."""
    if isinstance(value, dict):
        return "an object"
    return "a list" if isinstance(value, list) else clip(json.dumps(value))


def look_up(data: Any, path: tuple[str, ...]) -> Any:
    """The value at a path, None where there is none."""
    for key in path:
        name, equals, word = key.partition("=")
        if isinstance(data, list) and equals:
            data = next((item for item in data if isinstance(item, dict) and item.get(name) == word), None)
        elif isinstance(data, list):
            data = data[int(key)] if key.isdecimal() and int(key) < len(data) else None
        else:
            data = data.get(key) if isinstance(data, dict) else None
    return data


def _join(place: str, more: str) -> str:
    return f"{place} {more}" if place else more


def _place(file: str, at: str) -> str:
    return f"{file}, {at}" if at else file
