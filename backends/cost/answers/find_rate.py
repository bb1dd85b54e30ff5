"""The largest rate at which a plan meets its requirements: the same requests, closer together, until one fails."""

from __future__ import annotations

from collections.abc import Iterator
from math import isfinite

from plandsl.answers.rate import FoundRate
from plandsl.answers.simulation import GROWS, UNSERVED, Figure
from plandsl.backends.cost.answers.money import copies_for, rent_of
from plandsl.backends.cost.answers.probes import Probe, Probes, Serve, find_scaled, serve_made
from plandsl.backends.cost.deployments.build import Compiled
from plandsl.diagnostics import Diagnostic, PlanError
from plandsl.progress import Tick
from plandsl.spec.money import rent
from plandsl.spec.plan import PlanSpec, WorkloadSpec
from plandsl.spec.rates import Scaled, at_rate, has_sessions, nominal_rate
from plandsl.spec.requires import all_requirements
from plandsl.units import HOUR

CLOSE, CLOSE_ENDS = 1.01, 1.03
"""The search ends when the rate that fails is at most so many times the rate that holds; the same for its interval."""

PARTS = 8
"""Rates below the largest one that are tried for a goodput that is too small there."""

SHORT = 5
"""Requests that all arrive within so many latencies have not seen a steady state."""


def find_rate(made: Compiled, count: int | None = None, tick: Tick | None = None) -> FoundRate:
    """The largest rate of the load at which the plan is stable and meets its requirements; without any, is stable.

    Every run serves the same requests, only closer together: ``count`` requests, or as many as the workload says. The
    search doubles or halves the rate until one run holds and one fails, then goes on between the two. Raises
    `PlanError`: E329 where there is nothing to find, and as `simulate_plan`.
    """
    return search_rate(made.spec, serve_made(made), count, tick)


def search_rate(
    plan: PlanSpec, serve: Serve, count: int | None = None, tick: Tick | None = None,
    *, interval: bool = True, near: float = 1.0,
) -> FoundRate:  # fmt: skip
    """`find_rate` of a plan whose runs ``serve`` makes, the first one at ``near`` times the load.

    The ends of the rate are found only with ``interval``: they take as many runs again.
    """
    check_bounded(plan)
    search = Probes(plan, serve, count, tick, near=near)
    low, high = search.largest(Probe.holds, CLOSE)
    if low is None:
        assert high is not None, "some rate was tried"
        return _answer(search, None, high, "no rate is low enough")
    if not low.keeps_all:  # a throughput or a goodput that is too small, though nothing is too large
        return _below(search, low)
    if high is not None and not high.stable and all(check.met() for check in high.checks if check.require.caps):
        return _capacity(search, low, high)
    if high is None:
        return _answer(search, low, None, search.why(None), (float("nan"), float("inf")))
    if not interval:
        return _answer(search, low, high, search.why(high))
    return _answer(search, low, high, search.why(high), _interval(search))


def check_bounded(plan: PlanSpec) -> None:
    """Raise `PlanError` (E329) where no rate is the largest: all arrive at once, or nothing bounds a closed loop."""
    load = plan.workload
    if find_scaled(plan) != "concurrency" or any(asked.require.caps_time for asked in all_requirements(plan)):
        return
    why = f"nothing bounds the requests in flight of `{plan.name}`: a closed loop is stable at every concurrency"
    hint = "add a requirement, such as `require p95(ttft) <= 2 s`"
    raise PlanError([Diagnostic("E329", why, load.span or plan.span, hint=hint)])


# ---- the answer


def _answer(
    search: Probes, low: Probe | None, high: Probe | None, why: str, ends: tuple[float, float] = (float("nan"),) * 2
) -> FoundRate:
    """The answer: the plan holds at ``low``, and fails at ``high``."""
    nan, unit = float("nan"), _unit(search.plan.workload, search.scaled)
    copies, paid = (None, None) if low is None else _copies(search.plan, low, unit)
    binds = () if high is None else (*(r.text for r in high.missed), *_troubles(high))
    return FoundRate(
        plan=search.plan.name,
        gpus=next(iter(search.probes.values())).told.gpus,
        scaled=search.scaled,
        unit=unit,
        factor=nan if low is None else low.factor,
        value=nan if low is None else low.rate,
        low=ends[0],
        high=ends[1],
        fails_at=nan if high is None else high.rate,
        binds=binds,
        fails=() if high is None else high.missed,
        at=None if low is None else low.told,
        runs=len(search.probes),
        why=why,
        warnings=() if low is None else _warnings(low, search.scaled),
        demand=search.plan.workload.demand,
        copies=copies,
        usd_per_h=paid,
    )


