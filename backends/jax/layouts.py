"""The layout of values in an exported program, where every part of a dimension has the same length.

`batch` and `position` are padded to a multiple of the number of parts, and so is a vocabulary that an engine pads.
Where a dimension has fewer items than parts (`kv_heads`), its items are repeated. A value that is a partial sum leaves
a function as a stack of its terms.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import lcm
from typing import NamedTuple

from plandsl.ir.program import Program
from plandsl.ir.types import PADDED, REPLICATED, Dim, Mesh, TensorType


class Layouts(NamedTuple):
    """The sizes of an exported program: ``sizes`` of dimensions that are numbers, on ``mesh``."""

    sizes: dict[str, int]
    mesh: Mesh

    def local(self, name: str, axes: Iterable[str]) -> int:
        """Items of dimension ``name`` that a rank has where ``axes`` split it, padding counted."""
        held = self.sizes[name]
        for axis in axes:
            held = -(-held // self.mesh.size(axis))
        return held

    def repeats(self, dim: Dim, from_axes: tuple[str, ...] = ()) -> int:
        """How often items of ``dim`` are repeated where its axes cut it, of those that ``from_axes`` left."""
        if dim.name not in REPLICATED:
            return 1
        ways = self.mesh.ways(dim.axes[len(from_axes) :])
        return ways * self.local(dim.name, dim.axes) // self.local(dim.name, from_axes)

    def extent(self, dim: Dim) -> int:
        """The length of the whole dimension, repeated items and padding counted."""
        return self.local(dim.name, dim.axes) * self.mesh.ways(dim.axes)


class Slots(NamedTuple):
    """Where the keys of a program lie, by the names of values: of one region, or of all that regions hand on."""

    contexts: dict[str, tuple[str, ...]]
    """The axes that split the context of the cache that a value comes from."""
    passing: set[str]
    """Keys and values that no later step reads: a rank has those of its own part of the step."""

    @classmethod
    def none(cls) -> Slots:
        """Nothing is known yet."""
        return cls({}, set())

    def follow(self, name: str, other: Slots, source: str) -> None:
        """Value ``name`` lies as ``source`` of ``other`` does."""
        if source in other.contexts:
            self.contexts[name] = other.contexts[source]
        if source in other.passing:
            self.passing.add(name)


def multiple(programs: Iterable[Program], name: str) -> int:
    """The number that the length of padded dimension ``name`` has to be a multiple of, for all its layouts."""
    assert name in PADDED
    found = 1
    for program in programs:
        for region in program.regions:
            for value in region.values().values():
                for dim in value.type.dims:
                    if dim.name == name:
                        over = dim.chunk.over if dim.chunk is not None else ()
                        found = lcm(found, program.mesh.ways(dim.axes), program.mesh.ways(over))
    return found


def spec(type_: TensorType, *, stacked: bool = False) -> str:
    """The `PartitionSpec` of a value as text; ``stacked``: with one more dimension, of layers, in front."""
    parts = ["None"] if stacked else []
    parts += [show_axes([axis]) for axis in sorted(type_.pending)]
    parts += [show_axes(d.axes) if d.axes else "None" for d in type_.dims]
    while parts and parts[-1] == "None":
        parts.pop()
    return f"P({', '.join(parts)})"


def show_axes(axes: Iterable[str]) -> str:
    """Mesh axes as an argument of a collective."""
    names = list(axes)
    shown = [f'"{name}"' for name in names]
    return shown[0] if len(names) == 1 else f"({', '.join(shown)})"
