"""One collective where several would do: over neighbouring axes, and of sums that are added anyway."""

from __future__ import annotations

from collections import Counter
from functools import cache

import numpy as np
import pytest
from attrs import evolve

from plandsl.backends.reference.shrink import shrink
from plandsl.backends.reference.verify import verify_programs
from plandsl.driver import CompiledPlan, compile_text, plain_programs, programs
from plandsl.ir.collectives import AllGather, AllReduce, AllToAll, ReduceScatter
from plandsl.ir.compute import Map
from plandsl.ir.nodes import groups, node_span
from plandsl.ir.ops import COLLECTIVES
from plandsl.ir.program import Program
from plandsl.ir.text import read_op, read_type, show_op
from plandsl.ir.types import Mesh, TensorType, Value
from plandsl.passes import program_after
from plandsl.passes.merge_sums import merge_sums

PLAN = """plan p {{
  model = {model}
  {node}
  sharding {{ {sharding} }}
  workload {{ input = 512, output = 64, batch = 16 }}
}}"""
SPLIT = "heads, kv_heads, ffn, vocab ->"
NESTED = f"mesh a = 4, b = 2\n {SPLIT} a, b"


@cache
def plan(sharding: str, model: str = "llama_3_1_8b", node: str = "node = mi325x_8") -> CompiledPlan:
    (made,) = compile_text(PLAN.format(model=model, node=node, sharding=sharding))
    return made


def moves(program: Program, region: str = "block") -> list[tuple[str, str]]:
    """Collectives of a region: what they do and over which axes."""
    ops = next(r for r in program.regions if r.name == region).ops
    return [(op.keyword, op.axis) for op in ops if isinstance(op, COLLECTIVES)]


# ---- over neighbouring axes


@pytest.mark.parametrize("node", ["node = mi325x_8", "node = h100_8", "cluster = pod"])
@pytest.mark.parametrize("batch", [1, 16, np.array([1, 8, 64])], ids=str)
def test_two_neighbouring_axes_cost_what_one_of_their_product_costs(node: str, batch: int) -> None:
    network = "network { topology = fat_tree, bandwidth = 50 GB/s, latency = 5 us }"
    pod = f"cluster pod {{ node = h100_8, count = 2, {network} }}"
    both = []
    for sharding in ("tp = 8", NESTED):
        text = PLAN.format(model="llama_3_1_8b", node=node, sharding=sharding)
        if "cluster" in node:
            text = f"{pod}\n{text.replace('a = 4', 'a = 8').replace('tp = 8', 'tp = 16')}"
        (made,) = compile_text(text)
        both.append(made.cost.evaluate(batch=batch))
    one, two = both
    for name in ("ttft", "tpot", "throughput", "memory", "max_batch"):
        assert np.array_equal(getattr(one, name), getattr(two, name)), name


def test_the_report_names_both_axes() -> None:
    estimate = plan(NESTED).estimate()
    found = {(op.op, op.axis) for op in estimate.prefill.ops if op.communicates}
    assert found == {("all_reduce", "a*b"), ("all_gather", "a*b")}


def test_every_collective_over_neighbours_is_one() -> None:
    gathered = plan(f"mesh a = 2, b = 4\n {SPLIT} a, b\n tokens -> a, b").prefill.program
    assert Counter(moves(gathered)) == {("all_gather", "a*b"): 2, ("reduce_scatter", "a*b"): 2}
    moved = plan("mesh a = 2, b = 2\n tokens -> a, b\n in attention { heads, kv_heads -> a, b }").prefill.program
    assert Counter(moves(moved)) == {("all_to_all", "a*b"): 4}
    for program in (gathered, moved):
        assert all("a*b" in axis for _, axis in moves(program, "head")), "what the head wants whole"


@pytest.mark.parametrize("phase", ["prefill", "decode"])
def test_gates_of_a_split_ffn_stay_as_their_gemm_made_them(phase: str) -> None:
    """Requests and the FFN share an axis: tokens are gathered before both GEMMs, and results scattered after."""
    made = plan("mesh a = 2, b = 4\n batch -> a\n ffn -> a, b\n heads, kv_heads -> b")
    assert moves(made.program(phase)) == [
        ("all_reduce", "b"),
        ("all_gather", "a"),
        ("reduce_scatter", "a"),
        ("all_reduce", "b"),
    ]


def test_axes_with_another_one_between_them_stay_apart() -> None:
    made = plan(f"mesh a = 2, c = 2, b = 2\n {SPLIT} a, b\n tokens -> c")
    assert {axis for _, axis in moves(made.prefill.program)} <= {"a", "b", "c"}
    assert made.verify().ok


def test_parts_in_another_order_than_ranks_are_gathered_one_by_one() -> None:
    made = plan(f"mesh b = 2, a = 2\n {SPLIT} a, b")
    assert moves(made.prefill.program, "head") == [("all_gather", "b"), ("all_gather", "a")]
    assert set(moves(made.prefill.program)) == {("all_reduce", "b*a")}, "a sum has no order"
    assert made.verify().ok


