"""The base of every operation: its facts, the fields that are results and operands, and how findings are made."""

from collections.abc import Iterator
from typing import ClassVar, NamedTuple

from attrs import field

from plandsl.diagnostics import Diagnostic, Span
from plandsl.ir.names import has_places
from plandsl.ir.types import TensorType, Value
from plandsl.values import FrozenValue, once

COMPUTE, LINK = "compute", "link"
"""Streams of a device: kernels, and communication."""


class Facts(NamedTuple):
    """The properties of one op class, stated once; passes and backends ask here. The first four have no default.

    - ``stream``: where the op runs, `COMPUTE` or `LINK`.
    - ``word``: its name in reports.
    - ``look``: its colour in pictures, a key of ``KINDS`` in `plandsl.backends.graphviz.palette`.
    - ``measured``: the name under which its kernel or exchange was measured; ``any`` stands for unmeasured kernels.
    - ``linear``: operand fields in which the op is linear. They may be partial sums, and the results then are too.
    - ``view``: the op moves no bytes, because its parts lie in the whole.
    - ``buffered``: the results come through a communication buffer.
    - ``merges``: the op accepts an operand that is a softmax over some of the keys (`TensorType`).
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
    """The field ``span`` of an op, which comparisons ignore."""
    made: Span | None = field(default=None, eq=False, repr=False)
    return made


def sharded_alike(a: TensorType, b: TensorType) -> bool:
    """Whether ``a`` and ``b`` split every dimension that they share over the same axes."""
    return all(b.on(d.name) == d.axes for d in a.dims if d.name in b.names)


def finding(why: str, span: Span | None, label: str) -> Diagnostic:
    """The diagnostic for a broken rule of the IR. A plan that breaks one is a bug in plandsl."""
    return Diagnostic("E390", why, span, label=label)


class BaseOp(FrozenValue):
    """The base class of all ops. Fields in neither ``RESULTS`` nor ``OPERANDS`` are attributes (``span`` apart).

    Without slots, so that each op keeps what it computes `once`.
    """

    keyword: ClassVar[str]
    facts: ClassVar[Facts]
    RESULTS: ClassVar[tuple[str, ...]]
    OPERANDS: ClassVar[tuple[str, ...]]
    span: Span | None

    @once
    def results(self) -> tuple[Value, ...]:
        """Values the op defines, in printing order."""
        return self._values(self.RESULTS)

    @once
    def operands(self) -> tuple[Value, ...]:
        """Values the op reads, in printing order; a missing optional operand is left out."""
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

    @once
    def linear(self) -> tuple[Value, ...]:
        """Operands in which the op is linear."""
        return self._values(self.facts.linear)

    @once
    def meets_experts(self) -> bool:
        """Whether tokens have places for experts in what the op reads or makes."""
        return any(has_places(x.type.names) for x in (*self.operands, *self.results))

    @property
    def measured_as(self) -> str:
        """The name under which this kernel or exchange was measured."""
        return self.facts.measured

    @property
    def title(self) -> str:
        """This op's name in a report, among ops of its kind; empty for an op that is named after its value."""
        return self.keyword

    def infer(self) -> tuple[TensorType, ...]:
        """The types of the results, inferred from the types of the operands."""
        raise AssertionError(f"{self.keyword} does not infer its results")

    def verify(self) -> Iterator[Diagnostic]:
        """Findings about the operands: an op can use a partial sum only where it is linear."""
        for x in self.operands:
            if x.type.pending and x not in self.linear:
                yield finding(f"{self.keyword} of '{x.name}', which is a partial sum", self.span, str(x.type))


class Relay(BaseOp):
    """An op that computes nothing: it hands on its operands in another layout, cut, joined or sent."""

    __slots__ = ()

    @property
    def title(self) -> str:
        """Empty: a report names it after the value that it hands on."""
        return ""
