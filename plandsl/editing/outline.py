"""The shape of a text: its declarations as a tree, what can be folded, and the meaning of each word for its colour."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from plandsl.diagnostics import Span
from plandsl.editing.fields import FUNCTIONS, METRICS, fields_of
from plandsl.editing.place import Follower
from plandsl.editing.reading import Reading
from plandsl.editing.symbols import Occurrence, occurrences
from plandsl.grammar import syntax as s
from plandsl.grammar.modules import KINDS
from plandsl.grammar.tokens import CLOSERS, KEYWORDS, OPENERS, Token

# ---- declarations


class Entry(NamedTuple):
    """A declaration or a part of one: its name, what it is, its place, the place of its name, and its parts."""

    name: str
    kind: str
    span: Span
    at: Span
    parts: tuple[Entry, ...] = ()


def outline(reading: Reading) -> list[Entry]:
    """The declarations of a text, in its order."""
    found = []
    for piece in reading.pieces.values():
        item = piece.item
        if isinstance(item, s.Let):
            found.append(Entry(item.name.text, "let", item.span, item.name.span))
        else:
            found.append(Entry(item.name.text, item.kind.text, item.span, item.name.span, tuple(_parts(item))))
    return found


def _parts(decl: s.Decl) -> Iterator[Entry]:
    body = decl.body or (decl.value.body if isinstance(decl.value, s.With) else None)
    for item in body.items if body is not None else ():
        match item:
            case s.Section(name=name, span=span):
                yield Entry(name.text, "section", span, name.span)
            case s.Field(name=name, span=span):
                yield Entry(name.text, "field", span, name.span)
            case s.Block(name=name, arg=arg, span=span):
                yield Entry(name.text if name else "block", "block", span, (name or arg.name).span)
            case s.Class(name=name, span=span):
                yield Entry(name.text, "class", span, name.span)
            case s.Clause(word=word, span=span):
                yield Entry(reading_of(item), word.text, span, word.span)
            case _:
                pass


def reading_of(clause: s.Clause) -> str:
    """``require tpot``: a clause by its word, and the metric that it is about."""
    value = clause.value
    while isinstance(value, s.Binary):
        value = value.a
    named = value.name if isinstance(value, s.Ref) else value.func.text if isinstance(value, s.Call) else ""
    return f"{clause.word.text} {named}".strip()


# ---- folding


class Fold(NamedTuple):
    """Lines that can be folded: the first one stays. ``kind`` is ``region`` or ``comment``."""

    first: int
    last: int
    kind: str = "region"


def folds(reading: Reading) -> list[Fold]:
    """Brackets over several lines, and runs of lines that only hold a comment."""
    found: list[Fold] = []
    open_: list[Token] = []
    for token in reading.tokens:
        if token.kind in OPENERS:
            open_.append(token)
        elif token.kind in CLOSERS and open_:
            first = open_.pop().span.line
            if token.span.line - first > 1:
                found.append(Fold(first, token.span.line - 1))
    run: list[int] = []
    lines = [t.span.line for t in reading.tokens if t.kind == "COMMENT" and _alone(reading, t)]
    for line in [*lines, -1]:
        if run and line != run[-1] + 1:
            found += [Fold(run[0], run[-1], "comment")] if len(run) > 1 else []
            run = []
        run.append(line)
    return sorted(set(found))


def _alone(reading: Reading, comment: Token) -> bool:
    return not reading.lines[comment.span.line - 1][: comment.span.column - 1].strip()


# ---- meaning of words


class Painted(NamedTuple):
    """A token and the type of its meaning, a name of `TYPES`; ``declares`` where a name is declared."""

    span: Span
    type: str
    declares: bool = False


TYPES = (
    "keyword",
    "type",
    "class",
    "variable",
    "property",
    "function",
    "number",
    "string",
    "comment",
    "operator",
    "enumMember",
    "parameter",
)
"""The types of tokens, by the names that the Language Server Protocol has for them."""

_OF_SYMBOLS = {
    "let": "variable",
    "dimension": "parameter",
    "weight": "variable",
    "value": "variable",
    "axis": "parameter",
}


def painted(reading: Reading) -> list[Painted]:
    """Every token of a text that has a meaning, in order; tokens of several lines do not exist."""
    symbols = {one.span: one for one in occurrences(reading.unit, reading.module.library)}
    found = []
    follower = Follower()
    for at, token in enumerate(reading.tokens):
        if token.kind == "END":
            break
        following = reading.tokens[at + 1].kind
        kind, declares = _type(token, following, symbols.get(token.span), follower)
        follower.take(token)
        if kind:
            found.append(Painted(token.span, kind, declares))
    return found


_PLAIN = {"NUMBER": "number", "STRING": "string", "OPEN_STRING": "string", "COMMENT": "comment"}
_OPERATORS = ("PLUS", "MINUS", "STAR", "MULTIPLY", "COMPARE", "ARROW", "DOTS")


def _type(token: Token, following: str, symbol: Occurrence | None, follower: Follower) -> tuple[str, bool]:
    if token.kind in _PLAIN:
        return _PLAIN[token.kind], False
    if token.kind in _OPERATORS:
        return "operator", False
    if not (token.text[:1].isalpha() or token.text[:1] == "_"):
        return "", False
    scope, starts = follower.scope, follower.starts
    if scope == "file" and starts and (token.text in KINDS or token.text in ("let", "plandsl", "use")):
        return "keyword", False
    if symbol is not None and symbol.span.end_column - symbol.span.column == len(symbol.symbol.name):
        return _OF_SYMBOLS.get(symbol.symbol.kind, "class"), symbol.defines
    if starts and following in ("EQ", "LBRACE") and (scope == "assumed" or token.text in fields_of(scope)):
        return "property", False
    if token.text in KEYWORDS and following not in ("EQ", "ARROW", "COMMA"):
        return "keyword", False
    if following == "LPAR" or (scope == "block" and token.text in FUNCTIONS):
        return "function", False
    if token.text in METRICS and follower.first in ("require", "maximize", "minimize"):
        return "enumMember", False
    if following == "EQ":
        return "property", False
    return "enumMember" if follower.after_equals else "variable", False
