"""Panels and scatter plots in the style of `plandsl.plotting`: log axes, legends beside the data.

Drawing needs matplotlib: `python -m pip install 'matplotlib>=3.8'`, or the extra `dev`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from plandsl import plotting
from plandsl.plotting import STYLE, group_styles, plain_ticks


class MissingLibrary(RuntimeError):
    """matplotlib is not installed."""


class Line(NamedTuple):
    """A series in the colour and marker of its group; dotted with hollow marks where ``solid`` is false.

    A series that may overlap another takes a dashed ``style`` and a small ``size``, so that both are visible.
    """

    group: str
    x: ArrayLike
    y: ArrayLike
    solid: ArrayLike = True
    style: str = "-"
    size: float = 5.5


class Panel(NamedTuple):
    """One set of axes."""

    title: str
    x: str
    y: str
    lines: Sequence[Line]
    log_y: bool = True
    log_x: bool = True
    ticks: Sequence[float] = ()
    percent: bool = False


def pyplot() -> Any:
    """matplotlib's pyplot, drawing to files only."""
    try:
        return plotting.pyplot()
    except ImportError as error:
        raise MissingLibrary("figures need matplotlib: python -m pip install 'matplotlib>=3.8'") from error


def panels(
    rows: Sequence[Sequence[Panel]],
    path: Path,
    title: str,
    order: Sequence[str],
    extra: Mapping[str, Mapping[str, Any]],
) -> None:
    """Draw panels on a grid with one legend below them.

    ``order`` lists the groups of a whole set of figures, so that a group looks the same in all of them. ``extra`` adds
    entries to the legend that explain line styles.
    """
    plt = pyplot()
    lines = [line for row in rows for p in row for line in p.lines]
    styles = {g: [x.style for x in lines if x.group == g] for g in order}
    look = group_styles(order)
    with plt.rc_context(STYLE):
        width, height = 3.9 * max(map(len, rows)), 2.9 * len(rows) + 0.9
        figure, axes = plt.subplots(
            len(rows), max(map(len, rows)), figsize=(width, height), squeeze=False, layout="constrained"
        )
        for row, places in zip(rows, axes, strict=True):
            for panel, place in zip(row, places, strict=True):
                _panel(place, panel, look)
        figure.get_layout_engine().set(w_pad=0.08, wspace=0.06, h_pad=0.06)
        handles = [plt.Line2D([], [], label=g, linestyle=own[0], **look[g]) for g, own in styles.items() if own]
        handles += [plt.Line2D([], [], label=label, **dict(kind)) for label, kind in extra.items()]
        figure.suptitle(title, fontsize=11)
        figure.legend(handles=handles, loc="outside lower center", ncols=min(len(handles), int(width / 1.3)))
        _save(figure, path)


def _line(place: Any, line: Line, color: str, marker: str) -> None:
    x, y = np.asarray(line.x), np.asarray(line.y)
    solid = np.broadcast_to(np.asarray(line.solid), x.shape)
    place.plot(x, np.where(solid, y, np.nan), line.style, color=color, marker=marker, markersize=line.size)
    # the line to a hollow point is dotted from the last solid point on
    rest = ~solid
    rest[:-1] |= ~solid[1:]
    place.plot(x, np.where(rest, y, np.nan), ":", color=color)
    hollow = {"markerfacecolor": "white", "markersize": line.size}
    place.plot(x[~solid], y[~solid], " ", color=color, marker=marker, **hollow)


def _panel(place: Any, panel: Panel, look: Mapping[str, Mapping[str, str]]) -> None:
    for line in panel.lines:
        _line(place, line, **look[line.group])
    place.set(title=panel.title, xlabel=panel.x, ylabel=panel.y)
    if panel.log_x:
        place.set_xscale("log", base=2)
    if panel.log_y:
        place.set_yscale("log")
        plain_ticks(place.yaxis, *place.get_ylim())
    else:
        place.set_ylim(bottom=0)
    if panel.ticks:
        place.set_xticks(panel.ticks, [f"{t:g}" for t in panel.ticks])
        place.xaxis.minorticks_off()
    if panel.percent:
        place.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")


def scatter(
    measured: ArrayLike,
    predicted: ArrayLike,
    groups: Sequence[str],
    path: Path,
    unit: str = "",
    title: str = "",
    names: tuple[str, str] = ("measured", "predicted"),
) -> None:
    """Predicted against measured on equal log axes, a colour per group, with lines of 1 x and 1 +- 20 %.

    ``groups`` names the group of each point. The legend stands beside the axes and gives each group's count and
    median absolute error.
    """
    plt = pyplot()
    x, y, of = np.asarray(measured, float), np.asarray(predicted, float), np.asarray(groups)
    kinds = list(dict.fromkeys(groups))
    look = group_styles(kinds)
    low, high = min(x.min(), y.min()) / 1.3, max(x.max(), y.max()) * 1.3
    with plt.rc_context(STYLE):
        figure, place = plt.subplots(figsize=(6.4, 4.2), layout="constrained")
        ends = np.array([low, high])
        place.fill_between(ends, ends * 0.8, ends * 1.2, color="#eeeeee", zorder=0, label="within 20 %")
        place.plot(ends, ends, color="#888888", linewidth=1, zorder=1)
        dense = len(x) > 500
        for name in kinds:
            own = of == name
            error = 100 * float(np.median(np.abs(y[own] / x[own] - 1)))
            label = f"{name} ({own.sum()}, {error:.1f} %)"
            kind = {"s": 6 if dense else 22, "alpha": 0.5 if dense else 0.9, "linewidths": 0}
            place.scatter(x[own], y[own], label=label, rasterized=dense, **look[name], **kind)
        suffix = f" ({unit})" if unit else ""
        place.set(xscale="log", yscale="log", xlim=(low, high), ylim=(low, high), aspect="equal", title=title)
        place.set(xlabel=names[0] + suffix, ylabel=names[1] + suffix)
        plain_ticks(place.xaxis, low, high)
        plain_ticks(place.yaxis, low, high)
        where = {"loc": "upper left", "bbox_to_anchor": (1.02, 1), "alignment": "left"}
        legend = place.legend(**where, title="points, median error", markerscale=2.5 if dense else 1)
        for handle in legend.legend_handles:
            handle.set_alpha(1)
        _save(figure, path)


def _save(figure: Any, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    plotting.save(figure, path)
