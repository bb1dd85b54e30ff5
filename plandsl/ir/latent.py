"""Ops of latent attention, whose cache holds one short vector per token for the keys and values of all heads.

Prefill unpacks keys and values for each head. Decode leaves them packed, and multiplies the queries and the results by
the unpacking weights instead (DeepSeek-AI, "DeepSeek-V2", 2024, section 2.1).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, TypeAlias

from attrs import frozen

from plandsl.diagnostics import Diagnostic, Span
from plandsl.ir.base import COMPUTE, BaseOp, Facts, finding, sharded_alike, span_field
from plandsl.ir.compute import Gemm
from plandsl.ir.types import TensorType, Value


@frozen(eq=False, repr=False, slots=False)
class HeadGemm(Gemm):
    """One product for each head: ``x [..., heads, a]``, ``w [b, heads, a]`` -> ``[..., heads, b]``.

    ``over`` names the dimension of heads. All other dimensions that ``x`` and ``w`` share are contracted.
    """

    keyword: ClassVar[str] = "head_gemm"
    facts: ClassVar[Facts] = Facts(COMPUTE, "gemm", "gemm", measured="gemm")
    over: str = "heads"

    @property
    def each(self) -> tuple[str, str]:
        """The heads, which have the same name in ``x`` and ``w``."""
        return self.over, self.over


@frozen(eq=False, repr=False, slots=False)
class LatentAttention(BaseOp):
    """Softmax attention with scores ``(q k + q_rope k_rope) / sqrt(n)``: a part without and a part with positions.

    ``q, q_rope: [batch, position, heads, ...]``; ``k_rope: [batch, context, rope_dim]`` serves all heads. Packed ``k``
    and ``v`` are ``[batch, context, ...]`` and serve all heads too; unpacked, they have a dimension of heads. ``n`` is
    the number of elements of an unpacked key: the size of dimension ``scaled`` plus ``rope_dim``. Where mesh axes
    split the context, each rank makes a softmax over its own keys, as in `Attention`; so are ``among``, ``softcap`` and
    ``alibi``.
    """

    keyword: ClassVar[str] = "latent_attention"
    facts: ClassVar[Facts] = Facts(COMPUTE, "attention", "attention", measured="attention")
    RESULTS: ClassVar[tuple[str, ...]] = ("out",)
    OPERANDS: ClassVar[tuple[str, ...]] = ("q", "q_rope", "k", "k_rope", "v", "among")
    out: Value
    q: Value
    q_rope: Value
    k: Value
    k_rope: Value
    v: Value
    scaled: str
    among: Value | None = None
    causal: bool = True
    window: int = 0
    chunk: int | None = None
    softcap: float | None = None
    alibi: bool = False
    span: Span | None = span_field()

    @property
    def title(self) -> str:
        """``latent``, to tell it from other attention in a report."""
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
        for x in others:  # with the choice of keys, whose last dimension is whole as well
            if not sharded_alike(x, TensorType(q.dtype, (*q.dims[:-1], keys.dim("context")))):
                yield finding("latent attention operands have different layouts", self.span, str(x))


Latent: TypeAlias = HeadGemm | LatentAttention
"""Every op of this module."""
