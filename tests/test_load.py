"""Requests that follow one another: the steady state against the same server played out step by step, and engines."""

from __future__ import annotations

import json
from collections import deque

import numpy as np
import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from plandsl.backends.cost.deployments.ongoing import joined_prefills, running_requests, serve
from plandsl.backends.cost.time.phase import PhaseTimes, Played
from plandsl.cli import main
from plandsl.diagnostics import PlanError
from plandsl.driver import CompiledPlan, compile_text
from plandsl.show import show_plan
from plandsl.spec.hardware import IDEAL, EngineSpec

PLAN = """
plan p {
  model = llama_3_1_8b
  node = h100_8
  sharding { SHARDING }
  workload { LOAD }
  MORE
}
"""


def plan(load: str, more: str = "", sharding: str = "") -> CompiledPlan:
    text = PLAN.replace("LOAD", load).replace("MORE", more).replace("SHARDING", sharding)
    return compile_text(text)[0]


def phase(seconds: float) -> PhaseTimes:
    """A phase of one stage that takes so long."""
    return PhaseTimes({}, {}, stages=[Played(seconds, seconds)], hop=0.0, through=seconds, period=seconds)


def played(clients: int, slots: int, output: int, requests: int, base: float, each: float, prefill: float):
    """Mean TTFT and TPOT, and requests/s, of a server whose steps take ``base + each * running + prefill * joining``.

    Lengths differ by a fifth, so that requests do not leave together.
    """
    rng = np.random.default_rng(3)
    lengths = rng.integers(round(0.9 * output), round(1.1 * output) + 1, requests)
    waiting = deque((0.0, int(n)) for n in lengths[:clients])
    coming = deque(int(n) for n in lengths[clients:])
    live: list[list[float]] = []  # arrival, first token, tokens left, tokens
    now, first, between = 0.0, [], []
    while waiting or live:
        joining = []
        while waiting and len(live) + len(joining) < slots:
            arrived, n = waiting.popleft()
            joining.append([arrived, 0.0, n - 1, n])
            if len(joining) == 1:  # one prompt in a step, as a budget of tokens has it
                break
        now += (base + each * len(live) if live else 0.0) + prefill * len(joining)
        for r in live:
            r[2] -= 1
        for r in joining:
            r[1] = now
            first.append(now - r[0])
        live += joining
        for r in [r for r in live if r[2] <= 0]:
            live.remove(r)
            between.append((now - r[1]) / max(r[3] - 1, 1))
            if coming:
                waiting.append((now, coming.popleft()))
    return np.mean(first), np.mean(between), requests / now


@pytest.mark.parametrize(
    ("clients", "slots", "output", "prefill"),
    [
        (1, 8, 200, 0.02), (8, 64, 200, 0.02), (32, 64, 400, 0.01), (64, 64, 400, 0.03), (64, 16, 200, 0.02),
        (48, 32, 600, 0.05),
    ],
)  # fmt: skip
def test_the_steady_state_is_that_of_a_server_played_out(clients, slots, output, prefill):
    base, each, requests = 0.01, 1e-4, 12 * clients
    runs = running_requests(IDEAL, clients, slots)
    step = phase(base + each * runs)
    found = serve(
        IDEAL,
        clients,
        runs=runs,
        output=output,
        requests=requests,
        prefill=phase(prefill),
        joined=joined_prefills(runs, output),
        decode=step,
        flights=1,
    )
    ttft, tpot, rate = played(clients, slots, output=output, requests=requests, base=base, each=each, prefill=prefill)
    assert found.tpot == pytest.approx(tpot, rel=0.06)
    assert found.rate == pytest.approx(rate, rel=0.08)
    assert found.ttft == pytest.approx(ttft, rel=0.25, abs=base)


def test_a_lone_client_waits_for_nobody():
    alone, batch = plan("input = 1000, output = 100, concurrency = 1"), plan("input = 1000, output = 100, batch = 1")
    ours, static = alone.cost.evaluate(), batch.cost.evaluate()
    assert ours.ttft == pytest.approx(static.ttft)
    assert ours.tpot == pytest.approx(static.tpot)
    assert ours.served.waiting == 0


@given(st.integers(1, 300), st.integers(1, 4000), st.integers(2, 2000))
def test_more_in_flight_is_never_faster_for_one_and_littles_law_holds(clients, input_, output):
    cost = CACHED.cost
    one, more = (cost.evaluate(concurrency=n, input=input_, output=output) for n in (clients, clients + 16))
    assert more.tpot >= one.tpot * (1 - 1e-3)  # kernels may be a little faster for a few rows more
    stay = one.served.line + one.served.prefill + one.served.first + (output - 1) * one.tpot
    assert one.served.rate * stay == pytest.approx(one.served.running, rel=0.02)
    assert one.served.running + one.served.waiting == clients


