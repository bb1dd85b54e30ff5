"""Context parallelism: queries and keys split by position, as rules about dimensions and nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from attrs import evolve
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, composite

from plandsl.answers.phases import OpTime
from plandsl.backends.cost.time.phase import play_slots
from plandsl.backends.reference.collectives import communicate
from plandsl.backends.reference.placement import Array, Placement, extents, positions
from plandsl.backends.reference.shrink import shrink
from plandsl.backends.reference.verify import Parts, Phases, compare, verify_long_prefill, verify_programs
from plandsl.diagnostics import PlanError
from plandsl.driver import CompiledPlan, compile_text
from plandsl.ir.base import COMPUTE, LINK
from plandsl.ir.collectives import AllGather, AllReduce, ReduceScatter, Rescale, Reshard, Ring
from plandsl.ir.compute import Attention, CacheWrite
from plandsl.ir.meaning.attention import Mask, attention, partial_attention
from plandsl.ir.ops import Op
from plandsl.ir.program import Program, Region, verify
from plandsl.ir.schedule import Slot
from plandsl.ir.text import read, read_op, read_type, show, show_op
from plandsl.ir.types import Mesh, TensorType, Value
from plandsl.passes import compile_phase, program_after
from plandsl.spec.plan import PlanSpec, ShardingSpec
from plandsl.testing import compiled
from plandsl.testing.models import models
from plandsl.testing.shardings import is_legal
from tests.draws import draws

MODEL = """
model m {
  layers = 4, hidden = 1024, heads = 16, kv_heads = 8, head_dim = 64, ffn = 2048, vocab = 1000, weights = bf16
  embedding w_embed[vocab, hidden]
  block x[tokens, hidden] {
    h = rms_norm(x)
    q = rope(h @ w_q[hidden, heads, head_dim])
    k = rope(h @ w_k[hidden, kv_heads, head_dim])
    a = attention(q, k, h @ w_v[hidden, kv_heads, head_dim]OPTIONS)
    x = x + a @ w_o[heads, head_dim, hidden]
    h = rms_norm(x)
    x = x + (silu(h @ w_gate[hidden, ffn]) * (h @ w_up[hidden, ffn])) @ w_down[ffn, hidden]
  }
  head rms_norm(x) @ w_head[hidden, vocab]
}
"""
INPUT, OUTPUT, BATCH, LAYERS, KV = 4096, 64, 8, 4, 2 * 8 * 64 * 2
"""The load, and the bytes that one token adds to the cache of a layer."""

SHARDINGS = {
    "ring": "cp = 4",
    "gather": "cp = 4, context_form = gather",
    "with heads": "cp = 2, tp = 2",
    "gathered with heads": "cp = 2, tp = 4, context_form = gather",
    "replicas": "cp = 2, dp = 2, tp = 2",
    "stages": "cp = 2, pp = 2",
    "sequence": "cp = 2, sp = 2, tp = 2",
    "three ways": "cp = 3",
    "decode only": "mesh c = 4\n context -> c",
    "heads and keys on one axis": "mesh t = 4\n heads, ffn, vocab -> t\n context -> t",
    "two axes": "mesh a = 2, b = 2\n tokens -> a, b\n context -> a, b",
    "two axes, gathered": "mesh a = 2, b = 2\n context_form = gather\n tokens -> b, a\n context -> a, b",
    "one axis of two": "mesh a = 2, b = 2\n tokens -> b\n context -> a, b\n heads, kv_heads -> a",
    "inside attention": "tp = 2\n mesh c = 2\n tokens -> c\n in attention { context -> c }",
    "sixteen": "cp = 8, tp = 2",
}


def text(sharding: str, options: str = "", node: str = "h100_8", input_: int = INPUT) -> str:
    node = "node = h100_8 with { count = 16 }" if node == "h100_16" else f"node = {node}"
    load = f"workload {{ input = {input_}, output = {OUTPUT}, batch = {BATCH} }}"
    plan = f"plan p {{\n {node}\n model = m\n sharding {{ {sharding} }}\n {load}\n calibration = study_2603_05692"
    return MODEL.replace("OPTIONS", options) + plan + "\n}\n"


def plan_of(name: str, options: str = "", input_: int = INPUT) -> CompiledPlan:
    sharding = SHARDINGS.get(name, name)
    (plan,) = compile_text(text(sharding, options, "h100_16" if name == "sixteen" else "h100_8", input_))
    return plan


def ops(program: Program, kind: type[Any] = object) -> list[Any]:
    return [op for op in program.region("block").ops if isinstance(op, kind)]


def lines(plan: CompiledPlan, phase: str) -> dict[str, OpTime]:
    return {f"{o.op} {o.name}": o for o in getattr(plan.estimate(), phase).ops}


# ---- what the rules lead to


def test_a_ring_brings_keys_to_queries_in_prefill_and_partial_softmaxes_are_merged_in_decode() -> None:
    plan = plan_of("ring")
    assert [op.keyword for op in ops(plan.prefill.program) if op.keyword in ("ring", "rescale", "all_gather")] == [
        "ring"
    ]
    (ring,), (attention_,) = ops(plan.prefill.program, Ring), ops(plan.prefill.program, Attention)
    assert (attention_.k, attention_.v) == ring.outs
    assert attention_.q.type.on("position") == ("context",)
    assert not attention_.out.type.pending
    decode = plan.decode.program
    (attention_,), (rescale,) = ops(decode, Attention), ops(decode, Rescale)
    assert not attention_.q.type.axes  # whole on the axis
    assert attention_.out.type.softmax == {"context"}
    assert str(attention_.out.type).endswith("{~context}")
    assert str(rescale.out.type).endswith("{+context}")
    (last,) = [op for op in ops(decode, ReduceScatter) if op.x == rescale.out]
    assert last.dim == "batch"  # each rank goes on with its own requests


def test_gather_takes_an_all_gather_of_keys_and_of_values() -> None:
    program = plan_of("gather").prefill.program
    assert not ops(program, Ring)
    assert [op.dim for op in ops(program, AllGather)] == ["context", "context"]


def test_queries_whole_on_the_axis_need_no_key_to_travel_in_either_phase() -> None:
    plan = plan_of("heads and keys on one axis")
    for schedule in (plan.prefill, plan.decode):
        (attention_,) = ops(schedule.program, Attention)
        assert attention_.out.type.softmax == {"t"}
        assert not ops(schedule.program, Ring)


def test_the_cache_lies_by_context_in_both_phases() -> None:
    plan = plan_of("with heads")
    kept = [ops(s.program, CacheWrite)[0].outs[0].type for s in (plan.prefill, plan.decode)]
    assert kept[0] == kept[1]
    assert (kept[0].on("context"), kept[0].on("kv_heads")) == (("context",), ("tensor",))


def test_of_two_axes_that_split_queries_and_keys_the_first_is_the_ring() -> None:
    program = plan_of("two axes").prefill.program
    (ring,) = ops(program, Ring)
    assert ring.axis == "a"
    assert {op.axis for op in ops(program, AllGather)} == {"b"}


# ---- meaning


@pytest.mark.parametrize("name", SHARDINGS)
@pytest.mark.parametrize("options", ["", ", window = 1000"])
def test_split_keys_compute_what_whole_ones_do(name: str, options: str) -> None:
    assert plan_of(name, options).verify().ok


@pytest.mark.parametrize("name", ["ring", "three ways", "decode only", "one axis of two"])
@pytest.mark.parametrize("length", [1, 2, 5, 7, 13])
def test_short_and_uneven_prompts_compute_the_same(name: str, length: int) -> None:
    sharded, plain, sizes = small(name)
    verdict = verify_programs(sharded, plain, {**sizes, "input": length}, steps=6, check=True)
    assert verdict.ok, verdict.message
    assert verdict.worst <= 1e-9


@pytest.mark.parametrize("name", ["ring", "gather", "with heads", "decode only"])
def test_prefill_then_decode_is_one_long_prefill(name: str) -> None:
    sharded, _, sizes = small(name)
    verdict = verify_long_prefill(sharded, sizes, steps=5)
    assert verdict.ok, verdict.message


def test_attention_that_sees_everything_computes_the_same() -> None:
    assert plan_of("ring", ", causal = false").verify().ok


def small(name: str) -> tuple[Phases, Phases, dict[str, int]]:
    """Sharded and unsharded programs of a plan made small, and its load."""
    spec = shrink(plan_of(name).spec)
    plain = evolve(spec, sharding=ShardingSpec("none", (), ()))
    pair = [tuple(compile_phase(s, p).program for p in ("prefill", "decode")) for s in (spec, plain)]
    sizes = {"batch": spec.workload.batch, "input": spec.workload.input}
    return pair[0], pair[1], sizes  # type: ignore[return-value]  # two phases each


def _without(program: Program) -> Iterator[tuple[str, Program]]:
    """``program`` with one of the ops that move something left out, its result replaced by its operand."""
    for region in (r for r in program.regions if r.name != "head"):  # logits are put together by whoever reads them
        for i, op in enumerate(region.ops):
            if isinstance(op, AllGather | AllReduce | ReduceScatter | Rescale | Ring):
                left = (op.xs, op.outs) if isinstance(op, Ring) else ((op.x,), (op.out,))
                instead = [Value(o.name, x.type) for x, o in zip(*left, strict=True)]
                moved = tuple(Reshard(new, x) for new, x in zip(instead, left[0], strict=True))
                changed = _renamed(region, i, moved)
                yield op.keyword, evolve(program, regions=tuple(changed if r is region else r for r in program.regions))


def _renamed(region: Region, at: int, instead: tuple[Op, ...]) -> Region:
    """``region`` with op ``at`` exchanged, later uses of its results following the new types (and results not)."""
    new = {op.results[0].name: op.results[0] for op in instead}
    out = list(region.ops[:at]) + list(instead)
    for op in region.ops[at + 1 :]:
        fields: dict[str, Any] = {}
        for name in op.OPERANDS:
            held = getattr(op, name)
            if isinstance(held, tuple):
                fields[name] = tuple(new.get(x.name, x) for x in held)
            elif held is not None:
                fields[name] = new.get(held.name, held)
        out.append(evolve(op, **fields))
    return evolve(region, ops=tuple(out), results=tuple(new.get(v.name, v) for v in region.results))


@pytest.mark.parametrize("name", ["ring", "gather", "decode only", "with heads"])
@pytest.mark.parametrize("phase", [0, 1])
def test_each_exchange_left_out_is_caught_by_running(name: str, phase: int) -> None:
    sharded, plain, sizes = small(name)
    seen = set()
    for keyword, broken in _without(sharded[phase]):
        phases = (broken, sharded[1]) if phase == 0 else (sharded[0], broken)
        assert not compare(phases, plain, sizes, check=True).ok, f"{keyword} is missing, and nobody notices"
        seen.add(keyword)
    assert seen >= ({"rescale"} if phase else {"ring"} if name in ("ring", "with heads") else set())


@pytest.mark.parametrize("name", ["ring", "gather", "decode only", "with heads"])
@pytest.mark.parametrize("cuts", [(2,), (1, 3), (1, 2, 3, 4)])
def test_a_prompt_in_parts_is_one_prefill_and_an_exchange_left_out_is_caught(name: str, cuts: tuple[int, ...]) -> None:
    sharded, plain, sizes = small(name)
    parts = Parts([cut for cut in cuts if cut < sizes["input"]])
    assert verify_programs(sharded, plain, sizes, check=True, parts=parts).ok
    for keyword, broken in _without(sharded[0]):
        assert not compare((broken, sharded[1]), plain, sizes, check=True, parts=parts).ok, keyword


def test_a_token_of_decode_goes_to_one_rank_in_turn() -> None:
    mesh, dim = Mesh((("c", 3),)), read_type("bf16[context@c]").dims[0]
    for end in range(5, 12):
        place = Placement(mesh, {"context": end}, [5])
        held = [positions(place.held_ranges(dim, r)) for r in range(3)]
        assert sorted(np.concatenate(held)) == list(range(end))
        assert [list(h[h < 5]) for h in held] == [[0, 1], [2, 3], [4]]
        assert max(len(h[h >= 5]) for h in held) - min(len(h[h >= 5]) for h in held) <= 1
        assert [extents((place.held_ranges(dim, r),)) for r in range(3)] == [(len(h),) for h in held]


def test_each_part_of_a_prompt_is_dealt_out_by_itself_and_a_gather_leaves_what_fewer_ranks_hold() -> None:
    mesh = Mesh((("a", 2), ("b", 2)))
    one, both = (read_type(f"bf16[context@{axes}]").dims[0] for axes in ("a", "a*b"))
    place = Placement(mesh, {"context": 12}, [5, 2])
    assert place.held_ranges(both, 0) == ((0, 2), (5, 6), (7, 8), (11, 12))
    for a in (0, 1):
        together = [positions(place.held_ranges(both, mesh.rank({"a": a, "b": b}))) for b in (0, 1)]
        assert list(positions(place.held_ranges(one, mesh.rank({"a": a})))) == sorted(np.concatenate(together))


# ---- the merge itself


@given(st.integers(1, 9), st.integers(1, 4), st.integers(0, 4), st.booleans(), st.integers(0, 99))
def test_partial_softmaxes_merge_to_the_whole(keys: int, ways: int, window: int, causal: bool, seed: int) -> None:
    rng = np.random.default_rng(seed)
    q, k, v = (rng.standard_normal((2, n, 2, 4)) * 5 for n in (keys, keys, keys))
    at = np.arange(keys)
    whole = attention(q, k, v, Mask(at, at, causal, window))
    place = Placement(Mesh((("c", ways),)), {"b": 2, "p": keys, "h": 2, "d": 4})
    made = read_type("bf16[b, p, h, d]{~c}")
    shards = {}
    for r in range(ways):
        mine = at[at % ways == r]  # any cut will do
        shards[r] = partial_attention(q, k[:, mine], v[:, mine], Mask(at, mine, causal, window))
    x = Value("a", made)
    op = Rescale(x, x, "c")
    op = evolve(op, out=Value("s", op.infer()[0]))
    place.check_shapes(x, shards, "attention")
    scaled = communicate(op, shards, place)
    total: Array = sum(scaled.values())  # type: ignore[assignment]  # there is one at least
    assert np.allclose(total, whole, rtol=1e-9, atol=1e-12)
    summed = Value("y", op.out.type.summed())
    placeholder = communicate(Reshard(summed, x), shards, place)
    assert all(np.allclose(y, whole, rtol=1e-9, atol=1e-12) for y in placeholder.values())


def test_two_axes_merge_one_after_the_other() -> None:
    mesh = Mesh((("a", 2), ("b", 2)))
    place = Placement(mesh, {"b": 1, "p": 1, "h": 1, "d": 2})
    rng = np.random.default_rng(1)
    q, k, v = (rng.standard_normal((1, n, 1, 2)) for n in (1, 8, 8))
    mask = Mask(np.array([7]), np.arange(8))
    shards = {r: partial_attention(q, k[:, r::4], v[:, r::4], mask._replace(keys=mask.keys[r::4])) for r in range(4)}
    x = Value("a", read_type("bf16[b, p, h, d]{~a, ~b}"))
    for order in ("ab", "ba"):
        value, held = x, shards
        for axis in order:
            made = Rescale(value, value, axis)
            out = Value(value.name, made.infer()[0])
            held = communicate(evolve(made, out=out), held, place)
            value = out
        assert np.allclose(sum(held.values()), attention(q, k, v, mask))


# ---- the words of the IR


def test_partial_softmaxes_and_rings_print_and_read_back() -> None:
    type_ = read_type("bf16[batch, position, heads@t, head_dim]{+a, ~c}")
    assert [sorted(axes) for axes in (type_.partial, type_.softmax, type_.axes)] == [["a"], ["c"], ["a", "c", "t"]]
    assert str(type_) == "bf16[batch, position, heads@t, head_dim]{+a, ~c}"
    for phase in ("prefill", "decode"):
        program = program_after(plan_of("with heads").spec, phase, "insert-collectives")
        assert read(show(program)) == program
    line = '%a, %b : bf16[context], bf16[context] = ring %k, %v {axis = "c", dim = "context"}'
    known = {n: Value(n, read_type("bf16[context@c]")) for n in "kv"}
    op = read_op(line, known)
    assert isinstance(op, Ring)
    assert show_op(op) == line
    assert [out.type for out in op.outs] == list(op.infer())
    assert not list(op.verify())


@pytest.mark.parametrize(
    ("type_", "line", "why"),
    [
        ("bf16[b, d]{~c}", '%y : bf16[b, d]{~c} = map %x {fn = "silu"}', "partial sum"),
        ("bf16[b, d]{~c}", '%y : bf16[b, d] = all_reduce %x {axis = "c"}', "no partial sum"),
        ("bf16[b, d]{+c}", '%y : bf16[b, d]{+c} = rescale %x {axis = "c"}', "no softmax over it"),
        ("bf16[b, d]", '%y : bf16[b, d] = ring %x {axis = "c", dim = "b"}', "not innermost"),
        ("bf16[b@a, d]{~c}", '%y : bf16[b, d]{~c} = all_gather %x {axis = "a", dim = "b"}', "some of the keys"),
    ],
)
def test_what_is_unsound_is_found(type_: str, line: str, why: str) -> None:
    x = Value("x", read_type(type_))
    op = read_op(line, {"x": x})
    program = Program(
        "m",
        "decode",
        Mesh((("a", 2), ("c", 2))),
        (),
        (Region("r", None, args=(x,), weights=(), ops=(op,), results=op.results),),
    )
    assert any(why in d.message for d in verify(program)), [d.message for d in verify(program)]


def test_a_cache_refuses_positions_that_are_split_otherwise() -> None:
    xs = (Value("k", read_type("bf16[batch, position@a, heads, d]")),)
    outs = (Value("o", read_type("bf16[batch, context@c, heads, d]")),)
    assert any("positions that are whole" in d.message for d in CacheWrite(outs, xs, "kv").verify())


def test_queries_that_share_the_axis_of_split_keys_are_unsound() -> None:
    q, k = read_type("bf16[b, position@c, h, d]"), read_type("bf16[b, context@c, h, d]")
    out = TensorType("bf16", q.dims)
    op = Attention(Value("o", out), Value("q", q), Value("k", k), Value("v", k))
    assert any("on an axis of the queries" in d.message for d in op.verify())


# ---- closed forms


def test_heads_share_the_blocks_of_a_ring() -> None:
    line = lines(plan_of("cp = 4, tp = 2"), "prefill")["ring cache_write"]
    assert (line.count, line.bytes) == (LAYERS * 3, BATCH * INPUT / 4 * KV / 2)


@pytest.mark.parametrize("n", [2, 4, 8])
def test_gathering_moves_what_the_ring_does(n: int) -> None:
    found = [o for o in plan_of(f"cp = {n}, context_form = gather").estimate().prefill.ops if o.op == "all_gather"]
    found = [o for o in found if "cache_write" in o.name]
    assert sum(o.count * o.bytes for o in found) == LAYERS * BATCH * INPUT * KV  # all of it; (n - 1) / n travels
    ring = lines(plan_of(f"cp = {n}"), "prefill")["ring cache_write"]
    assert sum(o.count * o.bytes * (n - 1) / n for o in found) == ring.count * ring.bytes


@pytest.mark.parametrize("n", [2, 4, 8])
def test_a_merge_moves_statistics_and_means(n: int) -> None:
    found = lines(plan_of(f"cp = {n}"), "decode")
    assert found["rescale attention"].bytes == n * BATCH * 16 * 4  # a number of 4 bytes for each row of each rank
    assert found["reduce_scatter attention"].bytes == BATCH * 16 * 64 * 2  # total input
    assert found["rescale attention"].count == found["reduce_scatter attention"].count == LAYERS
    whole = lines(plan_of(f"mesh c = {n}\n context -> c"), "decode")
    assert whole["all_reduce attention"].bytes == BATCH * 16 * 64 * 2


@pytest.mark.parametrize("n", [2, 4, 8])
def test_ranks_share_the_cache(n: int) -> None:
    alone, split = (plan_of(f"cp = {k}").estimate() for k in (1, n))
    assert split.memory.kv_cache == alone.memory.kv_cache / n
    assert split.memory.kv_cache == BATCH * (INPUT + OUTPUT) / n * KV * LAYERS
    assert split.kv_capacity_tokens > 0.9 * n * alone.kv_capacity_tokens


def test_the_fullest_rank_has_the_cache_of_a_window_or_its_share() -> None:
    wide, narrow = (plan_of("cp = 4", f", window = {w}").cost.memory for w in (2000, 100))
    assert wide.kv_per_request(0, 4000) == 1000 * KV * LAYERS
    assert narrow.kv_per_request(0, 4000) == 100 * KV * LAYERS


def test_a_ring_takes_a_block_of_memory_and_a_gather_the_whole() -> None:
    ring, gather = (plan_of(name, input_=8192).estimate().memory for name in ("ring", "gather"))
    assert ring.buffers == 8192 / 4 * KV  # the block that comes; the one at hand counts as an activation
    assert gather.buffers == 8192 * KV / 2  # keys, then values


@pytest.mark.parametrize("n", [2, 4])
def test_work_is_shared_evenly(n: int) -> None:
    alone, split = (plan_of(f"cp = {k}") for k in (1, n))
    for phase in ("prefill", "decode"):
        (one,), (many,) = ([o for o in getattr(p.estimate(), phase).ops if o.op == "attention"] for p in (alone, split))
        assert many.flops == pytest.approx(one.flops / n)
    (one,), (many,) = ([o for o in p.estimate().decode.ops if o.op == "attention"] for p in (alone, split))
    keys = one.bytes - BATCH * 2 * 16 * 64 * 2
    assert many.bytes == pytest.approx(BATCH * 2 * 16 * 64 * 2 + keys / n)


# ---- the schedule


def test_each_step_of_a_ring_takes_the_longer_of_hop_and_block() -> None:
    for hop, block, n in ((2.0, 5.0, 4), (5.0, 2.0, 4), (3.0, 3.0, 2), (1.0, 1.0, 1)):
        slots = [Slot(0, COMPUTE, ()), Slot(1, LINK, (0,)), Slot(2, COMPUTE, (0,), 1, n)]
        times = play_slots(slots, [1.0, (n - 1) * hop, n * block])
        assert times[2][0] == 1.0
        assert times[2][1] == pytest.approx(1.0 + block + (n - 1) * max(hop, block))


def test_attention_runs_along_the_ring() -> None:
    schedule = plan_of("ring").prefill
    region = schedule.program.region("block")
    at = {op.keyword: i for i, op in enumerate(region.ops)}
    slot = schedule.slots_of("block")[at["attention"]]
    assert (slot.along, slot.blocks) == (at["ring"], 4)
    assert at["ring"] not in slot.after
    assert at["cache_write"] in slot.after


def test_slow_links_show_and_fast_ones_hide() -> None:
    node = "h100_8 with {{ link {{ bandwidth = {} GB/s, latency = 0 us }} }}"
    (slow,), (fast,) = (compile_text(text("cp = 4", node=node.format(b), input_=65536)) for b in (1, 10_000))
    hidden, shown = fast.estimate().prefill, slow.estimate().prefill
    assert hidden.overlapped_s > 0.99 * next(o.time_s for o in hidden.ops if o.op == "ring")
    assert shown.communication_s > 10 * hidden.communication_s


def test_an_axis_of_one_rank_costs_nothing() -> None:
    for form in ("ring", "gather"):
        one = plan_of(f"cp = 1, context_form = {form}").estimate()
        none = plan_of("tp = 1").estimate()
        assert (one.ttft_s, one.tpot_s, one.memory.total) == (none.ttft_s, none.tpot_s, none.memory.total)


# ---- any model


@composite
def split_plans(draw: DrawFn) -> PlanSpec:
    """A plan whose keys are split by a degree, beside heads, stages and replicas."""
    model = draw(models())
    spec = plan_of("sixteen").spec
    n = draw(st.sampled_from((2, 3, 4, 8)))
    rest = draw(st.sampled_from(("", "tp = 2", "pp = 2", "dp = 2", "sp = 2", "tp = 2, sp = 2"))) if n < 8 else ""
    form = draw(st.sampled_from(("ring", "gather")))
    (other,) = compile_text(text(f"cp = {n}, context_form = {form}" + (rest and f", {rest}"), node="h100_16"))
    names = {"tokens", "batch", "context", "layers", *(n for n, _ in model.sizes)}
    rules = (r._replace(dims=tuple(d for d in r.dims if d in names)) for r in other.spec.sharding.rules)
    sharding = evolve(other.spec.sharding, rules=tuple(r for r in rules if r.dims))
    assume(is_legal(sharding, model, spec.node))
    return evolve(spec, model=model, sharding=sharding)


@draws(1 / 2)
@given(split_plans())
def test_any_model_with_split_keys_computes_the_same(spec: PlanSpec) -> None:
    try:
        plan = compiled(spec)
    except PlanError:
        return
    verdict = plan.verify()
    assert verdict.ok, verdict.message


def test_a_mismatch_names_the_rank() -> None:
    sharded, plain, sizes = small("ring")
    broken = next(p for keyword, p in _without(sharded[0]) if keyword == "ring")
    verdict = compare((broken, sharded[1]), plain, sizes)
    assert not verdict.ok
    assert "read as" in verdict.message or "rank" in verdict.message
