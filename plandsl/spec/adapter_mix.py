"""How likely a request of a load names each adapter, from the distributions that the load states.

Loaded for models with adapters whose load names some.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from math import erf, exp, log, sqrt
from typing import assert_never

from plandsl import limits
from plandsl.spec.traffic import (
    Bounds,
    Distribution,
    Empirical,
    Exponential,
    Fixed,
    Lognormal,
    Normal,
    TrafficSpec,
    Uniform,
    Zipf,
    mean_rate,
)
from plandsl.values import sum_up

ALONE, GROUPS = 32, 32
"""The likeliest adapters stand alone; the others form groups of about one chance."""

Mix = tuple[tuple[int, float], ...]


def mix_of(traffic: TrafficSpec) -> Mix:
    """Pairs of (number of adapters, chance that a request names one of them); empty where only a file says it.

    Classes count by their share of the requests.
    """
    named = [(1.0, traffic.adapters)]
    if traffic.classes:
        named = [(one.share or mean_rate(one.arrivals) or 0.0, one.adapters) for one in traffic.classes]
    if not all(weight for weight, _ in named):
        return ()
    total = sum_up(weight for weight, _ in named)
    found: dict[int, float] = {}
    for weight, spec in named:
        if spec is None:
            continue
        chances = None if spec.which is None else chances_of(spec.which)
        if chances is None:
            return ()
        for number, chance in chances.items():
            found[number] = found.get(number, 0.0) + weight / total * spec.share * chance
    return _grouped(sorted((p for p in found.values() if p > 0), reverse=True))


def chances_of(which: Distribution, least: int = 1, most: int | None = None) -> dict[int, float] | None:
    """The chance of each whole number from ``least``, as the simulation rounds what it draws.

    None where only a file says it. Numbers beyond ``most`` (the most adapters of a model) count as the last one.
    """
    most = limits.MAX_ADAPTERS if most is None else most
    match which:
        case Empirical():
            return None
        case Fixed(value):
            return {min(max(least, round(value)), most): 1.0}
        case Uniform(low, high):
            return dict.fromkeys(range(int(low), int(high) + 1), 1 / (int(high) - int(low) + 1))
        case Zipf(exponent, low, high):
            weights = {n: float(n) ** -exponent for n in range(low, high + 1)}
            whole = sum_up(weights.values())
            return {n: weight / whole for n, weight in weights.items()}
        case _:
            upto = [0.0, *(_below(which, n + 0.5) for n in range(least, most)), 1.0]
            return {n: b - a for n, (a, b) in enumerate(pairwise(upto), least) if b > a}


def _below(which: Normal | Exponential | Lognormal, x: float) -> float:
    """The chance of a number below ``x``; the bounds hold what would lie beyond them."""
    bounds: Bounds = which.bounds
    if bounds.high is not None and x > bounds.high:
        return 1.0
    if bounds.low is not None and x <= bounds.low:
        return 0.0
    match which:
        case Exponential(mean):
            return 1 - exp(-x / mean)
        case Normal(mean, sigma):
            return _normal((x - mean) / sigma) if sigma else float(x > mean)
        case Lognormal():
            return _normal((log(x) - which.mu) / which.sigma) if which.sigma else float(log(x) > which.mu)
        case _:
            assert_never(which)


def _normal(z: float) -> float:
    return (1 + erf(z / sqrt(2))) / 2


def _grouped(chances: list[float]) -> Mix:
    """The likeliest `ALONE` one by one, the others in at most `GROUPS` groups with their mean chance."""
    rest = chances[ALONE:]
    size = -(-len(rest) // GROUPS) or 1
    parts: Iterable[list[float]] = (rest[i : i + size] for i in range(0, len(rest), size))
    return (*((1, p) for p in chances[:ALONE]), *((len(part), sum_up(part) / len(part)) for part in parts))
