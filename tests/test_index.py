"""Sparse attention: a query sees the keys that an index picked, the same ones on every mesh."""

from __future__ import annotations

import numpy as np
import pytest

from plandsl.backends.reference.shrink import shrink
from plandsl.backends.reference.verify import verify_long_prefill
from plandsl.driver import CompiledPlan, compile_text
from plandsl.ir.compute import Attention, CacheWrite
from plandsl.ir.index import PickKeys
from plandsl.ir.latent import LatentAttention
from plandsl.ir.meaning.attention import Mask, attention, pick_keys
from plandsl.ir.text import read, show
from plandsl.show import show_plan

INDEX = """
    iq = rope(h @ w_iq[hidden, index_heads, index_dim], first = 16)
    ik = rope(layer_norm(h @ w_ik[hidden, index_dim]), first = 16)
    picked = index(iq, ik, h @ w_iw[hidden, index_heads], top_k = 2048)
"""
PLAIN = f"""{INDEX}
    q = rope(h @ w_q[hidden, heads, head_dim])
    k = rope(h @ w_k[hidden, kv_heads, head_dim])
    a = attention(q, k, h @ w_v[hidden, kv_heads, head_dim], among = picked)
"""
LAYERS = {
    "grouped": PLAIN,
    "latent": f"""{INDEX}
    c = h @ w_dkv[hidden, kv_rank]
    keys = latent(c, rope(h @ w_kr[hidden, rope_dim]), w_uk[kv_rank, heads, head_dim], w_uv[kv_rank, heads, head_dim])
    qr = rope(h @ w_qr[hidden, heads, rope_dim])
    a = attention(query(h @ w_q[hidden, heads, head_dim], qr), keys, among = picked)
""",
    "window": PLAIN.replace("among = picked", "window = 4096, among = picked"),
    "sinks": PLAIN.replace("among = picked", "w_sinks[heads], softcap = 30, among = picked"),
    "unweighed": PLAIN.replace(", h @ w_iw[hidden, index_heads]", ""),
}
"""The attention of a layer of each kind."""


def model(layer: str, fields: str = "") -> str:
    """A model of three layers whose queries pick their keys."""
    return f"""
model sparse {{
  layers = 3, hidden = 64, heads = 16, kv_heads = 8, head_dim = 16, vocab = 1000, kv_rank = 32, rope_dim = 16
  index_heads = 8, index_dim = 32, weights = bf16, index_cache = fp8_128{fields}
  embedding w_embed[vocab, hidden]
  block x[tokens, hidden] {{
    h = rms_norm(x)
    {layer}
    x = x + a @ w_o[heads, head_dim, hidden]
  }}
  head rms_norm(x) @ w_embed[vocab, hidden]
}}
"""


LOAD = "input = 9000, output = 100, batch = 8"


def plan(layer: str, sharding: str = "", more: str = "", load: str = LOAD) -> CompiledPlan:
    """A plan with layers of one kind."""
    body = f"node = h100_8, sharding {{ {sharding} }}, workload {{ {load} }}"
    text = model(LAYERS.get(layer, layer))
    return compile_text(f"{text}\nplan p {{ model = sparse, {body}\n{more} }}")[0]


CASES = (
    ("grouped", "tp = 4", ""),
    ("grouped", "cp = 2, tp = 2, dp = 2", "chunked_prefill = 512"),
    ("grouped", "cp = 4, context_form = gather", ""),
    ("grouped", "sp = 2, tp = 2", "speculate { tokens = 3, acceptance = 0.8 }"),
    ("grouped", "mesh tensor = 2, keys = 2\n heads, kv_heads -> tensor\n context -> keys", ""),
    ("latent", "tp = 8", "micro_batches = 2"),
    ("latent", "cp = 2, tp = 2, pp = 2", ""),
    ("latent", "mesh tensor = 4\n vocab, heads, index_heads -> tensor\n in attention { batch -> tensor }", ""),
    ("latent", "mesh tensor = 2, keys = 2\n heads, index_heads, index_dim -> tensor\n context -> keys", ""),
    ("window", "tp = 2, sp = 2", ""),
    ("sinks", "mesh keys = 2\n context -> keys", ""),
    ("unweighed", "cp = 2", ""),
)


@pytest.mark.parametrize(("layer", "sharding", "more"), CASES)
def test_ranks_pick_the_keys_that_the_whole_model_picks(layer: str, sharding: str, more: str) -> None:
    verdict = plan(layer, sharding, more).verify(steps=1)
    assert verdict.ok, verdict.message


