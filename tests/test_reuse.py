"""Prompts of which a part is in the KV cache already: what is computed, held and said."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from plandsl.backends.cost.deployments.prefix import reused_tokens
from plandsl.backends.reference.machine import Machine
from plandsl.backends.reference.verify import Parts, verify_programs
from plandsl.backends.reference.weights import make_weights
from plandsl.diagnostics import PlanError
from plandsl.driver import CompiledPlan, compile_text, plain_programs, programs
from plandsl.show import show_plan
from plandsl.testing import laws_cost

PLAN = "plan p {{ model = {model}, node = {node}, sharding {{ {sharding} }}, workload {{ {load} }}; {more} }}"


@cache
def plan(
    load: str, sharding: str = "tp = 8", model: str = "llama_3_1_8b", node: str = "h100_8", more: str = ""
) -> CompiledPlan:
    (made,) = compile_text(PLAN.format(load=load, sharding=sharding, model=model, node=node, more=more))
    return made


LOAD = "input = 4000, output = 100, batch = 8"


def test_no_reuse_changes_nothing() -> None:
    bare, zero = plan(LOAD), plan(f"{LOAD}, reuse = 0 %")
    assert bare.spec.workload == evolve(zero.spec.workload)
    assert bare.cost.evaluate().numbers == zero.cost.evaluate().numbers
    assert "reuse" not in zero.estimate().as_json()


def test_gemms_work_on_the_rest_and_attention_on_all_it_sees() -> None:
    whole, rest = plan(LOAD).estimate().prefill, plan(f"{LOAD}, reuse = 60 %").estimate().prefill
    ours, theirs = ({o.name: o for o in p.ops if o.op == "gemm"} for p in (rest, whole))
    assert dict(ours["gate_up"].shape)["m"] == 8 * 1600
    assert dict(theirs["gate_up"].shape)["m"] == 8 * 4000
    assert ours["head"] == theirs["head"]  # one row a request, in both
    (attention,) = (o for o in rest.ops if o.op == "attention")
    # 1600 queries see the 2400 keys before them, and one another up to their own
    pairs = 1600 * 2400 + 1600 * 1601 / 2
    assert attention.flops == pytest.approx(4 * 128 * (32 / 8) * 8 * pairs)


def test_the_time_is_that_of_the_roofline_by_hand() -> None:
    bare = "calibration = bare"
    text = "calibration bare { gemm = 1, attention_prefill = 1, hbm = 1, link = 1, launch = 0 s }\n"
    (made,) = compile_text(text + PLAN.format(
        load="input = 2000, output = 2, reuse = 50 %", sharding="", model="llama_3_1_8b", node="h100_1", more=bare,
    ))  # fmt: skip
    ops = {o.name: o for o in made.estimate().prefill.ops}
    # 1000 rows of 14336 * 2 columns of 4096: 2 m n k FLOPs at 989.4 TFLOP/s, above what its bytes take
    assert ops["gate_up"].time_s / 32 == pytest.approx(2 * 1000 * 28672 * 4096 / 989.4e12, rel=1e-3)


def test_the_prefix_is_whole_blocks_and_never_all() -> None:
    blocks = plan(f"{LOAD}, reuse = 60 %", more="engine = vllm").spec
    size = blocks.effective_engine.kv_block
    assert size > 1
    assert reused_tokens(blocks, 4000) == 2400 // size * size
    assert reused_tokens(blocks, size) == 0
    ideal = evolve(blocks, engine=None, workload=evolve(blocks.workload, reuse=1 - 1e-13))
    assert reused_tokens(ideal, 5) == 4
    assert reused_tokens(ideal, 1) == 0
    assert reused_tokens(evolve(ideal, workload=evolve(blocks.workload, reuse=0.29)), 100) == 29


@given(st.floats(0, 0.999), st.floats(0, 0.999), st.integers(1, 20_000), st.integers(1, 64))
def test_more_reuse_is_never_slower(a: float, b: float, input_: int, batch: int) -> None:
    made = plan(f"{LOAD}, reuse = 50 %", more="calibration = study_2603_05692")
    load = made.spec.workload
    less, more = (
        made.cost.on(evolve(made.spec, workload=evolve(load, reuse=reuse))).evaluate(batch, input_, 10)
        for reuse in sorted((a, b))
    )
    assert more.ttft <= less.ttft * (1 + 1e-9)
    assert more.tpot == less.tpot
    assert more.memory <= less.memory * (1 + 1e-9)


@pytest.mark.parametrize("prefix", ["own", "shared"])
def test_arrays_equal_numbers(prefix: str) -> None:
    made = plan(f"{LOAD}, reuse = 35 %, prefix = {prefix}", "tp = 2, pp = 2")
    laws_cost.arrays_equal_numbers(made)
    laws_cost.largest_batch_is_tight(made)
    many = made.cost.evaluate(concurrency=np.array([1, 50]), input=np.array([900, 30]), output=20, requests=100)
    for at, (n, i) in enumerate(((1, 900), (50, 30))):
        one = made.cost.evaluate(concurrency=n, input=i, output=20, requests=100)
        assert many.ttft[at] == pytest.approx(one.ttft, rel=1e-12)


def test_shared_blocks_are_held_once_and_own_ones_by_each() -> None:
    load = f"{LOAD}, reuse = 60 %"
    own, shared = (plan(f"{load}, prefix = {p}").estimate() for p in ("own", "shared"))
    each = own.kv_bytes_per_token / 8
    assert own.memory.kv_cache == pytest.approx(8 * 4100 * each)
    assert shared.memory.kv_cache == pytest.approx((8 * 1700 + 2400) * each)
    assert own.ttft_s == shared.ttft_s
    # so many more fit: 1700 tokens each beside the 2400
    free = shared.memory.capacity - shared.memory.weights - shared.memory.activations - shared.memory.buffers
    assert shared.max_batch == pytest.approx((free / each - 2400) / 1700, rel=0.02)


@pytest.mark.parametrize("share", [0, 50, 90])
def test_keys_that_are_gathered_take_room_for_the_whole_context(share: int) -> None:
    """Ranks that share a context gather the keys of all its tokens, however few of them a step computes."""
    load = f"input = 4096, output = 8, batch = 2, reuse = {share} %" + (", prefix = own" if share else "")
    made = plan(load, "cp = 2, context_form = gather", more="step_tokens = 100_000")
    found = made.estimate().memory
    assert found.buffers >= 2 * 4096 * 8 * 128 * 2  # requests, tokens, kv_heads, head_dim, bf16


def test_a_prefill_that_lasts_less_is_felt_by_all_that_run() -> None:
    load = "input = 4000, output = 100, concurrency = 64"
    cold, warm = plan(load).cost.evaluate(), plan(f"{load}, reuse = 80 %").cost.evaluate()
    assert warm.served.others < cold.served.others / 2
    assert warm.throughput > cold.throughput


LAYOUTS = [
    ("tp = 8", "llama_3_1_8b"), ("sp = 4, tp = 2", "llama_3_1_8b"), ("pp = 2, tp = 4", "llama_3_1_8b"),
    ("ep = 4, tp = 2", "mixtral_8x7b"), ("tp = 4", "deepseek_v3"), ("dp = 2, tp = 4", "gemma_2_27b"),
    ("cp = 4, tp = 2", "llama_3_1_8b"), ("cp = 2, context_form = gather", "gemma_2_27b"), ("cp = 4", "deepseek_v3"),
]  # fmt: skip


@pytest.mark.parametrize(("sharding", "model"), LAYOUTS)
def test_the_rest_after_its_prefix_is_one_prefill(sharding: str, model: str) -> None:
    made = plan("input = 4000, output = 100, batch = 8, reuse = 60 %", sharding, model, "h200_8")
    verdict = made.verify()
    assert verdict.ok, verdict.message
    assert verdict.worst < 1e-9


def test_a_cut_prompt_runs_its_parts_and_a_wrong_cache_is_noticed() -> None:
    small = evolve(plan(LOAD).spec, model=_tiny(), workload=evolve(plan(LOAD).spec.workload, input=7, batch=2))
    sharded, plain = programs(small), plain_programs(small)
    sizes = {"batch": 2, "input": 7}
    for cuts in ((3,), (1, 2, 6)):
        assert verify_programs(sharded, plain, sizes, parts=Parts(cuts)).ok
    weights = make_weights(plain[0], sizes)
    ids = np.arange(14).reshape(2, 7)
    parts, lost = Machine(*plain, weights, sizes), Machine(*plain, weights, sizes)
    assert not np.allclose(parts.prefill(ids, (4,)), lost.prefill(ids[:, 4:]))


def _tiny():
    from plandsl.backends.reference.shrink import shrink

    return shrink(plan(LOAD).spec).model


def test_a_plan_with_reuse_reads_back_and_its_report_says_so() -> None:
    made = plan(f"{LOAD}, reuse = 60 %, prefix = shared")
    (again,) = compile_text(show_plan(made.spec))
    assert again.spec.workload == made.spec.workload
    assert again.cost.evaluate().ttft == made.cost.evaluate().ttft
    assert made.estimate().as_json()["reuse"] == {"tokens": 2400, "prefix": "shared"}


def test_whose_blocks_they_are_is_told_where_it_is_assumed() -> None:
    def codes(load: str) -> set[str]:
        return {d.code for d in plan(load).notes}

    assert "N320" in codes(f"{LOAD}, reuse = 60 %")
    assert "N320" not in codes(f"{LOAD}, reuse = 60 %, prefix = own") | codes(LOAD)


@pytest.mark.parametrize(
    ("load", "sharding", "code"),
    [
        (f"{LOAD}, reuse = 100 %", "tp = 8", "E223"),
        (f"{LOAD}, reuse = 4 tok", "tp = 8", "E204"),
        (f"{LOAD}, reuse = -1", "tp = 8", "E223"),
        (f"{LOAD}, prefix = shared", "tp = 8", "E223"),
        (f"{LOAD}, reuse = 5 %, prefix = mine", "tp = 8", "E210"),
    ],
)
def test_what_cannot_be_meant(load: str, sharding: str, code: str) -> None:
    with pytest.raises(PlanError) as caught:
        plan(load, sharding)
    assert [d.code for d in caught.value.diagnostics] == [code]
    assert caught.value.diagnostics[0].span
