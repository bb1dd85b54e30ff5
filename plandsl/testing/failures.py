"""What a law that failed expected and found: its message, or else the two sides of the comparison that it asserts."""

from __future__ import annotations

import ast
import linecache
import textwrap
import traceback
from types import TracebackType
from typing import NamedTuple

from plandsl.diagnostics import clip

LONGEST = 400
"""Characters that are shown of a value."""


class Failure(NamedTuple):
    """What failed: ``expected`` is empty where the law's own words say it."""

    expected: str
    found: str


def tell_failure(error: Exception) -> Failure:
    """What an error that a law raised says."""
    if not isinstance(error, AssertionError):
        return Failure("", clip(f"the law raises {type(error).__name__}: {' '.join(str(error).split())}", LONGEST))
    # pytest writes into assertions what it found: the words of the law stand before that
    message = str(error).strip().split("\nassert ")[0]
    if message and not message.startswith("assert "):
        return Failure("", clip(" ".join(message.split()), LONGEST))
    silent = Failure("", clip(" ".join(message.split()), LONGEST) or "the law fails, and says nothing more")
    return _tell_assertion(error.__traceback__) or silent


def _tell_assertion(trace: TracebackType | None) -> Failure | None:
    """The test of the assertion at the end of ``trace``, and its sides, evaluated once more where it failed."""
    frames = list(traceback.walk_tb(trace))
    summary = traceback.extract_tb(trace)
    if not frames or not summary:
        return None
    (frame, _), last = frames[-1], summary[-1]
    first = last.lineno or 1
    try:  # whoever patches `linecache` may fail in any way, and a report does not depend on it
        lines = [linecache.getline(last.filename, n) for n in range(first, (last.end_lineno or first) + 1)]
        source = textwrap.dedent("".join(lines))
        (statement,) = ast.parse(source).body
    except Exception:
        return None
    if not isinstance(statement, ast.Assert):
        return None
    test = statement.test
    sides = [test.left, *test.comparators] if isinstance(test, ast.Compare) else [test]
    found = []
    for side in sides:
        if isinstance(side, ast.Constant):
            continue
        try:
            value = eval(compile(ast.Expression(side), last.filename, "eval"), frame.f_globals, frame.f_locals)
        except Exception as error:  # a side that can be evaluated once only: the test says enough
            value = error
        found.append(f"{_written(source, side)} = {clip(str(value), LONGEST)}")
    return Failure(_written(source, test), "; ".join(found))


def _written(source: str, node: ast.expr) -> str:
    """An expression as it is written, on one line."""
    return " ".join((ast.get_source_segment(source, node) or ast.unparse(node)).split())
