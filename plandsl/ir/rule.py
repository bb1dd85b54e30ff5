"""The sharding rule of an op: which dimensions of its operands and its result are the same, whole, or summed over.

The result types, the findings and the wanted layouts of an op follow from its rules, as in Shardy (OpenXLA, "Shardy:
sharding propagation", 2024) and before it GSPMD (Xu et al., "GSPMD", 2021).
"""

from collections.abc import Iterator
from typing import ClassVar, NamedTuple

from plandsl.diagnostics import Diagnostic
from plandsl.ir.base import BaseOp, finding
from plandsl.ir.names import stem
from plandsl.ir.types import Dim, TensorType, Value
from plandsl.values import once


class Rule(NamedTuple):
    """The layout of one result of an op, given the layouts of its ``operands``. Dimensions with one stem count as one.

    - ``dims``: the result's dimensions in order. Each is split as in the first operand that has it, else whole.
    - ``dtype``: the result's dtype.
    - ``whole``: dimensions that no axis may split.
    - ``contracts``: dimensions that the op sums over. The axes that split them leave a partial sum.
    - ``stay``: operands that are used in their present layout; the other operands are laid out to match them.
    """

    operands: tuple[Value, ...]
    dims: tuple[str, ...]
    dtype: str
    whole: tuple[str, ...] = ()
    contracts: tuple[str, ...] = ()
    stay: tuple[Value, ...] = ()

    def result(self, linear: tuple[Value, ...]) -> TensorType:
        """The type of the result; partial sums of the ``linear`` operands stay partial in it."""
        found = {dim.name: dim for x in reversed(self.operands) for dim in reversed(x.type.dims)}
        partial = frozenset(a for n in self.contracts for a in found[n].axes).union(*[x.type.partial for x in linear])
        return TensorType(self.dtype, tuple([found.get(n) or Dim(n) for n in self.dims]), partial)

    def split_operands(self) -> Iterator[tuple[Value, str]]:
        """Operands with a dimension that must be whole but is split, and the name of that dimension."""
        if self.whole:
            for x in self.operands:
                yield from ((x, d.name) for d in x.type.dims if d.axes and d.name in self.whole)

    def misfitting_operands(self) -> Iterator[Value]:
        """Operands that split a dimension unlike an earlier operand, or have a dimension that the rule lacks."""
        known: dict[str, Dim] = {}
        places = {stem(n) for n in (*self.dims, *self.contracts, *self.whole)}
        for x in self.operands:
            fits = True
            for dim in x.type.dims:
                name = stem(dim.name)
                first = known.setdefault(name, dim)
                fits = fits and name in places and (first is dim or first[1:] == dim[1:])
            if not fits:
                yield x


class Regular(BaseOp):
    """An op whose types, findings and layouts follow from rules, one for each result.

    ``SPLIT``, ``APART`` and ``TWICE`` are the messages of three findings: a dimension is split but must be whole,
    operands have different layouts, and one axis would split two dimensions of the result.
    """

    SPLIT: ClassVar[str] = "{op.keyword} needs '{dim}' whole"
    APART: ClassVar[str] = "{op.keyword} of tensors with different layouts"
    TWICE: ClassVar[str] = "{op.keyword} uses one axis for two dimensions"
    __slots__ = ()

    @once
    def rules(self) -> tuple[Rule, ...]:
        """The rule of each result."""
        raise AssertionError(f"{self.keyword} has no rule")

    @property
    def touches(self) -> tuple[TensorType, ...]:
        """The tensors that one run reads and writes, each once; for most ops this traffic is the whole cost."""
        return tuple(v.type for v in (*self.operands, *self.results))

    @once
    def _inferred(self) -> tuple[TensorType, ...]:
        linear = self.linear
        return tuple([rule.result(linear) for rule in self.rules])

    def infer(self) -> tuple[TensorType, ...]:
        """The types of the results, from the rules."""
        return self._inferred

    def verify(self) -> Iterator[Diagnostic]:
        yield from BaseOp.verify(self)
        yield from self.misfits()

    def misfits(self) -> Iterator[Diagnostic]:
        """Findings of the rules about the layouts of the operands, each finding once."""
        return iter(dict.fromkeys(self._found()))

    def _found(self) -> Iterator[Diagnostic]:
        for rule, made in zip(self.rules, self._inferred, strict=True):
            for x, dim in rule.split_operands():
                yield finding(self.SPLIT.format(op=self, dim=dim), self.span, str(x.type))
            for x in rule.misfitting_operands():
                yield finding(self.APART.format(op=self), self.span, str(x.type))
            if len(made.axes) < len(made.partial) + sum([len(d.axes) for d in made.dims]):
                yield finding(self.TWICE.format(op=self), self.span, str(rule.operands[-1].type))
