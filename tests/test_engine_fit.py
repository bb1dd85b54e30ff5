"""Engines are fitted to rows that are simulated once, whose steps are timed anew."""

from __future__ import annotations

import csv
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from attrs import evolve

from benchmarks import engines
from benchmarks.measured import Measured, read_measured
from benchmarks.recording import Load, features, record
from benchmarks.steps import LOOSE, START, Steps, fit
from plandsl.backends.accuracy.lengths import EVEN, FIXED, draw_lengths
from plandsl.backends.accuracy.serving import Row
from plandsl.backends.cost.deployments.replicas import Replicas
from plandsl.backends.cost.serving.clock import ServerClock
from plandsl.backends.cost.serving.requests import Closed, Requests
from plandsl.backends.cost.serving.serve import worker
from plandsl.backends.cost.serving.simulate import simulate
from plandsl.backends.cost.serving.summary import summarise
from plandsl.driver import compile_text

FACTORS = np.array([-1.0, 1.0, 0.0, 1.0, 0.0, -1.0, 1.0, -1.0])
TRUE = {name: value * float(np.exp(f * LOOSE[name])) for (name, value), f in zip(START.items(), FACTORS, strict=True)}
RANKS = "node = h100_8; sharding { mesh own = 4, tensor = 2\n heads, ffn, vocab -> tensor\n batch -> own }"


@cache
def deployment(engine: str, hardware: str = "node = h100_1", delays: bool = False, **constants: float) -> Replicas:
    """A server of an 8B model whose engine has some constants, and adds delays to first tokens or none."""
    text = f"plan p {{ model = llama_3_1_8b; engine = {engine}; {hardware}; workload {{ input = 1, output = 1 }} }}"
    plan = compile_text(text)[0]
    none = {} if delays else {"first": 0.0, "first_request": 0.0, "step_rank": 0.0}
    values = START | {"admit": 0.0} | constants | none
    cost = plan.cost.on(evolve(plan.spec, engine=evolve(plan.spec.engine, **values)))
    assert isinstance(cost, Replicas)
    return cost


def steps_of(server: Replicas, load: Load, fine: float = 0.0) -> Steps:
    """The recorded steps of a load; times are those of the model itself, not of tables made of it."""
    recording = record(ServerClock(server.one), load, fine)
    return Steps([recording], [features(server.one, recording.shapes)], [1], np.ones((1, 3)))


def simulated(server: Replicas, load: Load) -> list[float]:
    """What a simulation of the load says: TTFT, TPOT, output tokens per second."""
    n, rng = round(load.clients * load.rounds), np.random.default_rng(0)
    input_, output = (draw_lengths(mean, load.spread, n, rng) for mean in (load.input, load.output))
    requests, name = Requests(np.zeros(n), input_, output), server.plan.effective_engine.scheduler_name
    made = worker(server.one, requests, name, caching=False, clock=ServerClock(server.one))
    records = simulate([made], requests, Closed(load.clients))
    told = summarise(records)
    return [told.ttft.mean.value, told.tpot.mean.value, told.output_rate]


LOADS = [Load(300.0, 24.0, EVEN, 6, 3.0), Load(900.0, 12.0, FIXED, 12, 1.0)]
"""A closed loop with drawn lengths, and requests that start together."""


@pytest.mark.parametrize("load", LOADS)
@pytest.mark.parametrize(
    ("engine", "hardware"),
    [("vllm", "node = h100_1"), ("sglang", "node = h100_1"), ("trtllm", "node = h100_1"), ("vllm", RANKS)],
)
def test_steps_timed_anew_take_what_a_simulation_says(engine: str, hardware: str, load: Load) -> None:
    """The steps are recorded under other constants."""
    c = TRUE | {"first": 0.0, "first_request": 0.0, "step_rank": 0.0}
    found = steps_of(deployment(engine, hardware), load).predict(c)[0]
    np.testing.assert_allclose(found, simulated(deployment(engine, hardware, **c), load), rtol=1e-9)


@pytest.mark.parametrize("clients", [1, 8])
def test_delays_of_first_tokens_count_about_as_in_a_simulation(clients: int) -> None:
    """With several clients, a delay moves requests to other steps: the rest of a step is half of it on average."""
    server, load = deployment("vllm", delays=True, step_rank=0.0), Load(300.0, 120.0, EVEN, clients, 3.0)
    found = steps_of(server, load).predict(START)[0]
    np.testing.assert_allclose(found, simulated(server, load), rtol=1e-9 if clients == 1 else 0.02)


