"""Tiers of KV memory behind the GPU: what is found there, what its load costs, and what holds of all loads."""

from __future__ import annotations

import json
from typing import get_args

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from plandsl.backends.cost.serving.blocks import block_key
from plandsl.backends.cost.serving.leaping import leap
from plandsl.backends.cost.serving.records import Records
from plandsl.backends.cost.serving.replica import Worker
from plandsl.backends.cost.serving.requests import Closed, Hashes, Requests
from plandsl.backends.cost.serving.scheduler import Live, Policy, State
from plandsl.backends.cost.serving.serve import block_bytes, worker
from plandsl.backends.cost.serving.sglang import Sglang
from plandsl.backends.cost.serving.simulate import simulate
from plandsl.backends.cost.serving.tiers import Shelf, Tier, TieredPool, Tiers
from plandsl.backends.cost.serving.trtllm import Trtllm
from plandsl.backends.cost.serving.vllm import Vllm
from plandsl.cli import main
from plandsl.driver import CompiledPlan, compile_text
from plandsl.spec.scheduler import WriteName
from tests.draws import draws
from tests.serving import Steady, Watched, read
from tests.test_serving import Checked, flat, loads, policies

ENGINES = {
    "vllm": (Vllm(100, ahead=False), "through", "beside", True),
    "sglang": (Sglang(100, ahead=False), "through", "within", False),
    "trtllm": (Trtllm(100, ahead=False), "back", "before", False),
}


def tiers_of(policy: Policy, *tiers: Tier, write: WriteName | None = None) -> Tiers:
    """Tiers as the engine of a policy has them."""
    name = type(policy).__name__.lower()
    _, own, loading, prompts = ENGINES[name]
    return Tiers(tiers, write or own, loading, prompts)


def play(name: str, text: str, *tiers: Tier, blocks: int = 5, write: WriteName | None = None) -> tuple[str, Records]:
    """The steps of an engine's policy on a server with blocks of 4 tokens, and what became of the requests."""
    policy = ENGINES[name][0]
    names, load = read(text, 4)
    watched = Watched(policy, names)
    behind = tiers_of(policy, *tiers, write=write) if tiers else None
    found = simulate([Worker(watched, Steady(), blocks, 4, tiers=behind)], load)
    return " | ".join(watched.steps), found


# ---- what a load costs

OLD = "a 13+1 @0 [1 2 3], b 13+1 @5 [5 6 7], e 13+1 @10 [8 9 4]"
AGAIN = OLD + ", c 13+1 @20 [1 2 3]"
"""Prompts of three full blocks, of which the GPU holds one prompt, then the first again."""


@pytest.mark.parametrize(
    ("name", "block_s", "ttft"),
    [
        ("vllm", 0.5, 2.5),  # waits 1.5 s, and has a step of its own
        ("sglang", 0.5, 1.5),  # the step lasts as long as the load
        ("sglang", 0.1, 1.0),  # or as it lasts anyway
        ("trtllm", 0.5, 2.5),  # the step starts behind the load
    ],
)
def test_a_prefix_is_loaded_as_the_engine_does_it(name: str, block_s: float, ttft: float) -> None:
    bare, _ = play(name, AGAIN)
    assert bare == "a13 | b13 | e13 | c13"
    said, found = play(name, AGAIN, Tier(9, block_s))
    assert said == "a13 | b13 | e13 | c1"
    assert found.cached.tolist() == [0, 0, 0, 12]
    assert found.loaded.tolist() == [[0, 0, 0, 12]]
    np.testing.assert_allclose(found.ttft_s, [1.0, 1.0, 1.0, ttft])


def test_others_step_while_a_request_of_vllm_waits_for_its_load() -> None:
    said, found = play("vllm", f"{AGAIN}, d 2+3 @20", Tier(9, 1.0))
    assert said == "a13 | b13 | e13 | d2 | d | d | c1"
    assert found.first_s.tolist() == [1.0, 6.0, 11.0, 24.0, 21.0]


