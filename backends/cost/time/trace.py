"""Turns the cost model of one plan into straight-line arithmetic, for callers with very many loads.

The model is written for any plan. Once a plan is compiled, most of its steps are fixed. `trace` runs the model once
with `Traced` values in place of numbers, which record the arithmetic on them, and compiles the record as one Python
function: constants folded, common parts computed once, no calls. Its answers equal the model's exactly.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias, cast

from plandsl.ir.types import Number

Node: TypeAlias = "tuple[str, tuple[Operand, ...]]"
Operand: TypeAlias = "Traced | float | bool"

INLINE = 12
"""The deepest nesting of an expression; a deeper part gets a name."""

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
        if (same := _unchanged_operand(op, operands)) is not None:
            return same
        key = op, tuple(operands)
        known = self._known.get(key)
        if known is None:
            known = self._known[key] = Traced(self, len(self.nodes))
            self.nodes.append(key)
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

    def __hash__(self) -> int:
        return self.index

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


def _as_operand(x: Operand) -> Operand:
    return x if isinstance(x, Traced | bool | int | float) else cast(float, cast(Any, x).item())


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


def trace(function: Callable[..., Any], *names: str, arrays: bool = False) -> Callable[..., Any]:
    """``function`` of the numbers ``names`` as straight-line code; it returns tuples, lists, dicts and numbers.

    The code takes plain numbers, or with ``arrays`` numpy arrays. Raises `TypeError` where the function branches on the
    value of a number.
    """
    tape = Tape()
    result = function(*(tape.node("input", cast(Any, name)) for name in names))
    return Writer(tape, result, ARRAYS if arrays else NUMBERS).compiled(names)


NUMBERS = {
    "max": "({0} if {0} >= {1} else {1})",
    "min": "({0} if {0} <= {1} else {1})",
    "where": "({1} if {0} else {2})",
}
ARRAYS = {"max": "maximum({0}, {1})", "min": "minimum({0}, {1})", "where": "where({0}, {1}, {2})"}
"""The code of choices, for numbers and for arrays."""


class Writer:
    """Writes a tape as the source of a function."""

    def __init__(self, tape: Tape, result: object, choices: Mapping[str, str]) -> None:
        self.tape, self.choices = tape, choices
        self.scope: dict[str, object] = {f"call{i}": f for i, f in enumerate(tape.called)}
        if choices is ARRAYS:
            import numpy as np

            self.scope |= {"maximum": np.maximum, "minimum": np.minimum, "where": np.where}
        self.uses = [0] * len(tape.nodes)
        self.seen: dict[int, int] = {}
        self.named: dict[int, str] = {}
        self.lines: list[str] = []
        self.texts: dict[int, tuple[str, int]] = {}
        self._count(result)
        for index in reversed(range(len(tape.nodes))):
            op, operands = tape.nodes[index]
            if self.uses[index]:
                for x in operands:
                    if isinstance(x, Traced):
                        self.uses[x.index] += 2 if op in ("max", "min") else 1  # named: they stand there twice
        for index in range(len(tape.nodes)):
            if self.uses[index]:
                self._write(index)
        self.result = self._expression(result)

    def compiled(self, names: Sequence[str]) -> Callable[..., Any]:
        """The function itself."""
        source = "\n".join([f"def straight({', '.join(names)}):", *self.lines, f"    return {self.result}"])
        exec(compile(source, "<the cost model of a plan>", "exec"), self.scope)
        return cast("Callable[..., Any]", self.scope["straight"])

    def _count(self, value: object) -> None:
        if isinstance(value, Traced):
            self.uses[value.index] += 1
            return
        if isinstance(value, dict | list | tuple):
            self.seen[id(value)] = self.seen.get(id(value), 0) + 1
            if self.seen[id(value)] > 1:
                return
        if isinstance(value, dict):
            for part in value.values():
                self._count(part)
        elif isinstance(value, list | tuple):
            for part in value:
                self._count(part)

    def _write(self, index: int) -> None:
        """Write a node as text: a name where it is used twice or is deep, else an expression."""
        op, operands = self.tape.nodes[index]
        if op == "input":
            self.texts[index] = str(operands[0]), 0
            return
        parts = [self._text(x) for x in operands]
        depth = 1 + max((d for _, d in parts), default=0)
        text = self._format(op, [t for t, _ in parts])
        if self.uses[index] > 1 or depth > INLINE:
            self.lines.append(f"    t{index} = {text}")
            text, depth = f"t{index}", 0
        self.texts[index] = text, depth

    def _format(self, op: str, parts: list[str]) -> str:
        if op in self.choices:
            return self.choices[op].format(*parts)
        if op == "neg":
            return f"(-{parts[0]})"
        return f"{op}({', '.join(parts)})" if op.startswith("call") else f"({parts[0]} {op} {parts[1]})"

    def _text(self, x: Operand) -> tuple[str, int]:
        return self.texts[x.index] if isinstance(x, Traced) else (self._constant(x), 0)

    def _constant(self, x: object) -> str:
        if type(x) in (int, bool, str) or (type(x) is float and x - x == 0):
            return repr(x) if x != x or not isinstance(x, int | float) or x >= 0 else f"({x!r})"
        name = f"c{len(self.scope)}"
        self.scope[name] = x
        return name

    def _expression(self, value: object) -> str:
        """The expression that makes ``value``; a part that occurs several times is made once."""
        if isinstance(value, Traced):
            return self.texts[value.index][0]
        if not value or self.seen.get(id(value), 0) < 2:
            return self._construct(value)
        if id(value) not in self.named:
            text = self._construct(value)
            self.named[id(value)] = name = f"r{len(self.named)}"
            self.lines.append(f"    {name} = {text}")
        return self.named[id(value)]

    def _construct(self, value: object) -> str:
        if isinstance(value, dict):
            return "{" + ", ".join(f"{self._constant(k)}: {self._expression(v)}" for k, v in value.items()) + "}"
        if isinstance(value, list):
            return "[" + ", ".join(map(self._expression, value)) + "]"
        if isinstance(value, tuple):
            name = type(value).__name__
            self.scope[name] = type(value)
            inner = "".join(f"{self._expression(v)}, " for v in value)
            return f"({inner})" if type(value) is tuple else f"{name}({inner})"
        return self._constant(value)
