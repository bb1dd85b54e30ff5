"""Tokens guessed ahead: one step verifies them all, with times, memory and results that follow from that."""

from __future__ import annotations

import json
from functools import cache
from math import isclose

import numpy as np
import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from plandsl.backends.cost.answers.counts import parameters
from plandsl.backends.cost.deployments.batch import prefill_step
from plandsl.backends.cost.deployments.drafted import Drafted, break_even, expected_tokens, tokens_per_step
from plandsl.backends.cost.deployments.step import Decode, Step
from plandsl.backends.cost.forms.attention import Heads, decode_seconds
from plandsl.backends.cost.forms.mla import mla_decode_seconds
from plandsl.backends.cost.work.attention import AttentionForm, Softmax
from plandsl.backends.cost.work.latent import LatentForm
from plandsl.backends.cost.work.work import Binding
from plandsl.backends.reference.machine import Machine
from plandsl.backends.reference.placement import difference
from plandsl.backends.reference.shrink import shrink
from plandsl.backends.reference.verify import one_by_one
from plandsl.backends.reference.weights import make_weights
from plandsl.diagnostics import PlanError
from plandsl.driver import CompiledPlan, compile_text, plain_programs, programs
from plandsl.grammar.fmt import format_text
from plandsl.ir.collectives import AllReduce
from plandsl.ir.compute import Concat, Gemm, LastToken
from plandsl.ir.extents import Extents
from plandsl.passes.build import build_model
from plandsl.show import show_plan
from plandsl.spec.formats import item_bytes
from plandsl.spec.plan import PlanSpec
from plandsl.testing import assert_laws, compiled, plans, same
from tests.draws import draws

DRAFT = "speculate { draft = llama_3_2_1b, tokens = 3, acceptance = 80 % }"
LOOKED_UP = "speculate { tokens = 3, acceptance = 80 % }"


def text(
    speculate: str = DRAFT,
    model: str = "llama_3_1_70b",
    sharding: str = "tp = 8",
    load: str = "batch = 4",
    fields: str = "",
) -> str:
    """A plan on eight GPUs."""
    return (
        f"plan p {{ model = {model}, node = h200_8, sharding {{ {sharding} }}, "
        f"workload {{ input = 1000, output = 200, {load} }}, {speculate} {fields} }}"
    )


@cache
def plan(
    speculate: str = DRAFT,
    model: str = "llama_3_1_70b",
    sharding: str = "tp = 8",
    load: str = "batch = 4",
    fields: str = "",
) -> CompiledPlan:
    (made,) = compile_text(text(speculate, model, sharding, load, fields))
    return made


def model_of(made: CompiledPlan) -> Drafted:
    assert isinstance(made.cost.one, Drafted)
    return made.cost.one


def verifying(server: Drafted, batch: int, input_: int, output: int) -> float:
    """Seconds of the mean verifying step, without its draft."""
    k = server.speculate.tokens
    step = Step(decode=Decode(batch, input_ + 1 + k, output - 1, 1 + k))
    return float(server.verify.step(step, server.in_flight).period)


def refused(*parts: str) -> tuple[str, str]:
    """Code and message of the one error of a plan."""
    with pytest.raises(PlanError) as caught:
        compile_text(text(*parts))
    (found,) = (d for d in caught.value.diagnostics if d.severity == "error")
    assert found.hint
    assert found.span is not None
    return found.code, found.message


# ---- what a step brings


@pytest.mark.parametrize("k", [1, 2, 5])
@pytest.mark.parametrize("a", [0.0, 0.3, 0.8, 0.999])
def test_a_step_brings_what_leviathan_says(a: float, k: int) -> None:
    wanted = (1 - a ** (k + 1)) / (1 - a)
    assert isclose(tokens_per_step([a] * k), wanted, rel_tol=1e-12)
    assert isclose(expected_tokens(a, k), wanted, rel_tol=1e-12)


def test_guesses_that_are_always_right_all_count() -> None:
    assert tokens_per_step([1.0] * 4) == 5 == expected_tokens(1.0, 4)
    assert tokens_per_step([0.0] * 4) == 1 == expected_tokens(0.0, 4)


def test_a_list_counts_each_guess_where_all_before_it_are_right() -> None:
    assert isclose(tokens_per_step([0.85, 0.70, 0.55]), 1 + 0.85 + 0.85 * 0.70 + 0.85 * 0.70 * 0.55)


