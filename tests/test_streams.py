"""Several residual streams, and activations that few elements pass."""

from __future__ import annotations

import numpy as np
import pytest

from plandsl.diagnostics import PlanError
from plandsl.driver import CompiledPlan, compile_text
from plandsl.ir.collectives import AllReduce
from plandsl.ir.meaning.elementwise import moments
from plandsl.ir.meaning.streams import excess, match, mix, spread
from plandsl.ir.streams import Excess, Moments
from plandsl.ir.text import read, show
from plandsl.ir.types import Value, tensor
from plandsl.show import show_plan

STREAM = "item(x, over = streams, at = 0)"
MODEL = f"""
model m {{
  layers = 4, hidden = 64, heads = 16, kv_heads = 8, head_dim = 16, vocab = 1000, ffn = 128
  streams = 4, mixed = 4, routes = 5, wide = 64, weights = bf16
  embedding e = w_embed[vocab, hidden] * 8 {{
    b = match(e @ w_b[hidden, wide], e, over = wide)
    c = match(e @ w_c[hidden, wide], e, over = wide)
    stack(e, b, c, b, into = streams)
  }}
  block x[tokens, streams, hidden] {{
    m = tanh(rms_norm({STREAM}) @ w_routes[hidden, routes])
    p = x + mix(x, m @ w_predict[routes, streams, mixed], over = streams, by = mixed)
    y = item(p, over = streams, at = 0)
    h = rms_norm(y)
    k = rope(h @ w_k[hidden, kv_heads, head_dim])
    a = attention(rope(h @ w_q[hidden, heads, head_dim]), k, h @ w_v[hidden, kv_heads, head_dim])
    z = y + a @ w_o[heads, head_dim, hidden]
    h = rms_norm(z)
    g = gelu(excess(h @ w_gate[hidden, ffn], share = 0.05)) * (h @ w_up[hidden, ffn])
    z = z + g @ w_down[ffn, hidden]
    x = p + spread(z - y, into = streams) * (m @ w_correct[routes, streams] + 1)
    x = x + spread(rms_norm({STREAM}), into = streams, first = 1)
  }}
  head rms_norm({STREAM} + match(item(x, over = streams, at = 2) @ w_u[hidden, wide], {STREAM}, over = wide)) @
    w_embed[vocab, hidden]
}}
"""


def plan(sharding: str = "tp = 1", more: str = "", text: str = MODEL) -> CompiledPlan:
    load = "workload { input = 2000, output = 100, batch = 16 }"
    (made,) = compile_text(f"{text}plan p {{ model = m, node = h100_8, sharding {{ {sharding} }}\n {load}\n {more} }}")
    return made


CASES = (
    ("tp = 4", ""),
    ("tp = 2, pp = 2", "micro_batches = 2"),
    ("cp = 2, tp = 2", "chunked_prefill = 512"),
    ("sp = 2, tp = 2, dp = 2", "chunks = 2"),
    ("mesh a = 2, b = 2\n ffn, heads, kv_heads -> a\n batch -> b", ""),
    ("mesh a = 2, b = 2\n streams, hidden, wide -> a\n ffn, mixed -> b", ""),
)


@pytest.mark.parametrize(("sharding", "more"), CASES)
def test_ranks_compute_what_the_whole_model_computes(sharding: str, more: str) -> None:
    verdict = plan(sharding, more).verify(steps=1)
    assert verdict.ok, verdict.message


def test_a_split_dimension_costs_an_all_reduce_of_two_numbers() -> None:
    program = plan("tp = 4").decode.program
    block = next(region for region in program.regions if region.layers is not None)
    sums = [op.out for op in block.ops if isinstance(op, Moments)]
    reduced = [op for op in block.ops if isinstance(op, AllReduce) and op.x in sums]
    assert [(op.out.type.names, dict(program.sizes)["moments"]) for op in reduced] == [
        (("batch", "position", "moments"), 2)
    ]


