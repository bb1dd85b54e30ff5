"""What each pass makes of a program, and what the programs of well-known plans must then contain."""

from __future__ import annotations

from collections import Counter
from functools import cache
from math import inf, prod
from pathlib import Path

import pytest
from attrs import evolve
from hypothesis import example, given
from hypothesis import strategies as st

from plandsl import passes
from plandsl.answers.phases import OpTime
from plandsl.driver import CompiledPlan, compile_text, pass_lines
from plandsl.ir.collectives import AllGather, AllReduce, AllToAll, Recv, ReduceScatter, Reshard, Send
from plandsl.ir.compute import Embed, Gemm
from plandsl.ir.extents import Extents
from plandsl.ir.names import axes_of
from plandsl.ir.ops import OPS
from plandsl.ir.program import PHASES, Program
from plandsl.ir.schedule import Schedule
from plandsl.ir.text import read, read_type, show, show_op
from plandsl.ir.types import Dim, Mesh, TensorType, Value, tensor
from plandsl.passes import PIPELINE, Pass, program_after, steps
from plandsl.passes.build import empty_program
from plandsl.passes.cut_stages import split_layers
from plandsl.passes.insert_collectives import Move, Router, _axis_runs, _legal_moves, _moving_axes, _parks
from plandsl.passes.runner import PassError, verify_result
from plandsl.spec.plan import PlanSpec
from plandsl.testing import deployments
from tests.draws import draws

GOLDEN = Path(__file__).parent / "golden" / "passes"
CASES = sorted(path.relative_to(GOLDEN) for path in GOLDEN.glob("*/*.ir"))
DIVIDER = "----\n"


# ---- golden files: <pass>/<plan>.ir holds a program, a divider, and the program after
#
# The plan stands in plans/<plan>.plan; `_decode` behind its name asks for that phase. `--update-golden` rewrites
# what stands behind the divider; in an empty file it fills in what stands before it as well.


def show_schedule(schedule: Schedule) -> str:
    """Slots in order, by region: stream, op, and what each waits for."""
    lines = [f"in flight {schedule.in_flight}"]
    lines += [f"turn of stage {t.stage} after {'the last' if t.after is None else t.after}" for t in schedule.turns]
    for region in schedule.program.regions:
        lines.append(f"region {region.name}")
        for number, slot in enumerate(schedule.slots_of(region.name)):
            after = f"  after {', '.join(map(str, slot.after))}" if slot.after else ""
            lines.append(f"  {number} {slot.stream}: {show_op(region.ops[slot.op])}{after}")
    return "\n".join(lines) + "\n"


def plan_of(case: Path) -> tuple[PlanSpec, str]:
    """The plan of a golden case, and its phase."""
    stem = case.stem.removesuffix("_decode")
    (plan,) = compile_text((GOLDEN / "plans" / f"{stem}.plan").read_text(encoding="utf-8"))
    return plan.spec, "prefill" if stem == case.stem else "decode"


def run(step: Pass, plan: PlanSpec, phase: str, before: str) -> str:
    """What ``step`` makes of a program in its textual form."""
    made = step.run(empty_program(plan, phase) if step is PIPELINE[0] else read(before), plan)
    return show_schedule(made) if isinstance(made, Schedule) else show(made)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_golden_pass(case: Path, request: pytest.FixtureRequest) -> None:
    plan, phase = plan_of(case)
    number = next(i for i, s in enumerate(PIPELINE) if s.name == case.parent.name.replace("_", "-"))
    before, divider, after = (GOLDEN / case).read_text(encoding="utf-8").partition(DIVIDER)
    update = request.config.getoption("--update-golden", default=False)
    if update and not divider:
        before = show(program_after(plan, phase, PIPELINE[number - 1].name)) if number else "no program yet\n"
    made = run(PIPELINE[number], plan, phase, before)
    if update:
        (GOLDEN / case).write_text(before + DIVIDER + made, encoding="utf-8")
        after = made
    assert made == after


@pytest.mark.parametrize("case", CASES, ids=str)
def test_golden_program_reads_back(case: Path) -> None:
    for text in (GOLDEN / case).read_text(encoding="utf-8").split(DIVIDER):
        if text.startswith("program "):
            assert show(read(text)) == text


def test_every_pass_has_a_golden_case() -> None:
    assert {case.parent.name for case in CASES} == {step.name.replace("-", "_") for step in PIPELINE}


# ---- closed sets