@pytest.mark.parametrize(
    ("operand", "line"),
    [
        ("bf16[b, d]{+a}", '%y : bf16[b, d] = all_reduce %x {axis = "a*b"}'),
        ("bf16[b, d]{+b}", '%y : bf16[b, d@a*b] = reduce_scatter %x {axis = "a*b", dim = "d"}'),
        ("bf16[b, d@b*a]", '%y : bf16[b, d] = all_gather %x {axis = "a*b", dim = "d"}'),
        ("bf16[b, d@b]", '%y : bf16[b, d] = all_gather %x {axis = "a*b", dim = "d"}'),
        ("bf16[b, d@a]", '%y : bf16[b@a*b, d] = all_to_all %x {axis = "a*b", gather = "d", split = "b"}'),
    ],
)
def test_a_group_that_is_not_what_the_operand_has_is_unsound(operand: str, line: str) -> None:
    op = read_op(line, {"x": Value("x", read_type(operand))})
    assert list(op.verify()), show_op(op)


@pytest.mark.parametrize("kind", [AllReduce, ReduceScatter, AllGather, AllToAll])
def test_a_group_that_leaves_an_axis_out_is_caught_by_running(kind: type) -> None:
    sharding = {
        AllToAll: "mesh a = 2, b = 2\n tokens -> a, b\n in attention { heads, kv_heads -> a, b }",
        AllReduce: "mesh a = 2, b = 2\n heads, kv_heads, ffn, vocab -> a, b",
    }.get(kind, f"mesh a = 2, b = 2\n {SPLIT} a, b\n tokens -> a, b")
    small = shrink(plan(sharding).spec)
    plain, made = plain_programs(small), programs(small)
    sizes = {"batch": small.workload.batch, "input": small.workload.input}
    assert verify_programs(made, plain, sizes).ok
    found = 0
    for region in made[0].regions:
        for i, op in enumerate(region.ops):
            if isinstance(op, kind) and getattr(op, "axis", "") == "a*b":
                ops = (*region.ops[:i], evolve(op, axis="b"), *region.ops[i + 1 :])  # type: ignore[call-arg]
                regions = tuple(evolve(r, ops=ops) if r is region else r for r in made[0].regions)
                assert not verify_programs((evolve(made[0], regions=regions), made[1]), plain, sizes).ok, show_op(op)
                found += 1
    assert found


# ---- sums that are added anyway

PARALLEL = """llama_3_1_8b with {
    block x[tokens, hidden] {
      h = rms_norm(x)
      a = attention(rope(h @ w_q[hidden, heads, head_dim]), rope(h @ w_k[hidden, kv_heads, head_dim]),
                    h @ w_v[hidden, kv_heads, head_dim])
      g = silu(h @ w_gate[hidden, ffn]) * (h @ w_up[hidden, ffn])
      x = x + a @ w_o[heads, head_dim, hidden] + g @ w_down[ffn, hidden]
    }
  }"""


@pytest.mark.parametrize("phase", ["prefill", "decode"])
def test_attention_and_mlp_side_by_side_take_one_sum_a_layer(phase: str) -> None:
    # Wang and Komatsuzaki, "GPT-J-6B", 2021: parallel layers need one all_reduce where others need two
    made = plan("tp = 8", PARALLEL)
    assert moves(getattr(made, phase).program) == [("all_reduce", "tensor")]
    rows = 16 * (512 if phase == "prefill" else 1)
    ops = getattr(made.estimate(), phase).ops
    (line,) = [op for op in ops if op.op == "all_reduce" and op.name == "sum"]
    assert (line.count, line.bytes) == (32, rows * 4096 * 2)
    assert made.verify().ok


@pytest.mark.parametrize("phase", ["prefill", "decode"])
def test_routed_and_shared_experts_are_summed_by_one_all_reduce(phase: str) -> None:
    made = plan("tp = 8", "deepseek_v3")
    assert moves(getattr(made, phase).program, "block.sparse") == [("all_reduce", "tensor")] * 2
    rows = 16 * (512 if phase == "prefill" else 1)
    sums = [op for op in getattr(made.estimate(), phase).ops if op.op == "all_reduce"]
    assert sum(op.count for op in sums) == 1 + 2 * 61, "the embedding, then two a layer as in a dense model"
    assert {op.bytes for op in sums} == {rows * 7168 * 2}


def test_sums_scattered_alike_are_scattered_once() -> None:
    made = plan(f"mesh t = 4\n {SPLIT} t\n tokens -> t", PARALLEL).prefill.program
    assert Counter(word for word, _ in moves(made)) == {"all_gather": 1, "reduce_scatter": 1}


def test_sums_over_different_axes_are_completed_one_by_one() -> None:
    made = plan("mesh a = 2, b = 4\n heads, kv_heads -> a\n ffn -> b\n vocab -> a, b", PARALLEL)
    assert sorted(moves(made.prefill.program)) == [("all_reduce", "a"), ("all_reduce", "b")]
    assert made.verify().ok


