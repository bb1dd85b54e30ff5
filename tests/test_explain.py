"""`planc explain FILE`: terms add up, slopes are derivatives, bottlenecks turn where they are said to."""

import json
from functools import cache
from math import isclose
from pathlib import Path

import pytest
from attrs import evolve
from hypothesis import given
from rich.console import Console

from plandsl.answers.communication import TRANSFER
from plandsl.answers.text.explanation import print_explanation
from plandsl.backends.cost.answers.figures import FIGURES
from plandsl.backends.cost.answers.sensitivities import CLOSE, Variations, seconds_by_bound, unmoved_shares
from plandsl.backends.cost.answers.terms import exposed_shares, memory_terms, terms
from plandsl.backends.cost.time.phase import play
from plandsl.cli import main
from plandsl.driver import compile_file, compile_module, compile_text, difference, open_file
from plandsl.ir.base import COMPUTE, LINK
from plandsl.ir.schedule import Slot
from plandsl.testing import compiled, plans
from plandsl.testing.laws_cost import shares_follow_their_figures
from tests.draws import some

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = sorted(ROOT.glob("examples/*.plan"))

MANY = """
plan served { model = llama_3_1_70b, node = h100_8, sharding { tp = 4, pp = 2 }, engine = vllm
  workload { input = 2000, output = 300, concurrency = 100, requests = 500 } }
plan one_token = served with { workload { input = 2000, output = 1, concurrency = 3 } }
plan crowded = served with { workload { input = 8000, output = 900, concurrency = 4000 } }
plan engine { model = llama_3_1_70b, node = h200_8, sharding { tp = 8 }, engine = vllm
  workload { input = 2000, output = 300, batch = 16 } }
plan ring { model = llama_3_1_70b, node = h100_8, sharding { cp = 4, tp = 2 }
  workload { input = 20000, output = 300, batch = 4 } }
plan dealt { model = deepseek_v3 with { weights = fp8 }, cluster = h100_8x4, sharding { ep = 16 }
  workload { input = 2000, output = 300, batch = 64 } }
plan nodes { model = llama_3_1_70b, cluster = h100_8x4, sharding { tp = 8, pp = 4 }
  workload { input = 2000, output = 300, batch = 64 } }
"""


def test_the_time_of_further_ranks_is_a_figure_of_its_own():
    text = MANY.split("plan engine")[1].split("plan ring")[0].replace("engine = vllm", "engine = e")
    plan = compile_text("engine e = vllm with { step_rank = 300 us }\nplan engine" + text)[0]
    varied = Variations(plan.cost)
    own, better = varied.own, varied.terms(FIGURES["ranks"], 2.0)
    for name in ("ttft", "tpot"):
        seconds = seconds_by_bound(own, name)["ranks"]
        assert isclose(seconds, 7 * 300e-6, rel_tol=1e-9)
        assert isclose(getattr(own, name).total - getattr(better, name).total, seconds / 2, rel_tol=1e-6)


TOY = """
calibration ideal { source = "none", gemm = 1, attention_prefill = 1, hbm = 1, link = 1, launch = %s }
gpu g { memory = 80 GB, bandwidth = %s, compute { bf16 = %s } }
node n { gpu = g, count = 8, link { topology = switch, bandwidth = %s, latency = %s } }
plan p { model = llama_3_1_8b, node = n, sharding { tp = %d }, calibration = ideal
  workload { input = 1000, output = 100, batch = 4 } }
"""


def run(capsys, *arguments):
    """Exit status, standard output, standard error."""
    status = main([str(a) for a in arguments])
    return status, *capsys.readouterr()


def toy(launch="0 s", memory="1 TB/s", compute="1000 TFLOP/s", link="100 GB/s", latency="0 s", tp=1):
    (plan,) = compile_text(TOY % (launch, memory, compute, link, latency, tp))
    return plan


@cache
@cache
def many():
    found = (open_file(path) for path in EXAMPLES)
    examples = [plan for module in found if module.plans for plan in compile_module(module)]
    return [*examples, *compile_text(MANY)]


PARTS = 4
"""Tests that share the kinds of plans."""


@cache
def explained(plan):
    return plan.explain()


