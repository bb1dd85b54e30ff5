"""A strategy for plans near a given one: other degrees on its machine, and other loads."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from attrs import evolve
from hypothesis import assume
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, composite

from plandsl.diagnostics import PlanError
from plandsl.driver import CompiledPlan
from plandsl.spec.plan import AxisSpec, PlanSpec, ShardingSpec, WorkloadSpec
from plandsl.spec.rates import at_rate, scaled_field
from plandsl.testing.compare import compiled

MOST = 512
"""Most requests of a batch, or in flight, that are drawn."""


@composite
def neighbours(draw: DrawFn, plan: PlanSpec | CompiledPlan) -> PlanSpec:
    """A plan that compiles and differs from ``plan`` in its load, in the degrees of its sharding, or in both.

    The mesh keeps its axes and rules, and the machine stays; two shardings of a `shift`, and two pools, change alike. A
    load whose requests arrive over time has another seed, and another rate.
    """
    spec = plan.spec if isinstance(plan, CompiledPlan) else plan
    wanted = draw(st.sampled_from(("load", "degrees", "both")))
    found = spec
    if wanted != "load":
        found = _with_degrees(spec, draw(_moves(_axes(spec))))
    if wanted != "degrees" or found is spec:
        found = draw(_other_loads(found))
    if _compiles(found):
        return found
    found = draw(_other_loads(spec))
    assume(_compiles(found))
    return found


def _compiles(spec: PlanSpec) -> bool:
    try:
        compiled(spec)
    except PlanError:
        return False
    return True


# ---- degrees


def _axes(spec: PlanSpec) -> tuple[AxisSpec, ...]:
    """The axes of all pools, each name once."""
    return tuple({axis.name: axis for pool in spec.pools for axis in pool.sharding.axes}.values())


@composite
def _moves(draw: DrawFn, axes: tuple[AxisSpec, ...]) -> dict[str, float]:
    """By how much the size of each axis is multiplied: two axes exchange a factor, or one is halved or doubled."""
    if not axes:
        return {}
    wide = [axis for axis in axes if axis.size % 2 == 0]
    grows = draw(st.sampled_from(axes)).name
    found = {grows: 2.0} if not wide or draw(st.integers(0, 2)) else {}
    if wide and (not found or draw(st.integers(0, 3))):
        shrinks = draw(st.sampled_from(wide)).name
        found[shrinks] = found.get(shrinks, 1.0) / 2
    return found


def _with_degrees(spec: PlanSpec, moves: dict[str, float]) -> PlanSpec:
    if spec.split is not None:
        first, then = (_with_degrees(pool, moves) for pool in spec.pools)
        both = evolve(spec.split, prefill=first, decode=then)
        return evolve(then, name=spec.name, requires=spec.requires, span=spec.span, split=both)
    found = evolve(spec, sharding=_resized(spec.sharding, moves))
    if spec.shift is None:
        return found
    return evolve(found, shift=evolve(spec.shift, tensor=_resized(spec.shift.tensor, moves)))


def _resized(sharding: ShardingSpec, moves: dict[str, float]) -> ShardingSpec:
    axes = (a._replace(size=max(1, int(a.size * moves.get(a.name, 1.0)))) for a in sharding.axes)
    return evolve(sharding, axes=tuple(axes))


# ---- loads


@composite
def _other_loads(draw: DrawFn, spec: PlanSpec) -> PlanSpec:
    """The plan with another load in all of its pools."""
    load = spec.workload
    if load.traffic is not None:
        seed, factor = draw(st.integers(0, 2**31)), draw(st.sampled_from((0.5, 1.0, 0.9, 1.1, 0.25)))
        return _with_loads(spec, lambda own: _traffic(spec, own, seed, factor))
    sizes: dict[str, Any] = {"input": draw(_near(load.input))}
    sizes |= {} if load.encodes else {"output": draw(_near(load.output))}
    many = draw(_near(load.concurrency or load.batch, MOST))
    if load.concurrency is not None:
        requests = None if load.requests is None else max(load.requests, many)
        sized: dict[str, Any] = {"concurrency": many, "requests": requests}
        return _with_loads(spec, lambda own: evolve(own, **sizes, **sized))
    return _with_loads(spec, lambda own: evolve(own, **sizes, batch=many if own.batch == load.batch else own.batch))


def _traffic(spec: PlanSpec, load: WorkloadSpec, seed: int, factor: float) -> WorkloadSpec:
    """The load from another seed, at ``factor`` times its rate where it has one."""
    found = evolve(load, traffic=load.traffic and evolve(load.traffic, seed=seed))
    if scaled_field(load) is None:
        return found
    return at_rate(evolve(spec, workload=found, split=None), factor).workload


def _with_loads(spec: PlanSpec, change: Callable[[WorkloadSpec], WorkloadSpec]) -> PlanSpec:
    found = evolve(spec, workload=change(spec.workload))
    if spec.split is None:
        return found
    first, then = (_with_loads(pool, change) for pool in spec.pools)
    return evolve(found, split=evolve(spec.split, prefill=first, decode=then))


@composite
def _near(draw: DrawFn, value: int, most: int = 0) -> int:
    """A number near ``value``: itself, half, twice, one more or less, or any up to twice or to ``most``."""
    known = {value, max(1, value // 2), 2 * value, value + 1, max(1, value - 1), 1}
    return draw(st.sampled_from(sorted(known)) | st.integers(1, max(most, 2 * value)))
