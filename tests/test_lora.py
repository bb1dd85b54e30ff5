"""Adapters (LoRA): what they mean, how they are split, what they hold and what they cost."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plandsl.backends.reference.shrink import shrink
from plandsl.diagnostics import PlanError
from plandsl.driver import CompiledPlan, compile_text
from plandsl.ir.adapters import AdapterGemm
from plandsl.ir.chunks import Split
from plandsl.ir.collectives import AllReduce
from plandsl.ir.compute import Map, Norm
from plandsl.ir.ops import Op
from plandsl.show import show_plan
from plandsl.testing.ask import ask
from plandsl.testing.laws_cost import degrees_of_one_are_free
from plandsl.testing.laws_relations import adapters_are_never_free

PLAN = """
plan p {{
  model = {model}
  node = h100_8
  {rest}
  sharding {{ {sharding} }}
  workload {{ input = 300, output = 20, batch = {batch} }}
}}
"""
SOME = "lora { adapters = 3, rank = 16, targets = [w_q, w_v, w_o, w_down], active = 2 }"


def plan_of(
    lora: str = SOME, sharding: str = "tp = 1", base: str = "llama_3_1_8b", *, batch: int = 8, rest: str = ""
) -> CompiledPlan:
    model = f"{base} with {{ {lora} }}" if lora else base
    (plan,) = compile_text(PLAN.format(model=model, sharding=sharding, batch=batch, rest=rest))
    return plan


def ops_of(plan: CompiledPlan, kind: type[Op]) -> list[Op]:
    return [op for region in plan.decode.program.regions for op in region.ops if isinstance(op, kind)]


SHARDINGS = [
    *("tp = 4", "tp = 2, dp = 2", "tp = 2, pp = 2", "sp = 2, tp = 2", "tp = 2, cp = 2"),
    # what a target makes has the axis of its tokens
    "mesh a = 2, b = 2; tokens -> a; hidden -> a; heads, kv_heads, ffn, vocab -> b",
]


@pytest.mark.parametrize("sharding", SHARDINGS)
def test_a_sharded_model_with_adapters_computes_what_the_unsharded_one_does(sharding: str) -> None:
    plan = plan_of(sharding=sharding)
    assert ops_of(plan, AdapterGemm)
    verdict = plan.verify()
    assert verdict.ok, verdict.message


@settings(max_examples=4)
@given(st.sampled_from(["deepseek_v3", "gpt_oss_20b", "qwen3_32b"]), st.sampled_from(["tp = 2", "tp = 1, dp = 2"]))
def test_other_models_with_adapters_verify(base: str, sharding: str) -> None:
    verdict = plan_of("lora { adapters = 2, rank = 8, targets = all }", sharding, base).verify()
    assert verdict.ok, verdict.message


def test_requests_have_adapters_of_their_own_or_none() -> None:
    """The reference runs each request by itself, so that a mixed batch is equal to its requests."""
    from plandsl.backends.reference.compute import Local, _adapter_gemm  # the meaning of one op
    from plandsl.ir.types import Value, tensor

    x, w = Value("x", tensor("bf16", ("batch", "position", "a"))), Value("w", tensor("bf16", ("adapters", "a", "b")))
    out = Value("y", tensor("bf16", ("batch", "position", "b")))
    arrays = {"x": np.arange(30.0).reshape(5, 2, 3), "w": np.arange(24.0).reshape(2, 3, 4)}

    class Here(Local):
        requests = np.arange(5)

        def __init__(self) -> None:
            pass

        def array(self, value: Value) -> np.ndarray:
            return arrays[value.name]

        def held_range(self, value: Value, name: str) -> tuple[int, int]:
            return (0, 5)

    found = _adapter_gemm(AdapterGemm((out,), x, (w,)), w, out, Here())
    for request, adapter in enumerate((0, 1, None, 0, 1)):
        own = np.zeros((2, 4)) if adapter is None else arrays["x"][request] @ arrays["w"][adapter]
        assert np.array_equal(found[request], own)


def test_partial_sums_of_adapters_are_added_before_one_collective() -> None:
    with_adapters, without = plan_of(sharding="tp = 4"), plan_of("", "tp = 4")
    assert len(ops_of(with_adapters, AllReduce)) == len(ops_of(without, AllReduce))


def test_a_norm_behind_a_target_is_a_kernel_of_its_own() -> None:
    """`tp = 1` once had a collective of one rank before this norm, and a launch more than no `tp` at all."""
    plan = plan_of(base="gemma_3_1b")
    assert not ask(degrees_of_one_are_free, plan).why_not
    block = next(region for region in plan.decode.program.regions if region.layers is not None)
    made = {value.name: op for op in block.ops for value in op.results}
    sums = [op for op in block.ops if isinstance(op, Map) and isinstance(made.get(op.xs[-1].name), AdapterGemm)]
    assert len(sums) == 4, "one sum for each target"
    behind = {x.name for op in block.ops if isinstance(op, Norm) for x in op.operands}
    assert behind & {op.out.name for op in sums}, "the norm behind a target reads the sum"


def test_a_gpu_holds_every_adapter_and_a_step_reads_the_active_ones() -> None:
    def held(adapters: int, active: int, sharding: str = "tp = 1") -> float:
        lora = f"lora {{ adapters = {adapters}, rank = 64, targets = [w_q], active = {active} }}"
        return plan_of(lora, sharding).estimate().memory.weights

    base = plan_of("").estimate().memory.weights
    one = 32 * 64 * (4096 + 4096) * 2
    assert held(1, 1) - base == one
    assert held(40, 2) - base == 40 * one
    # the first matrix is whole on every rank, the second split as its target is
    assert held(1, 1, "tp = 4") - plan_of("", "tp = 4").estimate().memory.weights == 32 * 64 * (4096 + 1024) * 2

    def step(adapters: int, active: int) -> float:
        lora = f"lora {{ adapters = {adapters}, rank = 256, targets = all, active = {active} }}"
        return plan_of(lora).estimate().tpot_s

    assert step(64, 2) == step(8, 2)
    assert plan_of("").estimate().tpot_s < step(64, 2) < step(64, 8)
    assert step(64, 8) == step(64, 64)  # of 8 requests


def test_adapters_take_memory_from_the_cache() -> None:
    lora = "lora { adapters = 64, rank = 64, targets = all }"
    assert plan_of(lora).estimate().max_batch < plan_of("").estimate().max_batch


def test_a_plan_with_adapters_prints_and_reads_back() -> None:
    plan = plan_of(sharding="tp = 2")
    text = show_plan(plan.spec)
    assert "lora { adapters = 3, rank = 16, targets = [w_q, w_v, w_o, w_down], active = 2 }" in text
    (again,) = compile_text(text)
    assert again.spec.model.lora == plan.spec.model.lora
    assert again.spec.model.sizes == plan.spec.model.sizes


def test_the_bands_of_an_engine_hold_slower_servers() -> None:
    with_adapters = plan_of(rest="engine = vllm").estimate()
    assert [note.code for note in with_adapters.notes].count("N487") == 1
    low, high = with_adapters.band("tpot_s")
    assert high / with_adapters.tpot_s > 69 / 35 > with_adapters.tpot_s / low
    assert [d.code for d in plan_of("").notes if d.code == "N487"] == []


@pytest.mark.parametrize(
    ("lora", "code", "what"),
    [
        ("lora { adapters = 2, rank = 16 }", "E207", "targets"),
        ("lora { adapters = 2, rank = 16, targets = [w_qkv] }", "E487", "names no weight"),
        ("lora { adapters = 2, rank = 16, targets = 3 }", "E210", "list of weights"),
        ("lora { adapters = 2, rank = 16, targets = [3] }", "E210", "list of weights"),
        ("lora { adapters = 2, rank = 16, targets = [w_q], active = 3 }", "E487", "only 2 are on a GPU"),
        ("lora { adapters = 0, rank = 16, targets = all }", "E214", "adapters"),
        ("lora { adapters = 2, rank = 16, targets = all, alpha = 3 }", "E206", "alpha"),
    ],
)
def test_wrong_adapters_are_errors(lora: str, code: str, what: str) -> None:
    with pytest.raises(PlanError) as raised:
        plan_of(lora)
    ((found, message),) = [(d.code, d.message) for d in raised.value.diagnostics]
    assert found == code
    assert what in message


def test_routers_have_no_adapters() -> None:
    with pytest.raises(PlanError) as raised:
        plan_of("lora { adapters = 2, rank = 16, targets = [w_router] }", base="mixtral_8x7b")
    assert raised.value.diagnostics[0].message == "`w_router` is no matrix that each request multiplies by"


def test_a_small_plan_keeps_its_adapters() -> None:
    plan = plan_of(sharding="tp = 2")
    small = shrink(plan.spec)
    assert small.model.lora == plan.spec.model.lora
    assert small.model.size("adapters") > 1


def test_no_rule_splits_the_adapters() -> None:
    with pytest.raises(PlanError) as raised:
        plan_of(sharding="mesh a = 2; adapters -> a")
    (error,) = [d for d in raised.value.diagnostics if d.severity == "error"]
    assert error.code == "E487"
    assert "leave `adapters` out" in error.hint


def test_a_dimension_may_not_have_the_name_of_the_adapters() -> None:
    with pytest.raises(PlanError) as raised:
        plan_of(f"adapters = 3, {SOME}")
    assert [d.code for d in raised.value.diagnostics if d.severity == "error"] == ["E487"]


def test_adapters_are_compared_without_chunks_which_cut_no_product_that_they_add_to() -> None:
    """Where a launch is dear, chunks make a small step slower, and there are fewer of them with adapters."""
    text = "calibration dear { link = 0.5, launch_collective = 50 us }"
    plan = PLAN.format(
        model=f"llama_3_1_8b with {{ {SOME} }}", sharding="tp = 4", batch=2, rest="chunks = 3, calibration = dear"
    )
    (cut,) = compile_text(text + plan)
    (bare,) = compile_text(text + plan.replace(f" with {{ {SOME} }}", ""))
    assert ops_of(bare, Split)
    assert not ops_of(cut, Split)
    assert cut.estimate().tpot_s < bare.estimate().tpot_s
    assert ask(adapters_are_never_free, cut).how == ("without chunks of rows",)
