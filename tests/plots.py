"""What a chart says, measured: which of its texts lie on one another, and which leave the sheet."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations
from typing import Any

SLACK = 1.0
"""Pixels by which the extents of texts may touch."""


def texts_of(figure: Any) -> list[tuple[str, Any]]:
    """Every text that is drawn, with its extent in pixels. The figure is laid out first."""
    from matplotlib.text import Text

    figure.draw_without_rendering()
    renderer = figure.canvas.get_renderer()
    beyond = {id(label) for axes in figure.axes for axis in (axes.xaxis, axes.yaxis) for label in _labels_beyond(axis)}
    return [
        (text.get_text(), text.get_window_extent(renderer))
        for text in figure.findobj(Text)
        if text.get_visible() and text.get_text().strip() and id(text) not in beyond
    ]


def _labels_beyond(axis: Any) -> Iterator[Any]:
    """The labels of ticks beyond the ends of an axis, and of those that it no longer has: neither is drawn."""
    low, high = sorted(axis.get_view_interval())
    places = set(axis.get_majorticklocs()) | set(axis.get_minorticklocs())
    for tick in (*axis.get_major_ticks(), *axis.get_minor_ticks()):
        if not low <= tick.get_loc() <= high or tick.get_loc() not in places:
            yield from (tick.label1, tick.label2)


def overlaps(figure: Any) -> list[str]:
    """Pairs of texts that lie on one another."""
    found = texts_of(figure)
    return [
        f"`{a}` on `{b}`"
        for (a, one), (b, other) in combinations(found, 2)
        if min(one.x1, other.x1) - max(one.x0, other.x0) > SLACK
        and min(one.y1, other.y1) - max(one.y0, other.y0) > SLACK
    ]