@pytest.mark.parametrize("step", PIPELINE, ids=lambda step: step.name)
def test_pass_has_a_first_line_and_a_reason_for_its_place(step: Pass) -> None:
    assert step.line.endswith(".")
    assert len(step.line) < 130
    assert step.why
    assert step.run.__module__.rpartition(".")[2] == step.run.__name__ == step.name.replace("-", "_")


def test_pass_lines_tell_the_pipeline() -> None:
    assert [name for name, _, _ in pass_lines()] == [step.name for step in PIPELINE]


@pytest.mark.parametrize("op", OPS, ids=lambda op: op.keyword)
def test_op_has_a_meaning(op: type) -> None:
    assert op.__doc__
    assert callable(op.infer)  # type: ignore[attr-defined]
    assert callable(op.verify)  # type: ignore[attr-defined]


# ---- the runner


def tiny(name: str) -> PlanSpec:
    return plan_of(Path("any") / f"{name}.ir")[0]


def test_pass_that_breaks_a_program_is_named_and_shown() -> None:
    program = program_after(tiny("tp"), "prefill", "shard")
    block = program.region("block")
    broken = evolve(block, ops=tuple(op for op in block.ops if not isinstance(op, Gemm)))
    after = evolve(program, regions=tuple(broken if r.name == "block" else r for r in program.regions))
    with pytest.raises(PassError, match=r"pass fuse: block: %.* is used before it is defined") as caught:
        verify_result(Pass("fuse", lambda p, _: p, "why"), program, after, [])
    assert "--- before\nprogram tiny prefill" in str(caught.value)
    assert "--- after\nprogram tiny prefill" in str(caught.value)


def test_pass_that_breaks_an_earlier_promise_is_caught_at_its_own_door() -> None:
    program = program_after(tiny("tp"), "prefill", "shard")  # reshards are still there
    routed = program_after(tiny("tp"), "prefill", "insert-collectives")
    promises = [step for step in PIPELINE if step.name == "insert-collectives"]
    with pytest.raises(PassError, match=r"pass quantize: reshard in .* breaks the promise of insert-coll"):
        verify_result(Pass("quantize", lambda p, _: p, "why"), routed, program, promises)


def test_an_op_that_a_pass_made_is_verified_among_those_that_it_left_alone() -> None:
    program = program_after(tiny("tp"), "prefill", "shard")
    block = program.region("block")
    gemm = next(op for op in block.ops if isinstance(op, Gemm))
    narrow = evolve(gemm, weights=tuple(evolve(w, type=evolve(w.type, dims=w.type.dims[1:])) for w in gemm.weights))
    broken = evolve(block, ops=tuple(narrow if op is gemm else op for op in block.ops))
    after = evolve(program, regions=tuple(broken if r.name == "block" else r for r in program.regions))
    with pytest.raises(PassError, match=r"pass fuse: .*gemm contracts nothing with"):
        verify_result(Pass("fuse", lambda p, _: p, "why"), program, after, [])


def test_compiling_checks_what_every_pass_makes(monkeypatch: pytest.MonkeyPatch) -> None:
    def forget(program: Program, plan: PlanSpec) -> Program:
        block = program.region("block")
        broken = evolve(block, ops=block.ops[1:])
        return evolve(program, regions=tuple(broken if r.name == "block" else r for r in program.regions))

    spoilt = tuple(s._replace(run=forget) if s.name == "quantize" else s for s in PIPELINE)
    monkeypatch.setattr(passes, "PIPELINE", spoilt)
    for kept in ("_program", "_schedule"):  # what is kept was made before
        monkeypatch.setattr(passes, kept, getattr(passes, kept).__wrapped__)
    with pytest.raises(PassError, match="pass quantize: block: %h is used before it is defined"):
        passes.compile_phase(tiny("tp"), "prefill")


@draws(1 / 6)
@given(plan=deployments())
def test_law_a_program_that_is_kept_is_the_one_that_would_be_made(plan: PlanSpec) -> None:
    for mode in plan.modes:
        load, sharding = mode.workload, mode.sharding
        single = tuple(axis._replace(size=1) for axis in sharding.axes)
        others = (
            evolve(mode, workload=evolve(load, batch=load.batch + 1)),
            evolve(mode, workload=evolve(load, encodes=not load.encodes)),
            evolve(mode, workload=evolve(load, in_flight=3)),
            evolve(mode, chunked_prefill=None if mode.chunked_prefill else 64),
            evolve(mode, sharding=evolve(sharding, axes=single)),
            evolve(mode, sharding=evolve(sharding, rules=())),
        )
        for one in (mode, *others):
            for phase in PHASES:
                *_, (_, made) = steps(one, phase)
                assert passes.compile_phase(one, phase) == made