def test_programs_and_plans_read_back() -> None:
    made = plan("tp = 2, pp = 2")
    for program in (made.prefill.program, made.decode.program):
        assert read(show(program)) == program
    assert show_plan(compile_text(show_plan(made.spec))[0].spec) == show_plan(made.spec)


# ---- what they mean


def test_the_elements_that_exceed_the_threshold_are_the_share_of_normal_numbers() -> None:
    x = np.random.default_rng(0).normal(3.0, 2.0, size=(2, 200_000))
    value = Value("x", tensor("fp32", ("batch", "ffn")))
    op = Excess(value, value, value, over="ffn", share=0.05)
    out = excess(x, moments(x, 1), 1, x.shape[1], op.deviations)
    assert (out > 0).mean() == pytest.approx(0.05, rel=0.03)
    assert np.allclose(out[out > 0], (x - 3.0 - 1.6449 * 2.0)[out > 0], atol=0.05)


def test_what_exceeds_is_found_among_the_features_of_a_token() -> None:
    made = plan("tp = 2")
    ops = [op for region in made.prefill.program.regions for op in region.ops]
    assert {op.over for op in ops if isinstance(op, Excess)} == {"ffn"}
    assert {op.over for op in ops if isinstance(op, Moments)} == {"ffn"}


def test_sums_of_parts_are_the_sums_of_the_whole() -> None:
    x = np.random.default_rng(1).normal(size=(3, 8))
    assert np.allclose(moments(x[:, :5], 1) + moments(x[:, 5:], 1), moments(x, 1))


def test_streams_are_mixed_by_the_weights_of_the_token() -> None:
    draw = np.random.default_rng(2).normal
    x, c = draw(size=(2, 3, 5)), draw(size=(2, 3, 3))
    for token in range(2):
        for stream in range(3):
            wanted = sum(c[token, other, stream] * x[token, other] for other in range(3))
            assert np.allclose(mix(x, c)[token, stream], wanted)


def test_a_matched_value_has_the_root_mean_square_of_the_other() -> None:
    x, like = np.random.default_rng(3).normal(size=(2, 4, 64)) * 5
    out = match(x, like)
    assert np.allclose((out**2).mean(-1), (like**2).mean(-1), rtol=1e-6)
    assert np.allclose(out / x, (out / x)[:, :1])


def test_a_spread_value_is_zero_before_the_first_item() -> None:
    x = np.ones((2, 4))
    assert spread(x, 1, 3, 1).sum(axis=(0, 2)).tolist() == [0.0, 8.0, 8.0]


# ---- what is refused

REFUSED = {
    "count": ("streams = 4", "streams = 5", "4 values are stacked"),
    "into": ("stack(e, b, c, b, into = streams)", "stack(e, b, c, b, into = hidden)", "does not have"),
    "shapes": ("stack(e, b, c,", "stack(e, b, e @ w_c[hidden, wide],", "the same dimensions"),
    "first": ("first = 1", "first = 4", "leaves nothing"),
    "weights": ("[routes, streams, mixed],", "[routes, mixed, streams],", "streams and their weights"),
    "mixed": ("mixed = 4", "mixed = 2", "`streams` has 4 items"),
    "wide": ("wide = 64", "wide = 32", "`hidden` has 64 items"),
    "over": ("e @ w_b[hidden, wide], e, over = wide", "e @ w_b[hidden, wide], e, over = hidden", "the same rows"),
    "share": ("share = 0.05", "share = 1.5", "from 1e-06"),
    "silent": (", share = 0.05", "", "which share"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_streams_that_do_not_fit_are_refused(case: str) -> None:
    old, new, words = REFUSED[case]
    assert old in MODEL
    with pytest.raises(PlanError) as error:
        plan(text=MODEL.replace(old, new, 1))
    assert any(d.code == "E571" and words in d.message for d in error.value.diagnostics), error.value