def slopes(plan, metric):
    return {s.key: s.slopes[metric].mean for s in explained(plan).sensitivities if metric in s.slopes}


# ---- terms


def adds_up(breakdown):
    for total in (
        sum(t.value for t in breakdown.terms),
        sum(breakdown.groups().values()),
        sum(breakdown.bounds().values()),
    ):
        assert isclose(total, breakdown.total, rel_tol=1e-12), breakdown.metric
    assert all(t.value >= 0 for t in breakdown.terms)


@pytest.mark.parametrize("plan", many(), ids=lambda plan: plan.name)
def test_terms_of_every_kind_of_plan_add_up(plan):
    metrics, found = plan.cost.evaluate(), plan.estimate()
    times = terms(plan.cost, metrics)
    assert times.ttft.total == found.ttft_s
    assert times.tpot.total == found.tpot_s
    assert isclose(times.per_token.total * found.throughput_tokens_per_s, 1, rel_tol=1e-12)
    for breakdown in (*times.all, memory_terms(found.memory)):
        adds_up(breakdown)


def test_terms_are_the_sums_of_the_report():
    for plan in compile_text(MANY):
        found, times = plan.estimate(), terms(plan.cost, plan.cost.evaluate())
        for phase, whole in ((found.prefill, times.ttft), (found.decode, times.tpot)):
            bounds, ops = whole.bounds(), [t for t in whole.terms if t.layer]
            linked = sum(t.value for t in ops if t.group not in ("GEMMs", "attention", "element-wise"))
            assert isclose(linked, phase.communication_s, rel_tol=1e-9, abs_tol=1e-12)
            assert isclose(bounds.get("wait", 0.0), phase.waiting_s, rel_tol=1e-9)
            assert isclose(bounds.get("mixed", 0.0), phase.mixed_s, rel_tol=1e-9)
            assert isclose(bounds.get("engine", 0.0) + bounds.get("ranks", 0.0), phase.engine_s, rel_tol=1e-9)
            assert isclose(bounds.get("bubble", 0.0), phase.bubble_s, rel_tol=1e-6, abs_tol=1e-9 * phase.time_s)


def test_what_kernels_hide_is_no_term():
    slots = (Slot(0, LINK, ()), Slot(1, COMPUTE, ()), Slot(2, COMPUTE, (0,)), Slot(3, LINK, (2,)))
    seconds = [5.0, 3.0, 1.0, 4.0]  # two of the first five show, all of the last four
    shares = exposed_shares(slots, seconds, play(slots, seconds))
    assert shares == pytest.approx([2 / 5, 1, 1, 1])


def test_a_kernel_fed_by_a_ring_has_its_work_at_the_end():
    slots = (Slot(0, LINK, ()), Slot(1, COMPUTE, (), along=0, blocks=4), Slot(2, LINK, (1,)))
    seconds = [9.0, 4.0, 2.0]  # the last block takes one second after the ring: 10 in all, of which 4 are work
    shares = exposed_shares(slots, seconds, play(slots, seconds))
    assert sum(s * t for s, t in zip(shares, seconds, strict=True)) == pytest.approx(12)
    assert shares[2] == pytest.approx(1)
    assert shares[0] == pytest.approx(6 / 9)


def test_the_ring_of_a_plan_is_hidden_where_the_report_says_so():
    (plan,) = compile_text(MANY, plan="ring")
    ring = next(op for op in plan.estimate().prefill.ops if op.op == "ring")
    term = next(t for t in terms(plan.cost, plan.cost.evaluate()).ttft.terms if t.op == "ring")
    assert term.value < ring.time_s


# ---- slopes


def test_a_purely_memory_bound_step_follows_the_memory_alone():
    found = slopes(toy(compute="1000000 TFLOP/s"), "tpot")
    assert found["memory"] == pytest.approx(-1, abs=1e-4)
    assert {"launch", "link", "message"}.isdisjoint(found)
    assert found.get("compute", 0.0) == pytest.approx(0, abs=1e-4)


def test_a_purely_compute_bound_prefill_follows_the_peak_alone():
    found = slopes(toy(memory="100000 TB/s", compute="100 TFLOP/s"), "ttft")
    assert found["compute"] == pytest.approx(-1, abs=1e-3)
    assert found["memory"] == pytest.approx(0, abs=1e-3)


