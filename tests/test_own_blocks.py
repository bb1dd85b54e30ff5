"""The KV memory of requests that share nothing says of each what a whole prefix cache says."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from plandsl.backends.cost.serving.own_blocks import OwnPool
from plandsl.backends.cost.serving.replica import Worker
from plandsl.backends.cost.serving.requests import Closed, Requests
from plandsl.backends.cost.serving.scheduler import Live, Policy
from plandsl.backends.cost.serving.sglang import Sglang
from plandsl.backends.cost.serving.simulate import simulate_steps
from plandsl.backends.cost.serving.vllm import Vllm
from tests.serving import Steady
from tests.test_serving import flat, loads, policies


@given(
    st.lists(policies(), min_size=1, max_size=2), loads(), st.integers(5, 14), st.sampled_from((1, 4)),
    st.sampled_from((None, 1, 3)), st.sampled_from((1, 1, 2, 3)), st.sampled_from((0, 0, 2)),
)  # fmt: skip
def test_requests_that_share_nothing_are_served_alike_by_both(
    chosen: list[Policy], load: Requests, blocks: int, block: int, closed: int | None, stages: int, guesses: int
) -> None:
    clock = Steady(seconds=flat) if stages == 1 else Steady(*[1.0] * stages)
    both = []
    for shared in (True, False):
        workers = [
            Worker(one, clock, blocks * 4 // block, block, in_flight=stages, acceptance=(0.5,) * guesses, shared=shared)
            for one in chosen
        ]
        both.append(simulate_steps(workers, load._replace(blocks=None), closed and Closed(closed), seed=7))
    whole, own = both
    for a, b in zip((*whole[:10], *whole.gaps, *whole.steps), (*own[:10], *own.gaps, *own.steps), strict=True):
        np.testing.assert_array_equal(a, b)


def test_requests_that_were_sent_back_find_what_is_left_of_their_blocks() -> None:
    """Two requests of 58 tokens do not fit into 100. The one that is sent back has about 50, its prompt among them."""
    load = Requests(np.zeros(2), np.array([20, 20]), np.array([38, 38]))
    for policy in (Vllm(1000), Sglang(conservativeness=0.0)):
        found = [
            simulate_steps([Worker(policy, Steady(seconds=flat), 100, 1, shared=shared)], load)
            for shared in (True, False)
        ]
        assert found[0].preemptions.sum() == 1
        assert 40 < found[0].steps.prompt_tokens.sum() <= 40 + 30, "at least its prompt was found"
        np.testing.assert_array_equal(found[0].steps.prompt_tokens, found[1].steps.prompt_tokens)


def test_blocks_are_taken_one_by_one_where_not_all_find_some() -> None:
    pool = OwnPool(5, 2)
    lives = [Live(i, 4, 9) for i in range(2)]
    for live in lives:
        assert pool.grow(live, 4)
        live.computed = 4
    assert pool.grow_each(lives, 1) == [lives[0]]
    assert (pool.free, lives[0].held, lives[1].held) == (0, 3, 2)
