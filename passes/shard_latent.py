"""Layouts of latent attention: the rules for attention split queries, the requests and the context split the cache.

The cache has no heads. So ranks that share the heads of a request each hold all of its keys, unless rules split the
context as well. The unpacking weights (which decode absorbs) work on the heads of attention. A rank slices its own
heads out of such a weight if it holds them all; otherwise the weight stays as it lies, and the results move.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, NamedTuple

from attrs import evolve

from plandsl.ir.adapters import AdapterGemm
from plandsl.ir.compute import CacheWrite, Gemm, Map
from plandsl.ir.latent import HeadGemm, LatentAttention
from plandsl.ir.ops import Op
from plandsl.ir.types import Dim, TensorType, Value

if TYPE_CHECKING:
    from plandsl.passes.shard import Sharder


class Attended(NamedTuple):
    """Layouts: requests, positions and heads of the queries, the context that they attend to, and the cached one."""

    batch: Dim
    position: Dim
    head: Dim
    context: Dim
    held: Dim


class Latents:
    """The latent attention of one region."""

    def __init__(self, sharder: Sharder) -> None:
        self.sharder = sharder
        found = [op for op in sharder.region.ops if isinstance(op, LatentAttention)]
        made = {v.name: op for op in sharder.region.ops for v in op.results}
        makers = {x.name: op for at in found for x in (at.k, at.v) if isinstance(op := _product_of(x, made), Gemm)}
        self.caches = {op.k_rope.name: op for op in found}
        self.cached = {op.outs[-1].name: op.outs for op in sharder.region.ops if isinstance(op, CacheWrite)}
        self.unpacked = {
            makers[x.name].outs[0].name: (op, tuple(makers[y.name] for y in (op.k, op.v)))
            for op in found
            for x in (op.k, op.v)
            if x.name in makers
        }
        self.adapted = dict(_adapted(sharder.region.ops, made, self.unpacked))

    def lay_out(self, op: Op) -> Op | None:
        """``op`` with operands in the layouts that it needs; None if it is no part of latent attention."""
        match op:
            case HeadGemm():
                return self._product(op, *self._rows_of(op))
            case Gemm() if op.outs[0].name in self.unpacked:
                rows, heads = self._rows_of(op)
                for gemm in self.unpacked[op.outs[0].name][1]:  # slice all first: `fuse` may then merge the products
                    for w in gemm.weights:
                        self._weight(w, rows.head)
                return self._product(op, rows, heads)
            case AdapterGemm() if op.outs[0].name in self.adapted:
                return self.sharder.keep_partial(op) or self._product(op, *self._rows_of(self.adapted[op.outs[0].name]))
            case CacheWrite() if op.outs[-1].name in self.caches:
                return self._write(op, self._attended_rows(self.caches[op.outs[-1].name].heads))
            case LatentAttention():
                return self._attention(op)
            case _:
                return None

    def _rows_of(self, op: Gemm) -> tuple[Attended, str]:
        """The rows of a product with the heads of attention, and their name."""
        if isinstance(op, HeadGemm):
            return self._outer_rows(self._attended_rows(op.over)), op.over
        attention, _ = self.unpacked[op.outs[0].name]
        return self._bring_cached(attention), attention.heads

    def _attended_rows(self, heads: str) -> Attended:
        """Requests are split as in a cache with the dimension ``heads``.

        Unpacked keys have heads. So in prefill, where a rule splits heads before the context, heads get the axis, and
        packed keys are gathered over it.
        """
        layout = self.sharder.layout
        batch, unpacked, _ = layout.cache(("batch", "context", heads))
        held = _drop_axes(layout.cache(("batch", "context"))[1], batch.axes)
        context = unpacked if self.unpacked else held
        _, position, head = layout.dims(("batch", "position", heads), "attention")
        head = _drop_axes(head, (*batch.axes, *context.axes))
        position = _drop_axes(position, (*batch.axes, *head.axes))
        staying = _drop_axes(context, position.axes)
        return Attended(batch, position, head, staying, held)

    def _outer_rows(self, rows: Attended) -> Attended:
        """Rows of the products before and after attention: over the axes of the keys they are split as outside of it.

        (The queries of attention itself are whole over these axes.)
        """
        outside = self.sharder.layout.dims((rows.batch.name, rows.position.name))
        free = [tuple(a for a in dim.axes if a in rows.context.axes) for dim in outside]
        batch, position = (Dim(d.name, (*d.axes, *axes)) for d, axes in zip(rows[:2], free, strict=True))
        return rows._replace(batch=batch, position=position)

    def _bring_cached(self, op: LatentAttention) -> Attended:
        """Bring the cached values to the queries of ``op``; later ops read these."""
        rows, sharder, xs = self._attended_rows(op.heads), self.sharder, self.cached[op.k_rope.name]
        for x, met in zip(xs, sharder.bring_keys(xs, rows.context.axes, rows.position.axes, op.span), strict=True):
            sharder.now[x.name] = met
        return rows

    def _write(self, op: CacheWrite, rows: Attended) -> CacheWrite:
        position = Dim("position", self.sharder.layout.written_axes(rows.held.axes))
        xs = tuple(self.sharder.lay(x, (rows.batch, position, Dim(x.type.names[-1]))) for x in op.xs)
        dims = tuple((rows.batch, rows.held, Dim(out.type.names[-1])) for out in op.outs)
        outs = (Value(o.name, TensorType(o.type.dtype, d)) for o, d in zip(op.outs, dims, strict=True))
        return evolve(op, xs=xs, outs=tuple(outs))

    def _weight(self, w: Value, heads: Dim) -> Value:
        """A rank's own heads of ``w``, or ``w`` in its present layout if a rank lacks some of its heads."""
        have = self.sharder.now[w.name].type
        if heads.name not in have.names:  # the first matrix of an adapter
            return self.sharder.now[w.name]
        held = have.on(heads.name)
        more = heads.axes[len(held) :]
        if heads.axes[: len(held)] != held or have.axes & set(more):
            return self.sharder.now[w.name]
        return self.sharder.lay(w, have.with_axes(heads.name, heads.axes).dims)

    def _product(self, op: Gemm, rows: Attended, heads: str) -> Gemm:
        """Lay out ``x`` like the weights in shared dimensions, and like the queries (or their keys) in the rest."""
        weights = tuple(self._weight(w, rows.head) for w in op.weights)
        shared = {*op.contracted(), heads}.intersection(weights[0].type.names)
        used = tuple(a for w in weights for a in w.type.axes)
        free = {d.name: _drop_axes(d, used) for d in rows[:4]}
        names = op.x.type.names
        dims = (Dim(n, weights[0].type.on(n)) if n in shared else free.get(n, Dim(n)) for n in names)
        return evolve(op, x=self.sharder.lay(op.x, tuple(dims)), weights=weights)

    def _attention(self, op: LatentAttention) -> LatentAttention:
        by_name = {d.name: d for d in self._bring_cached(op)[:4]}

        def whole(x: Value) -> Value:
            *rows, last = x.type.names
            return self.sharder.lay(x, (*(by_name.get(n, Dim(n)) for n in rows), Dim(last)))

        q, q_rope, k, k_rope, v, *among = (whole(x) for x in op.operands)
        return evolve(op, q=q, q_rope=q_rope, k=k, k_rope=k_rope, v=v, among=among[0] if among else None)


def _drop_axes(dim: Dim, axes: tuple[str, ...]) -> Dim:
    return Dim(dim.name, tuple(a for a in dim.axes if a not in axes))


def _product_of(x: Value, made: Mapping[str, Op]) -> Op | None:
    """What makes ``x``; where an adapter adds to it, the product that it adds to."""
    op = made.get(x.name)
    return made.get(op.xs[0].name) if isinstance(op, Map) else op


def _adapted(
    ops: Iterable[Op], made: Mapping[str, Op], unpacked: Mapping[str, object]
) -> Iterator[tuple[str, HeadGemm | Gemm]]:
    """The results of adapters' products, and the product with heads that each pair adds to."""
    for op in ops:
        if not isinstance(op, Map) or not isinstance(wide := made.get(op.xs[-1].name), AdapterGemm):
            continue
        base = made.get(op.xs[0].name)
        if isinstance(base, HeadGemm) or (isinstance(base, Gemm) and base.outs[0].name in unpacked):
            yield wide.outs[0].name, base
            yield wide.x.name, base
