"""Formats of weights: scales, exceptions by name or region, and what they change in programs and memory."""

from __future__ import annotations

import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from plandsl.driver import CompiledPlan, compile_module, compile_text, open_text
from plandsl.fields import fields
from plandsl.ir.compute import Gemm, Quantize
from plandsl.ir.extents import Extents
from plandsl.passes.build import build_model
from plandsl.show import show_plan
from plandsl.spec.formats import bits_of, item_bytes, read_format
from plandsl.spec.model import ModelSpec
from plandsl.testing import models

PLAN = """
plan p {{
  model = {model}
  node = h100_8
  sharding {{ {sharding} }}
  workload {{ input = 1000, output = 100, batch = 4 }}
}}
"""


def plan_of(model: str, sharding: str = "") -> CompiledPlan:
    (plan,) = compile_text(PLAN.format(model=model, sharding=sharding))
    return plan


def weight_bytes(model: str, sharding: str = "") -> float:
    return plan_of(model, sharding).estimate().memory.weights


def stored_bytes(model: ModelSpec) -> float:
    """Bytes of all weights of a model, without its `mtp`."""
    program = build_model(model, "decode", model.activations)
    extents = Extents(program, {"batch": 1, "context": 1})
    tied = {w for r in program.regions if r.layers is None for w in r.weights}
    layers = [(w, r.repeats) for r in program.regions if r.layers is not None for w in r.weights]
    return float(sum(n * extents.bytes(w.type) for w, n in (*layers, *((w, 1) for w in tied))))


# ---- scales


@pytest.mark.parametrize(
    ("word", "bits"),
    [
        ("fp8", 8),
        ("fp8_128x128", 8 + 32 / 128**2),
        ("int4_128", 4 + (16 + 4) / 128),
        ("int8_64", 8 + (16 + 8) / 64),
        ("fp8_128", 8 + 32 / 128),
        ("int8_channel4096", 8 + 32 / 4096),
        ("mxfp4", 4.25),
        ("nvfp4", 4.5),
    ],
)
def test_scales_count_in_the_bits_of_an_element(word: str, bits: float) -> None:
    assert bits_of(word) == pytest.approx(bits, rel=1e-12)
    assert item_bytes(word) == pytest.approx(bits / 8, rel=1e-12)


@pytest.mark.parametrize("word", ["fp8_", "bf16_128", "int4_0", "int4_x8", "fp8_128x0", "int4_99999", "channel", ""])
def test_other_words_name_no_format(word: str) -> None:
    assert read_format(word) is None


def test_one_scale_for_each_output_follows_from_the_shape_of_the_weight() -> None:
    more = weight_bytes("llama_3_1_8b with { stored { w_down = int8_channel } }")
    less = weight_bytes("llama_3_1_8b with { stored { w_down = int8 } }")
    assert more - less == pytest.approx(32 * 4096 * 4, rel=1e-9)  # layers, outputs of w_down, bytes of a scale


# ---- exceptions


def test_a_kept_weight_is_not_quantised_and_multiplies_in_the_format_of_activations() -> None:
    program = plan_of("llama_3_1_8b with { weights = fp8, stored { w_gate = activations, w_up = activations } }")
    (block,) = (r for r in program.prefill.program.regions if r.layers)
    gemms = {op.weights[0].name: op for op in block.ops if isinstance(op, Gemm)}
    assert {name: op.compute for name, op in gemms.items()} == {
        "w_q": "fp8", "w_o": "fp8", "w_gate": "bf16", "w_down": "fp8"
    }  # fmt: skip
    quantised = {op.out.name for op in block.ops if isinstance(op, Quantize)}
    assert {name: op.x.name in quantised for name, op in gemms.items()} == {
        "w_q": True, "w_o": True, "w_gate": False, "w_down": True
    }  # fmt: skip
    assert gemms["w_gate"].weights[0].type.dtype == "bf16"


def test_gemms_of_one_input_are_one_kernel_only_where_their_weights_have_one_format() -> None:
    program = plan_of("llama_3_1_8b with { compute = bf16, stored { w_k = fp8 } }").prefill.program
    (block,) = (r for r in program.regions if r.layers)
    names = [[w.name for w in op.weights] for op in block.ops if isinstance(op, Gemm)]
    assert ["w_q", "w_v"] in names
    assert ["w_k"] in names


