"""Reads Trace Event JSON without what wrote it: slices by track, whether they nest, and where flows start and end.

The rules are those of the format and of Perfetto's importer: flow ids are integers, slices of a track nest or
follow one another, and each end of a flow lies in a slice of its track.
"""

from __future__ import annotations

import json
from collections import defaultdict
from typing import Any, NamedTuple


class Slice(NamedTuple):
    """A slice, in nanoseconds."""

    start: int
    end: int
    name: str
    kind: str
    args: dict[str, Any]


class Trace(NamedTuple):
    """What a file says: slices by process and track, flows by id, counters by process and name, and names."""

    about: dict[str, Any]
    slices: dict[tuple[int, int], list[Slice]]
    flows: dict[int, list[dict[str, Any]]]
    counters: dict[tuple[int, str], list[tuple[int, dict[str, float]]]]
    spans: dict[tuple[int, str, int], list[dict[str, Any]]]
    processes: dict[int, str]
    tracks: dict[tuple[int, int], str]
    events: list[dict[str, Any]]


EVENT_SCHEMA = {
    "type": "object",
    "required": ["traceEvents"],
    "properties": {
        "displayTimeUnit": {"enum": ["ms", "ns"]},
        "otherData": {"type": "object"},
        "traceEvents": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["ph", "name", "pid", "tid", "ts"],
                "properties": {
                    "ph": {"enum": ["M", "X", "s", "t", "f", "C", "b", "e", "i"]},
                    "name": {"type": "string"},
                    "cat": {"type": "string"},
                    "pid": {"type": "integer", "minimum": 0},
                    "tid": {"type": "integer", "minimum": 0},
                    "ts": {"type": "number", "minimum": 0},
                    "args": {"type": "object"},
                },
                "allOf": [
                    {"if": {"properties": {"ph": {"const": "X"}}},
                     "then": {"required": ["cat", "dur"], "properties": {"dur": {"exclusiveMinimum": 0}}}},
                    {"if": {"properties": {"ph": {"enum": ["s", "t", "f", "b", "e"]}}},
                     "then": {"required": ["cat", "id"], "properties": {"id": {"type": "integer"}}}},
                    {"if": {"properties": {"ph": {"const": "f"}}}, "then": {"required": ["bp"]}},
                    {"if": {"properties": {"ph": {"const": "C"}}},
                     "then": {"required": ["args"],
                              "properties": {"args": {"additionalProperties": {"type": "number"}}}}},
                    {"if": {"properties": {"ph": {"const": "i"}}},
                     "then": {"properties": {"s": {"enum": ["g", "p", "t"]}}, "required": ["s"]}},
                ],
            },
        },
    },
}  # fmt: skip
"""The object form of "Trace Event Format" (Google, 2016), as far as traces of plans use it, as a JSON schema."""


def nanos(micros: float) -> int:
    found = round(micros * 1000)
    assert abs(found - micros * 1000) < 1e-3 * max(1.0, abs(micros) * 1e-9), micros
    return found


def read_trace(text: str) -> Trace:
    """Read a file; AssertionError where it breaks a rule of the format."""
    whole = json.loads(text)
    slices, flows, counters, spans = (defaultdict[Any, list[Any]](list) for _ in range(4))
    trace = Trace(
        whole["otherData"], slices, flows, counters, spans, processes={}, tracks={}, events=whole["traceEvents"]
    )
    last = 0.0
    for event in trace.events:
        place = event["pid"], event["tid"]
        assert event["ts"] >= last, "events are sorted by time"
        last = event["ts"]
        match event["ph"]:
            case "M":
                if event["name"] == "process_name":
                    trace.processes[event["pid"]] = event["args"]["name"]
                if event["name"] == "thread_name":
                    assert place not in trace.tracks, "a track has one name"
                    trace.tracks[place] = event["args"]["name"]
            case "X":
                assert event["dur"] > 0, "a slice takes time"
                start = nanos(event["ts"])
                made = Slice(start, start + nanos(event["dur"]), event["name"], event["cat"], event.get("args", {}))
                trace.slices[place].append(made)
            case "s" | "t" | "f":
                assert isinstance(event["id"], int)
                trace.flows[event["id"]].append(event)
            case "C":
                trace.counters[event["pid"], event["name"]].append((nanos(event["ts"]), event["args"]))
            case "b" | "e":
                trace.spans[event["pid"], event["cat"], event["id"]].append(event)
            case "i":
                assert event["s"] == "t"
            case other:
                raise AssertionError(f"an event {other}")
    return trace


def check_trace(trace: Trace) -> None:
    """Whether slices nest, every track has a name, each flow starts and ends in slices, and spans are closed."""
    for place, slices in trace.slices.items():
        assert place in trace.tracks, place
        assert place[0] in trace.processes
        assert place[0] != place[1]
        _check_nesting(slices)
    for steps in trace.flows.values():
        assert [e["ph"] for e in steps] == ["s", *["t"] * (len(steps) - 2), "f"]
        assert steps[-1]["bp"] == "e"
        assert len({(e["name"], e["cat"]) for e in steps}) == 1
        for event in steps:
            time, own = nanos(event["ts"]), trace.slices[event["pid"], event["tid"]]
            assert any(s.start <= time < s.end for s in own), event
    for (_, _, _), events in trace.spans.items():
        open_: list[str] = []
        for event in events:
            if event["ph"] == "b":
                open_.append(event["name"])
            else:
                assert open_.pop() == event["name"]
        assert not open_


def _check_nesting(slices: list[Slice]) -> None:
    open_: list[Slice] = []
    for one in sorted(slices, key=lambda s: (s.start, -s.end)):
        while open_ and open_[-1].end <= one.start:
            open_.pop()
        assert not open_ or one.end <= open_[-1].end, (open_[-1], one)
        open_.append(one)
