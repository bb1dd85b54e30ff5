"""The distributions of TTFT, TPOT and latency over the requests of a run, beside what plans promise."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np

from plandsl import plotting
from plandsl.backends.cost.serving.requests import Floats
from plandsl.backends.plots.bounds import METRICS, Bound, bounds_of, widen
from plandsl.backends.plots.runs import Served, caption_of, draw_legend, labels, new_figure
from plandsl.units import show_time

LOWEST, HIGHEST = 0.05, 0.999
"""The quantiles between which a distribution is drawn."""

POINTS = 160
"""Points of a curve."""

TICKS = (5, 25, 50, 75, 90, 95, 99, 99.9)
STANDARD = NormalDist()


class Curve(NamedTuple):
    """The requests of one plan, or of one of its classes, and the look of their curve."""

    label: str
    served: Served
    kind: int | None
    look: dict[str, Any]

    def values(self, metric: str) -> Floats:
        """The metric of each request that was served."""
        records = self.served.run.records
        chosen = records.served if self.kind is None else records.served & (records.kind == self.kind)
        found: Floats = getattr(records, f"{metric}_s")[chosen]
        return found[np.isfinite(found)]


def draw_latency(runs: Sequence[Served], path: Path) -> None:
    """Draw a panel for each latency: the share of requests that took at most so long.

    Shares are spaced by the quantile of a normal distribution, so that the tail can be read; times are logarithmic. A
    required percentile is a corner that a curve must not enter, a required mean is a line. Raises `PlanError` (E405).
    """
    plt = plotting.pyplot()
    with plt.rc_context(plotting.SMALL):
        figure = new_figure(3.8)
        curves, far = _mark_same(_curves(runs)), []
        places = figure.subplots(1, len(METRICS), sharey=True)
        for place, (metric, word) in zip(places, METRICS.items(), strict=True):
            place.set_xlabel(word)
            far += _draw_panel(place, curves, bounds_of([r.plan for r in runs], metric), metric)
        places[0].set_ylabel("share of requests")
        places[0].set_yticks([STANDARD.inv_cdf(t / 100) for t in TICKS], [f"{t:g} %" for t in TICKS])
        places[0].set_ylim(STANDARD.inv_cdf(LOWEST), STANDARD.inv_cdf(HIGHEST))
        handles = [plt.Line2D([], [], label=c.label, **c.look) for c in curves]
        plotting.write_caption(figure, "the times of requests", caption_of([r.plan for r in runs]))
        draw_legend(figure, handles, f"beyond the axes: {', '.join(far)}" if far else "")
        plotting.save(figure, path)


def _curves(runs: Sequence[Served]) -> list[Curve]:
    """A curve for each plan, or for each class of its requests; classes of several plans differ by their dashes."""
    named = list(zip(labels([r.plan for r in runs]), runs, strict=True))
    kinds = list(dict.fromkeys(kind for r in runs for kind in r.run.kinds))
    colours = plotting.group_styles(kinds if len(runs) == 1 and kinds else [label for label, _ in named])
    out = []
    for label, served in named:
        for i, kind in enumerate(served.run.kinds):
            look = colours[kind] if len(runs) == 1 else colours[label]
            dash = "-" if len(runs) == 1 else ("-", *plotting.DASHES)[kinds.index(kind) % 4]
            text = kind if len(runs) == 1 else f"{label}, {kind}"
            out.append(Curve(text, served, i, {"color": look["color"], "linestyle": dash}))
        if not served.run.kinds:
            out.append(Curve(label, served, None, {"color": colours[label]["color"]}))
    return out


def _mark_same(curves: Sequence[Curve]) -> list[Curve]:
    """The same curves, where those that lie on an earlier one in all panels have gaps and say so."""
    lines = [[_quantiles(c.values(m)) for c in curves] for m in METRICS]
    found = [plotting.find_same([(times, np.exp(heights)) for times, heights in own]) for own in lines]
    out = []
    for curve, own in zip(curves, zip(*found, strict=True), strict=True):
        first = own[0] if len(set(own)) == 1 else None
        label = curve.label if first is None else f"{curve.label}, on {curves[first].label}"
        out.append(curve._replace(label=label, look=plotting.same_dash(curve.look, first)))
    return out


def _quantiles(values: Floats) -> tuple[Floats, Floats]:
    """The times within which shares of requests end, and the height of each share."""
    if len(values) < 2:
        return np.empty(0), np.empty(0)
    top = min(HIGHEST, 1 - 1 / len(values))
    heights = np.linspace(STANDARD.inv_cdf(LOWEST), STANDARD.inv_cdf(top), POINTS)
    shares = [STANDARD.cdf(h) for h in heights]
    return np.maximum(np.quantile(values, shares), 1e-9), heights


def _draw_panel(place: Any, curves: Sequence[Curve], bounds: Sequence[Bound], metric: str) -> list[str]:
    """Draw one panel. Return the texts of bounds that lie too far away to be drawn."""
    place.set_xscale("log")
    for curve in curves:
        place.plot(*_quantiles(curve.values(metric)), **{"zorder": 3, **curve.look})
    near, far = widen(place, bounds, along_x=True)
    for i, bound in enumerate(near):
        _draw_bound(place, bound, plotting.DASHES[i % len(plotting.DASHES)])
    plotting.unit_ticks(place.xaxis, place.get_xlim(), show_time, room=4)
    return far


def _draw_bound(place: Any, bound: Bound, dash: str) -> None:
    """Draw the corner below a percentile and beyond its bound, which no curve may enter; a mean's bound is a line."""
    at, percentile = bound.require.bound, bound.require.percentile
    if percentile is None or not bound.require.caps:
        text = bound.text if percentile else f"{bound.text}, the mean"
        plotting.draw_bound(place, at, along_x=True, upper=bound.require.caps, text=text, dash=dash, shade=False)
        return
    height = STANDARD.inv_cdf(min(percentile / 100, HIGHEST))
    ends = place.get_xlim()
    place.plot([at, at, ends[1]], [STANDARD.inv_cdf(LOWEST), height, height], color="#333333", linewidth=1,
               linestyle=dash, zorder=2.5)  # fmt: skip
    place.fill_between([at, ends[1]], STANDARD.inv_cdf(LOWEST), height, color="#000000", alpha=0.05, linewidth=0)
    place.set_xlim(*ends)
    plotting.write_bound(place, at, bound.text, along_x=True, upper=True)
