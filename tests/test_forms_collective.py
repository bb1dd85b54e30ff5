"""Forms of collectives: limits, monotony, arrays, and fits that find what made the data."""

import numpy as np
import pytest

from plandsl.backends.calibrate.fit import fit
from plandsl.backends.calibrate.kinds.collective import COLLECTIVE, COLLECTIVE_NODES, linked
from plandsl.backends.calibrate.table import Table
from plandsl.backends.cost.forms.collective import (
    HOST_PORT,
    OPS,
    collective_seconds,
    collective_volume,
    network_way,
    nodes_seconds,
    port_bandwidth,
)
from plandsl.spec.constants import CollectiveConstants, NodesConstants
from plandsl.spec.hardware import GpuSpec, LinkSpec

SWITCH = LinkSpec("switch", 400e9, 2e-6)
MESH = LinkSpec("mesh", 64e9, 2e-6)
GPU = GpuSpec("test_gpu", 80e9, 2e12, (("bf16", 1e15),), units=100)
C = CollectiveConstants(fixed=5e-6, latency=1e-6, quick=0.3, step=6e-6, bulk=0.8, half=2e6, own=0.0, switch=0.6)
PCIE = LinkSpec("pcie", 32e9, 5e-6, bridge=300e9)
FAR = NodesConstants(fixed=15e-6, latency=1e-6, quick=0.4, step=5e-6, half=4e5, bulk=0.75, hop=8e-6,
    network=0.9, rails=8.0)  # fmt: skip
PLAIN = C._replace(switch=0.0)
SHARE = {"all_reduce": lambda n: 2 * (n - 1) / n, "p2p": lambda n: 1.0}


@pytest.mark.parametrize("link", [SWITCH, MESH], ids=lambda link: link.topology)
@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("n", [2, 4, 8])
def test_large_messages_reach_the_share_of_bus_bandwidth(link: LinkSpec, op: str, n: int) -> None:
    volume = 1e12
    bus = volume / collective_seconds(PLAIN, link, op, n, volume) * SHARE.get(op, lambda n: (n - 1) / n)(n)
    assert bus == pytest.approx(0.8 * port_bandwidth(link, n), rel=1e-3)


def test_a_switch_that_reduces_takes_one_buffer_and_an_nth() -> None:
    assert collective_seconds(C, SWITCH, "all_reduce", 8, 1e12) == pytest.approx(1e12 * 1.125 / (400e9 * 0.6), rel=1e-3)
    assert collective_seconds(C, SWITCH, "all_reduce", 2, 1e12) == collective_seconds(
        PLAIN, SWITCH, "all_reduce", 2, 1e12
    )
    assert collective_seconds(C, MESH, "all_reduce", 8, 1e12) == collective_seconds(PLAIN, MESH, "all_reduce", 8, 1e12)


@pytest.mark.parametrize(
    ("op", "custom", "steps"),
    [("all_reduce", False, 14), ("all_gather", False, 7), ("reduce_scatter", False, 7), ("all_to_all", False, 7),
     ("p2p", False, 1), ("all_reduce", True, 1)],
)  # fmt: skip
def test_small_messages_take_latency(op: str, custom: bool, steps: int) -> None:
    slow = C._replace(step=1e-3)
    assert collective_seconds(slow, SWITCH, op=op, n=8, payload=1.0, custom=custom) == pytest.approx(
        5e-6 + steps * 1e-6, rel=1e-3
    )


@pytest.mark.parametrize("link", [MESH, PCIE], ids=lambda link: link.topology)
@pytest.mark.parametrize("payload", [1.0, 1e9])
@pytest.mark.parametrize("n", [2, 4, 8])
def test_a_ring_all_reduce_sends_what_its_two_halves_send(link: LinkSpec, payload: float, n: int) -> None:
    whole, *halves = (
        collective_volume(C._replace(own=0.7), link, op, n, payload)
        for op in ("all_reduce", "reduce_scatter", "all_gather")
    )
    assert whole == pytest.approx(sum(halves)) == pytest.approx(2 * (n - 1) / n)  # a rank's own part stays


@pytest.mark.parametrize(
    ("op", "custom", "payload", "volume"),
    [("all_to_all", False, 1e6, 7 / 8), ("p2p", False, 1e6, 1.0), ("all_reduce", True, 1e3, 7),
     ("all_reduce", True, 3e6, 2 * 7 / 8), ("all_reduce", True, 1e12, 1 + 1 / 8),
     ("all_reduce", False, 1e12, 1 + 1 / 8)],
)  # fmt: skip
def test_a_rank_sends_what_the_way_sends_that_is_the_fastest(
    op: str, custom: bool, payload: float, volume: float
) -> None:
    # one shot, two shots, and the switch that adds up
    assert collective_volume(C, SWITCH, op=op, n=8, payload=payload, custom=custom) == pytest.approx(volume)


