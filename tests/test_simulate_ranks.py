"""Ranks that share the requests of a server: queues and blocks of their own, and steps that wait for the slowest."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from plandsl.backends.cost.serving.clock import ServerClock
from plandsl.backends.cost.serving.log import Log
from plandsl.backends.cost.serving.pools import Side, simulate_pools
from plandsl.backends.cost.serving.ranks import Ranks
from plandsl.backends.cost.serving.records import Records
from plandsl.backends.cost.serving.replica import Worker
from plandsl.backends.cost.serving.requests import Closed, Requests
from plandsl.backends.cost.serving.routers import router
from plandsl.backends.cost.serving.scheduler import Batch, Live, Piece, Policy, State, empty
from plandsl.backends.cost.serving.serve import RANKS, SPREAD, policy, serve, worker
from plandsl.backends.cost.serving.sglang import Sglang
from plandsl.backends.cost.serving.simulate import Events, read_log, simulate
from plandsl.backends.cost.serving.vllm import Vllm
from plandsl.driver import CompiledPlan, compile_text
from plandsl.spec.scheduler import ROUTERS, RouterName
from tests.draws import draws
from tests.serving import Steady
from tests.test_serving import flat, loads, policies
from tests.test_simulate_pools import moves

SHARDINGS = {
    "dense": "model = llama_3_1_8b; sharding { mesh own = 4, tensor = 2\n heads, ffn, vocab -> tensor\n batch -> own }",
    "experts": "model = qwen3_30b_a3b; sharding { ep = 4 }",
}


@cache
def plan(kind: str, engine: str = "vllm", batch: int = 1) -> CompiledPlan:
    load = f"workload {{ input = 1000, output = 41, batch = {batch}, in_flight = 1 }}"
    return compile_text(f"plan p {{ node = h100_8, engine = {engine}, {load}\n {SHARDINGS[kind]} }}")[0]


@pytest.mark.parametrize("kind", SHARDINGS)
@pytest.mark.parametrize("engine", ["vllm", "sglang", "trtllm"])
@pytest.mark.parametrize("batch", [1, 4])
def test_one_request_each_takes_what_the_estimate_says(kind: str, engine: str, batch: int) -> None:
    """A request on one rank beside others without work; or one on each of four."""
    made = plan(kind, engine, batch)
    one = made.cost.one
    assert worker(one, load_of(batch), engine).ranks == 4
    found, static = serve(made.cost, load_of(batch), engine, caching=False), made.estimate()
    host = one.plan.effective_engine
    apart = (batch - 1) * host.admit  # four ranks admit side by side, one admits one by one
    np.testing.assert_allclose(found.ttft_s, static.ttft_s - apart, rtol=1e-9)
    np.testing.assert_allclose(found.tpot_s, static.tpot_s, rtol=1e-9)


def load_of(batch: int) -> Requests:
    return Requests(np.zeros(batch), np.full(batch, 1000), np.full(batch, 41))


def test_each_rank_has_its_share_of_blocks_and_the_whole_budget() -> None:
    server = plan("dense").cost.one
    made = worker(server, load_of(1), "vllm")
    assert made.policy == Vllm(8192, 1024)
    assert (made.ranks, made.spread) == (4, SPREAD["vllm"])
    small = policy("sglang", server)
    assert (small.chunk, small.conservativeness) == (8192 // 4, RANKS)


# ---- small servers


def small(policy: Policy | None = None, ranks: int = 2, blocks: int = 40, **more: object) -> Worker:
    return Worker(policy or Vllm(1000, ahead=False), Steady(seconds=flat), blocks, 4, ranks=ranks, **more)


def test_a_step_takes_as_long_as_its_slowest_rank() -> None:
    """A long prompt on one rank stalls the other, which decodes."""
    load = Requests(np.array([0.0, 1.5]), np.array([4, 100]), np.array([4, 1]))
    found = simulate([small(blocks=100)], load)
    assert found.steps.start_s.tolist() == pytest.approx([0.0, 1.004, 2.004, 3.104])
    assert found.itl_max_s[0] == pytest.approx(1.1)
    alone = simulate([small(blocks=100)], Requests(*(x[:1] for x in load[:3])))
    assert alone.itl_max_s[0] == pytest.approx(1.0)


@pytest.mark.parametrize("kind", SHARDINGS)
def test_the_clock_waits_for_the_fullest_rank(kind: str) -> None:
    clock, none = ServerClock(plan(kind).cost.one), empty()
    short, long = (empty()._replace(prompts=[Piece(Live(0, n, 1), n, 0, True)]) for n in (100, 2000))
    found = clock.cost_of_ranks([none, short, long, none])
    assert found == clock.cost_of_ranks([long, none, none, short])
    assert sum(found.stages) > sum(clock.cost_of_ranks([short, short, none, none]).stages)
    assert sum(found.stages) == pytest.approx(sum(clock.cost_of_ranks([long, long, none, none]).stages))


@pytest.mark.parametrize("spread", ROUTERS)
def test_ranks_have_blocks_of_their_own(spread: RouterName) -> None:
    """Two ranks of five blocks hold a request of four each, not one of eight."""
    both = Requests(np.zeros(2), np.array([12, 12]), np.array([4, 4]))
    found = simulate([small(blocks=10, spread=spread)], both)
    if spread in ("round_robin", "least_loaded"):
        assert found.admitted_s.tolist() == [0.0, 0.0]
    assert simulate([small(blocks=10)], Requests(np.zeros(1), np.array([28]), np.array([4]))).replica[0] == -1
    assert simulate([small(blocks=10, ranks=1)], Requests(np.zeros(1), np.array([28]), np.array([4]))).served[0]


@given(policies(), loads(), st.integers(5, 14), st.booleans(), st.sampled_from((0, 2)))
def test_one_rank_is_a_server_with_one_queue(
    chosen: Policy, load: Requests, blocks: int, caching: bool, guesses: int
) -> None:
    made = Worker(chosen, Steady(seconds=flat), blocks, 4, caching, acceptance=(0.5,) * guesses)
    log = Log(len(load.input))
    run = Events(
        [Ranks(0, made, log, seed=0, stretches=False)],
        load,
        log,
        by=router("round_robin"),
        closed=None,
        think_s=None,
        tick=None,
    )
    run.play()
    found, plain = read_log(load, log), simulate([made], load)
    assert all(a.tobytes() == b.tobytes() for a, b in zip(found[:10], plain[:10], strict=True))
    assert all(a.tobytes() == b.tobytes() for a, b in zip(found.steps, plain.steps, strict=True))


class Seen:
    """A policy that remembers the ranks that it composed steps of, and counts tokens."""

    def __init__(self, policy: Policy) -> None:
        self.policy, self.ahead, self.max_running = policy, policy.ahead, policy.max_running
        self.refuses, self.receives = policy.refuses, policy.receives
        self.states: dict[int, State] = {}
        self.admitted: dict[int, list[int]] = {}
        self.made = self.computed = 0

    def compose(self, state: State) -> Batch:
        self.states[id(state)] = state
        batch = self.policy.compose(state)
        self.made += sum(piece.last for piece in batch.prompts) + sum(batch.gained)
        self.computed += sum(piece.tokens for piece in batch.prompts)
        known = self.admitted.setdefault(id(state), [])
        known += [live.index for live in batch.admitted if live.index not in known]
        assert 0 <= state.pool.free <= state.pool.total
        assert len(state.running) <= self.max_running
        return batch


def test_a_token_that_is_thrown_away_is_shown_to_nobody() -> None:
    """SGLang takes a request back, whose token is on its way in the step that its rank shares with the other one."""
    rng = np.random.default_rng(0)
    load = Requests(np.zeros(12), rng.integers(1, 20, 12), rng.integers(1, 30, 12))
    found = simulate([small(Sglang(50, 50, 6, conservativeness=0.0), blocks=26)], load)
    assert found.preemptions.any()
    assert found.gaps.number.sum() == (found.output - 1).sum()


@draws(10 / 3)
@given(
    policies(), policies(), loads(), st.integers(8, 14), st.integers(2, 3), st.sampled_from((None, 3)),
    st.sampled_from((1, 1, 2)), st.sampled_from((0, 0, 2)), st.booleans(), st.booleans(), st.sampled_from(ROUTERS),
    st.sampled_from(ROUTERS),
)  # fmt: skip
def test_requests_and_blocks_are_conserved(
    ours: Policy, theirs: Policy, load: Requests, blocks: int, ranks: int, closed: int | None, stages: int,
    guesses: int, pools: bool, early: bool, by: RouterName, spread: RouterName,
) -> None:  # fmt: skip
    def played(one: Policy, other: Policy) -> Records:
        clock = Steady(seconds=flat) if stages == 1 else Steady(*[1.0] * stages)
        first, then = (
            Worker(p, clock, blocks * ranks, 4, caching, in_flight=stages, acceptance=(0.5,) * guesses, ranks=ranks,
                   spread=spread)
            for p, caching in ((one, True), (other, False))
        )  # fmt: skip
        loop = closed and Closed(closed)
        if pools:
            sides = Side([first] * 2, by), Side([then] * 2, by)
            return simulate_pools(*sides, load, moves(load, early=early), loop, seed=5)
        return simulate([first] * 2, load, loop, by, seed=5)

    one, other = Seen(ours), Seen(theirs)
    found = played(one, other)
    assert (found.served ^ (found.replica < 0)).all(), "a request is served or refused"
    assert one.made + other.made == found.output[found.served].sum()
    if not guesses:
        assert found.gaps.number.sum() == (found.output - 1)[found.served].sum(), "users have as many tokens"
    computed = one.computed + other.computed
    assert computed == (found.input - found.cached)[found.served].sum() or found.preemptions.any()
    if load.blocks is None and load.session is None and not (pools and early):
        assert all(order == sorted(order) for order in one.admitted.values()), "first come, first served"
    states = [*one.states.values(), *other.states.values()]
    assert all(state.pool.free == state.pool.total for state in states), "all blocks come back"
    assert not any(state.load for state in states)
    own = (stages if stages > 1 else 1 + 1e-3 * (found.input - found.cached)) * np.ones(len(found.input))
    assert (found.first_s - found.arrival_s - own)[found.served].min(initial=0) >= -1e-9
    again = played(ours, theirs)
    assert all(a.tobytes() == b.tobytes() for a, b in zip(found[:10], again[:10], strict=True)), "the same again"
