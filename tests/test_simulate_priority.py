"""Classes with priorities: who is taken first, and who goes back. Scenes of vLLM's own are in `golden/schedulers`."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from plandsl.backends.cost.serving.blocks import Pool
from plandsl.backends.cost.serving.pools import Side, simulate_pools
from plandsl.backends.cost.serving.priorities import take_out
from plandsl.backends.cost.serving.replica import Worker
from plandsl.backends.cost.serving.requests import Requests
from plandsl.backends.cost.serving.scheduler import Live, Policy, State, add_decode, add_prompt, add_spent, empty
from plandsl.backends.cost.serving.sglang import Sglang
from plandsl.backends.cost.serving.simulate import simulate
from plandsl.backends.cost.serving.vllm import Vllm
from plandsl.backends.cost.serving.workloads import draw_requests
from plandsl.driver import compile_text, open_text
from tests.draws import draws
from tests.serving import Steady, Watched, read
from tests.test_serving import Checked, flat, loads
from tests.test_simulate_pools import moves


def steps(policy: Policy, text: str, priorities: list[int], blocks: int = 100, block: int = 4) -> str:
    names, requests = read(text, block)
    watched = Watched(policy, names)
    load = requests._replace(priority=np.array(priorities))
    assert simulate([Worker(watched, Steady(), blocks, block)], load).served.all()
    return " | ".join(watched.steps)


def vllm(**limits: object) -> Vllm:
    return Vllm(**{"budget": 100, "order": "priority", "ahead": False} | limits)


@pytest.mark.parametrize(
    ("policy", "text", "priorities", "blocks", "expected"),
    [
        # the lowest number first, and in the order of arrival among equals
        (vllm(budget=4), "a 4+1, b 4+1, c 4+1, d 4+1", [1, 0, 1, 0], 100, "b4 | d4 | a4 | c4"),
        (vllm(budget=4, order="fcfs"), "a 4+1, b 4+1, c 4+1, d 4+1", [1, 0, 1, 0], 100, "a4 | b4 | c4 | d4"),
        (Sglang(4, order="priority", ahead=False), "a 4+1, b 4+1, c 4+1", [1, 1, 0], 100, "c4 | a4 | b4"),
    ],
)  # fmt: skip
def test_priorities_settle_who_comes_first(
    policy: Policy, text: str, priorities: list[int], blocks: int, expected: str
) -> None:
    assert steps(policy, text, priorities, blocks) == expected


def test_who_leaves_a_step_again_is_as_it_was_before_it() -> None:
    """With the last part of its prompt, with a decode, or with all its tokens; its tokens go back to the budget."""
    for input_, made, tokens in ((8, 0, 5), (8, 2, 1), (8, 9, 1)):
        state, live, batch = State(Pool(100, 4, caching=False)), Live(0, input_, 9), empty()
        live.made, live.computed = made, input_ + made - tokens
        if made < 9:
            (add_decode(state, batch, live, 1) if made else add_prompt(state, batch, live, tokens))
        else:
            add_spent(state, batch, live)
        assert (batch.rows, take_out(state, batch, live, 1)) == (1, tokens)
        assert (batch.rows, batch.gained, live.made) == (0, [], made)
        assert take_out(state, batch, live, 1) == 0, "it is in no step now"


@draws(5)
@given(
    loads(), st.integers(5, 12), st.data(), st.integers(4, 30), st.integers(1, 6), st.booleans(), st.booleans(),
    st.booleans(), st.sampled_from((0, 0, 2)), st.booleans(),
)  # fmt: skip
def test_requests_and_blocks_are_conserved(
    load: Requests, blocks: int, data: st.DataObject, budget: int, running: int, caching: bool, capped: bool,
    ahead: bool, guesses: int, pools: bool,
) -> None:  # fmt: skip
    n = len(load.input)
    load = load._replace(priority=np.array(data.draw(st.lists(st.integers(0, 2), min_size=n, max_size=n))))
    checked = Checked(Vllm(budget, running, order="priority", capped=capped, ahead=ahead))
    made = Worker(checked, Steady(seconds=flat), blocks, 4, caching, acceptance=(0.5,) * guesses)
    if pools:
        first = made._replace(policy=checked.policy)
        then = first._replace(caching=False)
        found = simulate_pools(Side([first]), Side([then]), load, moves(load))
    else:
        found = simulate([made], load)
        assert checked.made == found.output[found.served].sum()
        assert all(not live.held for live in checked.seen.values())
        if load.session is None:
            done = np.flatnonzero(found.served)
            admitted = found.admitted_s[done]
            before = load.priority[done][:, None] <= load.priority[done]
            late = admitted[:, None] > admitted
            assert not np.triu(before & late).any(), "who comes first and is as important is admitted first"
    assert (found.served ^ (found.replica < 0)).all()


WORKLOAD = """rate = 40 req/s, requests = 120
  class batch { share = 70 %, input = 3000, output = 60, priority = 5 }
  class chat { share = 30 %, input = 200, output = 20 }"""


def test_the_priority_of_a_class_is_that_of_its_requests() -> None:
    load = draw_requests(open_text(f"workload w {{ {WORKLOAD} }}").spec("workload", "w")).requests
    assert (load.priority == np.where(load.kind == 0, 5, 0)).all()
    equal = WORKLOAD.replace(", priority = 5", "")
    assert draw_requests(open_text(f"workload w {{ {equal} }}").spec("workload", "w")).requests.priority is None


@pytest.mark.parametrize("engine", ["vllm", "sglang"])
def test_important_requests_wait_less(engine: str) -> None:
    waits = []
    for order in ("fcfs", "priority"):
        text = f"engine = {engine} with {{ order = {order} }}, workload {{ {WORKLOAD} }}"
        (made,) = compile_text(f"plan p {{ model = llama_3_1_8b, node = h100_1, {text} }}")
        found = made.simulate().records
        waits.append(found.ttft_s[found.kind == 1].mean())
    assert waits[1] < 0.7 * waits[0]
