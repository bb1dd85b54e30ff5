"""Two shardings on one KV cache: which pairs may share it, what they hold and take, and that they compute the same."""

from __future__ import annotations

from functools import cache
from math import isclose
from pathlib import Path

import numpy as np
import pytest
from attrs import evolve
from hypothesis import assume, given
from hypothesis import strategies as st

from plandsl.answers.modes import Shift
from plandsl.answers.simulation import Summary
from plandsl.backends.cost.answers.modes import MOST
from plandsl.backends.cost.deployments.batch import decode_step, prefill_step
from plandsl.backends.reference import Verdict, verify_plan
from plandsl.backends.reference.machine import Machine
from plandsl.backends.reference.placement import Array
from plandsl.diagnostics import Diagnostic, PlanError
from plandsl.driver import CompiledPlan, compile_file, compile_text, open_text, plain_programs, programs
from plandsl.ir.program import Program
from plandsl.passes.shift import check_cache
from plandsl.spec.plan import PlanSpec, ShiftSpec
from plandsl.testing import laws_cost, laws_program, plans
from plandsl.testing.shardings import is_legal
from tests.draws import draws

EXAMPLE = Path(__file__).parent.parent / "examples" / "shift_llama_3_3_70b.plan"

SHARDINGS = """\
sharding ulysses {
  mesh seq = 4, tensor = 2
  tokens -> seq
  heads, kv_heads, ffn, vocab -> tensor
  in attention { heads, kv_heads -> tensor, seq }
}
sharding ulysses_tp { mesh seq = 4, tensor = 2; heads, kv_heads, ffn, vocab -> tensor, seq }
sharding swapped    { mesh seq = 4, tensor = 2; heads, kv_heads, ffn, vocab -> seq, tensor }
sharding cached     { mesh seq = 4, tensor = 2; heads, kv_heads -> tensor, seq }
sharding tp8        { tp = 8 }
sharding sp8        { sp = 8 }
sharding few        { tp = 4 }
sharding replicas   { dp = 2, tp = 4 }
sharding two        { dp = 2, sp = 4 }
sharding stages     { pp = 2, tp = 4 }
sharding whole      { mesh seq = 8; tokens -> seq; ffn, vocab -> seq }
sharding by_batch   { mesh seq = 8; batch -> seq; ffn, vocab -> seq }
"""
FIT = {"ulysses", "ulysses_tp", "cached"}, {"tp8", "sp8", "swapped"}, {"replicas", "two"}
"""Shardings that lay the cache out alike: `swapped` counts ranks as a single axis does."""

LOAD = "input = 1000, output = 100"
NAMES = [line.split()[1] for line in SHARDINGS.splitlines() if line.startswith("sharding")]


def text(base: str, tensor: str, load: str = LOAD, fields: str = "", threshold: int = 256) -> str:
    """A plan that shifts between two of `SHARDINGS`."""
    shift = f"shift {{ base = {base}, tensor = {tensor}, threshold = {threshold} }}"
    return f"{SHARDINGS}plan p {{ model = llama_3_1_8b, node = h200_8, workload {{ {load} }}, {shift} {fields} }}"


@cache
def shifting(load: str = LOAD, fields: str = "", threshold: int = 256) -> CompiledPlan:
    (plan,) = compile_text(text("ulysses", "ulysses_tp", load, fields, threshold))
    return plan


def spec(base: str, tensor: str) -> PlanSpec:
    found = open_text(text(base, tensor)).plan("p")
    assert found is not None
    return found


@cache
def prefill(name: str) -> Program:
    return programs(spec(name, name).modes[0])[0]


def findings(base: str, tensor: str) -> list[Diagnostic]:
    plan = spec(base, tensor)
    assert plan.shift is not None
    return list(check_cache(plan, plan.shift, prefill(base), prefill(tensor)))


# ---- one cache


@pytest.mark.parametrize("base", NAMES)
def test_layouts_that_differ_are_refused_and_only_those(base: str) -> None:
    fits = {tensor for tensor in NAMES if not findings(base, tensor)}
    assert fits == next((group for group in FIT if base in group), {base})


