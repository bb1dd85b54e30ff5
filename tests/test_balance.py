"""Cutting layers into stages: what may be written, and the cut that the compiler picks."""

from __future__ import annotations

from itertools import combinations, pairwise

import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from plandsl import limits
from plandsl.backends.cost.deployments.stages import StageCosts
from plandsl.diagnostics import PlanError
from plandsl.driver import CompiledPlan, compile_text
from plandsl.passes.balance import balance
from plandsl.show import show_plan
from plandsl.spec.plan import CutSpec
from plandsl.testing import same

MODEL = """
model m {
  layers = 9, hidden = 256, heads = 8, kv_heads = 4, head_dim = 32, ffn = 1024, wide = 4096, vocab = 64_000
  weights = bf16
  embedding w_embed[vocab, hidden]
  block thin [layers = 0..3] x[tokens, hidden] {
    h = rms_norm(x)
    x = x + attention(h @ w_q[hidden, heads, head_dim], h @ w_k[hidden, kv_heads, head_dim],
                      h @ w_v[hidden, kv_heads, head_dim]) @ w_o[heads, head_dim, hidden]
    x = x + silu(rms_norm(x) @ w_up[hidden, ffn]) @ w_down[ffn, hidden]
  }
  block thick [layers = 3..9] x[tokens, hidden] {
    h = rms_norm(x)
    x = x + attention(h @ w_q[hidden, heads, head_dim], h @ w_k[hidden, kv_heads, head_dim],
                      h @ w_v[hidden, kv_heads, head_dim]) @ w_o[heads, head_dim, hidden]
    x = x + silu(rms_norm(x) @ w_up[hidden, wide]) @ w_down[wide, hidden]
  }
  head rms_norm(x) @ w_head[hidden, vocab]
}
gpu slow { memory = 4 GB, bandwidth = 1 TB/s, compute { bf16 = 100 TFLOP/s } }
gpu fast = slow with { memory = 8 GB, bandwidth = 3 TB/s, compute { bf16 = 250 TFLOP/s } }
node alike { gpu = slow, count = 4, link { topology = switch, bandwidth = 400 GB/s, latency = 0 us } }
node mixed { gpus = [2 * slow, 2 * fast], link { topology = switch, bandwidth = 400 GB/s, latency = 0 us } }
calibration c { gemm = 60 %, launch = 2 us }
"""


def plan(sharding: str, node: str = "alike", load: str = "input = 512, output = 64, batch = 8") -> CompiledPlan:
    body = f"model = m, node = {node}, calibration = c\n  workload {{ {load} }}\n  sharding {{ {sharding} }}"
    (made,) = compile_text(f"{MODEL}\nplan p {{\n  {body}\n}}\n")
    return made


def refused(sharding: str) -> list[tuple[str, str]]:
    with pytest.raises(PlanError) as caught:
        plan(sharding)
    return [(d.code, d.message) for d in caught.value.diagnostics if d.severity == "error"]


def layers(made: CompiledPlan) -> list[int]:
    return [b - a for a, b in made.estimate().layers]


def cuts(total: int, stages: int) -> list[tuple[int, ...]]:
    """Every way to deal ``total`` layers to stages, one at least to each."""
    return [tuple(b - a for a, b in pairwise((0, *ends, total))) for ends in combinations(range(1, total), stages - 1)]


# ---- what may be written


def test_stages_get_the_layers_that_the_cut_gives_them() -> None:
    made = plan("pp = 3\n cut = [2, 6, 1]")
    assert made.estimate().layers == ((0, 2), (2, 8), (8, 9))
    assert not any(d.code == "N303" for d in made.notes)
    assert same(compile_text(show_plan(made.spec))[0].spec, made.spec)


def test_the_even_cut_written_out_changes_nothing() -> None:
    written, even = plan("pp = 3\n cut = [3, 3, 3]"), plan("pp = 3")
    assert written.cost.evaluate().numbers == even.cost.evaluate().numbers


@pytest.mark.parametrize(
    ("sharding", "code", "says"),
    [
        ("pp = 3\n cut = [3, 3, 2]", "E312", "has 8 layers in all, but `m` has 9"),
        ("pp = 3\n cut = [4, 5]", "E312", "2 parts, and there are 3 stages"),
        ("tp = 2\n cut = [9]", "E312", "no rule cuts the layers"),
        ("tp = 2\n cut = balanced", "E312", "no rule cuts the layers"),
        ("pp = 2\n cut = [9, 0]", "E214", "1 or more"),
        ("pp = 2\n cut = [4.5, 4.5]", "E214", "whole number"),
        ("pp = 2\n cut = 5", "E210", "the layers of each stage, or `balanced`"),
        ("pp = 2\n cut = even", "E210", "no cut `even`"),
        ("pp = 2\n cut = [1 GB, 8]", "E204", "plain number"),
    ],
)
def test_a_wrong_cut_is_refused(sharding: str, code: str, says: str) -> None:
    ((found, message),) = refused(sharding)
    assert found == code
    assert says in message


