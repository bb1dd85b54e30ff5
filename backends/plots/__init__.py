"""Charts of plans under a load, drawn with matplotlib in the style of `plandsl/plotting.py`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from plandsl.backends.plots.latency import draw_latency
from plandsl.backends.plots.occupancy import draw_occupancy
from plandsl.backends.plots.runs import Served
from plandsl.backends.plots.steps import draw_steps

RUN_VIEWS = {"latency": draw_latency, "occupancy": draw_occupancy, "steps": draw_steps}
"""The pictures of runs, by the name that `planc simulate --view` takes."""


def draw_runs(view: str, runs: Sequence[Served], path: Path) -> None:
    """Draw one picture of the runs of plans to ``path`` (.svg, .png or .pdf), whole or not at all.

    Raises `PlanError` (E405) if it cannot be written.
    """
    RUN_VIEWS[view](runs, path)


__all__ = ["RUN_VIEWS", "Served", "draw_runs"]
