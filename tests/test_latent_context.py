"""Latent attention whose cache is split by context: what travels, what is merged, and that nothing else changes."""

from __future__ import annotations

import pytest
from attrs import evolve

from plandsl.driver import CompiledPlan
from plandsl.ir.collectives import AllGather, AllReduce, ReduceScatter, Rescale, Ring
from plandsl.ir.compute import CacheWrite, Gemm
from plandsl.ir.latent import HeadGemm, LatentAttention
from plandsl.ir.ops import Op
from plandsl.ir.program import Program, verify
from plandsl.ir.text import read, show
from plandsl.passes import program_after
from plandsl.testing.laws_schedule import slots_take_turns
from tests.test_latent import DEEPSEEK, line, ops_of, plan_of, softmax

SHARDINGS = {
    "ring": "cp = 4",
    "ring with heads": "cp = 2, tp = 4",
    "gather": "cp = 2, tp = 2, context_form = gather",
    "Ulysses as well": "cp = 2, sp = 2, tp = 2",
    "stages": "cp = 2, pp = 2",
    "replicas": "dp = 2, cp = 2, tp = 2",
    "the axis of heads": "tp = 4\n context -> tensor",
    "the axis of heads, first": "mesh t = 4\n context -> t\n heads, ffn, vocab -> t",
    "the axis of requests": "mesh t = 4\n heads, ffn, vocab -> t\n context -> t\n batch -> t",
    "requests first": "mesh t = 4\n batch -> t\n context -> t\n heads -> t",
    "two axes, one a ring": "mesh a = 2, b = 2\n context -> a, b\n tokens -> a",
    "two axes of positions": "mesh a = 2, b = 2\n tokens -> a, b\n context -> a, b\n heads -> b",
    "the axis of a rank": "mesh a = 2, b = 2\n kv_rank -> a\n context -> a, b",
    "heads take one of two": "mesh t = 2, u = 2\n heads -> t\n context -> u, t\n tokens -> u",
    "three": "cp = 3",
    "unpacked keys change ranks": "mesh a = 2\n nope_dim, heads -> a\n cp = 4",
}


def of(program: Program, kind: type[Op]) -> list[Op]:
    return [op for op in ops_of(program, kind) if op in next(r for r in program.regions if r.layers).ops]


@pytest.mark.parametrize("sharding", SHARDINGS.values(), ids=SHARDINGS)
def test_a_split_cache_verifies(sharding: str) -> None:
    verdict = plan_of(sharding).verify()
    assert verdict.ok, verdict.message
    assert verdict.worst < 1e-9


@pytest.mark.parametrize("sharding", SHARDINGS.values(), ids=SHARDINGS)
def test_programs_read_back_and_are_sound(sharding: str) -> None:
    for phase in ("prefill", "decode"):
        program = program_after(plan_of(sharding).spec, phase, "place-memory")
        assert read(show(program)) == program
        assert list(verify(program)) == []


# ---- what travels


def test_packed_keys_go_around_the_ring_and_are_unpacked_where_they_arrive() -> None:
    program = plan_of("cp = 4").prefill.program
    (ring,), (attending,) = of(program, Ring), of(program, LatentAttention)
    assert isinstance(ring, Ring)
    assert isinstance(attending, LatentAttention)
    assert [x.type.names[-1] for x in ring.xs] == ["kv_rank", "rope_dim"]
    assert attending.k_rope == ring.outs[1]
    (unpack,) = (op for op in of(program, Gemm) if isinstance(op, Gemm) and op.weights[0].name == "w_uk")
    assert unpack.operands[0] == ring.outs[0]
    assert attending.q.type.on("position") == ("context",)
    assert not of(program, AllGather)


def test_decode_merges_what_ranks_make_of_their_keys_and_each_goes_on_with_its_requests() -> None:
    program = plan_of("cp = 4").decode.program
    (attending,), (rescale,), (scatter,) = (of(program, k) for k in (LatentAttention, Rescale, ReduceScatter))
    assert isinstance(attending, LatentAttention)
    assert isinstance(scatter, ReduceScatter)
    assert str(attending.k.type) == "bf16[batch, context@context, kv_rank]"
    assert attending.out.type.softmax == {"context"}
    assert rescale.operands == (attending.out,)
    assert scatter.dim == "batch"
    absorb, unpack = of(program, HeadGemm)
    assert absorb.operands[0].type.on("batch") == unpack.operands[0].type.on("batch") == ("context",)


