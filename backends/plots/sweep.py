"""A plan served at several rates, from idle to saturated: always the same requests, closer together."""

from __future__ import annotations

from math import isfinite
from typing import NamedTuple

from plandsl.answers.simulation import Spread
from plandsl.backends.cost.answers.simulation import Run, Servers, build_servers, serve_plan
from plandsl.backends.cost.deployments.build import Compiled
from plandsl.backends.cost.serving.scaled import WIDEST, arrival_span, requests_at
from plandsl.diagnostics import Diagnostic, PlanError
from plandsl.progress import Tick
from plandsl.spec.plan import PlanSpec, WorkloadSpec
from plandsl.spec.rates import Scaled, at_rate, has_sessions, nominal_rate, scaled_field

SHARES = (0.1, 0.25, 0.4, 0.55, 0.7, 0.8, 0.9, 1.0, 1.1)
"""Rates that are served, as shares of the rate at which the servers are saturated."""

PLACES = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1, 2, 4)
"""Requests in flight that are served, as shares of those of the plan."""

LONG = 1000
"""Requests of the run that measures the saturation, at least; a trace has its own."""


class ServedAt(NamedTuple):
    """A run at ``factor`` times the load of the plan; ``load`` is its rate in req/s, or its requests in flight."""

    factor: float
    load: float
    run: Run

    @property
    def stable(self) -> bool:
        """Whether the queue does not grow."""
        return self.run.simulation.summary.stable

    def spread(self, metric: str) -> Spread:
        """A latency over the requests of the run."""
        found: Spread = getattr(self.run.simulation.summary, metric)
        return found


class Sweep(NamedTuple):
    """A plan and its runs, the smallest load first.

    ``saturation`` is the largest rate that is served, in req/s; NaN of a closed loop.
    """

    plan: PlanSpec
    scaled: Scaled
    runs: tuple[ServedAt, ...]
    saturation: float

    @property
    def unit(self) -> str:
        """What the load of a run counts."""
        return "requests in flight" if self.scaled == "concurrency" else "req/s"


def sweep(made: Compiled, count: int | None = None, tick: Tick = lambda done, of: None) -> Sweep:
    """Serve a plan at rates from a tenth of its saturation to beyond it, ``count`` requests each.

    A closed loop is served with more and more requests in flight. Raises `PlanError`: E400 where all requests arrive at
    once, and as `simulate_plan`.
    """
    plan, scaled = made.spec, find_scaled(made.spec)
    work = _Work(plan, scaled, build_servers(made), count, tick)
    if scaled == "concurrency":
        for share in PLACES:
            work.serve(share)
        return Sweep(plan, scaled, work.by_load(), float("nan"))
    most = work.saturation()
    own = next(iter(work.runs.values()))
    for share in SHARES:
        work.serve(share * most / own.load)
    kept = tuple(r for r in work.by_load() if r.load <= SHARES[-1] * most * 1.001)
    return Sweep(plan, scaled, kept, most)


def find_scaled(plan: PlanSpec) -> Scaled:
    """What of the load of ``plan`` grows. Raises `PlanError` (E400) where all requests arrive at once."""
    scaled = scaled_field(plan.workload)
    if scaled is not None:
        return scaled
    why = f"`{plan.name}` has no rate that could grow: all its requests arrive at once"
    hint = "give the workload `rate = 12 req/s`, a `trace` or `concurrency = 64`"
    raise PlanError([Diagnostic("E400", why, plan.workload.span or plan.span, hint=hint)])


class _Work:
    """The runs of a plan so far, by their factor."""

    def __init__(self, plan: PlanSpec, scaled: Scaled, servers: Servers, count: int | None, tick: Tick) -> None:
        self.plan, self.scaled, self.servers, self.count, self.tick = plan, scaled, servers, count, tick
        self.runs: dict[float, ServedAt] = {}

    def serve(self, factor: float) -> ServedAt:
        """The run at a multiple of the plan's load."""
        plan = at_rate(self.plan, factor)
        if self.scaled == "concurrency":
            factor = (plan.workload.concurrency or 1) / (self.plan.workload.concurrency or 1)
        if factor not in self.runs:
            run = serve_plan(plan, self.servers, requests_at(self.plan.workload, factor, self.count))
            self.runs[factor] = ServedAt(factor, _load(plan.workload, run), run)
            done = len(self.runs)
            self.tick(done, max(done + 1, len(SHARES) + 4))
        return self.runs[factor]

    def saturation(self) -> float:
        """The rate that is served while the queue grows: the load is doubled until it does.

        It is that of the second half of the arrivals, or of the whole run if that is more: a short run has too few
        answers while requests arrive.
        """
        found = self.serve(1.0)
        while found.stable and found.factor < WIDEST:
            found = self.serve(found.factor * 2)
        if found.stable:
            return found.load
        most = max(self.count or self.plan.workload.requests or 0, LONG)
        if self.plan.workload.traffic is not None and self.plan.workload.traffic.trace is not None:
            most = len(found.run.records.input)
        told = serve_plan(at_rate(self.plan, found.factor), self.servers, most).simulation.summary
        return max(rate for rate in (told.bearable, told.request_rate) if isfinite(rate))

    def by_load(self) -> tuple[ServedAt, ...]:
        """All runs, the smallest load first."""
        return tuple(sorted(self.runs.values(), key=lambda r: r.load))


def _load(load: WorkloadSpec, run: Run) -> float:
    """Requests in flight; else the rate as stated, or as it came where it changes or conversations make requests."""
    if load.concurrency is not None:
        return float(load.concurrency)
    stated = nominal_rate(load)
    if stated is not None and not has_sessions(load):
        return stated
    many, span = arrival_span(run.records)
    return many / span if span else float("nan")
