"""Chunked prefill: steps of some tokens of a prompt and one of each running request, against a server played out."""

from __future__ import annotations

import re
from functools import cache

import numpy as np
import pytest

from plandsl.backends.cost.deployments.chunks import chunk_lone, chunk_prompt, sustained_decodes
from plandsl.backends.cost.time.mixed import Mix, Mixer
from plandsl.diagnostics import PlanError
from plandsl.driver import CompiledPlan, compile_text
from plandsl.show import show_plan
from plandsl.testing import laws_cost


@cache
def plan(load: str, chunk: int | None = 512, sharding: str = "tp = 2", more: str = "") -> CompiledPlan:
    field = "" if chunk is None else f"; chunked_prefill = {chunk}"
    parts = f"sharding {{ {sharding} }}; workload {{ {load} }}{field}; {more}"
    (made,) = compile_text(f"plan p {{ model = llama_3_1_8b, node = h100_8; {parts} }}")
    return made


def mixer(made: CompiledPlan) -> Mixer:
    return made.cost.main.mixer


def played(made: CompiledPlan, batch: int, input_: int, output: int, budget: int) -> tuple[float, float, float]:
    """Time to the last first token, mean TPOT, and seconds in all, of a batch served step by step, first come first."""
    left = [input_] * batch  # tokens of prompts still to be computed
    made_tokens, first, last = [0] * batch, [0.0] * batch, [0.0] * batch
    now, decode, work = 0.0, made.cost.main.decode, mixer(made)
    while any(n < output for n in made_tokens):
        running = [r for r in range(batch) if left[r] == 0 and made_tokens[r] < output]
        context = input_ + np.mean([made_tokens[r] for r in running]) if running else input_
        room, chunk, before = budget - len(running), 0, 0
        for r in range(batch):
            taken = min(left[r], room - chunk)
            before = input_ - left[r] if taken and not chunk else before
            left[r] -= taken
            chunk += taken
            if taken and not left[r]:
                made_tokens[r], first[r] = 1, -1.0
        if chunk:
            now += float(work.step(Mix(chunk, before, 1, len(running), context), 1).period)
        else:
            bind = {"batch": len(running), "context": context}
            now += float(decode.at(bind, 1, [(1.0, context)]).period)
        for r in running:
            made_tokens[r] += 1
        first = [now if f < 0 else f for f in first]
        last = [now if r in running else t for r, t in enumerate(last)]
    tpot = np.mean([(b - a) / (output - 1) for a, b in zip(first, last, strict=True)])
    return max(first), float(tpot), now


@pytest.mark.parametrize(
    ("batch", "input_", "output", "budget"),
    [(1, 4000, 100, 512), (8, 2000, 200, 512), (16, 3000, 300, 1024), (32, 1000, 400, 256), (4, 9000, 500, 2048)],
)
def test_a_batch_takes_what_it_takes_step_by_step(batch: int, input_: int, output: int, budget: int) -> None:
    made = plan(f"input = {input_}, output = {output}, batch = {batch}", budget)
    ours, (first, tpot, whole) = made.cost.evaluate(), played(made, batch, input_, output, budget)
    assert ours.ttft == pytest.approx(first, rel=0.05)
    assert ours.tpot == pytest.approx(tpot, rel=0.05)
    assert batch * output / ours.throughput == pytest.approx(whole, rel=0.05)


def test_a_lone_prompt_takes_its_chunks() -> None:
    made = plan("input = 4096, output = 10, batch = 1")
    steps = [float(mixer(made).step(Mix(512, 512 * i, 1, 0, 4096), 1).period) for i in range(8)]
    assert made.cost.evaluate().ttft == pytest.approx(sum(steps), rel=0.01)
    assert made.cost.evaluate().mixed == 0


def test_a_budget_for_all_is_one_undivided_step() -> None:
    load = "input = 1000, output = 50, batch = 8"
    one, bare = plan(load, 100_000).cost.evaluate(), plan(load, None).cost.evaluate()
    assert one.ttft == pytest.approx(bare.ttft, rel=0.01)
    assert one.tpot == pytest.approx(bare.tpot, rel=1e-12)


def test_where_seldom_anything_decodes_a_step_has_that_share_of_its_attention() -> None:
    """Where no kernel does both; one that does is not launched again."""
    bare = "calibration { attention_prefill = 70 %, attention_decode = 60 %, launch = 2 us }"
    work = mixer(plan("input = 4000, output = 100, batch = 16", more=bare))
    at = [type(w.op).__name__ for w in work.prefill.work["block"]].index("Attention")
    none, half, one = (float(work.step(Mix(512, 512, 1, n, 4096), 1).seconds["block"][at]) for n in (0, 0.5, 1))
    assert none < one
    assert half == pytest.approx((none + one) / 2)


