"""Layers with a state, on numpy arrays: short convolutions and recurrences, and the states of every request.

Prompts run token by token here, as decode does, whatever chunks a kernel cuts them into.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple, TypeAlias

import numpy as np

from plandsl.backends.reference.cache import merge_requests
from plandsl.backends.reference.compute import Local, function_of, shared_heads
from plandsl.backends.reference.placement import Array, Block, Mismatch, Placement, index
from plandsl.ir.meaning.states import (
    convolve,
    decay_of,
    decay_slopes,
    join_tails,
    pass_block,
    recur_token,
    unit_length,
)
from plandsl.ir.names import RegionName
from plandsl.ir.program import Program, Region
from plandsl.ir.states import BLOCKS, TAIL, BlockState, BlockTail, Recurrence, ShortConv, States
from plandsl.ir.types import Value

Slot: TypeAlias = tuple[RegionName, int | None, str, int]
"""Region, layer, name of the state among those of the region, and rank."""

Key: TypeAlias = tuple[RegionName, int | None, str]
Whole: TypeAlias = dict[Key, Array]
"""States in full, whatever their layout on ranks."""


class Held(NamedTuple):
    """The part of a state that a rank holds, and its values by the number of tokens that it has seen.

    A step keeps the state after each of its tokens, because later tokens may be rejected.
    """

    part: Block
    after: dict[int, Array]


class Memory:
    """The states of all ranks."""

    def __init__(self) -> None:
        self.held: dict[Slot, Held] = {}

    def run(self, op: States, at: tuple[RegionName, int | None], here: Local) -> tuple[Array, ...]:
        """The results of ``op`` on one rank; the states that it leaves are kept."""
        if isinstance(op, ShortConv):
            return self._convolve(op, at, here)
        return self._recur(op, at, here)

    def _start(self, kept: Value, at: tuple[RegionName, int | None], here: Local) -> Array:
        """The state before this step: zeros before the first token."""
        part = here.place.block(kept.type, here.rank)
        if not here.past:
            return np.zeros(here.place.shape(kept.type, here.rank))
        found = self.held.get((*at, kept.name, here.rank))
        if found is None or here.past not in found.after:
            raise Mismatch(f"rank {here.rank} holds no state '{kept.name}' after {here.past} tokens")
        if found.part != part:
            raise Mismatch(f"state '{kept.name}' on rank {here.rank} holds {found.part}, but {kept} is {part}")
        return found.after[here.past]

    def _keep(self, kept: Value, at: tuple[RegionName, int | None], here: Local, after: Mapping[int, Array]) -> Array:
        """Keep the states ``after`` numbers of tokens of the step; returns the last."""
        seen = {here.past + n: state for n, state in after.items()}
        self.held[(*at, kept.name, here.rank)] = Held(here.place.block(kept.type, here.rank), seen)
        return after[max(after)]

    def _convolve(self, op: ShortConv, at: tuple[RegionName, int | None], here: Local) -> tuple[Array, ...]:
        made: list[Array] = []
        for i, (x, kept, w) in enumerate(zip(op.xs, op.kept, op.weights, strict=True)):
            here.check_ranges(op, x, w, *op.biases[i : i + 1])
            bias = here.array(op.biases[i]) if op.biased else 0.0
            start = self._start(kept, at, here)
            tails = _live_tails(op.tails[i], x, here) if op.handed else []
            first = join_tails(start, tails[: _own_block(x, here)])
            tokens = np.concatenate([first, here.array(x)], axis=1)
            width, count = len(here.array(w)), here.array(x).shape[1]
            out = convolve(here.array(w), tokens, bias)
            after = {n: tokens[:, n : n + width - 1] for n in range(1, count + 1)}
            if op.handed:  # of other blocks a rank has the last tokens alone
                after = {here.place.sizes["position"]: join_tails(start, tails)}
            made += [function_of(op.fn)(out) if op.fn else out, self._keep(kept, at, here, after)]
        return tuple(made)

    def _recur(self, op: Recurrence, at: tuple[RegionName, int | None], here: Local) -> tuple[Array, ...]:
        here.check_ranges(op, op.v, *op.more)
        groups = _groups(op, here)
        q, k = (_of_heads(here.array(x), groups) for x in (op.q, op.k))
        v, more = _values(op, here)
        state = self._start(op.kept_state, at, here).reshape(*v.shape[:1], *v.shape[2:3], k.shape[-1], v.shape[-1])
        does = more.pop(BLOCKS, None)
        last = state
        for i, block in enumerate(() if does is None else does):
            if i == _own_block(op.v, here):
                state = last
            last = pass_block(last, block, op.delta)
        out, states = recur(op, (q, k, v), _decay(op, more, here), more.get("write"), state)
        if "skip" in more:
            out = out + more["skip"][:, None] * v
        after = dict(enumerate(states, 1)) if does is None else {here.place.sizes["position"]: last}
        shape = here.place.shape(op.kept_state.type, here.rank)
        kept = self._keep(op.kept_state, at, here, {n: s.reshape(shape) for n, s in after.items()})
        return out.reshape(here.array(op.v).shape), kept

    # ---- in full, for other layouts

    def whole(self, program: Program, place: Placement, past: int) -> Whole:
        """Every state of ``program`` in full after ``past`` tokens, from the parts of all ranks."""
        types = {(region.name, kept.name): kept.type for region, kept in _states(program)}
        found: Whole = {}
        for (region, layer, name, _), held in self.held.items():
            type_ = types[region, name]
            full = found.setdefault((region, layer, name), np.full([place.sizes[n] for n in type_.names], np.nan))
            full[index(held.part)] = held.after[past]
        for (region, layer, name), full in found.items():
            if np.isnan(full).any():
                raise Mismatch(f"no rank holds some elements of state '{name}' of {region}, layer {layer}")
        return found

    def fill(self, region: Region, layer: int | None, ranks: Iterable[int], place: Placement, whole: Whole) -> None:
        """Give each of ``ranks`` its part of the states of ``region``, which have seen the context of ``place``."""
        past = place.sizes["context"]
        for kept in (kept for op in region.ops if isinstance(op, States) for kept in op.kept):
            for rank in ranks:
                part = place.block(kept.type, rank)
                full = whole[region.name, layer, kept.name]
                self.held[region.name, layer, kept.name, rank] = Held(part, {past: full[index(part)]})

    @staticmethod
    def merge_groups(groups: Sequence[Memory], share: int) -> Memory:
        """Merge the states of groups of requests; each group has ``share`` of the requests in every rank's block."""
        made = Memory()
        for slot, (part, after) in groups[0].held.items():
            past = max(after)
            merged, state = merge_requests(part, [group.held[slot].after[past] for group in groups], share)
            made.held[slot] = Held(merged, {past: state})
        return made


