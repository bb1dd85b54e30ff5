"""Percentiles over the rate: how TTFT and TPOT grow until the servers are saturated."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from plandsl import plotting
from plandsl.backends.plots.bounds import METRICS, bounds_of, widen
from plandsl.backends.plots.runs import caption_of, draw_legend, labels, new_figure
from plandsl.backends.plots.sweep import Sweep
from plandsl.units import show_time

DRAWN = ("ttft", "tpot")
PERCENTILES = {"p50": ":", "p95": "-", "p99": "--"}
"""The percentiles that are drawn, with the line style of each where colours tell plans apart."""


def draw_rates(sweeps: Sequence[Sweep], path: Path) -> None:
    """Draw percentiles of TTFT and TPOT over the rate, with the 95 % intervals of a single plan.

    A vertical line is the rate at which a plan is saturated, a dot its own rate. Raises `PlanError` (E405).
    """
    plt = plotting.pyplot()
    with plt.rc_context(plotting.SMALL):
        figure = new_figure(4.0)
        places = figure.subplots(1, len(DRAWN))
        names = labels([s.plan for s in sweeps])
        looks = plotting.group_styles(list(PERCENTILES) if len(sweeps) == 1 else names)
        far = []
        for place, metric in zip(places, DRAWN, strict=True):
            place.set(yscale="log", xlabel=" or ".join(dict.fromkeys(s.unit for s in sweeps)), ylabel=METRICS[metric])
            for name, one in zip(names, sweeps, strict=True):
                _draw_sweep(place, one, metric, looks, None if len(sweeps) == 1 else name)
            place.set_xlim(0, None)
            place.set_ylim(_lowest(sweeps, metric) / 1.4, None)  # an interval may reach far below
            near, away = widen(place, bounds_of([s.plan for s in sweeps], metric), along_x=False)
            far += away
            for i, bound in enumerate(near):
                dash = plotting.DASHES[i % len(plotting.DASHES)]
                asked = bound.require
                plotting.draw_bound(place, asked.bound, along_x=False, upper=asked.caps, text=bound.text, dash=dash,
                                    shade=len(near) == 1)  # fmt: skip
            plotting.unit_ticks(place.yaxis, place.get_ylim(), show_time)
        plotting.write_caption(figure, "the times of requests over the rate", caption_of([s.plan for s in sweeps]))
        draw_legend(figure, _handles(looks, _same_plans(sweeps, names)), _note(sweeps, far))
        plotting.save(figure, path)


def _draw_sweep(place: Any, one: Sweep, metric: str, looks: dict[str, dict[str, str]], name: str | None) -> None:
    """Draw the percentiles of one plan: in colours if it is the only one (``name`` None), else in line styles."""
    spreads = [r.spread(metric) for r in one.runs]
    x = np.array([r.load for r in one.runs])
    for percentile, dash in PERCENTILES.items():
        color = looks[percentile if name is None else name]["color"]
        y, half = np.array([getattr(spread, percentile) for spread in spreads]).T
        place.plot(
            x, y, "-" if name is None else dash, color=color, linewidth=1.5 if percentile == "p95" else 1.1, zorder=3
        )
        if name is None:
            place.fill_between(x, np.maximum(y - half, y / 100), y + half, color=color, alpha=0.13, linewidth=0)
        if own := [r for r in one.runs if r.factor == 1.0]:
            place.plot(
                [own[0].load],
                [getattr(own[0].spread(metric), percentile).value],
                "o",
                color=color,
                markersize=3.5,
                zorder=4,
            )
    if np.isfinite(one.saturation):
        color = "#333333" if name is None else looks[name]["color"]
        place.axvline(one.saturation, color=color, linewidth=0.8, linestyle="-.", zorder=2)


def _lowest(sweeps: Sequence[Sweep], metric: str) -> float:
    values = [r.spread(metric).p50.value for s in sweeps for r in s.runs]
    return min([v for v in values if np.isfinite(v) and v > 0], default=1e-3)


def _same_plans(sweeps: Sequence[Sweep], names: Sequence[str]) -> dict[str, str]:
    """For each of several plans the words about an earlier one on which its curves lie; empty for one plan."""
    if len(sweeps) == 1:
        return {}

    def line(one: Sweep, metric: str) -> plotting.Line:
        y = np.array([r.spread(metric).p95.value for r in one.runs])
        kept = np.isfinite(y) & (y > 0)
        return np.array([r.load for r in one.runs])[kept], y[kept]

    found = [plotting.find_same([line(one, metric) for one in sweeps]) for metric in DRAWN]
    return {
        name: f", on {names[own[0]]}" if len(set(own)) == 1 and own[0] is not None else ""
        for name, own in zip(names, zip(*found, strict=True), strict=True)
    }


def _handles(looks: dict[str, dict[str, str]], plans: dict[str, str]) -> list[Any]:
    line = plotting.pyplot().Line2D
    out = [line([], [], color=look["color"], label=f"{name}{plans.get(name, '')}") for name, look in looks.items()]
    if plans:
        out += [line([], [], color="#333333", linestyle=dash, label=name) for name, dash in PERCENTILES.items()]
    return out


def _note(sweeps: Sequence[Sweep], far: Sequence[str]) -> str:
    most = [
        f"{s.saturation:.3g} req/s" + (f" ({s.plan.name})" if len(sweeps) > 1 else "")
        for s in sweeps
        if np.isfinite(s.saturation)
    ]
    said = [f"saturated at {', '.join(most)}"] if most else []
    said += ["dots: the plan's own load"] if any(r.factor == 1.0 for s in sweeps for r in s.runs) else []
    said += [f"beyond the axes: {', '.join(far)}"] if far else []
    return "; ".join(said)
