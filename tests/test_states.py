"""Layers with a state: what a prompt leaves is what decode goes on with, on every mesh, and a state has one size."""

from __future__ import annotations

import pytest

from plandsl.backends.reference.shrink import shrink
from plandsl.backends.reference.verify import verify_long_prefill
from plandsl.driver import CompiledPlan, compile_text

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


POOLS = """
plan p { model = hybrid, workload { input = 1000, output = 100 }
  prefill { node = h100_8, sharding { tp = 4 } }
  decode { node = h100_8, sharding { tp = 2, pp = 2 } }
  transfer { bandwidth = 50 GB/s, latency = 10 us }
}
"""

SHIFT = """
plan p { model = hybrid, node = h100_8, workload { input = 1000, output = 100, batch = 8 }
  sharding { sp = 2, tp = 2 }
  shift { threshold = 16, sharding = other }
}
sharding other { mesh seq = 2, tensor = 2
  TENSOR -> tensor, seq
}
"""


def test_a_pool_decodes_on_the_states_of_another() -> None:
    verdict = compile_text(model(LAYERS["Mamba-2"]) + POOLS)[0].verify(steps=1)
    assert verdict.ok, verdict.message
