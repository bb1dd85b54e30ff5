"""Layers that differ: ranges, strides and the rest, from the text to stages, memory, cost and the reference."""

from __future__ import annotations

import sys
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plandsl.backends.reference.shrink import shrink
from plandsl.diagnostics import PlanError
from plandsl.driver import CompiledPlan, compile_text
from plandsl.ir.program import in_order
from plandsl.ir.text import read, show
from plandsl.passes import program_after
from plandsl.show import show_plan
from plandsl.spec.model import BlockSpec, Every
from plandsl.testing import compiled, same

ATTEND = """
    h = rms_norm(x)
    k = rope(h @ w_k[hidden, kv_heads, head_dim])
    v = h @ w_v[hidden, kv_heads, head_dim]
    a = attention(rope(h @ w_q[hidden, heads, head_dim]), k, v{})
    x = x + a @ w_o[heads, head_dim, hidden]
"""
MLP = " x = x + silu(rms_norm(x) @ w_up[hidden, ffn]) @ w_down[ffn, hidden] "


def text(local: str, wide: str, layers: int = 12, sharding: str = "", inner: str = ATTEND.format("")) -> str:
    """A plan of a model whose blocks ``local`` (a window of 100) and ``wide`` have those attributes."""
    return f"""
      model m {{
        layers = {layers}, hidden = 64, heads = 4, kv_heads = 2, head_dim = 16, ffn = 128, vocab = 1000
        weights = bf16
        embedding w_embed[vocab, hidden]
        block local {local} x[tokens, hidden] {{ {ATTEND.format(", window = 100")} }}
        block wide {wide} x[tokens, hidden] {{ {inner} {MLP} }}
        head rms_norm(x) @ w_embed[vocab, hidden]
      }}
      workload w {{ input = 400, output = 100, batch = 2 }}
      plan p {{ model = m, node = h100_8, sharding {{ {sharding} }}, workload = w }}
    """


def plan_of(local: str, wide: str, layers: int = 12, sharding: str = "") -> CompiledPlan:
    (plan,) = compile_text(text(local, wide, layers, sharding))
    return plan


def layers_of(block: BlockSpec) -> list[int]:
    return block.every.select(block.layers)


# ---- which layers


@given(st.integers(1, 7), st.data(), st.integers(0, 9), st.integers(0, 20))
def test_every_counts_lists_and_clips_the_same_layers(period: int, data: st.DataObject, first: int, more: int) -> None:
    at = tuple(sorted(data.draw(st.sets(st.integers(0, period - 1), min_size=1))))
    every, span = Every(period, at), (first, first + more)
    wanted = [n for n in range(*span) if n % period in at]
    assert every.select(span) == wanted
    assert every.count(span) == len(wanted)
    clipped = every.clip((0, 100), span)
    assert clipped == ((wanted[0], wanted[-1] + 1) if wanted else None)
    if wanted:
        found, again = Every.from_layers(wanted)
        assert again.select(found) == wanted
        assert again.period <= max(period, 1)


@pytest.mark.parametrize(
    ("local", "wide", "expected"),
    [
        ("[layers = 0..12 by 2]", "[layers = 1..12 by 2]", [1, 3, 5, 7, 9, 11]),
        ("[layers = 0..layers by 2]", "", [1, 3, 5, 7, 9, 11]),
        ("", "[layers = 5..layers by 6]", [5, 11]),
        ("", "[layers = 0..3]", [0, 1, 2]),
        ("", "[layers = 2..layers by 100]", [2]),
        ("[layers = 0..6]", "[layers = 6..12 by 1]", [6, 7, 8, 9, 10, 11]),
    ],
)
def test_a_stride_and_the_rest_share_out_the_layers(local: str, wide: str, expected: list[int]) -> None:
    plan = plan_of(local, wide)
    found = {b.name: layers_of(b) for b in plan.spec.model.blocks}
    assert found["wide"] == expected
    assert sorted(found["local"] + expected) == list(range(12))
    (again,) = compile_text(show_plan(plan.spec))
    assert same(again.spec, plan.spec)


@pytest.mark.parametrize(
    ("local", "wide", "message"),
    [
        ("[layers = 0..12 by 2]", "[layers = 0..12 by 3]", "layer 0 has two blocks"),
        ("[layers = 0..12 by 2]", "[layers = 1..11 by 2]", "no block covers layer 11"),
        ("[layers = 0..12 by 2]", "[layers = 1..20 by 2]", "this block covers layer 19, but the model has 12 layers"),
        ("[layers = 0..12]", "", "no layer is left for this block"),
        ("[layers = 0..12 by * 2]", "", "expected a range of layers"),
        ("[layers = 0..12 by 0]", "", "`layers`"),
        ("[layers = 0..12 by 1.5]", "", "`layers`"),
        ("", "", "two blocks"),
    ],
)
def test_layers_that_do_not_fit_together_are_told(local: str, wide: str, message: str) -> None:
    with pytest.raises(PlanError) as caught:
        plan_of(local, wide)
    found = [d for d in caught.value.diagnostics if d.severity == "error"]
    assert any(message in d.message for d in found), [d.message for d in found]
    assert all(d.span is not None for d in found)


