"""Layers with a state: what a prompt leaves is what decode goes on with, on every mesh, and a state has one size."""

from __future__ import annotations

from math import ceil

import numpy as np
import pytest

from plandsl.answers.estimate import Estimate
from plandsl.backends.cost.forms.recurrence import Shape, scan_flops, step_flops
from plandsl.backends.reference.shrink import shrink
from plandsl.backends.reference.states import recur
from plandsl.backends.reference.verify import verify_long_prefill, verify_programs
from plandsl.diagnostics import PlanError
from plandsl.driver import CompiledPlan, compile_text, plain_programs, programs
from plandsl.ir.meaning.states import unit_length
from plandsl.ir.ops import COLLECTIVES
from plandsl.ir.states import Recurrence, ShortConv, state_bytes
from plandsl.ir.text import read, show
from plandsl.ir.types import Value, tensor
from plandsl.show import show_plan
from plandsl.spec.plan import PlanSpec
from plandsl.testing.laws import check

SIZES = "state_heads = 16, state_groups = 8, state_width = 32, state_dim = 48, conv_width = 4"
CONV = """
    q = silu(short_conv(h @ w_q[hidden, state_groups, state_width], w_cq[conv_width, state_groups, state_width]))
    k = silu(short_conv(h @ w_k[hidden, state_groups, state_width], w_ck[conv_width, state_groups, state_width]))
    v = silu(short_conv(h @ w_v[hidden, state_heads, state_dim], w_cv[conv_width, state_heads, state_dim]))
"""
STEP = "step = softplus(h @ w_a[hidden, state_heads] + b_step[state_heads])"

LAYERS = {
    "gated delta net": f"""{CONV}
    {STEP}
    beta = sigmoid(h @ w_b[hidden, state_heads])
    y = recurrence(q, k, v, step = step, rate = a_log[state_heads], write = beta, delta = true, normalize = true)
    x = x + (y * silu(h @ w_z[hidden, state_heads, state_dim])) @ w_o[state_heads, state_dim, hidden]
""",
    "Mamba-2": f"""{CONV}
    {STEP}
    y = recurrence(q, k, v, step = step, rate = a_log[state_heads], write = step, skip = d[state_heads], chunk = 128)
    x = x + (y * silu(h @ w_z[hidden, state_heads, state_dim])) @ w_o[state_heads, state_dim, hidden]
""",
    "Mamba-1": """
    u = silu(short_conv(h @ w_u[hidden, state_heads], w_c[conv_width, state_heads], b_c[state_heads]))
    step = softplus(rms_norm(u @ w_r[state_heads, rank]) @ w_dt[rank, state_heads] + b_dt[state_heads])
    k = rms_norm(u @ w_b[state_heads, state_width])
    q = rms_norm(u @ w_q[state_heads, state_width])
    a = recurrence(q, k, u, step = step, rate = a_log[state_heads, state_width], write = step, skip = d[state_heads])
    x = x + (a * silu(h @ w_z[hidden, state_heads])) @ w_o[state_heads, hidden]
""",
    "lightning": """
    q = silu(h @ w_q[hidden, heads, head_dim])
    k = silu(h @ w_k[hidden, heads, head_dim])
    y = recurrence(q, k, silu(h @ w_v[hidden, heads, state_dim]), slopes = true, chunk = 256)
    x = x + (y * sigmoid(h @ w_g[hidden, heads, state_dim])) @ w_o[heads, state_dim, hidden]
""",
}
"""The mixer of a layer of each kind."""


