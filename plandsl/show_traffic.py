"""Requests over time as `.plan` text; `plandsl.show` writes the rest of a plan."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import assert_never

from plandsl.spec.traffic import (
    AdaptersSpec,
    Arrivals,
    AtOnce,
    Bounds,
    ClassSpec,
    Distribution,
    Empirical,
    Exponential,
    Fixed,
    Lengths,
    Lognormal,
    Normal,
    OnOff,
    SessionsSpec,
    Steady,
    Traced,
    TrafficSpec,
    Uniform,
    Varying,
    Zipf,
)

Show = Callable[[float], str]
"""Writes a number so that it reads back as the same number."""


def traffic_lines(
    traffic: TrafficSpec, number: Show, percent: Show, requirement: Callable[..., str], encodes: bool = False
) -> Iterator[str]:
    """The fields of a workload with requests over time, apart from `requests` and `concurrency`."""
    if traffic.lengths is not None:
        yield from _lengths(traffic.lengths, number, encodes)
    if traffic.arrivals is not None:
        yield f"rate = {show_arrivals(traffic.arrivals, number)}"
    if traffic.trace is not None:
        yield f'trace = "{traffic.trace.file.shown}"'
        if traffic.trace.format:
            yield f"format = {traffic.trace.format}"
        if traffic.trace.speed != 1:
            yield f"speed = {number(traffic.trace.speed)}"
    if traffic.sessions is not None:
        yield _sessions(traffic.sessions, number)
    if traffic.adapters is not None:
        yield from _adapters(traffic.adapters, number, percent)
    if traffic.duration is not None:
        yield f"duration = {number(traffic.duration)} s"
    if traffic.seed:
        yield f"seed = {traffic.seed}"
    for one in traffic.classes:
        inner = [*_class(one, number, percent), *map(requirement, one.requires)]
        yield f"class {one.name} {{ {', '.join(inner)} }}"


def _class(one: ClassSpec, number: Show, percent: Show) -> Iterator[str]:
    if one.share is not None:
        yield f"share = {percent(one.share)}"
    if one.arrivals is not None:
        yield f"rate = {show_arrivals(one.arrivals, number)}"
    yield from _lengths(one.lengths, number)
    if one.priority:
        yield f"priority = {one.priority}"
    if one.sessions is not None:
        yield _sessions(one.sessions, number)
    if one.adapters is not None:
        yield from _adapters(one.adapters, number, percent)


def _adapters(adapters: AdaptersSpec, number: Show, percent: Show) -> Iterator[str]:
    drawn = f'column("{adapters.column}")' if adapters.which is None else show_distribution(adapters.which, number)
    yield f"adapters = {drawn}"
    if adapters.share != 1:
        yield f"adapted = {percent(adapters.share)}"


def _lengths(lengths: Lengths, number: Show, encodes: bool = False) -> Iterator[str]:
    yield f"input = {show_distribution(lengths.input, number)}"
    yield "output = 0" if encodes else f"output = {show_distribution(lengths.output, number)}"


def _sessions(sessions: SessionsSpec, number: Show) -> str:
    turns, think = show_distribution(sessions.turns, number), show_distribution(sessions.think, number, " s")
    return f"sessions {{ turns = {turns}, think = {think}, system = {sessions.system} }}"


def show_distribution(distribution: Distribution, number: Show, unit: str = "") -> str:
    """A distribution as text; ``unit`` stands after its values."""
    match distribution:
        case Fixed(value):
            return f"{number(value)}{unit}"
        case Uniform(low, high):
            return f"uniform({number(low)}{unit}, {number(high)}{unit})"
        case Normal(mean, sigma, bounds):
            given = f"mean = {number(mean)}{unit}, sigma = {number(sigma)}{unit}"
            return f"normal({given}{_bounds(bounds, number, unit)})"
        case Exponential(mean, bounds):
            return f"exponential({number(mean)}{unit}{_bounds(bounds, number, unit)})"
        case Lognormal(given=pair, bounds=bounds):
            parts = (f"{name} = {number(value)}{'' if name == 'sigma' else unit}" for name, value in pair)
            return f"lognormal({', '.join(parts)}{_bounds(bounds, number, unit)})"
        case Zipf(exponent, low, high):
            return f"zipf({number(exponent)}, min = {low}, max = {high})"
        case Empirical(file, column):
            return f'empirical("{file.shown}", column = "{column}")'
        case _:
            assert_never(distribution)


def _bounds(bounds: Bounds, number: Show, unit: str) -> str:
    pairs = (("min", bounds.low), ("max", bounds.high))
    return "".join(f", {name} = {number(value)}{unit}" for name, value in pairs if value is not None)


def show_arrivals(arrivals: Arrivals, number: Show) -> str:
    """When requests arrive, as text."""
    match arrivals:
        case Steady(rate, None):
            return f"constant({number(rate)} req/s)"
        case Steady(rate, shape, scaled=True):
            return f"vllm_rate({number(rate)} req/s, burstiness = {number(1.0 if shape is None else shape)})"
        case Steady(rate, shape):
            return (
                f"{number(rate)} req/s"
                if shape == 1
                else f"gamma(mean = {number(rate)} req/s, {_spread(shape, number)})"
            )
        case OnOff(high, on, off, low, fixed):
            given = f"on = {number(on)} s, off = {number(off)} s, low = {number(low)} req/s"
            return f"on_off({number(high)} req/s, {given}{', fixed = true' if fixed else ''})"
        case Varying(steps, every):
            text = f"[{', '.join(f'[{number(at)} s, {number(rate)} req/s]' for at, rate in steps)}]"
            return text if every is None else f"varying({text}, every = {number(every)} s)"
        case Traced(file, width, scale):
            return f'trace_rate("{file.shown}", bin = {number(width)} s, scale = {number(scale)})'
        case AtOnce():
            return "at_once"
        case _:
            assert_never(arrivals)


def arrivals_word(arrivals: Arrivals) -> str:
    """The word of the language for a form of `rate`."""
    match arrivals:
        case Steady(shape=None):
            return "constant"
        case Steady(shape=shape):
            return "poisson" if shape == 1 else "gamma"
        case OnOff():
            return "on_off"
        case Varying():
            return "varying"
        case Traced():
            return "trace_rate"
        case AtOnce():
            return "at_once"
        case _:
            assert_never(arrivals)


def _spread(shape: float | None, number: Show) -> str:
    """`cv` if a short one gives exactly this shape, else `burstiness`."""
    shape = 1.0 if shape is None else shape
    cv = round(shape**-0.5, 9)
    return f"cv = {number(cv)}" if cv**-2 == shape else f"burstiness = {number(shape)}"
