"""The largest rate at which a plan meets its requirements: the same requests, closer together, until one fails."""

from __future__ import annotations

from collections.abc import Callable
from math import isfinite, sqrt
from typing import NamedTuple, TypeAlias

from plandsl.answers.estimate import Requirement
from plandsl.answers.rate import FoundRate
from plandsl.answers.simulation import Figure, Simulation
from plandsl.backends.cost.answers.simulation import Check, Run, Servers, build_servers, serve_plan
from plandsl.backends.cost.deployments.build import Compiled
from plandsl.backends.cost.serving.requests import Tick
from plandsl.backends.cost.serving.scaled import WIDEST, arrival_span, requests_at
from plandsl.backends.cost.serving.summary import served_rate
from plandsl.diagnostics import Diagnostic, PlanError
from plandsl.spec.plan import PlanSpec, WorkloadSpec
from plandsl.spec.rates import Scaled, at_rate, has_sessions, nominal_rate, scaled_field
from plandsl.spec.requires import all_requirements

CLOSE, CLOSE_ENDS = 1.01, 1.03
"""The search ends when the rate that fails is at most so many times the rate that holds; the same for its interval."""

PARTS = 8
"""Rates below the largest one that are tried for a goodput that is too small there."""

EXPECTED = 20
"""Runs that a search is expected to take, for its progress."""

SHORT = 5
"""Requests that all arrive within so many latencies have not seen a steady state."""


class Probe(NamedTuple):
    """A run at ``factor`` times the load. ``rate`` is its rate in the unit of the answer, ``stable``: no growing queue.

    ``borne`` is the rate of requests that was served while the queue grew; NaN where it did not.
    """

    factor: float
    rate: float
    told: Simulation
    checks: tuple[Check, ...]
    borne: Figure
    arrival_span: float

    @property
    def stable(self) -> bool:
        """Whether the queue does not grow."""
        return not isfinite(self.told.summary.bearable)

    def holds(self, shift: float = 0.0) -> bool:
        """Whether it is stable, and nothing that must not grow is too large, each ``shift`` half widths higher."""
        return self.stable and all(check.met(shift) for check in self.checks if check.require.caps)

    @property
    def missed(self) -> tuple[Requirement, ...]:
        """The requirements that are missed."""
        return tuple(check.told for check in self.checks if not check.met())

    @property
    def keeps_all(self) -> bool:
        """Whether it is stable and every requirement is met."""
        return self.stable and not self.missed

    @property
    def alone(self) -> bool:
        """Whether requests never met, so that a lower rate is no better."""
        return self.told.occupancy.running[1] <= 1 and self.told.occupancy.waiting[1] < 1


Holds: TypeAlias = Callable[[Probe], bool]
Ends: TypeAlias = tuple[Probe | None, Probe | None]
"""The largest rate that was seen to hold, and the smallest one above it that was seen to fail."""


def find_rate(made: Compiled, count: int | None = None, tick: Tick | None = None) -> FoundRate:
    """The largest rate of the load at which the plan is stable and meets its requirements; without any, is stable.

    Every run serves the same requests (``count`` of them in place of the workload's number), only closer together. The
    search doubles or halves the rate until one run holds and one fails, then goes on between the two. Raises
    `PlanError`: E329 where there is nothing to find, and as `simulate_plan`.
    """
    return search_rate(made.spec, build_servers(made), count, tick)


def search_rate(plan: PlanSpec, servers: Servers, count: int | None = None, tick: Tick | None = None) -> FoundRate:
    """`find_rate` of a plan on these servers."""
    search = _Search(plan, _scaled(plan), servers, count, tick)
    low, high = search.largest(Probe.holds, CLOSE)
    if low is None:
        assert high is not None, "some rate was tried"
        return search.answer(None, high, "no rate is low enough")
    if not low.keeps_all:  # a throughput or a goodput that is too small, though nothing is too large
        return _below(search, low)
    if high is not None and not high.stable and all(check.met() for check in high.checks if check.require.caps):
        return _capacity(search, low, high)
    ends = _interval(search) if high is not None else (float("nan"), float("inf"))
    return search.answer(low, high, search.why(high), ends)


