"""The op that sums over a split dimension for a norm, so that the values need not be gathered."""

from __future__ import annotations

from typing import ClassVar

from attrs import frozen

from plandsl.diagnostics import Span
from plandsl.ir.base import COMPUTE, Facts, span_field
from plandsl.ir.rule import Regular, Rule
from plandsl.ir.types import Value
from plandsl.values import once


@frozen(eq=False, repr=False, slots=False)
class NormSums(Regular):
    """The sum of the squares of ``x`` over dimension ``over``: ``[batch, position, hidden]`` -> ``[batch, position]``.

    It is what `rms_norm` needs to know of a row. (`layer_norm` needs `plandsl.ir.streams.Moments`.) Where axes split
    ``over``, it is a partial sum: one number of each row, in 32 bits, travels in the place of the row.
    """

    keyword: ClassVar[str] = "norm_sums"
    facts: ClassVar[Facts] = Facts(COMPUTE, "norm", "norm", measured="any")
    RESULTS: ClassVar[tuple[str, ...]] = ("out",)
    OPERANDS: ClassVar[tuple[str, ...]] = ("x",)
    out: Value
    x: Value
    over: str = "hidden"
    span: Span | None = span_field()

    @once
    def rules(self) -> tuple[Rule, ...]:
        """As ``x`` without ``over``, which is summed over."""
        rest = tuple(n for n in self.x.type.names if n != self.over)
        return (Rule((self.x,), rest, "fp32", contracts=(self.over,), stay=(self.x,)),)
