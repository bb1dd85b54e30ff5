"""The KV cache: the keys and values of earlier tokens that each device keeps."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TypeAlias

import numpy as np

from plandsl.backends.reference.compute import Local
from plandsl.backends.reference.placement import Array, Block, Mismatch, Placement, index
from plandsl.ir.compute import CacheWrite
from plandsl.ir.names import RegionName
from plandsl.ir.program import Program, Region
from plandsl.ir.types import Value

Slot: TypeAlias = tuple[RegionName, int | None, str, int, int]
"""Region, layer, cache, operand and rank."""


Tensor: TypeAlias = tuple[RegionName, int | None, str, int]
"""Region, layer, cache and operand."""

Whole: TypeAlias = dict[Tensor, Array]
"""Cached tensors in full, ``[batch, context, ...]``, whatever their layout on ranks."""


class Cache:
    """The cached arrays of all ranks, each with its part of the global tensor."""

    def __init__(self) -> None:
        self._kept: dict[Slot, tuple[Block, Array]] = {}

    @staticmethod
    def merge_groups(groups: Sequence[Cache], share: int) -> Cache:
        """Merge the caches of groups of requests; each group has ``share`` of the requests in every rank's block."""
        made = Cache()
        for slot, (part, _) in groups[0]._kept.items():
            made._kept[slot] = merge_requests(part, [group._kept[slot][1] for group in groups], share)
        return made

    def append(self, op: CacheWrite, at: tuple[RegionName, int | None], here: Local) -> tuple[Array, ...]:
        """Append this step's operands on one rank; returns all that the rank then holds of each."""
        pairs = enumerate(zip(op.xs, op.outs, strict=True))
        return tuple(self._append_one(x, out, (*at, op.cache, i, here.rank), here) for i, (x, out) in pairs)

    def whole(self, program: Program, place: Placement) -> Whole:
        """Every cached tensor of ``program`` in full, assembled from the parts of all ranks (``place``)."""
        found: dict[Tensor, tuple[Array, Array]] = {}
        outs = {(r.name, op.cache, i): out for r, op in _writes(program) for i, out in enumerate(op.outs)}
        for (region, layer, cache, i, rank), (part, kept) in self._kept.items():
            out = outs[region, cache, i]
            shape = [place.sizes[name] for name in out.type.names]
            full, seen = found.setdefault((region, layer, cache, i), (np.zeros(shape), np.zeros(shape, dtype=bool)))
            first, *rest = part
            at = index((first, place.held_ranges(out.type.dim("context"), rank), *rest))
            full[at], seen[at] = kept, True
        for (region, layer, cache, _), (_, seen) in found.items():
            if not seen.all():
                raise Mismatch(f"no rank holds some elements of cache '{cache}' of {region}, layer {layer}")
        return {key: full for key, (full, _) in found.items()}

    def fill(self, region: Region, layer: int | None, ranks: Iterable[int], place: Placement, whole: Whole) -> None:
        """Give each of ``ranks`` its part of the tensors that ``region`` caches."""
        for op in (op for op in region.ops if isinstance(op, CacheWrite)):
            for i, (x, out) in enumerate(zip(op.xs, op.outs, strict=True)):
                for rank in ranks:
                    first, _, *rest = place.block(x.type, rank)
                    at = index((first, place.held_ranges(out.type.dim("context"), rank), *rest))
                    full = whole[region.name, layer, op.cache, i]
                    self._kept[region.name, layer, op.cache, i, rank] = (first, *rest), full[at]

    def _append_one(self, x: Value, out: Value, slot: Slot, here: Local) -> Array:
        along = x.type.names.index("position")
        start, stop = (n + here.past for n in here.held_range(x, "position"))
        owned = here.positions(out)
        wanted = owned[owned >= here.past]
        if not np.all((start <= wanted) & (wanted < stop)):
            raise Mismatch(f"rank {here.rank} lacks some of the positions of {x} that it writes to cache '{slot[2]}'")
        block = here.place.block(x.type, here.rank)
        part = block[:along] + block[along + 1 :]
        new = here.array(x).take(wanted - start, axis=along)
        before, old = self._kept.get(slot, (part, new.take([], axis=along)))
        if before != part:
            raise Mismatch(f"cache '{slot[2]}' on rank {here.rank} holds {before}, but {x} is {part}")
        seen = len(owned) - len(wanted)
        if old.shape[along] < seen:
            raise Mismatch(f"cache '{slot[2]}' holds {old.shape[along]} tokens where {seen} were seen")
        kept = np.concatenate([old.take(range(seen), axis=along), new], axis=along)  # what was rejected goes
        self._kept[slot] = (part, kept)
        return kept


def merge_requests(part: Block, groups: Sequence[Array], share: int) -> tuple[Block, Array]:
    """A rank's part of a tensor, and its array, for the requests of all ``groups``.

    ``part`` is its part for one group; each group has ``share`` of the requests in every rank's block.
    """
    ((start, stop),), *rest = part
    rows, *inner = groups[0].shape
    apart = [array.reshape(rows // share, share, *inner) for array in groups]
    requests = ((start * len(groups), stop * len(groups)),)
    return (requests, *rest), np.stack(apart, axis=1).reshape(rows * len(groups), *inner)


def _writes(program: Program) -> Iterator[tuple[Region, CacheWrite]]:
    return ((region, op) for region in program.regions for op in region.ops if isinstance(op, CacheWrite))
