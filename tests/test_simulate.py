"""`planc simulate FILE`: requests of a plan served one by one, and what is told of them."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest

import plandsl
from plandsl.backends.cost.answers.simulation import simulate_plan
from plandsl.backends.cost.serving.table import EXACT
from plandsl.cli import main
from plandsl.diagnostics import PlanError
from plandsl.driver import CompiledPlan, compile_text

PLAN = """plan p {{ model = llama_3_1_8b, node = h100_8, sharding {{ {sharding} }}, engine = {engine}
  workload {{ {load} }}
  {more}
}}
"""
LOAD = "input = 500, output = 20, rate = 20 req/s, requests = 120"


def plan(load: str = LOAD, more: str = "", sharding: str = "tp = 1", engine: str = "vllm") -> CompiledPlan:
    (made,) = compile_text(PLAN.format(load=load, more=more, sharding=sharding, engine=engine))
    return made


def run(capsys, tmp_path, text: str, *arguments: str) -> tuple[int, str, str]:
    """Exit status, standard output, standard error."""
    file = tmp_path / "a.plan"
    file.write_text(text)
    status = main(["simulate", str(file), *arguments])
    return status, *capsys.readouterr()


def test_what_is_told_is_what_became_of_the_requests() -> None:
    found = plan().simulate()
    told, records = found.simulation.summary, found.records
    assert told.requests == told.served == 120
    assert told.ttft.mean.value == pytest.approx(records.ttft_s.mean(), rel=1e-12)
    assert told.latency.p95.value == pytest.approx(np.percentile(records.latency_s, 95), rel=1e-12)
    assert told.output_rate == pytest.approx(120 * 20 / told.duration_s, rel=1e-12)


@pytest.mark.parametrize("engine", ["vllm", "sglang", "trtllm"])
def test_each_engine_has_its_scheduler(engine: str) -> None:
    assert plan(engine=engine).simulate(10).simulation.scheduler == engine


def test_replicas_take_turns() -> None:
    found = plan(sharding="dp = 4")
    assert found.simulate(8).records.replica.tolist() == [0, 1, 2, 3] * 2


def test_more_replicas_wait_less() -> None:
    load = "input = 2000, output = 100, rate = 60 req/s, requests = 200"
    one, four = (plan(load, sharding=f"dp = {n}").simulate().simulation.summary for n in (1, 4))
    assert four.ttft.mean.value < one.ttft.mean.value
    assert four.latency.mean.value < one.latency.mean.value


@pytest.mark.parametrize(
    ("require", "values"),
    [
        ("p95(ttft) <= 1 ms", lambda r, s: np.percentile(r.ttft_s, 95)),
        ("p99_9(latency) <= 9 s", lambda r, s: np.percentile(r.latency_s, 99.9)),
        ("tpot <= 9 s", lambda r, s: r.tpot_s.mean()),
        ("throughput >= 1 tok/s", lambda r, s: s.output_rate),
        ("throughput_per_gpu >= 1 tok/s", lambda r, s: s.output_rate / 2),
    ],
)
def test_requirements_are_checked_on_the_run(require: str, values) -> None:
    found = plan(more=f"require {require}", sharding="tp = 2").simulate()
    (told,) = found.simulation.requires
    assert told.value == pytest.approx(values(found.records, found.simulation.summary), rel=1e-12)
    assert told.ok == found.simulation.ok == ("1 ms" not in require)


def test_goodput_counts_requests_that_keep_every_bound() -> None:
    bare = plan().simulate()
    middle = float(np.median(bare.records.ttft_s))
    found = plan(more=f"require p99(ttft) <= {middle * 1e6} us and goodput >= 1 req/s").simulate().simulation
    kept = (bare.records.ttft_s <= middle).sum()
    assert found.summary.goodput == pytest.approx(kept / found.summary.duration_s, rel=0.02)


def test_classes_keep_their_own_requirements() -> None:
    load = """rate = 20 req/s, requests = 100
      class chat { share = 50 %, input = 100, output = 10, require p90(ttft) <= 9 s }
      class batch { share = 50 %, input = 4000, output = 10, require p90(ttft) <= 1 us }"""
    found = plan(load).simulate()
    chat, batch = found.simulation.requires
    assert (chat.text, chat.ok) == ("p90(ttft) <= 9 s (chat)", True)
    assert (batch.text, batch.ok) == ("p90(ttft) <= 1 us (batch)", False)
    short = found.records.ttft_s[found.records.kind == 0]
    assert chat.value == pytest.approx(np.percentile(short, 90), rel=1e-12)
    assert found.simulation.summary.goodput == pytest.approx(len(short) / found.simulation.summary.duration_s)
    assert set(found.columns()["class"]) == {"chat", "batch"}


def test_what_a_run_cannot_check_is_said() -> None:
    assert plan(more="require memory <= 95 %").simulate(5).simulation.unchecked == ("memory <= 95 %",)
    one = LOAD.replace("output = 20", "output = 1")
    lone = plan(one, "require tpot <= 1 us and ttft <= 9 s").simulate(5).simulation
    assert (lone.unchecked, [r.text for r in lone.requires], lone.ok) == (("tpot <= 1 us",), ["ttft <= 9 s"], True)
    rare = """rate = 20 req/s, requests = 5
      class all { share = 99.999 %, input = 9, output = 9 }
      class none { share = 0.001 %, input = 9, output = 9, require ttft <= 1 us }"""
    found = plan(rare).simulate().simulation
    assert (found.unchecked, found.ok) == (("ttft <= 1 us (none)",), True)


def test_a_class_whose_requests_are_refused_misses_what_it_requires() -> None:
    load = """rate = 20 req/s, requests = 30
      class short { share = 50 %, input = 100, output = 10 }
      class long { share = 50 %, input = 100, output = 900_000, require ttft <= 9 s }"""
    (told,) = plan(load).simulate().simulation.requires
    assert not told.ok


def test_turns_come_after_the_user_has_thought() -> None:
    load = "input = 50, output = 5, rate = 2 req/s, requests = 40; sessions { turns = 4, think = 3 s }"
    found = plan(load).simulate().records
    starts = np.sort(found.arrival_s)
    assert len(starts) == 40
    for index in range(40):  # each turn but the first of a conversation starts 3 s after an answer
        gaps = found.arrival_s[index] - found.finish_s
        assert found.input[index] == 50 or np.isclose(gaps, 3, atol=1e-9).any()


def test_a_closed_loop_keeps_its_requests_in_flight() -> None:
    found = plan("input = 300, output = 30, concurrency = 8, requests = 64").simulate()
    records = found.records
    assert found.simulation.occupancy.running[1] <= 8
    ends = np.sort(records.finish_s)
    assert np.allclose(np.sort(records.arrival_s)[8:], ends[:-8])


def test_a_lone_batch_takes_what_its_estimate_says() -> None:
    made = plan("input = 700, output = 40, batch = 1")
    told = made.simulate().simulation.summary
    assert told.served == 1
    assert told.ttft.mean.value == pytest.approx(made.estimate().ttft_s, rel=1e-9)
    assert told.tpot.mean.value == pytest.approx(made.estimate().tpot_s, rel=EXACT)


def test_the_same_seed_gives_the_same_bytes(capsys, tmp_path) -> None:
    text = PLAN.format(load=f"{LOAD}, seed = 7", more="", sharding="tp = 1", engine="vllm")
    first, again = (run(capsys, tmp_path, text, "--json") for _ in range(2))
    assert first == again
    assert first != run(capsys, tmp_path, text.replace("seed = 7", "seed = 8"), "--json")


def test_rows_have_a_line_for_each_request(capsys, tmp_path) -> None:
    out = tmp_path / "rows.csv"
    text = PLAN.format(load=LOAD, more="", sharding="tp = 1", engine="vllm")
    status, said, _ = run(capsys, tmp_path, text, "--json", "--rows", str(out), "--requests", "30")
    rows = list(csv.DictReader(out.read_text().splitlines()))
    (told,) = json.loads(said)["plans"]
    assert (status, len(rows), told["served"]) == (0, 30, 30)
    mean = sum(float(row["ttft_s"]) for row in rows) / 30
    assert mean == pytest.approx(told["ttft_s"]["mean"]["value"], rel=1e-12)


def test_a_failed_requirement_is_an_exit_status(capsys, tmp_path) -> None:
    text = PLAN.format(load=LOAD, more="require p50(ttft) <= 1 us", sharding="tp = 1", engine="vllm")
    status, out, _ = run(capsys, tmp_path, text, "--requests", "20")
    assert status == 1
    assert "require p50(ttft) <= 1 us  FAILED, " in out
    assert not any(line.endswith(" ") for line in out.splitlines())


def test_an_overload_is_called_unstable() -> None:
    load = "input = 8000, output = 300, rate = 500 req/s, requests = 300"
    assert any("queue grows" in warning for warning in plan(load).simulate().simulation.summary.warnings)


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (PLAN.format(load=LOAD, more="", sharding="tp = 1", engine="vllm").replace("_8b", "_405b"), "E328"),
    ],
)  # fmt: skip
def test_what_cannot_be_served_is_a_diagnostic(text: str, code: str) -> None:
    (made,) = compile_text(text)
    with pytest.raises(PlanError, match=code):
        simulate_plan(made)


@pytest.mark.parametrize(
    ("arguments", "code"),
    [(["--requests", "0"], "E400"), (["--rows", "x.txt"], "E400"), (["--rows", "no/such/x.csv"], "E405")],
)
def test_wrong_arguments_are_diagnosed(capsys, tmp_path, arguments: list[str], code: str) -> None:
    text = PLAN.format(load=LOAD, more="", sharding="tp = 1", engine="vllm")
    status, _, err = run(capsys, tmp_path, text, *arguments)
    assert status == 2
    assert f"error[{code}]" in err


@pytest.mark.parametrize(
    ("sharding", "load"),
    [
        ("dp = 2", "input = uniform(100, 900), output = uniform(1, 20), rate = 20 req/s, requests = 60"),
        ("tp = 1", "rate = 20 req/s, requests = 60\n class a { share = 50 %, input = 100, output = 9, "
                   "require p90(ttft) <= 1 s }\n class b { share = 50 %, input = 900_000, output = 2 }"),
    ],
)  # fmt: skip
def test_many_requests_are_told_of_without_their_steps(capsys, tmp_path, monkeypatch, sharding, load) -> None:
    text = PLAN.format(
        load=load, more="require p90(ttft) <= 1 s and goodput >= 1 req/s", sharding=sharding, engine="vllm"
    )
    many, few = tmp_path / "many.csv", tmp_path / "few.csv"
    _, said, _ = run(capsys, tmp_path, text, "--json", "--rows", str(few))
    monkeypatch.setattr("plandsl.backends.cost.answers.simulation.MANY", 50)
    monkeypatch.setattr("plandsl.backends.cost.answers.simulation.ROWS", 7)
    _, lean, _ = run(capsys, tmp_path, text, "--json", "--rows", str(many))
    assert many.read_bytes() == few.read_bytes()
    (told,), (leanly,) = json.loads(said)["plans"], json.loads(lean)["plans"]
    assert leanly["itl_s"]["number"] == 0
    assert leanly["occupancy"]["busy_share"] is leanly["occupancy"]["running"]["peak"] is None
    assert [w for w in leanly["warnings"] if w not in told["warnings"]] == [
        "steps of 60 requests are not kept: no ITL, and not what servers held"
    ]
    for name in told.keys() - {"itl_s", "occupancy", "warnings"}:
        assert leanly[name] == told[name], name
    _, shown, _ = run(capsys, tmp_path, text)
    assert "a server had" not in shown
    assert "of the time" not in shown
    _, plain, _ = run(capsys, tmp_path, text, "--requests", "40")
    assert "a server had" in plain


def test_rows_hold_one_plan(capsys, tmp_path) -> None:
    text = PLAN.format(load=LOAD, more="", sharding="tp = 1", engine="vllm")
    status, _, err = run(capsys, tmp_path, text + "plan q = p\n", "--rows", str(tmp_path / "x.csv"))
    assert status == 2
    assert "error[E403]" in err
    assert "--plan p" in err


# ---- loads of which little is served


def test_a_load_that_ends_before_its_first_request_is_diagnosed(capsys, tmp_path) -> None:
    load = "input = 500, output = 20, rate = 1 req/s, duration = 1 ms"
    status, _, err = run(capsys, tmp_path, PLAN.format(load=load, more="", sharding="tp = 1", engine="vllm"))
    assert status == 2
    assert "error[E214]: no request of the load `p` arrives within 1.00 ms" in err
    assert "2 |   workload { input = 500" in err  # the line of the plan, though the load is drawn after it is compiled


def test_a_run_that_serves_nothing_is_not_ok_and_shows_no_numbers(capsys, tmp_path) -> None:
    load = "input = 5_000_000, output = 20, rate = 1 req/s, requests = 3"
    status, out, _ = run(capsys, tmp_path, PLAN.format(load=load, more="", sharding="tp = 1", engine="vllm"))
    assert status == 1
    assert "no request served, of 3" in out
    assert "nan" not in out
    assert "warning: 3 of 3 requests exceed the context of `llama_3_1_8b`, 131,072 tokens" in out


def test_failed_requests_of_a_trace_are_counted(capsys, tmp_path) -> None:
    rows = "TIMESTAMP,ContextTokens,GeneratedTokens\n2026-01-05 09:00:00,90,{}\n2026-01-05 09:00:01,90,0\n"
    text = PLAN.format(load='trace = "t.csv"', more="", sharding="tp = 1", engine="vllm")
    (tmp_path / "t.csv").write_text(rows.format(5))
    status, out, _ = run(capsys, tmp_path, text)
    assert status == 0
    assert "N452  1 row of t.csv generated no token" in out
    _, out, _ = run(capsys, tmp_path, text, "--json")
    assert [note["code"] for note in json.loads(out)["plans"][0]["notes"]] == ["N452"]
    (tmp_path / "t.csv").write_text(rows.format(0))
    assert "every row generated no token" in run(capsys, tmp_path, text)[2]


def test_a_trace_that_is_shorter_than_asked_for_says_so(capsys, tmp_path) -> None:
    rows = "".join(f"2026-01-05 09:{i // 60:02d}:{i % 60:02d},2000,600\n" for i in range(600))
    (tmp_path / "t.csv").write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n" + rows)
    text = PLAN.format(load='trace = "t.csv", duration = 20 s', more="", sharding="tp = 1", engine="sglang")
    assert "warning: the load has 20 requests, not 30" in run(capsys, tmp_path, text, "--requests", "30")[1]
    main(["compile", str(tmp_path / "a.plan"), "--set", "workload.duration=600 s"])
    assert " of 600 requests; `planc simulate` serves all" in capsys.readouterr().out


# ---- reuse


def test_a_shared_prefix_is_computed_once_and_found_by_all_others() -> None:
    load = "input = 1000, output = 4, rate = 5 req/s, requests = 30, reuse = 60 %, prefix = shared"
    made = plan(load)
    found = made.simulate()
    assert found.records.cached.tolist() == [0] + [592] * 29  # 37 whole blocks of 16 tokens
    assert found.records.ttft_s[-1] < plan(load.split(", reuse")[0]).simulate().records.ttft_s[-1]
    assert made.estimate().simulated is not None


def test_reuse_of_own_blocks_is_said_to_be_left_out() -> None:
    load = "input = 1000, output = 4, rate = 5 req/s, requests = 30, reuse = 60 %"
    assert plan(load).simulate().simulation.summary.warnings[0].startswith("`reuse` of blocks that each request has")


# ---- several plans

TWO = """workload chat { input = uniform(100, 900), output = 20, rate = 40 req/s, requests = 130 }
plan one { model = llama_3_1_8b, node = h100_1, sharding { tp = 1 }, workload = chat, require p95(ttft) <= 1 us }
plan two { model = llama_3_1_8b, node = h100_8, sharding { dp = 2 }, workload = chat, require p95(ttft) <= 9 s }
plan far = one with { workload { rate = 41 req/s } }
"""


def test_plans_side_by_side_serve_the_same_requests(capsys, tmp_path) -> None:
    one, two = plandsl.simulate([made for made in compile_text(TWO) if made.name != "far"])
    assert one.records.arrival_s.tolist() == two.records.arrival_s.tolist()
    assert one.records.input.tolist() == two.records.input.tolist()
    status, out, _ = run(capsys, tmp_path, TWO, "--plan", "one", "--plan", "two")
    table = out[out.index("side by side") :]
    assert (status, table.split()[3:5]) == (1, ["one", "two"])
    assert "1 FAILED" in table
    assert "all plans served the same requests" in table
    for word in ("TTFT p99", "TPOT p50", "latency p95", "throughput", "goodput", "preemptions", "KV cache, peak"):
        assert word in table


@pytest.mark.parametrize("more", [(), ("--find-rate",)])
def test_a_plan_that_cannot_be_served_leaves_the_others_their_answer(capsys, tmp_path, more: tuple[str, ...]) -> None:
    text = TWO + "plan big = two with { model = llama_3_1_405b }\n"
    status, out, _ = run(capsys, tmp_path, text, "--plan", "two", "--plan", "big", "--requests", "20", *more)
    assert status == 1
    assert "two  llama_3_1_8b on h100_8" in out
    assert "`big` has no room for a KV cache" in out
    status, out, _ = run(capsys, tmp_path, text, "--plan", "two", "--plan", "big", "--requests", "20", "--json", *more)
    body = json.loads(out)
    assert [one["plan"] for one in body["rates" if more else "plans"]] == ["two"]
    assert [(one["plan"], one["code"]) for one in body["unserved"]] == [("big", "E328")]
    assert run(capsys, tmp_path, text, "--plan", "big", *more)[0] == 2


def test_plans_of_other_loads_are_said_to_differ(capsys, tmp_path) -> None:
    _, out, _ = run(capsys, tmp_path, TWO, "--plan", "one", "--plan", "far", "--requests", "20")
    assert "the plans have different loads" in out
    assert "two " not in out


def test_each_plan_has_an_entry_in_json(capsys, tmp_path) -> None:
    _, out, _ = run(capsys, tmp_path, TWO, "--json", "--requests", "20")
    assert [plan["plan"] for plan in json.loads(out)["plans"]] == ["one", "two", "far"]


def test_progress_counts_the_requests_of_all_plans() -> None:
    heard: list[tuple[int, int]] = []
    plandsl.simulate(compile_text(TWO)[:2], tick=lambda done, of: heard.append((done, of)))
    assert heard == [(64, 260), (128, 260), (194, 260), (258, 260)]


def test_an_interrupted_run_leaves_no_file(capsys, tmp_path, monkeypatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("plandsl.commands.console.Progress.__call__", interrupt)
    out = tmp_path / "rows.csv"
    status, said, err = run(capsys, tmp_path, TWO, "--plan", "one", "--rows", str(out))
    assert (status, said, err) == (130, "", "interrupted\n")
    assert not list(tmp_path.glob("rows*"))
