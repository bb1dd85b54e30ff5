"""One style for figures: colours safe for colour-blind readers, markers, plain numbers on log axes."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from plandsl.diagnostics import Diagnostic, PlanError
from plandsl.files import write_whole

ENDINGS = (".svg", ".png", ".pdf")

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe and Ito, "Color Universal Design", 2008, without its yellow, which is faint on white."""
MARKERS = "osD^vPX"
STYLE = {
    "figure.dpi": 100,
    "font.size": 9,
    "font.family": "DejaVu Sans",
    "axes.titlesize": 10,
    "axes.labelsize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.5,
    "lines.markersize": 4.5,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "savefig.facecolor": "white",
    # the same data give the same file
    "svg.hashsalt": "plandsl",
}
SMALL = {**STYLE, "font.size": 8, "axes.labelsize": 8, "axes.titlesize": 8.5, "legend.fontsize": 8,
         "hatch.linewidth": 0.5}  # fmt: skip
"""The style of pictures with several panels."""

DASHES = ("--", ":", "-.")
"""Line style of bounds: of the first search or plan, the second and so on."""


def pyplot() -> Any:
    """matplotlib's pyplot, drawing to files only. Raises `ImportError` if matplotlib is missing."""
    import matplotlib

    matplotlib.use("Agg", force=False)
    import matplotlib.pyplot as plt

    return plt


def check_picture_path(path: Path, work: str, instead: str) -> None:
    """Raise `PlanError` where no picture can be drawn to ``path``. Called before ``work``, so that no work is lost.

    ``instead``: what there is without matplotlib.
    """
    if path.suffix not in ENDINGS:
        raise PlanError([Diagnostic("E400", f"`{path.name}` ends neither in .svg nor in .png or .pdf")])
    if not path.parent.is_dir():
        raise PlanError([Diagnostic("E405", f"cannot write {path}: there is no folder {path.parent}")])
    try:
        pyplot()
    except ImportError as error:
        hint = f"pip install 'plandsl[plot]', or {instead}"
        raise PlanError([Diagnostic("E411", f"drawing {work} needs matplotlib", hint=hint)]) from error


def group_styles(groups: Sequence[str]) -> dict[str, dict[str, str]]:
    """A colour and a marker for each group; the first 49 groups have different pairs."""
    n = len(PALETTE)
    return {g: {"color": PALETTE[i % n], "marker": MARKERS[(i + i // n) % n]} for i, g in enumerate(groups)}


def plain_ticks(axis: Any, low: float, high: float) -> None:
    """Ticks of a log axis as plain numbers: 1, 2 and 5 of each decade if there are few decades, else 1."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    decades = np.log10(high / low)
    if decades > 4:
        return
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if decades < 2.2 else (1,)))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def unit_ticks(axis: Any, ends: tuple[float, float], show: Callable[[float], str], dense: float = 1.6) -> None:
    """Ticks of a log axis, each with its unit; at 1, 2 and 5 up to ``dense`` decades, for which an axis needs room."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    decades = np.log10(ends[1] / ends[0])
    few = (1, 1.5, 2, 3, 4, 5, 7) if decades < 0.6 else (1, 2, 5)
    axis.set_major_locator(LogLocator(subs=few if decades < dense else (1, 3) if decades < 2.6 else (1,)))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: drop_zeros(show(value))))


PAPER = {"boxstyle": "square,pad=0.08", "facecolor": "white", "edgecolor": "none", "alpha": 0.75}
"""The ground below a text that stands on lines."""

SMALL_PRINT = {"fontsize": 7, "color": "#333333", "zorder": 4, "textcoords": "offset points", "in_layout": False}
"""The look of a text beside the line of a bound."""


def draw_bound(
    place: Any, bound: float, *, along_x: bool, upper: bool, text: str = "", dash: str = "--", shade: bool = True
) -> None:
    """Draw the line of a bound, its text, and a shade over what it forbids: on log axes what lies within 1 : 100.

    The ends of the axis stay where they are.
    """
    low, high = place.get_xlim() if along_x else place.get_ylim()
    forbidden = (bound, high * 100) if upper else (low / 100, bound)
    line, span = (place.axvline, place.axvspan) if along_x else (place.axhline, place.axhspan)
    line(bound, color="#333333", linewidth=1, linestyle=dash, zorder=2.5)
    if shade:
        span(*forbidden, color="#000000", alpha=0.05, linewidth=0, zorder=0)
    (place.set_xlim if along_x else place.set_ylim)(low, high)
    if text:
        write_bound(place, bound, text, along_x=along_x, upper=upper)


def write_bound(place: Any, bound: float, text: str, *, along_x: bool, upper: bool) -> None:
    """Write the text of a bound beside its line, on the forbidden side."""
    side = 1 if upper else -1
    if along_x:
        at = {"xycoords": ("data", "axes fraction"), "rotation": 90, "ha": "left" if upper else "right", "va": "bottom"}
        place.annotate(text, (bound, 0.02), (2 * side, 0), **at, **SMALL_PRINT, bbox=PAPER)
    else:
        at = {"xycoords": ("axes fraction", "data"), "ha": "right", "va": "bottom" if upper else "top"}
        place.annotate(text, (0.985, bound), (0, 2 * side), **at, **SMALL_PRINT, bbox=PAPER)


def drop_zeros(text: str) -> str:
    """A quantity without trailing zeros: ``10.0 ms`` as ``10 ms``."""
    return re.sub(r"\.0+ ", " ", text)


def save(figure: Any, path: Path) -> None:
    """Write a figure in the format of the file's ending, whole or not at all, and close it.

    Raises `PlanError` (E405) if it cannot be written.
    """
    metadata = {"Date": None} if path.suffix == ".svg" else None
    try:
        with write_whole(path) as file:
            figure.savefig(file, format=path.suffix[1:], metadata=metadata, dpi=200, bbox_inches="tight")
    finally:
        pyplot().close(figure)
