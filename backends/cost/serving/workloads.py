"""From a workload to its requests: the same seed gives the same bytes on every machine.

Each quantity has a stream of random numbers of its own (`Purpose`), for each class of requests. With another rate the
lengths stay, so that two loads differ by what was changed and not by chance.
"""

from __future__ import annotations

from array import array
from typing import Any, NamedTuple

import numpy as np

from plandsl import limits
from plandsl.backends.cost.serving.arrivals import draw_arrivals
from plandsl.backends.cost.serving.distributions import draw, draw_lengths, draw_whole
from plandsl.backends.cost.serving.draws import Floats, Ints, Purpose, Stream
from plandsl.backends.cost.serving.requests import Closed, Hashes, Requests, check_blocks, split_blocks, take_blocks
from plandsl.diagnostics import Diagnostic, PlanError
from plandsl.spec.plan import WorkloadSpec
from plandsl.spec.traffic import (
    AdaptersSpec,
    Arrivals,
    ClassSpec,
    Fixed,
    Lengths,
    SessionsSpec,
    TraceSpec,
    TrafficSpec,
    mean_rate,
)
from plandsl.traces import Trace, trace_of
from plandsl.units import show_time

REQUESTS = 10_000
"""Requests of a load over time that does not say how many."""

EACH = 10
"""Requests for each place of a closed loop that does not say how many."""

BLOCK = 16
"""Tokens of a block of a conversation's prompt, unless the caller wants others."""


class Load(NamedTuple):
    """The requests of a workload.

    ``closed``: of a closed loop, whose requests have no times. ``think_s`` float64[n]: seconds between the answer to
    the request before it in its session and a request; 0 for others. `Requests.arrival_s` of such a request is the
    earliest time, as if answers took no time. ``kinds``: the names of the classes, by `Requests.kind`. ``asked``: how
    many requests a caller wanted, where that is another number than the workload's.
    """

    requests: Requests
    closed: Closed | None = None
    think_s: Floats | None = None
    kinds: tuple[str, ...] = ()
    asked: int | None = None


def draw_requests(load: WorkloadSpec, count: int | None = None, block: int = BLOCK) -> Load:
    """Draw the requests of a workload, ``count`` requests in place of the number that the workload states.

    ``block``: tokens of a block of a conversation's prompt. Raises `PlanError` where a file is wrong, and where there
    are more than `MAX_REQUESTS` requests or none.
    """
    found = _draw(load, count, block)
    if not len(found.requests.input):
        lasts = load.traffic and load.traffic.duration
        why = f"no request of the load `{load.name}` arrives within {show_time(lasts or 0.0)}"
        raise PlanError([Diagnostic("E214", why, load.span, hint="raise `duration` or the rate")])
    return found


def _draw(load: WorkloadSpec, count: int | None, block: int) -> Load:
    timed = load.traffic is not None and load.traffic.arrivals is not None
    closed = None if load.concurrency is None else Closed(load.concurrency, timed)
    traffic = load.traffic or TrafficSpec(lengths=Lengths(Fixed(load.input), Fixed(load.output)))
    if traffic.trace is not None:
        return Load(_replay(load, traffic, traffic.trace, count), closed)
    n = count or load.requests
    if n is None and closed is not None:
        n = EACH * closed.concurrency
    elif n is None and load.traffic is None:
        n = load.batch
    kinds = traffic.classes
    if not kinds:
        assert traffic.lengths is not None, "neither a trace nor classes"
        kinds = (ClassSpec("", traffic.lengths, sessions=traffic.sessions, adapters=traffic.adapters),)
    parts = _parts(kinds, _starts(load, traffic, kinds, n), traffic.seed)
    drawn = _merge(parts, n if n is not None or traffic.duration is not None else REQUESTS, traffic.duration)
    requests = Requests(
        drawn.arrival_s,
        drawn.input,
        drawn.output,
        blocks=_blocks(drawn, kinds, block) if drawn.talks else None,
        session=drawn.session if drawn.talks else None,
        kind=drawn.kind if traffic.classes else None,
        priority=_priorities(kinds, drawn.kind),
        adapter=_name_adapters(drawn, kinds, traffic.seed),
        images=draw_images(load, drawn.input),
    )
    names = tuple(one.name for one in traffic.classes)
    return Load(split_blocks(requests), closed, think_s=drawn.think_s if drawn.talks else None, kinds=names)


def _priorities(kinds: tuple[ClassSpec, ...], kind: Ints) -> Ints | None:
    """The priority of each request; None where all are equal."""
    each = np.array([one.priority for one in kinds], np.int64)
    return each[kind] if len(set(each.tolist())) > 1 else None


# ---- adapters