@pytest.mark.parametrize("layer", LAYERS)
def test_decode_picks_among_the_keys_of_the_prompt(layer: str) -> None:
    made = CompiledPlan(shrink(plan(layer).spec), ())
    verdict = verify_long_prefill((made.prefill.program, made.decode.program), {"batch": 2, "input": 5}, steps=2)
    assert verdict.ok, verdict.message


POOLS = """
plan p { model = sparse, workload { input = 9000, output = 100 }
  prefill { node = h100_8, sharding { tp = 4 } }
  decode { node = h100_8, sharding { tp = 2, cp = 2 } }
  transfer { bandwidth = 50 GB/s, latency = 10 us }
}
"""


def test_index_keys_move_to_a_pool_with_another_layout() -> None:
    made = compile_text(model(LAYERS["latent"]) + POOLS)[0]
    verdict = made.verify(steps=1)
    assert verdict.ok, verdict.message
    sparse, dense = (compile_text(model(layer) + POOLS)[0].estimate().pools for layer in (LAYERS["latent"], DENSE))
    assert sparse is not None
    assert dense is not None
    assert sparse.sent.request - dense.sent.request == 9000 * 3 * 33


# ---- what the picks mean


def _tensors(seed: int, keys: int) -> tuple[np.ndarray, ...]:
    draw = np.random.default_rng(seed).normal
    return draw(size=(2, keys, 3, 4)), draw(size=(2, keys, 4)), draw(size=(2, keys, 3)), draw(size=(2, keys, 3, 5))


def test_a_query_that_picks_all_its_keys_attends_as_without_a_choice() -> None:
    q, k, w, v = _tensors(1, 7)
    mask = Mask(np.arange(7), np.arange(7))
    dense = attention(v, v, v, mask)
    for top_k in (7, 30):
        picked = pick_keys(q, k, w, mask, top_k)
        assert picked.shape == (2, 7, top_k)
        assert np.allclose(attention(v, v, v, mask._replace(among=picked)), dense)
    few = pick_keys(q, k, w, mask, 3)
    assert not np.allclose(attention(v, v, v, mask._replace(among=few)), dense)


def test_picks_are_the_best_keys_of_those_that_a_query_sees() -> None:
    q, k, w, _ = _tensors(2, 9)
    nine = np.arange(9)
    for mask in (Mask(nine, nine), Mask(nine, nine, window=4), Mask(nine, nine, causal=False)):
        picked, seen = pick_keys(q, k, w, mask, 3), mask.seen()
        scores = np.einsum("bphc,bph->bpc", np.maximum(np.einsum("bphd,bcd->bphc", q, k), 0), w)
        for b, p in np.ndindex(2, 9):
            best = sorted(np.flatnonzero(seen[p]), key=lambda s: (-scores[b, p, s], s))[:3]
            assert list(picked[b, p]) == [*best, *[-1] * (3 - len(best))]


def test_of_equal_scores_the_earlier_key_is_picked() -> None:
    q, k, _, _ = _tensors(3, 6)
    mask = Mask(np.arange(6), np.arange(6))
    same = np.broadcast_to(k[:, :1], k.shape)
    assert list(pick_keys(q, same, None, mask, 2)[0, 5]) == [0, 1]
    nudged = same * (1 + 1e-12 * np.arange(6)[:, None])
    assert list(pick_keys(q, nudged, None, mask, 2)[0, 5]) == [0, 1]


# ---- the language and the programs


def test_a_plan_with_picked_keys_prints_and_reads_back() -> None:
    for layer in LAYERS:
        made = plan(layer, "tp = 2")
        again = compile_text(show_plan(made.spec))[0]
        assert show_plan(again.spec) == show_plan(made.spec)
        for phase in (made.prefill, made.decode):
            assert read(show(phase.program)) == phase.program


def test_attentions_that_see_the_same_keys_share_a_choice() -> None:
    other = PLAIN.replace("a = attention", "b = attention").replace("w_v[", "w_other[")
    twice = other + PLAIN.replace(INDEX, "") + "    a = a + b"
    ops = plan(twice).prefill.program.regions[1].ops
    assert [type(op) for op in ops].count(PickKeys) == 1
    assert len({op.among for op in ops if isinstance(op, Attention)}) == 1
    apart = plan(twice.replace("among = picked", "window = 64, among = picked", 1)).prefill.program.regions[1].ops
    assert [type(op) for op in apart].count(PickKeys) == 2