def _scaled(plan: PlanSpec) -> Scaled:
    """What of the load is scaled. Raises `PlanError` (E329) where there is nothing to find."""
    load, scaled = plan.workload, scaled_field(plan.workload)
    if scaled is None:
        why, hint = (
            "all requests arrive at once",
            "give the workload `rate = 12 req/s`, a `trace` or `concurrency = 64`",
        )
    elif scaled == "concurrency" and not any(asked.require.caps_time for asked in all_requirements(plan)):
        why = "nothing bounds the requests in flight: a closed loop is stable at every concurrency"
        hint = "add a requirement, such as `require p95(ttft) <= 2 s`"
    else:
        return scaled
    raise PlanError(
        [Diagnostic("E329", f"`{plan.name}` has no largest rate: {why}", load.span or plan.span, hint=hint)]
    )


# ---- the search


class _Search:
    """Runs by their factor. A run that was made once is not made again."""

    def __init__(self, plan: PlanSpec, scaled: Scaled, servers: Servers, count: int | None, tick: Tick | None) -> None:
        self.plan, self.scaled, self.servers, self.count, self.tick = plan, scaled, servers, count, tick
        self.probes: dict[float, Probe] = {}
        self.idle = False

    def probe(self, factor: float) -> Probe:
        """The run at ``factor`` times the load."""
        if factor not in self.probes:
            plan = at_rate(self.plan, factor)
            many = requests_at(self.plan.workload, factor, self.count)
            done = len(self.probes)

            def tick(served: int, of: int) -> None:
                assert self.tick is not None
                self.tick(done * of + served, max(EXPECTED, done + 1) * of)

            run = serve_plan(plan, self.servers, many, None if self.tick is None else tick)
            self.probes[factor] = _probe(factor, plan.workload, self.scaled, run)
        return self.probes[factor]

    def snap(self, factor: float) -> float:
        """The nearest factor that the load can have: a concurrency is whole."""
        places = self.plan.workload.concurrency
        return factor if places is None else max(1, round(factor * places)) / places

    def largest(self, holds: Holds, close: float) -> Ends:
        """The largest rate that ``holds``, and the one above that fails: at most ``close`` times as large."""
        if not self.probes:
            self.probe(1.0)
        low, high = self.known(holds)
        while low is None and high is not None and high.factor > 1 / WIDEST and not high.alone:
            below = self.snap(high.factor / 2)
            if below == high.factor:
                break
            self.probe(below)
            low, high = self.known(holds)
        while high is None and low is not None and low.factor < WIDEST and not self.useless(low):
            self.probe(self.snap(low.factor * 2))
            low, high = self.known(holds)
        while low is not None and high is not None and high.factor / low.factor > close:
            middle = self.snap(sqrt(low.factor * high.factor))
            if middle in (low.factor, high.factor):
                middle = self.snap((low.factor + high.factor) / 2)
            if not low.factor < middle < high.factor:
                break
            self.probe(middle)
            low, high = self.known(holds)
        return low, high

    def known(self, holds: Holds) -> Ends:
        """The largest rate that holds, and the next one above it that was tried; the smallest one if none holds."""
        runs = sorted(self.probes.values(), key=lambda probe: probe.factor)
        low = next((probe for probe in reversed(runs) if holds(probe)), None)
        return low, next((probe for probe in runs if low is None or probe.factor > low.factor), None)

    def useless(self, low: Probe) -> bool:
        """Whether more requests in flight would only wait: as many run as with half of them."""
        half = self.probes.get(self.snap(low.factor / 2))
        held, before = low.told.occupancy, half and half.told.occupancy
        self.idle = (
            self.scaled == "concurrency" and before is not None
            and before.waiting[1] >= 1 and held.running[1] <= before.running[1]
        )  # fmt: skip
        return self.idle

    def why(self, high: Probe | None) -> str:
        """How the search ended."""
        if high is not None:
            return "between a rate that holds and one that fails"
        return "more requests in flight only wait" if self.idle else f"nothing fails up to {WIDEST:g} times the load"

    def answer(
        self, low: Probe | None, high: Probe | None, why: str, ends: tuple[float, float] = (float("nan"),) * 2
    ) -> FoundRate:
        """The answer: the plan holds at ``low``, and fails at ``high``."""
        nan = float("nan")
        binds = () if high is None else (*(r.text for r in high.missed), *(() if high.stable else (GROWS,)))
        return FoundRate(
            plan=self.plan.name,
            gpus=next(iter(self.probes.values())).told.gpus,
            scaled=self.scaled,
            unit=_unit(self.plan.workload, self.scaled),
            factor=nan if low is None else low.factor,
            value=nan if low is None else low.rate,
            low=ends[0],
            high=ends[1],
            fails_at=nan if high is None else high.rate,
            binds=binds,
            fails=() if high is None else high.missed,
            at=None if low is None else low.told,
            runs=len(self.probes),
            why=why,
            warnings=() if low is None else _warnings(low, self.scaled),
        )


