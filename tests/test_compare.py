"""`planc compare`: runs of benchmarks are simulated at their loads, and the cause of the largest gap is named."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from functools import cache
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest
from attrs import evolve

import plandsl
from plandsl.answers.comparison import Comparison, Measure
from plandsl.backends.compare.bands import find_bands
from plandsl.backends.compare.bench import Bench, Lengths
from plandsl.backends.compare.compare import compare_each, compare_runs, read_all
from plandsl.backends.compare.documents import parse_documents
from plandsl.backends.compare.fit import check_fit
from plandsl.backends.compare.formats import AT_ONCE, OPEN
from plandsl.backends.compare.loads import count_of
from plandsl.backends.compare.notes import notes_of
from plandsl.backends.compare.predict import Predictor, measures_of, value_of, with_engine
from plandsl.backends.compare.suspects import KINDS, MOST_RUNS, Cases, cases_of, moved, pick
from plandsl.backends.cost.deployments.server import Server
from plandsl.backends.cost.deployments.step import Prompt
from plandsl.backends.cost.serving.clock import ServerClock, Shape, server_clock, table_clock
from plandsl.backends.cost.serving.records import Records
from plandsl.cli import main
from plandsl.codes import CODES
from plandsl.codes_compare import COMPARE_CODES
from plandsl.diagnostics import PlanError
from plandsl.driver import CompiledPlan, compile_text
from plandsl.entries import catalog_has
from plandsl.spec.hardware import EngineSpec
from tests.test_compare_files import BENCH, PLAN, bench, raw


@cache
def chat(text: str = PLAN) -> CompiledPlan:
    return compile_text(text)[0]


def planc(*words: str) -> tuple[int, str, str]:
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        try:
            status = main(words)
        except SystemExit as error:
            status = int(error.code or 0)
    return status, out.getvalue(), err.getvalue()


# ---- loads and predictions


def test_a_run_is_simulated_at_its_own_load() -> None:
    (run,) = bench("vllm_8.json")
    found = predictor().run(run, predictor().alone)
    alone = chat(PLAN.replace("concurrency = 32", "concurrency = 8, requests = 80")).simulate()
    assert found.simulation.summary.requests == 80
    assert found.simulation.summary.ttft.mean.value == pytest.approx(alone.simulation.summary.ttft.mean.value)
    assert found.simulation.summary.tpot.mean.value == pytest.approx(alone.simulation.summary.tpot.mean.value)


def test_long_runs_are_cut_to_whole_rounds() -> None:
    (run,) = bench("vllm_8.json")
    assert count_of(run) == 80
    assert count_of(evolve(run, requests=10**8)) % 8 == 0
    assert count_of(evolve(run, requests=10**8)) < 10**5
    assert count_of(evolve(run, requests=5000, kind=AT_ONCE)) == 5000


def test_values_beside_the_measured_are_those_of_the_simulated_requests() -> None:
    (run,) = bench("guidellm.json")[:1]
    found = predictor().run(run, predictor().alone)
    measures = {(m.metric, m.statistic): m for m in measures_of(chat().spec, run, found)}
    latency = found.records.latency_s
    assert measures["latency", "p99.9"].predicted == pytest.approx(float(np.percentile(latency, 99.9)))
    assert measures["ttft", "mean"].predicted == pytest.approx(float(found.records.ttft_s.mean()))
    low, high = chat().spec.engine_band("ttft", jittered=False) or (0.0, 0.0)
    mean = measures["ttft", "mean"]
    assert (mean.low, mean.high) == (pytest.approx(low * mean.predicted), pytest.approx(high * mean.predicted))


def test_inside_and_outside_are_said_of_the_band() -> None:
    assert Measure("ttft", "mean", 1.0, 1.0, low=0.9, high=1.1).inside is True
    assert Measure("ttft", "mean", 1.2, 1.0, low=0.9, high=1.1).inside is False
    assert Measure("ttft", "mean", 1.2, 1.0).inside is None


# ---- causes


@cache
def predictor() -> Predictor:
    return Predictor(chat())


FIGURES = [name for name, field in attrs.fields_dict(EngineSpec).items() if isinstance(field.default, float)]
"""The figures of an engine that may be fitted, and its bands."""


@pytest.mark.parametrize("kind", [server_clock, table_clock])
def test_a_clock_with_another_engine_is_that_of_the_other_engine(kind: Callable[[Server], ServerClock]) -> None:
    """Its kernels are kept where the engine's paces are the same: then nothing else of the engine may change them."""
    pool = predictor().pools[0]
    first, shapes = kind(pool.one), (Shape(None, 8, 900.0, 8), Shape(Prompt(2, 700), 3, 500.0, 5, admitted=2))
    for name in FIGURES:
        other = pool.on(with_engine(pool.plan, lambda e, n=name: evolve(e, **{n: getattr(e, n) * 0.9 + 0.01}))).one
        moved_, new = first.on(other), kind(other)
        assert [moved_.cost_of(shape) for shape in shapes] == [new.cost_of(shape) for shape in shapes], name
        assert moved_.delay(3) == new.delay(3), name
        assert (moved_.kernels is first.kernels) == (name not in ("prefill", "decode", "links")), name