def test_rounds_left_out_are_like_those_that_were_simulated(monkeypatch: pytest.MonkeyPatch) -> None:
    load, none = Load(300.0, 120.0, EVEN, 8, 10.0), START | {"first": 0.0, "first_request": 0.0, "step_rank": 0.0}
    whole = simulated(deployment("vllm"), load)
    monkeypatch.setattr("benchmarks.recording.MOST", 40)
    found = steps_of(deployment("vllm"), load, fine=0.02).predict(none)[0]
    np.testing.assert_allclose(found, whole, rtol=0.03)


def table(folder: Path, changes: dict[int, dict[str, object]]) -> Path:
    """A table of rows of one server under several loads, in which some cells are changed."""
    head = {
        "source": "made", "gpu": "h100_sxm", "n_gpu": 1, "model": "llama-3.1-8b", "precision": "bf16",
        "framework": "vllm-0.19.0", "serving_mode": "aggregated", "tp": 1, "isl_tokens": 512, "osl_tokens": 64,
        "length_jitter": "uniform 0.8-1.0 x nominal", "load_kind": "closed_concurrency", "ttft_s": 0.1,
        "tpot_s": 0.008, "output_tok_per_s": "", "notes": "",
    }  # fmt: skip
    rows = [head | {"concurrency": 2**i} | changes.get(i, {}) for i in range(6)]
    path = folder / "serving.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def test_rows_are_left_out_by_rules_that_know_no_prediction(tmp_path: Path) -> None:
    changes: dict[int, dict[str, object]] = {
        1: {"notes": "run with --enforce-eager"},
        2: {"output_tok_per_s": 1e6},
        3: {"model": "llama-3.1-405b"},
        4: {"ttft_s": 9.0},
        5: {"length_jitter": "fixed (assumed)"},
    }
    rows, reasons = read_measured(table(tmp_path, changes))
    assert [(row.at, row.lengths, row.engine, row.dense) for row in rows] == [
        (0, "jittered", "vllm", True),
        (5, "assumed", "vllm", True),
    ]
    assert reasons == {
        1: "its notes say --enforce-eager",
        2: "more than 75% of the GPUs' peak arithmetic",
        3: "the weights exceed the memory of the GPUs",
        4: "requests queue for a limit that the row does not state",
    }
    assert [engines.is_fitted(row) for row in rows] == [True, False]


def made_row(at: int, clients: int, gpu: str, values: dict[str, float]) -> Measured:
    row = Row("plan", "closed_concurrency", input=300, output=24, clients=clients, requests=10 * clients)
    return Measured(
        at, "vllm", "vllm-0.19.0", gpu, "llama-3.1-8b", source="made", lengths="jittered", row=row, values=values
    )


def test_the_fit_finds_the_constants_of_made_measurements_and_finds_them_twice() -> None:
    cases = []
    for at, clients in enumerate((1, 2, 4, 8, 12, 16) * 2):
        server = deployment("vllm")
        load = Load((300.0, 2000.0)[at // 6], 24.0, EVEN, clients, 2.0)
        recording = record(ServerClock(server.one), load)
        found = features(server.one, recording.shapes)
        values = Steps([recording], [found], [1], np.ones((1, 3))).predict(TRUE)[0]
        row = made_row(at, clients, f"gpu{at % 2}", dict(zip(engines.METRICS, values.tolist(), strict=True)))
        cases.append(engines.Case(row, recording, found, 1))
    steps = engines.steps_of(cases)
    assert np.abs(steps.errors(START)).max() > 0.1
    fitted = [fit(steps, np.full(len(cases), 100.0), START) for _ in range(2)]
    assert fitted[0] == fitted[1]
    assert np.abs(steps.errors(fitted[0].constants)).max() < 0.02
    assert set(fitted[0].constants) == set(LOOSE)
    assert all(wide > 1 for wide in fitted[0].interval.values())
    judged = list(engines.leave_out(cases, ("gpu",), 1.0))
    assert len(judged) == 3 * len(cases)
    assert {r.fold for r in judged} == {"gpu"}
