"""The op that hands a layer what an earlier layer made.

Layers share keys and values (Brandon et al., "Reducing Transformer Key-Value Cache Size with Cross-Layer Attention",
2024), picked keys, or what the embedding made for all of them.
"""

from __future__ import annotations

from typing import ClassVar

from attrs import frozen

from plandsl.diagnostics import Span
from plandsl.ir.base import COMPUTE, BaseOp, Facts, span_field
from plandsl.ir.types import TensorType, Value


@frozen(eq=False, repr=False, slots=False)
class Earlier(BaseOp):
    """What the last layer before this one, or else the embedding, made under the name ``made``.

    Nothing moves: the value stays where it was made. Regions say in ``gives`` which names their results have.
    """

    keyword: ClassVar[str] = "earlier"
    facts: ClassVar[Facts] = Facts(COMPUTE, "earlier value", "elementwise", measured="any")
    RESULTS: ClassVar[tuple[str, ...]] = ("out",)
    OPERANDS: ClassVar[tuple[str, ...]] = ()
    out: Value
    made: str
    span: Span | None = span_field()

    def infer(self) -> tuple[TensorType, ...]:
        """As recorded, which is as the value was made."""
        return (self.out.type,)
