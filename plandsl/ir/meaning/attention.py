"""The arithmetic of attention on numpy arrays."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from plandsl.ir.meaning import Array

ROPE_BASE = 10_000.0


def rope(x: Array, positions: Array, along: int, first: int | None = None) -> Array:
    """Rotate the two halves of the last dimension of ``x``, or of its ``first`` elements, by each position's angle.

    ``positions`` are the global positions along dimension ``along`` of ``x``.
    """
    if first is not None:
        return np.concatenate([rope(x[..., :first], positions, along), x[..., first:]], axis=-1)
    half = x.shape[-1] // 2
    angles = positions[:, None] * ROPE_BASE ** (-np.arange(half) / half)
    shape = [1] * x.ndim
    shape[along], shape[-1] = len(positions), half
    cos, sin = np.cos(angles).reshape(shape), np.sin(angles).reshape(shape)
    a, b = x[..., :half], x[..., half:]
    return np.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)


class Mask(NamedTuple):
    """The keys that each query sees, from the positions of queries ``[position]`` and keys ``[context]``.

    With ``window`` w, the query at p sees keys at p - w + 1 to p; if attention is not causal, to p + w - 1. With
    ``chunk`` c, it sees only keys in its own chunk of c positions. A negative position is that of no key. ``among``
    ``[batch, position, picks]`` are the positions of the keys that each query picked: it sees no other keys.
    """

    queries: Array
    keys: Array
    causal: bool = True
    window: int = 0
    chunk: int | None = None
    among: Array | None = None

    def seen(self) -> Array:
        """Whether each query sees each key: ``[position, context]``, or ``[batch, 1, position, context]`` of picks."""
        ahead = self.keys[None, :] - self.queries[:, None]
        seen = (ahead <= 0 if self.causal else np.ones_like(ahead, dtype=bool)) & (self.keys >= 0)
        if self.window:
            seen = seen & (ahead > -self.window) & (ahead < self.window)
        if self.chunk:
            seen = seen & (self.keys[None, :] // self.chunk == self.queries[:, None] // self.chunk)
        if self.among is not None:
            seen = seen & (self.among[:, None, :, None, :] == self.keys[:, None]).any(axis=-1)
        return seen


class Change(NamedTuple):
    """How a score differs from a product of query and key: ``softcap * tanh(score / softcap)``, less the distance times
    the slope of its head (``slopes: [heads]``).
    """

    softcap: float | None = None
    slopes: Array | None = None

    def apply(self, scores: Array, mask: Mask) -> Array:
        """The scores ``[batch, heads, position, context]`` of attention."""
        if self.softcap is not None:
            scores = self.softcap * np.tanh(scores / self.softcap)
        if self.slopes is None:
            return scores
        distance = np.abs(mask.keys[None, :] - mask.queries[:, None])
        out: Array = scores - self.slopes[:, None, None] * distance
        return out


PLAIN = Change()
"""Scores as they are."""


def alibi_slopes(heads: int) -> Array:
    """The slope of each of ``heads`` heads: for a power of two, ``2^(-8 i / heads)`` with i from 1.

    Other numbers of heads add every second slope of the next power of two (Press et al., "Train Short, Test Long",
    2022; `build_alibi_tensor` of Bloom in huggingface/transformers).
    """
    whole = 2 ** (heads.bit_length() - 1)
    slopes = 2.0 ** (-8.0 / whole * np.arange(1, whole + 1))
    more = 2.0 ** (-4.0 / whole * np.arange(1, 2 * (heads - whole), 2))
    return np.concatenate([slopes, more])


def attention(q: Array, k: Array, v: Array, mask: Mask, sinks: Array | None = None, change: Change = PLAIN) -> Array:
    """``softmax(q k^T / sqrt(head_dim)) v``, with a key and a value head for each query head.

    ``q: [batch, position, heads, head_dim]``, ``k, v: [batch, context, heads, head_dim]``. ``sinks: [heads]`` are the
    logits of one more key per head, whose value is zero.
    """
    return _softmax(change.apply(_scores(q, k), mask), mask, v, sinks)[0]


def partial_attention(
    q: Array, k: Array, v: Array, mask: Mask, sinks: Array | None = None, change: Change = PLAIN
) -> Array:
    """`attention` over some of the keys: ``[batch, position, heads, head_dim + 1]``.

    The last element of a row is the log-sum-exp of its scores. Where a query sees no key, it is minus infinity, and the
    other elements are zero.
    """
    return np.concatenate(_softmax(change.apply(_scores(q, k), mask), mask, v, sinks), axis=-1)


def latent_attention(
    q: tuple[Array, Array],
    k: tuple[Array, Array],
    v: Array,
    mask: Mask,
    scale: float,
    *,
    partial: bool = False,
    change: Change = PLAIN,
) -> Array:
    """``softmax((q k^T + q_rope k_rope^T) scale) v``; with ``partial``, over some of the keys (`partial_attention`).

    ``q`` is ``(q, q_rope)``, both ``[batch, position, heads, ...]``. ``k`` is ``(k, k_rope)``: ``[batch, context,
    heads, ...]`` and ``[batch, context, ...]``. Keys and values without a dimension of heads serve all heads.
    """
    each = "bchd" if k[0].ndim == 4 else "bcd"
    scores = np.einsum(f"bphd,{each}->bhpc", q[0], k[0]) + np.einsum("bphd,bcd->bhpc", q[1], k[1])
    mean, statistic = _softmax(change.apply(scores * scale, mask), mask, v)
    return np.concatenate([mean, statistic], axis=-1) if partial else mean


def pick_keys(q: Array, k: Array, w: Array | None, mask: Mask, top_k: int) -> Array:
    """The positions of the ``top_k`` keys with the largest scores of each query, -1 where it sees fewer keys.

    ``q: [batch, position, heads, dim]``, ``k: [batch, context, dim]``, ``w: [batch, position, heads]``; keys are in the
    order of their positions, and of equal scores the first is picked.
    """
    each = np.maximum(np.einsum("bphd,bcd->bphc", q, k), 0.0)
    scores = each.sum(axis=2) if w is None else np.einsum("bphc,bph->bpc", each, w)
    scores = np.where(mask.seen(), scores.astype(np.float32), -np.inf)
    best = np.argsort(-scores, axis=-1, stable=True)[:, :, :top_k]
    found = np.where(np.take_along_axis(scores, best, axis=-1) > -np.inf, mask.keys[best], -1)
    fewer = max(top_k - found.shape[-1], 0)
    out: Array = np.pad(found, ((0, 0), (0, 0), (0, fewer)), constant_values=-1)
    return out


def _scores(q: Array, k: Array) -> Array:
    out: Array = np.einsum("bphd,bchd->bhpc", q, k) / np.sqrt(q.shape[-1])
    return out


def _softmax(scores: Array, mask: Mask, v: Array, sinks: Array | None = None) -> tuple[Array, Array]:
    """The mean of ``v`` weighted by the softmax of ``scores``, and the log-sum-exp of the scores.

    ``scores: [batch, heads, position, context]``; both results are ``[batch, position, heads, ...]``, the second with
    one element per row.
    """
    scores = np.where(mask.seen(), scores, -np.inf)
    highest = scores.max(axis=-1, keepdims=True, initial=-np.inf)
    if sinks is not None:
        highest = np.maximum(highest, sinks[:, None, None])
    base = np.where(np.isfinite(highest), highest, 0.0)
    weights = np.exp(scores - base)
    total = weights.sum(axis=-1, keepdims=True)
    if sinks is not None:
        total = total + np.exp(sinks[:, None, None] - base)
    each = "bchd" if v.ndim == 4 else "bcd"
    mean: Array = np.einsum(f"bhpc,{each}->bphd", weights / np.where(total > 0, total, 1.0), v)
    with np.errstate(divide="ignore"):
        statistic = (base + np.log(total)).transpose(0, 2, 1, 3)
    return mean, statistic
