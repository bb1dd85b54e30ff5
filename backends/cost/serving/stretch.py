"""A stretch: steps taken at once in which the same requests decode, until something happens.

Where the last step only decoded and nothing has come or gone since, the next steps are composed alike until a request
has its last token, memory runs short, or the server is interrupted by a request. So they are not composed one by one:
`foresee` says when each of them ends. What requests have after it is settled when the stretch is over, or interrupted.

Times are the same sums in the same order as those of steps one by one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from plandsl.backends.cost.serving.clock import Foreseeing
from plandsl.backends.cost.serving.requests import Floats, Ints
from plandsl.backends.cost.serving.scheduler import Batch, Live, Policy, State

LONGEST = 4096
"""The most steps of a stretch."""


class Stretch(NamedTuple):
    """Steps of which each has requests in ``batches``, one for each rank, all of which decode.

    The first is ``composed`` at a time; step j, counted from 0, lasts from ``ends[j]`` to ``ends[j + 1]``, and the
    server has ``used`` blocks then. The last one is left to be taken by itself: from its start on, ``until``, the
    stretch is over.
    """

    batches: Sequence[Batch]
    composed: float
    ends: Floats
    used: Ints

    @property
    def until(self) -> float:
        """When all steps but the last one are over."""
        return float(self.ends[-2])

    def composed_s(self, ahead: bool) -> Floats:
        """When each step is composed: when it starts, or ``ahead`` when the step before it starts."""
        found: Floats = np.concatenate(([self.composed], self.ends[:-2] if ahead else self.ends[1:-1]))
        return found

    def progress(self, now: float, ahead: bool, cut: bool) -> tuple[int, int]:
        """How many steps were composed before ``now``, and how many are over by then.

        Where the stretch is ``cut``, a step that ends exactly then is not over: what cuts it may come first.
        """
        begun = 1 + int(np.searchsorted(self.composed_s(ahead)[1:], now, "left"))
        return begun, int(np.searchsorted(self.ends[1:], now, "left" if cut else "right"))


def foresee(
    states: Sequence[State], batches: Sequence[Batch], policy: Policy, clock: Foreseeing, times: tuple[float, float]
) -> Stretch | None:
    """The steps behind the last one, which had ``batches``, where several are composed like it; else None.

    ``times``: when the first of them is composed, and when it starts.
    """
    room = []
    for state, batch in zip(states, batches, strict=True):
        margin = policy.steady(state) if state.running == batch.decodes else None
        if margin is None or (state.load and not batch.decodes):
            return None
        room.append((state, batch.decodes, margin))
    steps = min(min(live.output - live.made for live in batch.decodes) for batch in batches if batch.decodes)
    steps = min(steps, LONGEST)
    if steps < 2:
        return None
    used = np.zeros(steps, np.int64)
    for state, lives, margin in room:
        taken = taken_blocks(lives, state.pool.size, steps + margin)
        steps = min(steps, int(np.searchsorted(taken, state.pool.free, "right")) - margin)
        if steps < 2:
            return None
        used = used[:steps] + taken[:steps] + (state.pool.total - state.pool.free)
    composed, start = times
    seconds = clock.foresee(batches, steps)
    line = np.empty(seconds.size + 1)
    line[0], line[1:] = start, seconds.ravel()
    ends = np.add.accumulate(line)[:: seconds.shape[1]]
    return Stretch(batches, composed, ends, used)


def taken_blocks(lives: Sequence[Live], size: int, steps: int) -> Ints:
    """Blocks that requests take in the next steps, each with a token more: int64[steps], added up."""
    first = np.array([live.held * size - live.computed for live in lives], np.int64)
    rounds = -(-steps // size)
    late = first[first < rounds * size]
    each = np.bincount(late, minlength=rounds * size).reshape(rounds, size).cumsum(axis=0)
    found: Ints = np.cumsum(each.ravel()[:steps])
    return found


def repeat_decodes(batch: Batch) -> Batch:
    """A step in which the same requests have the next token."""
    lives = batch.decodes
    return Batch(prompts=[], decodes=[*lives], gained=[1] * len(lives), spent=[], admitted=[], preempted=[])
