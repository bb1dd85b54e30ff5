"""Plans run in JAX on devices of the host, beside the reference in float64.

Plans have at most 16 ranks; with LARGE set, some have 64, and some are drawn.
"""

import importlib.util
import json
import os
from pathlib import Path

import pytest
from hypothesis import given, settings

from plandsl.backends.jax import time_program
from plandsl.cli import main
from plandsl.diagnostics import PlanError
from plandsl.driver import CompiledPlan, compile_file, compile_text
from plandsl.spec.plan import PlanSpec
from plandsl.testing import mixtures
from tests.test_encoders import plan_of as encoder
from tests.test_lora import plan_of as adapted
from tests.test_towers import plan_of as sees

pytestmark = [
    pytest.mark.extras,
    pytest.mark.skipif(importlib.util.find_spec("jax") is None, reason="jax is not installed: plandsl[run]"),
]
EXAMPLES = Path(__file__).resolve().parent.parent / "examples"

MODEL = """
model m {
  layers = 4, hidden = 1024, heads = 16, kv_heads = 8, head_dim = 64, ffn = 2048, vocab = 1008, weights = fp6
  embedding w_embed[vocab, hidden]
  block x[tokens, hidden] {
    h = rms_norm(x)
    q = rope(h @ w_q[hidden, heads, head_dim])
    k = rope(h @ w_k[hidden, kv_heads, head_dim])
    a = attention(q, k, h @ w_v[hidden, kv_heads, head_dim], window = 96)
    x = x + a @ w_o[heads, head_dim, hidden]
    h = rms_norm(x)
    x = x + (silu(h @ w_gate[hidden, ffn]) * (h @ w_up[hidden, ffn])) @ w_down[ffn, hidden]
  }
  head rms_norm(x) @ w_head[hidden, vocab]
}
"""
"""A model of our own, with weights in a format that jax lacks."""

PLANS = {
    "three ways": ("cp = 3", ""),
    "ring in stages": ("cp = 2, pp = 2, tp = 2", ""),
    "two axes": ("mesh a = 2, b = 2\n tokens -> a, b\n context -> a, b", ""),
    "prompts in parts": ("cp = 2, tp = 2", "chunked_prefill = 64"),
    "groups of requests": ("dp = 2, pp = 2", "micro_batches = 2"),
    "collectives in chunks": ("mesh t = 4\n heads, kv_heads, ffn, vocab -> t\n tokens -> t", "chunks = 3"),
    "more ranks than key heads": ("tp = 16", ""),
}


STATES = {
    "pools": (
        "qwen3_next_80b_a3b",
        "prefill { node = h100_4, sharding { tp = 4 } }\n decode { node = h100_2, sharding { tp = 2 } }\n"
        " transfer { bandwidth = 50 GB/s, latency = 10 us }",
    ),
    "groups of requests in stages": (
        "nemotron_3_nano_30b_a3b",
        "node = h100_8, sharding { dp = 2, pp = 2, tp = 2 }, micro_batches = 2",
    ),
    "heads of a sequence": ("minimax_m1", "node = h100_8, sharding { sp = 4, tp = 2 }"),
    "prompts that ranks do not divide": ("minimax_m1", "node = h100_8, sharding { mesh seq = 3\n tokens -> seq }"),
    "blocks of positions": (
        "qwen3_next_80b_a3b",
        "node = h100_8, sharding { cp = 2, tp = 2 }, chunked_prefill = 64",
    ),
    "blocks that end early": ("jamba_v0_1", "node = h100_4, sharding { cp = 3 }"),
    "a state of single values": ("jamba_v0_1", "node = h100_2, sharding { tp = 2 }"),
    "guesses": (
        "qwen3_next_80b_a3b",
        "node = h100_4, sharding { tp = 4 }\n speculate { draft = qwen3_0_6b, tokens = 2, acceptance = 80 % }",
    ),
}
"""Models with gated delta nets, Mamba-2, lightning attention and Mamba; three requests, which ranks do not divide."""


