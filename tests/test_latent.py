"""Latent attention: what decode absorbs is what prefill unpacks, on every mesh, and the cache holds no heads."""

from __future__ import annotations

import numpy as np
import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from plandsl.answers.phases import OpTime
from plandsl.backends.cost.forms.attention import Chip, visible_pairs
from plandsl.backends.cost.forms.mla import mla_decode_seconds, mla_prefill_seconds
from plandsl.backends.cost.work.attention import Softmax
from plandsl.backends.cost.work.latent import LatentForm
from plandsl.backends.cost.work.work import Binding
from plandsl.backends.reference.shrink import shrink
from plandsl.backends.reference.verify import Phases, compare, verify_long_prefill
from plandsl.diagnostics import PlanError
from plandsl.driver import CompiledPlan, compile_text
from plandsl.ir.compute import CacheWrite, Gemm
from plandsl.ir.extents import Extents
from plandsl.ir.latent import HeadGemm, LatentAttention
from plandsl.ir.meaning.attention import Mask, attention, latent_attention
from plandsl.ir.ops import COLLECTIVES, Op
from plandsl.ir.program import Program, verify
from plandsl.ir.text import read, read_op, read_type, show
from plandsl.ir.types import Value, tensor
from plandsl.passes import program_after
from plandsl.passes.rewrite import each_region, replace_fields
from plandsl.show import show_plan
from plandsl.spec.constants import MlaDecodeConstants, MlaPrefillConstants
from plandsl.spec.plan import PlanSpec
from plandsl.testing import same

SHARDINGS = {
    "alone": "",
    "tp": "tp = 4",
    "pp": "pp = 2",
    "tp and pp": "tp = 2, pp = 4",
    "dp": "dp = 2, tp = 2",
    "Ulysses": "sp = 4, tp = 2",
    "Ulysses alone": "sp = 2",
    "requests": "mesh expert = 4\n batch -> expert",
    "requests and heads": "mesh expert = 4, tensor = 2\n batch -> expert\n heads, ffn, vocab -> tensor",
    "requests in attention": "mesh tensor = 4\n heads, ffn, vocab -> tensor\n in attention { batch -> tensor }",
    "positions, heads whole": "mesh seq = 2\n tokens -> seq",
    "Megatron": "mesh tensor = 4\n heads, ffn, vocab -> tensor\n tokens -> tensor",
    "ranks of weights": "mesh a = 2, b = 2\n kv_rank, q_rank -> a\n nope_dim, v_dim -> b",
    "rank before heads": "mesh a = 4\n kv_rank -> a\n heads -> a",
    "heads of values last": "mesh a = 2, b = 2\n heads -> a\n in attention { heads -> b, a }\n v_dim -> b",
}

MODEL = """
model mla {
  layers = 4, hidden = 64, heads = 8, vocab = 1000, ffn = 128
  q_rank = 48, kv_rank = 32, nope_dim = 16, rope_dim = 8, v_dim = 24
  weights = bf16
  embedding w_embed[vocab, hidden]
  block x[tokens, hidden] {
    h = rms_norm(x)
    cq = rms_norm(h @ w_dq[hidden, q_rank])
    qn = cq @ w_uq[q_rank, heads, nope_dim]
    qr = rope(cq @ w_qr[q_rank, heads, rope_dim])
    c = rms_norm(h @ w_dkv[hidden, kv_rank])
    kr = rope(h @ w_kr[hidden, rope_dim])
    a = attention(query(qn, qr), latent(c, kr, w_uk[kv_rank, heads, nope_dim], w_uv[kv_rank, heads, v_dim]))
    x = x + a @ w_o[heads, v_dim, hidden]
    x = x + silu(rms_norm(x) @ w_up[hidden, ffn]) @ w_down[ffn, hidden]
  }
  head rms_norm(x) @ w_embed[vocab, hidden]
}
"""


