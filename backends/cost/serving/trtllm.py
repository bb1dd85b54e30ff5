"""The scheduler of TensorRT-LLM: it settles which requests have room in memory, then which of them are in the step."""

from __future__ import annotations

from itertools import chain
from typing import Literal

from attrs import frozen

from plandsl.backends.cost.serving.blocks import Pool, block_key
from plandsl.backends.cost.serving.scheduler import (
    Batch,
    Live,
    State,
    add_decodes,
    add_prompt,
    add_spent,
    empty,
    publish_decodes,
    repeat_decodes,
    send_back,
    too_long,
)


@frozen
class Trtllm:
    """Steps of TensorRT-LLM's PyTorch flow (`_torch/pyexecutor/scheduler/scheduler.py`, 1.x).

    ``room`` says who is admitted, in the order of arrival up to the first that does not fit: with ``no_evict`` who
    finds blocks for its prompt and all its output beside what the others still need; with ``max_utilisation`` who finds
    those of the next step, for which the request that started last is paused where a running one lacks blocks; with
    ``static_batch`` as ``no_evict``, while nobody decodes. A request whose prefix another one computes in this step is
    left out of it. A request whose adapter has no slot beside those of all that run is passed over; with
    ``max_utilisation`` it ends the search.

    A step has all that decode, then prompts, ``budget`` tokens and ``max_running`` requests at most. A prompt is in it
    whole, or with ``chunked`` in parts of whole blocks: in order (``equal`` false), or a block of each in turn.
    """

    budget: int = 8192
    max_running: int = 2048
    chunked: bool = False
    room: Literal["no_evict", "max_utilisation", "static_batch"] = "no_evict"
    equal: bool = False
    ahead: bool = True

    def refuses(self, live: Live, state: State) -> bool:
        """Whether a request can never run. One that is paused has a prompt with all that it made.

        A server that decodes what another one prefills computes only prompts of requests that were paused.
        """
        pauses = self.room == "max_utilisation"
        longest = live.input + (live.output if pauses else 0)
        whole = not self.chunked and (pauses or not state.receives)
        return (whole and longest > self.budget) or too_long(live, state)

    def receives(self, live: Live, state: State) -> bool:
        """Whether a request would be admitted if it waited."""
        if self.room == "static_batch" and state.running:
            return False
        needed = state.pool.count(self._needed(live, state.queries))
        return needed <= state.pool.free - self._reserved(state)

    def compose(self, state: State) -> Batch:
        """The next step."""
        batch = empty()
        if self.room == "max_utilisation":
            self._pause(state, batch)
        ready = [live for live in state.running if live.step < state.upto]
        decodes = [x for x in ready if (x.made and x.computed == x.input + x.made - 1) or x.made >= x.output]
        left = self._decode(state, batch, decodes)
        if len(decodes) < len(ready) or state.waiting:
            self._prompts(state, batch, left)
        return batch

    def steady(self, state: State) -> int | None:
        """Who waits for memory waits on, since there is less and less. With blocks for two steps nobody is paused."""
        return int(self.room == "max_utilisation" and self.ahead and len(state.running) > 1)

    def repeat(self, state: State, batch: Batch, steps: int) -> None:
        """Decode so many steps more."""
        repeat_decodes(state, steps)
        publish_decodes(state, self.ahead)

    def _pause(self, state: State, batch: Batch) -> None:
        """Pause who started last until the others have the blocks of their next step, or of two that overlap."""
        pool, running = state.pool, state.running
        while len(running) > 1:
            growing = [live for live in running if live.made < live.output]
            lacking = sum(max(pool.count(self._needed(live, state.queries)) - live.held, 0) for live in growing)
            if lacking <= pool.free:
                return
            live = running.pop()
            send_back(state, batch, live)
            state.waiting.appendleft(live)

    def _decode(self, state: State, batch: Batch, ready: list[Live]) -> int:
        """Requests that decode. Returns what they leave of the budget."""
        found = ready[: self.budget // state.queries]
        for live in found:
            if live.made >= live.output:
                add_spent(state, batch, live)
        add_decodes(state, batch, [live for live in found if live.made < live.output])
        return self.budget - len(found) * state.queries

    def _prompts(self, state: State, batch: Batch, left: int) -> None:
        """Prompts that are cut, then those that wait."""
        running = state.running
        cut = [x for x in running if not x.decodes and x.made < x.output and x.step < state.upto]
        closed = self.room == "static_batch" and any(live.decodes for live in running)
        found = cut if closed or batch.preempted else [*cut, *self._admit(state, cut, left)]
        batch.admitted.extend(found[len(cut) :])
        for live, tokens in self._parts(found, left, state.pool.size):
            state.pool.grow(live, live.computed + tokens)
            add_prompt(state, batch, live, tokens)

    def _admit(self, state: State, cut: list[Live], left: int) -> list[Live]:
        """Requests that wait, and join a step whose prompts have ``left`` tokens, those in ``cut`` first."""
        pool, found = state.pool, list[Live]()
        free = pool.free - self._reserved(state)
        coming = {key for live in cut for key in _prompt_keys(live, pool)}
        least = pool.size if self.chunked else self.budget + 1  # of a prompt that is not in the step whole
        planned, in_turn = sum(live.target - live.computed for live in cut), self.chunked and self.equal
        waiting, at, slots = state.waiting, 0, state.slots
        if slots is not None:
            slots.begin(state.running)
        while at < len(waiting):
            live = waiting[at]
            told = (len(cut) + len(found)) * pool.size if in_turn else planned  # tokens that are given out already
            if len(state.running) >= self.max_running or told >= left or live.step >= state.upto:
                break
            if live.made >= live.output:  # its last token is on its way
                break
            hits = pool.matched(live)
            known = pool.known(live, hits)
            if self._waits_for_prefix(live, pool, known // pool.size, coming):
                at += 1
                continue
            if slots is not None and not slots.has_room(live):
                if self.room == "max_utilisation":
                    break
                at += 1
                continue
            new = live.target - known
            needed = pool.missing(hits, self._needed(live, state.queries))
            if needed > free or (told + new > left and left - told < least):
                break
            free -= needed
            planned += new
            coming.update(_prompt_keys(live, pool))
            del waiting[at]
            if slots is not None:
                slots.add(live)
            pool.claim(live, hits)
            state.running.append(live)
            found.append(live)
        return found

    def _needed(self, live: Live, queries: int) -> int:
        """Tokens for which a request must find blocks: all that it will have, or those of its next steps."""
        whole = live.input + live.output + queries - 1
        if self.room != "max_utilisation":
            return whole
        return min(max(live.target, live.computed + queries * (2 if self.ahead else 1)), whole)

    def _reserved(self, state: State) -> int:
        """Blocks that those which run, or come from another server, have not yet, and may rely on."""
        pool, queries, there = state.pool, state.queries, chain(state.running, state.parked)
        if self.room == "max_utilisation":
            return sum(max(pool.count(self._needed(live, queries)) - live.held, 0) for live in there)
        size, more, found = pool.size, queries - 1, 0  # in every step there are as many as run: no calls
        for live in there:
            lacking = -(-(live.input + live.output + more) // size) - live.held
            if lacking > 0:
                found += lacking
        return found

    def _waits_for_prefix(self, live: Live, pool: Pool, known: int, coming: set[int]) -> bool:
        """Whether what a request would compute first is being computed by another."""
        end = (known + 1) * pool.size
        return pool.caching and end < live.target and block_key(live, end) in coming

    def _parts(self, found: list[Live], left: int, unit: int) -> list[tuple[Live, int]]:
        """How many tokens of each prompt are in the step."""
        lacking = [live.target - live.computed for live in found]
        if self.chunked and self.equal:
            given = _deal_in_turn(lacking, left, unit)
        else:
            given = []
            for tokens in lacking:
                part = tokens if tokens <= left else left // unit * unit if self.chunked else 0
                given.append(part)
                left = left - part if part == tokens else 0
        return [(live, tokens) for live, tokens in zip(found, given, strict=True) if tokens]


def _deal_in_turn(lacking: list[int], left: int, unit: int) -> list[int]:
    """``left`` tokens given out a ``unit`` at a time, to each in turn, until each has what it is ``lacking``."""
    given = [0] * len(lacking)
    while True:
        before = left
        for i, tokens in enumerate(lacking):
            part = min(unit, tokens - given[i])
            if 0 < part <= left:
                given[i] += part
                left -= part
        if left == before:
            return given


def _prompt_keys(live: Live, pool: Pool) -> list[int]:
    """Keys of the full blocks of a prompt that is not computed yet."""
    if not pool.caching:
        return []
    return [block_key(live, end) for end in range(pool.size, live.target + 1, pool.size)]
