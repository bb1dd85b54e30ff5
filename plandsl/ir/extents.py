"""Sizes of tensors once a program's symbols are bound, to numbers or to arrays of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from plandsl.ir.names import Blocks, Merged
from plandsl.ir.program import Program
from plandsl.ir.skew import Skew, Varying, Zipf, busiest_experts, chances
from plandsl.ir.types import Chunk, Dim, Number, TensorType
from plandsl.spec.formats import item_bytes
from plandsl.values import sum_up


class Extents:
    """Sizes of a program's dimensions under one binding: of the whole dimension, and of one rank's part.

    ``bind`` gives the symbols (``batch``, ``input``, ``context``) numbers, or numpy arrays that broadcast.
    """

    def __init__(self, program: Program, bind: Mapping[str, Number], mesh: Mapping[str, Number] | None = None) -> None:
        self.mesh: Mapping[str, Number] = dict(program.mesh.axes) if mesh is None else mesh
        self.sizes: dict[str, Number] = {}
        for name, size in program.sizes:
            if isinstance(name, Blocks):
                self.sizes[name] = self.ways(name.axes)
            else:
                self.sizes[name] = bind[size] if isinstance(size, str) else size
        for name in self.sizes:
            if isinstance(name, Merged):
                self.sizes[name] = -(-self.sizes[name.of] // name.by)
        self._local: dict[Dim, Number] = {}
        self._experts: dict[str, tuple[int, Number, Skew]] = {}
        for name, imbalance in program.imbalance:  # a token has elements at `chosen` of the experts only
            self._experts[name] = (name.chosen, self.sizes[name], imbalance)
            self.sizes[name] = name.chosen

    def ways(self, axes: Iterable[str]) -> Number:
        """Product of axis sizes."""
        total: Number = 1
        for axis in axes:
            total = total * self.mesh[axis]
        return total

    def local(self, dim: Dim) -> Number:
        """Size of the fullest rank's part of a dimension, padding counted.

        For ``experts:8``: how many of a token's 8 experts the fullest rank holds, as a mean over tokens.
        """
        if not dim.axes and dim.chunk is None:
            return self.sizes[dim.name]
        found = self._local.get(dim)
        if found is None:
            ways = self.ways(dim.axes)
            if dim.chunk is not None:
                found = self._local[dim] = self._chunk(dim, dim.chunk)
            elif dim.name in self._experts:
                found = self._local[dim] = _fullest(*self._experts[dim.name], ways)
            elif ways == 1:  # a mean over steps may be a fraction, which a single rank does not round up
                found = self._local[dim] = self.sizes[dim.name]
            else:
                found = self._local[dim] = -(-self.sizes[dim.name] // ways)
        return found

    def _chunk(self, dim: Dim, chunk: Chunk) -> Number:
        """Rows of the chunk in one block, times the blocks of a rank. They are 0 where earlier chunks hold all rows."""
        block = self.local(Dim(dim.name, chunk.over))
        return -((chunk.part - block) // chunk.of) * self.ways(chunk.over[len(dim.axes) :])

    def product(self, dims: Iterable[Dim]) -> Number:
        """Product of local sizes."""
        total: Number = 1
        for dim in dims:
            total = total * self.local(dim)
        return total

    def elements(self, type_: TensorType) -> Number:
        """Elements one rank holds."""
        return self.product(type_.dims)

    def bytes(self, type_: TensorType) -> Number:
        """Bytes one rank holds."""
        return self.product(type_.dims) * item_bytes(type_.dtype)


def _fullest(chosen: int, experts: Number, imbalance: Skew, ways: Number) -> Number:
    """``chosen`` of ``experts`` on the fullest of ``ways`` ranks: ``imbalance`` times the mean, at most what fits."""
    if isinstance(imbalance, Zipf):
        found = sum_up(
            there * p for there, p in busiest_experts(chances(imbalance.exponent, int(experts), chosen), ways)
        )
        alone = ways == 1  # exactly, because an axis of size 1 changes nothing
        return chosen * alone + found * (1 - alone)
    if isinstance(imbalance, Varying):
        imbalance = imbalance.mean
    most = [chosen * imbalance / ways, chosen + 0.0 * ways, experts / ways]
    if all(isinstance(n, (int, float)) for n in most):
        return min(most)
    import numpy as np

    return np.minimum(np.minimum(most[0], most[1]), most[2])