def test_rows_of_a_mixed_step_are_those_of_both() -> None:
    made = plan("input = 4000, output = 100, batch = 16")
    work, step = mixer(made), mixer(made).step(Mix(497, 2000, 1, 15, 4000), 1)
    whole = made.cost.main.prefill.at({"batch": 1, "input": 512, "context": 512}, 1, [(1.0, 512)])
    kinds = [type(w.op).__name__ for w in work.prefill.work["block"]]
    for kind, a, b in zip(kinds, step.seconds["block"], whole.seconds["block"], strict=True):
        assert kind == "Attention" or a == b, kind


def test_decodes_and_the_prompts_that_take_their_places_fill_a_step() -> None:
    """A request that decodes takes 4 tokens of a step, its own and 3 guesses, and ends after output / gain steps."""
    (made,) = compile_text("""plan p { model = llama_3_1_8b, node = h100_1, chunked_prefill = 512
      speculate { tokens = 3, acceptance = 80 % }, workload { input = 1000, output = 300, concurrency = 64 } }""")
    running = sustained_decodes(made.cost.one, 1000, 300)
    ending = running * made.cost.one.gain / 300
    assert running * 4 + ending * 1000 == pytest.approx(512)


def test_smaller_chunks_spare_those_that_run_and_cost_the_prompt() -> None:
    load = "input = 4000, output = 400, concurrency = 32"
    found = [plan(load, chunk).cost.evaluate() for chunk in (256, 1024, 4096)]
    steps = [float(chunk_prompt(plan(load, c).cost.one, 32, 4000, 1).times.period) for c in (256, 1024, 4096)]
    assert steps == sorted(steps)
    assert [f.served.prefill for f in found] == sorted((f.served.prefill for f in found), reverse=True)
    assert all(f.tpot > f.served.step for f in found)


@pytest.mark.parametrize("load", ["batch = 8", "concurrency = 64, requests = 640"])
def test_the_parts_of_a_phase_add_up(load: str) -> None:
    for more in ("", "engine = vllm"):
        e = plan(f"input = 1500, output = 200, {load}", 512, more=more).estimate()
        for p, whole in ((e.prefill, e.ttft_s), (e.decode, e.tpot_s)):
            parts = p.compute_s + p.communication_s + p.bubble_s + p.engine_s + p.waiting_s + p.mixed_s
            assert parts == pytest.approx(whole)
        assert e.decode.mixed_s > 0


def test_arrays_equal_numbers() -> None:
    laws_cost.arrays_equal_numbers(plan("input = 900, output = 60, batch = 8", 256, "tp = 2, pp = 2"))
    many = plan("input = 1, output = 1, concurrency = 1").cost.evaluate(
        concurrency=np.array([1, 30, 900]), input=np.array([100, 3000, 90]), output=np.array([2, 500, 60])
    )
    for at, (n, i, o) in enumerate(((1, 100, 2), (30, 3000, 500), (900, 90, 60))):
        one = plan("input = 1, output = 1, concurrency = 1").cost.evaluate(concurrency=n, input=i, output=o)
        for name in ("ttft", "tpot", "throughput"):
            assert getattr(many, name)[at] == pytest.approx(getattr(one, name), rel=1e-12), name


@pytest.mark.parametrize("sharding", ["tp = 4", "pp = 2, tp = 2", "sp = 4", "cp = 4", "cp = 2, context_form = gather"])
def test_chunks_of_a_prompt_are_one_prefill(sharding: str) -> None:
    for load in ("input = 4000, output = 100", "input = 4000, output = 100, reuse = 30 %, prefix = own"):
        verdict = plan(load, 512, sharding).verify()
        assert verdict.ok, verdict.message


def test_a_plan_with_chunks_reads_back() -> None:
    made = plan("input = 4000, output = 100, batch = 8")
    (again,) = compile_text(show_plan(made.spec))
    assert again.spec.chunked_prefill == 512
    assert again.cost.evaluate().tpot == made.cost.evaluate().tpot


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("model = llama_3_1_8b; sharding { tp = 8 }; workload { input = 9, output = 9, batch = 512 }", "E324"),
        (
            "model = llama_3_1_8b with { causal = false }; sharding { tp = 8 }; workload { input = 9, output = 9 }",
            "E320",
        ),
        ("model = llama_3_1_8b; sharding { tp = 8 }; workload { input = 9, output = 9 }; chunked = 3", "E206"),
    ],
)
def test_what_cannot_be_meant(text: str, code: str) -> None:
    with pytest.raises(PlanError) as caught:
        compile_text(f"plan p {{ node = h200_8; chunked_prefill = 512; {text} }}")
    assert [d.code for d in caught.value.diagnostics] == [code]


