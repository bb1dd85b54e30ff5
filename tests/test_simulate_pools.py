"""Two pools served request by request: the limit of one request, conservation, ports, and who waits for room."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from plandsl.backends.cost.serving.blocks import Pool
from plandsl.backends.cost.serving.pools import Moves, Side, simulate_pools
from plandsl.backends.cost.serving.records import Records
from plandsl.backends.cost.serving.replica import Worker
from plandsl.backends.cost.serving.requests import Closed, Requests
from plandsl.backends.cost.serving.scheduler import Batch, Live, Policy, State
from plandsl.backends.cost.serving.sglang import Sglang
from plandsl.backends.cost.serving.trtllm import Trtllm
from plandsl.backends.cost.serving.vllm import Vllm
from plandsl.driver import CompiledPlan, compile_text
from plandsl.spec.scheduler import ROUTERS, RouterName
from tests.draws import draws
from tests.serving import Steady
from tests.test_serving import Checked, flat, loads, policies

# ---- a plan's own pools

POOLS = {
    "alike": ("sharding { tp = 2 }", "sharding { tp = 2 }", ""),
    "several": ("sharding { dp = 3, tp = 2 }", "sharding { dp = 2, tp = 4 }", ""),
    "stages": ("sharding { pp = 2 }", "sharding { pp = 4 }", ""),
    "chunks": ("sharding { tp = 2 }, chunked_prefill = 2048", "sharding { tp = 4 }", ""),
    "guesses": ("", "sharding { tp = 4 }", "speculate { draft = none, tokens = 3, acceptance = 100 % }"),
}


ALONE = "batch = 1, in_flight = 1"


@cache
def plan(kind: str = "alike", engine: str = "vllm", transfer: str = "after", load: str = ALONE) -> CompiledPlan:
    prefill, decode, more = POOLS[kind]
    text = f"""plan p {{ model = llama_3_1_8b, engine = {engine}, kv_transfer = {transfer}
      workload {{ input = 1152, output = 41, {load} }}
      prefill {{ node = h100_8, {prefill} }}
      decode {{ node = h200_8, {decode} }}
      transfer {{ bandwidth = 2 GB/s, latency = 50 us }}
      {more} }}"""
    return compile_text(text)[0]


@pytest.mark.parametrize("kind", POOLS)
@pytest.mark.parametrize("engine", ["vllm", "sglang", "trtllm"])
@pytest.mark.parametrize("transfer", ["after", "layerwise"])
def test_a_lone_request_takes_what_the_estimate_says(kind: str, engine: str, transfer: str) -> None:
    """Guesses make the context grow in larger steps than the estimate's mean."""
    made = plan(kind, engine, transfer)
    found, static = made.simulate().records, made.estimate()
    near = 1e-3 if kind == "guesses" else 1e-9
    np.testing.assert_allclose(found.ttft_s, static.ttft_s, rtol=1e-9)
    np.testing.assert_allclose(found.tpot_s, static.tpot_s, rtol=near)
    np.testing.assert_allclose(found.latency_s, static.latency_s, rtol=near)


def test_what_is_told_has_both_pools() -> None:
    found = plan("several", load="rate = 30 req/s, requests = 60").simulate()
    told, records, columns = found.simulation, found.records, found.columns()
    assert (told.gpus, told.replicas, told.prefill.replicas) == (14, 2, 3)
    assert set(columns["prefill_replica"]) == {0, 1, 2}
    assert set(columns["replica"]) == {3, 4}
    assert (columns["transfer_s"] > 0).all()
    assert told.as_json()["prefill_pool"]["replicas"] == 3
    own = records.steps.replica < 3
    span = records.steps.end_s - records.steps.start_s
    mean = (records.steps.running * span)[own].sum() / span[own].sum()
    assert told.prefill.occupancy.running[0] == pytest.approx(mean)
    assert not records.steps.decodes[own].any()
    assert not records.steps.prompt_tokens[~own].any()


def test_more_bandwidth_shortens_the_time_between_the_first_and_the_second_token() -> None:
    slow, fast = (plan(load="rate = 60 req/s, requests = 40", transfer=t).simulate().records
                  for t in ("after", "layerwise"))  # fmt: skip
    assert np.mean(fast.transfer_s) < np.mean(slow.transfer_s)
    assert fast.itl_max_s.mean() < slow.itl_max_s.mean()


# ---- small servers


def moves(load: Requests, sending: float = 0.5, receiving: float = 0.25, early: bool = False) -> Moves:
    n = len(load.input)
    each = np.full(n, sending), np.full(n, receiving)
    return Moves(*each, np.maximum(*each), latency=0.125, early=early)


