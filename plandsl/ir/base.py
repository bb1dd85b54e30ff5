"""What every operation shares: which fields are results and operands, and how findings are made."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from attrs import field

from plandsl.diagnostics import Diagnostic, Span
from plandsl.ir.types import TensorType, Value


def span_field() -> Span | None:
    """The ``span`` of an op: carried, not compared."""
    made: Span | None = field(default=None, eq=False, repr=False)
    return made


def sharded_alike(a: TensorType, b: TensorType) -> bool:
    """Whether each dimension that both have lies on the same axes in both."""
    return all(b.on(d.name) == d.axes for d in a.dims if d.name in b.names)


def finding(why: str, span: Span | None, label: str) -> Diagnostic:
    """A broken rule of the IR: after the grammar that is a bug of ours."""
    return Diagnostic("E390", why, span, label=label)


class BaseOp:
    """What all ops share: which fields are results and which operands; the others are attributes."""

    keyword: ClassVar[str]
    RESULTS: ClassVar[tuple[str, ...]]
    OPERANDS: ClassVar[tuple[str, ...]]
    span: Span | None
    __slots__ = ()

    @property
    def results(self) -> tuple[Value, ...]:
        """Values the op defines, in printing order."""
        return self._values(self.RESULTS)

    @property
    def operands(self) -> tuple[Value, ...]:
        """Values the op reads, in printing order; an optional one that is missing is left out."""
        return self._values(self.OPERANDS)

    def _values(self, names: tuple[str, ...]) -> tuple[Value, ...]:
        out: list[Value] = []
        for name in names:
            held = getattr(self, name)
            if type(held) is tuple:
                out += held
            elif held is not None:
                out.append(held)
        return tuple(out)

    def verify(self) -> Iterator[Diagnostic]:
        """Findings about the operands; most ops cannot use a partial sum."""
        for x in self.operands:
            if x.type.pending:
                yield finding(f"{self.keyword} of '{x.name}', which is a partial sum", self.span, str(x.type))
