"""The KV cache: what each device has kept of the tokens seen so far."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np

from plandsl.backends.reference.compute import Local
from plandsl.backends.reference.placement import Array, Mismatch, Ranges
from plandsl.ir.compute import CacheWrite
from plandsl.ir.types import Value

Slot: TypeAlias = tuple[str, int | None, str, int, int]
"""Region, layer, cache, operand and rank."""


class Cache:
    """Arrays that outlive a step, with the part of the global tensor that each one is."""

    def __init__(self) -> None:
        self._kept: dict[Slot, tuple[Ranges, Array]] = {}

    def append(self, op: CacheWrite, at: tuple[str, int | None], here: Local) -> tuple[Array, ...]:
        """Add this step's operands on one rank; gives all that the rank holds of each."""
        pairs = enumerate(zip(op.xs, op.outs, strict=True))
        return tuple(self._one(x, out, (*at, op.cache, i, here.rank), here) for i, (x, out) in pairs)

    def _one(self, x: Value, out: Value, slot: Slot, here: Local) -> Array:
        along = x.type.names.index("position")
        start, stop = (n + here.past for n in here.owned(x, "position"))
        owned = here.place.kept(out.type.dim("context"), here.rank)
        wanted = owned[owned >= here.past]
        if not np.all((start <= wanted) & (wanted < stop)):
            raise Mismatch(f"rank {here.rank} lacks some of the positions of {x} that it writes to cache '{slot[2]}'")
        ranges = here.place.ranges(x.type, here.rank)
        part = ranges[:along] + ranges[along + 1 :]
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