def test_the_hint_of_a_wrong_cut_works() -> None:
    with pytest.raises(PlanError) as caught:
        plan("pp = 2\n cut = [4, 4]")
    (wrong,) = caught.value.diagnostics
    assert "`cut = [5, 4]`" in wrong.hint
    assert plan("pp = 2\n cut = [5, 4]")


def test_two_shardings_cut_alike() -> None:
    def both(base: str, tensor: str) -> str:
        load = "workload { input = 512, output = 64 }"
        shift = f"base {{ pp = 2, sp = 2 {base} }}, tensor {{ pp = 2, tp = 2 {tensor} }}, threshold = 8"
        return f"{MODEL}\nplan p {{ model = m, node = alike, calibration = c, {load}, shift {{ {shift} }} }}\n"

    def codes(text: str) -> list[str]:
        with pytest.raises(PlanError) as caught:
            compile_text(text)
        return [d.code for d in caught.value.diagnostics]

    (made,) = compile_text(both(", cut = [3, 6]", ", cut = [3, 6]"))
    assert made.verify().ok
    assert codes(both(", cut = [3, 6]", "")) == ["E311"]
    assert codes(both(", cut = balanced", ", cut = balanced")) == ["E312"]


@pytest.mark.parametrize("cut", ["[1, 8]", "[7, 2]", "balanced"])
def test_meaning_does_not_depend_on_the_cut(cut: str) -> None:
    assert plan(f"pp = 2, tp = 2\n cut = {cut}", "mixed").verify().ok


# ---- the best one


@given(st.data(), st.integers(2, 4), st.integers(4, 8))
def test_balance_is_what_trying_every_cut_gives(data: st.DataObject, stages: int, total: int) -> None:
    weights = st.lists(st.integers(0, 9), min_size=total, max_size=total)
    prefill, decode = ([data.draw(weights) for _ in range(stages)] for _ in range(2))
    ends = [data.draw(st.integers(0, 9)) for _ in range(stages)]
    room = [data.draw(st.integers(1, total)) for _ in range(stages)]

    def costs(stage: int, start: int, stop: int) -> tuple[float, float]:
        return ends[stage] + sum(prefill[stage][start:stop]), 3 * sum(decode[stage][start:stop])

    def fits(stage: int, start: int, stop: int) -> bool:
        return stop - start <= room[stage]

    def cost(cut: tuple[int, ...]) -> tuple[bool, float]:
        over, worst, _ = parts_of(cut)
        return over, sum(worst)

    def parts_of(cut: tuple[int, ...]) -> tuple[bool, tuple[float, float], float]:
        spans = list(enumerate(pairwise((0, *(sum(cut[: i + 1]) for i in range(stages))))))
        parts = [costs(stage, *span) for stage, span in spans]
        over = not all(fits(stage, *span) for stage, span in spans)
        prefill, decode = zip(*parts, strict=True)
        return over, (max(prefill), max(decode)), sum(sum(p) ** 2 for p in parts)

    found = balance(total, stages, costs, fits)
    assert len(found) == stages
    every = [parts_of(cut) for cut in cuts(total, stages)]
    over, worst, uneven = parts_of(found)
    assert cost(found) == min((o, sum(w)) for o, w, _ in every)
    assert uneven == min(u for o, w, u in every if (o, w) == (over, worst))


@pytest.mark.parametrize("node", ["alike", "mixed"])
@pytest.mark.parametrize("sharding", ["pp = 4", "pp = 2, tp = 2", "pp = 2, dp = 2"])
@pytest.mark.parametrize("load", ["input = 512, output = 64, batch = 8", "input = 8, output = 900, batch = 64"])
def test_no_other_cut_serves_more(node: str, sharding: str, load: str) -> None:
    best = plan(f"{sharding}\n cut = balanced", node, load)
    stages = len(best.prefill.stages)
    others = [plan(f"{sharding}\n cut = {list(cut)}", node, load) for cut in cuts(9, stages)]
    most = max(float(other.cost.evaluate().throughput) for other in others)
    assert float(best.cost.evaluate().throughput) >= most * (1 - 1e-9)


def test_the_head_and_thick_layers_count_on_gpus_that_are_alike() -> None:
    best, even = plan("pp = 4\n cut = balanced"), plan("pp = 4")
    assert layers(even) == [3, 2, 2, 2]
    assert layers(best) != layers(even)
    assert best.cost.evaluate().throughput > even.cost.evaluate().throughput
    (note,) = (d for d in best.notes if d.code == "N313")
    assert ", ".join(map(str, layers(best))) in note.message


