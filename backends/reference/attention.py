"""The arithmetic of attention on plain arrays."""

from __future__ import annotations

import numpy as np

from plandsl.backends.reference.placement import Array

ROPE_BASE = 10_000.0


def rope(x: Array, positions: Array, along: int) -> Array:
    """Turn the two halves of the last dimension of ``x`` by the angle of each position.

    ``positions`` are global and belong to dimension ``along`` of ``x``.
    """
    half = x.shape[-1] // 2
    angles = positions[:, None] * ROPE_BASE ** (-np.arange(half) / half)
    shape = [1] * x.ndim
    shape[along], shape[-1] = len(positions), half
    cos, sin = np.cos(angles).reshape(shape), np.sin(angles).reshape(shape)
    a, b = x[..., :half], x[..., half:]
    return np.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)


def visible(positions: Array, context: int | Array, *, causal: bool, window: int) -> Array:
    """Which of ``context`` keys, or of those at the positions ``context``, each query may see: ``[position, context]``.

    With a window, a query sees that many keys up to its own; where attention is not causal, as many after.
    """
    keys = np.arange(context) if isinstance(context, int) else context
    ahead = keys[None, :] - positions[:, None]
    seen = ahead <= 0 if causal else np.ones_like(ahead, dtype=bool)
    if window:
        seen = seen & (ahead > -window) & (ahead < window)
    return seen


def attention(q: Array, k: Array, v: Array, positions: Array, *, causal: bool, window: int) -> Array:
    """``softmax(q k^T / sqrt(head_dim)) v``, each query head with its own key and value head.

    ``q: [batch, position, heads, head_dim]``, ``k, v: [batch, context, heads, head_dim]``; ``positions`` are
    the global positions of the queries.
    """
    scores = np.einsum("bphd,bchd->bhpc", q, k) / np.sqrt(q.shape[-1])
    seen = visible(positions, k.shape[1], causal=causal, window=window)
    scores = np.where(seen, scores, -np.inf)
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    out: Array = np.einsum("bhpc,bchd->bphd", weights / weights.sum(axis=-1, keepdims=True), v)
    return out


def partial_attention(
    q: Array, k: Array, v: Array, positions: Array, keys: Array, *, causal: bool, window: int
) -> Array:
    """`attention` over some of the keys, those at the positions ``keys``: ``[batch, position, heads, head_dim + 1]``.

    The last element of a row is the log-sum-exp of its scores; where no key is visible that is minus infinity, and the
    others are zero.
    """
    scores = np.einsum("bphd,bchd->bhpc", q, k) / np.sqrt(q.shape[-1])
    scores = np.where(visible(positions, keys, causal=causal, window=window), scores, -np.inf)
    highest = scores.max(axis=-1, keepdims=True, initial=-np.inf)
    weights = np.exp(scores - np.where(np.isfinite(highest), highest, 0.0))
    total = weights.sum(axis=-1, keepdims=True)
    mean = np.einsum("bhpc,bchd->bphd", weights / np.where(total > 0, total, 1.0), v)
    with np.errstate(divide="ignore"):
        statistic = (highest + np.log(total)).transpose(0, 2, 1, 3)
    return np.concatenate([mean, statistic], axis=-1)


def latent_attention(
    q: tuple[Array, Array],
    k: tuple[Array, Array],
    v: Array,
    positions: Array,
    scale: float,
    *,
    causal: bool,
    window: int,
) -> Array:
    """``softmax((q k^T + q_rope k_rope^T) scale) v``.

    ``q: [batch, position, heads, ...]`` twice, the second with positions; ``k: [batch, context, heads, ...]`` and
    ``[batch, context, ...]``. Keys and values without heads of their own serve all of them.
    """
    each = "bchd" if k[0].ndim == 4 else "bcd"
    scores = np.einsum(f"bphd,{each}->bhpc", q[0], k[0]) + np.einsum("bphd,bcd->bhpc", q[1], k[1])
    seen = visible(positions, k[1].shape[1], causal=causal, window=window)
    scores = np.where(seen, scores * scale, -np.inf)
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    each = "bchd" if v.ndim == 4 else "bcd"
    out: Array = np.einsum(f"bhpc,{each}->bphd", weights / weights.sum(axis=-1, keepdims=True), v)
    return out
