"""Clamping and shifting by plain numbers: a `Map` does this to an operand before it applies its function."""

from __future__ import annotations

from collections.abc import Iterable
from math import inf
from typing import NamedTuple


class Limit(NamedTuple):
    """``min(max(x, low), high) + plus``. Two limits in a row are again a limit."""

    low: float = -inf
    high: float = inf
    plus: float = 0.0

    def then(self, other: Limit) -> Limit:
        """This limit followed by ``other``: the bounds of ``other``, less ``plus``, clamp the bounds of this limit."""
        low, high = other.low - self.plus, other.high - self.plus
        return Limit(_clamp(self.low, low, high), _clamp(self.high, low, high), self.plus + other.plus)


NONE = Limit()
"""The limit that changes nothing."""


def _clamp(x: float, low: float, high: float) -> float:
    return min(max(x, low), high)


def show_limits(limits: Iterable[Limit]) -> str | None:
    """Print ``limits``, one per operand, as an attribute: ``-inf 7.0 0.0, -7.0 7.0 1.0``; None if all are `NONE`."""
    found = tuple(limits)
    if all(limit == NONE for limit in found):
        return None
    return ", ".join(" ".join(map(repr, limit)) for limit in found)


def read_limits(text: str | None, count: int) -> tuple[Limit, ...]:
    """Read what `show_limits` prints for ``count`` operands."""
    if text is None:
        return (NONE,) * count
    return tuple(Limit(*map(float, part.split())) for part in text.split(","))
