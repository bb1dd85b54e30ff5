"""The parts of an exported program that are the same in each and run on a device."""

HEAD = """from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

EXACT = "--exact" in sys.argv  # every format is float64, for a comparison
if EXACT:
    jax.config.update("jax_enable_x64", True)

Array = jax.Array
WIDE = jnp.float64 if EXACT else jnp.float32  # of norms, softmaxes and sums
"""

ON_A_DEVICE = '''def wide(x: Array) -> Array:
    """``x`` in the format of norms, softmaxes and sums."""
    return x.astype(WIDE)


def gemm(dims: str, x: Array, w: Array, compute: Any, out: Any) -> Array:
    """The product of ``x`` and ``w``, multiplied in format ``compute`` and stored in format ``out``."""
    kept = WIDE if jnp.issubdtype(compute, jnp.floating) else jnp.int32
    return jnp.einsum(dims, x.astype(compute), w.astype(compute), preferred_element_type=kept).astype(out)


def positions(count: int, past: Array, index: Array | int = 0) -> Array:
    """The positions of ``count`` tokens of the rank that has part ``index`` of a step, after ``past`` tokens."""
    return past + index * count + jnp.arange(count)


def known(at: Array, total: Array) -> Array:
    """The positions of the slots of a cache; -1 for slots that no token of the first ``total`` has filled."""
    return jnp.where(at < total, at, -1)


def only_tokens(x: Array, along: int, count: Array) -> Array:
    """``x`` with zeros behind the first ``count`` rows of dimension ``along``, which are padding."""
    here = jnp.arange(x.shape[along]) < count
    return jnp.where(here.reshape((-1,) + (1,) * (x.ndim - 1 - along)), x, 0)


def own_part(x: Array, axes: Any, ways: int, along: int) -> Array:
    """This rank's part of dimension ``along``; nothing travels."""
    size = x.shape[along] // ways
    return lax.dynamic_slice_in_dim(x, lax.axis_index(axes) * size, size, along)


def split(x: Array, along: int, blocks: int, count: int) -> list[Array]:
    """Cut each of ``blocks`` blocks of dimension ``along`` into ``count`` parts; part i of all blocks is chunk i."""
    shape = x.shape[:along] + (blocks, x.shape[along] // blocks) + x.shape[along + 1 :]
    each, more = divmod(shape[along + 1], count)
    ends = [(i + 1) * each + min(i + 1, more) for i in range(count - 1)]
    parts = jnp.split(x.reshape(shape), ends, axis=along + 1)
    return [p.reshape(x.shape[:along] + (-1,) + x.shape[along + 1 :]) if p.size else
            jnp.zeros(x.shape[:along] + (0,) + x.shape[along + 1 :], x.dtype) for p in parts]


def join(chunks: list[Array], along: int, blocks: int) -> Array:
    """The inverse of `split`."""
    first = chunks[0].shape
    parts = [c.reshape(first[:along] + (blocks, c.shape[along] // blocks) + first[along + 1 :]) for c in chunks]
    whole = jnp.concatenate(parts, axis=along + 1)
    return whole.reshape(first[:along] + (blocks * whole.shape[along + 1],) + first[along + 1 :])


def unless_empty(x: Array, exchange: Callable[[Array], Array]) -> Array:
    """``exchange(x)``; of a chunk without rows, as empty a result."""
    return exchange(x) if x.size else jnp.zeros(jax.eval_shape(exchange, x).shape, x.dtype)


def rescale(x: Array, axes: Any, keep: bool = False) -> Array:
    """Weigh this rank's softmax over its own keys, so that the ranks along ``axes`` add up to the whole softmax.

    Only the log-sum-exps travel, which are the last element of each row; with ``keep``, the row keeps the sum of all.
    """
    every = lax.all_gather(x[..., -1:], axes)
    highest = every.max(axis=0)
    base = jnp.where(jnp.isfinite(highest), highest, 0.0)
    together = base + jnp.log(jnp.exp(every - base).sum(axis=0))
    own = jnp.exp(x[..., -1:] - jnp.where(jnp.isfinite(together), together, 0.0))
    mean = x[..., :-1] * own
    return jnp.concatenate([mean, together], axis=-1) if keep else mean


def ring(xs: list[Array], axis: str, ways: int, along: int) -> list[Array]:
    """Pass the parts of dimension ``along`` around the ranks of ``axis``; gives all parts, in the dimension's order."""
    steps = [(i, (i + 1) % ways) for i in range(ways)]

    def pass_on(held: list[Array], _: None) -> tuple[list[Array], list[Array]]:
        return lax.ppermute(held, axis, steps), held

    last, before = lax.scan(pass_on, xs, length=ways - 1)
    came = (lax.axis_index(axis) - jnp.arange(ways)) % ways
    found = []
    for x, blocks in zip(last, before, strict=True):
        whole = jnp.take(jnp.concatenate([blocks, x[None]]), came, axis=0)
        shape = x.shape[:along] + (ways * x.shape[along],) + x.shape[along + 1 :]
        found.append(jnp.moveaxis(whole, 0, along).reshape(shape))
    return found


def write_slots(kept: Array, new: Array, at: Array, first: Array) -> Array:
    """A cache ``kept`` whose slots hold the positions ``at``, with the rows ``new`` of positions from ``first`` on."""
    rows = at - first
    here = ((rows >= 0) & (rows < new.shape[1])).reshape((1, -1) + (1,) * (new.ndim - 2))
    return jnp.where(here, jnp.take(new, jnp.clip(rows, 0, new.shape[1] - 1), axis=1), kept)


def with_tail(kept: Array, x: Array, past: Array) -> Array:
    """``x [batch, position, channels...]`` behind the tokens that its convolution kept; zeros before the first."""
    return jnp.concatenate([jnp.where(past == 0, 0, kept).astype(x.dtype), x], axis=1)


def before_blocks(kept: Array, tails: Array, x: Array, past: Array, total: Array) -> Array:
    """The last tokens before each block of positions, and after the last one: ``[blocks + 1, batch, width - 1, ...]``.

    ``tails`` are those of all blocks; each has zeros in the place of tokens that its block lacks.
    """
    seen = [jnp.where(past == 0, 0, kept).astype(x.dtype)]
    for i, tail in enumerate(tails):
        live = jnp.clip(total - past - i * x.shape[1], 0, min(x.shape[1], tail.shape[1]))
        tokens = jnp.concatenate([seen[-1], jnp.zeros_like(tail)], axis=1)
        seen.append(lax.dynamic_slice_in_dim(tokens, live, tail.shape[1], 1) + tail)
    return jnp.stack(seen)


def block_tail(x: Array, count: int, past: Array, total: Array, index: Array) -> Array:
    """The last ``count`` tokens of block ``index`` of a step, behind zeros where it has fewer."""
    tokens = jnp.concatenate([jnp.zeros(x.shape[:1] + (count,) + x.shape[2:], x.dtype), x], axis=1)
    live = jnp.clip(total - past - index * x.shape[1], 0, x.shape[1])
    return lax.dynamic_slice_in_dim(tokens, live, count, 1)[None]


def block_state(
    k: Array, v: Array, *, decay: Array, write: Array | None = None, delta: bool = False,
    past: Array, total: Array, index: Array,
) -> Array:
    """What block ``index`` of a step does to a state: ``[1, batch, heads, n, columns]``, those of B and then of A."""
    v = v[..., None] if v.ndim == 3 else v
    n, shape = k.shape[-1], v.shape[:1] + v.shape[2:3]
    live = past + index * v.shape[1] + jnp.arange(v.shape[1]) < total
    begin = jnp.zeros(shape + (n, v.shape[-1]), v.dtype)
    if delta:
        begin = jnp.concatenate([begin, jnp.broadcast_to(jnp.eye(n, dtype=v.dtype), shape + (n, n))], axis=-1)
        v = jnp.concatenate([v, jnp.zeros(v.shape[:-1] + (n,), v.dtype)], axis=-1)
    end, _ = scan(begin, jnp.zeros_like(k), k, v, decay, write, delta, live)
    if not delta:
        each = jnp.broadcast_to(decay, v.shape[:3] + decay.shape[-1:])
        moves = jnp.prod(jnp.where(live[:, None, None], each, 1), axis=1)
        end = jnp.concatenate([end, jnp.broadcast_to(moves, shape + (n,))[..., None]], axis=-1)
    return end[None]


def scan(
    state: Array, q: Array, k: Array, v: Array, decay: Array, write: Array | None, delta: bool, live: Array
) -> tuple[Array, Array]:
    """The state after the last token, and what each token reads; tokens that are not ``live`` leave it as it is."""
    write = jnp.ones(v.shape[:3], WIDE) if write is None else write
    decay = jnp.broadcast_to(decay, v.shape[:3] + decay.shape[-1:])

    def token(state: Array, each: Any) -> tuple[Array, Array]:
        new, out = recur_token(state, *each[:-1], delta)
        return jnp.where(each[-1], new, state), out

    tokens = [jnp.moveaxis(x, 1, 0) for x in (q, k, v, decay, write)]
    return lax.scan(token, state, (*tokens, live))


def recurrence(
    kept: Array, q: Array, k: Array, v: Array, *, decay: Array, write: Array | None = None, skip: Array | None = None,
    delta: bool = False, past: Array, total: Array, does: Array | None = None, index: Array | int = 0,
) -> tuple[Array, Array]:
    """What the tokens of a step read of the state, as ``v [batch, position, heads, p]``, and the state after the last.

    Tokens run one by one. Those from ``total`` on are padding, and leave the state as it is. Without p, each head has
    one value. ``does`` is what all blocks of positions do to a state, where these tokens are block ``index``.
    """
    flat = v.ndim == 3
    kept, v = (kept[..., None], v[..., None]) if flat else (kept, v)
    live = past + index * v.shape[1] + jnp.arange(v.shape[1]) < total
    states = [jnp.where(past == 0, 0, wide(kept))]
    for each in () if does is None else does:
        states.append(pass_block(states[-1], each, delta))
    state, outs = scan(jnp.stack(states)[index], q, k, v, decay, write, delta, live)
    state = state if does is None else states[-1]
    out = jnp.moveaxis(outs, 0, 1)
    out = out if skip is None else out + skip[:, None] * v
    return (out[..., 0], state[..., 0]) if flat else (out, state)


def layers(block: Callable, w: Any, cache: Any, x: Array, *step: Array, at: Any = None) -> Any:
    """Run ``block`` for each layer that the arrays of ``w`` and ``cache`` stack, or for those of the range ``at``."""
    some = (w, cache) if at is None else jax.tree.map(lambda a: a[at[0] : at[1]], (w, cache))
    x, new = lax.scan(lambda x, each: block(*each, x, *step), x, some)
    if at is not None:
        new = jax.tree.map(lambda a, b: a.at[at[0] : at[1]].set(b), cache, new)
    return x, new
'''
