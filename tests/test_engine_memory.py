"""What a serving engine takes of a GPU besides weights and cache, and the KV cache that it starts with."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.engine_memory import MODELS_FILE, memory_values, with_memory
from plandsl.backends.cost.deployments.blocks import Layers, count_tokens, find_longest, group_layers, request_blocks
from plandsl.backends.cost.deployments.memory import MemoryModel
from plandsl.backends.cost.deployments.profile import taken_before
from plandsl.driver import CompiledPlan, compile_text
from plandsl.show import show_plan
from plandsl.spec.fractions import default_fraction, prefill_graphs
from plandsl.spec.hardware import EngineSpec
from plandsl.testing import laws_cost

GIB = 2**30
MODELS = MODELS_FILE.read_text(encoding="utf-8")
CATALOG = Path(__file__).parent.parent / "plandsl" / "catalog" / "engines"
ENGINES = ("vllm", "vllm_rocm", "sglang", "trtllm", "atom")


@cache
def plan(
    model: str,
    sharding: str = "",
    engine: str = "vllm",
    load: str = "input = 8000, output = 192",
    more: str = "memory_fraction = 95 %",
    node: str = "h100_8 with { gpu { memory = 79.19 GiB } }",
) -> CompiledPlan:
    """A plan on H100 GPUs with the memory that CUDA reports of them."""
    parts = f"model = {model}\n node = {node}\n sharding {{ {sharding} }}\n engine = {engine}"
    return compile_text(f"{MODELS}\nplan p {{\n {parts}\n workload {{ {load} }}\n {more}\n}}")[0]


def memory(made: CompiledPlan) -> MemoryModel:
    """The memory of one server."""
    return made.cost.pools[0].memory


# ---- published logs

FP32 = "llama_3_1_8b with { weights = fp32, activations = fp32, kv_cache = fp32 }"
STARTS = [
    ("codellama_7b", "", 61.66, 126256, "codellama-codellama-7b-h--h100-80gb--tp1pp1dp1--8192"),
    ("gemma_2_27b", "", 20.59, 58672, "google-gemma-2-27b-it--h100-80gb--tp1pp1dp1--8192"),
    ("gemma_2_9b", "", 54.12, 168880, "google-gemma-2-9b-it--h100-80gb--tp1pp1dp1--8192"),
    ("gemma_7b", "", 55.44, 129760, "google-gemma-7b--h100-80gb--tp1pp1dp1--8192"),
    ("granite_3_1_8b", "", 58.66, 384432, "granite-3-1-8b--h100-80gb--tp1pp1dp1--8192"),
    ("llama_3_1_8b", "", 58.11, 476000, "meta-llama-llama---h100-80gb--tp1pp1dp1--8192-dtbf16"),
    ("llama_3_1_8b with { kv_cache = fp8 }", "", 58.11, 952032, "meta-llama---h100-80gb--tp1pp1dp1--8192-dtbf16-kvfp8"),
    (FP32, "", 42.8, 175296, "meta-llama-llama-3--h100-80gb--tp1pp1dp1--8192-dtf32"),
    ("llama_3_1_8b", "pp = 2", 66.54, 1075312, "meta-llama-llama-3-1-8b---h100-80gb--tp1pp2dp1--8192"),
    ("llama_3_1_8b", "pp = 4", 69.8, 2257264, "meta-llama-llama-3-1-8b---h100-80gb--tp1pp4dp1--8192"),
    ("llama_3_1_8b", "tp = 2", 63.76, 1044688, "meta-llama-llama-3-1-8b---h100-80gb--tp2pp1dp1--8192"),
    ("llama_3_1_8b", "tp = 4", 67.44, 2209792, "meta-llama-llama-3-1-8b---h100-80gb--tp4pp1dp1--8192"),
    ("phi_2", "", 69.0, 226112, "microsoft-phi-2--h100-80gb--tp1pp1dp1--2048"),
    ("qwen1_5_moe_a2_7b", "", 45.83, 250304, "qwen-qwen1-5-moe-a2-7b--h100-80gb--tp1pp1dp1--8192"),
    ("qwen3_8b", "", 57.5, 418688, "qwen-qwen3-8b--h100-80gb--tp1pp1dp1--8192"),
    ("kimi_vl_a3b", "tp = 2", 54.78, 1890896, "moonshotai-kimi-vl-a3b-i--h100-80gb--tp2pp1dp1--8192"),
]
"""GiB of KV cache on the first GPU and tokens, as vLLM 0.19.0 logged them.