def test_what_others_read_is_completed_by_itself() -> None:
    one_line = "x = x + a @ w_o[heads, head_dim, hidden] + g @ w_down[ffn, hidden]"
    read_again = "y = a @ w_o[heads, head_dim, hidden]\n x = x + y + g @ w_down[ffn, hidden] + rms_norm(y)"
    model = PARALLEL.replace(one_line, read_again)
    made = plan("tp = 8", model)
    assert moves(made.prefill.program) == [("all_reduce", "tensor")] * 2
    assert made.verify().ok


def test_merging_twice_is_merging_once() -> None:
    spec = plan("tp = 8", PARALLEL).spec
    made = program_after(spec, "prefill", "merge-sums")
    assert merge_sums(made, spec) == made


def test_a_sum_that_forgets_a_term_or_adds_one_twice_is_caught_by_running() -> None:
    small = shrink(plan("tp = 4", PARALLEL).spec)
    plain, made = plain_programs(small), programs(small)
    sizes = {"batch": small.workload.batch, "input": small.workload.input}
    block = made[0].region("block")
    (at,) = [i for i, op in enumerate(block.ops) if isinstance(op, Map) and op.xs[0].type.partial]
    total = block.ops[at]
    assert isinstance(total, Map)
    for xs in ((total.xs[0], total.xs[0]), (total.xs[1], total.xs[1])):
        ops = (*block.ops[:at], evolve(total, xs=xs), *block.ops[at + 1 :])
        regions = tuple(evolve(r, ops=ops) if r is block else r for r in made[0].regions)
        assert not verify_programs((evolve(made[0], regions=regions), made[1]), plain, sizes).ok


def test_sums_of_partial_and_whole_values_are_unsound() -> None:
    part, whole = TensorType("bf16", (), frozenset("a")), TensorType("bf16", ())
    mixed = Map(Value("y", part), (Value("u", part), Value("v", whole)), "add")
    assert list(mixed.verify())
    assert not list(evolve(mixed, xs=(Value("u", part), Value("v", part))).verify())
    assert list(evolve(mixed, xs=(Value("u", part), Value("v", part)), fn="mul").verify()), "a product of sums is none"


def test_a_group_counts_its_ranks_and_their_distance() -> None:
    mesh = Mesh((("a", 2), ("b", 4), ("c", 3)))
    assert [list(g) for g in groups(mesh, "b*c")] == [list(range(12)), list(range(12, 24))]
    assert node_span(mesh, "a*b", 6).nodes == 4


# ---- a bias beside a partial sum

BIASED = """model biased {
  layers = 2, hidden = 32, heads = 8, kv_heads = 4, head_dim = 8, ffn = 64, experts = 8, expert_ffn = 16, vocab = 96
  weights = bf16
  embedding w_embed[vocab, hidden]
  block x[tokens, hidden] {
    h = rms_norm(x)
    a = attention(rope(h @ w_q[hidden, heads, head_dim] + b_q[heads, head_dim]),
      rope(h @ w_k[hidden, kv_heads, head_dim]), h @ w_v[hidden, kv_heads, head_dim])
    x = x + (a @ w_o[heads, head_dim, hidden] + b_o[hidden])
    h = rms_norm(x)
    x = x + experts(h, w_router[hidden, experts], top_k = 4) {
      silu(h @ e_up[hidden, expert_ffn] + b_up[expert_ffn]) @ e_down[expert_ffn, hidden] + b_down[hidden]
    }
  }
  head rms_norm(x) @ w_head[hidden, vocab]
}
"""


@cache
def biased(sharding: str) -> CompiledPlan:
    text = PLAN.format(model="biased", node="node = h100_8", sharding=sharding)
    return compile_text(BIASED + text.replace("input = 512, output = 64", "input = 24, output = 8"))[0]


def test_a_bias_does_not_part_experts_from_the_sum_over_them() -> None:
    for program in (biased("tp = 4").prefill.program, biased("tp = 4").decode.program):
        block = next(r for r in program.regions if r.name == "block")
        summed = [op.x.type for op in block.ops if isinstance(op, AllReduce)]
        assert [t.names for t in summed] == [("batch", "position", "hidden")] * 2, "none for each expert of a token"


@pytest.mark.parametrize(
    "sharding",
    ["tp = 4", "tp = 2, ep = 2", f"mesh a = 2, b = 2\n {SPLIT} a, b\n expert_ffn -> b", "tp = 4\n tokens -> tensor"],
)
def test_a_bias_counts_once(sharding: str) -> None:
    verdict = biased(sharding).verify(steps=2)
    assert verdict.ok, f"{verdict.where}: {verdict.message}"


def test_a_bias_that_every_rank_adds_is_a_finding() -> None:
    block = next(r for r in biased("tp = 4").decode.program.regions if r.name == "block")
    op = next(op for op in block.ops if isinstance(op, Map) and op.first)
    assert not list(op.verify())
    assert list(evolve(op, first="stage").verify())
    assert not op.linear[1:]
    again = read_op(show_op(op), {x.name: x for x in op.operands})
    assert (again.first, again.out.type) == (op.first, op.out.type)
