"""A program on a machine, with the sizes that stay the same from step to step."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from typing import Any, NamedTuple, TypeVar

from plandsl.backends.cost.machine.machine import Machine
from plandsl.ir.collectives import Ring
from plandsl.ir.extents import Extents
from plandsl.ir.program import Program
from plandsl.ir.types import PADDED, Dim, Number, TensorType, Value, makes_rows

T = TypeVar("T")

ROW_DIMS = PADDED
"""Dimensions that make the rows of a tensor: a `Binding` gives their sizes, which change from step to step."""


class Site(NamedTuple):
    """One program on one machine. ``rings`` gives the axis of every value that travels around a ring.

    ``found`` is what ops asked of the sizes alone: it holds on every machine (`once`).
    """

    program: Program
    machine: Machine
    extents: Extents
    rings: Mapping[Value, str]
    found: dict[Hashable, Any]

    @classmethod
    def of(cls, program: Program, machine: Machine, extents: Extents) -> Site:
        """The site of ``program`` on ``machine``."""
        rings = {v: op.axis for r in program.regions for op in r.ops if isinstance(op, Ring) for v in op.outs}
        return cls(program, machine, extents, rings, {})

    def once(self, key: Hashable, find: Callable[[], T]) -> T:
        """``find()``, found once for all machines; ``key`` names it and the op that asks."""
        if key not in self.found:
            self.found[key] = find()
        found: T = self.found[key]
        return found

    def split(self, type_: TensorType) -> tuple[Number, tuple[Dim, ...]]:
        """Elements per row on one rank, and the dimensions that make the rows."""
        found: tuple[Number, tuple[Dim, ...]] | None = self.found.get(type_)
        if found is None:
            found = self.found[type_] = self._split(type_)
        return found

    def _split(self, type_: TensorType) -> tuple[Number, tuple[Dim, ...]]:
        rows = tuple(d for d in type_.dims if makes_rows(d.name))
        return self.extents.product(d for d in type_.dims if not makes_rows(d.name)), rows
