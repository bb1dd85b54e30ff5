"""Requests over time in closed form: the metrics of a plan at the mean of its load, by which candidates are ranked.

Requests of the mean lengths come at the mean rate, and `Deployment.evaluate` answers for a number of them in flight:
the smallest at which the rate is served (Little 1961). Single requests are not seen: a percentile counts as the mean,
and a burst as its mean rate.
"""

from __future__ import annotations

import numpy as np

from plandsl.backends.cost.answers.mean_load import IN_FLIGHT, mean_load, requests_in_flight
from plandsl.backends.cost.answers.money import serve_demand
from plandsl.backends.cost.deployments.deployment import Deployment
from plandsl.searches.values import Values, evaluate_metrics
from plandsl.spec.plan import PlanSpec, RequireSpec


def evaluate_mean(model: Deployment, plan: PlanSpec) -> Values:
    """All metrics of ``plan`` at the mean of its load; ``model`` is the deployment of `plan_at_mean`.

    Where the rate is more than is served, the queue grows: TTFT and latency are infinite. ``bearable`` is the largest
    rate at which the mean times keep the upper bounds of the plan, ``goodput`` the load's rate or that, if it is less.
    """
    mean = mean_load(plan.workload)
    bounds = [r for r in plan.requires if r.caps_time]
    if mean.rate is None:
        found = evaluate_metrics(model, {})
        served = float(found.metrics["throughput"]) / mean.counted
        good = served if all(found.holds(r) for r in bounds) else 0.0
        return found._replace(metrics=found.metrics | {"goodput": good, "bearable": good})
    most, bearable = _rates(model, mean.output, bounds)
    least = requests_in_flight(model, mean.rate, mean.output)
    found = evaluate_metrics(model, {"concurrency": least})
    served = min(mean.rate, most)
    share = served * mean.counted / float(found.metrics["throughput"])
    late = mean.rate > most
    assert found.spent is not None, "every plan has its economics"
    spent = found.spent.scaled(1, served)
    if plan.workload.demand is not None:
        spent = serve_demand(spent, plan.workload.demand)
    metrics = found.metrics | {
        "throughput": served * mean.counted,
        "throughput_per_gpu": found.metrics["throughput_per_gpu"] * share,
        **spent.metrics,
        "goodput": min(mean.rate, bearable),
        "bearable": bearable,
    }
    return found._replace(
        metrics=metrics | ({"ttft": np.inf, "latency": np.inf} if late else {}), crowded=mean.rate / most
    )


def _rates(model: Deployment, output: int, bounds: list[RequireSpec]) -> tuple[float, float]:
    """The largest rate that is served, and the largest of those at which the mean times keep ``bounds``; requests/s."""
    m = model.evaluate(concurrency=IN_FLIGHT * max(pool.n for pool in model.pools))
    rates = np.asarray(m.throughput, float) / model.counted(model.plan.workload.input, output)
    good = np.ones(len(IN_FLIGHT), bool)
    for r in bounds:
        good &= np.asarray(r.holds(getattr(m, r.metric)), bool)
    return float(rates.max()), float(rates[good].max(initial=0.0))
