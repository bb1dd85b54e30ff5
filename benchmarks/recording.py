"""Rows of measurements as sums of steps: each is simulated once, and the fit of an engine times its steps anew.

In a closed loop, or where all requests start together, which requests share a step hardly depends on seconds: the next
request comes when one ends. So the simulation is run once, and its steps are written down with what their time depends
on. Mean TTFT, mean TPOT and the duration of the run are sums of times of steps, each with a weight of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from attrs import evolve

from plandsl.backends.accuracy.lengths import draw_lengths
from plandsl.backends.cost.deployments.server import Server
from plandsl.backends.cost.deployments.step import Decode, Prompt, Step
from plandsl.backends.cost.serving.clock import Cost, ServerClock, Shape, whole_seconds
from plandsl.backends.cost.serving.log import Log, Row
from plandsl.backends.cost.serving.ranks import replica
from plandsl.backends.cost.serving.records import Records
from plandsl.backends.cost.serving.replica import Worker
from plandsl.backends.cost.serving.requests import Closed, Floats, Ints, Requests
from plandsl.backends.cost.serving.routers import router
from plandsl.backends.cost.serving.scheduler import Batch
from plandsl.backends.cost.serving.serve import worker
from plandsl.backends.cost.serving.simulate import Events, read_log
from plandsl.spec.scheduler import SchedulerName


class Heard(NamedTuple):
    """Shapes of steps, as columns: prompts (``requests`` 0: none), those that decode, and what the engine counts."""

    requests: Floats
    new: Floats
    cached: Floats
    chunk: Floats
    count: Floats
    mean: Floats
    rows: Floats
    admitted: Floats
    alone: Floats


class Listener:
    """A clock that writes down the shapes of steps, in the order of their composition."""

    def __init__(self, clock: ServerClock) -> None:
        self.clock = clock
        self.shapes: list[tuple[float, ...]] = []
        self.ahead: list[Any] = []  # columns of the steps of the stretch foreseen last

    def cost(self, batch: Batch) -> Cost:
        """Seconds of a step."""
        shape = self.clock.shape(batch)
        self.shapes.append(_columns(shape))
        return self.clock.cost_of(shape)

    def cost_of_ranks(self, batches: Sequence[Batch]) -> Cost:
        """Seconds of the slowest rank."""
        found = [(self.clock.cost_of(shape), shape) for shape in self.clock.rank_shapes(batches)]
        cost, shape = max(found, key=lambda pair: whole_seconds(pair[0]))
        self.shapes.append(_columns(shape))
        return cost

    def delay(self, running: int) -> float:
        """Seconds behind a first token."""
        return self.clock.delay(running)

    def foresee(self, batches: Sequence[Batch], steps: int) -> Floats:
        """Seconds of the next steps."""
        ranks = self.clock.next_decodes(batches, steps)
        seconds, slowest = self.clock.foresee_slowest(ranks)
        self.ahead = np.zeros((steps, len(Heard._fields)))
        for at, name in ((4, "count"), (6, "rows")):
            self.ahead[:, at] = np.array([getattr(rank, name) for rank in ranks])[slowest]
        self.ahead[:, 5] = np.stack([rank.means for rank in ranks])[slowest, np.arange(steps)]
        return seconds


def _columns(shape: Shape) -> tuple[float, ...]:
    p = shape.prompt
    prompt = (0.0, 0.0, 0.0, 0.0) if p is None else (p.requests, p.new, p.cached, p.chunk)
    return (*prompt, shape.count, shape.mean, shape.rows, shape.admitted, shape.alone)


class Notes(Log):
    """A log that keeps the shapes of steps beside their times."""

    def __init__(self, n: int, listener: Listener) -> None:
        super().__init__(n)
        self.listener = listener
        self.parts: list[Any] = []

    def write_step(self, row: Row, composed: float, start: float, end: float) -> None:
        """Write down a step."""
        super().write_step(row, composed, start, end)
        self.parts.append(self.listener.shapes)
        self.listener.shapes = []

    def write_stretch(self, row: Row, composed: Floats, ends: Floats, blocks: Ints) -> None:
        """Write down steps that follow one another."""
        super().write_stretch(row, composed, ends, blocks)
        self.parts.append(self.listener.ahead[: len(blocks)])


class Heeded(NamedTuple):
    """A simulation: its records, the shapes of its steps, and seconds ``delays`` behind each first token."""

    records: Records
    shapes: Heard
    delays: Floats


def listen(worker: Worker, requests: Requests, closed: Closed | None) -> Heeded:
    """A simulation of one server whose steps are written down."""
    assert isinstance(worker.clock, ServerClock), "a server has the clock of its model"
    listener = Listener(worker.clock)
    log = Notes(len(requests.input), listener)
    one = replica(0, worker._replace(clock=listener), log, stretches=True)
    log.leaps = True
    Events([one], requests, log, by=router("round_robin", 0), closed=closed, think_s=None, tick=None).play()
    shapes = np.concatenate([np.asarray(part, np.float64) for part in log.parts])
    return Heeded(read_log(requests, log), Heard(*shapes.T), np.array(log.delay))


class Features(NamedTuple):
    """What the time of steps depends on, a column each: seconds of kernels and collectives as they run alone.

    ``prefill`` and ``mixed`` are kernels of steps with prompts, without and with requests that decode; ``decode`` those
    of steps without prompts; ``experts`` are the part of these in kernels of experts. ``links`` are collectives that no
    kernel hides. ``launches`` are kernels and collectives of a step with prompts.
    """

    prefill: Floats
    decode: Floats
    experts: Floats
    links: Floats
    rows: Floats
    admitted: Floats
    alone: Floats
    tokens: Floats
    launches: Floats


EXPERTS = ("grouped_gemm", "dispatch", "combine", "top_k")
"""Keywords of ops that only models with experts have."""


def features(server: Server, heard: Heard) -> Features:
    """The features of steps on a server, whose engine has rates of 1 for that."""
    server = server.on(evolve(server.plan, engine=evolve(server.plan.engine, prefill=1.0, decode=1.0, links=1.0)))
    n = len(heard.rows)
    kernels, experts, links, launches = (np.zeros(n) for _ in range(4))
    prompts, chunk, decodes = heard.requests > 0, heard.chunk > 0, heard.count > 0
    for shape in {*zip(prompts.tolist(), chunk.tolist(), decodes.tolist(), strict=True)}:
        of = np.flatnonzero((prompts == shape[0]) & (chunk == shape[1]) & (decodes == shape[2]))
        asked = Heard(*(column[of] for column in heard))
        prompt = Prompt(asked.requests, asked.new, asked.cached, shape[1]) if shape[0] else None
        decode = Decode(asked.count, asked.mean, queries=server.queries) if shape[2] else None
        times = server.step(Step(prompt, decode), server.in_flight)
        kernels[of] = sum(stage.compute for stage in times.stages)
        links[of] = sum(stage.exposed for stage in times.stages) + times.hops
        main = server.main
        phase = main.prefill if shape[0] else main.decode
        schedule = phase.schedule
        for parts in schedule.stages:
            for part in parts:
                ops, slots = schedule.program.region(part.region).ops, schedule.slots_of(part.region)
                launches[of] += part.repeats * len(slots)
                for slot in slots:
                    if ops[slot.op].keyword in EXPERTS:
                        experts[of] += part.repeats * times.seconds[part.region][slot.op]
    zero = np.zeros(n)
    return Features(
        prefill=np.where(prompts, kernels, zero),
        decode=np.where(prompts, zero, kernels),
        experts=experts,
        links=links,
        rows=heard.rows,
        admitted=heard.admitted,
        alone=heard.alone,
        tokens=heard.requests * heard.new + heard.count,
        launches=launches,
    )


class Recording(NamedTuple):
    """Steps of one row in groups that are alike: ``shapes`` of each, and ``weights`` float64[3, groups] by metric.

    ``ranks`` compute a step. ``running`` requests run when a first token is shown, on average. The server stood idle
    for ``idle`` delays behind first tokens, that behind the last token among them. ``tokens`` were made in the duration.
    """

    weights: Floats
    shapes: Heard
    ranks: int
    running: float
    idle: float
    tokens: float


class Rounds(NamedTuple):
    """Requests for each one in flight: so many were sent, and so many are simulated; infinite: the run never ends."""

    sent: float
    simulated: float

    def shares(self, n: int) -> Floats:
        """How much each of the ``n`` simulated requests counts: those behind the first round stand for all later."""
        each = np.ones(n)
        if self.simulated < self.sent < np.inf:
            each[round(n / self.simulated) :] = (self.sent - 1) / (self.simulated - 1)
        return each / each.sum()


def weigh(records: Records, delays: Floats, rounds: Rounds) -> Floats:
    """Weights float64[3, steps] of mean TTFT, mean TPOT, and the duration, which also has the idle times.

    Of a run without end the duration is that of a round, from the mean end of the first one to that of the second.
    """
    n, (start, end) = len(records.input), (records.steps.start_s, records.steps.end_s)
    steps, whole = len(end), rounds.simulated
    knots, between = np.stack([start, end], axis=1).ravel(), np.repeat(np.arange(steps + 1.0), 2)[1:-1]
    moments = records.arrival_s, records.first_s - delays, records.finish_s - delays
    arrived, first, over = (np.interp(moment, knots, between) for moment in moments)
    each, several = rounds.shares(n), records.output > 1
    later = each / np.maximum(records.output - 1, 1) * several / max(each[several].sum(), 1e-30)
    duration = _spread(np.zeros(1), over.max(keepdims=True), np.ones(1), steps)
    if whole < rounds.sent:
        one = round(n / whole)
        low, high = np.sort(over)[: 2 * one].reshape(2, one).mean(axis=1, keepdims=True)
        middle = _spread(low, high, np.ones(1), steps)
        duration = middle if rounds.sent == np.inf else duration + (rounds.sent - whole) * middle
    return np.stack([_spread(arrived, first, each, steps), _spread(first, over, later, steps), duration])


def _spread(start: Floats, end: Floats, weight: Floats, steps: int) -> Floats:
    """How often each step is counted by stretches from ``start`` to ``end``, places among steps that may be inside."""
    found = np.zeros(steps + 1)
    for places, signed in ((start, -weight), (end, weight)):
        whole = np.minimum(places.astype(np.int64), steps)
        ahead = np.bincount(whole, signed, steps + 1)
        found += ahead.sum() - np.cumsum(ahead) + np.bincount(whole, signed * (places - whole), steps + 1)
    return found[:steps]


FINE = 0.02
"""Sizes of steps in one group differ by no more than this share."""


def join(weights: Floats, heard: Heard, fine: float = FINE) -> tuple[Floats, Heard]:
    """Steps in groups that are alike, of mean sizes; with ``fine`` 0 only equal steps are joined."""
    keys = np.stack(heard)
    if fine:
        for at in (1, 2, 5):
            keys[at] = np.round(np.log(np.maximum(keys[at], 1.0)) / fine)
    _, group, many = np.unique(keys, axis=1, return_inverse=True, return_counts=True)
    group = group.ravel()
    return (
        np.stack([np.bincount(group, row) for row in weights]),
        Heard(*(np.bincount(group, column) / many for column in heard)),
    )


MOST = 400
"""A run of more requests is cut to as many rounds as have so many, but at least `LEAST`."""

LEAST = 3


class Load(NamedTuple):
    """What a row asks of each server: mean lengths, how they are ``spread``, ``clients`` in flight, ``rounds`` of them.

    The lengths of a ``spread`` are shares of their mean; ``rounds`` may be infinite.
    """

    input: float
    output: float
    spread: tuple[float, float]
    clients: int
    rounds: float


def record(clock: ServerClock, scheduler: SchedulerName, load: Load, fine: float = FINE) -> Recording:
    """Simulate the ``load`` on the clock's server once, and write its steps down.

    Raises `ValueError` where a request does not fit.
    """
    server = clock.server
    clients, sent = load.clients, load.rounds
    rounds = Rounds(sent, sent if clients * sent <= MOST else min(sent, float(max(LEAST, MOST // clients))))
    n, rng = round(clients * rounds.simulated), np.random.default_rng(0)
    lengths = [draw_lengths(mean, load.spread, n, rng) for mean in (load.input, load.output)]
    requests = Requests(np.zeros(n), *lengths)
    told = listen(worker(server, requests, scheduler, caching=False, clock=clock), requests, Closed(clients))
    records, engine = told.records, server.plan.effective_engine
    if not records.served.all():
        raise ValueError("the server cannot hold a request")
    weights, shapes = join(weigh(records, told.delays, rounds), told.shapes, fine)
    start, end, times = records.steps.start_s, records.steps.end_s, sent / rounds.simulated
    idle = float((start[1:] - end[:-1]).clip(0).sum()) * times if sent < np.inf else 0.0
    last = float(records.finish_s.max() - (records.finish_s - told.delays).max()) if sent < np.inf else 0.0
    running = (told.delays - engine.first) / max(engine.first_request, 1e-30)
    tokens = float(lengths[1].sum())
    return Recording(
        weights,
        shapes,
        ranks=int(server.plan.step_ranks[0]),
        running=float(running @ rounds.shares(n)),
        idle=(idle + last) / max(float(told.delays.mean()), 1e-9),
        tokens=tokens / rounds.simulated if sent == np.inf else tokens * times,
    )
