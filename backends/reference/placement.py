"""Which part of each tensor a device holds, and putting tensors together from such parts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import product
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from plandsl.ir.types import Dim, Mesh, TensorType, Value, own_pieces, pieces, shard_range

Array: TypeAlias = npt.NDArray[Any]
Shards: TypeAlias = dict[int, Array]
"""One array per rank, of the extent that the rank owns: no padding."""

Range: TypeAlias = tuple[int, int]
Ranges: TypeAlias = tuple[Range, ...]
"""The half-open global range along each dimension."""

TOLERANCE = 1e-9
"""Largest difference, relative to the largest element, that counts as rounding."""


class Mismatch(Exception):
    """A device needs something that it, or its group, does not hold."""


class Placement:
    """Who holds what on ``mesh`` while the dimensions have ``sizes``.

    Of a context that ranks share, each has its part of the first ``prompt`` tokens (all of them, unless given), and
    those that follow are dealt out one by one. It is counted rank by rank: what a rank holds is a range of it.
    """

    def __init__(self, mesh: Mesh, sizes: Mapping[str, int], prompt: int | None = None) -> None:
        self.mesh, self.sizes = mesh, sizes
        self.prompt = sizes.get("context", 0) if prompt is None else prompt
        self._coordinates = [mesh.coordinates(rank) for rank in range(mesh.ranks)]
        self._owned: dict[tuple[Dim, int], Range] = {}

    def owned(self, dim: Dim, rank: int) -> Range:
        """The global range of ``dim`` that ``rank`` holds."""
        found = self._owned.get((dim, rank))
        if found is None:
            found = self._owned[dim, rank] = self._cut(dim, rank)
        return found

    def _cut(self, dim: Dim, rank: int) -> Range:
        if dim.chunk is not None:  # counted in rows of the chunk
            before, own = own_pieces(dim, self.sizes[dim.name], self.mesh, self._coordinates[rank])
            return before, before + sum(b - a for a, b in own)
        if dim.name == "context" and dim.axes and self.prompt < self.sizes["context"]:
            group = self.group(rank, dim.axes)
            ends = np.cumsum([0, *(len(self.kept(dim, r)) for r in group)])
            at = group.index(rank)
            return int(ends[at]), int(ends[at + 1])
        return self._shard(dim, self.sizes[dim.name], rank)

    def _shard(self, dim: Dim, size: int, rank: int) -> Range:
        here = self._coordinates[rank]
        return shard_range(dim.name, size, ((here.get(a, 0), self.mesh.size(a)) for a in dim.axes))

    def kept(self, dim: Dim, rank: int) -> Array:
        """The positions of the tokens that ``rank`` holds of a context, in the order in which they came."""
        start, stop = self._shard(dim, self.prompt, rank)
        later = np.arange(self.prompt, self.sizes["context"])
        mine = (later - self.prompt) % self.mesh.ways(dim.axes) == self.index(dim.axes, rank)
        return np.concatenate([np.arange(start, stop), later[mine]])

    def index(self, axes: Iterable[str], rank: int) -> int:
        """Position of ``rank`` counted over ``axes``, major first."""
        index = 0
        for axis in axes:
            index = index * self.mesh.size(axis) + self._coordinates[rank].get(axis, 0)
        return index

    def ranges(self, type_: TensorType, rank: int) -> Ranges:
        """The part of a tensor that ``rank`` holds: of a softmax over some keys, a statistic behind every row too."""
        return _with_statistics(type_, tuple(self.owned(d, rank) for d in type_.dims))

    def shape(self, type_: TensorType, rank: int) -> tuple[int, ...]:
        """Shape of that part."""
        return extents(self.ranges(type_, rank))

    def whole(self, type_: TensorType) -> Ranges:
        """The ranges of all of a tensor."""
        return _with_statistics(type_, tuple((0, self.extent(d)) for d in type_.dims))

    def extent(self, dim: Dim) -> int:
        """The size of a whole dimension, or of a whole chunk of it."""
        size = self.sizes[dim.name]
        return size if dim.chunk is None else sum(b - a for a, b in pieces(dim, size, self.mesh))

    def rows(self, dim: Dim, rank: int) -> Array:
        """Where the rows of a rank's part of a chunk stand in its part of the whole."""
        start, _ = self.owned(Dim(dim.name, dim.axes), rank)
        _, own = own_pieces(dim, self.sizes[dim.name], self.mesh, self._coordinates[rank])
        return np.concatenate([np.arange(a - start, b - start) for a, b in own])

    def group(self, rank: int, axes: Iterable[str]) -> list[int]:
        """The ranks that differ from ``rank`` along ``axes`` only, in the order of their indices."""
        names = list(axes)
        steps = product(*(range(self.mesh.size(a)) for a in names))
        here = self._coordinates[rank]
        return [self.mesh.rank({**here, **dict(zip(names, step, strict=True))}) for step in steps]

    def cut(self, whole: Array, value: Value, ranks: Iterable[int]) -> Shards:
        """Each rank's part of a tensor given in full."""
        if whole.shape != extents(self.whole(value.type)):
            raise Mismatch(f"{value} is {value.type}, but the array for it has shape {whole.shape}")
        return {r: whole[tuple(slice(a, b) for a, b in self.ranges(value.type, r))] for r in ranks}

    def join(self, value: Value, shards: Shards) -> Array:
        """The whole tensor from its parts, partial sums added up. The inverse of `cut`."""
        partial = sorted(value.type.partial)
        total: Array | None = None
        for step in product(*(range(self.mesh.size(a)) for a in partial)):
            at = dict(zip(partial, step, strict=True))
            term = self.gather(value, shards, self.whole(value.type), at)
            total = term if total is None else total + term
        assert total is not None, "a product over no axes has one step"
        return total

    def gather(self, value: Value, shards: Shards, want: Ranges, at: Mapping[str, int]) -> Array:
        """The part ``want`` of a tensor, from the ranks whose coordinates are ``at``."""
        ranks = [r for r in shards if all(self.index([a], r) == c for a, c in at.items())]
        return assemble(want, ((self.ranges(value.type, r), shards[r]) for r in ranks), str(value))

    def check_shapes(self, value: Value, shards: Shards, what: str) -> None:
        """Raise unless each array has the extent that its type gives its rank."""
        for rank, array in shards.items():
            if array.shape != self.shape(value.type, rank):
                why = f"has shape {array.shape}, {value.type} says {self.shape(value.type, rank)}"
                raise Mismatch(f"{what}: {value} on rank {rank} {why}")

    def check_copies(self, value: Value, shards: Shards, what: str) -> None:
        """Raise unless ranks that should hold the same part hold equal ones."""
        first: dict[object, int] = {}
        partial = sorted(value.type.pending)
        if value.type.softmax:  # a log-sum-exp of no keys is minus infinity, and the sum is zero
            shards = {r: np.concatenate([x[..., :-1], np.exp(x[..., -1:])], axis=-1) for r, x in shards.items()}
        for rank, array in shards.items():
            key = (self.ranges(value.type, rank), self.index(partial, rank))
            other = first.setdefault(key, rank)
            if difference(array, shards[other]) > TOLERANCE:
                raise Mismatch(f"{what}: ranks {other} and {rank} should hold the same part of {value}")


