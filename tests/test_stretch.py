"""Servers that take steps between two events at once say what they say step by step, to the last bit."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any, get_args

import numpy as np
import pytest
from attrs import evolve
from hypothesis import example, given, settings
from hypothesis import strategies as st

from plandsl.backends.cost import Replicas
from plandsl.backends.cost.serving.blocks import Pool
from plandsl.backends.cost.serving.clock import ServerClock, TableClock, step_clock
from plandsl.backends.cost.serving.pools import Moves, Side, simulate_pools
from plandsl.backends.cost.serving.records import Records
from plandsl.backends.cost.serving.replica import Adapters, Worker
from plandsl.backends.cost.serving.requests import Closed, Hashes, Requests
from plandsl.backends.cost.serving.scheduler import Batch, Live, Policy, State
from plandsl.backends.cost.serving.sglang import Sglang
from plandsl.backends.cost.serving.simulate import simulate, simulate_steps
from plandsl.backends.cost.serving.stretch import foresee, repeat_decodes, taken_blocks
from plandsl.backends.cost.serving.tiers import LOADING, Tier, Tiers
from plandsl.backends.cost.serving.trtllm import Trtllm
from plandsl.backends.cost.serving.vllm import Vllm
from plandsl.driver import compile_text
from plandsl.spec.scheduler import ROUTERS, RouterName, SchedulerName, WriteName
from tests.draws import draws
from tests.test_leap import Bent, Even, Row


@st.composite
def schedulers(draw: st.DrawFn) -> Policy:
    """Policies of all engines, whose steps have prompts whole or in parts."""
    running, ahead, flag = draw(st.integers(2, 8)), draw(st.booleans()), draw(st.booleans())
    tokens = running + draw(st.sampled_from((8, 30, 90)))
    match draw(st.sampled_from(("vllm", "sglang", "trtllm", "trtllm"))):
        case "vllm":
            order = draw(st.sampled_from(("fcfs", "priority")))
            known, spare = draw(st.booleans()), draw(st.sampled_from((0.0, 0.2)))
            return Vllm(tokens, running, whole_prompt=flag, watermark=spare, order=order, capped=known, ahead=ahead)
        case "sglang":
            order = draw(st.sampled_from(("fcfs", "priority", "longest_prefix")))
            bold = draw(st.sampled_from((0.0, 0.5, 1.0)))
            return Sglang(tokens, tokens, running, conservativeness=bold, mixed=flag, order=order, ahead=ahead)
        case _:
            room = draw(st.sampled_from(("no_evict", "max_utilisation", "static_batch")))
            return Trtllm(tokens, running, True, room, equal=flag, ahead=ahead)


@st.composite
def loads(draw: st.DrawFn) -> Requests:
    """Requests of which many are there at a time, some with long answers; they may share blocks of four tokens."""
    n, rng = draw(st.integers(6, 24)), np.random.default_rng(draw(st.integers(0, 2**32)))
    gap, longest = draw(st.sampled_from((0.0, 3.0, 15.0, 60.0))), draw(st.sampled_from((6, 30)))
    session = rng.integers(-1, 4, n) if draw(st.booleans()) else None
    found = Requests(
        np.cumsum(rng.exponential(1.0, n)) * gap,
        rng.integers(1, 16, n),
        np.full(n, longest) if draw(st.booleans()) else rng.integers(1, longest + 1, n),
        session=session,
        priority=rng.integers(0, 3, n),
        adapter=rng.integers(0, 5, n) if draw(st.booleans()) else None,
    )
    if draw(st.booleans()):
        return found
    counts = np.minimum(rng.integers(0, 4, n), -(-found.input // 4))
    return found._replace(blocks=Hashes(np.cumsum([0, *counts]), rng.integers(0, 3, counts.sum()), 4))


def slots_for(load: Requests, tokens: int) -> Adapters | None:
    """Slots for the adapters of a load; how many and of what kind follows from another number that is drawn."""
    if load.adapter is None:
        return None
    slots = 1 + tokens % 3
    return Adapters(slots, 0.75, host=slots + 1 if tokens % 2 else None, disk_s=2.5, base=tokens % 5 == 0)


def assert_equal(fast: Records, plain: Records) -> None:
    for name in (*fast._fields[:10], "prefill_replica", "transfer_s", "fetched", "slot_wait_s", "loaded"):
        np.testing.assert_array_equal(getattr(fast, name), getattr(plain, name), err_msg=name)
    for name, a, b in zip(plain.steps._fields, fast.steps, plain.steps, strict=True):
        np.testing.assert_array_equal(a, b, err_msg=name)
    np.testing.assert_array_equal(*(np.sort(np.repeat(*one.gaps)) for one in (fast, plain)))


TOKENS = st.integers(48, 120)
CLOCKS = st.builds(Bent, st.sampled_from((4.0, 15.5, 40.0)), st.sampled_from((0.0, 0.02)))
TIERS = st.builds(Tier, st.sampled_from((4, 30)), st.sampled_from((0.1, 0.9)), st.just(0.4))
LOOPS = st.sampled_from((None, None, 2, 7))


@example(  # SGLang keeps one of equal blocks: another one is free when it composes the first step of a stretch
    chosen=[Sglang(10, 10, 2, conservativeness=0.0)],
    load=Requests(np.zeros(6), np.array([15, 3, 14, 1, 9, 5]), np.full(6, 6),
             Hashes(np.array([0, 2, 3, 5, 6, 9, 10]), np.array([0, 1, 2, 2, 2, 2, 1, 1, 0, 0]), 4)),
    clock=Bent(4.0, 0.0), tokens=48, block=1, caching=True, closed=None, ranks=1, by="round_robin",
)  # fmt: skip
@draws(2)
@given(
    st.lists(schedulers(), min_size=1, max_size=3), loads(), CLOCKS, TOKENS, st.sampled_from((1, 3, 4, 16)),
    st.booleans(), LOOPS, st.sampled_from((1, 1, 2)), st.sampled_from(ROUTERS),
)  # fmt: skip
def test_steps_at_once_equal_steps_one_by_one(
    chosen: list[Policy], load: Requests, clock: Bent, tokens: int, block: int, caching: bool, closed: int | None,
    ranks: int, by: RouterName,
) -> None:  # fmt: skip
    """With memory pressure, requests that come amid a stretch, closed loops, sessions, several servers and ranks."""
    own = load.blocks is None
    workers = [
        Worker(
            one, clock, ranks * -(-tokens // block), block, caching, ranks=ranks, shared=not own,
            adapters=slots_for(load, tokens),
        )
        for one in chosen
    ]  # fmt: skip
    thinks = np.where(load.input % 2, 3.7, 0.0)
    fast, plain = (
        simulate_steps(workers, load, closed and Closed(closed), by=by, think_s=thinks, stretches=at_once)
        for at_once in (True, False)
    )
    assert_equal(fast, plain)


@draws(2)
@given(
    st.lists(schedulers(), min_size=1, max_size=2), loads(), CLOCKS, TOKENS, st.sampled_from((1, 3, 4)),
    st.lists(TIERS, min_size=1, max_size=2), st.sampled_from(get_args(WriteName)), LOOPS, st.sampled_from((1, 1, 2)),
    st.sampled_from(ROUTERS),
)  # fmt: skip
def test_so_they_do_where_blocks_come_back_from_tiers_of_memory(
    chosen: list[Policy], load: Requests, clock: Bent, tokens: int, block: int, tiers: list[Tier], write: WriteName,
    closed: int | None, ranks: int, by: RouterName,
) -> None:  # fmt: skip
    """Requests ask for what others asked for before them; what they wait for comes amid a stretch."""
    counts = -(-load.input // 4)
    load = load._replace(blocks=Hashes(np.cumsum([0, *counts]), np.arange(counts.sum()) % 5, 4))
    workers = [
        Worker(
            one, clock, ranks * -(-tokens // block), block, ranks=ranks, adapters=slots_for(load, tokens),
            tiers=Tiers(tuple(tiers), write, LOADING[name_of(one)], prompts=isinstance(one, Vllm)),
        )
        for one in chosen
    ]  # fmt: skip
    fast, plain = (
        simulate_steps(workers, load, closed and Closed(closed), by=by, stretches=at_once) for at_once in (True, False)
    )
    assert_equal(fast, plain)


@example(  # a request that can never run comes just when a step ends, and the next step starts all the same
    one=Vllm(9, 2, ahead=False), clock=Even(0.0), rows=[(0, 1, 20, -1), (10, 30, 9, -1)], tokens=30, block=1,
    caching=False, closed=None, ranks=1,
)  # fmt: skip
@given(
    schedulers(), st.sampled_from((Even(0.0), Even(0.5))),
    st.lists(
        st.tuples(st.integers(0, 60), st.integers(1, 16), st.integers(1, 30), st.integers(-1, 2)),
        min_size=1, max_size=8,
    ),
    st.sampled_from((30, 90, 300)), st.sampled_from((1, 4)), st.booleans(), LOOPS, st.sampled_from((1, 1, 2)),
)  # fmt: skip
def test_so_they_do_where_requests_come_just_as_steps_end(
    one: Policy, clock: Even, rows: list[Row], tokens: int, block: int, caching: bool, closed: int | None, ranks: int
) -> None:
    times, inputs, outputs, session = np.array(rows).T
    load = Requests(times.astype(np.float64), inputs, outputs, session=session)
    worker = Worker(one, clock, ranks * -(-tokens // block), block, caching, ranks=ranks)
    fast, plain = (
        simulate_steps([worker], load, closed and Closed(closed), stretches=at_once) for at_once in (True, False)
    )
    assert_equal(fast, plain)


def name_of(policy: Policy) -> SchedulerName:
    return "vllm" if isinstance(policy, Vllm) else "sglang" if isinstance(policy, Sglang) else "trtllm"


@example(  # a cache arrives when a step ends, and is taken first
    first=Trtllm(11, 3, True, ahead=False), then=Vllm(11, 3, whole_prompt=False),
    load=Requests(np.zeros(19), np.array([9, 15, 9, 14, 8, 11, 12, 8, 15, 11, 12, 3, 4, 14, 5, 7, 8, 2, 10]),
             np.full(19, 6)),
    clock=Bent(15.5, 0.0), tokens=51, closed=None, servers=1, early=True,
)  # fmt: skip
@given(schedulers(), schedulers(), loads(), CLOCKS, TOKENS, LOOPS, st.integers(1, 2), st.booleans())
def test_so_they_do_where_another_server_makes_the_first_token(
    first: Policy, then: Policy, load: Requests, clock: Bent, tokens: int, closed: int | None, servers: int, early: bool
) -> None:
    n = len(load.input)
    moves = Moves(np.full(n, 1.3), np.full(n, 0.7), np.full(n, 1.3), 0.1, early)
    own = slots_for(load, tokens)
    sides = (
        Side([Worker(first, clock, 200, 1, adapters=own)] * 2),
        Side([Worker(then, clock, tokens, 1, False, adapters=own)] * servers),
    )
    fast, plain = (
        simulate_pools(*sides, load, moves, closed and Closed(closed), stretches=at_once) for at_once in (True, False)
    )
    assert_equal(fast, plain)


def test_the_share_of_outputs_that_sglang_keeps_room_for_falls_in_a_stretch() -> None:
    """Room is kept for 70 % of an answer at first, for 17 % after 530 steps: then a long prompt fits."""
    load = Requests(np.array([0.0, 2000.0]), np.array([10, 700]), np.array([1500, 10]))
    worker = Worker(Sglang(), Bent(1e9, 0.0), 1600, 1)
    fast, plain = (simulate_steps([worker], load, stretches=at_once) for at_once in (True, False))
    assert_equal(fast, plain)
    assert fast.admitted_s[1] < 2020, "it does not wait for the end of the other one"


@pytest.mark.parametrize("policy", [Vllm(64), Sglang(64, conservativeness=0.0), Trtllm(64, 8, True, "max_utilisation")])
@pytest.mark.parametrize("ahead", [True, False])
@pytest.mark.parametrize("block", [1, 4])
def test_requests_that_a_stretch_leaves_no_blocks_are_sent_back(policy: Policy, ahead: bool, block: int) -> None:
    """Their token is on its way then, and they find what was known of them."""
    rng = np.random.default_rng(3)
    load = Requests(np.zeros(20), rng.integers(8, 16, 20), rng.integers(30, 60, 20))
    for shared, ranks in ((True, 1), (False, 1), (False, 2)):
        one = Worker(evolve(policy, ahead=ahead), Bent(15.5, 0.02), 160 // block, block, ranks=ranks, shared=shared)
        fast, plain = (simulate_steps([one], load, Closed(6), stretches=at_once) for at_once in (True, False))
        assert_equal(fast, plain)
        assert fast.preemptions.any()


@pytest.mark.parametrize(
    ("policy", "steps"),
    [(Vllm(64), 8), (Sglang(64), 8), (Trtllm(64), 8), (Trtllm(64, room="max_utilisation"), 7)],
    ids=["vllm", "sglang", "no_evict", "max_utilisation"],
)
def test_a_stretch_takes_as_many_steps_as_there_are_blocks_for(policy: Policy, steps: int) -> None:
    """Two requests have 16 free blocks of a token. Composed ahead, TensorRT-LLM keeps those of a step that overlaps."""
    state, lives = State(Pool(24, 1)), [Live(0, 4, 50), Live(1, 4, 50)]
    for live in lives:
        state.pool.grow(live, 4)
        live.computed, live.made = 4, 1
    state.running = lives
    batch = repeat_decodes(Batch([], lives, [], [], admitted=[], preempted=[]))
    found = foresee([state], [batch], policy, Bent(40.0, 0.0), times=(0.0, 0.0))
    assert found is not None
    assert found.used.tolist() == [8 + 2 * step for step in range(1, steps + 1)]


class Counted:
    """A policy that counts the steps that it composes."""

    def __init__(self, policy: Policy) -> None:
        self.policy, self.steps = policy, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.policy, name)

    def compose(self, state: State) -> Batch:
        self.steps += 1
        return self.policy.compose(state)


@pytest.mark.parametrize(
    "policy",
    [Vllm(64, order="priority"), Sglang(64), Trtllm(64), Trtllm(64, chunked=True, room="max_utilisation")],
    ids=["vllm", "sglang", "no_evict", "max_utilisation"],
)
@pytest.mark.parametrize("ranks", [1, 2])
def test_few_steps_are_composed_where_answers_are_long(policy: Policy, ranks: int) -> None:
    load = Requests(np.zeros(16), np.full(16, 9), np.full(16, 2000))
    counted = Counted(policy)
    found = simulate([Worker(counted, Bent(40.0, 0.0), 200_000, 16, ranks=ranks)], load, Closed(8))
    assert found.leaps
    assert len(found.steps.start_s) >= 4000
    assert counted.steps < 100 * ranks


@pytest.mark.parametrize("write", get_args(WriteName))
def test_few_steps_are_composed_where_blocks_come_back_from_a_tier(write: WriteName) -> None:
    """Six prompts take turns, and the GPU has no room for the blocks of all of them."""
    load = Requests(np.zeros(30), np.full(30, 65), np.full(30, 400))
    load = load._replace(blocks=Hashes(np.arange(31) * 16, np.arange(480) % 96, 4))
    counted, tiers = Counted(Vllm(8)), Tiers((Tier(2000, 0.1, 0.4),), write, LOADING["vllm"])
    found = simulate([Worker(counted, Bent(40.0, 0.0), 250, 4, tiers=tiers)], load, Closed(2))
    assert found.loaded is not None
    assert found.loaded.any()
    assert found.leaps
    assert counted.steps < len(found.steps.start_s) / 10


def test_servers_that_see_other_steps_next_have_no_stretch() -> None:
    load, worker = Requests(np.zeros(3), np.full(3, 4), np.full(3, 9)), Worker(Sglang(8), Bent(4.0, 0.02), 100)
    assert simulate([worker], load).leaps
    assert not simulate([worker._replace(in_flight=2)], load).leaps
    assert not simulate([worker._replace(acceptance=(0.5,))], load).leaps
    assert not simulate([worker] * 2, load, by="prefix").leaps, "the router looks at blocks"


@given(
    st.lists(st.tuples(st.integers(1, 40), st.integers(0, 9)), min_size=1, max_size=9),
    st.integers(1, 7),
    st.integers(1, 30),
)
def test_blocks_of_coming_steps_are_counted(requests: list[tuple[int, int]], size: int, steps: int) -> None:
    lives = []
    for computed, more in requests:
        lives.append(Live(0, 1, 1))
        lives[-1].computed, lives[-1].held = computed, -(-(computed + more) // size)
    for at, blocks in enumerate(taken_blocks(lives, size, steps).tolist(), 1):
        assert blocks == sum(max(-(-(live.computed + at) // size) - live.held, 0) for live in lives)


# ---- what coming steps cost

KINDS = {
    "table": "model = llama_3_1_8b, node = h100_1, sharding { tp = 1 }, engine = sglang",
    "window": "model = gpt_oss_20b, node = h100_1, sharding { tp = 1 }, engine = trtllm",
    "stages": "model = llama_3_1_8b, node = h100_8, sharding { tp = 2, pp = 4 }",
    "graphs": "model = llama_3_1_8b, node = h100_1, engine = sglang with { graph_sizes = [4, 16, 64] }",
    "chunks": "model = llama_4_scout, node = h100_8, sharding { tp = 8 }",
    "ranks": "model = qwen3_30b_a3b, node = h100_8, sharding { ep = 4 }, engine = sglang",
    "shift": "model = llama_3_1_8b, node = h100_8, shift { base { sp = 8 }, tensor { tp = 8 }, threshold = 4 }",
}


@cache
def clock_of(kind: str) -> tuple[ServerClock, int]:
    load = "workload { input = 1000, output = 41, batch = 1, in_flight = 1 }"
    found = compile_text(f"plan p {{ {KINDS[kind]}, {load} }}")[0].cost
    assert isinstance(found, Replicas)
    return step_clock(found.one), int(found.one.main.ways)


def in_line(clock: ServerClock, batches: Sequence[Batch]) -> list[float]:
    """Seconds of a step in the order in which it spends them."""
    cost = clock.cost(batches[0]) if len(batches) == 1 else clock.cost_of_ranks(batches)
    parts = [cost.draft, cost.stages[0]]
    for stage in cost.stages[1:]:
        parts += [cost.hop, stage]
    return [*parts, cost.host]


@pytest.mark.parametrize("kind", KINDS)
def test_coming_steps_cost_what_they_cost_when_they_are_composed(kind: str) -> None:
    clock, ways = clock_of(kind)
    exact = isinstance(clock, TableClock)

    @settings(max_examples=8)
    @given(st.lists(st.lists(st.integers(2, 30_000), max_size=9), min_size=ways, max_size=ways).filter(any))
    def law(contexts: list[list[int]]) -> None:
        batches = []
        for rank in contexts:
            lives = [Live(0, 1, 1) for _ in rank]
            for live, computed in zip(lives, rank, strict=True):
                live.computed = computed
            batches.append(Batch([], lives, [1] * len(lives), [], admitted=[], preempted=[]))
        for told in clock.foresee(batches, 40).tolist():
            for live in (live for batch in batches for live in batch.decodes):
                live.computed += 1
            batches = [repeat_decodes(batch) for batch in batches]
            assert told == (in_line(clock, batches) if exact else pytest.approx(in_line(clock, batches), rel=1e-12))

    law()
