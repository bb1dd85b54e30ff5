"""Laws about replicas over the day of a load: as many as its arrivals ask for, and what they cost."""

from __future__ import annotations

from functools import lru_cache
from itertools import pairwise
from math import isclose

from plandsl.answers.autoscale import Autoscale
from plandsl.backends.cost.answers.autoscale import autoscale
from plandsl.backends.cost.serving.windows import windows
from plandsl.driver import CompiledPlan
from plandsl.spec.rates import scaled_field
from plandsl.testing.inapplicable import DoesNotApply
from plandsl.units import HOUR
from plandsl.values import sum_up

SERVED = 300
"""Requests that a law has served for each replica. Of 20, a queue that grows was not told from one that is long."""

DAY = 24 * HOUR

PARTS = 3
"""Intervals of a load, at most."""

FLOOR = 3
"""Replicas that always run, where the law about them is asked."""


@lru_cache(maxsize=2)
def _every(plan: CompiledPlan) -> float:
    """The length of an interval of which a load has `PARTS`. Raises `DoesNotApply` where replicas do not follow it."""
    if plan.spec.split is not None:
        raise DoesNotApply("its two pools do not grow by whole replicas")
    if plan.spec.workload.traffic is None or scaled_field(plan.spec.workload) not in ("rate", "speed"):
        raise DoesNotApply("its load has no rate")
    return windows(plan.spec, DAY)[-1].end_s / PARTS


@lru_cache(maxsize=4)
def _scaled(plan: CompiledPlan, least: int = 1) -> Autoscale:
    return autoscale(plan, _every(plan), SERVED, least)


def replicas_are_paid_by_the_hour(plan: CompiledPlan) -> None:
    """Intervals follow one another from 0 to the end of the load; GPU hours are the sum over them, and so is the price.

    A fixed deployment has the replicas of the busiest interval all the time, so it never takes fewer GPU hours.
    """
    found = _scaled(plan)
    parts = found.intervals
    assert parts[0].start_s == 0, f"the first interval starts at {parts[0].start_s} s"
    assert all(a.end_s == b.start_s for a, b in pairwise(parts)), "an interval does not start where the last one ends"
    replicas = max(part.replicas for part in parts)
    hours = [(part.end_s - part.start_s) / HOUR for part in parts]
    own = sum_up(found.gpus * part.replicas * long for part, long in zip(parts, hours, strict=True))
    fixed = found.gpus * replicas * sum_up(hours)
    for what, told, wanted in (("", found.gpu_hours, own), ("fixed ", found.fixed_gpu_hours, fixed)):
        assert isclose(told, wanted, rel_tol=1e-9), f"{told} {what}GPU hours are told, and {wanted} run"
    assert found.gpu_hours <= found.fixed_gpu_hours * (1 + 1e-9), "replicas that follow the load take more GPU hours"
    if found.price_usd_per_h is not None:
        answer = found.as_json()
        costs = sum_up(float(part["cost_usd"]) for part in answer["intervals"])
        assert isclose(costs, answer["cost_usd"], rel_tol=1e-9), (
            f"intervals cost {costs} USD, the load {answer['cost_usd']}"
        )


def the_least_replicas_are_a_floor(plan: CompiledPlan) -> None:
    """With `--least n` each interval has n replicas or more."""
    for part in _scaled(plan, FLOOR).intervals:
        assert part.replicas >= FLOOR, f"from {part.start_s:g} s on: {part.replicas} replicas, at least {FLOOR}"
