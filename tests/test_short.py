"""Requests over time in `planc compile` and in closed form: a short simulation, and what stands for the load."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from plandsl.backends.cost.answers.mean_load import mean_load
from plandsl.backends.cost.answers.short import SETTLED, WORK, _find_work, _Work
from plandsl.backends.cost.answers.simulation import build_servers
from plandsl.backends.cost.serving.table import EXACT
from plandsl.cli import main
from plandsl.driver import CompiledPlan, compile_text, difference
from tests.draws import draws

PLAN = """plan p {{ model = llama_3_1_8b, node = h100_8, sharding {{ {sharding} }}, engine = {engine}
  workload {{ {load} }}
  {requires}
}}
"""
RATE = "input = uniform(100, 900), output = 20, rate = 20 req/s, requests = 60"
LOOP = "input = 300, output = 20, concurrency = 8"


def plan(load: str, requires: str = "", sharding: str = "tp = 1", engine: str = "vllm") -> CompiledPlan:
    (made,) = compile_text(PLAN.format(load=load, requires=requires, sharding=sharding, engine=engine))
    return made


# ---- a short simulation


def test_a_short_answer_is_the_simulation_of_a_small_load() -> None:
    made = plan(RATE)
    short, whole = made.estimate().simulated, made.simulate().simulation.summary
    assert short is not None
    assert (short.kind, short.requests, short.of) == ("requests", 60, None)
    assert repr((short.ttft, short.tpot, short.latency)) == repr((whole.ttft, whole.tpot, whole.latency))
    assert (short.output_rate, short.goodput) == (whole.output_rate, whole.goodput)


def test_of_a_large_load_the_first_requests_are_served() -> None:
    made = plan(RATE.replace("requests = 60", "requests = 1_000_000"))
    short = made.estimate().simulated
    assert short is not None
    assert short.of == 1_000_000
    assert 20 <= short.requests <= WORK / 20
    assert repr(short.ttft) == repr(made.simulate(short.requests).simulation.summary.ttft)


def served(load: str, engine: str) -> int:
    """How many requests of a large load a short simulation serves."""
    short = plan(f"{load}, requests = 1_000_000", engine=engine).estimate().simulated
    assert short is not None
    return short.requests


def test_more_requests_are_served_where_they_share_steps_or_stretches() -> None:
    closed = "input = uniform(100, 300), output = 400, concurrency = {}"
    assert served(closed.format(64), "vllm") > 2 * served(closed.format(1), "vllm")
    # a stretch of four times the steps takes little longer
    alone = "input = uniform(100, 300), output = {}, concurrency = 1"
    assert served(alone.format(400), "sglang") > served(alone.format(100), "sglang") / 2


def test_more_clients_than_fit_in_memory_run_no_more_at_once() -> None:
    load = "input = uniform(55_000, 65_000), output = 400, concurrency = {}"
    few, some, many = (served(load.format(clients), "vllm") for clients in (4, 16, 64))
    assert few < some == many, "seven fit"


def work_of(engine: str) -> _Work:
    """What requests cost a simulation of a closed loop."""
    made = plan(LOOP, engine=engine)
    return _find_work(made.spec, build_servers(made))


@pytest.mark.parametrize("share", [2, 3, 4])
def test_a_token_more_of_a_prompt_is_little_work_more(share: int) -> None:
    """Also where a step holds one whole prompt less then."""
    work = work_of("sglang")
    tokens = work.chunk // share
    least, more = (work.of(tokens + one, output=2000, clients=64, arrivals=0.0) for one in (0, 1))
    assert least <= more <= 1.01 * least


def test_requests_for_which_memory_is_short_are_more_work() -> None:
    """One more than fits is preempted, and its prompt computed again."""
    work = work_of("vllm")
    fit = work.worker.blocks // (30_000 // work.worker.block)
    one, other = (work.of(20_000, output=10_000, clients=clients) for clients in (fit, fit + 1))
    assert other > one


def test_requirements_on_single_requests_are_checked_by_it() -> None:
    requires = "require p95(ttft) <= 1 us and memory <= 95 % and goodput >= 1 req/s and ttft <= 9 s"
    made = plan(RATE, requires)
    found = made.estimate()
    assert [r.text for r in found.requires] == [
        "p95(ttft) <= 1 us",
        "memory <= 95 %",
        "goodput >= 1 req/s",
        "ttft <= 9 s",
    ]
    told = {r.text: r for r in made.simulate().simulation.requires}
    assert found.requires[0] == told["p95(ttft) <= 1 us"]
    assert found.requires[3] == told["ttft <= 9 s"]
    assert not found.ok
    assert [r.text for r in made.closed_form().requires] == ["memory <= 95 %", "ttft <= 9 s"]


def test_where_it_takes_long_the_closed_form_says_so() -> None:
    load = LOOP.replace("output = 20", "output = 60_000")
    found = plan(load, "require p99(ttft) <= 2 s", engine="sglang").estimate()
    assert found.simulated is None
    assert [n.message for n in found.notes if n.code == "N291"] == [
        "closed form alone, not simulated: it takes long, see `planc simulate`",
        "not checked without a simulation: p99(ttft) <= 2 s",
    ]


def test_a_batch_that_starts_together_is_not_simulated() -> None:
    assert plan("input = 300, output = 20, batch = 8").estimate().simulated is None


def test_reports_say_what_is_simulated_and_what_is_not(capsys, tmp_path: Path) -> None:
    text = PLAN.format(load=RATE, requires="require p90(ttft) <= 9 s", sharding="tp = 1", engine="vllm")
    (tmp_path / "a.plan").write_text(text + "plan q = p with { workload { rate = 30 req/s } }\n")
    shown = {}
    for verb, *more in (["compile"], ["explain"], ["diff"], ["check"], ["render", "--plan", "p", "-o", "a.dot"]):
        given = [str(tmp_path / arg) if arg == "a.dot" else arg for arg in more]
        assert main([verb, str(tmp_path / "a.plan"), *given]) == 0, verb
        shown[verb] = capsys.readouterr().out
    assert "by simulation: 60 requests" in shown["compile"]
    assert "require p90(ttft) <= 9 s  met, " in shown["compile"]
    assert "in closed form of " in shown["compile"]
    assert "in closed form: " in shown["explain"]
    assert "in closed form: " in shown["diff"]
    assert "workload.rate  20 req/s  30 req/s" in shown["diff"]
    assert main(["compile", str(tmp_path / "a.plan"), "--json", "--plan", "p"]) == 0
    (told,) = json.loads(capsys.readouterr().out)["plans"]
    assert told["simulated"]["ttft_s"]["mean"]["value"] != told["ttft_s"]
    assert [note["code"] for note in told["notes"] if note["code"] == "N290"] == ["N290"]


# ---- the closed form of a load over time


def test_the_closed_form_has_as_many_in_flight_as_serve_the_mean_rate() -> None:
    made = plan("input = 500, output = 50, rate = constant(12 req/s)")
    load = made.cost.plan.workload
    assert load.concurrency is not None
    assert (load.input, load.output, load.traffic) == (500, 50, None)
    enough, fewer = (float(made.cost.evaluate(concurrency=load.concurrency - n).throughput) / 50 for n in (0, 1))
    assert fewer < 12 * (1 - 1e-3) <= enough


def test_more_than_is_served_is_told() -> None:
    (note,) = [n for n in plan("input = 900, output = 90, rate = 900 req/s").said if n.code == "N290"]
    assert "at most " in note.message


def test_means_are_those_of_the_requests_that_are_drawn() -> None:
    load = "input = 50, output = 5, rate = 2 req/s, requests = 400; sessions { turns = 4, think = 3 s, system = 100 }"
    found = mean_load(plan(load).spec.workload)
    assert 100 + 50 < found.input < 100 + 4 * 55
    assert found.output == 5
    assert found.reuse > 0.3


def test_what_differs_between_loads_over_time_is_what_the_plans_say() -> None:
    found = difference(plan(RATE), plan(RATE.replace("20 req/s", "40 req/s")))
    assert [(c.path, c.before, c.after) for c in found.changes] == [("workload.rate", "20 req/s", "40 req/s")]


# ---- a closed loop without end


def test_a_lone_request_after_another_takes_what_one_alone_takes() -> None:
    loop, alone = (
        plan("input = 700, output = 40, concurrency = 1").estimate(),
        plan("input = 700, output = 40, batch = 1"),
    )
    assert loop.simulated is not None
    assert loop.simulated.ttft.mean.value == pytest.approx(alone.estimate().ttft_s, rel=1e-9)
    assert loop.simulated.tpot.mean.value == pytest.approx(alone.estimate().tpot_s, rel=EXACT), "by a table"


@pytest.mark.parametrize("engine", ["vllm", "sglang", "trtllm"])
@pytest.mark.parametrize("places", [4, 64])
def test_long_answers_are_simulated_where_servers_take_steps_at_once(engine: str, places: int) -> None:
    load = f"input = 1024, output = 1000, concurrency = {places}"
    short = plan(load, engine=engine).estimate().simulated
    assert short is not None
    assert short.kind == "steady loop"
    assert all("has an interval of" in warning for warning in short.warnings)
    assert plan(f"{load}, in_flight = 2", sharding="pp = 2", engine=engine).estimate().simulated is None


@pytest.mark.parametrize("engine", ["vllm", "sglang", "trtllm"])
def test_a_steady_loop_is_the_middle_of_a_long_run(engine: str) -> None:
    """Its first waves are not like the others: of these prompts some wait for a step of their own."""
    load, chunked = "input = 800, output = 24, concurrency = 10", f"{engine}, chunked_prefill = 1024"
    short = plan(load, engine=chunked).estimate().simulated
    assert short is not None
    assert short.kind == "steady loop"
    records = plan(f"{load}, requests = 200", engine=chunked).simulate().records
    assert records.ttft_s[:50].mean() > 1.01 * records.ttft_s[50:180].mean(), "else there is nothing to leave out"
    middle = slice(50, 180)
    for spread, values in (
        (short.ttft, records.ttft_s),
        (short.tpot, records.tpot_s),
        (short.latency, records.latency_s),
    ):
        assert spread.mean.half <= SETTLED * spread.mean.value
        assert spread.mean.value == pytest.approx(values[middle].mean(), rel=1e-3)
    assert short.request_rate * short.latency.mean.value == pytest.approx(10, rel=1e-9), "Little's law"


@draws(1 / 6)
@given(
    st.integers(2, 3),
    st.integers(1, 5),
    st.integers(50, 3000),
    st.integers(2, 12),
    st.sampled_from(["vllm", "sglang", "trtllm"]),
    st.sampled_from(["round_robin", "least_loaded"]),
    st.booleans(),
)
def test_servers_with_equal_shares_of_a_loop_see_the_same(
    n: int, each: int, input_: int, output: int, engine: str, router: str, crowded: bool
) -> None:
    """So the short answer serves the requests of one of them."""
    load = f"input = {input_}, output = {output}, concurrency = {n * each}"
    least = f"engine = {engine} with {{ max_requests = {2 if crowded else 64} }}"
    text = f"plan p {{ model = llama_3_1_8b, node = h100_8, sharding {{ dp = {n} }}, router = {router}, {least}"
    (made,) = compile_text(f"{text}\n workload {{ {load} }} }}")
    short = made.estimate().simulated
    if short is None:  # blocks of one token take long
        return
    waves = short.requests // (n * each) + 4
    (whole,) = compile_text(f"{text}\n workload {{ {load}, requests = {waves * n * each} }} }}")
    records = whole.simulate().records
    middle = slice(3 * n * each, (waves - 1) * n * each)
    assert short.ttft.mean.value == pytest.approx(records.ttft_s[middle].mean(), rel=1e-6)
    assert short.latency.mean.value == pytest.approx(records.latency_s[middle].mean(), rel=1e-6)


@draws(1 / 4)
@given(
    st.integers(50, 2000),
    st.integers(8, 40),
    st.integers(2, 48),
    st.sampled_from(["vllm", "sglang", "trtllm"]),
    st.booleans(),
)
@example(2000, 8, 44, "sglang", True)
def test_the_closed_form_and_the_steady_loop_rank_candidates(
    input_: int, output: int, places: int, engine: str, chunked: bool
) -> None:
    """They assume unlike things: requests that come at random, and requests that come back together.

    Prompts that come together stop the decodes of fewer requests, so that TPOT is hardly longer in the loop: the closed
    form leaves requests out of steps while their first token is on its way. Throughput is not so simple: what is held
    is what no load of this kind leaves, by 20 % and more.
    """
    load = f"input = {input_}, output = {output}, concurrency = {places}"
    found = []
    for sharding in ("tp = 1", "tp = 2", "dp = 2"):
        e = plan(load, "", sharding, f"{engine}, chunked_prefill = 2048" if chunked else engine).estimate()
        if e.simulated is None:
            return
        found.append((sharding, e.throughput_tokens_per_s, e.simulated.output_rate))
        assert e.simulated.tpot.mean.value <= e.tpot_s * 1.2, (load, engine, sharding)
        assert 0.6 < e.simulated.output_rate / e.throughput_tokens_per_s < 2.0, (load, engine, found)
    closed, simulated = (sorted(found, key=lambda one: -one[column]) for column in (1, 2))
    if [one[0] for one in closed] != [one[0] for one in simulated]:
        print(f"{load}, {engine}: {' > '.join(o[0] for o in closed)}, simulated {' > '.join(o[0] for o in simulated)}")
