"""Memory: what each stage's GPUs hold, how much KV cache fits, and the largest batch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Sequence
from functools import cached_property
from math import inf
from typing import NamedTuple

from plandsl import limits
from plandsl.backends.cost.deployments.blocks import Layers, count_tokens, find_longest
from plandsl.backends.cost.deployments.contents import Cache, Contents, T, by_kind, find_kinds
from plandsl.backends.cost.deployments.prefix import reused_tokens, shared_tokens
from plandsl.backends.cost.deployments.profile import Profile, largest_fraction, share_of
from plandsl.backends.cost.deployments.rows import Rows, count_bytes
from plandsl.backends.cost.num import are_numbers, call_traced, ceil_div, floor, largest, maximum, minimum, where
from plandsl.ir.extents import Extents
from plandsl.ir.program import Program
from plandsl.ir.states import state_bytes
from plandsl.ir.types import Number
from plandsl.spec.hardware import GpuSpec
from plandsl.spec.model import ADAPTERS
from plandsl.spec.plan import PlanSpec
from plandsl.values import kept, sum_up


class Held(NamedTuple):
    """Bytes on each GPU of one stage."""

    weights: Number
    kv_cache: Number
    activations: Number
    buffers: Number
    adapters: Number = 0.0
    """Those of the bytes of weights that are adapters."""

    @property
    def total(self) -> Number:
        """Bytes of weights, cache, activations and buffers."""
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
        self.plan, self.gpus = plan, smallest_gpus(plan, program)
        self.block = plan.effective_engine.kv_block

    @property
    @abstractmethod
    def main(self) -> ProgramMemory:
        """The memory of the model's own programs; with two shardings, of the programs for large steps."""

    @property
    @abstractmethod
    def kinds(self) -> list[int]:
        """For each stage the first one that has the same GPU, and the same regions as often: they hold equal bytes."""

    def by_stage(self, answer: Callable[[int], T]) -> list[T]:
        """``answer`` of each stage; stages of one kind have one answer."""
        return by_kind(self.kinds, answer)

    @abstractmethod
    def of_stage(self, stage: int) -> Hashable:
        """What a stage holds, whatever the load: stages with equal values hold equal bytes under every load."""

    @abstractmethod
    def verifying(self, queries: Number) -> MemoryModel:
        """The same memory model, with ``queries`` tokens of each request in a decode step."""

    @abstractmethod
    def kv_per_request(self, stage: int, length: Number) -> Number:
        """Bytes of KV cache that one request of ``length`` tokens keeps on a GPU of ``stage``, in whole blocks."""

    @abstractmethod
    def step(self, stage: int, batch: Number, input_: Number) -> tuple[Number, Number]:
        """Bytes of activations and collective buffers in a step of at most ``step_tokens`` tokens, under a load."""

    @abstractmethod
    def profiled(self, stage: int) -> Number:
        """Bytes of activations and collective buffers in the step that an engine profiles, whatever the load."""

    @abstractmethod
    def layers(self, stage: int) -> list[Layers]:
        """The caches of a stage as an engine cuts them into blocks."""

    @property
    def profile(self) -> Profile:
        """What the plan's engine takes for the model's own programs."""
        return self.main.profile

    @cached_property
    def adapters(self) -> list[Number]:
        """Bytes on each GPU, by stage, of the adapters (LoRA) among the weights."""
        return self.main.contents.adapters

    @cached_property
    def taken(self) -> list[tuple[Number, Number]]:
        """Bytes of the profiled step, and of what else the engine takes, by stage."""
        return self.by_stage(lambda stage: (self.profiled(stage), self.profile.others(stage)))

    @cached_property
    def capacities(self) -> list[Number]:
        """Bytes of a GPU of each stage that weights, cache, activations and buffers may take."""
        if self.plan.engine is None:
            return self.by_stage(lambda stage: self.capacity(stage, 0.0, 0.0, 0.0))
        return self.by_stage(lambda stage: self.capacity(stage, self.weights[stage], *self.taken[stage]))

    def capacity(self, stage: int, weights: Number, profiled: Number, others: Number) -> Number:
        """Bytes of a stage's GPU that may be taken, where ``weights`` and an engine's own bytes are there."""
        gpu = self.gpus[stage]
        if self.plan.engine is None:
            return gpu.memory * self.plan.memory_fraction
        return share_of(gpu, self.plan, weights, profiled, others)

    def working(self, stage: int, batch: Number, input_: Number) -> tuple[Number, Number]:
        """Bytes of activations and of buffers beside weights and cache: an engine's do not depend on the load."""
        return self.step(stage, batch, input_) if self.plan.engine is None else self.taken[stage]

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
    def first_alike(self) -> list[int]:
        """For each stage the first stage that holds the same: what it is asked has the same answer."""
        found: dict[Hashable, int] = {}

        def first(stage: int) -> int:
            engine = self.taken[stage] if self.plan.engine else None
            return found.setdefault((self.capacities[stage], engine, self.of_stage(stage)), stage)

        return self.by_stage(first)

    @cached_property
    def distinct(self) -> list[int]:
        """One stage of each group of stages that hold the same."""
        return list(dict.fromkeys(self.first_alike))

    def held_by_stage(self, batch: Number, length: Number, input_: Number, rounds: Number) -> list[Held]:
        """What a GPU of each stage holds, as `held`."""
        return by_kind(self.first_alike, lambda stage: self.held(stage, batch, length, input_, rounds))

    def totals(self, batch: Number, length: Number, input_: Number, rounds: Number) -> list[tuple[Number, Number]]:
        """The bytes that a GPU of each of the `distinct` stages holds, as `held`, and those that it may hold."""
        held = ((stage, self.held(stage, batch, length, input_, rounds).total) for stage in self.distinct)
        return [(total, self.capacities[stage]) for stage, total in held]

    def held(self, stage: int, batch: Number, length: Number, input_: Number, rounds: Number) -> Held:
        """What a GPU of ``stage`` holds with ``rounds`` resident batches of ``batch`` requests of ``length`` tokens.

        Tokens that all requests share are held once.
        """
        local = ceil_div(batch, self.ways(stage))
        once = shared_tokens(self.plan, input_)
        kv = self.kv_per_request(stage, length - once) * local * rounds
        if self.plan.workload.prefix == "shared":
            kv = kv + self.kv_per_request(stage, once)
        return Held(self.weights[stage], kv, *self.working(stage, batch, input_), self.adapters[stage])

    def pool(self, stage: int) -> Number:
        """Bytes of a GPU that the plan's engine cuts into blocks for the KV cache of a stage."""
        return maximum(self.capacities[stage] - self.weights[stage] - sum_up(self.taken[stage]), 0.0)

    def kv_tokens(self, longest: Number) -> Number:
        """Tokens of KV cache as the plan's engine logs them, where its longest request has ``longest`` tokens.

        The least over stages counts, over all ranks that share requests. It does not depend on the load, except that
        `blocks.count_tokens` of layers with windows depends on ``longest``.
        """
        step = self.profile.step
        found = [
            count_tokens(self.layers(s), self.pool(s), self.block, longest, step) * self.ways(s)
            for s in self.distinct
            if self.caches[s]
        ]
        return -largest([-tokens for tokens in found]) if found else 0 * longest

    def longest_request(self) -> int:
        """Tokens of the longest request that the engine's KV cache holds."""
        step, stages = self.profile.step, [s for s in self.distinct if self.caches[s]]
        return min((find_longest(self.layers(s), self.pool(s), self.block, step) for s in stages), default=0)

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

    @cached_property
    def starts(self) -> bool:
        """Whether the share of memory that the plan's engine asks for is free when it starts."""
        return self.plan.memory_fraction <= largest_fraction(self.plan, self.gpus)

    def fit(self, totals: Sequence[tuple[Number, Number]]) -> Number:
        """Whether every stage has the capacity for what it holds (`totals`)."""
        return largest([total - capacity for total, capacity in totals]) <= (0 if self.starts else -inf)

    def max_batch(self, length: Number, input_: Number, rounds: Number) -> Number:
        """The largest batch that fits on every stage, 0 if none does; by bytes, whether the engine starts or not."""
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
        # without a cache only the step grows with the batch, and most steps are bounded
        high = maximum(floor(room / each), 0) if self.caches[stage] else where(room > 0, limits.MAX_DIMENSION, 0)
        low = self._fits_beside(stage, high, length, input_, rounds)
        high = minimum(high, self._fits_beside(stage, low, length, input_, rounds))
        between = (stage, low, high, length, input_, rounds)
        return where(high > low, call_traced(self._bisect, *between), low) * ways

    def _room(self, stage: int, length: Number, input_: Number, rounds: Number) -> tuple[Number, Number]:
        """Bytes of a stage for the cache and the step, and the bytes of cache that each local request holds."""
        once = shared_tokens(self.plan, input_)
        room = self.capacities[stage] - self.weights[stage]
        if self.plan.workload.prefix == "shared":
            room = room - self.kv_per_request(stage, once)
        return room, self.kv_per_request(stage, length - once) * rounds

    def _fits_beside(self, stage: int, fits: Number, length: Number, input_: Number, rounds: Number) -> Number:
        """Local requests that fit on a stage beside the activations of ``fits`` of them."""
        activations, buffers = self.working(stage, maximum(fits * self.ways(stage), 1), input_)
        room, each = self._room(stage, length, input_, rounds)
        if not self.caches[stage]:
            return where(room >= activations + buffers, limits.MAX_DIMENSION, 0)
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
        self._profile = Profile(contents, plan)

    @cached_property
    def kinds(self) -> list[int]:
        """As its programs have them, on each kind of GPU."""
        found = self.contents.kinds
        return found if len(self.plan.kinds) == 1 else find_kinds(found, [id(gpu) for gpu in self.gpus])

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

    @property
    def profile(self) -> Profile:
        """What the plan's engine takes for these programs."""
        return self._profile

    def profiled(self, stage: int) -> Number:
        """Bytes of activations and collective buffers in the step that an engine profiles."""
        return self.profile.activations(stage)

    def layers(self, stage: int) -> list[Layers]:
        """The caches of a stage, layers with the same window together, and those with a state.

        A token is one of those that ranks share out. Of a cache that every rank has whole, beside caches that ``ways``
        ranks share, the rank holds ``ways`` tokens for each of these.
        """
        found: dict[tuple[int, bool], Layers] = {}
        shared = largest([1, *(self.extents.ways(cache.context.axes) for cache in self.caches[stage])])
        for cache in self.caches[stage]:
            key, ways = (cache.window, cache.state), 1 if cache.state else shared
            states = self.states if cache.state else 0
            before = found.get(key, Layers(cache.window, 0, 0.0, ways, states))
            copies = shared / self.extents.ways(cache.context.axes)
            bytes_ = before.bytes + cache.layers * cache.per_token * (1 / self.block if cache.state else copies)
            found[key] = Layers(cache.window, before.number + cache.layers, bytes_, ways, states)
        return list(found.values())

    @property
    def states(self) -> Number:
        """The number of states that a layer keeps for a request: one, and one more after each guessed token.

        vLLM keeps one more state for its prefix cache (`MambaSpec.max_memory_usage_bytes`, cache mode `align`).
        """
        return 1 + self.keeps_prefixes + self.queries - 1

    @property
    def keeps_prefixes(self) -> bool:
        """Whether states of prefixes are kept in blocks of the KV cache."""
        return self.plan.blocks_hold_states and self.plan.effective_engine.scheduler.prefix_cache

    def _state_page(self, stage: int, cache: Cache) -> Number:
        """Bytes that a state takes in a layer: a whole block where the engine keeps states in these."""
        tokens = [other.per_token for other in self.caches[stage] if not other.state]
        if self.block == 1 or not tokens or not self.plan.blocks_hold_states:
            return cache.per_token
        return maximum(cache.per_token, largest(tokens) * self.block)

    def of_stage(self, stage: int) -> Hashable:
        """Everything that a stage holds."""
        return self.contents.of_stage(stage)

    def kv_per_request(self, stage: int, length: Number) -> Number:
        """Bytes of KV cache that one request of ``length`` tokens keeps on a GPU of ``stage``, in whole blocks."""
        total: Number = 0.0
        for cache in self.caches[stage]:
            if cache.state:
                continue
            tokens = ceil_div(length, self.extents.ways(cache.context.axes)) if cache.context.axes else length
            if self.block > 1:
                tokens = ceil_div(tokens, self.block) * self.block
            tokens = minimum(tokens, cache.window) if cache.window else tokens
            total = total + cache.layers * cache.per_token * tokens
        return total + self.state_per_request(stage) * (length > 0)

    def state_per_request(self, stage: int) -> Number:
        """Bytes of the states that one request keeps on a GPU of ``stage``, however long it is."""
        pages = [cache.layers * self._state_page(stage, cache) for cache in self.caches[stage] if cache.state]
        return self.states * sum_up(pages)

    def whole_adapter(self) -> Number:
        """Bytes of one adapter on all GPUs together, each once."""
        one = dict.fromkeys(("batch", "input", "context", "queries"), 1)
        whole = Extents(self.program, one, dict.fromkeys(self.extents.mesh, 1))
        stages = range(len(self.program.stages))
        parts = (part for stage in stages for part in self.contents.regions(stage))
        own = (n * whole.bytes(w.type) for r, n in parts for w in r.weights if w.type.names[:1] == (ADAPTERS,))
        return sum_up(own, 0.0) / self.plan.model.size(ADAPTERS)

    def whole_states(self, stage: int) -> Number:
        """Bytes of the state of one request on all GPUs of ``stage`` together, each once."""
        one = dict.fromkeys(("batch", "input", "context", "queries"), 1)
        whole = Extents(self.program, one, dict.fromkeys(self.extents.mesh, 1))
        return sum_up(repeats * state_bytes(region.ops, whole) for region, repeats in self.contents.regions(stage))

    def step(self, stage: int, batch: Number, input_: Number) -> tuple[Number, Number]:
        """Bytes of activations and collective buffers in a step of at most ``step_tokens`` tokens."""
        if not self.plan.step_tokens:
            return 0.0, 0.0
        limit = self.plan.step_tokens
        before = reused_tokens(self.plan, input_)
        new = input_ - before
        tokens = minimum(batch * new, limit)
        requests = minimum(batch, ceil_div(tokens, new))
        prefill = Rows(tokens, requests, tokens + requests * before)
        steps = minimum(batch * self.queries, limit)
        decode = Rows(steps, minimum(batch, limit), steps)
        find = _kept_step_bytes if are_numbers(*prefill, *decode) else _step_bytes
        found = [find(self.contents, stage, phase, rows) for phase, rows in enumerate((prefill, decode))]
        live, buffers = zip(*found, strict=True)
        return maximum(*live), maximum(*buffers)


def _step_bytes(contents: Contents, stage: int, phase: int, rows: Rows) -> tuple[Number, Number]:
    """Bytes of activations and buffers in a step of one phase, prefill first."""
    live, buffers = (
        largest([0.0, *(count_bytes(load, rows, contents.extents) for load in loads[stage])])
        for loads in contents.steps[phase]
    )
    return live, buffers


_kept_step_bytes = kept(512)(_step_bytes)


def _any_true(condition: Number) -> bool:
    return condition if isinstance(condition, bool) else bool(condition.any())