def test_who_needs_blocks_that_are_on_their_way_waits_for_them() -> None:
    said, found = play("vllm", f"{AGAIN}, d 13+1 @20 [1 2 3]", Tier(9, 1.0))
    assert said == "a13 | b13 | e13 | c1 d1"
    assert found.loaded.tolist() == [[0, 0, 0, 12, 0]]
    assert found.cached.tolist() == [0, 0, 0, 12, 12]


def test_a_link_carries_one_load_after_the_other() -> None:
    text = f"{OLD}, f 33+1 @15, c 13+1 @30 [1 2 3], d 13+1 @30 [5 6 7]"
    said, found = play("vllm", text, Tier(99, 1.0, 0.5), blocks=9)
    assert said == "a13 | b13 | e13 | f33 | c1 | d1"
    np.testing.assert_allclose(found.ttft_s[4:], [3.5 + 1, 7 + 1])


def test_blocks_of_a_disk_pass_the_host() -> None:
    said, found = play("vllm", AGAIN, Tier(0, 0.25), Tier(9, 1.0))
    assert said == "a13 | b13 | e13 | c1"
    assert found.loaded.tolist() == [[0, 0, 0, 0], [0, 0, 0, 12]]
    np.testing.assert_allclose(found.ttft_s[3], 3 * 1.0 + 3 * 0.25 + 1)


def test_a_request_that_was_preempted_finds_its_prompt_again() -> None:
    text = "a 8+12 @0, b 8+9 @0"
    rest = " | ".join("b" * 7)
    until = "a8 b8 | a -b" + " | a" * 10
    bare, none = play("vllm", text)
    said, found = play("vllm", text, Tier(9, 0.0))
    assert (bare, said) == (f"{until} | b9 | {rest}", f"{until} | b1 | {rest}")
    assert none.preemptions.tolist() == found.preemptions.tolist() == [0, 1]
    assert found.loaded.tolist() == [[0, 8]]


@pytest.mark.parametrize(
    ("write", "size", "loaded"), [("through", 8, 8), ("through", 9, 12), ("back", 3, 4), ("back", 6, 12)]
)
def test_when_blocks_are_written(write: WriteName, size: int, loaded: int) -> None:
    """Copied as they fill, blocks of three prompts need nine places; else only those that the GPU lacks need one."""
    _, found = play("sglang", AGAIN, Tier(size, 0.0), write=write)
    assert found.loaded[0, 3] == loaded


def test_a_request_that_is_loaded_counts_as_one_that_waits() -> None:
    """Alone it has the whole budget, whatever `long_prompt` says of several."""
    policy = Vllm(100, long_prompt=2, ahead=False)
    names, load = read(f"{OLD}, c 19+1 @20 [1 2 3]", 4)
    watched = Watched(policy, names)
    simulate([Worker(watched, Steady(), 5, 4, tiers=tiers_of(policy, Tier(9, 1.0)))], load)
    assert watched.steps[-1] == "c7"


def keyed(pool: TieredPool, index: int, ids: list[int]) -> Live:
    """A request with the blocks of its prompt, which others find."""
    live = Live(index, 4 * len(ids) + 1, 1, ids, 4)
    pool.claim(live, pool.matched(live))
    assert pool.grow(live, 4 * len(ids))
    live.computed = 4 * len(ids)
    pool.publish(live)
    return live


def test_a_block_behind_one_that_is_loaded_may_be_on_the_gpu() -> None:
    pool = TieredPool(10, 4, Tiers((Tier(9, 1.0),), "back", "within"))
    keyed(pool, 0, [9, 2, 3])
    other = Live(1, 13, 1, [1, 2, 3], 4)
    pool.shelves[0].put(block_key(other, 4))
    assert pool.known(other, []) == 12
    pool.claim(other, [])
    ((end, sent),) = pool.send(5.0)
    assert (end, sent.counts, other.computed) == (6.0, [1], 12)


def test_a_block_that_was_computed_again_is_in_one_tier() -> None:
    pool = TieredPool(1, 4, Tiers((Tier(9, 1.0), Tier(9, 1.0)), "back", "within"))
    live = keyed(pool, 0, [7])
    key = block_key(live, 4)
    pool.shelves[1].put(key)
    pool.release(live)
    keyed(pool, 1, [8])
    assert [key in shelf.keys for shelf in pool.shelves] == [True, False]