def _name_adapters(drawn: _Drawn, kinds: tuple[ClassSpec, ...], seed: int) -> Ints | None:
    """The adapter of each request, which is that of its conversation; None if no request names one."""
    found = np.zeros(len(drawn.input), np.int64)
    for at, one in enumerate(kinds):
        if one.adapters is None:
            continue
        own = np.flatnonzero(drawn.kind == at)
        which = np.arange(len(own)) if one.sessions is None else drawn.session[own] - drawn.session[own].min(initial=0)
        found[own] = draw_adapters(one.adapters, int(which.max(initial=-1)) + 1, seed, at)[which]
    return found if found.any() else None


def draw_adapters(spec: AdaptersSpec, n: int, seed: int, kind: int = 0) -> Ints:
    """The adapters of ``n`` requests or conversations of a class, 0 for those that name none."""
    assert spec.which is not None, "a column of a trace is not drawn"
    which = draw_whole(spec.which, Stream(seed, Purpose.ADAPTERS, kind), n)
    return np.where(Stream(seed, Purpose.ADAPTED, kind).uniform(n) < spec.share, which, 0)


# ---- images


def draw_images(load: WorkloadSpec, input_: Ints) -> Ints | None:
    """The images of prompts of these lengths, as many as are drawn and fit; None where the load draws none."""
    if load.drawn_images is None or not load.image_tokens:
        return None
    seed = 0 if load.traffic is None else load.traffic.seed
    drawn = draw_whole(load.drawn_images, Stream(seed, Purpose.IMAGES), len(input_), least=0)
    return np.minimum(drawn, input_ // load.image_tokens)


# ---- when requests, or conversations, start


def _starts(load: WorkloadSpec, traffic: TrafficSpec, kinds: tuple[ClassSpec, ...], n: int | None) -> list[Floats]:
    """The times at which the requests or conversations of each class start: at least ``n`` in all, or to the end."""
    if traffic.arrivals is None and any(one.arrivals for one in kinds):
        return [_times(load, one.arrivals, n, at) for at, one in enumerate(kinds)]
    times = _times(load, traffic.arrivals, n, 0)
    if len(kinds) == 1:
        return [times]
    bounds = np.cumsum([one.share or 0.0 for one in kinds])[:-1]
    drawn = Stream(traffic.seed, Purpose.KINDS).uniform(len(times))
    which = np.searchsorted(bounds, drawn, side="right")
    return [times[which == at] for at in range(len(kinds))]


def _times(load: WorkloadSpec, arrivals: Arrivals | None, n: int | None, kind: int) -> Floats:
    """The first ``n`` arrivals; those before the end of the load if ``n`` is None; zeros without arrivals."""
    traffic = load.traffic
    seed, duration = (0, None) if traffic is None else (traffic.seed, traffic.duration)
    if arrivals is None or duration is None:
        many = _allowed(load, REQUESTS if n is None else n)
        return np.zeros(many) if arrivals is None else draw_arrivals(arrivals, many, seed, kind)
    most = limits.MAX_REQUESTS if n is None else n
    many = min(_allowed(load, int((mean_rate(arrivals) or 1.0) * duration * 1.1) + 100), most)
    while True:
        times = draw_arrivals(arrivals, many, seed, kind)
        if many >= most or times[-1] > duration:
            return times[times < duration]
        many = min(_allowed(load, 2 * many), most)


def _allowed(load: WorkloadSpec, n: int) -> int:
    if n <= limits.MAX_REQUESTS:
        return n
    hint = limits.MAX_REQUESTS.hint("lower `requests`, `duration` or the rate", n)
    why = f"the load `{load.name}` has more than {limits.MAX_REQUESTS:,} requests"
    raise PlanError([Diagnostic("E214", why, load.span, hint=hint)])


# ---- requests


class _Drawn(NamedTuple):
    """Columns of requests; ``turn`` counts from 0 in a conversation, ``session`` is -1 outside of one."""

    arrival_s: Floats
    input: Ints
    output: Ints
    think_s: Floats
    session: Ints
    turn: Ints
    kind: Ints

    @property
    def talks(self) -> bool:
        """Whether some requests belong to conversations."""
        return bool(np.any(self.session >= 0))


def _parts(kinds: tuple[ClassSpec, ...], starts: list[Floats], seed: int) -> list[_Drawn]:
    found, sessions = [], 0
    for at, (one, times) in enumerate(zip(kinds, starts, strict=True)):
        if one.sessions is None:
            found.append(_single(one.lengths, times, seed, at))
        else:
            found.append(_talks(one.lengths, one.sessions, times, seed=seed, kind=at, first=sessions))
            sessions += len(times)
    return found


def _single(lengths: Lengths, times: Floats, seed: int, kind: int) -> _Drawn:
    n = len(times)
    size_in, size_out = draw_lengths(lengths, n, seed, kind)
    none, zero, same = (np.broadcast_to(np.int64(number), n) for number in (-1, 0, kind))
    return _Drawn(times, size_in, size_out, np.broadcast_to(0.0, n), session=none, turn=zero, kind=same)


def _talks(lengths: Lengths, talk: SessionsSpec, times: Floats, *, seed: int, kind: int, first: int) -> _Drawn:
    """All turns of conversations that start at ``times``: a prompt has all earlier turns in it."""
    turns = draw_whole(talk.turns, Stream(seed, Purpose.TURNS, kind), len(times))
    begin = np.cumsum(turns) - turns
    n = int(np.sum(turns))
    which = np.repeat(np.arange(len(times)), turns)
    turn = np.arange(n) - begin[which]
    new, out = draw_lengths(lengths, n, seed, kind)
    think = np.where(turn == 0, 0.0, draw(talk.think, Stream(seed, Purpose.THINK, kind), n))
    before = np.cumsum(new + out) - (new + out)
    waited = np.cumsum(think)
    first_turn = begin[which]
    return _Drawn(
        times[which] + (waited - waited[first_turn]),
        talk.system + before - before[first_turn] + new,
        out,
        think,
        session=which + first,
        turn=turn,
        kind=np.full(n, kind),
    )


def _merge(parts: list[_Drawn], n: int | None, duration: float | None) -> _Drawn:
    """All requests in the order of their arrival: the first ``n``, before the end of the load."""
    if len(parts) == 1 and duration is None and (np.diff(parts[0].arrival_s) >= 0).all():
        columns: list[Any] = [column[:n] for column in parts[0]]
        return _Drawn(*columns)
    columns = [np.concatenate(column) for column in zip(*parts, strict=True)]
    order = np.argsort(columns[0], kind="stable")
    if duration is not None:
        order = order[columns[0][order] < duration]
    return _Drawn(*(column[order[:n]] for column in columns))


def _blocks(drawn: _Drawn, kinds: tuple[ClassSpec, ...], size: int) -> Hashes:
    """Ids of the whole blocks of prompts: first those that a class shares, then those of the conversation."""
    shared = np.array([0 if one.sessions is None else one.sessions.system // size for one in kinds], np.int64)
    many = np.where(drawn.session >= 0, drawn.input // size, 0)
    check_blocks(many)
    starts = np.concatenate(([0], np.cumsum(many)))
    longest = np.zeros(int(drawn.session.max(initial=-1)) + 2, np.int64)
    np.maximum.at(longest, drawn.session + 1, many)
    own = int(np.sum(shared)) + np.cumsum(longest) - longest
    # few arrays of this length at a time: there may be millions of blocks
    ids = np.arange(starts[-1])
    ids -= np.repeat(starts[:-1], many)
    of_class = ids < np.repeat(shared[drawn.kind], many)
    begins = np.repeat(own[drawn.session + 1], many)
    np.copyto(begins, np.repeat((np.cumsum(shared) - shared)[drawn.kind], many), where=of_class)
    ids += begins
    return Hashes(starts, ids, size)


# ---- traces


def _replay(load: WorkloadSpec, traffic: TrafficSpec, spec: TraceSpec, count: int | None) -> Requests:
    """The requests of a trace in the order of their times, and of the file among equals.

    The first one arrives at time 0. With `rate` they arrive by that instead, in the same order.
    """
    trace, wrong = trace_of(traffic, load.requests if count is None else count)
    if trace is None or wrong:
        raise PlanError(wrong)
    n = len(trace.input)
    seconds = np.frombuffer(trace.seconds) if trace.seconds else np.zeros(n)
    order = np.argsort(seconds, kind="stable")
    arrival = (seconds[order] - seconds.min()) / spec.speed
    if traffic.arrivals is not None:
        arrival = draw_arrivals(traffic.arrivals, n, traffic.seed)
    if traffic.duration is not None:
        order = order[arrival < traffic.duration]
        arrival = arrival[arrival < traffic.duration]
    blocks = None
    if trace.block:
        blocks = take_blocks(Hashes(_ints(trace.offsets), _ints(trace.ids), trace.block), order)
    session = _ints(trace.session)[order] if len(trace.session) == n else None
    requests = Requests(arrival, _ints(trace.input)[order], _ints(trace.output)[order], blocks, session)
    adapter, images = _trace_adapters(traffic, trace, order, session), draw_images(load, requests.input)
    return split_blocks(requests._replace(adapter=adapter, images=images))


def _trace_adapters(traffic: TrafficSpec, trace: Trace, order: Ints, session: Ints | None) -> Ints | None:
    """The adapters of a trace's requests, of which a column tells, or which are drawn: once for each conversation."""
    spec = traffic.adapters
    if spec is None:
        return None
    if spec.which is None:
        return _ints(trace.adapter)[order]
    which = np.arange(len(order))
    if session is not None:  # a request without one counts by itself
        which = np.where(session >= 0, session, session.max(initial=-1) + 1 + which)
    return draw_adapters(spec, int(which.max(initial=-1)) + 1, traffic.seed)[which]


def _ints(values: array[int]) -> Ints:
    return np.array(values, np.int64)
