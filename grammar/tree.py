"""Builds the syntax tree while the parser runs: one method for each `->` of plan.lark.

A method gets the tokens and values of its rule and returns the value of the whole.
"""

from __future__ import annotations

import math
from typing import Any, Protocol

from plandsl import limits
from plandsl.diagnostics import Diagnostic, Span, clip
from plandsl.grammar import syntax as s
from plandsl.grammar.tokens import Token, split_number
from plandsl.values import sum_up


class Placed(Protocol):
    """A token or a node."""

    @property
    def span(self) -> Span:
        """Its place in the text."""


def _part_body(expr: s.Expr) -> tuple[s.Expr, s.Body | None]:
    """The body of the call with which an expression ends, and the expression without it."""
    match expr:
        case s.Call(body=s.Body() as body):
            return expr._replace(body=None), body
        case s.Binary():
            last, body = _part_body(expr.b)
            return expr._replace(b=last), body
        case _:
            return expr, None


def _over(first: Placed, last: Placed) -> Span:
    (file, line, column, _, _), (_, _, _, end_line, end_column) = first.span, last.span
    return Span(file, line, column, end_line, end_column)


def _name(token: Token) -> s.Name:
    return s.Name(token.text, token.span)


class TreeBuilder:
    """The methods of the rules, and the findings about single nodes, such as a number that is too large."""

    def __init__(self) -> None:
        self.found: list[Diagnostic] = []

    # ---- lists

    def none(self, _: list[Any]) -> list[Any]:
        """An empty list."""
        return []

    def one(self, parts: list[Any]) -> list[Any]:
        """A list of one."""
        return parts

    def same(self, parts: list[Any]) -> list[Any]:
        """A list, with or without a separator after it."""
        items: list[Any] = parts[0]
        return items

    def more(self, parts: list[Any]) -> list[Any]:
        """A list, a separator, and one more."""
        items: list[Any] = parts[0]
        items.append(parts[2])
        return items

    # ---- declarations

    def file(self, parts: list[Any]) -> s.File:
        """The whole file; the caller, which has the text, sets the span."""
        items = tuple(parts[0])
        nowhere = Span("", 1, 1, 1, 1)
        return s.File(items, nowhere)

    def let(self, parts: list[Any]) -> s.Let:
        """``let name = value``."""
        return s.Let(_name(parts[1]), parts[3], _over(parts[0], parts[3]))

    def use(self, parts: list[Any]) -> s.Use:
        """``use "path"``."""
        return s.Use(self.string(parts[1:]), _over(parts[0], parts[1]))

    def version(self, parts: list[Any]) -> s.Version:
        """``plandsl = 1``."""
        return s.Version(parts[2], _over(parts[0], parts[2]))

    def decl(self, parts: list[Any]) -> s.Decl:
        """``kind name { }``."""
        return s.Decl(_name(parts[0]), _name(parts[1]), None, parts[2], _over(parts[0], parts[2]))

    def alias(self, parts: list[Any]) -> s.Decl:
        """``kind name = value``."""
        return s.Decl(_name(parts[0]), _name(parts[1]), parts[3], None, _over(parts[0], parts[3]))

    def alias_with(self, parts: list[Any]) -> s.Decl:
        """``kind name = base { }``: the same as with a ``with``."""
        value = s.With(parts[3], parts[4], _over(parts[3], parts[4]))
        return s.Decl(_name(parts[0]), _name(parts[1]), value, None, _over(parts[0], value))

    # ---- items

    def body(self, parts: list[Any]) -> s.Body:
        """``{ items }``."""
        return s.Body(tuple(parts[1]), _over(parts[0], parts[2]))

    def field(self, parts: list[Any]) -> s.Field:
        """``name = value``."""
        return s.Field(_name(parts[0]), parts[2], _over(parts[0], parts[2]))

    def section(self, parts: list[Any]) -> s.Section:
        """``name { }``."""
        return s.Section(_name(parts[0]), parts[1], _over(parts[0], parts[1]))

    def rule(self, parts: list[Any]) -> s.Rule:
        """``dims -> axes``."""
        dims, axes = parts[0], parts[2]
        return s.Rule(tuple(map(_name, dims)), tuple(map(_name, axes)), _over(dims[0], axes[-1]))

    def mesh(self, parts: list[Any]) -> s.Mesh:
        """``mesh a = 2, b = 4``."""
        return s.Mesh(tuple(parts[1]), _over(parts[0], parts[1][-1]))

    def region(self, parts: list[Any]) -> s.Region:
        """``in name { }``."""
        return s.Region(_name(parts[1]), parts[2], _over(parts[0], parts[2]))

    def clause(self, parts: list[Any]) -> s.Clause:
        """``require value`` and its like."""
        return s.Clause(_name(parts[0]), parts[1], _over(parts[0], parts[1]))

    def vary(self, parts: list[Any]) -> s.Vary:
        """``vary path in domain, ...``."""
        return s.Vary(tuple(parts[1]), _over(parts[0], parts[1][-1][1]))

    def pair(self, parts: list[Any]) -> tuple[s.Expr, s.Expr]:
        """``path in domain``."""
        return parts[0], parts[2]

    def place(self, parts: list[Any]) -> s.Place:
        """``place axes in level``."""
        return s.Place(tuple(map(_name, parts[1])), _name(parts[3]), _over(parts[0], parts[3]))

    def class_(self, parts: list[Any]) -> s.Class:
        """``class name { }``."""
        return s.Class(_name(parts[1]), parts[2], _over(parts[0], parts[2]))

    def embedding(self, parts: list[Any]) -> s.Embedding:
        """``embedding weight``."""
        return s.Embedding(parts[1], _over(parts[0], parts[1]))

    def embedding_body(self, parts: list[Any]) -> s.Embedding:
        """``embedding name = weight { }``."""
        return s.Embedding(parts[3], _over(parts[0], parts[4]), _name(parts[1]), parts[4])

    def embedding_call(self, parts: list[Any]) -> s.Embedding:
        """``embedding name = f(x) { }``, whose body the layout gives to the call."""
        value, body = _part_body(parts[3])
        return s.Embedding(value, _over(parts[0], parts[3]), _name(parts[1]), body)

    def head(self, parts: list[Any]) -> s.Head:
        """``head value``."""
        return s.Head(parts[1], _over(parts[0], parts[1]))

    def mtp(self, parts: list[Any]) -> s.Mtp:
        """``mtp x[tokens, hidden] with e[tokens, hidden] { ... }``."""
        return s.Mtp(parts[1], parts[3], parts[4], _over(parts[0], parts[4]))

    def block(self, parts: list[Any]) -> s.Block:
        """``block x[dims] { }``."""
        return s.Block(None, (), parts[1], parts[2], _over(parts[0], parts[2]))

    def block_named(self, parts: list[Any]) -> s.Block:
        """``block name x[dims] { }``."""
        return s.Block(_name(parts[1]), (), parts[2], parts[3], _over(parts[0], parts[3]))

    def block_split(self, parts: list[Any]) -> s.Block:
        """``block [layers = 0..3] x[dims] { }``."""
        return s.Block(None, tuple(parts[2]), parts[4], parts[5], _over(parts[0], parts[5]))

    def block_named_split(self, parts: list[Any]) -> s.Block:
        """``block name [layers = 0..3] x[dims] { }``."""
        return s.Block(_name(parts[1]), tuple(parts[3]), parts[5], parts[6], _over(parts[0], parts[6]))

    def bare(self, parts: list[Any]) -> s.Bare:
        """An expression without a name."""
        return s.Bare(parts[0], parts[0].span)

    # ---- expressions

    def binary(self, parts: list[Any]) -> s.Binary:
        """``a op b``."""
        a, op, b = parts
        return s.Binary(op.text, a, b, op.span, _over(a, b))

    def unary(self, parts: list[Any]) -> s.Unary:
        """``op x``."""
        return s.Unary(parts[0].text, parts[1], _over(parts[0], parts[1]))

    def range(self, parts: list[Any]) -> s.Range:
        """``lo..hi``."""
        return s.Range(parts[0], parts[2], None, None, _over(parts[0], parts[2]))

    def range_by(self, parts: list[Any]) -> s.Range:
        """``lo..hi by * step``."""
        return s.Range(parts[0], parts[2], parts[4].text, parts[5], _over(parts[0], parts[5]))

    def range_stride(self, parts: list[Any]) -> s.Range:
        """``lo..hi by step``."""
        return s.Range(parts[0], parts[2], "", parts[4], _over(parts[0], parts[4]))

    def dot(self, parts: list[Any]) -> s.Dot:
        """``base.name``."""
        return s.Dot(parts[0], _name(parts[2]), _over(parts[0], parts[2]))

    def with_(self, parts: list[Any]) -> s.With:
        """``base with { }``."""
        return s.With(parts[0], parts[2], _over(parts[0], parts[2]))

    def ref(self, parts: list[Any]) -> s.Ref:
        """A name as a value."""
        return s.Ref(parts[0].text, parts[0].span)

    def index(self, parts: list[Any]) -> s.Index:
        """``name[dims]``."""
        return s.Index(_name(parts[0]), tuple(map(_name, parts[2])), _over(parts[0], parts[3]))

    def call(self, parts: list[Any]) -> s.Call:
        """``name(arguments)``."""
        return self._call(parts, None, _over(parts[0], parts[3]))

    def call_body(self, parts: list[Any]) -> s.Call:
        """``name(arguments) { items }``."""
        return self._call(parts, self.body(parts[4:]), _over(parts[0], parts[6]))

    def _call(self, parts: list[Any], body: s.Body | None, span: Span) -> s.Call:
        args = tuple(a for a in parts[2] if type(a) is not s.Field)
        kwargs = tuple(a for a in parts[2] if type(a) is s.Field)
        return s.Call(_name(parts[0]), args, kwargs, body, span)

    def seq(self, parts: list[Any]) -> s.Seq:
        """``[values]``."""
        return s.Seq(tuple(parts[1]), _over(parts[0], parts[2]))

    def paren(self, parts: list[Any]) -> s.Expr:
        """``(expression)``: the expression, its span widened to the brackets."""
        inner: s.Expr = parts[1]._replace(span=_over(parts[0], parts[2]))
        return inner

    def string(self, parts: list[Any]) -> s.Str:
        """``"text"``; a string without a closing quote, which was reported, ends with its line."""
        return s.Str(parts[0].text[1:].removesuffix('"'), parts[0].span)

    def number(self, parts: list[Any]) -> s.Num:
        """A number and its unit, if any."""
        token: Token = parts[0]
        text, span = token.text, token.span
        if text.isdecimal() and len(text) <= limits.MAX_DIGITS:
            return s.Num(int(text), None, None, span)
        digits, unit = split_number(text)
        value = self._value(digits.replace("_", ""), span)
        if not unit:
            return s.Num(value, None, None, span)
        unit_span = span._replace(column=span.end_column - len(unit))
        return s.Num(value, unit, unit_span, span)

    def _value(self, digits: str, span: Span) -> int | float:
        if sum_up(map(str.isdigit, digits)) > limits.MAX_DIGITS:
            message = f"this number has more than {limits.MAX_DIGITS} digits"
            self.found.append(Diagnostic("E106", message, span, hint=limits.MAX_DIGITS.hint("round it")))
            return 1  # legal almost everywhere, so that one mistake gives one message
        if digits.isdigit():
            return int(digits)
        value = float(digits)
        if math.isinf(value):
            self.found.append(Diagnostic("E106", f"`{clip(digits)}` is too large for a number", span))
            return 1
        return value
