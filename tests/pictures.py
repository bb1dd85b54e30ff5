"""What a picture says, read from its DOT text and measured: texts, boxes and lines in points, and what is wrong."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from html import unescape
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from plandsl.backends.graphviz.fonts import ELLIPSIS, text_width

NODE = re.compile(r'  "((?:[^"\\]|\\.)*)" \[pos="([-\d.]+),([-\d.]+)", width=([\d.]+), height=([\d.]+)(.*)\]')
EDGE = re.compile(r'  "((?:[^"\\]|\\.)*)" -> "(?:[^"\\]|\\.)*" \[pos="(?:[se],[-\d.]+,[-\d.]+ )*([^"]*)"(.*)\]')
BOLD = re.compile(r"<B>(.*)</B>")
LABEL = re.compile(r'label="((?:[^"\\]|\\.)*?)(\\[lr])?"')

SLACK = 0.6
"""Points by which shapes may touch: coordinates are written with two digits, widths with three."""


class Shape(NamedTuple):
    """A box, a text or a piece of a line, in points; y grows upwards. ``name`` is the text, or the name of the shape.

    ``order`` is its place among all shapes: later ones lie on top. ``hides`` says whether it is filled.
    """

    name: str
    left: float
    right: float
    bottom: float
    top: float
    order: int = 0
    hides: bool = False


class Picture(NamedTuple):
    """The shapes of a picture, in the order in which they are drawn."""

    texts: tuple[Shape, ...]
    boxes: tuple[Shape, ...]
    lines: tuple[Shape, ...]

    @property
    def words(self) -> tuple[str, ...]:
        """Every text."""
        return tuple(text.name for text in self.texts)


def read_picture(dot: str) -> Picture:
    """The shapes of a DOT text."""
    texts, boxes = [], []
    for node in NODE.finditer(dot):
        x, y, w, h = (float(node[i]) for i in (2, 3, 4, 5))
        left, right, bottom, top = x - 36 * w, x + 36 * w, y - 36 * h, y + 36 * h
        if "plaintext" in node[6]:
            texts.append(_text(node[6], left, right, y)._replace(order=node.start()))
        elif "invis" not in node[6]:
            hides = "filled" in node[6] or "striped" in node[6]
            boxes.append(Shape(node[1], left, right, bottom, top, order=node.start(), hides=hides))
    return Picture(tuple(texts), tuple(boxes), tuple(_lines(dot)))


def _text(look: str, left: float, right: float, middle: float) -> Shape:
    """A line of text: its ends are measured, its height is that of capitals with a descender."""
    size = float(re.search(r"fontsize=([\d.]+)", look)[1])  # type: ignore[index]
    bold, plain = BOLD.search(look), LABEL.search(look)
    if bold:
        text, side = unescape(bold[1]).replace("\\\\", "\\"), re.search(r'ALIGN="(\w)', look)[1]  # type: ignore[index]
        side = side.lower()
    else:
        text, side = plain[1], (plain[2] or "c")[-1]  # type: ignore[index]
        text = unescape(text.replace("\\\\", "\\").replace('\\"', '"'))
    width = text_width(text, size, bool(bold))
    start = {"l": left, "c": (left + right - width) / 2, "r": right - width}[side]
    return Shape(text, start, start + width, middle - 0.45 * size, middle + 0.4 * size)


def _lines(dot: str) -> Iterator[Shape]:
    """Each straight piece of each line, from its lower end, which may be right of the upper one."""
    for edge in EDGE.finditer(dot):
        spots = [tuple(map(float, spot.split(","))) for spot in edge[2].split()]
        for (ax, ay), (bx, by) in pairwise(spots):
            (left, low), (right, high) = sorted([(ax, ay), (bx, by)], key=lambda end: end[1])
            yield Shape(edge[1], left, right, low, high, order=edge.start())


# ---- what is wrong


def _edges(shapes: Sequence[Shape]) -> Any:
    """Left, right, bottom, top and order of shapes: [5, shapes]."""
    return np.array([(s.left, s.right, s.bottom, s.top, s.order) for s in shapes], dtype=float).reshape(-1, 5).T


def _meets(text: Shape, edges: Any, slack: float = SLACK) -> Any:
    """Which shapes cover some points that ``text`` covers too."""
    left, right, bottom, top, _ = edges
    return (
        (text.left < right - slack)
        & (left < text.right - slack)
        & (text.bottom < top - slack)
        & (bottom < text.top - slack)
    )


def _covers(text: Shape, edges: Any) -> Any:
    """Which shapes cover all points of ``text``."""
    left, right, bottom, top, _ = edges
    return (
        (text.left >= left - SLACK)
        & (text.right <= right + SLACK)
        & (text.bottom >= bottom - SLACK)
        & (text.top <= top + SLACK)
    )


STEP = 4.0
"""Points along a slanted piece of a line, at each of which it is looked for."""


def _steps(line: Shape) -> Iterator[Shape]:
    """A level or upright piece itself, and points along a slanted one."""
    wide, high = abs(line.right - line.left), line.top - line.bottom
    if not wide or not high:
        yield line._replace(left=min(line.left, line.right), right=max(line.left, line.right))
        return
    many = int(max(wide, high) / STEP) + 1
    for i in range(many + 1):
        x, y = line.left + (line.right - line.left) * i / many, line.bottom + high * i / many
        yield line._replace(left=x, right=x, bottom=y, top=y)


class Measured:
    """A picture with the edges of its shapes as arrays."""

    def __init__(self, picture: Picture) -> None:
        self.picture = picture
        self.boxes, self.texts = _edges(picture.boxes), _edges(picture.texts)
        self.hides = np.array([box.hides for box in picture.boxes], dtype=bool)
        self.lines = [step for line in picture.lines for step in _steps(line)]
        self.pieces = _edges(self.lines)

    def ground(self, text: Shape) -> float:
        """The order of the last box that covers all that lies below ``text``; 0 for the sheet itself."""
        below = self.hides & (self.boxes[4] < text.order) & _covers(text, self.boxes)
        return float(self.boxes[4][below].max(initial=0))

    def overflows(self) -> Iterator[str]:
        """Texts that cross the edge of a box which can be seen there."""
        for text in self.picture.texts:
            seen = self.boxes[4] >= self.ground(text)
            for i in np.flatnonzero(seen & _meets(text, self.boxes) & ~_covers(text, self.boxes)):
                yield f"`{text.name}` crosses `{self.picture.boxes[i].name}`"

    def overlaps(self) -> Iterator[str]:
        """Pairs of texts that lie on one another."""
        for text in self.picture.texts:
            for i in np.flatnonzero((self.texts[4] > text.order) & _meets(text, self.texts)):
                yield f"`{text.name}` on `{self.picture.texts[i].name}`"

    def strikes(self) -> Iterator[str]:
        """Texts that a line runs through where it can be seen."""
        for text in self.picture.texts:
            wide = self.pieces + np.array([[-1], [1], [-1], [1], [0]]) * (SLACK - 1)  # lines have no width
            met = np.flatnonzero((self.pieces[4] > self.ground(text)) & _meets(text, wide))
            yield from dict.fromkeys(f"`{self.lines[i].name}` through `{text.name}`" for i in met)


def cuts(picture: Picture) -> list[str]:
    """Texts that end in an ellipsis."""
    return [text for text in picture.words if text.endswith(ELLIPSIS)]


def faults(dot: str) -> list[str]:
    """Everything that is wrong with the texts of a picture, except that some are cut."""
    measured = Measured(read_picture(dot))
    return [*measured.overflows(), *measured.overlaps(), *measured.strikes()]
