"""The picture of a search: throughput against latency with the front, and maps of the goal over pairs of fields."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from attrs import evolve

from plandsl import plotting
from plandsl.searches.answer import Configuration, configurations
from plandsl.searches.front import Floats
from plandsl.searches.maps import axis_label, draw_maps, map_pairs
from plandsl.searches.points import Points
from plandsl.searches.run import Found
from plandsl.searches.tally import Rows
from plandsl.spec.plan import RequireSpec
from plandsl.spec.search import SearchSpec
from plandsl.units import show_time

COLOURED = 6
"""Plans with a colour of their own: plans on the front first, then plans with the most throughput. Others are grey."""

GREY = "#b5b5b5"

NEAR = 8.0
"""A bound that lies more than this factor beyond all points is named below the axes and not drawn."""

MARKED = 12
"""Markers along a curve."""

STAR = {"marker": "*", "markersize": 9, "markeredgecolor": "black", "linestyle": " "}
STARS = ("white", "black", GREY)
"""Colour of the star at the best configuration of the first search, the second and so on."""


class SearchResult(NamedTuple):
    """A finished search, with its front and the points that were kept for the picture."""

    found: Found
    front: list[Configuration]
    points: Points

    @property
    def best(self) -> Configuration | None:
        """The first configuration by the goals; None where none meets every requirement or the goal has no value."""
        return next(iter(configurations(self.found, self.found.tally.top)), None)


def same_space(searches: Sequence[SearchSpec]) -> bool:
    """Whether all searches have the same configurations, so that one picture can hold their points."""

    def space(search: SearchSpec) -> Any:
        plan, _ = search.resolve(tuple((c, c.settings[0]) for c in search.choices if not c.load))
        fields = [(c.path, [s.text for s in c.settings]) for c in search.choices]
        bare = plan and evolve(plan, name="", requires=(), workload=evolve(plan.workload, name=""))
        return fields, [c.text for c in search.conditions], bare

    return all(space(search) == space(searches[0]) for search in searches[1:])


def plot(drawn: Sequence[SearchResult], path: Path) -> None:
    """Draw searches of the same configurations to ``path`` (.svg, .png or .pdf), whole or not at all.

    Raises `PlanError` where the file cannot be written.
    """
    plt = plotting.pyplot()
    maps = any(map_pairs(d.points) for d in drawn)
    with plt.rc_context(plotting.SMALL):
        figure = plt.figure(figsize=(7.4, 3.5 + 2.7 * maps + 0.2 * (1 + len(drawn))), layout="constrained")
        figure.get_layout_engine().set(w_pad=0.06, h_pad=0.05)
        above, *below = figure.subfigures(2 if maps else 1, 1, height_ratios=[1.25, 1] if maps else None, squeeze=False)
        _draw_fronts(above[0], drawn)
        for part in below:
            draw_maps(part[0], [d.points for d in drawn])
        plotting.write_caption(figure, "\n".join(goal_line(d) for d in drawn), caption(drawn))
        plotting.save(figure, path)


def goal_line(d: SearchResult) -> str:
    """What a search looks for, and how many configurations meet all requirements."""
    goals = ", then ".join(goal.text for goal in d.found.search.all_goals)
    t = d.found.tally
    return f"{d.found.search.name}: {goals}; {t.met:,} of {t.seen:,} configurations meet all requirements"


def caption(drawn: Sequence[SearchResult]) -> str:
    """The model, the machine and the load of the searches, as far as these are one."""
    search = drawn[0].found.search
    varied = {choice.path.partition(".")[0] for choice in search.choices}
    plan, _ = search.resolve(tuple((c, c.settings[0]) for c in search.choices))
    if plan is None:
        return ""
    load = plan.workload
    said = [] if "model" in varied else [plan.model.name]
    said += [] if varied & {"node", "cluster"} else [f"on {plan.machine}"]
    if load.traffic is None:
        sizes = {"input": f"{load.input} tokens in", "output": f"{load.output} out"}
        kept = [text for name, text in sizes.items() if name not in {c.load for c in search.choices}]
        said = [" ".join(said), ", ".join(kept)]
    return "; ".join(text for text in said if text)


# ---- throughput against latency


def _draw_fronts(part: Any, drawn: Sequence[SearchResult]) -> None:
    """Draw a panel for each latency, and one legend below them."""
    vertical = drawn[0].points.vertical
    metrics = latencies(drawn)
    places = part.subplots(1, len(metrics), sharey=True, squeeze=False)[0]
    look = _curve_styles(drawn)
    far = dict.fromkeys(
        text for place, metric in zip(places, metrics, strict=True) for text in _draw_panel(place, drawn, metric, look)
    )
    drawn_bounds = {*metrics, vertical}
    far |= dict.fromkeys(
        _requirement_label(drawn, d, r) for d in drawn for r in d.found.search.requires if r.metric not in drawn_bounds
    )
    places[0].set_ylabel(f"{axis_label(vertical)} (tok/s)")
    if not look:
        places[0].set_title("nothing fits in memory")
    handles = _legend(drawn, look, _find_same(drawn, look, metrics))
    also = f"also required: {', '.join(far)}" if far else None
    part.legend(handles=handles, loc="outside lower center", ncols=max(1, min(len(handles), 4)), columnspacing=1.4,
                title=also, title_fontsize=7)  # fmt: skip


def _find_same(
    drawn: Sequence[SearchResult], look: dict[str, dict[str, Any]], metrics: Sequence[str]
) -> dict[str, str]:
    """For each coloured plan whose curve lies on an earlier one in all panels, the earlier one."""
    points = drawn[0].points
    names = [name for name, kind in look.items() if kind["color"] != GREY and name in points.curves]
    curves = [points.curves[name] for name in names]
    found = [
        plotting.find_same([(rows.column(metric), rows.column(points.vertical)) for rows in curves])
        for metric in metrics
    ]
    firsts = {name: own for name, own in zip(names, zip(*found, strict=True), strict=True) if len(set(own)) == 1}
    return {name: names[own[0]] for name, own in firsts.items() if own[0] is not None}


def latencies(drawn: Sequence[SearchResult]) -> list[str]:
    """The two latencies that goals and requirements name most often; TPOT and TTFT where they name none."""
    searches = [d.found.search for d in drawn]
    said = [g.metric for s in searches for g in s.goals] + [r.metric for s in searches for r in s.requires]
    chosen = sorted(("tpot", "ttft", "latency"), key=lambda m: -said.count(m))[:2]
    return sorted(chosen, key=("tpot", "ttft", "latency").index)


def _curve_styles(drawn: Sequence[SearchResult]) -> dict[str, dict[str, Any]]:
    """Colour and marker by plan: `COLOURED` plans from short TPOT to long, and grey for the rest."""
    points = drawn[0].points
    curves = {name: rows for name, rows in (points.curves or points.clouds).items() if len(rows.numbers)}
    unbeaten = dict.fromkeys(curves, 0)
    for d in drawn:
        numbers = {row.number for row in d.front}
        for name, rows in curves.items():
            unbeaten[name] += len(numbers.intersection(rows.numbers.tolist()))
    vertical = drawn[0].points.vertical
    order = sorted(curves, key=lambda n: (-unbeaten[n], -float(curves[n].column(vertical).max()), n))
    chosen = sorted(order[:COLOURED], key=lambda n: (float(curves[n].column("tpot").min()), n))
    look = {name: dict(kind) for name, kind in plotting.group_styles(chosen).items()}
    return look | {name: {"color": GREY, "marker": "."} for name in order[COLOURED:]}


def _draw_panel(place: Any, drawn: Sequence[SearchResult], metric: str, look: dict[str, dict[str, Any]]) -> list[str]:
    """Draw one set of axes. Return the texts of requirements that lie too far away to be drawn."""
    vertical = drawn[0].points.vertical
    place.set(xscale="log", yscale="log", xlabel=axis_label(metric))
    points = drawn[0].points  # the points of the other searches are the same
    for name in reversed(look):
        _draw_plan(place, points.clouds[name], points.curves.get(name), (metric, vertical), look[name])
    low, high = place.get_xlim()
    far = []
    for i, d in enumerate(drawn):
        for require in (r for r in d.found.search.requires if r.metric in (metric, vertical)):
            text = _requirement_label(drawn, d, require)
            if not _draw_bound(place, require, metric, text, i):
                far.append(text)
    left, right = place.get_xlim()
    place.set_xlim(min(low, left), max(high, right))
    for i, d in enumerate(drawn):
        _draw_front(place, d, (metric, vertical), i)
    for i, d in enumerate(drawn):
        _draw_best(place, d, (metric, vertical), i)
    plotting.unit_ticks(place.xaxis, place.get_xlim(), show_time)
    plotting.plain_ticks(place.yaxis, *place.get_ylim())
    return far


def _draw_plan(place: Any, cloud: Rows, curve: Rows | None, axes: tuple[str, str], look: dict[str, Any]) -> None:
    """Draw the points of one plan, and the curve through the best of them."""
    grey = look["color"] == GREY
    x, y = (cloud.column(a) for a in axes)
    place.plot(x, y, " ", marker=".", markersize=2.5, color=look["color"], alpha=0.25, markeredgewidth=0,
               rasterized=len(x) > 500, zorder=1)  # fmt: skip
    if curve is not None:
        x, y = (curve.column(a) for a in axes)
        kind = {"linewidth": 0.6, "markersize": 0, "zorder": 1.5} if grey else {"linewidth": 1.2, "markersize": 3.6}
        place.plot(x, y, "-", markevery=-(-len(x) // MARKED) or 1, **{"zorder": 2, **kind}, **look)
    elif not grey:
        place.plot(x, y, " ", markersize=3.6, zorder=2, **look)


def _requirement_label(drawn: Sequence[SearchResult], d: SearchResult, require: RequireSpec) -> str:
    """The text of a requirement, after the name of its search where another search lacks it."""
    everyone = all(require.text in [r.text for r in other.found.search.requires] for other in drawn)
    return require.text if everyone else f"{d.found.search.name}: {require.text}"


def _draw_bound(place: Any, require: RequireSpec, metric: str, text: str, i: int) -> bool:
    """Draw the line of a requirement, its text, and a shade over what it forbids. False where it lies too far away."""
    along_x = require.metric == metric
    low, high = place.get_xlim() if along_x else place.get_ylim()
    bound = require.bound
    if not low / NEAR <= bound <= high * NEAR:
        return False
    low, high = min(low, bound / 1.3), max(high, bound * 1.3)
    (place.set_xlim if along_x else place.set_ylim)(low, high)
    named = along_x or place.get_subplotspec().is_first_col()
    plotting.draw_bound(place, bound, along_x=along_x, upper=require.caps, text=text if named else "",
                        dash=plotting.DASHES[i % len(plotting.DASHES)])  # fmt: skip
    return True


def _stairs(front: Sequence[Configuration], axes: tuple[str, str]) -> tuple[Floats, Floats]:
    """The points of the front that nothing beats in these two metrics: latency and throughput rise together."""
    points = sorted((row.metrics[axes[0]], -row.metrics[axes[1]]) for row in front)
    x, y = np.array(points).T
    kept = np.append(True, -y[1:] > np.maximum.accumulate(-y)[:-1])
    return x[kept], -y[kept]


def _draw_front(place: Any, d: SearchResult, axes: tuple[str, str], i: int) -> None:
    if d.front:
        x, y = _stairs(d.front, axes)
        place.step(x, y, where="post", color="black", linewidth=0.9, linestyle=("-", *plotting.DASHES)[i % 4], zorder=3)


def _draw_best(place: Any, d: SearchResult, axes: tuple[str, str], i: int) -> None:
    """Draw a star at the best configuration; the legend names it."""
    if d.best is not None:
        x, y = (d.best.metrics[a] for a in axes)
        place.plot([x], [y], zorder=5, **{**STAR, "markersize": 11}, color=STARS[i % len(STARS)])


def _legend(drawn: Sequence[SearchResult], look: dict[str, dict[str, Any]], same: dict[str, str]) -> list[Any]:
    line = plotting.pyplot().Line2D
    coloured = {name: kind for name, kind in look.items() if kind["color"] != GREY}
    dash = "-" if drawn[0].points.curves else " "
    labels = {name: f"{name}, on {same[name]}" if name in same else name for name in coloured}
    out = [line([], [], label=labels[name], linestyle=dash, markersize=4.5, **kind) for name, kind in coloured.items()]
    if others := len(look) - len(coloured):
        out.append(line([], [], color=GREY, label=f"{others:,} other plan{'s' if others > 1 else ''}"))
    for i, d in enumerate(drawn):
        name = f"{d.found.search.name}: " if len(drawn) > 1 else ""
        if d.front:
            steps = ("-", *plotting.DASHES)[i % 4]
            out.append(line([], [], color="black", linewidth=0.9, linestyle=steps, label=f"{name}front"))
        if d.best is not None:
            out.append(line([], [], color=STARS[i % len(STARS)], label=f"{name}best, {d.best.label}", **STAR))
    return out