@pytest.mark.parametrize(("base", "tensor"), [("ulysses", "ulysses_tp"), ("sp8", "tp8"), ("two", "replicas")])
def test_either_sharding_goes_on_from_the_cache_of_the_other(base: str, tensor: str) -> None:
    verdict = verify_plan(spec(base, tensor), programs, plain_programs)
    assert verdict.ok, verdict
    assert verdict.worst < 1e-12


EXPERTS = "plan p {{ model = mixtral_8x7b, node = h200_8, workload {{ {} }}, {} shift {{ {}, threshold = 64 }} }}"


def test_degrees_that_both_have_lie_along_the_same_ranks() -> None:
    (made,) = compile_text(EXPERTS.format(LOAD, "", "base { sp = 4, ep = 2 }, tensor { tp = 4, ep = 2 }"))
    assert made.spec.shift is not None
    assert [a.name for a in made.spec.sharding.axes] == ["seq", "expert"]
    assert [a.name for a in made.spec.shift.tensor.axes] == ["tensor", "expert"]
    assert made.verify().ok


def test_axes_of_a_written_mesh_that_lie_otherwise_are_told_by_their_ranks() -> None:
    mesh = "tensor { mesh expert = 2, tensor = 4; tp = 4, ep = 2 }"
    with pytest.raises(PlanError) as caught:
        compile_text(EXPERTS.format(LOAD, "", f"base {{ sp = 4, ep = 2 }}, {mesh}"))
    requests = caught.value.diagnostics[0]
    assert requests.code == "E311"
    assert "is split over expert 2 in `p` and in `p_tensor`, but along other ranks" in requests.message
    assert "rank 1 holds part 2 of 2 in `p`, part 1 of 2" in requests.label


