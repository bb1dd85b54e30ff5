"""Ops that cut rows into consecutive chunks and join the chunks again."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, TypeAlias

from attrs import frozen

from plandsl.diagnostics import Diagnostic, Span
from plandsl.ir.base import COMPUTE, Facts, Relay, finding, span_field
from plandsl.ir.names import axes_of
from plandsl.ir.types import Chunk, TensorType, Value


@frozen(eq=False, repr=False, slots=False)
class Split(Relay):
    """Cut ``x`` along ``dim`` into chunks, which are views: nothing is moved.

    The axes ``over`` cut ``dim`` into blocks, and chunk i holds the i-th part of each block (`Chunk`).
    """

    keyword: ClassVar[str] = "split"
    facts: ClassVar[Facts] = Facts(COMPUTE, "split", "elementwise", measured="any", linear=("x",), view=True)
    RESULTS: ClassVar[tuple[str, ...]] = ("outs",)
    OPERANDS: ClassVar[tuple[str, ...]] = ("x",)
    outs: tuple[Value, ...]
    x: Value
    dim: str
    over: str = ""
    span: Span | None = span_field()

    def infer(self) -> tuple[TensorType, ...]:
        """As ``x``, with ``dim`` a chunk."""
        over = axes_of(self.over)
        return tuple(self.x.type.chunked(self.dim, Chunk(i, len(self.outs), over)) for i in range(len(self.outs)))

    def verify(self) -> Iterator[Diagnostic]:
        have = self.x.type.on(self.dim)
        if axes_of(self.over)[: len(have)] != have or self.x.type.dim(self.dim).chunk:
            why = f"split over '{self.over}', which does not begin with the axes of '{self.dim}'"
            yield finding(why, self.span, str(have))


@frozen(eq=False, repr=False, slots=False)
class Join(Relay):
    """Join all chunks of a value along ``dim``. Each chunk is written to its place as it is made: nothing is moved."""

    keyword: ClassVar[str] = "join"
    facts: ClassVar[Facts] = Facts(COMPUTE, "join", "elementwise", measured="any", linear=("xs",), view=True)
    RESULTS: ClassVar[tuple[str, ...]] = ("out",)
    OPERANDS: ClassVar[tuple[str, ...]] = ("xs",)
    out: Value
    xs: tuple[Value, ...]
    dim: str
    span: Span | None = span_field()

    def infer(self) -> tuple[TensorType, ...]:
        """As the chunks, with ``dim`` whole."""
        return (self.xs[0].type.chunked(self.dim, None),)

    def verify(self) -> Iterator[Diagnostic]:
        first = self.xs[0].type
        chunk = first.dim(self.dim).chunk
        for i, x in enumerate(self.xs):
            wanted = None if chunk is None else first.chunked(self.dim, Chunk(i, len(self.xs), chunk.over))
            if x.type != wanted:
                yield finding(f"join of '{x.name}' as chunk {i} of {len(self.xs)}", self.span, str(x.type))


Chunks: TypeAlias = Split | Join
"""Every op of this module."""