def plan_of(sharding: str = "", model: str = "", load: str = "input = 400, output = 100, batch = 8") -> CompiledPlan:
    text = f"{MODEL}\nplan p {{ model = mla{model}, node = h100_8, sharding {{ {sharding} }}, workload {{ {load} }} }}"
    (plan,) = compile_text(text)
    return plan


def ops_of(program: Program, kind: type[Op]) -> list[Op]:
    return [op for region in program.regions for op in region.ops if isinstance(op, kind)]


DEEPSEEK = " with { heads = 128, kv_rank = 512, nope_dim = 128, rope_dim = 64, v_dim = 128 }"


# ---- meaning


@pytest.mark.parametrize("sharding", SHARDINGS.values(), ids=SHARDINGS)
def test_latent_attention_verifies(sharding: str) -> None:
    verdict = plan_of(sharding).verify()
    assert verdict.ok, verdict.message


def unsharded(model: str = "") -> tuple[Phases, dict[str, int]]:
    plan = shrink(plan_of("", model).spec)
    phases = program_after(plan, "prefill", "build"), program_after(plan, "decode", "build")
    return phases, {"batch": plan.workload.batch, "input": plan.workload.input}


@pytest.mark.parametrize("model", ["", " with { kv_cache = fp8 }", " with { rope_dim = 2, v_dim = 16 }"])
def test_absorbed_decode_is_unpacked_prefill(model: str) -> None:
    phases, sizes = unsharded(model)
    assert ops_of(phases[0], HeadGemm) == [], "prefill unpacks"
    assert len(ops_of(phases[1], HeadGemm)) == 2, "decode absorbs"
    verdict = verify_long_prefill(phases, sizes)
    assert verdict.ok, verdict.message
    assert verdict.worst < 1e-9


def test_two_parts_of_a_key_are_one_longer_key() -> None:
    draw = np.random.default_rng(3).standard_normal
    q, qr, k, kr, v = draw((2, 3, 4, 6)), draw((2, 3, 4, 2)), draw((2, 5, 4, 6)), draw((2, 5, 2)), draw((2, 5, 4, 7))
    every = np.broadcast_to(kr[:, :, None], (2, 5, 4, 2))
    mask = Mask(np.arange(2, 5), np.arange(5), window=2)
    long = attention(np.concatenate([q, qr], -1), np.concatenate([k, every], -1), v, mask)
    found = latent_attention((q, qr), (k, kr), v, mask, 8**-0.5)
    assert np.allclose(found, long, rtol=0, atol=1e-12)


def test_packed_keys_serve_every_head() -> None:
    draw = np.random.default_rng(4).standard_normal
    q, qr, c, kr = draw((2, 1, 4, 6)), draw((2, 1, 4, 2)), draw((2, 5, 6)), draw((2, 5, 2))
    own = np.broadcast_to(c[:, :, None], (2, 5, 4, 6))
    mask = Mask(np.array([4]), np.arange(5))
    one, many = (latent_attention((q, qr), (k, kr), k, mask, 0.3) for k in (c, own))
    assert np.allclose(one, many, rtol=0, atol=1e-12)


def mutant(op: Op, number: int) -> Op:
    """Ways to get latent attention wrong that keep every shape: 0 and 1."""
    if not isinstance(op, LatentAttention):
        return op
    return replace_fields(op, {"causal": False} if number else {"scaled": op.v.type.names[-1]})


def test_a_wrong_scale_and_a_lost_mask_are_seen() -> None:
    (prefill, decode), sizes = unsharded()
    plain = prefill, decode
    seen = 0
    for program in plain:
        for number in range(2):
            wrong = each_region(program, lambda r, n=number: evolve(r, ops=tuple(mutant(op, n) for op in r.ops)))
            pair = (wrong, decode) if program is prefill else (prefill, wrong)
            same = wrong == program
            found = compare(pair, plain, sizes)
            harmless = same or (program is decode and number == 1)  # one query sees all keys either way
            assert found.ok == harmless
            seen += not found.ok
    assert seen == 3


