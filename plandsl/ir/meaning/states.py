"""The arithmetic of layers with a state: short convolutions, and one token of a recurrence."""

from __future__ import annotations

import numpy as np

from plandsl.ir.meaning import Array


def convolve(taps: Array, tokens: Array, bias: Array | float = 0.0) -> Array:
    """``y_t = sum_i taps_i tokens_(t + i) + bias``, each channel by itself.

    ``taps: [width, channels...]``, ``tokens: [batch, width - 1 + position, channels...]``, with the tokens before the
    step in front; the result has ``position`` tokens.
    """
    width = taps.shape[0]
    count = tokens.shape[1] - width + 1
    made = taps[0] * tokens[:, :count]
    for n in range(1, width):
        made = made + taps[n] * tokens[:, n : n + count]
    return made + bias


def unit_length(q: Array, k: Array) -> tuple[Array, Array]:
    """Queries and keys divided by their lengths, and queries by ``sqrt(n)``; n is the size of the last dimension."""
    q, k = (x / np.sqrt((x * x).sum(-1, keepdims=True) + 1e-6) for x in (q, k))
    return q / np.sqrt(q.shape[-1]), k


def decay_of(rate: Array, step: Array) -> Array:
    """The factor ``exp(-exp(rate) step)`` of a state at each token."""
    out: Array = np.exp(-np.exp(rate) * step)
    return out


def decay_slopes(heads: int) -> Array:
    """The factor of the state of each of ``heads`` heads: ``exp(-2^(-8 (h + 1) / heads))`` for head h, from 0."""
    out: Array = np.exp(-(2.0 ** (-8.0 * np.arange(1, heads + 1) / heads)))
    return out


def join_tails(kept: Array, tails: list[Array]) -> Array:
    """The last tokens before a block: of ``kept: [batch, width - 1, ...]``, then of ``tails``, those of blocks.

    Each of ``tails`` has as many tokens as its block, at most ``width - 1``.
    """
    tokens = np.concatenate([kept, *tails], axis=1)
    return tokens[:, tokens.shape[1] - kept.shape[1] :]


def pass_block(state: Array, does: Array, delta: bool) -> Array:
    """``A S + B``: ``state: [batch, heads, n, p]`` after a block of positions.

    ``does: [batch, heads, n, columns]`` has the p columns of B, then those of A (`plandsl.ir.states.BlockState`).
    """
    p = state.shape[-1]
    added, moves = does[..., :p], does[..., p:]
    return (moves @ state if delta else moves * state) + added


def recur_token(
    state: Array, q: Array, k: Array, v: Array, decay: Array, write: Array, delta: bool
) -> tuple[Array, Array]:
    """The state after one token, and what the token reads of it, without `skip` (see `plandsl.ir.states.Recurrence`).

    ``state: [batch, heads, n, p]``, ``q, k: [batch, heads, n]``, ``v: [batch, heads, p]``, ``write: [batch, heads]``;
    ``decay`` is as ``k``, or has 1 in the place of n.
    """
    state = state * decay[..., None]
    new = v - np.einsum("bhnp,bhn->bhp", state, k) if delta else v
    state = state + k[..., None] * (new * write[..., None])[:, :, None]
    return state, np.einsum("bhnp,bhn->bhp", state, q)