def test_the_least_recently_used_block_goes_first() -> None:
    shelf = Shelf(2)
    assert [shelf.put(key) for key in (1, 2, 1, 3)] == [None, None, None, 2]
    assert list(shelf.keys) == [1, 3]
    assert Shelf(0).put(7) == 7


# ---- what holds of all loads

drawn_tiers = st.lists(
    st.builds(Tier, st.integers(0, 12), st.sampled_from((0.0, 0.1, 2.0)), st.sampled_from((0.0, 0.3))),
    min_size=1, max_size=3,
)  # fmt: skip
writes = st.sampled_from(get_args(WriteName))


class Watching(Checked):
    """A checked policy that remembers its servers."""

    def __init__(self, policy: Policy) -> None:
        super().__init__(policy)
        self.states: dict[int, State] = {}

    def blocks(self, state: State) -> None:
        if len(self.states) == 1:  # else others have some of the requests
            super().blocks(state)

    def compose(self, state: State):
        self.states[id(state)] = state
        return super().compose(state)


STUCK = Requests(
    np.array([0, 1.5, 1.5, 2.5, 2.5, 3, 4.5, 4.5, 4.5, 4.5, 4.5, 4.5]),
    np.array([15, 17, 4, 7, 10, 4, 18, 17, 11, 12, 10, 19]),
    np.array([1, 3, 7, 2, 8, 1, 3, 5, 5, 7, 7, 8]),
)
"""Of these the last that runs goes back, while one that is loaded holds its blocks."""

BLOCKED = Requests(
    np.array([0, 0.5, 1.5, 3, 3.5, 3.5, 4, 4, 4.5, 4.5, 4.5]),
    np.array([15, 8, 1, 17, 10, 15, 20, 5, 2, 17, 10]),
    np.array([1, 8, 1, 1, 1, 1, 1, 5, 2, 1, 1]),
    Hashes(
        np.array([0, 3, 5, 6, 8, 11, 15, 15, 17, 18, 19, 22]),
        np.array([1, 2, 1, 2, 0, 2, 1, 2, 0, 2, 1, 0, 2, 2, 1, 2, 0, 2, 2, 1, 0, 1]),
        4,
    ),
)
"""Of these one that waited for the load of another has no room, while a third is loaded and holds its blocks."""


@draws(5 / 2)
@example(
    policy=Vllm(23, 4, chunked=False, whole_prompt=False, watermark=0.2, ahead=False), load=BLOCKED,
    behind=[Tier(11, 2.0, 0.3), Tier(1, 2.0, 0.3), Tier(10, 0.1, 0.3)], write="through", blocks=5, block=4, closed=3,
    stages=1, guesses=0, ranks=1,
)  # fmt: skip
@example(
    policy=Vllm(5, 4, whole_prompt=False, capped=False, ahead=False), load=STUCK, behind=[Tier(6, 0.0)], write="back",
    blocks=7, block=4, closed=3, stages=1, guesses=0, ranks=1,
)  # fmt: skip
@given(
    policies(), loads(), drawn_tiers, writes, st.integers(5, 14), st.sampled_from((1, 4)),
    st.sampled_from((None, 1, 3)), st.sampled_from((1, 1, 2)), st.sampled_from((0, 0, 2)), st.sampled_from((1, 1, 2)),
)  # fmt: skip
def test_requests_and_blocks_are_conserved(
    policy: Policy, load: Requests, behind: list[Tier], write: WriteName, blocks: int, block: int,
    closed: int | None, stages: int, guesses: int, ranks: int,
) -> None:  # fmt: skip
    def played(one: Policy, tiers: Tiers | None) -> Records:
        clock = Steady(seconds=flat) if stages == 1 else Steady(*[1.0] * stages)
        made = Worker(
            one, clock, blocks * 4 // block * ranks, block, in_flight=stages, acceptance=(0.5,) * guesses, ranks=ranks,
            tiers=tiers,
        )  # fmt: skip
        return simulate([made], load, closed and Closed(closed), seed=3)

    checked, tiers = Watching(policy), tiers_of(policy, *behind, write=write)
    found = played(checked, tiers)
    served = found.served
    assert (served ^ (found.replica < 0)).all(), "a request is served or refused"
    assert checked.made == found.output[served].sum() or found.preemptions.any(), "what is on its way may come twice"
    assert all(not live.held for live in checked.seen.values())
    missing = (found.input - found.cached)[served].sum()
    assert checked.computed == missing or found.preemptions.any(), "what is loaded is not computed"
    for state in checked.states.values():
        pool = state.pool
        assert isinstance(pool, TieredPool)
        assert pool.free == pool.total
        assert not state.load
        assert not pool.fetching
        assert all(len(shelf.keys) <= shelf.room for shelf in pool.shelves)
        if write == "back":
            kept = [key for shelf in pool.shelves for key in shelf.keys]
            assert len(kept) == len(set(kept)), "a block is in one tier"
    own = (stages if stages > 1 else 1 + 1e-3 * (found.input - found.cached)) * np.ones(len(served))
    assert (found.first_s - found.arrival_s - own)[served].min(initial=0) >= -1e-9
    again = played(policy, tiers)
    assert all(a.tobytes() == b.tobytes() for a, b in zip(found[:10], again[:10], strict=True)), "the same again"
    bare = played(policy, None)
    empty = played(policy, tiers_of(policy, *(tier._replace(blocks=0) for tier in behind), write=write))
    assert all(a.tobytes() == b.tobytes() for a, b in zip(bare[:10], empty[:10], strict=True)), "nothing in no room"


