"""The limits that engines choose by the GPU where nothing states them, and what follows from them."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.engine_files import LIKE, WAYS
from plandsl.cli import main
from plandsl.driver import CompiledPlan, compile_text
from plandsl.show import show_plan
from plandsl.spec.hardware import EngineSpec

GIB = 2**30


@cache
def plan(
    node: str = "h100_1", engine: str = "vllm", more: str = "", before: str = "", load: str = "batch = 1"
) -> CompiledPlan:
    """A plan of an 8B model on some GPUs."""
    text = f"model = llama_3_1_8b, node = {node}, engine = {engine}\n workload {{ input = 900, output = 100, {load} }}"
    return compile_text(f"{before}\nplan p {{ {text}\n {more} }}")[0]


def engine_of(made: CompiledPlan) -> EngineSpec:
    """The engine of a plan that has one."""
    assert made.spec.engine is not None
    return made.spec.engine


def limits(made: CompiledPlan) -> tuple[int, int]:
    """Tokens of a step, by the plan as by its engine, and requests."""
    assert made.spec.step_tokens == engine_of(made).step_tokens
    return made.spec.step_tokens, engine_of(made).max_requests


def sized(memory: float, total: float | None = None) -> str:
    """A GPU with some GiB of memory, as CUDA and the driver report them."""
    reported = "" if total is None else f", memory_total = {total} GiB"
    return f"h100_1 with {{ gpu {{ memory = {memory} GiB{reported} }} }}"


# ---- by the GPU


@pytest.mark.parametrize(
    ("node", "found"),
    [
        ("rtx_3090_1", (2048, 256)), ("rtx_4090_1", (2048, 256)), ("l40s_1", (2048, 256)), ("a40_1", (2048, 256)),
        ("a100_40_1", (2048, 256)), ("a100_80_1", (2048, 256)), ("a100_sxm_1", (2048, 256)),
        ("a100_pcie_1", (2048, 256)), ("a800_1", (8192, 1024)), ("h100_1", (8192, 1024)), ("h20_1", (8192, 1024)),
        ("rtx_pro_6000_1", (8192, 1024)), ("b200_1", (8192, 1024)), ("mi300x_1", (8192, 1024)),
        (sized(69.99, 80), (2048, 256)), (sized(70, 70), (8192, 1024)),
    ],
)  # fmt: skip
def test_vllm_takes_less_on_small_gpus_and_on_a100(node: str, found: tuple[int, int]) -> None:
    """By what CUDA reports: 70 GiB or more, and no A100."""
    assert limits(plan(node)) == limits(plan(node, "vllm_rocm")) == found


@pytest.mark.parametrize(
    ("node", "chunk"),
    [
        (sized(18, 19.9), 2048), (sized(19, 20), 4096), (sized(58, 59.9), 4096), (sized(59, 60), 8192),
        (sized(158, 159.9), 8192), (sized(159, 160), 16384), ("rtx_4090_1", 4096), ("l40s_1", 4096),
        ("a100_80_1", 8192), ("h100_1", 8192), ("h200_1", 8192), ("b200_1", 16384), ("mi300x_1", 16384),
    ],
)  # fmt: skip
def test_the_chunk_of_sglang_follows_what_the_driver_reports(node: str, chunk: int) -> None:
    assert limits(plan(node, "sglang")) == (chunk, 2048)


def test_trtllm_does_not_choose_by_the_gpu() -> None:
    assert [limits(plan(node, "trtllm")) for node in ("rtx_4090_1", "b200_1")] == 2 * [(8192, 2048)]


def test_a_gpu_made_from_an_a100_counts_as_one() -> None:
    made = "gpu mine = a100_80 with { price = 1 USD/h }\ngpu a1000 = h100_sxm with { price = 1 USD/h }"
    assert limits(plan("h100_1 with { gpu = mine }", before=made)) == (2048, 256)
    assert limits(plan("h100_1 with { gpu = a1000 }", before=made)) == (8192, 1024)


@pytest.mark.parametrize(
    ("gpus", "vllm", "sglang"),
    [
        ("1 * h100_sxm, 1 * l40s", 2048, 4096), ("1 * l40s, 1 * h100_sxm", 2048, 4096),
        ("1 * h100_sxm, 1 * a100_80", 2048, 8192), ("1 * h100_sxm, 1 * b200", 8192, 8192),
    ],
)  # fmt: skip
def test_the_smallest_of_unlike_gpus_decides(gpus: str, vllm: int, sglang: int) -> None:
    link = "link { topology = pcie, bandwidth = 9 GB/s, latency = 5 us }"
    mixed = f"node mixed {{ gpus = [{gpus}], {link} }}\nnode large {{ count = 2, gpu = b200, {link} }}"
    network = "network { topology = fat_tree, bandwidth = 50 GB/s, latency = 5 us }"
    pod = f"{mixed}\ncluster pod {{ nodes = [1 * large, 1 * mixed], {network} }}"
    for engine, found in (("vllm", vllm), ("sglang", sglang)):
        assert plan("mixed", engine, "sharding { tp = 2 }", mixed).spec.step_tokens == found
        text = f"model = llama_3_1_8b, cluster = pod, engine = {engine}, sharding {{ tp = 2, dp = 2 }}"
        made = compile_text(f"{pod}\nplan p {{ {text}\n workload {{ input = 900, output = 100 }} }}")[0]
        assert made.spec.step_tokens == found


def test_each_of_two_pools_has_the_limits_of_its_own_gpus() -> None:
    text = """plan p {
      model = llama_3_1_8b, engine = vllm
      prefill { node = h100_1 }, decode { node = l40s_1 }
      transfer { bandwidth = 20 GB/s, latency = 10 us }
      workload { input = 900, output = 100 }
    }"""
    told = compile_text(text)[0].estimate().as_json()["pools"]
    found = [(told[pool]["start"]["step_tokens"], told[pool]["start"]["limited"]) for pool in ("prefill", "decode")]
    assert found == [(8192, None), (2048, "256 requests, steps of 2048 tokens: vllm on GPUs below 70 GiB")]


# ---- what is stated wins


def test_stated_limits_win() -> None:
    assert limits(plan("l40s_1", "vllm with { step_tokens = 4096 }")) == (4096, 256)
    assert limits(plan("l40s_1", "vllm with { max_requests = 1024 }")) == (2048, 1024)
    assert limits(plan("l40s_1", "mine", before="engine mine = vllm with { max_requests = 1 }")) == (2048, 1)
    assumed = "vllm with { assumed { max_requests = 7 } }"
    assert limits(plan("l40s_1", assumed)) == (2048, 7)
    own = plan("l40s_1", more="step_tokens = 512").spec
    assert (own.step_tokens, own.engine.step_tokens, own.engine.max_requests) == (512, 2048, 256)
    assert plan("l40s_1", more="step_tokens = 0").spec.step_tokens == 0
    text = "plan p { model = llama_3_1_8b, node = l40s_1, engine = vllm, workload { input = 900, output = 100 } }"
    asked = (("engine.max_requests", "32"), ("engine.limits.memory", "[10 GiB]"))
    assert limits(compile_text(text, overrides=asked)[0]) == (8192, 32)


def test_a_step_holds_the_chunk_of_the_plan() -> None:
    found = [limits(plan("l40s_1", more=f"chunked_prefill = {chunk}"))[0] for chunk in (512, 2048, 4096)]
    assert found == [2048, 2048, 4096]
    told = [plan("l40s_1", more=f"chunked_prefill = {chunk}").estimate().start for chunk in (512, 2048, 4096)]
    assert [start.step_tokens for start in told if start] == [512, 2048, 4096]
    assert ["steps of" in start.limited for start in told if start] == [False, True, False]
    stated = plan("l40s_1", "vllm with { step_tokens = 1024 }", "chunked_prefill = 4096")
    assert limits(stated) == (1024, 256)


def test_a_table_is_changed_as_other_sections_are() -> None:
    assert limits(plan("l40s_1", "vllm with { limits { step_tokens = [1024, 8192] } }")) == (1024, 256)
    assert limits(plan("h100_1", "vllm with { limits { memory_total = [90 GiB] } }")) == (2048, 256)
    assert limits(plan("a100_80_1", 'vllm with { limits { small = ["l40s"] } }')) == (8192, 1024)
    assert limits(plan("b200_1", 'vllm with { limits { small = ["b100", "b200"] } }')) == (2048, 256)


@given(
    node=st.one_of(
        st.sampled_from(("l40s_1", "a100_80_1", "h100_1", "b200_1")),
        st.integers(10, 200).map(lambda gib: sized(gib, gib + 1)),
    ),
    engine=st.sampled_from(("vllm", "sglang", "trtllm")),
    load=st.sampled_from(("batch = 16", "concurrency = 64", "concurrency = 2000, requests = 4000")),
    chunk=st.sampled_from((None, 512, 4096, 20_000)),
)
def test_law_a_plan_that_states_its_limits_equals_one_that_leaves_them_out(
    node: str, engine: str, load: str, chunk: int | None
) -> None:
    own = "hop_tensors = 1" if chunk is None else f"chunked_prefill = {chunk}"
    base = plan(node, engine, own, load=load)
    step, requests = limits(base)
    stated = plan(node, f"{engine} with {{ step_tokens = {step}, max_requests = {requests} }}", own, load=load)
    assert stated.spec == base.spec == plan(node, engine, f"step_tokens = {step}, {own}", load=load).spec


# ---- what follows


def test_an_8b_model_keeps_more_cache_on_a_card_of_24_gb() -> None:
    """The profiled step shrinks to a quarter: hidden states and live values by tokens, logits by requests."""
    chosen = plan("rtx_3090_1")
    large = plan("rtx_3090_1", "vllm with { step_tokens = 8192, max_requests = 1024 }")
    a, b = (made.cost.pools[0].memory for made in (chosen, large))
    (small, _), (full, _) = a.taken[0], b.taken[0]
    assert float(a.pool(0) - b.pool(0)) == pytest.approx(full - small)
    workspace = engine_of(chosen).workspace
    assert (full - workspace) / (small - workspace) == pytest.approx(4)
    assert 1.3 < float(a.pool(0) - b.pool(0)) / GIB < 1.5
    assert chosen.estimate().kv_capacity_tokens > large.estimate().kv_capacity_tokens


def test_a_report_tells_limits_that_differ_from_those_of_large_gpus(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    told = {
        ("l40s_1", "vllm"): "256 requests, steps of 2048 tokens: vllm on GPUs below 70 GiB",
        ("a100_80_1", "vllm"): "256 requests, steps of 2048 tokens: vllm on a100",
        ("l40s_1", "vllm with { max_requests = 99 }"): "steps of 2048 tokens: vllm on GPUs below 70 GiB",
        ("h100_1", "sglang"): "steps of 8192 tokens: sglang on GPUs below 160 GiB",
        ("h100_1", "vllm"): "", ("b200_1", "sglang"): "", ("l40s_1", "trtllm"): "",
        ("l40s_1", "vllm with { max_requests = 99, step_tokens = 99 }"): "",
    }  # fmt: skip
    file = tmp_path / "p.plan"
    for (node, engine), line in told.items():
        load = "workload { input = 900, output = 100 }"
        file.write_text(f"plan p {{ model = llama_3_1_8b, node = {node}, engine = {engine}, {load} }}", "utf-8")
        main(["compile", str(file)])
        lines = capsys.readouterr().out.splitlines()
        assert [text for text in lines if " tokens: " in text and " on " in text] == ([line] if line else [])
        main(["compile", str(file), "--json"])
        start = json.loads(capsys.readouterr().out)["plans"][0]["start"]
        assert start["limited"] == (line or None)
        assert (start["step_tokens"], start["max_requests"]) == limits(plan(node, engine))


def test_limits_read_back() -> None:
    for node in ("l40s_1", "a100_80_1", "b200_1"):
        for engine in ("vllm", "sglang"):
            made = plan(node, engine)
            again = compile_text(show_plan(made.spec))[0]
            assert engine_of(again).limits == engine_of(made).limits
            assert limits(again) == limits(made)


@pytest.mark.parametrize("name", ["vllm", "vllm_rocm", "sglang", "trtllm", "atom"])
def test_the_catalog_has_what_the_script_writes(name: str) -> None:
    found = engine_of(plan(engine=name))
    for field, value in WAYS[LIKE.get(name, name)].items():
        assert getattr(found, field) == value, field
