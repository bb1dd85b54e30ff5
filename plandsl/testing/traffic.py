"""Strategies for loads with requests over time, without files."""

from __future__ import annotations

from typing import assert_never

from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy, composite

from plandsl.spec.plan import RequireSpec, WorkloadSpec
from plandsl.spec.scheduler import GRAPHS, LIMITS, SCHEDULERS, WRITES, Limit, SchedulerSpec, TierSpec
from plandsl.spec.traffic import (
    AdaptersSpec,
    Arrivals,
    AtOnce,
    Bounds,
    ClassSpec,
    Distribution,
    Exponential,
    Fixed,
    Lengths,
    Lognormal,
    Normal,
    OnOff,
    SessionsSpec,
    Steady,
    TrafficSpec,
    Uniform,
    Varying,
    Zipf,
    solve_lognormal,
)
from plandsl.units import TIME


@composite
def lengths(draw: DrawFn) -> Distribution:
    """A distribution of lengths up to some thousand tokens."""
    low = draw(st.integers(1, 2000))
    high = low + draw(st.integers(0, 2000))
    bounds = draw(st.sampled_from((Bounds(), Bounds(low, high), Bounds(None, high), Bounds(low, None))))
    mean = float(draw(st.integers(low, high)))
    wide = draw(st.integers(1, 20)) / 8
    kind = draw(st.sampled_from(("fixed", "uniform", "normal", "exponential", "lognormal", "zipf")))
    match kind:
        case "fixed":
            return Fixed(low)
        case "uniform":
            return Uniform(low, high)
        case "normal":
            return Normal(mean, mean / 4, bounds)
        case "exponential":
            return Exponential(mean, bounds)
        case "zipf":
            return Zipf(wide, 1, high)
        case _:
            return draw(_lognormals(max(mean, 2.0), bounds))


@composite
def _lognormals(draw: DrawFn, mean: float, bounds: Bounds) -> Lognormal:
    """A lognormal distribution, given by any two of its numbers."""
    pairs = (("mean", "sigma"), ("p50", "sigma"), ("mean", "p50"), ("mean", "p99"), ("p50", "p95"), ("p95", "p99"))
    values = {"mean": mean, "sigma": 0.5, "p50": mean * 0.75, "p95": mean * 2, "p99": mean * 3}
    a, b = draw(st.sampled_from(pairs))
    found = solve_lognormal({a: values[a], b: values[b]})
    assert found is not None, "such numbers have a distribution"
    return Lognormal(((a, values[a]), (b, values[b])), *found, bounds)


@composite
def arrivals(draw: DrawFn, counted: bool = True) -> Arrivals:
    """When requests arrive. Only if they are ``counted`` may all arrive at once."""
    rate = draw(st.integers(1, 200)) / 4
    forms: tuple[SearchStrategy[Arrivals], ...] = (
        st.just(Steady(rate)),
        st.builds(Steady, st.just(rate), st.none() | st.integers(1, 40).map(lambda n: n / 8), st.just(False)),
        st.builds(Steady, st.just(rate), st.integers(1, 40).map(lambda n: n / 8), st.just(True)),
        st.builds(
            OnOff,
            st.just(rate),
            st.integers(1, 60),
            st.integers(1, 60),
            st.sampled_from((0.0, 0.25)),
            fixed=st.booleans(),
        ),
        st.just(Varying(((0.0, rate), (60.0, 0.0)), 90.0)),
        st.just(Varying(((0.0, 0.0), (10.0, rate)))),
    )
    if counted:
        forms = (*forms, st.just(AtOnce()))
    return draw(st.one_of(forms))


@composite
def _sessions(draw: DrawFn) -> SessionsSpec:
    turns: list[Distribution] = [Fixed(1), Fixed(3), Uniform(1, 5)]
    think: list[Distribution] = [Fixed(0.0), Fixed(2.5), Exponential(10.0), Uniform(1.0, 9.0)]
    return SessionsSpec(draw(st.sampled_from(turns)), draw(st.sampled_from(think)), draw(st.sampled_from((0, 5, 800))))


