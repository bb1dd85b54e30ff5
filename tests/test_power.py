"""A power limit lowers the clock: what calculates gets slower, what waits for memory hardly does."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import power as measured
from plandsl.cli import main
from plandsl.driver import CompiledPlan, compile_text
from plandsl.show import show_plan
from plandsl.spec.power import EXPONENT, LEAST_LIMIT, STATIC, clock_at

LOAD = "sharding { tp = 2 }, workload { input = 2000, output = 100, batch = 4 }"


def plan(gpu: str = "", node: str = "h100_2", more: str = LOAD) -> CompiledPlan:
    limited = f"{node} with {{ gpu {{ {gpu} }} }}" if gpu else node
    return compile_text(f"plan p {{ model = llama_3_1_8b, node = {limited}\n {more} }}")[0]


def test_the_constants_are_those_of_the_fit() -> None:
    assert measured.fit() == (STATIC, EXPONENT)


@pytest.mark.parametrize("name", measured.FITTED)
def test_the_law_is_within_six_percent_of_what_it_is_fitted_to(name: str) -> None:
    for share, speed in measured.board_shares(measured.FITTED[name]):
        assert clock_at(share, 1.0) == pytest.approx(speed, rel=0.06)


def test_the_law_is_within_an_eighth_of_prefills_that_it_was_not_fitted_to() -> None:
    """Down to half of the board's power; further down an RTX 3090 falls faster than the law."""
    rows = [row for row in measured.board_shares(measured.PREFILL) if row[0] > 0.5]
    assert len(rows) == 3
    for share, speed in rows:
        assert clock_at(share, 1.0) == pytest.approx(speed, rel=0.13)


def test_the_clock_of_an_h100_at_600_w_is_as_operators_see_it() -> None:
    """At 600 of 700 W steps of pre-training lose 10 to 15 % (factryze.ai/scale-atlas/power/power-capping)."""
    assert 0.85 <= clock_at(600, 700) <= 0.9


@given(st.floats(LEAST_LIMIT, 1), st.floats(LEAST_LIMIT, 1))
def test_a_lower_limit_is_never_faster(one: float, other: float) -> None:
    low, high = sorted((one, other))
    assert clock_at(low, 1.0) <= clock_at(high, 1.0) <= clock_at(1.0, 1.0) == 1.0


@pytest.mark.parametrize("engine", ["", "engine = vllm\n"])
@pytest.mark.parametrize("node", ["h100_2", "mi300x_2", "l40s_2"])
def test_prefill_slows_down_and_decode_hardly(node: str, engine: str) -> None:
    full, *limited = [plan(f"power = {share} * {BOARD[node]} W", node, engine + LOAD).estimate() for share in SHARES]
    assert full == plan("", node, engine + LOAD).estimate()
    last = full
    for made in limited:
        assert made.ttft_s >= last.ttft_s
        assert made.tpot_s >= last.tpot_s
        assert made.throughput_tokens_per_s <= last.throughput_tokens_per_s
        last = made
    assert last.prefill.time_s > 1.2 * full.prefill.time_s
    assert last.tpot_s / full.tpot_s < 1 + 0.3 * (last.prefill.time_s / full.prefill.time_s - 1)


SHARES = (1, 0.8, 0.5, 0.3)
BOARD = {"h100_2": 700, "mi300x_2": 750, "l40s_2": 350}


def test_a_note_names_the_limit_and_says_that_bands_leave_it_out() -> None:
    (note,) = [n for n in plan("power = 450 W").notes if n.code == "N315"]
    assert note.message.startswith("power of `h100_sxm` 450 of 700 W: clock 0.68, ")
    assert "whose error the bands do not contain" in note.message
    assert not [n for n in plan("power = 700 W").notes if n.code == "N315"]


def test_a_limit_of_a_limit_is_one_of_the_board() -> None:
    (made,) = compile_text(
        "gpu a = h100_sxm with { power = 500 W }\ngpu b = a with { power = 600 W }\n"
        f"plan p {{ model = llama_3_1_8b, node = h100_2 with {{ gpu = b }}\n {LOAD} }}"
    )
    gpu = made.spec.node.gpu
    assert (gpu.power, gpu.power_max, gpu.clock) == (600, 700, clock_at(600, 700))


def test_own_gpus_state_the_power_of_their_board() -> None:
    figures = "memory = 80 GB, bandwidth = 3 TB/s, compute { bf16 = 900 TFLOP/s }"
    found = {}
    for name, power in (("none", ""), ("board", ", power = 500 W"), ("both", ", power = 300 W, power_max = 500 W")):
        text = f"gpu own {{ {figures}{power} }}\nnode n {{ gpu = own, count = 1 }}\n"
        (made,) = compile_text(
            f"{text}plan p {{ model = llama_3_1_8b, node = n, workload {{ input = 900, output = 9 }} }}"
        )
        found[name] = made.spec.node.gpu.clock, made.estimate().ttft_s
    assert found["none"] == found["board"]
    assert found["both"][0] == clock_at(300, 500)
    assert found["both"][1] > 1.2 * found["board"][1]


def test_the_slowest_of_unlike_gpus_is_the_limited_one() -> None:
    text = """
    gpu cool = h100_sxm with { power = 400 W }
    node mixed { gpus = [1 * h100_sxm, 1 * cool], link { topology = switch, bandwidth = 450 GB/s, latency = 2 us } }
    """
    (made,) = compile_text(f"{text}plan p {{ model = llama_3_1_8b, node = mixed\n {LOAD} }}")
    slow = {op.gpu for op in made.estimate().prefill.ops if op.bound == "compute"}
    assert slow == {"cool"}
    assert made.estimate().prefill.time_s == pytest.approx(plan("power = 400 W").estimate().prefill.time_s, rel=1e-9)


def test_a_limited_gpu_is_shown_and_read_back() -> None:
    made = plan("power = 450 W")
    (again,) = compile_text(show_plan(made.spec))
    assert again.estimate().latency_s == made.estimate().latency_s
    assert (again.spec.node.gpu.power, again.spec.node.gpu.power_max) == (450, 700)


def test_a_search_varies_the_limit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "s.plan"
    file.write_text(
        f"search s {{ model = llama_3_1_8b, node = h100_2\n {LOAD}\n"
        "vary node.gpu.power in [300 W, 500 W, 700 W]\n minimize ttft }\n"
    )
    assert main(["search", str(file), "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)["searches"]
    assert [row["choices"]["node.gpu.power"] for row in found["top"]] == [700, 500, 300]


def test_a_simulation_feels_the_limit() -> None:
    load = "sharding { tp = 2 }, engine = vllm, workload { input = 2000, output = 50, rate = 4 req/s, requests = 60 }"
    full, low = (plan(f"power = {watts} W", more=load).simulate() for watts in (700, 300))
    assert low.simulation.summary.ttft.mean.value > 1.3 * full.simulation.summary.ttft.mean.value
