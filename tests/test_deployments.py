"""Steps of every kind of server, and policies above them that know no kinds: all of them work together."""

from __future__ import annotations

from functools import cache
from math import isclose

import numpy as np
import pytest
from attrs import evolve

from plandsl.backends.cost import Deployment, Metrics, Replicas
from plandsl.backends.cost.answers.terms import terms
from plandsl.backends.cost.deployments.batch import decode_step, prefill_step
from plandsl.backends.cost.deployments.chunks import chunk_batch, chunk_prompt
from plandsl.backends.cost.deployments.deployment import HOT
from plandsl.backends.cost.deployments.drafted import Drafted
from plandsl.backends.cost.deployments.pools import Pools
from plandsl.backends.cost.deployments.step import Decode, Prompt, Step
from plandsl.backends.cost.time import trace
from plandsl.backends.cost.time.phase import _bound
from plandsl.driver import CompiledPlan, compile_text, difference
from plandsl.spec.plan import PlanSpec
from tests.draws import some

SHIFT = "shift { base { sp = 8 }, tensor { tp = 8 }, threshold = 256 }"
DRAFT = "speculate { draft = llama_3_2_1b, tokens = 3, acceptance = 80 % }"
POOLS = """
  prefill { node = h100_8, sharding { tp = 4, dp = 2 } }
  decode { node = h100_8, sharding { tp = 8 } }
  transfer { bandwidth = 50 GB/s, latency = 10 us }
"""
KINDS = {
    "single": "node = h100_8, sharding { tp = 8 }",
    "stages": "node = h100_8, sharding { tp = 2, pp = 4 }",
    "replicas": "node = h100_8, sharding { dp = 2, tp = 4 }",
    "shift": f"node = h100_8, {SHIFT}",
    "drafted": f"node = h100_8, sharding {{ tp = 8 }}, {DRAFT}",
    "drafted shift": f"node = h100_8, {SHIFT}, {DRAFT}",
    "pools": POOLS,
    "drafted pools": f"{DRAFT}\n{POOLS}",
}
FIELDS = {"": {}, "chunks": {"chunked_prefill": 512}, "parts": {"micro_batches": 2}}
LOADS = {"batch": {"batch": 8}, "ongoing": {"concurrency": 16}, "ending": {"concurrency": 16, "requests": 160}}


def text(kind: str, model: str = "llama_3_1_8b") -> str:
    return f"plan p {{ model = {model}, workload {{ input = 1500, output = 60, batch = 8 }}, {KINDS[kind]} }}"


def changed(spec: PlanSpec, **fields: object) -> PlanSpec:
    """A plan with other fields, in both of its pools where it has two; those of the load are the load's."""
    load = evolve(spec.workload, **{k: v for k, v in fields.items() if k in ("concurrency", "requests", "reuse")})
    made = evolve(spec, workload=load, **{k: v for k, v in fields.items() if k in ("chunked_prefill", "micro_batches")})
    if spec.split is None:
        return made
    pools = {"prefill": changed(spec.split.prefill, **fields), "decode": changed(spec.split.decode, **fields)}
    pools["decode"] = evolve(pools["decode"], chunked_prefill=None)
    return evolve(made, split=evolve(spec.split, **pools))


@cache
def plan(kind: str, fields: str = "", load: str = "batch", model: str = "llama_3_1_8b") -> CompiledPlan:
    (made,) = compile_text(text(kind, model))
    return CompiledPlan(changed(made.spec, **FIELDS[fields], **LOADS[load]), ())


def numbers(metrics: Metrics) -> dict[str, float]:
    """All metrics."""
    return {name: float(getattr(metrics, name)) for name in Metrics._fields[:9]}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_answers_loads(kind: str) -> None:
    for fields, load in some([(fields, load) for fields in FIELDS for load in LOADS], 5, kind):
        answers_add_up(kind, fields, load)