def test_links_and_latencies_take_their_parts():
    slow = toy(launch="1 ms", link="10 MB/s", tp=2)
    assert slopes(slow, "ttft")["link"] == pytest.approx(-1, abs=0.01)
    late = toy(latency="1 s", tp=2)
    assert slopes(late, "tpot")["message"] == pytest.approx(1, abs=0.01)
    launched = toy(launch="1 s")
    assert slopes(launched, "tpot")["launch"] == pytest.approx(1, abs=0.01)


def test_collectives_without_a_launch_of_their_own_keep_that_of_kernels():
    plan = toy(launch="10 us", tp=2)
    model, ar = plan.cost, "all_reduce"
    for key, moves in (("launch", False), ("message", True)):
        other = model.on(FIGURES[key].scaled(model.plan, 2.0))
        before, after = (sum(t.value for t in terms(m, m.evaluate()).tpot.terms if t.op == ar) for m in (model, other))
        assert (after > before) == moves


@given(plans())
def test_terms_of_drawn_plans_add_up_and_all_follow_figures(spec):
    """A roofline is as many times as fast as all its figures are good: exactly, but for rounding.

    This is some 1e-14 of a sum of a few hundred times, over ln(1.01).
    """
    asking = Variations(compiled(spec).cost)
    for breakdown in asking.own.all:
        adds_up(breakdown)
    for metric, rest in unmoved_shares(asking).items():
        assert abs(rest) < 1e-10, f"{metric}: {rest} follows no figure"


@pytest.mark.parametrize("metric", ["ttft", "tpot", "throughput"])
def test_slopes_of_a_roofline_add_up_where_none_has_a_kink(metric):
    found = [s for s in toy(tp=2).explain().sensitivities if s.key in FIGURES]
    assert all(s.slopes[metric].down == pytest.approx(s.slopes[metric].up, abs=0.02) for s in found)
    better = sum(s.slopes[metric].mean * FIGURES[s.key].better for s in found)
    assert abs(better) == pytest.approx(1, abs=1e-3)


def test_a_norm_that_its_units_hold_up_follows_these_whatever_the_memory():
    (plan,) = compile_file(ROOT / "examples" / "llama3_70b.plan", "tensor_parallel")
    found = slopes(plan, "ttft")
    times = terms(plan.cost, plan.cost.evaluate())
    assert {t.bound for t in times.ttft.terms if t.op == "norm"} == {"unit"}
    assert found["unit"] < -0.1
    assert abs(plan.explain().unmoved["ttft"]) < 0.01


FIELDS = {
    "memory": ("node.gpu.bandwidth", "3.35 TB/s"),
    "compute": ("node.gpu.compute.bf16", "989.4 TFLOP/s"),
    "link": ("node.link.bandwidth", "450 GB/s"),
}


@pytest.mark.parametrize("key", FIELDS)
def test_a_figure_that_the_language_changes_gives_the_same(key):
    text = "plan p { model = llama_3_1_8b, node = h100_8, sharding { tp = 4 }, workload { input = 900, output = 90 } }"
    path, value = FIELDS[key]
    number, unit = value.split()
    (changed,) = compile_text(text, overrides=[(path, f"{float(number) * 1.25} {unit}")])
    (plan,) = compile_text(text)
    scaled = plan.cost.on(FIGURES[key].scaled(plan.spec, 1.25)).evaluate()
    written = changed.cost.evaluate()
    assert (scaled.ttft, scaled.tpot, scaled.throughput) == pytest.approx(
        (written.ttft, written.tpot, written.throughput), rel=1e-12
    )
    assert scaled.tpot != plan.cost.evaluate().tpot


KINDS = ("served", "nodes", "dealt", "ring", "split", "shift", "guessed", "even")
"""Plans with an ongoing load, a cluster, experts, a ring, two pools, two shardings, a draft, unlike GPUs."""


@pytest.mark.parametrize("plan", [plan for plan in many() if plan.name in KINDS], ids=lambda plan: plan.name)
def test_models_made_of_one_another_share_nothing_that_a_figure_changes(plan):
    """Each model is asked after others that differ in one figure, and again by itself."""
    family = plan.cost.on(plan.spec)
    for figure in FIGURES.values():
        other = figure.improved(plan.spec, 1.25)
        shared, alone = (model.on(other).evaluate() for model in (family, plan.cost))
        assert shared.numbers == alone.numbers, figure.name
    assert family.evaluate().numbers == plan.cost.evaluate().numbers


