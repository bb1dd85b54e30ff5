"""Where a cursor stands in a text that may be half written: in which scope, in which item, behind which words.

It reads tokens and not the tree: while somebody writes, the item at the cursor has no tree yet.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from plandsl.editing.fields import Takes, fields_of
from plandsl.grammar.layout import ITEM_KEYWORDS
from plandsl.grammar.modules import KINDS
from plandsl.grammar.tokens import CLOSERS, OPENERS, Token, split_number

LISTS = ("MESH", "VARY", "PLACE")
"""Items that go on after a comma."""

_OPEN_ENDED = (
    "EQ",
    "PLUS",
    "MINUS",
    "STAR",
    "MULTIPLY",
    "COMPARE",
    "AND",
    "OR",
    "NOT",
    "WITH",
    "ARROW",
    "DOTS",
    "BY",
    "COMMA",
)
"""Tokens after which a new line goes on with the same item."""


class Frame(NamedTuple):
    """An open bracket: its kind, the scope inside it, and the tokens of the item that it belongs to, up to it."""

    opener: str
    scope: str
    head: tuple[Token, ...]


class Place(NamedTuple):
    """The frames around a cursor, outermost first, the item under way, and what is written of the word at the cursor.

    ``item`` holds the tokens of the item before that word. ``inside`` is ``text`` in a string and ``comment`` in a
    comment, else empty. The word starts at ``column``; it is the unit of a number where the cursor is behind one.
    """

    frames: tuple[Frame, ...]
    item: tuple[Token, ...]
    prefix: str
    column: int
    inside: str = ""
    number: str = ""  # the digits before a unit
    given: frozenset[str] = frozenset()  # the first words of the items before, in the innermost bracket

    @property
    def frame(self) -> Frame:
        """The innermost bracket."""
        return self.frames[-1]

    @property
    def body(self) -> int:
        """The index of the innermost frame that holds items."""
        return _body(self.frames)

    @property
    def scope(self) -> str:
        """The scope of the innermost `{ }`."""
        return self.frames[self.body].scope

    @property
    def statement(self) -> tuple[Token, ...]:
        """The tokens of the item of the innermost `{ }` up to the cursor, its inner brackets included."""
        inner = self.frames[self.body + 1 :]
        return inner[0].head if inner else self.item

    @property
    def field(self) -> str:
        """The field whose value the cursor is in; empty where it is in none."""
        statement = self.statement
        return statement[0].text if len(statement) > 1 and statement[1].kind == "EQ" else ""

    @property
    def takes(self) -> Takes | None:
        """What that field takes; None where it is none that its scope knows."""
        return fields_of(self.scope).get(self.field)

    @property
    def kind(self) -> str:
        """The kind of declaration that a file's item at the cursor declares; empty where it declares none."""
        words = self.statement if self.scope == "file" else ()
        return words[0].text if words and words[0].text in KINDS else ""


def place_at(tokens: Sequence[Token], line: int, column: int) -> Place:
    """The place of a cursor before the character at ``line`` and ``column``, both from 1."""
    frames = [Frame("", "file", ())]
    items: list[list[Token]] = [[]]
    given: list[set[str]] = [set()]
    token = None
    for token in tokens:
        span = token.span
        if token.kind == "END" or (span.line, span.column) >= (line, column):
            break
        if (span.end_line, span.end_column) >= (line, column) and token.kind in _GROWS | _WORDS | {"NUMBER"}:
            return _within(frames, items, token, column)._replace(given=frozenset(given[-1]))
        _take(frames, items, given, token)
    made = Place(tuple(frames), tuple(items[-1]), "", column, given=frozenset(given[-1]))
    last = made.item[-1] if made.item else None
    if last is not None and last.kind == "NUMBER" and last.span.line == line and not split_number(last.text)[1]:
        return made._replace(number=last.text)  # a unit may follow after a space
    return made


class Follower:
    """Follows the tokens of a text one by one, and knows the scope and the item that the next one stands in."""

    def __init__(self) -> None:
        self._frames = [Frame("", "file", ())]
        self._items: list[list[Token]] = [[]]
        self._given: list[set[str]] = [set()]

    def take(self, token: Token) -> None:
        """Go past a token."""
        _take(self._frames, self._items, self._given, token)

    @property
    def scope(self) -> str:
        """The scope of the innermost `{ }`."""
        return next(frame.scope for frame in reversed(self._frames) if frame.opener in ("", "LBRACE"))

    @property
    def starts(self) -> bool:
        """Whether the next token starts an item of a `{ }`."""
        return not self._items[-1] and self._frames[-1].opener in ("", "LBRACE")

    @property
    def first(self) -> str:
        """The first word of the item of the innermost `{ }`, also inside its other brackets."""
        inner = self._frames[_body(self._frames) + 1 :]
        statement = inner[0].head if inner else self._items[-1]
        return statement[0].text if statement else ""

    @property
    def after_equals(self) -> bool:
        """Whether the next token is in the value of a field."""
        return any(token.kind == "EQ" for token in self._items[-1])


