"""Rows of deployments as loads: what a row leaves out is taken as benchmarks have it, and rare loads are served too."""

from __future__ import annotations

import numpy as np
import pytest
from attrs import evolve

from plandsl.backends.accuracy.row import NEVER, Row
from plandsl.backends.accuracy.serving_rows import queued, serving_row
from plandsl.backends.accuracy.simulated import (
    CLOSED_FORM,
    NO_ROOM,
    SHORTENED,
    _serve,
    draw_load,
    in_closed_form,
    row_servers,
    simulate_row,
    steady_rate,
    total_rate,
)
from plandsl.backends.accuracy.spread import Refused
from plandsl.driver import compile_cost
from plandsl.entries import catalog_has
from tests.test_accuracy_rows import BASE, POOLS

FIXED = {"length_jitter": "fixed"}
OFFLINE = FIXED | {"load_kind": "offline_all_at_once"}


def row_of(**changes: str) -> Row:
    return serving_row(BASE | changes, catalog_has)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        (FIXED | {"osl_tokens": "0.5"}, "a length is less than one token"),
        ({"load_kind": "open_poisson"}, "the rate of requests is not stated"),
        ({"load_kind": "", "concurrency": ""}, "no load is known that is not stated"),
        ({"concurrency": ""}, "the number of requests in flight is not stated"),
        ({"serving_mode": "prefill-only"}, "prefill-only: one pool by itself"),
    ],
)
def test_a_row_that_states_no_load_is_refused(changes: dict[str, str], why: str) -> None:
    with pytest.raises(Refused, match=why):
        row_of(**changes)


def test_a_load_follows_from_what_a_row_states() -> None:
    rate = row_of(load_kind="", concurrency="", request_rate_per_s="4")
    assert (rate.kind, rate.rate, rate.requests) == ("open_poisson", 4.0, NEVER)
    everything = row_of(**OFFLINE | {"concurrency": ""})
    assert everything.clients == everything.requests == queued(256 + 32) == 3000
    pools = row_of(**POOLS | {"load_kind": "static_batch"})
    assert (pools.kind, pools.pools) == ("burst_all_at_once", 2)


def test_steps_hold_the_longest_prompt_where_an_engine_does_not_cut_it() -> None:
    long = FIXED | {"framework": "TensorRT-LLM 0.20", "isl_tokens": "9000", "concurrency": "64"}
    assert "step_tokens = 9152 }" in row_of(**long).plan  # 9000 + 64 + 64, in multiples of 64
    assert "step_tokens" not in row_of(**long | {"isl_tokens": "1000"}).plan
    assert "step_tokens" not in row_of(**long | {"framework": "vllm"}).plan


def test_degrees_count_ranks_as_their_engine_does() -> None:
    """SGLang counts all ranks in `tp` where attention is data-parallel; GPUs beyond one engine are more engines."""
    every = row_of(tp="8", attn_dp="4", n_gpu="8").plan
    group = row_of(tp="2", attn_dp="4", n_gpu="8").plan
    assert every == group
    assert "dp = 4" in row_of(tp="2", n_gpu="8", replicas="").plan
    assert compile_cost(group).plan.ranks == 8


@pytest.mark.parametrize("stat", ["mean", "median"])
def test_fewer_rounds_of_a_queue_say_nearly_what_all_rounds_do(stat: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """All requests wait from the start, so that rounds that are left out lengthen the queue."""
    row = row_of(**OFFLINE, pp="2", n_gpu="2", osl_tokens="8", concurrency="32", ttft_stat=stat, tpot_stat=stat)
    model = compile_cost(row.plan.replace("engine = vllm", "engine = vllm with { max_requests = 4 }"))
    servers, many = row_servers(model)
    whole = simulate_row(model, servers, many, row)
    monkeypatch.setattr("plandsl.backends.accuracy.simulated.TOKENS", 0)
    short = simulate_row(model, servers, many, row)
    assert (whole.by, short.by) == ("simulation", SHORTENED)
    assert short.rate == pytest.approx(whole.rate, rel=0.1)
    assert short.tpot == pytest.approx(whole.tpot, rel=0.1)
    if stat == "mean":
        assert short.ttft == pytest.approx(whole.ttft, rel=0.1)


def test_an_open_load_is_never_shortened(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("plandsl.backends.accuracy.simulated.OPEN", 12)
    monkeypatch.setattr("plandsl.backends.accuracy.simulated.TOKENS", 0)
    row = row_of(**FIXED, pp="2", n_gpu="2", osl_tokens="4", load_kind="open", concurrency="", request_rate_per_s="40")
    model = compile_cost(row.plan)
    told = simulate_row(model, *row_servers(model), row)
    assert told.by == "simulation"
    assert told.rate == pytest.approx(40 * 4, rel=0.5)


def test_answers_of_one_token_have_no_tpot() -> None:
    row = row_of(**FIXED, osl_tokens="1", concurrency="2")
    model = compile_cost(row.plan)
    told = simulate_row(model, *row_servers(model), evolve(row, requests=4.0))
    assert np.isnan(told.tpot)
    assert told.ttft > 0


def test_a_request_that_no_cache_holds_is_refused() -> None:
    row = row_of(**FIXED, isl_tokens="1500000", osl_tokens="8", concurrency="1")
    model = compile_cost(row.plan)
    with pytest.raises(Refused, match="longer than the memory for the KV cache holds"):
        simulate_row(model, *row_servers(model), evolve(row, requests=1.0))


def test_the_closed_form_answers_for_a_batch_that_fits() -> None:
    row = row_of(**FIXED, load_kind="static_batch", concurrency="8")
    model = compile_cost(row.plan)
    told, alone = in_closed_form(model, row), model.evaluate(batch=8, input=256, output=32)
    assert (told.by, told.ttft, told.tpot) == (CLOSED_FORM, float(alone.ttft), float(alone.tpot))
    with pytest.raises(Refused, match=NO_ROOM):
        in_closed_form(model, evolve(row, clients=1e6))


def test_requests_that_end_at_one_moment_have_the_rate_of_the_whole_run() -> None:
    row = row_of(**FIXED, load_kind="static_batch", concurrency="8")
    model = compile_cost(row.plan)
    servers, _ = row_servers(model)
    records = _serve(model, servers, draw_load(row, 1, 8))
    assert np.unique(records.finish_s).size == 1
    assert steady_rate(records) == total_rate(records)
