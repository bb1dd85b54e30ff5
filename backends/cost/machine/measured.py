"""The first layer of the cost model: seconds between measured points, and no answer outside them.

Between two points the time is a power of the size, which is a straight line in logarithms:

    t = t0 * (t1 / t0) ** (ln(x / x0) / ln(x1 / x0))        for x0 <= x <= x1

so measured points keep their times. Zero stands for "not measured": no measured time is zero.
Between points further apart than a factor of `WIDEST_GAP` there is no answer.
"""

import math
from bisect import bisect_right
from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

from plandsl.backends.cost.num import are_numbers, are_traced, call_traced, where
from plandsl.ir.types import Number

WIDEST_GAP = 4.0
"""The largest ratio of neighbouring sizes.

Where a kernel turns from constant to linear time half-way between two points, the straight line in logarithms is a
factor ``WIDEST_GAP ** 0.25`` too slow there: 1.41 for a ratio of 4. At larger
ratios fitted forms are closer. In most tables each size is 2 or 4 times the size before it.
"""

Otherwise = Callable[[], Number]
"""The seconds of the layer below."""


class Curve(NamedTuple):
    """Seconds over one size; ``sizes`` ascend."""

    sizes: tuple[float, ...]
    times: tuple[float, ...]

    def at(self, x: Number) -> Number:
        """Seconds at ``x``, 0 outside."""
        sizes, times = self.sizes, self.times
        if not isinstance(x, (int, float)):
            return self._array(x)
        if not sizes[0] <= x <= sizes[-1]:
            return 0.0
        i = bisect_right(sizes, x) - 1
        if x == sizes[i]:
            return times[i]
        return interpolate(x, sizes[i], sizes[i + 1], times[i], times[i + 1])

    def _array(self, x: Number) -> Number:
        import numpy as np

        sizes, times = np.array(self.sizes), np.array(self.times)
        inside = (sizes[0] <= x) & (x <= sizes[-1])
        x = np.clip(x, sizes[0], sizes[-1])
        low = np.searchsorted(sizes, x, side="right") - 1
        high = np.where(x > sizes[low], np.minimum(low + 1, len(sizes) - 1), low)
        return np.where(inside, _interpolate_arrays(x, sizes[low], sizes[high], times[low], times[high]), 0.0)


def interpolate(x: float, x0: float, x1: float, t0: float, t1: float) -> float:
    """Seconds at ``x`` between the points ``(x0, t0)`` and ``(x1, t1)``; 0 where ``x1 > WIDEST_GAP x0``."""
    if x1 > WIDEST_GAP * x0:
        return 0.0
    return t0 * float((t1 / t0) ** (math.log(x / x0) / math.log(x1 / x0)))


def _interpolate_arrays(x: Number, x0: Number, x1: Number, t0: Number, t1: Number) -> Number:
    """`interpolate` for arrays; ``t0`` where ``x0 = x1``."""
    import numpy as np

    wide = x1 > x0
    share = np.log(np.where(wide, x / x0, 1.0)) / np.log(np.where(wide, x1 / x0, math.e))
    return np.where(x1 > WIDEST_GAP * x0, 0.0, t0 * (t1 / t0) ** share)


class Surface(NamedTuple):
    """Seconds of attention over context, for each measured batch in ascending order."""

    batches: tuple[float, ...]
    curves: tuple[Curve, ...]

    def at(self, batch: Number, context: Number) -> Number:
        """Seconds between the nearest measured batches on both sides whose contexts bracket ``context``, else 0."""
        if not are_numbers(batch, context):
            return self._array(batch, context)
        i = bisect_right(self.batches, batch) - 1
        low = next(((b, t) for b, c in self._from(i, -1) if (t := c.at(context))), None)
        if low is None or low[0] == batch:
            return low[1] if low else 0.0
        high = next(((b, t) for b, c in self._from(i + 1, 1) if (t := c.at(context))), None)
        return interpolate(batch, low[0], high[0], low[1], high[1]) if high else 0.0

    def _from(self, start: int, step: int) -> Iterator[tuple[float, Curve]]:
        stop = len(self.batches) if step > 0 else -1
        return ((self.batches[i], self.curves[i]) for i in range(start, stop, step))

    def _array(self, batch: Number, context: Number) -> Number:
        import numpy as np

        batch, context = np.broadcast_arrays(batch, context)
        low, early, high, late = (np.zeros(batch.shape) for _ in range(4))
        for size, curve in zip(self.batches, self.curves, strict=True):
            time = curve.at(context)
            below, above = (time > 0) & (size <= batch), (time > 0) & (size >= batch) & (high == 0)
            low, early = np.where(below, size, low), np.where(below, time, early)
            high, late = np.where(above, size, high), np.where(above, time, late)
        inside = (low > 0) & (high > 0)
        x, x0, x1 = np.where(inside, (batch, low, high), 1.0)
        t0, t1 = np.where(inside, (early, late), 1.0)
        return np.where(inside, _interpolate_arrays(x, x0, x1, t0, t1), 0.0)


class Line(NamedTuple):
    """A kernel or a collective that was measured over one size, ``scale`` times its rows; tables in their order."""

    curves: tuple[Curve, ...]
    scale: float = 1.0

    def at(self, rows: Number) -> Number:
        """Seconds for ``rows``, 0 where no table answers."""
        return self.seconds(rows, lambda: 0.0)

    def seconds(self, rows: Number, otherwise: Otherwise) -> Number:
        """Seconds for ``rows``; those of ``otherwise`` where no table answers."""
        if are_traced(rows):
            return _fall_back(call_traced(self.at, rows), otherwise)
        return _first_answer([partial(curve.at, rows * self.scale) for curve in self.curves], otherwise)


class Grid(NamedTuple):
    """Attention measured over batch and context, for whole prompts or one token each; tables in their order."""

    surfaces: tuple[Surface, ...]
    prefill: bool

    def at(self, batch: Number, position: Number, context: Number) -> Number:
        """Seconds for ``position`` queries of each request, 0 where no table answers."""
        return self.seconds(batch, position, context, lambda: 0.0)

    def seconds(self, batch: Number, position: Number, context: Number, otherwise: Otherwise) -> Number:
        """Seconds; those of ``otherwise`` where no table answers."""
        if are_traced(batch, position, context):
            return _fall_back(call_traced(self.at, batch, position, context), otherwise)
        like = position == (context if self.prefill else 1)
        time = _first_answer([partial(surface.at, batch, context) for surface in self.surfaces], otherwise)
        return time if _all_true(like) else where(like, time, otherwise())


def _fall_back(found: Number, otherwise: Otherwise) -> Number:
    """``found``, the answer of a table, or the seconds of the layer below where it is 0."""
    return where(found > 0, found, otherwise())


def _first_answer(tables: list[Otherwise], otherwise: Otherwise) -> Number:
    """The first answer above zero, element by element."""
    found: Number = 0.0
    for ask in (*tables, otherwise):
        found = _fill(found, ask)
        if _all_true(found > 0):
            break
    return found


def _all_true(condition: Number) -> bool:
    return condition if isinstance(condition, bool) else bool(condition.all())


def _fill(found: Number, ask: Otherwise) -> Number:
    if are_numbers(found):
        return found or ask()
    import numpy as np

    return np.where(found > 0, found, ask())
