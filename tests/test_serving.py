"""Laws of what is simulated: of drawn requests on drawn servers, and where a formula knows the answer."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from math import isclose
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from plandsl.backends.cost import Replicas
from plandsl.backends.cost.deployments.step import Decode, Prompt, Step
from plandsl.backends.cost.serving.clock import ServerClock
from plandsl.backends.cost.serving.kernels import ASKED
from plandsl.backends.cost.serving.log import Log
from plandsl.backends.cost.serving.pools import Moves, Side, simulate_pools
from plandsl.backends.cost.serving.records import Records
from plandsl.backends.cost.serving.replica import Replica, Worker
from plandsl.backends.cost.serving.requests import OFTEN, Closed, Hashes, Requests, share_prefix
from plandsl.backends.cost.serving.routers import LeastLoaded, LongestPrefix, TwoChoices
from plandsl.backends.cost.serving.scheduler import Batch, Live, Piece, Policy, State
from plandsl.backends.cost.serving.serve import policy, serve, worker
from plandsl.backends.cost.serving.sglang import Sglang
from plandsl.backends.cost.serving.simulate import simulate, simulate_steps
from plandsl.backends.cost.serving.summary import summarise
from plandsl.backends.cost.serving.table import EXACT
from plandsl.backends.cost.serving.trtllm import Trtllm
from plandsl.backends.cost.serving.vllm import Vllm
from plandsl.backends.cost.time import trace
from plandsl.driver import compile_text
from plandsl.spec.scheduler import ROUTERS, SCHEDULERS, RouterName, SchedulerName
from tests.draws import draws
from tests.serving import Steady

# ---- what holds of every policy, server and load

EACH = 1e-3
"""Seconds of a prompt token, in servers whose time is that of their prompts."""


def flat(batch: Batch) -> float:
    return 1.0 + EACH * sum(piece.tokens for piece in batch.prompts)


class Checked:
    """A policy of which every step is checked: its limits, and the blocks of the server."""

    def __init__(self, policy: Policy) -> None:
        self.policy, self.ahead = policy, policy.ahead
        self.seen: dict[int, Live] = {}
        self.made = self.computed = 0

    def refuses(self, live: Live, state: State) -> bool:
        self.seen[live.index] = live
        return self.policy.refuses(live, state)

    @property
    def max_running(self) -> int:
        return self.policy.max_running

    def receives(self, live: Live, state: State) -> bool:
        return self.policy.receives(live, state)

    def compose(self, state: State) -> Batch:
        before = {live.index: live.made for live in state.running}
        batch = self.policy.compose(state)
        limits, queries, prompts = self.policy, state.queries, sum(piece.tokens for piece in batch.prompts)
        rows = len(batch.decodes) + len(batch.spent)
        if isinstance(limits, Sglang):
            assert prompts <= limits.chunk
            assert limits.mixed or not (prompts and rows)
        else:
            assert prompts + (rows - 1) * queries < limits.budget
        assert len(state.running) <= limits.max_running
        self.blocks(state)
        together = [*batch.decodes, *batch.spent, *(piece.live for piece in batch.prompts)]
        assert len({live.index for live in together}) == len(together), "a request is in a step once"
        assert all(piece.tokens > 0 for piece in batch.prompts)
        if not (isinstance(limits, Trtllm) and limits.chunked and limits.equal):
            assert all(any(piece.live is live for piece in batch.prompts) for live in batch.admitted)
        self.made += sum(piece.last for piece in batch.prompts) + sum(batch.gained)
        thrown = sum(before[live.index] - live.made for live in batch.preempted)  # tokens on their way
        assert not thrown or (isinstance(limits, Sglang) and limits.ahead)
        self.made -= thrown
        self.computed += prompts
        return batch

    def blocks(self, state: State) -> None:
        """Every block is free, or in use by as many requests as hold it."""
        pool, lives = state.pool, self.seen.values()
        held = len({block for live in lives for block in live.blocks}) if pool.caching else sum(x.held for x in lives)
        assert 0 <= pool.free == pool.total - held
        assert all(len(live.blocks) == (live.held if pool.caching else 0) for live in lives)
        assert all(live.held * pool.size >= live.computed for live in lives)


@st.composite
def policies(draw: st.DrawFn) -> Policy:
    tokens, running, ahead = draw(st.integers(4, 30)), draw(st.integers(1, 6)), draw(st.booleans())
    flag, other = draw(st.booleans()), draw(st.booleans())
    match draw(st.sampled_from(("vllm", "sglang", "trtllm"))):
        case "vllm":
            spare, long = draw(st.sampled_from((0.0, 0.2))), draw(st.sampled_from((0, 5)))
            known, more, wide = draw(st.booleans()), draw(st.sampled_from((0, 2))), draw(st.booleans())
            return Vllm(
                tokens, running, flag, long, adaptive=wide, whole_prompt=other, watermark=spare, lookahead=more,
                capped=known, ahead=ahead,
            )  # fmt: skip
        case "sglang":
            bold = draw(st.sampled_from((0.0, 0.5, 1.0)))
            return Sglang(tokens + running, tokens + running, running, conservativeness=bold, mixed=flag, ahead=ahead)
        case _:
            room = draw(st.sampled_from(("no_evict", "max_utilisation", "static_batch")))
            return Trtllm(tokens, running, flag, room, equal=other, ahead=ahead)


@st.composite
def loads(draw: st.DrawFn, most: int = 14) -> Requests:
    n = draw(st.integers(1, most))
    lengths = [draw(st.lists(st.integers(1, top), min_size=n, max_size=n)) for top in (20, 9)]
    times = np.cumsum(draw(st.lists(st.integers(0, 3), min_size=n, max_size=n))) / 2.0
    requests = Requests(times, *(np.array(x, np.int64) for x in lengths))
    if draw(st.booleans()):
        counts = [min(draw(st.integers(0, 5)), -(-length // 4)) for length in lengths[0]]
        ids = [draw(st.integers(0, 2)) for _ in range(sum(counts))]
        requests = requests._replace(blocks=Hashes(np.cumsum([0, *counts]), np.array(ids, np.int64), 4))
    if draw(st.booleans()):
        requests = requests._replace(session=np.array(draw(st.lists(st.integers(-1, 2), min_size=n, max_size=n))))
    return requests


@draws(25 / 3)
@given(
    st.lists(policies(), min_size=1, max_size=3), loads(), st.integers(5, 14), st.sampled_from((1, 4)),
    st.booleans(), st.sampled_from((None, 1, 3)), st.sampled_from((1, 1, 2, 3)), st.sampled_from((0, 0, 2)),
    st.sampled_from(("round_robin", "least_loaded", "two_choices", "prefix")),
)  # fmt: skip
def test_requests_and_blocks_are_conserved(
    chosen: list[Policy], load: Requests, blocks: int, block: int, caching: bool, closed: int | None, stages: int,
    guesses: int, by: RouterName,
) -> None:  # fmt: skip
    def played(policies: Sequence[Policy]) -> Records:
        clock = Steady(seconds=flat) if stages == 1 else Steady(*[1.0] * stages)
        workers = [
            Worker(one, clock, blocks * 4 // block, block, caching, in_flight=stages, acceptance=(0.5,) * guesses)
            for one in policies
        ]
        return simulate(workers, load, closed and Closed(closed), by, seed=7)

    checked = [Checked(one) for one in chosen]
    found = played(checked)
    served, refused = found.served, found.replica < 0
    assert (served ^ refused).all(), "a request is served or refused"
    assert sum(one.made for one in checked) == found.output[served].sum()
    assert all(not live.held for one in checked for live in one.seen.values())
    computed = sum(one.computed for one in checked)
    missing = (found.input - found.cached)[served].sum()
    again = found.preemptions.sum()  # who comes back may find more than at first, where others left it
    assert computed == missing or (again and (caching or computed > missing))
    own = (stages if stages > 1 else 1 + EACH * (found.input - found.cached)) * np.ones(len(served))
    assert (found.first_s - found.arrival_s - own)[served].min(initial=0) >= -1e-9
    assert (found.admitted_s >= found.arrival_s)[served].all()
    assert (found.finish_s >= found.first_s)[served].all()
    if load.blocks is None and load.session is None:
        for number in range(len(chosen)):
            mine = found.admitted_s[served & (found.replica == number)]
            assert (np.diff(mine) >= 0).all(), "first come, first served"
    assert any("refused" in warning for warning in summarise(found).warnings) == refused.any()
    if load.session is not None and closed is None:
        for session in range(3):
            turns = np.flatnonzero(load.session == session)
            ends = np.where(served, found.finish_s, found.arrival_s)[turns]
            assert (found.arrival_s[turns][1:] >= ends[:-1]).all(), "a turn waits for the turn before it"
    if closed is not None:
        ends = np.where(served, found.finish_s, found.arrival_s)
        for time in found.arrival_s:
            assert ((found.arrival_s < time) & (ends > time)).sum() < closed, "a place is taken when it is free"
    other = played(chosen)
    assert all(
        a.tobytes() == b.tobytes()
        for a, b in zip((*found[:10], *found.gaps, *found.steps), (*other[:10], *other.gaps, *other.steps), strict=True)
    ), "the same again"


# ---- where a formula knows

SINGLE = Vllm(1_000_000, max_running=1, ahead=False)
"""One request at a time."""


def lindley(arrivals: np.ndarray, service: np.ndarray) -> np.ndarray:
    """Waiting times in a queue with one server (Lindley 1952)."""
    walk = np.concatenate(([0.0], np.cumsum(service[:-1] - np.diff(arrivals))))
    return walk - np.minimum.accumulate(walk)


@pytest.mark.parametrize(("name", "formula"), [("M/D/1", 0.5), ("M/M/1", 1.0)])
def test_waits_are_those_of_a_queue(name: str, formula: float) -> None:
    """The model is a queue of one server where requests have one token; of that queue the mean wait is known."""
    rng, n, busy = np.random.default_rng(5), 300_000, 0.6
    inputs = np.full(n, 1000) if name == "M/D/1" else np.maximum(np.rint(rng.exponential(1000, n)), 1).astype(int)
    arrivals = np.cumsum(rng.exponential(1.0 / busy, n))
    waits = lindley(arrivals, inputs * EACH)
    assert isclose(waits.mean(), formula * busy / (1 - busy), rel_tol=0.02)
    few = 4000
    clock = Steady(seconds=lambda batch: EACH * sum(piece.tokens for piece in batch.prompts))
    load = Requests(arrivals[:few], inputs[:few], np.ones(few, np.int64))
    found = simulate([Worker(SINGLE, clock, 10_000, 16, caching=False)], load)
    np.testing.assert_allclose(found.admitted_s - found.arrival_s, waits[:few], rtol=1e-9, atol=1e-9)


ONE_BY_ONE = (
    SINGLE,
    Sglang(1_000_000, 1_000_000, max_running=1, ahead=False),
    *(Trtllm(1_000_000, 1, room=room, ahead=False) for room in ("no_evict", "max_utilisation", "static_batch")),
)


@given(
    st.sampled_from(ONE_BY_ONE),
    st.lists(st.tuples(st.floats(0, 3), st.integers(1, 2000)), min_size=1, max_size=40),
    st.integers(1, 3),
    st.sampled_from(ROUTERS),
    st.booleans(),
)
def test_law_requests_one_at_a_time_wait_as_in_a_queue(
    policy: Policy, drawn: list[tuple[float, int]], servers: int, by: RouterName, pools: bool
) -> None:
    """Each engine, behind each router: of what it is sent, a server is a queue. So is a pool of prefill."""
    clock = Steady(seconds=lambda batch: EACH * sum(piece.tokens for piece in batch.prompts))
    n = len(drawn)
    load = Requests(np.cumsum([gap for gap, _ in drawn]), np.array([size for _, size in drawn]), np.ones(n, np.int64))
    one = Worker(policy, clock, 10_000, 16, caching=False)
    if pools:
        none = np.zeros(n)
        moves = Moves(none, none, none, 0.0, early=n % 2 == 0)
        found = simulate_pools(Side([one] * servers, by), Side([one]), load, moves)
    else:
        found = simulate([one] * servers, load, by=by, seed=n)
    for server in range(servers):
        mine = found.replica == server
        waits = lindley(load.arrival_s[mine], load.input[mine] * EACH) if mine.any() else np.zeros(0)
        np.testing.assert_allclose((found.admitted_s - found.arrival_s)[mine], waits, rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(found.ttft_s[mine], waits + load.input[mine] * EACH, rtol=1e-9, atol=1e-9)
    assert found.served.all()


def test_a_closed_loop_has_as_many_in_it_as_were_asked_for() -> None:
    n, clients = 200, 16
    rng = np.random.default_rng(2)
    load = Requests(np.zeros(n), rng.integers(10, 60, n), rng.integers(1, 30, n))
    found = simulate([Worker(Vllm(64, 8), Steady(seconds=flat), 500)], load, Closed(clients))
    first = found.arrival_s == 0
    assert first.sum() == clients
    assert np.isin(found.arrival_s[~first], found.finish_s).all()
    till = found.arrival_s.max()
    inside = sum(min(end, till) - start for start, end in zip(found.arrival_s, found.finish_s, strict=True))
    assert isclose(inside / till, clients, rel_tol=1e-9), "Little's law"


def test_servers_in_turn_are_as_so_many_of_their_own() -> None:
    n, rng = 90, np.random.default_rng(4)
    load = Requests(np.cumsum(rng.exponential(2.0, n)), rng.integers(1, 60, n), rng.integers(1, 20, n))
    worker = Worker(Vllm(32, 6), Steady(seconds=flat), 60, 4)
    together = simulate([worker] * 3, load)
    for number in range(3):
        share = Requests(*(values[number::3] for values in load[:3]))
        alone = simulate([worker], share)
        for name in ("admitted_s", "first_s", "finish_s", "preemptions"):
            np.testing.assert_array_equal(getattr(together, name)[number::3], getattr(alone, name))


def test_stages_that_are_full_take_a_batch_at_the_pace_of_the_slowest() -> None:
    """Three batches of a request each follow one another: a token of each comes every three times the slowest."""
    load = Requests(np.zeros(3), np.full(3, 4), np.full(3, 50))
    one = Requests(*(x[:1] for x in load[:3]))
    for clock, full, through in ((Steady(1.0, 2.0, 1.0), 6.0, 4.0), (Steady(1.0, 1.0, 1.0, hop=3.0), 9.0, 9.0),
                                 (Steady(1.0, 1.0, hop=3.0), 9.0, 5.0)):  # fmt: skip
        worker = Worker(Vllm(4, ahead=False), clock, 100, in_flight=3)
        np.testing.assert_allclose(simulate([worker], load).tpot_s, full)
        np.testing.assert_allclose(simulate([worker], one).tpot_s, through)


def test_chunks_of_one_prompt_follow_one_another_through_the_stages() -> None:
    """Three chunks through two stages of a second each take four seconds; in turn they would take six."""
    load = Requests(np.zeros(1), np.array([12]), np.array([1]))
    found = simulate([Worker(Vllm(4), Steady(1.0, 1.0), 100, in_flight=2)], load)
    assert found.ttft_s.tolist() == [4.0]


@pytest.mark.parametrize("stretches", [False, True])
def test_progress_is_told_once_in_so_many_requests(stretches: bool) -> None:
    n, heard = 4 * OFTEN - 1, list[tuple[int, int]]()
    load = Requests(np.arange(n) * 0.5, np.full(n, 4), np.full(n, 3))
    worker = Worker(Vllm(4), Steady(0.1), 100)
    simulate_steps([worker], load, tick=lambda *told: heard.append(told), stretches=stretches)
    assert heard == [(OFTEN * k, n) for k in (1, 2, 3)]


# ---- routers


def states(*loads: int) -> list[State]:
    made = [Worker(SINGLE, Steady(), 10) for _ in loads]
    found = [Replica(i, worker, Log(1), seed=0, stretches=False).state for i, worker in enumerate(made)]
    for state, load in zip(found, loads, strict=True):
        state.waiting.extend(Live(0, 1, 1) for _ in range(load))
    return found


def test_the_least_loaded_gets_a_request_and_equals_take_turns() -> None:
    router, live = LeastLoaded(), Live(0, 1, 1)
    assert [router.choose(live, states(2, 1, 1)) for _ in range(4)] == [1, 2, 1, 2]


def test_of_two_that_are_drawn_the_less_loaded_gets_a_request() -> None:
    router, live = TwoChoices(1), Live(0, 1, 1)
    found = np.bincount([router.choose(live, states(0, 3, 9)) for _ in range(300)], minlength=3)
    assert found[2] == 0
    assert 150 < found[0] < 250


def test_of_those_that_know_as_much_of_a_prompt_the_least_loaded_gets_it() -> None:
    """Of a prompt of 64 tokens half must be known; who knows less is not asked for that."""
    live = Live(0, 64, 1)
    for known, loads, first in (
        ((2, 2), (3, 1), 1),
        ((2, 2), (1, 3), 0),
        ((3, 2), (3, 1), 0),
        ((2, 1), (3, 1), 0),
        ((1, 0), (3, 1), 1),
        ((4, 0), (33, 0), 1),
        ((4, 0), (32, 0), 0),
    ):
        pools = [SimpleNamespace(matched=lambda live, n=n: range(n), size=16) for n in known]
        asked = [SimpleNamespace(pool=pool, load=load) for pool, load in zip(pools, loads, strict=True)]
        assert LongestPrefix().choose(live, asked) == first, (known, loads)  # type: ignore[arg-type]


def test_who_knows_the_prefix_gets_a_request_unless_it_is_too_busy() -> None:
    """Each of three prompts stays where it was first."""
    n = 40
    ids = np.concatenate([np.arange(4) + 10 * (i % 3) for i in range(n)])
    load = Requests(np.arange(n) * 1.0, np.full(n, 64), np.full(n, 2), Hashes(np.arange(n + 1) * 4, ids, 16))
    worker = Worker(Vllm(1000), Steady(0.1), 100)
    known = simulate([worker] * 2, load, by="prefix")
    for prompt in range(3):
        assert len(set(known.replica[prompt::3].tolist())) == 1
    assert (known.cached[3:] == 48).all()
    busy = Requests(
        np.minimum(np.arange(n), 1) * 9.0,
        np.full(n, 64),
        np.full(n, 2),
        Hashes(np.arange(n + 1) * 4, np.tile(np.arange(4), n), 16),
    )
    spread = simulate([worker] * 2, busy, by="prefix")
    assert np.ptp(np.bincount(spread.replica[1:], minlength=2)) <= 33


# ---- a plan's own steps

KINDS = {
    "single": "node = h100_1, sharding { tp = 1 }",
    "replicas": "node = h100_8, sharding { dp = 2, tp = 4 }",
    "stages": "node = h100_8, sharding { tp = 2, pp = 4 }",
    "shift": "node = h100_8, shift { base { sp = 8 }, tensor { tp = 8 }, threshold = 256 }",
    "drafted": "node = h100_8, sharding { tp = 8 }, speculate { draft = llama_3_2_1b, tokens = 3, acceptance = 100 % }",
    "ranks": "node = h100_8, sharding { mesh own = 4, tensor = 2\n heads, ffn, vocab -> tensor\n batch -> own }, "
    "chunked_prefill = 2048",
    "chunks": "node = h100_1, sharding { tp = 1 }, chunked_prefill = 2048",
}


@cache
def deployment(kind: str, engine: str = "vllm") -> Replicas:
    load = "input = 1000, output = 41, batch = 1, in_flight = 1"
    text = f"plan p {{ model = llama_3_1_8b, engine = {engine}, workload {{ {load} }}, {KINDS[kind]} }}"
    found = compile_text(text)[0].cost
    assert isinstance(found, Replicas)
    return found


@pytest.mark.parametrize("kind", KINDS)
@draws(1 / 4)
@given(st.sampled_from(SCHEDULERS), st.integers(1, 2048), st.integers(1, 15), st.sampled_from(ROUTERS))
def test_law_at_vanishing_load_requests_take_what_the_estimate_says(
    kind: str, scheduler: SchedulerName, input_: int, fours: int, by: RouterName
) -> None:
    """TTFT is equal; TPOT, a step at the mean context, nearly so, since a step is not quite linear in the context.

    Guesses make the context grow in larger steps, and tables interpolate. Prompts fit into one step: of equal chunks
    the estimate takes the mean.
    """
    made, output = deployment(kind, scheduler), 1 + 4 * fours
    static = made.evaluate(batch=1, input=input_, output=output)
    load = Requests(np.array([0.0, 100.0, 200.0]), np.full(3, input_), np.full(3, output))
    server = worker(made.one, load, scheduler, caching=False)
    near = 1e-3 if kind == "drafted" else EXACT  # a mean of steps is timed at its middle context
    for clock, error in ((ServerClock(made.one), near), (server.clock, near + EXACT)):
        found = simulate([server._replace(clock=clock)] * made.n, load, by=by)
        np.testing.assert_allclose(found.ttft_s, static.ttft, rtol=1e-9)
        np.testing.assert_allclose(found.tpot_s, static.tpot, rtol=error)
        np.testing.assert_allclose(found.latency_s, static.latency, rtol=error)


@pytest.mark.parametrize(("scheduler", "kind"), [("sglang", "single"), ("vllm", "chunks"), ("trtllm", "chunks")])
@pytest.mark.parametrize("clients", [4, 16])
def test_a_closed_loop_is_near_the_steady_state(scheduler: str, kind: str, clients: int) -> None:
    """Where a scheduler does what the formula assumes: prompts in steps of their own, or in chunks beside decodes.

    Lengths differ by a fifth, so that requests do not end together, as the formula assumes too.
    """
    made, n = deployment(kind, scheduler), 20 * clients
    rng = np.random.default_rng(0)
    load = Requests(np.zeros(n), rng.integers(800, 1201, n), rng.integers(100, 157, n))
    found = summarise(serve(made, load, scheduler, Closed(clients), caching=False))
    steady = made.evaluate(concurrency=clients, input=1000, output=128, requests=n)
    assert isclose(found.output_rate, steady.throughput, rel_tol=0.02)
    assert isclose(found.tpot.mean.value, steady.tpot, rel_tol=0.03)
    assert isclose(found.ttft.mean.value, steady.ttft, rel_tol=0.15)


@given(st.lists(st.tuples(st.integers(1, 5000), st.integers(0, 5000)), min_size=1, max_size=6))
def test_unlike_prompts_keep_their_rows_and_pairs(parts: list[tuple[int, int]]) -> None:
    one = Prompt.unlike(parts, chunk=False)
    assert one.requests == len(parts)
    assert isclose(one.tokens, sum(new for new, _ in parts), rel_tol=1e-12)
    pairs = sum(new * (cached + (new + 1) / 2) for new, cached in parts)
    assert isclose(one.tokens * (one.cached + (one.new + 1) / 2), pairs, rel_tol=1e-12)
    assert one.cached >= -1e-9
    assert one.chunk == (len(set(parts)) > 1)


@pytest.mark.parametrize("kind", KINDS)
def test_steps_that_are_compiled_take_what_the_server_says(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trace, "HOT", 5)
    server = deployment(kind).one
    clock, queries = ServerClock(server), server.queries
    for i in range(ASKED + 10):
        live, other = Live(0, 500 + i, 9), Live(1, 100, 9)
        live.computed, live.made = 500 + i + 1, 2
        found = clock.cost(Batch([Piece(other, 60, 20, False)], [live], [1], [], admitted=[], preempted=[]))
        step = Step(Prompt(server.main.ways, 60, 20, True), Decode(1, 500 + i + queries, queries=queries))
        times = server.step(step, server.in_flight)
        assert found.stages == tuple(stage.span for stage in times.stages)
        assert found.draft == times.drafted
        assert found.host == server.plan.effective_engine.step + 2 * server.plan.effective_engine.request


def test_guesses_are_drawn_with_the_chance_that_they_are_right() -> None:
    load = Requests(np.zeros(200), np.full(200, 8), np.full(200, 301))
    worker = Worker(Vllm(10_000, 200, ahead=False), Steady(), 10_000, acceptance=(0.8, 0.5))
    found = simulate([worker], load, seed=3)
    assert isclose(found.tpot_s.mean(), 1 / (1 + 0.8 + 0.8 * 0.5), rel_tol=0.01)


def test_a_shared_prefix_shortens_the_wait() -> None:
    made = deployment("single")
    load = Requests(np.arange(30) * 0.05, np.full(30, 2000), np.full(30, 20))
    plain, shared = serve(made, load, "vllm"), serve(made, share_prefix(load, 1500), "vllm")
    assert (shared.cached[1:] == 1500 // 16 * 16).all()
    assert shared.ttft_s.mean() < 0.7 * plain.ttft_s.mean()


def test_limits_of_a_policy_are_those_of_the_plan() -> None:
    server = deployment("chunks").one
    assert policy("vllm", server) == Vllm(2048, 1024)
    assert policy("sglang", server) == Sglang(2048, max_running=1024)
    assert policy("trtllm", server) == Trtllm(2048, 1024, chunked=True)
    assert policy("vllm", deployment("drafted").one) == Vllm(8192, 1024, lookahead=3)