Source: llm-d-incubation/llm-d-planner at d3121e0, `accuracy/results/v0.19.0/logs`, with the name of the log.
"""


@pytest.mark.parametrize(("model", "sharding", "gib", "tokens", "log"), STARTS, ids=[s[4] for s in STARTS])
def test_the_kv_cache_is_what_vllm_logs(model: str, sharding: str, gib: float, tokens: int, log: str) -> None:
    """Within 3 % of the tokens, and 0.5 GiB; 1.5 GiB for the model whose vision tower has no weights here."""
    made = plan(model, sharding)
    tower = 1.5 if "kimi" in log else 0.5
    assert abs(memory(made).pool(0) / GIB - gib) < tower
    assert made.estimate().kv_capacity_tokens == pytest.approx(tokens, rel=0.03)


def test_a_profile_without_chunks_is_as_long_as_the_context() -> None:
    """vLLM issue 10517: 31,232 tokens of cache at a length of 20,000, 23,648 at 29,000, more with steps of 512.

    On an RTX 3090 with 90 % of its 23.58 GiB.
    """
    card = "rtx_3090_1 with { gpu { memory = 23.58 GiB } }"

    def capacity(length: int, step: int) -> int:
        load = f"input = {length - 1000}, output = 1000"
        return plan("llama_3_1_8b", load=load, node=card, more=f"step_tokens = {step}").estimate().kv_capacity_tokens

    assert capacity(20_000, 20_000) == pytest.approx(31_232, rel=0.03)
    assert capacity(29_000, 29_000) == pytest.approx(23_648, rel=0.03)
    assert capacity(35_000, 512) > 35_000


def test_an_a100_log_of_another_source_agrees() -> None:
    """vLLM 0.19.0, gpt-oss-20b on an A100 80 GB at 65 %: 36.56 GiB of cache beside 13.72 GiB of weights.

    Its limits are 256 requests and 2,048 tokens there, which it chose. Source: myoceane.fr, "vLLM, A100", 2026-04-18.
    """
    node = "a100_sxm_8 with { gpu { memory = 79.25 GiB } }"
    one = memory(plan("gpt_oss_20b", node=node, more="memory_fraction = 65 %"))
    assert (one.pool(0) + one.weights[0]) / GIB == pytest.approx(36.56 + 13.72, abs=0.5)


# ---- the profiled step


def test_old_releases_took_more_for_sampling() -> None:
    """Qwen3-14B, vLLM 0.16: 5.64 GiB of activations, 0.13 of libraries, 41.94 of cache (llm-d-planner, part 2)."""
    old = plan("qwen3_14b", engine="vllm with { logit = 36 B, libraries = 0.13 GiB }")
    new = plan("qwen3_14b")
    assert memory(old).taken[0][0] / GIB == pytest.approx(5.64, abs=0.1)
    assert memory(old).pool(0) / GIB == pytest.approx(41.94, abs=0.5)
    assert memory(new).taken[0][0] / GIB == pytest.approx(2.23, abs=0.1)
    assert memory(new).pool(0) / GIB == pytest.approx(45.23, abs=0.5)


def test_graphs_count_where_the_version_subtracts_them() -> None:
    """0.91 GiB of graphs for Llama 3.1 8B (the log of STARTS)."""
    outside, inside = plan("llama_3_1_8b"), plan("llama_3_1_8b", engine="vllm with { graphs_in_budget = true }")
    assert (memory(outside).pool(0) - memory(inside).pool(0)) / GIB == pytest.approx(0.91, abs=0.1)


def test_buffers_of_fused_sums_need_links_and_ranks() -> None:
    fused = memory(plan("llama_3_1_8b", "tp = 2")).taken[0][1]
    alone = memory(plan("llama_3_1_8b", "pp = 2")).taken[0][1]
    pcie = memory(plan("llama_3_1_8b", "tp = 2", node="l40s_8")).taken[0][1]
    assert (fused - alone) / GIB == pytest.approx(2.07 - 0.25, abs=0.1)
    assert pcie == alone


def test_experts_keep_a_workspace_while_rows_are_sampled() -> None:
    """Qwen1.5-MoE: 2.47 GiB of activations (the log of STARTS), 0.30 GiB more than rows of its vocabulary take."""
    made = memory(plan("qwen1_5_moe_a2_7b"))
    assert made.taken[0][0] / GIB == pytest.approx(2.47, abs=0.05)


def test_chunks_of_prompts_bound_the_profiled_step() -> None:
    small, chunked = (plan("llama_3_1_8b", more=f"{word} = 512") for word in ("step_tokens", "chunked_prefill"))
    assert memory(small).taken == memory(chunked).taken
    assert memory(small).taken[0][0] < memory(plan("llama_3_1_8b")).taken[0][0]


def test_a_step_of_no_tokens_leaves_activations_out() -> None:
    assert memory(plan("llama_3_1_8b", more="step_tokens = 0")).taken[0][0] == 0


# ---- fractions


def test_sglang_sets_its_fraction_by_the_memory_of_the_gpu() -> None:
    """`mem_fraction_static` = (M - R) / M, R in MiB: 512 + 1.5 chunk + 128 ranks + 2 batch + 8 prefill graphs."""
    engine = EngineSpec("e", fraction_of="free_before", max_requests=4096)
    sizes = [prefill_graphs(chunk) for chunk in (2048, 4096, 8192, 16384)]
    assert sizes == [42, 50, 58, 74]
    for gib, ranks, chunk, reserved in (
        (15, 1, 2048, 512 + 1.5 * 2048 + 128 + 2 * 8 + 8 * 42),
        (24, 1, 4096, 512 + 1.5 * 4096 + 128 + 2 * 48 + 8 * 50),
        (24, 4, 4096, 512 + 1.5 * 4096 + 512 + 2 * 160 + 8 * 50),
        (45, 2, 4096, 512 + 1.5 * 4096 + 256 + 2 * 32 + 8 * 50),
        (79, 1, 8192, 512 + 1.5 * 8192 + 128 + 2 * 256 + 8 * 58),
        (140, 8, 8192, 512 + 1.5 * 8192 + 1024 + 2 * 512 + 8 * 58),
        (178, 8, 16384, 512 + 1.5 * 16384 + 1024 + 2 * 512 + 8 * 74),
    ):
        fraction = round(1 - reserved / (gib * 1024), 3)
        assert default_fraction(engine, gib * GIB, ranks, chunk) == fraction, gib
        node = f"h100_{ranks} with {{ gpu {{ memory_total = {gib} GiB, memory = {gib - 1} GiB }} }}"
        own = "sglang with { max_requests = 4096 }"
        made = plan("llama_3_1_8b", f"tp = {ranks}", engine=own, more="", node=node)
        assert made.spec.memory_fraction == fraction, gib
    latent = 512 + 1.5 * 8192 + 1024 + 2 * 512 + 1536
    assert default_fraction(engine, 140 * GIB, 8, 8192, latent=True) == round(1 - latent / (140 * 1024), 3)
    assert default_fraction(engine, 79 * GIB, 1, 2048) == round(1 - 10_240 / (79 * 1024), 3)
    assert default_fraction(EngineSpec("e"), 79 * GIB, 1, 8192) == 1.0


def test_a_stated_fraction_wins_over_the_formula() -> None:
    assert plan("llama_3_1_8b", engine="sglang", more="").spec.memory_fraction == pytest.approx(0.829, abs=0.002)
    assert plan("llama_3_1_8b", engine="sglang", more="memory_fraction = 70 %").spec.memory_fraction == 0.7
    own = "sglang with { memory_fraction = 60 % }"
    assert plan("llama_3_1_8b", engine=own, more="").spec.memory_fraction == 0.6


def test_each_engine_shares_out_what_it_says() -> None:
    """vLLM: all, of the device. SGLang: weights and cache, of what is free before. TensorRT-LLM: cache, of the rest."""
    whole = 79.19 * GIB
    for name in ("vllm", "sglang", "trtllm"):
        made = plan("llama_3_1_8b", engine=name, more="memory_fraction = 80 %")
        one = memory(made)
        before = taken_before(made.spec.effective_engine, made.spec)
        rest = sum(one.taken[0])
        pools = {
            "vllm": 0.8 * whole - one.weights[0] - rest,
            "sglang": 0.8 * (whole - before) - one.weights[0],
            "trtllm": 0.8 * (whole - before - one.weights[0] - rest),
        }
        assert one.pool(0) == pytest.approx(pools[name])


def test_sglang_holds_about_what_a_server_observed() -> None:
    """DeepSeek R1, fp8, tp 8 on H200 with 82 %: about 509 K tokens (ai-dynamo/aisimulate PR 263); a wide band."""
    made = plan(
        "deepseek_r1", "tp = 8", engine="sglang", node="h200_8 with { gpu { memory = 140.4 GiB } }",
        more="memory_fraction = 82 %, step_tokens = 32768",
    )  # fmt: skip
    assert made.estimate().kv_capacity_tokens == pytest.approx(509_000, rel=0.2)


def test_a_share_that_leaves_no_room_for_the_step_does_not_fit_in_the_device() -> None:
    made = plan("llama_3_1_8b", engine="sglang", more="memory_fraction = 100 %")
    before = taken_before(made.spec.effective_engine, made.spec)
    assert memory(made).capacities[0] == pytest.approx(79.19 * GIB - before)


# ---- blocks


def test_an_engine_that_does_not_start_fits_with_no_batch_and_has_the_batch_of_its_share() -> None:
    refused, free = (plan("llama_3_1_8b", more=f"memory_fraction = {share} %") for share in (100, 99))
    assert (memory(refused).starts, memory(free).starts) == (False, True)
    assert (refused.estimate().fits, free.estimate().fits) == (False, True)
    assert refused.estimate().max_batch >= free.estimate().max_batch > 0
    for made in (refused, free):
        laws_cost.largest_batch_is_tight(made)


def test_layers_with_a_window_are_grouped_with_the_others() -> None:
    """Gemma 2: two groups of as many layers. Gemma 3 27B: 52 layers with a window in six groups of ten, padded."""
    assert group_layers([Layers(4096, 21, 21.0, 1), Layers(0, 21, 21.0, 1)]) == ([1, 1], 21.0)
    assert group_layers([Layers(1024, 52, 52.0, 1), Layers(0, 10, 10.0, 1)]) == ([6, 1], 10.0)
    assert group_layers([Layers(512, 12, 12.0, 1), Layers(0, 14, 14.0, 1)]) == ([1, 1], 14.0)
    assert group_layers([Layers(0, 80, 80.0, 1), Layers(0, 1, 2.0, 1)]) == ([1, 0], 82.0)


def test_tokens_of_a_hybrid_cache_depend_on_the_longest_request() -> None:
    """gpt-oss: half of the layers keep a window and a step, so that long requests count for nearly twice the tokens."""
    layers = [Layers(128, 12, 12.0, 1), Layers(0, 12, 12.0, 1)]
    pool = 12.0 * 16 * 100_000
    assert count_tokens(layers, pool, 16, 8192, 8192) == pytest.approx(800_000, rel=0.002)
    # 131072 / 16 blocks in full layers, and the window, a step and the rest of a block in the others
    assert count_tokens(layers, pool, 16, 131_072, 8192) == 100_000 * 131_072 // (8192 + 520 + 1)
    assert count_tokens(layers, pool, 16, 100, 8192) == count_tokens(layers, pool, 16, 8192, 8192)


@given(
    st.lists(st.tuples(st.sampled_from((0, 100, 4096)), st.integers(1, 60)), min_size=1, max_size=3),
    st.integers(1, 64), st.floats(1e3, 1e9), st.integers(1, 4), st.integers(1, 20_000),
)  # fmt: skip
def test_the_longest_request_is_the_longest(
    kinds: list[tuple[int, int]], block: int, pool: float, ways: int, step: int
) -> None:
    layers = [Layers(window, count, 10.0 * count, ways) for window, count in kinds]
    groups, each = group_layers(layers)
    blocks = pool // (each * block)
    longest = find_longest(layers, pool, block, step)
    assert request_blocks(layers, groups, block, longest, step) <= blocks or longest == 0
    if longest < 10**9 - block * ways:
        assert request_blocks(layers, groups, block, longest + 1, step) > blocks


# ---- laws over drawn plans

MODEL_NAMES = ("llama_3_1_8b", "gemma_2_9b", "gpt_oss_20b", "kimi_vl_a3b", "phi_2")
DRAWN = {
    "model": st.sampled_from(MODEL_NAMES),
    "sharding": st.sampled_from(("", "tp = 2", "pp = 2", "tp = 2, pp = 2")),
    "engine": st.sampled_from(("vllm", "sglang", "trtllm", "atom")),
}


@given(**DRAWN, fraction=st.floats(0.5, 0.9), more=st.floats(0.01, 0.09))
def test_law_a_larger_fraction_never_holds_fewer_tokens(
    model: str, sharding: str, engine: str, fraction: float, more: float
) -> None:
    made = memory(plan(model, sharding, engine, more="step_tokens = 4096"))
    kept = [made.on(evolve(made.plan, memory_fraction=f)).kv_tokens(8192) for f in (fraction, fraction + more)]
    assert kept[0] <= kept[1]


@given(
    **DRAWN, requests=st.integers(1, 2000), extra=st.integers(1, 2000), field=st.sampled_from(("max_requests", "step"))
)
def test_law_larger_limits_never_hold_more_tokens(
    model: str, sharding: str, engine: str, requests: int, extra: int, field: str
) -> None:
    made = memory(plan(model, sharding, engine))
    found = []
    for value in (requests, requests + extra):
        own = evolve(made.plan.engine, max_requests=value) if field == "max_requests" else made.plan.engine
        step = value if field == "step" else made.plan.step_tokens
        found.append(made.on(evolve(made.plan, engine=own, step_tokens=step)).pool(0))
    assert found[0] >= found[1]


@given(**DRAWN, batch=st.integers(1, 64), length=st.integers(2, 4000))
def test_law_the_cache_of_an_engine_does_not_depend_on_the_load(
    model: str, sharding: str, engine: str, batch: int, length: int
) -> None:
    """Requests longer than a step count for more where layers have windows: `longest` in `count_tokens`."""
    cost = plan(model, sharding, engine).cost
    one = cost.evaluate(batch=1, input=100, output=10).kv_capacity
    assert cost.evaluate(batch=batch, input=length, output=length).kv_capacity == one
    assert cost.evaluate(concurrency=batch, input=length, output=length).kv_capacity == one


@given(vocab=st.integers(500, 150_000), more=st.integers(0, 50_000), tp=st.sampled_from((1, 2)))
def test_law_a_smaller_vocabulary_never_takes_more(vocab: int, more: int, tp: int) -> None:
    sizes = (2 * vocab, 2 * (vocab + more))
    found = [memory(plan(f"llama_3_1_8b with {{ vocab = {v} }}", f"tp = {tp}")).pool(0) for v in sizes]
    assert found[0] >= found[1]


# ---- one truth


@pytest.mark.parametrize("name", ENGINES)
def test_the_catalog_has_the_fitted_constants(name: str) -> None:
    text = (CATALOG / f"{name}.plan").read_text(encoding="utf-8")
    assert with_memory(text, name) == text
    engine = plan("llama_3_1_8b", engine=name).spec.engine
    for field, value in memory_values(name).items():
        assert getattr(engine, field) == (value if isinstance(value, str) else pytest.approx(value)), field


def test_an_engine_reads_back() -> None:
    made = plan("llama_3_1_8b", engine="trtllm with { graphs_in_budget = true, logit = 3 B }")
    again = compile_text(show_plan(made.spec))[0].spec.engine
    assert evolve(again, assumed=(), source="") == evolve(made.spec.engine, assumed=(), source="")
