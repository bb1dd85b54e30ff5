"""What declarations in `.plan` text are made of: numbers, names, lists, and sections of fields."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator

from plandsl.units import (
    BYTE_RATE,
    BYTES,
    ENERGY,
    FLOP_RATE,
    MONEY,
    MONEY_RATE,
    POWER,
    REQUEST_RATE,
    TIME,
    TOKEN_RATE,
    Dimension,
)

UNITS = {
    BYTES: "B",
    BYTE_RATE: "B/s",
    FLOP_RATE: "FLOP/s",
    TIME: "s",
    TOKEN_RATE: "tok/s",
    REQUEST_RATE: "req/s",
    MONEY: "USD",
    MONEY_RATE: "USD / 1 s",
    POWER: "W",
    ENERGY: "J",
    Dimension(token=1): "tok",
    Dimension(request=1): "req",
}


def declaration(kind: str, name: str, lines: Iterable[str]) -> str:
    """A declaration of a ``kind``, with the ``lines`` of its body."""
    return "\n".join([f"{kind} {show_name(name, kind)} {{", *(f"  {line}" for line in lines), "}", ""])


def show_name(name: str, kind: str) -> str:
    """``name`` if it is an identifier, else ``the_`` and the kind: an inline declaration may have any name."""
    return name if re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name) else f"the_{kind}"


def show_number(value: float) -> str:
    """The shortest text that reads back as ``value``."""
    return str(int(value)) if float(value).is_integer() and abs(value) < 1e15 else repr(float(value))


def show_flag(value: object) -> str:
    """A yes or no."""
    return "true" if value else "false"


def percentage(share: float) -> str:
    """A percentage that reads back as ``share`` exactly, if there is one: rounding of ``share * 100`` may lose it."""
    wish = share * 100
    near = (round(wish, 9), wish, math.nextafter(wish, 0), math.nextafter(wish, math.inf))
    return f"{show_number(next((p for p in near if p / 100 == share), wish))} %"


def show_list(items: Iterable[str]) -> str:
    """A list of texts of values."""
    return f"[{', '.join(items)}]"


class Section:
    """The fields of a declaration; assumed fields are kept separate."""

    def __init__(self, assumed: Iterable[tuple[str, str]]) -> None:
        self.assumed = {path for path, _ in assumed}
        self.known: list[tuple[str, str]] = []
        self.guessed: list[tuple[str, str]] = []

    def put(self, path: str, value: str) -> None:
        """Add a field; a dotted path stands in a section."""
        (self.guessed if path in self.assumed else self.known).append((path, value))

    def lines(self) -> Iterator[str]:
        """All fields."""
        yield from nested(self.known)
        if self.guessed:
            yield "assumed {"
            yield from (f"  {line}" for line in nested(self.guessed))
            yield "}"


def nested(fields: list[tuple[str, str]]) -> Iterator[str]:
    """Lines of fields, given as paths and texts: those that share the start of a path stand in one section."""
    sections: dict[str, list[tuple[str, str]]] = {}
    for path, value in fields:
        head, dot, rest = path.partition(".")
        sections.setdefault(head, []).append((rest, value))
        if not dot:
            yield f"{head} = {value}"
            del sections[head]
    for head, inner in sections.items():
        yield f"{head} {{"
        yield from (f"  {line}" for line in nested(inner))
        yield "}"
