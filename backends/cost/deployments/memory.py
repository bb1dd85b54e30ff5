"""Memory: what each stage's GPUs hold, how much KV cache fits, and the largest batch."""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence
from copy import copy
from functools import cached_property
from math import prod
from typing import Any, NamedTuple

from attrs import evolve

from plandsl.backends.cost.deployments.prefix import reused, shared
from plandsl.backends.cost.num import ceil_div, floor, largest, maximum, minimum, settled, where
from plandsl.backends.cost.work.cached import handed_on, sources
from plandsl.ir.collectives import Along, Ring
from plandsl.ir.compute import Attention, CacheWrite
from plandsl.ir.extents import Extents
from plandsl.ir.latent import LatentAttention
from plandsl.ir.program import Program, Region
from plandsl.ir.types import PADDED, Dim, Number, TensorType, Value
from plandsl.limits import MAX_DIMENSION
from plandsl.spec.formats import item_bytes
from plandsl.spec.hardware import GpuSpec
from plandsl.spec.plan import PlanSpec


class Held(NamedTuple):
    """Bytes on each GPU of one stage."""

    weights: Number
    kv_cache: Number
    activations: Number
    buffers: Number

    @property
    def total(self) -> Number:
        """All of it."""
        return self.weights + self.kv_cache + self.activations + self.buffers


class Cache(NamedTuple):
    """One layer's cached tensors: bytes per token and local request, and the window or chunk that bounds the tokens."""

    per_token: Number
    batch: Dim
    window: int
    layers: int
    context: Dim = Dim("context")


Load = tuple[tuple[tuple[Dim, ...], float], ...]
"""Bytes per row of values alive together, by the dimensions that make their rows."""


def _covers(a: Load, b: Load) -> bool:
    """Whether ``a`` weighs at least as much as ``b`` whatever the rows are."""
    have = dict(a)
    return all(have.get(rows, 0.0) >= size for rows, size in b)


def smallest(plan: PlanSpec, program: Program) -> list[GpuSpec]:
    """For each stage, the GPU of its ranks that has the least memory."""
    kinds = plan.kinds
    if len(kinds) == 1:
        return [plan.node.gpu] * len(program.stages)
    from plandsl.ir.kinds import stage_kinds

    return [min((kinds[k].node.gpu for k in stage), key=lambda gpu: gpu.memory) for stage in stage_kinds(plan, program)]