def test_on_the_axis_of_heads_prefill_gathers_keys_and_decode_gathers_queries() -> None:
    """As vLLM's decode context parallelism does: heads keep the axis where keys have heads of their own."""
    plan = plan_of("tp = 4\n context -> tensor")
    (attending,) = of(plan.prefill.program, LatentAttention)
    assert isinstance(attending, LatentAttention)
    assert attending.q.type.on("heads") == ("tensor",)
    assert not attending.out.type.pending
    gathered = [op.operands[0].type.names[-1] for op in of(plan.prefill.program, AllGather)]
    assert gathered == ["kv_rank", "rope_dim"]
    (attending,) = of(plan.decode.program, LatentAttention)
    assert isinstance(attending, LatentAttention)
    assert attending.q.type.on("heads") == ()
    assert attending.out.type.softmax == {"tensor"}
    (scatter,) = of(plan.decode.program, ReduceScatter)
    assert isinstance(scatter, ReduceScatter)
    assert scatter.dim == "heads"
    assert len(of(plan.decode.program, AllReduce)) == 2, "of the projection and the MLP"


def test_without_a_rule_for_context_every_rank_of_heads_holds_all_keys() -> None:
    for phase in ("prefill", "decode"):
        for op in ops_of(program_after(plan_of("tp = 4").spec, phase, "place-memory"), CacheWrite):
            assert not op.results[0].type.axes


# ---- closed forms