@draws(25 / 12)
@given(policies(), loads(), writes, st.integers(5, 14), st.lists(st.integers(0, 30), min_size=2, max_size=4))
def test_a_larger_tier_finds_no_less(
    policy: Policy, load: Requests, write: WriteName, blocks: int, sizes: list[int]
) -> None:
    """Of requests one after another: the least recently used blocks of a tier are those of a smaller one, and more.

    And where the load takes no time, none is later than without the tier. Requests side by side change the steps of
    others, so that neither holds of each.
    """

    def played(*tiers: Tier) -> Records:
        behind = tiers_of(policy, *tiers, write=write) if tiers else None
        load_ = load._replace(session=None)
        return simulate([Worker(policy, Steady(seconds=flat), blocks, 4, tiers=behind)], load_, Closed(1))

    before = played()
    for size in sorted(sizes):
        found = played(Tier(size, 0.0))
        assert (found.cached >= before.cached).all()
        served = found.served
        assert (found.latency_s <= before.latency_s + 1e-9)[served].all()
        before = found


def test_servers_with_tiers_do_not_leap() -> None:
    made = plan("kv_tiers = [[1 GB, 50 GB/s]]")
    load = Requests(np.zeros(3), np.full(3, 100), np.full(3, 5))
    ours, bare = (worker(p.cost.one, load, "vllm") for p in (made, plan("max_requests = 1024")))
    assert leap([bare], load, None, "round_robin") is not None
    assert leap([ours], load, None, "round_robin") is None


# ---- plans

TALK = """workload {
  input = 2_000, output = 20, rate = 1 req/s, requests = 40
  sessions { turns = 4, think = exponential(15 s) }
}"""


def plan(engine: str, name: str = "vllm", more: str = "node = h100_1") -> CompiledPlan:
    return compile_text(f"plan p {{ model = llama_3_1_8b, {more}, engine = {name} with {{ {engine} }}\n {TALK} }}")[0]


PLAIN = (
    "fraction_of = device, libraries = 0 B, all_reduce = 0 B, workspace = 0 B, states = 0, logit = 0 B, reserve = 2 GB"
)
"""All engines take the same of a GPU."""

SMALL = f"memory_fraction = 25.4 %, {PLAIN}"
"""The GPU has room for the cache of few conversations."""


