"""Encoders: a load with `output = 0`, which makes no tokens: what every answer says of it, and what it leaves out."""

from __future__ import annotations

import json
from io import StringIO
from math import isclose

import pytest
from rich.console import Console

import plandsl
from plandsl.answers.text.estimate import print_comparison
from plandsl.backends.cost.answers.shares import shares
from plandsl.diagnostics import PlanError
from plandsl.driver import CompiledPlan, compile_text
from plandsl.ir.compute import CacheWrite
from plandsl.show import show_plan
from plandsl.testing.laws import check

BERT = """
model bert {
  layers = 12, hidden = 768, heads = 12, head_dim = 64, ffn = 3072, vocab = 30_522, positions = 512, types = 2
  weights = bf16, causal = false
  embedding layer_norm(w_embed[vocab, hidden] + lookup(w_positions[positions, hidden], by = position)
    + lookup(w_types[types, hidden], by = type)) + b_embed[hidden]
  block x[tokens, hidden] {
    q = x @ w_q[hidden, heads, head_dim] + b_q[heads, head_dim]
    k = x @ w_k[hidden, heads, head_dim] + b_k[heads, head_dim]
    v = x @ w_v[hidden, heads, head_dim] + b_v[heads, head_dim]
    x = layer_norm(x + (attention(q, k, v) @ w_o[heads, head_dim, hidden] + b_o[hidden])) + b_a[hidden]
    f = gelu(x @ w_up[hidden, ffn] + b_up[ffn]) @ w_down[ffn, hidden] + b_down[hidden]
    x = layer_norm(x + f) + b_f[hidden]
  }
  head tanh(x @ w_pool[hidden, pooled] + b_pool[pooled])
}
""".replace("types = 2\n", "types = 2, pooled = 768\n")


def plan_of(load: str, rest: str = "", sharding: str = "tp = 2", model: str = BERT) -> CompiledPlan:
    text = (
        f"{model}\nplan p {{ model = bert, node = h100_8, sharding {{ {sharding} }}, workload {{ {load} }} \n {rest} }}"
    )
    (plan,) = compile_text(text)
    return plan


TEXT = "input = 512, output = 0"
BATCH = f"{TEXT}, batch = 16"


def test_the_parameters_are_those_of_the_checkpoint() -> None:
    """Those of `BertModel` (modeling_bert.py of transformers) at the defaults of BertConfig, pooler included."""
    assert plan_of(BATCH).estimate().parameters == 109_482_240


@pytest.mark.parametrize("sharding", ["tp = 2", "cp = 2, tp = 2", "pp = 2", "dp = 2"])
def test_the_sharded_encoder_computes_the_same(sharding: str) -> None:
    verdict = plan_of(BATCH, sharding=sharding).verify()
    assert verdict.ok, verdict.message


def test_groups_of_texts_compute_the_same() -> None:
    sharding = "mesh stage = 2, part = 2\n layers -> stage\n batch -> part"
    verdict = plan_of(BATCH, "micro_batches = 4", sharding=sharding).verify()
    assert verdict.ok, verdict.message


def test_throughput_is_of_input_tokens_and_no_decode_step_takes_time() -> None:
    e = plan_of(BATCH).estimate()
    assert (e.tpot_s, e.encodes, e.latency_s) == (None, True, e.ttft_s)
    assert isclose(e.throughput_tokens_per_s, 16 * 512 / e.latency_s)
    assert isclose(e.texts_per_s, 16 / e.latency_s)
    assert e.memory.kv_cache == 0
    assert e.money.usd_per_mtok == e.money.input_usd_per_mtok == e.money.blended_usd_per_mtok


def test_nothing_is_kept_and_keys_cost_no_write() -> None:
    written = [op for r in plan_of(BATCH).program("prefill").regions for op in r.ops if isinstance(op, CacheWrite)]
    assert written
    assert all(op.transient for op in written)
    assert not [op for op in plan_of(BATCH).estimate().prefill.ops if "cache" in op.name]
    text = f"{BERT.replace('causal = false', 'causal = true')}\nplan p {{ model = bert, node = h100_1, workload {{ "
    (reused,) = compile_text(text + f"{BATCH}, reuse = 50 % }} }}")
    kept = [op for r in reused.program("prefill").regions for op in r.ops if isinstance(op, CacheWrite)]
    assert not any(op.transient for op in kept)