def test_networks_and_engines_are_figures_too():
    network, engine = (compile_text(MANY, plan=name)[0] for name in ("nodes", "engine"))
    assert slopes(network, "ttft")["network"] < 0
    assert slopes(engine, "tpot")["engine"] > 0
    assert "engine" not in slopes(network, "ttft")


def test_memory_and_load_are_asked_in_whole_requests():
    found = {s.key: s for s in toy().explain().sensitivities}
    assert (found["batch"].low, found["batch"].at, found["batch"].high) == (3, 4, 5)
    assert found["capacity"].slopes["max_batch"].mean > 1  # weights come first
    (one,) = compile_text(MANY, plan="one_token")
    output = next(s for s in one.explain().sensitivities if s.key == "output")
    assert (output.low, output.slopes["ttft"].down) == (None, None)


def test_two_shardings_move_together():
    (plan,) = compile_file(ROOT / "examples" / "shift_llama_3_3_70b.plan", "shift")
    alone = {"prefill": "sp8", "decode": "tp8"}
    for metric, name in (("ttft", alone["prefill"]), ("tpot", alone["decode"])):
        (one,) = compile_file(ROOT / "examples" / "shift_llama_3_3_70b.plan", name)
        assert slopes(plan, metric)["memory"] == pytest.approx(slopes(one, metric)["memory"], rel=0.05)


# ---- measured tables


def test_measured_tables_are_left_aside_where_a_figure_moves(tmp_path):
    rows = "gpu,dtype,m,n,k,time_s\n" + "".join(f"h100_sxm,bf16,{m},4096,4096,{1e-5 * m}\n" for m in (1, 2, 4, 8, 16))
    (tmp_path / "gemm.csv").write_text(rows)
    text = """plan p { model = llama_3_1_8b, node = h100_8, sharding { tp = 1 }
      workload { input = 900, output = 90, batch = 8 }, measured = "gemm.csv" }"""
    (tmp_path / "p.plan").write_text(text)
    (plan,) = compile_file(tmp_path / "p.plan")
    (bare,) = compile_text(text.replace(', measured = "gemm.csv"', ""))
    found, plain = plan.explain(), bare.explain()
    assert found.modelled
    assert not plain.modelled
    assert "measured" in {t.layer for t in found.tpot.terms}
    assert found.tpot.total != plain.tpot.total
    assert found.sensitivities == plain.sensitivities


# ---- bottlenecks


@pytest.mark.parametrize("part", range(PARTS))
def test_kinds_of_plans_are_explained_and_printed(part, capsys):
    for plan in some(many()[part::PARTS], 5, part):
        found = explained(plan)
        rest = {metric: x for metric, x in found.unmoved.items() if abs(x) >= 0.05}
        assert rest == {}, f"{plan.name}: but for power limits, all follows some figure"
        another_figure_bounds_more_from_the_factor_on(plan, found)
        print_explanation(plan.spec, found, Console(width=120))
        out = capsys.readouterr().out
        assert "1 % more of" in out
        assert "nan" not in out, plan.name


def another_figure_bounds_more_from_the_factor_on(plan, found):
    asking = Variations(plan.cost)
    own = asking.own
    assert found.bottlenecks
    for b in found.bottlenecks:
        bounds = seconds_by_bound(own, b.metric)
        assert next(iter(bounds)) == b.bound
        assert b.limit >= (b.gain or 1) * (1 - 1e-9)
        assert b.limit >= 1
        if b.factor is not None:
            figure = FIGURES[b.bound]
            assert next(iter(asking.bounds(figure, b.factor, b.metric))) == b.then != b.bound
            assert next(iter(asking.bounds(figure, b.factor / CLOSE**2, b.metric))) == b.bound


def test_the_limit_is_that_of_amdahl():
    plan = toy(launch="20 us", compute="1000000 TFLOP/s")  # bytes, then launches: nothing hides anything
    share = -slopes(plan, "tpot")["memory"]
    limit = next(b for b in plan.explain().bottlenecks if b.metric == "tpot").limit
    assert limit == pytest.approx(1 / (1 - share), rel=1e-3)


