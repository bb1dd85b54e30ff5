"""Operations of latent attention, whose cache holds one short vector per token for the keys and values of all heads.

Prefill unpacks keys and values for each head; decode leaves them packed and takes the weights that would unpack them
into queries and results instead (DeepSeek-AI, "DeepSeek-V2", 2024, section 2.1).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, TypeAlias

from attrs import frozen

from plandsl.diagnostics import Diagnostic, Span
from plandsl.ir.base import COMPUTE, BaseOp, Facts, finding, sharded_alike, span_field
from plandsl.ir.compute import Gemm
from plandsl.ir.types import TensorType, Value


@frozen
class HeadGemm(Gemm):
    """A product for each of the ``over`` apart: ``x [..., heads, a]``, ``w [b, heads, a]`` -> ``[..., heads, b]``.

    Contracts all that ``x`` and ``w`` share but the heads.
    """

    keyword: ClassVar[str] = "head_gemm"
    facts: ClassVar[Facts] = Facts(COMPUTE, "gemm", "gemm", measured="gemm")
    over: str = "heads"

    @property
    def each(self) -> tuple[str, str]:
        """The heads, by one name in both."""
        return self.over, self.over


@frozen
class LatentAttention(BaseOp):
    """Softmax attention whose scores are ``q k + q_rope k_rope``: a part without, and one with positions.

    ``q, q_rope: [batch, position, heads, ...]``; ``k_rope: [batch, context, rope_dim]`` serves all heads, and so do
    ``k`` and ``v`` ``[batch, context, ...]`` where they have no heads of their own (unpacked, they do). Scores are
    divided by the root of the elements of an unpacked key, those of ``scaled`` and of ``k_rope`` together. Over keys
    that axes of the mesh share, each rank makes a softmax over its own, as in `Attention`.
    """

    keyword: ClassVar[str] = "latent_attention"
    facts: ClassVar[Facts] = Facts(COMPUTE, "attention", "attention", measured="attention")
    RESULTS: ClassVar[tuple[str, ...]] = ("out",)
    OPERANDS: ClassVar[tuple[str, ...]] = ("q", "q_rope", "k", "k_rope", "v")
    out: Value
    q: Value
    q_rope: Value
    k: Value
    k_rope: Value
    v: Value
    scaled: str
    causal: bool = True
    window: int = 0
    chunk: int | None = None
    span: Span | None = span_field()

    @property
    def title(self) -> str:
        """As a report calls such ops."""
        return "latent"

    @property
    def heads(self) -> str:
        """The name of the dimension of query heads."""
        return self.q.type.names[2]

    def infer(self) -> tuple[TensorType, ...]:
        """``q`` with the value's last dimension; over the axes that share the context, a softmax over some keys."""
        dims, softmax = (*self.q.type.dims[:-1], self.v.type.dims[-1]), frozenset(self.k_rope.type.on("context"))
        return (TensorType(self.out.type.dtype, dims, softmax=softmax),)

    def verify(self) -> Iterator[Diagnostic]:
        yield from BaseOp.verify(self)
        q, *others = (x.type for x in self.operands)
        if any(x.dims[-1].axes for x in (q, *others)):
            yield finding("latent attention needs last dimensions whole", self.span, str(q))
        keys = self.k_rope.type
        if q.axes & set(keys.on("context")):
            yield finding("attention over keys split by context on an axis of the queries", self.span, str(keys))
        for x in others:
            if not sharded_alike(x, TensorType(q.dtype, (*q.dims[:-1], keys.dim("context")))):
                yield finding("latent attention of operands that lie differently", self.span, str(x))


Latent: TypeAlias = HeadGemm | LatentAttention
"""Every op of this module."""
