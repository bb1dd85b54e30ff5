"""What programs hold, whatever the load: weights, caches, and values that are alive together, by stage."""

from __future__ import annotations

from collections.abc import Callable, Container, Hashable, Iterable, Sequence
from functools import cached_property
from typing import NamedTuple, TypeVar

from attrs import evolve

from plandsl.backends.cost.work.cached import cache_sources, trace_sources
from plandsl.ir.collectives import Along, Ring
from plandsl.ir.compute import Attention, CacheWrite
from plandsl.ir.earlier import Earlier
from plandsl.ir.extents import Extents
from plandsl.ir.index import PickKeys
from plandsl.ir.latent import LatentAttention
from plandsl.ir.ops import KEEPS
from plandsl.ir.program import Program, Region
from plandsl.ir.states import States, state_bytes, token_bytes
from plandsl.ir.types import Dim, Number, TensorType, Value, makes_rows
from plandsl.spec.formats import item_bytes
from plandsl.spec.model import ADAPTERS
from plandsl.values import sum_up

T = TypeVar("T")


class Cache(NamedTuple):
    """One layer's cached tensors: bytes per token and local request, and the window or chunk that bounds the tokens.

    Of a layer with a state (``state``) a token stands for the state of a request, whatever tokens the request has.
    """

    per_token: Number
    batch: Dim
    window: int
    layers: int
    context: Dim = Dim("context")
    state: bool = False


RowBytes = tuple[tuple[tuple[Dim, ...], float], ...]
"""Bytes per row of values that are alive together, by the dimensions that make their rows."""


def _outweighs(a: RowBytes, b: RowBytes) -> bool:
    """Whether ``a`` weighs at least as much as ``b`` whatever the rows are."""
    have = dict(a)
    return all(have.get(rows, 0.0) >= size for rows, size in b)


def by_kind(kinds: Sequence[int], answer: Callable[[int], T]) -> list[T]:
    """``answer`` of each stage, asked of the first stage of each kind; ``kinds`` has that one for each stage."""
    found = {stage: answer(stage) for stage in dict.fromkeys(kinds)}
    return [found[stage] for stage in kinds]


def find_kinds(*facts: Sequence[Hashable]) -> list[int]:
    """For each stage the first stage with the same value in each of ``facts``."""
    found: dict[Hashable, int] = {}
    return [found.setdefault(each, stage) for stage, each in enumerate(zip(*facts, strict=True))]


