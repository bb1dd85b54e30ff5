"""Strategies for plans that combine all ways to split a model."""

from __future__ import annotations

from math import prod

from attrs import evolve
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, composite

from plandsl.diagnostics import PlanError
from plandsl.spec.hardware import ClusterSpec, NodeSpec
from plandsl.spec.model import ModelSpec
from plandsl.spec.plan import PlaceSpec, PlanSpec, ShiftSpec, SplitSpec
from plandsl.testing.compare import compiled
from plandsl.testing.given import Given
from plandsl.testing.hardware import first_gpus, links, networks, nodes
from plandsl.testing.plans import plans
from plandsl.testing.shardings import shardings

CACHED = frozenset(("layers", "batch", "context", "heads", "kv_heads"))
"""Dimensions whose rules decide the layout of a KV cache."""


@composite
def deployments(draw: DrawFn, model: Given[ModelSpec] | None = None, node: Given[NodeSpec] | None = None) -> PlanSpec:
    """A plan of any kind that compiles: a mixture, at times with guesses, at times with a pool for each phase.

    ``model`` and ``node`` are as for `plans`. A node of your own stays one node.
    """
    plan = draw(mixtures(model, node, speculate=draw(st.integers(0, 3)) == 0))
    pools = not plan.workload.encodes and draw(st.integers(0, 3)) == 0
    return draw(_pooled_plans(plan)) if pools else plan


@composite
def _pooled_plans(draw: DrawFn, plan: PlanSpec) -> PlanSpec:
    """``plan`` as the decode pool of two; the prefill pool has its model, another batch and a sharding of its own."""
    batch = draw(st.integers(1, 9))
    made = evolve(plan, workload=evolve(plan.workload, batch=batch), kv_residency="prompts")
    made = evolve(made, micro_batches=min(batch, plan.micro_batches))
    if plan.speculate is None and plan.cluster is None and plan.shift is None:
        made = evolve(made, sharding=evolve(draw(shardings(plan.model, plan.node)), name="first"))
    link = draw(st.integers(1, 100)) * 1e9, draw(st.integers(0, 20)) * 1e-6
    split = SplitSpec(made, plan, *link, draw(st.sampled_from((None, "after", "layerwise"))))
    return evolve(plan, shift=None, split=split)


@composite
def mixtures(
    draw: DrawFn,
    model: Given[ModelSpec] | None = None,
    node: Given[NodeSpec] | None = None,
    speculate: bool = False,
) -> PlanSpec:
    """A plan that compiles, on one node or several, with axes placed or not, and one sharding or two on one cache.

    ``model`` and ``node`` are as for `plans`. A node of your own stays one node.
    """
    where = nodes(st.sampled_from((16, 8, 4, 16, 12, 6))) if node is None else node
    plan = draw(plans(model, node=where, speculate=speculate))
    if node is None and draw(st.integers(0, 2)) == 0:
        plan = draw(_clustered_plans(plan))
    if draw(st.integers(0, 2)) == 0:
        plan = draw(_shifting_plans(plan))
    return plan


@composite
def _clustered_plans(draw: DrawFn, plan: PlanSpec) -> PlanSpec:
    """``plan`` on a cluster, whose nodes hold the innermost axes, which are placed, or any number of ranks."""
    axes, ranks = plan.sharding.axes, plan.sharding.ranks
    inner = axes[draw(st.integers(0, len(axes))) :]
    placed = tuple(PlaceSpec(a.name) for a in inner) if draw(st.booleans()) else ()
    per_node = prod(a.size for a in inner) if placed else draw(st.integers(1, ranks))
    node = evolve(first_gpus(plan.node, per_node), link=draw(links(per_node)))
    cluster = ClusterSpec("c", node, -(-ranks // per_node), draw(networks()))
    here = {gpu.name for _, gpu in node.groups}
    own = tuple((name, c) for name, c in plan.calibrations if name in here)
    return evolve(
        plan,
        node=node,
        cluster=cluster,
        sharding=evolve(plan.sharding, placed=placed),
        calibration=own[0][1] if own else plan.calibration,
        calibrations=own if len(own) > 1 else (),
    )


@composite
def _shifting_plans(draw: DrawFn, plan: PlanSpec) -> PlanSpec:
    """``plan`` with a second sharding that splits no tokens and lays out the cache in the same way, if one is found."""
    sharding = plan.sharding
    if sharding.cut is not None and sharding.cut.balanced:  # a balanced cut may differ between two shardings
        sharding = evolve(sharding, cut=None)
    rules = sorted((r for r in sharding.rules if "tokens" not in r.dims), key=lambda r: r.region != "attention")
    wide = draw(st.booleans())
    kept = [r._replace(sugar="", region="" if wide and r.region == "attention" else r.region) for r in rules]
    kept = [r for r in kept if not CACHED.isdisjoint(r.dims) or draw(st.booleans())]
    axes = tuple(a if a.name in sharding.replica_axes else a._replace(sugar="") for a in sharding.axes)
    second = evolve(sharding, name="second", axes=axes, rules=tuple(kept))
    shifting = evolve(plan, sharding=sharding, shift=ShiftSpec(second, draw(st.integers(1, 512))))
    return shifting if _is_legal(shifting) else plan


def _is_legal(plan: PlanSpec) -> bool:
    try:
        compiled(plan)
    except PlanError:
        return False
    return True
