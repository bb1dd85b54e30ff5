"""Patterns of module names in a quantisation config, matched in bounded time.

A pattern is a name (``lm_head``, ``model.layers.3.mlp``), a name with wildcards (``*self_attn*``), or a regular
expression after ``re:``. A file may be hostile, and Python's `re` takes exponential time on some expressions. So the
expressions are read here, and matched with sets of positions, in time proportional to their length times that of
the name.
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


def matches(pattern: Group, name: str) -> bool:
    """Whether ``pattern`` matches at the start of ``name``, as `re.match` does."""
    return bool(_step(pattern, name, {0}))


def _step(item: Char | Group | End, name: str, starts: set[int]) -> set[int]:
    """The positions after ``item``, from each of the positions before it."""
    if isinstance(item, End):
        return starts & ({0} if item.start else {len(name)})
    if isinstance(item, Char) and item.most is None:
        return _run(item, name, starts)
    here, found = starts, set(starts) if item.least == 0 else set[int]()
    turns = len(name) + item.least + 1 if item.most is None else item.most
    for turn in range(1, turns + 1):
        after = _once(item, name, here)
        here = after - found if turn > item.least else after
        if turn >= item.least:
            found |= after
        if not here:
            break
    return found


def _run(item: Char, name: str, starts: set[int]) -> set[int]:
    """The positions after one or more characters, or after none where none are needed."""
    found = set(starts) if item.least == 0 else set[int]()
    last = -1
    for start in sorted(starts):
        at = max(start, last)
        while at < len(name) and item.fits(name[at]):
            at += 1
            found.add(at)
        last = at
    return found


def _once(item: Char | Group, name: str, starts: set[int]) -> set[int]:
    if isinstance(item, Char):
        return {at + 1 for at in starts if at < len(name) and item.fits(name[at])}
    out: set[int] = set()
    for sequence in item.choices:
        here = starts
        for part in sequence:
            here = _step(part, name, here)
        out |= here
    return out


# ---- reading


def read_regex(text: str) -> Group:
    """The pattern of a regular expression. Raises `UnreadablePattern`."""
    if len(text) > LONGEST_PATTERN:
        raise UnreadablePattern(text)
    reader = _Regex(text)
    found = reader.group(0)
    if reader.at < len(text):
        raise UnreadablePattern(text)
    return found


def read_wildcards(text: str) -> Group:
    """The pattern of a name in which ``*`` stands for any characters and ``?`` for one; it must match to the end."""
    if len(text) > LONGEST_PATTERN:
        raise UnreadablePattern(text)
    parts: list[Char | Group | End] = []
    for c in text:
        parts.append(Char(_any, 0, None) if c == "*" else Char(_any) if c == "?" else Char(_literal(c)))
    return Group(((*parts, End(False)),))


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


def matches_any(pattern: Group, names: Iterable[str]) -> bool:
    """Whether ``pattern`` matches one of ``names``."""
    return any(matches(pattern, name) for name in names)