def model(layer: str, sizes: str = SIZES + ", rank = 12") -> str:
    """A model of four layers, the last of which attends."""
    return f"""
model hybrid {{
  layers = 4, hidden = 64, heads = 16, kv_heads = 4, head_dim = 16, vocab = 1000, {sizes}
  weights = bf16, state_cache = fp32
  embedding w_embed[vocab, hidden]
  block full [layers = 3..4] x[tokens, hidden] {{
    h = rms_norm(x)
    k = rope(h @ w_k[hidden, kv_heads, head_dim])
    a = attention(rope(h @ w_q[hidden, heads, head_dim]), k, h @ w_v[hidden, kv_heads, head_dim])
    x = x + a @ w_o[heads, head_dim, hidden]
  }}
  block mixer x[tokens, hidden] {{
    h = rms_norm(x)
    {layer}
  }}
  head rms_norm(x) @ w_embed[vocab, hidden]
}}
"""


def plan(layer: str, sharding: str = "", more: str = "", node: str = "h100_8") -> CompiledPlan:
    """A plan with layers of one kind."""
    body = f"node = {node}, sharding {{ {sharding} }}, workload {{ input = 1000, output = 100, batch = 8 }}"
    return compile_text(f"{model(LAYERS[layer])}\nplan p {{ model = hybrid, {body}\n{more} }}")[0]


LOAD = "workload { input = 1000, output = 100, batch = 8 }"

CASES = (
    ("gated delta net", "tp = 4", ""),
    ("gated delta net", "sp = 2, tp = 2, pp = 2", ""),
    ("gated delta net", "cp = 2, tp = 2, dp = 2", "chunked_prefill = 512"),
    ("gated delta net", "tp = 2", "speculate { tokens = 3, acceptance = 0.8 }"),
    ("Mamba-2", "tp = 8", "micro_batches = 1"),
    ("Mamba-2", "tp = 2, pp = 2", "micro_batches = 2"),
    ("Mamba-2", "mesh tensor = 4\n heads, kv_heads, state_heads, state_groups -> tensor\n tokens -> tensor", ""),
    ("Mamba-2", "mesh tensor = 2, values = 2\n state_heads, state_groups -> tensor\n state_dim -> values", ""),
    ("Mamba-2", "mesh tensor = 4\n vocab -> tensor\n in attention { batch -> tensor }", ""),
    ("Mamba-1", "cp = 2, tp = 2", ""),
    ("lightning", "sp = 2, tp = 4", ""),
)


@pytest.mark.parametrize(("layer", "sharding", "more"), CASES)
def test_sharded_states_mean_what_the_whole_model_means(layer: str, sharding: str, more: str) -> None:
    verdict = plan(layer, sharding, more).verify(steps=1)
    assert verdict.ok, verdict.message


@pytest.mark.parametrize("layer", LAYERS)
def test_decode_goes_on_from_the_state_of_the_prompt(layer: str) -> None:
    made = CompiledPlan(shrink(plan(layer, node="h100_1").spec), ())
    verdict = verify_long_prefill((made.prefill.program, made.decode.program), {"batch": 2, "input": 5}, steps=2)
    assert verdict.ok, verdict.message


def test_a_skip_adds_the_values_times_its_weights() -> None:
    skipped = LAYERS["Mamba-1"]
    added = skipped.replace(", skip = d[state_heads])", ")\n    a = a + u * d[state_heads]")
    assert added != skipped
    body = "node = h100_1, workload { input = 6, output = 4, batch = 2 }"
    one, other = (compile_text(f"{model(x)}\nplan p {{ model = hybrid, {body} }}")[0].spec for x in (skipped, added))
    verdict = verify_programs(programs(shrink(one)), plain_programs(shrink(other)), {"batch": 2, "input": 5})
    assert verdict.ok, verdict.message


POOLS = """
plan p { model = hybrid, workload { input = 1000, output = 100 }
  prefill { node = h100_8, sharding { tp = 4 } }
  decode { node = h100_8, sharding { tp = 2, pp = 2 } }
  transfer { bandwidth = 50 GB/s, latency = 10 us }
}
"""

SHIFT = """
sharding small { sp = 2, tp = 2 }
sharding large {
  mesh seq = 2, tensor = 2
  heads, kv_heads, state_heads, state_groups -> tensor, seq
  vocab -> tensor, seq
}
plan p {
  model = hybrid, node = h100_4, workload { input = 1000, output = 100, batch = 4 }
  shift { base = small, tensor = large, threshold = 256 }
}
"""


