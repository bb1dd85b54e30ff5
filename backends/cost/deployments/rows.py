"""Bytes of values that are alive together, from the numbers of rows in a step."""

from __future__ import annotations

from math import prod
from typing import NamedTuple

from plandsl.backends.cost.deployments.contents import RowBytes
from plandsl.backends.cost.num import ceil_div
from plandsl.ir.extents import Extents
from plandsl.ir.names import Merged
from plandsl.ir.types import Number, TensorType, makes_rows
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
        many = _count_rows({d.name for d in dims}, rows)
        parts = prod(d.chunk.of for d in dims if d.chunk)
        total = total + size * ceil_div(many, extents.ways(a for d in dims for a in d.axes) * parts)
    return total


def _count_rows(names: set[str], rows: Rows) -> Number:
    """The rows that dimensions called ``names`` make over all ranks."""
    if merged := next((n for n in names if isinstance(n, Merged)), None):
        return ceil_div(rows.tokens, merged.by)
    return rows.tokens if "position" in names else rows.keys if "context" in names else rows.requests if names else 1


def count_type(type_: TensorType, rows: Rows, extents: Extents) -> Number:
    """Bytes of one value on one rank."""
    dims = tuple(d for d in type_.dims if makes_rows(d.name))
    fixed = extents.product(d for d in type_.dims if not makes_rows(d.name)) * item_bytes(type_.dtype)
    return count_bytes(((dims, fixed),), rows, extents)
