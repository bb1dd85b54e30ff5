"""Slips in the signs of a text that the parser rejects: each is reported once, and the text is read again without it.

A repaired text is as long as the one that was written, so that every place in it stays.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from plandsl import limits
from plandsl.diagnostics import Diagnostic, Span, clip
from plandsl.grammar.foreign import LINES, SHELL_NAME, own_fields, plan_items, shell_pairs
from plandsl.grammar.near import hint_for_name
from plandsl.grammar.tokens import KINDS, NAMED

_PLAIN = r"\"[^\"\n]*\"|#[^\n]*"
_COMMENTS = re.compile(
    rf"{_PLAIN}|(?P<comment>(?<!:)//[^\n]*|/\*.*?(?:\*/|\Z)|^[ \t]*--[ \t][^\n]*)", re.MULTILINE | re.DOTALL
)
_FENCE = re.compile(r"^[ \t]*(```+|~~~+)\w*[ \t\r]*$", re.MULTILINE)
_HEADER = re.compile(
    rf"(?<![\w.])(?P<kind>let|{'|'.join(KINDS)})[ \t]+(?P<name>[^\s{{=][^{{=#]{{0,80}}?)[ \t]*(?P<sign>[{{=])"
)
_VALUE = re.compile(
    rf"(?:^|[{{,;])[ \t]*(?P<kind>{'|'.join(KINDS)}|draft)(?:[ \t]+\w+)?[ \t]*=[ \t]*"
    r"(?P<name>\d+[ \t]?[xX\u00d7*][ \t]?[A-Za-z][\w-]*"
    r"|[\w@./][\w./@:+-]*(?:[ \t]+(?!with\b)[\w./@:+-]+){0,4})(?=[ \t\r]*(?:[,;}#]|with\b|$))"
)


def repair(text: str, file: str, found: list[Diagnostic]) -> tuple[str, list[Diagnostic]]:
    """``text``, in which the parser ``found`` mistakes, without the slips that are known; and a finding about each."""
    mistakes: list[Diagnostic] = []
    for look in (_comments, _fences, _foreign_lines, _headers, _ids):
        text, more = look(text, file, found)
        mistakes += more
    return text, mistakes[: limits.MAX_ERRORS]


def _span(text: str, file: str, start: int, end: int) -> Span:
    """The place of a stretch of one line."""
    line, column = text.count("\n", 0, start) + 1, start - text.rfind("\n", 0, start)
    return Span(file, line, column, line, column + end - start)


def _blank(text: str) -> str:
    return re.sub(r"[^\n]", " ", text)


def _comments(text: str, file: str, _: list[Diagnostic]) -> tuple[str, list[Diagnostic]]:
    """Comments of other languages; the first stands for all."""
    matches = [match for match in _COMMENTS.finditer(text) if match["comment"]]
    if not matches:
        return text, []
    first = matches[0]["comment"].lstrip()
    start = matches[0].end("comment") - len(first)
    said = first.split("\n")[0].removeprefix("/*").removesuffix("*/").strip("-/ ")
    more = f", and so in {len(matches) - 1} more place{'s' * (len(matches) > 2)}" if len(matches) > 1 else ""
    span, why = _span(text, file, start, start + 2), f"`{first[:2]}` starts no comment: `#` does"
    found = Diagnostic("E101", why, span, hint=f"write `# {clip(said, 60)}`{more}")
    return _COMMENTS.sub(lambda match: _blank(match[0]) if match["comment"] else match[0], text), [found]


def _fences(text: str, file: str, _: list[Diagnostic]) -> tuple[str, list[Diagnostic]]:
    """Lines that open and close a block of code in Markdown; the first stands for all."""
    first = _FENCE.search(text)
    if first is None:
        return text, []
    span = _span(text, file, first.start(1), first.end())
    found = Diagnostic(
        "E101", "a fence of Markdown is not part of a plan", span, hint="remove the lines with the fence"
    )
    return _FENCE.sub(lambda match: _blank(match[0]), text), [found]


def _foreign_lines(text: str, file: str, found: list[Diagnostic]) -> tuple[str, list[Diagnostic]]:
    """Lines of a shell or of Python within a plan."""
    wrong = {finding.span.line for finding in found if finding.span}
    lines, mistakes, at = text.split("\n"), [], 0
    while at < len(lines):
        line, end = lines[at], at + 1
        what = next((name for pattern, name in LINES if pattern.match(line)), "") if at + 1 in wrong else ""
        if what:
            while lines[end - 1].rstrip().endswith("\\") and end < len(lines):
                end += 1
            span = Span(file, at + 1, len(line) - len(line.lstrip()) + 1, at + 1, len(line.rstrip()) + 1)
            hint = _items("\n".join(lines[at:end])) if what == SHELL_NAME else "remove it"
            mistakes.append(Diagnostic("E101", f"this is {what}, not part of a plan", span, hint=hint))
            lines[at:end] = map(_blank, lines[at:end])
        at = end
    return "\n".join(lines), mistakes


def _items(command: str) -> str:
    """The items of a plan that say what the options of a command say."""
    items = plan_items(own_fields(list(shell_pairs(command))), command)
    return f"in a plan: `{', '.join(items)}`" if items else "remove it"


def _headers(text: str, file: str, found: list[Diagnostic]) -> tuple[str, list[Diagnostic]]:
    """Declarations whose name is none."""

    def finding(match: re.Match[str], span: Span) -> Diagnostic | None:
        written = match["name"]
        if not re.match(r"\d|.*[^\w\s]", written, re.ASCII):
            return None
        name = re.sub(r"\W+", "_", written, flags=re.ASCII).strip("_") or "NAME"
        name = f"{match['kind'][0]}{name}" if name[0].isdigit() else name
        hint = f"write `{match['kind']} {name} {match['sign']}`"
        return Diagnostic("E101", f"`{clip(written)}` is not a name", span, label=NAMED, hint=hint)

    return _renamed(text, file, found, _HEADER, finding)


def _ids(text: str, file: str, found: list[Diagnostic]) -> tuple[str, list[Diagnostic]]:
    """Names of models and hardware with signs that the parser rejects, as in ``Qwen/Qwen2.5-72B``."""

    def finding(match: re.Match[str], span: Span) -> Diagnostic | None:
        written, kind = match["name"], match["kind"].replace("draft", "model")
        if written.isidentifier() or not re.search("[A-Za-z]", written):
            return None
        hint = hint_for_name(kind, written)
        return Diagnostic("E201", f"there is no {kind} named `{clip(written)}`", span, label=NAMED, hint=hint)

    return _renamed(text, file, found, _VALUE, finding)


def _renamed(
    text: str,
    file: str,
    found: list[Diagnostic],
    pattern: re.Pattern[str],
    finding: Callable[[re.Match[str], Span], Diagnostic | None],
) -> tuple[str, list[Diagnostic]]:
    """Make a name of what ``pattern`` calls a name, where the parser stumbles over it and there is a ``finding``."""
    lines, slips = text.split("\n"), []
    places = [each.span for each in found if each.span]
    for number in sorted({place.line for place in places}):
        for match in pattern.finditer(lines[number - 1]):
            start, end = match.span("name")
            span = Span(file, number, start + 1, number, end + 1)
            touched = any(at.line == number and span.column <= at.column <= span.end_column + 1 for at in places)
            slip = finding(match, span) if touched else None
            if slip is None:
                continue
            slips.append(slip)
            line = lines[number - 1]
            lines[number - 1] = line[:start] + re.sub(r"\W|^\d", "_", line[start:end], flags=re.ASCII) + line[end:]
    return "\n".join(lines), slips