def measured_with(change: Any, loads: tuple[int, ...]) -> list[Bench]:
    """Runs of a server whose engine is otherwise: what the simulation says of it stands for the measured."""
    (one,) = bench("vllm_8.json")
    servers, runs = predictor().servers(change), []
    for clients in loads:
        run = evolve(one, clients=clients, requests=3 * clients)
        told = predictor().run(run, servers)
        keys = [(metric, "mean") for metric in ("ttft", "tpot")]
        runs.append(evolve(run, measured={key: value_of(told, *key) for key in keys}))
    return runs


PLANTED = {"prefill_kernels": 0.6, "client_request": 5e-3}  # the host's is in the test of the fit


@pytest.mark.parametrize("name", PLANTED)
def test_the_cause_that_was_planted_is_named_from_runs_at_several_loads(name: str) -> None:
    kind = next(kind for kind in KINDS if kind.name == name)
    found = compare_runs(chat(), measured_with(moved(kind, PLANTED[name]), (1, 24)), catalog_has)
    assert found.verdict is not None
    likely = [s.name for s in found.verdict.suspects[: found.verdict.likely]]
    assert likely[:1] == [name]
    assert found.verdict.suspects[0].error < 0.02 < found.verdict.error


def test_one_run_does_not_tell_kernels_of_decode_from_the_host_and_says_so() -> None:
    kind = next(kind for kind in KINDS if kind.name == "decode_kernels")
    found = compare_runs(chat(), measured_with(moved(kind, 0.4), (32,)), catalog_has)
    verdict = found.verdict
    assert verdict is not None
    assert {"decode_kernels", "host_request"} <= {s.name for s in verdict.suspects[: verdict.likely]}
    assert any("cannot tell" in line for line in verdict.why)
    assert any("--max-concurrency 1" in line for line in verdict.measure)


def test_a_small_gap_is_not_explained() -> None:
    found = compare_runs(chat(), measured_with(lambda engine: engine, (4,)), catalog_has)
    assert found.verdict is None
    assert "nothing to explain" in found.why_not


def test_a_cache_that_is_smaller_than_predicted_is_named_as_the_cause() -> None:
    text = PLAN.replace("input = 1024, output = 128, concurrency = 32", "input = 12000, output = 100, concurrency = 32")
    made = chat(text)
    own = Predictor(made)
    (one,) = bench("vllm_8.json")
    run = evolve(one, clients=32, requests=48, input=Lengths(12000.0), output=Lengths(100.0))
    less = own.kv_bytes(run) / 2
    told = own.run(run, own.servers(lambda engine: evolve(engine, reserve=engine.reserve + less)))
    run = evolve(run, measured={(m, "mean"): value_of(told, m, "mean") for m in ("ttft", "tpot")})
    found = compare_runs(made, [run], catalog_has)
    assert found.verdict is not None
    assert found.verdict.suspects[0].name == "memory"
    assert found.verdict.suspects[0].change == "50% of the predicted room"


def test_the_run_with_the_largest_gap_is_among_those_that_judge() -> None:
    loads = [float(n) for n in range(1, 40)]
    for keep in (0, 7, 38):
        chosen = pick(loads, keep)
        assert keep in chosen
        assert {0, 38} <= set(chosen)
        assert len(chosen) <= MOST_RUNS + 1


def test_a_change_after_which_nothing_is_served_explains_nothing() -> None:
    runs = measured_with(lambda engine: evolve(engine, step=3e-3), (4,))
    told, _ = compare_each(predictor(), runs, catalog_has)
    cases, _ = cases_of(runs, told)
    assert cases.loss(np.full_like(cases.predicted, np.inf)) > cases.loss(cases.predicted)
    assert cases.loss(np.full_like(cases.predicted, np.nan)) > cases.loss(cases.predicted)


def test_a_plan_without_an_engine_is_told_to_name_one() -> None:
    found = compile_text(PLAN.replace("  engine = vllm\n", ""))[0].compare(str(BENCH / "vllm_8.json"))
    assert found.verdict is None
    assert "engine = vllm" in found.why_not
    assert all(m.inside is None for m in found.runs[0].measures)


