"""Bytes of values that are alive together, from the numbers of rows in a step."""

from __future__ import annotations

from functools import lru_cache
from math import prod
from typing import NamedTuple

from plandsl.backends.cost.deployments.contents import RowBytes
from plandsl.backends.cost.num import ceil_div
from plandsl.ir.extents import Extents
from plandsl.ir.names import Merged
from plandsl.ir.types import Dim, Number, TensorType, makes_rows
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
        which, merged, axes, parts = _read_dims(dims)
        many = ceil_div(getattr(rows, which), merged) if which else 1
        total = total + size * ceil_div(many, extents.ways(axes) * parts)
    return total


@lru_cache(maxsize=4096)
def _read_dims(dims: tuple[Dim, ...]) -> tuple[str, int, tuple[str, ...], int]:
    """The field of `Rows` that ``dims`` count, how many rows are merged into one, the axes that share them, and chunks.

    The field is empty without dimensions.
    """
    names = {d.name for d in dims}
    merged = next((n.by for n in names if isinstance(n, Merged)), 0)
    which = "tokens" if merged or "position" in names else "keys" if "context" in names else "requests" if dims else ""
    return which, merged or 1, tuple(a for d in dims for a in d.axes), prod(d.chunk.of for d in dims if d.chunk)


def count_type(type_: TensorType, rows: Rows, extents: Extents) -> Number:
    """Bytes of one value on one rank."""
    dims = tuple(d for d in type_.dims if makes_rows(d.name))
    fixed = extents.product(d for d in type_.dims if not makes_rows(d.name)) * item_bytes(type_.dtype)
    return count_bytes(((dims, fixed),), rows, extents)
