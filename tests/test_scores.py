"""Partial rotary embeddings, ALiBi and soft caps of scores: what they compute, on every mesh, and what they cost."""

from __future__ import annotations

import numpy as np
import pytest

from plandsl.backends.reference.shrink import shrink
from plandsl.backends.reference.verify import compare
from plandsl.diagnostics import PlanError
from plandsl.driver import CompiledPlan, compile_text
from plandsl.ir.compute import Attention, Rope
from plandsl.ir.latent import LatentAttention
from plandsl.ir.meaning.attention import Change, Mask, alibi_slopes, attention, rope
from plandsl.ir.ops import Op
from plandsl.ir.text import read, show
from plandsl.passes import program_after
from plandsl.passes.rewrite import each_region, replace_fields
from plandsl.show import show_plan
from tests.test_sinks import check_decode_goes_on

MODEL = """
model m {
  layers = 4, hidden = 64, heads = 12, kv_heads = 4, head_dim = 16, ffn = 128, vocab = 1000
  weights = bf16
  embedding w_embed[vocab, hidden]
  block x[tokens, hidden] {
    h = layer_norm(x)
    q = rope(h @ w_q[hidden, heads, head_dim], first = head_dim / 2)
    k = rope(h @ w_k[hidden, kv_heads, head_dim], first = 8)
    v = h @ w_v[hidden, kv_heads, head_dim]
    a = attention(q, k, v, softcap = 0.5, alibi = true) @ w_o[heads, head_dim, hidden]
    x = x + a + gelu(h @ w_up[hidden, ffn]) @ w_down[ffn, hidden]
  }
  head rms_norm(x) @ w_head[hidden, vocab]
}
"""
LATENT = """
model m {
  layers = 4, hidden = 64, heads = 8, kv_rank = 32, nope_dim = 16, rope_dim = 8, v_dim = 16, vocab = 1000
  weights = bf16
  embedding w_embed[vocab, hidden]
  block x[tokens, hidden] {
    h = rms_norm(x)
    q = query(h @ w_uq[hidden, heads, nope_dim], rope(h @ w_qr[hidden, heads, rope_dim]))
    c = latent(h @ w_dkv[hidden, kv_rank], rope(h @ w_kr[hidden, rope_dim]), w_uk[kv_rank, heads, nope_dim],
               w_uv[kv_rank, heads, v_dim])
    x = x + attention(q, c, softcap = 0.5, alibi = true) @ w_o[heads, v_dim, hidden]
  }
  head rms_norm(x) @ w_head[hidden, vocab]
}
"""


def plan_of(sharding: str = "", model: str = MODEL) -> CompiledPlan:
    load = "workload { input = 400, output = 100, batch = 8 }"
    (plan,) = compile_text(f"{model}\nplan p {{ model = m, node = h100_8, sharding {{ {sharding} }}, {load} }}")
    return plan


def ops_of(plan: CompiledPlan, phase: str, kind: type[Op]) -> list[Op]:
    return [op for region in plan.program(phase).regions for op in region.ops if isinstance(op, kind)]


# ---- meaning


@pytest.mark.parametrize("sharding", ["tp = 4", "cp = 2, tp = 2", "sp = 2, pp = 2", "mesh t = 4\n heads, context -> t"])
@pytest.mark.parametrize("model", [MODEL, LATENT], ids=["plain", "latent"])
def test_scores_are_the_same_on_every_mesh(model: str, sharding: str) -> None:
    verdict = plan_of(sharding, model).verify()
    assert verdict.ok, verdict.message
    assert verdict.worst < 1e-9


def test_decode_goes_on_where_prefill_would() -> None:
    check_decode_goes_on(plan_of())


@pytest.mark.parametrize(
    ("kind", "change"), [(Rope, {"first": None}), (Attention, {"softcap": None}), (Attention, {"alibi": False})]
)
def test_each_of_them_changes_the_logits(kind: type[Op], change: dict[str, object]) -> None:
    plan = shrink(plan_of().spec)
    phases = program_after(plan, "prefill", "build"), program_after(plan, "decode", "build")

    def drop(op: Op) -> Op:
        return replace_fields(op, change) if isinstance(op, kind) else op

    def without(region):  # type: ignore[no-untyped-def]
        return replace_fields(region, {"ops": tuple(map(drop, region.ops))})

    other = each_region(phases[0], without), each_region(phases[1], without)
    assert not compare(other, phases, {"batch": plan.workload.batch, "input": plan.workload.input}).ok


def test_a_rope_leaves_the_elements_behind_its_first_ones() -> None:
    x = np.random.default_rng(0).standard_normal((1, 3, 1, 8))
    found = rope(x, np.arange(3), 1, first=4)
    assert (found[..., 4:] == x[..., 4:]).all()
    assert np.allclose(found[..., :4], rope(x[..., :4], np.arange(3), 1))