def test_large_all_reduces_follow_the_links_and_not_their_latency():
    (plan,) = compile_file(ROOT / "examples" / "own_model.plan", "own")
    found = plan.explain()
    assert {t.bound for t in found.ttft.terms if t.op == "all_reduce" and t.value > 1e-3} == {"link"}
    ttft, _ = found.bottlenecks
    assert ttft.bound == "link"
    assert ttft.share == pytest.approx(-slopes(plan, "ttft")["link"], rel=0.02)
    assert ttft.limit == pytest.approx(1 / (1 - ttft.share), rel=0.02)
    assert (ttft.behind, ttft.hidden < 0.005) == ("message", True)


def test_the_report_has_bytes_for_what_bounds_large_all_reduces_and_latency_for_small_ones():
    (plan,) = compile_file(ROOT / "examples" / "own_model.plan", "own")
    found = plan.estimate()
    for phase, bound in ((found.prefill, "link"), (found.decode, "latency")):
        assert {op.bound for op in phase.ops if op.op == "all_reduce"} == {bound}


def test_what_is_hidden_behind_a_bottleneck_is_named(capsys):
    # 1 ms of arithmetic behind 2 ms of bytes: without those, half of what they bounded is there still
    plan = toy(memory="1 TB/s", compute="5 TFLOP/s")
    _, tpot = plan.explain().bottlenecks
    assert (tpot.bound, tpot.behind) == ("memory", "compute")
    assert tpot.limit == pytest.approx(1 / (1 - tpot.share + tpot.hidden), rel=1e-9)
    print_explanation(plan.spec, plan.explain(), Console(width=200))
    assert f"with {100 * tpot.hidden:.1f} % left to FLOP/s." in capsys.readouterr().out


def test_what_stays_however_good_is_said_to_only_where_it_does():
    from plandsl.answers.text.explanation import _bottleneck

    stay = toy(memory="1 TB/s", compute="1000000000 TFLOP/s").explain().bottlenecks[1]
    assert (stay.bound, stay.factor, stay.then) == ("memory", None, None)
    assert "It stays the bottleneck however fast it gets. Perfect: " in str(_bottleneck(stay))
    turn = toy(memory="1 TB/s", compute="1000000 TFLOP/s").explain().bottlenecks[1]
    assert turn.then == "compute"  # but for a factor of some thousands
    assert "It stays the bottleneck" not in str(_bottleneck(turn))


CHUNKED = """
plan alone { model = llama_3_1_8b, node = mi355x_8, sharding { tp = 2 }, chunked_prefill = 512
  workload { input = 1024, output = 128, batch = 8 } }
plan served { model = llama_3_1_8b, node = mi355x_8, sharding { tp = 2 }, chunked_prefill = 512, engine = vllm
  workload { input = 1024, output = 128, concurrency = 64, requests = 500 } }
"""


@pytest.mark.parametrize("plan", compile_text(CHUNKED), ids=lambda plan: plan.name)
def test_prefills_of_others_in_mixed_steps_are_no_times_of_an_engine(plan):
    metrics = plan.cost.evaluate()
    times = terms(plan.cost, metrics)
    for breakdown in times.all:
        adds_up(breakdown)
    bounds = times.tpot.bounds()
    assert bounds["mixed"] == pytest.approx(plan.estimate().decode.mixed_s)
    assert ("engine" in bounds) == (plan.spec.engine is not None)


@pytest.mark.parametrize(
    "plan", compile_text(MANY + CHUNKED.replace("plan served", "plan mixed")), ids=lambda p: p.name
)
def test_shares_follow_their_figures(plan):
    """Also for each example: there all laws hold."""
    shares_follow_their_figures(plan)


# ---- how far it may grow


def test_the_longest_context_fits_and_one_token_more_does_not():
    for plan in (toy(), *compile_text(MANY, plan="nodes")):
        load, room = plan.spec.workload, plan.explain().headroom
        assert plan.cost.evaluate(input=room.max_context - load.output).fits
        assert not plan.cost.evaluate(input=room.max_context - load.output + 1).fits
        assert room.max_batch == plan.estimate().max_batch


