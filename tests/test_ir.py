"""The program's own rules: types print and read back, and each op says what makes it sound."""

from __future__ import annotations

import re
from collections import Counter

import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from plandsl.backends.cost.machine import links
from plandsl.backends.graphviz.palette import KINDS
from plandsl.ir.adapters import AdapterGemm
from plandsl.ir.base import COMPUTE, LINK, Relay
from plandsl.ir.chunks import Join, Split
from plandsl.ir.collectives import (
    AllGather,
    AllReduce,
    AllToAll,
    Recv,
    ReduceScatter,
    Rescale,
    Reshard,
    Ring,
    Send,
    Slice,
)
from plandsl.ir.compute import (
    AddNorm,
    Attention,
    CacheWrite,
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
from plandsl.ir.earlier import Earlier, Item
from plandsl.ir.experts import Combine, Dispatch, GroupedGemm, TopK
from plandsl.ir.extents import Extents
from plandsl.ir.index import PickKeys
from plandsl.ir.latent import HeadGemm, LatentAttention
from plandsl.ir.norms import NormSums
from plandsl.ir.ops import OPS, Op
from plandsl.ir.program import Part, Program, Region, verify
from plandsl.ir.rule import Regular
from plandsl.ir.states import BlockState, BlockTail, Recurrence, ShortConv
from plandsl.ir.streams import Excess, Match, Mix, Moments, Spread, Stack
from plandsl.ir.text import read, read_op, read_type, show, show_op
from plandsl.ir.types import Dim, Mesh, TensorType, Value, block_range, shard_range, tensor
from plandsl.passes.rewrite import substitute
from plandsl.testing import programs
from tests.draws import draws

MESH = Mesh((("a", 2), ("b", 3)))
SIZES = (("batch", "batch"), ("position", "input"), ("hidden", 6), ("ffn", 12), ("heads", 6), ("kv_heads", 2))


def value(name: str, text: str) -> Value:
    return Value(name, read_type(text))


IDS = value("ids", "int32[batch, position]")
TABLE = value("w", "bf16[vocab@a, hidden]")
X = value("x", "bf16[batch, position, hidden]")
Y = value("y", "bf16[batch, position, hidden]")
HALVES = tuple(value(f"x{i}", f"bf16[batch, position {i}/2|a, hidden]") for i in range(2))
SUM = value("s", "bf16[batch, position, hidden]{+a}")
GAIN = value("g", "bf16[hidden]")
U = value("u", "bf16[batch, position, ffn@a]")
W = value("w", "bf16[ffn@a, hidden]")
Q = value("q", "bf16[batch, position, heads@a, head_dim]")
K = value("k", "bf16[batch, position, kv_heads@a, head_dim]")
V = value("v", "bf16[batch, position, heads@a, v_dim@b]")
LATENT_Q = value("lq", "bf16[batch, position, heads@a, kv_rank]")
LATENT_R = value("lr", "bf16[batch, position, heads@a, rope_dim]")
C, KR = value("lc", "bf16[batch, context, kv_rank]"), value("lk", "bf16[batch, context, rope_dim]")
GATES = value("g", "bf16[batch@b, experts:2@a]")
PAIRS = value("p", "bf16[batch@b, experts:2@a, ffn@c]")
EXPERTS = value("w", "bf16[experts@a, ffn@c, hidden]")
KEYS = value("keys", "fp8[batch, context, kv_heads@a, head_dim]")
SPLIT_KEYS = value("split", "fp8[batch, context@b, kv_heads@a, head_dim]")
IQ, IK = value("iq", "bf16[batch, position@a, n, d]"), value("ik", "fp8[batch, context, d]")
PICKED = value("pk", "int32[batch, position@a, picks.8]")
PART = value("part", "bf16[batch, position, hidden@a]")
STREAMS = value("xs", "bf16[batch, position, n, hidden]")
SOME = value("some", "bf16[batch, position, heads@a, head_dim]{~b}")

SOUND: tuple[Op, ...] = (
    Embed(SUM, IDS, TABLE),
    Ids(value("n", "int32[batch, position]"), "position"),
    Earlier(value("e", str(X.type)), "e"),
    Item(value("i", "bf16[batch, position, head_dim]"), value("iq", "bf16[batch, position, heads, head_dim]"), "heads"),
    Stack(value("st", "bf16[batch, position, n, hidden]"), (X, Y), "n"),
    Spread(value("sp", "bf16[batch, position, n, hidden]"), X, "n", 1),
    Mix(value("mx", str(STREAMS.type)), STREAMS, value("mw", "bf16[batch, position, n, m]"), "n"),
    Match(value("mt", str(X.type)), value("mv", "bf16[batch, position, wide]"), X),
    Moments(value("mo", "fp32[batch, position, moments]{+a}"), U, "ffn"),
    Excess(value("ex", str(U.type)), U, value("ms", "fp32[batch, position, moments]"), "ffn", 0.05),
    Norm(Y, X, GAIN),
    Norm(Y, X, None, "layer_norm"),
    NormSums(value("ns", "fp32[batch, position]{+a}"), PART),
    Norm(PART, PART, None, sums=value("ns", "fp32[batch, position]")),
    Norm(PART, PART, value("pg", "bf16[hidden@a]"), "layer_norm", sums=value("ns", "fp32[batch, position, moments]")),
    AddNorm(value("t", str(X.type)), value("h", str(X.type)), X, Y, GAIN),
    Gemm((value("o", "bf16[batch, position, hidden]{+a}"),), U, (W,), "fp8"),
    Rope((value("r", str(Q.type)),), (Q,)),
    Rope((value("r", str(Q.type)), value("r1", str(K.type))), (Q, K)),
    Map(value("m", str(X.type)), (X, Y), "add"),
    Map(value("m", str(X.type)), (X, GAIN), "add"),
    Quantize(value("z", "fp8[batch, position, hidden]"), X),
    CacheWrite((KEYS,), (K,), "kv"),
    CacheWrite((SPLIT_KEYS,), (K,), "kv"),
    CacheWrite((SPLIT_KEYS,), (value("k", "bf16[batch, position@b, kv_heads@a, head_dim]"),), "kv"),
    Attention(value("at", str(Q.type)), Q, k=KEYS, v=KEYS, causal=True, window=7),
    Attention(SOME, Q, SPLIT_KEYS, SPLIT_KEYS),
    Rescale(value("r", "bf16[batch, position, heads@a, head_dim]{+b}"), SOME, "b"),
    Ring((value("k", str(KEYS.type)), value("v", str(KEYS.type))), (SPLIT_KEYS, SPLIT_KEYS), "b", "context"),
    Scale(value("sc", str(X.type)), X, -0.25),
    Concat(value("cc", "bf16[batch, position, pair]"), (X, Y)),
    Merge(value("mg", "bf16[batch, position/4, merged]"), X, 4),
    Merge(value("mg", "bf16[batch, position/4, hidden@a]"), value("x", "bf16[batch, position, hidden@a]"), 4),
    AdapterGemm((value("ag", "bf16[batch, position, hidden]{+a}"),), value("lo", "bf16[batch, position, rank]{+a}"),
                (value("wb", "bf16[adapters, rank, hidden]"),), active=2),
    HeadGemm((value("hg", "bf16[batch, position, heads@a, kv_rank]{+b}"),),
             value("n", "bf16[batch, position, heads@a, nope_dim@b]"),
             (value("wk", "bf16[kv_rank, heads@a, nope_dim@b]"),), "fp8", over="heads"),
    LatentAttention(value("la", "bf16[batch, position, heads@a, kv_rank]"), LATENT_Q, LATENT_R, k=C, k_rope=KR, v=C,
                    scaled="nope_dim"),
    LastToken(value("l", "bf16[batch, hidden]{+a}"), value("p", "bf16[batch, position@a, hidden]")),
    TopK(value("g", "bf16[batch, experts:2]"), value("l", "bf16[batch, experts]"), None, 2),
    TopK(value("g", "bf16[batch, experts:2]"), value("l", "bf16[batch, experts]"), value("b", "bf16[experts]"), top_k=2,
         score="sigmoid", normalize=False, scale=2.5),
    Dispatch(value("d", "bf16[batch@b, experts:2@a, hidden]"), value("h", "bf16[batch@b, hidden]"), GATES),
    GroupedGemm((value("u", "bf16[batch@b, experts:2@a, hidden]{+c}"),), PAIRS, (EXPERTS,), "fp8"),
    Map(PAIRS, (PAIRS, value("b", "bf16[experts@a, ffn@c]")), "add"),
    Combine(value("y", "bf16[batch@b, hidden]{+a, +c}"), value("r", "bf16[batch@b, experts:2@a, hidden]{+c}"), GATES),
    PickKeys(PICKED, IQ, IK, top_k=8, window=16),
    PickKeys(PICKED, IQ, IK, value("iw", "bf16[batch, position@a, n]"), top_k=8, causal=False, chunk=16),
    Attention(value("sa", "bf16[batch, position@a, heads, head_dim]"),
              value("q", "bf16[batch, position@a, heads, head_dim]"),
              value("k", "fp8[batch, context, heads, head_dim]"), value("v", "fp8[batch, context, heads, head_dim]"),
              among=PICKED),
    ShortConv((value("c", str(X.type)), value("ct", "bf16[batch, w.tail, hidden]")),
              (X, value("w", "bf16[w, hidden]")), "ct"),
    ShortConv((value("c", str(Q.type)), value("ct", "bf16[batch, w.tail, heads@a, head_dim]"),
               value("d", str(K.type)), value("dt", "bf16[batch, w.tail, kv_heads@a, head_dim]")),
              (Q, value("w", "bf16[w, heads@a, head_dim]"), value("b", "bf16[heads@a, head_dim]"),
               K, value("v", "bf16[w, kv_heads@a, head_dim]"), value("e", "bf16[kv_heads@a, head_dim]")),
              "ct", biased=True, fn="silu"),
    Recurrence(out=V, kept_state=value("st", "fp32[batch, heads@a, head_dim, v_dim@b]"), q=K, k=K, v=V, more=(),
               state="st", slopes=True),
    Recurrence(out=V, kept_state=value("st", "fp32[batch, heads@a, head_dim, v_dim@b]"), q=K, k=K, v=V,
               more=(value("dt", "bf16[batch, position, heads@a]"), value("ra", "bf16[heads@a, head_dim]")),
               state="st", roles="step rate", delta=True, normalize=True, chunk=128),
    BlockTail(value("bt", "bf16[blocks.a@a, batch, w.tail, hidden]"),
              value("i", "bf16[batch, position@a, hidden]"), "w"),
    BlockState(value("bs", "fp32[blocks.a@a, batch, heads, head_dim, head_dim.matrix]"),
               value("k", "bf16[batch, position@a, head_dim]"), value("v", "bf16[batch, position@a, heads]"),
               (value("wr", "bf16[batch, position@a, heads]"),), roles="write", delta=True),
    Reshard(X, SUM),
    AllReduce(X, SUM, "a"),
    ReduceScatter(value("c", "bf16[batch, position@a, hidden]"), SUM, "a", "position"),
    AllGather(X, value("d", "bf16[batch, position@a, hidden]"), "a", "position"),
    AllToAll(value("e", "bf16[batch@b, position@a, hidden]"), value("f", "bf16[batch, position@a*b, hidden]"),
             "b", "position", "batch"),
    Slice(value("i", "bf16[batch, position@a, hidden]"), X, "a", "position"),
    Split(HALVES, X, "position", "a"),
    Join(X, HALVES, "position"),
    Send(X, 2),
    Recv(X, 2),
)  # fmt: skip


def findings(op: Op) -> list[str]:
    return [d.message for d in op.verify()]


@pytest.mark.parametrize("op", SOUND, ids=lambda op: op.keyword)
def test_sound_op_has_no_findings_and_infers_its_results(op: Op) -> None:
    assert findings(op) == []
    if not isinstance(op, Reshard | Recv):
        assert op.infer() == tuple(v.type for v in op.results)


@pytest.mark.parametrize("op", SOUND, ids=lambda op: op.keyword)
def test_op_prints_and_reads_back(op: Op) -> None:
    known = {v.name: v for v in op.operands}
    assert read_op(show_op(op), known) == op


def test_every_op_class_is_among_the_samples() -> None:
    assert {type(op) for op in SOUND} == set(OPS)
    assert len({op.keyword for op in OPS}) == len(OPS)


@pytest.mark.parametrize("op", SOUND, ids=lambda op: op.keyword)
def test_op_states_every_fact(op: Op) -> None:
    facts = op.facts
    assert facts.stream in (COMPUTE, LINK)
    assert facts.word
    assert facts.look in KINDS
    assert set(facts.linear) <= set(op.OPERANDS)
    assert set(op.linear) <= set(op.operands)
    assert op.title or isinstance(op, Relay)
    if facts.stream == LINK and not isinstance(op, Reshard):
        assert op.measured_as in (*links.COLLECTIVES, "p2p")
    if facts.view:
        assert 1 in (len(op.operands), len(op.results))
    if isinstance(op, Regular):
        assert len(op.rules) == len(op.results)
        assert all(type(x) is TensorType for x in op.touches)


def test_ops_of_one_word_have_one_look() -> None:
    looks = {(op.facts.word, op.facts.look) for op in OPS}
    assert len(looks) == len({word for word, _ in looks})


@pytest.mark.parametrize("op", SOUND, ids=lambda op: op.keyword)
def test_op_that_is_not_linear_refuses_partial_sums(op: Op) -> None:
    for x in op.operands:
        summed = Value(x.name, TensorType(x.type.dtype, x.type.dims, x.type.partial | {"z"}))
        other = substitute(op, {x.name: summed})
        assert any("partial sum" in why for why in findings(other)) == (summed not in other.linear)


BLOCK = value("bk", "bf16[batch, position@a, hidden]")
TAPS = value("w", "bf16[w, hidden]")
CONVOLVED = (value("c", str(X.type)), value("ct", "bf16[batch, w.tail, hidden]"))


def recurrence(more: str = "bf16[batch, position, heads]", **types: str) -> Recurrence:
    """A recurrence over whole tensors, but for those of these ``types``."""
    q, k, v = (
        value(n, types.get(n, f"bf16[batch, position, heads, {'v' if n == 'v' else 'head'}_dim]")) for n in "qkv"
    )
    return Recurrence(Y, Y, q, k, v, more=(value("dt", more),), state="st", roles="step")


UNSOUND: tuple[tuple[Op, str], ...] = (
    (Embed(Y, value("ids", "int32[batch@a, position]"), TABLE), "ids and table split on one axis"),
    (Norm(Y, SUM, GAIN), "norm of 's', which is a partial sum"),
    (Norm(Y, value("x", "bf16[batch, position, hidden@a]"), GAIN), "norm over 'hidden', which is split"),
    (Norm(PART, PART, None, sums=value("ns", "fp32[batch, position]{+a}")), "norm of 'ns', which is a partial sum"),
    (Norm(PART, PART, None, sums=value("ns", "fp32[batch@b, position]")), "different layouts"),
    (AddNorm(X, Y, X, value("b", "bf16[batch@a, position, hidden]"), GAIN), "tensors with different layouts"),
    (AddNorm(X, Y, *[value("b", "bf16[batch, position, hidden@a]")] * 2, GAIN), "'hidden', which is split"),
    (Gemm((Y,), X, (value("w", "bf16[heads, head_dim]"),)), "contracts nothing"),
    (Gemm((Y,), value("u", "bf16[batch, position, ffn]"), (W,)), "a shared dimension differently"),
    (Gemm((Y,), value("u", "bf16[batch@b, ffn]"), (value("w", "bf16[ffn, hidden@b]"),)), "one axis for two"),
    (Rope((Q,), (value("q", "bf16[batch, position, heads, head_dim@a]"),)), "last dimension whole"),
    (Map(X, (X, value("b", "bf16[batch@a, position, hidden]")), "add"), "tensors with different layouts"),
    (Map(X, (GAIN, X), "add"), "tensors with different layouts"),
    (PickKeys(PICKED, value("iq", "bf16[batch, position@a, n@b, d]"), IK), "all heads of a query"),
    (PickKeys(PICKED, IQ, value("ik", "fp8[batch, context@b, d]")), "all keys of its request"),
    (PickKeys(PICKED, IQ, value("ik", "fp8[batch@b, context, d]")), "different requests"),
    (PickKeys(PICKED, IQ, IK, value("iw", "bf16[batch, position, n]")), "other heads"),
    (Attention(Q, Q, KEYS, KEYS, among=PICKED), "keys that other queries picked"),
    (CacheWrite((KEYS,), (value("k", "bf16[batch, position@a, kv_heads, head_dim]"),), "kv"), "positions"),
    (Attention(Q, Q, *[value("k", "bf16[batch, context@a, kv_heads, head_dim]")] * 2), "split by context"),
    (Attention(Q, Q, *[value("k", "bf16[batch@b, context, kv_heads@a, head_dim]")] * 2), "different layouts"),
    (Attention(Q, Q, *[value("k", "bf16[batch, context, kv_heads@b, head_dim]")] * 2), "heads are split differently"),
    (Scale(X, SUM, 2.0), "scale of 's', which is a partial sum"),
    (Concat(Y, (X, value("d", "bf16[batch, position@a, hidden]"))), "different layouts"),
    (Concat(Y, (value("h", "bf16[batch, position, hidden@a]"),) * 2), "split last dimension"),
    (AdapterGemm((Y,), X, (value("w", "bf16[adapters@a, hidden, rank]"),)), "needs 'adapters' whole"),
    (AdapterGemm((Y,), X, (value("w", "bf16[hidden, rank]"),)), "is not adapters"),
    (HeadGemm((Y,), LATENT_Q, (value("w", "bf16[kv_rank, heads@b, nope_dim]"),)), "a shared dimension differently"),
    (HeadGemm((Y,), LATENT_Q, (value("w", "bf16[heads@a, nope_dim]"),)), "contracts nothing"),
    (LatentAttention(Y, LATENT_Q, LATENT_R, k=C, k_rope=value("kr", "bf16[batch@b, context, rope_dim]"), v=C,
                     scaled="nope_dim"), "different layouts"),
    (LatentAttention(Y, LATENT_Q, LATENT_R, k=C, k_rope=value("kr", "bf16[batch, context@b, rope_dim]"), v=C,
                     scaled="nope_dim"), "different layouts"),
    (LatentAttention(Y, LATENT_Q, LATENT_R, k=C, k_rope=value("kr", "bf16[batch, context@a, rope_dim]"), v=C,
                     scaled="nope_dim"), "split by context"),
    (TopK(GATES, value("l", "bf16[batch, experts@a]"), None, 2), "top_k needs 'experts' whole"),
    (Dispatch(X, value("h", "bf16[batch, hidden]"), GATES), "gates of other tokens"),
    (GroupedGemm((Y,), PAIRS, (value("w", "bf16[experts@b, ffn@c, hidden]"),)), "a shared dimension differently"),
    (GroupedGemm((Y,), PAIRS, (value("w", "bf16[experts@a, hidden]"),)), "contracts nothing"),
    (GroupedGemm((Y,), PAIRS, (value("w", "bf16[experts@a, ffn@c, hidden@b]"),)), "one axis for two"),
    (Combine(Y, PAIRS, value("g", "bf16[batch, experts:2@a]")), "other tokens or experts"),
    (Combine(Y, PAIRS, value("g", "bf16[batch@b, experts:2@a]{+c}")), "gates that are a partial sum"),
    (ShortConv(CONVOLVED, (BLOCK, TAPS), "ct"), "all positions and all taps"),
    (ShortConv(CONVOLVED, (X, value("w", "bf16[w@a, hidden]")), "ct"), "all positions and all taps"),
    (ShortConv(CONVOLVED, (BLOCK, TAPS, value("t", "bf16[blocks.b, batch, w.tail, hidden]")), "ct", handed=True),
     "all positions and all taps"),
    (ShortConv(CONVOLVED, (BLOCK, TAPS, value("t", "bf16[blocks.a, batch, w.tail, hidden@b]")), "ct", handed=True),
     "split unlike its tails"),
    (ShortConv(CONVOLVED, (X, value("w", "bf16[w, hidden@a]")), "ct"), "split unlike its weight"),
    (ShortConv(CONVOLVED, (X, TAPS, value("b", "bf16[hidden@a]")), "ct", biased=True), "split unlike its bias"),
    (recurrence(v="bf16[batch, position@a, heads, v_dim]"), "recurrence needs all positions"),
    (recurrence(q="bf16[batch@a, position, heads, head_dim]"), "recurrence needs all positions"),
    (recurrence(k="bf16[batch@a, position, heads, head_dim]"), "recurrence needs all positions"),
    (recurrence(q="bf16[batch, position, heads@a, head_dim]"), "queries and keys whole"),
    (recurrence(k="bf16[batch, position, heads, head_dim@a]"), "queries and keys whole"),
    (recurrence(q="bf16[batch, position, groups@a, head_dim]", k="bf16[batch, position, groups@a, head_dim]"),
     "heads and their groups are split differently"),
    (recurrence(more="bf16[batch, position, heads@a]"), "recurrence operands have different layouts"),
    (recurrence(more="bf16[batch, position@a, heads]"), "recurrence operands have different layouts"),
    (recurrence(more="bf16[heads, head_dim@a]"), "recurrence operands have different layouts"),
    (BlockState(Y, value("k", "bf16[batch, position@a, heads, head_dim]"),
                value("v", "bf16[batch, position@a, heads, v_dim@b]"), ()), "last dimension of values whole"),
    (Reshard(GAIN, X), "more than the layout"),
    (AllReduce(X, X, "a"), "no partial sum"),
    (AllReduce(X, SUM, "b"), "no partial sum"),
    (ReduceScatter(X, X, "a", "position"), "no partial sum"),
    (AllGather(X, value("d", "bf16[batch, position@a*b]"), "a", "position"), "not innermost"),
    (AllToAll(X, value("d", "bf16[batch, position@a]"), "b", "position", "batch"), "not innermost"),
    (AllToAll(X, value("d", "bf16[batch, position@a]"), "a", "position", "position"), "not innermost"),
    (Slice(X, value("d", "bf16[batch, position@a]"), "a", "batch"), "in use"),
    (Slice(X, SOME, "b", "batch"), "in use"),
    (Norm(SOME, SOME, None, over="head_dim"), "partial sum"),
    (Rescale(Y, SUM, "a"), "no softmax over it"),
    (Ring((KEYS,), (SPLIT_KEYS,), "a", "context"), "not innermost"),
    (Ring((Y,), (SUM,), "a", "hidden"), "partial sum"),
)  # fmt: skip


@pytest.mark.parametrize(("op", "why"), UNSOUND, ids=lambda x: x.keyword if hasattr(x, "keyword") else x)
def test_unsound_op_says_why(op: Op, why: str) -> None:
    assert any(why in message for message in findings(op))


# ---- types


AXES = st.sampled_from(("a", "b", "c"))


@st.composite
def types(draw: st.DrawFn) -> TensorType:
    names = draw(st.lists(st.sampled_from(("batch", "position", "hidden", "heads")), unique=True))
    axes = draw(st.permutations(("a", "b", "c")))
    dims = []
    for name in names:
        take = draw(st.integers(0, len(axes)))
        dims.append(Dim(name, tuple(axes[:take])))
        axes = axes[take:]
    return TensorType(draw(st.sampled_from(("bf16", "fp8"))), tuple(dims), frozenset(axes[: draw(st.integers(0, 3))]))


@given(types())
def test_law_type_prints_and_reads_back(type_: TensorType) -> None:
    assert read_type(str(type_)) == type_


def test_type_prints_axes_behind_their_dimension() -> None:
    type_ = TensorType("bf16", (Dim("position", ("a", "b")), Dim("hidden")), frozenset("c"))
    assert str(type_) == "bf16[position@a*b, hidden]{+c}"
    assert type_.axes == {"a", "b", "c"}
    assert type_.on("position") == ("a", "b")
    assert type_.on("nothing") == ()
    assert str(type_.with_axes("position", ())) == "bf16[position, hidden]{+c}"
    assert str(type_.whole()) == "bf16[position, hidden]"
    assert str(type_.summed()) == "bf16[position@a*b, hidden]"
    with pytest.raises(KeyError):
        type_.dim("nothing")


# ---- meshes and ranges


@given(st.lists(st.integers(1, 4), max_size=4))
def test_law_ranks_count_row_major(sizes: list[int]) -> None:
    mesh = Mesh(tuple((f"x{i}", size) for i, size in enumerate(sizes)))
    for rank in range(mesh.ranks):
        at = mesh.coordinates(rank)
        assert mesh.rank(at) == rank
        assert rank == sum(index * mesh.stride(axis) for axis, index in at.items())


def test_neighbours_in_the_last_axis_are_neighbours_in_the_node() -> None:
    assert (MESH.stride("b"), MESH.stride("a")) == (1, 3)
    assert (MESH.ranks, MESH.ways(["a", "missing"])) == (6, 2)
    assert MESH.coordinates(4) == {"a": 1, "b": 1}


def test_first_axis_of_a_rule_is_major() -> None:
    # language.md: heads -> a, b has block index a * size(b) + b
    held = {(a, b): shard_range("heads", 6, [(a, 2), (b, 3)]) for a in range(2) for b in range(3)}
    assert held == {(a, b): (3 * a + b, 3 * a + b + 1) for a in range(2) for b in range(3)}


def test_last_part_of_a_padded_dimension_is_short_or_empty() -> None:
    assert [block_range("batch", 5, i, 4) for i in range(4)] == [(0, 2), (2, 4), (4, 5), (5, 5)]


def test_few_key_heads_are_held_by_neighbours() -> None:
    assert [block_range("kv_heads", 2, i, 4) for i in range(4)] == [(0, 1), (0, 1), (1, 2), (1, 2)]


def test_extents_count_the_fullest_rank() -> None:
    program = Program("m", "prefill", MESH, (*SIZES, ("head_dim", 4)), ())
    extents = Extents(program, {"batch": 5, "input": 7})
    assert extents.local(Dim("batch", ("a", "b"))) == 1
    assert extents.local(Dim("position", ("b",))) == 3
    assert extents.local(Dim("kv_heads", ("a", "b"))) == 1
    assert extents.elements(read_type("bf16[batch@a, position, hidden@b]")) == 3 * 7 * 2
    assert extents.bytes(read_type("fp4[batch, hidden]")) == 5 * 6 / 2


# ---- programs


def program_of(*ops: Op, args: tuple[Value, ...] = (X,), results: tuple[Value, ...] = ()) -> Program:
    region = Region("block", (0, 2), args=args, weights=(W,), ops=ops, results=results)
    return Program("m", "prefill", MESH, SIZES, (region,))


def test_sound_program_has_no_findings() -> None:
    ops = (Slice(value("i", "bf16[batch, position@a, hidden]"), X, "a", "position"),)
    assert list(verify(program_of(*ops, results=(X,)))) == []


BROKEN = {
    "is used before it is defined": program_of(Map(Y, (value("z", str(X.type)),), "silu")),
    "is defined twice": program_of(Map(Y, (X,), "silu"), Map(Y, (X,), "gelu")),
    "is recorded as": program_of(Map(value("y", "bf16[batch, position@a, hidden]"), (X,), "silu")),
    "result %y is not defined": program_of(results=(Y,)),
    "uses an axis twice": program_of(args=(value("x", "bf16[batch@a, position@a, hidden]"),)),
    "an axis that the mesh lacks": program_of(args=(value("x", "bf16[batch@zz, position, hidden]"),)),
    "no partial sum": program_of(AllReduce(Y, X, "a")),
}


@pytest.mark.parametrize("why", BROKEN)
def test_unsound_program_says_why(why: str) -> None:
    assert any(why in d.message for d in verify(BROKEN[why]))


def test_value_of_another_type_is_not_the_one_that_was_defined() -> None:
    program = program_of(Map(Y, (value("x", "bf16[batch@a, position, hidden]"),), "silu"))
    assert any("used before" in d.message for d in verify(program))


@given(programs())
def test_law_program_prints_and_reads_back(program: Program) -> None:
    assert read(show(program)) == program
    assert show(read(show(program))) == show(program)


@pytest.mark.parametrize(
    "text",
    [
        "program m",
        "prog m prefill",
        "program m prefill\nnonsense",
        "program m prefill\nregion x {\n}",
        "program m prefill\nregion x(%a : bf16[b]) -> %a {\n  %c : bf16[b] = fly %a\n}",
        "",
        "program m lunch",
        "program m prefill\nmesh t = 0",
        "program m prefill\nmesh t = two",
        "program m prefill\nmesh\nregion x(%a : bf16[b]) -> {\n  %c : bf16[b] = all_reduce %a {axis = 3}\n}",
        "program m prefill\nmesh\nregion x(%a : bf16[b]) -> {\n  %c : bf16[b] = all_reduce %a\n}",
        'program m prefill\nmesh\nregion x(%a : bf16[b]) -> {\n  %c : bf16[b] = all_reduce {axis = "t"}\n}',
        'program m prefill\nmesh\nregion x(%a : bf16[b]) -> {\n  %c : bf16[b] = all_reduce %a, %a {axis = "t"}\n}',
        'program m prefill\nmesh\nregion x(%a : bf16[b]) -> {\n  %c : bf16[b] = all_reduce %b {axis = "t"}\n}',
        'program m prefill\nmesh\nregion x(%a : bf16[b]) -> {\n  %c : bf16[b] = all_reduce - {axis = "t"}\n}',
        'program m prefill\nmesh\nregion x(%a : bf16[b]) -> {\n  %c : bf16[b] = all_reduce %a {axis = "t", by = 2}\n}',
        "program m prefill\nmesh\nregion x(%a : bf16[b]) -> %z {\n}",
        "program m prefill\nmesh\nregion x[0..4 by 0](%a : bf16[b]) -> %a {\n}",
        "program m prefill\nmesh\nregion x(%a : bf16[b 1/0|t@]) -> %a {",
    ],
)
def test_other_text_is_no_program(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        read(text)


@draws(1 / 2)
@given(programs(), st.data())
def test_law_a_program_that_was_changed_is_read_as_it_stands_or_refused(program: Program, data: st.DataObject) -> None:
    words = re.split(r"(\W)", show(program))
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(words) - 1))
        words[at] = data.draw(st.sampled_from(["", "0", "-1", "x", "%", ",", "@", words[at] * 2, *words[:at][-8:]]))
    text = "".join(words)
    try:
        found = read(text)
    except ValueError:
        return
    heads, printed = (Counter(" ".join(line.partition(" {")[0].split()) for line in t.splitlines() if line.strip())
                      for t in (text, show(found)))  # fmt: skip
    assert heads <= printed
    assert read(show(found)) == found


def test_parts_say_how_often_they_run() -> None:
    assert (Part("block", (3, 8)).repeats, str(Part("block", (3, 8)))) == (5, "block[3..8]")
    assert (Part("head").repeats, str(Part("head"))) == (1, "head")
    region = program_of().regions[0]
    assert (region.repeats, evolve(region, layers=None).repeats) == (2, 1)
    assert tensor("bf16", ("batch",)) == read_type("bf16[batch]")


def test_one_axis_for_two_dimensions_is_found_in_ops_of_any_number_of_operands() -> None:
    x = Value("x", TensorType("bf16", (Dim("batch", ("a",)), Dim("hidden")), frozenset({"a"})))
    for operands in ((x,), (x, x), (x, x, x)):
        (found,) = Map(x, operands, "add").misfits()
        assert (found.message, found.label) == ("map uses one axis for two dimensions", str(x.type))