# ---- programs


def test_prefill_unpacks_in_one_product_and_decode_leaves_the_cache_packed() -> None:
    plan = plan_of("tp = 4")
    prefill, decode = plan.prefill.program, plan.decode.program
    (unpacked,) = (op for op in ops_of(prefill, Gemm) if len(op.weights) == 2 and op.weights[0].name == "w_uk")
    assert [str(out.type) for out in unpacked.outs] == [
        "bf16[batch, context, heads@tensor, nope_dim]",
        "bf16[batch, context, heads@tensor, v_dim]",
    ]
    (attending,) = ops_of(decode, LatentAttention)
    assert isinstance(attending, LatentAttention)
    assert attending.k == attending.v
    assert str(attending.k.type) == "bf16[batch, context, kv_rank]"
    assert [op.weights[0].name for op in ops_of(decode, Gemm) if isinstance(op, HeadGemm)] == ["w_uk", "w_uv"]


@pytest.mark.parametrize("sharding", SHARDINGS.values(), ids=SHARDINGS)
def test_programs_read_back_and_are_sound(sharding: str) -> None:
    for phase in ("prefill", "decode"):
        program = program_after(plan_of(sharding).spec, phase, "place-memory")
        assert read(show(program)) == program
        assert list(verify(program)) == []


def collectives(plan: CompiledPlan, phase: str) -> list[str]:
    program = (plan.prefill if phase == "prefill" else plan.decode).program
    (block,) = (r for r in program.regions if r.layers)
    return [op.keyword for op in block.ops if isinstance(op, COLLECTIVES)]


def test_heads_over_ranks_cost_two_sums_a_layer_and_requests_over_ranks_nothing() -> None:
    for phase in ("prefill", "decode"):
        assert collectives(plan_of("tp = 4"), phase) == ["all_reduce"] * 2
        assert collectives(plan_of(SHARDINGS["requests"]), phase) == []


def laid(text: str, *operands: str) -> Op:
    known = {f"x{i}": Value(f"x{i}", read_type(t)) for i, t in enumerate(operands)}
    return read_op(text, known)


@pytest.mark.parametrize(
    ("w", "message"),
    [
        ("bf16[kv_rank, heads, nope_dim]", "differently"),
        ("bf16[kv_rank@b, heads@a, nope_dim]", "one axis for two"),
        ("bf16[kv_rank, heads@a]", "contracts nothing"),
    ],
)
def test_a_product_for_each_head_wants_operands_that_meet(w: str, message: str) -> None:
    line = '%y : bf16[batch] = head_gemm %x0, %x1 {compute = "bf16", over = "heads"}'
    op = laid(line, "bf16[batch@b, position, heads@a, nope_dim]", w)
    assert any(message in d.message for d in op.verify()), [d.message for d in op.verify()]


@pytest.mark.parametrize(
    ("index", "type_", "message"),
    [
        (0, "bf16[batch@b, position, heads@a, kv_rank@c]", "last dimensions whole"),
        (3, "bf16[batch@b, context@a, rope_dim]", "on an axis of the queries"),
        (3, "bf16[batch@b, context@c, rope_dim]", "different layouts"),
        (3, "bf16[batch, context, rope_dim]", "different layouts"),
        (2, "bf16[batch@b, context, heads, kv_rank]", "different layouts"),
    ],
)
def test_latent_attention_wants_operands_that_meet(index: int, type_: str, message: str) -> None:
    types = [
        "bf16[batch@b, position, heads@a, kv_rank]", "bf16[batch@b, position, heads@a, rope_dim]",
        "bf16[batch@b, context, kv_rank]", "bf16[batch@b, context, rope_dim]", "bf16[batch@b, context, kv_rank]",
    ]  # fmt: skip
    line = '%y : bf16[batch] = latent_attention %x0, %x1, %x2, %x3, %x4 {scaled = "nope_dim"}'
    assert list(laid(line, *types).verify()) == []
    types[index] = type_
    assert any(message in d.message for d in laid(line, *types).verify())


