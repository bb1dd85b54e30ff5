"""Layers that keep a state for each request: building their ops, and merging convolutions as engines do."""

from __future__ import annotations

from collections.abc import Hashable, Iterable

from attrs import evolve

from plandsl.ir.compute import Map
from plandsl.ir.functions import LIMITING, MAPS
from plandsl.ir.ops import Op
from plandsl.ir.states import TAIL, Recurrence, ShortConv
from plandsl.ir.types import Value, tensor
from plandsl.passes.rewrite import Names, count_uses, merge_kinds
from plandsl.spec.model import Apply, ModelSpec


def tails(model: ModelSpec) -> dict[str, int]:
    """The dimensions of the tokens that convolutions of ``model`` keep, with their sizes."""
    widths = {w.dims[0] for w in model.taps}
    return {f"{width}{TAIL}": model.size(width) - 1 for width in sorted(widths)}


def short_conv(term: Apply, parts: tuple[Value, ...], name: str, model: ModelSpec, names: Names) -> ShortConv:
    """``short_conv(x, w)`` or ``short_conv(x, w, b)`` of the built ``parts``; its state has the format of ``x``."""
    x, w = parts[:2]
    kept = tensor(x.type.dtype, (x.type.names[0], f"{w.type.names[0]}{TAIL}", *x.type.names[2:]))
    made = (Value(names.fresh(name), x.type), Value(names.fresh("tail"), kept))
    return ShortConv(made, parts, made[1].name, biased=len(parts) == 3, span=term.span)


def recurrence(term: Apply, parts: tuple[Value, ...], name: str, model: ModelSpec, names: Names) -> Recurrence:
    """``recurrence(q, k, v, ...)`` of the built ``parts``; its state has the format ``state_cache``."""
    q, k, v, *more = parts
    batch, _, heads, *values = v.type.names
    kept = tensor(model.state_cache or model.activations, (batch, heads, k.type.names[-1], *values))
    state = Value(names.fresh("state"), kept)
    return Recurrence(
        out=Value(names.fresh(name), v.type),
        kept_state=state,
        q=q,
        k=k,
        v=v,
        more=tuple(more),
        state=state.name,
        roles=str(term.option("named", "")),
        delta=bool(term.option("delta", False)),
        normalize=bool(term.option("normalize", False)),
        slopes=bool(term.option("slopes", False)),
        chunk=int(term.option("chunk", 64)),
        span=term.span,
    )


def apply_functions(ops: Iterable[Op], results: tuple[Value, ...] = ()) -> tuple[Op, ...]:
    """Let a convolution apply the function that follows it, before layouts come between the two.

    Before:  %q : bf16[...], %tail : bf16[...] = short_conv %a, %w_q {state = "tail"}
             %q1 : bf16[...] = map %q {fn = "silu"}
    After:   %q1 : bf16[...], %tail : bf16[...] = short_conv %a, %w_q {state = "tail", fn = "silu"}
    """
    ops = tuple(ops)
    count = count_uses(ops, results)
    convs = {op.made[0].name: op for op in ops if isinstance(op, ShortConv) and count.get(op.made[0].name) == 1}
    after = {
        op.xs[0].name: op
        for op in ops
        if isinstance(op, Map) and op.xs[0].name in convs and op.fn in MAPS and op.fn not in LIMITING and not op.limits
    }
    gone = {id(op) for op in after.values()}
    out: list[Op] = []
    for op in ops:
        if isinstance(op, ShortConv) and (follows := after.get(op.made[0].name)) is not None:
            out.append(evolve(op, made=(follows.out, *op.made[1:]), fn=follows.fn))
        elif id(op) not in gone:
            out.append(op)
    return tuple(out)


def fuse_convs(ops: tuple[Op, ...]) -> tuple[Op, ...]:
    """Merge convolutions of one function and width, both with a bias or without: one kernel runs them."""
    return merge_kinds(ops, _kind, _merge)


def _kind(op: Op) -> Hashable:
    if not isinstance(op, ShortConv):
        return None
    kept = op.kept[0].type
    return kept.dtype, kept.dims[:2], op.xs[0].type.dims[1], op.fn, op.biased, op.handed


def _merge(a: ShortConv, b: ShortConv) -> ShortConv:
    return evolve(b, made=a.made + b.made, parts=a.parts + b.parts, state=a.state)
