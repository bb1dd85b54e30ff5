"""Form of the expert all-to-all: destinations, limits, monotony, arrays, conversion of bandwidths, and fits."""

from itertools import product

import numpy as np
import pytest

from plandsl.backends.calibrate.fit import fit
from plandsl.backends.calibrate.kinds.dispatch import EP_ALLTOALL, counted_bytes, linked
from plandsl.backends.calibrate.table import Table
from plandsl.backends.cost.forms.collective import HOST_PORT
from plandsl.backends.cost.forms.dispatch import (
    ROW,
    Traffic,
    busy_units,
    direct_traffic,
    dispatch_seconds,
    occupied_places,
    packed_traffic,
    wire_bytes,
    wire_seconds,
)
from plandsl.spec.constants import DispatchConstants
from plandsl.spec.hardware import GpuSpec, LinkSpec

SWITCH = LinkSpec("switch", 400e9, 2e-6)
GPU = GpuSpec("test_gpu", 80e9, 2e12, (("bf16", 1e15),), units=100)
C = DispatchConstants(fixed=2e-5, expert=2e-8, row=1e-6, each=1e-7, unit=30.0, port=0.5, ramp=1e-5,
    network=0.8, message=1e-7)  # fmt: skip


def _seconds(
    c: dict[str, float], tokens: float, ranks: float = 8.0, nodes: float = 1.0, latency: bool = False
) -> float:
    hidden, experts, topk = 4096.0, 256.0, 8.0
    copy = wire_bytes(hidden, False)
    if latency:
        t = direct_traffic(tokens, copy, ranks, nodes, topk)
        units, waits = busy_units(experts, 100), experts
    else:
        t = packed_traffic(tokens, copy, ranks=ranks, nodes=nodes, experts=experts, topk=topk)
        units, waits = 24, 0.0
    return float(
        dispatch_seconds(
            c, SWITCH, inside=ranks / nodes, t=t, walked=tokens * hidden, copy=copy, units=units, waits=waits
        )
    )