def served(
    load: Requests, prefill: int = 1, decode: int = 1, blocks: int = 100, policy: Policy | None = None, **travel: object
) -> Records:
    one = policy or Vllm(1000, ahead=False)
    first = Side([Worker(one, Steady(), 1000, 4)] * prefill)
    then = Side([Worker(one, Steady(), blocks, 4, caching=False)] * decode)
    return simulate_pools(first, then, load, moves(load, **travel))


def at(*times: float, size: tuple[int, int] = (8, 3)) -> Requests:
    n = len(times)
    return Requests(np.array(times), np.full(n, size[0]), np.full(n, size[1]))


def test_the_second_token_comes_a_transfer_and_a_step_after_the_first() -> None:
    found = served(at(0.0))
    assert found.first_s.tolist() == [1.0]
    assert found.transfer_s.tolist() == [0.625]
    assert found.itl_max_s.tolist() == [1.625]
    assert found.finish_s.tolist() == [3.625]


def test_a_port_sends_one_cache_after_the_other() -> None:
    """Two prompts of one step; a receiver that takes half as long per cache waits for the sender."""
    assert served(at(0.0, 0.0)).transfer_s.tolist() == [0.625, 1.125]
    apart = served(at(0.0, 0.0), prefill=2, decode=2)
    assert apart.transfer_s.tolist() == [0.625, 0.625]
    meeting = served(at(0.0, 0.0), prefill=2)
    assert meeting.transfer_s.tolist() == [0.625, 0.875]


def test_a_request_waits_for_blocks_behind_its_prefill_or_before_it() -> None:
    """The decode server has room for one request: three blocks for eight tokens in, three out."""
    late = served(at(0.0, 0.0), blocks=3)
    assert late.first_s.tolist() == [1.0, 1.0]
    assert late.transfer_s[1] == late.finish_s[0] - 1 + 0.625
    early = served(at(0.0, 0.0), blocks=3, early=True)
    assert early.transfer_s.tolist() == [0.625, 0.625]
    assert early.first_s[1] == early.finish_s[0] + 1


def test_a_server_of_prefill_keeps_blocks_until_the_cache_is_over_there() -> None:
    load = at(0.0, 0.0)
    one = Vllm(1000, ahead=False)
    small = Side([Worker(one, Steady(), 3, 4)]), Side([Worker(one, Steady(), 100, 4, caching=False)])
    found = simulate_pools(*small, load, moves(load))
    assert found.admitted_s.tolist() == [0.0, 1.625]


def test_a_request_of_one_token_stays_where_it_was_computed() -> None:
    found = served(at(0.0, size=(8, 1)), early=True)
    assert found.replica.tolist() == [0]
    assert found.finish_s.tolist() == [1.0]
    assert np.isnan(found.transfer_s).all()


def test_a_request_too_long_for_one_of_the_pools_is_refused() -> None:
    for early in (False, True):
        found = served(at(0.0, 1.0, size=(8, 300)), blocks=50, early=early)
        assert not found.served.any()
        assert found.replica.tolist() == [-1, -1]
        lone = served(at(0.0, 1.0, size=(300, 1)), blocks=50, early=early)
        assert lone.served.all(), "with one token it never comes to the pool that is too small"


def test_a_pool_that_decodes_bounds_no_prompt() -> None:
    """TensorRT-LLM computes a prompt there only where requests are paused; then it must fit in a step."""
    load = at(0.0, size=(300, 3))
    first = Side([Worker(Trtllm(1000), Steady(), 1000, 4)])
    for room, holds in (("no_evict", True), ("max_utilisation", False)):
        then = Side([Worker(Trtllm(100, room=room), Steady(), 1000, 4, caching=False)])
        assert simulate_pools(first, then, load, moves(load)).served.all() == holds


def test_a_request_that_is_preempted_computes_its_prompt_where_it_decodes() -> None:
    load = at(0.0, 0.0, size=(8, 20))
    found = served(load, blocks=8)
    assert found.preemptions.sum() > 0
    assert found.served.all()
    assert found.steps.prompt_tokens[found.steps.replica == 1].sum() >= 8


def test_nobody_gets_blocks_while_one_that_was_preempted_waits() -> None:
    """Of two that fill the memory one goes back; a short one that comes then waits until it runs again."""
    load = Requests(np.array([0.0, 0.0, 14.0]), np.array([8, 8, 4]), np.array([20, 20, 3]))
    found = served(load, blocks=8)
    assert found.preemptions.tolist() == [0, 1, 0]
    alone = found.steps.start_s[(found.steps.replica == 1) & (found.steps.prompt_tokens > 0)]
    assert found.first_s[2] + found.transfer_s[2] > alone.max()


