"""The simulation: requests arrive, a router sends each to a server, and the servers take steps until all are served.

`simulate_steps` goes step by step, without a shortcut: what servers say that leap is held against it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from heapq import heappop, heappush
from typing import Any

import numpy as np

from plandsl.backends.cost.serving.leaping import leap, take_stretches
from plandsl.backends.cost.serving.log import Log
from plandsl.backends.cost.serving.ranks import replica
from plandsl.backends.cost.serving.records import Gaps, Kept, Records, Stages, Steps
from plandsl.backends.cost.serving.replica import Replica, Worker
from plandsl.backends.cost.serving.requests import OFTEN, Closed, Floats, Ints, Requests, find_turns
from plandsl.backends.cost.serving.routers import Router, router
from plandsl.backends.cost.serving.scheduler import Live
from plandsl.progress import Tick
from plandsl.spec.scheduler import RouterName

END, ARRIVE, COMPOSE = range(3)
"""Events, in the order in which those of one moment happen: so a step has everyone who is there when it starts."""


def simulate(
    workers: Sequence[Worker],
    requests: Requests,
    closed: Closed | None = None,
    by: RouterName = "round_robin",
    seed: int = 0,
    think_s: Floats | None = None,
    tick: Tick | None = None,
) -> Records:
    """What becomes of ``requests`` on servers side by side. The same arguments give the same bytes.

    ``think_s`` float64[n]: seconds from the end of the turn before a request in its session to the request; None: 0.

    Steps between two events are taken at once where servers can (`leap`, else `stretch`), else one by one.
    """
    found = leap(workers, requests, closed, by=by, think_s=think_s, tick=tick)
    if found is not None:
        return found
    return simulate_steps(workers, requests, closed, by=by, seed=seed, think_s=think_s, tick=tick, stretches=True)


def simulate_steps(
    workers: Sequence[Worker],
    requests: Requests,
    closed: Closed | None = None,
    by: RouterName = "round_robin",
    seed: int = 0,
    think_s: Floats | None = None,
    tick: Tick | None = None,
    number: int = 0,
    stretches: bool = False,
) -> Records:
    """The same, one step after another, or with ``stretches`` of steps in which the same requests decode.

    ``number`` is that of the first server.

    Servers know nothing of one another. Events are taken in the order of time, so that a router sees all servers as
    they are when a request arrives.
    """
    log = Log(len(requests.input))
    log.leaps = stretches and take_stretches(workers, by)
    replicas = [replica(at, worker, log, seed, log.leaps) for at, worker in enumerate(workers, number)]
    Events(replicas, requests, log, by=router(by, seed), closed=closed, think_s=think_s, tick=tick).play()
    return read_log(requests, log)


class Events:
    """Events of a run that have not happened yet: their time, what happens, and the request or server it happens to."""

    def __init__(
        self,
        replicas: Sequence[Replica],
        requests: Requests,
        log: Log,
        by: Router,
        closed: Closed | None,
        think_s: Floats | None,
        tick: Tick | None,
    ) -> None:
        self.replicas, self.log, self.router = replicas, log, by
        self.states = [replica.state for replica in replicas]
        self.tick, self.over = tick, 0
        self.events: list[tuple[float, int, int]] = []
        self.composing = [False] * len(replicas)
        self.lives = lives(requests)
        self.times = requests.arrival_s.tolist()
        self.thinks = [0.0] * len(self.times) if think_s is None else think_s.tolist()
        self.closed = closed is not None
        if closed is not None and not closed.timed:
            self.times = [0.0] * len(self.times)
        self.before, self.behind = find_turns(requests._replace(session=None) if self.closed else requests)
        first = range(len(self.lives)) if closed is None else range(min(closed.concurrency, len(self.lives)))
        self.coming = iter(range(len(first), len(self.lives)))
        for index in first:
            if self.before[index] < 0:
                heappush(self.events, (self.times[index], ARRIVE, index))

    def play(self) -> None:
        """Everything until nothing happens any more."""
        happen = self._happen()
        while self.events:
            now, what, which = heappop(self.events)
            happen[what](now, which)

    def _happen(self) -> dict[int, Callable[[float, int], None]]:
        """What each event does at its moment, to a request or a server."""
        return {ARRIVE: self._arrive, END: self._complete, COMPOSE: self._compose}

    def _complete(self, now: float, number: int) -> None:
        """A step ends, or a stretch of steps."""
        replica = self.replicas[number]
        if now in replica.cut_short:
            replica.cut_short.remove(now)
            return
        for index, end in replica.complete(now):
            self._leave(now, number, index, end)
        self._await_settled(number)
        self._wake(now, number)

    def _interrupt(self, now: float, number: int) -> None:
        """What a server does next may be something else from now on."""
        self.replicas[number].interrupt(now)
        self._await_settled(number)

    def _await_settled(self, number: int) -> None:
        """Steps of a stretch that were on their way when it was over end by themselves."""
        coming = self.replicas[number].coming
        while coming:
            heappush(self.events, (coming.pop(), END, number))

    def _leave(self, now: float, number: int, index: int, end: float) -> None:
        """A request has all that a server makes of it, and its user has it at ``end``."""
        self._end(index, end)

    def _arrive(self, now: float, index: int) -> None:
        live = self.lives[index]
        self.log.arrival[index] = now
        number = self.router.choose(live, self.states)
        self._interrupt(now, number)
        if self.replicas[number].arrive(live):
            self._wake(now, number)
        else:
            self._end(index, now)

    def _end(self, index: int, end: float) -> None:
        """A request is served, or refused: what waited for that may come."""
        self.over += 1
        if self.tick is not None and not self.over % OFTEN:
            self.tick(self.over, len(self.lives))
        if self.closed:
            following = next(self.coming, None)
            if following is not None:
                heappush(self.events, (max(end, self.times[following]), ARRIVE, following))
        elif self.behind[index] >= 0:
            following = self.behind[index]
            heappush(self.events, (max(end + self.thinks[following], self.times[following]), ARRIVE, following))

    def _wake(self, now: float, number: int) -> None:
        """A server has something to decide, once all that happens now has happened."""
        if not self.composing[number]:
            self.composing[number] = True
            heappush(self.events, (now, COMPOSE, number))

    def _compose(self, now: float, number: int) -> None:
        self.composing[number] = False
        if self.replicas[number].lands(now):
            self._interrupt(now, number)
        while (end := self.replicas[number].compose(now)) is not None:
            heappush(self.events, (end, END, number))
        wakes = self.replicas[number].wakes
        while wakes:
            heappush(self.events, (wakes.pop(), COMPOSE, number))


def lives(requests: Requests) -> list[Live]:
    """Requests as servers hold them."""
    found = _lives(requests)
    if requests.priority is not None:
        for live, priority in zip(found, requests.priority.tolist(), strict=True):
            live.priority = priority
    if requests.adapter is not None:
        for live, adapter in zip(found, requests.adapter.tolist(), strict=True):
            live.adapter = adapter
    if requests.images is not None:
        for live, images in zip(found, requests.images.tolist(), strict=True):
            live.images = images
    return found


def _lives(requests: Requests) -> list[Live]:
    inputs, outputs, blocks = requests.input.tolist(), requests.output.tolist(), requests.blocks
    if blocks is None:
        return [Live(i, *lengths) for i, lengths in enumerate(zip(inputs, outputs, strict=True))]
    starts, ids = blocks.starts.tolist(), blocks.ids.tolist()
    return [
        Live(i, inputs[i], outputs[i], ids[starts[i] : starts[i + 1]], blocks.size) for i in range(len(requests.input))
    ]


def _adapter_columns(requests: Requests, log: Log) -> dict[str, Any]:
    """The columns of records about adapters, where servers have slots for some."""
    if not log.fetched:
        return {}
    waited = np.zeros(len(requests.input))
    waited[list(log.slot_s)] = list(log.slot_s.values())
    return {"adapter": requests.adapter, "fetched": np.array(log.fetched), "slot_wait_s": waited}


def _read_stages(log: Log) -> Stages | None:
    rows = np.frombuffer(log.spans, np.float64).reshape(-1, len(Stages._fields)).T
    if not rows.size:
        return None
    replica, step, stage = (row.astype(np.int64) for row in rows[:3])
    return Stages(replica, step, stage, start_s=rows[3].copy(), end_s=rows[4].copy())


def read_log(requests: Requests, log: Log) -> Records:
    """The records of a run, from what its servers wrote down."""
    rows = np.frombuffer(log.steps, np.int64).reshape(-1, 6).T
    order: Ints | slice = slice(None)
    shown: Ints | slice = slice(None)
    if (rows[0] != rows[0, :1]).any():  # several servers, each of which writes down a stretch when it is over
        order, shown = np.lexsort((rows[0], log.composed)), np.argsort(log.shown, kind="stable")
    number, tokens, decodes, waiting, running, blocks = rows[:, order].copy()
    start, end = (np.array(values, np.float64)[order] for values in (log.start, log.end))
    return Records(
        arrival_s=np.array(log.arrival),
        admitted_s=np.array(log.admitted),
        first_s=np.array(log.first),
        finish_s=np.array(log.finish),
        input=requests.input,
        output=requests.output,
        cached=np.array(log.cached),
        preemptions=np.array(log.preemptions),
        replica=np.array(log.replica),
        itl_max_s=np.array(log.longest),
        kind=requests.kind,
        trail=Kept(
            Gaps(np.array(log.gaps, np.float64)[shown], np.array(log.counts, np.int64)[shown]),
            Steps(
                replica=number,
                start_s=start,
                end_s=end,
                prompt_tokens=tokens,
                decodes=decodes,
                waiting=waiting,
                running=running,
                blocks=blocks,
            ),
            log.leaps,
            composed_s=np.array(log.composed)[order],
            shown_s=np.array(log.shown)[shown],
        ),
        loaded=np.array(log.loaded) if log.loaded else None,
        stages=_read_stages(log),
        **_adapter_columns(requests, log),
    )