def test_an_index_that_no_attention_reads_keeps_no_keys() -> None:
    ops = plan(PLAIN.replace(", among = picked", "")).decode.program.regions[1].ops
    assert len([op for op in ops if isinstance(op, CacheWrite)]) == 1


def test_prefill_leaves_the_latents_of_picked_keys_packed() -> None:
    prefill = plan("latent").prefill.program.regions[1].ops
    (op,) = (op for op in prefill if isinstance(op, LatentAttention))
    assert op.k is op.v


@pytest.mark.parametrize("sharding", ["cp = 2", "mesh keys = 2\n context -> keys"])
def test_ranks_that_share_a_context_hold_all_index_keys(sharding: str) -> None:
    made = plan("grouped", sharding)
    writes = [op for op in made.decode.program.regions[1].ops if isinstance(op, CacheWrite)]
    assert [bool(op.outs[0].type.on("context")) for op in writes] == [False, True]
    assert [d.code for d in made.findings if d.code == "N510"] == ["N510"]
    assert not [d for d in plan("grouped", "tp = 2").findings if d.code == "N510"]


# ---- memory and time

DENSE = LAYERS["latent"].replace(INDEX, "").replace(", among = picked", "")


def test_index_keys_take_kv_memory_for_each_token() -> None:
    sparse, dense = (plan(layer, "tp = 2").estimate() for layer in ("latent", DENSE))
    tokens, layers = 9100, 3
    assert sparse.memory.kv_cache - dense.memory.kv_cache == pytest.approx(8 * tokens * layers * 33, rel=0.01)
    assert sparse.kv_capacity_tokens < dense.kv_capacity_tokens


def _seconds(layer: str, word: str, context: int, top_k: int = 2048, sharding: str = "tp = 2") -> float:
    """Seconds of the ops called ``word`` in a decode step behind ``context`` tokens."""
    text = LAYERS.get(layer, layer).replace("2048", str(top_k))
    made = plan(text, sharding, load=f"input = {context}, output = 2, batch = 8")
    return sum(op.time_s for op in made.estimate().decode.ops if op.op == word)


def test_an_index_scores_all_keys_and_attention_reads_those_that_it_picked() -> None:
    contexts = (1000, 2000, 100_000, 400_000)
    scores = [_seconds("latent", "index", context) for context in contexts]
    attends = [_seconds("latent", "attention", context) for context in contexts]
    assert scores == sorted(scores)
    assert scores[3] > 2.5 * scores[2]
    assert attends[0] < attends[1] < attends[2] == attends[3]
    dense = _seconds(DENSE, "attention", 400_000)
    assert scores[3] + attends[3] < dense


def test_a_choice_of_all_keys_saves_nothing() -> None:
    few, some, every, more = (_seconds("grouped", "attention", 50_000, k) for k in (10, 1000, 50_003, 10**6))
    assert few < some < every == more
    plain = PLAIN.replace(INDEX, "").replace(", among = picked", "")
    assert every == _seconds(plain, "attention", 50_000)


def test_ranks_that_share_a_context_share_the_keys_that_were_picked() -> None:
    keys = "mesh tensor = 2, keys = 4\n heads, kv_heads -> tensor\n context -> keys"
    assert _seconds("latent", "index", 100_000, sharding=keys) == _seconds("latent", "index", 100_000)
    assert _seconds("latent", "attention", 10**6, 10**5, keys) < _seconds("latent", "attention", 10**6, 10**5)


@pytest.mark.parametrize(("batch", "context", "measured"), [(16, 65536, 25.2), (32, 65536, 45.3), (32, 32768, 24.9)])
def test_a_decode_step_on_b200_scores_keys_as_fast_as_measured(batch: int, context: int, measured: float) -> None:
    """NVIDIA/TensorRT-LLM, pull request 13219: microseconds of the scores, which the choice of the best follows."""
    text = model(LAYERS["latent"]).replace("index_heads = 8, index_dim = 32", "index_heads = 64, index_dim = 128")
    load = f"input = {context}, output = 2, batch = {batch}"
    body = f"plan p {{ model = sparse, node = b200_8, sharding {{ tp = 1 }}, workload {{ {load} }} }}"
    ops = compile_text(f"{text}\n{body}")[0].estimate().decode.ops
    (index,) = (op.time_s / op.count for op in ops if op.op == "index")
    assert measured < index * 1e6 < measured / 0.7
