"""Memory: what each stage's GPUs hold, how much KV cache fits, and the largest batch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property
from math import prod
from typing import NamedTuple

from plandsl.backends.cost.deployments.contents import Cache, Contents, RowBytes
from plandsl.backends.cost.deployments.prefix import reused_tokens, shared_tokens
from plandsl.backends.cost.num import call_traced, ceil_div, floor, largest, maximum, minimum, where
from plandsl.ir.extents import Extents
from plandsl.ir.program import Program
from plandsl.ir.types import Number
from plandsl.limits import MAX_DIMENSION
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
        """Bytes of all four parts."""
        return self.weights + self.kv_cache + self.activations + self.buffers


def smallest_gpus(plan: PlanSpec, program: Program) -> list[GpuSpec]:
    """For each stage, the GPU with the least memory among its ranks."""
    kinds = plan.kinds
    if len(kinds) == 1:
        return [plan.node.gpu] * len(program.stages)
    from plandsl.ir.kinds import stage_kinds

    return [min((kinds[k].node.gpu for k in stage), key=lambda gpu: gpu.memory) for stage in stage_kinds(plan, program)]


class MemoryModel(ABC):
    """Memory of one server. A kind of memory says what a stage holds under a load; the rest follows from that.

    ``weights`` are the bytes on each GPU, by stage; ``main`` is the memory of the model's own programs.
    """

    weights: list[Number]
    draft: ProgramMemory | None = None
    """The memory of a draft on the same GPUs."""

    def __init__(self, plan: PlanSpec, program: Program) -> None:
        self.plan = plan
        self.capacities = [gpu.memory * plan.memory_fraction for gpu in smallest_gpus(plan, program)]
        self.block, self.reserve = plan.effective_engine.kv_block, plan.effective_engine.reserve

    @property
    @abstractmethod
    def main(self) -> ProgramMemory:
        """The memory of the model's own programs; with two shardings, of the programs for large steps."""

    @abstractmethod
    def of_stage(self, stage: int) -> tuple[object, ...]:
        """What a stage holds, whatever the load: stages with equal values hold equal bytes under every load."""

    @abstractmethod
    def verifying(self, queries: Number) -> MemoryModel:
        """The same memory model, with ``queries`` tokens of each request in a decode step."""

    @abstractmethod
    def kv_per_request(self, stage: int, length: Number) -> Number:
        """Bytes of KV cache that one request of ``length`` tokens keeps on a GPU of ``stage``, in whole blocks."""

    @abstractmethod
    def step(self, stage: int, batch: Number, input_: Number) -> tuple[Number, Number]:
        """Bytes of activations and collective buffers in a step of at most ``step_tokens`` tokens."""

    @property
    def program(self) -> Program:
        """The model's program of prefill."""
        return self.main.contents.program

    @property
    def extents(self) -> Extents:
        """The sizes of `program`."""
        return self.main.contents.extents

    @property
    def caches(self) -> list[list[Cache]]:
        """The caches of each stage."""
        return self.main.contents.caches

    def ways(self, stage: int) -> Number:
        """The number of ranks that share the requests of a batch."""
        return self.main.contents.ways(stage)

    @cached_property
    def distinct(self) -> list[int]:
        """One stage of each group of stages that hold the same: its answers are those of the whole group."""
        found: dict[object, int] = {}
        for stage, capacity in enumerate(self.capacities):
            found.setdefault((capacity, self.of_stage(stage)), stage)
        return list(found.values())

    def held(self, stage: int, batch: Number, length: Number, input_: Number, rounds: Number) -> Held:
        """What a GPU of ``stage`` holds with ``rounds`` resident batches of ``batch`` requests of ``length`` tokens.

        Tokens that all requests share are held once.
        """
        local = ceil_div(batch, self.ways(stage))
        once = shared_tokens(self.plan, input_)
        kv = self.kv_per_request(stage, length - once) * local * rounds
        if self.plan.workload.prefix == "shared":
            kv = kv + self.kv_per_request(stage, once)
        activations, buffers = self.step(stage, batch, input_)
        return Held(self.weights[stage], kv, activations, buffers + self.reserve)

    def kv_capacity(self, batch: Number, length: Number, input_: Number, rounds: Number) -> Number:
        """Tokens of KV cache that fit beside everything else, over all ranks that share requests."""
        least: Number | None = None
        for stage in self.distinct:
            if not self.caches[stage]:
                continue
            held = self.held(stage, batch, length, input_, rounds)
            free = maximum(self.capacities[stage] - held.total + held.kv_cache, 0.0)
            per_token = self.kv_per_request(stage, length) / length
            count = floor(free / per_token) * self.ways(stage)
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

        The cache grows with the batch, and activations never shrink. So a batch that fits beside the activations of a
        larger batch fits, and a batch that does not fit beside the activations of a smaller one does not. In most cases
        both limits are equal at once, since a step is full (``step_tokens``); otherwise bisection decides.
        """
        ways = self.ways(stage)
        room, each = self._room(stage, length, input_, rounds)
        # without a cache only the step grows with the batch, and a step is bounded
        high = maximum(floor(room / each), 0) if self.caches[stage] else where(room > 0, MAX_DIMENSION, 0)
        low = self._fits_beside(stage, high, length, input_, rounds)
        high = minimum(high, self._fits_beside(stage, low, length, input_, rounds))
        between = (stage, low, high, length, input_, rounds)
        return where(high > low, call_traced(self._bisect, *between), low) * ways

    def _room(self, stage: int, length: Number, input_: Number, rounds: Number) -> tuple[Number, Number]:
        """Bytes of a stage for the cache and the step, and the bytes of cache that each local request holds."""
        once = shared_tokens(self.plan, input_)
        room = self.capacities[stage] - self.weights[stage] - self.reserve
        if self.plan.workload.prefix == "shared":
            room = room - self.kv_per_request(stage, once)
        return room, self.kv_per_request(stage, length - once) * rounds

    def _fits_beside(self, stage: int, fits: Number, length: Number, input_: Number, rounds: Number) -> Number:
        """Local requests that fit on a stage beside the activations of ``fits`` of them."""
        if not self.caches[stage]:
            return fits
        activations, buffers = self.step(stage, maximum(fits * self.ways(stage), 1), input_)
        room, each = self._room(stage, length, input_, rounds)
        return maximum(floor((room - activations - buffers) / each), 0)

    def _bisect(self, stage: int, low: Number, high: Number, length: Number, input_: Number, rounds: Number) -> Number:
        """The largest number in ``low..high`` that fits; ``low`` fits."""
        while _any_true(high > low):
            middle = floor((low + high + 1) / 2)
            good = self._fits_beside(stage, middle, length, input_, rounds) >= middle
            low, high = where(good, middle, low), where(good, high, middle - 1)
        return low


class ProgramMemory(MemoryModel):
    """Memory of one program of each phase: the phase with the larger step decides the bytes of activations."""

    def __init__(self, contents: Contents, plan: PlanSpec, queries: Number) -> None:
        super().__init__(plan, contents.program)
        self.contents, self.queries = contents, queries
        self.weights = contents.weights

    @property
    def main(self) -> ProgramMemory:
        """Itself."""
        return self

    def on(self, plan: PlanSpec) -> ProgramMemory:
        """The memory of the same programs under ``plan``: GPUs with other memory, or steps of other sizes."""
        return ProgramMemory(self.contents, plan, self.queries)

    def verifying(self, queries: Number) -> ProgramMemory:
        """The same memory model, with ``queries`` tokens of each request in a decode step."""
        return ProgramMemory(self.contents, self.plan, queries)

    def of_stage(self, stage: int) -> tuple[object, ...]:
        """Everything that a stage holds."""
        return self.contents.of_stage(stage)

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

    def step(self, stage: int, batch: Number, input_: Number) -> tuple[Number, Number]:
        """Bytes of activations and collective buffers in a step of at most ``step_tokens`` tokens."""
        if not self.plan.step_tokens:
            return 0.0, 0.0
        limit = self.plan.step_tokens
        before = reused_tokens(self.plan, input_)
        new = input_ - before
        tokens = minimum(batch * new, limit)
        requests = minimum(batch, ceil_div(tokens, new))
        prefill = (tokens, requests, tokens + requests * before)
        steps = minimum(batch * self.queries, limit)
        decode = (steps, minimum(batch, limit), steps)
        found: list[list[Number]] = [[0.0], [0.0]]
        for rows, (live, buffers) in zip((prefill, decode), self.contents.steps, strict=True):
            for out, loads in zip(found, (live[stage], buffers[stage]), strict=True):
                out += [self._bytes(load, *rows) for load in loads]
        return largest(found[0]), largest(found[1])

    def _bytes(self, load: RowBytes, tokens: Number, requests: Number, keys: Number) -> Number:
        """Bytes of values with ``tokens``, ``keys`` or ``requests`` rows by their dimensions; weights have none."""
        total: Number = 0.0
        for dims, size in load:
            names = {d.name for d in dims}
            rows = tokens if "position" in names else keys if "context" in names else requests if dims else 1
            parts = prod(d.chunk.of for d in dims if d.chunk)
            total = total + size * ceil_div(rows, self.extents.ways(a for d in dims for a in d.axes) * parts)
        return total


def _any_true(condition: Number) -> bool:
    return condition if isinstance(condition, bool) else bool(condition.any())
