"""Layouts of latent attention: queries by the rules for attention, what is cached by its requests and its context.

The cache has no heads, so ranks that share the heads of a request each hold all of its keys, unless rules split the
context as well. The weights that unpack it, or that decode absorbs, work on the heads that attention has: a rank takes
its part of them where its own heads are among those that it holds, and otherwise they stay and their results move.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from attrs import evolve

from plandsl.ir.compute import CacheWrite, Gemm
from plandsl.ir.latent import HeadGemm, LatentAttention
from plandsl.ir.ops import Op
from plandsl.ir.types import Dim, TensorType, Value

if TYPE_CHECKING:
    from plandsl.passes.shard import Sharder


class Attended(NamedTuple):
    """How requests, positions and heads of queries lie, the keys that they meet, and those that are held."""

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
        makers = {op.outs[0].name: op for op in sharder.region.ops if isinstance(op, Gemm)}
        self.caches = {op.k_rope.name: op for op in found}
        self.cached = {op.outs[-1].name: op.outs for op in sharder.region.ops if isinstance(op, CacheWrite)}
        self.unpacked = {
            x.name: (op, tuple(makers[y.name] for y in (op.k, op.v)))
            for op in found
            for x in (op.k, op.v)
            if x.name in makers
        }

    def laid_out(self, op: Op) -> Op | None:
        """``op`` with operands as it wants them, None where it is no part of latent attention."""
        match op:
            case HeadGemm():
                return self._product(op, self._beside(self._attended(op.over)), op.over)
            case Gemm() if op.outs[0].name in self.unpacked:
                attention, together = self.unpacked[op.outs[0].name]
                rows = self._meet(attention)
                for gemm in together:  # all parts of weights first, so that `fuse` may join the products
                    for w in gemm.weights:
                        self._weight(w, rows.head)
                return self._product(op, rows, attention.heads)
            case CacheWrite() if op.outs[-1].name in self.caches:
                return self._write(op, self._attended(self.caches[op.outs[-1].name].heads))
            case LatentAttention():
                return self._attention(op)
            case _:
                return None

    def _attended(self, heads: str) -> Attended:
        """Requests lie where a cache with such heads would have them; unpacked keys have heads, which may want an axis.

        So in prefill heads that a rule splits before the context keep the axis, and packed keys come to them.
        """
        layout = self.sharder.layout
        batch, unpacked, _ = layout.cache(("batch", "context", heads))
        held = _without(layout.cache(("batch", "context"))[1], batch.axes)
        context = unpacked if self.unpacked else held
        _, position, head = layout.dims(("batch", "position", heads), "attention")
        head = _without(head, (*batch.axes, *context.axes))
        position = _without(position, (*batch.axes, *head.axes))
        staying = _without(context, position.axes)
        return Attended(batch, position, head, staying, held)

    def _beside(self, rows: Attended) -> Attended:
        """Products before and after attention: axes of keys, on which its queries are whole, lie as they do outside."""
        outside = self.sharder.layout.dims((rows.batch.name, rows.position.name))
        free = [tuple(a for a in dim.axes if a in rows.context.axes) for dim in outside]
        batch, position = (Dim(d.name, (*d.axes, *axes)) for d, axes in zip(rows[:2], free, strict=True))
        return rows._replace(batch=batch, position=position)

    def _meet(self, op: LatentAttention) -> Attended:
        """From here on, what is cached is what queries meet of it."""
        rows, sharder, xs = self._attended(op.heads), self.sharder, self.cached[op.k_rope.name]
        for x, met in zip(xs, sharder.meet(xs, rows.context.axes, rows.position.axes, op.span), strict=True):
            sharder.now[x.name] = met
        return rows

    def _write(self, op: CacheWrite, rows: Attended) -> CacheWrite:
        position = Dim("position", self.sharder.layout.written(rows.held.axes))
        xs = tuple(self.sharder.lay(x, (rows.batch, position, Dim(x.type.names[-1]))) for x in op.xs)
        dims = tuple((rows.batch, rows.held, Dim(out.type.names[-1])) for out in op.outs)
        outs = (Value(o.name, TensorType(o.type.dtype, d)) for o, d in zip(op.outs, dims, strict=True))
        return evolve(op, xs=xs, outs=tuple(outs))

    def _weight(self, w: Value, heads: Dim) -> Value:
        """A rank's own heads of ``w``, or ``w`` as it lies where a rank lacks some of them."""
        have = self.sharder.now[w.name].type
        held = have.on(heads.name)
        more = heads.axes[len(held) :]
        if heads.axes[: len(held)] != held or have.axes & set(more):
            return self.sharder.now[w.name]
        return self.sharder.lay(w, have.with_axes(heads.name, heads.axes).dims)

    def _product(self, op: Gemm, rows: Attended, heads: str) -> Gemm:
        """``x`` lies like the weights where they meet, and like queries, or the keys that they meet, elsewhere."""
        weights = tuple(self._weight(w, rows.head) for w in op.weights)
        met = (*op.contracted(), heads)
        used = tuple(a for w in weights for a in w.type.axes)
        free = {d.name: _without(d, used) for d in rows[:4]}
        names = op.x.type.names
        dims = (Dim(n, weights[0].type.on(n)) if n in met else free.get(n, Dim(n)) for n in names)
        return evolve(op, x=self.sharder.lay(op.x, tuple(dims)), weights=weights)

    def _attention(self, op: LatentAttention) -> LatentAttention:
        by_name = {d.name: d for d in self._meet(op)[:4]}

        def whole(x: Value) -> Value:
            *rows, last = x.type.names
            return self.sharder.lay(x, (*(by_name.get(n, Dim(n)) for n in rows), Dim(last)))

        q, q_rope, k, k_rope, v = (whole(x) for x in op.operands)
        return evolve(op, q=q, q_rope=q_rope, k=k, k_rope=k_rope, v=v)


def _without(dim: Dim, axes: tuple[str, ...]) -> Dim:
    return Dim(dim.name, tuple(a for a in dim.axes if a not in axes))
