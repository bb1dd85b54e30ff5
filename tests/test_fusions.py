"""Fusions: which ops share a kernel, what this saves, and what it leaves as it is."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, composite

from plandsl.backends.cost.work.exchange import Exchange
from plandsl.backends.cost.work.joined import Gated, Inside
from plandsl.backends.cost.work.work import Binding, Work
from plandsl.driver import CompiledPlan, compile_text
from plandsl.ir.base import LINK
from plandsl.ir.extents import Extents
from plandsl.ir.fusions import read_fused
from plandsl.ir.program import PHASES, Program
from plandsl.passes import program_after
from plandsl.passes.rewrite import each_region, replace_fields
from plandsl.show_engine import show_engine
from plandsl.spec.fusions import ANY, FUSIONS, FusedSizes
from plandsl.spec.hardware import EngineSpec
from plandsl.spec.plan import PlanSpec
from plandsl.testing import assert_law, compiled, laws_cost, laws_program, plans
from tests.draws import draws

SLACK = 1 + 1e-12
MIB = 2**20

HARDWARE = """
gpu g { memory = 80 GB, bandwidth = 1 TB/s, compute { bf16 = 1 PFLOP/s, fp8 = 2 PFLOP/s } }
node n { gpu = g, count = 8, link { topology = switch, bandwidth = 400 GB/s, latency = 2 us } }
calibration c { launch = 3 us, launch_collective = 5 us }
"""


def fused_plan(
    fusions: str, tp: int = 2, node: str = "n", more: str = "", model: str = "weights = fp8"
) -> CompiledPlan:
    """A plan of Llama 3.1 8B in fp8 under an engine with these ``fusions``, with ``more`` fields."""
    engine = f"engine e {{ fusions = [{fusions}]{more} }}\n"
    text = f"""plan p {{
      model = llama_3_1_8b with {{ {model} }}, node = {node}, sharding {{ tp = {tp} }}, engine = e, calibration = c
      workload {{ input = 100, output = 10, batch = 4 }}
    }}"""
    return compile_text(HARDWARE + engine + text)[0]


def block_work(
    plan: CompiledPlan, phase: str = "decode", batch: Any = 4, context: int = 105
) -> dict[str, tuple[float, float]]:
    """Seconds and bytes of each op of the block, by its first result."""
    model = getattr(plan.cost.pools[0].main, phase)
    program = model.schedule.program
    sizes = {"batch": batch, "input": 100, "queries": 1, "context": context}
    at = Binding(Extents(program, sizes, model.extents.mesh), context)
    return {w.op.results[0].name: (w.seconds(at), w.demand(at).moved) for w in model.work["block"]}


# ---- the language


def test_engine_has_the_fusions_that_it_lists() -> None:
    spec = fused_plan("norm_quantize, all_reduce_norm, norm_quantize").spec.engine
    assert spec is not None
    assert spec.fusions == ("norm_quantize", "all_reduce_norm")
    assert spec.fused_sizes is None
    assert (
        compile_text(HARDWARE + "plan p { model = llama_3_1_8b, node = n, workload { input = 9, output = 9 } }")[
            0
        ].spec.engine
        is None
    )


def test_engine_made_from_another_one_may_have_none() -> None:
    (plan,) = compile_text(
        "engine e = vllm with { fusions = [] }\n"
        "plan p { model = llama_3_1_8b, node = h100_8, engine = e, workload { input = 9, output = 9 } }"
    )
    assert plan.spec.engine is not None
    assert plan.spec.engine.fusions == ()
    assert not any(read_fused(op) for region in plan.decode.program.regions for op in region.ops)


def test_engine_reads_back() -> None:
    sizes = FusedSizes((2, 8), (("fp8", (2.0 * MIB, 0.0)), (ANY, (1.0, 3e6))))
    engine = EngineSpec("e", fusions=tuple(FUSIONS), fused_sizes=sizes)
    text = (
        show_engine(engine)
        + "plan p { model = llama_3_1_8b, node = h100_8, engine = e, workload { input = 9, output = 9 } }"
    )
    again = compile_text(text)[0].spec.engine
    assert again is not None
    assert (again.fusions, again.fused_sizes) == (engine.fusions, engine.fused_sizes)


@pytest.mark.parametrize(
    ("gpu", "ranks", "most"),
    [
        ("h100_8", 2, 64),
        ("h100_8", 3, 2),
        ("h100_8", 8, 0.5),
        ("b200_8", 4, 32),
        ("a100_80_8", 2, 0),
        ("b200_8", 16, 0),
    ],
)
def test_sizes_are_those_of_the_narrowest_format_and_of_the_ranks(gpu: str, ranks: int, most: float) -> None:
    (plan,) = compile_text(
        f"plan p {{ model = llama_3_1_8b, node = {gpu}, engine = vllm, workload {{ input = 9, output = 9 }} }}"
    )
    machine = plan.cost.pools[0].main.decode.machine
    assert machine.most_fused(ranks) == most * MIB
    assert np.broadcast_to(machine.most_fused(np.array([ranks, 2])), 2)[0] == most * MIB


# ---- the pass: it marks, and changes nothing


def unmarked(program: Program) -> Program:
    """``program`` without the marks of `join_kernels`."""

    def bare(op: Any) -> Any:
        return replace_fields(op, {"fused": None}) if read_fused(op) else op

    return each_region(program, lambda region: evolve(region, ops=tuple(map(bare, region.ops))))


@composite
def engines(draw: DrawFn) -> EngineSpec:
    """An engine with some fusions, which share kernels with all_reduces of some sizes."""
    sizes = st.builds(lambda size: FusedSizes((2, 8), ((ANY, (size, size / 4)),)), st.floats(0, 1e6))
    names = draw(st.lists(st.sampled_from(sorted(FUSIONS)), min_size=3, unique=True))
    return EngineSpec("e", fusions=tuple(names), fused_sizes=draw(st.none() | sizes))


@composite
def fused_plans(draw: DrawFn) -> PlanSpec:
    """A plan under an engine with fusions."""
    return evolve(draw(plans()), engine=draw(engines()))


@draws(1 / 3)
@given(plan=fused_plans())
def test_law_marks_are_all_that_fusions_change(plan: PlanSpec) -> None:
    bare = evolve(plan, engine=None)
    for phase in PHASES:
        marked, plain = (program_after(one, phase, "join-kernels") for one in (plan, bare))
        assert unmarked(marked) == plain
        for region in marked.regions:
            assert all(set(read_fused(op)) <= {*plan.effective_engine.fusions, "all_reduce_norm"} for op in region.ops)


def test_fused_plan_computes_what_the_unsharded_model_does() -> None:
    assert_law(laws_program.sharded_equals_unsharded, fused_plan(", ".join(FUSIONS)))


def test_chunks_part_a_collective_from_what_follows_it() -> None:
    plan = fused_plan("all_reduce_norm")
    spec = evolve(plan.spec, chunks=2)
    assert not any(read_fused(op) for r in program_after(spec, "prefill", "join-kernels").regions for op in r.ops)


def test_norms_apart_from_residuals_share_no_all_reduce() -> None:
    spec = evolve(fused_plan("all_reduce_norm").spec, fuse_norms=False)
    block = program_after(spec, "decode", "join-kernels").region("block")
    assert [op.keyword for op in block.ops if read_fused(op)] == ["norm", "map", "map"]


# ---- seconds


def test_seconds_by_hand() -> None:
    plain, fused = (block_work(fused_plan(names)) for names in ("", ", ".join(FUSIONS)))
    wide, token = 4 * 4096 * 2, 4096 * 2
    # the all_reduce writes the sum, not its result; the norm's result goes to the quantisation alone
    assert plain["x.2"] == (pytest.approx(3e-6 + (4 * wide + token) / 1e12), 4 * wide + token)
    assert fused["x.2"] == (pytest.approx((wide + token) / 1e12), wide + token)
    assert plain["h.3"] == (pytest.approx(3e-6 + 1.5 * wide / 1e12), 1.5 * wide)
    assert fused["h.3"] == (pytest.approx(0.5 * wide / 1e12), 0.5 * wide)
    # the residual addition reads the residual; the norm of the next layer reads its gain, and nothing else
    assert fused["x.4"] == (pytest.approx(wide / 1e12), wide)
    assert fused["h"] == (pytest.approx(token / 1e12), token)
    # an activation is launched, and hands its result on in registers
    gate = 4 * 14336 / 2 * 2
    assert fused["g.3"] == (pytest.approx(3e-6 + 2 * gate / 1e12), 2 * gate)
    assert fused["g.4"] == (pytest.approx(gate / 2 / 1e12), gate / 2)
    # fewer bytes than attention would have written: nothing is added
    assert fused["a.1"] == (0.0, 0.0)
    # keys and values: the keys come in registers, and both are written
    heads = 4 * 4 * 128 * 2
    assert fused["keys"] == (pytest.approx(3 * heads / 1e12), 3 * heads)
    assert plain["x.5"] == fused["x.5"]


def test_a_bias_in_its_gemm_adds_what_it_reads() -> None:
    text = (
        HARDWARE
        + """
      engine apart { fusions = [] }
      engine joined { fusions = [gemm_bias] }
      plan p { model = gpt_oss_20b, node = n, sharding { tp = 2 }, engine = joined, calibration = c
        workload { input = 100, output = 10, batch = 4 } }
      plan q = p with { engine = apart }"""
    )
    joined, apart = (plan.estimate().decode for plan in compile_text(text))
    ops = {op.name: (op, other) for op, other in zip(joined.ops, apart.ops, strict=True)}
    assert joined.communication_s == apart.communication_s
    for name, (op, other) in ops.items():
        assert op.time_s < other.time_s if "bias" in name and op.op == "elementwise" else op.time_s == other.time_s, (
            name
        )


def test_only_named_fusions_save_time() -> None:
    plain, own = block_work(fused_plan("")), block_work(fused_plan("residual_norm"))
    assert {name for name in plain if plain[name] != own[name]} == {"h"}
    alone = block_work(fused_plan("all_reduce_norm"))
    assert {name for name in plain if plain[name] != alone[name]} == {"h", "x.2", "x.4"}
    beside = block_work(fused_plan("all_reduce_norm, norm_quantize"))  # no kernel has an all_reduce and a quantisation
    assert beside["h.3"] == plain["h.3"]
    assert block_work(fused_plan("norm_quantize"))["h.3"] < plain["h.3"]


def test_quantisation_by_blocks_is_apart_from_an_all_reduce() -> None:
    names = "all_reduce_norm_quantize"
    fine, coarse = (block_work(fused_plan(names, model=f"weights = {f}")) for f in ("fp8_128x128", "fp8"))
    assert fine["x.2"] == (pytest.approx((2 * 4 * 4096 * 2 + 4096 * 2) / 1e12), 2 * 4 * 4096 * 2 + 4096 * 2)
    assert fine["h.3"][0] > 3e-6 > coarse["h.3"][0]


def test_all_reduce_shares_its_kernel_up_to_a_size() -> None:
    plan = fused_plan("all_reduce_norm", more=", fused_sizes { ranks = [2], any = [1 MiB] }")
    batch = np.array([1, 127, 128, 129])
    seconds, bytes_ = block_work(plan, batch=batch)["x.2"]
    assert (seconds < 3e-6).tolist() == [True, True, True, False]
    for i, one in enumerate(batch.tolist()):
        assert block_work(plan, batch=one)["x.2"] == (seconds[i], bytes_[i])
    assert block_work(fused_plan("all_reduce_norm", tp=4, more=", fused_sizes { ranks = [2], any = [1 MiB] }")) == (
        block_work(fused_plan("", tp=4))
    )


@pytest.mark.parametrize("node", ["switch, bandwidth = 400 GB/s", "mesh, bandwidth = 50 GB/s"])
def test_kernels_with_an_all_reduce_need_more_than_pcie(node: str) -> None:
    there, pcie = (
        block_work(fused_plan("all_reduce_norm", node=f"n with {{ link {{ topology = {link} }} }}"))["x.2"][0]
        for link in (node, "pcie, bandwidth = 64 GB/s")
    )
    assert there < 3e-6 < pcie


def test_one_rank_has_no_all_reduce_to_share_a_kernel_with() -> None:
    plain, fused = (block_work(fused_plan(names, tp=1)) for names in ("", "all_reduce_norm, residual_norm"))
    assert {name for name in plain if plain[name] != fused[name]} == {"h"}


# ---- laws


def works(plan: CompiledPlan) -> Iterator[tuple[Work, Binding]]:
    """The work of every op of both phases, with sizes of the plan's own load."""
    load = plan.spec.workload
    for phase, length in (("prefill", load.input), ("decode", 1)):
        model = getattr(plan.cost.pools[0].main, phase)
        sizes = {"batch": load.batch, "input": load.input, "queries": length, "context": load.input + 1}
        at = Binding(Extents(model.schedule.program, sizes, model.extents.mesh), load.input + 1)
        yield from ((work, at) for ops in model.work.values() for work in ops)