def hand_on(op: BlockTail | BlockState, here: Local) -> Array:
    """What the block of positions of one rank hands on."""
    if isinstance(op, BlockTail):
        x, count = here.array(op.x), here.place.sizes[f"{op.width}{TAIL}"]
        return join_tails(np.zeros_like(x, shape=(len(x), count, *x.shape[2:])), [x])[None]
    here.check_ranges(op, op.v, *op.more)
    k = _of_heads(here.array(op.k), _groups(op, here))
    v, more = _values(op, here)
    decay, n = _decay(op, more, here), k.shape[-1]
    batch, _, heads, p = v.shape
    begin = np.zeros((batch, heads, n, p))
    if op.delta:  # columns that begin as the unit matrix, and take in no values, become A
        v = np.concatenate([v, np.zeros((*v.shape[:3], n))], axis=-1)
        begin = np.concatenate([begin, np.broadcast_to(np.eye(n), (batch, heads, n, n))], axis=-1)
    _, after = recur(op, (np.zeros_like(k), k, v), decay, more.get("write"), begin)
    end = after[-1] if after else begin
    if not op.delta:
        factors = np.broadcast_to(np.prod(decay, axis=1), (batch, heads, n))
        end = np.concatenate([end, factors[..., None]], axis=-1)
    return end[None]