# ---- through the compiler


def test_stages_run_their_layers_in_order_and_each_once() -> None:
    plan = plan_of("", "[layers = 5..layers by 6]", 62, "pp = 4")
    names = {b.name: b for b in plan.spec.model.blocks}
    wanted = sorted((n, f"block.{name}") for name, b in names.items() for n in layers_of(b))
    ran = [run for parts in plan.prefill.stages for run in in_order(parts) if run[1] is not None]
    assert [(n, name) for name, n in ran] == wanted
    assert [n for _, n in ran] == list(range(62))
    assert [sum(p.repeats for p in parts if p.layers) for parts in plan.prefill.stages] == [16, 16, 15, 15]
    assert plan.estimate().layers == ((0, 16), (16, 32), (32, 47), (47, 62))


@pytest.mark.parametrize("sharding", ["", "tp = 2", "pp = 2", "pp = 4, tp = 2", "sp = 2", "pp = 3"])
def test_layers_in_turns_verify(sharding: str) -> None:
    verdict = plan_of("", "[layers = 2..layers by 3]", 12, sharding).verify()
    assert verdict.ok, verdict.message


def test_blocks_one_behind_the_other_are_another_model() -> None:
    """A backend that ran all layers of one block before those of the next would be seen to."""
    turns = plan_of("[layers = 0..4 by 2]", "[layers = 1..4 by 2]", 4).prefill.stages[0]
    assert [name for name, _ in in_order(turns)] == [
        "embedding", "block.local", "block.wide", "block.local", "block.wide", "head",
    ]  # fmt: skip


def test_shrink_keeps_who_comes_after_whom() -> None:
    small = shrink(plan_of("", "[layers = 5..layers by 6]", 62, "pp = 2").spec).model
    found = {b.name: layers_of(b) for b in small.blocks}
    assert found["wide"] == [5]
    assert sorted(found["local"] + found["wide"]) == list(range(small.layers))
    assert small.layers % 2 == 62 % 2


def test_memory_holds_a_window_in_one_block_and_all_tokens_in_the_other() -> None:
    plan = plan_of("", "[layers = 5..layers by 6]", 12)
    per_token = 2 * 2 * 16 * 2  # keys and values of 2 heads of 16 in bf16
    assert plan.cost.memory.kv_per_request(0, 500) == per_token * (10 * 100 + 2 * 500)
    assert plan.estimate().kv_bytes_per_token == 12 * per_token
    block = 2 * 64 * 4 * 16 + 2 * 64 * 2 * 16 + 64
    mlp = 2 * 64 * 128 + 64
    assert plan.estimate().parameters == 12 * block + 2 * mlp + 1000 * 64 + 64


def test_time_counts_each_block_as_often_as_it_runs() -> None:
    turns = plan_of("", "[layers = 1..layers by 2]")
    halves = plan_of("[layers = 0..6]", "[layers = 6..12]")
    assert turns.estimate().ttft_s == pytest.approx(halves.estimate().ttft_s, rel=1e-12)
    assert turns.estimate().tpot_s == pytest.approx(halves.estimate().tpot_s, rel=1e-12)
    counted = Counter({o.name: o.count for o in turns.estimate().prefill.ops})
    assert (counted["local_attention"], counted["wide_attention"]) == (6, 6)


def test_a_check_of_ten_thousand_layers_with_a_stride_does_little_more_than_of_a_hundred() -> None:
    """Once it took seconds. Calls of functions are counted, as a time would depend on the machine."""

    def calls(layers: int) -> int:
        found = 0

        def count(_frame: object, event: str, _of: object) -> None:
            nonlocal found
            found += event == "call"

        sys.setprofile(count)
        try:
            plan_of("", "[layers = 5..layers by 6]", layers)
        finally:
            sys.setprofile(None)
        return found

    calls(96)
    assert calls(9_600) < 1.2 * calls(102)


@pytest.mark.parametrize("wide", ["[layers = 1..layers by 2]", "[layers = 5..layers by 6]"])
def test_programs_with_strides_read_back(wide: str) -> None:
    spec = plan_of("", wide, 12, "pp = 2").spec
    for phase in ("prefill", "decode"):
        program = program_after(spec, phase, "place-memory")
        assert read(show(program)) == program
    assert " by " in show(program)
    assert compiled(spec).verify().ok