@pytest.mark.parametrize("rates", [(0.8, 0.8, 0.8), (0.9, 0.5), (0.6,) * 7])
def test_a_step_brings_what_drawn_guesses_bring(rates: tuple[float, ...]) -> None:
    """Two hundred thousand steps, each of which counts up to its first wrong guess."""
    right = np.random.default_rng(1).random((200_000, len(rates))) < np.array(rates)
    brought = 1 + np.cumprod(right, axis=1).sum(axis=1)
    assert abs(brought.mean() - tokens_per_step(rates)) < 4 * brought.std() / 200_000**0.5


@given(st.floats(0, 1), st.integers(1, 8))
def test_break_even_is_the_inverse(acceptance: float, tokens: int) -> None:
    gain = tokens_per_step([acceptance] * tokens)
    found = break_even(gain, tokens)
    assert found is not None
    assert isclose(tokens_per_step([found] * tokens), gain, rel_tol=1e-9)


def test_break_even_knows_what_no_guess_can_bring() -> None:
    assert break_even(4.01, 3) is None
    assert break_even(0.9, 3) == 0.0


# ---- what it computes

TINY = "speculate { draft = llama_3_2_1b, tokens = 2, acceptance = 50 % }"
SHARDED = [
    ("llama_3_1_8b", "tp = 8"),
    ("llama_3_1_8b", "tp = 4, pp = 2"),
    ("llama_3_1_8b", "sp = 4, tp = 2"),
    ("llama_3_1_8b", "cp = 4, tp = 2"),
    ("llama_3_1_8b", "dp = 2, tp = 4"),
    ("mixtral_8x7b", "ep = 4, tp = 2"),
    ("gpt_oss_20b", "tp = 4, pp = 2"),
    ("gemma_2_9b", "cp = 2, tp = 4"),
    ("deepseek_v3", "tp = 8"),
    ("deepseek_v3", "ep = 8"),
]


@pytest.mark.parametrize(("model", "sharding"), SHARDED)
def test_a_step_of_several_tokens_is_as_many_steps_of_one(model: str, sharding: str) -> None:
    """Sharded and with all its guesses at once, against the unsharded model token by token, cache included."""
    verdict = plan(LOOKED_UP, model, sharding).verify()
    assert verdict.ok, verdict
    assert verdict.worst < 1e-12


def test_the_draft_is_run_too() -> None:
    made = plan(TINY, "llama_3_1_8b", "tp = 4, pp = 2")
    ran: list[PlanSpec] = []
    assert made.verify().ok
    from plandsl.backends.reference import verify_plan

    def run(spec: PlanSpec) -> tuple:  # type: ignore[type-arg]
        ran.append(spec)
        return programs(spec)

    verify_plan(made.spec, run, plain_programs)
    assert [len(spec.model.blocks) for spec in ran] == [1, 1]
    assert ran[1].model.name == "llama_3_2_1b"
    assert ran[1].sharding.ranks == 4


@pytest.mark.parametrize("sharding", ["tp = 8", "cp = 4, tp = 2", "sp = 2, pp = 2, tp = 2"])
def test_guesses_that_are_rejected_leave_no_trace(sharding: str) -> None:
    """Of two guesses one is wrong, again and again: what comes after is as if it had never been in the cache."""
    small = shrink(plan(LOOKED_UP.replace("3", "2"), "llama_3_1_8b", sharding).spec)
    sizes = {"batch": small.workload.batch, "input": small.workload.input, "queries": small.queries}
    plain = plain_programs(evolve(small, speculate=None))
    weights = make_weights(plain[0], sizes) | make_weights(plain[1], sizes)
    guessing, alone = Machine(*programs(small), weights, sizes, check=True), Machine(*plain, weights, sizes)
    ids = np.random.default_rng(0).integers(4, size=(sizes["batch"], sizes["input"] + 9))
    at = sizes["input"]
    assert difference(guessing.prefill(ids[:, :at]), alone.prefill(ids[:, :at])) < 1e-12
    for _ in range(3):
        step = ids[:, at : at + 3].copy()
        step[:, 2] = (step[:, 2] + 1) % 4  # wrong
        logits = guessing.decode(step)
        guessing.reject(1)
        assert difference(logits[:, :2], one_by_one(alone, ids[:, at : at + 2])) < 1e-12
        at += 2