CACHED = plan("input = 1000, output = 100, concurrency = 8")


def test_arrays_equal_numbers():
    n, i, o = np.array([1, 7, 64, 4000]), np.array([100, 3000, 900, 60]), np.array([2, 500, 64, 128])
    busy = plan("input = 1, output = 1, concurrency = 1", "engine = vllm", "tp = 2, pp = 2")
    many = busy.cost.evaluate(concurrency=n, input=i, output=o, requests=10 * n)
    for at in range(4):
        one = busy.cost.evaluate(concurrency=int(n[at]), input=int(i[at]), output=int(o[at]), requests=10 * int(n[at]))
        for name in ("ttft", "tpot", "throughput", "memory", "max_batch"):
            assert getattr(many, name)[at] == pytest.approx(getattr(one, name), rel=1e-12), name


def test_room_in_the_cache_bounds_what_runs_and_the_rest_waits():
    small = "node = h100_8 with { gpu { memory = 24 GB } }"
    made = compile_text(PLAN.replace("node = h100_8", small).replace("SHARDING", "").replace("MORE", "")
                        .replace("LOAD", "input = 4000, output = 1000, concurrency = 64"))[0]  # fmt: skip
    e = made.estimate()
    assert e.load.running < 64
    assert e.load.running + e.load.waiting == 64
    assert e.load.queue_s > 0
    assert e.fits
    assert e.load.running == made.cost.memory.max_batch(5000, 4000, 1)


ENGINE = """
engine e {
  step = 1 ms, request = 10 us, admit = 2 ms, first = 20 ms, first_request = 1 ms
  prefill = 80 %, decode = 90 %, links = 50 %, memory_fraction = 90 %, reserve = 2 GB, kv_block = 16
  ttft_low = 0.8, ttft_high = 1.5
}
"""


def with_engine(load: str) -> CompiledPlan:
    return compile_text(ENGINE + PLAN.replace("LOAD", load).replace("MORE", "engine = e").replace("SHARDING", ""))[0]


def test_an_engine_adds_what_it_says_to_a_batch():
    load = "input = 1000, output = 100, batch = 8"
    bare, served = plan(load).cost.evaluate(), with_engine(load).cost.evaluate()
    assert served.ttft == pytest.approx(bare.ttft / 0.8 + 8 * 2e-3 + 20e-3 + 8 * 1e-3)
    assert served.tpot == pytest.approx(bare.tpot / 0.9 + 1e-3 + 8 * 10e-6)


RANKED = """
engine e {{ step = 1 ms, step_rank = {rank} us, step_node = {node} us, tpot_low = 0.9, tpot_high = 1.2 }}
cluster pair {{ node = h100_8, count = 2, network {{ topology = rail, bandwidth = 50 GB/s, latency = 5 us }} }}
plan p {{
  model = llama_3_1_8b, cluster = pair, sharding {{ {sharding} }}
  engine = e, workload {{ input = 500, output = 20, {load} }}
}}
"""


@given(
    degrees=st.sampled_from(
        [("tp = 4", 4, 1), ("tp = 4; dp = 4", 4, 1), ("tp = 8; pp = 2", 16, 2), ("dp = 2", 1, 1), ("pp = 2", 2, 1)]
    ),
    rank=st.integers(0, 200),
    node=st.integers(0, 2000),
    load=st.sampled_from(["batch = 4", "concurrency = 16, requests = 40"]),
)
def test_an_engine_adds_time_for_further_ranks_and_for_several_nodes(degrees, rank, node, load):
    sharding, ranks, nodes = degrees
    text = RANKED.format(rank=rank, node=node, sharding=sharding.replace(";", ","), load=load)
    made = compile_text(text)[0]
    bare = made.cost.on(evolve(made.spec, engine=evolve(made.spec.engine, step_rank=0.0, step_node=0.0)))
    more = rank * 1e-6 * (ranks - 1) + node * 1e-6 * (nodes > 1)
    ours, theirs = made.cost.evaluate(), bare.evaluate()
    if ours.served is None or theirs.served is None:
        assert ours.tpot - theirs.tpot == pytest.approx(more, abs=1e-9)
        assert ours.ttft - theirs.ttft == pytest.approx(more, abs=1e-9)
    else:  # what a first token waits for is off the steps of others
        assert ours.served.host - theirs.served.host == pytest.approx(more, abs=1e-9)
        assert ours.served.first - theirs.served.first == pytest.approx(more, abs=1e-9)
        assert ours.tpot - theirs.tpot == pytest.approx(more, rel=0.2, abs=1e-9)
    assert made.spec.engine_band("tpot") == pytest.approx((0.9**nodes, 1.2**nodes))


