"""Shrink: make a plan's dimensions small enough to run, and keep every special case of the large plan.

A dimension of the small plan divides, is padded, is replicated or leaves a remainder as in the large plan. So the small
program takes the same paths as the large program.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Sequence
from itertools import accumulate, islice, pairwise
from math import prod
from typing import NamedTuple

from attrs import evolve

from plandsl.diagnostics import Diagnostic, PlanError
from plandsl.ir.types import REPLICATED
from plandsl.spec.earlier import group_starts
from plandsl.spec.model import (
    INDEX,
    LAYER,
    Apply,
    BlockSpec,
    ModelSpec,
    Statement,
    Term,
    Weight,
    looks_up_position,
    walk,
)
from plandsl.spec.plan import CutSpec, PlanSpec, ShardingSpec
from plandsl.values import sum_up

MAX_RANKS = 64
"""Most ranks that verify runs, one after the other, in one process (E440)."""

BATCH, INPUT, OUTPUT = 2, 5, 4
"""The least number of requests and of prompt tokens, and the number of output tokens."""

GROUPS = 2
"""Most micro-batches of a prefill."""

WINDOW = 3
"""Shortest sliding window or chunk. It is below `INPUT`, so that it hides keys already in prefill."""

REACHES = ("window", "chunk")
"""Options of `attention` that limit the keys a query sees."""

TURNED = 2
"""Elements that a `rope` turns of a dimension that it turns in part."""

TOP_K = 2
"""Most experts of a token, unless every token goes to all experts."""

TOP_KEYS = 2
"""Most keys that a query picks: fewer than `INPUT`, so that keys are left out already in prefill."""

POSITIONS = 64
"""Positions that a table has beyond the longest prompt, for tokens that are decoded."""

LEAST = 4
"""Least size of a dimension, unless its true size is smaller."""


def shrink(plan: PlanSpec) -> PlanSpec:
    """The plan with every dimension small, on the same mesh. All pools get the same sizes.

    Raises PlanError (E440) on a plan with more than `MAX_RANKS` ranks.
    """
    shardings = [_cut_replicas(mode.sharding) for mode in plan.modes]
    sharding = max(shardings, key=lambda s: s.ranks)
    if sharding.ranks > MAX_RANKS:
        why = f"verify runs at most {MAX_RANKS} ranks, and this plan has {sharding.ranks}"
        hint = "verify the same sharding with smaller degrees"
        raise PlanError([Diagnostic("E440", why, sharding.span, label="declared here", hint=hint)])
    axes = _Axes(shardings)
    grouped = any(pool.micro_batches > 1 for pool in plan.pools)
    batch = _similar_size("batch", plan.workload.batch, axes.subsets("batch", "tokens"), BATCH)
    if grouped:  # each has equally many of the requests that any rank keeps
        batch = GROUPS * axes.ways("batch")
    length = _similar_size("position", plan.workload.input, axes.subsets("tokens", "position", "context"), INPUT)
    laid, small = iter(shardings), []
    for pool in plan.pools:
        workload = evolve(pool.workload, batch=batch, input=length, output=OUTPUT)
        model = _model(pool.model, axes, {batch, length}, pool.sharding.cut)
        own = [evolve(s, cut=_shrink_cut(s.cut, model)) for s in islice(laid, len(pool.modes))]
        groups = min(pool.micro_batches, GROUPS)
        made = evolve(pool, model=model, sharding=own[0], workload=workload, micro_batches=groups)
        small.append(evolve(made, shift=evolve(pool.shift, tensor=own[1])) if pool.shift else made)
    if plan.split is None:
        return small[0]
    return evolve(small[1], shift=None, split=evolve(plan.split, prefill=small[0], decode=small[1]))


def _cut_replicas(sharding: ShardingSpec) -> ShardingSpec:
    """The sharding with at most two replicas, which is enough because replicas exchange nothing."""
    replicas = sharding.replica_axes
    return evolve(
        sharding, axes=tuple(a._replace(size=min(a.size, 2)) if a.name in replicas else a for a in sharding.axes)
    )


class _Axes:
    """The mesh axes that the rules of some shardings name for each dimension."""

    def __init__(self, shardings: Sequence[ShardingSpec]) -> None:
        self._shardings = shardings

    def sizes(self, *dims: str) -> list[list[int]]:
        """For each sharding, the sizes of the axes that its rules name for one of ``dims``."""
        out = []
        for sharding in self._shardings:
            named = {a for r in sharding.rules if set(dims) & set(r.dims) for a in r.axes}
            out.append([sharding.axis(a) for a in sorted(named)])
        return out

    def ways(self, *dims: str) -> int:
        """The largest number of parts into which these axes cut ``dims`` together."""
        return max(map(prod, self.sizes(*dims)))

    def subsets(self, *dims: str) -> set[int]:
        """The numbers of parts into which subsets of these axes cut ``dims``; other dimensions may use the rest."""
        found = {1}
        for sizes in self.sizes(*dims):
            out = {1}
            for size in sizes:
                out |= {w * size for w in out}
            found |= out
        return found


def _similar_size(name: str, size: int, ways: set[int], least: int, step: int = 1, but: Container[int] = ()) -> int:
    """The smallest of ``least``, ``least + step``, ... that every cut in ``ways`` treats as it treats ``size``.

    Sizes in ``but`` are skipped. If there is no such size, the result is ``size``.
    """
    start = max(1, min(size, least))
    kinds = {w: _show_split(name, size, w) for w in ways}
    # fitting sizes recur with the least common multiple of ``ways``, which divides the number of ranks
    for n in range(start, start + MAX_RANKS * MAX_RANKS * step, step):
        if n not in but and all(_show_split(name, n, w) == kind for w, kind in kinds.items()):
            return n
    return size


def _show_split(name: str, size: int, ways: int) -> str:
    if size % ways == 0:
        return "even"
    return "replicated" if name in REPLICATED and ways % size == 0 else "uneven"


# ---- dimensions of the model


def _model(model: ModelSpec, axes: _Axes, taken: set[int], cut: CutSpec | None) -> ModelSpec:
    stages = axes.ways("layers")
    left = model.layers % stages
    if cut and len(set(cut.layers)) > 1:  # stages of different lengths keep different lengths
        left = left or 1
    blocks = _layers(model.blocks, model.layers, stages, left)
    while len(group_starts(_with_blocks(model, blocks))) < stages:  # each stage has layers that share values
        left += stages
        blocks = _layers(model.blocks, model.layers, stages, left)
    layers = max((b.layers[1] for b in blocks), default=model.layers)
    windows = {w: WINDOW + i for i, w in enumerate(sorted(_windows(model)))}
    sizes = {**_sizes(model, axes, taken), **_counted(model, layers), "layers": layers}
    small = _Small(windows, {n: (size, sizes[n]) for n, size in model.sizes})
    return evolve(
        model,
        layers=layers,
        sizes=tuple((n, sizes[n]) for n, _ in model.sizes),
        blocks=tuple(_narrow_block(b, small) for b in blocks),
        head=_narrow(model.head, small),
    )


def _with_blocks(model: ModelSpec, blocks: tuple[BlockSpec, ...]) -> ModelSpec:
    return evolve(model, blocks=blocks, layers=max((b.layers[1] for b in blocks), default=model.layers))


def _sizes(model: ModelSpec, axes: _Axes, taken: set[int]) -> dict[str, int]:
    """Small sizes, all different, so that a program that confuses two dimensions cannot run by chance."""
    out = _heads(model, axes)
    taken = taken | set(out.values())
    tables = {w.dims[0] for t in _applied(model) if looks_up_position(t) for w in t.args if isinstance(w, Weight)}
    most = max(taken) + POSITIONS
    for name, size in model.sizes:
        if name not in out and name != "layers":
            even = size % 2 == 0  # an even size stays even, because rope halves a dimension
            out[name] = _similar_size(
                name, size, axes.subsets(name), most if name in tables else LEAST, step=1 + even, but=taken
            )
            taken.add(out[name])
    width = out[model.embedding.dims[-1]]
    joined = {str(t.option("into", "")): len(t.args) * width for t in _applied(model) if t.fn == "concat"}
    joined |= {str(t.option("over", "")): width for t in _applied(model) if t.fn == "match"}
    merges = (t for t in _applied(model) if t.fn == "merge" and t.option("into", ""))
    return out | joined | {str(t.option("into", "")): int(t.option("tokens", 1)) * width for t in merges}


def _counted(model: ModelSpec, layers: int) -> dict[str, int]:
    """Dimensions whose items the model counts: they keep their sizes, or have an item for each of ``layers``."""
    items = [(str(t.option("over", "")), t.option("at", 0)) for t in _applied(model) if t.fn == "item"]
    found = {over: layers if at == LAYER else model.size(over) for over, at in items}
    stacked = [t for t in _applied(model) if t.fn in ("stack", "mix")]
    names = {str(t.option(name, "")) for t in stacked for name in ("into", "over", "by")} - {""}
    return found | {name: model.size(name) for name in names}


def _applied(model: ModelSpec) -> Iterator[Apply]:
    return (t for term in model.terms for t in walk(term) if isinstance(t, Apply))


def _heads(model: ModelSpec, axes: _Axes) -> dict[str, int]:
    """Small numbers of heads, the smallest first: multiples of the previous number stay multiples."""
    out: dict[str, int] = {}
    before, small = 1, 1
    groups = model.norm_groups
    heads = [n for n, _ in model.sizes if _counts_heads(n)]
    for name, size in sorted(((n, s) for n, s in model.sizes if n in groups or n in heads), key=lambda x: x[1]):
        step = small if size % before == 0 else 1
        least = small if size == before else 2 * small
        # a rank that has whole groups of heads for a norm still has them
        ways = axes.subsets(name).union(*(axes.subsets(n) for n in heads if name in groups))
        out[name] = _similar_size(name, size, ways, least, step)
        before, small = size, out[name]
    return out


def _counts_heads(name: str) -> bool:
    """Whether a dimension counts heads, or groups of them: numbers that divide one another."""
    return "heads" in name or name in REPLICATED


# ---- layers


def _layers(blocks: tuple[BlockSpec, ...], layers: int, stages: int, left: int) -> tuple[BlockSpec, ...]:
    """Blocks with few layers: two per stage, or one per stage plus the remainder ``left``; at least one per block."""
    wanted = min(layers, stages + left if left else 2 * stages)
    while wanted < min(layers, len(blocks)):
        wanted = min(layers, wanted + stages)
    if any(b.every.period > 1 for b in blocks):
        return _first_layers(blocks, wanted, stages, layers)
    ordered = sorted(blocks, key=lambda b: b.layers)
    ends = list(accumulate(_deal_layers([b.layers[1] - b.layers[0] for b in ordered], wanted)))
    small = {b.name: b._replace(layers=part) for b, part in zip(ordered, pairwise([0, *ends]), strict=True)}
    return tuple(small[b.name] for b in blocks)


def _first_layers(blocks: tuple[BlockSpec, ...], wanted: int, stages: int, layers: int) -> tuple[BlockSpec, ...]:
    """The first layers of a model whose blocks take turns, as many as contain each block."""
    seen = 1 + max(b.every.select(b.layers)[0] for b in blocks)
    while wanted < min(layers, seen):
        wanted = min(layers, wanted + stages)
    cut = ((b, b.every.clip(b.layers, (0, wanted))) for b in blocks)
    return tuple(b._replace(layers=part) for b, part in cut if part is not None)


def _shrink_cut(cut: CutSpec | None, model: ModelSpec) -> CutSpec | None:
    """The cut for a small model; longer stages stay longer, where this parts no layers that share values.

    A balanced cut is unchanged.
    """
    if not cut or not cut.layers:
        return cut
    small, starts = _deal_layers(list(cut.layers), model.layers), group_starts(model)
    return cut._replace(layers=tuple(small)) if {*accumulate(small[:-1])} <= {*starts} else None


def _deal_layers(lengths: list[int], total: int) -> list[int]:
    """``total`` layers dealt out one by one, each to the block with the smallest share of its ``lengths``."""
    out = [min(1, n) for n in lengths]
    while sum_up(out) < total:
        most = max(range(len(lengths)), key=lambda i: lengths[i] / out[i] if out[i] < lengths[i] else 0.0)
        out[most] += 1
    return out


# ---- windows, and experts of a token


class _Small(NamedTuple):
    """The small window or chunk for each true one, and the true and the small size of each dimension."""

    windows: dict[int, int]
    sizes: dict[str, tuple[int, int]]


def _windows(model: ModelSpec) -> set[int]:
    terms = [model.head, *(s.term for b in model.blocks for s in b.statements)]
    return {w for term in terms for w in _widths(term)}


def _widths(term: Term) -> Iterator[int]:
    if isinstance(term, Apply):
        yield from (int(value) for name, value in term.options if name in REACHES)
        for argument in term.args:
            yield from _widths(argument)


def _narrow_block(block: BlockSpec, small: _Small) -> BlockSpec:
    return block._replace(statements=_narrow_all(block.statements, small))


def _narrow_all(statements: Iterable[Statement], small: _Small) -> tuple[Statement, ...]:
    return tuple(s._replace(term=_narrow(s.term, small)) for s in statements)


def _narrow(term: Term, small: _Small) -> Term:
    """``term`` with small windows, chunks, parts that `rope` turns, and numbers of picked keys and of experts."""
    if not isinstance(term, Apply):
        return term
    changes = {"first": TURNED}
    if term.fn == INDEX:
        changes["top_k"] = min(int(term.option("top_k", 1)), TOP_KEYS)
    for name in REACHES:
        if reach := int(term.option(name, 0)):
            changes[name] = small.windows[reach]
    if term.body:
        true, few = small.sizes[next(w.dims[0] for s in term.body for w in walk(s.term) if isinstance(w, Weight))]
        top_k = int(term.option("top_k", 1))
        changes["top_k"] = few if top_k == true else min(top_k, TOP_K)
    options = tuple((n, changes.get(n, v)) for n, v in term.options)
    args = tuple(_narrow(a, small) for a in term.args)
    return term._replace(args=args, options=options, body=_narrow_all(term.body, small))
