"""Tensor types and the mesh: a tensor's dimensions, the axes that split them, and the axes of a partial sum."""

from collections.abc import Iterable, Mapping
from itertools import product
from typing import Any, NamedTuple, TypeAlias

from attrs import field, frozen

from plandsl.ir.names import Merged, Places, group_of
from plandsl.values import once, sum_up

Number: TypeAlias = Any
"""A number or a numpy array: sizes and times of the cost backend may be either. In a trace, also a traced number."""

PADDED = frozenset({"batch", "position", "context"})
"""Dimensions that are padded to a multiple of their shards, so that the fullest rank counts."""


def makes_rows(name: str) -> bool:
    """Whether a dimension makes rows of a step: requests, tokens, keys, or tokens of which several became one."""
    return name in PADDED or isinstance(name, Merged)


REPLICATED = frozenset({"kv_heads", "wide_kv_heads", "state_groups"})
"""Dimensions that are replicated when their size is smaller than the number of shards."""


class Chunk(NamedTuple):
    """The ``part``-th of ``of`` parts of each block of a dimension; printed ``0/4|tensor``.

    The axes ``over`` cut the dimension into the blocks, and the parts of a block differ by at most one row. ``over``
    begins with the axes that split the dimension. The rows of a chunk are then contiguous on a rank before and after a
    gather or scatter over the remaining axes.
    """

    part: int
    of: int
    over: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.part}/{self.of}" + (f"|{group_of(self.over)}" if self.over else "")


class Dim(NamedTuple):
    """A named dimension, the mesh axes that split it (major first), and, if this is only a part of it, the chunk."""

    name: str
    axes: tuple[str, ...] = ()
    chunk: Chunk | None = None

    def __str__(self) -> str:
        name = self.name if self.chunk is None else f"{self.name} {self.chunk}"
        return f"{name}@{group_of(self.axes)}" if self.axes else name


@frozen(slots=False)
class TensorType:
    """A global tensor and how it lies on the mesh.

    Printed ``bf16[position@seq, hidden]{+tensor}``: ``@`` names the mesh axes that split a dimension (major
    first), ``{+tensor}`` says that each rank along ``tensor`` holds a partial sum. ``{~context}`` says that each rank
    along ``context`` holds a softmax over some of the keys: a mean whose weights add up to one on that rank. The
    log-sum-exp of the scores follows every row of the last dimension, so that the means can be merged exactly.
    """

    dtype: str
    dims: tuple[Dim, ...]
    partial: frozenset[str] = frozenset()
    softmax: frozenset[str] = frozenset()

    def __str__(self) -> str:
        marks = [f"+{a}" for a in sorted(self.partial)] + [f"~{a}" for a in sorted(self.softmax)]
        return f"{self.dtype}[{', '.join(map(str, self.dims))}]" + (f"{{{', '.join(marks)}}}" if marks else "")

    @once
    def names(self) -> tuple[str, ...]:
        """Dimension names in order."""
        return tuple([d.name for d in self.dims])

    @once
    def axes(self) -> frozenset[str]:
        """Mesh axes in use: they split a dimension, or the value is incomplete over them."""
        return self.pending.union(*[d.axes for d in self.dims])

    @property
    def pending(self) -> frozenset[str]:
        """Mesh axes over which the value is incomplete: a partial sum, or a softmax over some of the keys."""
        return self.partial | self.softmax

    def dim(self, name: str) -> Dim:
        """The dimension called ``name`` (KeyError where there is none)."""
        for dim in self.dims:
            if dim.name == name:
                return dim
        raise KeyError(name)

    def on(self, name: str) -> tuple[str, ...]:
        """The axes that split dimension ``name``; empty where the tensor lacks it."""
        return next((d.axes for d in self.dims if d.name == name), ())

    def with_axes(self, name: str, axes: tuple[str, ...]) -> "TensorType":
        """The same tensor with ``name`` split over ``axes`` instead."""
        dims = tuple(d._replace(axes=axes) if d.name == name else d for d in self.dims)
        return TensorType(self.dtype, dims, self.partial, self.softmax)

    def chunked(self, name: str, chunk: Chunk | None) -> "TensorType":
        """The same tensor with only ``chunk`` of dimension ``name`` (None: all of it)."""
        dims = tuple(d._replace(chunk=chunk) if d.name == name else d for d in self.dims)
        return TensorType(self.dtype, dims, self.partial, self.softmax)

    def whole(self) -> "TensorType":
        """The unsharded type."""
        return TensorType(self.dtype, tuple(Dim(d.name) for d in self.dims))

    def summed(self) -> "TensorType":
        """The same tensor when it is complete: no partial sum and no softmax over some of the keys."""
        return TensorType(self.dtype, self.dims)


def routed(type_: TensorType) -> Places:
    """The name of the dimension of a token's experts (KeyError where there is none)."""
    for name in type_.names:
        if isinstance(name, Places):
            return name
    raise KeyError(str(type_))