@pytest.mark.parametrize("name", STATES)
def test_layers_with_a_state_compute_what_the_reference_does(name: str) -> None:
    model, rest = STATES[name]
    load = "workload { input = 400, output = 64, batch = 3 }"
    (plan,) = compile_text(f"plan p {{\n model = {model}\n {load}\n {rest}\n}}")
    verdict = plan.run(steps=2)
    assert verdict.ok, verdict.message
    assert verdict.worst <= 1e-9


ENCODERS = ["tp = 2", "cp = 3", "cp = 2, tp = 2", "pp = 2", "mesh a = 2, b = 2\n tokens -> a, b\n context -> a, b"]


@pytest.mark.parametrize("sharding", ENCODERS)
def test_encoders_compute_what_the_reference_does(sharding: str) -> None:
    verdict = encoder("input = 509, output = 0, batch = 7", sharding=sharding).run()
    assert (verdict.ok, verdict.steps) == (True, 0), verdict.message
    assert verdict.worst <= 1e-9


def test_models_that_are_not_causal_may_decode() -> None:
    verdict = encoder("input = 500, output = 8, batch = 3", sharding="dp = 2, cp = 2").run(steps=2)
    assert verdict.ok, verdict.message
    assert verdict.worst <= 1e-9


ADAPTED = {
    "requests and heads": ("tp = 2, dp = 2", ""),
    "an axis of tokens and of inputs": (
        "mesh a = 2, b = 2; tokens -> a; hidden -> a; heads, kv_heads, ffn, vocab -> b",
        "",
    ),
    "groups of requests in stages": ("dp = 2, pp = 2", "micro_batches = 2"),
}


@pytest.mark.parametrize("name", ADAPTED)
def test_adapters_compute_what_the_reference_does(name: str) -> None:
    sharding, rest = ADAPTED[name]
    verdict = adapted(sharding=sharding, rest=rest).run(steps=2)
    assert verdict.ok, verdict.message
    assert verdict.worst <= 1e-9


def test_a_program_that_mixes_up_adapters_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    from plandsl.backends.jax import host_texts

    wrong = host_texts.SETTINGS.replace("np.arange(rows) %", "(1 + np.arange(rows)) %")
    monkeypatch.setattr(host_texts, "SETTINGS", wrong)
    assert not adapted(sharding="tp = 2").run(steps=0).ok


TOWERS = {
    "split as the model": "sharding { sp = 2, tp = 2, pp = 2 }",
    "whole images": "sharding { tp = 4 }, tower { sharding { mesh gpu = 4; batch -> gpu } }",
    "patches of an image": "sharding { tp = 2 }, tower { sharding { mesh gpu = 2; tokens -> gpu } }",
    "beside a draft": "speculate { draft = blind, tokens = 2, acceptance = 70 % }",
}


@pytest.mark.parametrize("name", TOWERS)
def test_towers_and_their_models_compute_what_the_reference_does(name: str) -> None:
    verdict = sees(TOWERS[name]).run(steps=1)
    assert verdict.ok, verdict.message
    assert verdict.worst <= 1e-9


def test_patches_that_are_padding_are_merged_as_zeros(monkeypatch: pytest.MonkeyPatch) -> None:
    from plandsl.backends.jax import texts

    tower = sees("sharding { cp = 2 }", "input = 511, output = 0, batch = 3", model="vit")
    verdict = tower.run()
    assert verdict.ok, verdict.message
    monkeypatch.setattr(
        texts, "ON_A_DEVICE", texts.ON_A_DEVICE.replace("x.shape[along]) < count", "x.shape[along]) >= 0")
    )
    verdict = tower.run()
    assert not verdict.ok
    assert "prefill is off by" in verdict.message


