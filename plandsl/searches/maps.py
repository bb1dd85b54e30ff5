"""Heat maps of a search over pairs of fields: each cell has the best goal over all values of the other fields."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from plandsl import plotting
from plandsl.answers.text.words import show_value
from plandsl.searches.front import Floats
from plandsl.searches.points import Cells, Points
from plandsl.searches.run import MEMORY
from plandsl.searches.words import WORDS
from plandsl.spec.search import Choice

MAPS = 3
"""Most maps in one picture."""

FULL = 0.5
"""Share of cells that must have plans; a map with fewer is not drawn."""

TICKS = 8
"""Most labels along the vertical side of a map."""

LETTERS = 84
"""Letters that fit into the labels below all maps of a picture together."""

DECADE = 10.0
"""Colours follow the logarithm where the largest value is more than this many times the smallest."""


def axis_label(metric: str) -> str:
    """A metric's name on an axis."""
    return "throughput per GPU" if metric == "throughput_per_gpu" else WORDS.get(metric, metric)


def draw_maps(part: Any, points: Sequence[Points]) -> None:
    """Draw the maps over which the goal changes most, `MAPS` in all, and below them what the letters mean."""
    each = max(1, MAPS // len(points))
    shown = [(p, pair) for p in points for pair in map_pairs(p)[:each]]
    letters = _letters(points)
    places = part.subplots(1, len(shown), squeeze=False)[0]
    used: set[str] = set()
    for p in points:
        own = [(place, pair) for place, (q, pair) in zip(places, shown, strict=True) if q is p]
        used |= _draw_search_maps(part, own, p, letters, LETTERS // len(shown))
        if len(points) > 1:
            for place, _ in own:
                place.set_title(p.search.name)
    said = [
        f"({letter}) {'memory' if reason == MEMORY else reason}" for reason, letter in letters.items() if reason in used
    ]
    notes = [f"hatched: nothing meets all, most miss {', '.join(said)}"] if said else []
    if any((p.maps[pair].ends.sum(axis=2) == 0).any() for p, pair in shown):
        notes.append("blank: no such plan")
    part.supxlabel("; ".join(notes), fontsize=7, color="#444444")


def map_pairs(points: Points) -> list[tuple[str, str]]:
    """Pairs of fields whose map has plans in `FULL` of its cells or more, the largest change of the goal first."""

    def worth(cells: Cells) -> float:
        found = np.abs(cells.best[np.isfinite(cells.best)])
        if not len(found):
            return 0.0
        return float(np.log(max(found.max(), 1e-30) / max(found.min(), 1e-30)))

    full = [pair for pair, cells in points.maps.items() if (cells.ends.sum(axis=2) > 0).mean() >= FULL]
    return sorted(full, key=lambda pair: -worth(points.maps[pair]))


def _letters(points: Sequence[Points]) -> dict[str, str]:
    reasons = dict.fromkeys(reason for p in points for reason in p.reasons)
    return {reason: chr(ord("a") + i % 26) for i, reason in enumerate(reasons)}


def _draw_search_maps(
    part: Any, own: Sequence[tuple[Any, tuple[str, str]]], points: Points, letters: dict[str, str], room: int
) -> set[str]:
    """Draw the maps of one search in one colour scale, ``room`` letters below each. Return the reasons shown."""
    from matplotlib.colors import LogNorm
    from matplotlib.ticker import LogLocator

    sign = 1 if points.goal.most else -1
    values = [sign * points.maps[pair].best for _, pair in own]
    every = np.concatenate([v[np.isfinite(v)] for v in values])
    norm, used, mesh = _colour_norm(every), set(), None
    for (place, pair), value in zip(own, values, strict=True):
        a, b = (next(c for c in points.fields if c.path == path) for path in pair)
        ends = points.maps[pair].ends
        if value.shape[0] > value.shape[1]:  # the longer side is horizontal
            a, b, value, ends = b, a, value.T, ends.swapaxes(0, 1)
        colours = "viridis" if points.goal.most else "viridis_r"  # the brighter the better
        mesh = place.pcolormesh(np.where(np.isfinite(value), value, np.nan), cmap=colours, norm=norm, linewidth=0.3,
                                edgecolors="white", rasterized=False)  # fmt: skip
        used |= _hatch_cells(place, ends, points.reasons, letters)
        _label_sides(place, a, b, value.shape, room)
        if len(every):
            _outline_best(place, value, points.goal.most)
    if len(every):
        bar = part.colorbar(mesh, ax=[place for place, _ in own], aspect=24, pad=0.02)
        metric = points.goal.metric
        bar.set_label(f"{'most' if points.goal.most else 'least'} {axis_label(metric)}")
        bar.outline.set_visible(False)
        bar.ax.yaxis.set_major_formatter(lambda value, _: plotting.drop_zeros(show_value(metric, value)))
        bar.ax.yaxis.minorticks_off()
        if isinstance(norm, LogNorm):
            bar.ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if every.max() < 100 * every.min() else (1,)))
    return used


def _colour_norm(values: Floats) -> Any:
    from matplotlib.colors import LogNorm, Normalize

    if not len(values):
        return Normalize()
    low, high = float(values.min()), float(values.max())
    return LogNorm(low, high) if low > 0 and high / low > DECADE else Normalize(low, high)


def _hatch_cells(place: Any, ends: Any, reasons: Sequence[str], letters: dict[str, str]) -> set[str]:
    """Hatch cells where no configuration meets every requirement, with the letter of the reason that rules out most."""
    from matplotlib.patches import Rectangle

    used = set()
    size = 7 if max(ends.shape[:2]) <= 12 else 5
    for row, column in np.argwhere((ends[:, :, 0] == 0) & (ends.sum(axis=2) > 0)):
        reason = reasons[int(np.argmax(ends[row, column, 1:]))]
        used.add(reason)
        place.add_patch(Rectangle((column, row), 1, 1, facecolor="#f4f4f4", edgecolor="#c4c4c4", hatch="/////",
                                  linewidth=0.3))  # fmt: skip
        place.text(column + 0.5, row + 0.5, letters[reason], ha="center", va="center", fontsize=size,
                   bbox={"boxstyle": "circle,pad=0.12", "facecolor": "#f4f4f4", "edgecolor": "none"})  # fmt: skip
    return used


def _outline_best(place: Any, value: Floats, most: bool) -> None:
    """Draw a frame around the best cell."""
    from matplotlib.patches import Rectangle

    row, column = np.unravel_index(np.nanargmax(value) if most else np.nanargmin(value), value.shape)
    place.add_patch(Rectangle((float(column), float(row)), 1, 1, fill=False, edgecolor="black", linewidth=1.5))


def _label_sides(place: Any, rows: Choice, columns: Choice, shape: tuple[int, ...], letters: int) -> None:
    """Label both sides with the field and some values (at most ``letters`` letters below); remove grid and spines."""
    place.set(xlabel=columns.name, ylabel=rows.name)
    place.grid(False)
    place.spines[:].set_visible(False)
    place.tick_params(length=0)
    below = max(1, letters // (2 + max(len(s.text) for s in columns.settings)))
    for axis, choice, size, most in ((place.xaxis, columns, shape[1], below), (place.yaxis, rows, shape[0], TICKS)):
        step = -(-size // most)
        cells = range(0, size, step)
        # the first value of each cell: `Points` puts value i of n into cell i * size // n
        texts = [choice.settings[-(-i * len(choice.settings) // size)].text for i in cells]
        axis.set_ticks([i + 0.5 for i in cells], texts)
