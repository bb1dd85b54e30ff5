"""The steps of servers one by one, in a short window of time: how many prompt tokens and decodes each has."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from plandsl import plotting
from plandsl.backends.cost.serving.records import Steps
from plandsl.backends.cost.serving.requests import Floats, Ints
from plandsl.backends.plots.runs import Served, caption_of, labels, new_figure
from plandsl.units import show_time

SHOWN = 40
"""Steps in the window, of the server that is busiest in the first plan."""

MOST_LANES = 12
"""Most lanes that are drawn; a note counts the others."""

FAINTEST, DARKEST = 0.2, 0.95
"""The part of a colour map that is used."""

LIGHT = 0.6
"""The place in the colours from which a number on them is white."""

TALL, ROW = 0.42, 0.44
"""The height of a bar, and of a row; a lane has two rows and is 1 high."""


class Lane(NamedTuple):
    """The steps in flight of a server that do not overlap, in the window; ``arrivals`` of its requests."""

    label: str
    start: Floats
    end: Floats
    prompt_tokens: Ints
    decodes: Ints
    arrivals: Floats


class Look(NamedTuple):
    """A row of every lane: what its colours count."""

    name: str
    field: str
    colours: str
    row: int


LOOKS = (
    Look("prompt tokens", "prompt_tokens", "Oranges", 0),
    Look("requests that decode", "decodes", "Blues", 1),
)


def busiest_window(steps: Steps, shown: int = SHOWN) -> tuple[float, float]:
    """The time of ``shown`` steps of one server around the one behind which most requests wait, or else run."""
    crowd = steps.waiting * (int(steps.running.max()) + 1) + steps.running
    peak = int(np.argmax(crowd))
    own = np.flatnonzero(steps.replica == steps.replica[peak])
    at = max(0, min(int(np.searchsorted(own, peak)) - shown // 2, len(own) - shown))
    last = own[min(at + shown, len(own)) - 1]
    return float(steps.start_s[own[at]]), float(steps.end_s[last])


def draw_steps(runs: Sequence[Served], path: Path) -> None:
    """Draw the steps of each server in the busiest moment of the first plan that served a request.

    A lane has two rows, prompt tokens above decodes, the darker the more. A server with several batches in flight has a
    lane for each. Raises `PlanError` (E405).
    """
    plt = plotting.pyplot()
    with plt.rc_context({**plotting.SMALL, "axes.grid": False}):
        worked = [r for r in runs if len(r.run.records.steps.start_s)]
        start, end = busiest_window(worked[0].run.records.steps) if worked else (0.0, 1.0)
        every = [
            lane
            for name, r in zip(labels([r.plan for r in runs]), runs, strict=True)
            for lane in lanes_of(name, r, start, end)
        ]
        lanes = every[:MOST_LANES]
        figure = new_figure(1.3 + 0.55 * max(len(lanes), 3))
        place = figure.subplots()
        place.set_xlim(0, end - start)
        place.set_ylim(max(len(lanes), 1) - 0.05, -0.15)
        for look in LOOKS:
            _draw_rows(place, lanes, start, look)
        for row, lane in enumerate(lanes):
            at = lane.arrivals - start
            place.plot(at, np.full(len(at), row - 0.03), " ", marker="v", markersize=3, color="black", clip_on=False)
        plotting.write_caption(figure, "steps of the busiest moment", caption_of([r.plan for r in runs]))
        _label_axes(place, lanes, _first_arrival(worked, start), start, len(every) - len(lanes))
        plotting.save(figure, path)


def _first_arrival(worked: Sequence[Served], default: float) -> float:
    return min([float(np.nanmin(r.run.records.arrival_s)) for r in worked], default=default)


def _label_axes(place: Any, lanes: Sequence[Lane], first: float, start: float, left_out: int) -> None:
    place.set_yticks([row + ROW for row in range(len(lanes))], [lane.label for lane in lanes])
    place.tick_params(axis="y", length=0)
    place.spines["left"].set_visible(False)
    more = f"; {left_out} more lanes are not drawn" if left_out else ""
    place.set_xlabel(f"from {show_time(start - first)} after the first request; a triangle is an arrival{more}")
    place.xaxis.set_major_formatter(lambda value, _: plotting.drop_zeros(show_time(value)) if value else "0")


def lanes_of(name: str, served: Served, start: float, end: float) -> Iterator[Lane]:
    """The lanes of each server of a plan between two times. Of two pools, requests arrive where they prefill."""
    records, steps = served.run.records, served.run.records.steps
    inside = (steps.end_s > start) & (steps.start_s < end)
    came = (records.arrival_s >= start) & (records.arrival_s < end)
    first_at = records.replica if records.prefill_replica is None else records.prefill_replica
    for server, label in enumerate(_server_labels(name, served)):
        arrivals = records.arrival_s[came & (first_at == server)]
        own = np.flatnonzero(inside & (steps.replica == server))
        for i, chosen in enumerate(_apart(own, steps)):
            yield Lane(
                label if not i else "",
                steps.start_s[chosen],
                steps.end_s[chosen],
                steps.prompt_tokens[chosen],
                decodes=steps.decodes[chosen],
                arrivals=arrivals if not i else arrivals[:0],
            )


def _server_labels(name: str, served: Served) -> list[str]:
    """A label for each server of a plan, in the order of their numbers."""
    told = served.run.simulation
    if told.prefill is not None:
        pools = (("prefill", told.prefill.replicas), ("decode", told.replicas))
        return [f"{name}\n{pool} {i}" for pool, many in pools for i in range(many)]
    return [f"{name}\nserver {i}" for i in range(told.replicas)] if told.replicas > 1 else [name]


def _apart(own: Ints, steps: Steps) -> list[NDArray[np.int64]]:
    """The steps of a server in groups whose steps do not overlap: one group unless several batches are in flight."""
    groups: list[list[int]] = [[]]
    for i in own.tolist():
        free = (g for g in groups if not g or steps.end_s[g[-1]] <= steps.start_s[i] + 1e-12)
        group = next(free, None)
        if group is None:
            groups.append(group := [])
        group.append(i)
    return [np.array(g, np.int64) for g in groups]


def _draw_rows(place: Any, lanes: Sequence[Lane], start: float, look: Look) -> None:
    """Draw one row of all lanes, and beside them a bar that tells its colours."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import LinearSegmentedColormap, Normalize
    from matplotlib.ticker import MaxNLocator

    whole = plotting.pyplot().get_cmap(look.colours)
    shades = LinearSegmentedColormap.from_list(look.name, [whole(x) for x in np.linspace(FAINTEST, DARKEST, 16)])
    norm = Normalize(0, max([1, *(int(getattr(lane, look.field).max(initial=0)) for lane in lanes)]))
    for at, lane in enumerate(lanes):
        top = at + ROW * look.row
        place.axhspan(top, top + TALL, color="#f2f2f2", linewidth=0, zorder=0)
        counts = getattr(lane, look.field)
        has = counts > 0
        begin, long, counts = (lane.start - start)[has], (lane.end - lane.start)[has], counts[has]
        place.broken_barh(list(zip(begin, long, strict=True)), (top, TALL), facecolor=shades(norm(counts)),
                          edgecolor="white", linewidth=0.4 if len(begin) < 4 * SHOWN else 0)  # fmt: skip
        left, right = np.clip(begin, *place.get_xlim()), np.clip(begin + long, *place.get_xlim())
        for x, width, n in zip(((left + right) / 2).tolist(), (right - left).tolist(), counts.tolist(), strict=True):
            _write_number(place, (x, top + TALL / 2), width, f"{n}", "white" if norm(n) > LIGHT else "#222222")
    beside = place.inset_axes((1.02, 0.56 - 0.5 * look.row, 0.018, 0.37))
    bar = place.figure.colorbar(ScalarMappable(norm, shades), cax=beside, ticks=MaxNLocator(4, integer=True))
    bar.set_label(look.name.replace(" that ", "\nthat "))
    bar.outline.set_visible(False)


def _write_number(place: Any, middle: tuple[float, float], width: float, text: str, color: str) -> None:
    """Write a number into a bar that is wide enough."""
    (x, y), (low, high) = middle, place.get_xlim()
    if width / (high - low) > 0.012 * len(text) + 0.006 and low <= x <= high:
        place.text(x, y, text, ha="center", va="center", fontsize=6, color=color)
