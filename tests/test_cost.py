"""Costs by hand: every kind of op, every collective on every topology, and what the report says of them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import product
from math import ceil, log2, prod

import numpy as np
import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from plandsl.answers.phases import OpTime, PhaseEstimate
from plandsl.backends.cost.forms.attention import visible_pairs
from plandsl.backends.cost.machine import links
from plandsl.backends.cost.machine.torus import spread
from plandsl.backends.cost.num import ceil_div, clip, floor, largest, maximum, minimum, where
from plandsl.backends.cost.time.phase import order, play, play_slots
from plandsl.backends.cost.time.pipeline import play_pipeline
from plandsl.driver import CompiledPlan, compile_text
from plandsl.ir.base import COMPUTE, LINK
from plandsl.ir.schedule import Slot
from plandsl.spec.hardware import LinkSpec
from plandsl.testing import compiled

# ---- a machine with round figures: 100 TFLOP/s, 1 TB/s, and every share and launch its own

MODEL = """
model m {
  layers = 3, hidden = 64, heads = 8, kv_heads = 4, head_dim = 16, ffn = 256, vocab = 512
  weights = WEIGHTS, activations = bf16, kv_cache = CACHE
  embedding w_embed[vocab, hidden]
  block x[tokens, hidden] {
    h = rms_norm(x)
    q = rope(h @ w_q[hidden, heads, head_dim])
    k = rope(h @ w_k[hidden, kv_heads, head_dim])
    v = h @ w_v[hidden, kv_heads, head_dim]
    a = attention(q, k, v)
    x = x + a @ w_o[heads, head_dim, hidden]
    h = rms_norm(x)
    g = silu(h @ w_gate[hidden, ffn]) * (h @ w_up[hidden, ffn])
    x = x + g @ w_down[ffn, hidden]
  }
  head rms_norm(x) @ w_head[hidden, vocab]
}
"""
REST = """
gpu g { memory = 1 GB, bandwidth = 1 TB/s, compute { bf16 = 100 TFLOP/s, fp8 = 200 TFLOP/s } }
node n { gpu = g, count = 8, link { topology = TOPOLOGY, bandwidth = 100 GB/s, latency = 2 us } }
calibration c {
  gemm = 0.5, attention_prefill = 0.4, attention_decode = 0.3, hbm = 0.8, link = 0.75
  launch = 3 us, launch_elementwise = 2 us, launch_collective = 5 us
}
plan p {
  model = m, node = n, calibration = c
  sharding { SHARDING }
  workload { input = 32, output = 9, batch = 4 }
  MORE
}
"""
RATE, ATTENTION, DECODE, HBM = 50e12, 40e12, 30e12, 0.8e12
LINK_RATE, LATENCY = 75e9, 2e-6
LAUNCH, SMALL, COLLECTIVE = 3e-6, 2e-6, 5e-6
B, S = 4, 32


def plan(sharding: str = "", topology: str = "mesh", weights: str = "bf16", cache: str = "bf16", more: str = "",
         ) -> CompiledPlan:  # fmt: skip
    text = MODEL.replace("WEIGHTS", weights).replace("CACHE", cache) + REST.replace("TOPOLOGY", topology)
    (made,) = compile_text(text.replace("SHARDING", sharding).replace("MORE", more))
    return made


def line(made: CompiledPlan, name: str, op: str = "", phase: str = "prefill") -> OpTime:
    ops: PhaseEstimate = getattr(made.estimate(), phase)
    (found,) = [o for o in ops.ops if o.name == name and op in ("", o.op)]
    return found


def kernel(flops: float, moved: float, launch: float, rate: float = RATE) -> float:
    return max(flops / rate, moved / HBM) + launch


# ---- one op at a time


def test_gemm_moves_weights_inputs_and_outputs_once() -> None:
    found = line(plan(), "qkv")
    m, n, k = B * S, (8 + 2 * 4) * 16, 64
    assert (found.shape, found.count) == ((("m", m), ("n", n), ("k", k)), 3)
    assert found.flops == 2 * m * n * k
    assert found.bytes == 2 * (k * n + m * k + m * n)
    assert found.time_s == pytest.approx(3 * kernel(found.flops, found.bytes, LAUNCH), rel=1e-12)


def test_gemm_of_narrow_weights_reads_narrow_inputs_and_multiplies_faster() -> None:
    made = plan(weights="fp8")
    found = line(made, "down")
    m, n, k = B * S, 64, 256
    assert found.flops == 2 * m * n * k
    assert found.bytes == k * n + m * k + 2 * m * n
    assert found.time_s == pytest.approx(3 * kernel(found.flops, found.bytes, LAUNCH, 2 * RATE), rel=1e-12)
    quantize = line(made, "quantize_silu_mul")
    assert quantize.bytes == m * k * 2 + m * k
    assert quantize.time_s == pytest.approx(3 * kernel(0, quantize.bytes, SMALL), rel=1e-12)


def test_prefill_attention_looks_at_half_of_the_square() -> None:
    found = line(plan(), "attention")
    pairs = S * (S + 1) / 2
    assert found.flops == B * 8 * pairs * 2 * (16 + 16)
    assert found.bytes == B * 2 * (S * 8 * (16 + 16) + S * 4 * (16 + 16))
    assert found.time_s == pytest.approx(3 * kernel(found.flops, found.bytes, LAUNCH, ATTENTION), rel=1e-12)


def test_decode_attention_reads_the_cache_in_its_own_dtype() -> None:
    found = line(plan(cache="fp8"), "attention", phase="decode")
    context = S + 9 / 2
    assert found.flops == B * 8 * context * 2 * (16 + 16)
    assert found.bytes == B * (2 * 8 * (16 + 16) + 1 * context * 4 * (16 + 16))
    assert found.time_s == pytest.approx(3 * kernel(found.flops, found.bytes, LAUNCH, DECODE), rel=1e-12)


@pytest.mark.parametrize(
    ("name", "count", "moved"),
    [
        ("embedding", 1, B * S * (4 + 64 * 2 + 64 * 2)),
        ("norm", 3, 2 * (2 * B * S * 64 + 64)),
        ("add_norm", 3, 2 * (4 * B * S * 64 + 64)),
        ("rope", 3, 2 * 2 * B * S * (8 + 4) * 16),
        ("cache_write", 3, 2 * 2 * B * S * 2 * 4 * 16),
        ("silu_mul", 3, 2 * 3 * B * S * 256),
        ("residual", 3, 2 * 3 * B * S * 64),
        ("head_last_token", 1, 2 * 2 * B * 64),
        ("head_norm", 1, 2 * (2 * B * 64 + 64)),
    ],
)
def test_op_without_arithmetic_moves_its_tensors_once(name: str, count: int, moved: float) -> None:
    found = line(plan(), name)
    assert (found.count, found.flops, found.bytes) == (count, 0, moved)
    assert found.time_s == pytest.approx(count * kernel(0, moved, SMALL), rel=1e-12)


def test_all_reduce_on_a_mesh_uses_the_links_of_its_group() -> None:
    found = line(plan("tp = 4"), "down", "all_reduce")
    payload = B * S * 64 * 2
    assert (found.bytes, found.axis, found.count) == (payload, "tensor", 3)
    two_shot = 2 * LATENCY + 2 * payload / (4 * LINK_RATE)
    one_shot = LATENCY + payload / LINK_RATE
    assert found.time_s == pytest.approx(3 * (min(two_shot, one_shot) + COLLECTIVE), rel=1e-12)


def test_send_takes_one_link_and_the_receiver_nothing() -> None:
    made = plan("pp = 2")
    payload = B * S * 64 * 2
    wanted = LATENCY + payload / LINK_RATE + COLLECTIVE
    times = made.cost.evaluate().prefill
    assert times.hop == pytest.approx(wanted, rel=1e-12)
    assert times.seconds["recv"] == [0.0]
    assert times.through == pytest.approx(sum(s.span for s in times.stages) + wanted, rel=1e-12)


def test_sharded_gemm_does_its_share() -> None:
    whole, part = line(plan(), "o"), line(plan("tp = 4"), "o", "gemm")
    assert part.flops == whole.flops / 4
    assert dict(part.shape) == {**dict(whole.shape), "k": 8 * 16 // 4}


def test_few_key_heads_are_computed_by_each_rank_that_holds_them() -> None:
    found = line(plan("tp = 8"), "qkv")
    assert dict(found.shape)["n"] == (8 // 8 + 2 * 1) * 16  # 4 kv_heads over 8 ranks: one each


def test_calibration_of_one_dtype_goes_before_that_of_all() -> None:
    made = plan()
    values = (*made.spec.calibration.values, ("gemm.bf16", 0.25))
    slower = compiled(evolve(made.spec, calibration=evolve(made.spec.calibration, values=values)))
    assert slower.cost.main.prefill.machine.gemm_rate("bf16") == 25e12
    assert made.cost.main.prefill.machine.gemm_rate("bf16") == 50e12


def test_without_calibration_the_bare_roofline_answers() -> None:
    made = plan()
    bare = compiled(evolve(made.spec, calibration=evolve(made.spec.calibration, values=())))
    found = line(bare, "attention")
    assert found.layer == "roofline"
    assert line(made, "attention").layer == "constant"
    assert found.time_s == 3 * max(found.flops / 100e12, found.bytes / 1e12)


# ---- what bounds an op


@pytest.mark.parametrize(
    ("times", "bound"),
    [
        ({"launch": 0.0, "gemm": 1e-6}, "compute"),
        ({"launch": 0.0, "hbm": 1e-6}, "memory"),
        ({"launch": 1.0}, "latency"),
    ],
)
def test_kernel_is_bound_by_what_takes_longest(times: dict[str, float], bound: str) -> None:
    made = plan()
    spec = evolve(made.spec, calibration=evolve(made.spec.calibration, values=tuple(times.items())))
    assert line(compiled(spec), "qkv").bound == bound


@pytest.mark.parametrize(("bandwidth", "latency", "bound"), [(1e6, 0.0, "link"), (1e15, 1.0, "latency")])
def test_collective_is_bound_by_links_or_latency(bandwidth: float, latency: float, bound: str) -> None:
    made = plan("tp = 4")
    node = evolve(made.spec.node, link=LinkSpec("mesh", bandwidth, latency))
    assert line(compiled(evolve(made.spec, node=node)), "down", "all_reduce").bound == bound


# ---- collectives


V, A, BW = 8e6, 2e-6, 50e9


def ways(collective: str, topology: str, n: int, **more: int) -> dict[str, float]:
    f = links.Fabric(topology, BW, A, **more)
    return {w.name: w.fixed + w.per_byte * V for w in links.COLLECTIVES[collective](f, n)}


def test_all_reduce_on_a_mesh() -> None:
    n = 4
    found = ways("all_reduce", "mesh", n)
    assert found == pytest.approx(
        {
            "direct": 2 * A + 2 * V / (n * BW),  # two-shot
            "one_shot": A + V / BW,
            "ring": 2 * (n - 1) * (A + V / n / BW),
            "tree": 2 * log2(n) * A + 2 * V / BW,
        }
    )


@pytest.mark.parametrize("topology", ["switch", "pcie"])
def test_all_reduce_through_one_port(topology: str) -> None:
    n = 6
    found = ways("all_reduce", topology, n)
    assert found == pytest.approx(
        {
            "direct": 2 * (A + (n - 1) / n * V / BW),
            "one_shot": A + (n - 1) * V / BW,
            "ring": 2 * (n - 1) * (A + V / n / BW),
            "tree": 2 * ceil(log2(n)) * A + 2 * V / BW,
        }
    )


@pytest.mark.parametrize("collective", ["all_gather", "reduce_scatter"])
def test_gather_and_scatter_move_half_of_a_sum(collective: str) -> None:
    for topology, n, port in (("mesh", 4, 3 * BW), ("switch", 4, BW), ("ring", 4, None)):
        found = ways(collective, topology, n)
        wanted = {"ring": (n - 1) * (A + V / n / BW)}
        if port:
            wanted["direct"] = A + (n - 1) / n * V / port
        assert found == pytest.approx(wanted)


def test_all_to_all_sends_an_nth_to_each() -> None:
    n = 4
    assert ways("all_to_all", "mesh", n) == pytest.approx({"direct": A + V / n / BW})
    assert ways("all_to_all", "switch", n) == pytest.approx({"direct": A + (n - 1) / n * V / BW})
    assert ways("all_to_all", "ring", n) == pytest.approx({"ring": (n - 1) * A + (n - 1) / 2 * V / BW})


def test_send_takes_one_link() -> None:
    (way,) = links.send(links.Fabric("mesh", BW, A))
    assert way.fixed + way.per_byte * V == pytest.approx(A + V / BW)


def test_groups_with_a_stride_share_the_links_of_a_ring() -> None:
    near, far = ways("all_reduce", "ring", 4), ways("all_reduce", "ring", 4, stride=2)
    n = 4
    assert far["ring"] - 2 * (n - 1) * A == pytest.approx(2 * (near["ring"] - 2 * (n - 1) * A))
    assert ways("all_reduce", "mesh", 4, stride=2) == ways("all_reduce", "mesh", 4)


def torus(collective: str, n: int, dims: tuple[int, ...], wrap: bool = True, stride: int = 1) -> float:
    """Seconds of ``V`` bytes over part of a torus."""
    f = links.fabric(LinkSpec("torus", BW, A, dims, wrap=wrap), 1.0, stride)
    return float(links.seconds(links.COLLECTIVES[collective](f, n), V))


def test_all_axes_of_a_torus_carry_a_collective_at_once() -> None:
    # both ways around a ring of 4, two links; a line of 4, one link; two rings, four links
    assert torus("all_gather", 4, (4, 4)) == pytest.approx(2 * A + 3 / 4 * V / (2 * BW))
    assert torus("all_gather", 4, (4, 4), wrap=False) == pytest.approx(3 * A + 3 / 4 * V / BW)
    assert torus("all_gather", 16, (4, 4)) == pytest.approx(4 * A + 15 / 16 * V / (4 * BW))
    assert torus("all_gather", 8, (4, 4)) == pytest.approx(3 * A + 7 / 8 * V / (3 * BW))  # a ring, and two rows of it
    assert torus("all_gather", 2, (4, 4)) == pytest.approx(A + V / 2 / BW)
    for n in (2, 4, 8, 16):
        assert torus("all_reduce", n, (4, 4)) == pytest.approx(2 * torus("all_gather", n, (4, 4)))
    f = links.Fabric("torus", BW, A, dims=(4, 4))
    (whole,), (half,) = links.all_reduce(f, 8), links.all_gather(f, 8)
    assert whole[1:] == tuple(2 * x for x in half[1:]), "of seconds and of bytes that are sent"


def test_groups_with_a_stride_follow_another_axis_of_a_torus_or_share_its_links() -> None:
    assert torus("all_gather", 4, (4, 4), stride=4) == torus("all_gather", 4, (4, 4))
    assert torus("all_gather", 2, (4, 8), stride=4) == pytest.approx(4 * A + V / 2 / (2 * BW / 4))  # 4 share it
    assert torus("all_gather", 3, (4, 4)) == pytest.approx(2 * A + 2 / 3 * V / BW)  # three of a row: a line


def test_an_all_to_all_on_a_torus_is_held_up_by_its_longest_axis() -> None:
    # half of the bytes cross the middle; a TPU's ring of m takes m / 8 of them per link, a line twice as much
    assert torus("all_to_all", 16, (16, 1)) == pytest.approx(8 * A + 16 / 8 * V / BW)
    assert torus("all_to_all", 16, (16, 1), wrap=False) == pytest.approx(15 * A + 16 / 4 * V / BW)
    assert torus("all_to_all", 64, (8, 8)) == pytest.approx(8 * A + 8 / 8 * V / BW)
    assert torus("all_to_all", 4, (2, 2)) == pytest.approx(2 * A + 1 / 2 * V / BW)


@given(dims=st.lists(st.sampled_from((1, 2, 3, 4, 8)), min_size=2, max_size=3), wrap=st.booleans())
def test_law_all_links_of_a_torus_together_carry_every_hop(dims: list[int], wrap: bool) -> None:
    n = prod(dims)
    found = spread(tuple(dims), wrap, n, 1)
    hops = [sum(min(d, m - d) if wrap else d for d, m in zip(at, dims, strict=True)) for at in _apart(dims)]
    assert found.distance == pytest.approx(sum(hops) / n**2)
    assert found.reach == max(hops)
    # links of one direction, at the ends of lines fewer than at a member in the middle
    links_ = sum(n if wrap and m > 2 else n * (m - 1) / m for m in dims)
    assert n * found.distance <= found.cut * 2 * links_ * (1 + 1e-9)


def _apart(dims: list[int]) -> Iterator[tuple[int, ...]]:
    """How far every two places of a torus are apart along each axis, without the links at its ends."""
    places = list(product(*map(range, dims)))
    for a, b in product(places, places):
        yield tuple(abs(x - y) for x, y in zip(a, b, strict=True))


def test_larger_group_on_a_mesh_uses_more_links() -> None:
    # two-shot: V / n to each of n - 1 peers at once, so the time falls with n where latency does not count
    times = [ways("all_reduce", "mesh", n)["direct"] for n in (2, 4, 8)]
    assert times == sorted(times, reverse=True)
    assert [ways("all_reduce", "switch", n)["direct"] for n in (2, 4, 8)] == sorted(
        ways("all_reduce", "switch", n)["direct"] for n in (2, 4, 8)
    )


@pytest.mark.parametrize("topology", ["mesh", "switch"])
def test_small_payloads_go_in_one_shot_and_large_ones_in_two(topology: str) -> None:
    f = links.Fabric(topology, BW, A)
    found = links.all_reduce(f, 8)
    assert links.fastest(found, 1.0).name == "one_shot"
    assert links.fastest(found, 1e9).name == "direct"
    for payload in (1.0, 1e4, 1e6, 1e9):
        assert links.seconds(found, payload) == min(w.fixed + w.per_byte * payload for w in found)


@pytest.mark.parametrize("forced", ["ring", "direct", "one_shot", "tree"])
def test_plan_can_force_an_algorithm(forced: str) -> None:
    made = plan("tp = 4", more=f"algorithm = {forced}")
    found = line(made, "down", "all_reduce")
    assert found.algorithm == forced
    payload = B * S * 64 * 2
    f = links.fabric(made.spec.node.link, 0.75)
    (way,) = [w for w in links.all_reduce(f, 4) if w.name == forced]
    assert found.time_s == pytest.approx(3 * (way.fixed + way.per_byte * payload + COLLECTIVE), rel=1e-12)
    assert line(made, "head", "all_gather").algorithm in ("ring", "direct")  # it has no other


@given(n=st.integers(2, 64), payload=st.floats(1, 1e12))
@pytest.mark.parametrize("collective", links.COLLECTIVES)
@pytest.mark.parametrize("topology", ["mesh", "switch", "pcie", "ring", "torus"])
def test_law_collectives_of_arrays_equal_those_of_numbers(
    topology: str, collective: str, n: int, payload: float
) -> None:
    f = links.Fabric(topology, BW, A)
    alone = links.seconds(links.COLLECTIVES[collective](f, n), payload)
    at_once = links.seconds(links.COLLECTIVES[collective](f, np.array([n, 2])), np.array([payload, 1.0]))
    assert at_once[0] == pytest.approx(alone, rel=1e-12)


# ---- attention


@given(
    position=st.integers(1, 20),
    before=st.integers(0, 20),
    causal=st.booleans(),
    window=st.integers(0, 45),
)
def test_law_visible_pairs_equal_counting(position: int, before: int, causal: bool, window: int) -> None:
    context = before + position
    count = 0
    for query in range(before, context):
        keys = range(query + 1 if causal else context)
        count += min(len(keys), window) if window else len(keys)
    assert visible_pairs(position, context, causal, window) == count
    arrays = visible_pairs(np.array([position]), np.array([context]), causal, window)
    assert arrays.tolist() == [count]


# ---- schedules


def test_communication_runs_beside_what_does_not_wait_for_it() -> None:
    slots = (Slot(0, COMPUTE, ()), Slot(1, LINK, (0,)), Slot(2, COMPUTE, (0,)), Slot(3, COMPUTE, (1,)))
    seconds = [1.0, 5.0, 2.0, 1.0]
    assert play_slots(slots, seconds) == [(0, 1), (1, 6), (1, 3), (6, 7)]
    played = play(slots, seconds)
    assert (played.span, played.compute, played.exposed) == (7, 4, 3)


def test_pipeline_of_two_stages_by_hand() -> None:
    runs = play_pipeline([2.0, 3.0], 1.0, batches=2, rounds=2)
    assert [(r.stage, r.batch, r.round, r.start, r.end) for r in runs if r.round == 0] == [
        (0, 0, 0, 0, 2),
        (1, 0, 0, 3, 6),
        (0, 1, 0, 2, 4),
        (1, 1, 0, 6, 9),
    ]
    again = [r for r in runs if r.round == 1]
    assert [r.end - r.start for r in again] == [2, 3, 2, 3]
    assert again[-1].end == 15  # two batches of three seconds each a round


def test_slowest_stage_or_the_way_of_one_batch_sets_the_period() -> None:
    for sharding, in_flight in (("pp = 3", 1), ("pp = 3", 3), ("pp = 3", 8)):
        made = plan(sharding)
        spec = evolve(made.spec, workload=evolve(made.spec.workload, in_flight=in_flight))
        times = compiled(spec).cost.evaluate().decode
        slowest = max(*(s.span for s in times.stages), times.hop)
        assert times.period == max(times.through, in_flight * slowest)


def test_slow_links_set_the_period_where_no_stage_takes_as_long() -> None:
    made = plan("pp = 3")
    node = evolve(made.spec.node, link=LinkSpec("mesh", 1e3, 0.0))
    times = compiled(evolve(made.spec, node=node)).cost.evaluate().prefill
    assert times.hop > max(s.span for s in times.stages)
    assert times.period == 3 * times.hop


# ---- metrics


def test_metrics_follow_their_definitions() -> None:
    made = plan("pp = 3, dp = 2")
    got, load = made.cost.evaluate(), made.spec.workload
    assert got.latency == got.ttft + (load.output - 1) * got.tpot
    round_time = got.prefill.period + load.output * got.tpot
    assert got.throughput == pytest.approx(2 * 3 * load.batch * load.output / round_time, rel=1e-12)
    assert got.throughput_per_gpu == got.throughput / 6


def test_one_output_token_needs_no_step() -> None:
    made = plan()
    got = made.cost.evaluate(output=1)
    assert got.latency == got.ttft
    assert got.tpot == pytest.approx(float(made.cost.evaluate(output=2).tpot), rel=1e-12)
    spec = evolve(made.spec, workload=evolve(made.spec.workload, output=1))
    assert compiled(spec).estimate().decode.mfu > 0


def test_one_compiled_structure_answers_a_million_configurations() -> None:
    batch = np.arange(1, 1001)[:, None]
    input_ = np.arange(1, 1001)[None, :]
    got = plan("tp = 4").cost.evaluate(batch=batch, input=input_)
    assert got.ttft.shape == got.tpot.shape == (1000, 1000)
    assert float(got.ttft[3, 31]) == pytest.approx(float(plan("tp = 4").cost.evaluate().ttft), rel=1e-12)


# ---- memory


def test_memory_holds_weights_cache_values_and_buffers() -> None:
    made = plan("tp = 2")
    memory = made.estimate().memory
    block = 64 * (8 + 2 * 4) * 16 + 8 * 16 * 64 + 3 * 64 * 256
    assert memory.weights == 2 * ((3 * block + 2 * 512 * 64) / 2 + 7 * 64)
    assert memory.kv_cache == 3 * (S + 9) * B * 2 * 4 / 2 * 16 * 2
    tokens = B * S
    largest_set = 2 * tokens * (64 + 3 * 256 / 2)  # x, gate, up and their product together
    assert memory.activations == largest_set
    assert memory.buffers == 2 * tokens * 64
    assert memory.total == memory.weights + memory.kv_cache + memory.activations + memory.buffers
    assert memory.capacity == 1e9


def test_windows_bound_the_cache() -> None:
    made = compile_text(
        (MODEL.replace("attention(q, k, v)", "attention(q, k, v, window = 10)") + REST)
        .replace("WEIGHTS", "bf16").replace("CACHE", "bf16").replace("TOPOLOGY", "mesh")
        .replace("SHARDING", "").replace("MORE", "")
    )[0]  # fmt: skip
    assert made.estimate().memory.kv_cache == 3 * 10 * B * 2 * 4 * 16 * 2


def test_in_flight_batches_hold_their_cache_unless_one_is_resident() -> None:
    every = plan("pp = 3").estimate().memory.kv_cache
    one = plan("pp = 3", more="kv_residency = one_batch").estimate().memory.kv_cache
    assert every == 3 * one


def test_step_of_no_tokens_leaves_activations_out() -> None:
    memory = plan("tp = 2", more="step_tokens = 0").estimate().memory
    assert (memory.activations, memory.buffers) == (0, 0)


def test_long_inputs_are_prefilled_in_chunks() -> None:
    whole, chunked = plan(), plan(more="step_tokens = 64")
    assert chunked.estimate().memory.activations == whole.estimate().memory.activations * 64 / (B * S)
    assert chunked.estimate().ttft_s == whole.estimate().ttft_s


def test_tied_embedding_is_held_once_where_head_and_embedding_meet() -> None:
    tied = MODEL.replace("w_head[hidden, vocab]", "w_embed[vocab, hidden]")

    def weights(model: str, sharding: str) -> tuple[float, ...]:
        text = (model + REST).replace("WEIGHTS", "bf16").replace("CACHE", "bf16").replace("TOPOLOGY", "mesh")
        (made,) = compile_text(text.replace("SHARDING", sharding).replace("MORE", ""))
        return tuple(m.weights for m in made.estimate().stages)

    assert weights(MODEL, "")[0] - weights(tied, "")[0] == 2 * 512 * 64
    assert weights(MODEL, "pp = 3") == weights(tied, "pp = 3")


# ---- the report


PHASE = {"time_s", "compute_s", "communication_s", "bubble_s", "mfu", "mbu", "ops"}
PLAN = {
    "plan", "fits", "gpus", "replicas", "mesh", "ttft_s", "tpot_s", "latency_s", "throughput_tokens_per_s",
    "throughput_per_gpu_tokens_per_s", "memory_per_gpu_bytes", "kv_capacity_tokens", "max_batch", "prefill",
    "decode", "requires", "notes",
}  # fmt: skip
OPS = {
    "gemm", "attention", "norm", "elementwise", "embedding", "all_reduce", "all_gather", "reduce_scatter",
    "all_to_all", "send", "recv",
}  # fmt: skip
SHARDINGS = ["", "tp = 4", "pp = 3", "sp = 4", "tp = 2, pp = 3", "dp = 8", "mesh t = 2\n ffn -> t\n tokens -> t"]


@pytest.mark.parametrize("sharding", SHARDINGS)
def test_json_has_every_key_of_the_contract(sharding: str) -> None:
    made = plan(sharding, more="require ttft <= 1 s\n require memory <= 95 %")
    found = json.loads(json.dumps(made.estimate().as_json(), allow_nan=False))
    assert found.keys() >= PLAN
    assert found["memory_per_gpu_bytes"].keys() == {
        "total", "weights", "kv_cache", "activations", "buffers", "capacity"
    }  # fmt: skip
    assert found["mesh"] == {a.name: a.size for a in made.spec.sharding.axes if a.size > 1}
    assert isinstance(found["max_batch"], int)
    assert isinstance(found["kv_capacity_tokens"], int)
    assert [r["text"] for r in found["requires"]] == ["ttft <= 1 s", "memory <= 95 %"]
    assert all(r.keys() == {"text", "value", "ok"} for r in found["requires"])
    for phase in (found["prefill"], found["decode"]):
        assert phase.keys() >= PHASE
        assert phase["compute_s"] + phase["communication_s"] + phase["bubble_s"] == pytest.approx(phase["time_s"])
        for op in phase["ops"]:
            assert op["op"] in OPS
            wanted = {"op", "name", "count", "bytes", "time_s", "bound"}
            assert op.keys() >= wanted | ({"axis"} if "axis" in op else {"flops"})
            assert op["bound"] in ("compute", "memory", "link", "latency")
            assert op.keys() >= ({"shape"} if op["op"] == "gemm" else set())
    assert found["prefill"]["time_s"] == found["ttft_s"]
    assert found["decode"]["time_s"] == found["tpot_s"]


@pytest.mark.parametrize("sharding", [s for s in SHARDINGS if "pp" not in s])
def test_ops_make_the_time_of_a_single_stage(sharding: str) -> None:
    got = plan(sharding).estimate()
    for phase in (got.prefill, got.decode):
        assert sum(op.time_s for op in phase.ops) == pytest.approx(phase.time_s + phase.overlapped_s, rel=1e-9)
        assert phase.comm_share == pytest.approx(phase.communication_s / phase.time_s)
        names = [(op.op, op.name) for op in phase.ops]
        assert len(names) == len(set(names))


def test_utilisation_is_work_over_what_the_gpus_could_do() -> None:
    got = plan("tp = 4").estimate().prefill
    flops = sum(op.count * op.flops for op in got.ops)
    moved = sum(op.count * op.bytes for op in got.ops if not op.communicates)
    assert got.mfu == pytest.approx(flops / got.time_s / 100e12)
    assert got.mbu == pytest.approx(moved / got.time_s / 1e12)


@pytest.mark.parametrize(
    ("require", "ok"),
    [
        ("ttft <= 1 s", True),
        ("ttft > 1 s", False),
        ("memory <= 100 %", True),
        ("memory <= 1 B", False),
        ("throughput >= 1 tok/s", True),
        ("max_batch >= 1_000_000", False),
        ("comm_share <= 100 %", True),
        ("kv_capacity >= 1", True),
    ],
)
def test_requirement_is_judged(require: str, ok: bool) -> None:
    got = plan("tp = 2", more=f"require {require}").estimate()
    assert [(r.text, r.ok) for r in got.requires] == [(require, ok)]
    assert got.ok == ok


def test_plan_that_does_not_fit_still_gets_its_estimates() -> None:
    got = plan(more="memory_fraction = 0.01 %").estimate()
    assert (got.fits, got.ok, got.max_batch, got.kv_capacity_tokens) == (False, False, 0, 0)
    assert got.ttft_s == plan().estimate().ttft_s


def test_price_makes_a_cost_per_million_tokens() -> None:
    made = plan("tp = 4")
    priced = evolve(made.spec.node.gpu, price=2 / 3600)
    got = made.cost.on(evolve(made.spec, node=evolve(made.spec.node, gpu=priced)))
    from plandsl.backends.cost import estimate

    found = estimate(got)
    assert found.cost_usd_per_mtok == pytest.approx(4 * 2 / 3600 / found.throughput_tokens_per_s * 1e6)
    assert "cost_usd_per_mtok" not in made.estimate().as_json()


# ---- numbers or arrays


@given(a=st.integers(0, 100), b=st.integers(1, 100), c=st.integers(0, 100))
def test_law_arithmetic_of_arrays_equals_that_of_numbers(a: int, b: int, c: int) -> None:
    x, y, z = np.array([a]), np.array([b]), np.array([c])
    for alone, many in (
        (maximum(a, b), maximum(x, y)),
        (minimum(a, b), minimum(x, y)),
        (largest([a, b, c]), largest([x, y, z])),
        (clip(a, min(b, c), max(b, c)), clip(x, np.minimum(y, z), np.maximum(y, z))),
        (ceil_div(a, b), ceil_div(x, y)),
        (floor(a / b), floor(x / y)),
        (where(a > b, b, c), where(x > y, y, z)),
    ):
        assert many.tolist() == [alone]


# ---- what a slot waits for


SLOTS = st.lists(st.tuples(st.sampled_from((COMPUTE, LINK)), st.sets(st.integers(0, 11), max_size=4)), max_size=12)


@given(SLOTS, st.lists(st.floats(0, 10), min_size=12, max_size=12))
def test_ends_that_cannot_be_the_latest_are_left_out_and_change_nothing(
    drawn: list[tuple[str, set[int]]], seconds: list[float]
) -> None:
    slots = [Slot(i, stream, tuple(j for j in after if j < i)) for i, (stream, after) in enumerate(drawn)]
    free, ends = {COMPUTE: 0.0, LINK: 0.0}, []
    for slot in slots:
        start = max(free[slot.stream], *(ends[j] for j in slot.after), 0.0)
        ends.append(start + seconds[slot.op])
        free[slot.stream] = ends[-1]
    assert [end for _, end in play_slots(slots, seconds)] == ends
    assert play(slots, seconds).span == max(ends, default=0.0)


def test_a_chain_of_slots_waits_for_one_at_a_time() -> None:
    """Kernels and links by turns: each waits for the one before, and the last one ends last."""
    chain = [Slot(i, (COMPUTE, LINK)[i % 2], (i - 1, *range(max(i - 3, 0), i - 1)) if i else ()) for i in range(6)]
    assert order(chain) == (((), (0,), (1,), (2,), (3,), (4,)), (5,))
