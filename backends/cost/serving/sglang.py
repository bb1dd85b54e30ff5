"""The scheduler of SGLang: prompts first, in steps of their own; it admits by an estimate of outputs, and retracts."""

from __future__ import annotations

from typing import Literal

from attrs import frozen

from plandsl.backends.cost.serving.blocks import Pool
from plandsl.backends.cost.serving.priorities import sort_waiting
from plandsl.backends.cost.serving.scheduler import (
    Batch,
    Live,
    State,
    add_decodes,
    add_prompt,
    add_spent,
    empty,
    repeat_decodes,
    send_back,
)

CLIP = 4096
"""Output tokens of a prompt that joins for which room is kept at most."""

START, LEAST, STEPS = 0.7, 0.14, 600
"""`new_token_ratio`: where it starts, the share of that to which it falls, and in how many decode steps."""

AHEAD = 20
"""Tokens of each request that count as made when the ratio is set after a retraction, and for which prefixes go."""

RESERVED = 512
"""Tokens for which a server that decodes keeps room, for each request (`--num-reserved-decode-tokens`)."""

MANY = 128
"""Requests that wait above which the queue is not sorted by cached prefixes."""


@frozen
class Sglang:
    """Steps of SGLang (0.5.23, `managers/scheduler.py`, `schedule_policy.py`).

    A step of prompts has at most ``chunk`` tokens; the prompt that does not fit is cut, one at a time, and none joins
    once they have ``prefill_tokens`` together. Decodes wait for it, unless ``mixed``: then they are in the step, and
    count. A prompt joins where free blocks hold it, a block, its output (at most `CLIP`) and a share of what the others
    still make; else nobody joins until a request leaves those that run. The share starts at ``0.7 conservativeness``,
    and falls to 14 % of that in `STEPS` steps of decodes. ``order`` may sort the queue by priority, or by what
    is known of the prompts. A prompt is found when its step is over, or its next part is composed; an answer when it
    ends.

    A request whose adapter has no slot beside those of all that run is passed over.

    Where decodes lack blocks, requests with the fewest tokens made go back to the end of the queue, without the token
    that is on its way. ``capped``: requests end at their `max_new_tokens`, so that a step composed ahead knows which
    end before it; where those have the blocks that it lacks, it waits for them.
    """

    chunk: int = 8192
    prefill_tokens: int = 16384
    max_running: int = 2048
    max_joining: int = 1_000_000
    conservativeness: float = 1.0
    mixed: bool = False
    order: Literal["fcfs", "priority", "longest_prefix"] = "fcfs"
    capped: bool = True
    ahead: bool = True

    def refuses(self, live: Live, state: State) -> bool:
        """Whether a request can never run: it joins where its tokens and a page leave a token at least."""
        pool = state.pool
        return live.input + live.output + state.queries - 1 + pool.size >= pool.total * pool.size

    def receives(self, live: Live, state: State) -> bool:
        """Whether the prompt has room, with `RESERVED` tokens of each request that is there or comes."""
        pool, there = state.pool, len(state.running) + len(state.parked) + len(state.waiting)
        needed = pool.count(live.input) * pool.size + min(RESERVED, live.output - 1)
        return needed <= pool.free * pool.size - (RESERVED * there)

    @property
    def first_ratio(self) -> float:
        """The share of outputs for which room is kept, at first."""
        return min(START * self.conservativeness, 1.0)

    def compose(self, state: State) -> Batch:
        """The next step."""
        if state.ratio is None:
            state.ratio = self.first_ratio
        state.pool.merging = True
        batch = empty()
        self._publish(state)
        self._join(state, batch)
        if not batch.prompts or self.mixed:
            self._decode(state, batch)
        if batch.rows:
            state.sent = {number: sent for number, sent in state.sent.items() if number >= state.upto - 1}
            state.sent[state.number] = batch
        return batch

    def steady(self, state: State) -> int | None:
        """Nobody joins until a request ends, if nobody waits or the batch is full."""
        if state.cut is not None or (state.waiting and not state.full):
            return None
        if state.pool.caching and state.unfound:  # blocks that are found may become free, of equals one is kept
            return None
        return 0 if all(live.shown >= made for live, made in state.unfound) else None

    def repeat(self, state: State, batch: Batch, steps: int) -> None:
        """Decode so many steps more, while the share falls."""
        self._publish(state)
        repeat_decodes(state, steps)
        state.sent[state.number] = batch
        for _ in range(min(steps, STEPS + 1)):
            self._lower(state)

    def _lower(self, state: State) -> None:
        """Keep room for a smaller share of outputs."""
        assert state.ratio is not None, "set at the first step"
        first = self.first_ratio
        state.ratio = max(state.ratio - (1 - LEAST) * first / STEPS, LEAST * first)

    def _publish(self, state: State) -> None:
        """Prompts whose results are there are found from now on, the one that is cut as far as it is in steps."""
        if state.cut is not None:
            state.pool.publish(state.cut, state.cut.computed)
        for live, made in state.unfound:
            if live.shown >= made:
                state.pool.publish(live, live.input + made - 1)
        state.unfound = [(live, made) for live, made in state.unfound if live.shown < made]

    def _join(self, state: State, batch: Batch) -> None:
        """Prompts: the one that was cut, then those that wait."""
        pool, before = state.pool, len(state.running)
        if not before or state.cut is not None:
            state.full = False
        cut = state.cut
        if cut is None and (state.full or not state.waiting):
            return
        beside = before if self.mixed else 0
        room = pool.free * pool.size - beside - self._kept_tokens(state)
        budget = _Budget(self.chunk - beside, self.prefill_tokens - beside, room)
        if cut is not None and (cut.step >= state.upto or not self._go_on(state, batch, budget, cut)):
            return
        if state.full or state.cut is not None:
            return
        self._sort(state)
        passed: list[Live] = []
        if state.slots is not None:
            state.slots.begin((*state.running, *(piece.live for piece in batch.prompts)))
        self._join_each(state, batch, budget, before, passed)
        state.waiting.extendleft(reversed(passed))

    def _join_each(self, state: State, batch: Batch, budget: _Budget, before: int, passed: list[Live]) -> None:
        """Prompts from the front of the queue, apart from those ``passed`` over, whose adapter has no slot."""
        slots = state.slots
        while state.waiting and state.cut is None:
            live = state.waiting[0]
            if slots is not None and not slots.has_room(live):
                passed.append(state.waiting.popleft())
                continue
            if before + len(batch.prompts) >= self.max_running:
                state.full = before > 0
                return
            if len(batch.prompts) >= self.max_joining or not self._admit(state, batch, budget):
                return
            if slots is not None:
                slots.add(live)
            if budget.room <= 0:
                state.full = before > 0
                return

    def _go_on(self, state: State, batch: Batch, budget: _Budget, cut: Live) -> bool:
        """Another part of the prompt that is cut."""
        lacking = cut.target - cut.computed
        most = min(budget.chunk, int(budget.room))
        tokens = min(lacking, most if most > 0 else budget.chunk)
        if tokens <= 0 or not state.pool.grow(cut, cut.computed + tokens):
            return False
        budget.spend(state.pool, tokens, min(cut.output, CLIP) if tokens == lacking else 0)
        self._add_part(state, batch, cut, tokens)
        return True

    def _admit(self, state: State, batch: Batch, budget: _Budget) -> bool:
        """Take the first that waits, or say that this step takes no more."""
        pool, live = state.pool, state.waiting[0]
        if live.step >= state.upto or budget.chunk <= 0 or budget.prefill <= 0:
            return False
        hits = pool.matched(live)
        new = live.target - pool.known(live, hits)
        idle = pool.missing(hits, live.target) - pool.count(new)  # known blocks that nobody uses
        if new + _remaining(live) + pool.size + idle * pool.size >= budget.room:
            state.full = len(state.running) > sum(piece.last for piece in batch.prompts)
            return False
        tokens = min(new, budget.chunk // pool.size * pool.size) if pool.count(new) * pool.size > budget.chunk else new
        if tokens <= 0:
            return False
        state.waiting.popleft()
        pool.claim(live, hits)
        pool.grow(live, live.computed + tokens)
        batch.admitted.append(live)
        budget.spend(pool, tokens, min(live.output, CLIP) if tokens == new else 0)
        budget.room -= idle * pool.size
        self._add_part(state, batch, live, tokens)
        return True

    def _add_part(self, state: State, batch: Batch, live: Live, tokens: int) -> None:
        """Put a part of a prompt into the step; a prompt that is done runs, another is the one that is cut."""
        add_prompt(state, batch, live, tokens, found=False)
        if batch.prompts[-1].last:
            state.unfound.append((live, live.made))
            state.running.append(live)
            state.cut = None
        else:
            state.cut = live

    def _kept_tokens(self, state: State) -> float:
        """Tokens for which room is kept, that those which run still make."""
        assert state.ratio is not None, "set at the first step"
        return sum(_remaining(live) for live in state.running) * state.ratio

    def _sort(self, state: State) -> None:
        if self.order == "priority":
            sort_waiting(state)
        elif self.order == "longest_prefix" and 1 < len(state.waiting) <= MANY:
            pool = state.pool
            order = sorted(
                state.waiting, key=lambda live: -min(len(pool.matched(live, whole=True)) * pool.size, live.target - 1)
            )
            state.waiting.clear()
            state.waiting.extend(order)

    def _decode(self, state: State, batch: Batch) -> None:
        """A token of each request that runs and is in no step on its way."""
        upto = state.upto
        ready = [live for live in state.running if live.step < upto]
        growing = [live for live in ready if live.made < live.output]
        done = [live for live in ready if live.made >= live.output]
        spent, ending = ([], bool(done)) if self.capped else (done, False)
        if (not growing and not spent) or not self._make_room(state, batch, growing, ending):
            return
        for live in spent:
            add_spent(state, batch, live)
        add_decodes(state, batch, growing, found=False)
        if batch.prompts:
            state.full = False

    def _make_room(self, state: State, batch: Batch, growing: list[Live], ending: bool) -> bool:
        """Make room for the step: of those with the fewest tokens made the one with the longest prompt goes first.

        Says whether there is a step: where requests are ``ending``, it waits for their blocks.
        """
        assert state.ratio is not None, "set at the first step"
        pool, queries, size = state.pool, state.queries, state.pool.size
        lacking = sum([-(-(live.computed + queries) // size) - live.held for live in growing])
        if batch.prompts:  # decodes beside prompts: all of them or none
            return lacking <= pool.free
        if lacking <= pool.free:
            self._lower(state)
            return True
        if ending:
            state.full = False
            return False
        order = sorted(growing, key=lambda live: (-live.made, live.input))
        while lacking > pool.free and len(order) > (state.cut is None):  # a prompt that is cut goes on
            live = order.pop()
            lacking -= pool.count(live.computed + queries) - live.held
            growing.remove(live)
            state.running.remove(live)
            _drop_result(state, live)
            send_back(state, batch, live)
            state.waiting.append(live)
            pool.clear(pool.count(AHEAD * len(order)))
        made, most = sum(live.shown for live in order), sum(live.output for live in order)
        state.ratio = min((made + AHEAD * len(order)) / (most + 1), 1.0)
        state.full = False
        return True


class _Budget:
    """What a step of prompts may still take: tokens of its chunk, of its prompts, and of memory (``room``)."""

    __slots__ = ("chunk", "prefill", "room")

    def __init__(self, chunk: int, prefill: int, room: float) -> None:
        self.chunk, self.prefill, self.room = chunk, prefill, room

    def spend(self, pool: Pool, tokens: int, to_come: int) -> None:
        """A prompt is charged in whole blocks, and in memory a block besides."""
        charged = pool.count(tokens) * pool.size
        self.chunk -= charged
        self.prefill -= charged
        self.room -= charged + pool.size + to_come


def _drop_result(state: State, live: Live) -> None:
    """The token that a step on its way makes for a request is thrown away."""
    if live.made == live.shown:
        return
    sent = state.sent[live.step]
    prompts, decodes, gained = sent.prompts, sent.decodes, sent.gained
    if live in decodes:
        del gained[decodes.index(live)]
        decodes.remove(live)
    prompts[:] = [piece._replace(last=False) if piece.live is live else piece for piece in prompts]
    live.made = live.shown
    state.unfound = [(other, made) for other, made in state.unfound if other is not live]


def _remaining(live: Live) -> int:
    """Output tokens that a request still makes as far as is known, and as room is kept for them."""
    return min(live.output - live.shown, CLIP)