@pytest.mark.parametrize(
    ("policy", "blocks", "fits"),
    [
        (Vllm(), 3, False), (Vllm(), 4, True), (Vllm(watermark=0.2), 4, False),
        (Sglang(), 4 + 128, False), (Sglang(), 4 + 130, True),
        (Trtllm(), 6, False), (Trtllm(), 7, True), (Trtllm(room="max_utilisation"), 5, True),
        (Trtllm(room="static_batch"), 9, False),
    ],
)  # fmt: skip
def test_each_engine_asks_for_room_of_its_own(policy: Policy, blocks: int, fits: bool) -> None:
    """A prompt of 4 blocks and 9 tokens out, beside one that has 8 of 20 tokens and will take a block more at most."""
    state = State(Pool(blocks + 5, 4, caching=False))
    other = Live(1, 17, 3)
    state.pool.grow(other, 20)
    other.computed, other.made = 18, 2
    state.running.append(other)
    assert policy.receives(Live(0, 16, 9), state) == fits


class Watched(Checked):
    """A checked policy that knows the requests of its own server alone: a pool asks the first one who is too long."""

    def refuses(self, live: Live, state: State) -> bool:
        return self.policy.refuses(live, state)

    def compose(self, state: State) -> Batch:
        there = (*state.waiting, *state.running, *state.parked, *([state.cut] if state.cut else []))
        self.seen |= {live.index: live for live in there}
        return super().compose(state)


@draws(5)
@given(
    policies(), policies(), st.integers(1, 2), st.integers(1, 3), loads(), st.integers(6, 14),
    st.sampled_from((None, 1, 3)), st.sampled_from((1, 1, 2)), st.sampled_from((0, 0, 2)), st.booleans(),
    st.sampled_from(ROUTERS), st.sampled_from(ROUTERS),
)  # fmt: skip
def test_requests_and_blocks_are_conserved(
    ours: Policy, theirs: Policy, prefills: int, decodes: int, load: Requests, blocks: int, closed: int | None,
    stages: int, guesses: int, early: bool, first: RouterName, then: RouterName,
) -> None:  # fmt: skip
    clock = Steady(seconds=flat) if stages == 1 else Steady(*[1.0] * stages)

    def played(ours: list[Policy], theirs: list[Policy]) -> Records:
        def worker(one: Policy, caching: bool) -> Worker:
            return Worker(one, clock, blocks, 4, caching, in_flight=stages, acceptance=(0.5,) * guesses)

        sides = Side([worker(one, True) for one in ours], first), Side([worker(one, False) for one in theirs], then)
        return simulate_pools(*sides, load, moves(load, early=early), closed and Closed(closed), seed=3)

    checked, others = [Watched(ours) for _ in range(prefills)], [Watched(theirs) for _ in range(decodes)]
    found = played(checked, others)
    done, refused = found.served, found.replica < 0
    assert (done ^ refused).all(), "a request is served or refused"
    assert sum(one.made for one in checked) == done.sum(), "the first token of each"
    assert sum(one.made for one in others) == (found.output - 1)[done].sum(), "and then the others"
    lives = [live for one in (*checked, *others) for live in one.seen.values()]
    assert all(not live.held for live in lives), "all blocks come back"
    own = (stages if stages > 1 else 1 + 1e-3 * (found.input - found.cached)) * np.ones(len(done))
    assert (found.first_s - found.arrival_s - own)[done].min(initial=0) >= -1e-9
    computed = sum(one.computed for one in checked)
    assert computed == (found.input - found.cached)[done].sum() or found.preemptions.any(), "each prompt token once"
    if not early and load.blocks is None and load.session is None:
        for number in range(prefills):
            mine = found.admitted_s[done & (found.prefill_replica == number)]
            assert (np.diff(mine) >= 0).all(), "first come, first served"
    moved = done & (found.output > 1)
    assert (np.isnan(found.transfer_s) == ~moved).all()
    assert (found.transfer_s[moved] >= 0.625 - 1e-9).all()
    assert (found.finish_s - found.first_s - found.transfer_s)[moved].min(initial=1) > 0
    assert (found.replica[moved] >= prefills).all()
    assert ((found.prefill_replica >= 0) == done).all()
    again = played([ours] * prefills, [theirs] * decodes)
    assert all(a.tobytes() == b.tobytes() for a, b in zip(found[:10], again[:10], strict=True)), "the same again"