def recur(
    op: Recurrence | BlockState, tokens: tuple[Array, Array, Array], decay: Array, write: Array | None, state: Array
) -> tuple[Array, list[Array]]:
    """The results ``[batch, position, heads, p]`` of a `Recurrence` without `skip`, and the state after each token.

    ``tokens`` are ``q, k: [batch, position, heads, n]`` and ``v: [batch, position, heads, p]``. ``decay`` is as ``k``,
    or has 1 in the place of n; ``write: [batch, position, heads]``, ``state: [batch, heads, n, p]``.
    """
    q, k, v = tokens
    if op.normalize:
        q, k = unit_length(q, k)
    outs, after = [], []
    writes = np.ones(v.shape[:3]) if write is None else write
    for t in range(v.shape[1]):
        here = {"q": q[:, t], "k": k[:, t], "v": v[:, t], "decay": decay[:, t], "write": writes[:, t]}
        state, out = recur_token(state, **here, delta=op.delta)
        outs.append(out)
        after.append(state)
    return np.stack(outs, axis=1) if outs else np.zeros_like(v), after


def _of_heads(x: Array, groups: Array) -> Array:
    """Queries or keys of each head; without groups all heads have the same."""
    return x[:, :, groups] if x.ndim == 4 else np.repeat(x[:, :, None], len(groups), 2)


def _values(op: Recurrence | BlockState, here: Local) -> tuple[Array, dict[str, Array]]:
    """The values ``[batch, position, heads, p]``, and the further operands by role."""
    v = here.array(op.v)
    more = {name: here.array(x) for name in op.roles.split() if (x := op.role(name)) is not None}
    return v if len(op.v.type.dims) == 4 else v[..., None], more


def _own_block(x: Value, here: Local) -> int:
    """Which block of positions of ``x`` this rank holds."""
    return here.place.index(x.type.on("position"), here.rank)


def _live_tails(tails: Value, x: Value, here: Local) -> list[Array]:
    """The last tokens of every block of ``x``, without the zeros before them."""
    axes = x.type.on("position")
    blocks = (here.place.held_range(x.type.dim("position"), rank) for rank in here.place.group(here.rank, axes))
    found = zip(here.array(tails), blocks, strict=True)
    return [tail[:, max(tail.shape[1] - (stop - start), 0) :] for tail, (start, stop) in found]


def _decay(op: Recurrence | BlockState, more: dict[str, Array], here: Local) -> Array:
    """The factor of the state at each token: ``[batch, position, heads, n]``, or 1 in the place of n."""
    batch, positions, *_ = here.array(op.v).shape
    start, stop = here.held_range(op.v, op.v.type.names[2])
    if "step" in more:
        step, rate = (x if x.ndim == dims else x[..., None] for x, dims in ((more["step"], 4), (more["rate"], 2)))
        return decay_of(rate, step)
    if not op.slopes:
        return np.ones((batch, positions, stop - start, 1))
    slopes = decay_slopes(here.place.sizes[op.v.type.names[2]])[start:stop]
    return np.broadcast_to(slopes[:, None], (batch, positions, stop - start, 1))


def _groups(op: Recurrence | BlockState, here: Local) -> Array:
    """For each head of this rank, the index of its group among the groups of this rank."""
    if len(op.k.type.dims) == 3:
        first, stop = here.held_range(op.v, op.v.type.names[2])
        return np.zeros(stop - first, dtype=int)
    return shared_heads(op, op.v, op.k, here)


def _states(program: Program) -> Iterator[tuple[Region, Value]]:
    for region in program.regions:
        for op in region.ops:
            if isinstance(op, States):
                yield from ((region, kept) for kept in op.kept)
