"""Laws about tiers of KV memory behind GPUs, which serve simulated requests alone."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from attrs import evolve

from plandsl import limits
from plandsl.backends.cost import Metrics
from plandsl.backends.cost.answers.figures import change_pools
from plandsl.driver import CompiledPlan
from plandsl.spec.plan import PlanSpec
from plandsl.spec.scheduler import TierSpec
from plandsl.testing.inapplicable import DoesNotApply
from plandsl.testing.laws_traffic import serve_some

HOST = TierSpec(200e9, 50e9, 10e-6)
"""Assumed: host memory for each GPU, and a link to it. A plan without tiers is asked with such a one."""

FIGURES = Metrics._fields[: Metrics._fields.index("phases")]
"""What the closed form tells of a plan, up to whether it fits: the other fields say how it came to that."""


def _with_tiers(spec: PlanSpec, *tiers: TierSpec) -> PlanSpec:
    """``spec`` with these tiers behind each GPU. Raises `DoesNotApply` where no engine would look there."""

    def changed(pool: PlanSpec) -> PlanSpec:
        if pool.engine is None or not pool.engine.scheduler.prefix_cache:
            raise DoesNotApply("only an engine with a prefix cache has tiers")
        scheduler = pool.engine.scheduler._replace(tiers=tiers, write=pool.engine.scheduler.write if tiers else "")
        return evolve(pool, engine=evolve(pool.engine, scheduler=scheduler))

    return change_pools(spec, changed)


def _own_tiers(plan: CompiledPlan) -> tuple[TierSpec, ...]:
    engine = plan.pools[-1].spec.engine
    return (engine.scheduler.tiers if engine is not None else ()) or (HOST,)


def tiers_change_no_closed_form(plan: CompiledPlan) -> None:
    """Tiers of KV memory change no figure in closed form: not their number, their sizes, their links or their writes.

    Larger and faster tiers are never worse there. Simulated requests may be slower with them: who starts earlier may
    keep others waiting.
    """
    own = _own_tiers(plan)
    better = tuple(TierSpec(2 * t.memory, 2 * t.bandwidth, t.latency / 2) for t in own)
    before = plan.cost.on(_with_tiers(plan.spec)).evaluate()
    for what, tiers in (
        ("its tiers", own),
        ("better tiers", better),
        ("one tier more", (*own, HOST)[: limits.MAX_TIERS]),
    ):
        after = plan.cost.on(_with_tiers(plan.spec, *tiers)).evaluate()
        for name in FIGURES:
            was, now = getattr(before, name), getattr(after, name)
            assert was == now, f"{name} is {was} without tiers, {now} with {what}"


def tiers_without_room_are_none(plan: CompiledPlan) -> None:
    """Tiers of size zero serve requests as no tiers do."""
    empty = tuple(t._replace(memory=0.0) for t in _own_tiers(plan))
    without, with_empty = (serve_some(CompiledPlan(_with_tiers(plan.spec, *tiers), ())) for tiers in ((), empty))
    found = with_empty.columns()
    for name, column in without.columns().items():
        close = np.allclose(column, found[name], rtol=1e-9, equal_nan=True) if column.dtype.kind == "f" else None
        same = np.array_equal(column, found[name]) if close is None else close
        assert same, f"{name} differs between tiers without room and none"
    loaded = with_empty.records.loaded
    assert loaded is None or not loaded.any(), f"{loaded.sum()} tokens are loaded from tiers without room"


def tiers_give_what_was_kept(plan: CompiledPlan) -> None:
    """From tiers come whole blocks of prompts that were computed before, and a token of each prompt is computed.

    The first request of a load finds nothing.
    """
    made = plan if any(_tiers_of(plan)) else CompiledPlan(_with_tiers(plan.spec, *_own_tiers(plan)), ())
    records = serve_some(made).records
    loaded = records.loaded
    if loaded is None:
        raise DoesNotApply("its requests keep nothing that a tier could hold")
    served = records.served
    each = loaded.sum(axis=0)[served]
    cached, prompts = records.cached[served], records.input[served]
    assert (each >= 0).all(), "fewer tokens than none are loaded"
    assert (each <= cached).all(), f"{each.sum()} tokens are loaded, and {cached.sum()} of prompts are not computed"
    assert (cached < prompts).all(), "a prompt is not computed at all"
    blocks = {pool.spec.effective_engine.kv_block for pool in made.pools}
    assert len(blocks) > 1 or not (loaded % min(blocks)).any(), f"a part of a block of {blocks} tokens is loaded"
    first = np.argmin(np.where(records.served, records.admitted_s, np.inf))
    assert not loaded[:, first].any(), "the first request finds its prompt in a tier"


def _tiers_of(plan: CompiledPlan) -> Iterator[tuple[TierSpec, ...]]:
    return (pool.spec.effective_engine.scheduler.tiers for pool in plan.pools)
