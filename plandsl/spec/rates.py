"""The load of a plan at another rate: as many times as many requests in the same time."""

from __future__ import annotations

from typing import Literal, TypeAlias, assert_never

from attrs import evolve

from plandsl.spec.plan import PlanSpec, WorkloadSpec
from plandsl.spec.traffic import (
    Arrivals,
    AtOnce,
    OnOff,
    Steady,
    Traced,
    TraceSpec,
    TrafficSpec,
    Varying,
    mean_rate,
)
from plandsl.values import sum_up

Scaled: TypeAlias = Literal["rate", "speed", "concurrency"]
"""What of a load grows with its rate."""


def scaled_field(load: WorkloadSpec) -> Scaled | None:
    """The field of a load that `at_rate` multiplies; None where all requests arrive at once.

    ``rate`` stands for the rates of classes too, ``speed`` for a trace that is replayed by its own times.
    """
    if load.concurrency is not None:
        return "concurrency"
    traffic = load.traffic
    if traffic is None:
        return None
    if any(isinstance(one, AtOnce) for one in arrivals_of(load)):
        return None
    return "speed" if traffic.trace is not None and traffic.arrivals is None else "rate"


def arrivals_of(load: WorkloadSpec) -> list[Arrivals]:
    """The arrivals of a load, or of each of its classes; empty where a closed loop or a trace has the times."""
    traffic = load.traffic
    if traffic is None:
        return []
    every = [traffic.arrivals] if traffic.arrivals is not None else [one.arrivals for one in traffic.classes]
    return [one for one in every if one is not None]


def nominal_rate(load: WorkloadSpec) -> float | None:
    """The sum of all rates that the load states; None where one changes over time, or a trace has the times."""
    found = arrivals_of(load)
    if not found or not all(isinstance(one, (Steady, OnOff)) for one in found):
        return None
    return sum_up(mean_rate(one) or 0.0 for one in found)


def has_sessions(load: WorkloadSpec) -> bool:
    """Whether some requests are turns of conversations, so that a rate counts conversations."""
    traffic = load.traffic
    return traffic is not None and (traffic.sessions is not None or any(one.sessions for one in traffic.classes))


def at_rate(plan: PlanSpec, factor: float) -> PlanSpec:
    """``plan`` with ``factor`` times the rate of its load: its rates, the speed of its trace, or its concurrency.

    Lengths, think times, the seed and the number of requests stay; so do the times at which a rate changes. A
    concurrency is rounded, and is at least 1. Raises `ValueError` where all requests arrive at once (`scaled_field`).
    """
    load = plan.workload
    match field := scaled_field(load):
        case "concurrency":
            return evolve(plan, workload=evolve(load, concurrency=max(1, round((load.concurrency or 1) * factor))))
        case "rate" | "speed":
            assert load.traffic is not None, "only requests over time have a rate"
            return evolve(plan, workload=evolve(load, traffic=_scale_traffic(load.traffic, factor)))
        case None:
            raise ValueError(f"the load `{load.name}` has no rate")
        case _:
            assert_never(field)


def _scale_traffic(traffic: TrafficSpec, factor: float) -> TrafficSpec:
    trace: TraceSpec | None = traffic.trace
    if trace is not None and traffic.arrivals is None:
        return evolve(traffic, trace=evolve(trace, speed=trace.speed * factor))
    classes = tuple(
        one if one.arrivals is None else evolve(one, arrivals=_scale_arrivals(one.arrivals, factor))
        for one in traffic.classes
    )
    arrivals = None if traffic.arrivals is None else _scale_arrivals(traffic.arrivals, factor)
    return evolve(traffic, arrivals=arrivals, classes=classes)


def _scale_arrivals(arrivals: Arrivals, factor: float) -> Arrivals:
    match arrivals:
        case Steady():
            return arrivals._replace(rate=arrivals.rate * factor)
        case OnOff():
            return arrivals._replace(high=arrivals.high * factor, low=arrivals.low * factor)
        case Varying():
            return arrivals._replace(steps=tuple((at, rate * factor) for at, rate in arrivals.steps))
        case Traced():
            return arrivals._replace(scale=arrivals.scale * factor)
        case AtOnce():
            return arrivals
        case _:
            assert_never(arrivals)
