"""The sharding rule of an op: which dimensions of its operands and its result are one, whole, or summed over.

One rule per op, from which its result types, its findings and the layout that it asks for follow, as in Shardy
(OpenXLA, "Shardy: sharding propagation", 2024) and before it GSPMD (Xu et al., "GSPMD", 2021).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, NamedTuple

from plandsl.diagnostics import Diagnostic
from plandsl.ir.base import BaseOp, finding
from plandsl.ir.types import Dim, TensorType, Value, stem


class Rule(NamedTuple):
    """How one result of an op lies, given how its ``operands`` do. Dimensions of one stem are the same dimension.

    ``dims`` are the result's dimensions in order: each lies as in the first operand that has it, and one that none
    has is whole. No axis may split those in ``whole``. Those that the op ``contracts`` it sums over, so that the axes
    that split them leave a partial sum. ``dtype`` is the result's. Operands that ``stay`` are used as they lie, and
    the others come to them.
    """

    operands: tuple[Value, ...]
    dims: tuple[str, ...]
    dtype: str
    whole: tuple[str, ...] = ()
    contracts: tuple[str, ...] = ()
    stay: tuple[Value, ...] = ()

    def result(self, linear: tuple[Value, ...]) -> TensorType:
        """The type of the result; sums of operands in which the op is ``linear`` are still to be completed."""
        found = {dim.name: dim for x in reversed(self.operands) for dim in reversed(x.type.dims)}
        partial = frozenset(a for n in self.contracts for a in found[n].axes).union(*[x.type.partial for x in linear])
        return TensorType(self.dtype, tuple([found.get(n) or Dim(n) for n in self.dims]), partial)

    def split(self) -> Iterator[tuple[Value, str]]:
        """Operands with a dimension that must be whole, but is not."""
        if self.whole:
            for x in self.operands:
                yield from ((x, d.name) for d in x.type.dims if d.axes and d.name in self.whole)

    def apart(self) -> Iterator[Value]:
        """Operands that lie otherwise than one before them does, or that have a dimension with no place here."""
        known: dict[str, tuple[object, ...]] = {}
        places = {stem(n) for n in (*self.dims, *self.contracts, *self.whole)}
        for x in self.operands:
            lies = {stem(d.name): d[1:] for d in x.type.dims}
            if not places.issuperset(lies) or any(lies[n] != at for n, at in known.items() if n in lies):
                yield x
            known = lies | known


class Regular(BaseOp):
    """An op whose types, findings and layout follow from rules, one for each result.

    The phrases are what findings say: of a dimension that is split and must not be, of operands that lie differently,
    and of a result two of whose dimensions would lie on one axis.
    """

    SPLIT: ClassVar[str] = "{op.keyword} needs '{dim}' whole"
    APART: ClassVar[str] = "{op.keyword} of tensors that lie differently"
    TWICE: ClassVar[str] = "{op.keyword} uses one axis for two dimensions"
    __slots__ = ()

    @property
    def rules(self) -> tuple[Rule, ...]:
        """How the dimensions of each result belong to those of the operands."""
        raise AssertionError(f"{self.keyword} has no rule")

    @property
    def touches(self) -> tuple[TensorType, ...]:
        """What one run reads and writes, each once: the cost of an op that does nothing dearer."""
        return tuple(v.type for v in (*self.operands, *self.results))

    def infer(self) -> tuple[TensorType, ...]:
        """The types of the results, by the rules."""
        linear = self.linear
        return tuple(rule.result(linear) for rule in self.rules)

    def verify(self) -> Iterator[Diagnostic]:
        yield from BaseOp.verify(self)
        yield from self.misfits()

    def misfits(self) -> Iterator[Diagnostic]:
        """What the rules find wrong with how the operands lie, each finding once."""
        return iter(dict.fromkeys(self._found()))

    def _found(self) -> Iterator[Diagnostic]:
        for rule in self.rules:
            for x, dim in rule.split():
                yield finding(self.SPLIT.format(op=self, dim=dim), self.span, str(x.type))
            for x in rule.apart():
                yield finding(self.APART.format(op=self), self.span, str(x.type))
            made = rule.result(self.linear)
            if len(made.axes) < len(made.partial) + sum([len(d.axes) for d in made.dims]):
                yield finding(self.TWICE.format(op=self), self.span, str(rule.operands[-1].type))
