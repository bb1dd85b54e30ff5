"""Operations that communicate: each one changes the layout of a tensor and nothing else.

This module defines their meaning; `plandsl.backends.cost` has the closed forms of their cost.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, TypeAlias

from attrs import frozen

from plandsl.diagnostics import Diagnostic, Span
from plandsl.ir.base import COMPUTE, LINK, BaseOp, Facts, Relay, finding, span_field
from plandsl.ir.names import axes_of
from plandsl.ir.types import TensorType, Value

PARTIAL, SOFTMAX = "+", "~"
"""Places of an axis that splits no dimension: the value is a partial sum, or a softmax over some keys, over it."""


def _on_links(keyword: str) -> Facts:
    """The facts of the four collectives: libraries run them under these names, through buffers."""
    return Facts(LINK, keyword, "collective", measured=keyword, linear=("x",), buffered=True)


@frozen(eq=False, repr=False, slots=False)
class Reshard(Relay):
    """``x`` in the layout of ``out``: a placeholder that `insert_collectives` replaces by collectives."""

    keyword: ClassVar[str] = "reshard"
    facts: ClassVar[Facts] = Facts(LINK, "reshard", "collective", measured="reshard", linear=("x",), merges=True)
    RESULTS: ClassVar[tuple[str, ...]] = ("out",)
    OPERANDS: ClassVar[tuple[str, ...]] = ("x",)
    out: Value
    x: Value
    span: Span | None = span_field()

    def infer(self) -> tuple[TensorType, ...]:
        """The type that was asked for."""
        return (self.out.type,)

    def verify(self) -> Iterator[Diagnostic]:
        if self.out.type.names != self.x.type.names or self.out.type.dtype != self.x.type.dtype:
            yield finding("reshard changes more than the layout", self.span, str(self.out.type))


class Along(Relay):
    """An op that a group of ranks runs together: the ranks along ``axis``, or along several (``a*b``, major first).

    Along an axis of one rank nothing moves: each result is its operand.
    """

    axis: str
    __slots__ = ()

    @property
    def axes(self) -> tuple[str, ...]:
        """The mesh axes of ``axis``, major first."""
        return axes_of(self.axis)


class _Collective(Along):
    """One operand, one result, and a rule: the axes move from their place in ``x`` to another place.

    A place is a dimension (which the axes split, as its innermost axes), `PARTIAL`, `SOFTMAX`, or None.
    """

    __slots__ = ()
    RESULTS: ClassVar[tuple[str, ...]] = ("out",)
    OPERANDS: ClassVar[tuple[str, ...]] = ("x",)
    out: Value
    x: Value

    @property
    def places(self) -> tuple[str | None, str | None]:
        """The places of the axes in ``x`` and in ``out``."""
        raise AssertionError(f"{self.keyword} states no places")

    def infer(self) -> tuple[TensorType, ...]:
        """``x`` with the axes at their new place."""
        (source, target), t, axes = self.places, self.x.type, self.axes
        partial, softmax = (
            (held - {*axes} if source == mark else held) | (frozenset(axes) if target == mark else frozenset())
            for mark, held in ((PARTIAL, t.partial), (SOFTMAX, t.softmax))
        )
        if source is not None and source not in (PARTIAL, SOFTMAX):
            t = t.with_axes(source, t.on(source)[: -len(axes)])
        if target is not None and target != PARTIAL:
            t = t.with_axes(target, (*t.on(target), *axes))
        return (TensorType(t.dtype, t.dims, partial, softmax),)

    def verify(self) -> Iterator[Diagnostic]:
        if why := self._misplaced():
            yield finding(f"{self.keyword} {why}", self.span, str(self.x.type))

    def _misplaced(self) -> str:
        """Why the axes cannot make this move; empty where they can."""
        (source, target), t = self.places, self.x.type
        if source == PARTIAL:
            return "" if t.partial.issuperset(self.axes) else f"over '{self.axis}' of no partial sum over it"
        if source == SOFTMAX:
            return "" if t.softmax.issuperset(self.axes) else f"over '{self.axis}' of no softmax over it"
        if source is None:
            return "" if t.axes.isdisjoint(self.axes) else f"by '{self.axis}', which is in use"
        innermost = t.on(source)[-len(self.axes) :] == self.axes
        return "" if innermost and source != target else f"over '{self.axis}', which is not innermost"


@frozen(eq=False, repr=False, slots=False)
class AllReduce(_Collective):
    """Sum ``x`` over ``axis``; every member ends with the whole sum."""

    keyword: ClassVar[str] = "all_reduce"
    facts: ClassVar[Facts] = _on_links("all_reduce")
    out: Value
    x: Value
    axis: str
    span: Span | None = span_field()

    @property
    def places(self) -> tuple[str | None, str | None]:
        """No longer partial."""
        return PARTIAL, None


@frozen(eq=False, repr=False, slots=False)
class ReduceScatter(_Collective):
    """Sum ``x`` over ``axis``; each member keeps its part of dimension ``dim``."""

    keyword: ClassVar[str] = "reduce_scatter"
    facts: ClassVar[Facts] = _on_links("reduce_scatter")
    out: Value
    x: Value
    axis: str
    dim: str
    span: Span | None = span_field()

    @property
    def places(self) -> tuple[str | None, str | None]:
        """Split on ``dim`` instead of partial."""
        return PARTIAL, self.dim


@frozen(eq=False, repr=False, slots=False)
class AllGather(_Collective):
    """Every member ends with all parts of ``dim`` along ``axis``, its innermost axis."""

    keyword: ClassVar[str] = "all_gather"
    facts: ClassVar[Facts] = _on_links("all_gather")
    out: Value
    x: Value
    axis: str
    dim: str
    span: Span | None = span_field()

    @property
    def places(self) -> tuple[str | None, str | None]:
        """No longer split on ``dim``."""
        return self.dim, None


@frozen(eq=False, repr=False, slots=False)
class AllToAll(_Collective):
    """Move ``axis`` from dimension ``gather`` (made whole) to dimension ``split``."""

    keyword: ClassVar[str] = "all_to_all"
    facts: ClassVar[Facts] = _on_links("all_to_all")
    out: Value
    x: Value
    axis: str
    gather: str
    split: str
    span: Span | None = span_field()

    @property
    def places(self) -> tuple[str | None, str | None]:
        """Split on ``split`` instead of ``gather``."""
        return self.gather, self.split


@frozen(eq=False, repr=False, slots=False)
class Slice(_Collective):
    """Each member along ``axis`` keeps its part of ``dim``; nothing travels."""

    keyword: ClassVar[str] = "slice"
    facts: ClassVar[Facts] = Facts(COMPUTE, "elementwise", "elementwise", measured="any", linear=("x",))
    out: Value
    x: Value
    axis: str
    dim: str
    span: Span | None = span_field()

    @property
    def places(self) -> tuple[str | None, str | None]:
        """Split on ``dim``."""
        return None, self.dim


@frozen(eq=False, repr=False, slots=False)
class Rescale(_Collective):
    """Weigh each member's softmax over its own keys, so that the members along ``axis`` add up to the whole softmax.

    Only statistics travel: ``l_i``, the log-sum-exp of the scores of each row on member i. Member i multiplies its
    mean by ``exp(l_i - log sum_j exp l_j)``. The result is a partial sum (Dao et al., "Flash-Decoding", 2023).
    """

    keyword: ClassVar[str] = "rescale"
    facts: ClassVar[Facts] = Facts(LINK, "rescale", "collective", measured="all_gather", linear=("x",), merges=True)
    out: Value
    x: Value
    axis: str
    span: Span | None = span_field()

    @property
    def places(self) -> tuple[str | None, str | None]:
        """Partial instead of a softmax over some of the keys."""
        return SOFTMAX, PARTIAL


@frozen(eq=False, repr=False, slots=False)
class Ring(Along):
    """Pass the parts of ``dim`` around the ranks along ``axis``, its innermost axis: every member reads each in turn.

    The result is that of an all_gather, but the parts are never in memory at once: in ``n - 1`` steps each member
    sends its current part to the next member, while the reader works on that part (Liu et al., "Ring Attention with
    Blockwise Transformers", 2023). All ``xs`` travel together.
    """

    keyword: ClassVar[str] = "ring"
    facts: ClassVar[Facts] = Facts(LINK, "ring", "collective", measured="p2p", buffered=True)
    RESULTS: ClassVar[tuple[str, ...]] = ("outs",)
    OPERANDS: ClassVar[tuple[str, ...]] = ("xs",)
    outs: tuple[Value, ...]
    xs: tuple[Value, ...]
    axis: str
    dim: str
    span: Span | None = span_field()

    def infer(self) -> tuple[TensorType, ...]:
        """As ``xs``, with ``dim`` not split by its innermost axis."""
        return tuple(x.type.with_axes(self.dim, x.type.on(self.dim)[:-1]) for x in self.xs)

    def verify(self) -> Iterator[Diagnostic]:
        yield from BaseOp.verify(self)
        for x in self.xs:
            if x.type.on(self.dim)[-1:] != (self.axis,):
                yield finding(f"ring over '{self.axis}', which is not innermost", self.span, str(x.type))


@frozen(eq=False, repr=False, slots=False)
class Send(Relay):
    """Send ``x`` to the same rank of the next stage, as ``tensors`` tensors of its size.

    Engines that postpone the residual addition send two tensors: the hidden state and the residual.
    """

    keyword: ClassVar[str] = "send"
    facts: ClassVar[Facts] = Facts(LINK, "send", "hop", measured="p2p")
    RESULTS: ClassVar[tuple[str, ...]] = ()
    OPERANDS: ClassVar[tuple[str, ...]] = ("x",)
    x: Value
    tensors: int = 1
    span: Span | None = span_field()

    def infer(self) -> tuple[TensorType, ...]:
        """No results."""
        return ()


@frozen(eq=False, repr=False, slots=False)
class Recv(Relay):
    """Receive the tensors that the previous stage sent."""

    keyword: ClassVar[str] = "recv"
    facts: ClassVar[Facts] = Facts(LINK, "recv", "hop", measured="p2p", buffered=True)
    RESULTS: ClassVar[tuple[str, ...]] = ("out",)
    OPERANDS: ClassVar[tuple[str, ...]] = ()
    out: Value
    tensors: int = 1
    span: Span | None = span_field()

    def infer(self) -> tuple[TensorType, ...]:
        """The type that was sent."""
        return (self.out.type,)


HOP_WORDS = (Send.facts.word, Recv.facts.word)
"""What reports call the ops that go from stage to stage."""

Collective: TypeAlias = AllReduce | ReduceScatter | AllGather | AllToAll
"""The ops that communication libraries call collectives."""

Layout: TypeAlias = Reshard | Collective | Slice | Rescale | Ring | Send | Recv
"""Every op of this module."""
