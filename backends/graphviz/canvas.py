"""A sheet with boxes, text and lines at given positions, written as DOT.

Coordinates are points, x to the right and y down. The layout is fixed (`layout = nop2`), so Graphviz places
nothing and large plans draw in milliseconds. Later shapes lie on top of earlier ones.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import TypeAlias

from plandsl.backends.graphviz.fonts import FONT, fit, text_width
from plandsl.backends.graphviz.palette import INK

Point: TypeAlias = tuple[float, float]

ARROW = 8.0
"""Length of an arrow's head."""


def quote(text: str) -> str:
    """``text`` as a DOT string of one line that Graphviz shows literally, without escapes or entities."""
    clean = "".join(c if c.isprintable() else " " for c in text)
    return '"' + clean.replace("&", "&amp;").replace("\\", "\\\\").replace('"', '\\"') + '"'


def html(text: str) -> str:
    """``text`` escaped for an HTML-like label."""
    clean = "".join(c if c.isprintable() else " " for c in text)
    return clean.replace("\\", "\\\\").replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def number(value: float) -> str:
    """A coordinate in its shortest form; equal coordinates print equally."""
    text = f"{value:.2f}".rstrip("0").rstrip(".")
    return "0" if text == "-0" else text


class Canvas:
    """Collects shapes; `dot` returns them as DOT text."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.right = self.bottom = 0.0
        self._shapes: list[tuple[str, float, float, float, float, dict[str, str]]] = []
        self._lines: dict[int, tuple[Sequence[Point], dict[str, str], tuple[bool, bool]]] = {}
        self._names: dict[str, int] = {}

    def _unique_name(self, name: str) -> str:
        """``name``, made unique among the shapes; viewers show it when the pointer rests on the shape."""
        again = self._names[name] = self._names.get(name, 0) + 1
        return name if again == 1 else f"{name} ({again})"

    def _add(self, name: str, x: float, y: float, w: float, h: float, attributes: dict[str, str]) -> None:
        self.right, self.bottom = max(self.right, x + w), max(self.bottom, y + h)
        self._shapes.append((self._unique_name(name), x, y, w, h, attributes))

    def box(
        self,
        x: float,
        y: float,
        w: float,
        h: float,
        fill: str = "",
        stroke: str = "",
        *,
        pen: float = 1,
        style: str = "",
        label: str = "",
        size: float = 11,
        bold: bool = False,
        color: str = INK,
        name: str = "",
    ) -> None:
        """A rectangle with its upper left corner at ``x, y``; its label is cut to fit."""
        look: dict[str, str] = {}
        styles = [s for s in ("filled" if fill and "striped" not in style else "", style) if s]
        if styles:
            look["style"] = quote(",".join(styles)) if len(styles) > 1 else styles[0]
        if fill:
            look["fillcolor"] = quote(fill)
        if stroke:
            look |= {"color": quote(stroke), "penwidth": number(pen)}
        shown = fit(label, w - 4, size, bold) if label else ""
        if shown:
            look |= _label(shown, size, bold=bold, color=color, width=w, align="c")
        self._add(name or label or self.name, x, y, w, h, attributes=look)

    def text(
        self,
        x: float,
        y: float,
        text: str,
        *,
        size: float = 11,
        bold: bool = False,
        color: str = INK,
        align: str = "l",
        width: float | None = None,
        name: str = "",
    ) -> None:
        """One line, ``y`` its middle, ``x`` its left end (``l``), middle (``c``) or right end (``r``)."""
        if not text.strip():
            return  # Graphviz crashes when it frees an empty line
        shown = text if width is None else fit(text, width, size, bold)
        w = text_width(shown, size, bold) + 4 if width is None else width
        w = math.ceil(w)
        left = {"l": x, "c": x - w / 2, "r": x - w}[align]
        look = {"shape": "plaintext"} | _label(shown, size, bold=bold, color=color, width=w, align=align)
        self._add(name or text or self.name, left, y - size * 0.65, w, size * 1.3, attributes=look)

    def line(
        self,
        points: Sequence[Point],
        color: str,
        *,
        pen: float = 1,
        arrow: bool = False,
        both: bool = False,
        style: str = "",
        name: str = "",
    ) -> None:
        """Straight pieces through ``points``, with an arrow's head at the end, or at both ends."""
        look = {"color": quote(color), "penwidth": number(pen)}
        if style:
            look["style"] = quote(style)
        if both or not arrow:
            look["dir"] = "both" if both else "none"
        x, y = points[0]
        self._lines[len(self._shapes)] = (points, look, (both, arrow or both))
        self._add(name or f"{self.name} line", x, y, 0, 0, attributes={"shape": "point", "style": "invis"})
        for px, py in points:
            self.right, self.bottom = max(self.right, px), max(self.bottom, py)

    def place(self, other: Canvas, x: float, y: float, called: str) -> None:
        """Copy all shapes of another sheet, moved by ``x, y``; their names get the prefix ``called``."""
        for i, (name, left, top, w, h, look) in enumerate(other._shapes):
            if i in other._lines:
                points, drawn, heads = other._lines[i]
                self._lines[len(self._shapes)] = [(a + x, b + y) for a, b in points], drawn, heads
            self._add(f"{called} {name}", left + x, top + y, w, h, attributes=look)
        self.right, self.bottom = max(self.right, other.right + x), max(self.bottom, other.bottom + y)

    def dot(self) -> str:
        """The picture as DOT text."""
        out = [
            f"digraph {quote(self.name)} {{",
            '  graph [layout=nop2, bgcolor="white", pad="0.25", outputorder=breadthfirst]',
            # with another font a label may be wider than its box; for `fixedsize=true` Graphviz would warn of it
            '  node [shape=box, fixedsize=shape, margin=0, label="", penwidth=0, '
            f'fontname="{FONT}", fontcolor="{INK}"]',
            "  edge [arrowsize=0.8]",
            f"  // {number(self.right)} x {number(self.bottom)} points",
        ]
        for i, (name, x, y, w, h, look) in enumerate(self._shapes):
            place = f'pos="{number(x + w / 2)},{number(self.bottom - y - h / 2)}"'
            size = f"width={w / 72:.3f}, height={h / 72:.3f}"
            more = "".join(f", {key}={value}" for key, value in look.items())
            out.append(f"  {quote(name)} [{place}, {size}{more}]")
            if i in self._lines:
                out.append(f"  {quote(name)} -> {quote(name)} [{self._spline(i)}]")
        return "\n".join([*out, "}"]) + "\n"

    def _spline(self, i: int) -> str:
        """The attributes of a line, as straight cubic Bezier pieces."""
        points, look, (first, last) = self._lines[i]
        path = [(x, self.bottom - y) for x, y in points]
        start = ""
        if first:
            start = f"s,{number(path[0][0])},{number(path[0][1])} "
            path[0] = _before(path[0], path[1])
        if last:
            start += f"e,{number(path[-1][0])},{number(path[-1][1])} "
            path[-1] = _before(path[-1], path[-2])
        spots = [path[0]]
        for a, b in pairwise(path):
            spots += [a, b, b]
        joined = " ".join(f"{number(x)},{number(y)}" for x, y in spots)
        return f'pos="{start}{joined}"' + "".join(f", {key}={value}" for key, value in look.items())