class MemoryModel:
    """Memory of one plan's replica: weights and caches lie alike in both phases, activations are the larger's."""

    draft: MemoryModel | None = None
    """That of a model that guesses tokens, on the same GPUs."""

    def __init__(self, program: Program, decode: Program, plan: PlanSpec, extents: Extents) -> None:
        self.program, self.plan, self.extents = program, plan, extents
        self.capacities = [gpu.memory * plan.memory_fraction for gpu in smallest(plan, program)]
        self.block, self.reserve = plan.runs_on.kv_block, plan.runs_on.reserve
        self.queries: Number = plan.queries
        self.weights = [self._weights(s) for s in range(len(program.stages))]
        self.caches = [self._caches(s) for s in range(len(program.stages))]
        self.steps = [self._weighed(p) for p in (program, decode)]

    def on(self, plan: PlanSpec) -> MemoryModel:
        """The same on GPUs with other memory."""
        other = copy(self)
        other.plan = plan
        other.capacities = [gpu.memory * plan.memory_fraction for gpu in smallest(plan, self.program)]
        other.block, other.reserve = plan.runs_on.kv_block, plan.runs_on.reserve
        return other

    @cached_property
    def distinct(self) -> list[int]:
        """Stages of which no earlier one holds the same: the others need no answer of their own."""
        found: dict[Any, int] = {}
        for stage, held in enumerate(zip(self.capacities, self.weights, map(tuple, self.caches), strict=True)):
            steps = tuple((tuple(live[stage]), tuple(buffers[stage])) for live, buffers in self.steps)
            found.setdefault((held, steps), stage)
        return list(found.values())

    def _regions(self, stage: int) -> list[tuple[Region, int]]:
        return [(self.program.region(p.region), p.repeats) for p in self.program.stages[stage]]

    def _weights(self, stage: int, but: Container[tuple[str, Value]] = ()) -> Number:
        """Weights of a stage, ``but`` some of its regions'; embedding and head may be one tensor."""
        total: Number = 0.0
        once: set[tuple[str, object]] = set()
        for region, repeats in self._regions(stage):
            for w in (w for w in region.weights if (region.name, w) not in but):
                key = (w.name, w.type)
                if region.layers is None and key in once:
                    continue
                if region.layers is None:
                    once.add(key)
                total = total + repeats * self.extents.bytes(w.type)
        return total

    def _caches(self, stage: int) -> list[Cache]:
        found = []
        for region, repeats in self._regions(stage):
            source = sources(region)
            windows = {
                source.get(op.k.name, op.k.name): op.window or op.chunk or 0
                for op in region.ops
                if isinstance(op, Attention)
            }
            latent = (op for op in region.ops if isinstance(op, LatentAttention))
            windows |= {source.get(op.k_rope.name, op.k_rope.name): op.window or op.chunk or 0 for op in latent}
            for op in region.ops:
                if isinstance(op, CacheWrite):
                    size: Number = 0.0
                    for out in op.outs:
                        rest = (d for d in out.type.dims if d.name not in ("batch", "context"))
                        size = size + self.extents.product(rest) * item_bytes(out.type.dtype)
                    batch = op.outs[0].type.dim("batch")
                    window = max(windows.get(out.name, 0) for out in op.outs)
                    found.append(Cache(size, batch, window, repeats, op.outs[0].type.dim("context")))
        return found

    def kv_per_request(self, stage: int, length: Number) -> Number:
        """Bytes of KV cache that one request of ``length`` tokens keeps on a GPU of ``stage``, in whole blocks."""
        total: Number = 0.0
        for cache in self.caches[stage]:
            tokens = ceil_div(length, self.extents.ways(cache.context.axes)) if cache.context.axes else length
            if self.block > 1:
                tokens = ceil_div(tokens, self.block) * self.block
            tokens = minimum(tokens, cache.window) if cache.window else tokens
            total = total + cache.layers * cache.per_token * tokens
        return total

    def _ways(self, stage: int) -> Number:
        """How many ranks share the requests of a batch."""
        caches = self.caches[stage]
        return self.extents.ways(caches[0].batch.axes) if caches else 1

    def held(self, stage: int, batch: Number, length: Number, input_: Number, rounds: Number) -> Held:
        """What a GPU of ``stage`` holds with ``rounds`` batches of ``batch`` requests of ``length`` tokens resident.

        Of these tokens, those that all requests share are there once.
        """
        local = ceil_div(batch, self._ways(stage))
        once = shared(self.plan, input_)
        kv = self.kv_per_request(stage, length - once) * local * rounds
        if self.plan.workload.prefix == "shared":
            kv = kv + self.kv_per_request(stage, once)
        activations, buffers = self.step(stage, batch, input_)
        return Held(self.weights[stage], kv, activations, buffers + self.reserve)

    def step(self, stage: int, batch: Number, input_: Number) -> tuple[Number, Number]:
        """Bytes of activations and collective buffers in a step of at most ``step_tokens`` tokens."""
        if not self.plan.step_tokens:
            return 0.0, 0.0
        limit = self.plan.step_tokens
        before = reused(self.plan, input_)
        new = input_ - before
        tokens = minimum(batch * new, limit)
        requests = minimum(batch, ceil_div(tokens, new))
        prefill = (tokens, requests, tokens + requests * before)
        steps = minimum(batch * self.queries, limit)
        decode = (steps, minimum(batch, limit), steps)
        found: list[list[Number]] = [[0.0], [0.0]]
        for rows, (live, buffers) in zip((prefill, decode), self.steps, strict=True):
            for out, loads in zip(found, (live[stage], buffers[stage]), strict=True):
                out += [self._bytes(load, *rows) for load in loads]
        return largest(found[0]), largest(found[1])

    def _bytes(self, load: Load, tokens: Number, requests: Number, keys: Number) -> Number:
        """Bytes of values that have ``tokens`` rows, ``keys`` or ``requests`` of them, or none (weights)."""
        total: Number = 0.0
        for dims, size in load:
            names = {d.name for d in dims}
            rows = tokens if "position" in names else keys if "context" in names else requests if dims else 1
            parts = prod(d.chunk.of for d in dims if d.chunk)
            total = total + size * ceil_div(rows, self.extents.ways(a for d in dims for a in d.axes) * parts)
        return total

    def _weighed(self, program: Program) -> tuple[list[list[Load]], list[list[Load]]]:
        """What the live sets of each stage weigh, and what the buffers."""
        held = {region.name: self._loads(region) for region in program.regions}
        stages = [[held[part.region] for part in parts] for parts in program.stages]
        return [_heaviest(sets for sets, _ in s) for s in stages], [_heaviest(sets for _, sets in s) for s in stages]

    def _loads(self, region: Region) -> tuple[list[Load], list[Load]]:
        """What the live sets of a region weigh, and what the buffers."""
        values, same, stored = region.values(), self._same(region), {w.name for w in region.weights}
        views = _views(region)
        stored |= {v.name for op in region.ops if isinstance(op, CacheWrite) for v in op.outs}
        # of what comes around a ring, one block is there, and the next one in the buffers
        rings = [op for op in region.ops if isinstance(op, Ring)]
        for name, ring in region.in_blocks().items():
            block = values[name].type.with_axes(ring.dim, ring.xs[0].type.on(ring.dim))
            values[name] = evolve(values[name], type=block)
        together = {out.name: tuple(o.name for o in op.outs) for op in rings for out in op.outs}

        def load(names: Iterable[str]) -> Load:
            distinct = dict.fromkeys(same.get(n, n) for n in names)
            return self._load([values[n].type for n in distinct if n not in stored])

        live = [load(dict.fromkeys(views.get(n, n) for n in names)) for names in region.live]
        return live, [load(together.get(name, (name,))) for name in region.buffers if name not in same]

    def _same(self, region: Region) -> dict[str, str]:
        """Values that are others by another name: along an axis of size 1 nothing moves."""
        same: dict[str, str] = {}
        for op in region.ops:
            if not isinstance(op, Along):
                continue
            n = self.extents.ways(op.axes)
            if isinstance(n, int) and n == 1:
                same |= handed_on(op, same)
        return same

    def _load(self, types: list[TensorType]) -> Load:
        per_row: dict[tuple[Dim, ...], float] = {}
        for t in types:
            rows = tuple(d for d in t.dims if d.name in PADDED)
            fixed = self.extents.product(d for d in t.dims if d.name not in PADDED)
            per_row[rows] = per_row.get(rows, 0.0) + fixed * item_bytes(t.dtype)
        return tuple(sorted(per_row.items(), key=lambda row: [(d.name, d.axes, d.chunk or ()) for d in row[0]]))

    def kv_capacity(self, batch: Number, length: Number, input_: Number, rounds: Number) -> Number:
        """Tokens of KV cache that fit beside everything else, over all ranks that share requests."""
        least: Number | None = None
        for stage in self.distinct:
            if not self.caches[stage]:
                continue
            held = self.held(stage, batch, length, input_, rounds)
            free = maximum(self.capacities[stage] - held.total + held.kv_cache, 0.0)
            per_token = self.kv_per_request(stage, length) / length
            count = floor(free / per_token) * self._ways(stage)
            least = count if least is None else minimum(least, count)
        return 0 * batch if least is None else least

    def fit(self, held: Sequence[Number]) -> Number:
        """Whether ``held`` bytes, one number for each stage, fit on every stage."""
        return largest([total - capacity for total, capacity in zip(held, self.capacities, strict=True)]) <= 0

    def max_batch(self, length: Number, input_: Number, rounds: Number) -> Number:
        """The largest batch that fits on every stage, 0 if none does."""
        best: Number | None = None
        for stage in self.distinct:
            most = self._largest(stage, length, input_, rounds)
            best = most if best is None else minimum(best, most)
        return best

    def _largest(self, stage: int, length: Number, input_: Number, rounds: Number) -> Number:
        """The largest batch that fits on one stage.

        KV grows with the batch and activations never shrink, so what fits beside the activations of a batch that is
        too large fits; and what does not fit beside those of one that fits does not. Mostly the two meet at once, since
        a step is full (``step_tokens``).
        """
        ways = self._ways(stage)
        room, each = self._room(stage, length, input_, rounds)
        # without a cache nothing grows with the batch but the step, and that is bounded
        high = maximum(floor(room / each), 0) if self.caches[stage] else where(room > 0, MAX_DIMENSION, 0)
        low = self._beside(stage, high, length, input_, rounds)
        high = minimum(high, self._beside(stage, low, length, input_, rounds))
        return where(high > low, settled(self._between, stage, low, high, length, input_, rounds), low) * ways

    def _room(self, stage: int, length: Number, input_: Number, rounds: Number) -> tuple[Number, Number]:
        """Bytes that a stage has for the cache and the step, and what each local request holds of them."""
        once = shared(self.plan, input_)
        room = self.capacities[stage] - self.weights[stage] - self.reserve
        if self.plan.workload.prefix == "shared":
            room = room - self.kv_per_request(stage, once)
        return room, self.kv_per_request(stage, length - once) * rounds

    def _beside(self, stage: int, fits: Number, length: Number, input_: Number, rounds: Number) -> Number:
        """Local requests that fit on a stage beside the activations of ``fits`` of them."""
        if not self.caches[stage]:
            return fits
        activations, buffers = self.step(stage, maximum(fits * self._ways(stage), 1), input_)
        room, each = self._room(stage, length, input_, rounds)
        return maximum(floor((room - activations - buffers) / each), 0)

    def _between(self, stage: int, low: Number, high: Number, length: Number, input_: Number, rounds: Number) -> Number:
        """The largest of ``low..high`` that fits, of which ``low`` does."""
        while _any(high > low):
            middle = floor((low + high + 1) / 2)
            good = self._beside(stage, middle, length, input_, rounds) >= middle
            low, high = where(good, middle, low), where(good, high, middle - 1)
        return low


def _heaviest(sets: Iterable[list[Load]]) -> list[Load]:
    """Loads of all ``sets``, each once; those that are never the largest are left out."""
    found = list(dict.fromkeys(load for each in sets for load in each))
    return [a for a in found if not any(b != a and _covers(b, a) for b in found)]


def _views(region: Region) -> dict[str, str]:
    """Chunks that lie in a whole value: the one they are cut from, or the one they are written to."""
    found: dict[str, str] = {}
    for op in (op for op in region.ops if op.facts.view):
        whole, parts = sorted((op.operands, op.results), key=len)
        found |= {part.name: whole[0].name for part in parts}
    return found


def _any(condition: Number) -> bool:
    return condition if isinstance(condition, bool) else bool(condition.any())
