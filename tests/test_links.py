"""What a node says of its links counts: latency, bridges, and what no estimate may beat."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plandsl.answers.communication import Calls
from plandsl.backends.cost.forms.collective import OPS, collective_seconds, late_seconds
from plandsl.driver import CompiledPlan, compile_text
from plandsl.entries import catalog_calibration
from plandsl.spec.constants import CollectiveConstants
from plandsl.spec.hardware import HOST_PATH, LinkSpec, usual_latency
from tests.draws import draws

FITTED = CollectiveConstants(4e-6, 1e-6, 0.3, 6e-6, bulk=0.8, half=2e6, own=0.4, switch=0.4)
NODE = """
node n {{
  gpu = {gpu}, count = {count}, link {{ topology = {topology}, bandwidth = {rate} GB/s, latency = {us} us{more} }}
}}
plan p {{
  model = llama_3_2_1b, node = n, sharding {{ {degrees} }}, workload {{ input = 512, output = 256, batch = 1 }}
  {engine}
}}
"""


def rows(gpu: str = "l40s", count: int = 2, topology: str = "pcie", us: float = 5, **said: str) -> dict[str, Calls]:
    """The calls of each collective in a decode step."""
    known = {"rate": "32", "more": "", "degrees": f"tp = {count}", "engine": ""} | said
    (made,) = compile_text(NODE.format(gpu=gpu, count=count, topology=topology, us=us, **known))
    return {row.op: row for row in made.estimate().communication.rows if row.phase == "decode"}


def calls(gpu: str = "l40s", count: int = 2, topology: str = "pcie", us: float = 5, **said: str) -> dict[str, float]:
    """Seconds of one call of each collective in a decode step."""
    return {op: row.time_s / row.calls for op, row in rows(gpu, count, topology, us, **said).items()}


# ---- latency


@pytest.mark.parametrize(("gpu", "topology"), [("l40s", "pcie"), ("h100_sxm", "switch"), ("mi300x", "mesh")])
@pytest.mark.parametrize("count", [2, 8])
def test_a_collective_takes_no_less_than_the_latency_of_its_messages(gpu: str, topology: str, count: int) -> None:
    usual = 1e6 * usual_latency(topology)
    found = [calls(gpu, count, topology, us) for us in (0, usual / 2, usual, 2 * usual, 20, 100, 500)]
    for op in found[0]:
        times = [each[op] for each in found]
        assert all(a < b for a, b in pairwise(times)), f"{op}: {times}"
        assert all(each[op] >= us * 1e-6 for each, us in zip(found[4:], (20, 100, 500), strict=True))


def test_what_is_fitted_holds_for_links_of_the_usual_latency() -> None:
    for topology in ("switch", "mesh", "pcie"):
        usual = LinkSpec(topology, 300e9, usual_latency(topology))
        assert late_seconds(3e-6, usual) == 3e-6
        assert late_seconds(3e-6, LinkSpec(topology, 300e9, 100e-6)) == pytest.approx(103e-6 - usual.latency)
        assert late_seconds(1e-6, LinkSpec(topology, 300e9, 0.0)) == 0
    # a step takes more than the message: what the message gets shorter by is not more than it was
    assert late_seconds(10e-6, LinkSpec("pcie", 32e9, 1e-6)) == pytest.approx(6e-6)
    assert late_seconds(1e-6, LinkSpec("pcie", 32e9, 1e-6)) == pytest.approx(0.2e-6)


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("custom", [False, True])
def test_every_message_that_waits_for_another_one_is_late(op: str, custom: bool) -> None:
    steps = {"all_reduce": 1 if custom else 6, "p2p": 1}.get(op, 7)  # up and down a tree of three levels
    c = FITTED._replace(step=1.0)
    near, late = (LinkSpec("switch", 300e9, us * 1e-6) for us in (2, 12))
    before, after = (collective_seconds(c, link, op, n=8, payload=1.0, custom=custom) for link in (near, late))
    assert after - before == pytest.approx(steps * 10e-6)


# ---- bridges


def test_two_neighbours_use_their_bridge() -> None:
    plain, bridged = (calls(count=4, more=more, degrees="dp = 2, tp = 2") for more in ("", ", bridge = 56.25 GB/s"))
    alone = calls(topology="mesh", us=2, rate="56.25")
    assert bridged == {op: pytest.approx(time) for op, time in alone.items()}
    assert all(bridged[op] < plain[op] for op in plain)


@pytest.mark.parametrize("degrees", ["tp = 4", "tp = 2, dp = 2"])
def test_ranks_of_two_pairs_do_not(degrees: str) -> None:
    if degrees != "tp = 4":
        degrees = "\n  mesh tensor = 2, data = 2\n  heads, kv_heads, ffn, vocab -> tensor\n  batch -> data\n"
    plain, bridged = (calls(count=4, more=more, degrees=degrees) for more in ("", ", bridge = 56.25 GB/s"))
    assert plain == bridged


# ---- PCIe, and the way through the host


def link_of(node: str) -> LinkSpec:
    load = "workload { input = 9, output = 9, batch = 1 }"
    (made,) = compile_text(f"{node}\nplan p {{ model = llama_3_2_1b, node = n, {load} }}")
    return made.spec.node.link


@pytest.mark.parametrize(("said", "rate"), [
    ("pcie = 4", 31.5e9), ("pcie = 4, lanes = 8", 15.75e9), ("pcie = 3, lanes = 4", 3.94e9), ("pcie = 5", 63e9),
    ("pcie = 1, lanes = 1", 0.25e9), ("pcie = 6", 118e9),
])  # fmt: skip
def test_generation_and_lanes_give_the_bandwidth_of_a_port(said: str, rate: float) -> None:
    ports = f"node m = l40s_2 with {{ link {{ {said} }} }}\n"
    assert link_of(ports + "node n = m").bandwidth == pytest.approx(rate, rel=2e-3)
    # what is said last counts
    assert link_of(ports + "node n = m with { link { bandwidth = 7 GB/s } }").bandwidth == 7e9
    assert link_of(ports + "node n = m with { link { pcie = 2, lanes = 16 } }").bandwidth == 8e9


def test_the_driver_of_a_gpu_decides_and_a_node_may_say_otherwise() -> None:
    for gpu, host in (("rtx_4090", True), ("rtx_3090", True), ("l40s", False), ("a40", False), ("h100_pcie", False)):
        assert (link_of(f"node n = {gpu}_8").host is not None) == host
    assert link_of("node n = rtx_4090_8 with { link { p2p = on } }").host is None
    assert link_of("node n = l40s_8 with { link { p2p = off } }").host == HOST_PATH
    assert link_of("node n = l40s_8 with { gpu = l40s with { p2p = off } }").host == HOST_PATH
    mixed = "node n {{ gpus = [1 * l40s, 1 * rtx_4090], link {{ topology = {}, bandwidth = 9 GB/s, latency = 5 us }} }}"
    assert link_of(mixed.format("pcie")).host == HOST_PATH
    assert link_of(mixed.format("switch")).host is None


@pytest.mark.parametrize("engine", ["", "engine = vllm", "engine = trtllm"])
@pytest.mark.parametrize("count", [2, 4])
def test_through_the_host_nccl_alone_sends_and_later(engine: str, count: int) -> None:
    """By most of the latency of the way: at its lower rate fewer bytes are needed to reach half of it."""
    near, host = (rows(count=count, more=f", p2p = {p2p}", engine=engine) for p2p in ("on", "off"))
    for op, row in host.items():
        assert row.algorithm == "nccl"
        assert row.time_s > near[op].time_s + row.calls * 0.7 * HOST_PATH.latency


def test_the_host_is_as_fast_as_it_was_measured() -> None:
    # NCCL on two RTX PRO 6000 (PCIe 5) without access to peers: 19.1 us for 8 KB and 1118 us for 16 MB, against 7.0 and
    # 473 us with it (aiconfigurator)
    constants = catalog_calibration("rtx_pro_6000").constants(CollectiveConstants, "collective.nccl")
    assert constants is not None
    for host, times in ((HOST_PATH, (19.1e-6, 1118e-6)), (None, (7.0e-6, 473e-6))):
        link = LinkSpec("pcie", 64e9, 5e-6, host=host)
        found = [collective_seconds(constants, link, "all_reduce", n=2, payload=b) for b in (8192.0, 2.0**24)]
        assert found == pytest.approx(times, rel=0.1)
    # eight RTX 4090 (PCIe 4) up and down a tree: 42.6 us for a few bytes (NVIDIA/nccl issue 1530); four of them send
    # 18 GB/s (NVIDIA/nccl issue 1603): other hosts, of other GPUs than those that the constants are fitted to
    link = LinkSpec("pcie", 32e9, 5e-6, host=HOST_PATH)
    assert collective_seconds(constants, link, "all_reduce", n=8, payload=8.0) == pytest.approx(42.6e-6, rel=0.4)
    busy = 2.0**28 * 1.5 / collective_seconds(constants, link, "all_reduce", n=4, payload=2.0**28)
    assert busy == pytest.approx(18e9, rel=0.4)


def test_a_port_of_few_lanes_is_slower_than_the_host() -> None:
    x16, x4 = (calls(more=", p2p = off", rate=rate, degrees="tp = 2") for rate in ("32", "8"))
    assert all(x4[op] >= x16[op] for op in x16)
    long = {}
    for lanes in (4, 8, 16):
        node = f"node n = rtx_3090_4 with {{ link {{ pcie = 4, lanes = {lanes} }} }}"
        load = "workload { input = 8000, output = 2, batch = 1 }"
        (made,) = compile_text(f"{node}\nplan p {{ model = llama_3_2_3b, node = n, sharding {{ tp = 2 }}, {load} }}")
        (row,) = (r for r in made.estimate().communication.rows if (r.phase, r.op) == ("prefill", "all_reduce"))
        long[lanes] = row.wire / row.time_s
    assert long[4] == pytest.approx(long[8] / 2, rel=0.1)
    assert long[8] < long[16] < 1.01 * HOST_PATH.rate


# ---- what no estimate beats

GPUS = ("h100_sxm", "a100_sxm", "mi300x", "mi355x", "b200_sxm", "l40s", "rtx_3090", "h20", "a40")
DEGREES = (
    ("llama_3_2_1b", "tp = {n}"),
    ("llama_3_2_1b", "sp = {n}"),
    ("llama_3_2_1b", "pp = {n}"),
    ("llama_3_2_1b", "pp = 2, tp = {half}"),
    ("llama_3_2_1b", "cp = 2, tp = {half}"),
    ("qwen3_30b_a3b", "ep = {n}"),
    ("qwen3_30b_a3b", "tp = 2, ep = {half}"),
)


@st.composite
def sent(draw: st.DrawFn) -> tuple[CompiledPlan, int]:
    """A plan on drawn links with drawn rates of an engine, and the ranks of each axis."""
    nodes, per_node = draw(st.sampled_from([(1, 2), (1, 4), (1, 8), (2, 2), (2, 4), (4, 2)]))
    n = nodes * per_node
    model, degrees = draw(st.sampled_from(DEGREES if n > 2 else DEGREES[:3] + DEGREES[5:6]))
    topology = draw(st.sampled_from(("mesh", "switch", "pcie", "ring", "torus")))
    topology = f"torus({per_node // 2}, 2)" if topology == "torus" else topology
    bridge = ", bridge = 300 GB/s" if topology == "pcie" and draw(st.booleans()) else ""
    rate, latency = draw(st.integers(1, 1000)), draw(st.sampled_from((0, 1, 2, 5, 50)))
    network = draw(st.sampled_from(("fat_tree", "rail", "dragonfly", "switch", "mesh", "ring")))
    engine = draw(st.sampled_from(("", "engine = vllm", "engine = trtllm with { links = 400 % }", "engine = e")))
    place = "node = n" if nodes == 1 else "cluster = c"
    text = f"""
