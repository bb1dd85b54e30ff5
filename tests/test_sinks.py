"""Attention sinks and clamped gates (gpt-oss): what they compute, on every mesh, and what they cost."""

from __future__ import annotations

from math import inf

import numpy as np
import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from plandsl.backends.reference.compute import function_of
from plandsl.backends.reference.shrink import shrink
from plandsl.backends.reference.verify import compare, verify_long_prefill
from plandsl.diagnostics import PlanError
from plandsl.driver import CompiledPlan, compile_text
from plandsl.ir.compute import Attention, Map
from plandsl.ir.limits import NONE, Limit, read_limits, show_limits
from plandsl.ir.meaning.attention import Mask, attention, partial_attention
from plandsl.ir.ops import Op
from plandsl.ir.program import Program
from plandsl.ir.text import read, show
from plandsl.passes import program_after
from plandsl.passes.rewrite import each_region, replace_fields
from plandsl.show import show_plan
from plandsl.testing import same

MODEL = """
model m {
  layers = 4, hidden = 64, heads = 8, kv_heads = 4, head_dim = 16, experts = 8, expert_ffn = 64, vocab = 1000
  weights = bf16
  embedding w_embed[vocab, hidden]
  block x[tokens, hidden] {
    h = rms_norm(x)
    q = rope(h @ w_q[hidden, heads, head_dim])
    k = rope(h @ w_k[hidden, kv_heads, head_dim])
    v = h @ w_v[hidden, kv_heads, head_dim]
    x = x + attention(q, k, v, w_sinks[heads]) @ w_o[heads, head_dim, hidden]
    h = rms_norm(x)
    y = experts(h, w_router[hidden, experts], top_k = 2) {
      gate = clamp(h @ w_gate[hidden, expert_ffn], high = 0.5)
      up = clamp(h @ w_up[hidden, expert_ffn], low = -0.5, high = 0.5)
      g = quick_gelu(gate) * (up + 1)
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
    "cp = 2, tp = 2, context_form = gather",
    "cp = 2, ep = 2, tp = 2",
    "sp = 2, tp = 2",
    "pp = 2, cp = 2",
    "mesh t = 4\n heads -> t\n context -> t",
    "mesh a = 2, b = 2\n context -> a, b\n tokens -> a",
    "mesh a = 2, b = 2\n heads -> a\n in attention { heads -> b, a }",
)


def plan_of(sharding: str = "", model: str = MODEL) -> CompiledPlan:
    load = "workload { input = 400, output = 100, batch = 8 }"
    (plan,) = compile_text(f"{model}\nplan p {{ model = m, node = h100_8, sharding {{ {sharding} }}, {load} }}")
    return plan


def ops_of(program: Program, kind: type[Op]) -> list[Op]:
    return [op for region in program.regions for op in region.ops if isinstance(op, kind)]


# ---- meaning


@pytest.mark.parametrize("window", ["", ", window = 100"])
@pytest.mark.parametrize("sharding", SHARDINGS)
def test_sinks_and_clamps_verify(sharding: str, window: str) -> None:
    verdict = plan_of(sharding, MODEL.replace("w_sinks[heads])", f"w_sinks[heads]{window})")).verify()
    assert verdict.ok, verdict.message
    assert verdict.worst < 1e-9


def check_decode_goes_on(plan: CompiledPlan) -> None:
    """Check that a prefill and decode steps give the logits of one prefill of all their tokens."""
    small = shrink(plan.spec)
    phases = program_after(small, "prefill", "build"), program_after(small, "decode", "build")
    verdict = verify_long_prefill(phases, {"batch": small.workload.batch, "input": small.workload.input})
    assert verdict.ok, verdict.message


def test_decode_goes_on_where_prefill_would() -> None:
    check_decode_goes_on(plan_of())


def test_a_sink_is_a_key_without_a_value() -> None:
    draw = np.random.default_rng(1).standard_normal
    q, k, v, sinks = draw((2, 1, 3, 4)), draw((2, 5, 3, 4)), draw((2, 5, 3, 4)), draw(3)
    found = attention(q, k, v, Mask(np.array([4]), np.arange(5)), sinks)
    for head in range(3):
        scores = np.exp(np.einsum("bd,bcd->bc", q[:, 0, head], k[:, :, head]) / 2)
        wanted = np.einsum("bc,bcd->bd", scores, v[:, :, head]) / (scores.sum(-1) + np.exp(sinks[head]))[:, None]
        assert np.allclose(found[:, 0, head], wanted, rtol=0, atol=1e-14)


def test_parts_of_a_softmax_merge_to_the_whole_with_the_sink_in_one_of_them() -> None:
    draw = np.random.default_rng(2).standard_normal
    q, k, v, sinks = draw((2, 1, 3, 4)), draw((2, 5, 3, 4)), draw((2, 5, 3, 4)), draw(3)
    at = np.array([4])
    whole = attention(q, k, v, Mask(at, np.arange(5)), sinks)
    parts = [
        partial_attention(q, k[:, keys], v[:, keys], Mask(at, np.arange(5)[keys]), sinks if keys.start == 0 else None)
        for keys in (slice(0, 0), slice(0, 2), slice(2, 5))[1:]
    ]
    weights = [np.exp(part[..., -1:]) for part in parts]
    merged = sum(w * part[..., :-1] for w, part in zip(weights, parts, strict=True)) / sum(weights)
    assert np.allclose(merged, whole, rtol=0, atol=1e-14)
    lone = partial_attention(q, k[:, :0], v[:, :0], Mask(at, np.arange(0)), sinks)
    assert np.allclose(lone[:, 0, :, -1], sinks), "of no keys the sink alone is left"
    assert not lone[..., :-1].any()


@pytest.mark.parametrize("number", [0, 1])
def test_a_lost_sink_and_a_lost_clamp_are_seen(number: int) -> None:
    plan = shrink(plan_of().spec)
    sizes = {"batch": plan.workload.batch, "input": plan.workload.input}
    prefill, decode = (program_after(plan, phase, "build") for phase in ("prefill", "decode"))

    def mutant(op: Op) -> Op:
        if number == 0 and isinstance(op, Attention):
            return replace_fields(op, {"sinks": None})
        return replace_fields(op, {"limits": None}) if number == 1 and isinstance(op, Map) else op

    wrong = each_region(prefill, lambda r: evolve(r, ops=tuple(map(mutant, r.ops))))
    assert wrong != prefill
    assert not compare((wrong, decode), (prefill, decode), sizes).ok


@given(st.floats(-4, 4), st.data())
def test_two_limits_are_a_third(x: float, data: st.DataObject) -> None:
    def draw() -> Limit:
        low, high = sorted(data.draw(st.tuples(st.floats(-3, 3), st.floats(-3, 3))))
        return Limit(data.draw(st.sampled_from((low, -inf))), data.draw(st.sampled_from((high, inf))), low)

    def done(limit: Limit, x: float) -> float:
        return min(max(x, limit.low), limit.high) + limit.plus

    a, b = draw(), draw()
    assert done(a.then(b), x) == pytest.approx(done(b, done(a, x)), abs=1e-12)
    assert read_limits(show_limits([a, NONE]), 2) == (a, NONE)


def test_a_quick_gelu_is_its_formula() -> None:
    """Hendrycks and Gimpel, "Gaussian Error Linear Units", arXiv 1606.08415, section 2."""
    x = np.linspace(-9, 9, 37)
    assert np.allclose(function_of("quick_gelu")(x), x / (1 + np.exp(-1.702 * x)), rtol=0, atol=1e-14)


# ---- programs


def test_a_clamped_gate_is_one_kernel() -> None:
    found = [op for op in ops_of(plan_of("tp = 4").decode.program, Map) if isinstance(op, Map) and op.fn != "add"]
    assert [(op.fn, op.limits) for op in found] == [("quick_gelu_mul", "-inf 0.5 0.0, -0.5 0.5 1.0")]


def test_a_clamp_that_two_read_runs_by_itself() -> None:
    twice = MODEL.replace("quick_gelu(gate) * (up + 1)", "quick_gelu(gate) * (up + 1) + gate")
    plan = plan_of("tp = 2", twice)
    assert "clamp" in [op.fn for op in ops_of(plan.prefill.program, Map) if isinstance(op, Map)]
    assert plan.verify().ok


@pytest.mark.parametrize("sharding", SHARDINGS)
def test_sinks_lie_like_the_heads_of_queries(sharding: str) -> None:
    plan = plan_of(sharding)
    for schedule in (plan.prefill, plan.decode):
        assert read(show(schedule.program)) == schedule.program
        for op in ops_of(schedule.program, Attention):
            assert isinstance(op, Attention)
            assert op.sinks is not None
            assert op.sinks.type.dims == op.q.type.dims[2:3]


def test_the_text_of_a_plan_reads_back() -> None:
    plan = plan_of("tp = 2")
    (again,) = compile_text(show_plan(plan.spec))
    assert same(again.spec, plan.spec)


# ---- cost


def test_sinks_are_a_number_for_each_head_and_layer() -> None:
    plain = MODEL.replace(", w_sinks[heads]", "")
    assert plan_of().estimate().parameters - plan_of("", plain).estimate().parameters == 4 * 8
    with_sinks, without = (plan_of("tp = 4", m).cost.memory.weights[0] for m in (MODEL, plain))
    assert with_sinks - without == 4 * 8 / 4 * 2


@pytest.mark.parametrize("sharding", ["", "tp = 4", "sp = 2, tp = 2", "cp = 2"])
def test_what_fuses_costs_nothing_more(sharding: str) -> None:
    plain = MODEL.replace(", w_sinks[heads]", "").replace("clamp(", "(").replace(", high = 0.5", "")
    plain = plain.replace(", low = -0.5", "").replace("(up + 1)", "up").replace("quick_gelu", "silu")
    one, other = plan_of(sharding).cost.evaluate(), plan_of(sharding, plain).cost.evaluate()
    assert (one.ttft, one.tpot) == (other.ttft, other.tpot)


# ---- language


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ("clamp(x)", "neither `low` nor `high`"),
        ("clamp(x, low = 2, high = 1)", "is not below"),
        ("clamp(x, low = 1e20)", "must be from -1e+12 to 1e+12"),
        ("clamp(x, top = 1)", "no option"),
        ("clamp(x, low = 1 GB)", "E204"),
        ("x + 0", "in absolute value"),
        ("2 - x", "a tensor and a number"),
        ("w_b[hidden] + 1 + x", "cannot be added to a weight"),
        ("clamp(w_b[hidden], low = 0)", "a weight alone"),
    ],
)
def test_mistakes_are_told(call: str, message: str) -> None:
    with pytest.raises(PlanError) as caught:
        plan_of("", MODEL.replace("x = x + y", f"x = x + y + ({call})"))
    found = [d for d in caught.value.diagnostics if d.severity == "error"]
    assert any(message in f"{d.code} {d.message}" for d in found), found
    assert all(d.span for d in found)
