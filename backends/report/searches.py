"""A search: its tables, and its configurations as scatter plots in which what is marked in one is marked in all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from plandsl import plotting
from plandsl.backends.report.charts import LEGEND, LOG_AXIS, Chart, Spec, colours, data, field, rounded
from plandsl.backends.report.html import Html, join, parts_html, tag
from plandsl.backends.report.values import Point, SearchShown
from plandsl.units import show_bytes, show_count, show_time

COLOURED = 7
"""Groups of configurations with a colour of their own; the others are grey."""

OTHERS, GREY = "others", "#9aa5b1"

WORDS = {"tpot": "TPOT", "ttft": "TTFT", "latency": "latency"}


def search_section(found: SearchShown, name: str) -> tuple[Html, list[Chart]]:
    """The section of a search, and its charts."""
    charts = [_scatter(f"{name}-scatter", found)] if found.points else []
    body = [
        tag("h2", f"Search {found.name}"),
        tag("p", found.goals, class_="lead"),
        *(chart.figure() for chart in charts),
        parts_html(found.parts, f"search {found.name}"),
    ]
    return tag("section", join(body), id=name), charts


def _scatter(name: str, found: SearchShown) -> Chart:
    vertical = "throughput per GPU (tok/s)" if found.per_gpu else "throughput (tok/s)"
    groups = _groups(found)
    rows = [
        {"g": p.group if p.group in groups else OTHERS, "l": p.label, "tpot": _milli(p.tpot), "ttft": _milli(p.ttft),
         "latency": rounded(p.latency), "y": rounded(p.throughput), "m": rounded(p.memory / 1e9), "f": int(p.front),
         "r": f"{p.rank} of the best" if p.rank else "on the front" if p.front else "beaten, or out",
         "t": _told(p)}
        for p in found.points
    ]  # fmt: skip
    units = {"tpot": "TPOT (ms)", "ttft": "TTFT (ms)", "latency": "latency (s)"}
    up = _domain([row["y"] for row in rows])
    panels = [
        _panel(f"by_{m}", field(m, units[m], scale=_domain([r[m] for r in rows]), axis=LOG_AXIS), up, vertical)
        for m in found.latencies
    ]
    held = field("m", "memory of a GPU (GB)", scale=_domain([r["m"] for r in rows]), axis=LOG_AXIS)
    panels.append(_panel("by_memory", held, up, vertical))
    for panel, metric in zip(panels, found.latencies, strict=False):
        scale = 1.0 if metric == "latency" else 1e3
        low, high = _domain([row[metric] for row in rows])["domain"]
        stated = [(rounded(bound * scale), told) for of, bound, told in found.requires if of == metric]
        bounds = [{"x": bound, "t": told} for bound, told in stated if low <= bound <= high]
        if bounds:
            panel["layer"].append(
                {**data(bounds), "mark": {"type": "rule", "color": "#bf5229", "strokeDash": [5, 4]},
                 "encoding": {"x": {"field": "x", "type": "quantitative"},
                              "tooltip": [field("t", "required", "nominal")]}}
            )  # fmt: skip
    shown = {g: colour for g, colour in groups.items() if g != OTHERS or any(row["g"] == OTHERS for row in rows)}
    for panel in panels:
        panel["layer"][0]["encoding"]["color"]["condition"]["scale"] = colours(shown)
    spec: Spec = {
        **data(rows),
        "params": [
            {"name": "brush", "select": {"type": "interval", "resolve": "union"},
             "views": [p["layer"][0]["name"] for p in panels]},
            {"name": "group", "value": "all", "bind": {"input": "select", "options": ["all", *shown], "name": "show "}},
        ],
        "transform": [{"filter": "group == 'all' || datum.g == group"}],
        "concat": panels,
    }  # fmt: skip
    title = "Configurations that fit in memory"
    many = (
        f"{len(rows):,} of {found.seen:,} configurations"
        if len(rows) < found.seen
        else f"{found.seen:,} configurations"
    )
    said = f"{many} in {len(panels)} scatter plots of {vertical}. The tables below have the best of them."
    note = (
        f"{many} are drawn. Drag over some of them to mark the same ones in the other plots. Rings: the Pareto front."
    )
    note += " Dashed: required." if any(len(panel["layer"]) > 2 for panel in panels) else ""
    return Chart(name, title, said, spec, note, columns=len(panels))


def _domain(values: Sequence[Any]) -> Spec:
    """A logarithmic scale that has room for all values, and stays when some are hidden."""
    there = [value for value in values if value]
    return {"type": "log", "nice": False, "domain": [rounded(min(there) / 1.25), rounded(max(there) * 1.25)]}


def _panel(name: str, x: Spec, up: Spec, vertical: str) -> Spec:
    y = field("y", vertical, scale=up, axis=LOG_AXIS)
    tips = [field("l", "configuration", "nominal"), field("r", "it is", "nominal"), field("t", "with", "nominal")]
    colour: Spec = {
        "condition": {**field("g", None, "nominal", legend=LEGEND), "param": "brush"},
        "value": "#9aa5b155",
    }
    ring: Spec = {
        "transform": [{"filter": "datum.f == 1"}],
        "mark": {"type": "point", "size": 90, "stroke": "var(--ink)", "strokeWidth": 1.2, "filled": False},
        "encoding": {"x": x, "y": y, "tooltip": tips},
    }
    dots: Spec = {
        "name": name,
        "mark": {"type": "point", "filled": True, "size": 26, "opacity": 0.8},
        "encoding": {"x": x, "y": y, "color": colour, "tooltip": tips},
    }
    return {"height": 280, "layer": [dots, ring]}


def _groups(found: SearchShown) -> dict[str, str]:
    """The groups with a colour, those with the best and the most of the front first; then all others in grey."""
    score: dict[str, tuple[int, int, float]] = {}
    for p in found.points:
        best, front, most = score.get(p.group, (0, 0, 0.0))
        score[p.group] = best + bool(p.rank), front + p.front, max(most, p.throughput)
    order = sorted(score, key=lambda g: (*(-v for v in score[g]), g))
    chosen = sorted(order[:COLOURED])
    looks = plotting.group_styles(chosen)
    return {g: looks[g]["color"] for g in chosen} | ({OTHERS: GREY} if len(order) > COLOURED else {})


def _milli(seconds: float) -> float | None:
    return rounded(seconds * 1e3) if is_number(seconds) else None


def is_number(value: float) -> bool:
    """Whether there is a number; an encoder has no TPOT."""
    return value == value and abs(value) != float("inf")


def _told(p: Point) -> str:
    shown: list[tuple[str, float, Callable[[float], str]]] = [
        ("TTFT", p.ttft, show_time), ("TPOT", p.tpot, show_time), ("latency", p.latency, show_time),
    ]  # fmt: skip
    times = [f"{word} {show(value)}" for word, value, show in shown if is_number(value)]
    return ", ".join([*times, f"{show_count(p.throughput)} tok/s", show_bytes(p.memory)])
