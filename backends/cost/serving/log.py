"""What is written down while servers run."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from plandsl import limits
from plandsl.backends.cost.serving.requests import Floats, Ints
from plandsl.backends.cost.serving.scheduler import Live


class Row(NamedTuple):
    """A step: its server, tokens of prompts, requests that decode, that wait and that run, and blocks in use."""

    number: int
    tokens: int
    decodes: int
    waiting: int
    running: int
    blocks: int


class Log:
    """Lists with a place for each request, and arrays that grow by steps, in the order of each server.

    Requests that wait were ``passed`` over at a time, since their adapter had no slot; ``slot_s`` has the seconds that
    those which were admitted had waited so.

    A step was ``composed``, and lasts from ``start`` to ``end``; ``steps`` has a `Row` of each. When ``shown``, so many
    ``counts`` of tokens came after ``gaps`` of time.

    Where a server has several stages, ``spans`` has the fields of `Stages` for each stage of each step.
    """

    def __init__(self, n: int) -> None:
        nan = float("nan")
        self.arrival, self.admitted, self.first, self.finish = ([nan] * n for _ in range(4))
        self.cached, self.preemptions = [0] * n, [0] * n
        self.longest, self.delay = [0.0] * n, [0.0] * n
        self.replica = [-1] * n
        self.loaded: list[list[int]] = []  # for each tier
        self.fetched: list[list[int]] = []  # adapters, from host memory and from disk
        self.passed, self.slot_s = dict[int, float](), dict[int, float]()
        self.gaps, self.counts, self.shown = array("d"), array("q"), array("d")
        self.composed, self.start, self.end = array("d"), array("d"), array("d")
        self.steps = array("q")
        self.spans = array("d")
        self.leaps = False

    def admit(self, index: int, now: float) -> None:
        """A request that may have waited for a slot is admitted."""
        if index in self.passed:
            self.slot_s[index] = self.slot_s.get(index, 0.0) + now - self.passed.pop(index)

    def write_step(self, row: Row, composed: float, start: float, end: float) -> None:
        """Write down a step."""
        self.composed.append(composed)
        self.start.append(start)
        self.end.append(end)
        self.steps.extend(row)

    def write_stage(self, row: tuple[float, ...]) -> None:
        """Write down a step on a stage, unless there are more than any trace shows."""
        if len(self.spans) < len(row) * limits.MAX_TRACE_EVENTS:
            self.spans.extend(row)

    def write_stretch(self, row: Row, composed: Floats, ends: Floats, blocks: Ints) -> None:
        """Write down steps that follow one another: the first starts at ``ends[0]``, each has ``blocks`` in use."""
        self.composed.frombytes(composed.tobytes())
        self.start.frombytes(ends[:-1].tobytes())
        self.end.frombytes(ends[1:].tobytes())
        rows = np.empty((len(blocks), len(row)), np.int64)
        rows[:] = row
        rows[:, -1] = blocks
        self.steps.frombytes(rows.tobytes())

    def show(self, lives: Sequence[Live], gained: Sequence[int], end: float, delay: float) -> list[Live]:
        """Requests have tokens at ``end``, so many each. Who has all of them.

        Users have all tokens later, by the ``delay`` of the first.
        """
        longest, over, gaps = self.longest, list[Live](), dict[float, int]()
        last, count = 0.0, 0
        for live, gain in zip(lives, gained, strict=True):
            if live.shown:
                gap = end - live.shown_s
                if gap == last:
                    count += 1
                else:
                    if count:
                        gaps[last] = gaps.get(last, 0) + count
                    last, count = gap, 1
                if gap > longest[live.index]:
                    longest[live.index] = gap
            else:
                self.first[live.index] = end + delay
                self.delay[live.index] = delay
            shown = live.shown = live.shown + gain
            live.shown_s = end
            if shown >= live.output:
                over.append(live)
        if count:
            gaps[last] = gaps.get(last, 0) + count
        self.gaps.extend(gaps.keys())
        self.counts.extend(gaps.values())
        self.shown.extend([end] * len(gaps))
        for live in over:
            self.finish[live.index] = end + self.delay[live.index]
        return over

    def show_stretch(self, lives: Sequence[Live], ends: Floats) -> None:
        """Requests have a token at each of ``ends`` but the first, when they had their last one."""
        over, gaps = len(ends) - 1, np.diff(ends)
        if not over:
            return
        self.gaps.frombytes(gaps.tobytes())
        self.counts.frombytes(np.full(over, len(lives)).tobytes())
        self.shown.frombytes(ends[1:].tobytes())
        most, last = float(gaps.max()), float(ends[-1])
        for live in lives:
            live.shown += over
            live.shown_s = last
            if most > self.longest[live.index]:
                self.longest[live.index] = most