def _with_statistics(type_: TensorType, ranges: Ranges) -> Ranges:
    if not type_.softmax:
        return ranges
    *others, (start, stop) = ranges
    return (*others, (start, stop + 1))


def extents(ranges: Ranges) -> tuple[int, ...]:
    """The shape of a part."""
    return tuple(b - a for a, b in ranges)


def difference(a: Array, b: Array) -> float:
    """Largest difference, as a share of the largest element of ``b``; infinite where it is not a number."""
    if a.shape != b.shape:
        return float("inf")
    if a.size == 0:
        return 0.0
    worst = float(np.max(np.abs(a - b))) / max(float(np.max(np.abs(b))), 1e-300)
    return worst if np.isfinite(worst) else float("inf")


def assemble(want: Ranges, sources: Iterable[tuple[Ranges, Array]], what: str) -> Array:
    """The part ``want`` of a tensor, element by element from the parts in ``sources``."""
    shape = extents(want)
    out: Array | None = None
    filled = np.zeros(shape, dtype=bool)
    for ranges, array in sources:
        if ranges == want:
            return array
        if out is None:
            out = np.zeros(shape, dtype=array.dtype)
        shared = [(max(a, c), min(b, d)) for (a, b), (c, d) in zip(want, ranges, strict=True)]
        if all(a < b for a, b in shared):
            to = _within(shared, want)
            out[to] = array[_within(shared, ranges)]
            filled[to] = True
        if filled.all():
            return out
    if out is None:
        raise Mismatch(f"nobody in the group holds any of {what}")
    missing = [int(i) + a for i, (a, _) in zip(np.argwhere(~filled)[0], want, strict=True)]
    raise Mismatch(f"nobody in the group holds element {missing} of {what}")


def _within(part: Iterable[Range], of: Ranges) -> tuple[slice, ...]:
    return tuple(slice(a - start, b - start) for (a, b), (start, _) in zip(part, of, strict=True))
