"""How many copies of a plan a demand takes, and the load of each.

A copy whose load states no requests in flight gets the most with which it keeps its bounds on times; then the fewest
copies bear the demand, and the demand is dealt to them evenly.
"""

from __future__ import annotations

import numpy as np
from attrs import evolve

from plandsl.backends.cost.answers.mean_load import IN_FLIGHT, WithLoad, requests_in_flight
from plandsl.backends.cost.answers.money import copies_for
from plandsl.backends.cost.deployments.build import Compiled, build_deployment
from plandsl.backends.cost.deployments.deployment import Deployment, Metrics
from plandsl.backends.cost.serving.requests import Floats
from plandsl.diagnostics import Diagnostic
from plandsl.spec.plan import PlanSpec
from plandsl.units import counted


def with_crowd(plan: PlanSpec, requests: int) -> PlanSpec:
    """``plan`` with so many requests in flight."""
    split = plan.split
    if split is not None:
        prefill, decode = (evolve(pool, workload=evolve(pool.workload, concurrency=requests)) for pool in plan.pools)
        split = evolve(split, prefill=prefill, decode=decode)
    return evolve(plan, workload=evolve(plan.workload, concurrency=requests), split=split)


def build_fleet(made: Compiled) -> Deployment:
    """The deployment of one copy of a plan under its share of the demand; its requests in flight are chosen here."""
    load = made.spec.workload
    assert load.demand is not None, "the compiler chooses requests in flight where a demand asks for them"
    model = build_deployment(WithLoad(made, lambda plan: with_crowd(plan, 1)))
    most = _most_requests(made.spec, model)
    rate = float(model.evaluate(concurrency=most).throughput) / load.counted
    own = load.demand / float(copies_for(load.demand, rate))
    least = min(requests_in_flight(model, own, load.output), most)
    return build_deployment(WithLoad(made, lambda plan: with_crowd(plan, least)))


def _most_requests(plan: PlanSpec, model: Deployment) -> int:
    """The requests in flight with the highest rate at which one copy fits and keeps the bounds on times; at least 1."""
    tried = IN_FLIGHT * max(pool.n for pool in model.pools)
    at = _best(plan, model, tried)
    if at is None:
        return 1
    low, high = tried[at], tried[min(at + 1, len(tried) - 1)]
    between = np.unique(np.linspace(low, high, 64).round())
    best = _best(plan, model, between)
    return int(low if best is None else between[best])


def _best(plan: PlanSpec, model: Deployment, tried: Floats) -> int | None:
    """The place of the highest rate among numbers of requests in flight that keep the bounds; None where none does."""
    m = model.evaluate(concurrency=tried)
    rates = np.broadcast_to(np.asarray(m.throughput, float), tried.shape)
    good = _keeps_bounds(plan, m, tried)
    return int(np.argmax(np.where(good, rates, -1.0))) if good.any() else None


def _keeps_bounds(plan: PlanSpec, m: Metrics, tried: Floats) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
    good = np.broadcast_to(np.asarray(m.fits, bool), tried.shape)
    for r in plan.requires:
        if r.caps_time and not r.over_requests:
            good = good & np.asarray(r.holds(getattr(m, r.metric)), bool)
    return good


def fleet_notes(plan: PlanSpec, model: Deployment) -> list[Diagnostic]:
    """What the compiler chose for a demand, N464; empty where the load of a copy is stated."""
    load, chosen = plan.workload, model.plan.workload
    if not load.chosen or load.demand is None:
        return []
    m = model.evaluate()
    rate = float(m.throughput) / chosen.counted
    copies = int(copies_for(load.demand, rate))
    many = counted(chosen.concurrency or 1, "request")
    each = "the plan" if copies == 1 else f"each of {copies} copies of the plan"
    why = f"{many} in flight in {each}, which gets {load.demand / copies:.3g} req/s and bears {rate:.3g} req/s"
    if not bool(_keeps_bounds(plan, m, np.ones(1)).all()):
        why += "; with 1 request in flight a copy does not keep the bounds on times, or does not fit"
    return [Diagnostic("N464", why, load.span)]
