"""Strategies for legal shardings: degrees, written rules, and mixtures of both."""

from __future__ import annotations

from itertools import pairwise
from math import prod
from typing import TypeAlias

from attrs import evolve
from hypothesis import assume
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, composite

from plandsl.grammar.sharding import EVERY_MODEL, HEADS, SUGAR
from plandsl.ir.program import Program
from plandsl.passes import steps
from plandsl.passes.legality import check, check_program
from plandsl.spec.earlier import group_starts
from plandsl.spec.hardware import CalibrationSpec, ClusterSpec, NodeSpec
from plandsl.spec.model import ADAPTERS, ModelSpec
from plandsl.spec.plan import AxisSpec, CutSpec, PlanSpec, RuleSpec, ShardingSpec, WorkloadSpec
from plandsl.testing.given import Given, given_machine, given_model

Machine: TypeAlias = NodeSpec | ClusterSpec

REGIONS = ("", "", "", "attention", "attention", "experts", "embedding", "head")

COMMON = (
    ("", ("tokens",)),
    ("", ("batch",)),
    ("", ("context",)),
    ("", (*HEADS, "ffn", "expert_ffn", "vocab")),
    ("", HEADS),
    ("", ("experts",)),
    ("attention", HEADS),
    ("attention", ("context",)),
    ("attention", ("state_dim",)),
    ("experts", ("experts",)),
    ("experts", ("expert_ffn",)),
)
"""Common rules of plans: (region, dimensions)."""


@composite
def _sizes(draw: DrawFn, ranks: int, divide: bool = False) -> list[int]:
    """Sizes of at most four axes, of at most ``ranks`` ranks together; common divisors are drawn more often.

    With ``divide`` the ranks of all axes together divide ``ranks``.
    """
    sizes: list[int] = []
    for _ in range(draw(st.sampled_from((2, 4, 3, 4, 1)))):
        known = [n for n in (2, 2, 2, 2, 4, 4, 3, 8, 5, 6, 1) if n <= ranks and not (divide and ranks % n)]
        sizes.append(draw(st.sampled_from(known)))
        ranks //= sizes[-1]
    return draw(st.permutations(sizes))


@composite
def meshes(draw: DrawFn, ranks: int, names: tuple[str, ...] = ("a", "b", "c", "d")) -> tuple[AxisSpec, ...]:
    """Axes, major first, with at most ``ranks`` ranks together."""
    return tuple(map(AxisSpec, names, draw(_sizes(ranks))))


@composite
def shardings(
    draw: DrawFn, model: Given[ModelSpec], node: Given[NodeSpec] | Given[ClusterSpec], whole: bool = False
) -> ShardingSpec:
    """A legal sharding of ``model`` over ``node``: degrees, a mesh with rules, or both, in any order.

    Both are a value, a name in the catalog, ``FILE.plan:NAME``, a compiled plan, or a strategy; a ``node`` may be a
    cluster. Rules that are illegal for the model are left out. With ``whole`` the model has neither stages nor
    replicas, and its ranks mostly divide the GPUs of the node, as the ranks of a draft do.
    """
    what, where = draw(given_model(model)), draw(given_machine(node))
    gpus = where.count * (where.node.count if isinstance(where, ClusterSpec) else 1)
    found = draw(_mixed_shardings(what, gpus, whole))
    sharding = evolve(_make_legal(found, what, where), context_form=draw(st.sampled_from(("ring", "gather"))))
    sharding = evolve(sharding, cut=draw(_cuts(what, sharding)))
    assume(_sums_once(sharding, what, where))
    return sharding


@composite
def _cuts(draw: DrawFn, model: ModelSpec, sharding: ShardingSpec) -> CutSpec | None:
    """A cut of the layers: None (even), balanced by the compiler, or any that parts no layers that share values."""
    stages = stages_of(sharding)
    if not any("layers" in r.dims for r in sharding.rules) or draw(st.booleans()):
        return None
    if draw(st.booleans()):
        return CutSpec(balanced=True)
    starts = st.sampled_from(group_starts(model)[1:] or [0])
    ends = draw(st.lists(starts, min_size=stages - 1, max_size=stages - 1, unique=True)) if stages > 1 else []
    return CutSpec(tuple(b - a for a, b in pairwise((0, *sorted(ends), model.layers))))


def stages_of(sharding: ShardingSpec) -> int:
    """Number of pipeline stages of a sharding."""
    return prod(sharding.axis(a) for a in {a for r in sharding.rules if "layers" in r.dims for a in r.axes})