def test_a_pool_decodes_on_the_states_of_another() -> None:
    verdict = compile_text(model(LAYERS["Mamba-2"]) + POOLS)[0].verify(steps=1)
    assert verdict.ok, verdict.message


ATTENDS = """  block full [layers = 3..4] x[tokens, hidden] {
    h = rms_norm(x)
    k = rope(h @ w_k[hidden, kv_heads, head_dim])
    a = attention(rope(h @ w_q[hidden, heads, head_dim]), k, h @ w_v[hidden, kv_heads, head_dim])
    x = x + a @ w_o[heads, head_dim, hidden]
  }
"""


def test_pools_of_a_model_without_keys_send_its_states() -> None:
    text = model(LAYERS["Mamba-2"])
    assert ATTENDS in text
    (made,) = compile_text(text.replace(ATTENDS, "") + POOLS)
    states = made.estimate().states.request
    assert made.estimate().pools.sent.request == states > 0
    check(made, "states-keep-their-size")


def test_pools_keep_states_in_one_format() -> None:
    other = POOLS.replace("decode {", "decode { model = hybrid with { state_cache = bf16 },")
    with pytest.raises(PlanError) as error:
        compile_text(model(LAYERS["Mamba-2"]) + other)
    assert "different formats of states" in error.value.diagnostics[-1].message


def test_two_shardings_take_turns_on_one_state() -> None:
    verdict = compile_text(model(LAYERS["gated delta net"]) + SHIFT)[0].verify(steps=1)
    assert verdict.ok, verdict.message


def test_shardings_that_keep_different_heads_of_a_state_cannot_take_turns() -> None:
    other = SHIFT.replace("heads, kv_heads, state_", "heads, kv_heads -> tensor, seq\n  state_").replace(
        "state_groups -> tensor, seq", "state_groups -> seq, tensor"
    )
    with pytest.raises(PlanError) as error:
        compile_text(model(LAYERS["gated delta net"]) + other)
    assert {d.code for d in error.value.diagnostics} == {"E311"}


# ---- what programs and plans say


def test_a_plan_with_states_prints_and_reads_back() -> None:
    for layer in LAYERS:
        made = plan(layer, "tp = 2")
        again = compile_text(show_plan(made.spec))[0]
        assert show_plan(again.spec) == show_plan(made.spec)
        assert again.decode.program == made.decode.program
        assert read(show(made.decode.program)) == made.decode.program


def test_one_kernel_convolves_queries_keys_and_values_and_applies_what_follows() -> None:
    ops = plan("Mamba-2", "tp = 2").prefill.program.region("block.mixer").ops
    (conv,) = (op for op in ops if isinstance(op, ShortConv))
    assert (len(conv.xs), conv.fn) == (3, "silu")
    assert not any(getattr(op, "fn", "") == "silu" for op in ops if not isinstance(op, ShortConv))


def test_convolutions_of_two_kinds_wait_for_others_of_their_kind() -> None:
    """Convolutions of keys have a bias, those of queries and values have none: queries and values share a kernel."""
    layer = LAYERS["Mamba-2"].replace(
        "w_ck[conv_width, state_groups, state_width]",
        "w_ck[conv_width, state_groups, state_width], b_ck[state_groups, state_width]",
    )
    text = f"{model(layer)}\nplan p {{ model = hybrid, node = h100_4, sharding {{ sp = 2, cp = 2 }}, {LOAD} }}"
    (made,) = compile_text(text)
    for phase in ("prefill", "decode"):
        ops = made.program(phase).region("block.mixer").ops
        assert sorted(len(op.xs) for op in ops if isinstance(op, ShortConv)) == [1, 2]
    check(made, ["fusing-twice-is-fusing-once", "caches-stay-where-they-are"])


