"""Shards that cut groups of weights which share a scale: refused where the engine refuses them, told elsewhere."""

from __future__ import annotations

import re

import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from plandsl.diagnostics import Diagnostic, PlanError
from plandsl.driver import check_spec, compile_text, open_text
from plandsl.passes.groups import find_cuts
from plandsl.searches.run import Run
from plandsl.spec.formats import read_format
from plandsl.spec.plan import PlanSpec
from plandsl.spec.search import SearchSpec
from plandsl.testing import plans

PLAN = """
plan p {{
  model = {model}
  {node}
  sharding {{ {sharding} }}
  {engine}
  workload {{ input = 1000, output = 100, batch = 8 }}
}}
"""
FP8 = "with { weights = fp8_128x128 }"
NODE, CLUSTER = "node = h20_8", "cluster = h100_8x4"


def spec_of(model: str, sharding: str, engine: str = "", node: str = NODE) -> PlanSpec:
    text = PLAN.format(model=model, sharding=sharding, node=node, engine=f"engine = {engine}" if engine else "")
    found = open_text(text).plan("p")
    assert found is not None
    return found


def findings(spec: PlanSpec) -> list[Diagnostic]:
    return [d for d in check_spec(spec) if d.code in ("E345", "N345")]


def codes(model: str, sharding: str, engine: str = "", node: str = NODE) -> list[str]:
    return [d.code for d in findings(spec_of(model, sharding, engine, node))]


# ---- what engines refuse


@pytest.mark.parametrize("engine", ["vllm", "sglang", "vllm_rocm"])
@pytest.mark.parametrize(
    ("model", "sharding", "node", "runs"),
    [
        # vLLM issue 17569: experts of 1536; 192 columns a rank are refused, 384 run, and so do whole experts
        (f"qwen3_235b_a22b {FP8}", "tp = 8", NODE, False),
        (f"qwen3_235b_a22b {FP8}", "tp = 4", NODE, True),
        (f"qwen3_235b_a22b {FP8}", "mesh t = 8\n heads, kv_heads, vocab -> t\n experts -> t", NODE, True),
        # experts of 768
        (f"qwen3_30b_a3b {FP8}", "tp = 8", NODE, False),
        (f"qwen3_30b_a3b {FP8}", "tp = 4", NODE, False),
        (f"qwen3_30b_a3b {FP8}", "tp = 2", NODE, True),
        # experts of 2048, dense layers of 18432
        ("deepseek_v3", "tp = 16", CLUSTER, True),
        ("deepseek_v3", "tp = 32", CLUSTER, False),
        # groups of 128 integers: a width of 14336 leaves 1792, one of 18944 leaves 2368
        ("llama_3_1_8b with { weights = int4_128 }", "tp = 8", NODE, True),
        ("qwen2_5_7b with { weights = int4_128 }", "mesh t = 8\n ffn -> t", NODE, False),
        ("qwen2_5_7b with { weights = int4_128 }", "tp = 4", NODE, True),
        # Marlin takes 128 inputs and 64 outputs at a time, however small the group
        ("qwen2_5_7b with { weights = int4_32 }", "mesh t = 8\n ffn -> t", NODE, False),
        ("qwen2_5_7b with { weights = int8_channel }", "mesh t = 8\n ffn -> t", NODE, True),
        # a rank has one of four KV heads, of 128 columns
        (f"qwen3_235b_a22b {FP8}", "mesh t = 8\n heads, kv_heads -> t", NODE, True),
    ],
)
def test_engines_refuse_shards_that_cut_groups(engine: str, model: str, sharding: str, node: str, runs: bool) -> None:
    assert codes(model, sharding, engine, node) == ([] if runs else ["E345"])


@pytest.mark.parametrize("engine", ["", "trtllm", "atom"])
def test_elsewhere_a_cut_is_told(engine: str) -> None:
    assert codes(f"qwen3_235b_a22b {FP8}", "tp = 8", engine) == ["N345"]
    assert codes(f"qwen3_235b_a22b {FP8}", "tp = 4", engine) == []


def test_vllm_pads_mxfp4() -> None:
    (found,) = findings(spec_of("gpt_oss_120b", "tp = 8", "vllm"))
    assert found.code == "N345"
    assert "pads" in found.message
    assert codes("gpt_oss_120b", "tp = 2", "vllm") == []


def test_engines_pad_the_vocabulary() -> None:
    def found(vocab: int, tp: int, engine: str) -> list[str]:
        spec = spec_of(
            f"llama_3_1_8b with {{ vocab = {vocab}, heads = 40, ffn = 10240, kv_heads = 40 }}", f"tp = {tp}", engine
        )
        return [d.code for d in check_spec(spec) if d.code in ("E301", "N346")]

    assert found(50_257, 8, "vllm") == found(50_257, 8, "sglang") == ["N346"]
    assert found(50_257, 8, "") == found(50_257, 8, "trtllm") == ["E301"]
    assert found(151_936, 5, "vllm") == ["E301"]  # a multiple of 64 that 5 does not divide
    assert found(151_936, 8, "vllm") == []