@composite
def _mixed_shardings(draw: DrawFn, model: ModelSpec, ranks: int, whole: bool) -> ShardingSpec:
    """Some degrees and some axes of a mesh, at most four in all, and rules for any of them."""
    shape = draw(_sizes(ranks, divide=whole))
    known = [sugar for sugar in SUGAR if sugar != "ep" or "experts" in dict(model.sizes)]
    known = [sugar for sugar in known if not (whole and sugar in ("dp", "pp"))]
    ways = draw(st.sampled_from((len(shape), 0, len(shape) // 2)))
    sizes = dict(zip(draw(st.permutations(known)), shape[:ways], strict=False))
    own = tuple(AxisSpec(name, size) for name, size in zip(("a", "b", "c", "d"), shape[ways:], strict=False))
    axes = (*own, *(AxisSpec(axis, sizes[s], None, s) for s, (axis, _) in SUGAR.items() if s in sizes))
    axes = tuple(sorted(axes, key=lambda axis: axis.sugar != "dp"))  # replicas lie outermost
    rules: list[tuple[RuleSpec, ...]] = [_sugar_rules(sugar, axes) for sugar in sizes]
    rules += [(rule,) for rule in draw(_written_rules(model, axes, whole))]
    order = draw(st.permutations(rules))
    return ShardingSpec("s", axes, tuple(r for some in order for r in some), ("data",) if "dp" in sizes else ())


def _sugar_rules(sugar: str, axes: tuple[AxisSpec, ...]) -> tuple[RuleSpec, ...]:
    there = {a.name for a in axes}
    found = ((region, dims, tuple(a for a in wanted if a in there)) for region, dims, wanted in SUGAR[sugar].rules)
    return tuple(RuleSpec(dims, kept, region, None, sugar) for region, dims, kept in found)


@composite
def _written_rules(draw: DrawFn, model: ModelSpec, axes: tuple[AxisSpec, ...], whole: bool) -> list[RuleSpec]:
    """Rules for any dimension over any axes; only `layers` use the axes of stages."""
    own = [a.name for a in axes if not a.sugar]
    stages = () if whole else draw(st.sampled_from(((), (), *((n,) for n in own), tuple(own[:2]))))
    rules = [RuleSpec(("layers",), stages)] if stages else []
    free = [a.name for a in axes if a.name not in stages and a.sugar not in ("dp", "pp")]
    if free:
        known = ["tokens", "batch", "context", *(n for n, _ in model.sizes if n != ADAPTERS)]
        for _ in range(draw(st.integers(1, 5) if own else st.integers(0, 2))):
            region, common = draw(st.sampled_from(COMMON))
            dims = [d for d in common if d in known]
            if not dims or draw(st.booleans()):
                region = draw(st.sampled_from(REGIONS))
                dims = draw(st.lists(st.sampled_from(known), min_size=1, max_size=4, unique=True))
            over = draw(st.lists(st.sampled_from(free), min_size=1, max_size=2, unique=True))
            rules.append(RuleSpec(tuple(dims), tuple(over), region))
    return rules


def _make_legal(found: ShardingSpec, model: ModelSpec, node: Machine) -> ShardingSpec:
    """``found`` without illegal rules, and with half the size of illegal degrees."""
    kept = evolve(found, rules=())
    known = {*EVERY_MODEL, *(n for n, _ in model.sizes)}
    refused: set[str] = set()
    for rule in found.rules:
        dims = tuple(d for d in rule.dims if d in known)
        if not dims:
            continue
        more = evolve(kept, rules=(*kept.rules, rule._replace(dims=dims)))
        if is_legal(more, model, node):
            kept = more
        elif rule.sugar:
            refused.add(rule.sugar)
    if refused:  # a degree has all of its rules or none, so its size is halved
        halved = (a._replace(size=a.size // 2) if a.sugar in refused else a for a in found.axes)
        axes = tuple(a for a in halved if a.size > 1 or a.sugar not in refused)
        names = {a.name for a in axes}
        gone = {a.sugar for a in found.axes if a.sugar and a.name not in names}
        rules = (r._replace(axes=tuple(a for a in r.axes if a in names)) for r in found.rules)
        rest = tuple(r for r in rules if r.axes and r.sugar not in gone)
        return _make_legal(evolve(found, axes=axes, rules=rest), model, node)
    return kept


def is_legal(sharding: ShardingSpec, model: ModelSpec, node: Machine) -> bool:
    """Whether ``sharding`` is legal for ``model`` on ``node``, as far as can be checked before compiling."""
    return not any(d.severity == "error" for d in check(_plan_with(sharding, model, node)))


def _sums_once(sharding: ShardingSpec, model: ModelSpec, node: Machine) -> bool:
    """Whether no sum runs over replicated heads (E307), the one illegal case that only a program shows."""
    plan = _plan_with(sharding, model, node)
    laid_out = next(made for step, made in steps(plan, "prefill", check=False) if step.name == "shard")
    assert isinstance(laid_out, Program)
    return not any(d.code == "E307" for d in check_program(plan, laid_out))


def _plan_with(sharding: ShardingSpec, model: ModelSpec, node: Machine) -> PlanSpec:
    load, bare = WorkloadSpec("w", 8, 4, 2), CalibrationSpec("c", ())
    if isinstance(node, ClusterSpec):
        return PlanSpec("p", model, node.node, sharding, workload=load, calibration=bare, cluster=node)
    return PlanSpec("p", model, node, sharding, workload=load, calibration=bare)
