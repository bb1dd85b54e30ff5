"""The arithmetic of several residual streams, and of activations that few elements of pass."""

from __future__ import annotations

import numpy as np

from plandsl.ir.meaning import Array
from plandsl.ir.meaning.elementwise import rms_norm


def spread(x: Array, along: int, count: int, first: int) -> Array:
    """``count`` copies of ``x`` along a new dimension ``along``, the ones before copy ``first`` zero."""
    out: Array = np.stack([x if item >= first else np.zeros_like(x) for item in range(count)], axis=along)
    return out


def mix(x: Array, weights: Array) -> Array:
    """``out_sh = sum_r weights_rs x_rh`` for each token."""
    out: Array = np.einsum("...rh,...rs->...sh", x, weights)
    return out


def match(x: Array, like: Array) -> Array:
    """``x``, each row with the root mean square of ``like``."""
    out: Array = rms_norm(x, -1) * np.sqrt((like * like).mean(-1, keepdims=True))
    return out


def excess(x: Array, sums: Array, along: int, count: int, z: float) -> Array:
    """``max(x - mean - z std, 0)``, with the mean and the deviation of ``count`` elements from their ``sums``."""
    mean, square = np.moveaxis(sums, -1, 0) / count
    std = np.sqrt(np.maximum(square - mean * mean, 0.0))
    cut = np.expand_dims(mean + z * std, along)
    out: Array = np.maximum(x - cut, 0.0)
    return out
