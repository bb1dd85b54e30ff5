"""Operations of a mixture of experts, where a token goes to some of them only.

A value inside has the dimension ``experts:8``, "8 of the experts": each token has a place for every expert, and 8 of
them hold anything. Splitting it over ranks gives each one the places of its own experts, so that sharding rules,
collectives and partial sums are what they are for any other dimension; tokens go to the ranks of their experts by the
all_to_all that moves an axis from a dimension of tokens to this one. Weights have the dimension ``experts`` itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, TypeAlias

from attrs import frozen

from plandsl.diagnostics import Diagnostic, Span
from plandsl.ir.base import COMPUTE, Facts, finding, span_field
from plandsl.ir.compute import Gemm
from plandsl.ir.rule import Regular, Rule
from plandsl.ir.types import Value, routed, stem


@frozen
class TopK(Regular):
    """The ``top_k`` experts of each token with the largest scores, and the share of the result that each one gets.

    ``logits: [tokens, experts]``; ``score`` makes scores of them (softmax or sigmoid), ``bias`` ``[experts]`` is added
    for the choice alone. The shares are the scores, divided by their sum with ``normalize``, times ``scale``. Of equal
    scores the expert that comes first is chosen.
    """

    keyword: ClassVar[str] = "top_k"
    facts: ClassVar[Facts] = Facts(COMPUTE, "top_k", "elementwise", measured="any")
    SPLIT: ClassVar[str] = "top_k of experts that are split"
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

    @property
    def rules(self) -> tuple[Rule, ...]:
        """``[tokens, experts]`` -> ``[tokens, experts:top_k]``, with all experts on every rank."""
        *tokens, experts = self.logits.type.names
        place = f"{experts}:{self.top_k}"
        return (Rule(self.operands, (*tokens, place), self.out.type.dtype, whole=(experts,)),)


@frozen
class Dispatch(Regular):
    """Each token at the places of its experts: ``x [tokens, ...]`` -> ``[tokens, experts:8, ...]``, zeros elsewhere.

    ``gates`` ``[tokens, experts:8]`` says which those are; where they are split, a rank fills the places of its own.
    With ``weighs`` a token comes to each place times its gate there.
    """

    keyword: ClassVar[str] = "dispatch"
    facts: ClassVar[Facts] = Facts(COMPUTE, "dispatch", "elementwise", measured="any")
    APART: ClassVar[str] = "dispatch by gates of other tokens"
    RESULTS: ClassVar[tuple[str, ...]] = ("out",)
    OPERANDS: ClassVar[tuple[str, ...]] = ("x", "gates")
    out: Value
    x: Value
    gates: Value
    weighs: bool = False
    span: Span | None = span_field()

    @property
    def rules(self) -> tuple[Rule, ...]:
        """The dimensions of ``gates``, then those that ``x`` has besides."""
        gates, x = self.gates.type, self.x.type
        dims = (*gates.names, *(n for n in x.names if n not in gates.names))
        return (Rule((self.x, self.gates), dims, x.dtype),)


@frozen
class GroupedGemm(Gemm):
    """A `Gemm` for each expert, with weights of its own: ``x [tokens, experts:8, ...]``, ``w [experts, ...]``."""

    keyword: ClassVar[str] = "grouped_gemm"
    facts: ClassVar[Facts] = Facts(COMPUTE, "grouped_gemm", "gemm", measured="gemm")

    @property
    def each(self) -> tuple[str, str]:
        """The places of experts in ``x``, the experts in the weights."""
        place = routed(self.x.type)
        return place, stem(place)


@frozen
class Combine(Regular):
    """The results of a token's experts, summed by their ``gates``: ``x [tokens, experts:8, ...]`` -> ``[tokens, ...]``.

    A rank that holds some of the experts leaves a partial sum. It is linear in ``x``, which may be one already. With
    ``plain`` results are summed as they are.
    """

    keyword: ClassVar[str] = "combine"
    facts: ClassVar[Facts] = Facts(COMPUTE, "combine", "elementwise", measured="any", linear=("x",))
    APART: ClassVar[str] = "combine by gates of other tokens or experts"
    RESULTS: ClassVar[tuple[str, ...]] = ("out",)
    OPERANDS: ClassVar[tuple[str, ...]] = ("x", "gates")
    out: Value
    x: Value
    gates: Value
    plain: bool = False
    span: Span | None = span_field()

    @property
    def rules(self) -> tuple[Rule, ...]:
        """Without the experts; partial over their axes as well."""
        x, place = self.x.type, routed(self.x.type)
        rest = tuple(n for n in x.names if n != place)
        return (Rule((self.x, self.gates), rest, self.out.type.dtype, contracts=(place,), stay=(self.x,)),)

    def verify(self) -> Iterator[Diagnostic]:
        if self.gates.type.partial:
            yield finding("combine by gates that are a partial sum", self.span, str(self.gates.type))
        yield from self.misfits()


Routing: TypeAlias = TopK | Dispatch | GroupedGemm | Combine
"""Every op of this module."""
