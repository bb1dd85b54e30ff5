"""Turns the cost model of one plan into straight-line arithmetic, for callers with very many loads.

The model is written for any plan. Once a plan is compiled, most of its steps are fixed. `trace` runs the model once
with numbers that are not known yet, and a `Tape` records the arithmetic on them. A record is played operation by
operation at first, and compiled as one Python function once it is asked often: to compile it takes as long as to play
it a hundred times. Either way its answers equal the model's exactly.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias, cast

from plandsl.backends.cost.time.tape import Operand, Tape, Traced

HOT = 100
"""A record is compiled at this call: compiling is paid by 105 to 119 calls (`python -m benchmarks.records`)."""

INLINE = 12
"""The deepest nesting of an expression; a deeper part gets a name."""

Inputs: TypeAlias = Mapping[str, Traced]
"""Nodes whose values are given, in the order of arguments, each with a name."""


KEPT = 1024
"""Values of its first input for which a `Staged` record keeps the results that follow from that input alone."""


def trace(
    function: Callable[..., Any], *names: str, arrays: bool = False, again: str | None = None
) -> Callable[..., Any]:
    """``function`` of the numbers ``names`` as straight-line code; it returns tuples, lists, dicts and numbers.

    The code takes plain numbers, or with ``arrays`` numpy arrays. ``again`` is the first of the names where it is a
    plain number with few values: what follows from it alone is computed once for each. Raises `TypeError` where the
    function branches on the value of a number.
    """
    tape = Tape()
    inputs = {name: tape.node("input", cast(Any, name)) for name in names}
    made = Staged if again else Straight
    assert again in (None, names[0]), "what is asked for again comes first"
    return made(tape, inputs, function(*inputs.values()), arrays)


class Straight:
    """A record as a function of ``inputs``. ``result`` consists of tuples, lists, dicts, constants and nodes.

    An input may be any node. All nodes of the result must follow from inputs and constants.
    """

    def __init__(self, tape: Tape, inputs: Inputs, result: object, arrays: bool = False) -> None:
        self._record: tuple[Tape, Inputs, object, bool] | None = (tape, inputs, result, arrays)
        self._code: Callable[..., Any] | None = None
        self._left = HOT

    def __call__(self, *numbers: Any) -> Any:
        """The result for these inputs, in their order."""
        code = self._code if self._left <= 0 else self._warm()
        return cast("Callable[..., Any]", code)(*numbers)

    def _warm(self) -> Callable[..., Any] | None:
        """What answers this call; the record is let go of once it is compiled.

        Several threads may be here: each keeps the record that it has begun with, so the worst is to compile twice.
        """
        record = self._record
        if record is None:  # compiled by another thread in the meantime
            return self._code
        code = self._code = self._code or Player(*record)
        self._left -= 1
        if self._left <= 0:
            code = self._code = Writer(*record).compiled()
            self._record = None
        return code


class Staged:
    """A record whose first input is asked for again and again: what follows from it alone is kept for each value."""

    def __init__(self, tape: Tape, inputs: Inputs, result: object, arrays: bool) -> None:
        first = next(iter(inputs))
        border = list(border_of(tape, {first: inputs[first]}, result))
        self._before = Straight(tape, {first: inputs[first]}, border, arrays)
        given = {f"b{node.index}": node for node in border}
        self._behind = Straight(
            tape, given | {name: node for name, node in inputs.items() if name != first}, result, arrays
        )
        self._known: dict[float, list[Any]] = {}

    def __call__(self, first: float, *others: Any) -> Any:
        """The result for these inputs, in their order."""
        known = self._known.get(first)
        if known is None:
            if len(self._known) >= KEPT:
                self._known.clear()
            known = self._known[first] = self._before(first)
        return self._behind(*known, *others)


class Player:
    """Plays a record. A value is kept until its last reader has it: of arrays, few are there at once."""

    def __init__(self, tape: Tape, inputs: Inputs, result: object, arrays: bool) -> None:
        functions = {**PLAYED, **{f"call{i}": function for i, function in enumerate(tape.called)}}
        if arrays:
            import numpy as np

            functions |= {"max": np.maximum, "min": np.minimum, "where": np.where}
        self.result = result
        self.start: list[object] = [None] * len(inputs)
        self.places = {node.index: at for at, node in enumerate(inputs.values())}
        self.steps: list[tuple[Callable[..., Any], int, Any, int]] = []  # see `__call__`
        last, free = last_readers(tape, inputs, result), list[int]()
        for index, reader in enumerate(last):
            if reader is None or index in self.places:
                continue
            op, operands = tape.nodes[index]
            read = [self._place(x) for x in operands]
            free += {self.places[x.index] for x in operands if isinstance(x, Traced) and last[x.index] == index}
            at = self.places[index] = free.pop() if free else self._add(None)
            a, b = read if len(read) == 2 else (read, -1)
            self.steps.append((functions[op], at, a, b))

    def _place(self, x: Operand) -> int:
        return self.places[x.index] if isinstance(x, Traced) else self._add(x)

    def _add(self, value: object) -> int:
        self.start.append(value)
        return len(self.start) - 1

    def __call__(self, *numbers: Any) -> Any:
        """The result for these inputs.

        A step has a function, the place of what it gives, and the places of two operands: or a list of places, and -1.
        """
        values: list[Any] = [*numbers, *self.start[len(numbers) :]]
        for function, at, a, b in self.steps:
            values[at] = function(values[a], values[b]) if b >= 0 else function(*[values[i] for i in a])
        return self._fill(self.result, values, {})

    def _fill(self, part: Any, values: Sequence[object], made: dict[int, Any]) -> Any:
        """A part of the result; one that occurs several times is made once."""
        if isinstance(part, Traced):
            return values[self.places[part.index]]
        if not isinstance(part, dict | list | tuple):
            return part
        found = made.get(id(part))
        if found is None:
            if isinstance(part, dict):
                found = {key: self._fill(value, values, made) for key, value in part.items()}
            else:
                inner = [self._fill(value, values, made) for value in part]
                kind = type(part)
                found = inner if kind is list else tuple(inner) if kind is tuple else kind(*inner)
            made[id(part)] = found
        return found


PLAYED: Mapping[str, Callable[..., Any]] = {
    "+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv, "//": operator.floordiv,
    "%": operator.mod, "**": operator.pow, "&": operator.and_, "|": operator.or_, "neg": operator.neg,
    ">": operator.gt, ">=": operator.ge, "<": operator.lt, "<=": operator.le, "==": operator.eq, "!=": operator.ne,
    "max": lambda a, b: a if a >= b else b,
    "min": lambda a, b: a if a <= b else b,
    "where": lambda condition, a, b: a if condition else b,
}  # fmt: skip
"""Operations on numbers."""


def last_readers(tape: Tape, inputs: Inputs, result: object) -> list[int | None]:
    """For each node the index of the last node that reads it: None if none does, the number of nodes for the result."""
    given, beyond = {node.index for node in inputs.values()}, len(tape.nodes)
    found: list[int | None] = [None] * beyond
    for node in nodes_of(result, set()):
        found[node.index] = beyond
    for index in range(beyond - 1, -1, -1):
        if found[index] is not None and index not in given:
            for x in tape.nodes[index][1]:
                if isinstance(x, Traced) and found[x.index] is None:
                    found[x.index] = index
    return found


def border_of(tape: Tape, inputs: Inputs, result: object) -> list[Traced]:
    """The nodes that follow from ``inputs`` alone, and that the result has or that a node which needs more reads."""
    last, given = last_readers(tape, {}, result), {node.index for node in inputs.values()}
    alone = list[bool]()
    for index, (op, operands) in enumerate(tape.nodes):
        read = [alone[x.index] for x in operands if isinstance(x, Traced)]
        alone.append(index in given or (op != "input" and all(read)))
    found = {node.index: node for node in nodes_of(result, set()) if alone[node.index]}
    for index, reader in enumerate(last):
        if reader is not None and not alone[index]:
            found |= {x.index: x for x in tape.nodes[index][1] if isinstance(x, Traced) and alone[x.index]}
    return [found[index] for index in sorted(found)]


def nodes_of(value: object, seen: set[int]) -> Iterator[Traced]:
    """The nodes in a result. A part that occurs several times is looked at once."""
    if isinstance(value, Traced):
        yield value
    elif isinstance(value, dict | list | tuple) and id(value) not in seen:
        seen.add(id(value))
        for part in value.values() if isinstance(value, dict) else value:
            yield from nodes_of(part, seen)


NUMBERS = {
    "max": "({0} if {0} >= {1} else {1})",
    "min": "({0} if {0} <= {1} else {1})",
    "where": "({1} if {0} else {2})",
}
ARRAYS = {"max": "maximum({0}, {1})", "min": "minimum({0}, {1})", "where": "where({0}, {1}, {2})"}
"""The code of choices, for numbers and for arrays."""


class Writer:
    """Writes a record as the source of a function."""

    def __init__(self, tape: Tape, inputs: Inputs, result: object, arrays: bool) -> None:
        self.tape, self.choices = tape, ARRAYS if arrays else NUMBERS
        self.scope: dict[str, object] = {f"call{i}": f for i, f in enumerate(tape.called)}
        if arrays:
            import numpy as np

            self.scope |= {"maximum": np.maximum, "minimum": np.minimum, "where": np.where}
        self.uses = [0] * len(tape.nodes)
        self.seen: dict[int, int] = {}
        self.named: dict[int, str] = {}
        self.lines: list[str] = []
        self.names = list(inputs)
        self.texts = {node.index: (name, 0) for name, node in inputs.items()}
        self._count(result)
        for index in reversed(range(len(tape.nodes))):
            op, operands = tape.nodes[index]
            if self.uses[index] and index not in self.texts:
                for x in operands:
                    if isinstance(x, Traced):
                        self.uses[x.index] += 2 if op in ("max", "min") else 1  # named: they stand there twice
        for index in range(len(tape.nodes)):
            if self.uses[index] and index not in self.texts:
                self._write(index)
        self.result = self._expression(result)

    def compiled(self) -> Callable[..., Any]:
        """The function itself."""
        source = "\n".join([f"def straight({', '.join(self.names)}):", *self.lines, f"    return {self.result}"])
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