def test_custom_kernels_leave_pcie_among_more_than_two_to_the_ring() -> None:
    assert collective_volume(C, PCIE, op="all_reduce", n=8, payload=1.0, custom=True) == pytest.approx(2 * 7 / 8)
    assert collective_volume(C, PCIE, op="all_reduce", n=2, payload=1.0, custom=True) == pytest.approx(1.0)


def test_two_shots_beat_one_where_messages_grow() -> None:
    slow = C._replace(step=1.0)
    one = collective_seconds(slow, SWITCH, op="all_reduce", n=8, payload=2**14, custom=True)
    two = collective_seconds(slow, SWITCH, op="all_reduce", n=8, payload=2**24, custom=True)
    assert one == pytest.approx(5e-6 + 1e-6 + 7 * 2**14 / (400e9 * 0.3))
    assert two == pytest.approx(5e-6 + 2e-6 + 1.75 * 2**24 / (400e9 * 0.3))


@pytest.mark.parametrize("custom", [False, True])
@pytest.mark.parametrize("op", OPS)
def test_more_bytes_and_more_ranks_take_no_less(op: str, custom: bool) -> None:
    sizes = 2.0 ** np.arange(8, 34)
    for own in (0.0, 0.5, 3.0):
        c = PLAIN._replace(own=own)
        for n in (2, 4, 8, 16, 72):
            assert (
                np.diff(collective_seconds(C._replace(own=own), SWITCH, op=op, n=n, payload=sizes, custom=custom)) > 0
            ).all()
        for size in sizes:
            times = [
                collective_seconds(c, SWITCH, op=op, n=n, payload=float(size), custom=custom) for n in range(1, 33)
            ]
            assert times[0] == 0
            assert (np.diff(times) >= 0).all()


@pytest.mark.parametrize("link", [SWITCH, MESH, LinkSpec("torus", 50e9, 1e-6, (4, 4))], ids=lambda link: link.topology)
@pytest.mark.parametrize("op", OPS)
def test_arrays_give_what_numbers_give(link: LinkSpec, op: str) -> None:
    n, size = np.meshgrid([1.0, 2.0, 3.0, 8.0], 2.0 ** np.arange(8, 32, 3))
    for custom in (False, True):
        whole = collective_seconds(C, link, op=op, n=n, payload=size, custom=custom)
        one = [
            collective_seconds(C, link, op=op, n=float(a), payload=float(b), custom=custom)
            for a, b in zip(n.flat, size.flat, strict=True)
        ]
        assert whole.ravel() == pytest.approx(one, rel=1e-12)


def _rows(backend: str, ops: tuple[str, ...], graph: float = 0.0) -> Table:
    grid = [(op, n, 2.0**b) for op in ops for n in (2.0, 4.0, 8.0) for b in range(9, 31)]
    count = len(grid)
    return linked(
        Table(
            {
                "gpu": np.full(count, "test_gpu"), "op": np.array([g[0] for g in grid]),
                "backend": np.full(count, backend), "n_ranks": np.array([g[1] for g in grid]),
                "n_nodes": np.ones(count), "bytes": np.array([g[2] for g in grid]),
                "cuda_graph": np.full(count, graph), "time_s": np.ones(count),
            }
        ),
        SWITCH,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("backend", "ops"), [("nccl-2.27", ("all_reduce", "all_gather")), ("vllm_custom-0.24", ("all_reduce",))]
)
def test_a_fit_finds_the_constants_that_made_the_data(backend: str, ops: tuple[str, ...]) -> None:
    rows = _rows(backend, ops, 1.0)
    true = CollectiveConstants(
        fixed=4e-6, latency=1.5e-6, quick=0.3, step=1e-5, bulk=0.7, half=4e6, own=0.5, switch=0.55
    )  # fmt: skip
    noise = np.random.default_rng(1).normal(0, 0.02, len(rows))
    time = COLLECTIVE.seconds(true, GPU, rows) * np.exp(noise)
    found = fit(COLLECTIVE, GPU, Table(rows.columns | {"time_s": time}), "collective.test")
    assert found.unseen is not None
    assert found.unseen.median < 0.03
    assert abs(found.unseen.bias) < 0.02
    for name, rel in (("latency", 0.2), ("quick", 0.2), ("bulk", 0.05), ("switch", 0.05), ("step", 0.3)):
        assert getattr(found.constants, name) == pytest.approx(getattr(true, name), rel=rel), name