@pytest.mark.parametrize("fields", ["chunked_prefill = 256,", ""])
def test_parts_of_a_prompt_are_computed_by_both_in_turn(fields: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[tuple[str, ...]] = []
    run = Machine._run

    def recorded(machine: Machine, program: Program, ids: Array) -> Array:
        ran.append(tuple(name for name, _ in program.mesh.axes))
        return run(machine, program, ids)

    monkeypatch.setattr(Machine, "_run", recorded)
    load = f"{LOAD}, reuse = 40 %, prefix = own"
    (made,) = compile_text(EXPERTS.format(load, fields, "base { sp = 4, ep = 2 }, tensor { tp = 4, ep = 2 }"))
    assert made.verify(steps=1).ok
    sharded = [axes for axes in ran if axes]
    assert sharded[:2] == [("seq", "expert"), ("tensor", "expert")]


@pytest.mark.parametrize(
    ("base", "tensor"),
    [("ulysses", "tp8"), ("ulysses_tp", "swapped"), ("ulysses", "sp8"), ("tp8", "whole"), ("tp8", "by_batch")],
)
def test_what_is_refused_would_not_run(base: str, tensor: str) -> None:
    """The reference executor keeps each rank's part of the cache, and finds another one in it."""
    verdict = verify_plan(spec(base, tensor), programs, plain_programs)
    assert not verdict.ok
    assert "cache" in verdict.message, verdict.message


@st.composite
def pairs(draw: st.DrawFn) -> PlanSpec:
    """A plan with a second sharding: some of its rules, in another order."""
    plan = draw(plans())
    plan = evolve(plan, sharding=evolve(plan.sharding, cut=None))  # of two shardings the compiler cuts none
    assume(plan.sharding.ranks > 1)
    kept = [r._replace(sugar="") for r in plan.sharding.rules if "layers" in r.dims or draw(st.booleans())]
    axes = tuple(a if a.name in plan.sharding.replica_axes else a._replace(sugar="") for a in plan.sharding.axes)
    tensor = evolve(plan.sharding, name="second", axes=axes, rules=tuple(draw(st.permutations(kept))))
    assume(is_legal(tensor, plan.model, plan.node))
    return evolve(plan, shift=ShiftSpec(tensor, 8))


@draws(1)
@given(pairs())
def test_any_two_shardings_are_accepted_if_and_only_if_they_run(plan: PlanSpec) -> None:
    assert plan.shift is not None
    first, second = (programs(mode)[0] for mode in plan.modes)
    accepted = not list(check_cache(plan, plan.shift, first, second))
    assert verify_plan(plan, programs, plain_programs).ok == accepted


@draws(1 / 3)
@given(pairs())
def test_laws_hold_of_two_shardings(plan: PlanSpec) -> None:
    assert plan.shift is not None
    first, second = (programs(mode)[0] for mode in plan.modes)
    assume(not list(check_cache(plan, plan.shift, first, second)))
    for law in (laws_cost.arrays_equal_numbers, laws_cost.largest_batch_is_tight, laws_cost.parts_add_up):
        law(CompiledPlan(plan, ()))
    laws_program.text_reads_back(CompiledPlan(plan, ()))


@pytest.mark.parametrize("fails", [0, 1, 2])
def test_each_mode_decodes_what_the_other_prefilled(fails: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both pairs run, and the plan is right where both are."""
    ran: list[tuple[Program, Program]] = []

    def run(pair: tuple[Program, Program], *_: object, **__: object) -> Verdict:
        ran.append(pair)
        return Verdict(len(ran) != fails, 0.0, "", 3, 8)

    monkeypatch.setattr("plandsl.backends.reference.verify.verify_programs", run)
    assert verify_plan(spec("sp8", "tp8"), programs, plain_programs).ok == (fails == 0)
    meshes = [[(program.phase, *program.mesh.axes[0]) for program in pair] for pair in ran]
    assert meshes == [
        [("prefill", "seq", 8), ("decode", "tensor", 8)],
        [("prefill", "tensor", 8), ("decode", "seq", 8)],
    ]


def test_refusal_names_dimension_axes_and_a_rank() -> None:
    with pytest.raises(PlanError) as caught:
        compile_text(text("ulysses", "tp8"))
    (found,) = (d for d in caught.value.diagnostics if d.severity == "error")
    assert found.code == "E311"
    why = "`kv_heads` of the KV cache is split over tensor 2, then seq 4 in `ulysses`, but split over tensor 8"
    assert why in found.message
    assert found.label == "rank 1 holds kv_heads 4..5 in `ulysses`, kv_heads 1..2 in `tp8`"
    assert found.hint is not None
    assert "`mesh seq = 4, tensor = 2`, and `heads, kv_heads -> tensor, seq`" in found.hint
    assert found.span is not None


@pytest.mark.parametrize(
    ("base", "tensor", "message"),
    [
        ("tp8", "few", "`tp8` has 8 ranks, `few` has 4"),
        ("tp8", "replicas", "`replicas` of the KV cache is whole in `tp8`, but split over data 2"),
        ("tp8", "stages", "`layers` of the KV cache is whole in `tp8`, but split over stage 2"),
        ("tp8", "by_batch", "`batch` of the KV cache is whole in `tp8`, but split over seq 8"),
    ],
)
def test_refusal_of_other_ranks(base: str, tensor: str, message: str) -> None:
    assert any(message in d.message for d in findings(base, tensor))


def test_hint_of_a_refusal_helps() -> None:
    """On the mesh of the first, with the rule that it names, the second is accepted."""
    hinted = text("ulysses", "{}").replace(
        "tensor = {}", "tensor { mesh seq = 4, tensor = 2; heads, kv_heads -> tensor, seq; ffn -> tensor, seq }"
    )
    (plan,) = compile_text(hinted)
    assert plan.spec.shift is not None
    assert plan.spec.shift.tensor.name == "p"


def test_legality_is_asked_of_both() -> None:
    for base, tensor in (("big", "tp8"), ("tp8", "big")):
        with pytest.raises(PlanError) as caught:
            compile_text("sharding big { tp = 16 }\n" + text(base, tensor))
        assert [d.code for d in caught.value.diagnostics if d.severity == "error"] == ["E302"]


def test_what_both_give_rise_to_is_said_once() -> None:
    beside = text("ulysses", "ulysses_tp").replace("h200_8", "h200_8 with { count = 16 }")
    (plan,) = compile_text(beside)
    assert [(d.code, d.span.line) for d in plan.notes if d.span] == [("N301", 1)]


# ---- how it is written


def test_base_may_be_the_sharding_of_the_plan() -> None:
    beside = text("ulysses", "ulysses_tp").replace("base = ulysses, ", "").replace("node", "sharding = ulysses, node")
    (plan,) = compile_text(beside)
    assert [mode.spec.sharding.name for mode in plan.modes] == ["ulysses", "ulysses_tp"]
    assert plan.cost.evaluate().ttft == shifting().cost.evaluate().ttft


def test_shardings_of_one_name_are_told_apart() -> None:
    made = text("sp8", "sp8 with { heads, kv_heads, ffn, vocab -> seq }")
    assert spec("sp8", "tp8").sharding.name == "sp8"
    (plan,) = compile_text(made)
    assert plan.spec.shift is not None
    assert plan.spec.shift.tensor.name == "sp8_tensor"


def test_threshold_can_be_overridden() -> None:
    (plan,) = compile_text(text("sp8", "tp8"), overrides=[("shift.threshold", "7")])
    assert plan.spec.shift is not None
    assert plan.spec.shift.threshold == 7


# ---- memory


def test_weights_of_both_are_held_and_what_lies_alike_once() -> None:
    plan = shifting()
    both, (base, tensor) = plan.estimate().memory, (mode.estimate().memory for mode in plan.modes)
    gains = 4096 * 2 * (32 * 2 + 1)  # norms lie whole in both
    assert both.weights == base.weights + tensor.weights - gains
    assert both.kv_cache == base.kv_cache == tensor.kv_cache


def test_weights_of_equal_names_on_other_meshes_are_not_alike() -> None:
    """`ffn@tensor` is whole where the axis has one rank: the name of an axis says nothing."""
    one = "sharding one { mesh tensor = 1; sp = 8; ffn, vocab -> tensor }\n" + text("one", "tp8")
    (plan,) = compile_text(one)
    base, tensor = (mode.estimate().memory.weights for mode in plan.modes)
    assert plan.estimate().memory.weights == base + tensor - 4096 * 2 * (32 * 2 + 1)


def test_one_sharding_twice_holds_weights_once() -> None:
    (plan,) = compile_text(text("ulysses", "ulysses"))
    assert plan.estimate().memory.weights == plan.modes[0].estimate().memory.weights


def test_second_sharding_of_sequence_parallelism_adds_one_part_of_sp() -> None:
    (plan,) = compile_file(EXAMPLE, "shift")
    base = plan.modes[0].estimate().memory.weights
    assert isclose(plan.estimate().memory.weights / base, 1 + 1 / 8, rel_tol=1e-3)


def test_activations_are_those_of_the_larger_step() -> None:
    few, many = shifting(threshold=1), shifting(threshold=100_000)
    base, tensor = (mode.estimate().memory for mode in many.modes)
    assert few.estimate().memory.activations == base.activations
    assert many.estimate().memory.activations == max(base.activations, tensor.activations) > base.activations


def test_largest_batch_leaves_room_for_both() -> None:
    plan = shifting()
    most = plan.estimate().max_batch
    assert most < min(mode.estimate().max_batch for mode in plan.modes)
    assert plan.cost.evaluate(batch=most).fits
    assert not plan.cost.evaluate(batch=most + 1).fits


# ---- choice


@pytest.mark.parametrize(
    ("batch", "input_", "prefill", "decode"),
    [(1, 256, 1, 1), (1, 257, 0, 1), (256, 1, 1, 1), (257, 1, 0, 0), (2, 128, 1, 1), (2, 129, 0, 1)],
)
def test_steps_of_more_tokens_than_the_threshold_take_the_base(
    batch: int, input_: int, prefill: int, decode: int
) -> None:
    plan = shifting()
    asked = {"batch": batch, "input": input_, "output": 50}
    found, alone = plan.cost.evaluate(**asked), [mode.cost.evaluate(**asked) for mode in plan.modes]
    assert found.ttft == alone[prefill].ttft != alone[1 - prefill].ttft
    assert found.tpot == alone[decode].tpot != alone[1 - decode].tpot


def test_batches_smaller_than_sp_are_padded() -> None:
    estimates = [shifting(f"input = 64, output = 2, batch = {b}", threshold=0).estimate() for b in (1, 2, 3, 4, 5)]
    rows = [dict(next(o for o in e.decode.ops if o.name == "qkv").shape)["m"] for e in estimates]
    assert rows == [1, 1, 1, 1, 2]


@pytest.mark.parametrize("threshold", [0, 64, 1000])
def test_arrays_equal_numbers(threshold: int) -> None:
    plan = shifting(threshold=threshold)
    batch, input_ = np.array([1, 64, 65, 1000, 1001])[:, None], np.array([1, 16, 1001])[None, :]
    at_once = plan.cost.evaluate(batch=batch, input=input_, output=50)
    for b, i in np.ndindex(5, 3):
        one = plan.cost.evaluate(int(batch[b, 0]), int(input_[0, i]), 50)
        for name in ("ttft", "tpot", "latency", "throughput", "memory", "kv_capacity", "max_batch", "fits"):
            many = np.broadcast_to(getattr(at_once, name), (5, 3))[b, i]
            assert isclose(many, getattr(one, name), rel_tol=1e-12), name


def test_ongoing_load_takes_a_mode_in_each_phase() -> None:
    plan = shifting("input = 1000, output = 100, concurrency = 64", ", engine = vllm")
    found = plan.estimate()
    alone = [mode.estimate() for mode in plan.modes]
    assert found.shift is not None
    assert (found.shift.prefill, found.shift.decode) == ("base", "tensor")
    assert [o.name for o in found.prefill.ops] == [o.name for o in alone[0].prefill.ops]
    assert [o.name for o in found.decode.ops] == [o.name for o in alone[1].decode.ops]
    assert found.decode.time_s == found.tpot_s


# ---- what is said


def reported(plan: CompiledPlan) -> Shift:
    found = plan.estimate().shift
    assert found is not None
    return found


def test_report_has_both_modes_and_the_one_of_each_phase() -> None:
    plan = shifting()
    found, (base, tensor) = plan.estimate(), (mode.estimate() for mode in plan.modes)
    body = found.as_json()["shift"]
    assert body == reported(plan).as_json()
    assert (body["threshold"], body["prefill"], body["decode"]) == (256, "base", "tensor")
    for word, mode in (("base", base), ("tensor", tensor)):
        assert (body[word]["ttft_s"], body[word]["tpot_s"]) == (mode.ttft_s, mode.tpot_s)
        assert body[word]["mesh"] == {"seq": 4, "tensor": 2}
    assert (found.ttft_s, found.tpot_s) == (base.ttft_s, tensor.tpot_s)
    assert found.prefill == base.prefill
    assert found.decode == tensor.decode
    assert "shift" not in base.as_json()


def test_crossover_is_where_the_base_becomes_the_faster() -> None:
    plan = shifting("input = 1000, output = 100, batch = 1")
    model, found = plan.cost, reported(plan)
    modes = model.one.modes
    assert modes is not None
    assert found.prefill_tokens is not None
    assert found.decode_tokens is not None

    def faster(tokens: int, phase: str) -> bool:
        times = [
            prefill_step(m, 1, tokens, 1).through if phase == "prefill" else decode_step(m, tokens, 1000, 100).period
            for m in (modes.base, modes.tensor)
        ]
        return times[0] < times[1]

    for phase, tokens in (("prefill", found.prefill_tokens), ("decode", found.decode_tokens)):
        assert faster(tokens, phase)
        assert not faster(tokens - 1, phase)
        assert not faster(1, phase)


def test_no_crossover_where_the_base_is_never_the_faster() -> None:
    (plan,) = compile_text(text("ulysses", "ulysses"))
    assert (reported(plan).prefill_tokens, reported(plan).decode_tokens) == (None, None)
    (swapped,) = compile_text(text("tp8", "sp8"))
    assert reported(swapped).decode_tokens == 1, "tensor parallelism decodes one request faster"
    assert MOST >= 2**16


@pytest.mark.parametrize("view", ["devices", "block", "timeline", "memory"])
def test_picture_shows_the_mode_of_its_phase(view: str) -> None:
    plan = shifting()
    prefill, decode = plan.draw(view, "prefill"), plan.draw(view, "decode")
    assert "(ulysses)" in prefill
    assert "(ulysses_tp)" in decode
    if view == "block":
        assert "all_to_all" in prefill
        assert "all_to_all" not in decode


def test_dump_shows_the_mode_of_its_phase() -> None:
    plan = shifting()
    assert plan.program("prefill") == plan.modes[0].prefill.program
    assert plan.program("decode") == plan.modes[1].decode.program


# ---- Llama-3.3-70B on eight H200: the order that arXiv 2509.16495 measured


@cache
def example() -> dict[str, CompiledPlan]:
    return {plan.name: plan for plan in compile_file(EXAMPLE)}


def test_example_sequence_parallelism_has_the_better_ttft_and_throughput() -> None:
    one = {name: plan.cost.evaluate() for name, plan in example().items()}
    assert one["sp8"].ttft < one["tp8"].ttft
    assert one["sp8_peak"].throughput > one["tp8_peak"].throughput


def test_example_tensor_parallelism_has_the_better_tpot() -> None:
    one = {name: plan.cost.evaluate() for name, plan in example().items()}
    assert one["tp8"].tpot < one["sp8"].tpot


def test_example_shift_takes_the_better_of_both() -> None:
    one = {name: plan.cost.evaluate() for name, plan in example().items()}
    assert isclose(one["shift"].ttft, min(one["sp8"].ttft, one["tp8"].ttft))
    assert isclose(one["shift"].tpot, min(one["sp8"].tpot, one["tp8"].tpot), rel_tol=1e-3)
    assert isclose(one["shift_peak"].throughput, max(one["sp8_peak"].throughput, one["tp8_peak"].throughput))


def test_example_replicas_have_the_best_throughput_and_the_worst_ttft() -> None:
    one = {name: plan.cost.evaluate() for name, plan in example().items()}
    assert one["dp8_peak"].throughput == max(m.throughput for m in one.values())
    assert one["dp8"].ttft == max(one[name].ttft for name in ("dp8", "tp8", "sp8", "shift"))
    assert one["dp8"].throughput == max(one[name].throughput for name in ("dp8", "tp8", "sp8", "shift"))


# ---- under bursts

BURSTS = EXAMPLE.parent / "traffic" / "shift.plan"


def bursts(requests: int, *overrides: tuple[str, str]) -> dict[str, Summary]:
    """What each plan of the example tells of so many requests."""
    plans = compile_file(BURSTS, overrides=overrides)
    return {plan.name: plan.simulate(requests).simulation.summary for plan in plans}


def test_under_bursts_shift_has_the_shortest_median_ttft_and_a_throughput_between() -> None:
    """Source: arXiv 2509.16495. All serve what arrives; what they can serve shows when all of it arrives at once.

    The replicas of dp8 need some 30 requests each for their throughput: with 120 in all, shift has the most.
    """
    ttft = {name: told.ttft.p50.value for name, told in bursts(120).items()}
    assert ttft["shift"] < min(ttft["tp8"], ttft["dp8"])
    made = {name: told.output_rate for name, told in bursts(320, ("workload.rate", "at_once")).items()}
    assert made["tp8"] < made["shift"] < made["dp8"]


def test_the_example_is_the_one_on_the_page() -> None:
    page = BURSTS.parents[2] / "docs" / "traffic.md"
    assert BURSTS.read_text() in page.read_text()
