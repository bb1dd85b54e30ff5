"""Attention in chunks, experts that weigh their input, and Llama 4, which has both."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from plandsl.backends.cost.forms.attention import chunk_keys, running_keys, visible_pairs
from plandsl.backends.cost.work.attention import Softmax
from plandsl.backends.cost.work.work import Binding
from plandsl.backends.reference.shrink import shrink
from plandsl.backends.reference.verify import compare
from plandsl.driver import CompiledPlan, compile_text
from plandsl.ir.compute import Attention
from plandsl.ir.experts import Combine, Dispatch
from plandsl.ir.meaning import experts
from plandsl.ir.meaning.attention import Mask
from plandsl.ir.ops import Op
from plandsl.ir.text import read, show
from plandsl.passes import program_after
from plandsl.passes.rewrite import each_region, replace_fields
from plandsl.show import show_plan
from plandsl.testing import same
from tests.test_sinks import check_decode_goes_on, ops_of

MODEL = """
model m {
  layers = 4, hidden = 64, heads = 8, kv_heads = 4, head_dim = 16, experts = 8, expert_ffn = 64, vocab = 1000
  weights = bf16
  embedding w_embed[vocab, hidden]
  block x[tokens, hidden] {
    h = rms_norm(x)
    q = rope(h @ w_q[hidden, heads, head_dim])
    k = rope(h @ w_k[hidden, kv_heads, head_dim])
    x = x + attention(q, k, h @ w_v[hidden, kv_heads, head_dim], chunk = 64) @ w_o[heads, head_dim, hidden]
    h = rms_norm(x)
    y = experts(h, w_router[hidden, experts], top_k = 2, score = sigmoid, normalize = false, weigh = input) {
      g = silu(h @ w_gate[hidden, expert_ffn] + b_gate[expert_ffn]) * (h @ w_up[hidden, expert_ffn])
      g @ w_down[expert_ffn, hidden]
    }
    x = x + y
  }
  head rms_norm(x) @ w_head[hidden, vocab]
}
"""

SHARDINGS = (
    "",
    "tp = 4",
    "cp = 4",
    "cp = 2, ep = 2, tp = 2, context_form = gather",
    "ep = 4, tp = 2",
    "sp = 2, tp = 2",
    "pp = 2, cp = 2",
    "mesh t = 4\n heads -> t\n context -> t\n experts -> t",
)


@cache
def plan_of(sharding: str = "", load: str = "input = 400, output = 100, batch = 8", model: str = MODEL) -> CompiledPlan:
    text = f"{model}\nplan p {{ model = m, node = h100_8, sharding {{ {sharding} }}, workload {{ {load} }} }}"
    (plan,) = compile_text(text)
    return plan


# ---- meaning


def test_a_query_sees_the_keys_of_its_chunk() -> None:
    mask = Mask(np.arange(5), np.arange(5), chunk=3)
    assert mask.seen().astype(int).tolist() == [
        [1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [1, 1, 1, 0, 0],
        [0, 0, 0, 1, 0],
        [0, 0, 0, 1, 1],
    ]
    assert mask._replace(causal=False).seen().sum() == 3 * 3 + 2 * 2


@pytest.mark.parametrize("sharding", SHARDINGS)
def test_chunks_and_weighed_inputs_verify(sharding: str) -> None:
    verdict = plan_of(sharding).verify()
    assert verdict.ok, verdict.message
    assert verdict.worst < 1e-9


def test_decode_goes_on_where_prefill_would() -> None:
    check_decode_goes_on(plan_of())


@pytest.mark.parametrize("number", [0, 1, 2])
def test_a_lost_chunk_and_a_gate_in_the_wrong_place_are_seen(number: int) -> None:
    plan = shrink(plan_of().spec)
    sizes = {"batch": plan.workload.batch, "input": plan.workload.input}
    prefill, decode = (program_after(plan, phase, "build") for phase in ("prefill", "decode"))

    def mutant(op: Op) -> Op:
        changes = {Attention: {"chunk": None}, Dispatch: {"weighs": False}, Combine: {"plain": False}}
        kind = (Attention, Dispatch, Combine)[number]
        return replace_fields(op, changes[kind]) if isinstance(op, kind) else op

    wrong = each_region(prefill, lambda r: evolve(r, ops=tuple(map(mutant, r.ops))))
    assert not compare((wrong, decode), (prefill, decode), sizes).ok


def test_the_gate_of_an_input_is_inside_the_function() -> None:
    """As in `Llama4TextMoe` of transformers: the sum over chosen experts of f(gate x)."""
    x, gates = np.array([[2.0, 3.0]]), np.array([[0.0, 0.5, 0.25]])
    inside = experts.dispatch(x, gates, weighs=True)
    assert inside[0].tolist() == [[0.0, 0.0], [1.0, 1.5], [0.5, 0.75]]
    assert experts.combine(inside**2 + 1, gates != 0)[0].tolist() == [1 + 0.25 + 2, 2.25 + 0.5625 + 2]


def test_texts_read_back() -> None:
    plan = plan_of("tp = 2")
    (again,) = compile_text(show_plan(plan.spec))
    assert same(again.spec, plan.spec)
    for schedule in (plan.prefill, plan.decode):
        assert read(show(schedule.program)) == schedule.program
    assert [op.chunk for op in ops_of(plan.decode.program, Attention) if isinstance(op, Attention)] == [64]


# ---- cost


@given(st.integers(1, 60), st.data(), st.integers(1, 20), st.booleans())
def test_visible_pairs_are_those_of_the_mask(context: int, data: st.DataObject, chunk: int, causal: bool) -> None:
    position = data.draw(st.integers(1, context))
    seen = Mask(np.arange(context - position, context), np.arange(context), causal, 0, chunk).seen()
    assert visible_pairs(position, context, causal, 0, chunk) == seen.sum()
    assert chunk_keys(position, context, chunk) == seen.any(axis=0).sum() or not causal
    assert running_keys(context, chunk) == seen[-1].sum()
    arrays = visible_pairs(np.array([position]), np.array([context]), causal, 0, chunk)
    assert arrays == seen.sum()


@given(st.integers(1, 300), st.integers(2, 200), st.integers(1, 40))
def test_the_mean_over_steps_is_exact_in_the_context_and_in_the_running_chunk(
    first: int, steps: int, chunk: int
) -> None:
    model = plan_of().cost.main.decode
    before, model.chunks = model.chunks, [chunk]
    try:
        nodes = model.contexts(first + 0.5, first + steps + 0.5)
    finally:
        model.chunks = before
    contexts = np.arange(first + 1, first + steps + 1)
    assert sum(w for w, _ in nodes) == pytest.approx(1, rel=1e-12)
    assert sum(w * c for w, c in nodes) == pytest.approx(contexts.mean(), rel=1e-9)
    mean = np.mean([running_keys(c, chunk) for c in contexts])
    assert sum(w * running_keys(c, chunk) for w, c in nodes) == pytest.approx(mean, rel=1e-9)


def test_decode_reads_the_running_chunk() -> None:
    plan = plan_of(load="input = 400, output = 129, batch = 8")
    (op,) = (o for o in plan.estimate().decode.ops if o.op == "attention")
    seen = np.mean([running_keys(c, 64) for c in range(401, 529)])
    assert seen == 32.5, "two whole chunks"
    assert op.bytes == pytest.approx(8 * (seen * 4 * 2 * 16 * 2 + 8 * 2 * 16 * 2))
    assert op.flops == pytest.approx(8 * seen * 8 * 4 * 16)


def test_prefill_multiplies_triangles() -> None:
    (op,) = (o for o in plan_of().estimate().prefill.ops if o.op == "attention")
    pairs = 6 * 64 * 65 / 2 + 16 * 17 / 2
    assert op.flops == 4 * 16 * 8 * 8 * pairs
    (split,) = (o for o in plan_of("cp = 4").estimate().prefill.ops if o.op == "attention")
    assert split.flops == op.flops / 4


def test_keys_of_a_chunk_may_all_lie_on_one_rank() -> None:
    model = plan_of("cp = 4").cost.main.decode
    (work,) = (w for w in model.work["block"] if isinstance(w, Softmax))
    assert work.queries(Binding(model.extents, 4000)).own == 1000
    found = {c: model.at({"batch": 8, "context": c}, 1, [(1.0, c)]).period for c in (4001, 4031)}
    assert found[4001] < found[4031]


def test_the_cache_holds_a_chunk() -> None:
    """As vLLM's `ChunkedLocalAttentionSpec`: blocks of chunks that are over are given back."""
    memory = plan_of().cost.memory
    assert memory.kv_per_request(0, 500) == memory.kv_per_request(0, 64) == 64 * 4 * 4 * 16 * 2 * 2