GROWS = "the queue grows"


def _below(search: _Search, top: Probe) -> FoundRate:
    """The largest rate below ``top`` that meets everything: a goodput may shrink as the rate grows."""
    for part in range(PARTS - 1, 0, -1):
        found = search.probe(search.snap(top.factor * part / PARTS))
        if found.keeps_all:
            low, high = search.largest(lambda probe: probe.keeps_all, CLOSE)
            return search.answer(low, high, search.why(high))
    return search.answer(None, top, "at lower rates it is less, and at higher ones something else fails")


def _capacity(search: _Search, low: Probe, high: Probe) -> FoundRate:
    """Where the growing queue is all that fails: the rate that was served while it grew.

    A queue that grows slowly is not seen in a short run, so the largest rate of which it is not seen lies above.
    """
    share, half = _borne_share(high, search)
    factor = min(search.snap(high.factor * share), low.factor)
    if not factor > 0:  # hardly a request is served while requests arrive: the run is too short to tell
        return search.answer(low, high, search.why(high))
    found = search.probe(factor)
    if not found.holds():
        return search.answer(low, high, search.why(high))
    unit = found.rate / found.factor
    ends = max(factor - high.factor * half, 0.0) * unit, min(factor + high.factor * half, high.factor) * unit
    return search.answer(found, high, "the rate that is served while the queue grows", ends)


def _borne_share(high: Probe, search: _Search) -> Figure:
    """The share of the arrivals that was served; of the nominal rate where there is one, which chance leaves alone."""
    rates = nominal_rate(at_rate(search.plan, high.factor).workload)
    if rates is not None and search.plan.workload.traffic is not None and not has_sessions(search.plan.workload):
        return Figure(high.borne.value / rates, high.borne.half / rates)
    s = high.told.summary
    came = s.requests / 2 / (high.arrival_span / 2)
    return Figure(min(s.bearable / came, 1.0), float("nan"))


def _interval(search: _Search) -> tuple[float, float]:
    """The rates at which everything holds though each time is at the upper end of its interval, or at the lower end.

    The interval of a rate are the rates for which the bound lies in the interval of what it bounds.
    """
    low, _ = search.largest(lambda probe: probe.holds(1.0), CLOSE_ENDS)
    _, high = search.largest(lambda probe: probe.holds(-1.0), CLOSE_ENDS)
    known = [probe for probe in (low, high) if probe is not None]
    if any(not isfinite(check.figure.half) for probe in known for check in probe.checks if check.require.caps):
        return float("nan"), float("nan")
    return 0.0 if low is None else low.rate, float("inf") if high is None else high.rate


# ---- one run


def _probe(factor: float, load: WorkloadSpec, scaled: Scaled, run: Run) -> Probe:
    many, span = arrival_span(run.records)
    growing = isfinite(run.simulation.summary.bearable)
    borne = served_rate(run.records) if growing else Figure(float("nan"), float("nan"))
    rate = _rate(load, scaled, many, span)
    return Probe(factor, rate, run.simulation, run.checks, borne=borne, arrival_span=span)


def _rate(load: WorkloadSpec, scaled: Scaled, many: int, span: float) -> float:
    """The rate of a load in the unit of the answer; as it was drawn where it changes over time."""
    if scaled == "concurrency":
        return float(load.concurrency or 0)
    traffic = load.traffic
    if scaled == "speed" and traffic is not None and traffic.trace is not None:
        return traffic.trace.speed
    steady = nominal_rate(load)
    return steady if steady is not None else (many / span if span else float("nan"))


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
        f"all requests arrive within {found.arrival_span:.3g} s, and one takes {latency:.3g} s: serve more of them for "
        f"a rate that can be held",
    )
