"""The meaning of collectives on one array per rank. A rank gets data only from the ranks of its group."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product
from typing import TypeAlias, assert_never

import numpy as np

from plandsl.backends.reference.placement import Array, Mismatch, Placement, Shards, assemble
from plandsl.ir.collectives import AllGather, AllReduce, AllToAll, ReduceScatter, Rescale, Reshard, Ring, Slice
from plandsl.ir.types import TensorType, Value

Grouped: TypeAlias = AllReduce | ReduceScatter | AllGather | AllToAll | Rescale
Layout: TypeAlias = Reshard | Grouped | Slice
"""Ops that change only the layout of a tensor."""


def communicate(op: Layout, x: Shards, place: Placement) -> Shards:
    """The result of ``op`` on every rank that holds a part of its operand."""
    return {rank: _run_on(rank, op, x, place) for rank in x}


def _run_on(rank: int, op: Layout, x: Shards, place: Placement) -> Array:
    match op:
        case AllReduce() | ReduceScatter():
            return _reduce(rank, op, x, place)
        case AllGather() | AllToAll():
            return _collect(rank, op, _group(rank, op, x, place), x, place)
        case Rescale():
            return _rescale(rank, op, x, place)
        case Slice():
            return _collect(rank, op, [rank], x, place)
        case Reshard():
            return _reshard(rank, op, x, place)
        case _:
            assert_never(op)


def _group(rank: int, op: Grouped, x: Shards, place: Placement) -> list[int]:
    group = place.group(rank, op.axes)
    for member in group:
        if member not in x:
            raise Mismatch(f"{op.keyword} over '{op.axis}': rank {member} takes part, but runs another stage")
    return group


def _collect(rank: int, op: Layout, group: list[int], x: Shards, place: Placement) -> Array:
    parts = ((place.block(op.x.type, r), x[r]) for r in group)
    what = f"{op.x}, which {op.keyword} wants on rank {rank}"
    return assemble(place.block(op.out.type, rank), parts, what)


def _reduce(rank: int, op: AllReduce | ReduceScatter, x: Shards, place: Placement) -> Array:
    """Sum over the group, then keep this rank's part of the result."""
    group = _group(rank, op, x, place)
    here = place.block(op.x.type, group[0])
    total = x[group[0]]
    for member in group[1:]:
        if place.block(op.x.type, member) != here:
            raise Mismatch(f"{op.keyword} over '{op.axis}' would add different parts of {op.x}, {op.x.type}")
        total = total + x[member]
    return assemble(place.block(op.out.type, rank), [(here, total)], f"the sum of {op.x}")


def run_ring(op: Ring, held: Mapping[str, Shards], place: Placement) -> list[Shards]:
    """All blocks of each operand on every rank, in the order of the dimension (not in the order of the ring)."""
    steps = [AllGather(out, x, op.axis, op.dim) for out, x in zip(op.outs, op.xs, strict=True)]
    return [communicate(step, held[step.x.name], place) for step in steps]


def _rescale(rank: int, op: Rescale, x: Shards, place: Placement) -> Array:
    """Scale the rank's mean to the softmax over the keys of the group, and give it the group's log-sum-exp.

    The result of the last axis has no log-sum-exp any more.
    """
    group = _group(rank, op, x, place)
    here = place.block(op.x.type, rank)
    for member in group:
        if place.block(op.x.type, member) != here:
            raise Mismatch(f"rescale over '{op.axis}' would weigh different parts of {op.x}, {op.x.type}")
    together = np.logaddexp.reduce([x[member][..., -1:] for member in group])
    # a row that sees no key in the whole group gets weight 0
    own = np.exp(x[rank][..., -1:] - np.where(np.isfinite(together), together, 0.0))
    mean: Array = x[rank][..., :-1] * own
    return np.concatenate([mean, together], axis=-1) if op.out.type.softmax else mean


def _reshard(rank: int, op: Reshard, x: Shards, place: Placement) -> Array:
    """Change the layout at will, from any rank: the placeholder stands for collectives that are inserted later."""
    if axes := sorted(op.x.type.softmax):
        t = op.x.type
        shares = Value(op.x.name, TensorType(t.dtype, t.dims, t.partial | {axes[0]}, t.softmax - {axes[0]}))
        scaled = communicate(Rescale(shares, op.x, axes[0]), x, place)
        return _reshard(rank, Reshard(op.out, shares), scaled, place)
    have, want = op.x.type.partial, op.out.type.partial
    if not want <= have:
        raise Mismatch(f"reshard of {op.x} to {op.out.type}: nothing makes a whole value partial")
    summed = sorted(have - want)
    mine = {a: place.index([a], rank) for a in want}
    total: Array | None = None
    for step in product(*(range(place.mesh.size(a)) for a in summed)):
        at = mine | dict(zip(summed, step, strict=True))
        term = place.gather(op.x, x, place.block(op.out.type, rank), at)
        total = term if total is None else total + term
    assert total is not None, "a product over no axes has one step"
    return total
