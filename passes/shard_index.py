"""Layouts of sparse attention: queries follow the rules for attention, and each rank has all keys of its requests.

A query picks among all keys of its request. So ranks that share the context each hold the keys of the index whole, as
in SGLang (sgl-project/sglang, pull request 39330: "Index-K stays replicated"), and all heads of a query are on one
rank. Positions and requests are split as elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from attrs import evolve

from plandsl.diagnostics import Diagnostic
from plandsl.ir.compute import CacheWrite
from plandsl.ir.index import PickKeys
from plandsl.ir.program import PREFILL, Program
from plandsl.ir.types import Dim, TensorType, Value
from plandsl.spec.plan import PlanSpec

if TYPE_CHECKING:
    from plandsl.passes.shard import Sharder


def write_keys(op: CacheWrite, sharder: Sharder) -> CacheWrite:
    """Every rank that has requests writes all positions of their keys."""
    batch = sharder.layout.cache(("batch", "context"))[0]
    (x,), (out,) = op.xs, op.outs
    last = Dim(x.type.names[-1])
    kept = TensorType(out.type.dtype, (batch, Dim("context"), last))
    return evolve(op, xs=(sharder.lay(x, (batch, Dim("position"), last)),), outs=(Value(out.name, kept),))


def lay_out_picks(op: PickKeys, sharder: Sharder) -> PickKeys:
    """Queries with all their heads, split by requests like the cache and by positions like other queries."""
    batch = sharder.layout.cache(("batch", "context"))[0]
    position = sharder.layout.dims(("batch", "position", *op.q.type.names[2:]), "attention")[1]
    position = Dim("position", tuple(a for a in position.axes if a not in batch.axes))
    dims = (batch, position, *(Dim(n) for n in op.q.type.names[2:]))
    w = None if op.w is None else sharder.lay(op.w, dims[:3])
    return evolve(op, q=sharder.lay(op.q, dims), k=sharder.now[op.k.name], w=w)


def check_index(plan: PlanSpec, program: Program) -> Iterator[Diagnostic]:
    """Notes on sparse attention: its kernels are not measured (N511), and which axes do not split index keys (N510)."""
    if program.phase != PREFILL:
        return
    why = "no kernel that picks keys, or attends to picked keys, is measured: times follow from bytes and FLOPs"
    yield Diagnostic("N511", why, plan.model.span)
    writes = [op for region in program.regions for op in region.ops if isinstance(op, CacheWrite)]
    cut = {a for op in writes for out in op.outs for a in out.type.on("context")}
    for axis in plan.sharding.axes:
        if axis.size > 1 and axis.name in cut:
            why = f"each of the {axis.size} ranks of `{axis.name}` holds the index keys of all tokens of its requests"
            hint = "a query picks among all of them; the keys and values of attention are shared"
            yield Diagnostic("N510", why, axis.span, hint=hint)