@pytest.mark.parametrize("load", ["batch = 8", "concurrency = 8", "concurrency = 200, requests = 400"])
@pytest.mark.parametrize("engine", [False, True])
def test_the_parts_of_a_phase_add_up(load, engine):
    text = f"input = 1000, output = 100, {load}"
    e = (with_engine(text) if engine else plan(text)).estimate()
    for p, whole in ((e.prefill, e.ttft_s), (e.decode, e.tpot_s)):
        parts = p.compute_s + p.communication_s + p.bubble_s + p.engine_s + p.waiting_s + p.mixed_s
        assert parts == pytest.approx(whole)
        assert min(p.engine_s, p.waiting_s, p.mixed_s, p.bubble_s) >= 0
    assert (e.prefill.engine_s > 0) == engine
    assert (e.decode.mixed_s > 0) == ("concurrency" in load)


def test_memory_is_counted_as_engines_do():
    made, bare = with_engine("input = 1000, output = 1, batch = 8"), plan("input = 1000, output = 1, batch = 8")
    e, b = made.estimate(), bare.estimate()
    assert e.memory.capacity == pytest.approx(0.9 * 79.19 * 2**30)
    assert e.memory.buffers == pytest.approx(b.memory.buffers + 2e9)
    # 1001 tokens take 63 blocks of 16
    assert e.memory.kv_cache == pytest.approx(8 * 63 * 16 * b.kv_bytes_per_token)
    doc = e.as_json()
    free = 0.9 * 79.19 * 2**30 - e.memory.weights - e.memory.activations - e.memory.buffers
    assert doc["kv_blocks"] == pytest.approx(free / b.kv_bytes_per_token / 16, rel=0.01)


def test_bands_hold_the_estimate_and_the_engine_states_its_own():
    e = with_engine("input = 1000, output = 100, concurrency = 8").estimate()
    assert e.band("ttft_s") == pytest.approx((0.8 * e.ttft_s, 1.5 * e.ttft_s))
    for metric in ("tpot_s", "latency_s", "throughput_tokens_per_s"):
        low, high = e.band(metric)
        assert low < getattr(e, metric) < high
    none = evolve(with_engine("input = 10, output = 10, batch = 1").spec.engine, ttft_low=1.0, ttft_high=1.0)
    assert isinstance(none, EngineSpec)


def test_a_calibration_without_errors_gives_no_band(tmp_path, capsys):
    file = tmp_path / "p.plan"
    load = PLAN.replace("LOAD", "input = 100, output = 10").replace("SHARDING", "")
    file.write_text("calibration mine { gemm = 0.5 }\n" + load.replace("MORE", "calibration = mine"), encoding="utf-8")
    assert main(["compile", str(file), "--json"]) == 0
    doc = json.loads(capsys.readouterr().out)["plans"][0]
    assert doc["ttft_s_band"] is None
    assert doc["no_band"]["ttft_s"].startswith("no errors are known of ")
    assert main(["compile", str(file)]) == 0
    out = capsys.readouterr().out
    assert out.count(", no band") == 4  # TTFT, TPOT, latency, throughput
    assert "no band: no errors are known of " in out


BARE = """
calibration mine { gemm = 0.5 }
plan bare { model = llama_3_1_8b, node = h100_8, sharding { tp = 2 }, calibration = mine
  workload { input = 100, output = 10, batch = 1 } }
plan judged = bare with { calibration = h100_sxm }
search s { plan = bare; minimize ttft; vary batch in [1, 2] }
"""


def test_where_a_band_is_missing_every_report_says_so(tmp_path, capsys):
    file = tmp_path / "p.plan"
    file.write_text(BARE, encoding="utf-8")

    def said(*arguments: str) -> str:
        assert main([arguments[0], str(file), *arguments[1:]]) in (0, 1)
        return capsys.readouterr().out

    assert "no band, TTFT, TPOT, latency, throughput: bare\n" in said("compile")
    assert "within each other's band" not in said("compile")
    assert said("explain", "--plan", "bare").count("no band") >= 2
    assert said("diff").count(", no band") == 3
    assert "no band of the model" in said("simulate", "--plan", "judged")
    assert "no band, TTFT: all\n" in said("search")
    found = json.loads(said("search", "--json"))
    top = found["searches"][0] if "searches" in found else found
    assert top["without_band"] == [1, 2]
    assert top["top"][0]["ttft_s_band"] is None


