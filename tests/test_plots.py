"""`planc simulate --plot` and `planc render --view tradeoff`: charts, and the numbers behind them."""

from __future__ import annotations

import json
import runpy
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

from plandsl import plotting
from plandsl.backends.cost.answers.probes import serve_made
from plandsl.backends.cost.serving.records import Steps
from plandsl.backends.plots.bounds import bounds_of
from plandsl.backends.plots.curves import estimate_curve
from plandsl.backends.plots.knee import knee
from plandsl.backends.plots.occupancy import decode_steps, mean_and_peak, total_level
from plandsl.backends.plots.runs import Served, labels
from plandsl.backends.plots.steps import busiest_window, lanes_of
from plandsl.backends.plots.sweep import sweep
from plandsl.cli import main
from plandsl.diagnostics import PlanError
from plandsl.driver import compile_file, compile_text

pytest.importorskip("matplotlib")

TEXT = """workload chat { input = lognormal(mean = 900, p95 = 3200), output = 20, rate = 16 req/s, requests = 60 }
plan one { model = llama_3_1_8b, node = h100_1, sharding { tp = 1 }, engine = vllm, workload = chat
  require p95(ttft) <= 4 s
  require tpot <= 90 ms
}
plan two = one with { node = h100_8, sharding { dp = 2 } }
"""
CLASSES = """plan p { model = llama_3_1_8b, node = h100_8, sharding { pp = 2 }, engine = vllm, chunked_prefill = 2048
  workload { rate = 20 req/s, requests = 60
    class chat { share = 50 %, input = 100, output = 10, require p90(ttft) <= 1 s }
    class batch { share = 50 %, input = 4000, output = 10 }
  }
}
"""
VIEWS = ("latency", "occupancy", "steps")


def run(capsys, tmp_path: Path, text: str, *arguments: object) -> tuple[int, str, str]:
    """Exit status, standard output, standard error."""
    file = tmp_path / "a.plan"
    file.write_text(text)
    status = main(["simulate", str(file), *map(str, arguments)])
    return status, *capsys.readouterr()


def said(path: Path) -> str:
    """What a picture says: matplotlib draws letters as paths, and writes the text beside them."""
    return "\n".join(line.strip() for line in path.read_text().splitlines() if "<!--" in line)


def steps_of(*rows: tuple[int, float, float]) -> Steps:
    """Steps from (server, start, end), each with one request more than the one before."""
    replica, start, end = (np.array(column) for column in zip(*rows, strict=True))
    count = np.arange(1, len(rows) + 1)
    return Steps(replica, start, end, count, count, waiting=count * 0, running=count, blocks=count)


# ---- files


@pytest.mark.usefixtures("texts_apart")
@pytest.mark.parametrize(
    ("view", "words"),
    [
        ("latency", ["one, 1 GPU", "two, 2 GPUs", "p95(ttft) &lt;= 4 s", "tpot &lt;= 90 ms, the mean", "TTFT", "99 %"]),
        ("occupancy", ["one, 1 GPU", "requests", "that wait", "KV cache", "time since the first request"]),
        ("steps", ["one, 1 GPU", "server 1", "prompt tokens", "that decode", "a triangle is an arrival"]),
    ],
)
def test_a_picture_of_runs_names_plans_and_bounds(capsys, tmp_path, view: str, words: list[str]) -> None:
    path = tmp_path / "x.svg"
    status, out, err = run(capsys, tmp_path, TEXT, "--plot", path, "--view", view)
    assert (status, err) == (0, "")
    assert out.endswith(f"picture: {path}\n")
    text = said(path)
    assert [word for word in words if word not in text] == []
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.plan", "x.svg"]


