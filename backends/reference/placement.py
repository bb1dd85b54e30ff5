"""The part of each tensor that a device holds, and assembling tensors from parts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import accumulate, pairwise, product
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from plandsl.ir.types import Dim, Mesh, TensorType, Value, own_pieces, pieces, shard_range
from plandsl.values import sum_up

Array: TypeAlias = npt.NDArray[Any]
Shards: TypeAlias = dict[int, Array]
"""One array per rank, of the extent that the rank owns: no padding."""

Range: TypeAlias = tuple[int, int]
"""A half-open global range of a dimension."""

Held: TypeAlias = tuple[Range, ...]
"""A rank's part of one dimension: its ranges in order. Only a context that came in parts has several."""

Block: TypeAlias = tuple[Held, ...]
"""A rank's part of a tensor: its ranges of each dimension."""

TOLERANCE = 1e-9
"""Largest difference, relative to the largest element, that counts as rounding."""


class Mismatch(Exception):
    """A device needs data that neither it nor its group holds, or ranks disagree."""


class Placement:
    """The part of each tensor that each rank of ``mesh`` holds, where the dimensions have ``sizes``.

    ``parts`` are the numbers of tokens of the parts in which the context came (by default, one part). Ranks that share
    a context each hold a share of every part. Later tokens go to the ranks one by one, in turn.
    """

    def __init__(self, mesh: Mesh, sizes: Mapping[str, int], parts: Sequence[int] = ()) -> None:
        self.mesh, self.sizes = mesh, sizes
        self.parts = tuple(parts) or (sizes.get("context", 0),)
        self._coordinates = [mesh.coordinates(rank) for rank in range(mesh.ranks)]
        self._held: dict[tuple[Dim, int], Held] = {}

    def held_ranges(self, dim: Dim, rank: int) -> Held:
        """The global ranges of ``dim`` that ``rank`` holds."""
        found = self._held.get((dim, rank))
        if found is None:
            found = self._held[dim, rank] = self._cut(dim, rank)
        return found

    def held_range(self, dim: Dim, rank: int) -> Range:
        """The global range of ``dim`` that ``rank`` holds (ValueError where it holds several)."""
        (found,) = self.held_ranges(dim, rank)
        return found

    def _cut(self, dim: Dim, rank: int) -> Held:
        if dim.chunk is not None:  # counted in rows of the chunk
            before, own = own_pieces(dim, self.sizes[dim.name], self.mesh, self._coordinates[rank])
            return ((before, before + sum_up(b - a for a, b in own)),)
        if dim.name == "context" and dim.axes and self.parts != (self.sizes["context"],):
            return _merge_ranges(self._context(dim, rank))
        return (self._shard(dim, self.sizes[dim.name], rank),)

    def _context(self, dim: Dim, rank: int) -> Iterator[Range]:
        """The rank's range of each part, then the later tokens that go to this rank."""
        ends = list(accumulate(self.parts, initial=0))
        for begin, end in pairwise(ends):
            start, stop = self._shard(dim, end - begin, rank)
            if start < stop:
                yield begin + start, begin + stop
        for token in range(ends[-1], self.sizes["context"]):
            if self._place_of(dim.axes, token - ends[-1]) == [self._coordinates[rank].get(a, 0) for a in dim.axes]:
                yield token, token + 1

    def _place_of(self, axes: Iterable[str], token: int) -> list[int]:
        """The place along ``axes`` to which the ``token``-th later token goes.

        The first axis counts fastest. So after a gather over the last axis, tokens still go in turn over the others.
        """
        place = []
        for axis in axes:
            token, index = divmod(token, self.mesh.size(axis))
            place.append(index)
        return place

    def _shard(self, dim: Dim, size: int, rank: int) -> Range:
        here = self._coordinates[rank]
        return shard_range(dim.name, size, ((here.get(a, 0), self.mesh.size(a)) for a in dim.axes))

    def index(self, axes: Iterable[str], rank: int) -> int:
        """Position of ``rank`` counted over ``axes``, major first."""
        return self.mesh.index(self._coordinates[rank], axes)

    def block(self, type_: TensorType, rank: int) -> Block:
        """The part of a tensor that ``rank`` holds. A softmax over some keys has a log-sum-exp after every row."""
        return _with_statistics(type_, tuple(self.held_ranges(d, rank) for d in type_.dims))

    def shape(self, type_: TensorType, rank: int) -> tuple[int, ...]:
        """The shape of the part of a tensor that ``rank`` holds."""
        return extents(self.block(type_, rank))

    def whole(self, type_: TensorType) -> Block:
        """The ranges of a whole tensor."""
        return _with_statistics(type_, tuple(((0, self.extent(d)),) for d in type_.dims))

    def extent(self, dim: Dim) -> int:
        """The size of a dimension over all ranks: of the whole dimension, or of its chunk."""
        size = self.sizes[dim.name]
        return size if dim.chunk is None else sum_up(b - a for a, b in pieces(dim, size, self.mesh))

    def rows(self, dim: Dim, rank: int) -> Array:
        """The indices, in a rank's part of the whole dimension, of the rows in its part of a chunk."""
        start, _ = self.held_range(Dim(dim.name, dim.axes), rank)
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
        return {r: whole[index(self.block(value.type, r))] for r in ranks}

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

    def gather(self, value: Value, shards: Shards, want: Block, at: Mapping[str, int]) -> Array:
        """The part ``want`` of a tensor, from the ranks whose coordinates are ``at``."""
        ranks = [r for r in shards if all(self.index([a], r) == c for a, c in at.items())]
        return assemble(want, ((self.block(value.type, r), shards[r]) for r in ranks), str(value))

    def check_shapes(self, value: Value, shards: Shards, what: str) -> None:
        """Raise Mismatch unless each array has the shape that its type gives on its rank."""
        for rank, array in shards.items():
            if array.shape != self.shape(value.type, rank):
                why = f"has shape {array.shape}, {value.type} says {self.shape(value.type, rank)}"
                raise Mismatch(f"{what}: {value} on rank {rank} {why}")

    def check_copies(self, value: Value, shards: Shards, what: str) -> None:
        """Raise Mismatch unless ranks that should hold the same part hold equal arrays."""
        first: dict[object, int] = {}
        partial = sorted(value.type.pending)
        if value.type.softmax:  # compare sums, not log-sum-exps: over no keys the latter is minus infinity
            shards = {r: np.concatenate([x[..., :-1], np.exp(x[..., -1:])], axis=-1) for r, x in shards.items()}
        for rank, array in shards.items():
            key = (self.block(value.type, rank), self.index(partial, rank))
            other = first.setdefault(key, rank)
            if difference(array, shards[other]) > TOLERANCE:
                raise Mismatch(f"{what}: ranks {other} and {rank} should hold the same part of {value}")


