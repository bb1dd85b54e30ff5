"""The scheduler of vLLM V1: requests that run come first, then prompts, in chunks, as far as the budget goes."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Literal

from attrs import frozen

from plandsl.backends.cost.serving.priorities import pick_victim, sort_waiting, take_out
from plandsl.backends.cost.serving.scheduler import (
    Batch,
    Live,
    State,
    add_decode,
    add_prompt,
    add_spent,
    empty,
    publish_decodes,
    repeat_decodes,
    send_back,
    too_long,
)


@frozen
class Vllm:
    """Steps of vLLM V1 (0.33, `vllm/v1/core/sched/scheduler.py`), first come, first served.

    ``budget`` tokens go to the requests that run, in the order of their admission, whether they decode or are in the
    middle of a prompt; then to those that wait, at most ``max_running`` in all. The first that finds no room ends the
    search. Without ``chunked`` prompts are not cut. ``long_prompt`` (0: none) bounds the tokens of a request in a step
    where there are several; with ``adaptive`` at least at an equal share of the budget. With ``whole_prompt`` a request
    is admitted where all its prompt fits, else where its first chunk does. ``watermark`` is the share of blocks that
    stays free at admission. Requests have blocks of ``lookahead`` tokens besides. ``capped``: requests end at
    their `max_tokens`, so that a step composed ahead knows which end before it; they keep their place and their blocks.
    Chunks of one prompt may be in steps that follow one another through the stages.

    A request whose prefix is in a tier of memory gets the blocks of its prompt, and waits beside the steps until it is
    loaded; then it is the first to be admitted, as from vLLM's `skipped_waiting`.

    A request whose adapter has no slot beside those of all that run is passed over.

    Where a block is missing, the request admitted last goes back to the front of the queue, and nobody is admitted.
    With ``order`` `priority` the queue is in that order, and the request of the lowest priority goes back.
    """

    budget: int = 8192
    max_running: int = 1024
    chunked: bool = True
    long_prompt: int = 0
    adaptive: bool = False
    whole_prompt: bool = True
    watermark: float = 0.0
    lookahead: int = 0
    order: Literal["fcfs", "priority"] = "fcfs"
    capped: bool = True
    ahead: bool = True

    def refuses(self, live: Live, state: State) -> bool:
        """Whether a request can never run."""
        uncut = not self.chunked and live.input + live.output > self.budget
        return uncut or too_long(live, state, self.lookahead)

    def receives(self, live: Live, state: State) -> bool:
        """Whether the prompt of a request has room, as at admission."""
        return state.pool.count(live.input) + self._spare(state) <= state.pool.free

    def compose(self, state: State) -> Batch:
        """The next step."""
        batch = empty()
        if self.order == "priority":
            sort_waiting(state)
        most = self._limit(state)
        left = self._continue(state, batch, most)
        if not batch.preempted or not batch.rows:
            self._admit(state, batch, most, left)
        return batch

    def steady(self, state: State) -> int | None:
        """Who waits for memory waits on, since there is less and less; with known blocks a first chunk needs fewer."""
        waits, full = state.waiting or state.loaded, len(state.running) >= self.max_running
        return None if self.lookahead or (waits and not full and not self.whole_prompt) else 0

    def repeat(self, state: State, batch: Batch, steps: int) -> None:
        """Decode so many steps more."""
        repeat_decodes(state, steps)
        publish_decodes(state, self.ahead)

    def _limit(self, state: State) -> int:
        """Tokens that a request may have in a step."""
        there = len(state.running) + len(state.waiting) + len(state.loaded)
        if not self.long_prompt or there <= 1:  # none: all come from another server
            return self.budget
        return max(self.long_prompt, self.budget // there) if self.adaptive else self.long_prompt

    def _continue(self, state: State, batch: Batch, most: int) -> int:
        """Requests that run. Returns what they leave of the budget."""
        left, at, queries = self.budget, 0, state.queries
        running, pool = state.running, state.pool
        while at < len(running) and left > 0:
            live = running[at]
            at += 1
            decodes = live.decodes
            if decodes and live.step >= state.upto and live.made > live.shown:
                continue
            spent = live.made >= live.output
            if spent and self.capped and live.shown + 1 >= live.output:  # whatever becomes of guesses
                continue
            tokens = min(queries if decodes else live.target - live.computed, most, left)
            needed = live.computed + tokens + self.lookahead
            while needed > live.held * pool.size and not pool.grow(live, needed):
                place = len(running) - 1 if self.order == "fcfs" else pick_victim(running)
                last = running.pop(place)
                left += take_out(state, batch, last, queries) if place < at - 1 else 0
                at -= place < at
                send_back(state, batch, last)
                state.waiting.appendleft(last)
                if last is live:
                    break
            if live.held * pool.size < needed:
                continue
            if spent:
                add_spent(state, batch, live)
            elif decodes:
                add_decode(state, batch, live, tokens)
            else:
                add_prompt(state, batch, live, tokens)
            left -= tokens
        return left

    def _spare(self, state: State) -> int:
        """Blocks that stay free when a request joins others; one block is the engine's own."""
        return int(self.watermark * (state.pool.total + 1)) if state.running else 0

    def _admit(self, state: State, batch: Batch, most: int, left: int) -> None:
        """Requests that wait; where all that ran went back, those that hold blocks."""
        if state.slots is not None:
            state.slots.begin(state.running)
        passed: list[tuple[deque[Live], Live]] = []
        self._admit_each(state, batch, (most, left), passed)
        for queue, live in reversed(passed):
            queue.appendleft(live)

    def _admit_each(
        self, state: State, batch: Batch, tokens_left: tuple[int, int], passed: list[tuple[deque[Live], Live]]
    ) -> None:
        """Admit requests from the front of the queues, apart from those ``passed`` over, whose adapter has no slot."""
        pool, slots = state.pool, state.slots
        most, left = tokens_left
        while left > 0 and len(state.running) < self.max_running:
            queue = state.loaded or (not batch.preempted and state.waiting)
            if not queue or queue[0].step >= state.upto or queue[0].made >= queue[0].output:  # its last token comes
                return
            live = queue[0]
            if slots is not None and not slots.has_room(live):
                passed.append((queue, queue.popleft()))
                continue
            hits = [] if live.held else pool.matched(live)
            known = live.computed or pool.known(live, hits)
            if not live.held and known > len(hits) * pool.size:
                if not self._load(state, live, hits):
                    return
                queue.popleft()
                continue
            tokens = min(live.target - known, most)
            if tokens > left and not self.chunked:
                return
            tokens = min(tokens, left)
            room = known + tokens + self.lookahead
            needed = max(live.target, room) if self.whole_prompt else room
            if pool.missing(hits, needed) - live.held + self._spare(state) > pool.free:
                return
            queue.popleft()
            if not live.held:
                pool.claim(live, hits)
            pool.grow(live, room)
            if slots is not None:
                slots.add(live)
            state.running.append(live)
            batch.admitted.append(live)
            add_prompt(state, batch, live, tokens)
            left -= tokens

    def _load(self, state: State, live: Live, hits: Sequence[int]) -> bool:
        """Start to load what tiers know of a request, unless others load it already; False where it has no room."""
        pool, needed = state.pool, live.target + self.lookahead
        if not pool.waits(live, hits):
            if pool.missing(hits, needed) + self._spare(state) > pool.free:
                return False
            pool.claim(live, hits)
            pool.grow(live, needed)
        state.parked.append(live)
        return True
