"""What a run says: definitions worked out by hand, intervals that hold as often as they say, warnings."""

from __future__ import annotations

from math import isclose, isnan

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from plandsl.backends.cost.serving.percentiles import Figure, spread
from plandsl.backends.cost.serving.records import Gaps, Kept, Records, Steps
from plandsl.backends.cost.serving.replica import Worker
from plandsl.backends.cost.serving.requests import Requests
from plandsl.backends.cost.serving.simulate import simulate
from plandsl.backends.cost.serving.summary import LEAST_GROWN, Bounds, bearable_rate, meets, summarise
from plandsl.backends.cost.serving.vllm import Vllm
from tests.serving import Steady

NAN = float("nan")


def records() -> Records:
    """Three requests that are served, one of them with a lone token, and one that is refused."""
    ints, none = np.zeros(0, np.int64), np.zeros(0)
    return Records(
        arrival_s=np.array([1.0, 2.0, 3.0, 3.5]),
        admitted_s=np.array([1.0, 2.5, 3.0, NAN]),
        first_s=np.array([1.5, 3.0, 4.0, NAN]),
        finish_s=np.array([3.5, 9.0, 4.0, NAN]),
        input=np.array([100, 200, 300, 999]),
        output=np.array([5, 4, 1, 9]),
        cached=np.zeros(4, np.int64),
        preemptions=np.array([0, 2, 0, 0]),
        replica=np.array([0, 0, 0, -1]),
        itl_max_s=np.array([0.5, 3.0, 0.0, 0.0]),
        kind=None,
        trail=Kept(
            Gaps(np.array([0.5, 1.5, 3.0]), np.array([4, 2, 1])),
            Steps(ints, none, none, ints, ints, waiting=ints, running=ints, blocks=ints),
        ),
    )


@pytest.mark.parametrize("n", [LEAST_GROWN - 2, LEAST_GROWN])
def test_a_queue_is_seen_to_grow_from_so_many_requests_on(n: int) -> None:
    """Nobody leaves while requests arrive, half of them in the second half of the time."""
    late = records()._replace(
        arrival_s=np.linspace(0, 1, n), finish_s=np.full(n, 9.0), first_s=np.full(n, 9.0), replica=np.zeros(n, int)
    )
    assert np.isnan(bearable_rate(late)) == (n < LEAST_GROWN)


def test_numbers_are_defined_as_load_generators_define_them() -> None:
    found = summarise(records())
    assert (found.requests, found.served, found.duration_s, found.preemptions) == (4, 3, 8.0, 2)
    assert (found.request_rate, found.input_rate, found.output_rate) == (3 / 8, 600 / 8, 10 / 8)
    assert isclose(found.ttft.mean.value, (0.5 + 1.0 + 1.0) / 3)
    assert isclose(found.tpot.mean.value, (2.0 / 4 + 6.0 / 3) / 2), "a lone token has no TPOT"
    assert isclose(found.latency.p50.value, 2.5)
    assert found.itl.number == 7
    assert isclose(found.itl.mean.value, (4 * 0.5 + 2 * 1.5 + 3.0) / 7)
    assert found.itl.p50.value == 0.5
    assert found.warnings == (
        "refused, since longer than a server holds: 1 of 4 requests",
        "3 requests are too few for p50, which needs 20",
    )


def test_goodput_counts_requests_that_keep_all_bounds() -> None:
    """A lone token keeps every bound of TPOT."""
    for bounds, good in [(Bounds(), 3), (Bounds(ttft_s=0.5), 1), (Bounds(tpot_s=0.5), 2), (Bounds(latency_s=2.5), 2),
                         (Bounds(1.0, 0.1, 9.0), 1)]:  # fmt: skip
        assert summarise(records(), meets(records(), bounds)).goodput == good / 8


