"""Prefill in micro-batches: the closed form against the recurrence, and what a plan may say."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from plandsl.backends.cost.answers.terms import terms
from plandsl.backends.cost.time.phase import PhaseTimes, Played
from plandsl.backends.cost.time.pipeline import play_pipeline
from plandsl.backends.reference.cache import Cache
from plandsl.cli import main
from plandsl.diagnostics import PlanError
from plandsl.driver import CompiledPlan, compile_text
from plandsl.show import show_plan

PLAN = """
plan p {
  model = llama_3_1_8b, node = h100_8, sharding { SHARDING }
  workload { input = 2000, output = 50, batch = 16 }
  micro_batches = PARTS
  MORE
}
"""


def plan(parts: int, sharding: str = "pp = 4, tp = 2", more: str = "") -> CompiledPlan:
    text = PLAN.replace("SHARDING", sharding).replace("PARTS", str(parts)).replace("MORE", more)
    return compile_text(text)[0]


SECONDS = st.floats(0.001, 10.0)


@given(st.lists(SECONDS, min_size=1, max_size=6), SECONDS, st.integers(1, 9), st.integers(1, 4))
def test_the_closed_form_is_the_recurrence(stages: list[float], hop: float, parts: int, batches: int) -> None:
    hops = hop * (len(stages) - 1)
    slow = hop if len(stages) > 1 else 0.0
    through = sum(stages) + hops
    one = PhaseTimes(
        {}, {}, stages=[Played(s, s) for s in stages], hop=slow, through=through, period=through, hops=hops
    )
    times = one.split_in_parts(parts, batches)
    runs = play_pipeline(stages, hop, parts)
    assert times.through == pytest.approx(max(r.end for r in runs), rel=1e-12)
    many = play_pipeline(stages, hop, parts * batches)
    last = max(r.end for r in many)  # all batches, of which each comes parts * slowest behind the one before
    assert last == pytest.approx(times.through + (batches - 1) * parts * max(*stages, slow), rel=1e-12)


@given(st.lists(SECONDS, min_size=1, max_size=6), SECONDS, st.integers(1, 9), st.integers(1, 4))
def test_a_draft_runs_before_each_part(stages: list[float], drafted: float, parts: int, batches: int) -> None:
    played, through = [Played(s, s) for s in stages], sum(stages)
    plain = PhaseTimes({}, {}, stages=played, hop=0.0, through=through, period=through).split_in_parts(parts, batches)
    first = through + drafted
    times = PhaseTimes({}, {}, stages=played, hop=0.0, through=first, period=first, drafted=drafted).split_in_parts(
        parts, batches
    )
    assert times.drafted == pytest.approx(parts * drafted, rel=1e-12)
    assert times.through == pytest.approx(plain.through + parts * drafted, rel=1e-12)
    assert times.period == pytest.approx(plain.period + batches * parts * drafted, rel=1e-12)


@pytest.mark.parametrize("parts", [2, 4, 8])
def test_ttft_is_the_first_part_and_the_slowest_stage_for_the_others(parts: int) -> None:
    made, one = plan(parts), plan(1)
    part = one.cost.evaluate(batch=16 // parts).prefill
    slowest = max(*(float(s.span) for s in part.stages), float(part.hop))
    assert made.cost.evaluate().ttft == pytest.approx(float(part.through) + (parts - 1) * slowest, rel=1e-12)
    assert made.cost.evaluate().ttft < one.cost.evaluate().ttft
    assert made.cost.evaluate().tpot == one.cost.evaluate().tpot
    alone = plan(1, "tp = 2").cost.evaluate(batch=16 // parts).ttft
    assert plan(parts, "tp = 2").cost.evaluate().ttft == pytest.approx(parts * alone, rel=1e-12)


def test_numbers_and_arrays_agree_and_the_fullest_part_counts() -> None:
    made, batches = plan(3), np.array([1, 2, 3, 7, 16, 100])
    many = made.cost.evaluate(batch=batches)
    for i, batch in enumerate(batches):
        one = made.cost.evaluate(batch=int(batch))
        for name in ("ttft", "throughput", "memory", "max_batch"):
            assert np.broadcast_to(getattr(many, name), batches.shape)[i] == pytest.approx(
                getattr(one, name), rel=1e-12
            )
    # 7 of them in 3 parts are 3, 3 and 1, taken as 3 of 3
    assert made.cost.evaluate(batch=7).ttft == made.cost.evaluate(batch=9).ttft


def test_one_part_is_the_whole_batch() -> None:
    assert plan(1).cost.evaluate().numbers == plan(1, more="chunks = 1").cost.evaluate().numbers
    (bare,) = compile_text(
        PLAN.replace("SHARDING", "pp = 4, tp = 2").replace("micro_batches = PARTS", "").replace("MORE", "")
    )
    assert plan(1).cost.evaluate().numbers == bare.cost.evaluate().numbers
    assert bare.cost.evaluate().prefill.again == Played(0.0, 0.0), "no part is behind the first one"


@pytest.mark.parametrize("sharding", ["pp = 4, tp = 2", "pp = 8", "tp = 2"])
def test_the_report_adds_up(sharding: str) -> None:
    made, whole = plan(4, sharding), plan(1, sharding)
    e, w = made.estimate(), whole.estimate()
    p = e.prefill
    assert p.compute_s + p.communication_s + p.bubble_s == pytest.approx(e.ttft_s, rel=1e-9)
    assert 0 < p.mfu <= 1
    assert 0 < p.mbu <= 1
    gemm, one = (next(o for o in x.prefill.ops if o.name == "down") for x in (e, w))
    assert (gemm.count, gemm.flops) == (4 * one.count, one.flops / 4)
    ours, theirs = (sum(o.count * o.flops for o in x.prefill.ops) for x in (e, w))
    assert ours == pytest.approx(theirs, rel=1e-9)
    for whole_ in terms(made.cost, made.cost.evaluate()).all:
        assert sum(t.value for t in whole_.terms) == pytest.approx(whole_.total, rel=1e-12)
        assert all(t.value >= 0 for t in whole_.terms)


def test_it_means_the_same_reads_back_and_is_drawn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = plan(4)
    assert made.verify().ok
    (again,) = compile_text(show_plan(made.spec))
    assert again.spec.micro_batches == 4
    for view in ("timeline", "devices", "block", "memory"):
        assert made.draw(view)
    assert "in 4 parts" in made.draw("timeline")
    source = tmp_path / "p.plan"
    source.write_text(show_plan(made.spec))
    assert main(["explain", str(source), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)


@pytest.mark.parametrize(
    ("sharding", "model"),
    [
        ("pp = 2, tp = 2", "llama_3_1_8b"),
        ("pp = 2, ep = 4", "mixtral_8x7b"),
        ("ep = 2, cp = 2, pp = 2", "mixtral_8x7b"),
    ],
)
@pytest.mark.parametrize("more", ["", "chunked_prefill = 512", "chunks = 2"])
def test_parts_are_prefilled_by_themselves_and_decode_together(sharding: str, model: str, more: str) -> None:
    text = PLAN.replace("SHARDING", sharding).replace("PARTS", "4").replace("llama_3_1_8b", model)
    verdict = compile_text(text.replace("MORE", more))[0].verify()
    assert verdict.ok, verdict.message
    assert verdict.worst < 1e-9


def test_parts_put_back_in_another_order_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    merge = Cache.merge_groups
    monkeypatch.setattr(Cache, "merge_groups", lambda caches, share: merge(caches[::-1], share))
    verdict = plan(4, "pp = 2, tp = 2").verify()
    assert not verdict.ok
    assert verdict.where == "decode step 1"


def test_parts_without_a_request_are_refused() -> None:
    with pytest.raises(PlanError) as caught:
        compile_text(PLAN.replace("SHARDING", "pp = 2").replace("PARTS", "17").replace("MORE", ""))
    (wrong,) = [d for d in caught.value.diagnostics if d.severity == "error"]
    assert wrong.code == "E315"
    assert "17 micro-batches of 16 requests" in wrong.message
    assert wrong.span is not None


def test_one_stage_gains_nothing() -> None:
    assert [n.code for n in plan(4, "tp = 2").notes if "micro_batches" in n.message] == ["N314"]