class Contents:
    """What the programs of both phases hold: ``weights`` in bytes, ``caches``, and ``steps``, the rows of each phase.

    ``kinds`` has for each stage the first stage with the same regions, as often each.
    Weights and caches lie alike in both phases. For each phase, ``steps`` has the rows of sets of live values, and the
    rows of sets of communication buffers.
    """

    def __init__(self, program: Program, decode: Program, extents: Extents) -> None:
        self.program, self.extents = program, extents
        self.kinds = find_kinds([tuple((part.region, part.repeats) for part in parts) for parts in program.stages])
        self.weights = self.by_stage(self.weights_of)
        self.caches = self.by_stage(self._caches)
        self.steps = [self._step_rows(p) for p in (program, decode)]

    def by_stage(self, answer: Callable[[int], T]) -> list[T]:
        """``answer`` of each stage; stages with the same regions, as often each, have one answer."""
        return by_kind(self.kinds, answer)

    @cached_property
    def adapters(self) -> list[Number]:
        """Bytes of the adapters (LoRA) among the weights of each stage."""
        return self.by_stage(self.adapters_of)

    def of_stage(self, stage: int) -> Hashable:
        """All that a stage holds: stages with equal values hold the same."""
        return self._first_alike[stage]

    @cached_property
    def _first_alike(self) -> list[int]:
        """For each stage the first stage that holds the same."""
        found: dict[Hashable, int] = {}
        first = []
        for stage, (weights, caches) in enumerate(zip(self.weights, self.caches, strict=True)):
            steps = tuple((tuple(live[stage]), tuple(buffers[stage])) for live, buffers in self.steps)
            first.append(found.setdefault((weights, tuple(caches), steps), stage))
        return first

    def ways(self, stage: int) -> Number:
        """The number of ranks that share the requests of a batch."""
        caches = self.caches[stage]
        return self.extents.ways(caches[0].batch.axes) if caches else 1

    def regions(self, stage: int) -> list[tuple[Region, int]]:
        """The regions of a stage, each with the number of copies of its weights and caches."""
        return [(self.program.region(p.region), p.repeats) for p in self.program.stages[stage]]

    def adapters_of(self, stage: int, but: Container[tuple[str, Value]] = ()) -> Number:
        """Bytes of the adapters (LoRA) among a stage's weights without those in ``but``."""
        every = ((repeats, w) for r, repeats in self.regions(stage) for w in r.weights if (r.name, w) not in but)
        own = [repeats * self.extents.bytes(w.type) for repeats, w in every if w.type.names[:1] == (ADAPTERS,)]
        return sum_up(own, 0.0)

    def weights_of(self, stage: int, but: Container[tuple[str, Value]] = ()) -> Number:
        """Bytes of a stage's weights without those in ``but``; a tensor that is embedding and head counts once."""
        total: Number = 0.0
        once: set[tuple[str, object]] = set()
        for region, repeats in self.regions(stage):
            for w in (w for w in region.weights if (region.name, w) not in but):
                key = (w.name, w.type)
                if region.layers is None and key in once:
                    continue
                if region.layers is None:
                    once.add(key)
                total = total + repeats * self.extents.bytes(w.type)
        return total

    def _caches(self, stage: int) -> list[Cache]:
        """The caches of a stage."""
        found = []
        for region, repeats in self.regions(stage):
            source = cache_sources(region)
            windows = {
                source.get(op.k.name, op.k.name): op.window or op.chunk or 0
                for op in region.ops
                if isinstance(op, Attention | PickKeys)
            }
            latent = (op for op in region.ops if isinstance(op, LatentAttention))
            windows |= {source.get(op.k_rope.name, op.k_rope.name): op.window or op.chunk or 0 for op in latent}
            for op in region.ops:
                if isinstance(op, CacheWrite) and not op.transient:
                    size = token_bytes(op.outs, self.extents)
                    batch = op.outs[0].type.dim("batch")
                    window = max(windows.get(out.name, 0) for out in op.outs)
                    found.append(Cache(size, batch, window, repeats, op.outs[0].type.dim("context")))
            states = [op for op in region.ops if isinstance(op, States)]
            if states:
                batch = states[0].kept[0].type.dim("batch")
                found.append(Cache(state_bytes(region.ops, self.extents), batch, 0, repeats, state=True))
        return found

    def _step_rows(self, program: Program) -> tuple[list[list[RowBytes]], list[list[RowBytes]]]:
        """For each stage, the bytes per row of its sets of live values, and of its sets of buffers."""
        held = {region.name: self._region_rows(region) for region in program.regions}
        kinds = [tuple(dict.fromkeys(part.region for part in parts)) for parts in program.stages]
        live = {names: _drop_outweighed(held[name][0] for name in names) for names in set(kinds)}
        buffers = {names: _drop_outweighed(held[name][1] for name in names) for names in set(kinds)}
        return [live[names] for names in kinds], [buffers[names] for names in kinds]

    def _region_rows(self, region: Region) -> tuple[list[RowBytes], list[RowBytes]]:
        """The bytes per row of a region's sets of live values, and of its sets of buffers."""
        values, same, stored = region.values(), self._renamed_values(region), {w.name for w in region.weights}
        views = _chunk_views(region)
        stored |= {v.name for op in region.ops if isinstance(op, KEEPS) for v in op.kept}
        stored |= {op.out.name for op in region.ops if isinstance(op, Earlier)}  # a cache, or in ``through``
        # a rank holds one block of the values that a ring passes around, and the buffers hold the next block
        rings = [op for op in region.ops if isinstance(op, Ring)]
        for name, ring in region.in_blocks().items():
            block = values[name].type.with_axes(ring.dim, ring.xs[0].type.on(ring.dim))
            values[name] = evolve(values[name], type=block)
        together = {out.name: tuple(o.name for o in op.outs) for op in rings for out in op.outs}

        def rows(names: Iterable[str]) -> RowBytes:
            distinct = dict.fromkeys(same.get(n, n) for n in names)
            return self._row_bytes([values[n].type for n in distinct if n not in stored])

        values |= {f"{v.name} through": v for v in region.through}
        through = [f"{v.name} through" for v in region.through]
        live = [rows(dict.fromkeys((*(views.get(n, n) for n in names), *through))) for names in region.live]
        return live, [rows(together.get(name, (name,))) for name in region.buffers if name not in same]

    def _renamed_values(self, region: Region) -> dict[str, str]:
        """For each result of an op along an axis of size 1, where nothing moves: the value that it is equal to."""
        same: dict[str, str] = {}
        for op in region.ops:
            if not isinstance(op, Along):
                continue
            n = self.extents.ways(op.axes)
            if isinstance(n, int) and n == 1:
                same |= trace_sources(op, same)
        return same

    def _row_bytes(self, types: list[TensorType]) -> RowBytes:
        per_row: dict[tuple[Dim, ...], float] = {}
        for t in types:
            rows = tuple(d for d in t.dims if makes_rows(d.name))
            fixed = self.extents.product(d for d in t.dims if not makes_rows(d.name))
            per_row[rows] = per_row.get(rows, 0.0) + fixed * item_bytes(t.dtype)
        return tuple(sorted(per_row.items(), key=lambda row: [(d.name, d.axes, d.chunk or ()) for d in row[0]]))


def _drop_outweighed(sets: Iterable[list[RowBytes]]) -> list[RowBytes]:
    """The loads of all ``sets``, each once, without loads that are never the largest."""
    found = list(dict.fromkeys(load for each in sets for load in each))
    return [a for a in found if not any(b != a and _outweighs(b, a) for b in found)]


def _chunk_views(region: Region) -> dict[str, str]:
    """For each chunk that is a view: the whole value that it is cut from, or written to."""
    found: dict[str, str] = {}
    for op in (op for op in region.ops if op.facts.view):
        whole, parts = sorted((op.operands, op.results), key=len)
        found |= {part.name: whole[0].name for part in parts}
    return found
