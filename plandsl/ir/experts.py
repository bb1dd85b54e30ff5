"""Ops of a mixture of experts: routing, dispatch, the experts' GEMMs, and combining their results.

Each token goes to a few experts only. A value inside has the dimension ``experts:8``, "8 of the experts": a token has
a place for every expert, and 8 places are filled. Where ranks split this dimension, each rank has the places of its
own experts, so sharding rules, collectives and partial sums work as for any other dimension. Tokens reach the ranks
of their experts by an all_to_all, which moves an axis from a dimension of tokens to ``experts:8``. Weights have the
dimension ``experts`` itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, TypeAlias

from attrs import frozen

from plandsl.diagnostics import Diagnostic, Span
from plandsl.ir.base import COMPUTE, Facts, finding, span_field
from plandsl.ir.compute import Gemm
from plandsl.ir.names import Places
from plandsl.ir.rule import Regular, Rule
from plandsl.ir.types import Value, routed
from plandsl.values import once


@frozen(eq=False, repr=False, slots=False)
class TopK(Regular):
    """Choose for each token the ``top_k`` experts with the largest scores; the results are their gates.

    ``logits: [tokens, experts]``. ``score`` (softmax or sigmoid) turns logits into scores. ``bias`` ``[experts]`` is
    added to the scores for the choice only. A gate is the score (with ``normalize``, divided by the sum of the chosen
    scores) times ``scale``. Among equal scores the expert that comes first is chosen.
    """

    keyword: ClassVar[str] = "top_k"
    facts: ClassVar[Facts] = Facts(COMPUTE, "top_k", "elementwise", measured="any")
    SPLIT: ClassVar[str] = "top_k needs '{dim}' whole"
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

    @once
    def rules(self) -> tuple[Rule, ...]:
        """``[tokens, experts]`` -> ``[tokens, experts:top_k]``, with all experts on every rank."""
        *tokens, experts = self.logits.type.names
        place = Places(experts, self.top_k)
        return (Rule(self.operands, (*tokens, place), self.out.type.dtype, whole=(experts,)),)


@frozen(eq=False, repr=False, slots=False)
class Dispatch(Regular):
    """Copy each token to the places of its experts: ``x [tokens, ...]`` -> ``[tokens, experts:8, ...]``, else zero.

    ``gates`` ``[tokens, experts:8]`` says which experts a token has. Where ``gates`` is split, a rank fills the places
    of its own experts. With ``weighs`` each copy is multiplied by its gate.
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

    @once
    def rules(self) -> tuple[Rule, ...]:
        """The dimensions of ``gates``, then the remaining dimensions of ``x``."""
        gates, x = self.gates.type, self.x.type
        dims = (*gates.names, *(n for n in x.names if n not in gates.names))
        return (Rule((self.x, self.gates), dims, x.dtype),)


@frozen(eq=False, repr=False, slots=False)
class GroupedGemm(Gemm):
    """A `Gemm` for each expert with that expert's weights: ``x [tokens, experts:8, ...]``, ``w [experts, ...]``."""

    keyword: ClassVar[str] = "grouped_gemm"
    facts: ClassVar[Facts] = Facts(COMPUTE, "grouped_gemm", "gemm", measured="gemm")

    @property
    def each(self) -> tuple[str, str]:
        """``experts:8`` in ``x``, ``experts`` in the weights."""
        place = routed(self.x.type)
        return place, place.experts


@frozen(eq=False, repr=False, slots=False)
class Combine(Regular):
    """Sum the results of a token's experts, times their ``gates``: ``x [tokens, experts:8, ...]`` -> ``[tokens, ...]``.

    Where ranks split the experts, the result is a partial sum. The op is linear in ``x``, which may be a partial sum
    as well. With ``plain`` the results are summed without gates.
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

    @once
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
