"""Diagnostics in the forms that build services show beside the lines of a change: SARIF, and commands of GitHub."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import PurePath
from typing import Any

from plandsl._version import __version__
from plandsl.codes import CODES
from plandsl.diagnostics import Diagnostic, Span, visible

SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"


def sarif(found: Sequence[Diagnostic]) -> dict[str, Any]:
    """``found`` as a log of SARIF 2.1.0 (OASIS standard) with one run; each code that occurs is a rule of it."""
    codes = sorted({d.code for d in found})
    rules = [
        {
            "id": code,
            "shortDescription": {"text": CODES[code].title},
            "fullDescription": {"text": CODES[code].text},
            "help": {"text": CODES[code].fix or CODES[code].text},
        }
        for code in codes
    ]
    driver = {"name": "planc", "semanticVersion": __version__, "rules": rules}
    results = [_result(d, codes.index(d.code)) for d in found]
    run = {"tool": {"driver": driver}, "columnKind": "unicodeCodePoints", "results": results}
    return {"$schema": SCHEMA, "version": "2.1.0", "runs": [run]}


def _result(d: Diagnostic, rule: int) -> dict[str, Any]:
    out: dict[str, Any] = {
        "ruleId": d.code,
        "ruleIndex": rule,
        "level": d.severity,
        "message": {"text": _text(d)},
    }
    if d.span is not None:
        out["locations"] = [_location(d.span)]
    if d.labels:
        out["relatedLocations"] = [
            {**_location(label.span), "id": i, "message": {"text": label.text}} for i, label in enumerate(d.labels, 1)
        ]
    return out


def _location(span: Span) -> dict[str, Any]:
    region = {
        "startLine": span.line,
        "startColumn": span.column,
        "endLine": span.end_line,
        "endColumn": span.end_column,
    }
    return {"physicalLocation": {"artifactLocation": {"uri": _uri(span.file)}, "region": region}}


def _uri(file: str) -> str:
    """A path as a URI reference: relative ones stay relative, so that a service finds them in the checkout."""
    from urllib.parse import quote

    path = PurePath(file)
    return path.as_uri() if path.is_absolute() else quote(path.as_posix())


def _text(d: Diagnostic) -> str:
    """A line each: the message, what stands beside the caret, and the hint."""
    return "\n".join(filter(None, (d.message, d.label, d.hint and f"help: {d.hint}")))


def github(found: Iterable[Diagnostic]) -> str:
    """``found`` as workflow commands of GitHub Actions, one a line: it shows them beside the lines of a change."""
    return "".join(_command(d) for d in found)


def _command(d: Diagnostic) -> str:
    severity = {"note": "notice"}.get(d.severity, d.severity)
    fields = {"title": d.code}
    if d.span is not None:
        span = d.span
        place = {"file": span.file, "line": span.line, "endLine": span.end_line}
        if span.line == span.end_line:  # columns are understood within a line
            place |= {"col": span.column, "endColumn": max(span.end_column - 1, span.column)}
        fields = {**{name: str(value) for name, value in place.items()}, **fields}
    told = ",".join(f"{name}={_escaped(value, ':,')}" for name, value in fields.items())
    return f"::{severity} {told}::{_escaped(_text(d))}\n"


def _escaped(text: str, more: str = "") -> str:
    """``text`` with the characters written as codes that end a command or, of ``more``, one of its fields."""
    return "".join(f"%{ord(c):02X}" if c in "%\n" + more else c for c in visible(text))
