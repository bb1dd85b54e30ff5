"""The meaning of ops that compute, on one device and from its own arrays only."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import TypeAlias, assert_never

import numpy as np
from attrs import frozen

from plandsl.backends.reference.placement import Array, Held, Mismatch, Placement, Range, Shards, positions
from plandsl.ir.adapters import AdapterGemm
from plandsl.ir.base import BaseOp
from plandsl.ir.chunks import Chunks, Join, Split
from plandsl.ir.compute import (
    AddNorm,
    Attention,
    Compute,
    Concat,
    Embed,
    Gemm,
    Ids,
    LastToken,
    Map,
    Merge,
    Norm,
    Quantize,
    Rope,
    Scale,
)
from plandsl.ir.earlier import Item
from plandsl.ir.experts import Combine, Dispatch, Routing, TopK
from plandsl.ir.functions import FUNCTIONS, GATES, PLUS
from plandsl.ir.index import PickKeys
from plandsl.ir.latent import Latent, LatentAttention
from plandsl.ir.limits import NONE, read_limits
from plandsl.ir.meaning import elementwise, experts, streams
from plandsl.ir.meaning.adapters import own_matrices
from plandsl.ir.meaning.attention import (
    Change,
    Mask,
    alibi_slopes,
    attention,
    latent_attention,
    partial_attention,
    pick_keys,
    rope,
)
from plandsl.ir.names import axes_of, stem
from plandsl.ir.norms import NormSums
from plandsl.ir.streams import Excess, Match, Mix, Moments, Spread, Stack, Streams
from plandsl.ir.types import TensorType, Value

OnDevice: TypeAlias = Compute | NormSums | Item | Streams | Latent | PickKeys | Routing | Chunks
"""Ops that a device runs on its own arrays."""

Routed: TypeAlias = TopK | Dispatch | Combine

OPERATORS: dict[str, Callable[..., Array]] = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    PLUS: lambda x: x,
}
"""The functions of a `Map` besides the functions of one tensor; its limits are applied first."""


NORMS = {
    "rms_norm": (elementwise.rms_norm, elementwise.rms_norm_by),
    "layer_norm": (elementwise.layer_norm, elementwise.layer_norm_by),
}
"""The functions of a `Norm`: of whole rows, and of parts of rows with the sums of the whole."""


def function_of(fn: str) -> Callable[..., Array]:
    """The numpy function of a `Map` with this ``fn``. Raises Mismatch for an unknown name."""
    if fn in OPERATORS:
        return OPERATORS[fn]
    for one in FUNCTIONS:
        if fn == one.word:
            return partial(one.of, np)
        if fn == GATES.get(one.word):
            return lambda a, b: one.of(np, a) * b
    raise Mismatch(f"no function is called '{fn}'")


@frozen
class Local:
    """One device in one step: its arrays by name, and the part of each tensor that they are.

    ``past`` counts the tokens that were in the cache before this step; ``ids`` ``[batch, position]`` are its tokens,
    ``requests`` ``[batch]`` the numbers of its requests. ``layer`` is None outside of layers.
    """

    rank: int
    place: Placement
    values: Mapping[str, Shards]
    past: int
    ids: Array
    requests: Array
    layer: int | None = None

    def array(self, value: Value) -> Array:
        """This device's part of ``value``."""
        shards = self.values.get(value.name, {})
        if self.rank not in shards:
            raise Mismatch(f"rank {self.rank} holds no part of {value}")
        return shards[self.rank]

    def held_range(self, value: Value, name: str) -> Range:
        """The global range of dimension ``name`` that this part covers."""
        return self.place.held_range(value.type.dim(name), self.rank)

    def held_ranges(self, value: Value, name: str) -> Held:
        """The global ranges of dimension ``name`` that this device's part covers."""
        return self.place.held_ranges(value.type.dim(name), self.rank)

    def positions(self, keys: Value) -> Array:
        """The positions of the tokens in this device's part of ``keys``."""
        return positions(self.held_ranges(keys, "context"))

    def check_ranges(self, op: BaseOp, *values: Value) -> None:
        """Raise Mismatch unless the values cover the same range of each dimension that they share."""
        seen: dict[str, Held] = {}
        for value in values:
            for dim in value.type.dims:
                here = self.held_ranges(value, dim.name)
                if seen.setdefault(stem(dim.name), here) != here:
                    other = seen[stem(dim.name)]
                    why = f"rank {self.rank} meets {dim.name} {_show(other)} with {_show(here)} of {value}"
                    raise Mismatch(f"{op.keyword}: {why}")


