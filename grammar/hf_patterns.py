"""Patterns of module names in a quantisation config, matched in bounded time.

A pattern is a name (``lm_head``, ``model.layers.3.mlp``), a name with wildcards (``*self_attn*``), or a regular
expression after ``re:``. A file may be hostile, and Python's `re` takes exponential time on some expressions. So the
expressions are read here, and matched with sets of places in them, in time proportional to their length times that
of the name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple, TypeAlias

LONGEST_PATTERN = 400
_CLASSES: dict[str, Callable[[str], bool]] = {
    "d": str.isdigit,
    "w": lambda c: c.isalnum() or c == "_",
    "s": str.isspace,
}


class UnreadablePattern(ValueError):
    """A regular expression with something that this module does not read, such as a look-ahead."""


class Char(NamedTuple):
    """One character for which ``fits`` is true, from ``least`` to ``most`` times."""

    fits: Callable[[str], bool]
    least: int = 1
    most: int | None = 1


class Group(NamedTuple):
    """One of several sequences, from ``least`` to ``most`` times."""

    choices: tuple[Sequence, ...]
    least: int = 1
    most: int | None = 1


class End(NamedTuple):
    """The end of the name (``$``), or its start (``^``)."""

    start: bool


Sequence: TypeAlias = "tuple[Char | Group | End, ...]"


Arc: TypeAlias = "tuple[Callable[[str], bool] | End | None, int]"
"""A way to another place of a pattern: by a character, at an end of the name, or at once (None)."""


class State:
    """The ``places`` of a pattern that may be reached after some text, and the states ``after`` one more character.

    ``matched``: the pattern matches whatever follows. ``ends``: it matches if the name ends here.
    """

    __slots__ = ("after", "ends", "matched", "places")

    def __init__(self, places: frozenset[int], matched: bool, ends: bool) -> None:
        self.places, self.matched, self.ends = places, matched, ends
        self.after: dict[str, State] = {}


class Automaton:
    """A pattern as an automaton (Thompson 1968), whose states are made when a name leads to them.

    Names that begin alike share the states of their beginning, and patterns meet many such names.
    """

    def __init__(self, pattern: Group) -> None:
        self._arcs: list[list[Arc]] = [[]]
        self._last = self._add(pattern, 0)
        self._states: dict[frozenset[int], State] = {}
        self.start = self._make(self._reach({0}, start=True), start=True)

    def matches(self, name: str) -> bool:
        """Whether the pattern matches at the start of ``name``, as `re.match` does."""
        return self.walk(self.start, name).ends

    def walk(self, state: State, text: str) -> State:
        """The state after ``text``, behind ``state``."""
        for c in text:
            if state.matched:
                break
            after = state.after.get(c)
            if after is None:
                after = state.after[c] = self._step(state, c)
            state = after
        return state

    def _step(self, state: State, c: str) -> State:
        moved = {to for place in state.places for arc, to in self._arcs[place] if _takes(arc, c)}
        places = self._reach(moved)
        found = self._states.get(places)
        if found is None:
            found = self._states[places] = self._make(places)
        return found

    def _make(self, places: frozenset[int], start: bool = False) -> State:
        matched = self._last in places
        return State(places, matched, matched or self._last in self._reach(places, start, end=True))

    def _reach(self, places: Iterable[int], start: bool = False, end: bool = False) -> frozenset[int]:
        """``places``, and those that are reached from them without a character."""
        found, left = set(places), list(places)
        while left:
            for arc, to in self._arcs[left.pop()]:
                open_ = arc is None or (isinstance(arc, End) and (start if arc.start else end))
                if open_ and to not in found:
                    found.add(to)
                    left.append(to)
        return frozenset(found)

    # ---- from a pattern

    def _place(self) -> int:
        self._arcs.append([])
        return len(self._arcs) - 1

    def _add(self, item: Char | Group | End, at: int) -> int:
        """Add ``item`` behind the place ``at``; the place behind it."""
        if isinstance(item, End):
            out = self._place()
            self._arcs[at].append((item, out))
            return out
        first = self._place()
        self._arcs[at].append((None, first))
        last = self._once(item, first)
        out = self._place()
        self._arcs[last].append((None, out))
        if item.most is None:
            self._arcs[last].append((None, first))
        if item.least == 0:
            self._arcs[at].append((None, out))
        return out

    def _once(self, item: Char | Group, at: int) -> int:
        out = self._place()
        if isinstance(item, Char):
            self._arcs[at].append((item.fits, out))
            return out
        for sequence in item.choices:
            here = at
            for part in sequence:
                here = self._add(part, here)
            self._arcs[here].append((None, out))
        return out


def _takes(arc: Callable[[str], bool] | End | None, c: str) -> bool:
    return arc is not None and not isinstance(arc, End) and arc(c)


# ---- reading


def read_regex(text: str) -> Automaton:
    """The pattern of a regular expression. Raises `UnreadablePattern`."""
    if len(text) > LONGEST_PATTERN:
        raise UnreadablePattern(text)
    reader = _Regex(text)
    found = reader.group(0)
    if reader.at < len(text):
        raise UnreadablePattern(text)
    return Automaton(found)


def read_wildcards(text: str) -> Automaton:
    """The pattern of a name in which ``*`` stands for any characters and ``?`` for one; it must match to the end."""
    if len(text) > LONGEST_PATTERN:
        raise UnreadablePattern(text)
    parts: list[Char | Group | End] = []
    for c in text:
        parts.append(Char(_any, 0, None) if c == "*" else Char(_any) if c == "?" else Char(_literal(c)))
    return Automaton(Group(((*parts, End(False)),)))


def _any(_: str) -> bool:
    return True


def _literal(c: str) -> Callable[[str], bool]:
    return lambda found: found == c


class _Regex:
    """Reads one regular expression."""

    def __init__(self, text: str) -> None:
        self.text, self.at = text, 0

    def _next(self) -> str:
        if self.at >= len(self.text):
            raise UnreadablePattern(self.text)
        self.at += 1
        return self.text[self.at - 1]

    def _peek(self) -> str:
        return self.text[self.at : self.at + 1]

    def group(self, depth: int) -> Group:
        """Sequences separated by ``|``, up to a closing parenthesis or the end."""
        if depth > 4:
            raise UnreadablePattern(self.text)
        choices: list[list[Char | Group | End]] = [[]]
        while (c := self._peek()) and c != ")":
            self.at += 1
            if c == "|":
                choices.append([])
            else:
                choices[-1].append(self._item(c, depth))
        return Group(tuple(map(tuple, choices)))

    def _item(self, c: str, depth: int) -> Char | Group | End:
        if c in "^$":
            return End(c == "^")
        item: Char | Group
        if c == "(":
            if self._peek() == "?":
                if self.text[self.at : self.at + 2] != "?:":
                    raise UnreadablePattern(self.text)
                self.at += 2
            item = self.group(depth + 1)
            self._next()  # the parenthesis, unless the text has ended
        elif c == "[":
            item = Char(self._class())
        elif c in "*+?{":
            raise UnreadablePattern(self.text)
        else:
            item = Char(_any if c == "." else self._escape() if c == "\\" else _literal(c))
        return self._repeated(item)

    def _escape(self) -> Callable[[str], bool]:
        c = self._next()
        if c in _CLASSES:
            return _CLASSES[c]
        if c.isalnum():
            raise UnreadablePattern(self.text)
        return _literal(c)

    def _class(self) -> Callable[[str], bool]:
        """What stands in ``[...]``: characters and ranges of them."""
        negated = self._peek() == "^"
        self.at += negated
        tests: list[Callable[[str], bool]] = []
        while (c := self._next()) != "]":
            if c == "\\":
                tests.append(self._escape())
            elif self._peek() == "-" and self.text[self.at + 1 : self.at + 2] not in ("", "]"):
                self.at += 1
                tests.append(_between(c, self._next()))
            else:
                tests.append(_literal(c))
        return lambda found: any(test(found) for test in tests) != negated

    def _repeated(self, item: Char | Group) -> Char | Group:
        bounds = {"*": (0, None), "+": (1, None), "?": (0, 1)}
        c = self._peek()
        if c in bounds:
            self.at += 1
            least, most = bounds[c]
            if self._peek() == "?":  # a lazy repeat matches the same names
                self.at += 1
            return item._replace(least=least, most=most)
        if c == "{":
            raise UnreadablePattern(self.text)
        return item


def _between(low: str, high: str) -> Callable[[str], bool]:
    return lambda found: low <= found <= high
