"""The arithmetic of adapters: each request has a matrix of its own."""

from __future__ import annotations

import numpy as np

from plandsl.ir.meaning import Array


def own_matrices(matrices: Array, chosen: Array) -> Array:
    """The matrix of each request's adapter, ``[batch, ...]``, of ``matrices [adapters, ...]``.

    ``chosen [batch]`` are numbers of adapters. A request whose number is that of ``adapters`` has none: zeros.
    """
    count = matrices.shape[0]
    here = (chosen < count).reshape((-1,) + (1,) * (matrices.ndim - 1))
    out: Array = np.where(here, matrices[np.minimum(chosen, count - 1)], 0)
    return out
