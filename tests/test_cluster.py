"""Plans on several nodes: where ranks stand, what may be placed where, what passes the network and what it costs."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from plandsl.answers.flows import Flows
from plandsl.backends.cost import Deployment
from plandsl.backends.cost.answers.flows import phase_flows
from plandsl.backends.cost.machine import links
from plandsl.backends.cost.machine.machine import Machine
from plandsl.backends.cost.work.crossing import Roads
from plandsl.backends.cost.work.exchange import Exchange
from plandsl.backends.graphviz import devices_cluster
from plandsl.diagnostics import PlanError
from plandsl.driver import CompiledPlan, compile_text
from plandsl.ir.nodes import Boundary, NodeSpan, boundaries, groups, node_span
from plandsl.ir.types import Mesh
from plandsl.show import show_plan
from plandsl.spec.hardware import CalibrationSpec, ClusterSpec, GpuSpec, LinkSpec, NodeSpec
from plandsl.testing import compiled, plans, same
from plandsl.testing.laws import assert_laws
from tests.draws import draws

MODEL = """
model m {
  layers = 8, hidden = 1024, heads = 64, kv_heads = 64, head_dim = 16, ffn = 4096, vocab = 4096
  weights = bf16, activations = bf16, kv_cache = bf16
  embedding w_embed[vocab, hidden]
  block x[tokens, hidden] {
    h = rms_norm(x)
    q = h @ w_q[hidden, heads, head_dim]
    k = h @ w_k[hidden, kv_heads, head_dim]
    v = h @ w_v[hidden, kv_heads, head_dim]
    x = x + attention(q, k, v) @ w_o[heads, head_dim, hidden]
    x = x + silu(rms_norm(x) @ w_up[hidden, ffn]) @ w_down[ffn, hidden]
  }
  head rms_norm(x) @ w_head[hidden, vocab]
}
gpu g { memory = 80 GB, bandwidth = 1 TB/s, compute { bf16 = 100 TFLOP/s } }
node n { gpu = g, count = 8, link { topology = switch, bandwidth = 150 GB/s, latency = 2 us } }
cluster pod { node = n, count = 4, network { topology = fat_tree, bandwidth = 25 GB/s, latency = 5 us } }
calibration c { link = 100 %, launch_collective = 3 us }
"""
PLAN = """
plan p {
  model = m, MACHINE, calibration = c
  sharding { SHARDING }
  workload { input = 4096, output = 16, batch = 64 }
}
"""
LINK, NET = 150e9, 25e9


def text(sharding: str, machine: str = "cluster = pod") -> str:
    return MODEL + PLAN.replace("SHARDING", sharding).replace("MACHINE", machine)


def plan(sharding: str, machine: str = "cluster = pod") -> CompiledPlan:
    (made,) = compile_text(text(sharding, machine))
    return made


def refused(source: str) -> list[Any]:
    with pytest.raises(PlanError) as caught:
        compile_text(source)
    return [d for d in caught.value.diagnostics if d.severity == "error"]


def exchanges(made: CompiledPlan, keyword: str) -> list[Exchange]:
    works = [w for ops in made.cost.pools[0].main.prefill.work.values() for w in ops]
    return [w for w in works if isinstance(w, Exchange) and w.op.keyword == keyword]


def ops(made: CompiledPlan, op: str) -> list[Any]:
    return [o for o in made.estimate().prefill.ops if o.op == op]


# ---- where ranks stand


@given(
    st.lists(st.integers(1, 6), min_size=1, max_size=4),
    st.integers(1, 16),
)
def test_a_spread_is_what_counting_gives(sizes: list[int], per_node: int) -> None:
    mesh = Mesh(tuple((f"a{i}", size) for i, size in enumerate(sizes)))
    for axis, size in mesh.axes:
        at = node_span(mesh, axis, per_node)
        found = [[rank // per_node for rank in group] for group in groups(mesh, axis)]
        assert sorted(r for group in groups(mesh, axis) for r in group) == list(range(mesh.ranks))
        assert at.spans == max(len(set(nodes)) for nodes in found)
        assert at.inside * at.nodes == size
        if at.even:
            assert all(nodes.count(node) == at.inside for nodes in found for node in nodes)


def test_neighbours_on_the_last_axis_are_neighbours_in_a_node() -> None:
    mesh = Mesh((("data", 2), ("stage", 2), ("tensor", 8)))
    assert node_span(mesh, "tensor", 8) == NodeSpan(8, 1, 0, 1)
    assert node_span(mesh, "stage", 8) == NodeSpan(1, 2, 1, 2)
    assert node_span(mesh, "data", 8) == NodeSpan(1, 2, 2, 2)
    assert node_span(mesh, "tensor", 4) == NodeSpan(4, 2, 1, 2)
    assert node_span(mesh, "tensor", 6) == NodeSpan(
        1, 8, 1, 2, False
    )  # ranks 0 to 7: six in one node and two in another


def test_a_boundary_crosses_where_its_stages_stand_in_two_nodes() -> None:
    mesh = Mesh((("stage", 4), ("tensor", 4)))
    near, far = Boundary(False, True, False), Boundary(True, False, True)
    assert boundaries(mesh, ("stage",), 8) == [near, far, near]
    assert boundaries(mesh, ("stage",), 4) == [Boundary(True, False, False)] * 3
    assert boundaries(Mesh((("stage", 2), ("tensor", 6))), ("stage",), 8) == [Boundary(True, True, True)]


# ---- what may be written


def test_a_cluster_is_read() -> None:
    spec = plan("tp = 8, pp = 4").spec
    assert spec.cluster is not None
    assert (spec.cluster.name, spec.cluster.count, spec.cluster.node) == ("pod", 4, spec.node)
    assert (spec.cluster.network.topology, spec.cluster.network.bandwidth, spec.gpus) == ("fat_tree", NET, 32)


@pytest.mark.parametrize("topology", ["fat_tree", "rail", "torus(2, 2)", "dragonfly", "switch", "mesh", "ring"])
def test_every_network_compiles(topology: str) -> None:
    machine = f"cluster = pod with {{ network {{ topology = {topology} }} }}"
    for sharding in (
        "tp = 32",
        "tp = 16, pp = 2",
        "sp = 4, tp = 8",
        "sp = 16, tp = 2",
        "tp = 8, pp = 4",
        "pp = 8, tp = 4",
    ):
        made = plan(sharding, machine)
        assert made.cost.evaluate().ttft > plan("tp = 8, dp = 4").cost.evaluate().ttft / 8


@pytest.mark.parametrize(
    ("source", "code", "says"),
    [
        (text("tp = 8", "cluster = pod, node = n"), "E202", "a cluster or a node"),
        (text("tp = 8, pp = 8"), "E302", "64 ranks on 32 GPUs"),
        (text("tp = 8", "cluster = pod with { network { topology = torus(3, 2) } }"), "E214", "6 places"),
        (text("tp = 8", "cluster = pod with { count = 99_999 }"), "E214", "too many"),
        (text("tp = 16\n place tensor in node"), "E310", "span 2 nodes of `pod`, 8 in each"),
        (text("tp = 16\n place tenor in node"), "E219", "`tenor`"),
        (text("tp = 16\n place tensor in rack"), "E201", "`rack`"),
    ],
)
def test_what_is_wrong_is_told(source: str, code: str, says: str) -> None:
    (found,) = refused(source)
    assert found.code == code
    assert says in found.message
    assert found.span is not None
    assert found.hint or code in ("E214",)


def test_the_way_out_of_a_place_that_does_not_fit_is_named() -> None:
    (found,) = refused(text("pp = 4, tp = 16\n place tensor in node".replace("pp = 4", "pp = 2")))
    assert "2 or 4 or 8" in found.hint
    (found,) = refused(text("pp = 4, tp = 4\n place stage, tensor in node"))
    assert found.message.startswith("`stage`")
    assert "`place tensor in node`" in found.hint
    assert "`stage` of 2" in found.hint
    plan("pp = 2, tp = 4\n place stage, tensor in node")


def test_placed_axes_become_the_innermost() -> None:
    made = plan("sp = 4, tp = 8\n place seq in node", "cluster = pod with { node { count = 4 }, count = 8 }")
    assert [a.name for a in made.spec.sharding.axes] == ["tensor", "seq"]
    mesh = made.prefill.program.mesh
    assert node_span(mesh, "seq", 4).nodes == 1
    assert node_span(mesh, "tensor", 4).nodes == 8
    assert {e.nodes for e in exchanges(made, "all_to_all")} == {1}
    assert {e.nodes for e in exchanges(made, "all_reduce") if e.axis == "tensor"} == {8}
    other = plan("sp = 4, tp = 8", "cluster = pod with { node { count = 4 }, count = 8 }")
    assert {e.nodes for e in exchanges(other, "all_to_all")} == {4}
    assert {e.nodes for e in exchanges(other, "all_reduce") if e.axis == "tensor"} == {2}


def test_notes_name_the_axes_that_cross_and_the_gpus_that_idle() -> None:
    notes = {d.message for d in plan("pp = 3, tp = 8").notes if d.code in ("N301", "N310")}
    assert notes == {
        "8 of 32 GPUs of `pod` stay idle",
        "`stage` crosses nodes: 2 of 2 pipeline hops cross the network",
    }
    notes = {d.message for d in plan("dp = 2, tp = 16").notes if d.code in ("N301", "N310")}
    assert notes == {"`tensor` crosses nodes: its groups of 16 ranks span 2 nodes of `pod`, 8 in each"}
    assert not [d for d in plan("dp = 4, tp = 8").notes if d.code == "N310"]  # replicas exchange nothing


def test_a_plan_on_a_cluster_reads_back() -> None:
    for sharding in ("tp = 8, pp = 4\n place tensor in node", "tp = 4, dp = 8\n place data in node"):
        made = plan(sharding)
        (again,) = compile_text(show_plan(made.spec))
        assert same(made.spec, again.spec)
        assert again.estimate().as_json()["ttft_s"] == made.estimate().ttft_s


@pytest.mark.parametrize("sharding", ["pp = 2, tp = 4\n place stage in node", "dp = 2, tp = 4\n place data in node"])
def test_the_sharded_program_computes_the_same_wherever_it_stands(sharding: str) -> None:
    assert plan(sharding, "cluster = pod with { node { count = 4 } }").verify().ok


# ---- a cluster of one node is the node


@pytest.mark.parametrize("sharding", ["tp = 8", "pp = 4, tp = 2", "sp = 2, tp = 4", "dp = 2, tp = 2", "tp = 2"])
def test_one_node_costs_what_the_node_costs(sharding: str) -> None:
    alone, one = plan(sharding, "node = n").estimate(), plan(sharding, "cluster = pod with { count = 1 }").estimate()
    a, b = alone.as_json(), one.as_json()
    assert b.pop("cluster")["nodes"] == 1
    for out in (a, b):
        out.pop("notes")
    assert a == b


@given(plans())
@draws(1 / 2)
def test_any_plan_costs_the_same_on_a_cluster_of_one(spec: Any) -> None:
    network = LinkSpec("fat_tree", 1e9, 1e-6)
    one = compiled(evolve(spec, cluster=ClusterSpec("c", spec.node, 1, network)))
    a, b = compiled(spec).cost.evaluate(), one.cost.evaluate()
    assert a[:9] == b[:9]


@given(plans(), st.integers(1, 6), st.sampled_from(["fat_tree", "rail", "dragonfly", "switch", "mesh", "ring"]))
@draws(1 / 3)
def test_plans_on_several_nodes_keep_the_laws(spec: Any, per_node: int, topology: str) -> None:
    count = -(-spec.sharding.ranks // per_node)
    link = LinkSpec("switch", 100e9, 1e-6) if spec.node.link.dims else spec.node.link
    node = evolve(spec.node, count=per_node, link=link, gpus=())
    cluster = ClusterSpec("c", node, count, LinkSpec(topology, 20e9, 5e-6))
    assert_laws(compiled(evolve(spec, node=node, cluster=cluster, calibrations=())))


# ---- what passes the network


def machine(link: float = LINK, net: float = NET, topology: str = "fat_tree", **more: Any) -> Roads:
    gpu = GpuSpec("g", 80e9, 1e12, (("bf16", 1e14),))
    node = NodeSpec("n", gpu, 8, LinkSpec("switch", link, more.pop("near", 0.0)))
    launch = more.pop("launch", 0.0)
    network = LinkSpec(topology, net, more.pop("far", 0.0), **more)
    made = Machine(gpu, node.link, CalibrationSpec("c", (("launch", launch),)))
    return Roads(made, ClusterSpec("pod", node, 4, network))


def fastest(roads: Roads, op: str, k: int, m: int, payload: float) -> float:
    at = NodeSpan(k, m, 1, m)
    crossing = roads.crossing(roads.routes(op, at, 1), op, at)
    return float(crossing.seconds(k * m, 1, payload))


COLLECTIVES = ("all_reduce", "all_gather", "reduce_scatter", "all_to_all")
GROUPS = ((1, 2), (1, 4), (2, 2), (4, 2), (8, 2), (8, 4), (4, 16))


@pytest.mark.parametrize("op", COLLECTIVES)
@pytest.mark.parametrize(("k", "m"), GROUPS)
def test_bytes_that_a_rank_sends_over_the_network_are_the_published_ones(op: str, k: int, m: int) -> None:
    payload = 1e9
    wanted = {
        "all_reduce": 2 * (m - 1) / m / k,
        "all_gather": (m - 1) / m / k,
        "reduce_scatter": (m - 1) / m / k,
        "all_to_all": (m - 1) / m,
    }
    # with links inside a node that take no time, what is left is the network's
    seconds = fastest(machine(link=1e30), op, k, m, payload)
    assert seconds * NET == pytest.approx(wanted[op] * payload, rel=1e-9)


@pytest.mark.parametrize(
    ("op", "wanted"),
    [
        ("all_reduce", 2 * 7 / 8 / LINK + 2 * 3 / 4 / 8 / NET),
        ("all_gather", 7 / 8 / LINK + 3 / 4 / 8 / NET),
        ("reduce_scatter", 7 / 8 / LINK + 3 / 4 / 8 / NET),
        ("all_to_all", 3 / 4 / NET),  # what stays in the node travels meanwhile
    ],
)
def test_levels_add_up(op: str, wanted: float) -> None:
    assert fastest(machine(), op, 8, 4, 1e9) == pytest.approx(1e9 * wanted, rel=1e-9)


@pytest.mark.parametrize("op", COLLECTIVES)
@pytest.mark.parametrize(("k", "m"), GROUPS)
def test_levels_send_as_much_as_a_ring_of_all_ranks(op: str, k: int, m: int) -> None:
    # Thakur, Rabenseifner and Gropp 2005: (n - 1) / n of the payload, twice that for an all_reduce, however many levels
    routes = machine().routes(op, NodeSpan(k, m, 1, m), 1)
    n = k * m
    wanted = (n - 1) / n * (2 if op == "all_reduce" else 1)
    names = ("ring", "direct", "levels", "split")
    found = {route.name: float(route.volume(1e9)) for route in routes if route.name in names}
    assert found == {name: pytest.approx(wanted, rel=1e-12) for name in found}
    assert found


@pytest.mark.parametrize("payload", [1.0, 1e4, 1e9])
def test_a_crossing_sends_what_its_fastest_route_sends(payload: float) -> None:
    roads, at = machine(near=2e-6, far=5e-6, launch=3e-6), NodeSpan(8, 4, 1, 4)
    routes = roads.routes("all_reduce", at, 1)
    crossing = roads.crossing(routes, "all_reduce", at)
    took = crossing.fastest(32, payload)
    (route,) = (r for r in routes if r.name == took.name)
    assert float(route.seconds(payload)) == float(crossing.seconds(32, 1, payload))
    assert took.volume == route.volume(payload)


def test_on_rails_an_exchange_goes_through_the_node_first() -> None:
    (route,) = machine(topology="rail").routes("all_to_all", NodeSpan(8, 4, 1, 4), 1)
    assert float(route.volume(1e9)) == pytest.approx(7 / 8 + 3 / 4)  # V inside, then V between


def test_the_part_of_an_exchange_that_stays_may_be_the_longer() -> None:
    seconds = fastest(machine(link=1e9, net=1e12), "all_to_all", 8, 4, 1e9)
    assert seconds == pytest.approx(7 / 8 / 4, rel=1e-9)


def test_latencies_of_levels_add_up() -> None:
    roads = machine(near=2e-6, far=5e-6, launch=3e-6)
    (levels,) = [r for r in roads.routes("all_reduce", NodeSpan(8, 4, 1, 4), 1) if r.name == "levels"]
    assert levels.seconds(0.0) == pytest.approx(3e-6 + 2e-6 + 4 * 5e-6 + 2e-6)  # a tree between nodes, direct inside


def test_no_kernel_reaches_into_another_node() -> None:
    roads = machine(near=2e-6, far=5e-6)
    for op, names in (("all_reduce", {"ring", "tree", "levels"}), ("all_gather", {"ring", "levels"})):
        assert {route.name for route in roads.routes(op, NodeSpan(8, 2, 1, 2), 1)} == names
    # a message up the tree of 16 ranks and one down at each of its four levels, or up and down between two nodes
    assert fastest(roads, "all_reduce", 8, 2, 1.0) == pytest.approx(2e-6 + 2 * 5e-6 + 2e-6, rel=1e-3)
    asked = Roads(Machine(roads.machine.gpu, roads.link, CalibrationSpec("c", ()), "one_shot"), roads.cluster)
    assert fastest(asked, "all_reduce", 8, 2, 1.0) == pytest.approx(5e-6, rel=1e-3)


@given(
    st.sampled_from(COLLECTIVES),
    st.sampled_from([g for g in GROUPS if g[0] > 1]),
    st.floats(1, 40),
    st.sampled_from(["fat_tree", "switch", "rail", "dragonfly"]),
)
def test_levels_are_never_slower_than_flat_at_large_payloads(
    op: str, group: tuple[int, int], ratio: float, topology: str
) -> None:
    (k, m), payload = group, 1e12
    roads = machine(link=NET * ratio, topology=topology)
    flat = roads.ways(op, k * m, NodeSpan(1, k * m, 1, m, False))
    rail = 1 if topology != "rail" or op != "all_to_all" else 1 + 1 / ratio  # to its rail first
    bandwidth = 1 - 1 / (k * m) if op == "all_to_all" else 1.0
    worst = (1 - 1 / m + (rail - 1)) / bandwidth if op == "all_to_all" else 1.0
    assert fastest(roads, op, k, m, payload) <= links.seconds(flat, payload) * max(1.0, worst) * (1 + 1e-9)


def test_across_nodes_at_a_sixth_of_the_bandwidth_is_six_to_eight_times_slower() -> None:
    near, far = [], []
    for size in (1e8, 2e8):
        inside = links.all_reduce(links.fabric(LinkSpec("switch", LINK, 2e-6), 1.0), 8)
        near.append(links.seconds(inside, size))
        far.append(fastest(machine(near=2e-6, far=2e-5), "all_reduce", 1, 8, size))
    assert all(6 <= b / a <= 8 for a, b in zip(near, far, strict=True))
    assert far[1] - far[0] == pytest.approx(6 * (near[1] - near[0]), rel=1e-9)


def test_a_plan_whose_groups_stand_in_eight_nodes_is_as_much_slower() -> None:
    (a, *_) = ops(plan("tp = 8", "node = n"), "all_reduce")
    (b, *_) = ops(plan("tp = 8", "cluster = pod with { node { count = 1 }, count = 8 }"), "all_reduce")
    assert (a.nodes, b.nodes) == (1, 8)
    assert b.time_s / a.time_s == pytest.approx(6, rel=2e-3)  # launches are the same


def test_slower_networks_are_slower() -> None:
    ttft = [plan("tp = 32", f"cluster = pod with {{ network {{ bandwidth = {b} GB/s }} }}").cost.evaluate().ttft
            for b in (5, 10, 25, 50, 100)]  # fmt: skip
    assert ttft == sorted(ttft, reverse=True)
    assert len(set(ttft)) == len(ttft)


# ---- kinds of network


def test_rails_pass_the_links_of_a_node_first() -> None:
    tree, rail = (fastest(machine(topology=t), "all_to_all", 8, 4, 1e9) for t in ("fat_tree", "rail"))
    assert rail - tree == pytest.approx(1e9 * 7 / 8 / LINK, rel=1e-9)
    tree, rail = (fastest(machine(topology=t), "all_to_all", 1, 4, 1e9) for t in ("fat_tree", "rail"))
    assert rail == tree  # the same place in every node: one hop
    at = NodeSpan(1, 6, 1, 3, False)  # an uneven group turns from rail to rail
    (way, *_) = machine(topology="rail", near=2e-6, far=5e-6).ways("all_gather", 6, at)
    assert way.fixed == pytest.approx(5 * 7e-6)


def test_a_torus_is_held_up_by_its_bisection() -> None:
    roads = machine(topology="torus", dims=(2, 8))
    assert fastest(roads, "all_to_all", 1, 16, 1e9) == pytest.approx(1e9 / (8 * NET / 8))
    roads = machine(topology="torus", dims=(2, 2))
    assert fastest(roads, "all_to_all", 1, 4, 1e9) == pytest.approx(1e9 / 2 / NET)


def test_a_dragonfly_halves_what_is_not_uniform() -> None:
    tree, fly = machine(), machine(topology="dragonfly")
    assert fastest(fly, "all_reduce", 1, 4, 1e9) == pytest.approx(2 * fastest(tree, "all_reduce", 1, 4, 1e9))
    assert fastest(fly, "all_to_all", 1, 4, 1e9) == fastest(tree, "all_to_all", 1, 4, 1e9)


# ---- hops of a pipeline


def test_a_hop_takes_the_network_where_it_crosses_and_the_links_where_it_does_not() -> None:
    made = plan("pp = 4, tp = 4", "cluster = pod with { count = 2 }")
    times = made.cost.evaluate().prefill
    size = 64 * 4096 * 1024 * 2
    near, far = 3e-6 + 2e-6 + size / LINK, 3e-6 + 5e-6 + size / NET
    assert made.cost.main.prefill.hop_seconds(times) == pytest.approx([near, far, near], rel=1e-12)
    assert times.hop == pytest.approx(far)
    assert times.hops == pytest.approx(2 * near + far)
    assert times.through == pytest.approx(sum(s.span for s in times.stages) + 2 * near + far)
    inside = plan("pp = 2, tp = 4").cost.evaluate().prefill
    assert inside.hop == pytest.approx(near)


def test_the_slowest_rank_of_a_boundary_sets_its_time() -> None:
    mixed = plan("pp = 2, tp = 4", "cluster = pod with { node { count = 6 } }")  # ranks 0, 1 send to 4, 5; 2, 3 to 6, 7
    size = 64 * 4096 * 1024 * 2
    assert mixed.cost.evaluate().prefill.hop == pytest.approx(3e-6 + 5e-6 + size / NET)
    quick = plan("pp = 2, tp = 4", "cluster = pod with { node { count = 6 }, network { bandwidth = 9 TB/s } }")
    assert quick.cost.evaluate().prefill.hop == pytest.approx(3e-6 + 2e-6 + size / LINK)


# ---- what calibrations know


def catalog(sharding: str, cluster: str) -> CompiledPlan:
    load = "workload { input = 4096, output = 64, batch = 16 }"
    (made,) = compile_text(f"plan p {{ model = llama_3_1_70b, {cluster}, {load}, sharding {{ {sharding} }} }}")
    return made


NETWORK = "network { topology = fat_tree, bandwidth = 50 GB/s, latency = 5 us }"


def test_collectives_between_nodes_are_fitted_where_they_were_measured() -> None:
    made = catalog("tp = 16", f"cluster {{ node = mi355x_8, count = 2, {NETWORK} }}")
    (reduce, *_) = ops(made, "all_reduce")
    assert (reduce.layer, reduce.algorithm, reduce.nodes) == ("fitted", "fitted", 2)
    slow = catalog("tp = 16", f"cluster {{ node = mi355x_8, count = 2, {NETWORK.replace('50', '25')} }}")
    assert 1.5 < ops(slow, "all_reduce")[0].time_s / reduce.time_s <= 2  # the plan says what a port carries
    made = catalog("tp = 16", f"cluster {{ node = h100_8, count = 2, {NETWORK} }}")
    assert ops(made, "all_reduce")[0].layer == "fitted"
    (others,) = (what for name, field, what in made.estimate().assumed if (name, field) == ("h100_sxm", "otherwise"))
    assert "pooled" in others
    ring = catalog("tp = 16", f"cluster {{ node = h100_8, count = 2, {NETWORK.replace('fat_tree', 'ring')} }}")
    assert ops(ring, "all_reduce")[0].layer == "constant"
    assert ("h100_sxm", "link", "100 % of the network, not set") in ring.estimate().assumed


@pytest.mark.parametrize("name", ["h100_8x4", "b200_8x4", "mi300x_8x4"])
def test_the_catalog_has_clusters(name: str) -> None:
    made = catalog("tp = 8, pp = 4", f"cluster = {name}")
    assert made.spec.cluster is not None
    assert made.spec.cluster.source
    assert made.spec.gpus == 32
    assert any(entry == name for entry, _, _ in made.estimate().assumed)


def test_experts_over_nodes_are_dispatched_over_the_network() -> None:
    def ttft(cluster: str) -> float:
        load = "workload { input = 2048, output = 8, batch = 32 }"
        (made,) = compile_text(f"plan p {{ model = mixtral_8x7b, {cluster}, {load}, sharding {{ ep = 8 }} }}")
        return float(made.cost.evaluate().ttft)

    near = ttft("node = h100_8")
    far = [ttft(f"cluster {{ node = h100_4, count = 2, {NETWORK.replace('50', str(b))} }}") for b in (50, 10, 1)]
    assert near < far[0] < far[1] < far[2]


# ---- arrays, reports, pictures


@pytest.mark.parametrize("sharding", ["tp = 32", "tp = 16, pp = 2", "pp = 8, tp = 4", "sp = 16, tp = 2"])
@pytest.mark.parametrize("topology", ["rail", "torus(2, 2)"])
def test_arrays_equal_numbers(sharding: str, topology: str) -> None:
    made = plan(sharding, f"cluster = pod with {{ network {{ topology = {topology} }} }}")
    batch, lengths = np.array([1, 7, 64, 512]), np.array([16, 4096, 333, 1000])
    many = made.cost.evaluate(batch=batch, input=lengths)
    for i, (b, n) in enumerate(zip(batch.tolist(), lengths.tolist(), strict=True)):
        one = made.cost.evaluate(batch=b, input=n)
        for name in ("ttft", "tpot", "throughput", "memory"):
            assert getattr(many, name)[i] == pytest.approx(getattr(one, name), rel=1e-12)


def test_the_report_names_cluster_and_nodes() -> None:
    out = json.loads(json.dumps(plan("tp = 16").estimate().as_json()))
    assert out["cluster"] == {"name": "pod", "node": "n", "nodes": 4, "nodes_used": 2, "gpus_per_node": 8}
    (reduce, *_) = [o for o in out["prefill"]["ops"] if o["op"] == "all_reduce"]
    assert (reduce["nodes"], reduce["algorithm"], reduce["bound"]) == (2, "levels", "link")
    assert "cluster" not in plan("tp = 8", "node = n").estimate().as_json()


@pytest.mark.parametrize(
    "sharding", ["tp = 8, pp = 4", "tp = 16, dp = 2", "pp = 8, tp = 4", "sp = 2, tp = 8", "tp = 3"]
)
def test_the_picture_has_a_box_for_each_node(sharding: str) -> None:
    sharding = sharding.replace("tp = 3", "pp = 3, tp = 4")
    dot = plan(sharding).draw("devices")
    ranks = plan(sharding).spec.sharding.ranks
    assert all(f'  "node {i}" [' in dot for i in range(4))
    assert all(f'  "GPU {rank}" [' in dot for rank in range(ranks))


def test_a_device_map_counts_what_ranks_send_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The layout asks several times for the arrows between nodes, which tell it."""
    asked: list[tuple[str, int | None]] = []

    def counted(model: Deployment, phase: str, size: int | None = None) -> Flows:
        asked.append((phase, size))
        return phase_flows(model, phase, size)

    monkeypatch.setattr(devices_cluster, "phase_flows", counted)
    plan("tp = 8, pp = 4").draw("devices")
    assert asked == [("prefill", 8)]


def test_the_picture_joins_nodes_that_exchange() -> None:
    assert '"node 0 to node 1, tensor"' in plan("tp = 16, dp = 2").draw("devices")
    dot = plan("tp = 8, pp = 4").draw("devices")
    assert all(f'"node {i} to node {i + 1}, stages"' in dot for i in range(3))
    assert "to node" not in plan("tp = 8, dp = 4").draw("devices")


def test_only_some_of_many_nodes_are_drawn() -> None:
    dot = plan("tp = 8, dp = 16", "cluster = pod with { count = 20 }").draw("devices")
    assert "12 more nodes" in dot
    assert "node 4 to 15, 96 GPUs in use" in dot


def test_a_timeline_shows_hops_of_two_lengths() -> None:
    assert "to the next stage, at most" in plan("pp = 4, tp = 4", "cluster = pod with { count = 2 }").draw("timeline")


@pytest.mark.parametrize("count", [1, 7, 9, 11, 13, 23])
def test_nodes_of_any_number_of_gpus_are_drawn(count: int) -> None:
    made = plan("dp = 2, tp = 4", f"cluster = pod with {{ node {{ count = {count} }}, count = 8 }}")
    assert "GPU 0" in made.draw("devices")
