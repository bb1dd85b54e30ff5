"""Rows of tables: embeddings of each layer, positions that are learned, token types, and scaled embeddings."""

from __future__ import annotations

import pytest

from plandsl.backends.reference.shrink import shrink
from plandsl.backends.reference.verify import verify_long_prefill
from plandsl.diagnostics import PlanError
from plandsl.driver import CompiledPlan, compile_text
from plandsl.ir.compute import Embed, Ids
from plandsl.ir.text import read, show
from plandsl.passes import program_after
from plandsl.show import show_plan

MODEL = """
model m {
  layers = 4, hidden = 64, heads = 8, kv_heads = 4, head_dim = 16, ffn = 128, vocab = 1000, width = 32
  positions = 512, types = 2
  weights = bf16
  embedding layer_norm(w_embed[vocab, hidden] * 8 + lookup(w_positions[positions, hidden], by = position)
    + lookup(w_types[types, hidden], by = type)) + b_embed[hidden]
  block x[tokens, hidden] {
    h = rms_norm(x)
    a = attention(h @ w_q[hidden, heads, head_dim], h @ w_k[hidden, kv_heads, head_dim],
                  h @ w_v[hidden, kv_heads, head_dim])
    x = x + a @ w_o[heads, head_dim, hidden]
    p = gelu(rms_norm(x) @ w_gate[hidden, width]) * lookup(w_tokens[vocab, width])
    x = x + p @ w_project[width, hidden]
  }
  head rms_norm(x) @ w_embed[vocab, hidden]
}
"""


def plan_of(sharding: str = "", model: str = MODEL, load: str = "input = 400, output = 100, batch = 8") -> CompiledPlan:
    text = f"{model}\nplan p {{ model = m, node = h100_8, sharding {{ {sharding} }}, workload {{ {load} }} }}"
    (plan,) = compile_text(text)
    return plan


@pytest.mark.parametrize("sharding", ["", "tp = 4", "cp = 2, tp = 2", "sp = 2, pp = 2", "dp = 2, cp = 2"])
def test_rows_are_the_same_on_every_mesh(sharding: str) -> None:
    verdict = plan_of(sharding).verify()
    assert verdict.ok, verdict.message
    assert verdict.worst < 1e-9


@pytest.mark.parametrize("load", ["input = 400, output = 9, batch = 8, reuse = 50 %", "input = 400, output = 100"])
def test_positions_count_from_the_start_of_a_request(load: str) -> None:
    plan = plan_of("tp = 2", load=load)
    assert plan.verify().ok
    small = shrink(plan.spec)
    phases = program_after(small, "prefill", "build"), program_after(small, "decode", "build")
    if not small.workload.reuse:
        verdict = verify_long_prefill(phases, {"batch": small.workload.batch, "input": small.workload.input})
        assert verdict.ok, verdict.message


def test_parameters_memory_and_bytes_count_every_table() -> None:
    plan = plan_of()
    tables = 1000 * 64 + 512 * 64 + 2 * 64 + 4 * 1000 * 32
    gains = 64 + 64 + 4 * 2 * 64 + 64  # of the embedding, its bias, two norms of each layer, and the head's
    layers = 4 * (64 * 16 * (8 + 4 + 4) + 8 * 16 * 64 + 2 * 64 * 32)
    estimate = plan.estimate()
    assert estimate.parameters == tables + gains + layers
    assert estimate.memory.weights == 2 * estimate.parameters
    (line,) = (line for line in estimate.prefill.ops if line.op == "embedding" and line.count == 4)
    assert line.bytes == 8 * 400 * (4 + 2 * 32 + 2 * 32), "an id, the row that it picks, and the row in its place"


def test_text_form_and_plan_text_keep_them() -> None:
    plan = plan_of("tp = 2")
    program = plan.program("decode")
    assert read(show(program)) == program
    found = [op for region in program.regions for op in region.ops if isinstance(op, Embed | Ids)]
    assert [op.of for op in found if isinstance(op, Ids)] == ["position", "type", "token"]
    (again,) = compile_text(show_plan(plan.spec))
    assert again.estimate().tpot_s == plan.estimate().tpot_s


def test_a_table_that_is_split_leaves_partial_sums() -> None:
    words = [op.keyword for region in plan_of("tp = 2").program("prefill").regions for op in region.ops]
    (none,) = (
        r
        for r in plan_of("tp = 2", MODEL.replace("w_tokens[vocab,", "w_tokens[positions,")).program("prefill").regions
        if r.layers
    )
    assert words.count("all_reduce") == [op.keyword for op in none.ops].count("all_reduce") + 2


@pytest.mark.parametrize(
    ("was", "now", "code", "message"),
    [
        ("lookup(w_tokens[vocab, width])", "lookup(h)", "E213", "`lookup` takes a weight of two dimensions or more"),
        ("by = type", "by = row", "E213", "`by` must be one of token, position, type"),
        (
            "+ b_embed[hidden]",
            "@ w_up[hidden, ffn]",
            "E213",
            "the embedding is [tokens, ffn], but its table gives [tokens, hidden]",
        ),
        (
            "head rms_norm(x)",
            "head rms_norm(x) * lookup(w_l[vocab, hidden])",
            "E213",
            "`*` needs the same dimensions on both sides, or fewer of them on the right",
        ),
        ("positions = 512", "positions = 256", "E480", "requests of 500 tokens, but `w_positions` has 256 positions"),
    ],
)
def test_mistakes(was: str, now: str, code: str, message: str) -> None:
    with pytest.raises(PlanError) as found:
        plan_of(model=MODEL.replace(was, now))
    first = next(d for d in found.value.diagnostics if not d.code.startswith("W"))
    assert (first.code, first.message) == (code, message)
