"""Rows of measurements as sums of steps: each is simulated once, and the fit of an engine times its steps anew.

In a closed loop, or where all requests start together, which requests share a step does not depend on seconds: the next
request comes when one ends. So a load is simulated once, in steps that all take one second, and the steps are written
down with what their time depends on. Mean TTFT, mean TPOT and the duration of the run are sums of times of steps, each
with a weight of its own.
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
from plandsl.backends.cost.serving.replica import Worker
from plandsl.backends.cost.serving.requests import Closed, Floats, Ints, Requests
from plandsl.backends.cost.serving.routers import router
from plandsl.backends.cost.serving.scheduler import Batch, Live
from plandsl.backends.cost.serving.serve import worker
from plandsl.backends.cost.serving.simulate import Events

ROOM = 10**8
"""Blocks of a server whose memory is never short."""

MOST = 1000
"""A run of more requests is cut to as many rounds as have so many, but at least `LEAST`."""

LEAST = 3

FINE = 0.02
"""Sizes of steps in one group differ by no more than this share."""


class Load(NamedTuple):
    """What a row asks of each server: mean lengths, how they are ``spread``, ``clients`` in flight, ``rounds`` of them.

    The lengths of a ``spread`` are shares of their mean.
    """

    input: float
    output: float
    spread: tuple[float, float]
    clients: int
    rounds: float

    @property
    def simulated(self) -> float:
        """Rounds that are simulated."""
        return self.rounds if self.clients * self.rounds <= MOST else min(self.rounds, max(LEAST, MOST // self.clients))

    @property
    def longest(self) -> float:
        """Tokens of the longest request."""
        return (self.input + self.output) * self.spread[1]

    def draw(self) -> Requests:
        """The requests that are simulated; the same each time."""
        n, rng = round(self.clients * self.simulated), np.random.default_rng(0)
        input_, output = (draw_lengths(mean, self.spread, n, rng) for mean in (self.input, self.output))
        return Requests(np.zeros(n), input_, output)

    def shares(self, n: int) -> Floats:
        """How much each of ``n`` simulated requests counts: those behind the first round stand for all later ones."""
        each = np.ones(n)
        if self.simulated < self.rounds:
            each[self.clients :] = (self.rounds - 1) / (self.simulated - 1)
        shares: Floats = each / each.sum()
        return shares


class Heard(NamedTuple):
    """Shapes of steps, as columns: prompts (``requests`` 0: none), those that decode, and what the engine counts."""

    requests: Floats
    new: Floats
    cached: Floats
    chunk: Floats
    decodes: Floats
    mean: Floats
    rows: Floats
    alone: Floats


class Listener:
    """A clock whose steps take a second each, which writes down their shapes in the order of their composition.

    Of ranks that share requests the slowest counts, by what the ``clock`` says of them.
    """

    def __init__(self, clock: ServerClock) -> None:
        self.clock = clock
        self.shapes: list[tuple[float, ...]] = []
        self.ahead: Any = None  # columns of the steps of the stretch foreseen last
        self.running = 0  # requests that ran when the last step with prompts ended

    def cost(self, batch: Batch) -> Cost:
        """A second."""
        self.shapes.append(_columns(self.clock.shape(batch)))
        return Cost((1.0,))

    def cost_of_ranks(self, batches: Sequence[Batch]) -> Cost:
        """A second."""
        shapes = self.clock.rank_shapes(batches)
        self.shapes.append(_columns(max(shapes, key=lambda shape: whole_seconds(self.clock.cost_of(shape)))))
        return Cost((1.0,))

    def delay(self, running: int) -> float:
        """None."""
        self.running = running
        return 0.0

    def foresee(self, batches: Sequence[Batch], steps: int) -> Floats:
        """A second for each of the next steps."""
        ranks = self.clock.next_decodes(batches, steps)
        slowest = self.clock.foresee_slowest(ranks)[1] if len(ranks) > 1 else np.zeros(steps, np.int64)
        self.ahead = np.zeros((steps, len(Heard._fields)))
        for at, name in ((4, "requests"), (6, "rows")):
            self.ahead[:, at] = np.array([getattr(rank, name) for rank in ranks])[slowest]
        self.ahead[:, 5] = np.stack([rank.means for rank in ranks])[slowest, np.arange(steps)]
        return np.ones((steps, 1))


def _columns(shape: Shape) -> tuple[float, ...]:
    p = shape.prompt
    prompt = (0.0, 0.0, 0.0, 0.0) if p is None else (p.requests, p.new, p.cached, p.chunk)
    return (*prompt, shape.decodes, shape.mean, shape.rows, shape.alone)


class Notes(Log):
    """A log that keeps the shapes of steps, and how many requests ran when the first token of each was made."""

    def __init__(self, n: int, listener: Listener) -> None:
        super().__init__(n)
        self.listener = listener
        self.parts: list[Any] = []
        self.beside = [0] * n

    def write_step(self, row: Row, composed: float, start: float, end: float) -> None:
        """Write down a step."""
        super().write_step(row, composed, start, end)
        self.parts.append(self.listener.shapes)
        self.listener.shapes = []

    def write_stretch(self, row: Row, composed: Floats, ends: Floats, blocks: Ints) -> None:
        """Write down steps that follow one another."""
        super().write_stretch(row, composed, ends, blocks)
        self.parts.append(self.listener.ahead[: len(blocks)])

    def show(self, lives: Sequence[Live], gained: Sequence[int], end: float, delay: float) -> list[Live]:
        """Requests have tokens."""
        for live in lives:
            if not live.shown:
                self.beside[live.index] = self.listener.running
        return super().show(lives, gained, end, delay)


class Recording(NamedTuple):
    """Steps of a load in groups that are alike: ``shapes`` of each, and ``weights`` float64[3, groups].

    Weights are those of mean TTFT, mean TPOT and the duration. The share ``late`` of the requests comes while others
    run. ``running`` requests run when a first token is shown, on average, and each client has ``rounds`` requests,
    one behind the other. ``tokens`` are made in the duration.
    """

    weights: Floats
    shapes: Heard
    late: float
    running: float
    rounds: float
    tokens: float


def run_worker(clock: ServerClock, load: Load, requests: Requests) -> Worker:
    """A server that runs the load; where memory is not short it has room for anything."""
    server = clock.server
    name = server.plan.effective_engine.scheduler_name
    made = worker(server, requests, name, caching=False, clock=clock)
    needed = load.clients * -(-load.longest // made.block) * SPARE
    return made._replace(blocks=ROOM) if made.blocks >= needed else made


SPARE = 1.5
"""Memory is not short that holds so many times what all in flight have at their full length."""


def record(clock: ServerClock, load: Load, fine: float = FINE) -> Recording:
    """Simulate the ``load`` on the clock's server once, and write its steps down.

    Raises `ValueError` where a request does not fit.
    """
    requests = load.draw()
    n, listener = len(requests.input), Listener(clock)
    log = Notes(n, listener)
    log.leaps = True
    one = replica(0, run_worker(clock, load, requests)._replace(clock=listener), log, seed=0, stretches=True)
    closed = Closed(load.clients)
    Events([one], requests, log, by=router("round_robin", 0), closed=closed, think_s=None, tick=None).play()
    moments = np.array([log.arrival, log.first, log.finish])
    if not np.isfinite(moments).all():
        raise ValueError("the server cannot hold a request")
    shapes = Heard(*np.concatenate([np.asarray(part, np.float64) for part in log.parts]).T)
    weights, shapes = join(weigh(moments, requests, load, len(shapes.rows)), shapes, fine)
    return Recording(
        weights,
        shapes,
        late=float(load.shares(n)[load.clients :].sum()) if load.clients > 1 else 0.0,
        running=float(np.array(log.beside) @ load.shares(n)),
        rounds=load.rounds,
        tokens=float(requests.output.sum()) * load.rounds / load.simulated,
    )


def weigh(moments: Floats, requests: Requests, load: Load, steps: int) -> Floats:
    """Weights float64[3, steps] from ``moments`` float64[3, n]: when requests come, have a first token, and end.

    Times are counted in steps. A round that is left out takes as long as from the mean end of the first to that of the
    second.
    """
    arrived, first, over = moments
    n, one = len(arrived), load.clients
    each, several = load.shares(n), requests.output > 1
    later = each / np.maximum(requests.output - 1, 1) * several / max(each[several].sum(), 1e-30)
    duration = _spread(np.zeros(1), over.max(keepdims=True), np.ones(1), steps)
    if load.simulated < load.rounds:
        low, high = np.sort(over)[: 2 * one].reshape(2, one).mean(axis=1, keepdims=True)
        middle = _spread(low, high, np.ones(1), steps)
        duration = duration + (load.rounds - load.simulated) * middle
    return np.stack([_spread(arrived, first, each, steps), _spread(first, over, later, steps), duration])


def _spread(start: Floats, end: Floats, weight: Floats, steps: int) -> Floats:
    """How often each step is counted by stretches from ``start`` to ``end``, places among steps that may be inside."""
    found = np.zeros(steps + 1)
    for places, signed in ((start, -weight), (end, weight)):
        whole = np.minimum(places.astype(np.int64), steps)
        ahead = np.bincount(whole, signed, steps + 1)
        found += ahead.sum() - np.cumsum(ahead) + np.bincount(whole, signed * (places - whole), steps + 1)
    return found[:steps]


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


class Features(NamedTuple):
    """What the time of steps depends on, a column each: seconds of kernels and collectives as they run alone.

    Kernels are those of ``prefill`` in steps with prompts, of ``decode`` in others; ``links`` are collectives that no
    kernel hides. ``rows`` are the requests in a step; ``alone``: whole prompts and nothing else, never cut.
    """

    prefill: Floats
    decode: Floats
    links: Floats
    rows: Floats
    alone: Floats


def features(server: Server, heard: Heard) -> Features:
    """The features of steps on a server, whose engine has rates of 1 for that."""
    engine = evolve(server.plan.effective_engine, prefill=1.0, decode=1.0, links=1.0)
    server = server.on(evolve(server.plan, engine=engine))
    kernels, links = np.zeros((2, len(heard.rows)))
    prompts, chunk, decodes = heard.requests > 0, heard.chunk > 0, heard.decodes > 0
    for shape in {*zip(prompts.tolist(), chunk.tolist(), decodes.tolist(), strict=True)}:
        of = np.flatnonzero((prompts == shape[0]) & (chunk == shape[1]) & (decodes == shape[2]))
        asked = Heard(*(column[of] for column in heard))
        prompt = Prompt(asked.requests, asked.new, asked.cached, shape[1]) if shape[0] else None
        decode = Decode(asked.decodes, asked.mean, queries=server.queries) if shape[2] else None
        times = server.step(Step(prompt, decode), server.in_flight)
        kernels[of] = sum(stage.compute for stage in times.stages)
        links[of] = sum(stage.exposed for stage in times.stages) + times.hops
    zero = np.zeros_like(kernels)
    return Features(
        prefill=np.where(prompts, kernels, zero),
        decode=np.where(prompts, zero, kernels),
        links=links,
        rows=heard.rows,
        alone=heard.alone,
    )