def test_partial_sums_reach_no_op_that_computes() -> None:
    promise = next(step for step in PIPELINE if step.name == "shard").leaves
    assert promise is not None
    partial = Value("y", TensorType("bf16", tensor("bf16", ("batch", "hidden")).dims, frozenset({"tensor"})))
    whole = Value("z", tensor("bf16", ("batch", "hidden")))
    assert promise(AllReduce(whole, partial, "tensor"))
    assert not promise(Embed(whole, partial, whole))


def test_no_reshard_is_left_after_collectives_are_inserted() -> None:
    for name in ("tp", "megatron_sp", "ulysses"):
        for phase in ("prefill", "decode"):
            made = [(s.name, p) for s, p in steps(tiny(name), phase) if isinstance(p, Program)]
            kinds = {n: {type(op) for r in p.regions for op in r.ops} for n, p in made}
            assert Reshard in kinds["shard"]
            assert Reshard not in kinds["insert-collectives"]


def test_layouts_on_the_way_split_nothing_that_neither_end_splits() -> None:
    sizes = (("batch", 8), ("kv_heads", 3), ("head_dim", 8))  # three heads cannot be parked on four ranks
    extents = Extents(Program("m", "prefill", Mesh((("a", 4), ("b", 2))), sizes, ()), {})
    start, goal = read_type("bf16[kv_heads, head_dim@b*a]"), read_type("bf16[kv_heads, head_dim@a]")
    here = start
    for move in Router(extents).path(start, goal):
        here = evolve(move, x=Value("x", here)).infer()[0]
        assert not here.on("kv_heads")
    assert here == goal


SENDS = {AllReduce: 2.0, ReduceScatter: 1.0, AllGather: 1.0, AllToAll: 1.0}
"""By nccl-tests a rank sends so many times (n - 1) / n of the larger of what a collective reads and makes."""

RANKS = 8
"""Ranks of each axis, as the search for paths counts them."""


def sent_bytes(move: Move, before: TensorType, after: TensorType, extents: Extents) -> float:
    n = RANKS ** len(axes_of(move.axis))
    return SENDS.get(type(move), 0.0) * (n - 1) / n * max(extents.bytes(before), extents.bytes(after))


def fewest_bytes(start: TensorType, goal: TensorType, extents: Extents) -> float:
    """Bytes of the cheapest path, found by trying every one: layouts in rounds, until no path gets cheaper."""
    places = [d.name for d, want in zip(start.dims, goal.dims, strict=True) if d.axes or want.axes]
    runs = _axis_runs(extents.mesh, _moving_axes(start, goal))
    best, changed = {start: 0.0}, [start]
    while changed:
        here = changed.pop()
        for move in _legal_moves(here, runs, places):
            there = move.infer()[0]
            total = best[here] + sent_bytes(move, here, there, extents)
            if not _parks(there, start, goal) and total < best.get(there, inf):
                best[there] = total
                changed.append(there)
    return best[goal]


@st.composite
def ends(draw: st.DrawFn) -> tuple[TensorType, TensorType]:
    """Two layouts of one tensor on axes a, b and c: the first one may have partial sums, the second one has none."""

    def layout(names: list[str]) -> TensorType:
        axes: dict[str, tuple[str, ...]] = {"batch": (), "position": (), "hidden": ()}
        left = frozenset(draw(st.sets(st.sampled_from(names)))) if names else frozenset()
        for name in names:
            if name not in left:
                place = draw(st.sampled_from(sorted(axes)))
                axes[place] += (name,)
        return TensorType("bf16", tuple(Dim(name, on) for name, on in axes.items()), partial=left)

    start = layout(draw(st.permutations(["a", "b", "c"])))
    goal = layout(draw(st.permutations(draw(st.sampled_from((["a", "b", "c"], ["a", "b"], ["b"], []))))))
    return start, evolve(goal, partial=frozenset())


@given(ends())
@example((read_type("bf16[batch@b, position, hidden]{+a, +c}"), read_type("bf16[batch@b, position, hidden]")))
def test_law_no_other_collectives_between_two_layouts_send_fewer_bytes(both: tuple[TensorType, TensorType]) -> None:
    start, goal = both
    sizes = (("batch", 4096), ("position", 4096), ("hidden", 4096))
    extents = Extents(Program("m", "prefill", Mesh(tuple((axis, RANKS) for axis in "abc")), sizes, ()), {})
    sent, here = 0.0, start
    for move in Router(extents).path(start, goal):
        there = evolve(move, x=Value("x", here)).infer()[0]
        sent, here = sent + sent_bytes(move, here, there, extents), there
    assert here == goal
    least = fewest_bytes(start, goal, extents)
    assert sent <= least * (1 + 1e-9) + 8  # a step counts as a byte


