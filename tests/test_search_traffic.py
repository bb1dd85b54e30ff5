"""Searches over requests: the closed form proposes, the simulation decides, and the answer says what was simulated."""

from __future__ import annotations

import json
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from plandsl.answers.simulation import Figure
from plandsl.backends.cost.answers.mean_load import mean_load, plan_at_mean
from plandsl.cli import main
from plandsl.diagnostics import PlanError
from plandsl.driver import CompiledPlan, compile_text, open_text
from plandsl.searches import shortlist
from plandsl.searches.closed_form import evaluate_mean
from plandsl.searches.run import Compiler, Found, Run
from plandsl.searches.shortlist import Shortlist, simulate_best
from plandsl.searches.show_shortlist import simulated_parts
from plandsl.searches.spread import Workers
from plandsl.spec.plan import PlanSpec
from plandsl.spec.search import SearchSpec
from plandsl.spec.traffic import Fixed, Lengths, Steady, TrafficSpec

CHAT = """{kind} s {{
  model = llama_3_1_8b, node = h100_8, engine = vllm, chunked_prefill = 8192
  workload {{ {load} }}
  {more}
}}
"""
LOAD = "input = lognormal(mean = 900, p95 = 3200), output = 20, rate = 20 req/s, requests = 80"
VARY = "vary tp in [1, 2, 4], dp in [1, 2]\nrequire p99(ttft) <= 300 ms\n"


def text(more: str = "", load: str = LOAD, kind: str = "search") -> str:
    return CHAT.format(kind=kind, load=load, more=more)


def searched(more: str, load: str = LOAD) -> SearchSpec:
    module = open_text(text(more, load))
    found = module.spec("search", "s")
    if module.errors or not isinstance(found, SearchSpec):
        raise PlanError(module.diagnostics, module.sources)
    return found


def planned(more: str = "sharding { tp = 1 }", load: str = LOAD) -> PlanSpec:
    (made,) = compile_text(text(more, load, "plan"))
    return made.spec


def answered(more: str, load: str = LOAD, most: int = 32, count: int | None = None) -> tuple[Found, Shortlist]:
    found = Run(searched(more, load), most).run()
    return found, simulate_best(found, Workers(), count, most, lambda done, of: None)


# ---- the closed form

PLANNED = planned("sharding { tp = 1 }\nrequire p99(ttft) <= 1 s")


@pytest.mark.parametrize(
    ("load", "rate", "concurrency"),
    [
        ("input = 500, output = 20, rate = constant(8 req/s), requests = 50", 8.0, None),
        ("input = uniform(9, 90), output = 20, concurrency = 16, requests = 50", None, 16),
        ("input = uniform(9, 90), output = 20, rate = at_once, requests = 50", None, 50),
    ],
)
def test_a_load_has_its_means(load: str, rate: float | None, concurrency: int | None) -> None:
    mean = mean_load(planned(load=load).workload)
    assert mean.rate == (None if rate is None else pytest.approx(rate))
    assert (mean.concurrency, mean.output, mean.reuse) == (concurrency, 20, 0)


def test_what_came_before_is_reused() -> None:
    talk = "sessions { turns = 4, think = exponential(1 s), system = 640 }, requests = 200"
    mean = mean_load(planned(load=f"input = 160, output = 32, rate = 5 req/s, {talk}").workload)
    assert 0.7 < mean.reuse < 0.9  # of 640 + 160 t + 32 (t - 1) tokens all but 160 came before, the system prompt too


BUILT = Compiler()
"""Programs of the plans that laws draw: all are of one structure."""


@given(rate=st.floats(0.5, 60.0), bound=st.sampled_from([0.05, 0.2, 2.0]))
def test_the_closed_form_serves_the_rate_or_says_what_it_can(rate: float, bound: float) -> None:
    steady = TrafficSpec(Steady(rate, None), Lengths(Fixed(900), Fixed(40)))
    load = evolve(PLANNED.workload, traffic=steady, requests=50)
    plan = evolve(PLANNED, workload=load, requires=(PLANNED.requires[0]._replace(bound=bound),))
    values = evaluate_mean(BUILT.compile(plan_at_mean(plan)).cost, plan)
    served = values.metrics["throughput"] / 40
    assert served == pytest.approx(rate if values.crowded <= 1 else rate / values.crowded)
    assert np.isfinite(values.metrics["ttft"]) == (values.crowded <= 1)
    assert values.metrics["goodput"] == pytest.approx(min(float(values.metrics["bearable"]), rate))
    kept = values.metrics["ttft"] <= bound
    assert not kept or values.metrics["bearable"] >= 0.85 * rate  # numbers in flight are tried in steps of a tenth


