"""Clamping and shifting by plain numbers: what a `Map` does with an operand before its function sees it."""

from __future__ import annotations

from collections.abc import Iterable
from math import inf
from typing import NamedTuple


class Limit(NamedTuple):
    """``min(max(x, low), high) + plus``. One after the other, two of them are a third."""

    low: float = -inf
    high: float = inf
    plus: float = 0.0

    def then(self, other: Limit) -> Limit:
        """``other`` of what this one makes: its bounds, seen from here, bound these."""
        low, high = other.low - self.plus, other.high - self.plus
        return Limit(_clamp(self.low, low, high), _clamp(self.high, low, high), self.plus + other.plus)


NONE = Limit()
"""Leaves all as it is."""


def _clamp(x: float, low: float, high: float) -> float:
    return min(max(x, low), high)


def show_limits(limits: Iterable[Limit]) -> str | None:
    """One for each operand, as an attribute of their op: ``-inf 7.0 0.0, -7.0 7.0 1.0``; None where all are `NONE`."""
    found = tuple(limits)
    if all(limit == NONE for limit in found):
        return None
    return ", ".join(" ".join(map(repr, limit)) for limit in found)


def read_limits(text: str | None, count: int) -> tuple[Limit, ...]:
    """Read what `show_limits` prints for ``count`` operands."""
    if text is None:
        return (NONE,) * count
    return tuple(Limit(*map(float, part.split())) for part in text.split(","))