# ---- memory


@pytest.mark.parametrize(("dtype", "size"), [("bf16", 2), ("fp8", 1)])
def test_a_token_takes_its_rank_and_its_positions_and_no_heads(dtype: str, size: int) -> None:
    plan = plan_of("", f" with {{ kv_cache = {dtype} }}")
    assert plan.estimate().kv_bytes_per_token == 4 * (32 + 8) * size
    assert plan.cost.memory.kv_per_request(0, 500) == 500 * 4 * (32 + 8) * size


def test_the_cache_is_whole_on_ranks_of_heads_and_split_by_requests() -> None:
    each = 500 * 4 * (32 + 8) * 2
    for sharding, local in (("", 8), ("tp = 4", 8), ("sp = 4", 8), (SHARDINGS["requests"], 2), ("dp = 2", 8)):
        plan = plan_of(sharding)
        held = plan.cost.memory.held(0, 8, 500, 400, 1)
        assert held.kv_cache == local * each, sharding
    assert plan_of("tp = 4, pp = 2").cost.memory.kv_per_request(0, 500) * 2 == each


def test_unpacked_keys_and_values_are_activations_of_prefill() -> None:
    """A token's keys and values of all heads are counted while they live, and they are no part of the cache."""
    small, large = plan_of(), plan_of("", " with { heads = 64 }")
    assert small.cost.memory.kv_per_request(0, 500) == large.cost.memory.kv_per_request(0, 500)
    together = 2 * 64 * (16 + 8 + 16 + 24)  # both parts of queries, keys and values
    assert large.cost.memory.step(0, 8, 400)[0] >= 8 * 400 * together


def test_whoever_is_named_first_has_the_axis() -> None:
    heads_first = plan_of("mesh t = 4\n heads -> t\n batch -> t")
    requests_first = plan_of("mesh t = 4\n batch -> t\n heads -> t")
    each = 500 * 4 * (32 + 8) * 2
    assert heads_first.cost.memory.held(0, 8, 500, 400, 1).kv_cache == 8 * each
    assert requests_first.cost.memory.held(0, 8, 500, 400, 1).kv_cache == 2 * each
    assert heads_first.verify().ok
    assert requests_first.verify().ok


def test_parameters_are_those_of_the_weights() -> None:
    attention = 64 * 48 + 48 + 48 * 8 * (16 + 8) + 64 * 32 + 32 + 64 * 8 + 32 * 8 * (16 + 24) + 8 * 24 * 64
    layer = attention + 2 * 64 + 2 * 64 * 128
    assert plan_of().estimate().parameters == 4 * layer + 1000 * 64 + 64
    assert plan_of("tp = 4").estimate().parameters == plan_of().estimate().parameters


# ---- cost


def line(plan: CompiledPlan, phase: str, name: str) -> OpTime:
    estimate = plan.estimate()
    ops = estimate.prefill.ops if phase == "prefill" else estimate.decode.ops
    (found,) = (o for o in ops if o.name == name and not o.communicates)
    return found


def softmax(plan: CompiledPlan, phase: str) -> Softmax:
    model = plan.cost.main.prefill if phase == "prefill" else plan.cost.main.decode
    (found,) = (w for w in model.work["block"] if isinstance(w, Softmax))
    return found


@pytest.mark.parametrize("ways", [1, 4])
def test_attention_multiplies_unpacked_keys_in_prefill_and_packed_ones_in_decode(ways: int) -> None:
    plan = plan_of(f"tp = {ways}", load="input = 400, output = 1, batch = 8")
    pairs, heads = visible_pairs(400, 400, True, 0), 8 // ways
    assert line(plan, "prefill", "latent").flops == 2 * (16 + 8 + 24) * heads * 8 * pairs
    decode = line(plan, "decode", "latent")
    assert decode.flops == pytest.approx(2 * (32 + 8 + 32) * heads * 8 * 401)  # the step's own token is cached
    keys, queries = (32 + 8) * 2, heads * (32 + 8 + 32) * 2
    assert decode.bytes == pytest.approx(8 * (401 * keys + queries))


