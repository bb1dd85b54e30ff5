"""A machine of many devices that runs both phases of a plan, KV cache included."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import cycle
from typing import TypeAlias

import numpy as np
from attrs import frozen

from plandsl.backends.reference.cache import Cache
from plandsl.backends.reference.collectives import communicate, run_ring
from plandsl.backends.reference.compute import Local, compute
from plandsl.backends.reference.placement import Array, Mismatch, Placement, Shards
from plandsl.backends.reference.states import Memory, hand_on
from plandsl.backends.reference.weights import Weights, global_sizes, merged_sizes
from plandsl.ir.collectives import Along, Recv, Reshard, Ring, Send
from plandsl.ir.compute import CacheWrite
from plandsl.ir.earlier import Earlier
from plandsl.ir.names import EMBEDDING, RegionName
from plandsl.ir.ops import KEEPS, Op
from plandsl.ir.program import PREFILL, Part, Program, Region, in_order
from plandsl.ir.states import BlockState, BlockTail, Recurrence, ShortConv
from plandsl.ir.types import Value, makes_rows


@frozen
class Flow:
    """The value that one region passes to the next, and each rank's part of it."""

    value: Value
    shards: Shards


Held: TypeAlias = dict[str, Shards]


class Machine:
    """One array per device, in float64, for a prefill and any number of decode steps.

    ``weights`` come from `make_weights`. ``bind`` gives the symbol ``batch`` a number; the tokens give the number of
    positions, and the cache the context. With ``check``, all ranks that should hold the same part of a value are
    compared, for every value and not only for the result. ``others`` are prefill programs of other shardings on the
    same cache; they take turns with ``prefill`` where a prompt comes in parts.
    """

    def __init__(
        self,
        prefill: Program,
        decode: Program,
        weights: Weights,
        bind: Mapping[str, int],
        *,
        check: bool = False,
        others: Sequence[Program] = (),
    ) -> None:
        self._prefills, self._decode = (prefill, *others), decode
        self._weights, self._bind, self._check = weights, bind, check
        self._cache, self._memory = Cache(), Memory()
        self.past = 0
        """Tokens of each request that the cache holds, and that the states have seen."""
        self._parts: tuple[int, ...] = ()
        """Tokens of each part in which the prompts came."""
        self._requests: Array | None = None
        """The numbers of the requests of a group; None: all run together."""

    def prefill(self, ids: Array, cuts: Sequence[int] = (), groups: int = 1) -> Array:
        """Run ``ids`` ``[batch, position]`` through an empty machine; returns the logits ``[batch, vocab]``.

        ``cuts`` are positions at which the prompt is cut into parts. The parts run one after the other, and each
        attends to the earlier parts in the cache. Requests may also run in several ``groups``, one after the other.
        Each group has the same number of requests of every rank.
        """
        if groups == 1:
            return self._prompt(ids, cuts)
        whole, share = self._bind, len(ids) // (self._blocks() * groups)
        self._bind = {**whole, "batch": len(ids) // groups}
        rows = np.arange(len(ids)).reshape(-1, groups, share)
        caches, memories, found = [], [], []
        for group in range(groups):
            self._requests = rows[:, group].ravel()
            found.append(self._prompt(ids[rows[:, group].ravel()], cuts))
            caches.append(self._cache)
            memories.append(self._memory)
        self._cache, self._bind, self._requests = Cache.merge_groups(caches, share), whole, None
        self._memory = Memory.merge_groups(memories, share)
        logits = np.empty((len(ids), *found[0].shape[1:]))
        for group, some in enumerate(found):
            logits[rows[:, group].ravel()] = some
        return logits

    def _prompt(self, ids: Array, cuts: Sequence[int]) -> Array:
        """Run a prompt part by part; returns the logits of the last token of each request."""
        self._cache, self._memory, self.past, self._parts = Cache(), Memory(), 0, ()
        parts = zip(cycle(self._prefills), np.split(ids, list(cuts), axis=1), strict=False)
        return [self._run(program, part) for program, part in parts][-1]

    def _blocks(self) -> int:
        """The largest number of blocks into which ranks split the requests of a cache, of an encoder's too."""
        program = self._prefills[0]
        writes = (op for region in program.regions for op in region.ops if isinstance(op, KEEPS))
        held = (kept for op in writes for kept in (op.outs if isinstance(op, CacheWrite) else op.kept))
        return max((program.mesh.ways(kept.type.on("batch")) for kept in held), default=1)

    def decode(self, ids: Array) -> Array:
        """Run one more token of each request, ``ids`` ``[batch, 1]``; returns the logits ``[batch, vocab]``.

        A program that verifies guesses takes ``ids`` ``[batch, queries]`` and returns ``[batch, queries, vocab]``.
        """
        return self._run(self._decode, ids)

    def reject(self, tokens: int) -> None:
        """Drop the last ``tokens`` tokens of every request; later tokens overwrite them in the cache."""
        self.past -= tokens

    def receive(self, sender: Machine) -> None:
        """Take over the cache and the states of ``sender`` after its prefill, in the layout of this machine."""
        self._cache, self._memory, self.past, self._parts = Cache(), Memory(), sender.past, (sender.past,)
        held = sender._place(sender._prefills[0], 0)
        whole = sender._cache.whole(sender._prefills[0], held)
        states = sender._memory.whole(sender._prefills[0], held, self.past)
        place = self._place(self._decode, 0)
        step = self._step(self._decode, place)
        for ranks, region, layer in step.turns():
            self._cache.fill(self._decode.region(region), layer, ranks, place, whole)
            self._memory.fill(self._decode.region(region), layer, ranks, place, states)

    def _place(self, program: Program, tokens: int) -> Placement:
        """The placement in a step of ``tokens`` tokens of each request."""
        sizes = global_sizes(program, self._bind) | {"position": max(tokens, 1), "context": self.past + tokens}
        return Placement(program.mesh, merged_sizes(sizes), self._parts)

    def _step(self, program: Program, place: Placement) -> _Step:
        kept = self._cache, self._memory
        return _Step(program, place, self._weights, kept=kept, past=self.past, check=self._check)

    def _run(self, program: Program, ids: Array) -> Array:
        tokens = ids.shape[1]
        if program.phase == PREFILL:
            self._parts = (*self._parts, tokens)
        place = self._place(program, tokens)
        requests = np.arange(len(ids)) if self._requests is None else self._requests
        out = self._step(program, place).run(ids, requests)
        if out.value.type.pending:
            raise Mismatch(f"the result {out.value} is still a partial sum: {out.value.type}")
        if any(place.mesh.ways(d.axes) > 1 for d in out.value.type.dims if not makes_rows(d.name)):
            raise Mismatch(f"sampling needs the whole of {out.value}, which is {out.value.type}")
        place.check_copies(out.value, out.shards, "result")
        self.past += tokens
        return place.join(out.value, out.shards)


class _Step:
    """One pass over the model."""

    def __init__(
        self, program: Program, place: Placement, weights: Weights, kept: tuple[Cache, Memory], past: int, check: bool
    ) -> None:
        self.program, self.place, self.weights = program, place, weights
        (self.cache, self.memory), self.past, self.check = kept, past, check
        self.ids: Array = np.zeros((0, 0), dtype=int)
        self.requests: Array = np.zeros(0, dtype=int)
        self.handed: dict[str, Flow] = {}
        self.mail: dict[int, list[tuple[Value, Array]]] = {}
        self.ranks: list[int] = []
        self.stage = 0

    def turns(self) -> Iterator[tuple[list[int], RegionName, int | None]]:
        """Each region that runs, as (its ranks, its name, the layer)."""
        stages = self._stages()
        for self.stage, parts in enumerate(stages):
            ranks = self._stage_ranks(len(stages))
            yield from ((ranks, region, layer) for region, layer in in_order(parts))

    def run(self, ids: Array, requests: Array) -> Flow:
        """Run every stage in turn, each on its own ranks, for the ``requests`` with these numbers.

        Only sent values pass between stages.
        """
        flow: Flow | None = None
        self.ids, self.requests = np.asarray(ids), requests
        stages = self._stages()
        for self.stage, parts in enumerate(stages):
            self.ranks = self._stage_ranks(len(stages))
            flow = None
            self.handed = {}
            for region, layer in in_order(parts):
                flow = self._part(self.program.region(region), layer, ids, flow)
        if any(self.mail.values()):
            waiting = [rank for rank, left in self.mail.items() if left]
            raise Mismatch(f"sent to ranks {waiting}, but never received")
        if flow is None:
            raise Mismatch("the last stage gives no result")
        return flow

    def _stages(self) -> tuple[tuple[Part, ...], ...]:
        stages = self.program.stage_parts
        ways = self.program.mesh.ways(self.program.stage_axes)
        if self.program.stages and len(stages) != ways:
            raise Mismatch(f"{len(stages)} stages on axes that make {ways}")
        return stages

    def _stage_ranks(self, stages: int) -> list[int]:
        every = range(self.program.mesh.ranks)
        if stages == 1:
            return list(every)
        return [r for r in every if self.place.index(self.program.stage_axes, r) == self.stage]

    def _part(self, region: Region, layer: int | None, ids: Array, flow: Flow | None) -> Flow | None:
        if region.name == EMBEDDING:
            flow = self._tokens(region, ids)
        return self._region(region, layer, flow)

    def _tokens(self, region: Region, ids: Array) -> Flow:
        (value,) = region.args
        given = np.asarray(ids)
        if len(value.type.names) > ids.ndim:
            given = patches_of(given, self.place.sizes[value.type.names[-1]])
        return Flow(value, self.place.cut(given, value, self.ranks))

    def _region(self, region: Region, layer: int | None, flow: Flow | None) -> Flow | None:
        held = self._arguments(region, flow)
        for weight in region.weights:
            key = (region.name, layer, weight.name)
            if key not in self.weights:
                raise Mismatch(f"{region.name}: there is no weight {weight} for layer {layer}")
            held[weight.name] = self.place.cut(self.weights[key], weight, self.ranks)
        known = {v.name: v for v in (*region.args, *region.weights)}
        for op in region.ops:
            what = f"{region.name}, {op.keyword}"
            _check_uses(op.operands, known, what)
            for value, shards in zip(op.results, self._op(op, held, (region.name, layer)), strict=True):
                self.place.check_shapes(value, shards, what)
                if self.check:
                    self.place.check_copies(value, shards, what)
                held[value.name], known[value.name] = shards, value
        _check_uses(region.results, known, region.name)
        self.handed |= {name: Flow(value, held[value.name]) for name, value in region.handed}
        return next((Flow(value, held[value.name]) for value in region.results), None)

    def _arguments(self, region: Region, flow: Flow | None) -> Held:
        if not region.args:
            return {}
        (arg,) = region.args
        if flow is None:
            why = f"{region.name} wants {arg}, which nothing here makes or receives"
            raise Mismatch(f"stage {self.stage}: {why}")
        if (flow.value.type.dims, flow.value.type.partial) != (arg.type.dims, arg.type.partial):
            raise Mismatch(f"{region.name} wants {arg.type}, but is handed {flow.value.type}")
        return {arg.name: flow.shards}

    def _op(self, op: Op, held: Held, at: tuple[RegionName, int | None]) -> list[Shards]:
        """The results of one op, each as one array per rank."""
        match op:
            case Ring():
                return run_ring(op, held, self.place)
            case Reshard() | Along():
                return [communicate(op, held[op.x.name], self.place)]
            case Send():
                self._send(op, held[op.x.name])
                return []
            case Recv():
                return [{rank: self._receive(op, rank) for rank in self.ranks}]
            case Earlier():
                return [self._earlier(op)]
            case CacheWrite():
                return self._each(held, at, lambda here: self.cache.append(op, at, here))
            case ShortConv() | Recurrence():
                return self._each(held, at, lambda here: self.memory.run(op, at, here))
            case BlockTail() | BlockState():
                return self._each(held, at, lambda here: (hand_on(op, here),))
            case _:
                return self._each(held, at, lambda here: compute(op, here))

    def _earlier(self, op: Earlier) -> Shards:
        """What an earlier layer of this stage made."""
        found = self.handed.get(op.made)
        if found is None or found.value.type != op.out.type:
            have = found.value.type if found else "not there"
            raise Mismatch(f"stage {self.stage}: `{op.made}` is read as {op.out.type}, but is {have}")
        return found.shards

    def _each(
        self, held: Held, at: tuple[RegionName, int | None], work: Callable[[Local], tuple[Array, ...]]
    ) -> list[Shards]:
        """The results of ``work`` on every rank of the stage, by result."""
        done = [
            work(Local(rank, self.place, held, self.past, ids=self.ids, requests=self.requests, layer=at[1]))
            for rank in self.ranks
        ]
        return [dict(zip(self.ranks, arrays, strict=True)) for arrays in zip(*done, strict=True)]

    def _send(self, op: Send, x: Shards) -> None:
        axes = self.program.stage_axes
        if self.stage + 1 >= len(self.program.stages):
            raise Mismatch(f"stage {self.stage} sends {op.x}, but no stage comes after it")
        for rank, array in x.items():
            to = next(r for r in self.place.group(rank, axes) if self.place.index(axes, r) == self.stage + 1)
            self.mail.setdefault(to, []).append((op.x, array))

    def _receive(self, op: Recv, rank: int) -> Array:
        if not self.mail.get(rank):
            raise Mismatch(f"rank {rank} waits for {op.out}, but nobody sends it")
        value, array = self.mail[rank].pop(0)
        if (value.type.dims, value.type.partial) != (op.out.type.dims, op.out.type.partial):
            raise Mismatch(f"rank {rank} wants {op.out.type}, but is sent {value.type}")
        return array


def patches_of(ids: Array, size: int) -> Array:
    """Patches ``[batch, position, size]`` of an image for the numbers ``ids``: equal numbers give equal patches."""
    found: Array = np.cos(ids[..., None] * (1.0 + np.arange(size)) + np.arange(size))
    return found


def _check_uses(values: Iterable[Value], known: Mapping[str, Value], what: str) -> None:
    """Raise Mismatch where an op reads a value with another type than it was made with."""
    for value in values:
        made = known.get(value.name)
        if made != value:
            have = made.type if made else "not there"
            raise Mismatch(f"{what}: {value} is read as {value.type}, but is {have}")
