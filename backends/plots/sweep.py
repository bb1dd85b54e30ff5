"""A plan served at several rates, from idle to saturated: always the same requests, closer together."""

from __future__ import annotations

from math import isfinite
from typing import NamedTuple

from plandsl.backends.cost.answers.probes import Point, Probe, Probes, Serve
from plandsl.backends.cost.serving.scaled import WIDEST
from plandsl.progress import Tick, silent
from plandsl.spec.plan import PlanSpec

SHARES = (0.1, 0.25, 0.4, 0.55, 0.7, 0.8, 0.9, 1.0, 1.1)
"""Rates that are served, as shares of the rate at which the servers are saturated."""

PLACES = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1, 2, 4)
"""Requests in flight that are served, as shares of those of the plan."""

LONG = 1000
"""Requests of the run that measures the saturation, at least; a trace has its own."""


class Sweep(NamedTuple):
    """A plan and its runs, the smallest load first.

    ``saturation`` is the largest rate that is served, in req/s; NaN of a closed loop.
    """

    plan: PlanSpec
    runs: tuple[Probe, ...]
    saturation: float

    @property
    def unit(self) -> str:
        """What the load of a run counts."""
        return "req/s" if self.plan.workload.concurrency is None else "requests in flight"


def sweep(
    plan: PlanSpec, serve: Serve, count: int | None = None, tick: Tick | None = None,
    ask: tuple[tuple[str, float], ...] = (),
) -> Sweep:  # fmt: skip
    """Serve a plan at rates from a tenth of its saturation to beyond it, ``count`` requests each.

    A closed loop is served with more and more requests in flight. ``serve`` makes the runs. ``ask`` is as in
    `Point`. Raises `PlanError`: E329 where all requests arrive at once, and as `simulate_plan`.
    """
    search = Probes(plan, serve, count, tick, expected=len(SHARES) + 4, ask=ask)
    if search.scaled == "concurrency":
        search.probe_all([search.snap(share) for share in PLACES])
        return Sweep(plan, _by_load(search), float("nan"))
    most = saturation(search)
    own = search.probe(1.0)
    search.probe_all([share * most / own.load for share in SHARES])
    return Sweep(plan, tuple(r for r in _by_load(search) if r.load <= SHARES[-1] * most * 1.001), most)


def saturation(search: Probes) -> float:
    """The rate that is served while the queue grows: the load is doubled until it does.

    It is that of the second half of the arrivals, or of the whole run if that is more: a short run has too few
    answers while requests arrive.
    """
    found = search.probe(1.0, (2.0, 4.0))
    while found.stable and found.factor < WIDEST:
        found = search.probe(found.factor * 2, (found.factor * 4,))
    if found.stable:
        return found.load
    load = search.plan.workload
    most = max(search.count or load.requests or 0, LONG)
    if load.traffic is not None and load.traffic.trace is not None:
        most = found.told.summary.requests
    told = search.serve([Point(found.factor, most)], silent).told.summary
    return max(rate for rate in (told.bearable, told.request_rate) if isfinite(rate))


def _by_load(search: Probes) -> tuple[Probe, ...]:
    """All runs, the smallest load first."""
    return tuple(sorted(search.probes.values(), key=lambda r: r.load))
