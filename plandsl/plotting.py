"""One style for figures: colours safe for colour-blind readers, markers, plain numbers on log axes."""

from __future__ import annotations

import atexit
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from plandsl.diagnostics import Diagnostic, PlanError
from plandsl.files import write_whole
from plandsl.values import sum_up

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
    if "matplotlib" not in sys.modules:
        _keep_home_clean()
    import matplotlib

    matplotlib.use("Agg", force=False)
    import matplotlib.pyplot as plt

    return plt


def _keep_home_clean() -> None:
    """Let matplotlib write its list of fonts to a folder that goes with the process, where it has no folder yet."""
    home, folders = os.path.expanduser("~"), (("XDG_CONFIG_HOME", ".config"), ("XDG_CACHE_HOME", ".cache"))
    own = [os.path.join(os.environ.get(name) or os.path.join(home, usual), "matplotlib") for name, usual in folders]
    if "MPLCONFIGDIR" in os.environ or any(map(os.path.isdir, own)):
        return
    with suppress(OSError):  # matplotlib finds a place itself, or draws without one
        folder = tempfile.mkdtemp(prefix="plandsl-")
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        os.environ["MPLCONFIGDIR"] = folder


def check_picture_path(path: Path, work: str, instead: str) -> None:
    """Raise `PlanError` where no picture can be drawn to ``path``. Called before ``work``, so that no work is lost.

    ``instead``: what there is without matplotlib.
    """
    if path.suffix not in ENDINGS:
        raise PlanError([Diagnostic("E400", f"`{path.name}` ends neither in .svg nor in .png or .pdf")])
    if not os.path.isdir(path.parent):
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


STEPS = ((1, 1.5, 2, 3, 4, 5, 7), (1, 2, 3, 5), (1, 2, 5), (1, 3), (1,))
"""Ticks of a decade, from many to few."""


def unit_ticks(axis: Any, ends: tuple[float, float], show: Callable[[float], str], room: int = 6) -> None:
    """Ticks of a log axis, each with its unit, so far apart that ``room`` labels would fit side by side.

    An axis without two ticks at round steps of a decade has two or three at round numbers.
    """
    from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

    ticks = next(filter(None, (_ticks_at(ends, steps, room) for steps in STEPS)), [])
    axis.set_major_locator(FixedLocator(ticks) if ticks else MaxNLocator(2, steps=(1, 2, 5, 10)))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: drop_zeros(show(value))))


def _ticks_at(ends: tuple[float, float], steps: Sequence[float], room: int) -> list[float]:
    """The ticks between both ends at ``steps`` of each decade, or of every n-th; none where fewer than two fit."""
    low, high = np.log10(ends)
    for every in range(1, 10) if len(steps) == 1 else (1,):
        decades = range(int(np.floor(low)) // every * every, int(np.ceil(high)) + 1, every)
        ticks = [10.0**decade * step for decade in decades for step in steps]
        inside = [tick for tick in ticks if low - 1e-9 <= np.log10(tick) <= high + 1e-9]
        if len(inside) >= 2 and np.diff(np.log10(inside)).min() * room >= high - low:
            return inside
    return []


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


def write_caption(figure: Any, title: str, words: str = "") -> None:
    """Write what a picture shows above its panels: a title, and below it a line about what was drawn."""
    figure.suptitle(f"{title}\n{words}" if words else title, x=0.01, ha="left", fontsize=9, linespacing=1.5)


SAME = 0.006
"""Curves that stay within this share of the axes of one another look like one."""

Line = tuple[Any, Any]
"""The points of a curve: x and y, both positive."""


def find_same(curves: Sequence[Line]) -> list[int | None]:
    """For each curve the first one before it that it lies on, on log axes that hold all of them; None for none."""
    logs = [np.log(np.maximum(np.array([x, y], dtype=float), 1e-30)) for x, y in curves]
    every = np.concatenate([points for points in logs if points.size] or [np.zeros((2, 1))], axis=1)
    size = np.maximum(np.ptp(every, axis=1), 1e-9)[:, None]
    scaled = [points / size for points in logs]
    out: list[int | None] = []
    for i, points in enumerate(scaled):
        others = (j for j in range(i) if out[j] is None)
        out.append(next((j for j in others if _lie_on(points, scaled[j]) and _lie_on(scaled[j], points)), None))
    return out


def _lie_on(points: Any, line: Any) -> bool:
    """Whether all ``points`` lie within `SAME` of a line through points: [2, points]."""
    if points.shape[1] < 2 or line.shape[1] < 2:
        return False
    start, along = line[:, :-1, None], np.diff(line, axis=1)[:, :, None]  # [2, pieces, 1]
    length = np.maximum((along**2).sum(axis=0), 1e-18)
    share = np.clip(((points[:, None, :] - start) * along).sum(axis=0) / length, 0, 1)  # [pieces, points]
    apart = points[:, None, :] - start - along * share
    return bool(np.sqrt((apart**2).sum(axis=0)).min(axis=0).max() <= SAME)


def same_dash(look: dict[str, Any], first: int | None) -> dict[str, Any]:
    """The look of a curve: with gaps where it lies on another one, which shows through them."""
    return look if first is None else {**look, "linestyle": (0, (3, 3)), "zorder": 3.5}


SIDES = ((4, -4, "left", "top"), (-4, 4, "right", "bottom"), (4, 4, "left", "bottom"), (-4, -4, "right", "top"))
"""Where a label may stand beside its mark: the points to it, and its corner there."""


def choose_sides(place: Any, spots: Sequence[tuple[float, float]], texts: Sequence[str]) -> list[tuple[Any, ...]]:
    """For each label one of `SIDES` of its spot: the one on which it covers least of other marks and earlier labels."""
    points = 72 / place.figure.dpi
    at = [tuple(place.transData.transform(spot) * points) for spot in spots]
    marks = [(x - 3, y - 3, x + 3, y + 3) for x, y in at]
    taken: list[Box] = []
    out = []
    for i, ((x, y), text) in enumerate(zip(at, texts, strict=True)):
        wide, high = 4.6 * len(text) + 2, 9.0
        boxes = []
        for dx, dy, ha, va in SIDES:
            left, low = x + dx - wide * (ha == "right"), y + dy - high * (va == "top")
            boxes.append((left, low, left + wide, low + high))
        others = [mark for j, mark in enumerate(marks) if j != i]
        costs = [sum_up(_shared(b, o) for o in others) + 9 * sum_up(_shared(b, o) for o in taken) for b in boxes]
        best = costs.index(min(costs))
        taken.append(boxes[best])
        out.append(SIDES[best])
    return out


Box = tuple[float, float, float, float]
"""Left, low, right and high end."""


def _shared(a: Box, b: Box) -> float:
    """The area that two boxes share."""
    return max(min(a[2], b[2]) - max(a[0], b[0]), 0.0) * max(min(a[3], b[3]) - max(a[1], b[1]), 0.0)


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
            drawn = BytesIO()
            figure.savefig(drawn, format=path.suffix[1:], metadata=metadata, dpi=200, bbox_inches="tight")
            file.write(_rounded(drawn.getvalue()) if path.suffix == ".svg" else drawn.getvalue())
    finally:
        pyplot().close(figure)


def _rounded(svg: bytes) -> bytes:
    """An SVG whose paths and places have two digits behind the point, which is a hundredth of a point."""

    def short(found: re.Match[bytes]) -> bytes:
        return re.sub(rb"-?\d+\.\d{3,}", lambda n: f"{float(n[0]):.2f}".rstrip("0").rstrip(".").encode(), found[0])

    return re.sub(rb' (?:d|x|y)="[^"]*"', short, svg)