def test_latencies_are_drawn_unless_a_view_is_named_and_the_same_run_gives_the_same_file(capsys, tmp_path) -> None:
    paths = [tmp_path / "a.svg", tmp_path / "b.svg"]
    run(capsys, tmp_path, CLASSES, "--plot", paths[0])
    run(capsys, tmp_path, CLASSES, "--plot", paths[1], "--view", "latency", "--json")
    assert paths[0].read_bytes() == paths[1].read_bytes()
    text = said(paths[0])
    assert all(word in text for word in ("chat", "batch", "p90(ttft) &lt;= 1 s (chat)"))


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize(
    ("load", "exits"),
    [
        ("input = 500, output = 1, batch = 1", 0),
        ("input = 900_000, output = 5, rate = 1 req/s, requests = 3", 1),  # no request is served
    ],
)
def test_any_run_draws(capsys, tmp_path, load: str, exits: int, view: str) -> None:
    text = f"plan p {{ model = llama_3_1_8b, node = h100_8, sharding {{ dp = 2 }}, workload {{ {load} }} }}"
    path = tmp_path / "x.svg"
    status, _, err = run(capsys, tmp_path, text, "--plot", path, "--view", view)
    assert (status, err) == (exits, "")
    assert path.read_text().startswith("<?xml")


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--plot", "x.jpg"], "E400"),
        (["--plot", "x"], "E400"),
        (["--plot", "no/x.svg"], "E405"),
        (["--view", "steps"], "E400"),
    ],
)
def test_a_picture_that_cannot_be_drawn_is_refused_before_the_run(
    capsys, tmp_path, monkeypatch, arguments: list[str], code: str
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    status, out, err = run(capsys, tmp_path, TEXT, *arguments)
    assert (status, out, err[: len(code) + 7]) == (2, "", f"error[{code}]")


# ---- captions, and curves that coincide


def test_captions_say_what_was_drawn(capsys, tmp_path) -> None:
    path = tmp_path / "x.svg"
    run(capsys, tmp_path, TEXT, "--plot", path)
    assert {"the times of requests", "llama_3_1_8b on h100_1 and h100_8; requests over time"} <= lines_of(path)
    run(capsys, tmp_path, TEXT, "--plot", path, "--view", "occupancy")
    assert {"what servers hold", "the same for all plans"} <= lines_of(path)


def lines_of(path: Path) -> set[str]:
    return {line.strip("<!-> ") for line in said(path).splitlines()}


@pytest.mark.usefixtures("texts_apart")
def test_curves_that_lie_on_one_another_say_so(tmp_path) -> None:
    file, path = tmp_path / "a.plan", tmp_path / "x.svg"
    load = "workload { input = 500, output = 50, batch = 4 }"
    file.write_text(
        f"plan one {{ model = llama_3_2_1b, node = h100_1, {load} }}\n"
        "plan two = one\nplan half = one with { model = llama_3_2_1b with { weights = fp8 } }\n"
    )
    assert main(["render", str(file), "--view", "tradeoff", "-o", str(path), "--against", "tpot"]) == 0
    legend = [line for line in lines_of(path) if ": batch 1 to" in line]
    assert sorted(line.partition(":")[0] for line in legend) == ["half", "one", "two"]
    assert [line.endswith(", on one") for line in sorted(legend)] == [False, False, True]


def test_only_curves_that_cannot_be_told_apart_are_the_same() -> None:
    x = np.geomspace(1, 1000, 9)
    lines = [(x, x**2), (x[::2], x[::2] ** 2), (x, 1.5 * x**2), (x[:3], x[:3] ** 2), (np.empty(0), np.empty(0))]
    assert plotting.find_same(lines) == [None, 0, None, None, None]


def test_labels_take_the_side_that_is_free() -> None:
    plt = plotting.pyplot()
    figure, place = plt.subplots(figsize=(4, 4))
    place.set(xlim=(0, 100), ylim=(0, 100))
    spots = [(50.0, 50.0), (51.0, 51.0), (90.0, 10.0)]
    sides = plotting.choose_sides(place, spots, ["100", "200", "300"])
    plt.close(figure)
    assert sides[0] != sides[1]
    assert sides[2] == plotting.SIDES[0]


# ---- numbers


def test_servers_hold_nothing_between_their_steps() -> None:
    steps = steps_of((0, 0.0, 2.0), (1, 1.0, 2.0), (0, 2.0, 3.0), (0, 5.0, 6.0))
    level = total_level(steps, steps.running)
    at = np.array([0.5, 1.5, 2.5, 4.0, 5.5, 6.5])
    found = level.values[np.searchsorted(level.times, at, side="right") - 1]
    assert found.tolist() == [1, 3, 3, 0, 4, 0]


def test_parts_of_time_have_their_mean_and_their_peak() -> None:
    steps = steps_of((0, 0.0, 1.0), (0, 1.0, 4.0), (0, 5.0, 6.0))
    mean, peak = mean_and_peak(total_level(steps, steps.running), np.array([-1.0, 0.5, 2.0, 3.0, 4.5, 8.0]))
    assert mean == pytest.approx([0.5 / 1.5, 2.5 / 1.5, 2, 2 / 1.5, 3 / 3.5])
    assert peak.tolist() == [1, 2, 2, 2, 3]


def test_the_mean_over_time_is_that_of_the_report() -> None:
    made = compile_text(TEXT)[0]
    found = made.simulate()
    steps = found.records.steps
    edges = np.linspace(steps.start_s.min(), steps.end_s.max(), 40)
    mean, peak = mean_and_peak(total_level(steps, steps.running), edges)
    busy = float((steps.end_s - steps.start_s).sum() / (edges[-1] - edges[0]))
    assert mean.mean() == pytest.approx(found.simulation.occupancy.running[0] * busy, rel=1e-9)
    assert peak.max() == found.simulation.occupancy.running[1]


def test_the_window_has_the_step_behind_which_most_requests_wait() -> None:
    steps = steps_of(*((0, float(i), i + 1.0) for i in range(100)))
    steps.waiting[70] = 5
    assert busiest_window(steps, 10) == (65.0, 75.0)
    steps.waiting[99] = 6
    assert busiest_window(steps, 10) == (90.0, 100.0)
    assert busiest_window(steps, 1000) == (0.0, 100.0)


def test_lanes_have_every_step_of_the_window_once_and_none_overlap() -> None:
    (made,) = compile_text(CLASSES)
    found = made.simulate()
    steps = found.records.steps
    start, end = busiest_window(steps)
    lanes = list(lanes_of("p", Served(made, found), start, end))
    assert len(lanes) == 2  # two batches are in flight
    inside = (steps.end_s > start) & (steps.start_s < end)
    assert sum(len(lane.start) for lane in lanes) == inside.sum()
    for lane in lanes:
        assert np.all(lane.start[1:] >= lane.end[:-1] - 1e-9)


def test_equal_bounds_are_one_and_others_name_their_plans() -> None:
    text = TEXT.replace("{ dp = 2 } }", "{ dp = 2 }; require p99(ttft) <= 3 s }")
    plans = [made.spec for made in compile_text(text)]
    texts = [bound.text for bound in bounds_of(plans, "ttft")]
    assert texts[-1].endswith("p99(ttft) <= 3 s")
    assert texts[-1].startswith("two: ")
    assert labels(plans) == ["one, 1 GPU", "two, 2 GPUs"]


# ---- over rates


@pytest.fixture
def short(monkeypatch) -> None:
    """Few runs of few requests: the numbers are rough, and quickly there."""
    monkeypatch.setattr(import_module("plandsl.backends.plots.sweep"), "SHARES", (0.1, 0.6, 1.1))
    monkeypatch.setattr(import_module("plandsl.backends.plots.sweep"), "LONG", 60)
    monkeypatch.setattr(import_module("plandsl.backends.plots.curves"), "FEW", 40)


def test_the_same_requests_come_closer_until_the_servers_are_saturated(short) -> None:
    (made,) = compile_text(TEXT[: TEXT.index("plan two")])
    found = sweep(made.spec, serve_made(made), 80)
    loads = [one.load for one in found.runs]
    assert loads == sorted(loads)
    assert loads[0] == pytest.approx(0.1 * found.saturation)
    assert loads[-1] == pytest.approx(1.1 * found.saturation)
    assert [one.load for one in found.runs if one.factor == 1.0] == [16.0]
    told = [one.told.summary for one in found.runs]
    assert len({(s.requests, round(s.input_rate * s.duration_s)) for s in told}) == 1, "the same requests"
    ttft = [one.spread("ttft").mean.value for one in found.runs]
    assert ttft[-1] > 2 * ttft[0]


def test_a_closed_loop_has_more_and_more_requests_in_flight() -> None:
    text = (
        "plan p { model = llama_3_1_8b, node = h100_1, sharding { tp = 1 }, workload { input = 99, output = 9, %s } }"
    )
    (made,) = compile_text(text % "concurrency = 8, requests = 16")
    found = sweep(made.spec, serve_made(made))
    assert [one.load for one in found.runs] == [1, 2, 4, 8, 16, 32]
    assert [one.told.summary.requests for one in found.runs] == [2, 4, 8, 16, 32, 64]
    (made,) = compile_text(text % "batch = 8")
    with pytest.raises(PlanError, match="E329"):
        sweep(made.spec, serve_made(made))


@pytest.mark.usefixtures("texts_apart")
def test_a_picture_over_rates_names_the_saturation(capsys, tmp_path, short) -> None:
    path = tmp_path / "x.svg"
    status, _, err = run(capsys, tmp_path, TEXT, "--requests", 30, "--plot", path, "--view", "rates")
    assert (status, err) == (0, "")
    text = said(path)
    words = ["p50", "p95", "p99", "TTFT", "TPOT", "req/s", "saturated at", "(two)", "p95(ttft) &lt;= 4 s", "one, 1 GPU"]
    assert [word for word in words if word not in text] == []


def test_a_load_without_a_rate_has_no_picture_over_rates_and_is_refused_at_once(capsys, tmp_path) -> None:
    status, out, err = run(capsys, tmp_path, BATCHES, "--plot", tmp_path / "x.svg", "--view", "rates")
    assert (status, out) == (2, "")
    assert "error[E329]: `one` has no rate" in err
    status, out, err = run(capsys, tmp_path, TEXT, "--plot", tmp_path / "x.svg", "--find-rate")
    assert (status, out) == (2, "")
    assert "--find-rate draws no picture" in err


POOLS = """plan p { model = llama_3_1_8b, engine = vllm
  prefill { node = h100_8, sharding { dp = 2 } }
  decode { node = h100_1, sharding { tp = 1 } }
  transfer { bandwidth = 50 GB/s, latency = 10 us }
  workload { input = 2000, output = 20, rate = 20 req/s, requests = 40 }
}
plan big = p with { model = llama_3_1_70b }
"""


@pytest.mark.usefixtures("texts_apart")
def test_the_servers_of_both_pools_have_lanes(capsys, tmp_path) -> None:
    path = tmp_path / "x.svg"
    for view in VIEWS:
        assert run(capsys, tmp_path, POOLS, "--plan", "p", "--plot", path, "--view", view)[0] == 0
    text = said(path)  # of the last view, steps
    assert [word for word in ("prefill 0", "prefill 1", "decode 0") if word not in text] == []
    (made, _) = compile_text(POOLS)
    found = made.simulate()
    lanes = list(lanes_of("p", Served(made, found), 0.0, 1e9))
    assert [bool(lane.prompt_tokens.sum()) for lane in lanes] == [True, True, False]
    assert [bool(lane.decodes.sum()) for lane in lanes] == [False, False, True]
    assert [len(lane.arrivals) for lane in lanes] == [20, 20, 0]
    level = decode_steps(found, found.records.steps)
    assert level.blocks.max() / found.blocks == pytest.approx(found.simulation.occupancy.kv_cache[1])


def test_a_plan_without_room_has_an_empty_curve_beside_the_others(capsys, tmp_path) -> None:
    path = tmp_path / "x.svg"
    (tmp_path / "a.plan").write_text(POOLS.replace("requests = 40", "requests = 12"))
    assert main(["render", str(tmp_path / "a.plan"), "--view", "tradeoff", "-o", str(path), "--against", "ttft"]) == 0
    assert "big: nothing fits" in said(path)


# ---- throughput against latency

BATCHES = """workload chat { input = 1024, output = 64, batch = 8 }
plan one { model = llama_3_1_8b, node = h100_8, sharding { tp = 1 }, workload = chat, require tpot <= 12 ms }
plan two = one with { sharding { tp = 2 }; require throughput_per_gpu >= 400 tok/s }
"""


def planc(capsys, tmp_path: Path, text: str, *arguments: object) -> tuple[int, str, str]:
    file = tmp_path / "a.plan"
    file.write_text(text)
    status = main(["render", str(file), "--view", "tradeoff", *map(str, arguments)])
    return status, *capsys.readouterr()


@pytest.mark.usefixtures("texts_apart")
def test_a_tradeoff_names_plans_bounds_and_knees(capsys, tmp_path) -> None:
    path = tmp_path / "x.svg"
    status, out, err = planc(capsys, tmp_path, BATCHES, "-o", path)
    assert (status, out, err) == (0, f"tradeoff of one, two: {path}\n", "")
    text = said(path)
    words = ["one, 1 GPU: batch 1 to ", "two, 2 GPUs: batch 1 to ", "TTFT", "TPOT", "latency", "tpot &lt;= 12 ms",
             "two: throughput_per_gpu &gt;= 400 tok/s", "diamond: knee", "dot: the plan as written"]  # fmt: skip
    assert [word for word in words if word not in text] == []
    assert planc(capsys, tmp_path, BATCHES, "-o", path, "--against", "tpot")[0] == 0
    assert "TTFT" not in said(path)


@pytest.mark.usefixtures("texts_apart")
def test_what_is_encoded_has_a_latency_alone(capsys, tmp_path) -> None:
    text = "plan p { model = llama_3_2_1b, node = h100_1, workload { input = 24, output = 0, batch = 4 } }"
    status, out, _ = planc(capsys, tmp_path, text, "-o", tmp_path / "x.svg", "--json")
    (told,) = json.loads(out)["curves"]
    assert status == 0
    assert {(p["ttft_s"], p["tpot_s"], p["tpot_s_band"]) for p in told["points"]} == {(None, None, None)}
    assert all(p["latency_s"] > 0 for p in told["points"])
    text = said(tmp_path / "x.svg")
    assert "24 tokens in, nothing out" in text
    assert "latency" in text
    assert not any(word in text for word in ("TTFT", "TPOT"))


def test_points_of_a_tradeoff_are_the_estimates_of_their_batch(capsys, tmp_path) -> None:
    status, out, _ = planc(capsys, tmp_path, BATCHES, "-o", tmp_path / "x.svg", "--json")
    one, two = json.loads(out)["curves"]
    assert (status, one["plan"], one["load"]) == (0, "one", "batch")
    for told, name in ((one, "one"), (two, "two")):
        for point in told["points"][::6]:
            (made,) = compile_text(BATCHES, plan=name, overrides=[("workload.batch", str(point["load"]))])
            found = made.estimate()
            assert point["ttft_s"] == pytest.approx(found.ttft_s, rel=1e-12)
            assert point["throughput_per_gpu_tokens_per_s"] == pytest.approx(found.throughput_per_gpu_tokens_per_s)
            assert point["tpot_s_band"] == pytest.approx(found.band("tpot_s"), rel=1e-12)
            assert found.fits
        assert told["points"][-1]["load"] == found.max_batch


def test_two_pools_keep_the_batch_of_prefill() -> None:
    example = Path(__file__).parent.parent / "examples" / "split_llama_3_3_70b.plan"
    (made,) = compile_file(example, plan="split")
    curve = estimate_curve(made)
    assert curve.own is not None
    assert curve.points[curve.own].times["ttft"] == pytest.approx(made.estimate().ttft_s, rel=1e-12)
    assert len({point.times["ttft"] for point in curve.points}) == 1


def test_a_load_over_time_is_drawn_over_its_rate(capsys, tmp_path, short) -> None:
    status, out, _ = planc(capsys, tmp_path, TEXT[: TEXT.index("plan two")], "-o", tmp_path / "x.svg", "--json")
    (told,) = json.loads(out)["curves"]
    assert (status, told["load"]) == (0, "req/s")
    assert len(told["points"]) >= 3
    text = said(tmp_path / "x.svg")
    assert all(word in text for word in ("TTFT, p95", "TPOT, mean", "req/s"))


def test_the_knee_is_farthest_above_the_chord() -> None:
    batch = 2.0 ** np.arange(12)
    latency = 1 + batch / 64  # flat up to about 64, then linear
    assert batch[knee(latency, batch / latency)] in (32, 64, 128)
    assert knee(batch, batch**0.7) is None  # a line on logarithmic axes
    assert knee(np.array([1.0, 2.0, np.nan]), np.array([1.0, 2.0, 3.0])) is None


@pytest.mark.parametrize("name", ["x.dot", "x.jpg"])
def test_a_tradeoff_is_no_graph(capsys, tmp_path, name: str) -> None:
    status, out, err = planc(capsys, tmp_path, BATCHES, "-o", tmp_path / name)
    assert (status, out) == (2, "")
    assert "error[E400]" in err


def test_only_a_tradeoff_is_against_a_latency(capsys, tmp_path) -> None:
    (tmp_path / "a.plan").write_text(BATCHES)
    assert main(["render", str(tmp_path / "a.plan"), "-o", str(tmp_path / "x.dot"), "--against", "tpot"]) == 2
    assert "error[E400]" in capsys.readouterr().err


# ---- an operator's story

STORY = Path(__file__).parent.parent / "examples" / "traffic"


def test_the_invented_trace_is_what_its_seed_draws() -> None:
    found = runpy.run_path(str(STORY / "make_trace.py"))
    assert found["trace"]() == (STORY / "service.csv").read_text()


def test_the_candidates_of_the_story_differ_as_it_tells() -> None:
    runs = {made.name: made.simulate(100).simulation for made in compile_file(STORY / "operator.plan")}
    ttft = [runs[name].summary.ttft.p95.value for name in ("two_h100", "one_h100", "two_l40s")]
    assert ttft == sorted(ttft)
    assert all(told.requires for told in runs.values())
