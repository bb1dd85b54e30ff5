"""`planc simulate --seeds`: several runs of one load, and what they say together."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from plandsl.backends.cost.answers.seeds import mean_over, with_seed
from plandsl.backends.cost.serving.percentiles import student
from plandsl.cli import main
from plandsl.driver import CompiledPlan, compile_text

TEXT = """plan p {{ model = llama_3_1_8b, node = h100_8, sharding {{ dp = 2 }}, engine = vllm{more}
  workload {{ {load} }}
  require p90(ttft) <= 150 ms and goodput >= 1 req/s
}}
"""
LOAD = "input = uniform(100, 900), output = 20, rate = 20 req/s, requests = 60, seed = 3"


def run(capsys, tmp_path: Path, text: str, *arguments: str) -> tuple[int, str, str]:
    (tmp_path / "a.plan").write_text(text)
    status = main(["simulate", str(tmp_path / "a.plan"), *arguments])
    return status, *capsys.readouterr()


def test_means_and_intervals_are_those_of_runs_with_seeds_one_after_another() -> None:
    (made,) = compile_text(TEXT.format(load=LOAD, more=""))
    found = made.simulate_seeds(4)
    alone = [CompiledPlan(with_seed(made.spec, seed), ()).simulate().simulation for seed in (3, 4, 5, 6)]
    assert found.seeds == (3, 4, 5, 6)
    assert json.dumps([one.as_json() for one in found.runs]) == json.dumps([one.as_json() for one in alone])
    values = [one.summary.ttft.p90.value for one in alone]
    assert len(set(values)) == 4
    figure = found.mean.summary.ttft.p90
    assert figure.value == pytest.approx(np.mean(values), rel=1e-12)
    assert figure.half == pytest.approx(3.182 * np.std(values, ddof=1) / 2, rel=1e-12)
    limit, rate = found.requires
    assert (limit.figure, limit.runs) == (figure, 4)
    assert limit.met == sum(value <= 0.15 for value in values)
    assert rate.figure == found.goodput


@pytest.mark.parametrize(("degrees", "value"), [(1, 12.706), (30, 2.042), (31, 2.0395), (60, 2.0003), (1000, 1.9623)])
def test_the_quantiles_of_students_t_are_those_of_tables(degrees: int, value: float) -> None:
    assert student(degrees) == pytest.approx(value, abs=6e-4)


def test_one_run_has_no_interval_and_runs_without_a_value_do_not_count() -> None:
    assert mean_over([2.0, float("nan")])[0] == 2.0
    assert np.isnan(mean_over([2.0, float("nan")]).half)
    assert np.isnan(mean_over([float("nan")]).value)


def test_the_seed_draws_choices_of_the_router_and_guesses_too() -> None:
    more = ", router = two_choices"
    load = "input = 300, output = 20, rate = constant(40 req/s), requests = 60, seed = 3"
    (made,) = compile_text(TEXT.format(load=load, more=more))
    first, second = made.simulate_seeds(2).runs
    assert first.summary.ttft.mean.value != second.summary.ttft.mean.value


def test_the_command_tells_means_of_all_plans_and_how_many_runs_meet_a_requirement(capsys, tmp_path) -> None:
    text = TEXT.format(load=LOAD, more="") + "plan q = p with { require ttft <= 1 us }\n"
    status, out, err = run(capsys, tmp_path, text, "--seeds", "3")
    assert (status, err) == (1, "")
    assert "3 runs of 60 requests, seeds 3 to 5: " in out
    assert "in 3 of 3 runs" in out
    assert "in 0 of 3 runs" in out
    assert "means over the same seeds" in out
    status, out, _ = run(capsys, tmp_path, text, "--seeds", "3", "--json", "--plan", "p")
    (told,) = json.loads(out)["plans"]
    assert (status, told["seeds"], len(told["runs"])) == (0, [3, 4, 5], 3)
    assert told["ttft_s"]["p90"]["half_width"] > 0
    assert told["requires"][1]["met_runs"] == 3


@pytest.mark.parametrize(
    ("load", "arguments", "says"),
    [
        (LOAD, ["--seeds", "1"], "--seeds 1 is not from 2 to 10,000"),
        (LOAD, ["--seeds", "10001"], "at most `--seeds 10000`; or raise the limit: `planc ... --max seeds=10001`"),
        (LOAD, ["--seeds", "3", "--find-rate"], "--find-rate is about one load"),
        (LOAD, ["--seeds", "3", "--rows", "x.csv"], "--rows is about one load"),
        ("input = 90, output = 9, concurrency = 4, requests = 9", ["--seeds", "3"], "`p` draws nothing from a seed"),
    ],
)
def test_what_several_seeds_do_not_have_is_refused(
    capsys, tmp_path, load: str, arguments: list[str], says: str
) -> None:
    status, out, err = run(capsys, tmp_path, TEXT.format(load=load, more=""), *arguments)
    assert (status, out) == (2, "")
    assert "error[E400]" in err
    assert says in err
