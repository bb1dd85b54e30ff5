"""Helpers that the passes share: fresh names, and replacing the ops of a region."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import Any

from attrs import evolve

from plandsl.ir.ops import Op
from plandsl.ir.program import Program, Region
from plandsl.ir.types import Value


class Names:
    """Hands out value names that are unique within a region: ``x``, ``x.1``, ``x.2``, ..."""

    def __init__(self, taken: Iterable[str] = ()) -> None:
        self._taken = set(taken)
        self._next: dict[str, int] = {}

    def fresh(self, wish: str) -> str:
        """``wish`` itself if it is free, else ``wish`` with the next number appended."""
        base = wish.split(".")[0]
        name = wish
        while name in self._taken:
            self._next[base] = self._next.get(base, 0) + 1
            name = f"{base}.{self._next[base]}"
        self._taken.add(name)
        return name


def each_region(program: Program, change: Callable[[Region], Region]) -> Program:
    """The program with ``change`` applied to every region."""
    return evolve(program, regions=tuple(change(r) for r in program.regions))


def count_uses(ops: Iterable[Op], results: Iterable[Value] = ()) -> dict[str, int]:
    """How often each value is read, by name; that a value is among the ``results`` of its region counts, too."""
    count: dict[str, int] = {}
    for x in results:
        count[x.name] = count.get(x.name, 0) + 1
    for op in ops:
        for x in op.operands:
            count[x.name] = count.get(x.name, 0) + 1
    return count


def merge_kinds(ops: Iterable[Op], kind: Callable[[Op], Hashable], merge: Callable[[Any, Any], Op]) -> tuple[Op, ...]:
    """Merge each op into the next one of its ``kind``, unless an op between them reads it; None: not to be merged.

    An op waits for the next one of its kind until its first reader, whether it then merges or not: so the result is its
    own result.
    """
    out: list[Op] = []
    waiting: dict[Hashable, Op] = {}
    for op in ops:
        read = {x.name for x in op.operands}
        for key in [key for key, before in waiting.items() if not read.isdisjoint(v.name for v in before.results)]:
            out.append(waiting.pop(key))
        if (key := kind(op)) is None:
            out.append(op)
        else:
            before = waiting.pop(key, None)
            waiting[key] = op if before is None else merge(before, op)
    return (*out, *waiting.values())


def substitute(op: Op, replace: dict[str, Value]) -> Op:
    """``op`` with the operands named in ``replace`` replaced."""
    if not any(x.name in replace for x in op.operands):
        return op
    changes: dict[str, object] = {}
    for name in op.OPERANDS:
        held = getattr(op, name)
        if type(held) is tuple:
            changes[name] = tuple(replace.get(x.name, x) for x in held)
        elif held is not None:
            changes[name] = replace.get(held.name, held)
    return replace_fields(op, changes)


def replace_fields(op: Op, fields: Mapping[str, Any]) -> Op:
    """``op`` with some fields replaced. The type checker does not see their types, so the caller must."""
    any_op: Any = op
    new: Op = evolve(any_op, **fields)
    return new