def test_the_head_sees_every_guess() -> None:
    guessing, alone = plan().decode.program, plan().plain.decode.program
    assert guessing.size("position") == "queries"
    assert guessing.region("head").results[0].type.names == ("batch", "position", "vocab")
    assert not any(isinstance(op, LastToken) for op in guessing.region("head").ops)
    assert alone.size("position") == 1
    assert any(isinstance(op, LastToken) for op in alone.region("head").ops)
    assert plan().prefill.program == plan().plain.prefill.program


@draws(1 / 6)
@given(plans(speculate=True))
def test_laws_hold_of_guesses(spec: PlanSpec) -> None:
    assert_laws(compiled(spec))


# ---- what it takes

BARE = "calibration bare { hbm = 0.8, gemm = 0.5, attention_prefill = 0.5, link = 0.75, launch = 3 us }\n"


def bare(speculate: str, sharding: str = "tp = 8", load: str = "batch = 4") -> CompiledPlan:
    """The plan by the formulas of docs/cost.md."""
    (made,) = compile_text(BARE + text(speculate, "llama_3_1_70b", sharding, load, ", calibration = bare"))
    return made


def seconds(made: CompiledPlan, kind: type, position: int, batch: int = 4) -> list[tuple[object, float]]:
    model = made.cost.main.decode
    times = model.at({"batch": batch, "context": 1000, "queries": position}, 1, [(1.0, 1000.0)])
    pairs = zip(made.decode.program.region("block").ops, times.seconds["block"], strict=True)
    return [(op, float(t)) for op, t in pairs if isinstance(op, kind)]


def test_gemms_multiply_the_rows_of_all_tokens() -> None:
    made = bare(LOOKED_UP)
    gpu = made.spec.node.gpu
    for op, took in seconds(made, Gemm, 4, batch=200):
        assert isinstance(op, Gemm)
        sizes = dict(made.spec.model.sizes)
        split = made.decode.program.mesh.ways(a for w in op.weights for d in w.type.dims for a in d.axes) ** (
            1 / len(op.weights)
        )
        weights = sum(np.prod([sizes[n] for n in w.type.names]) for w in op.weights) / split
        flops = 2 * 200 * 4 * weights
        peak = gpu.peak("bf16")
        assert peak is not None
        assert isclose(took, flops / (0.5 * peak) + 3e-6, rel_tol=1e-12), op


def test_collectives_carry_all_tokens() -> None:
    """Two shots over a switch: 2 (a + (n - 1) / n V / B), with V of four tokens a request."""
    made = bare(LOOKED_UP, load="batch = 512")
    link = made.spec.node.link
    for op, took in seconds(made, AllReduce, 4, batch=512):
        payload = 512 * 4 * 8192 * 2
        assert isclose(took, 2 * (link.latency + 7 / 8 * payload / (0.75 * link.bandwidth)) + 3e-6, rel_tol=1e-12), op


