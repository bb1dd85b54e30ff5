"""Checks for `shift`: both shardings must keep the KV cache in the same places, so that either can continue on it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from plandsl.diagnostics import Diagnostic, Label
from plandsl.ir.ops import KEEPS, cache_name
from plandsl.ir.program import Program
from plandsl.ir.types import Mesh, shard_range
from plandsl.spec.plan import CutSpec, PlanSpec, ShardingSpec, ShiftSpec

Axes = tuple[str, ...]


class Cut(NamedTuple):
    """A dimension along which ranks keep different parts of the cache; ``size`` is None if the load determines it."""

    dim: str
    size: int | None
    axes: Axes

    def part(self, mesh: Mesh, rank: int) -> tuple[tuple[int, int], ...]:
        """The part of ``rank``: a global range if the size is known, else its (index, size) along each axis."""
        at = mesh.coordinates(rank)
        places = tuple((at[a], mesh.size(a)) for a in self.axes if mesh.size(a) > 1)
        return places if self.size is None else (shard_range(self.dim, self.size, places),)


def check_cache(plan: PlanSpec, shift: ShiftSpec, base: Program, tensor: Program) -> Iterator[Diagnostic]:
    """A finding (E311) for each dimension of the cache of which some rank holds different parts in the two programs.

    Replicas and layers count as dimensions: a rank that serves other requests, or runs other layers, cannot continue.
    """
    ours, theirs = plan.sharding, shift.tensor
    if base.mesh.ranks != tensor.mesh.ranks:
        why = f"`{ours.name}` has {base.mesh.ranks} ranks, `{theirs.name}` has {tensor.mesh.ranks}"
        hint = "both run on the same GPUs: give them the same number of ranks"
        yield Diagnostic("E311", why, shift.span, hint=hint, labels=_labels(theirs))
        return
    found: dict[str, Diagnostic] = {}
    for a, b in zip(_cuts(base, ours), _cuts(tensor, theirs), strict=True):
        for rank in range(base.mesh.ranks):
            if a.dim not in found and a.part(base.mesh, rank) != b.part(tensor.mesh, rank):
                found[a.dim] = _difference(plan, shift, (a, base.mesh), (b, tensor.mesh), rank)
    yield from found.values()


def check_cut(base: ShardingSpec, shift: ShiftSpec) -> Iterator[Diagnostic]:
    """A finding where two shardings cut the layers differently (E311), or where one cut is `balanced` (E312)."""
    ours, theirs = base.cut, shift.tensor.cut
    for cut in (ours, theirs):
        if cut is not None and cut.balanced:
            why = "`balanced` cuts for one sharding, but this plan has two"
            yield Diagnostic("E312", why, cut.span, hint="write the same cut in both: `cut = [48, 32]`")
            return
    if (ours and ours.layers) != (theirs and theirs.layers):
        why = f"`{base.name}` cuts the layers {_show_cut(ours)}, but `{shift.tensor.name}` {_show_cut(theirs)}"
        hint = "write the same `cut` in both, or in neither"
        yield Diagnostic("E311", why, shift.span, hint=hint, labels=_labels(shift.tensor))


def _show_cut(cut: CutSpec | None) -> str:
    return f"as {', '.join(map(str, cut.layers))}" if cut else "evenly"


def _cuts(program: Program, sharding: ShardingSpec) -> Iterator[Cut]:
    """The dimensions that decide which part of the cache a rank keeps: the same list for every sharding of a model."""
    yield Cut("replicas", None, sharding.replica_axes)
    yield Cut("layers", None, program.stage_axes)
    for region in program.regions:
        for op in sorted((op for op in region.ops if isinstance(op, KEEPS)), key=cache_name):
            for dim in (d for x in op.kept for d in x.type.dims):
                size = program.size(dim.name)
                yield Cut(dim.name, size if isinstance(size, int) else None, dim.axes)


def _difference(plan: PlanSpec, shift: ShiftSpec, a: tuple[Cut, Mesh], b: tuple[Cut, Mesh], rank: int) -> Diagnostic:
    dim, ours, theirs = a[0].dim, plan.sharding.name, shift.tensor.name
    here, there = _show_axes(*a), _show_axes(*b)
    why = f"`{dim}` of the KV cache is {here} in `{ours}`, but {there} in `{theirs}`"
    if here == there:
        why = f"`{dim}` of the KV cache is {here} in `{ours}` and in `{theirs}`, but along other ranks"
    label = f"rank {rank} holds {_show_part(*a, rank)} in `{ours}`, {_show_part(*b, rank)} in `{theirs}`"
    mesh = ", ".join(f"{n} = {s}" for n, s in a[1].axes) or "no axes"
    hint = f"give `{theirs}` the same mesh, `mesh {mesh}`, and {_rule_for(plan.sharding, *a)}"
    return Diagnostic("E311", why, shift.span, label, hint, labels=_labels(shift.tensor))


def _rule_for(sharding: ShardingSpec, cut: Cut, mesh: Mesh) -> str:
    """The rule or degree that splits the cache in this way in ``sharding``."""
    axes = [n for n in cut.axes if mesh.size(n) > 1]
    if not axes:
        return f"no rule for `{cut.dim}`"
    if axes == list(sharding.replica_axes):
        return f"`dp = {mesh.ways(axes)}`"
    wide = sorted((r for r in sharding.rules if set(axes) <= set(r.axes)), key=lambda r: r.region != "attention")
    dims = next((r.dims for r in wide if cut.dim in r.dims), (cut.dim,))
    return f"`{', '.join(dims)} -> {', '.join(axes)}`"


def _show_axes(cut: Cut, mesh: Mesh) -> str:
    axes = [f"{n} {mesh.size(n)}" for n in cut.axes if mesh.size(n) > 1]
    return f"split over {', then '.join(axes)}" if axes else "whole"


def _show_part(cut: Cut, mesh: Mesh, rank: int) -> str:
    parts = cut.part(mesh, rank)
    if cut.size is not None:
        return f"{cut.dim} {parts[0][0]}..{parts[0][1]}"
    return " of ".join(f"part {at + 1} of {of}" for at, of in parts) or f"all {cut.dim}"


def _labels(tensor: ShardingSpec) -> tuple[Label, ...]:
    return (Label(tensor.span, f"`{tensor.name}` is declared here"),) if tensor.span else ()
