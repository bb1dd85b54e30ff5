"""The op that sums over a split dimension for a norm, so that the values need not be gathered."""

from __future__ import annotations

from typing import ClassVar

from attrs import frozen

from plandsl.diagnostics import Span
from plandsl.ir.base import COMPUTE, Facts, span_field
from plandsl.ir.names import MOMENTS
from plandsl.ir.rule import Regular, Rule
from plandsl.ir.types import Value
from plandsl.values import once

CENTRED = "layer_norm"
"""The norm that takes the mean from its values, and so needs their sum too."""


@frozen(eq=False, repr=False, slots=False)
class NormSums(Regular):
    """The sums over dimension ``over`` that ``fn`` needs: ``[batch, position, hidden]`` -> ``[batch, position]``.

    For `rms_norm` it is the sum of squares. For `layer_norm` the result has one more dimension, `MOMENTS`: the sum of
    squares, and the sum. Where axes split ``over``, it is a partial sum: one number or two of each row, in 32 bits,
    travel in the place of the row.
    """

    keyword: ClassVar[str] = "norm_sums"
    facts: ClassVar[Facts] = Facts(COMPUTE, "norm", "norm", measured="any")
    RESULTS: ClassVar[tuple[str, ...]] = ("out",)
    OPERANDS: ClassVar[tuple[str, ...]] = ("x",)
    out: Value
    x: Value
    fn: str = "rms_norm"
    over: str = "hidden"
    span: Span | None = span_field()

    @once
    def rules(self) -> tuple[Rule, ...]:
        """As ``x`` without ``over``, which is summed over."""
        rest = tuple(n for n in self.x.type.names if n != self.over)
        more = (MOMENTS,) if self.fn == CENTRED else ()
        return (Rule((self.x,), (*rest, *more), "fp32", contracts=(self.over,), stay=(self.x,)),)
