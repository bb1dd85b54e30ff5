"""A load over time: the times of its requests, by share, and what the servers held meanwhile."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from plandsl.backends.cost.answers.simulation import Run
from plandsl.backends.plots.bounds import bounds_of
from plandsl.backends.plots.occupancy import Level, decode_steps, mean_and_peak, total_level
from plandsl.backends.report.charts import LOG_AXIS, Chart, Spec, data, field, rounded, time_unit
from plandsl.spec.plan import PlanSpec
from plandsl.units import show_percent, show_time

TIMES = {"ttft": "TTFT", "tpot": "TPOT", "latency": "latency"}

SHARES = (*range(1, 100), 99.5, 99.9)
"""Percentiles of a curve."""

BINS = 300
"""Parts of the time of a run."""


def percentile_chart(name: str, plan: PlanSpec, run: Run) -> Chart | None:
    """The share of requests that took at most so long; None where none was served."""
    panels = [panel for metric in TIMES if metric in run.simulation.times for panel in _percentiles(metric, plan, run)]
    if not panels:
        return None
    s = run.simulation.summary
    told = ", ".join(
        f"{TIMES[m]} p50 {show_time(getattr(s, m).p50.value)}, p99 {show_time(getattr(s, m).p99.value)}"
        for m in TIMES
        if m in run.simulation.times and getattr(s, m).number
    )
    title = "Times of requests, by share"
    note = "A point of a curve: so many of the requests took at most so long."
    note += " Dashed: required." if any(len(panel["layer"]) > 1 for panel in panels) else ""
    return Chart(name, title, f"{title}. {told}.", {"concat": panels}, note, columns=3)


def _percentiles(metric: str, plan: PlanSpec, run: Run) -> Iterator[Spec]:
    values = getattr(run.records, f"{metric}_s")[run.records.served]
    values = values[np.isfinite(values)]
    if not len(values):
        return
    at = np.percentile(values, SHARES, method="inverted_cdf")
    factor, unit = time_unit(float(np.median(at)))
    rows = [
        {"x": rounded(float(v) * factor), "y": share, "t": show_time(float(v)), "p": f"p{share:g}"}
        for v, share in zip(at, SHARES, strict=True)
    ]
    near = [b for b in bounds_of([plan], metric) if b.require.bound <= 8 * float(at[-1])]
    lines = [{"x": rounded(b.require.bound * factor), "t": b.text} for b in near]
    log = float(at[-1]) > 8 * float(at[0]) > 0
    scaled: Spec = {"scale": {"type": "log", "nice": False}, "axis": LOG_AXIS} if log else {"scale": {"zero": False}}
    x = field("x", f"{TIMES[metric]} ({unit})", **scaled)
    y = field("y", "% of requests", scale={"domain": [0, 100]})
    tips = [field("p", "percentile", "nominal"), field("t", TIMES[metric], "nominal")]
    curve: Spec = {
        **data(rows),
        "mark": {"type": "line", "point": {"size": 12}, "color": "#3f73a8", "interpolate": "step-after"},
        "encoding": {"x": x, "y": y, "tooltip": tips},
    }
    bound: Spec = {
        **data(lines),
        "mark": {"type": "rule", "color": "#bf5229", "strokeDash": [5, 4], "strokeWidth": 1.5},
        "encoding": {"x": x, "tooltip": [field("t", "required", "nominal")]},
    }
    yield {"height": 240, "layer": [curve, *([bound] if lines else [])]}


def queue_chart(name: str, run: Run) -> Chart | None:
    """Requests that wait and run and the KV memory in use, over time; None where steps were not kept."""
    records = run.records
    steps = records.steps
    if not len(steps.start_s):
        return None
    first = float(np.nanmin(records.arrival_s))
    duration = max(float(steps.end_s.max()) - first, 1e-9)
    factor, unit = time_unit(duration)
    edges = np.linspace(0.0, duration, BINS + 1)
    room = run.blocks * run.simulation.replicas / 100
    kinds = [("waiting", steps, 1.0, "requests that wait"), ("running", steps, 1.0, "requests that run")]
    if not run.simulation.encodes and room:
        kinds.append(("blocks", decode_steps(run, steps), room, "KV cache, %"))
    panels = []
    for kind, own, unit_of, title in kinds:
        if not len(own.start_s):
            continue
        level = total_level(own, getattr(own, kind))
        mean, peak = mean_and_peak(Level(level.times - first, level.values / unit_of), edges)
        rows = [
            {"x": rounded(float(at) * factor), "m": rounded(float(m)), "h": rounded(float(h))}
            for at, m, h in zip((edges[1:] + edges[:-1]) / 2, mean, peak, strict=True)
        ]
        panels.append(_level(rows, title, unit, float(edges[-1] * factor)))
    o = run.simulation.occupancy
    title = "Queue and occupancy, all servers"
    said = f"{title}. On a server {o.waiting[0]:.1f} requests wait in the mean, {o.waiting[1]:.0f} at most"
    cached = not run.simulation.encodes and np.isfinite(o.kv_cache[1])
    said += f"; the KV cache is at most {show_percent(o.kv_cache[1])} full." if cached else "."
    note = f"Lines are means over {BINS} parts of the time, shades reach up to the largest value of each part."
    note += " Time starts with the first request."
    return Chart(name, title, said, {"concat": panels}, note, columns=1)


def _level(rows: list[dict[str, float]], title: str, unit: str, end: float) -> Spec:
    x = field("x", f"time ({unit})", scale={"domain": [0, rounded(end)], "nice": False})
    tips = [
        field("x", f"time ({unit})", format=".4~g"),
        field("m", "mean", format=".4~g"),
        field("h", "most", format=".4~g"),
    ]
    return {
        "height": 130,
        **data(rows),
        "layer": [
            {
                "mark": {"type": "area", "color": "#3f73a8", "opacity": 0.25, "interpolate": "step"},
                "encoding": {"x": x, "y": field("h", title)},
            },
            {
                "mark": {"type": "line", "color": "#3f73a8", "strokeWidth": 1.3},
                "encoding": {"x": x, "y": field("m", title), "tooltip": tips},
            },
        ],
    }