# ---- notes


def notes(name: str, text: str = PLAN, **changes: Any) -> list[str]:
    documents = parse_documents(raw(name, **changes), "x.json")
    runs, findings = read_all(documents)
    assert not findings
    told = compare_runs(chat(text.replace("engine = vllm", "")), runs, catalog_has)
    return [note.code for run in told.runs for note in run.notes]


def test_notes_say_what_run_and_plan_disagree_on() -> None:
    assert notes("vllm_32.json") == ["N539"]
    assert notes("vllm_32.json", model_id="Qwen/Qwen3-32B")[0] == "N535"
    assert notes("vllm_32.json", model_id="/srv/models/llama-3.1-8b-instruct") == ["N539"]
    assert notes("vllm_32.json", tensor_parallel_size="2")[0] == "N536"
    assert "N537" in notes("vllm_8.json")
    assert notes("vllm_32.json", model_id="") == ["N539"]
    assert notes("vllm_32.json", total_input_tokens=..., failed=3) == ["N539"]
    assert notes("vllm_rate.json", max_concurrency=64) == ["N537"]


def test_settings_of_a_server_are_laid_beside_the_engine() -> None:
    text = PLAN.replace("llama_3_1_8b", "qwen3_8b").replace(
        "engine = vllm", "engine = sglang with { max_requests = 64 }"
    )
    runs, _ = compare_each(Predictor(chat(text)), bench("sglang.jsonl"), catalog_has)
    told = {note.message for run in runs for note in run.notes if note.code == "N538"}
    assert any("`max_requests` 2048" in message and "64" in message for message in told)


def served(run: Bench) -> Records:
    return predictor().run(run, predictor().alone).records


def in_flight(records: Records) -> int:
    """The most requests that are in flight at once."""
    moments = sorted([(t, 1) for t in records.arrival_s] + [(t, -1) for t in records.finish_s])
    return int(np.cumsum([change for _, change in moments]).max())