@pytest.mark.parametrize("ways", [1, 4])
def test_absorbed_products_are_gemms_of_their_own(ways: int) -> None:
    plan, heads = plan_of(f"tp = {ways}"), 8 // ways
    uk, uv = line(plan, "decode", "uk"), line(plan, "decode", "uv")
    assert (uk.op, uk.flops) == ("gemm", 2 * 8 * heads * 16 * 32)
    assert (uv.op, uv.flops) == ("gemm", 2 * 8 * heads * 32 * 24)
    unpacked = line(plan, "prefill", "uk_uv")
    assert unpacked.flops == 2 * 8 * 400 * 32 * heads * (16 + 24)


def test_the_fitted_forms_answer_for_heads_of_the_size_that_was_measured() -> None:
    plan = plan_of("tp = 4", DEEPSEEK, "input = 4000, output = 2, batch = 8")
    gpu, c = plan.spec.node.gpu, plan.spec.calibration
    assert gpu.units is not None
    chip = Chip(gpu.units, gpu.peak("bf16") or 0.0, gpu.bandwidth)
    of_prefill = c.constants(MlaPrefillConstants, "mla_prefill.bf16")
    wanted = mla_prefill_seconds(
        of_prefill, chip, heads=32, batch=8, position=4000, context=4000, item=2.0, cache_item=2.0
    )
    assert line(plan, "prefill", "latent").time_s == pytest.approx(4 * wanted, rel=1e-12)
    model = plan.cost.main.decode
    seconds = model.at({"batch": 8, "context": 4000}, 1, [(1.0, 5000.0)]).seconds["block"]
    (at,) = (i for i, w in enumerate(model.work["block"]) if isinstance(w, Softmax))
    wanted = mla_decode_seconds(
        c.constants(MlaDecodeConstants, "mla_decode.bf16"),
        chip,
        heads=32,
        batch=8,
        context=5000.0,
        item=2.0,
        cache_item=2.0,
    )
    assert seconds[at] == pytest.approx(wanted, rel=1e-12)


def test_heads_of_other_sizes_have_no_fitted_form() -> None:
    """Kernels were measured with DeepSeek's heads alone, and those of other sizes have tiles of their own."""
    measured, wide = DEEPSEEK, DEEPSEEK.replace("rope_dim = 64", "rope_dim = 96")
    for phase in ("prefill", "decode"):
        found = [softmax(plan_of("tp = 4", sizes), phase).form for sizes in (measured, wide, "")]
        assert [isinstance(form, LatentForm) for form in found] == [True, False, False], phase


def test_the_measured_prefill_fills_the_cache_itself() -> None:
    plan = plan_of("tp = 4", DEEPSEEK)
    (at,) = (i for i, op in enumerate(block(plan, "prefill")) if isinstance(op, CacheWrite))
    assert plan.cost.main.prefill.work["block"][at].launch == 0
    assert all(o.name != "cache_write" for o in plan.estimate().prefill.ops)
    assert any(o.name == "cache_write" for o in plan.estimate().decode.ops)


def block(plan: CompiledPlan, phase: str) -> tuple[Op, ...]:
    program = (plan.prefill if phase == "prefill" else plan.decode).program
    return next(r.ops for r in program.regions if r.layers)


@pytest.mark.parametrize("sizes", ["", " with { kv_rank = 256 }", DEEPSEEK])
@given(batch=st.integers(1, 600), context=st.integers(2, 60_000))
def test_more_requests_and_longer_contexts_take_no_less(sizes: str, batch: int, context: int) -> None:
    model = PLANS.setdefault(sizes, plan_of("tp = 4", sizes)).cost.main.decode

    def step(batch: float, context: float) -> float:
        return float(model.at({"batch": batch, "context": context}, 1, [(1.0, context)]).period)

    here = step(batch, context)
    assert step(batch + 1, context) >= here * (1 - 1e-9)
    assert step(batch, context + 64) >= here * (1 - 1e-9)