def test_heads_that_are_split_need_one_sum_after_the_layer() -> None:
    for layer in ("gated delta net", "Mamba-2", "lightning"):
        ops = plan(layer, "tp = 2").prefill.program.region("block.mixer").ops
        assert [op.keyword for op in ops if isinstance(op, COLLECTIVES)] == ["all_reduce"]


# ---- sizes and times


def test_a_state_has_the_bytes_that_vllm_gives_it() -> None:
    """`gated_delta_net_state_shape` and `mamba2_state_shape` in vllm/model_executor/layers/mamba/mamba_utils.py."""
    sizes = {
        "qwen3_next_80b_a3b": 36 * (2 * 3 * (2 * 16 * 128 + 32 * 128) + 2 * 32 * 128 * 128),
        "nemotron_3_nano_30b_a3b": 23 * (2 * 3 * (64 * 64 + 2 * 8 * 128) + 4 * 64 * 64 * 128),
    }
    for name, wanted in sizes.items():
        found = [_estimate(name, length).states for length in (1000, 100_000)]
        assert [use.request for use in found if use] == [wanted, wanted]


def test_a_convolution_in_the_embedding_keeps_a_state() -> None:
    told = model(LAYERS["lightning"], "state_dim = 48, conv_width = 4").replace(
        "embedding w_embed[vocab, hidden]", "embedding short_conv(w_embed[vocab, hidden], w_c[conv_width, hidden])"
    )
    text = f"{told}\nplan p {{ model = hybrid, node = h100_8, workload {{ input = 100, output = 10, batch = 8 }} }}"
    (made,) = compile_text(text)
    layers, embedding = 3 * 16 * 16 * 48 * 4, 3 * 64 * 2
    assert made.estimate().states.request == layers + embedding
    verdict = made.verify(steps=1)
    assert verdict.ok, verdict.message


def _estimate(name: str, length: int, more: str = "") -> Estimate:
    load = f"workload {{ input = {length}, output = 100, batch = 4 }}"
    text = f"plan p {{ model = {name}, node = h200_8, sharding {{ tp = 4 }}, {load}\n{more} }}"
    return compile_text(text)[0].estimate()


def test_each_guess_keeps_a_state_to_go_on_from() -> None:
    plain = _estimate("nemotron_3_nano_30b_a3b", 1000).states
    guesses = _estimate("nemotron_3_nano_30b_a3b", 1000, "speculate { tokens = 3, acceptance = 0.8 }").states
    assert (plain.copies, guesses.copies) == (1, 4)
    assert guesses.gpu == 4 * plain.gpu


@pytest.mark.parametrize("guesses", [0, 3, 7])
def test_blocks_hold_a_state_and_the_tokens_of_guesses_that_convolutions_keep(guesses: int) -> None:
    """In vLLM a convolution keeps conv_width - 1 + num_spec tokens, and a block of 16 n tokens holds all of a state."""
    said = f"speculate {{ tokens = {guesses}, acceptance = 0.8 }}" if guesses else ""
    spec = plan("Mamba-2", more=f"engine = vllm\n{said}").spec
    assert isinstance(spec, PlanSpec)
    assert spec.engine is not None
    state, convolved, token = 16 * 32 * 48 * 4, (2 * 8 * 32 + 16 * 48) * 2, 2 * 4 * 16 * 2
    assert spec.engine.kv_block == 16 * ceil((state + (3 + guesses) * convolved) / (16 * token))


@pytest.mark.parametrize("layer", LAYERS)
def test_ideal_seconds_of_layers_with_states_are_a_share_of_what_they_take(layer: str) -> None:
    found = plan(layer).estimate()
    assert 0 < found.prefill.mfu < 1
    assert 0 < found.decode.mfu < 1


def test_more_context_takes_keys_of_attention_layers_alone() -> None:
    short, long = (_estimate("qwen3_next_80b_a3b", length).memory.kv_cache for length in (1000, 11_000))
    keys = 12 * 2 * 2 * 256 * 2 / 2  # 12 layers, keys and values of 1 of 2 heads on a rank, bf16
    assert long - short == 4 * 10_000 * keys


