"""Texts of values and items, brought into the form in which `planc fmt` writes them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from plandsl.arguments import Arguments
from plandsl.diagnostics import Diagnostic, PlanError, Span, clip
from plandsl.grammar import syntax as s
from plandsl.grammar.fmt import format_text, join_lines
from plandsl.grammar.parse import parse

if TYPE_CHECKING:
    from plandsl.api.parts import Part

_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def read_text_value(call: Arguments, argument: str, text: str, made: type[Part] | None = None) -> Any:
    """The value that ``text`` writes: a number, a truth value, a tuple, a part of type ``made``, or its own text.

    Raises `PlanError` (E445) where no value of a plan reads so.
    """
    if _PLAIN.fullmatch(text) and text not in ("true", "false"):
        return text
    shown = _formatted(call, argument, f"let v = {text.strip()}\n")
    tree, _ = parse(shown, "<value>")
    if len(tree.items) != 1 or not isinstance(tree.items[0], s.Let):
        raise call.wrong(argument, "one value, as in a plan")
    from plandsl.api.read import Reading

    return Reading(shown).value(tree.items[0].value, made)


def item_text(
    call: Arguments, argument: str, text: str, kinds: tuple[type, ...] = (), expected: str = "one item, as in a plan"
) -> str:
    """An item of a body in canonical form. Raises `PlanError` (E445) where no item, or none of ``kinds``, reads so."""
    shown = _formatted(call, argument, f"it is {{\n{text.strip()}\n}}\n")
    tree, _ = parse(shown, "<item>")
    only = tree.items[0] if len(tree.items) == 1 else None
    if not isinstance(only, s.Decl) or only.body is None or len(only.body.items) != 1:
        raise call.wrong(argument, expected)
    if kinds and not isinstance(only.body.items[0], kinds):
        raise call.wrong(argument, expected)
    from plandsl.api.read import Reading

    return Reading(shown).item(only.body.items[0])


def _formatted(call: Arguments, argument: str, text: str) -> str:
    try:
        return format_text(text, "<value>")
    except PlanError as error:
        first = error.diagnostics[0]
        said = f"`{argument}` is no value of a plan: {first.message}"
        raise call.error("E445", argument, clip(said, 300), label=first.label, hint=first.hint) from None


def slice_text(lines: list[str], span: Span) -> str:
    """The source under ``span``: on one line, unless it has a body of several lines."""
    found = lines[span.line - 1 : span.end_line]
    found[-1] = found[-1][: span.end_column - 1]
    indent = len(found[0]) - len(found[0].lstrip())
    found[0] = found[0][span.column - 1 :]
    if len(found) == 1:
        return found[0]
    if "{" not in "".join(found):
        joined = " ".join(_without_comment(line).strip() for line in found)
        return format_text(f"let v = {joined}\n", "<value>").removeprefix("let v = ").rstrip()
    found[1:] = [line[min(indent, len(line) - len(line.lstrip())) :] for line in found[1:]]
    # the lines around them may have moved their comments
    return join_lines([_code_and_comment(line) for line in found]).rstrip()


def _code_and_comment(line: str) -> tuple[str, str]:
    code = _without_comment(line)
    return code.rstrip() if code.strip() else code, line[len(code) :]


def _without_comment(line: str) -> str:
    """``line`` without its comment; a `#` in a string starts none."""
    inside = False
    for i, sign in enumerate(line):
        if sign == '"':
            inside = not inside
        elif sign == "#" and not inside:
            return line[:i]
    return line


def not_there(kind: str, names: list[str], file: str) -> Diagnostic:
    """The error for a text that has no declaration of ``kind``, or several of which one must be named."""
    if not names:
        return Diagnostic("E401", f"{file} has no {kind}", hint=f"add `{kind} NAME {{ ... }}`")
    many = "searches" if kind == "search" else "plans"
    why = f"{file} has {len(names)} {many}: {', '.join(names)}"
    return Diagnostic("E403", why, hint=f'name one: name="{names[0]}"')
