"""Steps padded to the sizes of CUDA graphs."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from plandsl.backends.cost.deployments.server import Server
from plandsl.backends.cost.deployments.step import Decode, Prompt, Step
from plandsl.backends.cost.serving.clock import ServerClock
from plandsl.backends.cost.serving.graphs import Graphs, graphs_of
from plandsl.backends.cost.serving.requests import Requests
from plandsl.backends.cost.serving.scheduler import Batch, Live, Piece
from plandsl.backends.cost.serving.serve import serve
from plandsl.driver import CompiledPlan, compile_text


@cache
def plan(engine: str, more: str = "node = h100_1") -> CompiledPlan:
    load = "workload { input = 500, output = 20, batch = 1, in_flight = 1 }"
    return compile_text(f"plan p {{ model = llama_3_1_8b, engine = {engine}, {more}\n {load} }}")[0]


def server(engine: str, more: str = "node = h100_1") -> Server:
    return plan(engine, more).cost.one


def test_each_engine_captures_its_own_sizes() -> None:
    vllm = graphs_of(server("vllm with { graph_sizes = vllm }")).decodes
    assert vllm[:6] == (1, 2, 4, 8, 16, 24)
    assert vllm[-3:] == (480, 496, 512)
    few = graphs_of(server("vllm with { graph_sizes = vllm, max_requests = 21, step_tokens = 30 }")).decodes
    assert few == (1, 2, 4, 8, 16, 21, 24, 30), "as many as run, and the budget, have graphs"
    blackwell = graphs_of(server("vllm with { graph_sizes = vllm }", "node = b200_8")).decodes
    assert blackwell[-2:] == (1008, 1024)
    sglang = graphs_of(server("sglang with { graph_sizes = sglang }")).decodes
    assert sglang[:8] == (1, 2, 4, 8, 12, 16, 24, 32)
    assert sglang[-1] == 256
    wide = graphs_of(server("sglang with { graph_sizes = sglang }", "node = h100_8, sharding { tp = 4 }")).decodes
    assert wide[-2:] == (496, 512)
    assert graphs_of(server("trtllm with { graph_sizes = trtllm }")).decodes[-2:] == (120, 128)
    assert graphs_of(server("vllm")) == Graphs()


def test_guesses_are_tokens_of_a_graph() -> None:
    more = "node = h100_1, speculate { draft = none, tokens = 2, acceptance = 50 % }"
    assert graphs_of(server("vllm with { graph_sizes = [1, 4, 12] }", more)).decodes == (1, 2, 4)
    assert graphs_of(server("sglang with { graph_sizes = [1, 4, 12] }", more)).decodes == (1, 4, 12)
    own = graphs_of(server("vllm with { graph_sizes = vllm, max_requests = 10 }", more))
    assert own.decodes == (1, 2, 4, 8, 10, 16), "those of a multiple of three tokens"
    assert own.mixed == (1, 2, 3, 4, 6, 8, 12, 16, 24, 30, 32, 40, 48, 56)


@given(st.integers(1, 90), st.integers(0, 90), st.integers(1, 4))
def test_a_step_has_the_next_size_or_its_own(decodes: int, prompts: int, queries: int) -> None:
    graphs = Graphs((1, 2, 4, 8, 16, 32), (1, 2, 4, 8, 16, 32, 64))
    more = graphs.padding(decodes, prompts, queries)
    if not prompts:
        assert decodes + more in graphs.decodes or (more == 0 and decodes > 32)
        assert more < decodes
    else:
        tokens = prompts + decodes * queries
        assert tokens + more * queries <= 64 or (more == 0 and tokens > 64)


@pytest.mark.parametrize(("engine", "count", "size"), [("vllm", 5, 8), ("sglang", 9, 12), ("trtllm", 129, 129)])
def test_a_padded_step_takes_what_its_size_does(engine: str, count: int, size: int) -> None:
    one = server(f"{engine} with {{ graph_sizes = {engine} }}")
    lives = [Live(i, 100, 9) for i in range(count)]
    for live in lives:
        live.computed, live.made = 101, 2
    batch = Batch([], lives, [1] * count, [], admitted=[], preempted=[])
    found = ServerClock(one).cost(batch)
    mean = (101 * count + size - count) / size
    assert found.stages[0] == pytest.approx(one.step(Step(None, Decode(size, mean)), 1).stages[0].span, rel=1e-12)
    assert found.host == one.plan.effective_engine.step + count * one.plan.effective_engine.request


def test_vllm_pads_steps_that_mix_prompts_and_decodes() -> None:
    live, other = Live(0, 100, 9), Live(1, 60, 9)
    live.computed, live.made = 101, 2
    batch = Batch([Piece(other, 60, 0, False)], [live], [1], [], admitted=[], preempted=[])
    for engine, rows in (("vllm", 4), ("sglang", 1)):
        one = server(f"{engine} with {{ graph_sizes = {engine} }}")
        step = Step(Prompt(1, 60, 0, True), Decode(rows, (101 + rows - 1) / rows))
        assert ServerClock(one).cost(batch).stages[0] == pytest.approx(one.step(step, 1).stages[0].span, rel=1e-12)


@pytest.mark.parametrize("engine", ["vllm", "sglang", "trtllm"])
def test_a_lone_request_needs_no_padding(engine: str) -> None:
    made = plan(f"{engine} with {{ graph_sizes = {engine} }}")
    found, static = made.simulate().records, made.estimate()
    np.testing.assert_allclose(found.tpot_s, static.tpot_s, rtol=1e-9)


def test_padding_never_makes_a_run_shorter() -> None:
    load = Requests(np.arange(30) * 0.01, np.full(30, 300), np.full(30, 30))
    bare, padded = (
        serve(plan(f"vllm with {{ graph_sizes = {sizes} }}").cost, load, "vllm").finish_s.max()
        for sizes in ("none", "[1, 64]")
    )
    assert padded > bare
