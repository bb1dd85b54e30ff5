"""The syntax tree: the structure of the text, with a span on every node, before names are resolved.

Nodes are named tuples, which are cheap to define at start-up and to create by the thousand.
"""

from typing import NamedTuple, TypeAlias

from plandsl.diagnostics import Span


class Name(NamedTuple):
    """An identifier that is declared, or that the syntax refers to by its position."""

    text: str
    span: Span


# ---- expressions


class Num(NamedTuple):
    """A number, or a number and its unit: ``8``, ``256 GB``, ``95 %``. ``unit`` is as written."""

    value: int | float
    unit: str | None
    unit_span: Span | None
    span: Span


class Str(NamedTuple):
    """A string in double quotes, without them."""

    value: str
    span: Span


class Ref(NamedTuple):
    """A name used as a value."""

    name: str
    span: Span


class Dot(NamedTuple):
    """``base.name``."""

    base: "Expr"
    name: Name
    span: Span


class Seq(NamedTuple):
    """``[a, b, c]``."""

    items: "tuple[Expr, ...]"
    span: Span


class Range(NamedTuple):
    """``lo..hi``, or ``lo..hi by * 2`` (``by`` is the operator ``*`` or ``+``, ``step`` its operand).

    In ``0..36 by 2``, which is a range of layers, ``by`` is empty.
    """

    lo: "Expr"
    hi: "Expr"
    by: str | None
    step: "Expr | None"
    span: Span


class Unary(NamedTuple):
    """``-x`` or ``not x``."""

    op: str
    x: "Expr"
    span: Span


class Binary(NamedTuple):
    """``a op b`` with op one of ``+ - * / @ < <= > >= == != and or``."""

    op: str
    a: "Expr"
    b: "Expr"
    op_span: Span
    span: Span


class Call(NamedTuple):
    """``func(a, b, key = c) { ... }``; the body only for calls such as ``experts``."""

    func: Name
    args: "tuple[Expr, ...]"
    kwargs: "tuple[Field, ...]"
    body: "Body | None"
    span: Span


class Index(NamedTuple):
    """``w[hidden, heads]``: a tensor and its dimensions."""

    name: Name
    dims: tuple[Name, ...]
    span: Span


class With(NamedTuple):
    """``base with { ... }``."""

    base: "Expr"
    body: "Body"
    span: Span


Expr: TypeAlias = Num | Str | Ref | Dot | Seq | Range | Unary | Binary | Call | Index | With

# ---- items


class Body(NamedTuple):
    """``{ ... }``."""

    items: "tuple[Item, ...]"
    span: Span


class Field(NamedTuple):
    """``name = value``: a field, an override, or a statement of a block."""

    name: Name
    value: Expr
    span: Span


class Section(NamedTuple):
    """``name { ... }``: a nested group of fields, or an inline declaration in a plan."""

    name: Name
    body: Body
    span: Span


class Rule(NamedTuple):
    """``dims -> axes``."""

    dims: tuple[Name, ...]
    axes: tuple[Name, ...]
    span: Span


class Mesh(NamedTuple):
    """``mesh a = 2, b = 4``."""

    axes: tuple[Field, ...]
    span: Span


class Region(NamedTuple):
    """``in attention { rules }``."""

    name: Name
    body: Body
    span: Span


class Clause(NamedTuple):
    """``require``, ``maximize``, ``minimize`` or ``where``, and its expression."""

    word: Name
    value: Expr
    span: Span


class Vary(NamedTuple):
    """``vary a in [1, 2], b in 1..8 by * 2``: paths (Ref or Dot) and their domains."""

    entries: tuple[tuple[Expr, Expr], ...]
    span: Span


class Place(NamedTuple):
    """``place tensor, seq in node``."""

    axes: tuple[Name, ...]
    level: Name
    span: Span


class Class(NamedTuple):
    """``class name { ... }``: one of several kinds of requests."""

    name: Name
    body: Body
    span: Span


class Embedding(NamedTuple):
    """``embedding w_embed[vocab, hidden]``, or ``embedding e = w_embed[vocab, hidden] { ... }``."""

    weight: Expr
    span: Span
    name: Name | None = None
    body: Body | None = None


class Block(NamedTuple):
    """``block name [layers = 0..3] x[tokens, hidden] { ... }``; name and attributes may be missing."""

    name: Name | None
    attributes: tuple[Field, ...]
    arg: Index
    body: Body
    span: Span


class Mtp(NamedTuple):
    """``mtp x[tokens, hidden] with e[tokens, hidden] { ... }``."""

    arg: Index
    token: Index
    body: Body
    span: Span


class Head(NamedTuple):
    """``head rms_norm(x) @ w_head[hidden, vocab]``."""

    value: Expr
    span: Span


class Bare(NamedTuple):
    """An expression without a name: the result of an ``experts`` body."""

    value: Expr
    span: Span


class Let(NamedTuple):
    """``let name = value``."""

    name: Name
    value: Expr
    span: Span


class Use(NamedTuple):
    """``use "other.plan"``."""

    path: Str
    span: Span


class Version(NamedTuple):
    """``plandsl = 1``: the version of the language that the file is written in."""

    value: Expr
    span: Span


class Decl(NamedTuple):
    """``kind name { ... }`` (value None) or ``kind name = value`` (body None; value may be a With)."""

    kind: Name
    name: Name
    value: Expr | None
    body: Body | None
    span: Span


Item: TypeAlias = (
    Field | Section | Rule | Mesh | Region | Clause | Vary | Place | Class
    | Embedding | Block | Mtp | Head | Bare | Let | Use | Version | Decl
)  # fmt: skip


class File(NamedTuple):
    """One source file: its declarations (Let, Use, Version, Decl) in order."""

    items: tuple[Let | Use | Version | Decl, ...]
    span: Span
