"""Where ops are translated to work: one program on one machine, with the sizes that do not change from step to step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from plandsl.backends.cost.machine.links import Fabric, fabric
from plandsl.backends.cost.machine.machine import Machine
from plandsl.ir.collectives import Ring
from plandsl.ir.extents import Extents
from plandsl.ir.program import Program
from plandsl.ir.types import PADDED, Dim, Number, TensorType, Value

STEP = PADDED
"""Dimensions that change from step to step: their local sizes are bound late."""


class Site(NamedTuple):
    """One program on one machine. ``rings`` has the axis of every value that comes around a ring."""

    program: Program
    machine: Machine
    extents: Extents
    rings: Mapping[Value, str]

    @classmethod
    def of(cls, program: Program, machine: Machine, extents: Extents) -> Site:
        """Where the ops of ``program`` run."""
        rings = {v: op.axis for r in program.regions for op in r.ops if isinstance(op, Ring) for v in op.outs}
        return cls(program, machine, extents, rings)

    def split(self, type_: TensorType) -> tuple[Number, tuple[Dim, ...]]:
        """Elements per row on one rank, and the dimensions that make the rows."""
        rows = tuple(d for d in type_.dims if d.name in STEP)
        return self.extents.product(d for d in type_.dims if d.name not in STEP), rows

    def fabric(self, axis: str | None = None) -> Fabric:
        """The links of a node, as a group along ``axis`` has them."""
        stride = 1 if axis is None else self.program.mesh.stride(axis)
        return fabric(self.machine.link, self.machine.link_share, stride)
