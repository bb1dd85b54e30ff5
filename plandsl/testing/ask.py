"""Ask a compiled plan for a law: the plan itself, its pools and shardings, or a simpler load that the law needs."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

from attrs import evolve

from plandsl.diagnostics import PlanError
from plandsl.driver import CompiledPlan
from plandsl.spec.plan import PlanSpec, WorkloadSpec
from plandsl.testing import laws_relations
from plandsl.testing.inapplicable import DoesNotApply
from plandsl.testing.known import (
    LAWS,
    OF_BATCHES,
    OF_ITSELF,
    OF_KERNELS,
    OF_ONE,
    OF_POOLS,
    OF_TRAFFIC,
    OF_WHOLE_PROMPTS,
    Law,
)


class Case(NamedTuple):
    """A plan that a law is asked of. ``how`` says in which way it differs from the plan that the user has."""

    plan: CompiledPlan
    how: tuple[str, ...] = ()


def cases(law: Law, plan: CompiledPlan) -> Iterator[Case]:
    """What a law is asked of: where it needs that, each pool and each sharding by itself, and a load that it knows."""
    if law not in LAWS:
        yield Case(plan)
        return
    how: tuple[str, ...] = ()
    if plan.spec.workload.chosen:
        plan, how = plan.served, ("with the requests in flight that the compiler chose",)
    if law in OF_ITSELF:
        yield from (Case(pool) for pool in plan.pools if len(plan.pools) == 1 or law not in OF_TRAFFIC)
        if len(plan.pools) > 1:
            yield Case(plan)
        return
    if plan.spec.workload.traffic is not None:
        plan, how = _at_mean(plan), ("at the mean of its load",)
    apart = (*how, "each pool by itself") if len(plan.pools) > 1 else how
    for pool in plan.pools:
        modes = pool.plain.modes if law in OF_ONE else (pool,)
        ways = (*apart, "each sharding by itself") if len(modes) > 1 else apart
        ways += ("without guesses",) if law in OF_ONE and pool.spec.speculate is not None else ()
        for one in modes:
            yield _told(one, _simpler(one, law), ways)
    if len(plan.pools) > 1 and law in OF_POOLS:
        yield _told(plan, _simpler(plan, law), how)


def _told(before: CompiledPlan, after: CompiledPlan, ways: tuple[str, ...]) -> Case:
    """``after`` in place of ``before``, with what was left out."""
    left = {
        "without its engine": before.spec.engine is not None and after.spec.engine is None,
        "without fusions of its engine": _fuses(before) and not _fuses(after) and after.spec.engine is not None,
        "for a batch that starts together": before.spec.workload.over_time and not after.spec.workload.over_time,
        "with whole prompts": before.spec.chunked_prefill is not None and after.spec.chunked_prefill is None,
        "without chunks of rows": before.spec.chunks > 1 and after.spec.chunks == 1,
        "without images": before.spec.workload.images > 0 and not after.spec.workload.images,
        "without micro-batches": before.spec.micro_batches > 1 and after.spec.micro_batches == 1,
    }
    return Case(after, (*ways, *(what for what, so in left.items() if so)))


def _fuses(plan: CompiledPlan) -> bool:
    return plan.spec.engine is not None and bool(plan.spec.engine.fusions)


@lru_cache(maxsize=8)
def _changed(plan: CompiledPlan, spec: PlanSpec) -> CompiledPlan:
    return plan if spec == plan.spec else CompiledPlan(spec, ())


def _simpler(plan: CompiledPlan, law: Law) -> CompiledPlan:
    """The plan without what a law does not speak of."""
    return _changed(plan, _simpler_spec(plan.spec, law))


def _simpler_spec(spec: PlanSpec, law: Law) -> PlanSpec:
    if spec.split is not None:
        first, then = (_simpler_spec(pool, law) for pool in spec.pools)
        both = evolve(spec.split, prefill=first, decode=then)
        return evolve(then, name=spec.name, requires=spec.requires, span=spec.span, split=both)
    if law is laws_relations.more_requests_hardly_lower_throughput:
        engine = None if spec.engine is None else evolve(spec.engine, fusions=())
        spec = evolve(spec, engine=engine, micro_batches=1, chunks=1)
    if law is laws_relations.adapters_are_never_free:  # a product that an adapter adds to is not cut into chunks
        spec = evolve(spec, chunks=1)
    if law in OF_WHOLE_PROMPTS:
        spec = evolve(spec, chunked_prefill=None, micro_batches=1)
    if law in OF_BATCHES:
        spec = evolve(spec, workload=_together(spec))
    if law in OF_KERNELS:
        spec = evolve(spec, engine=None)
    if law in OF_ONE and spec.workload.images:
        spec = evolve(spec, workload=evolve(spec.workload, images=0.0))
    return spec


def _together(spec: PlanSpec) -> WorkloadSpec:
    """The load as a batch that starts together, with as many requests in flight."""
    load = spec.workload
    if load.concurrency is None:
        return load
    each = load.concurrency // (spec.sharding.replicas * (spec.in_flight or 1))
    return evolve(load, batch=max(1, each), concurrency=None, requests=None)


@lru_cache(maxsize=2)
def _at_mean(plan: CompiledPlan) -> CompiledPlan:
    """The plan at the mean of its load: as many requests always in flight as serve its mean rate."""
    from plandsl.backends.cost.answers.mean_load import plan_at_mean

    return CompiledPlan(plan_at_mean(plan.spec, plan.cost.plan.workload.concurrency), plan.notes)


class Asked(NamedTuple):
    """What came of asking a plan for a law that it keeps, or that does not apply to it.

    ``how`` says what the law was asked of where that is not the plan as it is. ``why_not`` is why the law does not
    apply, empty where it does.
    """

    how: tuple[str, ...] = ()
    why_not: str = ""


def ask(law: Law, plan: CompiledPlan) -> Asked:
    """Ask ``plan`` for a law. Raises AssertionError where it is broken, and whatever else a law raises."""
    how: dict[str, None] = {}
    why_not: dict[str, None] = {}
    kept = False
    for case in cases(law, plan):
        try:
            held = law(case.plan)
        except DoesNotApply as reason:
            why_not |= {str(reason): None}
        except PlanError as error:
            why_not |= {d.message: None for d in error.diagnostics[:1]}
        else:
            if held is not None and not held:
                raise AssertionError(f"the law gives {held}")
            kept = True
            how |= dict.fromkeys(case.how)
    return Asked(tuple(how)) if kept else Asked(why_not="; ".join(why_not))