def test_many_configurations_at_once_are_each_by_itself() -> None:
    cost = plan_of("cp = 2").cost
    inputs, outputs = np.array([1, 63, 64, 65, 400])[:, None], np.array([1, 2, 64, 300])
    many = cost.evaluate(batch=4, input=inputs, output=outputs)
    for i, o in np.ndindex(5, 4):
        one = cost.evaluate(4, int(inputs[i, 0]), int(outputs[o]))
        assert one.tpot == pytest.approx(many.tpot[i, o], rel=1e-12)
        assert one.ttft == pytest.approx(np.broadcast_to(many.ttft, (5, 4))[i, o], rel=1e-12)


# ---- Llama 4


@pytest.mark.parametrize("model", ["llama_4_scout", "llama_4_maverick"])
@pytest.mark.parametrize("sharding", ["tp = 4", "ep = 4, tp = 2", "cp = 2, tp = 4", "pp = 2, cp = 2, ep = 2"])
def test_llama_4_verifies(model: str, sharding: str) -> None:
    load = "input = 9000, output = 100, batch = 8"
    text = f"plan p {{ model = {model}, node = h100_8, sharding {{ {sharding} }}, workload {{ {load} }} }}"
    (plan,) = compile_text(text)
    verdict = plan.verify()
    assert verdict.ok, verdict.message


def test_three_of_four_layers_keep_a_chunk() -> None:
    load = "input = 90_000, output = 100"
    text = f"plan p {{ model = llama_4_scout, node = h200_8, sharding {{ tp = 8 }}, workload {{ {load} }} }}"
    (plan,) = compile_text(text)
    assert plan.cost.memory.kv_per_request(0, 90_100) == 128 * 2 * 2 * (12 * 90_100 + 36 * 8192)
