"""The largest rate at which a plan meets its requirements: where a formula knows it, and what the answer says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from plandsl.answers.rate import FoundRate
from plandsl.backends.cost.answers.autoscale import capacity
from plandsl.backends.cost.answers.find_rate import search_rate
from plandsl.backends.cost.answers.probes import serve_here
from plandsl.backends.cost.answers.simulation import Servers, build_servers, simulate_plan
from plandsl.backends.cost.serving.windows import windows
from plandsl.cli import main
from plandsl.diagnostics import PlanError
from plandsl.driver import CompiledPlan, compile_text
from plandsl.spec.rates import at_rate
from tests.serving import Steady

PLAN = """plan p {{ model = llama_3_1_8b, node = h100_1, sharding {{ tp = 1 }}{more}
  workload {{ {load} }}
  {requires}
}}
"""


def plan(load: str, requires: str = "", more: str = ", engine = vllm", file: str = "<text>") -> CompiledPlan:
    (made,) = compile_text(PLAN.format(load=load, requires=requires, more=more), file)
    return made


def holds(made: CompiledPlan, factor: float, count: int | None = None) -> bool:
    """Whether a run at so many times the load is stable and meets the requirements."""
    moved = CompiledPlan(at_rate(made.spec, factor), ())
    told = simulate_plan(moved, count).simulation
    return told.ok and not any("queue grows" in warning for warning in told.summary.warnings)


# ---- where a formula knows


SERVICE = 0.01
"""Seconds of every step. A step has one prompt, whose one token ends the request: a queue of one server (M/D/1)."""


def queue(load: str, requires: str = "", **how: Any) -> FoundRate:
    made = plan(f"input = 100, output = 1, {load}", requires, more=", chunked_prefill = 100, engine = vllm")
    servers = Servers(build_servers(made).deployment, Steady(SERVICE))
    return search_rate(made.spec, serve_here(made.spec, servers), **how)


def test_the_rate_of_a_queue_with_a_bound_on_its_mean_wait() -> None:
    """TTFT = S + u S / (2 (1 - u)) = 2 S at u = 2 / 3 (Pollaczek 1930)."""
    found = queue("rate = 50 req/s, requests = 2000", f"require ttft <= {2 * SERVICE} s")
    assert found.low <= 2 / 3 / SERVICE <= found.high
    assert found.value == pytest.approx(2 / 3 / SERVICE, rel=0.08)
    assert found.binds == (f"ttft <= {2 * SERVICE} s",)


def test_without_requirements_the_rate_is_what_a_server_can_serve() -> None:
    found = queue("rate = 50 req/s, requests = 1000")
    assert found.value == pytest.approx(1 / SERVICE, rel=0.01)
    assert found.low <= found.value <= found.high
    assert found.binds == ("the queue grows",)


@pytest.mark.parametrize("near", [2.0**-6, 32.0, 2.0**12])
def test_a_search_ends_at_the_same_rate_wherever_it_begins(near: float) -> None:
    load, requires = "rate = 3 req/s, requests = 200", f"require ttft <= {2 * SERVICE} s"
    own, found = queue(load, requires, interval=False), queue(load, requires, interval=False, near=near)
    assert (found.value, found.fails_at, found.binds) == (own.value, own.fails_at, own.binds)
    assert (found.runs < own.runs) == (near == 32)
    assert np.isnan(found.low)


def test_of_a_load_of_which_all_requests_are_refused_no_rate_holds() -> None:
    made = plan("input = 900_000, output = 20, rate = 1 req/s, requests = 20")
    found = made.find_rate()
    assert not found.ok
    assert (found.binds, found.runs) == (("no request is served",), 1)
    assert np.isnan(capacity(made, windows(made.spec, 3600.0)[0], 20))


def test_conversations_that_start_almost_at_once_have_a_rate_that_holds() -> None:
    talk = "requests = 50, sessions { turns = uniform(2, 6), think = exponential(30 s), system = 800 }"
    found = plan(f"input = 120, output = 250, rate = 0.5 req/s, {talk}", "require p95(ttft) <= 100 ms").find_rate()
    assert 0 < found.value <= found.fails_at


def test_equal_gaps_hold_up_to_the_last_percent() -> None:
    found = queue("rate = constant(50 req/s), requests = 400", f"require p99(ttft) <= {1.001 * SERVICE} s")
    assert found.value <= 1 / SERVICE < found.fails_at <= found.value * 1.011


# ---- every kind of load

CLASSES = """class a { rate = 6 req/s, input = 100, output = 8, require p90(ttft) <= 100 ms }
  class b { rate = constant(2 req/s), input = 1000, output = uniform(5, 9) }"""

LOADS = {
    "poisson": ("input = 900, output = 8, rate = 30 req/s, requests = 80", "rate", "req/s"),
    "gamma": ("input = 900, output = 8, rate = gamma(mean = 30 req/s, cv = 2), requests = 80", "rate", "req/s"),
    "on_off": ("input = 900, output = 8, rate = on_off(90 req/s, on = 1 s, off = 2 s), requests = 80", "rate", "req/s"),
    "varying": ("input = 900, output = 8, rate = [[0 s, 10 req/s], [2 s, 40 req/s]], requests = 60", "rate", "req/s"),
    "classes": (f"requests = 80; {CLASSES}", "rate", "req/s"),
    "talks": ("input = 900, output = 8, rate = 9 req/s, requests = 60; sessions { turns = 2, think = 100 ms }", "rate",
              "conversations/s"),
    "trace": ('trace = "t.csv"', "speed", "times the trace's speed"),
    "closed": ("input = 900, output = 8, concurrency = 4, requests = 40", "concurrency", "requests in flight"),
}  # fmt: skip


@pytest.mark.parametrize(("load", "scaled", "unit"), LOADS.values(), ids=LOADS)
def test_every_load_has_a_largest_rate(load: str, scaled: str, unit: str, tmp_path: Path) -> None:
    rows = "".join(f"{i / 20},900,8\n" for i in range(60))
    (tmp_path / "t.csv").write_text("arrived_at,num_prefill_tokens,num_decode_tokens\n" + rows)
    made = plan(load, "require p90(ttft) <= 150 ms", file=str(tmp_path / "a.plan"))
    found = made.find_rate()
    assert (found.scaled, found.unit) == (scaled, unit)
    assert found.at is not None
    assert found.at.ok
    assert "ttft" in found.binds[0]
    count = found.at.summary.requests if scaled != "speed" else None
    assert scaled != "speed" or found.value == found.factor, "the trace's own speed is 1"
    assert holds(made, found.factor, count)
    assert not any(r.ok for r in found.fails)
    if scaled == "concurrency":
        assert found.fails_at in (found.value + 1, pytest.approx(found.value, rel=0.01))
    else:
        assert found.value < found.fails_at <= found.value * 1.05


def test_a_tighter_bound_leaves_a_smaller_rate() -> None:
    load = "input = 900, output = 8, rate = 30 req/s, requests = 100"
    tight, loose = (plan(load, f"require p90(ttft) <= {bound} ms").find_rate() for bound in (80, 300))
    assert tight.value < loose.value


# ---- where there is no such rate, or nothing binds


def test_a_bound_that_no_rate_meets_has_no_rate() -> None:
    found = plan("input = 900, output = 8, rate = 30 req/s, requests = 40", "require ttft <= 1 us").find_rate()
    assert not found.ok
    assert found.binds == ("ttft <= 1 us",)
    assert found.at is None
    assert found.runs < 12, "requests that never meet are not served at still lower rates"


def test_a_throughput_that_no_rate_gives_has_no_rate() -> None:
    requires = "require throughput >= 90_000 tok/s and p90(ttft) <= 200 ms"
    found = plan("input = 900, output = 8, rate = 30 req/s, requests = 60", requires).find_rate()
    assert not found.ok
    assert found.binds == ("throughput >= 90_000 tok/s",)


def test_goodput_is_looked_for_below_the_rate_where_it_has_shrunk() -> None:
    """Every tenth request may be late, so that p90 is met at rates at which goodput is less than at lower ones."""
    load = "input = 900, output = 8, rate = 30 req/s, requests = 100"
    middle = plan(load, "require p50(ttft) <= 100 ms").find_rate()
    assert middle.at is not None
    most = middle.at.summary.goodput
    found = plan(load, f"require p50(ttft) <= 100 ms and goodput >= {most * 1.02} req/s").find_rate()
    assert not found.ok or found.value < middle.value
    assert found.binds[0].startswith("goodput")


def test_more_requests_in_flight_may_only_wait() -> None:
    more = ", engine = vllm with { max_requests = 4 }"
    found = plan("input = 90, output = 8, concurrency = 4", "require tpot <= 1 s", more).find_rate()
    assert found.ok
    assert found.binds == ()
    assert found.why == "more requests in flight only wait"


def test_a_short_run_is_warned_of() -> None:
    load = "input = 900, output = 80, rate = 30 req/s, requests = 40"
    (warning,) = plan(load, "require p50(ttft) <= 900 ms").find_rate().warnings
    assert warning.startswith("all requests arrive within ")


@pytest.mark.parametrize(
    ("load", "requires"),
    [
        ("input = 9, output = 9, batch = 4", ""),
        ("input = 9, output = 9, rate = at_once, requests = 9", ""),
        ("input = 9, output = 9, concurrency = 9", "require throughput >= 1 tok/s"),
    ],
)
def test_where_there_is_nothing_to_find_a_diagnostic_says_so(load: str, requires: str) -> None:
    with pytest.raises(PlanError, match="E329"):
        plan(load, requires).find_rate()


# ---- what is told


def test_the_command_tells_the_rate_and_what_binds_it(capsys, tmp_path: Path) -> None:
    text = PLAN.format(
        load="input = 900, output = 8, rate = 30 req/s, requests = 60",
        requires="require p90(ttft) <= 150 ms",
        more=", engine = vllm",
    )
    (tmp_path / "a.plan").write_text(text + "plan q = p with { require ttft <= 1 us }\n")
    assert main(["simulate", str(tmp_path / "a.plan"), "--find-rate"]) == 1
    out = capsys.readouterr().out
    assert "p: at most " in out
    assert " req/s `p90(ttft) <= 150 ms` is missed with " in out
    assert "q: no rate meets the requirements" in out
    assert "largest rate" in out
    assert main(["simulate", str(tmp_path / "a.plan"), "--find-rate", "--json", "--plan", "p"]) == 0
    (told,) = json.loads(capsys.readouterr().out)["rates"]
    assert told["low"] <= told["value"] <= told["high"]
    assert (told["scaled"], told["unit"], told["binds"]) == ("rate", "req/s", ["p90(ttft) <= 150 ms"])
    assert told["at"]["ok"]
    assert main(["simulate", str(tmp_path / "a.plan"), "--find-rate", "--rows", "x.csv", "--plan", "p"]) == 2
    assert "E400" in capsys.readouterr().err


def test_the_same_search_gives_the_same_answer() -> None:
    load = "input = uniform(90, 900), output = 8, rate = 30 req/s, requests = 60"
    made = plan(load, "require p90(ttft) <= 150 ms")
    heard: list[tuple[int, int]] = []
    first = made.find_rate(tick=lambda done, of: heard.append((done, of)))
    again = made.find_rate()
    assert json.dumps(first.as_json()) == json.dumps(again.as_json())
