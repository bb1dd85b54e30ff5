"""Weights of fewer bits are not slower than weights of more, unless kernels of both were measured so."""

from __future__ import annotations

import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from plandsl.driver import CompiledPlan, compile_text
from plandsl.entries import catalog_calibration
from plandsl.spec.hardware import CalibrationSpec

PLAN = """
plan p {{
  model = {model} with {{ weights = {weights}, compute = {compute}, kv_cache = bf16 }}
  node = {node}, sharding {{ tp = {tp} }}, {engine}
  workload {{ input = {input}, output = 4, batch = {batch} }}
}}
"""


def plan_with(weights: str, compute: str = "bf16", **rest: object) -> CompiledPlan:
    return compile_text(PLAN.format(weights=weights, compute=compute, **rest))[0]


def told(plan: CompiledPlan) -> set[str]:
    return {note.code for note in plan.estimate().notes}


@given(
    model=st.sampled_from(["llama_3_1_8b", "llama_3_2_1b", "mixtral_8x7b", "qwen3_30b_a3b"]),
    node=st.sampled_from(["h100_8", "h20_8", "b200_8", "mi355x_8", "l40s_8", "rtx_pro_6000_8"]),
    formats=st.sampled_from([("bf16", "fp8"), ("bf16", "int4"), ("fp8", "int4")]),
    tp=st.sampled_from([1, 2, 4]),
    engine=st.sampled_from(["", "engine = vllm", "engine = trtllm"]),
    batch=st.sampled_from([1, 2, 16, 64]),
    input=st.sampled_from([16, 500, 2000]),
    narrow=st.booleans(),
)
def test_fewer_bits_are_slower_only_as_measured(formats, narrow, **rest):
    compute = "fp8" if narrow and formats == ("bf16", "fp8") else "bf16"
    more, fewer = plan_with(formats[0], **rest), plan_with(formats[1], compute, **rest)
    ours, theirs = fewer.cost.own, more.cost.own
    if ours.ttft > theirs.ttft * 1.002 or ours.tpot > theirs.tpot * 1.002:
        assert "N430" in told(fewer)


def test_formats_of_experts_come_in_order():
    """The wider ones were measured on this GPU; those that are unpacked first have their form with fewer bytes."""
    load = {"model": "qwen3_235b_a22b", "node": "h200_8", "tp": 8, "engine": "", "input": 900, "batch": 1}
    wide, unpacked, four = (plan_with(weights, **load).estimate() for weights in ("bf16", "fp8", "int4"))
    assert wide.tpot_s > unpacked.tpot_s > four.tpot_s
    assert {op.layer for e in (wide, unpacked, four) for op in e.decode.ops if op.op == "grouped_gemm"} == {"fitted"}


def test_a_calibration_is_completed_for_every_format_of_a_model():
    """H20 has measurements of GEMMs in blocks of fp8 alone."""
    load = {"node": "h20_8", "tp": 1, "engine": "", "input": 100, "batch": 1}
    for weights in ("bf16", "fp8_128x128, stored { w_q = bf16 }"):
        ops = plan_with(weights, "bf16" if weights == "bf16" else "fp8", model="llama_3_1_8b", **load).estimate()
        assert {op.layer for op in ops.decode.ops if op.op == "gemm"} == {"fitted"}


def test_a_note_names_the_gemms_that_were_measured_slower():
    load = {"model": "llama_3_2_1b", "node": "h100_8", "tp": 8, "engine": "engine = vllm", "input": 100, "batch": 1}
    notes = {note.code: note.message for note in plan_with("fp8", "fp8", **load).estimate().notes}
    assert "fp8 slower than bf16 in decode, as measured: " in notes["N430"]
    assert "(gemm.fp8)" in notes["N430"]
    assert "N430" not in told(plan_with("bf16", **load))
    scaled = {note.code: note.message for note in plan_with("fp8_channel", "fp8", **load).estimate().notes}
    assert "fp8_channel slower than bf16 in decode, as measured: " in scaled["N430"]


@pytest.mark.parametrize(("kind", "format_"), [("gemm", "bf16"), ("moe", "bf16")])
def test_a_calibration_is_completed_format_by_format(kind, format_):
    other = catalog_calibration("pooled")
    values = tuple((n, v) for n, v in other.values if not n.startswith(f"{kind}.") or n.startswith(f"{kind}.fp8"))
    own = CalibrationSpec("own", values)
    made = own.fill_from(other)
    found = {path for path in made.sections if path.startswith(f"{kind}.")}
    assert {path for path in own.sections if path.startswith(f"{kind}.")} < found
    assert any(path.startswith(f"{kind}.{format_}") for path in found)
    assert not any(path.startswith(f"{kind}.w4a16") for path in found)  # unpacked ones take a form with their own bytes
    path = next(path for path in found if path.startswith(f"{kind}.{format_}"))
    assert made.placed_on(("own",)).section(path)["low"] == other.section(path)["low"]  # of GPUs left out already
    lent = own.fill_from(evolve(other, name="h100_sxm")).placed_on(("own",))
    assert lent.section(path)["low"] == other.section(path)["low"] ** 2


def test_weights_that_are_unpacked_have_a_wider_band_where_no_row_has_them():
    load = {"model": "llama_3_1_8b", "node": "h100_8", "tp": 1, "engine": "", "input": 100, "batch": 1}
    (wide,), (narrow,) = (
        {op.band for op in plan_with(weights, **load).estimate().decode.ops if op.name == "down"}
        for weights in ("bf16", "int4")
    )
    assert narrow == pytest.approx((wide[0] ** 2, wide[1] ** 2))


@pytest.mark.parametrize("batch", [1, 16])
def test_weights_of_four_bits_are_read_nearly_as_fast_as_memory_allows(batch):
    """Marlin on this matrix, 18,432 x 73,728: 3.87 times as fast as 16 bits (Frantar et al., arXiv 2408.11743)."""
    seconds = {}
    for weights in ("fp16", "int4"):
        (plan,) = compile_text(f"""
            model m = llama_2_7b with {{
              layers = 1, hidden = 18432, ffn = 73728, heads = 144, kv_heads = 144
              weights = {weights}, compute = fp16, activations = fp16, kv_cache = fp16
            }}
            plan p {{
              model = m, node = rtx_3090_8, engine = vllm
              workload {{ input = 8, output = 8, batch = {batch} }}
            }}
        """)
        (op,) = (op for op in plan.estimate().decode.ops if op.name == "down")
        seconds[weights] = op.time_s
    assert 0.7 * 3.87 <= seconds["fp16"] / seconds["int4"] <= 4
