"""Who sends how much to whom: the bytes of the table of communication, spread over pairs of ranks."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from plandsl.answers.communication import TRANSFER
from plandsl.answers.flows import Flows
from plandsl.backends.cost.answers.flows import EVEN, LEVELS, NEXT, RAILS, TREE, flows, spread
from plandsl.backends.cost.answers.ranks import rank_blocks
from plandsl.cli import main
from plandsl.driver import CompiledPlan, compile_text
from plandsl.ir.types import Mesh

LOAD = "workload { input = 4000, output = 300, batch = 32 }"
POOLS = """plan p {{ model = {model}, {load}
  kv_transfer = layerwise, transfer {{ bandwidth = 50 GB/s, latency = 10 us }}
  prefill {{ node = h100_8, sharding {{ {prefill} }}, batch = 2 }}
  decode {{ node = h200_8, sharding {{ {decode} }} }}
}}"""


def plan_of(text: str) -> CompiledPlan:
    (plan,) = compile_text(f"plan p {{ {text}, {LOAD} }}")
    return plan


def sent_by(found: Flows) -> Counter[int]:
    sums: Counter[int] = Counter()
    for cell in found.cells:
        sums[cell.sender] += cell.bytes  # type: ignore[assignment]
    return sums


def received_by(found: Flows) -> Counter[int]:
    sums: Counter[int] = Counter()
    for cell in found.cells:
        sums[cell.receiver] += cell.bytes  # type: ignore[assignment]
    return sums


def assert_bytes_add_up(plan: CompiledPlan) -> None:  # of drawn plans too: tests/test_pictures.py
    """The pairs of a phase send what the table says of one rank of each stage, once for each rank."""
    e = plan.closed_form()
    for found in flows(plan.cost):
        rows = e.communication.of(found.phase)
        if found.phase == TRANSFER:
            assert max(sent_by(found).values()) == pytest.approx(rows[0].wire, rel=1e-9)
            continue
        own = e if e.pools is None else getattr(e.pools, found.phase).estimate
        assert len(found.senders) == own.gpus or own.gpus > 32
        each = own.gpus / len(own.stages)
        table = sum(row.wire * (own.gpus if row.part else each) for row in rows)
        assert found.total == pytest.approx(table, rel=1e-9)
        assert set(found.by_axis()) == {row.axis for row in rows}


# ---- pairs


def pairs(group: range, way: str, per_node: int = 64) -> dict[tuple[int, int], float]:
    sums: dict[tuple[int, int], float] = {}
    for senders, receivers, wire in spread(group, way, 1.0, per_node):
        for a in senders:
            others = [b for b in receivers if b != a]
            for b in others:
                sums[a, b] = sums.get((a, b), 0.0) + wire / len(others)
    return sums


@pytest.mark.parametrize("way", [NEXT, EVEN, TREE, LEVELS, RAILS])
def test_every_rank_sends_all_its_bytes_to_peers(way: str) -> None:
    for group, per_node in (
        (range(8), 8),
        (range(8), 4),
        (range(0, 32, 4), 16),
        (range(0, 16, 8), 8),
        (range(3, 4), 8),
    ):
        found = pairs(group, way, per_node)
        assert all(a in group and b in group and a != b for a, b in found)
        for rank in group if len(group) > 1 else []:
            assert sum(v for (a, _), v in found.items() if a == rank) == pytest.approx(1)


def test_a_ring_passes_to_the_next_and_a_kernel_to_all() -> None:
    assert pairs(range(0, 8, 2), NEXT) == {(0, 2): 1, (2, 4): 1, (4, 6): 1, (6, 0): 1}
    assert list(pairs(range(4), EVEN).values()) == pytest.approx([1 / 3] * 12)


def test_levels_cross_between_ranks_of_the_same_place() -> None:
    found = pairs(range(8), LEVELS, 4)
    assert {(a, b) for a, b in found if a // 4 != b // 4} == {(i, i + 4) for i in range(4)} | {
        (i + 4, i) for i in range(4)
    }
    assert found[0, 4] == pytest.approx(1 / 7)


def test_a_hop_goes_to_the_same_rank_of_the_next_stage() -> None:
    (prefill, _) = flows(plan_of("model = llama_3_1_8b, node = h100_8, sharding { tp = 2, pp = 2, dp = 2 }").cost)
    assert {(c.sender, c.receiver) for c in prefill.cells if c.axis == "stage"} == {(0, 2), (1, 3), (4, 6), (5, 7)}
    assert {(c.sender, c.receiver) for c in prefill.cells if c.axis == "tensor"} == {
        (a, a ^ 1) for a in range(8)
    }  # fmt: skip


def test_replicas_of_a_plan_send_nothing_to_one_another() -> None:
    assert [f.cells for f in flows(plan_of("model = llama_3_1_8b, node = h100_8, sharding { dp = 8 }").cost)] == [
        (),
        (),
    ]


def test_bytes_between_nodes_are_those_of_hops() -> None:
    network = "network { topology = switch, bandwidth = 50 GB/s, latency = 5 us }"
    text = f"model = llama_3_1_70b, cluster {{ node = h100_8, count = 2, {network} }}, sharding {{ tp = 8, pp = 2 }}"
    for found in flows(plan_of(text).cost):
        assert found.between_nodes == found.by_axis()["stage"]
        blocks = flows(plan_of(text).cost, size=8)
        assert {(c.sender, c.receiver): c.axis for c in blocks[0].cells} == {
            (0, 0): "tensor", (1, 1): "tensor", (0, 1): "stage",
        }  # fmt: skip


def test_large_machines_are_folded_into_blocks() -> None:
    def sizes(ranks: int, tensor: int, per_node: int) -> set[int]:
        mesh = Mesh((("data", ranks // tensor), ("tensor", tensor)))
        return {len(block) for block in rank_blocks(mesh, per_node)}

    assert sizes(32, 8, 8) == {1}
    assert sizes(72, 8, 72) == {8}
    assert sizes(64, 64, 64) == {2}
    assert sizes(4096, 8, 8) == {128}


@pytest.mark.parametrize("size", [2, 3, 8, 16])
def test_blocks_of_any_size_send_as_much_as_their_ranks(size: int) -> None:
    plan = plan_of("model = llama_3_1_8b, node = h100_8 with { count = 16 }, sharding { tp = 4, pp = 2, dp = 2 }")
    for ranks, blocks in zip(flows(plan.cost, size=1), flows(plan.cost, size=size), strict=True):
        summed: Counter[tuple[int, int, str]] = Counter()
        for cell in ranks.cells:
            summed[cell.sender // size, cell.receiver // size, cell.axis] += cell.bytes  # type: ignore[assignment]
        assert {cell[:3]: cell.bytes for cell in blocks.cells} == pytest.approx(summed)


# ---- between pools


@pytest.mark.parametrize(
    ("model", "prefill", "decode", "pairs_of"),
    [
        ("llama_3_1_8b", "tp = 4, dp = 2", "tp = 2, pp = 2", {0: {0, 2}, 1: {0, 2}, 2: {1, 3}, 3: {1, 3}}),
        ("llama_3_1_8b", "pp = 2", "tp = 2, dp = 2", {0: {0, 1}, 1: {0, 1}}),
        ("llama_3_1_8b", "tp = 2", "tp = 2", {0: {0}, 1: {1}}),
        ("deepseek_v3", "tp = 8", "ep = 8", {i: {0} for i in range(8)}),
    ],
)
def test_a_cache_goes_from_those_that_hold_it_to_those_that_will(
    model: str, prefill: str, decode: str, pairs_of: dict[int, set[int]]
) -> None:
    (plan,) = compile_text(POOLS.format(model=model, load=LOAD, prefill=prefill, decode=decode))
    assert_bytes_add_up(plan)
    sent, found = plan.closed_form().pools.sent, flows(plan.cost)[2]  # type: ignore[union-attr]
    assert max(received_by(found).values()) == pytest.approx(sent.received, rel=1e-9)
    reached: dict[int, set[int]] = {}
    for cell in found.cells:
        reached.setdefault(cell.sender, set()).add(cell.receiver)
    assert reached == pairs_of


# ---- the machine form


def test_the_machine_form_of_the_view_has_the_pairs(capsys, tmp_path) -> None:
    out = tmp_path / "x.dot"
    arguments = ["examples/split_llama_3_3_70b.plan", "--plan", "split", "--view", "communication", "-o", str(out)]
    assert main(["render", *arguments, "--json"]) == 0
    body = json.loads(capsys.readouterr().out)
    assert [one["phase"] for one in body["flows"]] == ["prefill", "decode", "transfer"]
    transfer = body["flows"][2]
    assert transfer["total_bytes"] == pytest.approx(sum(cell["bytes"] for cell in transfer["cells"]))
    assert "transfer of one request's cache" in out.read_text()


@pytest.mark.parametrize(("topology", "peers"), [("mesh", 3), ("ring", 1)])
def test_a_ring_on_a_mesh_takes_all_links_of_a_gpu_at_once(topology: str, peers: int) -> None:
    (made,) = compile_text(f"""
node n {{ gpu = mi300x, count = 4, link {{ topology = {topology}, bandwidth = 50 GB/s, latency = 1 us }} }}
plan p {{ model = llama_3_2_1b, node = n, algorithm = ring, sharding {{ tp = 4 }}, {LOAD} }}""")
    cells = flows(made.cost, size=1)[0].cells
    assert Counter(cell.sender for cell in cells) == dict.fromkeys(range(4), peers)
    assert len({cell.bytes for cell in cells}) == 1
