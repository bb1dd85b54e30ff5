"""Shardings to draw: degrees, written rules, and mixtures of both, all of them legal."""

from __future__ import annotations

from attrs import evolve
from hypothesis import assume
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy, composite

from plandsl.diagnostics import PlanError
from plandsl.grammar.sharding import SUGAR
from plandsl.passes.legality import check
from plandsl.spec import (
    AxisSpec,
    CalibrationSpec,
    ModelSpec,
    NodeSpec,
    PlanSpec,
    RuleSpec,
    ShardingSpec,
    WorkloadSpec,
)
from plandsl.testing.compare import compiled

DEGREES = ("dp", "pp", "cp", "sp", "tp")
REGIONS = ("", "", "", "attention", "attention", "embedding", "head")
STEP = ("tokens", "batch", "context", "layers")


def _sizes(ranks: int) -> SearchStrategy[int]:
    """Degrees of at most ``ranks``: those that divide something more often."""
    return st.sampled_from([n for n in (2, 4, 1, 2, 3, 8, 5, 6) if n <= ranks] or [1])


@composite
def meshes(draw: DrawFn, ranks: int, names: tuple[str, ...] = ("a", "b", "c")) -> tuple[AxisSpec, ...]:
    """Axes, major first, of at most ``ranks`` ranks together."""
    axes = []
    for name in names[: draw(st.integers(1, len(names)))]:
        size = draw(_sizes(ranks))
        ranks //= size
        axes.append(AxisSpec(name, size))
    return tuple(axes)


@composite
def shardings(draw: DrawFn, model: ModelSpec, node: NodeSpec) -> ShardingSpec:
    """A legal sharding of ``model`` over ``node``: rules that the model cannot follow are left out."""
    degrees = tuple(d for d in DEGREES if d != "ep" or "experts" in dict(model.sizes))
    found = draw(_degrees(node.count, degrees) | _written(model, node.count))
    sharding = evolve(_legal(found, model, node), context_form=draw(st.sampled_from(("ring", "gather"))))
    assume(_compiles(sharding, model, node))
    return sharding


@composite
def _degrees(draw: DrawFn, ranks: int, degrees: tuple[str, ...]) -> ShardingSpec:
    """What `tp = 2, pp = 4` stands for, at times with a rule of one's own before it (Megatron's for tokens)."""
    sizes: dict[str, int] = {}
    for sugar in draw(st.permutations(degrees)):
        if draw(st.booleans()):
            size = draw(_sizes(ranks))
            ranks //= size
            sizes[sugar] = size
    axes = tuple(AxisSpec(axis, sizes[s], None, s) for s, (axis, _) in SUGAR.items() if s in sizes)
    there = {a.name for a in axes}
    rules = []
    for sugar in draw(st.permutations(sorted(sizes))):
        for region, dims, wanted in SUGAR[sugar].rules:
            kept = tuple(a for a in wanted if a in there)
            rules.append(RuleSpec(dims, kept, region, None, sugar))
    if "tp" in sizes and draw(st.booleans()):
        rules.append(RuleSpec(("tokens",), ("tensor",)))
    return ShardingSpec("s", axes, tuple(rules), ("data",) if "dp" in sizes else ())


@composite
def _written(draw: DrawFn, model: ModelSpec, ranks: int) -> ShardingSpec:
    """A mesh and rules for any dimension over any axes, in any order; stages have axes to themselves."""
    axes = draw(meshes(ranks))
    names = [a.name for a in axes]
    stages = draw(st.sampled_from(((), (), *((n,) for n in names), tuple(names[:2]))))
    rules = [RuleSpec(("layers",), stages)] if stages else []
    dims = ["tokens", "batch", "context", *(n for n, _ in model.sizes)]
    if free := [n for n in names if n not in stages]:
        for _ in range(draw(st.integers(1, 5))):
            chosen = draw(st.lists(st.sampled_from(dims), min_size=1, max_size=4, unique=True))
            over = draw(st.lists(st.sampled_from(free), min_size=1, max_size=2, unique=True))
            rules.append(RuleSpec(tuple(chosen), tuple(over), draw(st.sampled_from(REGIONS))))
    return ShardingSpec("s", axes, tuple(draw(st.permutations(rules))))


def _legal(found: ShardingSpec, model: ModelSpec, node: NodeSpec) -> ShardingSpec:
    """``found`` without the rules, and at last the degrees, that legality objects to."""
    kept = evolve(found, rules=())
    known = {*STEP, *(n for n, _ in model.sizes)}
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
    if refused:  # a degree is all of its rules or none
        axes = tuple(a for a in found.axes if a.sugar not in refused)
        names = {a.name for a in axes}
        rules = (r._replace(axes=tuple(a for a in r.axes if a in names)) for r in found.rules)
        rest = tuple(r for r in rules if r.axes and r.sugar not in refused)
        return _legal(evolve(found, axes=axes, rules=rest), model, node)
    return kept


def is_legal(sharding: ShardingSpec, model: ModelSpec, node: NodeSpec) -> bool:
    """Whether ``model`` can be laid over ``node`` like this, as far as that shows before compiling."""
    return not any(d.severity == "error" for d in check(_plan(sharding, model, node)))


def _compiles(sharding: ShardingSpec, model: ModelSpec, node: NodeSpec) -> bool:
    try:
        compiled(_plan(sharding, model, node))
    except PlanError:
        return False
    return True


def _plan(sharding: ShardingSpec, model: ModelSpec, node: NodeSpec) -> PlanSpec:
    return PlanSpec("p", model, node, sharding, WorkloadSpec("w", 8, 4, 2), CalibrationSpec("c", ()))
