"""A load in windows of time: the arrivals of each at their mean rate there."""

from __future__ import annotations

from math import ceil
from typing import NamedTuple, assert_never

import numpy as np
from attrs import evolve

from plandsl import limits
from plandsl.backends.cost.serving.arrivals import rates_of
from plandsl.backends.cost.serving.draws import Floats
from plandsl.diagnostics import Diagnostic, PlanError
from plandsl.spec.plan import PlanSpec, WorkloadSpec
from plandsl.spec.traffic import Arrivals, AtOnce, OnOff, Steady, Traced, TrafficSpec, Varying, mean_rate
from plandsl.traces import read_trace
from plandsl.values import sum_up


class Window(NamedTuple):
    """The load from ``start_s`` to ``end_s``: ``rate`` arrivals per second, on and on; None where nothing arrives.

    ``most`` is the number of requests that a trace has lengths for; None: any number.
    """

    start_s: float
    end_s: float
    rate: float
    load: WorkloadSpec | None
    most: int | None = None


def windows(plan: PlanSpec, every: float) -> list[Window]:
    """The windows of ``every`` seconds of a plan's load, the last one shorter.

    They cover the ``duration`` of the load, else one turn of a rate that starts again, the times of a trace, or a list
    of rates with one window of its last rate; a rate that does not change has one window. Raises `PlanError`: E330
    where a load has no rate, E214 for more than `MAX_WINDOWS`, E452 where a trace is wrong.
    """
    load = plan.workload
    traffic = load.traffic
    if load.concurrency is not None or traffic is None:
        what = "keeps its requests in flight" if load.concurrency is not None else "is one batch"
        raise _no_rate(plan, f"the load `{load.name}` {what}")
    if traffic.trace is not None and traffic.arrivals is None:
        return _of_trace(plan, load, traffic, every)
    kinds = [traffic.arrivals] if traffic.arrivals is not None else [one.arrivals for one in traffic.classes]
    rates = [_Rates.of(arrivals) for arrivals in kinds if arrivals is not None]
    if any(isinstance(one, AtOnce) for one in kinds):
        raise _no_rate(plan, f"all requests of the load `{load.name}` arrive at once")
    length = traffic.duration or max(one.length + (every if one.stays else 0.0) for one in rates) or every
    most = None if traffic.trace is None else _number(traffic)
    found = []
    for start, end in _cut(plan, length, every):
        there = [one.mean(start, end) for one in rates]
        found.append(Window(start, end, sum_up(there), _at(load, traffic, there), most))
    return found


def _no_rate(plan: PlanSpec, why: str) -> PlanError:
    hint = "give the workload a rate that changes, `rate = varying([[0 h, 2 req/s], [8 h, 20 req/s]], every = 24 h)`"
    return PlanError(
        [Diagnostic("E330", f"{why}: it has no rate over the day", plan.workload.span or plan.span, hint=hint)]
    )


def _cut(plan: PlanSpec, length: float, every: float) -> list[tuple[float, float]]:
    many = ceil(length / every - 1e-9)
    if many > limits.MAX_WINDOWS:
        why = f"the load lasts {length:g} s, which is more than {limits.MAX_WINDOWS:,} intervals of {every:g} s"
        raise PlanError(
            [
                Diagnostic(
                    "E214",
                    why,
                    plan.workload.span,
                    hint=limits.MAX_WINDOWS.hint("take longer intervals: --every 1h", many),
                )
            ]
        )
    return [(at * every, min((at + 1) * every, length)) for at in range(many)]


class _Rates(NamedTuple):
    """A rate over time: steps of (time, rate) over ``length`` seconds. ``stays``: the last rate has no end."""

    steps: tuple[tuple[float, float], ...]
    length: float
    stays: bool
    again: bool

    @classmethod
    def of(cls, arrivals: Arrivals) -> _Rates:
        """How a rate changes; of one that does not, one step."""
        match arrivals:
            case Steady() | OnOff():
                return cls(((0.0, mean_rate(arrivals) or 0.0),), 0.0, stays=True, again=False)
            case Varying(steps, None):
                return cls(steps, steps[-1][0], stays=True, again=False)
            case Varying(steps, every):
                return cls(steps, every or 0.0, stays=False, again=True)
            case Traced():
                return cls.of(rates_of(arrivals))
            case AtOnce():
                return cls(((0.0, 0.0),), 0.0, stays=True, again=False)
            case _:
                assert_never(arrivals)

    def mean(self, start: float, end: float) -> float:
        """The mean rate between two times."""
        return (self._until(end) - self._until(start)) / (end - start)

    def _until(self, time: float) -> float:
        """Expected arrivals before a time."""
        if self.again:
            turns, time = divmod(time, self.length)
            return turns * self._within(self.length) + self._within(time)
        return self._within(time)

    def _within(self, time: float) -> float:
        starts = [at for at, _ in self.steps]
        ends = [*starts[1:], float("inf")]
        return sum_up(rate * max(min(end, time) - at, 0.0) for (at, rate), end in zip(self.steps, ends, strict=True))


def _at(load: WorkloadSpec, traffic: TrafficSpec, rates: list[float]) -> WorkloadSpec | None:
    """The load at these rates, of the whole or of each class; classes without arrivals are left out."""
    if not any(rates):
        return None
    if traffic.arrivals is not None:
        return _endless(load, evolve(traffic, arrivals=_steady(traffic.arrivals, rates[0])))
    pairs = [(one, rate) for one, rate in zip(traffic.classes, rates, strict=True) if rate and one.arrivals is not None]
    kinds = tuple(evolve(one, arrivals=_steady(one.arrivals, rate)) for one, rate in pairs if one.arrivals is not None)
    return _endless(load, evolve(traffic, classes=kinds))


def _endless(load: WorkloadSpec, traffic: TrafficSpec) -> WorkloadSpec:
    return evolve(load, traffic=evolve(traffic, duration=None), requests=None)


def _steady(arrivals: Arrivals, rate: float) -> Arrivals:
    """Arrivals that do not change keep how they scatter; the others are a Poisson process."""
    return arrivals if isinstance(arrivals, (Steady, OnOff)) else Steady(rate)


# ---- traces


def _times(traffic: TrafficSpec) -> Floats:
    assert traffic.trace is not None, "a trace"
    trace, wrong = read_trace(traffic.trace.file, traffic.trace.format)
    if trace is None or wrong:
        raise PlanError(wrong)
    return np.frombuffer(trace.seconds) if trace.seconds else np.zeros(len(trace.input))


def _number(traffic: TrafficSpec) -> int:
    return len(_times(traffic))


def _of_trace(plan: PlanSpec, load: WorkloadSpec, traffic: TrafficSpec, every: float) -> list[Window]:
    """The windows of a replayed trace: as many arrivals as it has there, with its lengths in its order."""
    assert traffic.trace is not None, "a trace"
    seconds = _times(traffic)
    times = (seconds - seconds.min()) / traffic.trace.speed
    last = float(times.max())
    if last <= 0:
        raise _no_rate(plan, f"all requests of the load `{load.name}` arrive at once")
    found = []
    for start, end in _cut(plan, min(last, traffic.duration or last), every):
        number = np.count_nonzero((times >= start) & ((times < end) | (end == last)))
        rate = number / (end - start)
        at = _endless(load, evolve(traffic, arrivals=Steady(rate))) if number else None
        found.append(Window(start, end, rate, at, len(times)))
    return found
