"""Programs: regions of operations, the mesh they run on, and the stages they are cut into."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator
from itertools import groupby
from typing import Any, NamedTuple

from attrs import field, frozen

from plandsl.diagnostics import Diagnostic
from plandsl.ir.collectives import Ring
from plandsl.ir.earlier import Earlier
from plandsl.ir.names import Places, RegionName
from plandsl.ir.ops import Op
from plandsl.ir.skew import Skew
from plandsl.ir.types import Mesh, Value
from plandsl.shown import plain_rich, text_html
from plandsl.spec.model import EVERY, Every
from plandsl.values import FrozenValue

PREFILL, DECODE = PHASES = ("prefill", "decode")
"""The two phases in which a model's block runs."""


@frozen(eq=False, repr=False, slots=False)
class Region(FrozenValue):
    """A straight line of operations, run once (``layers`` None) or once per layer of ``layers`` that ``every`` picks.

    The results after the first one are for later layers, which read them by `Earlier` under the names ``gives``.

    `place_memory` finds ``live``, the largest sets of values alive at once, ``through``, the values of earlier layers
    that are alive beside these all the time, and ``buffers``, the values in buffers of collectives.
    """

    name: RegionName
    layers: tuple[int, int] | None
    args: tuple[Value, ...]
    weights: tuple[Value, ...]
    ops: tuple[Op, ...]
    results: tuple[Value, ...]
    live: tuple[tuple[str, ...], ...] = ()
    buffers: tuple[str, ...] = ()
    every: Every = EVERY
    gives: tuple[str, ...] = ()
    through: tuple[Value, ...] = ()

    @property
    def handed(self) -> tuple[tuple[str, Value], ...]:
        """What the region makes for later layers, by name."""
        return tuple(zip(self.gives, self.results[1:], strict=True))

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
        """Values that arrive block by block, by name, each with its ring.

        They are the results of the ring, and values computed from these that have the ring's ``dim``.
        """
        found: dict[str, Ring] = {}
        for op in self.ops:
            ring = op if isinstance(op, Ring) else next((found[x.name] for x in op.operands if x.name in found), None)
            if ring is not None:
                found |= {v.name: ring for v in op.results if ring.dim in v.type.names}
        return found


class Part(NamedTuple):
    """A region on a stage. For a block, the stage runs the layers of the range ``layers`` that ``every`` picks.

    Several blocks of one stage run interleaved, in the order of their layers.
    """

    region: RegionName
    layers: tuple[int, int] | None = None
    every: Every = EVERY

    @property
    def repeats(self) -> int:
        """How often the stage runs the region in one pass."""
        return 1 if self.layers is None else self.every.count(self.layers)

    def __str__(self) -> str:
        return self.region if self.layers is None else f"{self.region}[{show_layers(self.layers, self.every)}]"


def in_order(parts: Iterable[Part]) -> Iterator[tuple[RegionName, int | None]]:
    """The regions that a stage runs, with their layers; neighbouring blocks run in the order of their layers."""
    for block, group in groupby(parts, key=lambda part: part.layers is not None):
        if not block:
            yield from ((part.region, None) for part in group)
            continue
        runs = [(n, part.region) for part in group if part.layers for n in part.every.select(part.layers)]
        yield from ((region, n) for n, region in sorted(runs))


def show_layers(layers: tuple[int, int], every: Every) -> str:
    """Print layers as ``0..36`` or ``0..36 by 2``."""
    return f"{layers[0]}..{layers[1]}{every}"


