"""Layouts of latent attention: queries by the rules for attention, what is cached whole but for its requests.

The cache has no heads, so ranks that share the heads of a request each hold all of it (as engines do). The weights
that unpack it, or that decode absorbs, work on the heads that attention has: a rank takes its part of them where its
own heads are among those that it holds, and otherwise they stay and their results move.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from attrs import evolve

from plandsl.ir.compute import CacheWrite, Gemm
from plandsl.ir.latent import HeadGemm, LatentAttention
from plandsl.ir.ops import Op
from plandsl.ir.types import Dim, Value

if TYPE_CHECKING:
    from plandsl.passes.shard import Sharder


class Latents:
    """The latent attention of one region."""

    def __init__(self, sharder: Sharder) -> None:
        self.sharder = sharder
        found = [op for op in sharder.region.ops if isinstance(op, LatentAttention)]
        makers = {op.outs[0].name: op for op in sharder.region.ops if isinstance(op, Gemm)}
        self.caches = {op.k_rope.name: op for op in found}
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
                return self._product(op, self._attended(op.over), op.over)
            case Gemm() if op.outs[0].name in self.unpacked:
                attention, together = self.unpacked[op.outs[0].name]
                dims = self._attended(attention.heads)
                for gemm in together:  # all parts of weights first, so that `fuse` may join the products
                    for w in gemm.weights:
                        self._weight(w, dims[2])
                return self._product(op, dims, attention.heads)
            case CacheWrite() if op.outs[-1].name in self.caches:
                rows = self._attended(self.caches[op.outs[-1].name].heads)[0], Dim("position")
                return evolve(op, xs=tuple(self.sharder.lay(x, (*rows, Dim(x.type.names[-1]))) for x in op.xs))
            case LatentAttention():
                return self._attention(op)
            case _:
                return None

    def _attended(self, heads: str) -> tuple[Dim, Dim, Dim]:
        """Requests, positions and heads of queries: requests lie where a cache with such heads would have them."""
        layout = self.sharder.layout
        batch = layout.cache(("batch", "context", heads))[0]
        _, position, head = layout.dims(("batch", "position", heads), "attention")
        return batch, _without(position, (*batch.axes, *head.axes)), head

    def _weight(self, w: Value, heads: Dim) -> Value:
        """A rank's own heads of ``w``, or ``w`` as it lies where a rank lacks some of them."""
        have = self.sharder.now[w.name].type
        held = have.on(heads.name)
        more = heads.axes[len(held) :]
        if heads.axes[: len(held)] != held or have.axes & set(more):
            return self.sharder.now[w.name]
        return self.sharder.lay(w, have.with_axes(heads.name, heads.axes).dims)

    def _product(self, op: Gemm, attended: tuple[Dim, Dim, Dim], heads: str) -> Gemm:
        """``x`` lies like the weights where they meet, and like queries elsewhere."""
        weights = tuple(self._weight(w, attended[2]) for w in op.weights)
        met = (*op.contracted(), heads)
        used = tuple(a for w in weights for a in w.type.axes)
        free = {d.name: _without(d, used) for d in attended}
        names = op.x.type.names
        dims = (Dim(n, weights[0].type.on(n)) if n in met else free.get(n, Dim(n)) for n in names)
        return evolve(op, x=self.sharder.lay(op.x, tuple(dims)), weights=weights)

    def _attention(self, op: LatentAttention) -> LatentAttention:
        by_name = {d.name: d for d in self._attended(op.heads)}

        def whole(x: Value) -> Value:
            *rows, last = x.type.names
            return self.sharder.lay(x, (*(by_name.get(n, Dim(n)) for n in rows), Dim(last)))

        q, q_rope, k, k_rope, v = (whole(x) for x in op.operands)
        return evolve(op, q=q, q_rope=q_rope, k=k, k_rope=k_rope, v=v)


def _without(dim: Dim, axes: tuple[str, ...]) -> Dim:
    return Dim(dim.name, tuple(a for a in dim.axes if a not in axes))