def _troubles(run: Probe) -> Iterator[str]:
    """What fails of a run beside its requirements."""
    if not run.serves:
        yield UNSERVED
    if not run.stable:
        yield GROWS


def _copies(plan: PlanSpec, found: Probe, unit: str) -> tuple[int | None, float | None]:
    """The copies that a demand takes where each bears the rate of ``found``, and their USD per hour."""
    each, paid = found.rate if unit == "req/s" else found.told.summary.request_rate, rent(plan)
    if plan.workload.demand is None or not each > 0:
        return None, None
    copies = int(copies_for(plan.workload.demand, each))
    return copies, None if paid is None else float(rent_of(paid, copies)) * HOUR


def _below(search: Probes, top: Probe) -> FoundRate:
    """The largest rate below ``top`` that meets everything: a goodput may shrink as the rate grows."""
    factors = [search.snap(top.factor * part / PARTS) for part in range(PARTS - 1, 0, -1)]
    for at, factor in enumerate(factors):
        found = search.probe(factor, factors[at + 1 :])
        if found.keeps_all:
            low, high = search.largest(lambda probe: probe.keeps_all, CLOSE)
            return _answer(search, low, high, search.why(high))
    return _answer(search, None, top, "at lower rates it is less, and at higher ones something else fails")


def _capacity(search: Probes, low: Probe, high: Probe) -> FoundRate:
    """Where the growing queue is all that fails: the rate that was served while it grew.

    A queue that grows slowly is not seen in a short run, so the largest rate of which it is not seen lies above.
    """
    share, half = _borne_share(high, search)
    factor = min(search.snap(high.factor * share), low.factor)
    if not factor > 0:  # hardly a request is served while requests arrive: the run is too short to tell
        return _answer(search, low, high, search.why(high))
    found = search.probe(factor)
    if not found.holds():
        return _answer(search, low, high, search.why(high))
    unit = found.rate / found.factor
    ends = max(factor - high.factor * half, 0.0) * unit, min(factor + high.factor * half, high.factor) * unit
    return _answer(search, found, high, "the rate that is served while the queue grows", ends)


def _borne_share(high: Probe, search: Probes) -> Figure:
    """The share of the arrivals that was served; of the nominal rate where there is one, which chance leaves alone."""
    rates = nominal_rate(at_rate(search.plan, high.factor).workload)
    if rates is not None and search.plan.workload.traffic is not None and not has_sessions(search.plan.workload):
        return Figure(high.borne.value / rates, high.borne.half / rates)
    s = high.told.summary
    came = s.requests / 2 / (high.arrival_span / 2)
    return Figure(min(s.bearable / came, 1.0), float("nan"))


def _interval(search: Probes) -> tuple[float, float]:
    """The rates at which everything holds though each time is at the upper end of its interval, or at the lower end.

    A rate is in the interval if the bound of a requirement lies in the interval of the figure that it bounds.
    """
    low, _ = search.largest(lambda probe: probe.holds(1.0), CLOSE_ENDS)
    _, high = search.largest(lambda probe: probe.holds(-1.0), CLOSE_ENDS)
    known = [probe for probe in (low, high) if probe is not None]
    if any(not isfinite(check.figure.half) for probe in known for check in probe.checks if check.require.caps):
        return float("nan"), float("nan")
    return 0.0 if low is None else low.rate, float("inf") if high is None else high.rate


def _unit(load: WorkloadSpec, scaled: Scaled) -> str:
    if scaled == "concurrency":
        return "requests in flight"
    if scaled == "speed":
        return "times the trace's speed"
    return "conversations/s" if has_sessions(load) and nominal_rate(load) is not None else "req/s"


def _warnings(found: Probe, scaled: Scaled) -> tuple[str, ...]:
    """What a reader of the rate should know."""
    latency = found.told.summary.latency.mean.value
    if scaled == "concurrency" or not found.arrival_span < SHORT * latency:
        return ()
    return (
        f"all requests arrive within {found.arrival_span:.3g} s, and one takes {latency:.3g} s: serve more requests, "
        f"for a rate that can be held",
    )