def _before(tip: Point, other: Point) -> Point:
    """The foot of an arrow's head with its tip at the end of a piece."""
    (x, y), (ax, ay) = tip, other
    length = max(abs(x - ax) + abs(y - ay), 1e-9)
    return x - (x - ax) / length * ARROW, y - (y - ay) / length * ARROW


_END = {"l": "\\l", "c": "", "r": "\\r"}
_SIDE = {"l": "LEFT", "c": "CENTER", "r": "RIGHT"}


def _label(text: str, size: float, bold: bool, color: str, width: float, align: str) -> dict[str, str]:
    """The attributes of a line of text in a node. Bold text needs a table, because Graphviz has no attribute for it."""
    look = {"label": quote(text)[:-1] + _END[align] + '"', "fontsize": number(size)}
    if bold:
        table = '<TABLE BORDER="0" CELLBORDER="0" CELLPADDING="0" CELLSPACING="0"><TR>'
        inside = math.floor(width) - 1  # Graphviz rounds up, and warns of a table that is wider than its node
        cell = f'<TD WIDTH="{inside}" ALIGN="{_SIDE[align]}"><B>{html(text)}</B></TD>'
        look["label"] = f"<{table}{cell}</TR></TABLE>>"
    if color != INK:
        look["fontcolor"] = quote(color)
    return look