@pytest.mark.parametrize("load", [BATCH, f"{TEXT}, concurrency = 8"])
def test_no_report_speaks_of_output(load: str) -> None:
    plan = plan_of(load, "engine = vllm" if load != BATCH else "")
    for answer in (plan.estimate(), plan.explain()) if load == BATCH else (plan.estimate(),):
        text = answer._repr_html_()
        assert "TPOT" not in text
        assert "output token" not in text
        assert "nan" not in text
        found = json.dumps(answer.as_json())
        assert not [word for word in ("tpot", "kv_capacity", "kv_bytes", "NaN", '"decode"') if word in found], found
    assert plan.estimate().as_json()["texts_per_s"] > 0


def test_a_requirement_on_the_output_is_an_error() -> None:
    assert plan_of(BATCH, "require latency <= 1 s\n require throughput >= 1 tok/s").estimate().ok
    for metric in ("tpot <= 1 s", "kv_capacity >= 1 tok", "cost_output <= 1 USD"):
        with pytest.raises(PlanError) as found:
            plan_of(BATCH, f"require {metric}")
        assert [d.code for d in found.value.diagnostics] == ["E481"]


def test_guesses_and_decode_pools_contradict_it() -> None:
    with pytest.raises(PlanError) as found:
        plan_of(BATCH, "speculate { tokens = 2, acceptance = 50 % }")
    assert [d.code for d in found.value.diagnostics] == ["E481"]


def test_plan_text_keeps_it() -> None:
    for load in (BATCH, "input = uniform(100, 500), output = 0, rate = 5 req/s"):
        spec = plan_of(load).spec
        (again,) = compile_text(show_plan(spec))
        assert again.spec.workload.encodes
        assert show_plan(again.spec) == show_plan(spec)


def test_a_load_served_over_time_counts_texts() -> None:
    plan = plan_of("input = 512, output = 0, rate = 100 req/s, requests = 400", "engine = vllm")
    found = plan.simulate().simulation
    assert found.summary.served == 400
    assert found.times == ("latency",)
    assert found.summary.output_rate == found.summary.input_rate
    assert found.summary.tpot.number == 0


def test_the_closed_form_is_near_the_simulation() -> None:
    e = plan_of(f"{TEXT}, concurrency = 64", "engine = vllm", "tp = 1").estimate()
    assert 0.7 < e.simulated.output_rate / e.throughput_tokens_per_s < 1.25


def test_texts_in_chunks_share_steps_with_texts_alone() -> None:
    """A budget of 4096 tokens reads 8 texts at once: none of them decodes, so that no token is held back for one."""
    model = BERT.replace("causal = false", "causal = true")
    whole, chunked = plan_of(BATCH, model=model), plan_of(BATCH, "chunked_prefill = 4096", model=model)
    one, two = (float(chunked.evaluate(batch=n).ttft) for n in (8, 16))
    assert isclose(
        one, float(whole.evaluate(batch=8).ttft), rel_tol=0.05
    )  # a kernel of attention to chunks is another one
    assert isclose(two, 2 * one, rel_tol=0.05)
    for load in (f"{TEXT}, concurrency = 16", f"{TEXT}, concurrency = 256"):
        e = plan_of(load, "engine = vllm\n chunked_prefill = 4096", "tp = 1", model).estimate()
        assert 0.7 < e.simulated.output_rate / e.throughput_tokens_per_s < 1.25


def test_shares_are_those_of_prefill_and_no_more_than_all() -> None:
    """A GELU behind a GEMM finds what the GEMM wrote in the cache of the chip, faster than memory would bring it."""
    asked = "workload { input = 512, output = 0, batch = 1 }, require mbu >= 1 % and mfu >= 1 %"
    (plan,) = compile_text(f"plan texts {{ model = arctic_embed_m, node = l4_1, engine = vllm, {asked} }}")
    estimate = plan.estimate()
    rates = [op.count * op.bytes / op.time_s for op in estimate.prefill.ops]
    assert max(rates) > plan.spec.node.gpu.bandwidth
    assert 0 < estimate.prefill.mbu <= 1
    assert [r.value for r in estimate.requires] == [estimate.prefill.mbu, estimate.prefill.mfu]
    found = shares(plan.cost, plan.cost.evaluate())
    assert isclose(found.mbu, estimate.prefill.mbu, rel_tol=1e-9)
    assert isclose(found.mfu, estimate.prefill.mfu, rel_tol=1e-9)


