"""The highest rate of requests at which the 99th percentiles of TTFT and TPOT keep their limits, as MLPerf has it."""

from __future__ import annotations

from attrs import evolve

from plandsl.backends.accuracy.lengths import scale_of
from plandsl.backends.accuracy.row import Limits, Row
from plandsl.backends.accuracy.simulated import Told, running, simulate_row
from plandsl.backends.accuracy.spread import Refused
from plandsl.backends.cost.answers.probes import Probe, Probes, serve_here
from plandsl.backends.cost.answers.simulation import Servers
from plandsl.backends.cost.deployments.deployment import Deployment
from plandsl.spec.plan import PlanSpec, RequireSpec, WorkloadSpec
from plandsl.spec.traffic import Bounds, Distribution, Exponential, Fixed, Lengths, Steady, TrafficSpec
from plandsl.units import TIME

CLOSE = 1.02
"""The search ends when the rate that fails is at most so many times the rate that holds."""

FEWEST, TURNS = 2000, 4
"""Requests of each run: at least so many, and so many for each that runs at once."""

LIKELY = 0.85
"""The share of the rate of an endless queue that is tried second: limits seldom allow much less."""

SEARCH = "search for a rate"


def find_highest_rate(model: Deployment, servers: Servers, many: int, row: Row) -> Told:
    """What is reported at the highest rate that keeps the limits of a row.

    The search starts from the rate of an endless queue, which no rate that can be held exceeds. Raises `Refused` where
    no rate keeps them, and as `simulate_row` does.
    """
    assert row.limits is not None, "a row with limits"
    queue = evolve(row, kind="offline_all_at_once", limits=None)
    most = simulate_row(model, servers, many, queue).rate / many / row.output
    count = max(FEWEST, round(TURNS * running(model, row)))
    plan = plan_at(model.plan, row, most, many, count=count)
    search = Probes(plan, serve_here(plan, servers), count, None)
    low = search.probe(1.0)
    if not low.holds():
        search.probe(LIKELY)
        found, _ = search.largest(Probe.holds, CLOSE)
        if found is None:
            raise Refused("no rate keeps the limits on TTFT and TPOT")
        low = found
    told = low.told.summary
    return Told(told.ttft.mean.value, told.tpot.mean.value, low.factor * most * many * row.output, SEARCH)


def plan_at(plan: PlanSpec, row: Row, rate: float, many: int, count: int) -> PlanSpec:
    """``plan`` with one server's share of a Poisson process of ``many rate`` requests/s, and with the row's limits.

    Servers take turns, so that each gets every n-th request: gaps are gamma distributed with shape n.
    """
    assert row.limits is not None, "a row with limits"
    lengths = Lengths(_lengths(row.input, row.longest), _lengths(row.output, row.longest))
    traffic = TrafficSpec(arrivals=Steady(rate, shape=float(many)), lengths=lengths)
    load = WorkloadSpec("row", round(row.input), round(row.output), 1, requests=count, traffic=traffic)
    return evolve(plan, workload=load, requires=tuple(_requires(row.limits)))


def _lengths(mean: float, longest: float) -> Distribution:
    if not longest:
        return Fixed(round(mean))
    return Exponential(scale_of(mean, longest), Bounds(1, longest))


def _requires(limits: Limits) -> list[RequireSpec]:
    return [
        RequireSpec(f"p99({name}) <= {bound:g} s", name, "<=", bound, TIME, share=False, percentile=99.0)
        for name, bound in (("ttft", limits.ttft_s), ("tpot", limits.tpot_s))
    ]