def test_slopes_are_those_of_the_paper() -> None:
    """Press et al., "Train Short, Test Long", 2022: 1/2 to 1/256 for 8 heads; for 12 also 2^-0.5, 2^-1.5, ..."""
    assert np.allclose(alibi_slopes(8), [2.0**-i for i in range(1, 9)])
    assert np.allclose(alibi_slopes(12)[8:], [2**-0.5, 2**-1.5, 2**-2.5, 2**-3.5])
    assert len(alibi_slopes(1)) == 1


def test_scores_are_capped_before_the_distance_counts() -> None:
    q, k, v = np.full((1, 1, 1, 1), 9.0), np.array([1.0, 2.0]).reshape(1, 2, 1, 1), np.array([0.0, 1.0])
    found = attention(
        q, k, v.reshape(1, 2, 1, 1), Mask(np.array([1]), np.arange(2)), change=Change(3.0, np.array([0.5]))
    )
    scores = 3 * np.tanh(np.array([9.0, 18.0]) / 3) - [0.5, 0.0]
    assert np.isclose(found.item(), np.exp(scores[1]) / np.exp(scores).sum())


# ---- through the compiler


def test_a_block_side_by_side_has_one_norm_and_one_all_reduce_of_both_sums() -> None:
    plan = plan_of("tp = 4")
    (region,) = (r for r in plan.program("prefill").regions if r.layers)
    words = [op.keyword for op in region.ops]
    assert words.count("all_reduce") == 1
    assert sum(word.endswith("norm") for word in words) == 1
    (q, k), (gemm, *_) = ops_of(plan, "prefill", Rope)[0].operands, [op for op in region.ops if op.keyword == "gemm"]
    assert {q, k} <= set(gemm.results), "one GEMM makes queries, keys, values and the first product of the MLP"
    assert len(gemm.results) == 4


def test_text_form_and_plan_text_keep_them() -> None:
    plan = plan_of("tp = 2")
    program = plan.program("decode")
    assert read(show(program)) == program
    assert {op.first for op in ops_of(plan, "decode", Rope)} == {8}  # type: ignore[attr-defined]
    assert {(op.softcap, op.alibi) for op in ops_of(plan, "decode", Attention)} == {(0.5, True)}  # type: ignore[attr-defined]
    (again,) = compile_text(show_plan(plan.spec))
    assert again.estimate().tpot_s == plan.estimate().tpot_s
    latent = plan_of("tp = 2", LATENT)
    assert {op.softcap for op in ops_of(latent, "prefill", LatentAttention)} == {0.5}  # type: ignore[attr-defined]


def test_half_a_rope_moves_half_the_bytes() -> None:
    def moved(first: str) -> float:
        plan = plan_of(model=MODEL.replace("first = head_dim / 2", first).replace("first = 8", first))
        (line,) = (line for line in plan.estimate().prefill.ops if line.name == "rope")
        return line.bytes

    assert moved("first = 8") == moved("first = 16") / 2


def test_ropes_of_unlike_parts_do_not_share_a_kernel() -> None:
    plan = plan_of(model=MODEL.replace("first = 8", "first = 4"))
    assert len(ops_of(plan, "prefill", Rope)) == 2
    assert len(ops_of(plan_of(), "prefill", Rope)) == 1


# ---- mistakes


def test_an_odd_element_has_no_pair_to_turn_with() -> None:
    odd = LATENT.replace("rope_dim = 8", "rope_dim = 7")
    with pytest.raises(PlanError) as found:
        plan_of(model=odd)
    assert {d.code for d in found.value.diagnostics} == {"E214"}
    assert {d.message for d in found.value.diagnostics} == {"`rope` turns pairs of elements, and `rope_dim` has 7"}


@pytest.mark.parametrize(
    ("was", "now", "code", "message"),
    [
        ("first = 8", "first = 32", "E214", "`first = 32`, but `head_dim` has 16 elements"),
        ("first = 8", "first = 3", "E214", "`rope` turns pairs of elements, and `first = 3` is odd"),
        ("first = 8", "part = 8", "E206", "`rope` has no option `part`"),
        ("softcap = 0.5", "softcap = 0", "E214", "`softcap` must be from 1e-12 to 1e+12"),
        ("softcap = 0.5", "softcap = true", "E210", "expected a plain number, found true or false"),
        ("alibi = true", "alibi = 8", "E210", "`alibi` must be true or false, found a plain number"),
    ],
)
def test_mistakes(was: str, now: str, code: str, message: str) -> None:
    with pytest.raises(PlanError) as found:
        plan_of(model=MODEL.replace(was, now))
    (first,) = found.value.diagnostics
    assert (first.code, first.message) == (code, message)
