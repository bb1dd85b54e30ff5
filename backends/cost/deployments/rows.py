"""Bytes of values that are alive together, from the numbers of rows in a step."""

from __future__ import annotations

from functools import lru_cache
from math import prod
from typing import NamedTuple

from plandsl.backends.cost.deployments.contents import RowBytes
from plandsl.backends.cost.num import ceil_div
from plandsl.ir.extents import Extents
from plandsl.ir.types import PADDED, Dim, Number, TensorType
from plandsl.spec.formats import item_bytes


class Rows(NamedTuple):
    """The rows of a step over all ranks: tokens, requests, and keys that attention sees."""

    tokens: Number
    requests: Number
    keys: Number


def count_bytes(load: RowBytes, rows: Rows, extents: Extents) -> Number:
    """Bytes of values on one rank, with the rows that their dimensions name; weights have none."""
    total: Number = 0.0
    for dims, size in load:
        which, axes, parts = _read_dims(dims)
        many = getattr(rows, which) if which else 1
        total = total + size * ceil_div(many, extents.ways(axes) * parts)
    return total


@lru_cache(maxsize=4096)
def _read_dims(dims: tuple[Dim, ...]) -> tuple[str, tuple[str, ...], int]:
    """The field of `Rows` that says how many rows ``dims`` make, the axes over which they lie, and in how many chunks.

    The field is empty without dimensions.
    """
    names = {d.name for d in dims}
    which = "tokens" if "position" in names else "keys" if "context" in names else "requests" if dims else ""
    return which, tuple(a for d in dims for a in d.axes), prod(d.chunk.of for d in dims if d.chunk)


def count_type(type_: TensorType, rows: Rows, extents: Extents) -> Number:
    """Bytes of one value on one rank."""
    dims = tuple(d for d in type_.dims if d.name in PADDED)
    fixed = extents.product(d for d in type_.dims if d.name not in PADDED) * item_bytes(type_.dtype)
    return count_bytes(((dims, fixed),), rows, extents)