PLANS: dict[str, CompiledPlan] = {}


def test_without_constants_attention_is_a_roofline() -> None:
    text = (
        MODEL
        + """
      gpu g { memory = 80 GB, bandwidth = 1 TB/s, compute { bf16 = 100 TFLOP/s }, calibration = bare }
      calibration bare { gemm = 1, attention_prefill = 1, hbm = 1, link = 1, launch = 0 s }
      node n { gpu = g, count = 1, link { topology = mesh, bandwidth = 50 GB/s, latency = 0 s } }
      plan p { model = mla, node = n, workload { input = 4000, output = 1, batch = 8 } }
    """
    )
    (plan,) = compile_text(text)
    attending = line(plan, "prefill", "latent")
    assert attending.time_s == pytest.approx(4 * attending.flops / 1e14)
    assert softmax(plan, "prefill").form is None
    model, work = plan.cost.main.decode, softmax(plan, "decode")
    moved = 8 * (5000 * (32 + 8) * 2 + 8 * (32 + 8 + 32) * 2)
    extents = Extents(model.schedule.program, {"batch": 8, "context": 0})
    assert work.seconds(Binding(extents, 5000)) == moved / 1e12


def test_ulysses_absorbs_the_heads_of_each_rank_only() -> None:
    plan = plan_of("sp = 4")
    assert line(plan, "decode", "uk").flops == 2 * 8 * 2 * 16 * 32
    assert line(plan, "prefill", "uk_uv").flops == 2 * 8 * 400 * 32 * 2 * (16 + 24)
    assert line(plan, "prefill", "latent").flops * 4 == line(plan_of(), "prefill", "latent").flops


@pytest.mark.parametrize("phase", ["prefill", "decode"])
def test_mfu_is_the_arithmetic_of_all_ops_over_what_the_gpu_could_do(phase: str) -> None:
    plan = plan_of("", DEEPSEEK)
    found = getattr(plan.estimate(), phase)
    done = sum(op.count * op.flops for op in found.ops)
    assert found.mfu * found.time_s * (plan.spec.node.gpu.peak("bf16") or 0) == pytest.approx(done, rel=1e-3)


def test_mfu_counts_the_arithmetic_of_every_product_once() -> None:
    one, four = plan_of("", DEEPSEEK), plan_of("tp = 4", DEEPSEEK)
    for phase in ("prefill", "decode"):
        assert 0 < getattr(four.estimate(), phase).mfu < getattr(one.estimate(), phase).mfu < 1


# ---- language


PLAN = "plan p { model = mla, node = h100_8, workload { input = 9, output = 9 } }"
UK, UV = "w_uk[kv_rank, heads, nope_dim]", "w_uv[kv_rank, heads, v_dim]"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ("attention(qn, latent(c, kr, UK, UV))", "expected `query"),
        ("attention(query(qn, qr), c)", "expected `latent"),
        ("attention(query(qn, qr), latent(c, kr, UK))", "takes 4 tensors, found 3"),
        ("attention(query(qn), latent(c, kr, UK, UV))", "2 tensors"),
        ("attention(query(qn, kr), latent(c, kr, UK, UV))", "same heads"),
        ("attention(query(qn, qn), latent(c, kr, UK, UV))", "end in"),
        ("attention(query(qn, qr), latent(c, kr, w_uk[heads, kv_rank, nope_dim], UV))", "for keys"),
        ("attention(query(qn, qr), latent(c, kr, UK, w_uv[kv_rank, v_dim]))", "for values"),
        ("attention(query(qn, qr), latent(c, kr, UK, qn))", "are weights"),
        ("attention(query(qn, qr), latent(qn, kr, UK, UV))", "first two arguments"),
        ("attention(query(qn, qr), latent(c, kr, UK, UK))", "different weights"),
        ("silu(query(qn, qr))", "is not a tensor"),
        ("silu(latent(c, kr, qn, qr))", "is not a tensor"),
        ("attention(query(qn, qr), latent(c, kr, UK, UV, top = 3))", "tensors only"),
        ("attention(query(qn, qr), c, kr)", "latent attention takes"),
    ],
)  # fmt: skip
def test_mistakes_are_told(call: str, message: str) -> None:
    good = "attention(query(qn, qr), latent(c, kr, w_uk[kv_rank, heads, nope_dim], w_uv[kv_rank, heads, v_dim]))"
    assert good in MODEL
    with pytest.raises(PlanError) as caught:
        compile_text(MODEL.replace(good, call.replace("UK", UK).replace("UV", UV)) + PLAN)
    found = [d for d in caught.value.diagnostics if d.severity == "error"]
    assert any(message in d.message for d in found), [d.message for d in found]
    assert all(d.span is not None and d.hint for d in found)


