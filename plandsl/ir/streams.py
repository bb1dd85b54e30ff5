"""Ops of models with several residual streams, and of activations that few elements of pass.

AltUp (Baykal et al., "Alternating Updates for Efficient Transformers", NeurIPS 2023) predicts all streams from all
streams, runs a layer on one of them, and corrects the others by what the layer changed.
"""

from __future__ import annotations

from statistics import NormalDist
from typing import ClassVar, TypeAlias

from attrs import frozen

from plandsl.diagnostics import Span
from plandsl.ir.base import COMPUTE, Facts, span_field
from plandsl.ir.names import MOMENTS
from plandsl.ir.rule import Regular, Rule
from plandsl.ir.types import Value
from plandsl.values import once


@frozen(eq=False, repr=False, slots=False)
class Stack(Regular):
    """``xs`` as the items of a new dimension ``into``, the first of those that are no rows."""

    keyword: ClassVar[str] = "stack"
    facts: ClassVar[Facts] = Facts(COMPUTE, "elementwise", "elementwise", measured="any")
    RESULTS: ClassVar[tuple[str, ...]] = ("out",)
    OPERANDS: ClassVar[tuple[str, ...]] = ("xs",)
    out: Value
    xs: tuple[Value, ...]
    into: str
    span: Span | None = span_field()

    @once
    def rules(self) -> tuple[Rule, ...]:
        """``[tokens, hidden]`` four times -> ``[tokens, streams, hidden]``."""
        return (Rule(self.xs, self.out.type.names, self.xs[0].type.dtype, whole=(self.into,)),)


@frozen(eq=False, repr=False, slots=False)
class Spread(Regular):
    """``x`` as each item of a new dimension ``into``, from item ``first`` on; the items before it are zero."""

    keyword: ClassVar[str] = "spread"
    facts: ClassVar[Facts] = Facts(COMPUTE, "elementwise", "elementwise", measured="any")
    RESULTS: ClassVar[tuple[str, ...]] = ("out",)
    OPERANDS: ClassVar[tuple[str, ...]] = ("x",)
    out: Value
    x: Value
    into: str
    first: int = 0
    span: Span | None = span_field()

    @once
    def rules(self) -> tuple[Rule, ...]:
        """``[tokens, hidden]`` -> ``[tokens, streams, hidden]``."""
        return (Rule((self.x,), self.out.type.names, self.x.type.dtype, whole=(self.into,)),)


@frozen(eq=False, repr=False, slots=False)
class Mix(Regular):
    """Each item of ``x`` along ``over`` becomes a sum of all, by weights of the token: ``out_s = sum_r c_rs x_r``.

    ``x: [tokens, streams, hidden]``, ``weights: [tokens, streams, mixed]``; both dimensions have one size.
    """

    keyword: ClassVar[str] = "mix"
    facts: ClassVar[Facts] = Facts(COMPUTE, "elementwise", "elementwise", measured="any")
    RESULTS: ClassVar[tuple[str, ...]] = ("out",)
    OPERANDS: ClassVar[tuple[str, ...]] = ("x", "weights")
    out: Value
    x: Value
    weights: Value
    over: str
    span: Span | None = span_field()

    @once
    def rules(self) -> tuple[Rule, ...]:
        """As ``x``, with the streams whole."""
        whole = (self.over, self.weights.type.names[-1])
        return (Rule(self.operands, self.x.type.names, self.x.type.dtype, whole=whole),)


@frozen(eq=False, repr=False, slots=False)
class Match(Regular):
    """``x`` times a number of each row, so that its mean square is that of ``like``; the result has its dimensions."""

    keyword: ClassVar[str] = "match"
    facts: ClassVar[Facts] = Facts(COMPUTE, "norm", "norm", measured="rmsnorm")
    RESULTS: ClassVar[tuple[str, ...]] = ("out",)
    OPERANDS: ClassVar[tuple[str, ...]] = ("x", "like")
    out: Value
    x: Value
    like: Value
    span: Span | None = span_field()

    @once
    def rules(self) -> tuple[Rule, ...]:
        """As ``like``, with the last dimensions whole."""
        whole = (self.like.type.names[-1], self.x.type.names[-1])
        return (Rule(self.operands, self.like.type.names, self.x.type.dtype, whole=whole),)


@frozen(eq=False, repr=False, slots=False)
class Moments(Regular):
    """The sum of ``x`` and that of its squares over the dimension ``over``; a split dimension leaves partial sums."""

    keyword: ClassVar[str] = "moments"
    facts: ClassVar[Facts] = Facts(COMPUTE, "elementwise", "elementwise", measured="any")
    RESULTS: ClassVar[tuple[str, ...]] = ("out",)
    OPERANDS: ClassVar[tuple[str, ...]] = ("x",)
    out: Value
    x: Value
    over: str
    span: Span | None = span_field()

    @once
    def rules(self) -> tuple[Rule, ...]:
        """``[tokens, ffn]`` -> ``[tokens, moments]``."""
        rows = tuple(n for n in self.x.type.names if n != self.over)
        return (Rule((self.x,), (*rows, MOMENTS), "fp32", contracts=(self.over,), stay=(self.x,)),)


@frozen(eq=False, repr=False, slots=False)
class Excess(Regular):
    """By how much each element of ``x`` exceeds a threshold, else 0: ``max(x - mean - z std, 0)``.

    The mean and the standard deviation over ``over`` follow from ``moments``; a share ``share`` of a normal
    distribution exceeds z standard deviations.
    """

    keyword: ClassVar[str] = "excess"
    facts: ClassVar[Facts] = Facts(COMPUTE, "elementwise", "elementwise", measured="any")
    RESULTS: ClassVar[tuple[str, ...]] = ("out",)
    OPERANDS: ClassVar[tuple[str, ...]] = ("x", "moments")
    out: Value
    x: Value
    moments: Value
    over: str
    share: float
    span: Span | None = span_field()

    @property
    def deviations(self) -> float:
        """z: how many standard deviations above the mean the threshold lies."""
        return NormalDist().inv_cdf(1 - self.share)

    @once
    def rules(self) -> tuple[Rule, ...]:
        """As ``x``."""
        return (Rule(self.operands, self.x.type.names, self.x.type.dtype, whole=(MOMENTS,), stay=(self.x,)),)


Streams: TypeAlias = Stack | Spread | Mix | Match | Moments | Excess
"""Every op of this module."""
