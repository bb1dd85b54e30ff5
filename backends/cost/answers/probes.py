"""Runs of a plan at several rates, and the search among them for the largest that holds."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from math import sqrt
from typing import NamedTuple, TypeAlias

from plandsl.answers.estimate import Requirement
from plandsl.answers.simulation import Figure, Simulation, Spread
from plandsl.backends.cost.answers.simulation import Check, Run, Servers, build_servers, serve_plan, time_of
from plandsl.backends.cost.deployments.build import Compiled
from plandsl.backends.cost.serving.percentiles import NO_FIGURE
from plandsl.backends.cost.serving.scaled import WIDEST, arrival_span, requests_at
from plandsl.backends.cost.serving.summary import served_rate
from plandsl.diagnostics import Diagnostic, PlanError
from plandsl.progress import Tick
from plandsl.spec.plan import PlanSpec, WorkloadSpec
from plandsl.spec.rates import Scaled, at_rate, has_sessions, nominal_rate, scaled_field

EXPECTED = 20
"""Runs that a search is expected to take, for its progress."""


class Point(NamedTuple):
    """A run to make: ``requests`` requests (None: as many as the load has) at ``factor`` times the rate of a plan.

    ``ask``: further pairs of a latency and a percentile; the `Probe` has their values in ``asked``.
    """

    factor: float
    requests: int | None
    ask: tuple[tuple[str, float], ...] = ()


class Probe(NamedTuple):
    """A run at ``factor`` times the load. ``rate`` is its rate in the unit of the answer, ``stable``: no growing queue.

    ``load``: requests/s, or the requests in flight of a closed loop. ``borne`` is the rate of requests that was served
    while the queue grew; NaN where it did not. ``asked`` has the percentiles that its `Point` asks for.
    """

    factor: float
    rate: float
    load: float
    told: Simulation
    checks: tuple[Check, ...]
    borne: Figure
    arrival_span: float
    asked: dict[tuple[str, float], float]

    @property
    def stable(self) -> bool:
        """Whether the queue does not grow."""
        return self.told.summary.stable

    @property
    def serves(self) -> bool:
        """Whether any request is served: of a load of which all are refused no queue grows either."""
        return self.told.summary.served > 0

    def spread(self, metric: str) -> Spread:
        """A latency over the requests of the run."""
        found: Spread = getattr(self.told.summary, metric)
        return found

    def holds(self, shift: float = 0.0) -> bool:
        """Whether it is stable, and nothing that must not grow is too large, each ``shift`` half widths higher."""
        return self.serves and self.stable and all(check.met(shift) for check in self.checks if check.require.caps)

    @property
    def missed(self) -> tuple[Requirement, ...]:
        """The requirements that are missed."""
        return tuple(check.told for check in self.checks if not check.met())

    @property
    def keeps_all(self) -> bool:
        """Whether it is stable and every requirement is met."""
        return self.serves and self.stable and not self.missed

    @property
    def alone(self) -> bool:
        """Whether requests never met, so that a lower rate is no better."""
        return self.told.occupancy.running[1] <= 1 and self.told.occupancy.waiting[1] < 1


Holds: TypeAlias = Callable[[Probe], bool]
Ends: TypeAlias = tuple[Probe | None, Probe | None]
"""The largest rate that was seen to hold, and the smallest one above it that was seen to fail."""

Serve: TypeAlias = Callable[[Iterable[Point], Tick], Probe]
"""Makes the run at the first of some points. Those behind it may be asked for next; they need not be read."""


def serve_here(plan: PlanSpec, servers: Servers) -> Serve:
    """Runs of ``plan`` on these servers, in this process."""
    return lambda points, tick: probe_at(plan, servers, next(iter(points)), tick)


def serve_made(made: Compiled) -> Serve:
    """Runs of a compiled plan, in this process."""
    return serve_here(made.spec, build_servers(made))


def probe_at(plan: PlanSpec, servers: Servers, point: Point, tick: Tick | None = None) -> Probe:
    """The run of ``plan`` at a point. Raises as `serve_plan` does."""
    moved = at_rate(plan, point.factor)
    return _probe_of(point, moved.workload, serve_plan(moved, servers, point.requests, tick))


def find_scaled(plan: PlanSpec) -> Scaled:
    """What of the load of ``plan`` grows with its rate. Raises `PlanError` (E329) where all requests arrive at once."""
    scaled = scaled_field(plan.workload)
    if scaled is not None:
        return scaled
    why = f"`{plan.name}` has no rate that could grow: all its requests arrive at once"
    hint = "give the workload `rate = 12 req/s`, a `trace` or `concurrency = 64`"
    raise PlanError([Diagnostic("E329", why, plan.workload.span or plan.span, hint=hint)])


class Probes:
    """Runs by their factor. A run that was made once is not made again. ``expected`` runs are made, for the progress.
    A search begins at the factor ``near``.

    Raises `PlanError` as `find_scaled` does.
    """

    def __init__(
        self, plan: PlanSpec, serve: Serve, count: int | None, tick: Tick | None, expected: int = EXPECTED,
        ask: tuple[tuple[str, float], ...] = (), near: float = 1.0,
    ) -> None:  # fmt: skip
        self.plan, self.scaled, self.serve, self.count, self.ask = plan, find_scaled(plan), serve, count, ask
        self.tick, self.expected, self.near = tick, expected, near
        self.probes: dict[float, Probe] = {}
        self.idle = False

    def probe(self, factor: float, then: Iterable[float] = ()) -> Probe:
        """The run at ``factor`` times the load; those at the factors of ``then`` may be asked for next."""
        if factor not in self.probes:
            done = len(self.probes)
            points = map(self._point, (f for some in ((factor,), then) for f in some if f not in self.probes))

            def tick(served: int, of: int) -> None:
                if self.tick is not None:
                    self.tick(done * of + served, max(self.expected, done + 1) * of)

            self.probes[factor] = self.serve(points, tick)
        return self.probes[factor]

    def probe_all(self, factors: Sequence[float]) -> None:
        """Make the runs at all ``factors``, none of which depends on another."""
        for at, factor in enumerate(factors):
            self.probe(factor, factors[at + 1 :])

    def _point(self, factor: float) -> Point:
        return Point(factor, requests_at(self.plan.workload, factor, self.count), self.ask)

    def snap(self, factor: float) -> float:
        """The nearest factor that the load can have: a concurrency is whole."""
        places = self.plan.workload.concurrency
        return factor if places is None else max(1, round(factor * places)) / places

    def largest(self, holds: Holds, close: float) -> Ends:
        """The largest rate that ``holds``, and the one above that fails: at most ``close`` times as large."""
        low, high = self.known(holds)
        while not self.settled(low, high):
            likely = self.likely(None if low is None else low.factor, None if high is None else high.factor, close)
            factor = next(likely, None)
            if factor is None:
                break
            self.probe(factor, likely)
            low, high = self.known(holds)
        return low, high

    def settled(self, low: Probe | None, high: Probe | None) -> bool:
        """Whether lower rates are no better, where none holds; or higher ones no worse, where all hold."""
        if low is None:
            return high is not None and high.alone
        return high is None and self.useless(low)

    def likely(self, low: float | None, high: float | None, close: float) -> Iterator[float]:
        """The factor that comes next between one that holds and one that fails; then what comes after it, either way.

        The nearer ones come first.
        """
        ends = deque([(low, high)])
        while ends:
            low, high = ends.popleft()
            factor = self.following(low, high, close)
            if factor is not None:
                yield factor
                ends.extend(((factor, high), (low, factor)))

    def following(self, low: float | None, high: float | None, close: float) -> float | None:
        """The factor that comes next; None where the two are as near as they need to be, or as far as they may be."""
        if low is None and high is None:
            return self.snap(self.near)
        if low is None:
            assert high is not None, "one of the two is known"
            below = self.snap(high / 2)
            return below if high > 1 / WIDEST and below != high else None
        if high is None:
            return self.snap(low * 2) if low < WIDEST else None
        if high / low <= close:
            return None
        middle = self.snap(sqrt(low * high))
        if middle in (low, high):
            middle = self.snap((low + high) / 2)
        return middle if low < middle < high else None

    def known(self, holds: Holds) -> Ends:
        """The largest rate that holds, and the next one above it that was tried; the smallest one if none holds."""
        runs = sorted(self.probes.values(), key=lambda probe: probe.factor)
        low = next((probe for probe in reversed(runs) if holds(probe)), None)
        return low, next((probe for probe in runs if low is None or probe.factor > low.factor), None)

    def useless(self, low: Probe) -> bool:
        """Whether more requests in flight would only wait: as many run as with half of them."""
        half = self.probes.get(self.snap(low.factor / 2))
        held, before = low.told.occupancy, None if half is None else half.told.occupancy
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


def _probe_of(point: Point, load: WorkloadSpec, run: Run) -> Probe:
    many, span = arrival_span(run.records)
    borne = NO_FIGURE if run.simulation.summary.stable else served_rate(run.records)
    rate, requests = _rates(load, many / span if span else float("nan"))
    return Probe(
        factor=point.factor,
        rate=rate,
        load=requests,
        told=run.simulation,
        checks=run.checks,
        borne=borne,
        arrival_span=span,
        asked={one: time_of(run.records, *one).value for one in point.ask},
    )


def _rates(load: WorkloadSpec, came: float) -> tuple[float, float]:
    """The rate of a load in the unit of the answer; and in requests/s, which ``came``, or requests in flight.

    A rate is the one that is stated, or as it was drawn where it changes over time or conversations make requests.
    """
    if load.concurrency is not None:
        return float(load.concurrency), float(load.concurrency)
    stated = nominal_rate(load)
    requests = came if stated is None or has_sessions(load) else stated
    if scaled_field(load) == "speed" and load.traffic is not None and load.traffic.trace is not None:
        return load.traffic.trace.speed, requests
    return requests if stated is None else stated, requests