def answers_add_up(kind: str, fields: str, load: str) -> None:
    """The parts of each phase add up, and so do its terms; arrays and straight code say what numbers say."""
    made = plan(kind, fields, load)
    found, metrics = made.estimate(), made.cost.evaluate()
    for phase, whole in ((found.prefill, found.ttft_s), (found.decode, found.tpot_s)):
        parts = ("compute", "communication", "bubble", "engine", "waiting", "mixed", "draft")
        assert isclose(sum(getattr(phase, f"{part}_s") for part in parts), whole, rel_tol=1e-9), phase
        assert 0 < phase.mfu <= 1
        assert 0 < phase.mbu <= 1.1
    told = terms(made.cost, metrics)
    for breakdown in (told.ttft, told.tpot, told.per_token):
        assert isclose(sum(t.value for t in breakdown.terms), breakdown.total, rel_tol=1e-12), breakdown.metric
        assert all(t.value >= 0 for t in breakdown.terms), min(breakdown.terms, key=lambda t: t.value)
    asked = "batch" if load == "batch" else "concurrency"
    counts, inputs = np.array([1, 5, 40]), np.array([20, 1500, 300])
    many = made.cost.evaluate(**{asked: counts, "input": inputs})
    for i in range(3):
        one = numbers(made.cost.evaluate(**{asked: int(counts[i]), "input": int(inputs[i])}))
        for name, value in one.items():
            array = float(np.broadcast_to(getattr(many, name), counts.shape)[i])
            assert isclose(array, value, rel_tol=1e-12), f"{name} is {array} in an array, {value} alone"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("fields", FIELDS)
def test_straight_code_serves_every_kind(kind: str, fields: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trace, "HOT", 4)  # played three times, then compiled
    for load, asked in some((("batch", "batch"), ("ending", "concurrency")), 2, kind, fields):
        cost: Deployment = plan(kind, fields, load).cost.on(plan(kind, fields, load).spec)
        ways = [{asked: n, "input": i} for n in (1, 9, 300) for i in (30, 1501)]
        slow = [numbers(cost.evaluate(**way)) for way in ways]
        for _ in range(HOT):
            cost.evaluate(**ways[0])
        assert cost._hot, "it was asked often enough"
        assert [numbers(cost.evaluate(**way)) for way in ways] == slow


@pytest.mark.parametrize("kind", ["drafted", "drafted shift", "drafted pools"])
def test_memory_of_other_guesses_is_that_of_a_plan_that_makes_them(kind: str) -> None:
    """Also where steps with more tokens need more room than prompts do: those of either sharding."""
    seven = text(kind).replace("tokens = 3", "tokens = 7")
    guessed, written = plan(kind).cost.guessing(7, 0.8), compile_text(seven)[0].cost
    for one, other in zip(guessed.pools, written.pools, strict=True):
        for batch in (1, 8, 512):
            assert one.memory.held(0, batch, 2, 1, 1) == other.memory.held(0, batch, 2, 1, 1)


# ---- steps


def server(kind: str) -> Replicas:
    cost = plan(kind).cost
    assert isinstance(cost, Replicas)
    return cost


@pytest.mark.parametrize("queries", [1, 4])
def test_a_step_alone_is_the_first_of_many(queries: int) -> None:
    assert Decode(8, 900, queries=queries).middle == Decode(8, 900, steps=1, queries=queries).middle


def test_a_shift_takes_the_sharding_that_the_tokens_of_a_step_ask_for_mixed_steps_too() -> None:
    one = server("shift").one
    modes = one.modes
    assert modes is not None
    few, many = Prompt(1, 100, 50, chunk=True), Prompt(1, 300, 50, chunk=True)
    some = Decode(8, 900)
    for step, mode in (
        (Step(few), modes.tensor), (Step(many), modes.base), (Step(few, some), modes.tensor),
        (Step(many, some), modes.base), (Step(few, Decode(157, 900)), modes.base), (Step(None, some), modes.tensor),
        (Step(None, Decode(256, 900)), modes.tensor), (Step(None, Decode(257, 900)), modes.base),
    ):  # fmt: skip
        assert one.step(step, 1) == mode.step(step, 1)
    tokens = np.array([100, 300])
    found = one.step(Step(Prompt(1, tokens, 50, chunk=True), some), 1)
    for i, mode in enumerate((modes.tensor, modes.base)):
        alone = mode.step(Step(Prompt(1, int(tokens[i]), 50, chunk=True), some), 1)
        assert isclose(found.period[i], alone.period, rel_tol=1e-12)
    assert [float(run.weight[1]) for run in found.runs] == [1.0, 0.0]


def test_a_draft_prefills_and_decodes_before_each_step() -> None:
    one = server("drafted").one
    assert isinstance(one, Drafted)
    assert one.draft is not None
    prompt, decode = Prompt(1, 400, 100, chunk=True), Decode(8, 904, queries=4)
    guess = Decode(8, 901)
    whole = one.step(Step(prompt, decode), 1)
    verify = one.verify.step(Step(prompt, decode), 1).period
    drafted = one.draft.step(Step(prompt, guess), 1).period + 2 * one.draft.step(Step(None, guess), 1).period
    assert isclose(whole.period, verify + drafted, rel_tol=1e-12)
    assert isclose(whole.drafted, drafted, rel_tol=1e-12)
    assert [(run.part, run.count) for run in whole.runs] == [("", 1), ("draft", 1), ("draft", 2)]