@pytest.mark.parametrize("ways", [2, 4])
@pytest.mark.parametrize(("dtype", "size"), [("bf16", 2), ("fp8", 1)])
def test_a_ring_moves_the_rank_and_the_positions_of_each_token_of_a_block(ways: int, dtype: str, size: int) -> None:
    """Liu et al., "Ring Attention with Blockwise Transformers", 2023: n - 1 hops of one rank's keys."""
    plan = plan_of(f"cp = {ways}", f" with {{ kv_cache = {dtype} }}")
    (ring,) = (o for o in plan.estimate().prefill.ops if o.op == "ring")
    assert ring.bytes == 8 * (400 // ways) * (32 + 8) * size
    work = next(w for w in plan.cost.main.prefill.work["block"] if w.op.keyword == "ring")
    assert getattr(work, "times", 0) == ways - 1


def test_a_gather_brings_all_packed_keys() -> None:
    found = [o for o in plan_of("cp = 4, context_form = gather").estimate().prefill.ops if o.op == "all_gather"]
    assert sorted(o.bytes for o in found) == [8 * 400 * 8 * 2, 8 * 400 * 32 * 2]


def test_a_merge_exchanges_a_statistic_and_sums_means_of_the_rank() -> None:
    decode = plan_of("cp = 4, tp = 2").estimate().decode.ops
    (rescale,), (scatter,) = ([o for o in decode if o.op == op] for op in ("rescale", "reduce_scatter"))
    assert rescale.bytes == 4 * 4 * 8 * (8 // 2)
    assert scatter.bytes == 8 * (8 // 2) * 32 * 2


@pytest.mark.parametrize("ways", [2, 4])
def test_each_rank_attends_to_its_share(ways: int) -> None:
    one, many = plan_of(), plan_of(f"cp = {ways}")
    for phase in ("prefill", "decode"):
        assert line(many, phase, "latent").flops == pytest.approx(line(one, phase, "latent").flops / ways)
    keys, queries = (32 + 8) * 2, 8 * (32 + 8 + 32) * 2
    context = 400 + 99 / 2 + 0.5
    assert line(many, "decode", "latent").bytes == pytest.approx(8 * (context / ways * keys + queries), rel=1e-3)
    assert softmax(many, "prefill").blocks == ways
    assert many.cost.memory.kv_per_request(0, 500) * ways == one.cost.memory.kv_per_request(0, 500)


def test_a_measured_form_knows_the_share_of_a_rank() -> None:
    """Decode over an n-th of a long context takes close to an n-th; the one kernel of prefill is split in n as well."""
    load = "input = 100_000, output = 2, batch = 8"
    one, four = (plan_of(s, DEEPSEEK, load) for s in ("", "cp = 4"))
    for phase in ("prefill", "decode"):
        assert softmax(four, phase).form is not None
        ratio = line(four, phase, "latent").time_s / line(one, phase, "latent").time_s
        assert 0.25 < ratio < 0.3, phase
    assert all(o.op == "ring" for o in four.estimate().prefill.ops if o.name == "cache_write"), (
        "the kernel fills the cache itself"
    )


def test_a_block_is_unpacked_and_attended_to_while_the_next_one_travels() -> None:
    def exposed(plan: CompiledPlan) -> tuple[float, float, float, float]:
        model = plan.cost.main.prefill
        times = model.at({"batch": 8, "input": 400}, 1, [(1.0, 400)])
        seconds = dict(zip([w.op.keyword for w in model.work["block"]], times.seconds["block"], strict=True))
        unpack = next(
            t for w, t in zip(model.work["block"], times.seconds["block"], strict=True)
            if isinstance(w.op, Gemm) and w.op.weights[0].name == "w_uk"
        )  # fmt: skip
        return seconds["ring"], unpack, seconds["latent_attention"], times.regions["block"].exposed

    for bandwidth in ("450 GB/s", "1 GB/s"):
        ring, unpack, attend, found = exposed(slow(bandwidth))
        wanted = max(0.0, ring + (unpack + attend) / 4 - unpack - attend)
        assert found == pytest.approx(wanted, abs=1e-9)
    assert wanted > 0


@pytest.mark.parametrize("sharding", SHARDINGS.values(), ids=SHARDINGS)
def test_slots_take_turns_while_a_ring_turns(sharding: str) -> None:
    """Packed keys are unpacked, and change ranks, before the ring has brought them all."""
    for load in ("input = 400, output = 100, batch = 8", "input = 6, output = 4, batch = 3"):
        slots_take_turns(plan_of(sharding, load=load))


def test_every_op_that_a_block_passes_is_worked_on_after_the_ring() -> None:
    schedule = plan_of(SHARDINGS["unpacked keys change ranks"]).prefill
    region, slots = schedule.program.region("block"), schedule.slots_of("block")
    found = {op.keyword: slot for op, slot in zip(region.ops, slots, strict=True)}
    ring, last = found["ring"], found["latent_attention"]
    assert (last.along, last.blocks) == (ring.op, 4)
    assert [region.ops[n].keyword for n in last.before] == ["gemm", "all_to_all"]
    assert all(ring.op not in slot.after for slot in (last, *(slots[n] for n in last.before)))


@pytest.mark.parametrize("wrong", [{"along": None}, {"before": ()}, {"blocks": 8}], ids=str)
def test_a_last_block_that_nobody_waits_for_breaks_the_law(wrong: dict[str, int | None]) -> None:
    plan = slow("1 GB/s")
    slots = tuple(slot if slot.along is None else slot._replace(**wrong) for slot in plan.prefill.slots_of("block"))
    assert slots != plan.prefill.slots_of("block")
    plan.prefill = evolve(
        plan.prefill, slots=(*((n, s) for n, s in plan.prefill.slots if n != "block"), ("block", slots))
    )
    with pytest.raises(AssertionError, match="ends too early"):
        slots_take_turns(plan)


def slow(bandwidth: str) -> CompiledPlan:
    from plandsl.driver import compile_text
    from tests.test_latent import MODEL

    node = f"h100_8 with {{ link {{ topology = switch, bandwidth = {bandwidth}, latency = 1 us }} }}"
    load = "workload { input = 400, output = 100, batch = 8 }"
    (plan,) = compile_text(f"{MODEL}\nplan p {{ model = mla, node = {node}, sharding {{ cp = 4 }}, {load} }}")
    return plan


def test_unpacked_keys_of_one_block_live_at_a_time() -> None:
    model = " with { heads = 64, v_dim = 200, nope_dim = 100 }"
    ring, gather = (
        plan_of(s, model).cost.memory.step(0, 8, 400)[0] for s in ("cp = 4", "cp = 4, context_form = gather")
    )
    assert ring < 0.5 * gather
