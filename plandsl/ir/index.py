"""The op of sparse attention that picks, for each query, the keys to attend to.

The lightning indexer of DeepSeek-V3.2 (DeepSeek-AI, "DeepSeek-V3.2", arXiv 2512.02556) scores all keys
with a few small heads, and attention runs over the best 2048 of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from attrs import frozen

from plandsl.diagnostics import Diagnostic, Span
from plandsl.ir.base import COMPUTE, BaseOp, Facts, finding, span_field
from plandsl.ir.names import picks
from plandsl.ir.types import Dim, TensorType, Value


@frozen(eq=False, repr=False, slots=False)
class PickKeys(BaseOp):
    """The positions of the ``top_k`` keys with the largest scores, for each query: ``[batch, position, picks]``.

    The score of key s for query t is ``sum_h w_th relu(q_th k_s)``, with queries ``q: [batch, position, index_heads,
    index_dim]``, cached ``k: [batch, context, index_dim]`` and ``w: [batch, position, index_heads]`` (1 if it is
    missing). Scores are compared in 32 bits; of equal scores the earlier key is picked. A query picks among the keys
    that its attention sees by ``causal``, ``window`` and ``chunk``; where these are fewer than ``top_k``, the remaining
    picks are -1.
    """

    keyword: ClassVar[str] = "pick_keys"
    facts: ClassVar[Facts] = Facts(COMPUTE, "index", "attention", measured="any")
    RESULTS: ClassVar[tuple[str, ...]] = ("out",)
    OPERANDS: ClassVar[tuple[str, ...]] = ("q", "k", "w")
    out: Value
    q: Value
    k: Value
    w: Value | None = None
    top_k: int = 1
    causal: bool = True
    window: int = 0
    chunk: int | None = None
    span: Span | None = span_field()

    def infer(self) -> tuple[TensorType, ...]:
        """Picks are split like queries, by requests and positions."""
        return (TensorType("int32", (*self.q.type.dims[:2], Dim(picks(self.top_k)))),)

    def verify(self) -> Iterator[Diagnostic]:
        yield from BaseOp.verify(self)
        q, k = self.q.type, self.k.type
        if any(d.axes for d in (*q.dims[2:], *k.dims[1:])):
            yield finding("pick_keys needs all heads of a query, and all keys of its request", self.span, str(k))
        if q.on("batch") != k.on("batch"):
            yield finding("pick_keys of queries and keys of different requests", self.span, str(k))
        if self.w is not None and self.w.type.dims != q.dims[:3]:
            yield finding("pick_keys weighs other heads than those of its queries", self.span, str(self.w.type))