def tensor(dtype: str, names: Iterable[str]) -> TensorType:
    """An unsharded type of named dimensions."""
    return TensorType(dtype, tuple(Dim(n) for n in names))


@frozen
class Value:
    """One tensor of a program. It is one value, however many devices hold a part of it."""

    name: str
    type: TensorType

    def __str__(self) -> str:
        return f"%{self.name}"


@frozen
class Mesh:
    """Named axes with their sizes, major first; ranks are numbered in row-major order."""

    axes: tuple[tuple[str, int], ...] = ()
    _sizes: dict[str, int] = field(init=False, eq=False, repr=False)

    def __attrs_post_init__(self) -> None:
        object.__setattr__(self, "_sizes", dict(self.axes))

    def size(self, axis: str) -> int:
        """Ranks along ``axis`` (1 where the mesh has no such axis)."""
        return self._sizes.get(axis, 1)

    def ways(self, axes: Iterable[str]) -> int:
        """Product of the sizes of ``axes``."""
        total = 1
        for axis in axes:
            total *= self.size(axis)
        return total

    @property
    def ranks(self) -> int:
        """The number of ranks."""
        return self.ways(n for n, _ in self.axes)

    def coordinates(self, rank: int) -> dict[str, int]:
        """Position of ``rank`` along each axis."""
        out = {}
        for name, size in reversed(self.axes):
            rank, out[name] = divmod(rank, size)
        return out

    def rank(self, coordinates: Mapping[str, int]) -> int:
        """The rank at ``coordinates`` (the inverse of `coordinates`)."""
        return self.index(coordinates, (name for name, _ in self.axes))

    def index(self, coordinates: Mapping[str, int], axes: Iterable[str]) -> int:
        """The position of ``coordinates`` counted over ``axes``, major first."""
        index = 0
        for axis in axes:
            index = index * self.size(axis) + coordinates.get(axis, 0)
        return index

    def offsets(self, axes: Iterable[str]) -> list[int]:
        """The ranks at each position along ``axes`` that are at 0 along all others; counted major first."""
        found = [0]
        for axis in axes:
            step = self.stride(axis)
            found = [at + i * step for at in found for i in range(self.size(axis))]
        return found

    def stride(self, axis: str) -> int:
        """Distance in ranks between neighbours along ``axis``."""
        step = 1
        for name, size in reversed(self.axes):
            if name == axis:
                return step
            step *= size
        return step

    def __str__(self) -> str:
        return ", ".join(f"{n} = {s}" for n, s in self.axes)


def block_range(name: str, size: int, index: int, shards: int) -> tuple[int, int]:
    """The global half-open range of dimension ``name`` that shard ``index`` of ``shards`` holds.

    Cuts are even. The last shards of a dimension in `PADDED` may be short or empty (the rest of their block is
    padding). Where a dimension in `REPLICATED` has fewer items than shards, several neighbours hold the same item.
    """
    if name in REPLICATED and size < shards:
        start = index * size // shards
        return start, start + 1
    chunk = -(-size // shards)
    return min(index * chunk, size), min((index + 1) * chunk, size)


def shard_range(name: str, size: int, places: Iterable[tuple[int, int]]) -> tuple[int, int]:
    """The global half-open range of a dimension cut over several axes: ``places`` are (index, size) by axis.

    The dimension is cut by one axis after the other, major first. So a gather over the innermost axis always gives
    a part of the cut over the remaining axes, even where parts are short.
    """
    start, stop = 0, size
    for index, shards in places:
        if start == stop:
            break
        a, b = block_range(name, stop - start, index, shards)
        start, stop = start + a, start + b
    return start, stop


def pieces(dim: Dim, size: int, mesh: Mesh) -> list[tuple[int, int]]:
    """The global half-open ranges that a chunk of a dimension of ``size`` consists of: one per block of ``over``."""
    chunk = dim.chunk
    assert chunk is not None, f"{dim} is no chunk"
    out = []
    for at in product(*(range(mesh.size(a)) for a in chunk.over)):
        start, stop = shard_range(dim.name, size, zip(at, map(mesh.size, chunk.over), strict=True))
        each, more = divmod(stop - start, chunk.of)
        first = start + chunk.part * each + min(chunk.part, more)
        out.append((first, first + each + (chunk.part < more)))
    return out


def own_pieces(dim: Dim, size: int, mesh: Mesh, at: Mapping[str, int]) -> tuple[int, list[tuple[int, int]]]:
    """The number of rows of the chunk before the part of the rank at ``at``, and the `pieces` of that part."""
    assert dim.chunk is not None, f"{dim} is no chunk"
    every, index = pieces(dim, size, mesh), 0
    for axis in dim.axes:
        index = index * mesh.size(axis) + at.get(axis, 0)
    each = mesh.ways(dim.chunk.over[len(dim.axes) :])
    before = every[: index * each]
    return sum_up(b - a for a, b in before), every[index * each : (index + 1) * each]
