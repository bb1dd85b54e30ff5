"""The arithmetic of a mixture of experts on numpy arrays: gates, dispatch and combine."""

from __future__ import annotations

import numpy as np

from plandsl.ir.meaning import Array


def gates(
    logits: Array,
    bias: Array | None = None,
    *,
    top_k: int = 1,
    score: str = "softmax",
    normalize: bool = True,
    scale: float = 1.0,
) -> Array:
    """The gate of each expert, ``[tokens, experts]``: zero for experts that are not chosen.

    It depends on the logits only, so that all ranks with the same logits agree. Among equal scores the first expert is
    chosen.
    """
    shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
    scores = shifted / shifted.sum(axis=-1, keepdims=True)
    if score == "sigmoid":
        scores = 0.5 * (1.0 + np.tanh(0.5 * logits))
    # scores grow with logits, and logits still differ where scores round to 1
    chosen = np.argsort(-(logits if bias is None else scores + bias), axis=-1, stable=True)[..., :top_k]
    picked = np.take_along_axis(scores, chosen, axis=-1)
    if normalize:
        picked = picked / picked.sum(axis=-1, keepdims=True)
    here = chosen[..., None] == np.arange(scores.shape[-1])
    out: Array = (here * (picked * scale)[..., None]).sum(axis=-2)
    return out


def dispatch(x: Array, share: Array, weighs: bool = False) -> Array:
    """Copy ``x [tokens, ...]`` to the experts with nonzero ``share [tokens, experts]``; ``weighs``: times the share."""
    tokens = share.ndim - 1
    there = share if weighs else share != 0
    out: Array = np.expand_dims(x, tokens) * there.reshape(share.shape + (1,) * (x.ndim - tokens))
    return out


def combine(x: Array, share: Array) -> Array:
    """The sum over experts of ``x [tokens, experts, ...]`` times ``share [tokens, experts]``."""
    along = share.ndim - 1
    weighted = x * share.reshape(share.shape + (1,) * (x.ndim - share.ndim))
    out: Array = weighted.sum(axis=along)
    return out
