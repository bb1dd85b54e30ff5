"""How unevenly tokens fall on ranks that share experts: as a factor, by the popularity of experts, or varying.

Written as in the language: ``1.2``, ``zipf(0.6)``, ``lognormal(mean = 1.2, p95 = 1.6)``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from functools import cache
from typing import NamedTuple, TypeAlias

from plandsl.ir.types import Number

Z95 = 1.6448536269514722
"""The 95th percentile of the standard normal distribution."""

WIDEST = math.exp(Z95**2 / 2)
"""Largest p95 over the mean that a lognormal distribution can have: at a deviation of `Z95`."""

TAIL, NODES = 6.0, 16
"""Deviations up to which a varying load is integrated, and by how many points of Gauss-Legendre."""


class Zipf(NamedTuple):
    """The r-th most popular expert gets a share of the tokens that falls as ``r ** -exponent``.

    Experts are dealt to ranks in turn, the most popular first: rank 0 of n has the experts 1, n + 1, 2 n + 1, ...
    """

    exponent: float

    def __str__(self) -> str:
        return f"zipf({self.exponent!r})"


class Varying(NamedTuple):
    """The load of the fullest rank over the mean varies by layer and step, lognormally; it is 1 at least."""

    mean: float
    p95: float

    def __str__(self) -> str:
        return f"lognormal(mean = {self.mean!r}, p95 = {self.p95!r})"

    def nodes(self) -> list[tuple[float, float]]:
        """Weights and loads to average over: the share that would lie below 1, and the rest by Gauss-Legendre.

        With ``mean = exp(mu + sigma^2 / 2)`` and ``p95 = exp(mu + 1.645 sigma)``, sigma is the smaller root.
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
        total = sum(weight for weight, _ in found)
        return [(weight / total, load) for weight, load in found]


Skew: TypeAlias = "float | Zipf | Varying"
"""A float is the load of the fullest rank over the mean."""


def read_skew(text: str | float) -> Skew:
    """Read what ``str`` gives of a skew. Raises ValueError on anything else."""
    number = r"([\d.e+-]+)"
    if m := re.fullmatch(rf"zipf\({number}\)", str(text)):
        return Zipf(float(m[1]))
    if m := re.fullmatch(rf"lognormal\(mean = {number}, p95 = {number}\)", str(text)):
        return Varying(float(m[1]), float(m[2]))
    return float(text)


def factor(skew: Skew) -> float:
    """One number for how uneven a load is, by which several are compared; of a factor, itself."""
    return 1 + skew.exponent if isinstance(skew, Zipf) else skew.mean if isinstance(skew, Varying) else skew


@cache
def chances(exponent: float, experts: int, chosen: int) -> tuple[float, ...]:
    """The chance of each expert to be among the ``chosen`` of a token, the most popular first.

    Proportional to ``r ** -exponent`` and 1 at most; what that cuts off falls on the others. They add up to ``chosen``.
    """
    weights = [(r + 1.0) ** -exponent for r in range(experts)]
    sure = 0
    while sure < chosen:  # the first ones are always chosen
        scale = (chosen - sure) / sum(weights[sure:])
        if scale * weights[sure] <= 1:
            break
        sure += 1
    rest = weights[sure:]
    scale = (chosen - sure) / sum(rest) if rest else 0.0
    return (1.0,) * sure + tuple(scale * w for w in rest)


def busiest(all_chances: Sequence[float], ways: Number) -> list[tuple[Number, float]]:
    """The experts of the rank with the most popular one, of ``ways`` ranks: which are there, and their chances.

    Where ``ways`` is an array, an expert is there in some of its places.
    """
    if isinstance(ways, int | float):
        return [(1, p) for p in all_chances[:: int(ways)]]
    return [(n % ways == 0, p) for n, p in enumerate(all_chances)]
