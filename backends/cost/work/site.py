"""A program on a machine, with the sizes that stay the same from step to step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from plandsl.backends.cost.machine.machine import Machine
from plandsl.ir.collectives import Ring
from plandsl.ir.extents import Extents
from plandsl.ir.program import Program
from plandsl.ir.types import PADDED, Dim, Number, TensorType, Value, makes_rows

ROW_DIMS = PADDED
"""Dimensions that make the rows of a tensor: a `Binding` gives their sizes, which change from step to step."""


class Site(NamedTuple):
    """One program on one machine. ``rings`` gives the axis of every value that travels around a ring."""

    program: Program
    machine: Machine
    extents: Extents
    rings: Mapping[Value, str]

    @classmethod
    def of(cls, program: Program, machine: Machine, extents: Extents) -> Site:
        """The site of ``program`` on ``machine``."""
        rings = {v: op.axis for r in program.regions for op in r.ops if isinstance(op, Ring) for v in op.outs}
        return cls(program, machine, extents, rings)

    def split(self, type_: TensorType) -> tuple[Number, tuple[Dim, ...]]:
        """Elements per row on one rank, and the dimensions that make the rows."""
        rows = tuple(d for d in type_.dims if makes_rows(d.name))
        return self.extents.product(d for d in type_.dims if not makes_rows(d.name)), rows
