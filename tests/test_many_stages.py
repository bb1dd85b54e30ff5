"""Stages that are alike are worked out once, however many there are."""

from __future__ import annotations

import pytest

from plandsl.backends.cost.deployments.memory import ProgramMemory
from plandsl.backends.cost.time import phase
from plandsl.driver import compile_text

PLAN = """
model m {
  layers = STAGES, hidden = 64, heads = 4, kv_heads = 4, head_dim = 16, ffn = 128, vocab = 256
  weights = bf16, activations = bf16, kv_cache = bf16
  embedding w_embed[vocab, hidden]
  block x[tokens, hidden] {
    h = rms_norm(x)
    k = h @ w_k[hidden, kv_heads, head_dim]
    a = attention(h @ w_q[hidden, heads, head_dim], k, k)
    x = x + a @ w_o[heads, head_dim, hidden]
    x = x + silu(x @ w_up[hidden, ffn]) @ w_down[ffn, hidden]
  }
  head x @ w_head[hidden, vocab]
}
node n { gpu = h100_sxm, count = STAGES, link { topology = switch, bandwidth = 450 GB/s, latency = 2 us } }
plan p { model = m, node = n, sharding { pp = STAGES }, workload { input = 64, output = 8, batch = 4 } }
"""


def asked(stages: int, monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """How often an explanation of a plan on ``stages`` stages asks for the bytes of a stage, and plays a region."""
    found = {"held": 0, "play": 0}
    held, play = ProgramMemory.held, phase.play

    def count_held(*args: object) -> object:
        found["held"] += 1
        return held(*args)  # type: ignore[arg-type]

    def count_play(*args: object) -> object:
        found["play"] += 1
        return play(*args)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(ProgramMemory, "held", count_held)
        patch.setattr(phase, "play", count_play)
        (made,) = compile_text(PLAN.replace("STAGES", str(stages)))
        made.explain()
    return found


def test_an_explanation_asks_a_hundred_stages_no_more_than_ten(monkeypatch: pytest.MonkeyPatch) -> None:
    few, many = asked(10, monkeypatch), asked(100, monkeypatch)
    assert many["play"] == few["play"]
    assert many["held"] < 1.5 * few["held"]  # a bisection for the largest batch may take a step more


def test_stages_that_differ_are_told_apart() -> None:
    """The first of four stages has the embedding, the last the head; the two between them hold and take the same."""
    (made,) = compile_text(PLAN.replace("STAGES", "4"))
    memory = made.cost.pools[0].one.memory
    assert memory.first_alike == [0, 1, 1, 3]
    found = made.estimate()
    assert found.stages[1] == found.stages[2] != found.stages[3]
    assert list(made.cost.pools[0].main.decode.alike.values()) == [[0], [1, 2], [3]]
