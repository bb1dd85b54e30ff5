"""The answer of a search: the best plans with their bands, the front, or the nearest plan and what it lacks."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from plandsl.answers.estimate import Band, Estimate
from plandsl.backends.cost.answers.figures import FIGURES, larger_memory, without_tables
from plandsl.searches.run import ENDLESS, MEMORY, RATE, Compiler, Found
from plandsl.searches.tally import Rows
from plandsl.searches.values import FIELDS, METRICS, MOST, OVER_REQUESTS, Values, evaluate_metrics
from plandsl.spec.engine_bands import SERVED
from plandsl.spec.plan import OF_OUTPUT, TIMES, PlanSpec
from plandsl.spec.search import DEGREES, Combination, Goal

FARTHEST = 64.0
"""The largest factor by which a figure of the machine is improved when remedies are sought."""

TRIES = 14
"""Bisection steps of a remedy; they give its factor to a thousandth."""


class Configuration(NamedTuple):
    """One configuration: its number, its value of every choice, and its metrics by name in SI units."""

    number: int
    combination: Combination
    metrics: dict[str, float]

    @property
    def settings(self) -> dict[str, Any]:
        """The value of each choice, by name."""
        return {c.name: s.value for c, s in self.combination}

    @property
    def label(self) -> str:
        """The configuration in words, without degrees of 1: ``tp 4, pp 2, batch 64``."""
        said = [
            f"{c.name} {s.text}"
            for c, s in self.combination
            if not (c.path.removeprefix("sharding.") in DEGREES and s.value == 1)
        ]
        return ", ".join(said) or "as it is"

    def as_json(self) -> dict[str, Any]:
        """A row of ``top`` or ``front``; a metric without a value is null."""
        values = {FIELDS[name]: value if math.isfinite(value) else None for name, value in self.metrics.items()}
        if math.isnan(self.metrics["goodput"]):
            values = {name: value for name, value in values.items() if name not in map(FIELDS.get, OVER_REQUESTS)}
        if math.isnan(self.metrics["tpot"]):  # nothing comes out
            values = {name: value for name, value in values.items() if name not in map(FIELDS.get, OF_OUTPUT)}
        return {"choices": self.settings, **values}


def configurations(found: Found, rows: Rows) -> list[Configuration]:
    """Turn rows into configurations."""
    return [
        Configuration(int(n), found.combination(int(n)), dict(zip(METRICS, map(float, row), strict=True)))
        for n, row in zip(rows.numbers, rows.metrics, strict=True)
    ]


def estimates(found: Found, rows: list[Configuration]) -> list[Estimate]:
    """The full estimate of each row, with bands."""
    compiler = Compiler()
    return [compiler.compile(found.plan(row.number)).closed_form() for row in rows]


def alike_ranks(found: Sequence[tuple[float, Band] | None]) -> list[tuple[int, ...]]:
    """For each row of a ranking, with its value and band, the ranks of the rows that it may trade places with.

    Two rows may where each lies in the other's band. Rows of one engine and GPU share errors, but pairs have no
    narrower band: in measured rows, errors of two configurations of one model on one GPU differ by as much as a band
    reaches from its middle (`benchmarks/bands.py` prints both).
    """
    return [
        tuple(rank for rank, other in enumerate(found, 1) if other is not one and _within(one, other)) for one in found
    ]


def _within(one: tuple[float, Band] | None, other: tuple[float, Band] | None) -> bool:
    if one is None or other is None:
        return False
    (x, ours), (y, theirs) = one, other
    return ours[0] <= y <= ours[1] and theirs[0] <= x <= theirs[1]


def unbanded_ranks(made: list[Estimate], goal: str) -> list[int]:
    """The ranks whose plans have no band of ``goal``; none for a goal that is counted, not timed."""
    timed = goal in (*TIMES, "throughput", "throughput_per_gpu", "cost")
    return [rank for rank, e in enumerate(made, 1) if timed and value_and_band(e, goal) is None]


def value_and_band(e: Estimate, metric: str) -> tuple[float, Band] | None:
    """A metric and its band, or None where no band is known.

    The bands of ``throughput_per_gpu`` and ``cost`` follow from the band of the throughput.
    """
    if metric in TIMES:
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


def simulated_band(plan: PlanSpec, goal: Goal, value: float) -> tuple[float, Band] | None:
    """A simulated mean and its band by the plan's engine; None where the engine has none of this metric."""
    metric = {"throughput_per_gpu": "throughput"}.get(goal.metric, goal.metric)
    if goal.percentile is not None or metric not in SERVED:
        return None
    band = plan.engine_band(metric)
    return None if band is None else (value, (value * band[0], value * band[1]))