def test_a_rate_with_a_cap_sends_no_request_before_its_time_and_no_more_than_the_cap() -> None:
    (one,) = bench("vllm_rate.json")
    free = served(one)
    most = in_flight(free)
    assert most > 4
    for cap in (1, most // 2):
        capped = served(evolve(one, cap=cap))
        assert in_flight(capped) == cap
        assert (capped.arrival_s >= free.arrival_s - 1e-9).all()
        assert capped.arrival_s[-1] > free.arrival_s[-1]
    np.testing.assert_allclose(served(evolve(one, cap=most)).finish_s, free.finish_s)


def test_a_cap_on_requests_that_all_come_at_once_is_a_closed_loop() -> None:
    (one,) = bench("vllm_8.json")
    loop = evolve(one, clients=8, requests=24)
    open_ = evolve(loop, kind=OPEN, clients=0, rate=0.0, cap=8)
    np.testing.assert_array_equal(served(open_).first_s, served(loop).first_s)


def test_a_cap_of_requests_comes_from_the_file_of_a_benchmark() -> None:
    ((run,), _) = read_all(parse_documents(raw("vllm_rate.json", max_concurrency=3), "x.json"))
    assert (run.cap, run.load) == (3, f"{run.rate:.3g} req/s, 3 at once")


# ---- fit


def test_a_fitted_engine_finds_the_planted_constant_and_writes_a_plan(tmp_path: Path) -> None:
    kind = next(kind for kind in KINDS if kind.name == "host_step")
    found = compare_runs(chat(), measured_with(moved(kind, 2e-3), (1, 24)), catalog_has, fit="mine")
    fitted = found.fitted
    assert fitted is not None
    assert [c.name for c in fitted.constants] == ["step"]
    assert found.verdict is not None
    assert [s.name for s in found.verdict.suspects[: found.verdict.likely]][:1] == ["host_step"]
    assert fitted.constants[0].after == pytest.approx(0.2595e-3 + 2e-3, rel=0.05)
    assert all(error < 0.01 for _, error in fitted.after)
    assert dict(fitted.left_out or ())["tpot"] < 0.02 < dict(fitted.before)["tpot"]
    assert "the bands reach as far as those of vllm" in fitted.skipped[-1]
    (tmp_path / "mine.plan").write_text(fitted.text)
    (tmp_path / "chat.plan").write_text('use "mine.plan"\n' + PLAN.replace("vllm", "mine"))
    again = plandsl.compile(tmp_path / "chat.plan")
    assert again.spec.engine is not None
    assert again.spec.engine.step == pytest.approx(fitted.constants[0].after)
    for metric in ("ttft", "tpot", "throughput"):  # two runs do not narrow the band of the engine that was there
        low, high = again.spec.engine_band(metric, jittered=False) or (0.0, 0.0)
        before = chat().spec.engine_band(metric, jittered=False)
        assert before is not None
        assert low <= before[0] * 1.001
        assert high >= before[1] * 0.999


def test_an_engine_that_is_right_is_written_as_it_is() -> None:
    """Nothing is fitted to a run that the simulation predicts, even where one of its metrics is missing."""
    runs = measured_with(lambda engine: engine, (2, 4))
    runs[1] = evolve(runs[1], measured={key: value for key, value in runs[1].measured.items() if key[0] == "ttft"})
    fitted = compare_runs(chat(), runs, catalog_has, fit="mine").fitted
    assert fitted is not None
    assert fitted.constants == ()
    assert all(error < 1e-6 for _, error in (*fitted.before, *fitted.after))
    assert "they lower no error of a run left out" in fitted.skipped[0]
    assert compile_text(fitted.text + PLAN.replace("engine = vllm", "engine = mine"))[0].spec.engine is not None


def test_a_run_without_ttft_and_tpot_cannot_be_fitted_to() -> None:
    (one,) = bench("vllm_8.json")
    few = evolve(one, clients=1, requests=2, measured={("throughput", "mean"): 100.0})
    runs, _ = compare_each(predictor(), [few], catalog_has)
    with pytest.raises(PlanError) as raised:
        check_fit(predictor(), runs)
    (found,) = raised.value.diagnostics
    assert (found.code, found.message) == ("E566", "no run has TTFT or TPOT, to which an engine is fitted")


@pytest.mark.parametrize(("runs", "spread", "narrow"), [(12, 0.02, True), (4, 0.02, False), (12, 3.0, False)])
def test_bands_hold_the_runs_that_were_left_out_and_narrow_with_their_number(
    runs: int, spread: float, narrow: bool
) -> None:
    (one,) = bench("vllm_8.json")
    measured = np.exp(np.linspace(-spread, spread, runs))[:, None] * np.array([[0.1, 0.01]])
    cases = Cases([one] * runs, [{}] * runs, measured, np.broadcast_to([0.1, 0.01], measured.shape))
    found = find_bands(cases, cases.predicted, chat().spec)
    assert found is not None
    for metric in ("ttft", "tpot", "throughput"):
        low, high = found.find(metric, chat().spec.served(jittered=one.differ)) or (0.0, 0.0)
        before = chat().spec.engine_band(metric, one.differ)
        assert before is not None
        assert (low > before[0] and high < before[1]) is narrow
        inside = [low <= float(np.exp(e)) <= high for e in np.linspace(-spread, spread, runs)]
        assert sum(inside) >= 0.8 * runs


# ---- the command and Python


def test_the_command_writes_rows_and_an_engine_and_prints_json(tmp_path: Path) -> None:
    plan, rows, engine = (tmp_path / name for name in ("chat.plan", "rows.csv", "mine.plan"))
    plan.write_text(PLAN)
    status, out, err = planc(
        "compare", str(plan), str(BENCH / "vllm_1.json"), "--json", "--rows", str(rows), "--fit", str(engine)
    )
    assert (status, err) == (0, "")
    told = json.loads(out)
    assert told["runs"][0]["measures"][0]["metric"] == "ttft"
    assert told["fit"]["engine"] == "mine"
    assert told["written"] == {"rows": str(rows), "fit": str(engine)}
    table = list(csv.DictReader(rows.read_text().splitlines()))
    assert len(table) == len(told["runs"][0]["measures"])
    assert float(table[0]["measured"]) == told["runs"][0]["measures"][0]["measured"]
    assert "engine mine {" in engine.read_text()
    assert told["fit"]["error_left_out"] is None
    assert len(told["fit"]["constants"]) == 1
    assert any("one run" in line for line in told["fit"]["skipped"])


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("missing.json",), "E560"),
        (("{vllm}", "--fit", "mine.txt"), "E400"),
        (("{vllm}", "--rows", "rows.txt"), "E400"),
        (("{vllm}", "--rows", "{vllm}"), "E400"),
        (("{plan}",), "E560"),
    ],
)
def test_wrong_arguments_end_with_a_diagnostic(words: tuple[str, ...], code: str, tmp_path: Path) -> None:
    plan = tmp_path / "chat.plan"
    plan.write_text(PLAN)
    before = (BENCH / "vllm_8.json").read_bytes()
    given_words = [word.format(vllm=BENCH / "vllm_8.json", plan=plan) for word in words]
    status, _, err = planc("compare", str(plan), *given_words)
    assert status == 2
    assert f"[{code}]" in err
    assert (BENCH / "vllm_8.json").read_bytes() == before


