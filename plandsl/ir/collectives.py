"""Operations that communicate: each one changes the layout of a tensor and nothing else.

Closed forms of their cost stand in `plandsl.backends.cost`; here is what they mean.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from attrs import frozen

from plandsl.diagnostics import Diagnostic, Span
from plandsl.ir.base import BaseOp, finding, span_field
from plandsl.ir.types import TensorType, Value, axes_of


@frozen
class Reshard(BaseOp):
    """``x`` laid out as ``out`` says: a placeholder until `insert_collectives` finds the way."""

    keyword: ClassVar[str] = "reshard"
    RESULTS: ClassVar[tuple[str, ...]] = ("out",)
    OPERANDS: ClassVar[tuple[str, ...]] = ("x",)
    out: Value
    x: Value
    span: Span | None = span_field()

    def infer(self) -> tuple[TensorType, ...]:
        """Whatever is asked for."""
        return (self.out.type,)

    def verify(self) -> Iterator[Diagnostic]:
        if self.out.type.names != self.x.type.names or self.out.type.dtype != self.x.type.dtype:
            yield finding("reshard changes more than the layout", self.span, str(self.out.type))


class _Collective(BaseOp):
    """One operand, one result, one group of ranks: those along ``axis``, or along several (``a*b``, major first)."""

    __slots__ = ()
    RESULTS: ClassVar[tuple[str, ...]] = ("out",)
    OPERANDS: ClassVar[tuple[str, ...]] = ("x",)
    out: Value
    x: Value
    axis: str

    @property
    def axes(self) -> tuple[str, ...]:
        """The mesh axes of ``axis``, major first."""
        return axes_of(self.axis)


@frozen
class AllReduce(_Collective):
    """Sum ``x`` over ``axis``; every member ends with the whole sum."""

    keyword: ClassVar[str] = "all_reduce"
    out: Value
    x: Value
    axis: str
    span: Span | None = span_field()

    def infer(self) -> tuple[TensorType, ...]:
        """No longer partial over ``axis``."""
        t = self.x.type
        return (TensorType(t.dtype, t.dims, t.partial.difference(self.axes)),)

    def verify(self) -> Iterator[Diagnostic]:
        if not self.x.type.partial.issuperset(self.axes):
            yield finding(f"all_reduce over '{self.axis}' of what is no partial sum", self.span, str(self.x.type))


@frozen
class ReduceScatter(_Collective):
    """Sum ``x`` over ``axis``; each member keeps its part of dimension ``dim``."""

    keyword: ClassVar[str] = "reduce_scatter"
    out: Value
    x: Value
    axis: str
    dim: str
    span: Span | None = span_field()

    def infer(self) -> tuple[TensorType, ...]:
        """Split by ``axis`` on ``dim`` instead of partial."""
        t = self.x.type.with_axes(self.dim, (*self.x.type.on(self.dim), *self.axes))
        return (TensorType(t.dtype, t.dims, t.partial.difference(self.axes)),)

    def verify(self) -> Iterator[Diagnostic]:
        if not self.x.type.partial.issuperset(self.axes):
            why = f"reduce_scatter over '{self.axis}' of what is no partial sum"
            yield finding(why, self.span, str(self.x.type))


@frozen
class AllGather(_Collective):
    """Every member ends with all parts of ``dim`` along ``axis``, its innermost axis."""

    keyword: ClassVar[str] = "all_gather"
    out: Value
    x: Value
    axis: str
    dim: str
    span: Span | None = span_field()

    def infer(self) -> tuple[TensorType, ...]:
        """``dim`` without its innermost axes."""
        return (self.x.type.with_axes(self.dim, self.x.type.on(self.dim)[: -len(self.axes)]),)

    def verify(self) -> Iterator[Diagnostic]:
        if self.x.type.on(self.dim)[-len(self.axes) :] != self.axes:
            yield finding(f"all_gather over '{self.axis}', which is not innermost", self.span, str(self.x.type))


@frozen
class AllToAll(_Collective):
    """Move ``axis`` from dimension ``gather`` (made whole) to dimension ``split``."""

    keyword: ClassVar[str] = "all_to_all"
    out: Value
    x: Value
    axis: str
    gather: str
    split: str
    span: Span | None = span_field()

    def infer(self) -> tuple[TensorType, ...]:
        """Innermost axes of ``gather`` become innermost axes of ``split``."""
        t = self.x.type.with_axes(self.gather, self.x.type.on(self.gather)[: -len(self.axes)])
        return (t.with_axes(self.split, (*t.on(self.split), *self.axes)),)

    def verify(self) -> Iterator[Diagnostic]:
        if self.x.type.on(self.gather)[-len(self.axes) :] != self.axes or self.gather == self.split:
            yield finding(f"all_to_all over '{self.axis}', which is not innermost", self.span, str(self.x.type))


@frozen
class Slice(_Collective):
    """Each member along ``axis`` keeps its part of ``dim``; nothing travels."""

    keyword: ClassVar[str] = "slice"
    out: Value
    x: Value
    axis: str
    dim: str
    span: Span | None = span_field()

    def infer(self) -> tuple[TensorType, ...]:
        """Split by ``axis`` on ``dim``."""
        return (self.x.type.with_axes(self.dim, (*self.x.type.on(self.dim), self.axis)),)

    def verify(self) -> Iterator[Diagnostic]:
        if self.axis in self.x.type.axes:
            yield finding(f"slice by '{self.axis}', which is in use", self.span, str(self.x.type))


@frozen
class Rescale(_Collective):
    """Give each member's softmax over its own keys the weight that it has among those of all along ``axis``.

    Only statistics travel, the log-sum-exp ``l`` of every row: times ``exp(l - log sum exp l)``, the members' means
    add up to the softmax over all keys, so a partial sum is left (Dao et al., "Flash-Decoding", 2023).
    """

    keyword: ClassVar[str] = "rescale"
    out: Value
    x: Value
    axis: str
    span: Span | None = span_field()

    def infer(self) -> tuple[TensorType, ...]:
        """A partial sum over ``axis``."""
        t = self.x.type
        return (TensorType(t.dtype, t.dims, t.partial | {self.axis}, t.softmax - {self.axis}),)

    def verify(self) -> Iterator[Diagnostic]:
        if self.axis not in self.x.type.softmax:
            yield finding(f"rescale over '{self.axis}' of what is no softmax over it", self.span, str(self.x.type))


@frozen
class Ring(BaseOp):
    """Every member meets all parts of ``dim`` along ``axis``, its innermost axis, one part after the other.

    As an all_gather, but never in memory at once: in ``n - 1`` steps each member sends the part that it has to the
    next one, while the reader works on it (Liu et al., "Ring Attention with Blockwise Transformers", 2023). All ``xs``
    travel together.
    """

    keyword: ClassVar[str] = "ring"
    RESULTS: ClassVar[tuple[str, ...]] = ("outs",)
    OPERANDS: ClassVar[tuple[str, ...]] = ("xs",)
    outs: tuple[Value, ...]
    xs: tuple[Value, ...]
    axis: str
    dim: str
    span: Span | None = span_field()

    def infer(self) -> tuple[TensorType, ...]:
        """``dim`` without its innermost axis."""
        return tuple(x.type.with_axes(self.dim, x.type.on(self.dim)[:-1]) for x in self.xs)

    def verify(self) -> Iterator[Diagnostic]:
        yield from BaseOp.verify(self)
        for x in self.xs:
            if x.type.on(self.dim)[-1:] != (self.axis,):
                yield finding(f"ring over '{self.axis}', which is not innermost", self.span, str(x.type))


@frozen
class Send(BaseOp):
    """Hand ``x`` to the same rank of the next stage, as ``tensors`` tensors of its size.

    Engines that put off the residual addition send the hidden state and the residual: two.
    """

    keyword: ClassVar[str] = "send"
    RESULTS: ClassVar[tuple[str, ...]] = ()
    OPERANDS: ClassVar[tuple[str, ...]] = ("x",)
    x: Value
    tensors: int = 1
    span: Span | None = span_field()

    def infer(self) -> tuple[TensorType, ...]:
        """Nothing here."""
        return ()

    def verify(self) -> Iterator[Diagnostic]:
        return iter(())


@frozen
class Recv(BaseOp):
    """Take what the previous stage sent."""

    keyword: ClassVar[str] = "recv"
    RESULTS: ClassVar[tuple[str, ...]] = ("out",)
    OPERANDS: ClassVar[tuple[str, ...]] = ()
    out: Value
    tensors: int = 1
    span: Span | None = span_field()

    def infer(self) -> tuple[TensorType, ...]:
        """As sent."""
        return (self.out.type,)

    def verify(self) -> Iterator[Diagnostic]:
        return iter(())
