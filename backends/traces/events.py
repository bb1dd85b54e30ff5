"""Trace Event JSON: slices, flows, counters and names of tracks, with times in whole nanoseconds.

Source of the format: "Trace Event Format", Google, 2016. What Perfetto accepts of it: flow ids are integers, slices of
a track nest or follow one another, and times are microseconds with up to three decimals.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from itertools import count
from typing import Any, NamedTuple

from plandsl._version import __version__
from plandsl.spec.plan import PlanSpec

Event = dict[str, Any]


class Track(NamedTuple):
    """A row of a process."""

    pid: int
    tid: int


class Span(NamedTuple):
    """Something that lasts over many slices of a process, such as a request: its number among those of a kind."""

    pid: int
    cat: str
    id: int


def nanos(seconds: float) -> int:
    """Whole nanoseconds."""
    return round(seconds * 1e9)


def micros(time_ns: int) -> float:
    """Microseconds, as the format has them."""
    return time_ns / 1000


def describe_plan(plan: PlanSpec) -> dict[str, Any]:
    """What every trace says of its plan."""
    return {"plandsl": __version__, "plan": plan.name, "model": plan.model.name, "machine": plan.machine,
            "gpus": plan.ranks}  # fmt: skip


class Events:
    """Events of a trace, in the order in which they are added."""

    def __init__(self) -> None:
        self.found: list[Event] = []
        self._ids = count(1)

    # ---- names

    def name_process(self, pid: int, name: str, label: str, order: int) -> None:
        """Name a process; viewers show the ``label`` beside it, and processes by their ``order``."""
        self._name("process_name", Track(pid, 0), {"name": name})
        self._name("process_labels", Track(pid, 0), {"labels": label})
        self._name("process_sort_index", Track(pid, 0), {"sort_index": order})

    def name_track(self, track: Track, name: str) -> None:
        """Name a track; tracks lie in the order of their numbers."""
        self._name("thread_name", track, {"name": name})
        self._name("thread_sort_index", track, {"sort_index": track.tid})

    def _name(self, name: str, track: Track, args: Event) -> None:
        self.found.append({"ph": "M", "name": name, "pid": track.pid, "tid": track.tid, "ts": 0.0, "args": args})

    # ---- what happens

    def slice(self, track: Track, name: str, kind: str, time: tuple[float, float], args: Event | None = None) -> None:
        """Work from a start to an end in seconds; left out where it takes less than half a nanosecond."""
        first, last = map(nanos, time)
        if last > first:
            event: Event = {"ph": "X", "name": name, "cat": kind, "ts": micros(first), "dur": micros(last - first)}
            self.found.append(event | track._asdict() | ({"args": args} if args else {}))

    def flow(self, name: str, kind: str, through: Iterable[tuple[Track, float]]) -> None:
        """Join the slices that run on some tracks at some seconds by arrows, in this order; nothing for fewer than two.

        Arrows go from one slice to the next.
        """
        places = list(through)
        if len(places) < 2:
            return
        id_ = next(self._ids)
        for at, (track, time) in enumerate(places):
            ends = {"bp": "e"} if at == len(places) - 1 else {}
            step = "f" if ends else "t" if at else "s"
            event: Event = {"ph": step, "name": name, "cat": kind, "id": id_, "ts": micros(nanos(time))}
            self.found.append(event | track._asdict() | ends)

    def counter(self, pid: int, name: str, time: float, values: Mapping[str, float]) -> None:
        """Quantities from ``time`` on."""
        event: Event = {"ph": "C", "name": name, "pid": pid, "tid": 0, "ts": micros(nanos(time)), "args": dict(values)}
        self.found.append(event)

    def moment(self, track: Track, name: str, time: float, args: Event | None = None) -> None:
        """Something that happens on a track at one time."""
        event: Event = {"ph": "i", "s": "t", "name": name, "cat": "moment", "ts": micros(nanos(time))}
        self.found.append(event | track._asdict() | ({"args": args} if args else {}))

    def begin(self, span: Span, name: str, time: float, args: Event | None = None) -> None:
        """A part of something that outlasts slices begins; parts of one `Span` nest, each ends before what holds it."""
        self.found.append(self._edge("b", span, name, time) | ({"args": args} if args else {}))

    def end(self, span: Span, name: str, time: float) -> None:
        """The part that began last ends."""
        self.found.append(self._edge("e", span, name, time))

    def _edge(self, step: str, span: Span, name: str, time: float) -> Event:
        return {"ph": step, "name": name, "ts": micros(nanos(time)), "tid": 0} | span._asdict()

    # ---- the file

    def write(self, about: Mapping[str, Any]) -> str:
        """The file: one event a line, by time; equal times keep their order, and names of tracks come first."""
        by_time = sorted(self.found, key=lambda event: (event["ph"] != "M", event["ts"]))
        lines = ",\n".join(json.dumps(event, sort_keys=True, separators=(",", ":")) for event in by_time)
        told = json.dumps(dict(about), sort_keys=True)
        return f'{{"displayTimeUnit":"ns","otherData":{told},"traceEvents":[\n{lines}\n]}}\n'
