"""One style for figures: colours safe for colour-blind readers, markers, plain numbers on log axes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from plandsl.files import write_whole

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


def pyplot() -> Any:
    """matplotlib's pyplot, drawing to files only. Raises `ImportError` if matplotlib is missing."""
    import matplotlib

    matplotlib.use("Agg", force=False)
    import matplotlib.pyplot as plt

    return plt


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