# ---- structure of well-known plans, counted in compiled programs


SERVE = """
plan p {{
  model = {model}, node = {node}
  sharding {{ {sharding} }}
  workload {{ input = {input}, output = {output}, batch = {batch} }}
  {more}
}}
"""


@cache
def serve(
    sharding: str, model: str = "llama_3_1_8b", node: str = "h100_8", more: str = "",
    input: int = 128, output: int = 128, batch: int = 4,
) -> CompiledPlan:  # fmt: skip
    text = SERVE.format(sharding=sharding, model=model, node=node, more=more, input=input, output=output, batch=batch)
    (plan,) = compile_text(text)
    return plan


def runs(program: Program, stage: int) -> Counter[str]:
    """How often each kind of op runs in one pass over a stage."""
    out: Counter[str] = Counter()
    for part in program.stages[stage]:
        for op in program.region(part.region).ops:
            out[op.keyword] += part.repeats * (op.tensors if isinstance(op, Send | Recv) else 1)
    return out


def every(program: Program) -> Counter[str]:
    return sum((runs(program, s) for s in range(len(program.stages))), Counter())


def lines(plan: CompiledPlan, op: str, phase: str = "prefill") -> list[OpTime]:
    return [line for line in getattr(plan.estimate(), phase).ops if line.op == op]


def test_llama_8b_calls_all_reduce_as_often_as_was_counted() -> None:
    # 128 tokens in and 128 out with tensor parallelism: 65 all_reduce calls in prefill, and 127 steps of 65 in
    # decode, 8255 (profiled counts in "Characterizing communication patterns in distributed LLM inference", 2025)
    plan = serve("tp = 4", batch=1)
    prefill = sum(line.count for line in lines(plan, "all_reduce"))
    decode = sum(line.count for line in lines(plan, "all_reduce", "decode"))
    assert (prefill, (plan.spec.workload.output - 1) * decode) == (65, 8255)


def test_second_hop_tensor_doubles_the_sends() -> None:
    one, two = serve("pp = 4"), serve("pp = 4", more="hop_tensors = 2")
    assert every(two.prefill.program)["send"] == 2 * every(one.prefill.program)["send"] == 6
    assert every(two.prefill.program)["recv"] == 6
    assert two.cost.evaluate().prefill.hop > one.cost.evaluate().prefill.hop


