"""Requests over time in closed form: a steady load of the mean lengths, at the mean rate.

Single requests are not seen: a percentile has no answer, and a burst counts as its mean rate.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from attrs import evolve

from plandsl.backends.cost.deployments.build import Compiled, build_deployment
from plandsl.backends.cost.deployments.deployment import Deployment
from plandsl.backends.cost.serving.requests import Floats, Requests
from plandsl.backends.cost.serving.workloads import draw_requests
from plandsl.diagnostics import Diagnostic
from plandsl.ir.schedule import Schedule
from plandsl.spec.plan import PlanSpec, WorkloadSpec

MEANS = 20_000
"""Requests whose means are taken, unless a trace has others."""

IN_FLIGHT = np.unique(np.geomspace(1, 8192, 100).round())
"""Requests in flight in each replica that are tried for a rate."""

MOST_REUSED = 0.99
"""The largest share of a prompt that a cache holds: its last token is always computed."""


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
    drawn: int
    encodes: bool = False

    @property
    def counted(self) -> int:
        """The tokens of a request that throughput counts, as of a load."""
        return self.input if self.encodes else self.output


@lru_cache(maxsize=256)
def mean_load(load: WorkloadSpec) -> MeanLoad:
    """The means over the first `MEANS` requests that `draw_requests` draws; over all requests of a trace."""
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
        drawn=number,
        encodes=load.encodes,
    )


def _reused(requests: Requests) -> float:
    """The share of all prompt tokens in blocks that an earlier prompt has too: what a cache without end would find."""
    if requests.blocks is None or not len(requests.blocks.ids):
        return 0.0
    ids = requests.blocks.ids
    found = (len(ids) - len(np.unique(ids))) * requests.blocks.size / np.sum(requests.input)
    return min(float(found), MOST_REUSED)


def plan_at_mean(plan: PlanSpec, in_flight: int | None = None) -> PlanSpec:
    """``plan`` with the mean of its load as an ongoing load of ``in_flight`` requests, without requirements.

    Without ``in_flight`` there are as many as a closed loop has, or 1 where a rate settles the number.
    """
    mean = mean_load(plan.workload)

    def steady(load: WorkloadSpec) -> WorkloadSpec:
        return evolve(
            load, input=mean.input, output=mean.output, reuse=max(load.reuse, mean.reuse), traffic=None,
            prefix=load.prefix or ("own" if mean.reuse else None),
            concurrency=in_flight or mean.concurrency or 1, requests=mean.requests, rate=mean.rate,
        )  # fmt: skip

    split = plan.split
    if split is not None:
        prefill, decode = (evolve(pool, workload=steady(pool.workload)) for pool in plan.pools)
        split = evolve(split, prefill=prefill, decode=decode)
    return evolve(plan, workload=steady(plan.workload), requires=(), split=split)


def requests_in_flight(model: Deployment, rate: float, output: int) -> int:
    """The fewest requests in flight with which ``rate`` is served (Little 1961), or the most that can be."""

    def fewest(tried: Floats) -> int:
        rates = _served_rates(model, tried, output)
        return int(np.argmax(rates >= min(rate, float(rates.max()))))

    tried = _tried(model)
    at = fewest(tried)
    if at == 0 or tried[at] - tried[at - 1] <= 1:
        return int(tried[at])
    between = np.unique(np.linspace(tried[at - 1], tried[at], 64).round())
    return int(between[fewest(between)])


def largest_served(model: Deployment, output: int) -> float:
    """The largest rate of requests of ``output`` tokens that is served, however many are in flight."""
    return float(_served_rates(model, _tried(model), output).max())


def _tried(model: Deployment) -> Floats:
    """Requests in flight that are tried, in all replicas."""
    return IN_FLIGHT * max(pool.n for pool in model.pools)


def _served_rates(model: Deployment, tried: Floats, output: int) -> Floats:
    """Requests/s with so many in flight: float64[n]."""
    counted = model.counted(model.plan.workload.input, output)
    return np.asarray(model.evaluate(concurrency=tried).throughput, float) / counted


# ---- a compiled plan at its mean load


class WithLoad:
    """A compiled plan with another load, which ``change`` gives its plan: programs do not depend on it."""

    def __init__(self, made: Compiled, change: Callable[[PlanSpec], PlanSpec]) -> None:
        self._made, self._change = made, change
        own = [r for r in made.spec.requires if not r.over_requests]
        self.spec = evolve(change(made.spec), requires=tuple(own))
        self.prefill: Schedule = made.prefill
        self.decode: Schedule = made.decode

    @property
    def modes(self) -> Sequence[Compiled]:
        """The modes with that load."""
        return [WithLoad(mode, self._change) for mode in self._made.modes]

    @property
    def pools(self) -> Sequence[Compiled]:
        """The pools with that load."""
        return [WithLoad(pool, self._change) for pool in self._made.pools]

    @property
    def draft(self) -> Compiled | None:
        """The draft with that load."""
        return None if self._made.draft is None else WithLoad(self._made.draft, self._change)

    @property
    def tower(self) -> Compiled | None:
        """The tower, whose images each have the patches that they have under any load."""
        return self._made.tower

    @property
    def plain(self) -> Compiled:
        """The plan without guesses, with that load."""
        return WithLoad(self._made.plain, self._change)


def build_at_mean(made: Compiled) -> tuple[Deployment, MeanLoad]:
    """The deployment of a plan at the mean of its load, and that mean."""
    return build_deployment(WithLoad(made, plan_at_mean)), mean_load(made.spec.workload)


def build_cost(made: Compiled) -> Deployment:
    """The deployment of a plan whose requests arrive over time, under the steady load at their means."""
    model, mean = build_at_mean(made)
    if mean.rate is None:
        return model
    least = requests_in_flight(model, mean.rate, mean.output)
    return build_deployment(WithLoad(made, lambda plan: plan_at_mean(plan, least)))


def load_notes(plan: PlanSpec, model: Deployment) -> list[Diagnostic]:
    """What stands for the load of ``plan`` in closed form, N290; empty where the load is one that a formula knows."""
    if plan.workload.traffic is None:
        return []
    mean, load = mean_load(plan.workload), model.plan.workload
    lengths = f"{mean.input} in and {'nothing' if plan.workload.encodes else mean.output} out"
    many = "1 request" if load.concurrency == 1 else f"{load.concurrency} requests"
    why = f"closed form: {many} in flight, {lengths}"
    if mean.rate is not None:
        served = float(model.own.throughput) / mean.counted
        why += f", at the mean rate of {mean.rate:.3g} req/s"
        if served < mean.rate * (1 - 1e-9):
            why = f"closed form: of {mean.rate:.3g} req/s, {lengths}, at most {served:.3g} req/s are served"
    return [Diagnostic("N290", why, plan.workload.span)]
