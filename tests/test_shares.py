"""Servers that take turns, each served apart and put together again: nothing shows that they were apart."""

from __future__ import annotations

import numpy as np
from hypothesis import assume, given
from hypothesis import strategies as st

from plandsl.backends.cost.serving.records import Records
from plandsl.backends.cost.serving.replica import Worker
from plandsl.backends.cost.serving.requests import Closed, Requests
from plandsl.backends.cost.serving.scheduler import Policy
from plandsl.backends.cost.serving.shares import are_apart, merge_shares, serve_share
from plandsl.backends.cost.serving.simulate import simulate
from plandsl.backends.cost.serving.stream import collect
from plandsl.backends.cost.serving.tiers import Tier
from plandsl.backends.cost.serving.vllm import Vllm
from tests.serving import Steady
from tests.test_leap import Bent, schedulers
from tests.test_leap import loads as long_loads
from tests.test_serving import flat, loads, policies
from tests.test_simulate_tiers import tiers_of


def assert_equal(apart: Records, together: Records) -> None:
    """To the last bit, and in the same order."""
    for part in ("gaps", "steps"):
        for name, one, other in zip(
            getattr(together, part)._fields, getattr(apart, part), getattr(together, part), strict=True
        ):
            np.testing.assert_array_equal(one, other, err_msg=f"{part}.{name}")
    for name in (*Records._fields[:10], "kind", "loaded"):
        np.testing.assert_array_equal(getattr(apart, name), getattr(together, name), err_msg=name)
    assert apart.leaps == together.leaps


def serve_apart(worker: Worker, load: Requests, many: int) -> Records:
    return merge_shares(load, [serve_share(worker, load, number, many, seed=7) for number in range(many)])


@given(
    policies(), loads(), st.integers(2, 4), st.integers(5, 14), st.sampled_from((1, 4)), st.booleans(),
    st.sampled_from((1, 1, 2)), st.sampled_from((0, 0, 2)), st.booleans(), st.sampled_from((1, 1, 2)),
)  # fmt: skip
def test_law_servers_that_step_apart_are_as_together(
    policy: Policy, load: Requests, many: int, blocks: int, block: int, caching: bool, stages: int, guesses: int,
    tiered: bool, ranks: int,
) -> None:  # fmt: skip
    load = load._replace(session=None, kind=np.arange(len(load.input)) % 2)
    tiers = tiers_of(policy, Tier(3, 0.25), Tier(9, 0.5)) if tiered else None
    clock = Steady(seconds=flat) if stages == 1 else Steady(*[1.0] * stages)
    worker = Worker(
        policy, clock, blocks * 4 // block, block, caching, in_flight=stages, acceptance=(0.5,) * guesses, ranks=ranks,
        spread="least_loaded", tiers=tiers,
    )  # fmt: skip
    assert are_apart(many, load, None, "round_robin")
    assert_equal(serve_apart(worker, load, many), simulate([worker] * many, load, seed=7))


@given(schedulers(), long_loads(), st.integers(2, 4), st.integers(20, 60))
def test_law_servers_that_leap_apart_are_as_together(one: Vllm, load: Requests, many: int, blocks: int) -> None:
    load = load._replace(session=None)
    worker = Worker(one, Bent(15.5, 0.02), blocks, 1, caching=False)
    together = simulate([worker] * many, load)
    assume(together.leaps)
    assert_equal(serve_apart(worker, load, many), together)
    lean = merge_shares(load, [serve_share(worker, load, number, many, keep_steps=False) for number in range(many)])
    assert not lean.keeps_steps
    for found in (lean, collect([worker] * many, load)):
        for name in Records._fields[:10]:
            np.testing.assert_array_equal(getattr(found, name), getattr(together, name), err_msg=name)


def test_servers_are_not_apart_where_one_waits_for_another() -> None:
    load = Requests(np.zeros(3), np.full(3, 4), np.full(3, 9))
    assert not are_apart(1, load, None, "round_robin")
    assert not are_apart(2, load, None, "least_loaded")
    assert not are_apart(2, load, Closed(2), "round_robin")
    assert not are_apart(2, load._replace(session=np.array([0, 0, -1])), None, "round_robin")