def _with_statistics(type_: TensorType, block: Block) -> Block:
    if not type_.softmax:
        return block
    *others, ((start, stop),) = block
    return (*others, ((start, stop + 1),))


def extents(block: Block) -> tuple[int, ...]:
    """The shape of a block."""
    return tuple(sum_up(b - a for a, b in held) for held in block)


def _merge_ranges(ranges: Iterable[Range]) -> Held:
    """``ranges`` with adjacent ranges merged."""
    found: list[Range] = []
    for start, stop in ranges:
        if found and found[-1][1] == start:
            start, _ = found.pop()
        found.append((start, stop))
    return tuple(found)


def positions(held: Held) -> Array:
    """All indices in the ranges of ``held``."""
    return np.concatenate([np.arange(a, b) for a, b in held or ((0, 0),)])


def index(block: Block) -> tuple[Any, ...]:
    """The numpy index of a block in the whole array."""
    if all(len(held) == 1 for held in block):
        return tuple(slice(*held[0]) for held in block)
    return np.ix_(*map(positions, block))


def difference(a: Array, b: Array) -> float:
    """``max |a - b| / max |b|``; infinite where shapes differ or the result is not finite."""
    if a.shape != b.shape:
        return float("inf")
    if a.size == 0:
        return 0.0
    worst = float(np.max(np.abs(a - b))) / max(float(np.max(np.abs(b))), 1e-300)
    return worst if np.isfinite(worst) else float("inf")


def assemble(want: Block, sources: Iterable[tuple[Block, Array]], what: str) -> Array:
    """The part ``want`` of a tensor, element by element from the parts in ``sources``."""
    shape = extents(want)
    out: Array | None = None
    filled = np.zeros(shape, dtype=bool)
    for block, array in sources:
        if block == want:
            return array
        if out is None:
            out = np.zeros(shape, dtype=array.dtype)
        to, source = zip(*map(_shared, want, block), strict=True)
        if all(map(len, to)):
            out[_at(to)] = array[_at(source)]
            filled[_at(to)] = True
        if filled.all():
            return out
    if out is None:
        raise Mismatch(f"no rank of the group holds any part of {what}")
    missing = [int(positions(held)[i]) for i, held in zip(np.argwhere(~filled)[0], want, strict=True)]
    raise Mismatch(f"no rank of the group holds element {missing} of {what}")


Places: TypeAlias = "range | Array"


def _shared(want: Held, have: Held) -> tuple[Places, Places]:
    """The places of the common elements of ``want`` and ``have``, in each of them."""
    if len(want) == len(have) == 1:
        ((a, b),), ((c, d),) = want, have
        first, last = max(a, c), max(max(a, c), min(b, d))
        return range(first - a, last - a), range(first - c, last - c)
    _, to, source = np.intersect1d(positions(want), positions(have), assume_unique=True, return_indices=True)
    return to, source


def _at(places: Sequence[Places]) -> tuple[Any, ...]:
    if all(isinstance(p, range) for p in places):
        return tuple(slice(p.start, p.stop) for p in places if isinstance(p, range))
    return np.ix_(*places)