# ---- when nothing meets the requirements


class Miss(NamedTuple):
    """A requirement that the nearest configuration misses: ``value`` and ``bound`` of ``metric``, ``factor`` apart.

    ``best`` is the best value of the metric among all configurations that fit in memory, whether or not they meet the
    other requirements; None where no configuration fits.
    """

    text: str
    metric: str
    value: float
    bound: float
    factor: float
    best: float | None

    @property
    def alone(self) -> bool:
        """Whether some configuration meets this requirement by itself, though none meets all of them."""
        if self.best is None:
            return False
        return self.best >= self.bound if self.metric in MOST else self.best <= self.bound


class Remedy(NamedTuple):
    """A figure of the machine, and the factor of improvement with which the nearest configuration meets everything."""

    what: str
    factor: float


def misses(found: Found, nearest: Configuration) -> list[Miss]:
    """The requirements that the nearest configuration misses, the largest miss first."""
    plan = found.plan(nearest.number)
    values = _Model(plan, found.search.over_requests).values()
    out = []
    if values.crowded > 1:
        from plandsl.backends.cost.answers.mean_load import mean_load

        most, rate = (values.metrics["throughput"] / mean_load(plan.workload).counted * f for f in (1, values.crowded))
        out.append(Miss(RATE, "bearable", value=most, bound=rate, factor=float(values.crowded), best=None))
    if not values.fits:
        bytes_, used = nearest.metrics["memory"], float(values.used)
        out.append(
            Miss(MEMORY, "memory", value=bytes_, bound=bytes_ / used, factor=used, best=found.tally.best.get("memory"))
        )
    for require in plan.requires:
        if values.holds(require) or (values.crowded > 1 and require.metric in ENDLESS):
            continue
        value = float(values.of(require))
        ratio = abs(math.log(value / require.bound)) if value > 0 and require.bound > 0 else math.inf
        best = None if require.share and require.metric == "memory" else found.tally.best.get(require.metric)
        factor = math.exp(min(ratio, 700.0))
        miss = Miss(require.text, require.metric, value=value, bound=require.bound, factor=factor, best=best)
        out.append(miss)
    return sorted(out, key=lambda miss: -miss.factor)


class _Model:
    """A plan's metrics with other figures of the machine: of its load, or at the mean of its requests over time."""

    def __init__(self, plan: PlanSpec, at_mean: bool) -> None:
        self.plan, self.at_mean = plan, at_mean
        self.base = plan
        if at_mean:
            from plandsl.backends.cost.answers.mean_load import plan_at_mean

            self.base = plan_at_mean(plan)
        self.cost = Compiler().compile(self.base).cost

    def values(self, base: PlanSpec | None = None) -> Values:
        """The metrics; those with the figures of ``base`` if it is given."""
        cost = self.cost if base is None else self.cost.on(base)
        if not self.at_mean:
            return evaluate_metrics(cost, {})
        from plandsl.searches.closed_form import evaluate_mean

        return evaluate_mean(cost, self.plan)


def remedies(found: Found, nearest: Configuration) -> Iterator[Remedy]:
    """Each figure of the machine that can, improved alone, make the nearest configuration meet everything.

    Times fall as a figure improves, so bisection finds the smallest factor.
    """
    plan = found.plan(nearest.number)
    model = _Model(plan, found.search.over_requests)

    def enough(change: Callable[[PlanSpec, float], PlanSpec], factor: float) -> bool:
        values = model.values(change(without_tables(model.base), factor))
        return bool(values.fits) and values.crowded <= 1 and all(bool(values.holds(r)) for r in plan.requires)

    figures = {**{f.name: f.improved for f in FIGURES.values()}, "memory": larger_memory}
    for what, change in figures.items():
        if not enough(change, FARTHEST):
            continue
        low, high = 0.0, math.log(FARTHEST)
        for _ in range(TRIES):
            middle = (low + high) / 2
            low, high = (low, middle) if enough(change, math.exp(middle)) else (middle, high)
        yield Remedy(what, math.exp(high))
