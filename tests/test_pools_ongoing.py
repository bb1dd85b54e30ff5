"""Requests that follow one another through two pools: the closed form against the network played out."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from functools import cache
from itertools import product
from math import inf

import numpy as np
import pytest
from attrs import evolve

from plandsl.backends.cost.answers.figures import FIGURES
from plandsl.backends.cost.answers.responses import HAIR, ROUNDING
from plandsl.backends.cost.answers.sensitivities import seconds_by_bound
from plandsl.backends.cost.answers.terms import terms
from plandsl.backends.cost.deployments.pools import Pools
from plandsl.backends.cost.num import follow_rise
from plandsl.driver import CompiledPlan, compile_text
from plandsl.testing.laws_cost import shares_follow_their_figures
from tests.draws import some

LINK = "transfer { bandwidth = 50 GB/s, latency = 10 us }"


@cache
def plan(
    load: str = "input = 4000, output = 300",
    prefill: str = "sharding { tp = 4, dp = 2 }",
    decode: str = "sharding { tp = 8 }",
    link: str = LINK,
    clients: int = 64,
    requests: int | None = None,
    chunk: int | None = None,
    more: str = "",
) -> CompiledPlan:
    """Both pools with ``clients`` requests in flight."""
    (made,) = compile_text(
        f"plan p {{ model = llama_3_1_70b, workload {{ {load} }}, {more}\n prefill {{ node = h100_8, {prefill} }}\n"
        f" decode {{ node = h100_8, {decode} }}\n {link} }}"
    )
    spec, split = made.spec, made.spec.split
    assert split is not None
    ours = evolve(spec.workload, concurrency=clients, requests=requests)
    pools = [evolve(p, workload=ours, chunked_prefill=c) for p, c in ((split.prefill, chunk), (split.decode, None))]
    return CompiledPlan(evolve(spec, workload=ours, split=evolve(split, prefill=pools[0], decode=pools[1])), ())


def model(made: CompiledPlan) -> Pools:
    assert isinstance(made.cost, Pools)
    return made.cost


def played(made: CompiledPlan, clients: int, total: int) -> tuple[float, float, float]:
    """Mean TTFT and TPOT, and requests/s, of ``total`` requests of ``clients`` that go round, event by event.

    Each prefill server and each lane serves one at a time, first come first served, and requests are dealt out at
    random; a decode server takes new requests between two steps. Outputs differ by a fifth.
    """
    cost, load, rng = model(made), made.spec.workload, np.random.default_rng(7)
    flow = cost.flow(clients, load.input, load.output, None)
    rates = cost.rates(cost.evaluate(), load.input, load.output)
    turn, own = cost.prefill.n / float(rates.prefill), float(flow.served.prefill + flow.served.first)
    lanes, port = cost.transfer.lanes, cost.transfer.lanes / float(rates.transfer)
    exposed = float(rates.moved.exposed)
    sizes = np.arange(clients + 1)
    step = [float(cost._token(max(n, 1) / cost.decode.in_flight, load.input, load.output)) for n in sizes]
    free, ports = [0.0] * cost.prefill.n, [0.0] * lanes
    running: list[list[list[float]]] = [[] for _ in range(cost.decode.n)]
    arrived: list[list[list[float]]] = [[] for _ in range(cost.decode.n)]
    idle = [True] * cost.decode.n
    events: list[tuple[float, int, str, list[float]]] = []
    begun, firsts, gaps, ends = 0, [], [], []

    def at(time: float, what: str, request: list[float]) -> None:
        nonlocal begun
        begun += 1
        heapq.heappush(events, (time, begun, what, request))

    for client in range(clients):
        at(client * turn / 3, "asks", [client])
    while len(ends) < total:
        now, _, what, request = heapq.heappop(events)
        if what == "asks":
            server = int(rng.integers(cost.prefill.n))
            free[server] = max(free[server], now) + turn
            at(free[server] - turn + own, "sends", [now])
        elif what == "sends":
            lane = int(rng.integers(lanes))
            ports[lane] = max(ports[lane], now) + port
            length = int(rng.integers(round(0.9 * load.output), round(1.1 * load.output) + 1)) - 1
            at(ports[lane] - port + exposed, "comes", [request[0], now, length, length])
        elif what == "comes":
            server = int(rng.integers(cost.decode.n))
            arrived[server].append(request)
            if idle[server]:
                at(now, "steps", [server])
                idle[server] = False
        else:
            server = int(request[0])
            for one in running[server]:
                one[2] -= 1
                if one[2] <= 0:
                    firsts.append(one[1] - one[0])
                    gaps.append((now - one[1]) / one[3])
                    ends.append(now)
                    at(now, "asks", [])
            running[server] = [one for one in running[server] if one[2] > 0] + arrived[server]
            arrived[server] = []
            idle[server] = not running[server]
            if running[server]:
                at(now + step[len(running[server])], "steps", [server])
    warm = len(ends) // 3  # the first third settles
    return float(np.mean(firsts[warm:])), float(np.mean(gaps[warm:])), (total - warm) / (ends[-1] - ends[warm])


NETWORKS = [
    (1, "50 GB/s", "tp = 4, dp = 2", "tp = 8"),
    (8, "50 GB/s", "tp = 4, dp = 2", "tp = 8"),
    (24, "50 GB/s", "tp = 4, dp = 2", "tp = 8"),
    (64, "50 GB/s", "tp = 4, dp = 2", "tp = 8"),  # prefill limits
    (64, "50 GB/s", "tp = 8", "tp = 4, dp = 2"),
    (64, "0.5 GB/s", "tp = 4, dp = 2", "tp = 8"),  # the ports limit
]


@pytest.mark.parametrize(("clients", "bandwidth", "prefill", "decode"), NETWORKS)
def test_the_closed_network_is_that_of_servers_played_out(
    clients: int, bandwidth: str, prefill: str, decode: str
) -> None:
    """Rates and TPOT within 5 %, the time to the first token within three tenths.

    The closed form takes arrivals at random. Where few requests go round, or one station hands on evenly to the next,
    they come more evenly than that, and queues are up to a third shorter.
    """
    link = f"transfer {{ bandwidth = {bandwidth}, latency = 10 us }}"
    made = plan(prefill=f"sharding {{ {prefill} }}", decode=f"sharding {{ {decode} }}", link=link, clients=clients)
    ttft, tpot, rate = played(made, clients, 40 * clients + 200)
    ours = made.cost.evaluate()
    assert ours.throughput / 300 == pytest.approx(rate, rel=0.05)
    assert ours.tpot == pytest.approx(tpot, rel=0.05)
    assert ours.ttft == pytest.approx(ttft, rel=0.3)


@pytest.mark.parametrize("clients", [2, 64])
def test_requests_that_start_together_wait_for_those_before_them(clients: int) -> None:
    """A prefill server takes its share of the first requests one by one; of many requests, they are few."""
    made = plan(clients=clients)
    cost, load = model(made), made.spec.workload
    turn = cost.prefill.n / float(cost.rates(cost.evaluate(), load.input, load.output).prefill)
    mean = np.mean([taken * turn for taken in range(clients // cost.prefill.n)])
    for requests, share in ((clients, 1.0), (8 * clients, 1 / 8)):
        flow = cost.flow(clients, load.input, load.output, requests)
        assert float(flow.served.start) == pytest.approx(mean * share)


def test_shares_of_both_pools_follow_their_figures_where_the_link_limits() -> None:
    for clients, when in some([*product((16, 300), ("after", "layerwise"))], 2):
        shares_follow_where_the_link_limits(clients, when)


def shares_follow_where_the_link_limits(clients: int, when: str) -> None:
    made = plan(clients=clients, link=f"transfer {{ bandwidth = 200 MB/s, latency = 10 us }}\n kv_transfer = {when}")
    shares_follow_their_figures(made)
    found = terms(made.cost, made.cost.evaluate())
    assert next(iter(seconds_by_bound(found, "tpot"))) == "transfer", (
        "other transfers too are as long as the bandwidth says"
    )


@pytest.mark.parametrize(("clients", "chunk"), [(2, None), (64, None), (64, 512), (400, None)])
def test_a_figure_a_hair_worse_gives_what_the_search_for_it_gives(clients: int, chunk: int | None) -> None:
    """To a thousandth of the change, and no change where the figure has no part."""
    cost = model(plan(clients=clients, chunk=chunk))
    before = cost.evaluate()
    for figure in FIGURES.values():
        worse = figure.improved(cost.plan, 1 / (1 + HAIR))
        found, wanted = cost.nudged(worse, before), cost.on(worse).evaluate()
        for name in ("ttft", "tpot", "throughput"):
            was, now, asked = (float(getattr(metrics, name)) for metrics in (before, found, wanted))
            assert now - was == pytest.approx(asked - was, rel=1e-3, abs=ROUNDING * was), (figure.key, name)


@pytest.mark.parametrize(
    ("excess", "near", "found"),
    [
        (lambda d: d * d - 4.00001, 2.0, 4.00001**0.5),
        (lambda d: 1.000001 * d - 9, 9.0, 9 / 1.000001),
        (lambda d: d - 20, 10.0, 10.0),  # all fit
        (lambda d: d - 9, 10.0, None),  # the last does not fit any more
        (lambda d: d - 5 + (d > 4), 4.0, None),  # it jumps over 0
        (lambda d: d - 5, 4.0, None),  # it is far
        (lambda d: 4.00001 - d, 4.0, None),  # it falls
        (lambda d: inf if d > 4 else d - 4.00001, 4.0, None),
    ],
)
def test_a_rise_is_followed_where_it_is_a_hair_away(
    excess: Callable[[float], float], near: float, found: float | None
) -> None:
    assert follow_rise(excess, near, 10.0) == (None if found is None else pytest.approx(found, rel=1e-10))