def test_few_requests_are_served_as_one_alone() -> None:
    load = "input = 900, output = 40, rate = constant(0.001 req/s), requests = 50"
    plan = planned(load=load)
    (alone,) = compile_text(text("sharding { tp = 1 }", "input = 900, output = 40, concurrency = 1", "plan"))
    values = evaluate_mean(CompiledPlan(plan_at_mean(plan), ()).cost, plan)
    assert values.metrics["ttft"] == pytest.approx(alone.estimate().ttft_s, rel=1e-12)
    assert values.metrics["tpot"] == pytest.approx(alone.estimate().tpot_s, rel=1e-12)


# ---- what is simulated


def test_the_fewest_gpus_are_those_of_each_candidate_alone() -> None:
    found, made = answered(VARY + "minimize gpus")
    alone = {}
    for tp in (1, 2, 4):
        for dp in (1, 2):
            more = f"sharding {{ tp = {tp}, dp = {dp} }}\nrequire p99(ttft) <= 300 ms"
            alone[(tp, dp)] = compile_text(text(more, kind="plan"))[0].simulate().simulation
    for one in made.good:
        run = alone[(one.row.settings["tp"], one.row.settings["dp"])]
        assert one.simulation is not None
        assert one.simulation.as_json() == run.as_json()
        assert one.figures["p99(ttft)"].value == run.requires[0].value
    fewest = min(tp * dp for (tp, dp), run in alone.items() if run.ok and run.summary.bearable != run.summary.bearable)
    assert made.good[0].figures["gpus"].value == fewest
    assert made.others
    assert all(one.why for one in made.others)
    assert made.simulated + made.left >= found.tally.met


def test_near_misses_that_would_be_better_are_tried() -> None:
    """The closed form rules a GPU out whose mean TTFT it has 1.3 times too long: the simulation decides."""
    plan = planned()
    mean = evaluate_mean(CompiledPlan(plan_at_mean(plan), ()).cost, plan).metrics["ttft"]
    more = f"vary tp in [1, 2]\nrequire ttft <= {1e3 * mean / 1.3:.3f} ms\nminimize gpus"
    found, made = answered(more)
    assert (found.tally.met, made.admitted, made.close) == (1, 1, 1)
    assert {one.row.settings["tp"] for one in (*made.good, *made.others)} == {1, 2}
    assert made.simulated == 2


def test_the_rest_of_the_list_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shortlist, "ROUND", 2)
    _, made = answered("vary tp in [1, 2, 4], dp in [1, 2]\nrequire p99(ttft) <= 9 s", count=20)
    assert (made.admitted, made.simulated, made.left) == (6, 2, 4)
    _, made = answered("vary tp in [1, 2, 4], dp in [1, 2]\nrequire p99(ttft) <= 1 us", count=20)
    assert (made.admitted, made.simulated, made.good, made.others) == (0, 0, (), ())


def test_goals_decide_the_order_and_turned_pairs_are_counted() -> None:
    _, made = answered("vary tp in [1, 2, 4], dp in [1, 2]\nminimize p97(latency)", count=30)
    values = [one.figures["p97(latency)"].value for one in made.good]
    assert values == sorted(values)
    places = [one.place for one in made.good]
    assert sorted(one.place for one in (*made.good, *made.others)) == [1, 2, 3, 4, 5, 6]
    assert made.turned == sum(a > b for i, a in enumerate(places) for b in places[i + 1 :])


def test_differences_are_over_the_same_requests() -> None:
    more = "vary tp in [1, 2], algorithm in [auto, ring]\nminimize ttft"
    _, made = answered(more, count=40)
    first, *rest = made.good
    assert first.difference is None
    for one in rest:
        assert one.difference is not None
        gap = one.figures["ttft"].value - first.figures["ttft"].value
        assert one.difference.value == pytest.approx(gap, rel=1e-9, abs=1e-12)
        assert one.same == (one.difference.value <= one.difference.half)
    twins = [one for one in made.good if one.row.settings["tp"] == 1]
    assert twins[0].figures == twins[1].figures  # one GPU has nothing to reduce