@frozen(eq=False, repr=False, slots=False)
class Program(FrozenValue):
    """One phase of one model on one mesh.

    ``sizes`` gives each dimension a number, or a symbol that the cost backend binds (``batch``, ``input``,
    ``context``); the size of ``experts:8`` is the number of experts. ``stage_axes`` are the mesh axes that cut the
    layers into stages; ``stages`` is empty until `cut_stages` has run. ``imbalance`` says, for each dimension of
    experts, how unevenly tokens load the ranks that split it (`Skew`).
    """

    model: str
    phase: str
    mesh: Mesh
    sizes: tuple[tuple[str, int | str], ...]
    regions: tuple[Region, ...]
    stage_axes: tuple[str, ...] = ()
    stages: tuple[tuple[Part, ...], ...] = ()
    imbalance: tuple[tuple[Places, Skew], ...] = ()
    _by_name: dict[RegionName, Region] = field(init=False, eq=False, repr=False)

    def __attrs_post_init__(self) -> None:
        object.__setattr__(self, "_by_name", {r.name: r for r in self.regions})

    def region(self, name: RegionName) -> Region:
        """The region called ``name`` (KeyError where there is none)."""
        return self._by_name[name]

    @property
    def stage_parts(self) -> tuple[tuple[Part, ...], ...]:
        """The parts of each stage; before `cut_stages` has run, one stage runs every region."""
        return self.stages or (tuple(Part(r.name, r.layers, r.every) for r in self.regions),)

    def size(self, dim: str) -> int | str:
        """Size or symbol of a dimension."""
        return dict(self.sizes)[dim]

    def __repr__(self) -> str:
        ops = sum(len(region.ops) for region in self.regions)
        mesh = " x ".join(f"{name} {size}" for name, size in self.mesh.axes) or "one device"
        names = ", ".join(map(str, self._by_name))
        return f"<Program {self.model} {self.phase}: {ops} ops in {names}, on {mesh}>"

    def __str__(self) -> str:
        from plandsl.ir.text import show

        return show(self)

    def __rich__(self) -> Any:
        return plain_rich(str(self))

    def _repr_html_(self) -> str:
        return text_html(str(self))


def verify(
    program: Program, known: Container[int] = (), regions: Iterable[Region] | None = None
) -> Iterator[Diagnostic]:
    """Findings for everything that is unsound in ``program``.

    A sound program defines each value once and before its use, records the type that ``infer`` gives for each value,
    uses an axis at most once in a tensor, and satisfies the ``verify`` of each op. Ops whose `id` is in ``known``
    were verified before, and only their operands and results are checked; of a program, only ``regions`` if given.
    """
    known_axes = {name for name, _ in program.mesh.axes}
    handed = {name: value for region in reversed(program.regions) for name, value in region.handed}
    for region in program.regions if regions is None else regions:
        defined: dict[str, Value] = {}
        for value in (*region.args, *region.weights):
            yield from _define(value, defined, known_axes, region.name)
        for op in region.ops:
            for x in op.operands:
                found = defined.get(x.name)
                if found is not x and found != x:
                    yield Diagnostic("E391", f"{region.name}: %{x.name} is used before it is defined", op.span)
            if id(op) not in known:
                yield from _verify_op(op, region.name)
            if isinstance(op, Earlier):
                yield from _verify_earlier(op, handed.get(op.made), region.name)
            for out in op.results:
                yield from _define(out, defined, known_axes, region.name)
        for value in region.results:
            if defined.get(value.name) != value:
                yield Diagnostic("E391", f"{region.name}: result %{value.name} is not defined", None)
        for name, value in region.handed:
            if handed[name].type != value.type:
                why = f"{region.name}: `{name}` is {value.type}, but an earlier layer gives {handed[name].type}"
                yield Diagnostic("E391", why, None)


def _verify_op(op: Op, region: RegionName) -> Iterator[Diagnostic]:
    """Findings about one op by itself."""
    yield from op.verify()
    if not op.facts.merges and any(x.type.softmax for x in op.operands):
        yield Diagnostic("E391", f"{region}: {op.keyword} of a softmax over some of the keys", op.span)
    for out, inferred in zip(op.results, op.infer(), strict=True):
        if out.type != inferred:
            why = f"{region}: %{out.name} is recorded as {out.type}, but {op.keyword} makes {inferred}"
            yield Diagnostic("E391", why, op.span)


def _verify_earlier(op: Earlier, made: Value | None, region: str) -> Iterator[Diagnostic]:
    """Findings about a value of an earlier layer: some region before gives it, with this type."""
    if made is None or made.type != op.out.type:
        have = "nothing gives it" if made is None else f"it is {made.type}"
        why = f"{region}: `{op.made}` of an earlier layer is read as {op.out.type}, but {have}"
        yield Diagnostic("E391", why, op.span)


def _define(value: Value, defined: dict[str, Value], axes: set[str], region: RegionName) -> Iterator[Diagnostic]:
    if value.name in defined:
        yield Diagnostic("E391", f"{region}: %{value.name} is defined twice", None)
    used = [a for d in value.type.dims for a in d.axes] + [*value.type.partial, *value.type.softmax]
    if len(used) != len(set(used)) or not set(used) <= axes:
        yield Diagnostic("E391", f"{region}: %{value.name} uses an axis twice, or an axis that the mesh lacks", None)
    defined[value.name] = value
