"""Arithmetic on numbers or numpy arrays; numpy is imported for arrays alone."""

from __future__ import annotations

from collections.abc import Callable
from math import inf

from plandsl.ir.types import Number

_PLAIN = (float, int)
"""Types of a number, the commoner one first: sums of kernels ask millions of times."""


def are_numbers(*values: Number) -> bool:
    """Whether none of ``values`` is an array."""
    return all(isinstance(v, _PLAIN) for v in values)


def maximum(a: Number, b: Number) -> Number:
    """The larger of two, element by element."""
    if a.__class__ is float and b.__class__ is float:  # nearly always, and three times as fast as to ask for a kind
        return a if a >= b else b
    if isinstance(a, _PLAIN) and isinstance(b, _PLAIN):
        return a if a >= b else b
    import numpy as np

    return np.maximum(a, b)


def minimum(a: Number, b: Number) -> Number:
    """The smaller of two, element by element."""
    if a.__class__ is float and b.__class__ is float:
        return a if a <= b else b
    if isinstance(a, _PLAIN) and isinstance(b, _PLAIN):
        return a if a <= b else b
    import numpy as np

    return np.minimum(a, b)


def largest(values: list[Number]) -> Number:
    """The largest of a non-empty list."""
    if set(map(type, values)) == {float}:
        return max(values)
    most = values[0]
    for value in values[1:]:
        most = maximum(most, value)
    return most


def clip(x: Number, low: Number, high: Number) -> Number:
    """``x`` brought into ``low..high``."""
    return minimum(maximum(x, low), high)


def ceil_div(a: Number, b: Number) -> Number:
    """``a / b`` rounded up."""
    return -(-a // b)


def floor(x: Number) -> Number:
    """``x`` rounded down."""
    return x // 1


def where(condition: Number, a: Number, b: Number) -> Number:
    """``a`` where ``condition`` holds, ``b`` elsewhere."""
    if isinstance(condition, bool):
        return a if condition else b
    import numpy as np

    return np.where(condition, a, b)


def are_traced(*values: Number) -> bool:
    """Whether a trace runs: one of ``values`` has no number yet."""
    return any(hasattr(value, "tape") for value in values)


def call_traced(find: Callable[..., Number], *values: Number) -> Number:
    """``find(*values)``, which decides by its values: a trace (`time.trace`) records it as one call."""
    tape = next((v.tape for v in values if hasattr(v, "tape")), None)
    return find(*values) if tape is None else tape.call(find, values)


ASIDE, LEFT = 1e-6, 0.05
"""How far `follow_rise` looks aside, and the share of an excess that one step of the secant method may leave."""

MUCH, NOTHING = 1e-3, 1e-12
"""Shares of ``top``: an excess that is no hair's, and one that is rounding."""


def follow_rise(excess: Callable[[Number], Number], near: Number, top: Number) -> Number | None:
    """Where ``excess`` rises above 0 below ``top``, if it is a hair other than one that does so ``near``.

    By two steps of the secant method. None where the first does not come close to 0, as beside a jump.
    """
    here = excess(near)
    if near >= top:
        return top if here <= 0 else None
    if abs(here) <= NOTHING * top:
        return near
    grows = excess(near * (1 + ASIDE)) - here
    if abs(here) > MUCH * top or not 0 < grows < inf:
        return None
    found = near - here / grows * near * ASIDE
    left = excess(found)
    if not abs(left) <= LEFT * abs(here):
        return None
    return minimum(found - left * (found - near) / (left - here), top)


def find_least(holds: Callable[[int], bool], most: int) -> int | None:
    """The least number from 1 to ``most`` from which ``holds`` is true; None where it never is.

    The number is doubled until ``holds`` is true, then bisected. Where ``holds`` turns true and false several times,
    this is one of the numbers at which it turns true.
    """
    high = 1
    while not holds(high):
        if high >= most:
            return None
        high = min(2 * high, most)
    low = high // 2
    while high - low > 1:  # not yet at low, but at high
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high
