"""Requests over time in closed form: the metrics of a plan at the mean of its load, by which candidates are ranked.

Requests of the mean lengths come at the mean rate, and `Deployment.evaluate` answers for a number of them in flight:
the smallest at which the rate is served (Little 1961). Single requests are not seen: a percentile counts as the mean,
and a burst as its mean rate.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from attrs import evolve

from plandsl.backends.cost.answers.estimate import COMPARE
from plandsl.backends.cost.deployments.deployment import Deployment
from plandsl.backends.cost.serving.requests import Requests
from plandsl.backends.cost.serving.workloads import draw_requests
from plandsl.search.values import Floats, Values, evaluate_metrics
from plandsl.spec.plan import PlanSpec, RequireSpec, WorkloadSpec

MEANS = 20_000
"""Requests whose means are taken, unless a trace has others."""

IN_FLIGHT = np.unique(np.geomspace(1, 8192, 100).round())
"""Requests in flight in each replica that are tried for a rate."""

MOST_REUSED = 0.99
"""The largest share of a prompt that a cache holds: its last token is always computed."""

TIMES = ("ttft", "tpot", "latency")
"""Metrics of a request."""


class MeanLoad(NamedTuple):
    """The means of a load: tokens of a request, the share of prompts that came before, and requests per second.

    ``rate`` is None where ``concurrency`` requests are in flight. ``requests`` in all; None: no end.
    """

    input: int
    output: int
    reuse: float
    rate: float | None
    concurrency: int | None
    requests: int | None


@lru_cache(maxsize=256)
def mean_load(load: WorkloadSpec) -> MeanLoad:
    """The means of the requests that `draw_requests` draws, at most `MEANS` of them unless they are a trace."""
    traced = load.traffic is not None and load.traffic.trace is not None
    requests = draw_requests(load, None if traced else min(load.requests or MEANS, MEANS)).requests
    first, last = float(np.min(requests.arrival_s)), float(np.max(requests.arrival_s))
    number = len(requests.input)
    closed = load.concurrency is not None or last <= first
    return MeanLoad(
        input=max(1, round(float(np.mean(requests.input)))),
        output=max(1, round(float(np.mean(requests.output)))),
        reuse=_reused(requests),
        rate=None if closed else (number - 1) / (last - first),
        concurrency=(load.concurrency or number) if closed else None,
        requests=(load.requests or (None if load.concurrency else number)) if closed else None,
    )


def _reused(requests: Requests) -> float:
    """The share of all prompt tokens in blocks that an earlier prompt has too: what a cache without end would find."""
    if requests.blocks is None or not len(requests.blocks.ids):
        return 0.0
    ids = requests.blocks.ids
    found = (len(ids) - len(np.unique(ids))) * requests.blocks.size / np.sum(requests.input)
    return min(float(found), MOST_REUSED)


def plan_at_mean(plan: PlanSpec) -> PlanSpec:
    """``plan`` with the mean of its load as an ongoing load, and without requirements."""
    mean = mean_load(plan.workload)

    def steady(load: WorkloadSpec) -> WorkloadSpec:
        return evolve(
            load, input=mean.input, output=mean.output, reuse=max(load.reuse, mean.reuse), traffic=None,
            concurrency=mean.concurrency or 1, requests=mean.requests,
        )  # fmt: skip

    split = plan.split
    if split is not None:
        prefill, decode = (evolve(pool, workload=steady(pool.workload)) for pool in plan.pools)
        split = evolve(split, prefill=prefill, decode=decode)
    return evolve(plan, workload=steady(plan.workload), requires=(), split=split)


def evaluate_mean(model: Deployment, plan: PlanSpec) -> Values:
    """All metrics of ``plan`` at the mean of its load; ``model`` is the deployment of `plan_at_mean`.

    Where the rate is more than is served, the queue grows: TTFT and latency are infinite. ``bearable`` is the largest
    rate at which the mean times keep the upper bounds of the plan, ``goodput`` the load's rate or that, if it is less.
    """
    mean = mean_load(plan.workload)
    bounds = [r for r in plan.requires if r.metric in TIMES and r.op in ("<", "<=")]
    if mean.rate is None:
        found = evaluate_metrics(model, {})
        served = float(found.metrics["throughput"]) / mean.output
        good = served if all(found.holds(r) for r in bounds) else 0.0
        return found._replace(metrics=found.metrics | {"goodput": good, "bearable": good})
    most, bearable = _rates(model, mean.output, bounds)
    least = _in_flight(model, mean.rate, mean.output)
    found = evaluate_metrics(model, {"concurrency": least})
    served = min(mean.rate, most)
    share = served * mean.output / float(found.metrics["throughput"])
    late = mean.rate > most
    metrics = found.metrics | {
        "throughput": served * mean.output,
        "throughput_per_gpu": found.metrics["throughput_per_gpu"] * share,
        "cost": found.metrics["cost"] / share,
        "goodput": min(mean.rate, bearable),
        "bearable": bearable,
    }
    return found._replace(
        metrics=metrics | ({"ttft": np.inf, "latency": np.inf} if late else {}), crowded=mean.rate / most
    )


def _crowds(model: Deployment) -> Floats:
    return IN_FLIGHT * max(pool.n for pool in model.pools)


def _rates(model: Deployment, output: int, bounds: list[RequireSpec]) -> tuple[float, float]:
    """The largest rate that is served, and the largest of those at which the mean times keep ``bounds``; requests/s."""
    m = model.evaluate(concurrency=_crowds(model))
    rates = np.asarray(m.throughput, float) / output
    good = np.ones(len(IN_FLIGHT), bool)
    for r in bounds:
        good &= np.asarray(COMPARE[r.op](getattr(m, r.metric), r.bound), bool)
    return float(rates.max()), float(rates[good].max(initial=0.0))


def _in_flight(model: Deployment, rate: float, output: int) -> int:
    """The fewest requests in flight with which ``rate`` is served, or the most that can be."""

    def fewest(tried: Floats) -> int:
        rates = np.asarray(model.evaluate(concurrency=tried).throughput, float) / output
        return int(np.argmax(rates >= min(rate, float(rates.max()))))

    tried = _crowds(model)
    at = fewest(tried)
    if at == 0 or tried[at] - tried[at - 1] <= 1:
        return int(tried[at])
    between = np.unique(np.linspace(tried[at - 1], tried[at], 64).round())
    return int(between[fewest(between)])
