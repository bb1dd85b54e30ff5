"""Skew: how unevenly tokens load the ranks that share experts: a factor, expert popularity, or a distribution.

Printed as in the language: ``1.2``, ``zipf(0.6)``, ``lognormal(mean = 1.2, p95 = 1.6)``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from functools import cache
from itertools import accumulate
from typing import NamedTuple, TypeAlias

from plandsl.ir.types import Number
from plandsl.values import sum_up

Z95 = 1.6448536269514722
"""The 95th percentile of the standard normal distribution."""

WIDEST = math.exp(Z95**2 / 2)
"""Largest ratio of p95 to mean of a lognormal distribution, which it has at sigma = `Z95`."""

TAIL, NODES = 6.0, 16
"""A varying load is integrated over `TAIL` standard deviations, with `NODES` points of Gauss-Legendre quadrature."""


class Zipf(NamedTuple):
    """The r-th most popular expert gets a share of the tokens proportional to ``r ** -exponent``.

    Experts go to ranks in turn, the most popular first: rank 0 of n has the experts 1, n + 1, 2 n + 1, ...
    """

    exponent: float

    def __str__(self) -> str:
        return f"zipf({self.exponent!r})"


class Varying(NamedTuple):
    """The load of the fullest rank over the mean load varies lognormally by layer and step; it is at least 1."""

    mean: float
    p95: float

    def __str__(self) -> str:
        return f"lognormal(mean = {self.mean!r}, p95 = {self.p95!r})"

    def nodes(self) -> list[tuple[float, float]]:
        """(weight, load) pairs to average over.

        The probability of a load below 1 counts as a load of 1; the rest is integrated by Gauss-Legendre. ``mu`` and
        ``sigma`` solve ``mean = exp(mu + sigma^2 / 2)`` and ``p95 = exp(mu + 1.645 sigma)``, with the smaller sigma.
        """
        sigma = Z95 - math.sqrt(max(Z95**2 - 2 * math.log(self.p95 / self.mean), 0.0))
        if sigma < 1e-9:
            return [(1.0, self.mean)]
        from numpy.polynomial.legendre import leggauss

        mu = math.log(self.mean) - sigma**2 / 2
        start = max(-mu / sigma, -TAIL)
        stop = max(start, 0.0) + TAIL
        found = [((1 + math.erf(start / math.sqrt(2))) / 2, 1.0)]
        for x, weight in zip(*(a.tolist() for a in leggauss(NODES)), strict=True):
            z = start + (x + 1) / 2 * (stop - start)
            density = math.exp(-z * z / 2) / math.sqrt(2 * math.pi)
            found.append((weight / 2 * (stop - start) * density, math.exp(mu + sigma * z)))
        total = sum_up(weight for weight, _ in found)
        return [(weight / total, load) for weight, load in found]


Skew: TypeAlias = "float | Zipf | Varying"
"""A float is the load of the fullest rank over the mean load."""


def read_skew(text: str | float) -> Skew:
    """Read a skew as ``str`` prints it. Raises ValueError on anything else."""
    number = r"([\d.e+-]+)"
    if m := re.fullmatch(rf"zipf\({number}\)", str(text)):
        return Zipf(float(m[1]))
    if m := re.fullmatch(rf"lognormal\(mean = {number}, p95 = {number}\)", str(text)):
        return Varying(float(m[1]), float(m[2]))
    return float(text)


def factor(skew: Skew) -> float:
    """A number by which skews are compared: larger is more uneven. For a float it is the float itself."""
    return 1 + skew.exponent if isinstance(skew, Zipf) else skew.mean if isinstance(skew, Varying) else skew


@cache
def chances(exponent: float, experts: int, chosen: int) -> tuple[float, ...]:
    """The probability that each expert is among a token's ``chosen`` experts, the most popular expert first.

    Proportional to ``r ** -exponent``, but at most 1; the excess is shared by the other experts, in proportion. The
    probabilities add up to ``chosen``.
    """
    weights = [(r + 1.0) ** -exponent for r in range(experts)]
    left = [*accumulate(reversed(weights))][::-1]  # the weight of each expert and of all less popular ones
    sure = 0
    while sure < chosen:  # the first ones are always chosen
        scale = (chosen - sure) / left[sure]
        if scale * weights[sure] <= 1:
            break
        sure += 1
    rest = weights[sure:]
    scale = (chosen - sure) / sum_up(rest) if rest else 0.0
    return (1.0,) * sure + tuple(scale * w for w in rest)


def busiest_experts(all_chances: Sequence[float], ways: Number) -> list[tuple[Number, float]]:
    """The experts of the busiest of ``ways`` ranks, as (present, probability) pairs.

    ``present`` is 1 where ``ways`` is a number. Where ``ways`` is an array, every expert is listed, and ``present`` is
    a mask over the array.
    """
    if isinstance(ways, int | float):
        return [(1, p) for p in all_chances[:: int(ways)]]
    return [(n % ways == 0, p) for n, p in enumerate(all_chances)]