def test_seconds_and_bytes_of_a_stage_are_those_of_the_plan_that_has_it() -> None:
    for node in ("alike", "mixed"):
        costs = StageCosts(plan("pp = 4", node).cost)
        made = plan("pp = 4\n cut = [1, 4, 2, 2]", node)
        metrics, memory, load = made.cost.evaluate(), made.cost.memory, made.spec.workload
        for stage, (start, stop) in enumerate(made.estimate().layers):
            prefill, decode = costs.seconds(stage, start, stop)
            assert prefill == pytest.approx(float(metrics.prefill.stages[stage].span), rel=1e-12)
            assert decode == pytest.approx(64 * float(metrics.decode.stages[stage].span), rel=1e-12)
            held = memory.held(stage, load.batch, load.input + load.output, load.input, made.cost.in_flight)
            assert costs.hold(stage, start, stop) == pytest.approx(tuple(map(float, held)), rel=1e-12)


@pytest.mark.parametrize("node", ["alike", "mixed"])
@pytest.mark.parametrize("engine", ["vllm", "vllm with { graphs_in_budget = true }", "sglang"])
def test_bytes_of_a_stage_have_what_the_engine_takes(node: str, engine: str) -> None:
    body = f"model = m, node = {node}, engine = {engine}\n  workload {{ input = 512, output = 64, batch = 8 }}"
    (made,) = compile_text(f"{MODEL}\nplan p {{\n  {body}\n  sharding {{ pp = 4, cut = [1, 4, 2, 2] }}\n}}\n")
    costs, memory, load = StageCosts(made.cost), made.cost.memory, made.spec.workload
    for stage, (start, stop) in enumerate(made.estimate().layers):
        held = memory.held(stage, load.batch, load.input + load.output, load.input, made.cost.in_flight)
        assert costs.hold(stage, start, stop) == pytest.approx(tuple(map(float, held)), rel=1e-12)
        assert costs.fits(stage, start, stop) == (held.total <= memory.capacities[stage])


def test_a_cut_that_fits_is_preferred() -> None:
    # the fast GPUs, first in the pipeline, would take most layers, and have no room for them
    small = (
        MODEL.replace("memory = 8 GB", "memory = 400 MB") + "node turned = mixed with { gpus = [2 * fast, 2 * slow] }\n"
    )
    text = small + "plan p { model = m, node = turned, calibration = c, sharding { pp = 2, tp = 2, cut = balanced }\n"
    text += "  workload { input = 512, output = 64, batch = BATCH }\n}\n"
    (roomy,) = compile_text(text.replace("BATCH", "1"))
    (tight,) = compile_text(text.replace("BATCH", "256"))
    assert layers(roomy)[0] > layers(tight)[0]
    assert tight.estimate().fits
    spec = evolve(tight.spec, sharding=evolve(tight.spec.sharding, cut=CutSpec((*layers(roomy),))))
    assert not CompiledPlan(spec, ()).estimate().fits
    (over,) = compile_text(text.replace("BATCH", "100_000"))  # nothing fits: the quickest is taken
    assert not over.estimate().fits


def test_of_many_layers_few_stages_are_tried() -> None:
    """100 layers have 5,050 ranges, each of which may be the layers of one of 8 stages."""
    tried = set()

    def costs(stage: int, start: int, stop: int) -> tuple[float, float]:
        tried.add((stage, start, stop))
        return float(stop - start) * (1 + stage % 3), float(stop - start)

    assert sum(balance(100, 8, costs)) == 100
    assert len(tried) < 2000


def test_a_layer_that_one_stage_cannot_take_is_left_to_another() -> None:
    prefill = {(1, 2): 1.0}  # of a layer on a stage
    decode = {(0, 0): 3.0, (0, 1): 21.0, (2, 2): 24.0}

    def costs(stage: int, start: int, stop: int) -> tuple[float, float]:
        first, second = (sum(of.get((stage, n), 0.0) for n in range(start, stop)) for of in (prefill, decode))
        return first, second

    def fits(stage: int, start: int, stop: int) -> bool:
        return stop - start <= (2, 1, 1, 2)[stage]

    # filled one by one, the first stage takes two layers and leaves the second one that costs it something
    assert balance(5, 4, costs, fits) == (1, 1, 1, 2)


def test_as_many_layers_are_balanced_as_the_limit_says() -> None:
    text = """plan p {{ model = llama_3_2_1b with {{ layers = {} }}, node = h100_8
      sharding {{ pp = 2, cut = balanced }}
      workload {{ input = 10, output = 4, batch = 8 }} }}"""
    with limits.override({"balanced": 4}):
        compile_text(text.format(4))
        with pytest.raises(PlanError, match="has 5 layers, and at most 4 are balanced"):
            compile_text(text.format(5))
