"""Mixture of experts, from the language to the report: meaning by running, communication and cost in closed form."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from itertools import pairwise

import numpy as np
import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from plandsl.answers.phases import OpTime
from plandsl.backends.cost.forms.attention import Chip
from plandsl.backends.cost.forms.moe import Layer, moe_seconds, popular_experts
from plandsl.backends.cost.work.experts import Experts, crowd_loads
from plandsl.backends.reference.shrink import shrink
from plandsl.backends.reference.verify import Phases, compare, verify_programs
from plandsl.diagnostics import PlanError
from plandsl.driver import CompiledPlan, compile_text, plain_programs, programs
from plandsl.ir.collectives import AllGather, AllReduce, AllToAll, ReduceScatter, Slice
from plandsl.ir.compute import Quantize
from plandsl.ir.experts import Combine, Dispatch, GroupedGemm, TopK
from plandsl.ir.meaning.experts import combine, dispatch, gates
from plandsl.ir.ops import Op
from plandsl.ir.program import Program
from plandsl.ir.text import show_op
from plandsl.show import show_plan
from plandsl.spec.constants import MoeConstants
from plandsl.testing import assert_laws, models, plans, same
from tests.draws import some

MODEL = """
model m {{
  layers = 3
  hidden = 512, heads = 16, kv_heads = 8, head_dim = 32, ffn = 1024, experts = 16, expert_ffn = 384, vocab = 2048
  weights = {weights}
  embedding w_embed[vocab, hidden]
  block x[tokens, hidden] {{
    h = rms_norm(x)
    k = rope(h @ w_k[hidden, kv_heads, head_dim])
    a = attention(rope(h @ w_q[hidden, heads, head_dim]), k, h @ w_v[hidden, kv_heads, head_dim])
    x = x + a @ w_o[heads, head_dim, hidden]
    h = rms_norm(x)
    {experts}
  }}
  head rms_norm(x) @ w_head[hidden, vocab]
}}
plan p {{
  model = m, node = {node}
  sharding {{ {sharding} }}
  workload {{ input = 96, output = 16, batch = 32 }}
  {more}
}}
"""
BODY = """{
      g = silu(h @ w_gate[hidden, expert_ffn]) * (h @ w_up[hidden, expert_ffn])
      g @ w_down[expert_ffn, hidden]
    }"""
ROUTED = f"y = experts(h, w_router[hidden, experts], top_k = 4) {BODY}\n    x = x + y"
SHARED = f"""r = h @ w_router[hidden, experts]
    y = experts(h, r, b_choice[experts], top_k = 6, score = sigmoid, scale = 2.5) {BODY}
    s = silu(h @ w_shared_gate[hidden, ffn]) * (h @ w_shared_up[hidden, ffn])
    x = x + y + s @ w_shared_down[ffn, hidden]"""
BIASED = """r = h @ w_router[hidden, experts] + b_router[experts]
    y = experts(h, r, top_k = 1, score = sigmoid, normalize = false) {
      u = relu2(h @ w_up[hidden, expert_ffn] + b_up[expert_ffn])
      u @ w_down[expert_ffn, hidden] + b_down[hidden]
    }
    x = x + y"""
DENSE = f"y = experts(h, w_router[hidden, experts], top_k = 16, normalize = false) {BODY}\n    x = x + y"

SHARDINGS = {
    "ep": "ep = 8",
    "tp inside experts": "tp = 4",
    "ep and tp": "ep = 4, tp = 2",
    "pp, ep and tp": "pp = 2, ep = 2, tp = 2",
    "replicas of ep": "dp = 2, ep = 4",
    "sp and ep": "sp = 2, ep = 2, tp = 2",
    "megatron tokens": "tp = 2, ep = 2\n tokens -> tensor",
    "experts on the ranks of tp": "mesh tensor = 8\n heads, kv_heads, experts, vocab -> tensor",
    "experts on ranks of tokens": "mesh seq = 4, tensor = 2\n heads, kv_heads, vocab -> tensor\n tokens -> seq\n"
    " in attention { heads, kv_heads -> tensor, seq }\n in experts { experts -> tensor, seq }",
    "the other way round": "mesh seq = 2, tensor = 4\n heads, kv_heads, vocab -> tensor\n tokens -> seq\n"
    " in experts { experts -> seq, tensor }",
    "tokens first": "mesh a = 4\n tokens -> a\n experts -> a",
    "requests first": "mesh a = 4\n batch -> a\n experts, vocab -> a",
    "hidden": "mesh a = 2, b = 2\n hidden -> a\n experts -> b",
}


@cache
def moe(
    sharding: str = "", experts: str = ROUTED, node: str = "h100_8", weights: str = "bf16", more: str = ""
) -> CompiledPlan:
    text = MODEL.format(sharding=sharding, experts=experts, node=node, weights=weights, more=more)
    (plan,) = compile_text(text)
    return plan


BARE = "calibration = bare\n}\ncalibration bare {\n  hbm = 1"
"""Rooflines: no form, no launch, no share of a peak."""


def lines(plan: CompiledPlan, op: str, phase: str = "prefill") -> list[OpTime]:
    return [line for line in getattr(plan.estimate(), phase).ops if line.op == op]


# ---- meaning


@pytest.mark.parametrize("sharding", SHARDINGS.values(), ids=SHARDINGS)
def test_sharded_experts_compute_what_unsharded_ones_do(sharding: str) -> None:
    for experts in some((ROUTED, SHARED, BIASED, DENSE), 2, sharding):
        verdict = moe(sharding, experts).verify()
        assert verdict.ok, verdict.message
        assert verdict.worst < 1e-12


@pytest.mark.parametrize("sharding", ["ep = 4, tp = 2", "tp = 2, ep = 2\n tokens -> tensor"])
@pytest.mark.parametrize("weights", ["fp8", "mxfp4"])
def test_quantized_experts_compute_the_same(sharding: str, weights: str) -> None:
    plan = moe(sharding, SHARED, weights=weights)
    assert plan.verify().ok
    quantized = [op.out.type for op in plan.prefill.program.region("block").ops if isinstance(op, Quantize)]
    assert any("experts:6" in type_.names for type_ in quantized) == (weights == "fp8")


@given(plan=plans(model=models().filter(lambda model: "experts" in dict(model.sizes))))
def test_law_any_model_with_experts_keeps_its_meaning(plan: object) -> None:
    from plandsl.spec.plan import PlanSpec
    from plandsl.testing import compiled

    assert isinstance(plan, PlanSpec)
    verdict = compiled(plan).verify()
    assert verdict.ok, verdict.message


def small(sharding: str, experts: str = ROUTED) -> tuple[Phases, Phases, dict[str, int]]:
    """Programs of a shrunk plan, sharded and not, and the load they are run with."""
    spec = shrink(moe(sharding, experts).spec)
    return programs(spec), plain_programs(spec), {"batch": spec.workload.batch, "input": spec.workload.input}


def with_op(phases: Phases, phase: int, at: int, op: Op) -> Phases:
    block = phases[phase].region("block")
    block = evolve(block, ops=(*block.ops[:at], op, *block.ops[at + 1 :]))
    regions = tuple(block if r.name == "block" else r for r in phases[phase].regions)
    changed = evolve(phases[phase], regions=regions)
    return (changed, phases[1]) if phase == 0 else (phases[0], changed)


def ops_of(phases: Phases, *kinds: type) -> Iterator[tuple[int, int, Op]]:
    for phase, program in enumerate(phases):
        for at, op in enumerate(program.region("block").ops):
            if isinstance(op, kinds):
                yield phase, at, op


@pytest.mark.parametrize("name", ["ep and tp", "megatron tokens", "experts on the ranks of tp", "tokens first"])
def test_each_collective_left_out_is_caught_by_running(name: str) -> None:
    sharded, plain, sizes = small(SHARDINGS[name])
    moving = (AllReduce, ReduceScatter, AllGather, AllToAll, Slice)
    found = list(ops_of(sharded, *moving))
    assert len(found) > 3
    for phase, at, op in found:
        mutant = with_op(sharded, phase, at, Quantize(op.results[0], op.operands[0]))
        assert not verify_programs(mutant, plain, sizes).ok, show_op(op)
        assert not compare(mutant, plain, sizes).ok, show_op(op)


def test_dispatch_to_the_wrong_axis_or_dimension_is_caught() -> None:
    sharded, plain, sizes = small("ep = 2, sp = 2")
    for phase, at, op in ops_of(sharded, AllToAll):
        assert isinstance(op, AllToAll)
        if "experts" in op.split + op.gather:
            assert not compare(with_op(sharded, phase, at, evolve(op, axis="seq")), plain, sizes).ok, show_op(op)
            back = evolve(op, split=op.gather, gather=op.split)
            assert not verify_programs(with_op(sharded, phase, at, back), plain, sizes).ok, show_op(op)


def test_another_choice_of_experts_is_another_model() -> None:
    sharded, plain, sizes = small("ep = 4", SHARED)
    for phase, at, op in ops_of(sharded, TopK):
        assert isinstance(op, TopK)
        assert op.bias is not None
        for mutant in (evolve(op, score="softmax"), evolve(op, normalize=False), evolve(op, scale=1.0)):
            assert not compare(with_op(sharded, phase, at, mutant), plain, sizes).ok, show_op(mutant)
        unbiased = with_op(sharded, phase, at, evolve(op, bias=None))
        assert not compare(unbiased, plain, sizes).ok
    for phase, at, op in ops_of(sharded, Combine):
        assert isinstance(op, Combine)
        uneven = with_op(sharded, phase, at, Quantize(op.out, op.operands[1]))
        assert not compare(uneven, plain, sizes).ok


def choice(logits: list[float], top_k: int, **options: object) -> list[float]:
    return [float(x) for x in gates(np.array([logits]), top_k=top_k, **options)[0]]  # type: ignore[arg-type]


def test_gates_are_a_softmax_over_the_chosen() -> None:
    # Jiang et al., "Mixtral of Experts", 2024, section 2.1: Softmax(TopK(x W))
    e = np.exp([2.0, 1.0])
    assert choice([1.0, -3.0, 2.0, 0.0], 2) == pytest.approx([e[1] / e.sum(), 0, e[0] / e.sum(), 0])
    assert choice([1.0, 1.0, 1.0], 2) == pytest.approx([0.5, 0.5, 0]), "of equal scores the first experts count"
    whole = np.exp([1.0, -3.0, 2.0, 0.0])
    assert choice([1.0, -3.0, 2.0, 0.0], 2, normalize=False) == pytest.approx(
        [whole[0] / whole.sum(), 0, whole[2] / whole.sum(), 0]
    )


def test_sigmoid_gates_are_scaled_shares() -> None:
    # DeepSeek-AI, "DeepSeek-V3 Technical Report", 2024, equations 12 to 16
    s = 1 / (1 + np.exp([-1.0, -2.0]))
    found = choice([1.0, -3.0, 2.0, 0.0], 2, score="sigmoid", scale=2.5)
    assert found == pytest.approx([2.5 * s[0] / s.sum(), 0, 2.5 * s[1] / s.sum(), 0])
    assert choice([800.0, 900.0, -900.0], 1, score="sigmoid") == [0, 1, 0], "scores that are rounded to one stay apart"


def test_a_bias_counts_for_the_choice_alone() -> None:
    found = gates(np.array([[0.0, 1.0]]), np.array([9.0, 0.0]), top_k=1, score="sigmoid", normalize=False)
    assert found.tolist() == [[0.5, 0.0]]


def test_tokens_meet_their_own_experts_only() -> None:
    x, share = np.array([[1.0, 2.0], [3.0, 4.0]]), np.array([[0.0, 0.5, 0.5], [1.0, 0.0, 0.0]])
    placed = dispatch(x, share)
    assert placed[0].tolist() == [[0, 0], [1, 2], [1, 2]]
    assert placed[1].tolist() == [[3, 4], [0, 0], [0, 0]]
    assert combine(placed, share).tolist() == x.tolist()


def test_shrinking_keeps_what_is_chosen_of_the_experts() -> None:
    for experts, wanted in ((ROUTED, 2), (BIASED, 1), (DENSE, 0)):
        spec = shrink(moe("ep = 8", experts).spec)
        have = spec.model.size("experts")
        (op,) = [op for op in plain_programs(spec)[0].region("block").ops if isinstance(op, TopK)]
        assert op.top_k == (wanted or have)
        assert have % 8 == 0


# ---- communication


def per_layer(program: Program) -> list[str]:
    return [op.keyword for op in program.region("block").ops if isinstance(op, AllReduce | AllGather | AllToAll)]


def test_bytes_are_timed_over_the_links() -> None:
    # a switch takes what leaves a rank through its port: (n - 1) / n of the buffer
    plan = moe("ep = 4", more=BARE, node="h200_8 with { link { latency = 0 us } }")
    for line in lines(plan, "all_to_all"):
        moved = 32 / 4 * 96 * 4 * 512 * 2 * 3 / 4
        assert line.time_s / line.count == pytest.approx(moved / plan.spec.node.link.bandwidth, rel=1e-9)


def test_tokens_are_quantized_before_they_travel_to_experts_and_results_are_not() -> None:
    """A byte for each element goes out, two come back; without experts in 8 bits it is two both ways."""
    wide, narrow = (lines(moe("ep = 8", weights=w, more=BARE), "all_to_all") for w in ("bf16", "fp8"))
    assert [line.bytes for line in narrow] == [wide[0].bytes / 2, wide[1].bytes]
    ops = moe("ep = 8", weights="fp8", more=BARE).prefill.program.region("block").ops
    out, back = (op for op in ops if isinstance(op, AllToAll))
    assert (out.x.type.dtype, out.out.type.dtype, back.x.type.dtype) == ("fp8", "fp8", "bf16")
    assert any(isinstance(op, GroupedGemm) and op.x.name == out.out.name for op in ops)


def test_tokens_that_something_else_reads_travel_as_they_are() -> None:
    """Gates that weigh the input read it before it is multiplied."""
    weighed = ROUTED.replace("top_k = 4", "top_k = 4, weigh = input")
    plan = moe("ep = 8", weighed, weights="fp8")
    assert plan.verify().ok
    out = next(op for op in plan.prefill.program.region("block").ops if isinstance(op, AllToAll))
    read = [op for op in plan.prefill.program.region("block").ops if out.out.name in {x.name for x in op.operands}]
    assert (out.out.type.dtype == "fp8") == all(isinstance(op, GroupedGemm) for op in read)


def test_nothing_is_dispatched_where_tokens_are_whole() -> None:
    plan = moe(SHARDINGS["experts on the ranks of tp"])
    for phase in (plan.prefill, plan.decode):
        assert per_layer(phase.program) == ["all_reduce", "all_reduce"]
    tokens = 32 * 96
    assert {line.bytes for line in lines(plan, "all_reduce")} == {tokens * 512 * 2}


def test_a_rank_fills_the_places_of_its_own_experts() -> None:
    ops = moe(SHARDINGS["experts on the ranks of tp"]).prefill.program.region("block").ops
    (placed,) = [op.out.type for op in ops if isinstance(op, Dispatch)]
    assert placed.on("experts:4") == ("tensor",)


def test_tensor_parallel_experts_sum_after_they_are_combined() -> None:
    for sharding in ("tp = 4", "ep = 2, tp = 4"):
        plan = moe(sharding)
        kinds = per_layer(plan.prefill.program)
        assert kinds.count("all_reduce") == 2
        own = 32 // (2 if "ep" in sharding else 1)
        assert {line.bytes for line in lines(plan, "all_reduce")} == {own * 96 * 512 * 2}


def test_router_and_gates_are_made_where_tokens_are() -> None:
    plan = moe("ep = 8, tp = 1")
    (choice_,) = [op for op in plan.prefill.program.region("block").ops if isinstance(op, TopK)]
    assert choice_.logits.type.on("batch") == ("expert",)
    assert choice_.logits.type.on("experts") == ()


def test_tokens_are_gathered_before_they_are_copied_to_experts() -> None:
    ops = moe(SHARDINGS["megatron tokens"]).prefill.program.region("block").ops
    gathered = [op.x.type for op in ops if isinstance(op, AllGather)]
    assert gathered
    assert not any("experts:4" in t.names and "hidden" in t.names for t in gathered)


def test_uneven_loads_lengthen_the_exchange_of_the_fullest_rank() -> None:
    even = moe("ep = 8", more=BARE)
    uneven = moe("ep = 8", ROUTED.replace("top_k = 4", "top_k = 4, imbalance = 1.5"), more=BARE)
    before, after = (lines(plan, "all_to_all")[0].bytes for plan in (even, uneven))
    assert after == pytest.approx(1.5 * before)
    assert uneven.cost.evaluate().ttft > even.cost.evaluate().ttft
    most = moe("ep = 8", ROUTED.replace("top_k = 4", "top_k = 4, imbalance = 1000"), more=BARE)
    assert lines(most, "all_to_all")[0].bytes == pytest.approx(before * 8 * 2 / 4), "two experts of a rank, at most"


def test_notes_say_how_tokens_are_taken_to_fall() -> None:
    def said(plan: CompiledPlan) -> list[str]:
        return [d.message for d in plan.notes if d.code == "N305"]

    assert said(moe("ep = 8")) == ["8 ranks share `experts`; assumed load: equally many tokens on each"]
    uneven = ROUTED.replace("top_k = 4", "top_k = 4, imbalance = 1.2")
    assert said(moe("ep = 4", uneven))[0].endswith("1.2 times the mean on the fullest")
    assert not said(moe("tp = 8"))


# ---- memory and parameters


@pytest.mark.parametrize("ep", [1, 2, 8])
@pytest.mark.parametrize("tp", [1, 2, 4])
def test_a_rank_holds_its_experts(ep: int, tp: int) -> None:
    if ep * tp > 8:
        return
    plan = moe(f"ep = {ep}, tp = {tp}")
    whole = 3 * 3 * 16 * 512 * 384 * 2
    attention = 3 * (2 * 16 + 2 * 8) * 32 * 512 * 2 + 2 * 2048 * 512 * 2
    alike = (3 * 512 * 16 + (2 * 3 + 1) * 512) * 2  # router, gains
    assert plan.estimate().memory.weights == whole / ep / tp + attention / tp + alike


def test_values_of_experts_take_the_memory_of_pairs() -> None:
    plan = moe("ep = 8", more="step_tokens = 1_000_000")
    tokens, pair = 32 * 96 // 8, 512 * 2
    assert plan.estimate().memory.buffers == tokens * 4 * pair


def test_active_parameters_count_the_experts_of_a_token() -> None:
    estimate = moe("ep = 2").estimate()
    assert estimate.active_parameters is not None
    assert estimate.parameters - estimate.active_parameters == 3 * (16 - 4) * 3 * 512 * 384
    biased = moe("tp = 2", BIASED).estimate()
    assert biased.active_parameters is not None
    assert biased.parameters - biased.active_parameters == 3 * 15 * (2 * 512 * 384 + 384 + 512)
    assert estimate.as_json()["active_parameters"] == estimate.active_parameters


def test_mfu_counts_active_parameters() -> None:
    # experts of a token in place of all: as a dense model of that width
    sparse, dense = moe("", more=BARE), moe("", DENSE, more=BARE)
    tokens, weights = 32 * 96, 3 * 3 * 512 * 384
    peak = sparse.spec.node.gpu.peak("bf16")
    assert peak is not None
    ideal = [p.estimate().prefill.mfu * p.estimate().ttft_s for p in (sparse, dense)]
    assert ideal[1] - ideal[0] == pytest.approx(2 * tokens * weights * (16 - 4) / peak, rel=1e-6)


# ---- cost


def work(plan: CompiledPlan, phase: str = "decode") -> list[Experts]:
    works = [w for ops in getattr(plan.cost.pools[0].main, phase).work.values() for w in ops]
    return [w for w in works if isinstance(w.op, GroupedGemm)]


@pytest.mark.parametrize("tokens", [1, 5, 4000])
def test_no_tokens_are_faster_than_the_weights_that_they_read(tokens: int) -> None:
    plan = moe("", more=BARE)
    phase = plan.cost.pools[0].main.decode
    at = phase.bound_sizes({"batch": tokens, "context": 100})
    for op in work(plan):
        weights = op.tokens(tokens).moved - op.bytes_per_pair * 4 * tokens
        floor = max(weights / phase.machine.gpu.bandwidth, op.tokens(tokens).flops / phase.machine.peak(op.op.compute))
        assert float(op.least(at, phase.machine, 1.0)) == pytest.approx(floor)


def test_no_token_at_all_takes_nothing_as_a_number_and_in_an_array() -> None:
    plan = moe("", more=BARE)
    phase = plan.cost.pools[0].main.decode
    for op in work(plan):
        for none in (0, 0.0, np.array([0.0, 5.0])):
            at = phase.bound_sizes({"batch": none, "context": 100})
            assert np.ravel(op.least(at, phase.machine, 1.0))[0] == 0
            assert np.ravel(op.tokens(none).flops)[0] == op.tokens(0.25).flops, "the fullest rank has one pair"


def test_few_tokens_read_the_experts_that_they_touch() -> None:
    up, _ = work(moe("", more=BARE))
    one = up.tokens(1)
    each = 2 * 512 * 384 * 2
    assert one.moved == pytest.approx(4 * each + 4 * (512 + 2 * 384) * 2)
    many = up.tokens(100_000)
    assert many.moved == pytest.approx(16 * each + 400_000 * (512 + 2 * 384) * 2)
    some = up.tokens(5)
    weights = [r**-0.8 for r in range(1, 17)]
    law = sum(1 - (1 - 4 * w / sum(weights)) ** 5 for w in weights)  # touched where each expert has its own chance
    assert some.moved - 20 * (512 + 2 * 384) * 2 == pytest.approx(law * each, rel=0.01)
    even, _ = work(moe("", ROUTED.replace("top_k = 4", "top_k = 4, imbalance = zipf(0)"), more=BARE))
    moved = even.tokens(5).moved - 20 * (512 + 2 * 384) * 2
    assert moved == pytest.approx(16 * (1 - (1 - 4 / 16) ** 5) * each), "drawn evenly, more are touched"
    assert moved > 1.05 * law * each
    assert one.flops == 4 * 2 * 512 * 768
    assert one.padded == pytest.approx(4 * 16 * 2 * 512 * 768), "an expert with one token fills one tile"


def test_a_rank_has_an_expert_to_read_at_least() -> None:
    up, _ = work(moe("ep = 8", more=BARE))
    assert up.tokens(1).moved == pytest.approx(2 * 512 * 384 * 2 + (512 + 2 * 384) * 2)


@given(n=st.integers(1, 10_000), more=st.integers(1, 10_000))
@pytest.mark.parametrize("ep", [1, 4])
def test_law_more_tokens_ask_for_no_less_and_twice_as_many_for_no_more_than_twice(ep: int, n: int, more: int) -> None:
    for one in work(moe(f"ep = {ep}", more=BARE)):
        for a, b, c in zip(one.tokens(n), one.tokens(n + more), one.tokens(2 * n), strict=True):
            assert a <= b * (1 + 1e-12)
            assert c <= 2 * a * (1 + 1e-12)


@pytest.mark.parametrize("sharding", ["ep = 8", "ep = 4, tp = 2", "pp = 2, ep = 4"])
@pytest.mark.parametrize("more", ["", BARE], ids=["fitted", "roofline"])
def test_arrays_get_the_answers_of_numbers(sharding: str, more: str) -> None:
    plan = moe(sharding, SHARED.replace("top_k = 6", "top_k = 6, imbalance = 1.3"), more=more)
    batch = np.array([1, 2, 7, 32, 500])
    at_once = plan.cost.evaluate(batch=batch)
    for i, b in enumerate(batch):
        one = plan.cost.evaluate(batch=int(b))
        for name in ("ttft", "tpot", "memory", "max_batch"):
            many = np.broadcast_to(getattr(at_once, name), batch.shape)
            assert float(many[i]) == pytest.approx(float(getattr(one, name)), rel=1e-12)


FITTED = """calibration = fitted
}
calibration fitted {
  hbm = 1
  moe { bf16_triton { fixed = 20 us, step = 0.2 us, compute = 0.7, draw = 4, memory = 0.8, cache = 6e7 B, blend = 2.5
    stream = 0.7, away = 0.1, token = 0.002 us, low = 0.8, high = 1.2 } }
  ep_alltoall {
    deepep_normal { fixed = 25 us, expert = 0.02 us, row = 2 us, each = 0.1 us, unit = 30, port = 0.6, ramp = 20 us
      network = 0.9, message = 0.1 us }
    deepep_low_latency { fixed = 15 us, expert = 0.02 us, row = 2 us, each = 0.1 us, unit = 30, port = 0.6, ramp = 20 us
      network = 0.9, message = 0.1 us }
  }"""


def test_a_fitted_layer_takes_the_seconds_of_its_form() -> None:
    plan = moe("tp = 2", more=FITTED)
    times = plan.cost.evaluate().prefill.seconds["block"]
    ops = plan.prefill.program.region("block").ops
    layer = sum(t for op, t in zip(ops, times, strict=True) if isinstance(op, GroupedGemm))
    gpu, c = plan.spec.node.gpu, plan.spec.calibration.constants(MoeConstants, "moe.bf16_triton")
    peak = gpu.peak("bf16")
    assert peak is not None
    assert gpu.units is not None
    shape = Layer(512, 192, topk=4, n_experts=16, local=16, weight_bytes=2.0, input_bytes=2.0, gates=2)
    tokens = 32 * 96
    loads = crowd_loads(popular_experts(pairs=4, local=16, most=16), tokens)
    wanted = moe_seconds(c, Chip(gpu.units, peak, gpu.bandwidth), shape, tokens, loads)
    assert layer == pytest.approx(wanted)
    inside = [t for op, t in zip(ops, times, strict=True) if "experts:4" in str(op.results[0].type) and
              not isinstance(op, GroupedGemm)]  # fmt: skip
    assert inside
    assert not any(inside), "choice, copies and activation are part of it"
    assert {line.layer for line in lines(plan, "grouped_gemm")} == {"fitted"}
    assert lines(plan, "grouped_gemm")[0].band == (0.8, 1.2)


@pytest.mark.parametrize("weights", ["fp8", "int8"])
def test_weights_unpacked_from_8_to_16_bits_take_the_kernel_that_was_fitted_for_that(weights: str) -> None:
    """Rather than the one for weights of 4 bits, or for weights of bf16."""
    row = """{ fixed = 20 us, step = 0.2 us, compute = 0.7, draw = 4, memory = SHARE, cache = 6e7 B, blend = 2.5
        stream = 0.7, away = 0.1, token = 0.002 us, low = 0.8, high = 1.2 }"""
    shares = {"bf16": 0.8, "w8a16": 0.7, "w4a16": 0.6}
    rows = "\n".join(f"{name}_triton {row.replace('SHARE', str(share))}" for name, share in shares.items())
    more = f"calibration = fitted\n}}\ncalibration fitted {{\n  hbm = 1\n  moe {{ {rows} }}"
    phase = moe("tp = 2", weights=f"{weights}\n  compute = bf16", more=more).cost.pools[0].main.decode
    (gate, _) = (work for work in phase.work["block"] if isinstance(work.op, GroupedGemm))
    assert gate.form.constants.memory == shares["w8a16"]


def test_a_library_for_dispatch_takes_its_own_time() -> None:
    plan = moe("ep = 8", more=FITTED)
    used = [{line.algorithm for line in lines(plan, "all_to_all", phase)} for phase in ("prefill", "decode")]
    assert used == [{"deepep_normal", "direct"}, {"deepep_low_latency", "direct"}], "nothing was fitted for combine"
    assert plan.cost.evaluate(batch=64).ttft > plan.cost.evaluate(batch=8).ttft
    assert not any("deepep" in (line.algorithm or "") for line in lines(moe("ep = 8", more=BARE), "all_to_all"))


def test_better_hardware_and_more_load_obey_the_laws() -> None:
    for sharding in ("ep = 8", "ep = 2, tp = 4", SHARDINGS["experts on the ranks of tp"]):
        assert_laws(moe(sharding, SHARED, more=BARE))


def test_expert_parallel_decode_gains_with_the_batch() -> None:
    steps = [float(moe("ep = 8", more=BARE).cost.evaluate(batch=b).tpot) / b for b in (8, 64, 512)]
    assert all(a > b for a, b in pairwise(steps))


# ---- the language


def test_a_plan_with_experts_reads_back() -> None:
    for experts in (ROUTED, SHARED, BIASED, DENSE):
        plan = moe("ep = 2, tp = 2", experts)
        (again,) = compile_text(show_plan(plan.spec))
        assert same(plan.spec, again.spec)


def test_experts_may_be_stored_narrower_than_the_rest() -> None:
    plan = moe("tp = 2", ROUTED.replace("top_k = 4", "top_k = 4, weights = mxfp4"))
    stored = {w.name: w.type.dtype for w in plan.prefill.program.region("block").weights}
    assert stored["w_gate"] == stored["w_down"] == "mxfp4"
    assert stored["w_q"] == stored["w_router"] == "bf16"
    assert {op.compute for op in plan.prefill.program.region("block").ops if isinstance(op, GroupedGemm)} == {"bf16"}


def test_router_is_kept_in_the_dtype_of_activations_and_runs_alone() -> None:
    block = moe("tp = 2", SHARED, weights="fp8").prefill.program.region("block")
    assert next(w.type.dtype for w in block.weights if w.name == "w_router") == "bf16"
    assert [op for op in block.ops if op.keyword == "gemm" and "w_router" in str(op.operands[1])]
    (router,) = [op for op in block.ops if op.keyword == "gemm" and any(w.name == "w_router" for w in op.operands)]
    assert len(router.results) == 1


MISTAKES = {
    "no block": ("y = experts(h, w_router[hidden, experts], top_k = 2)\n x = x + y", "E213", "needs a block"),
    "no top_k": (ROUTED.replace(", top_k = 4", ""), "E207", "has no `top_k`"),
    "too many": (ROUTED.replace("top_k = 4", "top_k = 17"), "E214", "is more than `experts = 16`"),
    "no number": (ROUTED.replace("top_k = 4", "top_k = 2.5"), "E214", "must be a whole number"),
    "score": (ROUTED.replace("top_k = 4", "top_k = 4, score = softmin"), "E210", "there is no score `softmin`"),
    "dtype": (ROUTED.replace("top_k = 4", "top_k = 4, weights = bf17"), "E217", "no number format `bf17`"),
    "imbalance": (ROUTED.replace("top_k = 4", "top_k = 4, imbalance = 0.5"), "E214", "must be between 1"),
    "scale": (ROUTED.replace("top_k = 4", "top_k = 4, scale = 0"), "E214", "above zero"),
    "normalize": (ROUTED.replace("top_k = 4", "top_k = 4, normalize = 2"), "E210", "true or false"),
    "option": (ROUTED.replace("top_k = 4", "top_k = 4, topk = 4"), "E206", "has no option `topk`"),
    "arguments": (ROUTED.replace("h, w_router[hidden, experts]", "h"), "E213", "takes a value and a router"),
    "unnamed": (ROUTED.replace("experts(h,", "experts(rms_norm(x),"), "E213", "must be the name of a value"),
    "router": (ROUTED.replace("w_router[hidden, experts]", "w_router[ffn, experts]"), "E213", "a router has"),
    "router of two": (ROUTED.replace("[hidden, experts]", "[hidden, experts, ffn]"), "E213", "a router has"),
    "logits": (ROUTED.replace("w_router[hidden, experts]", "h"), "E213", "found [tokens, hidden]"),
    "bias": (SHARED.replace("b_choice[experts]", "b_choice[ffn]"), "E213", "a bias of the scores"),
    "no result": (ROUTED.replace("g @ w_down", "z = g @ w_down"), "E213", "must end with its result"),
    "own dimension": (ROUTED.replace("w_up[hidden", "w_up[experts, hidden"), "E213", "`experts` is given in a weight"),
    "outer value": (ROUTED.replace("g @ w_down[expert_ffn, hidden]", "g @ w_down[expert_ffn, hidden] + x"), "E201",
                    "no value `x`"),
    "norm": (ROUTED.replace("silu(h", "rms_norm(h"), "E213", "is not allowed inside"),
    "nested": (ROUTED.replace("silu(h @ w_gate[hidden, expert_ffn])", "experts(h, w[hidden, experts], top_k = 1) {h}"),
               "E213", "is not allowed inside"),
    "name taken": (ROUTED.replace("w_down[expert_ffn, hidden]", "w_o[expert_ffn, hidden]"), "E213", "named again"),
    "unsummed": (ROUTED.replace("g @ w_down[expert_ffn, hidden]", "g"), "E213", "the same dimensions"),
}  # fmt: skip


@pytest.mark.parametrize(("experts", "code", "message"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_told_with_its_place_and_a_way_out(experts: str, code: str, message: str) -> None:
    with pytest.raises(PlanError) as caught:
        moe("tp = 2", experts)
    errors = [d for d in caught.value.diagnostics if d.severity == "error"]
    assert [d.code for d in errors] == [code], [d.message for d in errors]
    assert message in errors[0].message
    assert errors[0].span is not None
    assert errors[0].hint or errors[0].labels or code in ("E210", "E214", "E217")


@pytest.mark.parametrize(
    ("was", "becomes", "hint"),
    [
        (
            "experts = 16",
            "experts = 5000",
            "at most `experts = 4096`; or raise the limit: `planc ... --max experts=",
        ),
        ("experts = 16", "experts = 1_000_000_000", "at most `experts = 4096`; or raise the limit"),
        ("top_k = 4", "top_k = 1_000_000_000", "at most `top_k = 4096`; or raise the limit"),
    ],
)
def test_a_layer_has_a_bounded_number_of_experts(was: str, becomes: str, hint: str) -> None:
    """Also where `zipf` or a loop over the chosen ones would need memory or time for each."""
    text = MODEL.format(sharding="tp = 2", experts=ROUTED, node="h100_8", weights="bf16", more="")
    assert was in text
    with pytest.raises(PlanError) as caught:
        compile_text(text.replace(was, becomes))
    (error,) = caught.value.diagnostics
    assert error.code == "E214"
    assert error.hint.startswith(hint)


def test_a_value_that_nothing_reads_is_warned_of() -> None:
    unread = ROUTED.replace("g @ w_down", "z = h @ w_z[hidden, ffn]\n      g @ w_down")
    plan = moe("tp = 2", unread)
    assert any(d.code == "W201" and "`z`" in d.message for d in plan.notes)


def test_degrees_must_divide_the_experts() -> None:
    with pytest.raises(PlanError) as caught:
        moe("ep = 3")
    (error,) = [d for d in caught.value.diagnostics if d.severity == "error"]
    assert error.code == "E301"
    assert "experts = 16" in error.message
    assert "2, 4" in error.hint


def test_ep_is_for_models_with_experts() -> None:
    with pytest.raises(PlanError) as caught:
        compile_text(
            "plan p { model = llama_3_1_8b, node = h100_8, sharding { ep = 2 }, workload { input = 9, output = 9 } }"
        )
    assert [d.code for d in caught.value.diagnostics] == ["E220"]
