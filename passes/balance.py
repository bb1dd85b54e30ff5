"""Balance: how many layers each stage gets, so that the slowest stage takes the least time.

Passes know no times: the cost of a stage's layers, and whether they fit, are questions passed in as arguments.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

from plandsl.values import sum_up

Costs = tuple[float, float]
"""The two costs of a stage: seconds of a prefill, and seconds of all decode steps."""

CostOf = Callable[[int, int, int], Costs]
FitsOn = Callable[[int, int, int], bool]
"""Questions about a stage, and the layers ``start..stop`` on it."""

KEPT = 1 << 16
"""Answers that are kept: a bisection asks the same of a stage again and again."""

HALVINGS = 60
"""Most steps of a bisection: more than a float has bits of precision."""


def balance(layers: int, stages: int, costs: CostOf, fits: FitsOn = lambda stage, start, stop: True) -> tuple[int, ...]:
    """Layers of each stage (at least one) that minimise ``max_s prefill_s + max_s decode_s`` over stages s. Exact.

    Among cuts with the same two maxima, the result minimises ``sum_s (prefill_s + decode_s)^2``. Cuts in which every
    stage fits come before all others. ``layers >= stages``. ``costs(stage, start, stop)`` must not fall when the range
    ``start..stop`` grows; if a range does not fit, no larger range may fit.

    Method: it is cheap to test whether some cut keeps both costs within given limits. Bisection finds the least limit
    on one cost for a given limit on the other. Walking over these pairs of limits finds the pair with the least sum.
    """
    known = lru_cache(KEPT)(costs)
    for room in (lru_cache(KEPT)(fits), lambda stage, start, stop: True):
        limits = _least_limits(_Stages(layers, stages, known, room))
        if limits is not None:
            return _most_even(_Stages(layers, stages, known, room), limits)
    raise AssertionError("there are as many layers as stages")


class _Stages(NamedTuple):
    """The layers to deal, the number of stages, and the two questions about a stage."""

    layers: int
    stages: int
    costs: CostOf
    fits: FitsOn

    def allows(self, stage: int, start: int, stop: int, most: Costs) -> bool:
        """Whether the layers ``start..stop`` fit on a stage and cost at most ``most``."""
        cost = self.costs(stage, start, stop)
        return cost[0] <= most[0] and cost[1] <= most[1] and self.fits(stage, start, stop)

    def deal(self, most: Costs) -> list[int] | None:
        """The ends of the stages, after a 0, such that each costs at most ``most``; None where no cut does.

        Each stage in turn takes as many layers as it may, which leaves the fewest layers to the stages after it. Where
        this leaves a stage with a layer that it may not take, all cuts are searched.
        """
        ends = [0]
        for stage in range(self.stages):
            stop = self.furthest_end(stage, ends[-1], most)
            if stop == ends[-1]:
                return self.search(most)
            ends.append(stop)
        return ends if ends[-1] == self.layers else None

    def search(self, most: Costs) -> list[int] | None:
        """As `deal`, by a search over all places where stages may end."""
        before: list[dict[int, int]] = [{0: 0}]
        for stage in range(self.stages):
            reached: dict[int, int] = {}
            for start in before[-1]:
                for stop in range(start + 1, self.furthest_end(stage, start, most) + 1):
                    reached.setdefault(stop, start)
            before.append(reached)
        ends = [self.layers]
        for starts in reversed(before[1:]):
            if ends[-1] not in starts:
                return None
            ends.append(starts[ends[-1]])
        return ends[::-1]

    def furthest_end(self, stage: int, start: int, most: Costs) -> int:
        """The end of a stage that takes as many layers from ``start`` on as it may; ``start`` if it may take none."""
        stops = range(start + 1, self.latest_end(stage) + 1)
        return start + bisect_left(stops, True, key=lambda stop: not self.allows(stage, start, stop, most))

    def latest_end(self, stage: int) -> int:
        """The latest end of a stage: each stage after it needs a layer."""
        return self.layers - (self.stages - stage - 1)

    def worst_costs(self, ends: list[int]) -> Costs:
        """The largest prefill cost and the largest decode cost of any stage."""
        prefill, decode = zip(*(self.costs(stage, *span) for stage, span in enumerate(pairwise(ends))), strict=True)
        return max(prefill), max(decode)


def _least_limits(pipeline: _Stages) -> Costs | None:
    """The two limits with the least sum within which all layers can be dealt; None where no cut fits."""
    best: Costs | None = None
    least = _bisect(pipeline, 0, math.inf)
    limit = math.inf
    while least is not None and (found := _bisect(pipeline, 1, limit)) is not None:
        point = _bisect(pipeline, 0, found[1])
        assert point is not None, "what was found is one"
        best = point if best is None or sum_up(point) < sum_up(best) else best
        if point[0] <= least[0] or point[1] + least[0] >= sum_up(best):
            break  # a lower first cost cannot make up for the second any more
        limit = math.nextafter(point[0], -math.inf)
    return best


def _bisect(pipeline: _Stages, which: int, other: float) -> Costs | None:
    """The worst costs of the cut that minimises cost ``which`` (0 or 1), with the other cost at most ``other``."""

    def limits(most: float) -> Costs:
        return (most, other) if which == 0 else (other, most)

    ends = pipeline.deal(limits(math.inf))
    if ends is None:
        return None
    low, high = 0.0, pipeline.worst_costs(ends)[which]
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        if not low < middle < high:
            break
        found = pipeline.deal(limits(middle))
        if found is None:
            low = middle
        else:
            ends, high = found, pipeline.worst_costs(found)[which]
    return pipeline.worst_costs(ends)


def _most_even(pipeline: _Stages, most: Costs) -> tuple[int, ...]:
    """The cut within ``most`` with the least sum of squares, by dynamic programming over stages and their ends.

    ``firsts`` has the earliest end of each stage, from the last stage back: the stages after it must be able to take
    the remaining layers.
    """
    firsts = [pipeline.layers]
    for stage in range(pipeline.stages - 1, 0, -1):
        start = firsts[-1]
        while start > stage and pipeline.allows(stage, start - 1, firsts[-1], most):
            start -= 1
        firsts.append(start)
    ways: dict[int, tuple[float, tuple[int, ...]]] = {0: (0.0, ())}
    for stage, first in enumerate(reversed(firsts)):
        reached: dict[int, tuple[float, tuple[int, ...]]] = {}
        for start, (uneven, dealt) in ways.items():
            for stop in range(max(start + 1, first), pipeline.furthest_end(stage, start, most) + 1):
                way = uneven + sum_up(pipeline.costs(stage, start, stop)) ** 2, (*dealt, stop - start)
                if stop not in reached or way[0] < reached[stop][0]:
                    reached[stop] = way
        ways = reached
    return ways[pipeline.layers][1]
