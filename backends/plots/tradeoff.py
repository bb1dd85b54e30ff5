"""Throughput per GPU against latency: what each plan of a file gives up for the other, and where it stops paying."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from plandsl import plotting
from plandsl.backends.plots.bounds import METRICS, Bound, bounds_of, widen
from plandsl.backends.plots.curves import LoadCurve, metrics_of, show_load
from plandsl.backends.plots.runs import caption_of, draw_legend, labels, new_figure
from plandsl.spec.plan import PlanSpec
from plandsl.units import show_time

VERTICAL = "throughput_per_gpu"


def draw_tradeoff(curves: Sequence[LoadCurve], path: Path, against: Collection[str] = tuple(METRICS)) -> None:
    """Draw throughput per GPU over each latency ``against`` that a plan has, with a curve for each plan.

    Bounds are lines; shades are the bands of latencies; a diamond is the knee (`knee`), a dot the plan's own load.
    Raises `PlanError` (E405).
    """
    plt = plotting.pyplot()
    plans = [c.plan for c in curves]
    against = [m for m in against if any(m in metrics_of(plan) for plan in plans)] or list(against)
    with plt.rc_context(plotting.SMALL):
        figure = new_figure(4.0)
        places = figure.subplots(1, len(against), sharey=True, squeeze=False)[0]
        looks = plotting.group_styles(labels(plans))
        same = _find_same(curves, against)
        for place, metric in zip(places, against, strict=True):
            place.set(xscale="log", yscale="log", xlabel=_axis_name(curves, metric))
            for curve, look, first in zip(curves, looks.values(), same, strict=True):
                _draw_curve(place, curve, metric, plotting.same_dash({"color": look["color"]}, first))
        far = [
            text for place, metric in zip(places, against, strict=True) for text in _draw_bounds(place, plans, metric)
        ]
        far += _draw_floor(places, plans)
        for place in places:
            plotting.unit_ticks(place.xaxis, place.get_xlim(), show_time, room=4)
        plotting.plain_ticks(places[0].yaxis, *places[0].get_ylim())
        places[0].set_ylabel("throughput per GPU (tok/s)")
        plotting.write_caption(figure, "throughput against latency", caption_of(plans))
        draw_legend(figure, _handles(curves, looks, same), _note(curves, against, far))
        figure.draw_without_rendering()  # labels of knees need the panels where they will be
        for place, metric in zip(places, against, strict=True):
            _draw_knees(place, curves, list(looks.values()), same, metric)
        plotting.save(figure, path)


def _axis_name(curves: Sequence[LoadCurve], metric: str) -> str:
    """The latency, and which percentile of requests it is where curves are simulated."""
    found = {c.percentiles[metric] for c in curves if metric in c.percentiles}
    return ", ".join([METRICS[metric], *(("mean" if p is None else f"p{p:g}") for p in found)])


def _find_same(curves: Sequence[LoadCurve], against: Collection[str]) -> list[int | None]:
    """For each curve an earlier one on which it lies in all panels."""
    found = [plotting.find_same([(c.times(m), c.throughput_per_gpu) for c in curves]) for m in against]
    return [own[0] if len(set(own)) == 1 else None for own in zip(*found, strict=True)]


def _draw_curve(place: Any, curve: LoadCurve, metric: str, look: dict[str, Any]) -> None:
    """Draw one plan in one panel: its curve, its band and its own load."""
    if not curve.points:
        return
    x, y, color = curve.times(metric), curve.throughput_per_gpu, look["color"]
    place.plot(x, y, **{"linestyle": "-", "zorder": 3, **look})
    bands = [p.bands.get(metric) for p in curve.points]
    if None not in bands:
        low, high = np.array(bands).T
        place.fill_betweenx(y, low, high, color=color, alpha=0.13, linewidth=0, zorder=1)
    if curve.own is not None:
        place.plot([x[curve.own]], [y[curve.own]], "o", color=color, markersize=4, zorder=4)


def _draw_knees(
    place: Any, curves: Sequence[LoadCurve], looks: Sequence[dict[str, str]], same: Sequence[int | None], metric: str
) -> None:
    """Draw a diamond at the knee of each curve, and its load beside it where no other diamond or load is.

    A curve that lies on another one has the knee of that one.
    """
    found = [
        (c, look["color"], at)
        for c, look, first in zip(curves, looks, same, strict=True)
        if first is None and (at := c.knee(metric)) is not None
    ]
    spots = [(float(c.times(metric)[at]), float(c.throughput_per_gpu[at])) for c, _, at in found]
    texts = [show_load(c.points[at].load) for c, _, at in found]
    sides = plotting.choose_sides(place, spots, texts)
    for (_, color, _), spot, text, (dx, dy, ha, va) in zip(found, spots, texts, sides, strict=True):
        place.plot(*([v] for v in spot), "D", color="white", markeredgecolor=color, markersize=5, zorder=4)
        look = {**plotting.SMALL_PRINT, "color": color, "zorder": 3.5, "ha": ha, "va": va}
        place.annotate(text, spot, (dx, dy), bbox=plotting.PAPER, **look)


def _draw_bounds(place: Any, plans: Sequence[PlanSpec], metric: str) -> list[str]:
    """Draw the bounds of a latency. Return the texts of those that are too far away."""
    near, far = widen(place, bounds_of(plans, metric), along_x=True)
    for i, bound in enumerate(near):
        dash = plotting.DASHES[i % len(plotting.DASHES)]
        at = bound.require.bound
        plotting.draw_bound(
            place, at, along_x=True, upper=bound.require.caps, text=bound.text, dash=dash, shade=len(near) == 1
        )
    return far


def _draw_floor(places: Sequence[Any], plans: Sequence[PlanSpec]) -> list[str]:
    """Draw the bounds of the throughput per GPU over all panels. Return the texts of those that are too far away."""
    gpus = {plan.ranks for plan in plans}
    bounds = bounds_of(plans, VERTICAL)
    if len(gpus) == 1:  # a throughput is one of each GPU
        each = 1 / gpus.pop()
        bounds += [
            Bound(b.text, b.require._replace(bound=b.require.bound * each)) for b in bounds_of(plans, "throughput")
        ]
    near, far = widen(places[0], bounds, along_x=False)
    for i, bound in enumerate(near):
        for place in places:
            text = bound.text if place is places[0] else ""
            dash = plotting.DASHES[i % len(plotting.DASHES)]
            at = bound.require.bound
            plotting.draw_bound(
                place, at, along_x=False, upper=bound.require.caps, text=text, dash=dash, shade=len(near) == 1
            )
    return far


def _handles(curves: Sequence[LoadCurve], looks: dict[str, dict[str, str]], same: Sequence[int | None]) -> list[Any]:
    line, names = plotting.pyplot().Line2D, list(looks)
    out = []
    for curve, (name, look), first in zip(curves, looks.items(), same, strict=True):
        loads = [show_load(p.load) for p in curve.points]
        said = curve.unit.format(f"{loads[0]} to {loads[-1]}") if loads else "nothing fits"
        bare = any(len(p.bands) < len(p.times) for p in curve.points)
        said += ", no band" if bare else ""
        said += f", on {names[first]}" if first is not None else ""
        drawn = plotting.same_dash({"color": look["color"]}, first)
        out.append(line([], [], label=f"{name}: {said}", **drawn))
    return out


def _note(curves: Sequence[LoadCurve], against: Collection[str], far: Sequence[str]) -> str:
    """What the marks are, and which requirements are not on the axes."""
    shown = {*against, VERTICAL}
    if len({c.plan.ranks for c in curves}) == 1:
        shown.add("throughput")
    others = dict.fromkeys(b for c in curves for b in (r.metric for r in c.plan.requires) if b not in shown)
    also = [*far, *(bound.text for metric in others for bound in bounds_of([c.plan for c in curves], metric))]
    knees = any(c.knee(m) is not None for c in curves for m in against)
    said = [text for text, there in (
        ("diamond: knee, with its load", knees),
        ("dot: the plan as written", any(c.own is not None for c in curves)),
        (f"also required: {', '.join(also)}", also),
    ) if there]  # fmt: skip
    return "; ".join(said)
