"""One server over time: steps are composed, go through the stages, and end."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from plandsl.backends.cost.serving.adapters import DISK, Slots
from plandsl.backends.cost.serving.blocks import Pool
from plandsl.backends.cost.serving.clock import Clock, Cost, Foreseeing
from plandsl.backends.cost.serving.log import Log, Row
from plandsl.backends.cost.serving.own_blocks import OwnPool
from plandsl.backends.cost.serving.scheduler import Batch, Live, Policy, State, finish
from plandsl.backends.cost.serving.stretch import Stretch, foresee, repeat_decodes
from plandsl.backends.cost.serving.tiers import Landings, Load, TieredPool, Tiers
from plandsl.spec.scheduler import RouterName


class Flight(NamedTuple):
    """A step on its way, of which each rank has one of ``batches``, and when it ends.

    A scheduler may still take a request out of its batch.
    """

    batches: Sequence[Batch]
    end: float


class Adapters(NamedTuple):
    """``slots`` adapters fit on a GPU. A load takes ``host_s`` seconds from host memory, and ``disk_s`` more from disk.

    Host memory holds ``host`` of them; None: all. ``base``: requests of a step that name none take a slot together.
    """

    slots: int
    host_s: float
    host: int | None = None
    disk_s: float = 0.0
    base: bool = False


class Worker(NamedTuple):
    """What a server is made of: ``policy`` composes its steps, ``clock`` tells what they cost.

    Its KV memory has ``blocks`` of ``block`` tokens, which a prefix cache shares if ``caching``; ``in_flight`` batches
    fit in its stages. In a decode step each request has its next token, and a guess for each chance of ``acceptance``:
    that the guess is right if those before it are.

    ``tiers`` of memory stand behind the prefix cache of each rank. Unless prompts have ``shared`` blocks, requests find
    only what they computed themselves.

    ``adapters``: how many of those that requests name fit on a GPU; None: requests name none.

    With several ``ranks`` each has a queue, and as many blocks as the others; the router ``spread`` deals requests.
    """

    policy: Policy
    clock: Clock
    blocks: int
    block: int = 16
    caching: bool = True
    in_flight: int = 1
    acceptance: tuple[float, ...] = ()
    ranks: int = 1
    spread: RouterName = "round_robin"
    tiers: Tiers | None = None
    shared: bool = True
    adapters: Adapters | None = None

    @property
    def foreseeing(self) -> Foreseeing | None:
        """What tells how long coming steps take, where steps of a server can be foreseen.

        One batch is in flight, and requests have a token in each step.
        """
        alone = self.in_flight == 1 and not self.acceptance
        return self.clock if alone and isinstance(self.clock, Foreseeing) else None

    @property
    def tiered(self) -> bool:
        """Whether blocks are kept in tiers."""
        return self.caching and self.tiers is not None

    def pool(self, blocks: int) -> Pool:
        """The KV memory of a rank with so many blocks."""
        if self.tiers is not None and self.caching:
            return TieredPool(blocks, self.block, self.tiers)
        if self.caching and not self.shared:
            return OwnPool(blocks, self.block)
        return Pool(blocks, self.block, self.caching)


class Replica:
    """A server that runs. ``log`` is written by all of a run; ``seed`` and ``number`` settle which guesses are right.

    A step is composed when fewer than ``in_flight`` are on their way, or one more where the policy works ahead. It
    starts when the first stage is free and, composed ahead, when the step is over whose results it builds on: the one
    ``in_flight`` before it. It passes every stage and hop behind the step before it.

    With ``stretches`` steps are taken at once as far as they can be foreseen: ``alike`` is the last step, where others
    like it may follow.
    """

    def __init__(self, number: int, worker: Worker, log: Log, seed: int, stretches: bool) -> None:
        self.number, self.log = number, log
        self.policy, self.clock, self.in_flight = worker.policy, worker.clock, worker.in_flight
        gains = draw_gains(worker.acceptance, seed, number)
        self.state = State(worker.pool(worker.blocks), 1 + len(worker.acceptance), gains)
        self.ranks = [self.state]
        self.loads = Landings(self.ranks) if worker.tiered else None
        if worker.tiers is not None and not log.loaded:
            log.loaded = [[0] * len(log.arrival) for _ in worker.tiers.tiers]
        self._place_adapters(worker)
        if worker.adapters is not None and not log.fetched:
            log.fetched = [[0] * len(log.arrival) for _ in range(2)]
        self.wakes: list[float] = []
        self.depth = self.in_flight + self.policy.ahead
        self.flights: deque[Flight] = deque()
        self.foreseeing = worker.foreseeing if stretches else None
        self.alike: Sequence[Batch] | None = None
        self.stretch: Stretch | None = None
        self.coming: list[float] = []  # ends of steps that were settled
        self.cut_short: list[float] = []  # ends of stretches that were over before
        self.free: list[float] = []
        self.links: list[float] = []

    def _place_adapters(self, worker: Worker) -> None:
        """Give each rank its slots for adapters."""
        self.adapters = spec = worker.adapters
        if spec is not None:
            for rank in self.ranks:
                rank.slots = Slots(spec.slots, spec.host, spec.base)

    def arrive(self, live: Live) -> bool:
        """Put a request into the queue; False if it can never run."""
        if self.policy.refuses(live, self.state):
            return False
        self.state.waiting.append(live)
        self.log.replica[live.index] = self.number
        return True

    def compose(self, now: float) -> float | None:
        """Compose the next step and send it off. When it ends; None where there is none now."""
        state, flying = self.state, len(self.flights)
        if self.busy or not state.load:
            return None
        if self.loads is not None and self.loads.land(now):
            self.alike = None
        if self.alike is not None:
            stretch = self._foresee(self.alike, now)
            if stretch is not None:
                return stretch.until
        batch = self._next(state.number - flying + (flying >= self.in_flight))
        if self.loads is not None:
            self._load(self.loads, now)
        self._note_queue(batch, now)
        if not batch.rows:
            return None
        after = self.flights[0].end if flying >= self.in_flight else now
        cost, loading = self._cost(batch), self._load_adapters(batch)
        start, end = self._run_stages(max(now, after, self.loads.start if self.loads else 0.0), cost, loading)
        if self.loads is not None and self.loads.end > end:
            end = self.free[-1] = self.loads.end
        state.number += 1
        self.flights.append(Flight(self._parts(batch), end))
        self._write_step(batch, now, start, end)
        if self.foreseeing is not None and not (batch.prompts or batch.preempted):
            self.alike = [part._replace(spent=[]) for part in self._parts(batch)]
        return end

    @property
    def busy(self) -> bool:
        """Whether all steps are on their way that may be."""
        return self.stretch is not None or len(self.flights) >= self.depth

    def lands(self, now: float) -> bool:
        """Whether what a request waits for has come amid a stretch."""
        return self.stretch is not None and self.loads is not None and self.loads.due(now)

    def interrupt(self, now: float) -> None:
        """Something is about to change that the next step may depend on."""
        self.alike = None
        if self.stretch is not None:
            self.cut_short.append(self.stretch.until)
            self._settle(self.stretch, now, cut=True)

    def _foresee(self, batches: Sequence[Batch], now: float) -> Stretch | None:
        """Take the next steps at once, where they are like the last one, which had ``batches``."""
        assert self.foreseeing is not None, "else no step is followed by others like it"
        self.alike = None
        start = max(now, self.flights[0].end) if self.flights else now
        self.stretch = foresee(self.ranks, batches, self.policy, self.foreseeing, times=(now, start))
        return self.stretch

    def _settle(self, stretch: Stretch, now: float, cut: bool = False) -> None:
        """A stretch ends, with the steps that were composed before; those that are not over are on their way."""
        self.stretch, first = None, self.state.number
        begun, over = stretch.progress(now, self.policy.ahead, cut)
        last = [repeat_decodes(batch) for batch in stretch.batches]
        for rank, batch in zip(self.ranks, last, strict=True):
            rank.number = first + begun - 1
            if batch.decodes:
                self.policy.repeat(rank, batch, begun)
        self.state.number = first + begun
        lives = [live for batch in last for live in batch.decodes]
        row = Row(self.number, 0, len(lives), *self._queues(), 0)
        composed = stretch.composed_s(self.policy.ahead)[:begun]
        self.log.write_stretch(row, composed, stretch.ends[: begun + 1], stretch.used[:begun])
        self.log.show_stretch(lives, stretch.ends[: over + 1])
        for at in range(over + 1, begun + 1):
            end = float(stretch.ends[at])
            self.flights.append(Flight(last if at == begun else [repeat_decodes(batch) for batch in last], end))
            self.coming.append(end)

    def _parts(self, batch: Batch) -> Sequence[Batch]:
        """The step that was just composed, rank by rank."""
        return [batch]

    def _load(self, loads: Landings, now: float) -> None:
        """Send the loads of the requests that the step admits, or that wait beside it."""
        for load, time in loads.send(now):
            self._note_load(load)
            if time is not None:
                self.wakes.append(time)

    def _note_load(self, load: Load) -> None:
        """Write down what a request was spared."""
        log = self.log
        for tier, blocks in enumerate(load.counts):
            log.loaded[tier][load.live.index] += blocks * self.state.pool.size

    def _next(self, upto: int) -> Batch:
        """Compose a step of requests that are in no step from ``upto`` on."""
        self.state.upto = upto
        return self.policy.compose(self.state)

    def _cost(self, batch: Batch) -> Cost:
        """What the step costs that was just composed."""
        return self.clock.cost(batch)

    def _load_adapters(self, batch: Batch) -> float:
        """Seconds until all ranks have the adapters of their part of the step."""
        spec, slowest = self.adapters, 0.0
        for rank, part in zip(self.ranks, self._parts(batch), strict=True):
            if rank.slots is not None and spec is not None:
                loaded = rank.slots.load(part)
                from_disk = sum(source == DISK for _, source in loaded)
                slowest = max(slowest, len(loaded) * spec.host_s + from_disk * spec.disk_s)
                for index, source in loaded:
                    self.log.fetched[source][index] += 1
        return slowest

    def _run_stages(self, now: float, cost: Cost, loading: float = 0.0) -> tuple[float, float]:
        """When a step starts and ends that goes through the stages as soon as it can.

        It starts ``loading`` seconds after the step before it has left the first stage.
        """
        if not self.free:
            self.free, self.links = [0.0] * len(cost.stages), [0.0] * len(cost.stages)
        start = time = max(now, self.free[0]) + loading
        for part in range(cost.parts):
            time = (self.free[0] if part else start) + cost.draft
            for stage, span in enumerate(cost.stages):
                if stage:
                    time = max(time, self.links[stage]) + cost.hop
                    self.links[stage] = time
                    time = max(time, self.free[stage] + cost.draft)
                if len(cost.stages) > 1:
                    self.log.write_stage((self.number, self.state.number, stage, time, time + span))
                time += span
                self.free[stage] = time
        return start, time + cost.host

    def _note_queue(self, batch: Batch, now: float) -> None:
        """Write down who left the queue, and who went back."""
        log = self.log
        for live in batch.preempted:
            log.preemptions[live.index] += 1
        for rank in self.ranks:
            if rank.slots is not None and rank.slots.passed:
                for index in rank.slots.passed:
                    log.passed.setdefault(index, now)
                rank.slots.passed.clear()
        if batch.admitted:
            before = {piece.live.index: piece.before for piece in batch.prompts}
            for live in batch.admitted:
                log.admit(live.index, now)
                if log.admitted[live.index] != log.admitted[live.index]:
                    log.admitted[live.index] = now
                    log.cached[live.index] = before.get(live.index, live.computed)

    def _write_step(self, batch: Batch, now: float, start: float, end: float) -> None:
        """Write down a step that was composed now."""
        tokens = sum(piece.tokens for piece in batch.prompts)
        used = sum(rank.pool.total - rank.pool.free for rank in self.ranks)
        row = Row(self.number, tokens, len(batch.decodes), *self._queues(), used)
        self.log.write_step(row, composed=now, start=start, end=end)

    def _queues(self) -> tuple[int, int]:
        """Requests that wait, and that run."""
        ranks = self.ranks
        waiting = sum(len(rank.waiting) + len(rank.asking) for rank in ranks)
        if self.loads is not None:
            waiting += sum(len(rank.parked) + len(rank.loaded) for rank in ranks)
        return waiting, sum(len(rank.running) + (rank.cut is not None) for rank in ranks)

    def complete(self, now: float) -> list[tuple[int, float]]:
        """End the oldest step on its way. Who is done, each with the time when its user has the last token."""
        if not self.flights:
            assert self.stretch is not None, "something is on its way"
            self._settle(self.stretch, now)
            return []
        batches, end = self.flights.popleft()
        prompts = [piece for batch in batches for piece in batch.prompts]
        delay = self.clock.delay(sum(len(rank.running) for rank in self.ranks)) if prompts else 0.0
        lives, gained = list[Live](), list[int]()
        for batch in batches:
            lives += batch.decodes
            gained += batch.gained
        last = [piece.live for piece in prompts if piece.last]
        over = self.log.show([*lives, *last], [*gained, *[1] * len(last)], end, delay)
        if over and any(rank.waiting or rank.loaded for rank in self.ranks):  # one of them may have room now
            self.alike = None
        for live in over:
            finish(self.rank_of(live), live)
        return [(live.index, self.log.finish[live.index]) for live in over]

    def rank_of(self, live: Live) -> State:
        """The queue and the blocks of a request that was sent here."""
        return self.state

    def choose_rank(self, live: Live) -> int:
        """The rank that gets a request."""
        return 0


def draw_gains(acceptance: Sequence[float], seed: int, number: int) -> Callable[[], int]:
    """What draws how many tokens a decode step brings a request: one, and the guesses before the first wrong one."""
    if not acceptance:
        return lambda: 1
    right = np.cumprod(acceptance)

    def tokens() -> Iterator[int]:
        rng = np.random.default_rng((seed, number))
        while True:
            drawn = rng.random(CHUNK)[:, None] < right
            yield from (1 + drawn.sum(1)).tolist()

    return tokens().__next__


CHUNK = 4096
"""Numbers drawn at once."""
