"""Programs: regions of operations, the mesh they run on, and the stages they are cut into."""

from __future__ import annotations

from collections.abc import Container, Iterator
from typing import NamedTuple

from attrs import field, frozen

from plandsl.diagnostics import Diagnostic
from plandsl.ir.collectives import Ring
from plandsl.ir.ops import Op
from plandsl.ir.skew import Skew
from plandsl.ir.types import Mesh, Value
from plandsl.spec.model import EVERY, Every

PREFILL, DECODE = PHASES = ("prefill", "decode")
"""The two ways in which a model's block runs."""


@frozen
class Region:
    """A straight line of operations, run once (``layers`` None) or once per layer of ``layers`` that ``every`` picks.

    ``live`` holds the largest sets of values alive at once, ``buffers`` the values that collectives stage
    through memory of their own; both are found by `place_memory`.
    """

    name: str
    layers: tuple[int, int] | None
    args: tuple[Value, ...]
    weights: tuple[Value, ...]
    ops: tuple[Op, ...]
    results: tuple[Value, ...]
    live: tuple[tuple[str, ...], ...] = ()
    buffers: tuple[str, ...] = ()
    every: Every = EVERY

    @property
    def repeats(self) -> int:
        """How often the region runs in one pass over the model."""
        return 1 if self.layers is None else self.every.count(self.layers)

    def values(self) -> dict[str, Value]:
        """Every value of the region by name."""
        found = {v.name: v for v in (*self.args, *self.weights)}
        for op in self.ops:
            found |= {v.name: v for v in op.results}
        return found

    def in_blocks(self) -> dict[str, Ring]:
        """Values that come block by block around a ring: its results, and what is made of them with its dimension."""
        found: dict[str, Ring] = {}
        for op in self.ops:
            ring = op if isinstance(op, Ring) else next((found[x.name] for x in op.operands if x.name in found), None)
            if ring is not None:
                found |= {v.name: ring for v in op.results if ring.dim in v.type.names}
        return found


class Part(NamedTuple):
    """A region on a stage; for a block, the layers of it that the stage runs: those of a range that ``every`` picks.

    Blocks that stand side by side on a stage run in the order of their layers.
    """

    region: str
    layers: tuple[int, int] | None = None
    every: Every = EVERY

    @property
    def repeats(self) -> int:
        """How often the stage runs the region in one pass."""
        return 1 if self.layers is None else self.every.count(self.layers)

    def __str__(self) -> str:
        return self.region if self.layers is None else f"{self.region}[{show_layers(self.layers, self.every)}]"


def show_layers(layers: tuple[int, int], every: Every) -> str:
    """``0..36``, ``0..36 by 2``."""
    return f"{layers[0]}..{layers[1]}{every}"


@frozen
class Program:
    """One phase of one model on one mesh.

    ``sizes`` gives each dimension a number or the symbol it is bound to when costs are asked for (``batch``,
    ``input``, ``context``); that of ``experts:8`` is the number of experts. ``stage_axes`` are the mesh axes that
    layers are cut over; ``stages`` is empty until they are. ``imbalance`` is the load of the fullest rank over the
    mean where experts are split, or what it follows from, by dimension.
    """

    model: str
    phase: str
    mesh: Mesh
    sizes: tuple[tuple[str, int | str], ...]
    regions: tuple[Region, ...]
    stage_axes: tuple[str, ...] = ()
    stages: tuple[tuple[Part, ...], ...] = ()
    imbalance: tuple[tuple[str, Skew], ...] = ()
    _by_name: dict[str, Region] = field(init=False, eq=False, repr=False)

    def __attrs_post_init__(self) -> None:
        object.__setattr__(self, "_by_name", {r.name: r for r in self.regions})

    def region(self, name: str) -> Region:
        """The region of that name."""
        return self._by_name[name]

    def size(self, dim: str) -> int | str:
        """Size or symbol of a dimension."""
        return dict(self.sizes)[dim]


def verify(program: Program, known: Container[int] = ()) -> Iterator[Diagnostic]:
    """Every way in which ``program`` is unsound.

    A sound program defines each value once and before its use, records for each the type that `infer` gives,
    uses an axis at most once in a tensor, and satisfies each op. Ops whose `id` is ``known`` have been asked before.
    """
    known_axes = {name for name, _ in program.mesh.axes}
    for region in program.regions:
        defined: dict[str, Value] = {}
        for value in (*region.args, *region.weights):
            yield from _define(value, defined, known_axes, region.name)
        for op in region.ops:
            for x in op.operands:
                if defined.get(x.name) != x:
                    yield Diagnostic("E391", f"{region.name}: %{x.name} is used before it is defined", op.span)
            if id(op) not in known:
                yield from _asked(op, region.name)
            for out in op.results:
                yield from _define(out, defined, known_axes, region.name)
        for value in region.results:
            if defined.get(value.name) != value:
                yield Diagnostic("E391", f"{region.name}: result %{value.name} is not defined", None)


def _asked(op: Op, region: str) -> Iterator[Diagnostic]:
    """What is wrong with an op by itself."""
    yield from op.verify()
    if not op.facts.merges and any(x.type.softmax for x in op.operands):
        yield Diagnostic("E391", f"{region}: {op.keyword} of a softmax over some of the keys", op.span)
    for out, inferred in zip(op.results, op.infer(), strict=True):
        if out.type != inferred:
            why = f"{region}: %{out.name} is recorded as {out.type}, but {op.keyword} makes {inferred}"
            yield Diagnostic("E391", why, op.span)


def _define(value: Value, defined: dict[str, Value], axes: set[str], region: str) -> Iterator[Diagnostic]:
    if value.name in defined:
        yield Diagnostic("E391", f"{region}: %{value.name} is defined twice", None)
    used = [a for d in value.type.dims for a in d.axes] + [*value.type.partial, *value.type.softmax]
    if len(used) != len(set(used)) or not set(used) <= axes:
        yield Diagnostic("E391", f"{region}: %{value.name} uses an axis twice or one that is not there", None)
    defined[value.name] = value
