"""Two pools over time: servers that prefill, servers that decode, and the cache that travels between them.

A request is sent to a server of prefill, which makes its first token and keeps its blocks until the cache is over
there. A server of decode gives it blocks when it composes a step: where room is asked ``early``, before the prefill
(SGLang's bootstrap; layer by layer there is no other way), else when the prefill is done (vLLM's and TensorRT-LLM's
connectors). Nobody gets blocks while a request that was preempted there waits. With its cache a request runs from the
next step on, and makes its second token; one that is preempted computes its prompt anew where it decodes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from heapq import heappush
from typing import NamedTuple

import numpy as np

from plandsl.backends.cost.deployments.batch import prefill_batch
from plandsl.backends.cost.deployments.replicas import Replicas
from plandsl.backends.cost.deployments.transfer import Transfer
from plandsl.backends.cost.serving.leaping import take_stretches
from plandsl.backends.cost.serving.log import Log
from plandsl.backends.cost.serving.ranks import replica
from plandsl.backends.cost.serving.records import Records
from plandsl.backends.cost.serving.replica import Replica, Worker
from plandsl.backends.cost.serving.requests import Closed, Floats, Requests
from plandsl.backends.cost.serving.routers import Router, router
from plandsl.backends.cost.serving.scheduler import Live, State, release
from plandsl.backends.cost.serving.simulate import Events, read_log
from plandsl.progress import Tick
from plandsl.spec.scheduler import RouterName

MOVED = -1
"""The event that a cache has arrived: the first of its moment."""

NOWHERE = (-1, -1)


class Moves(NamedTuple):
    """How long the cache of each request travels, float64[n] seconds each.

    It takes the port of the sender ``sending``, that of the receiver ``receiving``; with free ports it is there
    ``late + latency`` after the prefill. ``early``: room is asked for before the prefill.
    """

    sending: Floats
    receiving: Floats
    late: Floats
    latency: float
    early: bool


class Side(NamedTuple):
    """The servers of a pool, and the name of the router before them."""

    workers: Sequence[Worker]
    router: RouterName = "round_robin"


def time_moves(transfer: Transfer, prefill: Replicas, requests: Requests, early: bool) -> Moves:
    """How long caches travel. Layer by layer they travel behind a prefill that has its server for itself."""
    lengths, which = np.unique(requests.input, return_inverse=True)
    layerwise, rate = transfer.split.kv_transfer == "layerwise", transfer.split.bandwidth
    through = prefill_batch(prefill.one, 1, lengths).times.through if layerwise else 0.0
    found, latency = transfer.times(1, lengths, through), transfer.split.latency

    def each(values: object) -> Floats:
        spread: Floats = np.broadcast_to(np.asarray(values, np.float64), lengths.shape)[which]
        return spread

    late = each(found.exposed - latency)
    return Moves(each(found.sent / rate), each(found.received / rate), late, latency, early=early or layerwise)


def simulate_pools(
    prefill: Side,
    decode: Side,
    requests: Requests,
    moves: Moves,
    closed: Closed | None = None,
    seed: int = 0,
    think_s: Floats | None = None,
    tick: Tick | None = None,
    stretches: bool = True,
) -> Records:
    """What becomes of ``requests`` on two pools; servers of decode are numbered behind those of prefill.

    Those take steps between two events at once if ``stretches``.
    """
    log = Log(len(requests.input))
    log.leaps = stretches and take_stretches(decode.workers, "round_robin")
    first = [replica(i, worker, log, seed, stretches=False) for i, worker in enumerate(prefill.workers)]
    then = [replica(len(first) + i, worker, log, seed, log.leaps) for i, worker in enumerate(decode.workers)]
    for rank in (rank for server in first for rank in server.ranks):
        rank.prompts = True
    for rank in (rank for server in then for rank in server.ranks):
        rank.receives = True
    run = _PoolsRun(
        first, then, requests, log,
        routers=(router(prefill.router, seed), router(decode.router, seed + 1)),
        moves=moves, closed=closed, think_s=think_s, tick=tick,
    )  # fmt: skip
    run.play()
    return read_log(requests, log)._replace(
        prefill_replica=np.array(run.prefilled), transfer_s=np.array(run.transfer_s)
    )


class _PoolsRun(Events):
    """Events of a run on two pools."""

    def __init__(
        self, prefill: list[Replica], decode: list[Replica], requests: Requests, log: Log,
        routers: tuple[Router, Router], moves: Moves, closed: Closed | None, think_s: Floats | None,
        tick: Tick | None,
    ) -> None:  # fmt: skip
        super().__init__([*prefill, *decode], requests, log, by=routers[0], closed=closed, think_s=think_s, tick=tick)
        self.many, self.to_decode = len(prefill), routers[1]
        self.sending, self.receiving, self.late = (values.tolist() for values in moves[:3])
        self.latency, self.early = moves.latency, moves.early
        n = len(self.lives)
        self.firsts: list[Live | None] = [None] * n
        self.homes = [NOWHERE] * n  # server of decode, and rank, of each request
        self.computed_s, self.transfer_s = [float("nan")] * n, [float("nan")] * n
        self.prefilled = [-1] * n
        self.ports: dict[int, float] = {}
        self.arrived: dict[tuple[int, int], deque[Live]] = {}

    def _happen(self) -> dict[int, Callable[[float, int], None]]:
        return super()._happen() | {MOVED: self._moved}

    def _leave(self, now: float, number: int, index: int, end: float) -> None:
        if number >= self.many or not self._computed(now, number, index):
            self._end(index, end)

    def _arrive(self, now: float, index: int) -> None:
        live = self.lives[index]
        self.log.arrival[index] = now
        first = self.firsts[index] = Live(index, live.input, 1, live.ids, live.grain)
        first.priority, first.adapter, first.images = live.priority, live.adapter, live.images
        ours, theirs = self.replicas[0], self.replicas[self.many]
        moves = live.output > 1
        if ours.policy.refuses(first, ours.ranks[0]) or (moves and theirs.policy.refuses(live, theirs.ranks[0])):
            self._end(index, now)
        elif self.early and moves:
            self._ask(now, live)
        else:
            self._compute(now, index)

    def _compute(self, now: float, index: int) -> None:
        """Send a request to a server of prefill."""
        first = self.firsts[index]
        assert first is not None, "it has arrived"
        number = self.prefilled[index] = self.router.choose(first, self.states[: self.many])
        self.replicas[number].arrive(first)
        self._wake(now, number)

    def _computed(self, now: float, number: int, index: int) -> bool:
        """The first token of a request is there; False if that is all of it."""
        live = self.lives[index]
        if live.output == 1:
            self._release(number, index)
            return False
        self.computed_s[index] = live.shown_s = now
        live.made = live.shown = 1
        if self.early:
            self._send(now, index)
        else:
            self._ask(now, live)
        return True

    def _release(self, number: int, index: int) -> None:
        """Let a server of prefill have the blocks of a request."""
        first = self.firsts[index]
        assert first is not None, "it has arrived"
        release(self.replicas[number].rank_of(first), first)

    def _ask(self, now: float, live: Live) -> None:
        """Ask a server of decode for blocks."""
        number = self.many + self.to_decode.choose(live, self.states[self.many :])
        self._interrupt(now, number)
        server = self.replicas[number]
        rank = server.choose_rank(live)
        self.homes[live.index] = number, rank
        server.ranks[rank].asking.append(live)
        self._wake(now, number)

    def _compose(self, now: float, number: int) -> None:
        server = self.replicas[number]
        if number >= self.many and not server.busy:
            for rank, state in enumerate(server.ranks):
                self._take(now, (number, rank), state)
        super()._compose(now, number)

    def _take(self, now: float, home: tuple[int, int], state: State) -> None:
        """Let requests run whose cache is here, and give blocks to those that ask."""
        policy = self.replicas[home[0]].policy
        arrived, slots, at = self.arrived.get(home) or deque[Live](), state.slots, 0
        if slots is not None:
            slots.begin(state.running)
        while at < len(arrived) and len(state.running) < policy.max_running:
            live = arrived[at]
            if slots is not None and not slots.has_room(live):
                at += 1
                continue
            if slots is not None:
                slots.add(live)
                self.log.admit(live.index, now)
            del arrived[at]
            state.parked.remove(live)
            state.running.append(live)
        while state.asking and not state.waiting and policy.receives(state.asking[0], state):
            if policy.max_running == 1 and (state.running or state.parked):
                return  # else who runs might lack blocks of one that can never take its place
            live = state.asking.popleft()
            state.pool.grow(live, live.input)
            live.computed = live.input
            state.parked.append(live)
            if self.early:
                self._compute(now, live.index)
            else:
                self._send(now, live.index)

    def _send(self, now: float, index: int) -> None:
        """The cache of a request travels when both ports are free; with layers, part of it has gone before."""
        sender, receiver = self._port(index)
        sending, receiving = self.sending[index], self.receiving[index]
        time = max(sending, receiving)
        done = self.computed_s[index]
        ready = done + self.late[index] - time if self.early else now
        start = max(ready, self.ports.get(sender, 0.0), self.ports.get(receiver, 0.0))
        self.ports[sender], self.ports[receiver] = start + sending, start + receiving
        end = max(start + time + self.latency, now)
        self.transfer_s[index] = end - done
        heappush(self.events, (end, MOVED, index))

    def _port(self, index: int) -> tuple[int, int]:
        """Names of the ports of a request: that of its rank in each pool."""
        first, (number, rank) = self.firsts[index], self.homes[index]
        assert first is not None, "it has arrived"
        return id(self.replicas[self.prefilled[index]].rank_of(first)), id(self.replicas[number].ranks[rank])

    def _moved(self, now: float, index: int) -> None:
        """The cache of a request is where it decodes."""
        number, home = self.prefilled[index], self.homes[index]
        self._release(number, index)
        self._wake(now, number)
        self._interrupt(now, home[0])
        self.log.replica[index] = home[0]
        self.arrived.setdefault(home, deque()).append(self.lives[index])
        self._wake(now, home[0])
