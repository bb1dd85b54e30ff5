"""The ops that hand a layer what an earlier layer made, and its own item of what the embedding made for all.

Layers share keys and values (Brandon et al., "Reducing Transformer Key-Value Cache Size with Cross-Layer Attention",
2024), picked keys, or what the embedding made for all of them.
"""

from __future__ import annotations

from typing import ClassVar

from attrs import frozen

from plandsl.diagnostics import Span
from plandsl.ir.base import COMPUTE, BaseOp, Facts, span_field
from plandsl.ir.rule import Regular, Rule
from plandsl.ir.types import TensorType, Value
from plandsl.values import once


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


@frozen(eq=False, repr=False, slots=False)
class Item(Regular):
    """One item of ``x`` along the dimension ``over``: item ``at``, or the one of this layer's number (None).

    Nothing moves: the next kernel reads the item where it lies.
    """

    keyword: ClassVar[str] = "item"
    facts: ClassVar[Facts] = Facts(COMPUTE, "item", "elementwise", measured="any", linear=("x",), view=True)
    RESULTS: ClassVar[tuple[str, ...]] = ("out",)
    OPERANDS: ClassVar[tuple[str, ...]] = ("x",)
    out: Value
    x: Value
    over: str
    at: int | None = None
    span: Span | None = span_field()

    @once
    def rules(self) -> tuple[Rule, ...]:
        """As ``x``, without ``over``, which is whole."""
        rest = tuple(n for n in self.x.type.names if n != self.over)
        return (Rule((self.x,), rest, self.x.type.dtype, whole=(self.over,)),)