engine e {{
  links = {draw(st.integers(50, 3000))} %, prefill = {draw(st.integers(50, 3000))} %
  decode = {draw(st.integers(50, 3000))} %
}}
node n {{
  gpu = {draw(st.sampled_from(GPUS))}, count = {per_node}
  link {{ topology = {topology}, bandwidth = {rate} GB/s, latency = {latency} us{bridge} }}
}}
cluster c {{
  node = n, count = {nodes}
  network {{ topology = {network}, bandwidth = {draw(st.integers(1, 200))} GB/s, latency = {latency} us }}
}}
plan p {{
  model = {model}, {place}
  sharding {{ {degrees.format(n=n, half=n // 2)} }}
  {engine}
  workload {{ input = {draw(st.integers(1, 5000))}, output = 9, batch = {n * draw(st.integers(1, 60))} }}
}}
"""
    (made,) = compile_text(text)
    return made, per_node


def port(link: LinkSpec, others: int) -> float:
    """The most bytes/s that a GPU sends to ``others`` GPUs."""
    sides = {"mesh": max(others, 1), "ring": 2, "torus": 2 * max(1, sum(d > 1 for d in link.dims))}
    return max(link.bandwidth, link.bridge) * sides.get(link.topology, 1)


@given(sent())
@draws(25 / 12)
def test_no_exchange_beats_its_links(drawn: tuple[CompiledPlan, int]) -> None:
    made, per_node = drawn
    node, cluster, mesh = made.spec.node, made.spec.cluster, made.prefill.program.mesh
    for row in made.estimate().communication.rows:
        n = mesh.ways(row.axis.split("*"))
        parts = {"all_reduce": 2.0, "all_gather": 1.0, "reduce_scatter": 1.0}
        if row.nodes > 1:
            assert cluster is not None
            # at least half of it goes to other nodes; ranks of a node share what a collective sends
            latency, rate = cluster.network.latency, port(cluster.network, row.nodes - 1)
            away = row.payload * parts.get(row.op, 0.0) / 2 / min(per_node, n)
            fewest = row.payload if row.op == "send" else away
        else:
            latency, rate = node.link.latency, port(node.link, n - 1)
            latency = min(latency, 2e-6) if node.link.bridge else latency
            fewest = row.payload * parts[row.op] * (n - 1) / n if row.op in parts else row.wire
            if row.op == "all_reduce" and node.link.topology == "switch":  # which may add up
                fewest = row.payload
        assert row.time_s * (1 + 1e-9) >= row.calls * latency, f"{row} over {node.link}"
        assert row.time_s * (1 + 1e-9) >= fewest / rate, f"{row} over {node.link}"


@given(sent())
@draws(25 / 12)
def test_no_kernel_and_no_step_beats_its_gpu(drawn: tuple[CompiledPlan, int]) -> None:
    made, _ = drawn
    gpu, found = made.spec.node.gpu, made.estimate()
    fastest = max(rate for _, rate in gpu.compute)
    for phase in (found.prefill, found.decode):
        work = 0.0
        for op in phase.ops:
            if not op.communicates:
                work += op.count * op.flops
                assert op.time_s * (1 + 1e-9) >= op.count * op.flops / fastest, f"{op.name} on {gpu.name}: {op}"
            if op.shape and op.time_s:  # weights of 16 bits come from memory
                sizes = dict(op.shape)
                read = 2 * sizes["n"] * sizes["k"] / gpu.bandwidth
                assert op.time_s * (1 + 1e-9) >= op.count * read, f"{op.name} on {gpu.name}: {op}"
        assert phase.time_s * (1 + 1e-9) >= work / fastest, f"{phase.name} on {gpu.name}"
    if made.spec.model.name.startswith(
        "llama"
    ):  # a step reads all weights of a rank: the embedding is the head as well
        read = found.memory.weights / gpu.bandwidth
        assert found.decode.time_s * (1 + 1e-9) >= read, f"{found.memory.weights} bytes on {gpu.name}"


@pytest.mark.parametrize(("topology", "way"), [("ring", "ring"), ("torus(2, 2)", "torus"), ("torus(4, 1)", "torus")])
def test_bytes_that_a_gpu_hands_on_take_time_too(topology: str, way: str) -> None:
    (made,) = compile_text(f"""
engine e {{ links = 3000 % }}
node n {{ gpu = mi300x, count = 4, link {{ topology = {topology}, bandwidth = 1 GB/s, latency = 0 us }} }}
plan p {{
  model = llama_3_2_1b, node = n, sharding {{ sp = 4 }}, engine = e
  workload {{ input = 1000, output = 9, batch = 4 }}
}}""")
    rows = [r for r in made.estimate().communication.rows if r.op == "all_to_all"]
    assert {(row.phase, row.algorithm) for row in rows} == {("prefill", way), ("decode", way)}
    assert all(row.time_s * (1 + 1e-9) >= row.wire / port(made.spec.node.link, 3) for row in rows)


# ---- between nodes


@pytest.mark.parametrize("batch", [1, 4])
def test_two_nodes_take_the_tens_of_microseconds_that_were_measured(batch: int) -> None:
    # 16 ranks, 2 to 68 KB: 47 to 59 us by RCCL over Pollara 400 (hisohara), 65 to 97 us by NCCL on A100 (vidur)
    (made,) = compile_text(f"""
cluster c {{ node = h100_8, count = 2, network {{ topology = rail, bandwidth = 50 GB/s, latency = 5 us }} }}
plan p {{
  model = deepseek_r1, cluster = c, sharding {{ tp = 16 }}, engine = sglang
  workload {{ input = 128, output = 16, batch = {batch} }}
}}""")
    (row,) = (r for r in made.estimate().communication.rows if (r.phase, r.op) == ("decode", "all_reduce"))
    assert 2048 <= row.payload / row.calls <= 68e3
    assert 47e-6 <= row.time_s / row.calls <= 97e-6