def test_places_that_hold_an_expert_are_those_of_a_draw() -> None:
    rng = np.random.default_rng(3)
    for places, experts, topk in ((8, 256, 8), (4, 16, 3), (16, 64, 22), (32, 32, 4)):
        drawn = [len(set(rng.permutation(experts)[:topk] * places // experts)) for _ in range(4000)]
        assert occupied_places(places, experts, topk) == pytest.approx(np.mean(drawn), rel=0.02)
    assert occupied_places(8, 8, 2) == pytest.approx(2.0), "one expert to a rank: as many ranks as experts"
    assert occupied_places(8, 256, 1) == pytest.approx(1.0)
    assert occupied_places(1, 256, 8) == pytest.approx(1.0)
    assert occupied_places(8, 16, 16) == pytest.approx(8.0)


def test_large_dispatches_reach_their_share_of_the_port() -> None:
    free = C._replace(row=0.0, each=0.0, unit=1e9)
    sent = 2**22 * occupied_places(8, 256, 8) * 8192 * 7 / 8
    assert _seconds(free, 2**22) == pytest.approx(sent / (400e9 * 0.5), rel=1e-3)
    every = 2**22 * 8 * 8192 * 7 / 8
    assert _seconds(free, 2**22, latency=True) == pytest.approx(every / (400e9 * 0.5), rel=1e-3)


def test_across_nodes_the_slower_of_port_and_network_counts() -> None:
    t = packed_traffic(4096.0, 8192.0, ranks=32.0, nodes=4.0, experts=256.0, topk=8.0)
    assert t.far == pytest.approx(4096 * 8192 * occupied_places(4, 256, 8) * 3 / 4)
    assert wire_seconds(C, SWITCH, 8.0, t) == pytest.approx(t.far / (HOST_PORT * 0.8))
    assert wire_seconds(C._replace(port=1e-3), SWITCH, 8.0, t) == pytest.approx(t.near / (400e9 * 1e-3))
    every = direct_traffic(128.0, 8192.0, 32.0, 4.0, 8.0)
    assert every.messages == pytest.approx(128 * 8 * 3 / 4)
    assert every.near + every.far == pytest.approx(128 * 8 * 8192 * 31 / 32), "all but those to the own rank"
    assert wire_seconds(C, SWITCH, 8.0, every) == pytest.approx(every.far / (HOST_PORT * 0.8) + every.messages * 1e-7)


def test_a_token_goes_to_four_nodes_at_most() -> None:
    near, far = (packed_traffic(4096.0, 8192.0, ranks=8.0 * n, nodes=n, experts=256.0, topk=8.0) for n in (4.0, 8.0))
    assert far.far / near.far == pytest.approx((7 / 8) / (3 / 4), rel=1e-2)


def test_one_token_takes_the_start_and_each_expert_in_low_latency() -> None:
    assert _seconds(C, 1e-6) == pytest.approx(2e-5, rel=1e-3)
    assert _seconds(C, 1e-6, latency=True) == pytest.approx(2e-5 + 256 * 2e-8, rel=1e-3)


def test_units_limit_what_ports_do_not() -> None:
    slow = C._replace(row=0.0, each=0.0, unit=0.1, ramp=0.0)
    tokens, none = 4096.0, Traffic(4096.0, 0.0, 0.0, 0.0)
    few, many = (
        dispatch_seconds(slow, SWITCH, inside=8, t=none, walked=tokens, copy=8192, units=units, waits=0.0)
        for units in (8, 24)
    )
    assert (few - 2e-5) / (many - 2e-5) == pytest.approx(3.0)
    walked = C._replace(row=1.0, ramp=0.0)
    assert dispatch_seconds(
        walked, SWITCH, inside=8, t=none, walked=2.0 * ROW, copy=8192, units=1, waits=0.0
    ) == pytest.approx(2.0, rel=1e-3)


def test_experts_share_units_where_there_are_more_of_them() -> None:
    assert [busy_units(e, 100) for e in (8, 100, 150, 256)] == [8, 100, 75, pytest.approx(256 / 3)]


def test_filling_queues_costs_as_much_again_and_at_most_the_ramp() -> None:
    flat = C._replace(ramp=0.0)
    assert _seconds(C, 2.0**24) - _seconds(flat, 2.0**24) == pytest.approx(1e-5, rel=1e-2)
    assert (_seconds(C, 1e-3) - 2e-5) / (_seconds(flat, 1e-3) - 2e-5) == pytest.approx(2.0, rel=1e-2)


@pytest.mark.parametrize("latency", [False, True])
def test_more_tokens_and_more_ranks_take_no_less(latency: bool) -> None:
    tokens = 2.0 ** np.arange(0, 20)
    times = [_seconds(C, float(t), latency=latency) for t in tokens]
    assert (np.diff(times) > 0).all()
    ranks = [_seconds(C, 4096.0, r, 1.0, latency) for r in (2.0, 4.0, 8.0, 16.0, 64.0)]
    assert (np.diff(ranks) >= 0).all()
    nodes = [_seconds(C, 4096.0, 8.0 * n, n, latency) for n in (1.0, 2.0, 4.0, 8.0, 16.0)]
    assert (np.diff(nodes) >= 0).all()


def _rows(library: str = "deepep", ops: tuple[str, ...] = ("dispatch",), mode: str = "normal") -> Table:
    shapes = ((4096.0, 6.0, 256.0), (7168.0, 8.0, 256.0), (5120.0, 1.0, 16.0), (4096.0, 22.0, 512.0))
    grid = list(product(ops, (8.0, 16.0), 2.0 ** np.arange(0, 18, 2), shapes, (24.0, 8.0)))
    n = len(grid)
    text = {"gpu": "test_gpu", "library": library, "mode": mode, "dtype": "", "bw_kind": ""}
    hidden, topk, experts = (np.array([g[3][i] for g in grid]) for i in range(3))
    return Table(
        {k: np.full(n, v) for k, v in text.items()}
        | {
            "op": np.array([g[0] for g in grid]), "n_ranks": np.array([g[1] for g in grid]), "n_nodes": np.ones(n),
            "tokens_per_rank": np.array([g[2] for g in grid]), "hidden": hidden, "topk": topk, "n_experts": experts,
            "n_sms": np.array([g[4] for g in grid]), "time_s": np.ones(n), "reported_bw_gb_per_s": np.full(n, np.nan),
        }
    )  # fmt: skip


@pytest.mark.parametrize("mode", ["normal", "low_latency"])
def test_arrays_give_what_single_rows_give(mode: str) -> None:
    rows = linked(_rows(mode=mode, ops=("dispatch", "combine")), SWITCH)
    whole = EP_ALLTOALL.seconds(C, GPU, rows)
    index = np.arange(len(rows))
    one = [EP_ALLTOALL.seconds(C, GPU, rows.where(index == i))[0] for i in range(0, len(rows), 5)]
    assert whole[::5] == pytest.approx(one, rel=1e-12)


@pytest.mark.parametrize("mode", ["normal", "low_latency"])
def test_a_fit_finds_the_constants_that_made_the_data(mode: str) -> None:
    rows = linked(_rows(mode=mode), SWITCH)
    true = C._replace(fixed=4e-5, row=3e-6, port=0.4, expert=4e-8)
    noise = np.exp(np.random.default_rng(1).normal(0, 0.02, len(rows)))
    time = EP_ALLTOALL.seconds(true, GPU, rows) * noise
    found = fit(EP_ALLTOALL, GPU, Table(rows.columns | {"time_s": time}), "ep_alltoall.test")
    assert found.unseen is not None
    assert found.unseen.median < 0.03
    assert abs(found.unseen.bias) < 0.02
    for name in ("fixed", "row") if mode == "normal" else ("fixed", "expert", "port"):
        assert getattr(found.constants, name) == pytest.approx(getattr(true, name), rel=0.2), name


def test_a_combine_sends_bf16_and_a_dispatch_fp8_unless_it_says_so() -> None:
    rows = _rows(ops=("dispatch",))
    narrow = counted_bytes(rows)
    wide = counted_bytes(Table(rows.columns | {"dtype": np.full(len(rows), "bf16")}))
    back = counted_bytes(Table(rows.columns | {"op": np.full(len(rows), "combine")}))
    assert wide / narrow == pytest.approx(np.full(len(rows), 2 / (1 + 4 / 128)))
    assert (back == wide).all()


PUBLISHED = (
    # library, mode, op, ranks, nodes, tokens, GB/s, what they count, seconds: rows of UCCL-EP and MORI-EP with both
    ("uccl-ep", "normal", "dispatch", 8, 1, 4096, 280, "nvlink", 571e-6),
    ("uccl-ep", "normal", "combine", 8, 1, 4096, 426, "nvlink", 727e-6),
    ("uccl-ep", "normal", "dispatch", 24, 3, 4096, 53, "rdma", 1637e-6),
    ("uccl-ep", "normal", "combine", 32, 4, 4096, 57, "rdma", 3724e-6),
    ("uccl-ep", "low_latency", "combine", 32, 4, 128, 24, "rdma", 617e-6),
    ("mori", "low_latency", "dispatch", 8, 1, 128, 134, "total", 35e-6),
    ("mori", "low_latency", "combine", 8, 1, 128, 204, "total", 47e-6),
)


def _published(with_time: bool) -> Table:
    names = ("library", "mode", "op", "n_ranks", "n_nodes", "tokens_per_rank", "reported_bw_gb_per_s", "bw_kind")
    columns = {name: np.array([row[i] for row in PUBLISHED]) for i, name in enumerate(names)}
    n = len(PUBLISHED)
    time = np.array([row[8] for row in PUBLISHED]) if with_time else np.full(n, np.nan)
    same = {"hidden": 7168.0, "topk": 8.0, "n_experts": 256.0, "n_sms": np.nan}
    floats = {k: v.astype(float) if v.dtype.kind != "U" else v for k, v in columns.items()}
    return Table(
        floats | {k: np.full(n, v) for k, v in same.items()}
        | {"time_s": time, "dtype": np.full(n, ""), "gpu": np.full(n, "test_gpu")}
    )  # fmt: skip


def test_a_published_bandwidth_gives_the_time_that_was_published_with_it() -> None:
    converted = linked(_published(False), SWITCH).numbers("time_s")
    assert converted == pytest.approx([row[8] for row in PUBLISHED], rel=0.07)
    kept = linked(_published(True), SWITCH).numbers("time_s")
    assert list(kept) == [row[8] for row in PUBLISHED]


def test_sets_and_reasons() -> None:
    rows = _rows(ops=("dispatch", "combine"), mode="low_latency")
    assert set(EP_ALLTOALL.sets(rows)) == {"ep_alltoall.deepep_low_latency", "ep_alltoall.deepep_low_latency_combine"}
    assert set(EP_ALLTOALL.sets(_rows("deepep-v2"))) == {"ep_alltoall.ports"}
    far = Table(rows.columns | {"n_nodes": np.full(len(rows), 2.0)})
    assert set(EP_ALLTOALL.sets(far)) == {"ep_alltoall.ports"}
    rack = Table(far.columns | {"gpu": np.full(len(rows), "gb200")})
    assert set(EP_ALLTOALL.sets(rack)) == set(EP_ALLTOALL.sets(rows)), "the trays of a rack share their links"
    silent = Table(rows.columns | {"time_s": np.full(len(rows), np.nan)})
    assert set(EP_ALLTOALL.sets(silent)) == {""}
    assert set(EP_ALLTOALL.reason(silent)) == {"no time, or no form of this mode"}


@pytest.mark.parametrize("path", ["ep_alltoall.ports", "ep_alltoall.deepep_low_latency_combine"])
def test_the_same_mode_answers_first_for_what_is_missing(path: str) -> None:
    found = EP_ALLTOALL.instead(path)
    assert path not in found
    assert len(set(found)) == 4
    if "combine" in path:
        assert found[0] == "ep_alltoall.deepep_low_latency"