def test_the_hint_of_e324_leaves_room_for_a_prompt() -> None:
    with pytest.raises(PlanError) as caught:
        plan("input = 900, output = 9, batch = 512")
    (found,) = caught.value.diagnostics
    assert found.code == "E324"
    (budget,) = re.findall(r"chunked_prefill = (\d+)", found.hint)
    assert plan("input = 900, output = 9, batch = 512", int(budget)).spec.chunked_prefill == int(budget)


# ---- engines that run prompts in steps of their own

LONE = "engine = sglang"
MIXED = "engine = sglang with { mixed = true }"


def test_decodes_wait_for_chunks_where_the_engine_does_not_mix_steps() -> None:
    """So all that have room run, and prompts cost others what whole prompts cost; in mixed steps few run at once."""
    load = "input = 2000, output = 8, concurrency = 44"
    lone, whole, mixed = (plan(load, c, more=m).cost.evaluate() for c, m in ((2048, LONE), (None, LONE), (2048, MIXED)))
    assert lone.served.running == whole.served.running == 44 > mixed.served.running
    assert lone.served.others == pytest.approx(whole.served.others, rel=0.1)
    assert lone.tpot > 3 * mixed.tpot
    as_vllm = plan(load, 2048, more="engine = sglang with { scheduler = vllm }").cost.evaluate()
    assert (mixed.tpot, mixed.throughput) == (as_vllm.tpot, as_vllm.throughput)


@pytest.mark.parametrize(("load", "more"), [("input = 2000, output = 40", LONE), ("input = 300, output = 9", MIXED)])
def test_a_batch_of_sglang_ends_when_its_simulation_does(load: str, more: str) -> None:
    """Of an engine that mixes steps the closed form takes longer: its requests end one by one."""
    found = plan(f"{load}, batch = 32", 2048, more=more).cost.evaluate()
    records = plan(f"{load}, concurrency = 32, requests = 32", 2048, more=more).simulate().records
    assert found.ttft == pytest.approx(records.ttft_s.max(), rel=0.02)
    assert found.latency / records.latency_s.max() < (1.02 if more == LONE else 1.4)
    assert found.latency / records.latency_s.max() > 0.98


def test_prompts_that_come_together_fill_steps_and_one_alone_is_cut_evenly() -> None:
    one = plan("input = 3000, output = 8, concurrency = 8", 2048, more=LONE).cost.one
    alone, many = (chunk_lone(one, joined, 3000) for joined in (1, 5.0))
    assert alone.steps == 2
    assert many.steps == 3000 / 2048
    assert many.times.period > alone.times.period > many.times.period / 2


def test_an_engine_that_does_not_mix_steps_needs_no_room_beside_decodes() -> None:
    load = "input = 900, output = 9, batch = 512"
    assert plan(load, 512, more=LONE).cost.evaluate().mixed == 0
    with pytest.raises(PlanError, match="no room for a prompt"):
        plan(load, 512, more=MIXED)


BESIDE = """
model m {
  layers = 1, hidden = 16, heads = 2, kv_heads = 2, head_dim = 8, vocab = 32, state_heads = 4, taps = 4, wide = 8
  weights = bf16
  embedding w_embed[vocab, hidden]
  block x[tokens, hidden] {
    h = rms_norm(x)
    a = attention(rope(h @ w_q[hidden, heads, head_dim]), rope(h @ w_k[hidden, kv_heads, head_dim]),
      h @ w_v[hidden, kv_heads, head_dim])
    v = silu(short_conv(h @ w_sv[hidden, state_heads], w_conv[taps, state_heads]))
    step = softplus(h @ w_step[hidden, state_heads])
    m = recurrence(h @ w_sq[hidden, wide], h @ w_sk[hidden, wide], v, step = step, rate = a_log[state_heads, wide])
    x = x + a @ w_o[heads, head_dim, hidden] + m @ w_so[state_heads, hidden]
  }
  head rms_norm(x) @ w_head[hidden, vocab]
}
plan p {
  model = m, node = h100_2, sharding { cp = 2 }, overlap = collectives, chunked_prefill = 64
  workload { input = 100, output = 8, batch = 4 }
}
"""
"""A layer with attention beside a recurrence, whose kernels come in another order in prefill than in decode."""


def test_mixed_steps_of_a_state_beside_attention() -> None:
    """Found by drawing: with `cp` a convolution stands behind attention in prefill, and before it in decode."""
    (made,) = compile_text(BESIDE)
    metrics = made.cost.evaluate()
    alone = compile_text(BESIDE.replace("chunked_prefill = 64", ""))[0].cost.evaluate()
    assert metrics.ttft > alone.ttft > 0
