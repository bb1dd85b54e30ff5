"""Records the arithmetic on numbers that are not known yet: constants folded, equal operations once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias, cast

from plandsl.ir.types import Number

Node: TypeAlias = "tuple[str, tuple[Operand, ...]]"
Operand: TypeAlias = "Traced | float | bool"

UFUNCS = {
    "add": "+",
    "subtract": "-",
    "multiply": "*",
    "divide": "/",
    "true_divide": "/",
    "floor_divide": "//",
    "power": "**",
    "maximum": "max",
    "minimum": "min",
    "negative": "neg",
    "greater": ">",
    "greater_equal": ">=",
    "less": "<",
    "less_equal": "<=",
    "equal": "==",
    "not_equal": "!=",
    "remainder": "%",
    "bitwise_and": "&",
    "bitwise_or": "|",
}
"""Operators by the names of numpy's functions."""


class Tape:
    """The recorded operations, in order; equal operations are one node."""

    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self._known: dict[Node, Traced] = {}
        self.called: list[Callable[..., Number]] = []

    def node(self, op: str, *operands: Operand) -> Traced:
        """The result of ``op``, which may be recorded already."""
        key = op, operands
        known = self._known.get(key)
        if known is None:
            known = _unchanged_operand(op, operands)
            if known is None:
                known = Traced(self, len(self.nodes))
                self.nodes.append(key)
            self._known[key] = known
        return known

    def call(self, function: Callable[..., Number], operands: Sequence[Operand]) -> Traced:
        """The result of a function that the code calls."""
        if function not in self.called:
            self.called.append(function)
        return self.node(f"call{self.called.index(function)}", *operands)


class Traced:
    """A number that is not known yet; its tape records arithmetic on it."""

    __slots__ = ("index", "tape")

    def __init__(self, tape: Tape, index: int) -> None:
        self.tape, self.index = tape, index

    def __bool__(self) -> bool:
        raise TypeError("the value is not known while tracing")

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Operand, **_: object) -> Traced:
        assert method == "__call__", "reductions depend on the length of an array"
        return self.tape.node(UFUNCS[ufunc.__name__], *map(_as_operand, inputs))

    def __array_function__(self, function: Any, _types: object, args: tuple[Operand, ...], _: object) -> Traced:
        assert function.__name__ == "where", "the only function of arrays that the model asks for"
        return self.tape.node("where", *map(_as_operand, args))

    def __neg__(self) -> Traced:
        return self.tape.node("neg", self)


def _unchanged_operand(op: str, operands: tuple[Operand, ...]) -> Traced | None:
    """The operand that equals the result of ``op``: ``x`` for ``x + 0``, ``x * 1`` and ``x / 1``; else None."""
    if len(operands) != 2 or op not in NEUTRAL:
        return None
    a, b = operands
    if isinstance(a, Traced) and not isinstance(b, Traced) and b == NEUTRAL[op]:
        return a
    return b if isinstance(b, Traced) and op in "+*" and not isinstance(a, Traced) and a == NEUTRAL[op] else None


NEUTRAL = {"+": 0, "-": 0, "*": 1, "/": 1}
"""The right operand with which an operation changes nothing."""


_OPERANDS = (Traced, float, int)


def _as_operand(x: Operand) -> Operand:
    return x if isinstance(x, _OPERANDS) else cast(float, cast(Any, x).item())


def _define(name: str, op: str) -> None:
    def method(self: Traced, other: Operand) -> Traced:
        return self.tape.node(op, self, _as_operand(other))

    def reflected(self: Traced, other: Operand) -> Traced:
        return self.tape.node(op, _as_operand(other), self)

    setattr(Traced, f"__{name}__", method)
    setattr(Traced, f"__r{name}__", reflected)


_ARITHMETIC = {"add": "+", "sub": "-", "mul": "*", "truediv": "/", "floordiv": "//", "mod": "%", "pow": "**"}
for _name, _op in (_ARITHMETIC | {"and": "&", "or": "|"}).items():
    _define(_name, _op)
for _name, _op in {"gt": ">", "ge": ">=", "lt": "<", "le": "<="}.items():
    _define(_name, _op)