def test_gemms_turn_where_arithmetic_takes_as_long_as_bytes():
    plan = toy(memory="1 TB/s", compute="100 TFLOP/s")
    # without inputs and outputs, 2 FLOPs for each row and 2 bytes of a weight: 100 rows; those make it a few more
    assert 100 <= plan.explain().headroom.gemm_batch <= 112
    assert toy(memory="1000 TB/s", compute="1 TFLOP/s").explain().headroom.compute_batch == 1
    assert toy(compute="1000000 TFLOP/s").explain().headroom.gemm_batch is None


def test_nothing_has_room_where_the_weights_do_not_fit():
    (plan,) = compile_text("""plan p { model = llama_3_1_70b, node = h100_8, sharding { tp = 1 }
      workload { input = 100, output = 10 } }""")
    room = plan.explain().headroom
    assert (room.max_batch, room.max_context) == (0, 0)


# ---- the command


def test_a_file_is_explained_in_words_and_numbers(capsys):
    path = ROOT / "examples" / "llama3_70b.plan"
    status, out, err = run(capsys, "explain", path, "--plan", "hybrid", "--set", "workload.batch=8")
    assert (status, err) == (0, "")
    for word in ("TTFT", "TPOT", "GEMMs", "gate_up", "HBM bandwidth", "batch (8)", "Perfect", "room for", "fitted"):
        assert word in out
    assert max(map(len, out.splitlines())) <= 120
    status, out, _ = run(capsys, "explain", path, "--json")
    bodies = json.loads(out)["plans"]
    assert (status, [b["plan"] for b in bodies]) == (0, ["tensor_parallel", "pipeline", "hybrid"])
    for body in bodies:
        for name in ("ttft_s", "tpot_s", "seconds_per_token"):
            assert isclose(sum(t["value"] for t in body[name]["terms"]), body[name]["total"], rel_tol=1e-12)
        assert {"hbm", "sensitivities", "bottlenecks", "headroom"} - set(body) == {"hbm"}


def test_what_names_a_file_is_one(capsys, tmp_path, monkeypatch):
    import io
    import sys

    text = "plan p { model = llama_3_1_8b, node = h100_8, sharding { tp = 2 }, workload { input = 9, output = 9 } }\n"
    (tmp_path / "E301").write_text(text)
    assert "degree" in run(capsys, "explain", "E301")[1]
    monkeypatch.chdir(tmp_path)
    assert "TTFT" in run(capsys, "explain", "E301")[1]
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
    assert "TTFT" in run(capsys, "explain", "-")[1]
    status, _, err = run(capsys, "explain", "nowhere.plan")
    assert status == 2
    assert "E209" in err
    status, _, err = run(capsys, "explain", "E999")
    assert status == 2
    assert "E407" in err


def test_a_plan_that_misses_its_goals_is_explained_all_the_same(capsys, tmp_path):
    path = tmp_path / "p.plan"
    path.write_text("""plan p { model = llama_3_1_70b, node = h100_8, sharding { tp = 1 }, require tpot <= 1 us
      workload { input = 9, output = 9 } }""")
    assert run(capsys, "explain", path)[0] == 0


def test_figures_leave_a_plan_as_it_is_at_one():
    spec = compile_text(MANY, plan="nodes")[0].spec
    for figure in FIGURES.values():
        same = figure.scaled(spec, 1.0)
        assert evolve(same, calibration=spec.calibration) == spec
        assert dict(spec.calibration.values).items() <= dict(same.calibration.values).items()


# ---- pools and guesses


SPLIT = """
plan split {
  model = llama_3_1_70b, workload { input = 4000, output = 300, batch = 64 }
  prefill { node = h100_8, sharding { tp = 4, dp = 2 }, batch = 4 }
  decode { node = h100_8, sharding { tp = 8 } }
  transfer { bandwidth = BANDWIDTH, latency = 10 us }
}
"""
GUESSED = """
plan guessed {
  model = llama_3_1_70b, node = h100_8, sharding { tp = 8 }, workload { input = 1000, output = 200, batch = 4 }
  speculate { draft = llama_3_2_1b, tokens = 3, acceptance = 80 % }
}
"""


