"""The first layer of the cost model: seconds between measured points, and nothing outside their hull.

Between two points the time is taken as a power of the size, which is a straight line in logarithms:

    t = t0 * (t1 / t0) ** (ln(x / x0) / ln(x1 / x0))        for x0 <= x <= x1

so that measured points come out as they are. Zero stands for "not measured": no measured time is zero.
Points further apart than `STEP` do not speak for what lies between them.
"""

import math
from bisect import bisect_right
from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

from plandsl.backends.cost.num import plain, settled, unknown, where
from plandsl.ir.types import Number

STEP = 4.0
"""Largest ratio of neighbouring sizes. Where a kernel turns from constant to linear time half-way between two points,
the straight line in logarithms is a factor ``STEP ** 0.25`` too slow there, 1.41 at 4 and more than fitted forms are
off at anything wider. Tables are mostly made in steps of 2 or 4."""

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
        return between(x, sizes[i], sizes[i + 1], times[i], times[i + 1])

    def _array(self, x: Number) -> Number:
        import numpy as np

        sizes, times = np.array(self.sizes), np.array(self.times)
        inside = (sizes[0] <= x) & (x <= sizes[-1])
        x = np.clip(x, sizes[0], sizes[-1])
        low = np.searchsorted(sizes, x, side="right") - 1
        high = np.where(x > sizes[low], np.minimum(low + 1, len(sizes) - 1), low)
        return np.where(inside, _between(x, sizes[low], sizes[high], times[low], times[high]), 0.0)


def between(x: float, x0: float, x1: float, t0: float, t1: float) -> float:
    """Seconds at ``x``, of which ``x0 < x1`` take ``t0`` and ``t1``; 0 where those are too far apart."""
    if x1 > STEP * x0:
        return 0.0
    return t0 * float((t1 / t0) ** (math.log(x / x0) / math.log(x1 / x0)))


def _between(x: Number, x0: Number, x1: Number, t0: Number, t1: Number) -> Number:
    """`between` for arrays; where ``x0`` and ``x1`` are the same, ``t0``."""
    import numpy as np

    wide = x1 > x0
    share = np.log(np.where(wide, x / x0, 1.0)) / np.log(np.where(wide, x1 / x0, math.e))
    return np.where(x1 > STEP * x0, 0.0, t0 * (t1 / t0) ** share)


class Surface(NamedTuple):
    """Seconds of attention over context, for each measured batch in ascending order."""

    batches: tuple[float, ...]
    curves: tuple[Curve, ...]

    def at(self, batch: Number, context: Number) -> Number:
        """Seconds between the nearest batches on both sides whose contexts bracket the wanted one, else 0."""
        if not plain(batch, context):
            return self._array(batch, context)
        i = bisect_right(self.batches, batch) - 1
        low = next(((b, t) for b, c in self._from(i, -1) if (t := c.at(context))), None)
        if low is None or low[0] == batch:
            return low[1] if low else 0.0
        high = next(((b, t) for b, c in self._from(i + 1, 1) if (t := c.at(context))), None)
        return between(batch, low[0], high[0], low[1], high[1]) if high else 0.0

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
        return np.where(inside, _between(x, x0, x1, t0, t1), 0.0)


class Line(NamedTuple):
    """A kernel or a collective that was measured over one size: ``scale`` times its rows, in tables by precedence."""

    curves: tuple[Curve, ...]
    scale: float = 1.0

    def at(self, rows: Number) -> Number:
        """Seconds for ``rows``, 0 where no table answers."""
        return self.seconds(rows, lambda: 0.0)

    def seconds(self, rows: Number, otherwise: Otherwise) -> Number:
        """Seconds for ``rows``; those of ``otherwise`` where no table answers."""
        if unknown(rows):
            return _looked_up(settled(self.at, rows), otherwise)
        return _first([partial(curve.at, rows * self.scale) for curve in self.curves], otherwise)


class Grid(NamedTuple):
    """Attention that was measured over batch and context, in tables by precedence: whole prompts, or one token each."""

    surfaces: tuple[Surface, ...]
    prefill: bool

    def at(self, batch: Number, position: Number, context: Number) -> Number:
        """Seconds for ``position`` queries of each request, 0 where no table answers."""
        return self.seconds(batch, position, context, lambda: 0.0)

    def seconds(self, batch: Number, position: Number, context: Number, otherwise: Otherwise) -> Number:
        """Seconds; those of ``otherwise`` where no table answers."""
        if unknown(batch, position, context):
            return _looked_up(settled(self.at, batch, position, context), otherwise)
        like = position == (context if self.prefill else 1)
        time = _first([partial(surface.at, batch, context) for surface in self.surfaces], otherwise)
        return time if _all(like) else where(like, time, otherwise())


def _looked_up(found: Number, otherwise: Otherwise) -> Number:
    """What a table will say once sizes are known, and the seconds of the layer below where it says nothing."""
    return where(found > 0, found, otherwise())


def _first(tables: list[Otherwise], otherwise: Otherwise) -> Number:
    """The first answer above zero, element by element."""
    found: Number = 0.0
    for ask in (*tables, otherwise):
        found = _filled(found, ask)
        if _all(found > 0):
            break
    return found


def _all(condition: Number) -> bool:
    return condition if isinstance(condition, bool) else bool(condition.all())


def _filled(found: Number, ask: Otherwise) -> Number:
    if plain(found):
        return found or ask()
    import numpy as np

    return np.where(found > 0, found, ask())