def test_a_candidate_that_cannot_be_simulated_has_its_reason() -> None:
    pools = """search s {
      model = llama_3_1_8b with { weights = fp8, kv_cache = fp8 }, workload { input = 500, output = 20, rate = 6 req/s }
      prefill { node = h100_8, sharding { tp = 1 } }
      decode { node = h100_8, sharding { tp = 1 } }
      transfer { bandwidth = 50 GB/s, latency = 10 us }
      vary decode.sharding.tp in [1, 2]
      minimize gpus
    }"""
    search = open_text(pools).spec("search", "s")
    assert isinstance(search, SearchSpec)
    found = Run(search, 32).run()
    assert found.tally.top.column("gpus").tolist() == [2, 3]  # of both pools

    def refuse(task: shortlist.Task, compiler: object) -> shortlist.Outcome:
        return shortlist.Outcome(None, why="E327: no")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shortlist, "simulate_task", refuse)
        made = simulate_best(found, Workers(), None, 32, lambda done, of: None)
    assert [one.why for one in made.refused] == ["E327: no"] * 2
    assert (made.simulated, made.good) == (0, ())


# ---- the command


def planc(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    status = main(["search", *map(str, arguments)])
    return status, *capsys.readouterr()


def test_the_same_search_gives_the_same_answer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "s.plan"
    file.write_text(text(VARY + "maximize goodput"))
    status, first, _ = planc(capsys, file, "--json", "--requests", 20)
    _, again, _ = planc(capsys, file, "--json", "--requests", 20)
    (one,), (other,) = (json.loads(out)["searches"] for out in (first, again))
    del one["seconds"], other["seconds"]
    assert one == other
    simulated = one["simulated"]
    assert status == 0
    assert simulated["simulated"] == len(simulated["candidates"])
    assert simulated["candidates"][0]["simulation"]["requests"] == 20
    assert one["top"][0]["choices"] == simulated["candidates"][0]["choices"]


def test_the_report_says_what_was_simulated_and_the_best_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, best = tmp_path / "s.plan", tmp_path / "best.plan"
    file.write_text(text(VARY + "minimize gpus"))
    status, out, _ = planc(capsys, file, "--requests", 30, "--simulate", 5, "-o", best)
    assert status == 0
    assert "that meet all in closed form" in out
    assert "each with 30 requests of seed 0" in out
    assert main(["simulate", str(best), "--requests", "30"]) == 0
    capsys.readouterr()
    file.write_text(text("vary tp in [1, 2]\nrequire p99(ttft) <= 25 ms"))
    status, out, _ = planc(capsys, file)
    assert status == 1
    assert "nothing meets every requirement in closed form, so nothing is simulated" in out
    assert "the nearest has" in out
    file.write_text(text("vary tp in [1, 2]\nrequire p99(ttft) <= 70 ms"))
    status, out, err = planc(capsys, file, "-o", best)
    assert status == 1
    assert "no candidate that was simulated meets every requirement" in out
    assert "is not written" in err
    file.write_text(text("vary tp in [1, 2]\nrequire p99(ttft) <= 70 ms", LOAD.replace("20 req", "200 req")))
    assert "requests arrive faster than they are served: the nearest has" in planc(capsys, file)[1]
    file.write_text(text("vary tp in [1, 2]\nrequire p99(ttft) <= 200 ms"))
    status, out, _ = planc(capsys, file, "--json")
    (body,) = json.loads(out)["searches"]
    assert body["nearest"]["missing"][0]["text"] == "p99(ttft) <= 200 ms"
    assert planc(capsys, file, "--simulate", 0)[0] == 2


@pytest.mark.parametrize(
    ("load", "more", "code"),
    [
        ("input = 9, output = 9", "vary tp in [1, 2]\nmaximize goodput", "E216"),
        ("input = 9, output = 9", "vary tp in [1, 2]\nminimize p99(ttft)", "E216"),
        (LOAD, "vary tp in [1, 2]\nminimize p99(memory)", "E216"),
        (LOAD, "vary tp in [1, 2]\nminimize p99(ttft)\nminimize p99(ttft)", "E202"),
        (LOAD, "vary tp in [1, 2]\nrequire bearable >= 4 req/s", "E216"),
    ],
)
def test_a_goal_needs_a_load_that_has_it(load: str, more: str, code: str) -> None:
    with pytest.raises(PlanError) as caught:
        searched(more, load)
    assert caught.value.diagnostics[0].code == code


def test_two_percentiles_of_a_metric_are_two_goals() -> None:
    assert [g.name for g in searched("minimize p99(ttft)\nminimize p50(ttft)").goals] == ["p99(ttft)", "p50(ttft)"]


def test_what_the_requests_cannot_tell_is_said(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "s.plan").write_text("""search s {
  model = llama_3_1_8b, node = h100_1, engine = vllm
  vary tp in [1]
  require p95(ttft) <= 9 s
  minimize gpus
  workload { input = 900, output = 4, rate = 2 req/s, requests = 20, reuse = 50 % }
}
""")
    assert main(["search", str(tmp_path / "s.plan")]) == 0
    out = capsys.readouterr().out
    assert "warning: 20 requests are too few for p95: `--requests 200`" in out
    assert "warning: `reuse` of blocks that each request has for itself is not simulated" in out


# ---- how it is told


def told(found: Found, made: Shortlist, alike: tuple[tuple[int, ...], ...] | None = None) -> str:
    """The lines of an answer; without ``alike``, bands of engines tell no two rows apart from the rest."""
    top = [one.row for one in made.good]
    parts = simulated_parts(found, top, made, alike or tuple((n,) for n in range(1, len(top) + 1)))
    console = Console(file=StringIO(), width=200)
    for part in parts:
        console.print(part)
    return str(console.file.getvalue())  # type: ignore[attr-defined]


@pytest.fixture(scope="module")
def three() -> tuple[Found, Shortlist]:
    """Three candidates that were simulated, the best of the closed form first."""
    found, made = answered("vary tp in [1, 2, 4]\nrequire p99(ttft) <= 2 s\nminimize tpot", count=20)
    ranked = sorted((*made.good, *made.others), key=lambda one: one.place)
    good = [one._replace(place=n, why="", difference=None) for n, one in enumerate(ranked, 1)]
    return found, made._replace(admitted=3, close=0, good=tuple(good), others=())


def test_the_order_of_the_simulation_is_laid_beside_that_of_the_closed_form(three: tuple[Found, Shortlist]) -> None:
    found, made = three
    assert "the simulation keeps the order of the closed form" in told(found, made)
    first, second, third = made.good
    other = told(found, made._replace(good=(second, third, first)))
    assert "the simulation turns 2 of 3 pairs of the closed form's order round" in other
    assert f"its first, {first.row.label}, is now number 3" in other
    last = told(found, made._replace(good=(first, third, second)))
    assert "turns 1 of 3 pairs" in last
    assert "its first" not in last


def test_rows_that_cannot_be_told_apart_are_marked(three: tuple[Found, Shortlist]) -> None:
    found, made = three
    first, second, third = made.good
    near = second._replace(difference=Figure(0.001, 0.002))
    marked = told(found, made._replace(good=(first, near, third)), ((1,), (2,), (1, 3)))
    rows = {line.split()[0] for line in marked.splitlines() if line.strip()}
    assert {"1", "2=", "3~"} <= rows
    assert "=  the difference to the first, over the same requests, has 0 in its 95 % interval" in marked
    assert "~  within the engine's band" in marked
    assert "= " not in told(found, made._replace(good=(first, third)))


def test_what_was_not_simulated_has_its_reason(three: tuple[Found, Shortlist]) -> None:
    found, made = three
    first, *others = made.good
    refused = [one._replace(simulation=None, figures={}, why="E328: no room") for one in others]
    some = told(found, made._replace(good=(first,), others=tuple(refused)))
    assert "not simulated   2  E328: no room" in some
    none = told(found, made._replace(good=(), others=tuple(refused)))
    assert "no candidate was simulated" in none
    assert "meets every requirement" not in none
    out = told(found, made._replace(good=(), others=(first._replace(figures={}, why="p99(ttft)"),)))
    assert "no candidate that was simulated meets every requirement" in out
    assert "p99(ttft)" in out


def test_percentiles_of_too_few_requests_are_warned_of(three: tuple[Found, Shortlist]) -> None:
    found, made = three
    assert "warning: 20 requests are too few for p99: `--requests 1000`" in told(found, made)
    assert "too few" not in told(evolve(found, search=searched("vary tp in [1]\nrequire p50(ttft) <= 2 s")), made)