def test_attention_reads_the_cache_once_for_all_guesses() -> None:
    """Bytes of one head group: queries and results four times, keys once; roofline of memory at small batches."""
    from plandsl.ir.compute import Attention

    made = bare(LOOKED_UP)
    ((_, one),) = seconds(made, Attention, 1)
    ((_, four),) = seconds(made, Attention, 4)
    bandwidth = 0.8 * made.spec.node.gpu.bandwidth
    queries = 4 * (64 // 8) * 128 * 2 * 2  # batch 4, 8 heads of a rank, bf16, query and result
    keys = 4 * 1000 * 128 * 2 * 2
    assert isclose(one - 3e-6, (queries + keys) / bandwidth, rel_tol=1e-12)
    assert isclose(four - 3e-6, (4 * queries + keys) / bandwidth, rel_tol=1e-12)


def softmax(made: CompiledPlan, position: int, context: float = 5000.0) -> list[tuple[Softmax, float]]:
    """The attentions of a step of 4 requests, with their seconds."""
    model = made.cost.main.decode
    bind = {"batch": 4, "context": context, "queries": position}
    extents = Extents(made.decode.program, bind, model.extents.mesh)
    works = [w for ops in model.work.values() for w in ops if isinstance(w, Softmax)]
    return [(w, float(w.seconds(Binding(extents, context)))) for w in works]


def test_fitted_attention_takes_the_queries_of_a_request_as_heads_of_its_kv_head() -> None:
    ((work, took),) = softmax(plan(LOOKED_UP), 4)
    form = work.form
    assert isinstance(form, AttentionForm)
    shape = Heads(8 * 4, 1, 128, 8 * 4 * 128 * 2 * 2, 128 * 2 * 2)
    assert isclose(took, decode_seconds(form.constants, form.chip, shape, 4, 5000.0), rel_tol=1e-12)
    many, few = (softmax(plan(LOOKED_UP), n)[0][1] for n in (64, 1))
    assert many > few  # at last it is arithmetic


def test_latent_attention_takes_them_as_heads_too() -> None:
    work, took = softmax(plan(LOOKED_UP, "deepseek_v3"), 4)[0]
    form = work.form
    assert isinstance(form, LatentForm)
    wanted = mla_decode_seconds(
        form.constants, form.chip, heads=16 * 4, batch=4, context=5000.0, item=form.item, cache_item=form.cache_item
    )
    assert isclose(took, wanted, rel_tol=1e-12)


def test_a_window_shows_all_queries_together_a_little_more() -> None:
    """The first of four sees one key that the last does not, three times over: 4096 + 3 keys are read."""
    made = plan(LOOKED_UP, "gemma_2_9b", "tp = 4")
    work, took = next((w, t) for w, t in softmax(made, 4) if w.op.window)
    form = work.form
    assert isinstance(form, AttentionForm)
    shape = Heads(4 * 4, 2, 256, 4 * 4 * 256 * 2 * 2, 2 * 256 * 2 * 2)
    wanted = decode_seconds(
        form.constants, form.chip, shape=shape, batch=4, context=5000.0, window=4096 + 3, divides=form.divides
    )
    assert isclose(took, wanted, rel_tol=1e-12)


def test_the_last_of_the_queries_sees_the_guesses_before_it() -> None:
    """Contexts of a verifying step lie ``tokens`` further than those of a plain one."""
    cost = model_of(bare(LOOKED_UP))
    one = verifying(cost, 4, 1000, 200)
    decode = cost.main.decode
    nodes = decode.contexts(1003.5, 1003.5 + 199)
    assert isclose(one, decode.at({"batch": 4, "context": 0, "queries": 4}, 1, nodes).period, rel_tol=1e-12)


@pytest.mark.parametrize("sharding", ["tp = 8", "tp = 4, pp = 2", "ep = 8"])
def test_tpot_is_the_draft_steps_and_the_verifying_one_over_what_they_bring(sharding: str) -> None:
    model = "mixtral_8x7b" if "ep" in sharding else "llama_3_1_70b"
    small = "mistral_7b_v0_1" if "ep" in sharding else "llama_3_2_1b"
    made = plan(DRAFT.replace("llama_3_2_1b", small), model, sharding)
    cost, metrics = model_of(made), made.cost.evaluate()
    assert cost.draft is not None
    verify = verifying(cost, 4, 1000, 200)
    # batches in flight draft one after the other, on the GPUs of every stage
    draft = cost.draft.step(Step(decode=Decode(4, 1001, 199)), cost.in_flight).period
    assert isclose(metrics.tpot, (3 * draft + verify) / 2.952, rel_tol=1e-12)
    first = made.plain.cost.evaluate().ttft + prefill_step(cost.draft, 4, 1000, cost.in_flight).through
    assert isclose(metrics.ttft, first, rel_tol=1e-12)
    assert metrics.throughput > 0


def test_guesses_that_are_looked_up_cost_the_verifying_step_alone() -> None:
    made = plan(LOOKED_UP)
    verify = verifying(model_of(made), 4, 1000, 200)
    assert isclose(made.cost.evaluate().tpot, verify / 2.952, rel_tol=1e-12)
    assert made.cost.evaluate().ttft == made.plain.cost.evaluate().ttft
    assert ("speculate", "draft", "none, at no cost") in made.estimate().assumed


def test_at_break_even_tpot_is_that_without_guesses() -> None:
    for load in ("batch = 1", "batch = 64", "batch = 256"):
        found = plan(load=load).estimate().speculate
        assert found is not None
        assert found.break_even is not None
        even = plan(load=load).cost.guessing(3, found.break_even).evaluate()
        assert isclose(even.tpot, plan(load=load).plain.cost.evaluate().tpot, rel_tol=1e-9)


def test_guessing_is_worth_more_for_one_request_than_for_many() -> None:
    worth = []
    for load in ("batch = 1", "batch = 16", "batch = 64", "batch = 256"):
        found = plan(load=load).estimate().speculate
        assert found is not None
        worth.append(1.0 if found.break_even is None else found.break_even)
    assert worth == sorted(worth)
    assert worth[0] < 0.5 < worth[-1]


def test_arrays_of_guesses_equal_numbers() -> None:
    cost = plan().cost
    tokens, acceptance = np.array([1, 2, 3, 5])[:, None], np.array([0.0, 0.5, 0.8, 1.0])[None, :]
    many = cost.guessing(tokens, acceptance).evaluate()
    for i, k in enumerate(tokens[:, 0]):
        for j, a in enumerate(acceptance[0]):
            one = cost.guessing(int(k), float(a)).evaluate()
            for name in ("tpot", "throughput", "latency"):
                assert isclose(getattr(many, name)[i, j], getattr(one, name), rel_tol=1e-12), (name, k, a)


def test_the_plans_own_guesses_are_one_of_them() -> None:
    cost = plan().cost
    assert isclose(cost.guessing(3, 0.8).evaluate().tpot, cost.evaluate().tpot, rel_tol=1e-12)


def test_a_server_goes_on_by_what_a_step_brings() -> None:
    """The parts of TPOT that steps make are shared by the tokens that they bring; those of prefills are not."""
    load, engine = "concurrency = 64, requests = 640", ", engine = vllm"
    made = plan(load=load, fields=engine)
    metrics, plain = made.cost.evaluate(), made.plain.cost.evaluate()
    served, before = metrics.served, plain.served
    assert served is not None
    assert before is not None
    spec = made.spec.effective_engine
    assert isclose(served.step, metrics.decode.period / 2.952, rel_tol=1e-12)
    assert isclose(served.host, (spec.step + spec.request * served.running) / 2.952, rel_tol=1e-12)
    assert isclose(metrics.tpot, served.step + served.host + served.others, rel_tol=1e-12)
    assert served.others > before.others  # the draft prefills too
    found = made.estimate()
    assert isclose(found.decode.time_s, found.tpot_s)
    parts = ("compute_s", "communication_s", "draft_s", "bubble_s", "engine_s", "mixed_s")
    assert isclose(sum(getattr(found.decode, p) for p in parts), found.tpot_s, rel_tol=1e-9)


def test_an_engines_host_time_is_that_of_a_step() -> None:
    made = plan(fields=", engine = vllm")
    metrics = made.cost.evaluate()
    spec = made.spec.effective_engine
    assert isclose(metrics.tpot, (metrics.decode.period + spec.step + 4 * spec.request) / 2.952, rel_tol=1e-12)
    added = 4 * (spec.admit + spec.first_request) + spec.first
    assert isclose(metrics.ttft, metrics.prefill.through + added, rel_tol=1e-12)


# ---- what it holds


@pytest.mark.parametrize(("own", "ways"), [("", 8), (", sharding { tp = 2 }", 2), (", sharding { tp = 1 }", 1)])
def test_memory_has_the_weights_and_the_cache_of_the_draft(own: str, ways: int) -> None:
    made = plan(DRAFT.replace(" }", f"{own} }}"), load="batch = 16")
    ours, plain = made.estimate().memory, made.plain.estimate().memory
    matrices = 1_235_814_400 - (2 * 16 + 1) * 2048
    weights = (matrices / ways + (2 * 16 + 1) * 2048) * 2  # every rank has all gains
    assert isclose(ours.weights - plain.weights, weights, rel_tol=1e-12)
    token, length = 2 * 16 * 8 * 64 * 2 / ways, 1200 + 3
    theirs = plain.kv_cache * length / 1200
    assert isclose(ours.kv_cache - theirs, 16 * length * token, rel_tol=1e-12)
    found = made.estimate().speculate
    assert found is not None
    assert isclose(found.draft_weights_bytes, weights, rel_tol=1e-12)


def test_requests_that_the_draft_shares_otherwise_are_counted_as_it_has_them() -> None:
    """With experts, each rank has an eighth of the requests; a draft on every rank by itself has all of them."""
    small = "speculate { draft = mistral_7b_v0_1, tokens = 1, acceptance = 80 %, sharding { tp = 1 } }"
    made = plan(small, "mixtral_8x7b", "ep = 8", "batch = 64")
    ours, plain = made.estimate().memory, made.plain.estimate().memory
    token = 2 * 32 * 8 * 128 * 2
    assert isclose(ours.kv_cache, plain.kv_cache * 1201 / 1200 + 64 * 1201 * token, rel_tol=1e-12)


def test_activations_are_those_of_all_tokens_of_a_step() -> None:
    """Without a long prompt, the largest step is the one that verifies."""
    load = "batch = 64"
    (made,) = compile_text(text(LOOKED_UP, load=load).replace("input = 1000", "input = 1"))
    (four,) = compile_text(text("", load="batch = 256").replace("input = 1000", "input = 1"))
    logits = 128256 * item_bytes("bf16")
    assert made.estimate().memory.activations >= 4 * 64 * logits / 8
    assert isclose(made.estimate().memory.activations, four.estimate().memory.activations, rel_tol=0.05)


# ---- the language


def test_a_list_of_rates_needs_no_count() -> None:
    spec = plan("speculate { acceptance = [85 %, 70 %, 55 %] }").spec.speculate
    assert spec is not None
    assert spec.acceptance == (0.85, 0.7, 0.55)
    assert spec.draft is None
    assert plan("speculate { draft = none, tokens = 2, acceptance = 0.5 }").spec.queries == 3


def test_a_draft_has_the_plans_sharding_as_far_as_it_applies() -> None:
    """No replicas, no stages, and of dimensions those that it has."""
    made = plan(DRAFT, "llama_3_1_70b", "dp = 2, pp = 2, tp = 2")
    assert made.draft is not None
    assert [(a.name, a.size) for a in made.draft.spec.sharding.axes] == [("tensor", 2)]
    experts = plan(DRAFT.replace("llama_3_2_1b", "mistral_7b_v0_1"), "mixtral_8x7b", "ep = 4, tp = 2")
    assert experts.draft is not None
    assert experts.draft.spec.sharding.axis("expert") == 4
    dims = {d for rule in experts.draft.spec.sharding.rules for d in rule.dims}
    assert dims == {"batch", "heads", "kv_heads", "ffn", "vocab"}  # the experts have no `ffn`


@pytest.mark.parametrize(
    ("speculate", "code", "words"),
    [
        ("speculate { tokens = 3 }", "E207", "no `acceptance`"),
        ("speculate { acceptance = 80 % }", "E207", "no `tokens`"),
        ("speculate { tokens = 3, acceptance = 120 % }", "E224", "found 120 %"),
        ("speculate { tokens = 3, acceptance = [80 %, 60 %] }", "E224", "2 shares for 3"),
        ("speculate { acceptance = [] }", "E224", "a list of 1 to 256"),
        ("speculate { tokens = 0, acceptance = 80 % }", "E214", "1 or more"),
        ("speculate { tokens = 3, acceptance = 80 ms }", "E204", "found a time"),
        ("speculate { tokens = 3, acceptance = 80 %, draft = llama_3_2_2b }", "E201", "llama_3_2_2b"),
        ("speculate { tokens = 3, acceptance = 80 %, draft = 7 }", "E210", "name of a model"),
        ("speculate { tokens = 3, acceptance = 80 %, draft = mistral_7b }", "E225", "32,768 tokens"),
        ("speculate { tokens = 3, acceptance = 80 %, sharding { tp = 2 } }", "E225", "needs a draft model"),
        (DRAFT.replace(" }", ", sharding { pp = 2 } }"), "E225", "runs whole"),
        (DRAFT.replace(" }", ", sharding { dp = 2 } }"), "E225", "runs whole"),
        (DRAFT.replace(" }", ", sharding { tp = 3 } }"), "E225", "3 ranks"),
        ("speculate { tokens = 3, acceptance = 80 %, rate = 2 }", "E206", "no field `rate`"),
        ("speculate = 3", "E210", "is a section"),
    ],
)
def test_mistakes_are_named(speculate: str, code: str, words: str) -> None:
    with pytest.raises(PlanError) as caught:
        compile_text(text(speculate))
    found = [d for d in caught.value.diagnostics if d.severity == "error"]
    assert (found[0].code, words in found[0].message) == (code, True), found[0]
    assert found[0].span is not None
    assert found[0].hint or code in ("E201", "E214", "E206")


def test_a_model_that_sees_ahead_is_refused() -> None:
    code, message = refused(LOOKED_UP, "llama_3_1_8b with { causal = false }")
    assert code == "E225"
    assert "sees later tokens" in message


def test_a_draft_that_cannot_be_split_is_named() -> None:
    """The degree divides the plan's model, and not the draft."""
    odd = "llama_3_2_1b with { heads = 24, hidden = 1536, kv_heads = 6 }"
    code, message = refused(DRAFT.replace("llama_3_2_1b", odd))
    assert code == "E301"
    assert "kv_heads = 6" in message


def test_overrides_and_with_reach_into_it() -> None:
    (made,) = compile_text(text(), overrides=[("speculate.tokens", "5"), ("speculate.acceptance", "0.9")])
    assert made.spec.queries == 6
    assert made.estimate().speculate is not None


@pytest.mark.parametrize("speculate", [DRAFT, LOOKED_UP, DRAFT.replace(" }", ", sharding { tp = 2 } }")])
def test_text_of_a_plan_reads_back(speculate: str) -> None:
    (again,) = compile_text(show_plan(plan(speculate).spec))
    assert same(again.spec, plan(speculate).spec)


def test_the_note_says_what_is_taken_for_granted() -> None:
    notes = {d.code: d.message for d in plan(LOOKED_UP).notes}
    assert notes["N322"].endswith("80 % of guesses are right if all guesses before them are, and a guess costs nothing")
    assert "nothing" not in {d.code: d.message for d in plan().notes}["N322"]


# ---- what is said


def test_json_has_the_guesses_and_only_where_there_are_any() -> None:
    found = plan().estimate().as_json()
    assert found["speculate"]["tokens"] == 3
    assert found["speculate"]["draft"] == "llama_3_2_1b"
    assert isclose(found["speculate"]["tokens_per_step"], 2.952)
    assert isclose(found["tpot_s"], found["speculate"]["step_s"] / 2.952)
    assert isclose(found["decode"]["draft_s"] * 2.952, found["speculate"]["draft_s"])
    json.dumps(found)
    plain = plan().plain.estimate().as_json()
    assert "speculate" not in plain
    assert "draft_s" not in plain["decode"]


def test_two_shardings_each_have_the_draft() -> None:
    shift = "shift { base { sp = 8 }, tensor { tp = 8 }, threshold = 16 }, "
    source = text(DRAFT, "llama_3_1_8b").replace("sharding { tp = 8 }", shift.rstrip(", "))
    (made,) = compile_text(source)
    found = made.estimate()
    assert found.shift is not None
    assert found.speculate is not None
    assert found.shift.decode == "tensor"  # 4 requests of 4 tokens
    assert isclose(found.tpot_s, found.shift.tensor.tpot_s, rel_tol=1e-12)
    assert made.verify().ok
    (more,) = compile_text(source.replace("batch = 4", "batch = 5"))
    assert more.estimate().shift.decode == "base"  # type: ignore[union-attr]


@pytest.mark.parametrize("view", ["devices", "block", "timeline", "memory"])
@pytest.mark.parametrize("sharding", ["tp = 8", "tp = 4, pp = 2"])
def test_pictures_say_who_guesses(view: str, sharding: str) -> None:
    drawn = plan(sharding=sharding).draw(view, "decode")
    assert "3 guessed by llama_3_2_1b, 2.95 tokens a step" in drawn
    assert ("draft" in drawn) == (view == "timeline")


# ---- the model's own


MTP = "speculate { draft = mtp, tokens = 1, acceptance = 85 % }"


def test_the_mtp_of_deepseek_has_the_parameters_that_are_published() -> None:
    """11.5B, and 14B with the embedding and the head that it shares (the weights' README)."""
    spec = plan(MTP, "deepseek_v3").spec.speculate
    assert spec is not None
    assert spec.draft is not None
    assert spec.own
    whole = parameters(build_model(spec.draft, "decode", "bf16"))
    shared = 2 * 129280 * 7168
    assert round((whole - shared) / 1e9, 1) == 11.6
    assert 13e9 < whole < 14e9
    attention = 7168 * 1536 + 1536 * 128 * 192 + 7168 * 576 + 512 * 128 * 256 + 128 * 128 * 7168
    experts = 257 * 3 * 7168 * 2048 + 7168 * 256 + 256
    gains = 5 * 7168 + 1536 + 512  # two before the projection, two of the block, one of the head
    assert whole == shared + 2 * 7168 * 7168 + attention + experts + gains


def test_the_model_is_as_large_as_before_unless_it_drafts() -> None:
    alone = plan("", "deepseek_v3").estimate()
    assert alone.parameters == 671_026_419_200 == plan(MTP, "deepseek_v3").estimate().parameters
    found = plan(MTP, "deepseek_v3").estimate()
    assert found.speculate is not None
    split = 257 * 3 * 7168 * 2048 / 8  # one byte each; attention is split too, the projection is not
    assert split < found.speculate.draft_weights_bytes < split + 0.3e9
    assert found.memory.weights - alone.memory.weights == found.speculate.draft_weights_bytes


def test_an_mtp_on_the_only_stage_reads_the_embedding_and_the_head_that_are_there() -> None:
    whole, stages = plan(MTP, "deepseek_v3", "tp = 4"), plan(MTP, "deepseek_v3", "pp = 2, tp = 4")
    one, two = (made.estimate().speculate for made in (whole, stages))
    assert one is not None
    assert two is not None
    # with two stages, each lacks one of the two, of two bytes an element
    assert isclose(two.draft_weights_bytes - one.draft_weights_bytes, 2 * 129280 * 7168 / 4, rel_tol=1e-3)


@pytest.mark.parametrize("sharding", ["tp = 8", "ep = 8", "pp = 2, tp = 4", "dp = 2, ep = 4"])
def test_an_mtp_computes_the_same_however_it_is_split(sharding: str) -> None:
    verdict = plan(MTP, "deepseek_v3", sharding).verify()
    assert verdict.ok, verdict
    assert verdict.worst < 1e-12


def test_two_tokens_by_the_mtp_run_it_twice() -> None:
    one, two = (plan(MTP.replace("1", k), "deepseek_v3").estimate().speculate for k in "12")
    assert one is not None
    assert two is not None
    assert isclose(two.draft_s, 2 * one.draft_s)


def test_concat_puts_one_value_behind_the_other() -> None:
    program = plan(MTP, "deepseek_v3").draft.decode.program  # type: ignore[union-attr]
    (op,) = (op for op in program.region("block").ops if isinstance(op, Concat))
    assert [x.type.names[-1] for x in op.xs] == ["hidden", "hidden"]
    assert op.out.type.names[-1] == "pair"
    assert program.size("pair") == 2 * 7168


def test_an_mtp_reads_back() -> None:
    (again,) = compile_text(show_plan(plan(MTP, "deepseek_v3").spec))
    assert same(again.spec, plan(MTP, "deepseek_v3").spec)
    assert again.spec.speculate is not None
    assert again.spec.speculate.own


JOIN = "x = x + concat(rms_norm(e), rms_norm(x), into = pair) @ w[pair, hidden]"


def own(body: str, token: str = "e[tokens, hidden]") -> str:
    return f"mtp x[tokens, hidden] with {token} {{ {body} }}"


@pytest.mark.parametrize(
    ("mtp", "code", "words"),
    [
        (own(JOIN, "e[tokens, ffn]"), "E213", "need the same dimensions"),
        (own(JOIN, "x[tokens, hidden]"), "E213", "need the same dimensions"),
        (own("y = x + e"), "E213", "never changes `x`"),
        (own(JOIN.replace("into = pair", "into = ffn")), "E213", "8,192 elements"),
        (own(JOIN.replace("into = pair", "into = 7")), "E213", "`into` must name"),
        (own(JOIN.replace(", into = pair", "")), "E213", "`into` must name"),
        (own(JOIN.replace("rms_norm(e), ", "")), "E213", "takes 2 tensors"),
        (own(JOIN.replace("rms_norm(e)", "e @ v[hidden, ffn]")), "E213", "of the same"),
        (f"{own(JOIN)}\n{own(JOIN)}", "E202", "one `mtp`"),
    ],
)
def test_mistakes_in_an_mtp_are_named(mtp: str, code: str, words: str) -> None:
    source = f"model m = llama_3_1_8b with {{\n pair = 2 * hidden\n {mtp}\n}}\n" + text(MTP, "m", "tp = 2")
    with pytest.raises(PlanError) as caught:
        compile_text(source)
    found = [d for d in caught.value.diagnostics if d.severity == "error"]
    assert any((d.code, words in d.message) == (code, True) for d in found), found


def test_a_model_without_an_mtp_cannot_draft_by_it() -> None:
    code, message = refused(MTP, "llama_3_1_8b")
    assert code == "E225"
    assert "has no `mtp`" in message


def test_any_model_may_have_an_mtp() -> None:
    source = f"model m = llama_3_1_8b with {{\n pair = 2 * hidden\n {own(JOIN)}\n}}\n" + text(
        MTP, "m", "tp = 4, pp = 2"
    )
    (made,) = compile_text(source)
    assert made.verify().ok
    (again,) = compile_text(format_text(source, "m.plan"))
    assert same(again.spec, made.spec)