@pytest.mark.parametrize("name", PLANS)
def test_plans_of_our_own_model_compute_what_the_reference_does(name: str) -> None:
    sharding, more = PLANS[name]
    load = "workload { input = 4096, output = 64, batch = 8 }"
    node = "node = h100_8 with { count = 16 }"
    (plan,) = compile_text(f"{MODEL} plan p {{\n {node}\n model = m\n sharding {{ {sharding} }}\n {load}\n {more}\n}}")
    verdict = plan.run(steps=3)
    assert verdict.ok, verdict.message
    assert verdict.worst <= 1e-9


def test_a_vocabulary_that_an_engine_pads_computes_what_the_reference_does() -> None:
    model = MODEL.replace("vocab = 1008", "vocab = 1009").replace("fp6", "bf16")
    load = "workload { input = 512, output = 64, batch = 8 }"
    (plan,) = compile_text(
        f"{model} plan p {{\n node = h100_8, model = m, engine = vllm\n sharding {{ tp = 4 }}\n {load}\n}}"
    )
    assert "N346" in {d.code for d in plan.notes}
    verdict = plan.run(steps=2)
    assert verdict.ok, verdict.message
    assert verdict.worst <= 1e-9


def test_a_program_that_computes_something_else_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    from plandsl.backends.jax import texts

    monkeypatch.setattr(texts, "ON_A_DEVICE", texts.ON_A_DEVICE.replace("past + index * count", "past + count"))
    plan = next(p for p in compile_file(EXAMPLES / "own_model.plan") if p.name == "megatron")
    verdict = plan.run(steps=1)
    assert not verdict.ok
    assert "prefill is off by" in verdict.message or "decode step 1 is off by" in verdict.message


def test_a_small_plan_is_timed_beside_its_prediction(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    source = tmp_path / "small.plan"
    small = (
        MODEL.replace("fp6", "bf16").replace("1024", "64").replace("2048", "64").replace("window = 96", "window = 8")
    )
    plan = "plan p { node = h100_8, model = m, sharding { tp = RANKS }, workload { input = 8, output = 2, batch = 1 } }"
    source.write_text(small + plan.replace("RANKS", "1"))
    assert main(["run", str(source), "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["steps"]
    assert [row["phase"] for row in rows] == ["prefill", "decode"]
    assert all(row["measured_s"] > 0 and row["predicted_s"] > 0 for row in rows)
    (wide,) = compile_text(small + plan.replace("RANKS", "8"))
    with pytest.raises(PlanError) as error:
        time_program(wide.jax_program())
    assert [d.code for d in error.value.diagnostics] == ["E519"]


LARGE = pytest.mark.skipif(not os.environ.get("LARGE"), reason="`make test-extras LARGE=1` runs it")

WIDE = {
    "heads and stages": "mesh stage = 4, tensor = 16\n layers -> stage\n heads, kv_heads, ffn, vocab -> tensor",
    "context, requests and heads": "dp = 2, cp = 4, tp = 8",
    "two axes of weights": "mesh x = 8, y = 8\n heads, kv_heads, ffn, vocab -> x\n tokens -> y",
}
"""Shardings over 64 ranks."""


@LARGE
@pytest.mark.parametrize("name", WIDE)
def test_plans_of_64_ranks_compute_what_the_reference_does(name: str) -> None:
    load = "workload { input = 4096, output = 64, batch = 8 }"
    node = "node = h100_8 with { count = 64 }"
    text = f"{MODEL} plan p {{\n {node}\n model = m\n sharding {{ {WIDE[name]} }}\n {load}\n}}"
    verdict = compile_text(text)[0].run(steps=2)
    assert verdict.ok, verdict.message
    assert verdict.worst <= 1e-9


@LARGE
@settings(max_examples=40)
@given(plan=mixtures())
def test_law_drawn_plans_compute_what_the_reference_does(plan: PlanSpec) -> None:
    """A plan that cannot be a program in JAX says why (E515); every other one agrees."""
    try:
        verdict = CompiledPlan(plan, ()).run(steps=2)
    except PlanError as error:
        if {d.code for d in error.diagnostics} != {"E515"}:
            raise
        return
    assert verdict.ok, verdict.message
    assert verdict.worst <= 1e-9
