"""Layouts of layers with a state: requests and heads are split as in the cached state, positions and keys are whole.

A state depends on all tokens before it. So a rank that holds some heads of a request has all of its positions, and the
rules of the region `attention` say how heads, groups and channels are split, as they do for a KV cache.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from attrs import evolve

from plandsl.diagnostics import Diagnostic
from plandsl.ir.program import PREFILL, Program
from plandsl.ir.states import Recurrence, ShortConv, States
from plandsl.ir.types import Dim, Value
from plandsl.spec.plan import PlanSpec

if TYPE_CHECKING:
    from plandsl.passes.shard import Sharder


def state_weights(op: States) -> set[str]:
    """The names of the weights that are split like the state of ``op``."""
    if isinstance(op, ShortConv):
        return {w.name for w in (*op.weights, *op.biases)}
    return {w.name for name in ("rate", "skip") if (w := op.role(name)) is not None}


def lay_out_state(op: States, sharder: Sharder) -> States:
    """``op`` with operands in the layouts that its state asks for."""
    return _short_conv(op, sharder) if isinstance(op, ShortConv) else _recurrence(op, sharder)


def _short_conv(op: ShortConv, sharder: Sharder) -> ShortConv:
    parts: list[Value] = []
    for i, x in enumerate(op.xs):
        batch, *channels = sharder.layout.cache(("batch", *x.type.names[2:]))
        parts.append(sharder.lay(x, (batch, Dim("position"), *channels)))
        parts.append(sharder.lay(op.weights[i], (Dim(op.weights[i].type.names[0]), *channels)))
        parts += [sharder.lay(b, tuple(channels)) for b in op.biases[i : i + 1]]
    return evolve(op, parts=tuple(parts))


def _recurrence(op: Recurrence, sharder: Sharder) -> Recurrence:
    by_name = {d.name: d for d in sharder.layout.cache(("batch", *op.v.type.names[2:]))}
    heads = by_name[op.v.type.names[2]]
    if len(op.k.type.dims) == 4:
        groups = op.k.type.names[2]
        wanted = sharder.layout.cache(("batch", groups))[1].axes
        by_name[groups] = Dim(groups, _shared(wanted, heads.axes))

    def lay(x: Value) -> Value:
        return sharder.lay(x, tuple(by_name.get(n, Dim(n)) for n in x.type.names))

    return evolve(op, q=lay(op.q), k=lay(op.k), v=lay(op.v), more=tuple(map(lay, op.more)))


def check_states(plan: PlanSpec, program: Program) -> Iterator[Diagnostic]:
    """A note (N475) for each axis whose ranks share positions, but each scan all of them and keep the whole state."""
    if program.phase != PREFILL:
        return
    values = [v for region in program.regions for v in region.values().values()]
    axes = {a for v in values for a in v.type.on("position")}
    ops = [op for region in program.regions for op in region.ops if isinstance(op, Recurrence)]
    kept = {a for op in ops for a in op.kept_state.type.axes}
    for axis in plan.sharding.axes:
        if axis.size > 1 and ops and axis.name in axes - kept:
            ranks = f"each of the {axis.size} ranks of `{axis.name}`"
            why = f"{ranks} scans all positions of a prompt, and keeps its whole state"
            hint = "a state depends on all tokens before it: split heads instead, with `tp` or `sp`"
            yield Diagnostic("N475", why, axis.span, hint=hint)


def _shared(axes: tuple[str, ...], heads: tuple[str, ...]) -> tuple[str, ...]:
    """The first of ``axes``, as long as they are those of ``heads``: heads of a rank then have their groups there."""
    count = next((i for i, (a, b) in enumerate(zip(axes, heads, strict=False)) if a != b), min(len(axes), len(heads)))
    return axes[:count]