@pytest.mark.parametrize("name", ["vllm", "sglang", "trtllm"])
def test_the_engines_that_ship_cost_something_and_say_how_sure_they_are(name):
    load = "input = 1000, output = 100, concurrency = 8"
    bare, served = plan(load).estimate(), plan(load, f"engine = {name}").estimate()
    assert served.ttft_s > bare.ttft_s
    assert served.engine == name
    low, high = served.band("tpot_s")
    assert low < served.tpot_s < high


def test_a_plan_with_an_engine_reads_back():
    made = with_engine("input = 1000, output = 100, concurrency = 8, requests = 80")
    again = compile_text(show_plan(made.spec))[0]
    assert again.spec.engine == made.spec.engine
    assert again.spec.workload == made.spec.workload
    assert again.cost.evaluate().ttft == made.cost.evaluate().ttft


@pytest.mark.parametrize(
    ("load", "code"),
    [
        ("input = 10, output = 10, batch = 8, concurrency = 8", "E221"),
        ("input = 10, output = 10, requests = 8", "E221"),
        ("input = 10, output = 10, concurrency = 0", "E214"),
    ],
)
def test_loads_that_cannot_be_meant(load, code):
    with pytest.raises(PlanError) as caught:
        plan(load)
    assert [d.code for d in caught.value.diagnostics] == [code]
    assert caught.value.diagnostics[0].hint or code == "E214"


def test_an_engine_nobody_knows_has_a_near_name():
    with pytest.raises(PlanError) as caught:
        plan("input = 10, output = 10", "engine = vlm")
    (found,) = caught.value.diagnostics
    assert found.code == "E201"
    assert "vllm" in found.hint


def test_plans_within_each_others_band_are_told(tmp_path, capsys):
    file = tmp_path / "p.plan"
    body = PLAN.replace("SHARDING", "").replace("MORE", "engine = e")
    parts = [body.replace("plan p", f"plan {n}").replace("LOAD", f"input = {i}, output = 100")
             for n, i in (("a", 1000), ("b", 1050), ("c", 9000))]  # fmt: skip
    file.write_text(ENGINE + "".join(parts), encoding="utf-8")
    assert main(["compile", str(file), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["comparisons"]
    assert ["a", "b"] in [c["plans"] for c in found if "ttft_s" in c["within_band"]]
    assert not [c for c in found if "c" in c["plans"] and "ttft_s" in c["within_band"]]
    assert main(["compile", str(file)]) == 0
    assert "within each other's band, TTFT: a and b" in capsys.readouterr().out


def served(load: str, more: str) -> CompiledPlan:
    return plan(load, more, "tp = 2")


def test_a_lone_prompt_in_chunks_takes_its_own_tokens_and_not_the_budget():
    chunked = served("input = 100, output = 50, concurrency = 1", "chunked_prefill = 8192").cost.evaluate()
    whole = served("input = 100, output = 50, concurrency = 1", "").cost.evaluate()
    assert chunked.ttft == pytest.approx(whole.ttft, rel=0.1)


def test_those_that_decode_leave_room_for_the_prompts_that_take_their_places():
    """512 tokens a step serve 512 / (1 + 100 / 10) requests that decode; the other clients wait."""
    made = served("input = 100, output = 10, concurrency = 400", "chunked_prefill = 512").cost
    many, more = made.evaluate(), made.evaluate(concurrency=800)
    assert many.served.running == pytest.approx(512 / 11 * (1 + 1 / 10))
    assert many.served.waiting == 400 - many.served.running
    assert more.throughput == pytest.approx(many.throughput)


def test_a_prompt_waits_for_those_that_came_with_it_and_not_for_a_queue_longer_than_the_loop():
    def line(clients: int, output: int, step: float) -> float:
        found = serve(
            IDEAL, clients, runs=clients, output=output, requests=None, prefill=phase(1.0), joined=1,
            decode=phase(step), flights=1,
        )  # fmt: skip
        return found.line - 1.5 * step * (clients - 1) / clients

    assert line(5, 4, 1e-3) == pytest.approx(1.0)
    assert line(5, 4, 1e-3) == pytest.approx(line(5, 4, 1e-1))
    assert line(100, 1000, 1e-3) == pytest.approx(0.099)


def test_requests_of_a_batch_in_chunks_end_while_prompts_are_computed():
    """Twice the requests take twice as long where each has made its output long before the last prompt is done."""
    made = served("input = 2000, output = 20, batch = 64", "chunked_prefill = 512").cost
    one, two = made.evaluate(), made.evaluate(batch=128)
    assert two.throughput == pytest.approx(one.throughput, rel=0.03)
    assert two.tpot == pytest.approx(one.tpot, rel=0.03)