def test_sets_and_reasons() -> None:
    backends = ["nccl-2.27", "rccl", "nccl (torch.distributed)", "nccl-2.27", "vllm_custom-0.19", "sglang_custom-0.5",
                "vllm_custom_ar", "quickreduce_int4", "gloo", "nccl-2.27", "nccl-2.27"]  # fmt: skip
    ops = ["all_reduce", "all_gather", "p2p_send_recv", "all_to_all", "all_reduce", "all_reduce", "all_reduce",
           "all_reduce", "all_reduce", "all_reduce", "broadcast"]  # fmt: skip
    table = Table(
        {
            "op": np.array(ops), "backend": np.array(backends),
            "n_nodes": np.array([1.0] * 9 + [2.0, 1.0]), "cuda_graph": np.array([0.0] * 4 + [1.0] + [0.0] * 6),
        }
    )  # fmt: skip
    assert list(COLLECTIVE.sets(table)) == [
        "collective.nccl", "collective.nccl", "collective.torch_exchange", "collective.nccl_exchange",
        "collective.vllm", "collective.sglang_eager", "collective.vllm", "collective.quickreduce", "",
        "collective_nodes.nccl", "",
    ]  # fmt: skip
    assert list(COLLECTIVE.reason(table)[[8, 10]]) == ["a library without a form", "no form of this operation"]
    assert list(np.flatnonzero(COLLECTIVE_NODES.where(table))) == [9]
    assert (COLLECTIVE.where(table) != COLLECTIVE_NODES.where(table)).all()


def test_trays_of_one_rack_share_their_links() -> None:
    table = Table({"gpu": np.array(["gb200", "h100_sxm"]), "n_nodes": np.array([2.0, 2.0])})
    assert list(COLLECTIVE.where(table)) == [True, False]


@pytest.mark.parametrize("op", ["all_reduce", "all_gather", "reduce_scatter"])
@pytest.mark.parametrize("nodes", [2, 4, 16])
def test_large_messages_across_nodes_fill_the_ports_of_a_node(op: str, nodes: int) -> None:
    n, volume = 8 * nodes, 1e12
    bus = (
        volume
        / nodes_seconds(FAR, SWITCH, op=op, n=n, nodes=nodes, payload=volume)
        * SHARE.get(op, lambda n: (n - 1) / n)(n)
    )
    assert bus == pytest.approx(8 * HOST_PORT * 0.9 * 300 / 360, rel=2e-3)  # 360 GB/s of ports, 300 of NVLink
    slow = FAR._replace(rails=2.0)
    bus = (
        volume
        / nodes_seconds(slow, SWITCH, op=op, n=n, nodes=nodes, payload=volume)
        * SHARE.get(op, lambda n: (n - 1) / n)(n)
    )
    assert bus == pytest.approx(2 * HOST_PORT * 0.9, rel=2e-3)


def test_a_message_to_another_node_takes_one_port_and_an_all_to_all_those_of_its_ranks() -> None:
    assert nodes_seconds(FAR, SWITCH, op="p2p", n=2, nodes=2, payload=1e12) == pytest.approx(
        1e12 / (HOST_PORT * 0.9), rel=1e-3
    )
    for rails in (8, 2):
        away = 8 * (1e12 / 2) / (rails * HOST_PORT * 0.9)
        c = FAR._replace(rails=float(rails))
        assert nodes_seconds(c, SWITCH, op="all_to_all", n=16, nodes=2, payload=1e12) == pytest.approx(away, rel=1e-3)


@pytest.mark.parametrize("op", OPS)
def test_small_messages_across_nodes_take_hops(op: str) -> None:
    ranks = 2 if op == "p2p" else 64
    nodes = 1 if op == "p2p" else 8
    near, far = (
        nodes_seconds(FAR._replace(hop=h), SWITCH, op=op, n=ranks, nodes=nodes, payload=1.0) for h in (0.0, 8e-6)
    )
    hops = {"all_reduce": 6, "all_gather": 3, "reduce_scatter": 3}.get(op, 1)
    assert network_way(op, 64, 8).steps == hops
    assert far - near == pytest.approx(hops * 8e-6, rel=0.02)


@pytest.mark.parametrize("op", OPS)
def test_more_bytes_and_more_nodes_take_no_less(op: str) -> None:
    sizes = 2.0 ** np.arange(8, 34)
    for rails in (1.0, 3.0, 8.0):
        c = FAR._replace(rails=rails)
        times = [nodes_seconds(c, SWITCH, op=op, n=8 * nodes, nodes=nodes, payload=sizes) for nodes in (2, 4, 8)]
        assert (np.diff(times, axis=0) >= 0).all()
        assert (np.diff(times, axis=1) > 0).all()
        assert (times[0] >= collective_seconds(C._replace(fixed=0.0, switch=0.0), SWITCH, op, 2, sizes) * 0.9).all()
        one = [nodes_seconds(c, SWITCH, op=op, n=32, nodes=4, payload=float(s)) for s in sizes]
        assert times[1] == pytest.approx(one, rel=1e-12)


