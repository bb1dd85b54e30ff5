"""Norms over a dimension that is split: the sums of parts travel, where nothing needs the whole rows."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from plandsl.driver import CompiledPlan, compile_text
from plandsl.ir.collectives import AllGather, AllReduce
from plandsl.ir.compute import Norm
from plandsl.ir.meaning import elementwise
from plandsl.ir.norms import NormSums
from plandsl.ir.ops import Op
from plandsl.ir.streams import Moments
from tests.draws import draws

MODEL = """
model m {
  layers = 2, hidden = 64, heads = 8, kv_heads = 4, head_dim = 16, ffn = 128, vocab = 96, weights = bf16
  embedding w_embed[vocab, hidden]
  block x[tokens, hidden] {
    h = NORM(x)
    q = rope(NORM(h @ w_q[hidden, heads, head_dim], over = head_dim))
    k = rope(NORM(h @ w_k[hidden, kv_heads, head_dim], over = head_dim))
    x = x + NORM(attention(q, k, h @ w_v[hidden, kv_heads, head_dim]) @ w_o[heads, head_dim, hidden])
    f = NORM(silu(NORM(x) @ w_up[hidden, ffn]), over = ffn)
    x = x + f @ w_down[ffn, hidden]
  }
  head NORM(x, gain = none) @ w_head[hidden, vocab]
}
"""


def plan_of(sharding: str, norm: str = "rms_norm") -> CompiledPlan:
    load = "workload { input = 500, output = 8, batch = 6 }"
    text = f"plan p {{\n model = m, node = h100_8\n sharding {{ {sharding} }}\n {load}\n}}"
    (plan,) = compile_text(MODEL.replace("NORM", norm) + text)
    return plan


def ops_of(plan: CompiledPlan, kind: type[Op]) -> list[Op]:
    return [op for region in plan.program("prefill").regions for op in region.ops if isinstance(op, kind)]


@given(parts=st.integers(1, 4), width=st.integers(1, 5), shift=st.floats(-3, 3), seed=st.integers(0, 99))
@draws(1 / 2)
def test_a_norm_of_parts_is_the_norm_of_the_whole(parts: int, width: int, shift: float, seed: int) -> None:
    x = np.random.default_rng(seed).standard_normal((2, parts * width, 3)) + shift
    for summed, whole, by in (
        (elementwise.norm_sums, elementwise.rms_norm, elementwise.rms_norm_by),
        (elementwise.moments, elementwise.layer_norm, elementwise.layer_norm_by),
    ):
        cut = np.split(x, parts, axis=1)
        sums = sum(summed(part, 1) for part in cut)
        made = np.concatenate([by(part, 1, sums, x.shape[1]) for part in cut], axis=1)
        assert np.allclose(made, whole(x, 1), rtol=0, atol=1e-9)


SPLIT = [
    "mesh h = 4; hidden -> h",
    "mesh x = 2, y = 2; heads, kv_heads, ffn, vocab -> x; hidden -> y",
    "mesh f = 2, y = 2; ffn -> f, y; hidden -> y",
    "mesh s = 2, y = 2; tokens -> s; hidden, ffn -> y",
]


@pytest.mark.parametrize("norm", ["rms_norm", "layer_norm"])
@pytest.mark.parametrize("sharding", SPLIT)
def test_a_split_norm_computes_what_the_unsharded_one_does(sharding: str, norm: str) -> None:
    plan = plan_of(sharding, norm)
    assert ops_of(plan, NormSums if norm == "rms_norm" else Moments)
    verdict = plan.verify(steps=1)
    assert verdict.ok, verdict.message


def test_four_bytes_of_each_row_travel_in_the_place_of_the_row() -> None:
    plan = plan_of("mesh h = 4; hidden -> h")
    sums = [op for op in ops_of(plan, AllReduce) if "hidden" not in op.x.type.names and op.x.type.dtype == "fp32"]
    split = [op for op in ops_of(plan, Norm) if op.over == "hidden"]
    assert len(sums) == len(split) == len(ops_of(plan, NormSums)) == 4
    assert not [op for op in ops_of(plan, AllGather) if op.dim == "hidden"]


def test_rows_are_gathered_once_where_a_product_needs_them_whole() -> None:
    """The rule of heads comes first, so that no weight of attention splits what the norm reads."""
    plan = plan_of("mesh h = 2; heads, kv_heads, ffn, vocab -> h; hidden -> h")
    assert not [op for op in ops_of(plan, NormSums) if op.over == "hidden" and op.x.name == "x"]
    assert [op for op in ops_of(plan, AllGather) if op.dim == "hidden"]
    assert plan.verify(steps=1).ok


def test_an_axis_of_one_rank_splits_nothing() -> None:
    assert not ops_of(plan_of("mesh h = 1; hidden -> h"), NormSums)


def test_a_norm_of_heads_that_is_turned_stays_whole() -> None:
    plan = plan_of("mesh h = 2; head_dim -> h")
    assert not ops_of(plan, NormSums)
    assert plan.verify(steps=1).ok