def test_weights_with_more_bits_than_compute_do_not_multiply_in_it() -> None:
    program = plan_of("llama_3_1_8b with { weights = fp8, compute = fp8, stored { w_o = bf16 } }").decode.program
    computes = {w.name: op.compute for r in program.regions for op in r.ops if isinstance(op, Gemm) for w in op.weights}
    assert computes["w_o"] == "bf16"
    assert computes["w_q"] == "fp8"


DEEP = "deepseek_v3 with {{ weights = bf16, stored {{ {} }} }}"


@pytest.mark.parametrize(
    ("stored", "elements"),
    [
        ("w_o = fp8", 61 * 128 * 128 * 7168),
        ("dense = fp8", 3 * (187_105_280 + 3 * 7168 * 18432)),
        ("dense { w_o = fp8 }", 3 * 128 * 128 * 7168),
        ("sparse { experts = fp8 }", 58 * 256 * 3 * 7168 * 2048),
        ("experts = fp8", 58 * 256 * 3 * 7168 * 2048),
        ("experts = fp8, w_gate = bf16", 58 * 256 * 2 * 7168 * 2048),
        ("embedding = fp8, head = fp8", 2 * 129_280 * 7168),
        ("w_embed = fp8", 129_280 * 7168),
        ("w_router = fp8", 58 * 256 * 7168),
        ("b_choice = fp8", 58 * 256),
        ("mtp = fp8", 0),
    ],
)
def test_an_exception_reaches_the_weights_that_it_names(stored: str, elements: int) -> None:
    kept = "embedding = bf16, head = bf16"
    whole = weight_bytes(DEEP.format(kept))
    assert whole - weight_bytes(DEEP.format(stored)) == pytest.approx(elements, rel=1e-12)


def test_the_text_of_a_plan_keeps_its_exceptions_and_fields_name_them() -> None:
    stored = "head = activations, dense { w_o = int4_128 }, mtp = bf16"
    model = f"deepseek_v3 with {{ weights = fp8_128x128, stored {{ {stored} }} }}"
    plan = plan_of(model, "tp = 8").spec
    (again,) = compile_text(show_plan(plan))
    assert again.spec.model.stored == plan.model.stored
    assert again.spec.model.weights == "fp8_128x128"
    found = {path: value for path, value in fields(plan).items() if path.startswith("model.stored.")}
    assert found["model.stored.dense.w_o"] == "int4_128"
    assert found["model.stored.head"] == "activations"


def test_an_exception_may_be_set_and_varied_like_any_field() -> None:
    text = PLAN.format(model="llama_3_1_8b", sharding="")
    (plan,) = compile_module(open_text(text, overrides=[("model.stored.w_o", "fp8_128x128")]))
    assert ("w_o", "fp8_128x128") in plan.spec.model.stored


def test_the_option_of_experts_gives_way_to_stored() -> None:
    same = weight_bytes("gpt_oss_20b with { stored { experts = mxfp4 } }")
    assert same == weight_bytes("gpt_oss_20b")
    assert weight_bytes("gpt_oss_20b with { stored { experts = bf16 } }") > 2 * same


# ---- laws


@given(models(), st.sampled_from(("fp8", "bf16", "int4_32", "mxfp4")))
def test_an_exception_for_all_weights_is_another_default(model: ModelSpec, word: str) -> None:
    regions = ["embedding", "head", *(block.name for block in model.blocks)]
    named = evolve(model, stored=tuple((region, word) for region in regions))
    assert stored_bytes(named) == pytest.approx(stored_bytes(evolve(model, stored=(), weights=word)), rel=1e-12)


@given(models())
def test_an_exception_for_activations_follows_them(model: ModelSpec) -> None:
    words = [evolve(model, stored=(("embedding", word),)) for word in ("activations", model.activations)]
    assert stored_bytes(words[0]) == stored_bytes(words[1])


def test_weights_in_blocks_have_the_constants_of_kernels_that_read_blocks() -> None:
    machine = plan_of("llama_3_1_8b").cost.main.prefill.machine
    found = {word: machine.gemm_set(word, "fp8") for word in ("fp8", "fp8_128x128", "fp8_channel")}
    assert found == {"fp8": "gemm.fp8", "fp8_128x128": "gemm.fp8_block", "fp8_channel": "gemm.fp8"}
