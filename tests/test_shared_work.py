"""Ops of equal work are priced once, whatever region they stand in, and sizes once for all machines of a plan."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from plandsl.backends.cost.answers import figures
from plandsl.backends.cost.time.phase import PhaseModel
from plandsl.backends.cost.work import experts, kernel
from plandsl.backends.cost.work.costing import Costing
from plandsl.backends.cost.work.numbers import number_ops
from plandsl.driver import compile_text
from tests.test_many_stages import FEW_LAYERS, PLAN

EXPERTS = """
model m {
  layers = 4, hidden = 2048, heads = 32, kv_heads = 4, head_dim = 128, experts = 128, expert_ffn = 768, vocab = 4096
  weights = bf16, activations = bf16, kv_cache = bf16
  embedding w_embed[vocab, hidden]
  block x[tokens, hidden] {
    k = x @ w_k[hidden, kv_heads, head_dim]
    a = attention(x @ w_q[hidden, heads, head_dim], k, k)
    x = x + a @ w_o[heads, head_dim, hidden]
    x = x + experts(x, w_router[hidden, experts], top_k = 8, imbalance = IMBALANCE) {
      g = silu(x @ w_gate[hidden, expert_ffn]) * (x @ w_up[hidden, expert_ffn])
      g @ w_down[expert_ffn, hidden]
    }
  }
  head x @ w_head[hidden, vocab]
}
plan p { model = m, node = h100_4, sharding { ep = 4 }, workload { input = 64, output = 8, batch = 4 } }
"""


def count_calls(monkeypatch: pytest.MonkeyPatch, module: Any, name: str, run: Callable[[], object]) -> int:
    """How often ``run`` calls a function of a module."""
    found, real = [0], getattr(module, name)

    def count(*args: Any, **named: Any) -> Any:
        found[0] += 1
        return real(*args, **named)

    with monkeypatch.context() as patch:
        patch.setattr(module, name, count)
        run()
    return found[0]


def with_layers(kinds: int) -> str:
    """A plan whose layers are of so many kinds, which differ in their windows alone."""
    blocks = "".join(FEW_LAYERS.format(i=i, end=i + 1, window=100 + i) for i in range(kinds))
    text = PLAN.replace("STAGES", str(kinds)).replace(f"pp = {kinds}", "tp = 1")
    return text[: text.index("  block")] + blocks + "\n" + text[text.index("  head") :]


def test_kinds_of_layers_that_differ_in_attention_share_their_gemms(monkeypatch: pytest.MonkeyPatch) -> None:
    def tilings(kinds: int) -> int:
        (made,) = compile_text(with_layers(kinds))
        return count_calls(monkeypatch, kernel, "gemm_kernel", made.explain)

    few, many = tilings(2), tilings(5)
    assert few > 0
    assert many - few <= 2 * 3 * 3  # the plan's own model prices each op: prefill and decode of three more kinds


@pytest.mark.parametrize("imbalance", ["1.2", "lognormal(mean = 1.2, p95 = 1.6)"])
def test_how_tokens_fall_on_experts_is_found_once_for_all_machines(
    monkeypatch: pytest.MonkeyPatch, imbalance: str
) -> None:
    (made,) = compile_text(EXPERTS.replace("IMBALANCE", imbalance))
    loads = 1 + len(made.cost.pools[0].main.decode.varied)

    def ask() -> None:
        first = made.cost.on(made.cost.plan)
        for figure in figures.FIGURES.values():
            first.on(figure.improved(made.cost.plan, 0.99)).evaluate()

    found = count_calls(monkeypatch, experts, "popular_experts", ask)
    assert found <= 2 * loads  # of each phase


def test_gemms_of_a_fitted_layer_ask_for_its_seconds_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def ask() -> None:
        (made,) = compile_text(EXPERTS.replace("IMBALANCE", "1.2"))
        decode = made.cost.pools[0].main.decode
        at = decode.bound_sizes({"batch": 4, "context": 70, "queries": 1}, 70)
        layer = [w for ops in decode.work.values() for w in ops if isinstance(w, experts.Experts)]
        assert len(layer) == 2
        times = [w.seconds(at) for w in layer]
        assert times == [w.modelled_seconds(at.rows(w.rows)) for w in layer]

    assert count_calls(monkeypatch, experts, "moe_seconds", ask) == 3  # one, and the two of the last line


def phases(text: str) -> list[PhaseModel]:
    (made,) = compile_text(text)
    main = made.cost.pools[0].main
    return [main.prefill, main.decode]


@pytest.mark.parametrize(
    ("model", "node", "more"),
    [
        ("glm_5_2", "h200_8", "engine = vllm, sharding { tp = 8 }"),
        ("gemma_3_27b", "h100_4", "engine = trtllm, sharding { tp = 2, pp = 2 }"),
        ("llama_3_2_1b with { weights = fp8 }", "h100_2", "engine = vllm, sharding { tp = 2 }"),
    ],
)
def test_ops_of_one_number_take_equally_long(model: str, node: str, more: str) -> None:
    text = f"plan p {{ model = {model}, node = {node}, {more}, workload {{ input = 300, output = 9, batch = 8 }} }}"
    shared = 0
    for phase in phases(text):
        program = phase.schedule.program
        numbers = number_ops(program, phase.kernels)
        costing = Costing(program, phase.machine, phase.extents, phase.kernels)
        at = phase.bound_sizes({"batch": 8, "input": 300, "context": 300, "queries": 1}, 300)
        known: dict[int, tuple[float, ...]] = {}
        for op in (op for region in program.regions for op in region.ops):
            work = costing.work(op)
            demand = work.demand(at)
            facts = (
                work.seconds(at), demand.flops, demand.moved, demand.payload, work.least(at, phase.machine, 1.0) or 0.0
            )  # fmt: skip
            shared += numbers[id(op)] in known
            assert known.setdefault(numbers[id(op)], facts) == facts, op
    assert shared > 0


def test_times_of_a_calibration_are_told_apart_by_links() -> None:
    names = ("launch", "launch_collective", "gemm.bf16.fixed", "gemm.bf16.memory", "hbm")
    assert figures._times_among(names, links=True) | figures._times_among(names, links=False) == {
        "launch", "launch_collective", "gemm.bf16.fixed",
    }  # fmt: skip
    assert not figures._times_among(names, links=True) & figures._times_among(names, links=False)
