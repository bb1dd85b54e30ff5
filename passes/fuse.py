"""Fuse: merge the ops that engines run as one kernel."""

from __future__ import annotations

from collections.abc import Callable, Hashable

from attrs import evolve

from plandsl.ir.adapters import AdapterGemm
from plandsl.ir.collectives import Slice
from plandsl.ir.compute import AddNorm, Gemm, Map, Norm, Rope
from plandsl.ir.experts import TopK
from plandsl.ir.functions import GATES, LIMITING
from plandsl.ir.limits import NONE, read_limits, show_limits
from plandsl.ir.ops import COLLECTIVES, Op
from plandsl.ir.program import Program, Region
from plandsl.ir.states import ShortConv
from plandsl.ir.types import Value
from plandsl.passes.rewrite import count_uses, each_region, merge_kinds
from plandsl.spec.plan import PlanSpec


def fuse(program: Program, plan: PlanSpec) -> Program:
    """Merge GEMMs of one input (QKV; gate and up), both rotary embeddings, and gates with clamps.

    Short convolutions of one width are merged (`passes/states.py`).
    With ``fuse_norms``, also merge a residual addition with the norm that follows it. The sum of a product and its
    adapter is no residual addition: where ranks hold parts of it, a collective stands before the norm.

    Before:  %q : bf16[...] = gemm %h, %w_q
             %k : bf16[...] = gemm %h, %w_k
    After:   %q, %k : bf16[...], bf16[...] = gemm %h, %w_q, %w_k
    """
    steps: list[Callable[[tuple[Op, ...]], tuple[Op, ...]]] = [_fuse_gemms, _fuse_ropes]
    maps: list[Callable[[tuple[Op, ...], tuple[Value, ...]], tuple[Op, ...]]] = [_fuse_clamps, _fuse_gates]
    if any(isinstance(op, ShortConv) for region in program.regions for op in region.ops):
        from plandsl.passes.states import fuse_convs

        steps.append(fuse_convs)

    def change(region: Region) -> Region:
        ops = region.ops
        for step in steps:
            ops = step(ops)
        for merge in maps:
            ops = merge(ops, region.results)
        return evolve(region, ops=_fuse_norms(ops) if plan.fuse_norms else ops)

    return each_region(program, change)


def _fuse_gemms(ops: tuple[Op, ...]) -> tuple[Op, ...]:
    """Merge GEMMs of the same input at the place of the first, if their weights have one format.

    Routers are not merged.
    """
    groups: dict[tuple[type[Gemm], Value, str, str, tuple[str, ...]], list[Gemm]] = {}
    routers = {op.logits.type.names[-1] for op in ops if isinstance(op, TopK)}
    for op in ops:
        if isinstance(op, Gemm) and op.outs[0].type.names[-1] not in routers:
            groups.setdefault((type(op), op.x, op.compute, op.weights[0].type.dtype, op.contracted()), []).append(op)
    first = {group[0].outs[0].name: group for group in groups.values()}
    joined = {op.outs[0].name for group in groups.values() for op in group[1:]}
    out: list[Op] = []
    for op in ops:
        if not isinstance(op, Gemm) or op.outs[0].type.names[-1] in routers:
            out.append(op)
        elif op.outs[0].name not in joined:
            group = first[op.outs[0].name]
            outs = tuple(v for g in group for v in g.outs)
            out.append(evolve(op, outs=outs, weights=tuple(w for g in group for w in g.weights)))
    return tuple(out)


def _fuse_ropes(ops: tuple[Op, ...]) -> tuple[Op, ...]:
    """Merge rotary embeddings that turn as many elements of one dimension."""
    return merge_kinds(ops, _turned, lambda a, b: evolve(b, outs=a.outs + b.outs, xs=a.xs + b.xs))


def _turned(op: Op) -> Hashable:
    """What a rotary embedding turns: a dimension, and how much of it."""
    return (op.xs[0].type.names[-1], op.first) if isinstance(op, Rope) else None


def _fuse_clamps(ops: tuple[Op, ...], results: tuple[Value, ...]) -> tuple[Op, ...]:
    """Move an op that only limits its operand into the next `Map`, if only that reads it."""
    if not any(isinstance(op, Map) and op.limits for op in ops):
        return ops
    count = count_uses(ops, results)
    made: dict[str, Map] = {}
    out: list[Op] = []
    for op in ops:
        if isinstance(op, Map):
            inner = [made.get(x.name) for x in op.xs]
            limits = zip(inner, read_limits(op.limits, len(op.xs)), strict=True)
            text = show_limits(own if i is None else read_limits(i.limits, 1)[0].then(own) for i, own in limits)
            xs = tuple(x if i is None else i.xs[0] for i, x in zip(inner, op.xs, strict=True))
            op = evolve(op, xs=xs, limits=text)
            if op.fn in LIMITING and count.get(op.out.name) == 1:
                made[op.out.name] = op
        out.append(op)
    gone = {x.name for op in ops if isinstance(op, Map) for x in op.xs} & made.keys()
    return tuple(op for op in out if not (isinstance(op, Map) and op.out.name in gone))


def _fuse_gates(ops: tuple[Op, ...], results: tuple[Value, ...]) -> tuple[Op, ...]:
    """Merge ``silu(g) * u`` into one pass over memory."""
    count = count_uses(ops, results)
    made = {op.out.name: op for op in ops if isinstance(op, Map) and op.fn in GATES and count.get(op.out.name) == 1}
    gone: set[str] = set()
    out: list[Op] = []
    for op in ops:
        if isinstance(op, Map) and op.fn == "mul" and len(op.xs) == 2:
            a, b = zip(op.xs, read_limits(op.limits, 2), strict=True)
            if a[0].name not in made and b[0].name in made and a[0].type == b[0].type:
                a, b = b, a
            if a[0].name in made and a[1] == NONE:
                inner = made[a[0].name]
                gone.add(a[0].name)
                limits = show_limits((*read_limits(inner.limits, 1), b[1]))
                op = evolve(op, xs=(inner.xs[0], b[0]), fn=GATES[inner.fn], limits=limits)
        out.append(op)
    return tuple(op for op in out if not (isinstance(op, Map) and op.out.name in gone))


def _fuse_norms(ops: tuple[Op, ...]) -> tuple[Op, ...]:
    """Merge ``x = x + y; h = norm(x)`` into one kernel that writes both, where ``y`` is not what an adapter adds."""
    adapting = _results_of_adapters(ops)
    out: list[Op] = []
    for op in ops:
        last = out[-1] if out else None
        if (
            isinstance(op, Norm)
            and op.groups is None
            and isinstance(last, Map)
            and last.fn == "add"
            and last.out == op.x
            and last.xs[0].type == last.xs[1].type
            and last.xs[1].name not in adapting
        ):
            a, b = last.xs
            out[-1] = AddNorm(last.out, op.out, a, b, gain=op.gain, fn=op.fn, over=op.over, span=op.span)
        else:
            out.append(op)
    return tuple(out)


def _results_of_adapters(ops: tuple[Op, ...]) -> set[str]:
    """What the products of adapters give, in any layout."""
    found: set[str] = set()
    for op in ops:
        if isinstance(op, AdapterGemm) or (isinstance(op, (*COLLECTIVES, Slice)) and op.x.name in found):
            found.update(value.name for value in op.results)
    return found
