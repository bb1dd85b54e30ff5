"""Operations of a mixture of experts, where a token goes to some of them only.

A value inside has the dimension ``experts:8``, "8 of the experts": each token has a place for every expert, and 8 of
them hold anything. Splitting it over ranks gives each one the places of its own experts, so that sharding rules,
collectives and partial sums are what they are for any other dimension; tokens go to the ranks of their experts by the
all_to_all that moves an axis from a dimension of tokens to this one. Weights have the dimension ``experts`` itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from attrs import frozen

from plandsl.diagnostics import Diagnostic, Span
from plandsl.ir.base import BaseOp, finding, sharded_alike, span_field
from plandsl.ir.compute import Gemm
from plandsl.ir.types import Dim, TensorType, Value, routed, stem


@frozen
class TopK(BaseOp):
    """The ``top_k`` experts of each token with the largest scores, and the share of the result that each one gets.

    ``logits: [tokens, experts]``; ``score`` makes scores of them (softmax or sigmoid), ``bias`` ``[experts]`` is added
    for the choice alone. The shares are the scores, divided by their sum with ``normalize``, times ``scale``. Of equal
    scores the expert that comes first is chosen.
    """

    keyword: ClassVar[str] = "top_k"
    RESULTS: ClassVar[tuple[str, ...]] = ("out",)
    OPERANDS: ClassVar[tuple[str, ...]] = ("logits", "bias")
    out: Value
    logits: Value
    bias: Value | None = None
    top_k: int = 1
    score: str = "softmax"
    normalize: bool = True
    scale: float = 1.0
    span: Span | None = span_field()

    def infer(self) -> tuple[TensorType, ...]:
        """``[tokens, experts]`` -> ``[tokens, experts:top_k]``."""
        *tokens, experts = self.logits.type.dims
        return (TensorType(self.out.type.dtype, (*tokens, Dim(f"{experts.name}:{self.top_k}"))),)

    def verify(self) -> Iterator[Diagnostic]:
        yield from BaseOp.verify(self)
        for x in self.operands:
            if x.type.dims[-1].axes:
                yield finding("top_k of experts that are split", self.span, str(x.type))


@frozen
class Dispatch(BaseOp):
    """Each token at the places of its experts: ``x [tokens, ...]`` -> ``[tokens, experts:8, ...]``, zeros elsewhere.

    ``gates`` ``[tokens, experts:8]`` says which those are; where they are split, a rank fills the places of its own.
    With ``weighs`` a token comes to each place times its gate there.
    """

    keyword: ClassVar[str] = "dispatch"
    RESULTS: ClassVar[tuple[str, ...]] = ("out",)
    OPERANDS: ClassVar[tuple[str, ...]] = ("x", "gates")
    out: Value
    x: Value
    gates: Value
    weighs: bool = False
    span: Span | None = span_field()

    def infer(self) -> tuple[TensorType, ...]:
        """The dimensions of ``gates``, then those that ``x`` has besides."""
        gates, x = self.gates.type, self.x.type
        return (TensorType(x.dtype, (*gates.dims, *(d for d in x.dims if d.name not in gates.names))),)

    def verify(self) -> Iterator[Diagnostic]:
        yield from BaseOp.verify(self)
        if not sharded_alike(self.x.type, self.gates.type):
            yield finding("dispatch by gates of other tokens", self.span, str(self.gates.type))


@frozen
class GroupedGemm(Gemm):
    """A `Gemm` for each expert, with weights of its own: ``x [tokens, experts:8, ...]``, ``w [experts, ...]``."""

    keyword: ClassVar[str] = "grouped_gemm"

    @property
    def each(self) -> tuple[str, str]:
        """The places of experts in ``x``, the experts in the weights."""
        place = routed(self.x.type)
        return place, stem(place)


@frozen
class Combine(BaseOp):
    """The results of a token's experts, summed by their ``gates``: ``x [tokens, experts:8, ...]`` -> ``[tokens, ...]``.

    A rank that holds some of the experts leaves a partial sum. It is linear in ``x``, which may be one already. With
    ``plain`` results are summed as they are.
    """

    keyword: ClassVar[str] = "combine"
    RESULTS: ClassVar[tuple[str, ...]] = ("out",)
    OPERANDS: ClassVar[tuple[str, ...]] = ("x", "gates")
    out: Value
    x: Value
    gates: Value
    plain: bool = False
    span: Span | None = span_field()

    def infer(self) -> tuple[TensorType, ...]:
        """Without the experts; partial over their axes as well."""
        x = self.x.type
        place = x.dim(routed(x))
        rest = tuple(d for d in x.dims if d is not place)
        return (TensorType(self.out.type.dtype, rest, x.partial | frozenset(place.axes)),)

    def verify(self) -> Iterator[Diagnostic]:
        if self.gates.type.partial:
            yield finding("combine by gates that are a partial sum", self.span, str(self.gates.type))
        if not sharded_alike(self.x.type, self.gates.type):
            yield finding("combine by gates of other tokens or experts", self.span, str(self.gates.type))
