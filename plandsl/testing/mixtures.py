"""Mixtures: plans with all that the language has for spreading a model, at once."""

from __future__ import annotations

from math import prod

from attrs import evolve
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy, composite

from plandsl.ir.program import Program
from plandsl.passes import program_after
from plandsl.passes.alike import alike
from plandsl.spec.hardware import ClusterSpec, LinkSpec
from plandsl.spec.model import ModelSpec
from plandsl.spec.plan import PlaceSpec, PlanSpec, ShardingSpec, ShiftSpec
from plandsl.testing.hardware import links, nodes
from plandsl.testing.plans import plans
from plandsl.testing.shardings import is_legal

NETWORKS = ("fat_tree", "rail", "dragonfly", "switch", "mesh", "ring")
CACHED = frozenset(("layers", "batch", "context", "heads", "kv_heads"))
"""Dimensions that say where a KV cache lies."""


@composite
def mixtures(draw: DrawFn, model: SearchStrategy[ModelSpec] | None = None) -> PlanSpec:
    """A plan on a node or on several, axes placed or not, with one sharding or two on one cache; it compiles."""
    plan = draw(plans(model, node=nodes(st.sampled_from((16, 8, 4, 16, 12, 6)))))
    if draw(st.integers(0, 2)) == 0:
        plan = draw(_clustered(plan))
    if draw(st.integers(0, 2)) == 0:
        plan = draw(_shifting(plan))
    return plan


@composite
def _clustered(draw: DrawFn, plan: PlanSpec) -> PlanSpec:
    """``plan`` on nodes that hold its innermost axes, placed there, or any number of its ranks."""
    axes, ranks = plan.sharding.axes, plan.sharding.ranks
    inner = axes[draw(st.integers(0, len(axes))) :]
    placed = tuple(PlaceSpec(a.name) for a in inner) if draw(st.booleans()) else ()
    per_node = prod(a.size for a in inner) if placed else draw(st.integers(1, ranks))
    node = evolve(plan.node, count=per_node, link=draw(links(per_node)))
    network = LinkSpec(draw(st.sampled_from(NETWORKS)), draw(st.integers(1, 100)) * 1e9, 5e-6)
    cluster = ClusterSpec("c", node, -(-ranks // per_node), network)
    return evolve(plan, node=node, cluster=cluster, sharding=evolve(plan.sharding, placed=placed))


@composite
def _shifting(draw: DrawFn, plan: PlanSpec) -> PlanSpec:
    """``plan`` with a second sharding that lays the cache out alike, where one is found: tokens are split no more."""
    sharding = plan.sharding
    rules = sorted((r for r in sharding.rules if "tokens" not in r.dims), key=lambda r: r.region != "attention")
    wide = draw(st.booleans())
    kept = [r._replace(sugar="", region="" if wide and r.region == "attention" else r.region) for r in rules]
    kept = [r for r in kept if not CACHED.isdisjoint(r.dims) or draw(st.booleans())]
    axes = tuple(a if a.name in sharding.replica_axes else a._replace(sugar="") for a in sharding.axes)
    second = evolve(sharding, name="second", axes=axes, rules=tuple(kept))
    return evolve(plan, shift=ShiftSpec(second, draw(st.integers(1, 512)))) if _shares(plan, second) else plan


def _shares(plan: PlanSpec, second: ShardingSpec) -> bool:
    if not is_legal(second, plan.model, plan.node):
        return False
    shift = ShiftSpec(second, 1)
    first, other = (_laid_out(mode) for mode in evolve(plan, shift=shift).modes)
    return not list(alike(plan, shift, first, other))


def _laid_out(plan: PlanSpec) -> Program:
    return program_after(plan, "prefill", "cut-stages")
