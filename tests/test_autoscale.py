"""`planc autoscale`: the fewest replicas in each interval of a load, and what they cost."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from plandsl.answers.autoscale import Autoscale
from plandsl.backends.cost.answers.autoscale import fewest_replicas, likely_factor
from plandsl.backends.cost.serving.scaled import WIDEST
from plandsl.backends.cost.serving.windows import windows
from plandsl.backends.cost.serving.workloads import draw_requests
from plandsl.cli import main
from plandsl.diagnostics import PlanError
from plandsl.driver import CompiledPlan, compile_text
from plandsl.spec.plan import PlanSpec
from plandsl.spec.traffic import Fixed, Lengths, Steady, TrafficSpec, Varying

PLAN = """plan p {{
  model = llama_3_1_8b, node = h100_8 with {{ gpu {{ price = 2 USD/h }} }}, sharding {{ {sharding} }}
  engine = vllm, chunked_prefill = 8192
  workload {{ {load} }}
  {more}
}}
"""
RATE = "rate = varying([[0 h, 10 req/s], [1 h, 80 req/s], [2 h, 0 req/s]], every = 3 h)"
LOAD = f"input = lognormal(mean = 900, p95 = 3200), output = 20, {RATE}"
BOUND = "require p90(ttft) <= 400 ms"


def text(load: str = LOAD, more: str = BOUND, sharding: str = "tp = 1") -> str:
    return PLAN.format(load=load, more=more, sharding=sharding)


def plan(load: str = LOAD, more: str = BOUND, sharding: str = "tp = 1", file: str = "<text>") -> CompiledPlan:
    (made,) = compile_text(text(load, more, sharding), file)
    return made


# ---- windows

BASE = plan().spec


@given(
    rates=st.lists(st.sampled_from([0.0, 5.0, 20.0]), min_size=2, max_size=5).filter(any),
    every=st.sampled_from([30.0, 70.0, 100.0]),
    again=st.booleans(),
)
def test_windows_have_the_arrivals_of_the_load(rates: list[float], every: float, again: bool) -> None:
    """Of a rate that changes at 100 s, 200 s and so on; the last rate is not 0, or it would never end."""
    length = 100.0 * len(rates)
    steps = tuple((100.0 * at, rate) for at, rate in enumerate([*rates[:-1], rates[-1] or 1.0]))
    varying = Varying(steps, length if again else None)
    spec = evolve(BASE, workload=evolve(BASE.workload, traffic=TrafficSpec(varying, Lengths(Fixed(9), Fixed(9)))))
    found = windows(spec, every)
    last = length if again else steps[-1][0] + every
    assert (found[0].start_s, found[-1].end_s) == (0.0, pytest.approx(last))
    assert all(a.end_s == b.start_s for a, b in pairwise(found))
    arrivals = draw_requests(spec.workload, 20_000).requests.arrival_s
    for one in found:
        expected = one.rate * (one.end_s - one.start_s)
        came = np.count_nonzero((arrivals >= one.start_s) & (arrivals < one.end_s))
        if arrivals[-1] > one.end_s:
            assert abs(came - expected) <= 6 * expected**0.5 + 6
        assert (one.load is None) == (expected == 0)
    whole = sum(one.rate * (one.end_s - one.start_s) for one in found)
    exact = sum(rate * (min(at + 100.0, last) - at) for at, rate in steps[:-1])
    assert whole == pytest.approx(exact + steps[-1][1] * (last - steps[-1][0]))


def test_windows_of_a_trace_count_its_requests(tmp_path: Path) -> None:
    seconds = [0, 1, 2, 3, 12, 13, 35, 40]
    rows = "".join(f"{s},{100 + s},{10}\n" for s in seconds)
    (tmp_path / "t.csv").write_text("arrived_at,num_prefill_tokens,num_decode_tokens\n" + rows)
    spec = plan('trace = "t.csv", speed = 2', file=str(tmp_path / "a.plan")).spec
    found = windows(spec, 5.0)
    assert [round(one.rate * (one.end_s - one.start_s)) for one in found] == [4, 2, 0, 2]
    load = found[0].load
    assert load is not None
    assert found[2].load is None
    assert draw_requests(load, found[0].most).requests.input.tolist() == [100 + s for s in seconds]


def test_windows_of_classes_have_their_own_rates() -> None:
    load = """class a { rate = varying([[0 s, 4 req/s], [10 s, 0 req/s]], every = 20 s), input = 9, output = 5 }
  class b { rate = 2 req/s, input = 900, output = 5 }"""
    first, second = windows(plan(load, "").spec, 10.0)
    assert (first.rate, second.rate) == (pytest.approx(6.0), pytest.approx(2.0))
    assert second.load is not None
    assert second.load.traffic is not None
    assert [one.name for one in second.load.traffic.classes] == ["b"]


def test_a_rate_that_stays_has_one_window() -> None:
    assert [
        (w.start_s, w.end_s, w.rate) for w in windows(plan("input = 9, output = 9, rate = 3 req/s").spec, 60.0)
    ] == [(0.0, 60.0, 3.0)]
    two = windows(plan("input = 9, output = 9, rate = 3 req/s, duration = 90 s").spec, 60.0)
    assert [(w.end_s, w.rate) for w in two] == [(60.0, 3.0), (90.0, 3.0)]


@pytest.mark.parametrize(
    "load",
    [
        "input = 9, output = 9",
        "input = 9, output = 9, concurrency = 4",
        "input = 9, output = 9, rate = at_once, requests = 9",
    ],
)
def test_a_load_without_a_rate_is_told(load: str) -> None:
    with pytest.raises(PlanError) as caught:
        plan(load, "").autoscale()
    assert caught.value.diagnostics[0].code == "E330"


# ---- replicas


def alone(spec: PlanSpec, rate: float, replicas: int, requests: int) -> bool:
    """Whether so many replicas, as a plan of their own, keep the bound at a rate."""
    traffic = spec.workload.traffic
    assert traffic is not None
    (made,) = compile_text(text(sharding=f"dp = {replicas}"))
    load = evolve(spec.workload, traffic=evolve(traffic, arrivals=Steady(rate)))
    run = CompiledPlan(evolve(made.spec, workload=load), ()).simulate(requests * replicas).simulation
    return run.ok and run.summary.bearable != run.summary.bearable


@pytest.fixture(scope="module")
def day() -> Autoscale:
    return plan().autoscale(3600.0, 30)


def test_the_fewest_replicas_are_those_of_plans_alone(day: Autoscale) -> None:
    quiet, busy, night = day.intervals
    assert (quiet.rate, busy.rate, night.rate) == (10.0, 80.0, 0.0)
    assert night.replicas == 1
    for one in (quiet, busy):
        assert alone(BASE, one.rate, one.replicas, 30)
        assert one.replicas == 1 or not alone(BASE, one.rate, one.replicas - 1, 30)
    assert busy.replicas > quiet.replicas


def test_what_it_costs(day: Autoscale) -> None:
    replicas = [one.replicas for one in day.intervals]
    assert day.gpu_hours == pytest.approx(sum(replicas))
    assert day.fixed_gpu_hours == pytest.approx(3 * max(replicas))
    assert day.cost_usd(day.gpu_hours) == pytest.approx(2 * sum(replicas))
    body = day.as_json()
    assert body["fixed_cost_usd"] == pytest.approx(6 * max(replicas))
    assert [one["replicas"] for one in body["intervals"]] == replicas
    assert body["ok"]


def test_replicas_of_several_gpus_and_the_least_that_run() -> None:
    made = plan(f"input = 900, output = 4, {RATE}", sharding="tp = 2, dp = 4")
    found = made.autoscale(3600.0, 10, least=0)
    assert (found.gpus, found.price_usd_per_h) == (2, 4.0)
    assert found.intervals[-1].replicas == 0
    two = [fewest_replicas(made, one, found.capacity, requests=10, least=2) for one in windows(made.spec, 3600.0)]
    assert [one.replicas for one in two] == [max(2, one.replicas) for one in found.intervals]


@pytest.mark.parametrize(("dp", "rate"), [(1, 10.0), (4, 10.0), (4, 0.02), (4, 1e-9)])
def test_a_search_begins_within_a_doubling_of_the_capacity_of_one_replica(dp: int, rate: float) -> None:
    """The capacity is some 47 req/s, of 300 requests. From far away it begins as far as a search goes."""
    made = plan("input = 900, output = 20, rate = 10 req/s", sharding=f"dp = {dp}")
    factor = likely_factor(made, rate)
    assert factor == WIDEST if rate < 1e-3 else 0.5 < factor * rate / 47 < 2


def test_where_no_number_is_enough_the_miss_is_told() -> None:
    found = plan(f"input = 900, output = 4, {RATE}", "require p90(ttft) <= 1 us").autoscale(3600.0, 5)
    assert not found.ok
    assert found.capacity != found.capacity
    assert "p90(ttft) <= 1 us" in found.intervals[0].fails
    assert not found.intervals[-1].fails


# ---- the command


@pytest.mark.parametrize(
    ("load", "more", "requests", "warnings"),
    [
        (LOAD, "", 3, ("3 requests are too few to see a queue grow: `--requests 20`",)),
        (LOAD, BOUND, 99, ("99 requests are too few for p90: `--requests 100`",)),
        (LOAD, BOUND, 100, ()),
        (LOAD, "require ttft <= 4 s", 20, ()),
        ('trace = "t.csv"', "require p99(ttft) <= 4 s", 1000,
         ("9 requests are too few for p99, which needs 1,000: the trace has no more",)),
    ],
)  # fmt: skip
def test_requests_that_are_too_few_to_tell_are_told(
    load: str, more: str, requests: int, warnings: tuple[str, ...], tmp_path: Path
) -> None:
    rows = "".join(f"{s},100,10\n" for s in range(9))
    (tmp_path / "t.csv").write_text("arrived_at,num_prefill_tokens,num_decode_tokens\n" + rows)
    found = plan(load, more, file=str(tmp_path / "a.plan")).autoscale(every=3600.0, requests=requests)
    assert (found.warnings, found.as_json()["warnings"]) == (warnings, list(warnings))


def test_more_replicas_than_are_tried_are_told_before_they_are_made() -> None:
    made = plan("input = 100, output = 10, rate = 2 req/s, requests = 10")
    (part,) = windows(made.spec, 3600.0)
    with pytest.raises(PlanError, match="needs some 1,000,000,000 replicas") as told:
        fewest_replicas(made, part._replace(rate=1e9), 1.0, 5, 1)
    assert "--max count=1000000000" in told.value.diagnostics[0].hint


def planc(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    status = main(["autoscale", *map(str, arguments)])
    return status, *capsys.readouterr()


def test_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str], day: Autoscale) -> None:
    file = tmp_path / "a.plan"
    file.write_text(text())
    status, out, _ = planc(capsys, file, "--json", "--requests", 30)
    assert status == 0
    assert json.loads(out)["plans"] == [json.loads(json.dumps(day.as_json()))]
    short = f"input = 900, output = 4, {RATE}"
    file.write_text(text(short) + text(short, "require p90(ttft) <= 1 us").replace("plan p", "plan q"))
    status, out, _ = planc(capsys, file, "--every", "90min", "--requests", 5)
    assert status == 1
    assert "intervals of 1.50 h" in out
    assert "misses p90(ttft) <= 1 us" in out
    assert "over the load" in out
    for arguments in (["--every", "soon"], ["--every", "0s"], ["--every", "3 GB"], ["--requests", 0], ["--least", -1]):
        assert planc(capsys, file, *arguments)[0] == 2
    assert "E214" in planc(capsys, file, "--every", "1s")[2]