@pytest.mark.parametrize(("bandwidth", "limit"), [("50 GB/s", "prefill"), ("100 MB/s", "transfer")])
def test_terms_of_pools_say_whose_they_are(bandwidth, limit):
    (plan,) = compile_text(SPLIT.replace("BANDWIDTH", bandwidth))
    metrics = plan.cost.evaluate()
    found = terms(plan.cost, metrics)
    assert {t.part for t in found.ttft.terms} == {"prefill pool"}
    assert {t.part for t in found.tpot.terms} == {"decode pool", "transfer"}
    sent = [t for t in found.tpot.terms if t.part == "transfer"]
    assert sum(t.value for t in sent) == pytest.approx(metrics.sent, rel=1e-12)
    assert sent[0].bound == "transfer"
    estimate = plan.estimate()
    assert estimate.pools.limit == limit
    (moved,) = estimate.communication.of(TRANSFER)
    assert moved.share == pytest.approx(sum(t.value for t in sent) / metrics.tpot, rel=1e-12)
    for whole in (found.ttft, found.tpot, found.per_token):
        assert sum(t.value for t in whole.terms) == pytest.approx(whole.total, rel=1e-12)
    parts = {t.part for t in found.per_token.terms}
    assert parts == ({"transfer"} if limit == "transfer" else {"prefill pool"})
    if limit == "transfer":  # twice the bandwidth is twice the rate
        slope = next(s for s in plan.explain().sensitivities if s.key == "transfer").slopes["throughput"]
        assert slope.mean == pytest.approx(1, abs=1e-6)


def test_terms_of_a_pool_that_limits_are_not_more_than_a_token_takes():
    few = SPLIT.replace("BANDWIDTH", "500 GB/s").replace(
        "input = 4000, output = 300, batch = 64", "input = 10, output = 3"
    )
    (plan,) = compile_text(few)
    found = terms(plan.cost, plan.cost.evaluate()).per_token
    assert plan.estimate().pools.limit == "decode"
    assert all(t.value >= -1e-12 * found.total for t in found.terms)


def test_a_figure_changes_in_both_pools():
    (plan,) = compile_text(SPLIT.replace("BANDWIDTH", "50 GB/s"))
    found = {s.key: s.slopes for s in plan.explain().sensitivities}
    assert found["compute"]["ttft"].mean < -0.3  # the prefill pool
    assert found["memory"]["tpot"].mean < -0.3  # the decode pool


def test_terms_of_guesses_tell_the_draft_from_what_verifies():
    (plan,) = compile_text(GUESSED)
    metrics, server = plan.cost.evaluate(), plan.cost.one
    found = terms(plan.cost, metrics)
    for whole, times, tokens in ((found.ttft, metrics.prefill, 1), (found.tpot, metrics.decode, server.gain)):
        draft = [t for t in whole.terms if t.part == "draft"]
        assert sum(t.value for t in draft) == pytest.approx(times.drafted / tokens, rel=1e-12)
        assert {t.group for t in draft} == {"draft"}
        assert all(t.name.startswith("draft ") for t in draft)
        assert sum(t.value for t in whole.terms) == pytest.approx(whole.total, rel=1e-12)
    # three steps of a draft of 16 layers for each token that 2.952 of them bring
    qkv = next(t for t in found.tpot.terms if t.name == "draft qkv")
    assert qkv.runs == pytest.approx(3 * 16 / 2.952)


def test_pools_and_guesses_are_compared_with_plain_plans():
    (split,), (guessed,) = compile_text(SPLIT.replace("BANDWIDTH", "50 GB/s")), compile_text(GUESSED)
    (plain,) = compile_text(GUESSED.replace("speculate {", "# ").replace("plan guessed", "plan plain"))
    more = difference(plain, guessed)
    draft = next(p for p in more.tpot.groups if p.group == "draft")
    assert (draft.before, draft.why) == (0, "only after")
    assert more.tpot.change < 0 < draft.change
    for split_ in difference(plain, split).splits:
        assert sum(p.change for p in split_.parts) == pytest.approx(split_.change, rel=1e-9, abs=1e-15)
    transfer = next(p for p in difference(plain, split).tpot.groups if p.group == "transfer")
    assert transfer.change > 0