def test_nobody_sends_anything_in_a_decode_step() -> None:
    plan = plan_of(BATCH)
    assert [flows.phase for flows in plan.flows()] == ["prefill"]
    assert str(plan.draw("communication")).startswith("digraph")
    with pytest.raises(PlanError) as found:
        plan.draw("timeline", "decode")
    assert [d.code for d in found.value.diagnostics] == ["E481"]


def test_the_head_of_a_picture_speaks_of_no_output() -> None:
    drawn = str(plan_of(BATCH).draw("devices")).replace("\N{NO-BREAK SPACE}", " ")
    assert "512 tokens in, nothing out" in drawn
    assert "latency" in drawn
    assert "TTFT" not in drawn


@pytest.mark.parametrize("rest", ["", "engine = vllm", "shift { tensor = wide, threshold = 600 }"])
def test_no_line_of_a_report_and_no_table_is_about_decode(rest: str) -> None:
    wide = "sharding wide { mesh tensor = 2\n heads, ffn -> tensor }\n"
    plan = plan_of(BATCH, rest, model=wide + BERT.replace("causal = false", "causal = true"))
    check(plan, "encoders-do-not-decode")
    assert "decode" not in plan.estimate().tables
    assert "decode" not in plan.explain()._repr_html_()


def test_the_difference_of_two_encoders_has_no_tpot() -> None:
    a, b = plan_of(BATCH), plan_of(BATCH, sharding="tp = 3")
    found = a.diff(b)
    assert [split.metric for split in found.splits] == ["ttft", "throughput", "memory"]
    assert "TPOT" not in found._repr_html_()
    assert "tpot_s" not in found.as_json()


def test_a_search_has_no_tpot() -> None:
    text = f"""{BERT}
search s {{
  model = bert, node = h100_8, workload {{ {BATCH} }}
  vary sharding.tp in [1, 2]
  maximize throughput_per_gpu
}}"""
    found = plandsl.search(text)
    (first, *_) = found.as_json()["top"]
    assert "tpot_s" not in first
    assert first["throughput_tokens_per_s"] > 0


@pytest.mark.parametrize(
    ("loads", "wanted"),
    [
        ((BATCH, BATCH), {"per M input": True}),
        (
            (BATCH, "input = 512, output = 8, batch = 4"),
            {"per M tokens": True, "USD, input": True, "USD, output": True},
        ),
        (("input = 512, output = 8, batch = 4",) * 2, {"per M output": True, "per M input": False}),
    ],
)
def test_the_table_of_money_names_the_tokens_that_each_plan_is_paid_by(
    loads: tuple[str, str], wanted: dict[str, bool]
) -> None:
    plans = [
        f"plan p{at} {{ model = {'bert' if load == BATCH else 'llama_3_1_8b'}, node = h100_8, workload {{ {load} }} }}"
        for at, load in enumerate(loads)
    ]
    out = StringIO()
    print_comparison([plan.estimate() for plan in compile_text(BERT + "\n".join(plans))], Console(file=out, width=120))
    text = out.getvalue()
    assert {word: word in text for word in wanted} == wanted
    assert " 0.00 USD" not in text


def test_an_encoder_whose_ranks_have_requests_of_their_own_verifies_in_micro_batches() -> None:
    text = (
        "plan p { model = llama_3_2_1b, node = h100_8, micro_batches = 2\n"
        "sharding { mesh a = 2, b = 2; batch -> a; heads, kv_heads, ffn, vocab -> b }\n"
        "workload { input = 64, output = 0, batch = 8 } }"
    )
    (plan,) = compile_text(text)
    verdict = plan.verify()
    assert verdict.ok, verdict.message