def _show(held: Held) -> str:
    return ", ".join(f"{a}..{b}" for a, b in held) or "nothing"


def compute(op: OnDevice, here: Local) -> tuple[Array, ...]:
    """The results of ``op`` on one device."""
    match op:
        case Embed():
            return (_embed(op, here),)
        case Ids():
            return (_ids(op, here),)
        case Norm():
            here.check_ranges(op, *op.operands)
            return (_norm(here.array(op.x), op, op.x.type, here, op.sums),)
        case NormSums():
            along = op.x.type.names.index(op.over)
            return (elementwise.norm_sums(here.array(op.x), along),)
        case AddNorm():
            here.check_ranges(op, *op.operands)
            total = here.array(op.a) + here.array(op.b)
            return (total, _norm(total, op, op.a.type, here))
        case TopK() | Dispatch() | Combine():
            return (_routing(op, here),)
        case Gemm():
            return tuple(_gemm(op, i, here) for i in range(len(op.weights)))
        case Rope():
            return tuple(_rope(x, op.first, here) for x in op.xs)
        case Map():
            return (_map(op, here),)
        case Concat():
            return (np.concatenate([here.array(x) for x in op.xs], axis=-1),)
        case Item():
            at = here.layer if op.at is None else op.at
            assert at is not None, "an op that asks for its layer stands in a block"
            return (np.take(here.array(op.x), at, axis=op.x.type.names.index(op.over)),)
        case Stack() | Spread() | Mix() | Match() | Moments() | Excess():
            return (_streams(op, here),)
        case Merge():
            along = op.x.type.names.index("position")
            return (elementwise.merge_tokens(here.array(op.x), along, op.tokens, op.joins),)
        case Scale():
            return (here.array(op.x) * op.by,)
        case Quantize():
            return (here.array(op.x),)
        case Attention():
            return (_attention(op, here),)
        case LatentAttention():
            return (_latent_attention(op, here),)
        case PickKeys():
            return (_pick_keys(op, here),)
        case LastToken():
            return (_last_token(op, here),)
        case Split():
            return tuple(_chunk(op, out, here) for out in op.outs)
        case Join():
            return (_join(op, here),)
        case _:
            assert_never(op)


def _streams(op: Streams, here: Local) -> Array:
    match op:
        case Stack():
            return np.stack([here.array(x) for x in op.xs], axis=op.out.type.names.index(op.into))
        case Spread():
            along = op.out.type.names.index(op.into)
            return streams.spread(here.array(op.x), along, here.place.sizes[op.into], op.first)
        case Mix():
            return streams.mix(here.array(op.x), here.array(op.weights))
        case Match():
            return streams.match(here.array(op.x), here.array(op.like))
        case Moments():
            return elementwise.moments(here.array(op.x), op.x.type.names.index(op.over))
        case Excess():
            along, count = op.x.type.names.index(op.over), here.place.sizes[op.over]
            return streams.excess(here.array(op.x), here.array(op.moments), along, count, op.deviations)
        case _:
            assert_never(op)


def _chunk(op: Split, out: Value, here: Local) -> Array:
    rows = here.place.rows(out.type.dim(op.dim), here.rank)
    return np.take(here.array(op.x), rows, axis=op.x.type.names.index(op.dim))


def _join(op: Join, here: Local) -> Array:
    """Put every chunk at its place; a row of no chunk is NaN."""
    out = np.full(here.place.shape(op.out.type, here.rank), np.nan)
    at = op.out.type.names.index(op.dim)
    for x in op.xs:
        rows = here.place.rows(x.type.dim(op.dim), here.rank)
        out[(slice(None),) * at + (rows,)] = here.array(x)
    return out


def _ids(op: Ids, here: Local) -> Array:
    if op.of == "token":
        return here.ids
    numbers = np.zeros_like(here.ids)
    return numbers if op.of == "type" else numbers + np.arange(here.ids.shape[1]) + here.past


def _embed(op: Embed, here: Local) -> Array:
    """Rows of the table; a row that another rank holds counts as zeros."""
    start, _ = here.place.held_range(op.table.type.dims[0], here.rank)
    return elementwise.embed(here.array(op.ids), here.array(op.table), start)