@pytest.mark.parametrize(
    ("words", "code", "hint"),
    [
        (("vllm_1.json", "chat.plan"), "E542", "planc compare chat.plan vllm_1.json"),
        (("chat.plan", "vlm_1.json"), "E560", "did you mean `vllm_1.json`?"),
        (("chat.plan", "."), "E560", "name the files in it: ./*.json"),
        (("chat.plan", "cut.json"), "E560", "a result file is the JSON"),
    ],
)
def test_slips_with_files_are_told_with_what_helps(
    words: tuple[str, ...], code: str, hint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("chat.plan").write_text(PLAN)
    Path("vllm_1.json").write_bytes(raw("vllm_1.json"))
    Path("cut.json").write_text('{\n  "completed": 3,\n  "dura')
    status, _, err = planc("compare", *words)
    assert status == 2
    assert f"error[{code}]" in err
    assert hint in err
    if words[1] == "cut.json":
        assert '3 |   "dura\n  |   ^' in err


def test_a_plan_that_was_imported_is_of_the_model_that_ran(tmp_path: Path) -> None:
    for flags in ((), ("--kv-cache-dtype", "fp8")):
        line = ("vllm", "serve", "meta-llama/Llama-3.1-8B-Instruct", *flags)
        assert planc("import", "-o", str(tmp_path / "x.plan"), "--node", "h100_1", "--", *line)[0] == 0
        run = read_all(parse_documents(raw("vllm_1.json", model_id="meta-llama/Llama-3.1-8B-Instruct"), "x.json"))[0]
        made = plandsl.compile(tmp_path / "x.plan")
        assert "N535" not in [n.code for n in notes_of(made.spec, run[0], catalog_has, simulated=1, alone=True)]


def test_a_plan_that_cannot_serve_the_run_is_told(tmp_path: Path) -> None:
    path = tmp_path / "long.json"
    path.write_bytes(raw(total_input_tokens=80 * 10**8))
    with pytest.raises(PlanError, match="E565"):
        chat().compare(str(path))
    with pytest.raises(PlanError, match="E566"):
        compile_text(PLAN.replace("  engine = vllm\n", ""))[0].compare(str(BENCH / "vllm_8.json"), fit="mine")


def test_an_engine_is_not_fitted_to_pools_with_different_ones() -> None:
    pools = "prefill { node = h100_1, engine = vllm }, decode { node = h100_1, engine = sglang }"
    move = "transfer { bandwidth = 50 GB/s, latency = 10 us }"
    text = PLAN.replace("  node = h100_1\n  engine = vllm\n", f"  {pools}\n  {move}\n")
    made = Predictor(compile_text(text)[0])
    with pytest.raises(PlanError, match="E566"):
        check_fit(made, [])


@pytest.mark.parametrize("width", [40, 80, 120])
def test_the_report_fits_any_terminal(width: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    (tmp_path / "p").mkdir()
    plan = tmp_path / "chat.plan"
    plan.write_text(PLAN.replace("  engine = vllm\n", ""))
    (tmp_path / "a.json").write_bytes(raw())
    monkeypatch.chdir(tmp_path)
    status, out, _ = planc("compare", "chat.plan", "a.json")
    assert status == 0
    assert max(map(len, out.splitlines())) <= width
    assert "207 ms" in out


def test_python_has_the_same_answer_with_tables() -> None:
    found = plandsl.compare(PLAN, BENCH / "vllm_1.json")
    assert isinstance(found, Comparison)
    assert set(found.table("runs").columns) >= {"file", "metric", "measured", "predicted", "ratio", "inside"}
    assert len(found.table("suspects")) == len(found.verdict.suspects if found.verdict else ())
    assert repr(found).startswith("<Comparison chat: 1 run, TPOT 1.29x the predicted")
    assert "largest gap" in found._repr_html_()
    with pytest.raises(PlanError, match="E445"):
        plandsl.compare(PLAN, 3)  # type: ignore[arg-type]
    with pytest.raises(PlanError, match="E445"):
        plandsl.compare(PLAN, [])


def test_every_code_of_comparisons_is_used() -> None:
    root = Path(plandsl.__file__).parents[1]
    paths = [root / "plandsl/commands/compare.py", *(root / "backends/compare").glob("*.py")]
    text = "".join(path.read_text() for path in paths)
    assert [code for code in COMPARE_CODES if f'"{code}"' not in text] == []
    assert set(COMPARE_CODES) <= set(CODES)