@pytest.mark.parametrize("name", ["vllm", "sglang", "trtllm"])
def test_host_memory_shortens_first_tokens(name: str) -> None:
    small = f"{SMALL}, first = 0 s, first_request = 0 s"  # what no tier shortens
    bare = plan(small, name).simulate()
    made = plan(f"{small}, kv_tiers = [[100 GB, 50 GB/s]]", name).simulate()
    assert bare.simulation.found is None
    found = made.simulation.found
    assert found is not None
    assert made.records.cached.sum() > 1.5 * bare.records.cached.sum()
    assert made.simulation.summary.ttft.mean.value < 0.85 * bare.simulation.summary.ttft.mean.value
    columns = made.columns()
    assert columns["loaded_1"].sum() == found.tiers[0].tokens > 0
    told = made.simulation.as_json()["prefix_cache"]
    assert told["tiers"][0]["loaded_bytes_per_gpu"] == found.tiers[0].tokens * 131072


def test_sizes_and_rates_are_those_of_one_gpu() -> None:
    """Llama 3.1 8B keeps 128 KiB for a token, on two GPUs half of that on each."""
    said = "kv_tiers = [[10 GB, 50 GB/s], [1 TB, 5 GB/s, 1 ms]]"
    load = Requests(np.zeros(1), np.array([1000]), np.array([24]))
    for ways, more in ((1, "node = h100_1"), (2, "node = h100_8, sharding { tp = 2 }")):
        one = plan(said, more=more).cost.one
        size = 131072 * 16 / ways
        assert block_bytes(one, 1024) == size
        tiers = worker(one, load, "vllm").tiers
        assert tiers.tiers == (Tier(int(10e9 / size), size / 50e9), Tier(int(1e12 / size), size / 5e9, 1e-3))
        assert (tiers.write, tiers.loading, tiers.prompts) == ("through", "beside", True)


def test_settings_reach_the_tiers(capsys, tmp_path) -> None:
    file = tmp_path / "a.plan"
    file.write_text(f"plan p {{ model = llama_3_1_8b, node = h100_1, engine = vllm\n {TALK} }}\n")
    said = ["--set", "engine.kv_tiers=[[0 GB, 50 GB/s], [1 TB, 6 GB/s]]", "--set", "engine.memory_fraction=25.4 %"]
    assert main(["simulate", str(file), "--json", *said]) == 0
    told = json.loads(capsys.readouterr().out)
    (one,) = told.get("plans", [told])
    first, second = one["prefix_cache"]["tiers"]
    assert first["loaded_tokens"] == 0 < second["loaded_tokens"]
    assert main(["simulate", str(file), *said]) == 0
    assert "loaded from tier 2" in capsys.readouterr().out


ELSEWHERE = {
    "ranks": "node = h100_8, sharding { mesh own = 2, tensor = 2\n heads, ffn, vocab -> tensor\n batch -> own }",
    "replicas": "node = h100_8, sharding { dp = 2 }, router = prefix",
    "stages": "node = h100_8, sharding { pp = 2 }",
    "guesses": "node = h100_1, speculate { draft = none, tokens = 2, acceptance = 60 % }",
    "pools": "prefill { node = h100_1 }, decode { node = h100_1 }\n transfer { bandwidth = 20 GB/s, latency = 10 us }",
}


HALF = {"ranks": 15.05, "stages": 13.64}
"""Percent of memory, of GPUs that hold half of the weights each."""


@pytest.mark.parametrize("kind", ELSEWHERE)
def test_tiers_stand_behind_every_kind_of_server(kind: str) -> None:
    """What is not computed was on the GPU or in a tier, and a GPU loads no more than its part."""
    room = f"memory_fraction = {HALF[kind]} %, {PLAIN}" if kind in HALF else SMALL
    found = plan(f"{room}, kv_tiers = [[1 GB, 50 GB/s], [9 GB, 5 GB/s]]", more=ELSEWHERE[kind]).simulate()
    records, told = found.records, found.simulation
    assert records.served.all()
    assert told.found is not None
    assert records.loaded.sum(1).tolist() == [tier.tokens for tier in told.found.tiers]
    assert records.steps.prompt_tokens.sum() == (records.input - records.cached).sum() or records.preemptions.any()
    assert (records.loaded.sum(0) <= records.cached).all() or records.preemptions.any()
    assert records.loaded.sum() > 0