def test_chunks_leave_room_for_all_tokens_of_the_requests_that_run() -> None:
    """A verifying step has four tokens of each: 512 - 4 * 8 are left for a prompt."""
    plain, guessing = (plan(kind, "chunks", "ongoing").cost.pools[0].one for kind in ("single", "drafted"))
    assert isclose(chunk_prompt(plain, 8, 1500, 1).steps, 1500 / 504)
    assert isclose(chunk_prompt(guessing, 8, 1500, 1).steps, 1500 / 480)


@pytest.mark.parametrize("model", ["deepseek_v3", "llama_3_1_8b"])
def test_a_mixed_step_of_a_latent_cache_is_the_chunk_and_the_decodes_on_shared_gemms(model: str) -> None:
    """It takes more than either alone, and less than both one after the other: weights are read once."""
    (made,) = compile_text(text("single", model).replace("h100_8", "h200_8"))
    one = made.cost.pools[0].one
    prompt, decode = Prompt(1, 500, 1000, chunk=True), Decode(12, 1800)
    both = one.step(Step(prompt, decode), 1).period
    alone = [one.step(Step(prompt), 1).period, one.step(Step(None, decode), 1).period]
    assert max(alone) < both < sum(alone)
    whole = one.step(Step(Prompt(1, 500, 1000)), 1).period
    assert alone[0] == pytest.approx(whole, rel=1e-9)  # a chunk by itself is a prefill


def test_a_latent_cache_is_unpacked_for_the_prompts_and_absorbed_for_the_others() -> None:
    (made,) = compile_text(text("single", "deepseek_v3").replace("h100_8", "h200_8"))
    main = made.cost.pools[0].main
    two = main.step(Step(Prompt(2, 250, 4000, chunk=True)), 1).seconds["block.sparse"]
    whole = main.step(Step(Prompt(2, 250, 4000)), 1).seconds["block.sparse"]
    assert two == pytest.approx(whole, rel=1e-12)  # keys of both prompts are unpacked
    ops = made.prefill.program.region("block.sparse").ops
    at = next(i for i, op in enumerate(ops) if "attention" in op.keyword)
    mixed = main.step(Step(Prompt(2, 250, 4000, chunk=True), Decode(12, 1800)), 1).seconds["block.sparse"]
    decoded = main.step(Step(None, Decode(12, 1800)), 1).seconds["block.sparse"]
    theirs = made.decode.program.region("block.sparse").ops
    absorbed = [t for op, t in zip(theirs, decoded, strict=True) if op.keyword in ("head_gemm", "latent_attention")]
    assert mixed[at] - two[at] >= sum(absorbed) * (1 - 1e-12)
    unpacks = next(i for i, op in enumerate(ops) if op.keyword == "gemm" and "w_uk" in {w.name for w in op.weights})
    assert mixed[unpacks] == two[unpacks]  # not for those that decode


def test_keys_split_by_context_are_read_in_mixed_steps() -> None:
    (made,) = compile_text(text("single").replace("tp = 8", "cp = 4, tp = 2"))
    one = made.cost.pools[0].one
    prompt, decode = Prompt(1, 500, 1000, chunk=True), Decode(12, 1800)
    both = one.step(Step(prompt, decode), 1).period
    alone = [one.step(Step(prompt), 1).period, one.step(Step(None, decode), 1).period]
    assert max(alone) < both < sum(alone)
    assert one.step(Step(prompt, decode._replace(context=18_000)), 1).period > both


def test_an_engine_runs_mixed_steps_at_its_rates() -> None:
    engine = "engine e { prefill = 50 %, links = 100 % }\n"
    (made,) = compile_text(engine + text("single").replace("tp = 8", "tp = 1").replace("node", "engine = e, node"))
    step = Step(Prompt(1, 500, 1000, chunk=True), Decode(12, 1800))
    (bare,) = compile_text(text("single").replace("tp = 8", "tp = 1"))
    fast, slow = (m.cost.pools[0].one.step(step, 1).period for m in (bare, made))
    assert isclose(slow, 2 * fast, rel_tol=1e-12)


# ---- parts


