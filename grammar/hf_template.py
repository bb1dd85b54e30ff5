"""The templates of families: expressions over the values of a config, and text with ``<name>`` in it.

The files of `catalog/families` use both. An expression is written as in Python: ``layer % 2 == 0 and window > 0``. In a
text, ``<name>`` is replaced by a value or by another part of the family, and ``<condition? text | other text>`` by one
of the two texts. The other text may be left out. One space after ``?`` and one on each side of ``|`` belong to neither.
"""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from typing import Any

_BINARY: dict[type[ast.AST], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.In: lambda item, items: item in (items or ()),
    ast.NotIn: lambda item, items: item not in (items or ()),
}
_CALLS: dict[str, Callable[..., Any]] = {"any": any, "len": len, "max": max, "min": min}
_INDENT = "  "


@cache
def _parsed(text: str) -> ast.expr:
    return ast.parse(text.strip(), mode="eval").body


@cache
def names_in(text: str) -> frozenset[str]:
    """The names that an expression reads."""
    return frozenset(node.id for node in ast.walk(_parsed(text)) if isinstance(node, ast.Name)) - _CALLS.keys()


def evaluate(text: str, values: Mapping[str, Any]) -> Any:
    """The value of an expression. Raises `KeyError` for an unknown name, `ZeroDivisionError` for a division by 0."""
    return _value(_parsed(text), values)


def _value(node: ast.expr, values: Mapping[str, Any]) -> Any:
    match node:
        case ast.Constant(value=value):
            return value
        case ast.Name(id=name):
            return values[name]
        case ast.BinOp(left=left, op=op, right=right):
            return _BINARY[type(op)](_value(left, values), _value(right, values))
        case ast.Compare(left=left, ops=[op], comparators=[right]):
            return _BINARY[type(op)](_value(left, values), _value(right, values))
        case ast.BoolOp(op=ast.And(), values=parts):
            return all(_value(part, values) for part in parts)
        case ast.BoolOp(values=parts):
            return any(_value(part, values) for part in parts)
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            return not _value(operand, values)
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_value(operand, values)
        case ast.IfExp(test=test, body=body, orelse=other):
            return _value(body if _value(test, values) else other, values)
        case ast.Subscript(value=items, slice=at):
            return _value(items, values)[_value(at, values)]
        case ast.Call(func=ast.Name(id=name), args=args):
            return _CALLS[name](*(_value(arg, values) for arg in args))
    raise ValueError(f"an expression cannot hold {ast.unparse(node)}")


# ---- texts


def render(text: str, values: Mapping[str, Any], parts: Mapping[str, str]) -> str:
    """``text`` with values and parts in their places; lines that become empty are left out."""
    lines = "".join(_pieces(text, values, parts)).splitlines()
    return "\n".join(line for line in lines if line.strip())


def _pieces(text: str, values: Mapping[str, Any], parts: Mapping[str, str]) -> Iterator[str]:
    at = 0
    while (start := text.find("<", at)) >= 0:
        yield text[at:start]
        at = _end(text, start)
        yield _filled(text[start + 1 : at - 1], values, parts)
    yield text[at:]


def _end(text: str, start: int) -> int:
    """The position behind the ``>`` that closes the ``<`` at ``start``."""
    depth = 0
    for at in range(start, len(text)):
        depth += (text[at] == "<") - (text[at] == ">")
        if not depth:
            return at + 1
    raise ValueError(f"a `<` without its `>`: {text[start:]}")


def _filled(inner: str, values: Mapping[str, Any], parts: Mapping[str, str]) -> str:
    """What stands for ``<inner>``."""
    condition = re.match(r"([^?<]+)\? ?", inner)
    if condition is None:
        if inner in parts and inner not in values:
            return render(parts[inner], values, parts)
        value = evaluate(inner, values)
        return f"{value:g}" if isinstance(value, float) else str(value)
    yes, no = _choices(inner[condition.end() :])
    return "".join(_pieces(yes if evaluate(condition[1], values) else no, values, parts))


def _choices(text: str) -> tuple[str, str]:
    """The texts before and behind the ``|`` of a choice, which stands outside of inner ``<...>``."""
    depth = 0
    for at, letter in enumerate(text):
        depth += (letter == "<") - (letter == ">")
        if letter == "|" and not depth:
            return text[:at].removesuffix(" "), text[at + 1 :].removeprefix(" ")
    return text, ""


def indented(text: str, depth: int) -> Iterator[str]:
    """The lines of a text of blocks, each as deep as its braces say."""
    for line in text.splitlines():
        bare = line.strip()
        depth -= bare.startswith("}")
        yield f"{_INDENT * depth}{bare}"
        depth += bare.endswith("{")
