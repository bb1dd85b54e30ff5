"""The arithmetic of embeddings, norms, and the last token."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from plandsl.ir.meaning import Array

EPSILON = 1e-6


def embed(ids: Array, table: Array, first: int = 0) -> Array:
    """Rows of ``table``, whose first row is row ``first`` of the whole table; a row outside it counts as zeros."""
    if table.shape[0] == 0:
        return np.zeros(ids.shape + table.shape[1:])
    rows = ids - first
    here = (rows >= 0) & (rows < table.shape[0])
    return np.where(here.reshape(ids.shape + (1,) * (table.ndim - 1)), table[np.clip(rows, 0, table.shape[0] - 1)], 0.0)


def rms_norm(x: Array, along: int) -> Array:
    """``x`` over the root of its mean square along dimension ``along``."""
    count = max(x.shape[along], 1)
    out: Array = x / np.sqrt((x * x).sum(along, keepdims=True) / count + EPSILON)
    return out


def layer_norm(x: Array, along: int) -> Array:
    """``x`` less its mean along dimension ``along``, then as `rms_norm`."""
    return rms_norm(x - x.sum(along, keepdims=True) / max(x.shape[along], 1), along)


def moments(x: Array, along: int) -> Array:
    """The sum and the sum of squares along dimension ``along``, in a last dimension of two."""
    out: Array = np.stack([x.sum(along), (x * x).sum(along)], axis=-1)
    return out


def norm_sums(x: Array, along: int) -> Array:
    """The sum of squares of ``x`` along dimension ``along``."""
    out: Array = (x * x).sum(along)
    return out


def rms_norm_by(x: Array, along: int, sums: Array, count: int) -> Array:
    """`rms_norm` of a part of ``count`` values, whose `norm_sums` over all parts are known."""
    out: Array = x / np.sqrt(np.expand_dims(sums, along) / count + EPSILON)
    return out


def layer_norm_by(x: Array, along: int, sums: Array, count: int) -> Array:
    """`layer_norm` of a part of ``count`` values, whose `moments` over all parts are known."""
    mean, squares = (np.expand_dims(sums[..., i], along) / count for i in range(2))
    out: Array = (x - mean) / np.sqrt(np.maximum(squares - mean * mean, 0.0) + EPSILON)
    return out


def grouped_norm(norm: Callable[[Array, int], Array], x: Array, along: int, each: int) -> Array:
    """``norm`` over dimension ``along`` and ``each`` neighbours of the dimension before it, which hold whole groups."""
    shape = x.shape
    joined = x.reshape(*shape[: along - 1], shape[along - 1] // each, each * shape[along], *shape[along + 1 :])
    return norm(joined, along).reshape(shape)


def merge_tokens(x: Array, along: int, tokens: int, joins: bool) -> Array:
    """One row of each ``tokens`` neighbours along dimension ``along``; rows of zeros follow the last one.

    The rows are joined along the last dimension (``joins``), or their mean is taken.
    """
    count = -(-x.shape[along] // tokens)
    pad = [(0, 0)] * x.ndim
    pad[along] = (0, count * tokens - x.shape[along])
    shape = (*x.shape[:along], count, tokens, *x.shape[along + 1 :])
    apart = np.pad(x, pad).reshape(shape)
    if not joins:
        mean: Array = apart.sum(axis=along + 1) / tokens
        return mean
    near = np.moveaxis(apart, along + 1, -2)
    out: Array = near.reshape((*near.shape[:-2], near.shape[-2] * near.shape[-1]))
    return out


def last_token(x: Array, along: int, row: int) -> Array:
    """Row ``row`` of dimension ``along``; zeros where ``x`` has no such row."""
    if x.shape[along] == 0:
        none: Array = x.sum(axis=along)
        return none
    here = (row >= 0) & (row < x.shape[along])
    out: Array = np.where(here, np.take(x, np.clip(row, 0, x.shape[along] - 1), axis=along), 0.0)
    return out
