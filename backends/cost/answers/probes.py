"""Runs of a plan at several rates, and the search among them for the largest that holds."""

from __future__ import annotations

from collections.abc import Callable
from math import sqrt
from typing import NamedTuple, TypeAlias

from plandsl.answers.estimate import Requirement
from plandsl.answers.simulation import Figure, Simulation
from plandsl.backends.cost.answers.simulation import Check, Run, Servers, serve_plan
from plandsl.backends.cost.serving.percentiles import NO_FIGURE
from plandsl.backends.cost.serving.scaled import WIDEST, arrival_span, requests_at
from plandsl.backends.cost.serving.summary import served_rate
from plandsl.progress import Tick
from plandsl.spec.plan import PlanSpec, WorkloadSpec
from plandsl.spec.rates import Scaled, at_rate, nominal_rate

EXPECTED = 20
"""Runs that a search is expected to take, for its progress."""


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
        return self.told.summary.stable

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


class Probes:
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
            self.probes[factor] = _probe_of(factor, plan.workload, self.scaled, run)
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


def _probe_of(factor: float, load: WorkloadSpec, scaled: Scaled, run: Run) -> Probe:
    many, span = arrival_span(run.records)
    borne = NO_FIGURE if run.simulation.summary.stable else served_rate(run.records)
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