@draws(1 / 2)
@given(plan=fused_plans())
def test_law_fusions_never_cost_time_and_leave_collectives_alone(plan: PlanSpec) -> None:
    fused, plain = compiled(plan), compiled(evolve(plan, engine=evolve(plan.effective_engine, fusions=())))
    for (ours, at), (theirs, there) in zip(works(fused), works(plain), strict=True):
        seconds, alone = float(ours.seconds(at)), float(theirs.seconds(there))
        assert 0 <= seconds <= alone * SLACK, f"{ours.op}: {seconds} fused, {alone} apart"
        moved, bandwidth = float(ours.demand(at).moved), fused.spec.node.gpu.bandwidth
        assert 0 <= moved <= float(theirs.demand(there).moved) * SLACK
        if isinstance(ours, Inside | Gated) and not fused.spec.kinds[1:]:
            assert seconds * SLACK >= moved / bandwidth, f"{ours.op} is faster than its bytes"
        if ours.op.facts.stream == LINK or isinstance(ours, Exchange):
            assert seconds == alone
    for name in ("ttft", "tpot"):
        assert getattr(fused.cost.evaluate(), name) <= getattr(plain.cost.evaluate(), name) * SLACK
    before, after = (one.closed_form().communication for one in (plain, fused))
    counts = [sorted((r.phase, r.op, r.axis, r.calls, r.payload, r.wire) for r in c.rows) for c in (before, after)]
    assert counts[0] == counts[1]


LAWS = (
    laws_program.text_reads_back,
    laws_program.passes_keep_their_promises,
    laws_cost.arrays_equal_numbers,
    laws_cost.straight_code_equals_the_model,
    laws_cost.one_structure_serves_all_sizes,
    laws_cost.communication_is_complete,
    laws_cost.terms_add_up,
)
"""Laws of all plans that a fused op might break."""


@draws(1 / 4)
@given(plan=fused_plans())
def test_law_fused_plans_obey_the_laws_of_all_plans(plan: PlanSpec) -> None:
    made = compiled(plan)
    for law in LAWS:
        assert_law(law, made)
