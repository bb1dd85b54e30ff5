"""Merge sums: add partial sums before they are completed, so that one collective completes them all."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from attrs import evolve

from plandsl.ir.collectives import AllReduce, ReduceScatter
from plandsl.ir.compute import Map
from plandsl.ir.ops import Op
from plandsl.ir.program import Program, Region
from plandsl.ir.types import Mesh, Value
from plandsl.passes.rewrite import Names, count_uses, each_region
from plandsl.spec.plan import PlanSpec

Completing = AllReduce | ReduceScatter


def merge_sums(program: Program, plan: PlanSpec) -> Program:
    """Add partial sums of one type before they are completed, not after: the order of additions is free.

    Before:  %y.1 : bf16[batch, hidden] = all_reduce %y {axis = "tensor"}
             %t : bf16[batch, hidden] = map %x, %y.1 {fn = "add"}
             %s.1 : bf16[batch, hidden] = all_reduce %s {axis = "tensor"}
             %x1 : bf16[batch, hidden] = map %t, %s.1 {fn = "add"}
    After:   %y.2 : bf16[batch, hidden]{+tensor} = map %y, %s {fn = "add"}
             %y.1 : bf16[batch, hidden] = all_reduce %y.2 {axis = "tensor"}
             %x1 : bf16[batch, hidden] = map %x, %y.1 {fn = "add"}
    """
    return each_region(program, lambda region: _merge(region, program.mesh))


class _Sum(NamedTuple):
    """A sum: its last addition, all its terms, and the inner additions, whose results no other op reads."""

    root: Map
    terms: list[Value]
    within: set[str]


def _merge(region: Region, mesh: Mesh) -> Region:
    """Merge one group of terms at a time, until no sum has terms that the same collective completes."""
    while (found := next(_mergeable(region, mesh), None)) is not None:
        region = _merge_group(region, *found)
    return region


def _mergeable(region: Region, mesh: Mesh) -> Iterator[tuple[_Sum, list[Completing]]]:
    """Sums with several terms that equal collectives (of more than one rank) complete, and these collectives."""
    adds = {op.out.name: op for op in region.ops if isinstance(op, Map) and op.adds}
    if not adds:
        return
    made = {op.out.name: op for op in region.ops if isinstance(op, Completing) and mesh.ways(op.axes) > 1}
    count = count_uses(region.ops)
    once = {name for name, n in count.items() if n == 1}.difference(v.name for v in region.results)
    last = adds.keys() - {x.name for op in adds.values() for x in op.xs if x.name in once}
    for name in (name for name in adds if name in last):
        found = _sum(adds[name], {n: op for n, op in adds.items() if n in once})
        groups: dict[object, list[Completing]] = {}
        for op in (made[x.name] for x in found.terms if x.name in made and x.name in once):
            groups.setdefault((type(op), op.axis, op.x.type, op.out.type), []).append(op)
        yield from ((found, group) for group in groups.values() if len(group) > 1)


def _sum(root: Map, inner: dict[str, Map]) -> _Sum:
    terms: list[Value] = []
    within: set[str] = set()
    stack = list(reversed(root.xs))
    while stack:
        x = stack.pop()
        if x.name in inner:
            within.add(x.name)
            stack += reversed(inner[x.name].xs)
        else:
            terms.append(x)
    return _Sum(root, terms, within)


def _merge_group(region: Region, old: _Sum, group: list[Completing]) -> Region:
    """Add the operands of ``group``, complete their sum, then add the other terms, where the last addition stood."""
    names = Names(region.values())
    done = {op.out.name for op in group}
    rest = [x for x in old.terms if x.name not in done]
    first, result = group[0], old.root.out
    partial = Value(names.fresh(first.x.name), first.x.type)
    whole = first.out if rest else result
    made: list[Op] = [*_add_up([op.x for op in group], partial, names), evolve(first, out=whole, x=partial)]
    if rest:
        made += _add_up([*rest, whole], result, names)
    out: list[Op] = []
    for op in region.ops:
        if op is old.root:
            out += made
        elif not (op in group or (isinstance(op, Map) and op.out.name in old.within)):
            out.append(op)
    return evolve(region, ops=tuple(out))


def _add_up(terms: list[Value], out: Value, names: Names) -> Iterator[Map]:
    """Additions of two values at a time; the last addition gives ``out``."""
    total, *others = terms
    for i, x in enumerate(others):
        value = out if i == len(others) - 1 else Value(names.fresh(out.name), out.type)
        yield Map(value, (total, x), "add")
        total = value