def test_a_step_reads_and_writes_each_state_once() -> None:
    for batch in (1, 64):
        made = plan("Mamba-2").cost.pools[0].main.decode
        at = made.bound_sizes({"batch": batch, "context": 1000, "queries": 1})
        (work,) = (w for w in made.work["block.mixer"] if isinstance(w.op, Recurrence))
        state = batch * state_bytes((work.op,), made.extents)
        assert state == batch * 16 * 32 * 48 * 4
        assert 2 * state < work.demand(at).moved < 2.3 * state


def test_a_scan_counts_the_products_of_its_chunks() -> None:
    """The einsums of `torch_chunk_gated_delta_rule` in transformers, for one chunk of 64 tokens and one head."""
    c, n, p = 64, 128, 96
    keys, values, states = 3 * c * c * n, 2 * c * c * p, 3 * c * n * p
    shape = Shape(heads=1, groups=1, n=n, p=p, chunk=c, item=2, state=4, delta=True)
    assert c * scan_flops(shape) == 2 * (keys + values + states)
    assert scan_flops(shape._replace(delta=False)) == 2 * (c * n + c * p + 2 * n * p)
    assert step_flops(shape) == 7 * n * p


def test_prompts_are_scanned_beside_requests_that_step() -> None:
    alone, beside = (
        plan("gated delta net", "tp = 2", "chunked_prefill = 512").evaluate(concurrency=n).tpot for n in (1, 64)
    )
    assert 0 < alone < beside


# ---- the reference meaning


def _tokens(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


def _recurrence(**options: bool) -> Recurrence:
    blank = Value("x", tensor("bf16", ("batch", "position", "heads", "n")))
    return Recurrence(out=blank, kept_state=blank, q=blank, k=blank, v=blank, more=(), state="s", **options)


def test_a_state_sums_what_was_written_by_its_age() -> None:
    """Without the delta rule `y_t = sum_s (d_(s+1) ... d_t) (q_t k_s) w_s v_s`."""
    q, k, v = _tokens(1, 2, 6, 3, 4), _tokens(2, 2, 6, 3, 4), _tokens(3, 2, 6, 3, 5)
    decay, write = 1 / (1 + np.exp(_tokens(4, 2, 6, 3, 1))), _tokens(5, 2, 6, 3)
    found, states = recur(_recurrence(), (q, k, v), decay, write, np.zeros((2, 3, 4, 5)))
    ages = np.cumsum(np.log(decay[..., 0]), axis=1)
    weights = np.exp(ages[:, :, None] - ages[:, None]) * np.tril(np.ones((6, 6)))[None, :, :, None]
    scores = np.einsum("bthn,bshn->btsh", q, k) * weights * write[:, None]
    assert np.allclose(found, np.einsum("btsh,bshp->bthp", scores, v), atol=1e-12)
    assert len(states) == 6


def test_the_delta_rule_replaces_what_a_key_stands_for() -> None:
    keys = np.eye(4)[None, [0, 1, 0, 1], None]
    values = _tokens(6, 1, 4, 1, 5)
    op, start = _recurrence(delta=True), np.zeros((1, 1, 4, 5))
    found, states = recur(op, (keys, keys, values), np.ones((1, 4, 1, 1)), None, start)
    assert np.allclose(found, values)
    assert np.allclose(states[-1][0, 0, :2], values[0, 2:, 0])


def test_keys_that_are_normalized_have_length_one_and_queries_less() -> None:
    q, k = unit_length(_tokens(7, 2, 3, 16), _tokens(8, 2, 3, 16))
    assert np.allclose(np.linalg.norm(k, axis=-1), 1, atol=1e-6)
    assert np.allclose(np.linalg.norm(q, axis=-1), 1 / 4, atol=1e-6), "of 16 elements: one by their square root"
