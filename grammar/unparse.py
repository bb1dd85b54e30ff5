"""From records back to text: a merged record as one declaration."""

from __future__ import annotations

from collections.abc import Iterator

from plandsl.grammar import syntax as s
from plandsl.grammar.modules import Library
from plandsl.grammar.records import Layer, Record, merge

INDENT = "  "


def declaration(library: Library, record: Record, name: str) -> str:
    """``record`` as a declaration called ``name``; names inside it are unchanged."""
    return f"{record.kind} {name} {_body(library, record, '')}\n"


def _body(library: Library, record: Record, indent: str) -> str:
    """``{ ... }`` with one item per line; a section of at most four plain fields is on one line."""
    lines = list(_lines(library, record, indent + INDENT))
    if indent and len(lines) <= 4 and all("\n" not in line and "->" not in line for line in lines):
        return "{ " + ", ".join(lines) + " }"
    inner = "".join(f"{indent}{INDENT}{line}\n" for line in lines)
    return "{\n" + inner + indent + "}"


def items_on_one_line(library: Library, record: Record) -> str:
    """The items of ``record`` on one line, ready for one more: a `mesh` or a rule ends with ``;``."""
    lines = list(_lines(library, record, ""))
    if any("\n" in line for line in lines):
        return "..., "
    return "".join(line + ("; " if "->" in line or line.startswith("mesh ") else ", ") for line in lines)


def _lines(library: Library, record: Record, indent: str) -> Iterator[str]:
    for entry in record.entries:
        if isinstance(entry, str):
            yield _field(library, entry, record.fields[entry], indent)
        else:
            yield library.text(entry.item.span)


def _field(library: Library, name: str, layers: tuple[Layer, ...], indent: str) -> str:
    """``name = value``, ``name { ... }``, or ``name = value with { ... }`` for an expression with records over it."""
    over: Record | None = None
    for layer in layers:
        if isinstance(layer.value, Record):
            over = merge(over, layer.value) if over else layer.value
    first = layers[0].value
    if isinstance(first, Record):
        assert over is not None, "the first layer is a record"
        return f"{name} {_body(library, over, indent)}"
    text = expression(library, first)
    return f"{name} = {text}" if over is None else f"{name} = {text} with {_body(library, over, indent)}"


def expression(library: Library, expr: s.Expr) -> str:
    """An expression as written in its file; a number by its value, because values of a range are not written there."""
    if isinstance(expr, s.Num):
        return f"{expr.value:.12g}" + (f" {expr.unit}" if expr.unit else "")
    return library.text(expr.span)
