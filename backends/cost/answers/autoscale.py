"""The fewest replicas in each interval of a load: simulated at the interval's rate, with the same requests."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from math import ceil, isfinite, log2
from typing import TypeAlias

import numpy as np
from attrs import evolve

from plandsl import limits
from plandsl.answers.autoscale import Autoscale, Interval
from plandsl.answers.simulation import GROWS
from plandsl.backends.cost.answers.find_rate import search_rate
from plandsl.backends.cost.answers.mean_load import build_at_mean, largest_served, requests_in_flight
from plandsl.backends.cost.answers.money import economics
from plandsl.backends.cost.answers.probes import serve_here
from plandsl.backends.cost.answers.shares import shares
from plandsl.backends.cost.answers.simulation import Run, Servers, build_servers, serve_plan
from plandsl.backends.cost.deployments.build import Compiled
from plandsl.backends.cost.deployments.replicas import Replicas
from plandsl.backends.cost.serving.percentiles import least_for
from plandsl.backends.cost.serving.requests import Floats
from plandsl.backends.cost.serving.scaled import WIDEST
from plandsl.backends.cost.serving.summary import LEAST_GROWN
from plandsl.backends.cost.serving.windows import Window, windows
from plandsl.diagnostics import Diagnostic, PlanError
from plandsl.progress import Tick, silent
from plandsl.spec.money import rent
from plandsl.spec.plan import PlanSpec
from plandsl.units import HOUR

REQUESTS = 1000
"""Requests that are served for each replica, unless the caller wants others."""

BEYOND = 2
"""Times the replicas that the capacity asks for, up to which more are tried."""


def replica_servers(made: Compiled) -> Servers:
    """One replica of a plan. Raises `PlanError` (E330) for two pools."""
    plan = made.spec
    if plan.split is not None:
        why = f"`{plan.name}` has two pools, which do not grow by whole replicas"
        hint = "scale each pool by hand: `planc simulate` serves both"
        raise PlanError([Diagnostic("E330", why, plan.split.span or plan.span, hint=hint)])
    return _several(build_servers(made), 1)


def _several(servers: Servers, number: int) -> Servers:
    return servers._replace(deployment=Replicas(number, servers.deployment.one))


def capacity(made: Compiled, busiest: Window, requests: int) -> float:
    """The largest rate that one replica bears: stable, with everything met that must not grow; NaN where none is."""
    assert busiest.load is not None, "something arrives"
    plan = _asked(evolve(made.spec, workload=busiest.load))
    serve = serve_here(plan, replica_servers(made))
    near = likely_factor(made, busiest.rate)
    found = search_rate(plan, serve, _number(busiest, requests), interval=False, near=near)
    return found.value if found.ok else float("nan")


def likely_factor(made: Compiled, rate: float) -> float:
    """The power of two by which ``rate`` comes closest to what a replica bears in closed form."""
    model, mean = build_at_mean(made)
    each = largest_served(model, mean.output) / made.spec.sharding.replicas
    return 2.0 ** round(log2(min(max(each / rate, 1 / WIDEST), WIDEST)))


def _asked(plan: PlanSpec) -> PlanSpec:
    """``plan`` with the requirements that replicas are for: upper bounds on times. Others are about the whole load."""
    return evolve(plan, requires=tuple(r for r in plan.requires if r.caps_time))


def _number(window: Window, requests: int) -> int:
    return requests if window.most is None else min(requests, window.most)


def fewest_replicas(made: Compiled, window: Window, each: float, requests: int, least: int) -> Interval:
    """The fewest replicas for one window, at least ``least``; a replica bears about ``each`` arrivals per second.

    The capacity gives the first number that is tried. From there the number goes down while one less is enough, or up
    until one is.
    """
    start, end, rate, load, _ = window
    if load is None:
        return Interval(start, end, rate, least)
    plan, servers = _asked(evolve(made.spec, workload=load)), replica_servers(made)
    runs: dict[int, Run] = {}

    def fails(number: int) -> tuple[str, ...]:
        if number not in runs:
            runs[number] = serve_plan(plan, _several(servers, number), _number(window, requests * number))
        return missed(runs[number])

    guess = max(least, 1, ceil(rate / each)) if isfinite(each) else max(least, 1)
    if guess > limits.MAX_COUNT:
        why = f"the load `{plan.workload.name}` needs some {guess:,} replicas"
        hint = limits.MAX_COUNT.hint("lower the rate, or take a faster plan", guess)
        raise PlanError(
            [Diagnostic("E214", f"{why}, and at most {limits.MAX_COUNT:,} are tried", load.span, hint=hint)]
        )
    number, most = guess, BEYOND * guess + 1
    while number < most and fails(number):
        number += 1
    wrong = fails(number)
    while not wrong and number > max(least, 1) and not fails(number - 1):
        number -= 1
    return Interval(start, end, rate, number, run=runs[number].simulation, fails=wrong)


def missed(run: Run) -> tuple[str, ...]:
    """What a run misses: a stable queue, requests that fit, the bounds that replicas are for."""
    s = run.simulation.summary
    found = [check.text for check in run.checks if check.require.caps and not check.met()]
    found += [] if s.stable else [GROWS]
    found += [f"{s.requests - s.served:,} requests are refused"] if s.served < s.requests else []
    return tuple(found)


Share: TypeAlias = Callable[[Sequence[Window], float], Iterable[Interval]]
"""Answers for several windows, given the capacity of a replica, in their order."""


def autoscale(
    made: Compiled, every: float, requests: int | None = None, least: int = 1,
    tick: Tick = silent, share: Share | None = None,
) -> Autoscale:  # fmt: skip
    """The fewest replicas of a plan in each interval of ``every`` seconds of its load.

    ``requests`` are served for each replica (`REQUESTS`); ``least`` replicas always run. ``tick`` hears how many
    intervals are done. ``share`` answers for the intervals elsewhere, such as on a cluster. Raises `PlanError`: E330
    where the load has no rate or the plan two pools, E214 for too many intervals, and as `simulate_plan`.
    """
    parts, number = windows(made.spec, every), requests or REQUESTS
    busiest = max(parts, key=lambda part: part.rate)
    each = capacity(made, busiest, number)
    distinct = list({part.load: part for part in parts}.values())
    if share is None:
        found: Iterable[Interval] = (fewest_replicas(made, part, each, number, least) for part in distinct)
    else:
        found = share(distinct, each)
    known = {}
    for part, interval in zip(distinct, found, strict=True):
        known[part.load] = interval
        tick(len(known), len(distinct))
    intervals = [known[p.load]._replace(start_s=p.start_s, end_s=p.end_s, rate=p.rate) for p in parts]
    paid, replicas = rent(made.spec), made.spec.sharding.replicas
    return Autoscale(
        plan=made.spec.name,
        gpus=made.spec.sharding.ranks // replicas,
        price_usd_per_h=None if paid is None else paid.share * HOUR / replicas,
        capacity=each,
        every_s=every,
        requests=number,
        intervals=tuple(_with_power(made, intervals)),
        warnings=tuple(_too_few(made.spec, number, intervals, busiest.most)),
    )


def _too_few(plan: PlanSpec, requests: int, intervals: Sequence[Interval], most: int | None) -> Iterator[str]:
    """What the run with the fewest requests cannot tell: a percentile that is required, or else whether a queue grows.

    ``most`` is the number of requests that a trace has; None: there is none.
    """
    sent = min((one.run.summary.requests for one in intervals if one.run is not None), default=requests)
    traffic = plan.workload.traffic
    asked = (*plan.requires, *(traffic.requires if traffic is not None else ()))
    top = max((r.percentile or 0.0 for r in asked), default=0.0)
    needs = {f"for p{top:g}": least_for(top / 100)} if top else {}
    for what, least in (needs | {"to see a queue grow": LEAST_GROWN}).items():
        if sent < least:
            few = "1 request is" if sent == 1 else f"{sent:,} requests are"
            short = most is not None and most < least
            how = f", which needs {least:,}: the trace has no more" if short else f": `--requests {least}`"
            yield f"{few} too few {what}{how}"
            return


def _with_power(made: Compiled, intervals: Sequence[Interval]) -> list[Interval]:
    """``intervals`` with the power of their replicas, and of as many as the busiest one has."""
    most = max(one.replicas for one in intervals)
    runs = [one.run for one in intervals]
    rates = [run.summary.request_rate if run is not None and run.summary.served else 0.0 for run in runs]
    copies = [[one.replicas for one in intervals], [most for _ in intervals]]
    each = [rate / max(number, 1) for numbers in copies for rate, number in zip(rates, numbers, strict=True)]
    found = replica_power(made, each)
    if found is None:
        return list(intervals)
    power = found.reshape(2, -1) * copies
    return [one._replace(power_w=(float(own), float(fixed))) for one, own, fixed in zip(intervals, *power, strict=True)]


def replica_power(made: Compiled, rates: Sequence[float]) -> Floats | None:
    """The average power of one replica that serves so many requests per second; None where a power is not known.

    As many requests of the mean lengths are in flight as serve the rate; between them it draws idle power.
    """
    model, mean = build_at_mean(made)
    replicas = made.spec.sharding.replicas
    asked = np.asarray(rates, float) * replicas
    crowds = np.array([requests_in_flight(model, rate, mean.output) for rate in asked], float)
    m = model.evaluate(concurrency=crowds)
    spent = economics(model, m, shares(model, m).phases, mean.input, mean.output)
    power = spent.scaled(1, np.minimum(asked, spent.requests)).power
    return None if power is None else np.broadcast_to(np.asarray(power, float), asked.shape) / replicas