def test_a_fit_across_nodes_finds_network_and_rails() -> None:
    grid = [(n, 2.0**b) for n in (2.0, 4.0, 8.0, 16.0) for b in range(10, 32)]
    rows = _rows("nccl-2.27", ("all_reduce",)).where(np.arange(66) < 1)
    rows = Table({k: np.repeat(v, len(grid)) for k, v in rows.columns.items()})
    rows = Table(rows.columns | {"n_ranks": np.array([g[0] for g in grid]), "bytes": np.array([g[1] for g in grid]),
                                 "n_nodes": np.full(len(grid), 2.0)})  # fmt: skip
    true = FAR._replace(network=0.5, rails=3.0, hop=2e-5)
    noise = np.exp(np.random.default_rng(2).normal(0, 0.02, len(rows)))
    time = COLLECTIVE_NODES.seconds(true, GPU, rows) * noise
    found = fit(COLLECTIVE_NODES, GPU, Table(rows.columns | {"time_s": time}), "collective_nodes.test")
    assert found.unseen is not None
    assert found.unseen.median < 0.03
    for name in ("network", "rails"):
        assert getattr(found.constants, name) == pytest.approx(getattr(true, name), rel=0.15), name
    start = found.constants.fixed + 2 * found.constants.hop
    assert start == pytest.approx(true.fixed + 2 * true.hop, rel=0.1)


@pytest.mark.parametrize("custom", [False, True])
def test_more_than_two_over_pcie_pass_the_host_in_a_ring(custom: bool) -> None:
    for n, share in ((2, 0.8), (4, 0.6), (8, 0.6)):
        bus = 1e12 * 2 * (n - 1) / n / collective_seconds(C, PCIE, op="all_reduce", n=n, payload=1e12, custom=custom)
        assert bus == pytest.approx(share * 32e9, rel=1e-2)
    shots = collective_seconds(C, PCIE, op="all_reduce", n=4, payload=1.0, custom=custom)
    assert shots == pytest.approx(5e-6 + 6 * 1e-6, rel=1e-3)
    pair = collective_seconds(C, PCIE, op="all_reduce", n=2, payload=1.0, custom=custom)
    assert pair == pytest.approx(5e-6 + (1 if custom else 2) * 1e-6, rel=1e-3)


def test_a_pair_takes_its_bridge() -> None:
    plain, bridged = LinkSpec("pcie", 32e9, 5e-6), PCIE
    rows = _rows("nccl-2.27", ("all_gather",))
    slow, fast = (COLLECTIVE.seconds(PLAIN, GPU, linked(rows, link)) for link in (plain, bridged))
    pair = rows.numbers("n_ranks") == 2
    assert (slow[~pair] == fast[~pair]).all()
    mesh = COLLECTIVE.seconds(PLAIN, GPU, linked(rows, LinkSpec("mesh", 300e9, 5e-6)))
    assert (fast[pair] == mesh[pair]).all()
    big = pair & (rows.numbers("bytes") == 2.0**30)
    assert slow[big] / fast[big] == pytest.approx(300 / 32, rel=0.05)


def test_what_a_calibration_lacks_is_answered_by_what_it_has() -> None:
    one, across = COLLECTIVE.instead("collective.nccl"), COLLECTIVE.instead("collective_nodes.nccl")
    assert one[0] == "collective.torch"
    assert COLLECTIVE.instead("collective.vllm")[:2] == ("collective.sglang", "collective.trtllm")
    assert COLLECTIVE.instead("collective.sglang_eager")[:2] == ("collective.vllm_eager", "collective.sglang")
    assert COLLECTIVE.instead("collective.torch_exchange")[0] == "collective.nccl_exchange"
    assert across[0] == "collective_nodes.torch"
    assert "collective.nccl" in across
    assert "collective_nodes.nccl" in one
    rows = _rows("nccl-2.27", ("all_reduce",))
    far = Table(rows.columns | {"n_nodes": np.full(len(rows), 2.0)})
    for constants in (C, FAR):
        near, beyond = (COLLECTIVE.seconds(constants, GPU, r) for r in (rows, far))
        assert np.isfinite(near).all()
        assert (beyond > near).mean() > 0.9


def test_compressed_payloads_count_what_goes_over_the_wire() -> None:
    packed, plain = _rows("quickreduce_int4", ("all_reduce",)), _rows("quickreduce_fp16", ("all_reduce",))
    ratio = COLLECTIVE.seconds(PLAIN, GPU, packed) / COLLECTIVE.seconds(PLAIN, GPU, plain)
    assert (ratio < 1).all()
    assert ratio.min() == pytest.approx(4.5 / 16, rel=0.02)
