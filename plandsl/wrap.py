"""Where a text breaks into lines of a terminal: between words, never between a number and its unit."""

from __future__ import annotations

import re
from collections.abc import Iterator

LEAST_WIDTH = 40
"""Columns that a terminal is taken to have at least."""

UNIT = r"(?:%|[A-Za-z]{1,3}(?:/[A-Za-z]+)?|tok/s|req/s|GPUs?|FLOPs?(?:/s)?)(?![\w%])"
GLUED = re.compile(rf"(?<=\d) (?={UNIT})")
"""The space between a number and its unit."""

WORD = re.compile(r"\S+")
SEAMS = re.compile(r"(?<=[/_,.:=)}\]-])(?=\w)")
"""Where a word that is wider than a line breaks."""

KEPT = "\N{NO-BREAK SPACE}"


def width_of(text: str) -> int:
    """The columns that a text takes in a terminal."""
    if text.isascii():
        return len(text)
    from rich.cells import cell_len

    return cell_len(text)


def indent_of(text: str) -> int:
    """The spaces that a text begins with."""
    return len(text) - len(text.lstrip(" "))


def pieces(text: str, first: int, width: int) -> list[tuple[int, int]]:
    """The stretches ``text[start:end]`` of one paragraph that stand in a line each.

    The first is at most ``first`` columns wide, the others ``width``; spaces between them belong to none. A word that
    is wider than a line breaks at a seam, or where the line ends.
    """
    out: list[tuple[int, int]] = []
    begun, ended = 0, 0
    for start, end in _words(text, width):
        limit = width if out else first
        if ended and width_of(text[begun:end]) > limit:
            out.append((begun, ended))
            begun, limit = start, width
        while width_of(text[begun:end]) > limit:
            cut = _cut(text, max(begun, start), end, limit - width_of(text[begun : max(begun, start)]))
            out.append((begun, cut))
            begun, start, limit = cut, cut, width
        ended = end
    return [*out, (begun, ended)] if ended > begun or not out else out


def _words(text: str, width: int) -> Iterator[tuple[int, int]]:
    """The words of a text, a number and its unit as one unless they are wider than a line."""
    glued = GLUED.sub(KEPT, text)
    for found in re.finditer(rf"(?:[^\s]|{KEPT})+", glued):
        if KEPT in found[0] and width_of(found[0]) > width:
            yield from ((one.start(), one.end()) for one in WORD.finditer(text, found.start(), found.end()))
        else:
            yield found.start(), found.end()


def _cut(text: str, start: int, end: int, room: int) -> int:
    """Where to cut the word ``text[start:end]``, of which ``room`` columns fit: behind a sign, or at the end."""
    most = start + 1
    while most < end and width_of(text[start : most + 1]) <= room:
        most += 1
    seams = [found.start() for found in SEAMS.finditer(text, start + 1, end) if found.start() <= most]
    return seams[-1] if seams else most


def wrap(text: str, width: int | None, hang: int = 0) -> str:
    """``text`` in lines of at most ``width`` columns; without a width as it is.

    A line that goes on is indented as its first, and by ``hang`` more.
    """
    if width is None:
        return text
    return "\n".join(line for one in text.split("\n") for line in wrap_line(one, width, hang))


def wrap_line(line: str, width: int, hang: int = 0) -> list[str]:
    """One line as several; see `wrap`."""
    if width_of(line) <= width:
        return [line]
    own = min(indent_of(line), width // 2)
    line, indent = " " * own + line.lstrip(" "), min(own + hang, width // 2)
    first, *rest = pieces(line, width, width - indent)
    return [line[first[0] : first[1]], *(" " * indent + line[start:end] for start, end in rest)]


def longest_word(text: str, width: int) -> int:
    """The columns of the widest stretch that `pieces` keeps whole."""
    return max((width_of(text[start:end]) for start, end in _words(text, width)), default=0)