def _norm(x: Array, op: Norm | AddNorm, type_: TensorType, here: Local, sums: Value | None = None) -> Array:
    along = type_.names.index(op.over)
    if op.fn not in NORMS:
        raise Mismatch(f"no norm is called '{op.fn}'")
    whole, by = NORMS[op.fn]
    if isinstance(op, Norm) and op.groups is not None:
        each = here.place.sizes[op.heads] // here.place.sizes[op.groups]
        if any(end % each for end in here.held_range(op.x, op.heads)):
            raise Mismatch(f"rank {here.rank} holds a part of a group of {op.heads} in {op.x}")
        whole = partial(elementwise.grouped_norm, whole, each=each)
    out = whole(x, along) if sums is None else by(x, along, here.array(sums), here.place.sizes[op.over])
    return out if op.gain is None else out * _align(op.gain, type_.names, here)


def _align(value: Value, names: tuple[str, ...], here: Local) -> Array:
    """A device's part of ``value``, with its dimensions in the order of ``names``; missing dimensions get length 1."""
    array = here.array(value)
    own, all_ = [stem(n) for n in value.type.names], [stem(n) for n in names]
    order = sorted(range(array.ndim), key=lambda i: all_.index(own[i]))
    lengths = dict(zip(own, array.shape, strict=True))
    return array.transpose(order).reshape([lengths.get(n, 1) for n in all_])


def _gemm(op: Gemm, i: int, here: Local) -> Array:
    weight, out = op.weights[i], op.outs[i]
    here.check_ranges(op, op.x, weight)
    if isinstance(op, AdapterGemm):
        return _adapter_gemm(op, weight, out, here)
    letters = {n: k for k, n in enumerate(dict.fromkeys(map(stem, (*op.x.type.names, *weight.type.names))))}
    x, w, y = ([letters[stem(n)] for n in t.type.names] for t in (op.x, weight, out))
    result: Array = np.einsum(here.array(op.x), x, here.array(weight), w, y)
    return result


def _adapter_gemm(op: AdapterGemm, weight: Value, out: Value, here: Local) -> Array:
    """Each request with its own adapter, or with none."""
    start, stop = here.held_range(op.x, "batch")
    matrices = here.array(weight)
    own = here.requests[start:stop] % (len(matrices) + 1)
    chosen = own_matrices(matrices, own)
    names = "batch", *weight.type.names[1:]
    letters = {n: k for k, n in enumerate(dict.fromkeys(map(stem, (*op.x.type.names, *names))))}
    x, w, y = ([letters[stem(n)] for n in found] for found in (op.x.type.names, names, out.type.names))
    result: Array = np.einsum(here.array(op.x), x, chosen, w, y)
    return result


def _rope(x: Value, first: int | None, here: Local) -> Array:
    if "position" not in x.type.names:
        raise Mismatch(f"rope of {x}, which has no positions")
    start, stop = here.held_range(x, "position")
    return rope(here.array(x), np.arange(start, stop) + here.past, x.type.names.index("position"), first)


def _map(op: Map, here: Local) -> Array:
    function = function_of(op.fn)
    here.check_ranges(op, *op.xs)
    names = op.xs[0].type.names
    there = [_align(x, names, here) for x in op.xs]
    if op.first is not None and here.place.index(axes_of(op.first), here.rank):
        there[1:] = [np.zeros_like(x) for x in there[1:]]
    operands = zip(there, read_limits(op.limits, len(op.xs)), strict=True)
    return function(*(x if to == NONE else np.clip(x, to.low, to.high) + to.plus for x, to in operands))


def _routing(op: Routed, here: Local) -> Array:
    here.check_ranges(op, *op.operands)
    match op:
        case TopK():
            if here.held_range(op.logits, op.logits.type.names[-1])[1] != here.place.sizes[op.logits.type.names[-1]]:
                raise Mismatch(f"top_k: rank {here.rank} knows only some of the scores of {op.logits}")
            bias = None if op.bias is None else here.array(op.bias)
            return experts.gates(
                here.array(op.logits), bias, top_k=op.top_k, scale=op.scale, score=op.score, normalize=op.normalize
            )
        case Dispatch():
            return experts.dispatch(here.array(op.x), here.array(op.gates), op.weighs)
        case Combine():
            share = here.array(op.gates)
            return experts.combine(here.array(op.x), share != 0 if op.plain else share)
        case _:
            assert_never(op)


