"""What every operation shares: its facts, which fields are results and operands, and how findings are made."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, NamedTuple

from attrs import field

from plandsl.diagnostics import Diagnostic, Span
from plandsl.ir.types import TensorType, Value

COMPUTE, LINK = "compute", "link"
"""Streams of a device: kernels, and communication."""


class Facts(NamedTuple):
    """What holds of every op of a class, stated once; passes and backends ask here. The first four have no default.

    ``stream`` is where it runs: `COMPUTE` or `LINK`. ``word`` is what a report calls it, ``look`` the colour that it
    has in pictures (a key of ``KINDS`` in `plandsl.backends.graphviz.palette`), and ``measured`` the name under which
    its kernel or its exchange was measured (``any``: as kernels that nobody measured). It is linear in the operand
    fields ``linear``, which may be partial sums; its results then are too. A ``view`` moves no bytes: its parts lie in
    the whole. Results that are ``buffered`` come through a communication buffer of their own. Of an operand that is a
    softmax over some of the keys (`TensorType`) only an op that ``merges`` can make anything.
    """

    stream: str
    word: str
    look: str
    measured: str
    linear: tuple[str, ...] = ()
    view: bool = False
    buffered: bool = False
    merges: bool = False


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
    """What all ops share: facts, and which fields are results and which operands; the others are attributes."""

    keyword: ClassVar[str]
    facts: ClassVar[Facts]
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

    @property
    def linear(self) -> tuple[Value, ...]:
        """Operands in which the op is linear."""
        return self._values(self.facts.linear)

    @property
    def measured_as(self) -> str:
        """The name under which kernels or exchanges like this one were measured."""
        return self.facts.measured

    @property
    def title(self) -> str:
        """What a report calls this op among others of its kind; empty where it goes by the value that it hands on."""
        return self.keyword

    def infer(self) -> tuple[TensorType, ...]:
        """The types of the results, from those of the operands."""
        raise AssertionError(f"{self.keyword} says nothing of its results")

    def verify(self) -> Iterator[Diagnostic]:
        """Findings about the operands; only where an op is linear it can use a partial sum."""
        for x in self.operands:
            if x.type.pending and x not in self.linear:
                yield finding(f"{self.keyword} of '{x.name}', which is a partial sum", self.span, str(x.type))


class Relay(BaseOp):
    """An op that computes nothing: it hands on its operands, laid out otherwise, cut, joined or sent."""

    __slots__ = ()

    @property
    def title(self) -> str:
        """None of its own: it goes by what it hands on."""
        return ""
