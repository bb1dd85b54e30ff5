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
    add_decode,
    add_prompt,
    add_spent,
    empty,
    send_back,
    too_long,
)

CLIP = 4096
"""Output tokens of a prompt that joins for which room is kept at most."""

START, LEAST, STEPS = 0.7, 0.14, 600
"""`new_token_ratio`: where it starts, the share of that to which it falls, and in how many decode steps."""

AHEAD = 20
"""Tokens of each request that are counted as made when the ratio is set after a retraction."""

RESERVED = 512
"""Tokens for which a server that decodes keeps room, for each request (`--num-reserved-decode-tokens`)."""

MANY = 128
"""Requests that wait above which the queue is not sorted by cached prefixes."""


@frozen
class Sglang:
    """Steps of SGLang (0.5.23, `managers/scheduler.py`, `schedule_policy.py`).

    A step of prompts has at most ``chunk`` tokens, and prompts of at most ``prefill_tokens`` together unless it is one;
    the prompt that does not fit is cut, one at a time. Decodes wait for it, unless ``mixed``: then they are in the
    step, and count. A prompt joins where free blocks hold it, its output (at most `CLIP`) and a share of what the
    others still make; else nobody joins until a request ends. The share starts at ``0.7 conservativeness``, and falls
    to 14 % of that in `STEPS` steps of decodes. ``order`` may sort the queue by priority, or by what is known
    of the prompts.

    Where decodes lack blocks, requests with the fewest tokens made go back to the end of the queue.
    """

    chunk: int = 8192
    prefill_tokens: int = 16384
    max_running: int = 2048
    max_joining: int = 1_000_000
    conservativeness: float = 1.0
    mixed: bool = False
    order: Literal["fcfs", "priority", "longest_prefix"] = "fcfs"
    ahead: bool = True

    def refuses(self, live: Live, state: State) -> bool:
        """Whether a request can never run: a whole page of its prompt, and its output, are charged when it joins."""
        return too_long(live, state, lookahead=state.pool.size - 1)

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
        if state.ratio is None or not state.load:
            state.ratio = self.first_ratio
        batch = empty()
        self._join(state, batch)
        if not batch.prompts or self.mixed:
            self._decode(state, batch)
        return batch

    def _join(self, state: State, batch: Batch) -> None:
        """Prompts: the one that was cut, then those that wait."""
        pool = state.pool
        if not state.running:
            state.full = False
        beside = len(state.running) if self.mixed else 0
        room = pool.free * pool.size - self._kept_tokens(state)
        budget = _Budget(self.chunk - beside, self.prefill_tokens - beside, room)
        cut = state.cut
        if cut is not None:
            if cut.step >= state.upto:
                return
            tokens = min(cut.target - cut.computed, budget.chunk)
            if tokens <= 0 or not pool.grow(cut, cut.computed + tokens):
                return
            budget.spend(pool, tokens, _remaining(cut) if tokens == cut.target - cut.computed else 0)
            self._add_part(state, batch, cut, tokens)
        if state.full or state.cut is not None:
            return
        self._sort(state)
        while state.waiting and state.cut is None:
            if len(state.running) >= self.max_running:
                state.full = True
                return
            if len(batch.prompts) >= self.max_joining or not self._admit(state, batch, budget):
                return

    def _admit(self, state: State, batch: Batch, budget: _Budget) -> bool:
        """Take the first that waits, or say that this step takes no more."""
        pool, live = state.pool, state.waiting[0]
        if live.step >= state.upto:
            return False
        hits = pool.matched(live)
        new = live.target - len(hits) * pool.size
        idle = pool.missing(hits, live.target) - pool.count(new)  # known blocks that nobody uses
        charged = pool.count(new) * pool.size
        if charged + _remaining(live) + idle * pool.size > budget.room:
            state.full = True
            return False
        if budget.chunk <= 0 or (batch.prompts and charged > budget.prefill):
            return False
        tokens = min(new, budget.chunk // pool.size * pool.size) if charged > budget.chunk else new
        if tokens <= 0:
            return False
        state.waiting.popleft()
        pool.claim(live, hits)
        pool.grow(live, live.computed + tokens)
        batch.admitted.append(live)
        budget.spend(pool, tokens, _remaining(live) if tokens == new else 0)
        budget.room -= idle * pool.size
        self._add_part(state, batch, live, tokens)
        return True

    def _add_part(self, state: State, batch: Batch, live: Live, tokens: int) -> None:
        """Put a part of a prompt into the step; a prompt that is done runs, another is the one that is cut."""
        add_prompt(state, batch, live, tokens)
        if batch.prompts[-1].last:
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
            order = sorted(state.waiting, key=lambda live: -len(state.pool.matched(live)))
            state.waiting.clear()
            state.waiting.extend(order)

    def _decode(self, state: State, batch: Batch) -> None:
        """A token of each request that runs and is in no step on its way."""
        ready = [live for live in state.running if live.step < state.upto and live.step != state.number]
        growing = [live for live in ready if live.made < live.output]
        if not ready:
            return
        self._retract(state, batch, growing)
        for live in ready:
            if live.made >= live.output:
                add_spent(state, batch, live)
        for live in growing:
            if state.pool.grow(live, live.computed + state.queries):
                add_decode(state, batch, live, state.queries)

    def _retract(self, state: State, batch: Batch, growing: list[Live]) -> None:
        """Make room for the step: of those with the fewest tokens made the one with the longest prompt goes first."""
        assert state.ratio is not None, "set at the first step"
        pool, queries = state.pool, state.queries
        lacking = sum(pool.count(live.computed + queries) - live.held for live in growing)
        if lacking <= pool.free:
            first = self.first_ratio
            state.ratio = max(state.ratio - (1 - LEAST) * first / STEPS, LEAST * first)
            return
        order = sorted(growing, key=lambda live: (-live.made, live.input))
        while lacking > pool.free and len(order) > (state.cut is None):  # a prompt that is cut goes on
            live = order.pop()
            lacking -= pool.count(live.computed + queries) - live.held
            growing.remove(live)
            state.running.remove(live)
            send_back(state, batch, live)
            state.waiting.append(live)
        made, most = sum(live.made for live in order), sum(live.output for live in order)
        state.ratio = min((made + AHEAD * len(order)) / (most + 1), 1.0)


class _Budget:
    """What a step of prompts may still take: tokens of its chunk, of its prompts, and of memory (``room``)."""

    __slots__ = ("chunk", "prefill", "room")

    def __init__(self, chunk: int, prefill: int, room: float) -> None:
        self.chunk, self.prefill, self.room = chunk, prefill, room

    def spend(self, pool: Pool, tokens: int, to_come: int) -> None:
        """A prompt is charged in whole blocks."""
        charged = pool.count(tokens) * pool.size
        self.chunk -= charged
        self.prefill -= charged
        self.room -= charged + to_come


def _remaining(live: Live) -> int:
    """Output tokens that a request still makes, as far as room is kept for them."""
    return min(live.output - live.made, CLIP)
