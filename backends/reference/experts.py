"""Mixture of experts on one device: which experts a token goes to, and what comes back from them."""

from __future__ import annotations

import numpy as np

from plandsl.backends.reference.placement import Array
from plandsl.ir.experts import TopK


def gates(logits: Array, bias: Array | None, op: TopK) -> Array:
    """The share of each expert ``[tokens, experts]``: those of the chosen, and zero elsewhere.

    By the logits alone, so that every rank that has them finds the same; of equal scores the first expert's counts.
    """
    shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
    scores = shifted / shifted.sum(axis=-1, keepdims=True)
    if op.score == "sigmoid":
        scores = 0.5 * (1.0 + np.tanh(0.5 * logits))
    # scores grow with logits, which stay apart where scores are rounded to one
    chosen = np.argsort(-(logits if bias is None else scores + bias), axis=-1, kind="stable")[..., : op.top_k]
    picked = np.take_along_axis(scores, chosen, axis=-1)
    if op.normalize:
        picked = picked / picked.sum(axis=-1, keepdims=True)
    out: Array = np.zeros_like(scores)
    np.put_along_axis(out, chosen, picked * op.scale, axis=-1)
    return out


def dispatch(x: Array, share: Array, weighs: bool = False) -> Array:
    """``x [tokens, ...]`` at the places of ``share [tokens, experts]`` that hold anything; ``weighs``: times that."""
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