def test_a_padded_vocabulary_computes_the_same() -> None:
    model = "llama_3_1_8b with { vocab = 50_257 }"
    (plan,) = compile_text(PLAN.format(model=model, node=NODE, sharding="tp = 8", engine="engine = vllm"))
    assert plan.verify().ok


def test_weights_that_are_kept_have_no_groups() -> None:
    kept = "qwen3_235b_a22b with { weights = fp8_128x128, stored { experts = bf16 } }"
    assert codes(kept, "tp = 8", "vllm") == []


def test_pools_and_both_shardings_of_a_shift_are_checked() -> None:
    pools = """plan p {{ model = qwen3_235b_a22b {fp8}, engine = vllm
      workload {{ input = 1000, output = 100, batch = 8 }}
      prefill {{ node = h20_8, sharding {{ tp = 4, dp = 2 }} }}
      decode {{ node = h20_8, sharding {{ tp = {tp} }} }}
      transfer {{ bandwidth = 50 GB/s, latency = 10 us }} }}"""
    for tp, errors in ((8, ["E345"]), (4, [])):
        found = open_text(pools.format(fp8=FP8, tp=tp)).plan("p")
        assert found is not None
        assert [d.code for d in findings(found)] == errors
    shift = f"""
    sharding one {{ sp = 4, tp = 2 }}
    sharding two {{ mesh seq = 4, tensor = 2
      heads, kv_heads, expert_ffn, vocab -> seq, tensor }}
    plan p {{ model = qwen3_30b_a3b {FP8}, node = h20_8, engine = vllm
      shift {{ base = one, tensor = two, threshold = 512 }}
      workload {{ input = 1000, output = 100, batch = 8 }} }}"""
    found = open_text(shift).plan("p")
    assert found is not None
    assert {d.code for d in findings(found)} == {"E345"}


# ---- the message


def test_the_message_names_weights_sizes_and_degrees() -> None:
    spec = spec_of(f"qwen3_235b_a22b {FP8}", "tp = 8", "vllm")
    (found,) = findings(spec)
    assert found.message == (
        "vllm refuses `tp = 8`: it cuts `w_gate`, `w_up` (192 of 1,536 outputs, in groups of 128), "
        "`w_down` (192 of 1,536 inputs, in groups of 128)"
    )
    assert found.label == "192 is no multiple of 128"
    assert found.hint == "nearest degrees that cut no group: 4; or spread whole experts: `experts -> ...`, or `ep`"


def test_a_plan_that_cuts_groups_does_not_compile() -> None:
    with pytest.raises(PlanError, match="E345"):
        compile_text(PLAN.format(model=f"qwen3_30b_a3b {FP8}", node=NODE, sharding="tp = 8", engine="engine = vllm"))


def test_a_search_leaves_such_plans_out_with_the_reason() -> None:
    text = f"""search s {{ model = qwen3_30b_a3b {FP8}, node = h20_8, engine = vllm
      workload {{ input = 1000, output = 100, batch = 8 }}
      vary tp in [1, 2, 4, 8] }}"""
    search = open_text(text).spec("search", "s")
    assert isinstance(search, SearchSpec)
    found = Run(search).run()
    assert found.plans == 2
    assert {code: count for code, (_, count) in found.refused.items()} == {"E345": 2}


# ---- laws


WIDTHS = st.sampled_from((768, 1024, 1536, 2048, 2304, 18944))
FORMATS = st.sampled_from(("fp8_128x128", "fp8_64x128", "int4_128", "int4_32", "nvfp4", "fp8_channel"))


@given(WIDTHS, FORMATS, st.sampled_from((2, 4, 8)))
def test_a_degree_runs_if_and_only_if_every_shard_has_whole_groups(width: int, word: str, tp: int) -> None:
    model = f"llama_3_1_8b with {{ ffn = {width}, weights = {word} }}"
    format_ = read_format(word)
    assert format_ is not None
    inputs, outputs = (1, 1) if format_.channel else (format_.inputs, format_.outputs)
    if word.startswith("int"):
        inputs, outputs = max(inputs, 128 if width % 128 == 0 else 1), max(outputs, 64 if width % 64 == 0 else 1)
    runs = width // tp % inputs == 0 and width // tp % outputs == 0
    assert codes(model, f"tp = {tp}", "vllm") == ([] if runs else ["E345"])


@given(WIDTHS, FORMATS, st.sampled_from((2, 4, 8)))
def test_the_degrees_of_the_hint_run(width: int, word: str, tp: int) -> None:
    model = f"llama_3_1_8b with {{ ffn = {width}, weights = {word} }}"
    for found in findings(spec_of(model, f"tp = {tp}", "vllm")):
        for degree in map(int, re.findall(r"\d+", found.hint)):
            assert [d for d in check_spec(spec_of(model, f"tp = {degree}", "vllm")) if d.severity == "error"] == []


@given(plans())
def test_no_group_is_cut_where_nothing_is_split(plan: PlanSpec) -> None:
    axes = tuple(axis._replace(size=1) for axis in plan.sharding.axes)
    assert find_cuts(evolve(plan, sharding=evolve(plan.sharding, axes=axes))) == []