@composite
def _adapters(draw: DrawFn) -> AdaptersSpec:
    which: list[Distribution] = [Fixed(2), Uniform(1, 6), Zipf(1.1, 1, 20)]
    return AdaptersSpec(draw(st.sampled_from(which)), draw(st.sampled_from((1.0, 0.75))))


@composite
def _classes(draw: DrawFn, own: bool, talk: bool, adapters: bool = False) -> tuple[ClassSpec, ...]:
    """Two classes that share the arrivals of the load, or have their ``own``; ``talk``: also of conversations."""
    share = draw(st.integers(1, 7)) / 8
    asked = RequireSpec("", "ttft", "<=", 1.0, dimension=TIME, share=False, percentile=99)
    return tuple(
        ClassSpec(
            name,
            Lengths(draw(lengths()), draw(lengths())),
            share=None if own else part,
            arrivals=draw(arrivals(False)) if own else None,
            sessions=draw(st.none() | _sessions()) if talk else None,
            adapters=draw(st.none() | _adapters()) if adapters else None,
            requires=(asked,) if draw(st.booleans()) else (),
            priority=draw(st.sampled_from((0, 0, 3))),
        )
        for name, part in (("chat", share), ("long", 1 - share))
    )


@composite
def traffic(draw: DrawFn, adapters: bool = False) -> WorkloadSpec:
    """A load of some hundred requests over time: open or closed, of single requests, conversations or classes.

    ``adapters``: requests may name adapters, which the model must have then.
    """
    closed, mixed, own = draw(st.integers(0, 3)) == 0, draw(st.booleans()), draw(st.booleans())
    own = own and mixed and not closed
    both = Lengths(draw(lengths()), draw(lengths()))
    found = TrafficSpec(
        None if closed or own else draw(arrivals()),
        lengths=None if mixed else both,
        sessions=None if mixed or closed else draw(st.none() | _sessions()),
        classes=draw(_classes(own, not closed, adapters)) if mixed else (),
        duration=None if closed else draw(st.none() | st.integers(1, 600).map(float)),
        seed=draw(st.integers(0, 2**63 - 1)),
        adapters=draw(_adapters()) if adapters and not mixed else None,
    )
    if closed and not mixed:  # equal lengths would be the closed loop without anything to draw
        found = TrafficSpec(lengths=Lengths(Uniform(1, 9), both.output), seed=found.seed, adapters=found.adapters)
    size_in, size_out = found.means
    return WorkloadSpec(
        "w",
        input=size_in,
        output=size_out,
        batch=1,
        concurrency=draw(st.integers(1, 99)) if closed else None,
        requests=draw(st.integers(1, 400)),
        traffic=found,
    )


@composite
def schedulers(draw: DrawFn) -> SchedulerSpec:
    """A scheduler with some of its limits."""
    name = draw(st.sampled_from(SCHEDULERS))
    known = LIMITS[name]
    given = [limit for limit in known if draw(st.booleans())]
    caching = draw(st.booleans())
    tiers = tuple(draw(st.lists(_tiers(), max_size=3))) if caching else ()
    return SchedulerSpec(
        name,
        prefix_cache=caching,
        graphs=draw(st.sampled_from(((), (1, 2, 8), *GRAPHS))),
        limits=tuple((limit, draw(_limit(known[limit]))) for limit in given),
        tiers=tiers,
        write=draw(st.sampled_from(("", *WRITES))) if tiers else "",
    )


def _tiers() -> SearchStrategy[TierSpec]:
    sizes, rates, spans = st.integers(0, 4000), st.integers(1, 200), st.integers(0, 500)
    return st.builds(lambda a, b, c: TierSpec(a * 1e9, b * 1e9, c / 1e6), sizes, rates, spans)


def _limit(limit: Limit) -> SearchStrategy[bool | int | float | str]:
    match limit.kind:
        case "flag":
            return st.booleans()
        case "whole":
            return st.integers(limit.least, 4096)
        case "share":
            return st.integers(0, 99).map(lambda n: n / 100)
        case "number":
            return st.integers(0, 40).map(lambda n: n / 20)
        case "word":
            return st.sampled_from(limit.words)
        case _:
            assert_never(limit.kind)