_GROWS = frozenset({"STRING", "OPEN_STRING", "QUOTED", "COMMENT"})
_WORDS = frozenset({"NAME", "LET", "USE", *ITEM_KEYWORDS, "IN", "WITH", "AND", "OR", "NOT", "BY"})


def _body(frames: Sequence[Frame]) -> int:
    return next(at for at in range(len(frames) - 1, -1, -1) if frames[at].opener in ("", "LBRACE"))


def _within(frames: list[Frame], items: list[list[Token]], token: Token, column: int) -> Place:
    """The place of a cursor in, or just behind, a token that a further letter may change."""
    made = Place(tuple(frames), tuple(items[-1]), token.text[: column - token.span.column], token.span.column)
    if token.kind in _GROWS:
        closed = token.kind == "STRING" and token.span.end_column == column
        return made._replace(inside="comment" if token.kind == "COMMENT" else "" if closed else "text")
    if token.kind == "NUMBER":
        digits, unit = split_number(made.prefix) if made.prefix[:1].isdigit() else (made.prefix, "")
        return made._replace(number=digits, prefix=unit, column=column - len(unit))
    return made


def _take(frames: list[Frame], items: list[list[Token]], given: list[set[str]], token: Token) -> None:
    item, kind = items[-1], token.kind
    in_body = frames[-1].opener in ("", "LBRACE")
    if kind in OPENERS:
        frames.append(Frame(kind, _scope_of(frames, item, kind), tuple(item)))
        items.append([])
        given.append(set())
    elif kind in CLOSERS:
        if len(frames) > 1:
            frames.pop()
            items.pop()
            given.pop()
            # the whole bracket counts as one token of the item around it
            items[-1].append(token)
    elif kind == "COMMENT":
        pass
    elif kind in ("NEWLINE", "SEMICOLON", "COMMA"):
        if (in_body and not _goes_on(item, kind)) or (kind == "COMMA" and not in_body):
            given[-1] |= {token.text for token in item[:1]}
            items[-1] = []
        elif kind == "COMMA":
            item.append(token)
    else:
        item.append(token)


def _goes_on(item: Sequence[Token], kind: str) -> bool:
    """Whether an item goes on after a separator."""
    if not item:
        return False
    if kind == "NEWLINE":
        return item[-1].kind in _OPEN_ENDED
    return kind == "COMMA" and (item[0].kind in LISTS or _is_rule(item))


def _is_rule(item: Sequence[Token]) -> bool:
    return any(token.kind == "ARROW" for token in item)


def _scope_of(frames: Sequence[Frame], item: Sequence[Token], kind: str) -> str:
    """The scope that a bracket opens."""
    outer = next(frame.scope for frame in reversed(frames) if frame.opener in ("", "LBRACE"))
    last = item[-1] if item else None
    if kind == "LPAR":
        return f"{last.text}()" if last is not None and last.kind in _WORDS else "()"
    if kind == "LSQB":
        named = last is not None and last.kind in _WORDS and last.kind not in ("IN", "WITH", "AND", "OR", "NOT", "BY")
        return "[attributes]" if item and item[0].kind == "BLOCK" and len(item) < 3 else "[dims]" if named else "[]"
    return _scope_of_body(outer, item)


def _scope_of_body(outer: str, item: Sequence[Token]) -> str:
    if not item:
        return ""
    first = item[0].text
    if outer == "file":
        return first if first in KINDS else first if first == "let" else ""
    if outer == "sharding" and first == "in":
        return "rules"
    if outer == "workload" and first == "class":
        return "class"
    if outer in ("model", "block") and (first in ("block", "embedding", "mtp") or item[-1].kind == "RPAR"):
        return "block"
    takes = fields_of(outer).get(first)
    if len(item) > 1 and item[1].kind == "EQ":  # `model = NAME with {`
        return takes.kind if takes else ""
    if outer == "stored":
        return "stored"
    return takes.section if takes else ""


def names_before(tokens: Iterable[Token], place: Place) -> list[str]:
    """The names to which the body of a block assigns before the cursor, and its argument; the latest last."""
    head = place.frames[place.body].head
    found = [token.text for at, token in enumerate(head) if token.kind == "NAME" and at > 0]
    start = head[-1].span if head else None
    previous: Token | None = None
    for token in tokens:
        if place.item and token.span >= place.item[0].span:
            break
        inside = start is None or token.span > start
        if inside and token.kind == "EQ" and previous is not None and previous.kind == "NAME":
            found.append(previous.text)
        previous = token
    return list(dict.fromkeys(found))
