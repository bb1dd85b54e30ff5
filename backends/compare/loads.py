"""From a run of a benchmark to the workload of a plan, and to the requests that were sent."""

from __future__ import annotations

import numpy as np
from attrs import evolve

from plandsl import limits
from plandsl.backends.accuracy.simulated import FEWEST, MANY, TOKENS
from plandsl.backends.accuracy.simulated import OPEN as OPEN_LOOP
from plandsl.backends.compare.bench import Bench, Lengths
from plandsl.backends.compare.formats import AT_ONCE, CLOSED
from plandsl.backends.cost.answers.simulation import draw_load
from plandsl.backends.cost.serving.workloads import Load
from plandsl.spec.plan import PlanSpec
from plandsl.spec.traffic import AtOnce, Bounds, Distribution, Fixed, Normal, Steady, TrafficSpec, Uniform
from plandsl.spec.traffic import Lengths as DrawnLengths


def plan_under(plan: PlanSpec, bench: Bench, count: int) -> PlanSpec:
    """The plan with the load of a run, cut to ``count`` requests."""
    input_, output = (round(one.mean) for one in (bench.input, bench.output))
    arrivals = Steady(bench.rate, bench.shape, bench.rescaled) if bench.rate else AtOnce()
    lengths = DrawnLengths(distribution(bench.input), distribution(bench.output))
    traffic = TrafficSpec(None if bench.kind == CLOSED else arrivals, lengths)
    load = evolve(
        plan.workload, input=max(input_, 1), output=max(output, 1), batch=1,
        concurrency=(bench.clients if bench.kind == CLOSED else bench.cap) or None, requests=count, traffic=traffic,
        demand=None, chosen=False, rate=None,
    )  # fmt: skip
    return evolve(plan, workload=load, requires=())


def distribution(lengths: Lengths) -> Distribution:
    """The distribution of lengths: even between their ends, normal with the mean and deviation, or all equal."""
    if lengths.even and lengths.differ:
        return Uniform(round(lengths.least), round(lengths.most))
    if lengths.differ:
        return Normal(
            lengths.mean,
            lengths.deviation,
            Bounds(max(lengths.least, 1.0), lengths.most or float(limits.MAX_DIMENSION)),
        )
    return Fixed(max(round(lengths.mean), 1))


def requests_of(plan: PlanSpec, bench: Bench, count: int) -> Load:
    """The requests of a run: drawn with its lengths, or those that the file lists, in their order."""
    load = draw_load(plan)
    if bench.exact is None:
        return load
    input_, output = (np.resize(own, count) for own in bench.exact)
    return load._replace(requests=load.requests._replace(input=input_, output=output))


def count_of(bench: Bench) -> int:
    """How many requests of a run are simulated: as many whole rounds as make `TOKENS` output tokens, or all.

    Of requests that are all there from the start, each one lengthens the queue: all of them are simulated.
    """
    if bench.kind == AT_ONCE:
        return min(bench.requests, MANY)
    served = TOKENS / max(bench.output.mean, 1.0)
    if bench.kind == CLOSED:
        return min(bench.requests, max(FEWEST, int(served / bench.clients)) * bench.clients)
    return min(bench.requests, max(OPEN_LOOP, int(served)))
