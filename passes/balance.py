"""Balance: how many layers each stage gets, so that the slowest one takes the least time.

No pass knows times: what the layers of a stage cost, and whether they have room, comes in as an argument.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple

Costs = tuple[float, float]
"""What a stage costs in two respects: seconds of a prefill and of all decode steps."""

Asked = Callable[[int, int, int], Costs]
Room = Callable[[int, int, int], bool]
"""Questions about a stage, and the layers ``start..stop`` on it."""

HALVINGS = 60
"""Steps of a bisection: more than a number has bits."""


def balance(layers: int, stages: int, costs: Asked, fits: Room = lambda stage, start, stop: True) -> tuple[int, ...]:
    """Layers of each stage, at least one, such that the most that a stage costs, summed over both respects, is least.

    Within those two most, it is the most even cut: with the least sum of squares of what stages cost. ``costs(stage,
    start, stop)`` must not fall with more layers, and what has no room not ``fits`` with more. A cut of which every
    stage fits is preferred to all others. There are at least as many layers as stages.

    Whether any cut stays below a limit in each respect is quick to tell. So the least limit of one respect under one of
    the other is found by bisection, and going down from one such pair to the next finds that with the least sum: the
    answer is exact.
    """
    for room in (fits, lambda stage, start, stop: True):
        limits = _least(_Stages(layers, stages, costs, room))
        if limits is not None:
            return _even(_Stages(layers, stages, costs, room), limits)
    raise AssertionError("there are as many layers as stages")


class _Stages(NamedTuple):
    """What there is to deal, and the questions about it."""

    layers: int
    stages: int
    costs: Asked
    fits: Room

    def good(self, stage: int, start: int, stop: int, most: Costs) -> bool:
        """Whether the layers ``start..stop`` cost at most ``most`` on a stage, and fit."""
        cost = self.costs(stage, start, stop)
        return cost[0] <= most[0] and cost[1] <= most[1] and self.fits(stage, start, stop)

    def dealt(self, most: Costs) -> list[int] | None:
        """Where stages end, after a 0, such that each costs at most ``most``; None where that cannot be.

        A stage that takes all it may leaves the others no more than any other way does, so that filling them one by
        one tells, unless it leaves one a layer that it cannot take: then all ways are tried.
        """
        ends = [0]
        for stage in range(self.stages):
            start = stop = ends[-1]
            while stop < self.last(stage) and self.good(stage, start, stop + 1, most):
                stop += 1
            if stop == start:
                return self.tried(most)
            ends.append(stop)
        return ends if ends[-1] == self.layers else None

    def tried(self, most: Costs) -> list[int] | None:
        """The same by going through all places where stages may end."""
        before: list[dict[int, int]] = [{0: 0}]
        for stage in range(self.stages):
            reached: dict[int, int] = {}
            for start in before[-1]:
                for stop in range(start + 1, self.last(stage) + 1):
                    if not self.good(stage, start, stop, most):
                        break
                    reached.setdefault(stop, start)
            before.append(reached)
        ends = [self.layers]
        for starts in reversed(before[1:]):
            if ends[-1] not in starts:
                return None
            ends.append(starts[ends[-1]])
        return ends[::-1]

    def last(self, stage: int) -> int:
        """Where a stage may end at most: those behind it need a layer each."""
        return self.layers - (self.stages - stage - 1)

    def worst(self, ends: list[int]) -> Costs:
        """The most that any stage costs, by respect."""
        prefill, decode = zip(*(self.costs(stage, *span) for stage, span in enumerate(pairwise(ends))), strict=True)
        return max(prefill), max(decode)


def _least(deal: _Stages) -> Costs | None:
    """The limits with the least sum within which all layers can be dealt; None where nothing fits."""
    best: Costs | None = None
    least = _bisected(deal, 0, math.inf)
    limit = math.inf
    while least is not None and (found := _bisected(deal, 1, limit)) is not None:
        point = _bisected(deal, 0, found[1])
        assert point is not None, "what was found is one"
        best = point if best is None or sum(point) < sum(best) else best
        if point[0] <= least[0] or point[1] + least[0] >= sum(best):
            break  # less in the first respect costs more in the second than it can bring
        limit = math.nextafter(point[0], -math.inf)
    return best


def _bisected(deal: _Stages, which: int, other: float) -> Costs | None:
    """The worst costs of a cut with the least in respect ``which``, among those with ``other`` at most elsewhere."""

    def limits(most: float) -> Costs:
        return (most, other) if which == 0 else (other, most)

    ends = deal.dealt(limits(math.inf))
    if ends is None:
        return None
    low, high = 0.0, deal.worst(ends)[which]
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        if not low < middle < high:
            break
        found = deal.dealt(limits(middle))
        if found is None:
            low = middle
        else:
            ends, high = found, deal.worst(found)[which]
    return deal.worst(ends)


def _even(deal: _Stages, most: Costs) -> tuple[int, ...]:
    """The most even of the cuts within ``most``, by dynamic programming over stages and where they end.

    A stage ends no earlier than the others can take the rest, filled up from the last one on.
    """
    firsts = [deal.layers]
    for stage in range(deal.stages - 1, 0, -1):
        start = firsts[-1]
        while start > stage and deal.good(stage, start - 1, firsts[-1], most):
            start -= 1
        firsts.append(start)
    ways: dict[int, tuple[float, tuple[int, ...]]] = {0: (0.0, ())}
    for stage, first in enumerate(reversed(firsts)):
        reached: dict[int, tuple[float, tuple[int, ...]]] = {}
        for start, (uneven, dealt) in ways.items():
            for stop in range(max(start + 1, first), deal.last(stage) + 1):
                if not deal.good(stage, start, stop, most):
                    break
                way = uneven + sum(deal.costs(stage, start, stop)) ** 2, (*dealt, stop - start)
                if stop not in reached or way[0] < reached[stop][0]:
                    reached[stop] = way
        ways = reached
    return ways[deal.layers][1]
