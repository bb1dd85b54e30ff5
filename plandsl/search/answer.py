"""The answer of a search: the best plans with their bands, the front, or what came nearest and what would meet it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from plandsl.backends.cost.answers.figures import FIGURES, larger_memory, unmeasured
from plandsl.estimate import Band, Estimate
from plandsl.search.run import MEMORY, Compiler, Found
from plandsl.search.tally import Rows
from plandsl.search.values import FIELDS, METRICS, MOST, evaluated
from plandsl.spec.plan import PlanSpec
from plandsl.spec.search import DEGREES, Combination

FARTHEST = 64.0
"""A machine that is so many times better is not worth speaking of."""

TRIES = 14
"""Halvings: the factor is known to a thousandth."""


class Taken(NamedTuple):
    """One configuration: its number, what it is, and its metrics by name, SI units."""

    number: int
    combination: Combination
    metrics: dict[str, float]

    @property
    def settings(self) -> dict[str, Any]:
        """What was chosen, by name."""
        return {c.name: s.value for c, s in self.combination}

    @property
    def label(self) -> str:
        """In words, degrees of 1 left out: ``tp 4, pp 2, batch 64``."""
        said = [
            f"{c.name} {s.text}"
            for c, s in self.combination
            if not (c.path.removeprefix("sharding.") in DEGREES and s.value == 1)
        ]
        return ", ".join(said) or "as it is"

    def as_json(self) -> dict[str, Any]:
        """A row of ``top`` or ``front``; a metric without a value is null."""
        values = {FIELDS[name]: value if math.isfinite(value) else None for name, value in self.metrics.items()}
        return {"choices": self.settings, **values}


def taken(found: Found, rows: Rows) -> list[Taken]:
    """Rows as configurations."""
    return [
        Taken(int(n), found.combination(int(n)), dict(zip(METRICS, map(float, row), strict=True)))
        for n, row in zip(rows.numbers, rows.metrics, strict=True)
    ]


def estimates(found: Found, rows: list[Taken]) -> list[Estimate]:
    """Full estimates, with bands."""
    compiler = Compiler()
    return [compiler.compiled(found.plan(row.number)).estimate() for row in rows]


def untold(made: list[Estimate], goal: str) -> list[int]:
    """The ranks that the best cannot be told apart from by its goal: each lies in the band of the other."""
    found = [_banded(e, goal) for e in made]
    if not found or found[0] is None:
        return []
    value, (low, high) = found[0]
    return [
        rank
        for rank, other in enumerate(found[1:], 2)
        if other is not None and low <= other[0] <= high and other[1][0] <= value <= other[1][1]
    ]


def _banded(e: Estimate, metric: str) -> tuple[float, Band] | None:
    """A metric and its band; what comes per GPU or per token follows the throughput. None where no band is known."""
    if metric in ("ttft", "tpot", "latency"):
        band = e.band(f"{metric}_s")
        return None if band is None else (getattr(e, f"{metric}_s"), band)
    band = e.band("throughput_tokens_per_s")
    if band is None or metric not in ("throughput", "throughput_per_gpu", "cost"):
        return None
    each = 1 if metric == "throughput" else e.gpus
    low, high = (x / each for x in band)
    if metric == "cost" and e.cost_usd_per_mtok is not None:
        rate = e.throughput_per_gpu_tokens_per_s * e.cost_usd_per_mtok
        return e.cost_usd_per_mtok, (rate / high, rate / low)
    return e.throughput_tokens_per_s / each, (low, high)


# ---- when nothing meets the requirements


class Miss(NamedTuple):
    """A requirement that the nearest configuration misses: its value, by which factor, and what is needed for it.

    ``best`` is the best that any configuration reaches which fits, whatever else it misses; None where none fits.
    """

    text: str
    metric: str
    value: float
    bound: float
    factor: float
    best: float | None

    @property
    def alone(self) -> bool:
        """Whether some configuration meets it, though not together with the others."""
        if self.best is None:
            return False
        return self.best >= self.bound if self.metric in MOST else self.best <= self.bound


class Remedy(NamedTuple):
    """One figure of the machine, and the factor by which it must be better for the nearest configuration to do."""

    what: str
    factor: float


def misses(found: Found, nearest: Taken) -> list[Miss]:
    """What the nearest configuration misses, the largest first."""
    plan = found.plan(nearest.number)
    values = evaluated(Compiler().compiled(plan).cost, {})
    out = []
    if not values.fits:
        bytes_, used = nearest.metrics["memory"], float(values.used)
        out.append(Miss(MEMORY, "memory", bytes_, bytes_ / used, used, found.tally.best.get("memory")))
    for require in plan.requires:
        if values.holds(require):
            continue
        value = float(values.of(require))
        ratio = abs(math.log(value / require.bound)) if value > 0 and require.bound > 0 else math.inf
        best = None if require.share and require.metric == "memory" else found.tally.best.get(require.metric)
        out.append(Miss(require.text, require.metric, value, require.bound, math.exp(min(ratio, 700.0)), best))
    return sorted(out, key=lambda miss: -miss.factor)


def remedies(found: Found, nearest: Taken) -> Iterator[Remedy]:
    """What alone would make the nearest configuration meet everything: each figure of the machine in turn.

    Times fall as figures rise, so that the least factor is found by bisection.
    """
    plan = found.plan(nearest.number)
    cost = Compiler().compiled(plan).cost

    def enough(change: Callable[[PlanSpec, float], PlanSpec], factor: float) -> bool:
        values = evaluated(cost.on(change(unmeasured(plan), factor)), {})
        return bool(values.fits) and all(bool(values.holds(r)) for r in plan.requires)

    figures = {**{f.name: f.improved for f in FIGURES.values()}, "memory": larger_memory}
    for what, change in figures.items():
        if not enough(change, FARTHEST):
            continue
        low, high = 0.0, math.log(FARTHEST)
        for _ in range(TRIES):
            middle = (low + high) / 2
            low, high = (low, middle) if enough(change, math.exp(middle)) else (middle, high)
        yield Remedy(what, math.exp(high))
