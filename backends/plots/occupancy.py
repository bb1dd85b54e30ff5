"""What the servers of a plan hold over time: requests that wait, requests that run, KV memory."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from plandsl import plotting
from plandsl.backends.cost.answers.simulation import Run
from plandsl.backends.cost.serving.records import Records, Steps
from plandsl.backends.cost.serving.requests import Floats, Ints
from plandsl.backends.plots.runs import Served, caption_of, draw_legend, labels, new_figure
from plandsl.units import show_time

BINS = 300
"""Parts of a run's time; where steps are more, each part has a mean and a largest value."""

PANELS = ("requests that arrive\nin a second", "requests\nthat wait", "requests\nthat run", "KV cache\nin use")


class Level(NamedTuple):
    """A quantity over time: it has ``values[i]`` from ``times[i]`` to ``times[i + 1]``; 0 before and at the end."""

    times: Floats
    values: Floats


def total_level(steps: Steps, values: Ints) -> Level:
    """The sum over all servers of what each has from one step to the next; a server without a step has nothing."""
    times: list[Floats] = []
    changes: list[Floats] = []
    for server in np.unique(steps.replica):
        own = steps.replica == server
        start, end = steps.start_s[own], np.maximum.accumulate(steps.end_s[own])
        idle = np.append(start[1:] > end[:-1], True)
        at = np.concatenate((start, end[idle]))
        order = np.argsort(at, kind="stable")
        level = np.concatenate((values[own].astype(np.float64), np.zeros(int(idle.sum()))))[order]
        times.append(at[order])
        changes.append(np.diff(level, prepend=0.0))
    at = np.concatenate(times)
    order = np.argsort(at, kind="stable")
    return Level(at[order], np.cumsum(np.concatenate(changes)[order]))


def mean_and_peak(level: Level, edges: Floats) -> tuple[Floats, Floats]:
    """The mean over time and the largest value of a level in each part of time, between ``edges`` float64[n + 1]."""
    area = np.concatenate(([0.0], np.cumsum(level.values[:-1] * np.diff(level.times))))
    held = np.searchsorted(level.times, edges, side="right") - 1
    upto = np.where(held < 0, 0.0, area[held] + level.values[held] * (edges - level.times[held]))
    at = np.concatenate((level.times, edges[:-1]))
    values = np.concatenate((level.values, np.where(held[:-1] < 0, 0.0, level.values[held[:-1]])))
    peaks = np.zeros(len(edges) - 1)
    part = np.searchsorted(edges, at, side="right") - 1
    inside = (part >= 0) & (part < len(peaks))
    np.maximum.at(peaks, part[inside], values[inside])
    return np.diff(upto) / np.diff(edges), peaks


def draw_occupancy(runs: Sequence[Served], path: Path) -> None:
    """Draw over time: arrivals, requests that wait and that run on all servers, and the share of KV memory in use.

    Of two pools, the KV memory is that of the servers that decode.

    Lines are means over `BINS` parts of the time, and shades reach up to the largest value of each. Raises `PlanError`
    (E405).
    """
    plt = plotting.pyplot()
    with plt.rc_context(plotting.SMALL):
        figure = new_figure(5.8)
        places = figure.subplots(len(PANELS), 1, sharex=True)
        names = labels([r.plan for r in runs])
        looks = plotting.group_styles(names)
        edges = np.linspace(0.0, max([1e-9, *(_duration(r.run.records) for r in runs)]), BINS + 1)
        drawn = [
            (name, served) for name, served in zip(names, runs, strict=True) if len(served.run.records.steps.start_s)
        ]
        _draw_arrivals(places[0], [(served, looks[name]["color"]) for name, served in drawn], edges)
        for name, served in drawn:
            _draw_run(places, served, edges, looks[name]["color"])
        for place, word in zip(places, PANELS, strict=True):
            place.set_ylabel(word)
            place.set_ylim(0, None)
            place.margins(x=0)
        for place in places[1:3]:  # numbers of requests are whole, also where none waits
            place.set_ylim(0, max(place.get_ylim()[1], 1.0))
            place.yaxis.get_major_locator().set_params(integer=True)
        figure.align_ylabels(places)
        places[-1].yaxis.set_major_formatter(lambda value, _: f"{value:g} %")
        places[-1].set_xlabel("time since the first request")
        places[-1].xaxis.set_major_formatter(lambda value, _: plotting.drop_zeros(show_time(value)) if value else "0")
        handles = [plt.Line2D([], [], label=name, color=look["color"]) for name, look in looks.items()]
        plotting.write_caption(figure, "what servers hold", caption_of([r.plan for r in runs]))
        draw_legend(figure, handles if len(runs) > 1 else [])
        plotting.save(figure, path)


def _duration(records: Records) -> float:
    """Seconds from the first request to the last step; 0 of a run without steps."""
    if not len(records.steps.end_s):
        return 0.0
    return float(records.steps.end_s.max() - np.nanmin(records.arrival_s))


def _draw_run(places: Any, served: Served, edges: Floats, color: str) -> None:
    records, run = served.run.records, served.run
    steps, first = records.steps, float(np.nanmin(records.arrival_s))
    middles = (edges[1:] + edges[:-1]) / 2
    room = run.blocks * run.simulation.replicas / 100
    for place, own, field, unit in (
        (places[1], steps, "waiting", 1.0),
        (places[2], steps, "running", 1.0),
        (places[3], decode_steps(run, steps), "blocks", room),
    ):
        level = total_level(own, getattr(own, field))
        mean, peak = mean_and_peak(Level(level.times - first, level.values / unit), edges)
        place.plot(middles, mean, color=color, linewidth=1)
        place.fill_between(middles, mean, peak, color=color, alpha=0.2, linewidth=0)


def _draw_arrivals(place: Any, drawn: Sequence[tuple[Served, str]], edges: Floats) -> None:
    """Draw the arrivals of each run, or once in black where those of several runs are the same."""
    found = [(*_arrivals(served.run.records, edges), color) for served, color in drawn]
    if len(found) > 1 and all(np.allclose(came, found[0][0]) for came, _, _ in found):
        found = [(*found[0][:2], "#333333")]
        place.annotate("the same for all plans", (0.995, 0.96), xycoords="axes fraction", ha="right", va="top",
                       fontsize=7, color="#333333", bbox=plotting.PAPER)  # fmt: skip
    for came, wide, color in found:
        place.stairs(came, wide, baseline=None, color=color, linewidth=1)


def decode_steps(run: Run, steps: Steps) -> Steps:
    """The steps of the servers that decode: all of them, unless another pool prefills."""
    before = 0 if run.simulation.prefill is None else run.simulation.prefill.replicas
    return Steps._make(values[steps.replica >= before] for values in steps)


def _arrivals(records: Records, edges: Floats) -> tuple[Floats, Floats]:
    """Requests/s that arrive in each of `BINS` / 5 parts of the time, and the edges of these parts."""
    wide = edges[:: max(1, BINS // 60)]
    first = float(np.nanmin(records.arrival_s))
    came, _ = np.histogram(records.arrival_s[np.isfinite(records.arrival_s)] - first, wide)
    return came / np.diff(wide), wide
