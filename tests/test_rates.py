"""A load at another rate: the same requests, closer together."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from plandsl.backends.cost.serving.workloads import draw_requests
from plandsl.driver import open_text
from plandsl.spec.plan import PlanSpec
from plandsl.spec.rates import at_rate, scaled_field

CLASSES = """class a { %s input = uniform(9, 90), output = 5 }
  class b { %s input = 900, output = uniform(5, 50) }"""

RATES = {
    "poisson": "input = uniform(9, 90), output = 5, rate = 3 req/s",
    "gamma": "input = 9, output = uniform(5, 50), rate = gamma(mean = 3 req/s, cv = 2)",
    "constant": "input = 9, output = 5, rate = constant(3 req/s)",
    "vllm": "input = 9, output = 5, rate = vllm_rate(3 req/s, burstiness = 0.5)",
    "classes": CLASSES % ("rate = 2 req/s", "rate = constant(1 req/s)"),
    "shares": "rate = 3 req/s\n" + CLASSES % ("share = 40 %,", "share = 60 %,"),
}
"""Loads whose arrivals come all in half of the time at twice the rate."""

CLOCKS = {
    "on_off": "input = 9, output = 5, rate = on_off(9 req/s, on = 20 s, off = 40 s, low = 1 req/s)",
    "varying": "input = 9, output = 5, rate = varying([[0 h, 2 req/s], [1 min, 6 req/s]], every = 2 min)",
    "trace_rate": 'input = 9, output = 5, rate = trace_rate("t.csv", bin = 1 min)',
}
"""Loads whose rate follows a clock, which runs on as before."""


def plan(load: str, file: str = "<text>") -> PlanSpec:
    text = f"plan p {{ model = llama_3_1_8b, node = h100_1, sharding {{ tp = 1 }}, workload {{ {load} }} }}"
    spec = open_text(text, file).plan("p")
    assert spec is not None, text
    return spec


@pytest.mark.parametrize("load", RATES.values(), ids=RATES)
def test_twice_the_rate_halves_the_times(load: str) -> None:
    spec = plan(load)
    once, twice = (draw_requests(at_rate(spec, factor).workload, 200).requests for factor in (1, 2))
    assert scaled_field(spec.workload) == "rate"
    assert np.allclose(twice.arrival_s, once.arrival_s / 2, rtol=1e-12)
    assert twice.input.tolist() == once.input.tolist()
    assert twice.output.tolist() == once.output.tolist()


@pytest.mark.parametrize("load", CLOCKS.values(), ids=CLOCKS)
def test_a_rate_that_follows_a_clock_grows_at_each_time(load: str, tmp_path: Path) -> None:
    rows = "".join(f"{second},10,10\n" for second in range(0, 300, 2))
    (tmp_path / "t.csv").write_text("arrived_at,num_prefill_tokens,num_decode_tokens\n" + rows)
    spec = plan(load, str(tmp_path / "a.plan"))
    once, twice = (draw_requests(at_rate(spec, factor).workload, 2000).requests.arrival_s for factor in (1, 2))
    until = float(twice[-1])
    assert np.count_nonzero(once < until) * 2 == pytest.approx(len(twice), rel=0.15)


def test_a_trace_is_played_faster(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("arrived_at,num_prefill_tokens,num_decode_tokens\n0,9,9\n2,9,9\n8,9,9\n")
    spec = plan('trace = "t.csv", speed = 2', str(tmp_path / "a.plan"))
    assert scaled_field(spec.workload) == "speed"
    assert draw_requests(at_rate(spec, 2).workload).requests.arrival_s.tolist() == [0, 0.5, 2]


def test_a_closed_loop_has_more_places() -> None:
    spec = plan("input = 9, output = 9, concurrency = 8, requests = 100")
    assert scaled_field(spec.workload) == "concurrency"
    assert [at_rate(spec, f).workload.concurrency for f in (0.01, 1.2, 4)] == [1, 10, 32]
    assert at_rate(spec, 4).workload.requests == 100


@pytest.mark.parametrize(
    "load", ["input = 9, output = 9, batch = 4", "input = 9, output = 9, rate = at_once, requests = 9"]
)
def test_requests_that_arrive_at_once_have_no_rate(load: str) -> None:
    assert scaled_field(plan(load).workload) is None
    with pytest.raises(ValueError, match="no rate"):
        at_rate(plan(load), 2)


def test_the_factor_1_changes_nothing() -> None:
    for load in RATES.values():
        assert at_rate(plan(load), 1.0) == plan(load)
