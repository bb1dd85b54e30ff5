"""The charts of a load over time on a report page: each request counts once, and what was not served is not drawn."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from plandsl.backends.cost.answers.simulation import Run
from plandsl.backends.cost.serving.records import Dropped
from plandsl.backends.report.charts import Chart
from plandsl.backends.report.served import BINS, SHARES, percentile_chart, queue_chart
from plandsl.driver import CompiledPlan, compile_text

PLAN = """plan one {{
  model = llama_3_1_8b, node = h100_1, engine = vllm
  workload {{ {load} }}
  require p99(ttft) <= {ttft}
}}
"""
LOAD = "rate = 20 req/s, input = 512, output = 32, requests = 60"


def served(load: str = LOAD, ttft: str = "200 ms") -> tuple[CompiledPlan, Run]:
    (plan,) = compile_text(PLAN.format(load=load, ttft=ttft))
    return plan, plan.simulate()


@pytest.fixture(scope="module")
def run() -> tuple[CompiledPlan, Run]:
    return served()


def rows_of(panel: dict[str, Any], layer: int = 0) -> list[dict[str, Any]]:
    """The rows of a panel, or of one of its layers."""
    rows: list[dict[str, Any]] = panel.get("data", panel["layer"][layer].get("data"))["values"]
    return rows


def panels_of(chart: Chart | None) -> list[dict[str, Any]]:
    assert chart is not None
    panels: list[dict[str, Any]] = chart.spec["concat"]
    return panels


def test_a_point_says_what_share_of_the_requests_took_at_most_so_long(run: tuple[CompiledPlan, Run]) -> None:
    plan, made = run
    chart = percentile_chart("c", plan.spec, made)
    ttft, tpot, latency = panels_of(chart)
    for panel, values in ((ttft, made.records.ttft_s), (tpot, made.records.tpot_s), (latency, made.records.latency_s)):
        rows = rows_of(panel)
        assert [row["y"] for row in rows] == list(SHARES)
        factor = rows[49]["x"] / np.percentile(values, 50, method="inverted_cdf")
        for row in rows:
            share = 100 * np.mean(values * factor <= row["x"] * (1 + 1e-3))
            assert share >= row["y"] - 1e-9
    assert chart is not None
    assert "TTFT p50" in chart.said


def test_a_bound_is_drawn_where_it_is_near(run: tuple[CompiledPlan, Run]) -> None:
    plan, made = run
    chart = percentile_chart("c", plan.spec, made)
    ttft, tpot, _ = panels_of(chart)
    (bound,) = rows_of(ttft, 1)
    assert "200 ms" in bound["t"]
    assert len(tpot["layer"]) == 1
    assert chart is not None
    assert "Dashed: required." in chart.note
    (far,) = compile_text(PLAN.format(load=LOAD, ttft="1 h"))
    none = percentile_chart("c", far.spec, made)
    assert none is not None
    assert "Dashed" not in none.note


def test_what_no_request_has_is_not_drawn() -> None:
    plan, made = served("rate = 20 req/s, input = 512, output = 1, requests = 20")
    assert [
        panel["layer"][0]["encoding"]["x"]["title"].split(" (")[0]
        for panel in panels_of(percentile_chart("c", plan.spec, made))
    ] == ["TTFT", "latency"]
    gone = made._replace(records=made.records._replace(finish_s=np.full(20, np.nan)))
    assert percentile_chart("c", plan.spec, gone) is None


def test_levels_hold_the_requests_and_the_cache_over_time(run: tuple[CompiledPlan, Run]) -> None:
    _, made = run
    panels = panels_of(queue_chart("c", made))
    steps = made.records.steps
    whole = steps.end_s.max() - made.records.arrival_s.min()
    assert [len(rows_of(panel)) for panel in panels] == [BINS] * 3
    for panel, held in zip(panels, (steps.waiting, steps.running, steps.blocks * 100 / made.blocks), strict=True):
        area = (held * (steps.end_s - steps.start_s)).sum()  # one server, which is never idle once it has begun
        assert np.mean([row["m"] for row in rows_of(panel)]) * whole == pytest.approx(area, rel=0.02)
        assert max(row["h"] for row in rows_of(panel)) == pytest.approx(held.max(), rel=1e-3)
        assert all(row["m"] <= row["h"] * (1 + 1e-3) + 1e-9 for row in rows_of(panel))


def test_an_encoder_has_no_cache_to_fill() -> None:
    plan, made = served("rate = 20 req/s, input = 512, output = 0, requests = 20")
    chart = queue_chart("c", made)
    assert len(panels_of(chart)) == 2
    assert chart is not None
    assert "nan" not in chart.said
    assert "KV" not in chart.said
    assert percentile_chart("c", plan.spec, made) is not None


def test_steps_that_were_not_kept_are_not_drawn(run: tuple[CompiledPlan, Run]) -> None:
    _, made = run
    assert queue_chart("c", made._replace(records=made.records._replace(trail=Dropped()))) is None