def _attention(op: Attention, here: Local) -> Array:
    """Attention of this rank's queries to its keys: it must hold every key and value head that its queries need."""
    sizes = here.place.sizes
    queries, keys = op.q.type.dims, op.k.type.dims
    if here.held_range(op.q, queries[0].name) != here.held_range(op.k, keys[0].name):
        raise Mismatch(f"attention: rank {here.rank} holds other requests in {op.k} than in {op.q}")
    if not op.out.type.softmax and here.held_ranges(op.k, keys[1].name) != ((0, sizes[keys[1].name]),):
        raise Mismatch(f"attention: rank {here.rank} holds only some of the context of {op.k}")
    if here.place.block(op.k.type, here.rank)[:3] != here.place.block(op.v.type, here.rank)[:3]:
        raise Mismatch(f"attention: rank {here.rank} holds other keys in {op.k} than in {op.v}")
    heads = shared_heads(op, op.q, op.k, here)
    k, v = (here.array(x)[:, :, heads] for x in (op.k, op.v))
    mask = _mask(op, here, op.q, op.k)._replace(among=_picked(op, here))
    sinks = None if op.sinks is None else here.array(op.sinks)
    change = _change(op, here)
    if not op.out.type.softmax:
        return attention(here.array(op.q), k, v, mask, sinks=sinks, change=change)
    if here.place.index(keys[1].axes, here.rank):  # only the first of the ranks that share the keys adds the sink
        sinks = None
    return partial_attention(here.array(op.q), k, v, mask, sinks=sinks, change=change)


def _mask(op: Attention | LatentAttention | PickKeys, here: Local, queries: Value, keys: Value) -> Mask:
    """The keys that this rank's queries see by their positions."""
    begin, end = here.held_range(queries, "position")
    return Mask(np.arange(begin, end) + here.past, here.positions(keys), op.causal, op.window, op.chunk)


def _change(op: Attention | LatentAttention, here: Local) -> Change:
    """How this rank's scores differ from products of queries and keys. A head has its slope on whatever rank it is."""
    if not op.alibi:
        return Change(op.softcap)
    heads = op.q.type.dims[2].name
    return Change(op.softcap, alibi_slopes(here.place.sizes[heads])[slice(*here.held_range(op.q, heads))])


def _picked(op: Attention | LatentAttention, here: Local) -> Array | None:
    """The keys that this rank's queries picked; None where they see all keys."""
    if op.among is None:
        return None
    for name in op.among.type.names[:2]:
        if here.held_ranges(op.among, name) != here.held_ranges(op.q, name):
            raise Mismatch(f"attention: rank {here.rank} holds other queries in {op.among} than in {op.q}")
    return here.array(op.among)


def _pick_keys(op: PickKeys, here: Local) -> Array:
    here.check_ranges(op, *op.operands)
    if here.held_ranges(op.k, "context") != ((0, here.place.sizes["context"]),):
        raise Mismatch(f"pick_keys: rank {here.rank} holds only some of the context of {op.k}")
    mask = _mask(op, here, op.q, op.k)
    w = None if op.w is None else here.array(op.w)
    return pick_keys(here.array(op.q), here.array(op.k), w, mask, op.top_k)


def _latent_attention(op: LatentAttention, here: Local) -> Array:
    here.check_ranges(op, *op.operands)
    partial = bool(op.out.type.softmax)
    if not partial and here.held_ranges(op.k, "context") != ((0, here.place.sizes["context"]),):
        raise Mismatch(f"latent attention: rank {here.rank} holds only some of the context of {op.k}")
    q, q_rope, k, k_rope, v = (here.array(x) for x in op.operands[:5])
    scale = (here.place.sizes[op.scaled] + k_rope.shape[-1]) ** -0.5
    mask = _mask(op, here, op.q, op.k_rope)._replace(among=_picked(op, here))
    return latent_attention((q, q_rope), (k, k_rope), v, mask, scale, partial=partial, change=_change(op, here))


def shared_heads(op: BaseOp, x: Value, shared: Value, here: Local) -> Array:
    """For each head of ``x`` on this rank, the index of the head of ``shared`` that it uses, among those of this rank.

    Neighbouring heads share one. Raises `Mismatch` if another rank has it.
    """
    head, group = x.type.names[2], shared.type.names[2]
    mine, have = here.held_range(x, head), here.held_range(shared, group)
    needed = np.arange(*mine) * here.place.sizes[group] // here.place.sizes[head]
    if needed.size and not (have[0] <= needed.min() and needed.max() < have[1]):
        why = f"rank {here.rank} has {head} {_show((mine,))}, but of {group} only {_show((have,))}"
        raise Mismatch(f"{op.keyword}: {why}")
    return np.asarray(needed - have[0])


def _last_token(op: LastToken, here: Local) -> Array:
    """The last position where this rank holds it, zeros elsewhere."""
    start, _ = here.held_range(op.x, "position")
    along = op.x.type.names.index("position")
    return elementwise.last_token(here.array(op.x), along, here.place.sizes["position"] - 1 - start)
