"""Charts of plans under a load, drawn with matplotlib in the style of `plandsl/plotting.py`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from plandsl.backends.cost.answers.probes import Serve, serve_made
from plandsl.backends.cost.deployments.build import Compiled
from plandsl.backends.plots.curves import load_curves
from plandsl.backends.plots.latency import draw_latency
from plandsl.backends.plots.occupancy import draw_occupancy
from plandsl.backends.plots.rates import draw_rates
from plandsl.backends.plots.runs import Served
from plandsl.backends.plots.steps import draw_steps
from plandsl.backends.plots.sweep import sweep
from plandsl.backends.plots.tradeoff import draw_tradeoff
from plandsl.progress import Tick, count_parts

RUN_VIEWS = {"latency": draw_latency, "occupancy": draw_occupancy, "steps": draw_steps}
"""The pictures of runs, by the name that `planc simulate --view` takes. `rates` serves plans at other rates."""


def draw_runs(
    view: str, runs: Sequence[Served], path: Path, requests: int | None, tick: Tick,
    serve: Callable[[Compiled], Serve] = serve_made,
) -> None:  # fmt: skip
    """Draw one picture of the runs of plans to ``path`` (.svg, .png or .pdf), whole or not at all.

    The view `rates` serves ``requests`` requests at each rate (None: as many as the workloads say); ``serve`` makes
    its runs, and ``tick`` hears how many are done. Raises `PlanError`: E405 if the file cannot be written, E329 if a
    plan has no rate.
    """
    if view == "rates":
        ticks = [count_parts(tick, at, len(runs)) for at in range(len(runs))]
        draw_rates([sweep(r.plan, serve(r.made), requests, one) for r, one in zip(runs, ticks, strict=True)], path)
        return
    RUN_VIEWS[view](runs, path)


__all__ = ["RUN_VIEWS", "Served", "draw_runs", "draw_tradeoff", "load_curves"]