NAMED = """    q = query(qn, qr)
    kept = latent(c, kr, w_uk[kv_rank, heads, nope_dim], w_uv[kv_rank, heads, v_dim])
    a = attention({}, {})
"""


@pytest.mark.parametrize(
    ("q", "kept", "message"),
    [
        ("q", "kept", ""),
        ("query(qn, qr)", "kept", ""),
        ("q", "q", "expected `latent"),
        ("kept", "kept", "expected `query"),
        ("q + q", "kept", "expected `query"),
    ],
)
def test_queries_and_what_is_cached_may_have_names(q: str, kept: str, message: str) -> None:
    (line,) = (text for text in MODEL.splitlines(keepends=True) if "attention(" in text)
    text = MODEL.replace(line, NAMED.format(q, kept)) + PLAN
    if message:
        with pytest.raises(PlanError) as caught:
            compile_text(text)
        assert any(message in d.message for d in caught.value.diagnostics), caught.value.diagnostics
        return
    (plan,) = compile_text(text)
    (again,) = compile_text(show_plan(plan.spec))
    assert same(again.spec, plan.spec)
    assert show(plan.decode.program) == show(plan_of(load="input = 9, output = 9").decode.program)


def test_several_tensors_are_no_value() -> None:
    wrong = "    q = query(qn, qr)\n    x = x + q @ w_q[heads, hidden]\n"
    with pytest.raises(PlanError, match="a group of tensors"):
        compile_text(MODEL.replace("    x = x + a @ w_o", wrong + "    x = x + a @ w_o") + PLAN)


def test_a_latent_window_bounds_the_cache() -> None:
    spec = plan_of().spec
    text = MODEL.replace("w_uv[kv_rank, heads, v_dim]))", "w_uv[kv_rank, heads, v_dim]), window = 100)")
    (plan,) = compile_text(text + "plan p { model = mla, node = h100_8, workload { input = 400, output = 100 } }")
    assert isinstance(spec, PlanSpec)
    assert plan.cost.memory.kv_per_request(0, 500) * 5 == plan_of().cost.memory.kv_per_request(0, 500)
    assert plan.verify().ok


def test_head_gemm_contracts_all_but_the_heads() -> None:
    x = Value("x", tensor("bf16", ("batch", "position", "heads", "a")))
    w = Value("w", tensor("bf16", ("b", "heads", "a")))
    op = HeadGemm((Value("y", tensor("bf16", ())),), x, (w,))
    assert op.contracted() == ("a",)
    assert op.infer()[0].names == ("batch", "position", "heads", "b")


def test_a_weight_that_no_rule_splits_is_named_once() -> None:
    text = "plan p { model = deepseek_v3, node = h200_8, sharding { tp = 8 }, workload { input = 400, output = 100 } }"
    (plan,) = compile_text(text)
    (note,) = (d for d in plan.notes if d.code == "N304")
    assert note.message.count("`w_dq`") == 1  # dense and sparse layers both have one