def test_parts_of_an_ongoing_prefill_follow_one_another() -> None:
    """The slowest stage has as much to do as before, in smaller parts; a prompt alone is in one part."""
    whole, parts = (plan("stages", f, "ongoing").cost for f in ("", "parts"))
    assert parts.evaluate(concurrency=1).ttft == whole.evaluate(concurrency=1).ttft
    one = plan("stages", "parts").cost.pools[0].one
    two = prefill_step(one, 2, 1500, 1)
    alone = prefill_step(one, 1, 1500, 1)
    slowest = max(*(float(s.span) for s in alone.stages), float(alone.hop))
    assert isclose(two.through, alone.through + slowest, rel_tol=1e-12)


def test_steps_of_several_prompts_go_through_in_parts() -> None:
    """Prompts of 100 tokens in steps of 512: five at a time, in two parts."""
    one = (
        plan("stages", "parts").cost.on(changed(plan("stages").spec, chunked_prefill=512, micro_batches=2)).pools[0].one
    )
    found = chunk_batch(one, 8, 100, 1)
    assert found.times.parts == 2
    lone = chunk_batch(one, 1, 1500, 1)
    assert lone.times.parts == 1


# ---- pools


def test_a_pool_of_prompts_computes_chunks_with_no_decodes_beside_them() -> None:
    made = plan("pools", "chunks")
    cost = made.cost
    assert isinstance(cost, Pools)
    pool = cost.prefill.one
    steps = [float(pool.step(Step(Prompt(1, n, done, chunk=True)), pool.in_flight).period)
             for n, done in ((512, 0), (512, 512), (476, 1024))]  # fmt: skip
    load = evolve(made.spec.workload, batch=1)
    small = cost.on(evolve(made.spec, split=evolve(cost.split, prefill=evolve(cost.split.prefill, workload=load))))
    assert small.evaluate().ttft == pytest.approx(sum(steps), rel=0.01)
    assert cost.evaluate().mixed == 0
    assert cost.evaluate().decode.period == plan("pools").cost.evaluate().decode.period


def test_the_cache_of_a_draft_travels_with_that_of_the_model() -> None:
    plain, drafted = (plan(kind).cost for kind in ("pools", "drafted pools"))
    assert isinstance(plain, Pools)
    assert isinstance(drafted, Pools)
    ours, theirs = (cost.transfer.times(1, 1500, 0.1) for cost in (plain, drafted))
    token = 16 * 2 * 8 * 64 * 2  # 16 layers of the draft
    assert theirs.request - ours.request == token * 1500
    assert isclose(theirs.received - ours.received, token * 1500 / 8)
    assert isclose(theirs.sent - ours.sent, token * 1500 / 4)
    assert drafted.evaluate().ttft > plain.evaluate().ttft  # the draft has its prefill there
    assert drafted.evaluate().prefill.drafted > 0


def test_pools_and_one_pool_are_compared() -> None:
    found = difference(plan("single", load="ongoing"), plan("pools", load="ongoing"))
    for split in found.splits:
        assert isclose(sum(p.change for p in split.parts), split.change, rel_tol=1e-9, abs_tol=1e-15)


def test_the_mean_of_steps_is_between_the_first_and_the_last() -> None:
    one = server("single").one
    first, last = (one.step(Step(None, Decode(8, c)), 1).period for c in (1501, 1559))
    assert first < decode_step(one, 8, 1500, 60).period < last


def test_estimates_of_one_plan_after_another_are_those_of_arrays() -> None:
    # arrays are priced anew; of plain numbers, what another estimate found is kept
    loads, asked = (3, 40, 3, 17, 40), _bound.cache_info()
    plans = [compile_text(TYPED.replace("BATCH", str(batch)))[0] for batch in loads]
    found = [plan.estimate() for plan in plans]
    whole = plans[0].evaluate(batch=np.array(loads))
    assert [e.ttft_s for e in found] == pytest.approx(list(whole.ttft), rel=1e-12)
    assert [e.tpot_s for e in found] == pytest.approx(list(whole.tpot), rel=1e-12)
    for e in found:
        assert sum(op.time_s for op in e.prefill.ops) == pytest.approx(e.prefill.time_s, rel=1e-9)
    assert found[0] == found[2]._replace(about=found[0].about)
    assert _bound.cache_info().hits > asked.hits


TYPED = """plan small {
  model = llama_3_1_8b
  node = h100_8
  sharding { tp = 2 }
  workload { batch = BATCH, input = 1024, output = 128 }
}
"""