@pytest.mark.parametrize(("tp", "pp"), [(4, 2), (2, 4)])
def test_hybrid_sums_on_each_stage_for_its_own_layers(tp: int, pp: int) -> None:
    program = serve(f"tp = {tp}, pp = {pp}").prefill.program
    counts = [runs(program, stage)["all_reduce"] for stage in range(pp)]
    assert counts == [2 * 32 // pp + 1] + [2 * 32 // pp] * (pp - 1)
    assert [runs(program, stage)["all_gather"] for stage in range(pp)] == [0] * (pp - 1) + [1]
    assert every(program)["send"] == pp - 1


def test_gemms_are_split_on_output_features_first_and_input_features_second() -> None:
    # Megatron-LM: column parallel, then row parallel, so that nothing travels in between
    plan = serve("tp = 8", batch=2)
    shapes = {line.name: dict(line.shape) for line in lines(plan, "gemm")}
    m = 2 * 128
    assert shapes["qkv"] == {"m": m, "n": (32 + 2 * 8) * 128 // 8, "k": 4096}
    assert shapes["o"] == {"m": m, "n": 4096, "k": 4096 // 8}
    assert shapes["gate_up"] == {"m": m, "n": 2 * 14336 // 8, "k": 4096}
    assert shapes["down"] == {"m": m, "n": 4096, "k": 14336 // 8}
    assert shapes["head"] == {"m": 2, "n": 128256 // 8, "k": 4096}
    counts = {line.name: line.count for line in lines(plan, "gemm")}
    assert counts == {"qkv": 32, "o": 32, "gate_up": 32, "down": 32, "head": 1}


MEGATRON = "mesh tensor = 4\n heads, kv_heads, ffn, vocab -> tensor\n tokens -> tensor"


def test_megatron_tokens_split_norms_and_residuals() -> None:
    plan, tp = serve(MEGATRON), serve("tp = 4")
    (split,) = {line.bytes for line in lines(plan, "norm") if line.name == "add_norm"}
    (whole,) = {line.bytes for line in lines(tp, "norm") if line.name == "add_norm"}
    assert split == pytest.approx(whole / 4, rel=0.01)  # the gain is read by all


def test_ulysses_moves_heads_in_and_out_of_attention() -> None:
    # Jacobs et al., "DeepSpeed Ulysses", 2023: all_to_all of queries, keys and values, and of the result
    plan = serve("sp = 8", batch=8)
    block = [op for op in plan.prefill.program.region("block").ops if isinstance(op, AllToAll)]
    assert [(op.gather, op.split) for op in block] == [
        *[("position", "heads" if "heads" in op.x.type.names else "kv_heads") for op in block[:-1]],
        ("heads", "position"),
    ]
    assert len(block) == 4
    assert not any(op.keyword in ("all_reduce", "all_gather") for op in plan.prefill.program.region("block").ops)
    moved = sorted(line.bytes for line in lines(plan, "all_to_all"))
    assert sum(moved) == 8 * 128 // 8 * (2 * 32 + 2 * 8) * 128 * 2


def test_data_parallel_replicas_exchange_nothing() -> None:
    plan = serve("dp = 8")
    assert not any(line.communicates for p in ("prefill", "decode") for line in getattr(plan.estimate(), p).ops)
    assert plan.estimate().replicas == 8


def test_reduce_scatter_needs_no_sum_after_it() -> None:
    ops = [op for op in serve(MEGATRON).prefill.program.region("block").ops if isinstance(op, ReduceScatter)]
    assert all(op.x.type.partial == {"tensor"} and not op.out.type.partial for op in ops)


def test_layers_over_stages_differ_by_at_most_one() -> None:
    sizes = [b - a for a, b in split_layers(126, 8)]
    assert sizes == [16, 16, 16, 16, 16, 16, 15, 15]
    plan = serve("pp = 8", "llama_3_1_405b", "mi325x_8")
    assert [sum(p.repeats for p in parts if p.layers) for parts in plan.prefill.stages] == sizes


def test_quantized_input_serves_all_gemms_that_read_it() -> None:
    plan = serve("tp = 2", "llama_3_1_8b with { weights = fp8 }")
    counts = Counter(op.keyword for op in plan.prefill.program.region("block").ops)
    assert (counts["gemm"], counts["quantize"]) == (4, 4)
    weight_only = serve("tp = 2", "llama_3_1_8b with { weights = fp8, compute = bf16 }")
    assert "quantize" not in Counter(op.keyword for op in weight_only.prefill.program.region("block").ops)


@pytest.mark.parametrize(
    ("rules", "whole"),
    [
        ("heads, kv_heads -> t", "`w_gate`, `w_up`, `w_down`"),
        ("ffn -> t", "`w_q`, `w_k`, `w_v`, `w_o`"),
        ("heads -> t", "`w_k`, `w_v`, `w_gate`, `w_up`, ..."),
    ],
)
def test_weights_of_layers_that_no_rule_splits_are_named_up_to_four(rules: str, whole: str) -> None:
    """Those of norms are not: every rank needs them."""
    load = "workload { input = 40, output = 10, batch = 8 }"
    text = f"plan p {{ model = llama_3_1_8b, node = h100_8, sharding {{ mesh t = 8\n {rules} }}, {load} }}"
    (note,) = (d for d in compile_text(text)[0].notes if d.code == "N304")
    assert note.message == f"no rule splits {whole}: whole on all 8 ranks of `t`"


def test_parameters_are_counted_from_the_block() -> None:
    sizes = {"llama_3_1_8b": 8_030_261_248, "llama_3_1_70b": 70_553_706_496}
    for model, count in sizes.items():
        for sharding in ("tp = 8", "pp = 4, tp = 2"):
            assert serve(sharding, model).estimate().parameters == count


def test_weights_of_one_rank_are_its_share_of_the_parameters() -> None:
    plan = serve("tp = 8")
    program = plan.prefill.program
    norms = 2 * (2 * 32 + 1) * 4096  # gains are on every rank
    split = 2 * (8_030_261_248 - norms // 2)
    assert plan.estimate().memory.weights == split / 8 + norms
    assert prod(size for _, size in program.mesh.axes) == 8


def test_grouped_query_attention_caches_key_heads_only() -> None:
    assert serve("tp = 8").estimate().kv_bytes_per_token == 2 * 32 * 8 * 128 * 2