@given(st.lists(st.tuples(st.floats(0, 9), st.integers(1, 5)), min_size=1, max_size=80))
def test_percentiles_are_those_of_all_values(pairs: list[tuple[float, int]]) -> None:
    values, number = np.array([v for v, _ in pairs]), np.array([n for _, n in pairs])
    found, all_ = spread(values, number), np.repeat(values, number)
    assert found.number == len(all_)
    assert isclose(found.mean.value, all_.mean(), abs_tol=1e-12)
    for figure, q in zip(found[1:5], (0.5, 0.9, 0.95, 0.99), strict=True):
        assert isinstance(figure, Figure)
        assert isclose(figure.value, np.quantile(all_, q), abs_tol=1e-12)


def test_intervals_hold_as_often_as_they_say() -> None:
    """Of 400 runs of an exponential quantity, about 95 % have the truth in their interval."""
    rng, runs = np.random.default_rng(8), 400
    found = [spread(rng.exponential(1.0, 4000)) for _ in range(runs)]
    for name, truth in (("mean", 1.0), ("p50", np.log(2)), ("p95", np.log(20))):
        figures = [getattr(one, name) for one in found]
        held = sum(abs(figure.value - truth) <= figure.half for figure in figures)
        assert 0.92 < held / runs < 0.98, name


def test_a_run_that_is_too_short_has_no_interval() -> None:
    found = spread(np.arange(60.0))
    assert found.mean.half == found.mean.half
    assert isnan(found.p99.half)
    assert isnan(spread(np.zeros(0)).mean.value)


def test_a_queue_that_grows_is_told_with_the_rate_that_is_served() -> None:
    """A step a second has two requests of one token: more than two a second are too many."""
    worker = Worker(Vllm(200, max_running=2, ahead=False), Steady(), 1000)
    rng = np.random.default_rng(1)
    for rate, grows in ((1.6, False), (1.8, False), (2.5, True)):
        n = 2000
        load = Requests(np.cumsum(rng.exponential(1 / rate, n)), np.full(n, 100), np.full(n, 1))
        found = summarise(simulate([worker], load))
        assert isnan(found.bearable) != grows
        assert any("queue grows" in warning for warning in found.warnings) == grows
        if grows:
            assert isclose(found.bearable, 2.0, rel_tol=0.01)


@pytest.mark.parametrize(("burst", "grows"), [(75, False), (200, True)])
def test_a_queue_that_a_last_burst_leaves_behind_does_not_grow(burst: int, grows: bool) -> None:
    """A burst every 40 s, and one at the end; two requests a second are served, 80 between two bursts."""
    worker = Worker(Vllm(200, max_running=2, ahead=False), Steady(), 1000)
    n = 10 * burst
    times = np.repeat([*range(0, 360, 40), 395], burst) + np.tile(np.linspace(0, 1, burst), 10)
    found = summarise(simulate([worker], Requests(times, np.full(n, 100), np.full(n, 1))))
    assert isnan(found.bearable) != grows


def test_a_load_of_which_nothing_is_served_in_time_has_no_rate_that_is_served() -> None:
    worker = Worker(Vllm(200, max_running=2, ahead=False), Steady(), 1000)
    found = summarise(simulate([worker], Requests(np.linspace(0, 0.1, 40), np.full(40, 100), np.full(40, 1))))
    assert found.warnings[-1] == "the queue grows: hardly a request is served while requests arrive"
    assert summarise(simulate([worker], Requests(np.zeros(1), np.full(1, 9), np.full(1, 1)))).warnings == (
        "1 request is too few for p50, which needs 20",
    )


@pytest.mark.parametrize(("values", "batches"), [(199, 10), (99, 5), (50, 5)])
def test_batches_are_as_many_as_leave_a_value_beyond_the_percentile(values: int, batches: int) -> None:
    x = np.random.default_rng(values).exponential(size=values)
    parts = [np.quantile(part, 0.9) for part in np.array_split(x, batches)]
    t = {5: 2.776, 10: 2.262}[batches]  # Student's t at 97.5 % with one degree less
    assert spread(x).p90.half == pytest.approx(t * np.std(parts, ddof=1) / batches**0.5, rel=1e-9)
    assert spread(x[:49]).p90.half != spread(x[:49]).p90.half, "not a number: too few"
