"""A simulation as Trace Event JSON: a process for each server, its steps as slices, requests as spans beside them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from plandsl import limits
from plandsl.backends.cost.answers.simulation import Run
from plandsl.backends.cost.serving.records import Records
from plandsl.backends.cost.serving.requests import Floats, Ints
from plandsl.backends.traces.events import Events, Span, Track, describe_plan
from plandsl.backends.traces.ranks import check_size
from plandsl.spec.plan import PlanSpec

NOT_SERVED, FIRST_SERVER = 1, 1000
"""Process numbers of what no server serves, and of server 0."""

HINT = "serve fewer requests with `--requests N`"


def trace_simulation(plan: PlanSpec, run: Run) -> str:
    """The trace of a run. Raises `PlanError` (E511) where it has too many events."""
    records, steps = run.records, run.records.steps
    spans = 0 if records.stages is None else len(records.stages.start_s)
    check_size("events", 4 * len(steps.start_s) + 2 * spans + 8 * len(records.input), limits.MAX_TRACE_EVENTS, HINT)
    events = Events()
    for server, label in enumerate(server_names(run)):
        pid = FIRST_SERVER + server
        events.name_process(pid, label, plan.name, pid)
        _write_steps(events, records, server)
        _write_stages(events, records, server)
    for request in range(len(records.input)):
        _write_request(events, run, request)
    if not records.served.all():
        events.name_process(NOT_SERVED, "not served", "requests that no server can hold", NOT_SERVED)
        events.name_track(Track(NOT_SERVED, 2), "requests")
    return events.write(_about(plan, run))


def server_names(run: Run) -> list[str]:
    """A name for each server, by its number; of two pools those that prefill come first."""
    told = run.simulation
    if told.prefill is None:
        return [f"server {i}" for i in range(told.replicas)]
    pools = (("prefill", told.prefill.replicas), ("decode", told.replicas))
    return [f"{pool} {i}" for pool, many in pools for i in range(many)]


def _about(plan: PlanSpec, run: Run) -> dict[str, Any]:
    told = run.simulation
    return describe_plan(plan) | {
        "requests": told.summary.requests, "seed": told.seed, "scheduler": told.scheduler,
        "blocks_of_a_server": run.blocks,
    }  # fmt: skip


def _write_steps(events: Events, records: Records, server: int) -> None:
    """Write the steps of a server, and what it holds from one to the next; nothing while it is idle."""
    steps, pid = records.steps, FIRST_SERVER + server
    own = np.flatnonzero(steps.replica == server)
    start, end = steps.start_s[own], steps.end_s[own]
    lanes = lanes_of(start, end)
    for lane in range(max(lanes, default=-1) + 1):
        events.name_track(Track(pid, lane + 1), "steps" if lane == 0 else f"steps of another batch, {lane}")
    idle = np.append(start[1:] > np.maximum.accumulate(end)[:-1], True) if len(own) else np.empty(0, bool)
    for at, step in enumerate(own.tolist()):
        prompts, decodes = int(steps.prompt_tokens[step]), int(steps.decodes[step])
        held = {name: int(getattr(steps, name)[step]) for name in ("waiting", "running", "blocks")}
        name = _kind_of(prompts, decodes)
        args = {"prompt_tokens": prompts, "decodes": decodes}
        events.slice(Track(pid, lanes[at] + 1), name, "step", (float(start[at]), float(end[at])), args | held)
        _write_held(events, pid, float(start[at]), held)
        if idle[at]:
            _write_held(events, pid, float(end[: at + 1].max()), dict.fromkeys(held, 0))


def _kind_of(prompts: int, decodes: int) -> str:
    return "mixed" if prompts and decodes else "prefill" if prompts else "decode"


FIRST_STAGE = 10_000_001
"""Track of the first stage of a server: behind those of its batches in flight, and no number of a process."""


def _write_stages(events: Events, records: Records, server: int) -> None:
    """Write each step on each stage of a server, and arrows from stage to stage; nothing for servers of one stage."""
    if records.stages is None:
        return
    steps, stages, pid = records.steps, records.stages, FIRST_SERVER + server
    own, mine = np.flatnonzero(steps.replica == server), np.flatnonzero(stages.replica == server)
    for stage in range(int(stages.stage[mine].max(initial=-1)) + 1):
        events.name_track(Track(pid, FIRST_STAGE + stage), f"stage {stage}")
    way: list[tuple[Track, float]] = []
    for at in mine.tolist():
        step, stage = int(own[stages.step[at]]), int(stages.stage[at])
        time = float(stages.start_s[at]), float(stages.end_s[at])
        track = Track(pid, FIRST_STAGE + stage)
        prompts, decodes = int(steps.prompt_tokens[step]), int(steps.decodes[step])
        events.slice(track, _kind_of(prompts, decodes), "step on a stage", time, {"step": int(stages.step[at])})
        if stage == 0:
            events.flow("hop", "hop", way)
            way = []
        way.append((track, (time[0] + time[1]) / 2))
    events.flow("hop", "hop", way)


def _write_held(events: Events, pid: int, time: float, held: dict[str, int]) -> None:
    requests = {name: held[name] for name in ("waiting", "running")}
    events.counter(pid, "requests", time, requests)
    events.counter(pid, "KV blocks", time, {"blocks": held["blocks"]})


def lanes_of(start: Floats, end: Floats) -> list[int]:
    """For each step of a server the first lane that is free when it starts; one lane unless batches overlap."""
    free: list[float] = []
    found = []
    for begin, done in zip(start.tolist(), end.tolist(), strict=True):
        lane = next((i for i, time in enumerate(free) if time <= begin + 1e-12), len(free))
        free[lane : lane + 1] = [done]
        found.append(lane)
    return found


def _write_request(events: Events, run: Run, request: int) -> None:
    """Write the parts of a request on the servers that it visits."""
    records = run.records
    arrival, finish = float(records.arrival_s[request]), float(records.finish_s[request])
    args = _request_args(run, request)
    if not np.isfinite(finish):
        if np.isfinite(arrival):
            events.moment(Track(NOT_SERVED, 2), f"request {request}", arrival, args)
        return
    parts = list(_parts(records, request))
    for pid in dict.fromkeys(pid for pid, *_ in parts):
        own = [part for part in parts if part[0] == pid]
        span = Span(pid, "request", request)
        events.begin(span, str(args.get("class", "request")), own[0][2], args)
        for _, name, begin, end in own:
            events.begin(span, name, begin)
            events.end(span, name, end)
        events.end(span, str(args.get("class", "request")), own[-1][3])


def _parts(records: Records, request: int) -> Iterator[tuple[int, str, float, float]]:
    """Process, name, begin and end of what happens to a served request, one after the other."""

    def at(column: Floats | Ints) -> float:
        return float(column[request])

    last = FIRST_SERVER + int(records.replica[request])
    first = last if records.prefill_replica is None else FIRST_SERVER + int(records.prefill_replica[request])
    arrival, admitted, token, finish = map(
        at, (records.arrival_s, records.admitted_s, records.first_s, records.finish_s)
    )
    if admitted > arrival:
        yield first, "queue", arrival, admitted
    yield first, "prefill", admitted, token
    sent = 0.0 if records.transfer_s is None else at(records.transfer_s)
    if sent > 0:
        yield last, "KV cache on its way", token, min(token + sent, finish)
    if finish > token:
        yield last, "decode", min(token + (sent if sent > 0 else 0.0), finish), finish


def _request_args(run: Run, request: int) -> dict[str, Any]:
    records = run.records
    found: dict[str, Any] = {
        name: int(getattr(records, name)[request]) for name in ("input", "output", "cached", "preemptions")
    }
    found |= {"request": request}
    return found if records.kind is None else found | {"class": run.kinds[int(records.kind[request])]}
