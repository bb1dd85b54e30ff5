"""Norms over groups of heads, as Mamba-2 layers have them: `rms_norm(y, over = state_dim, groups = state_groups)`."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from plandsl.backends.reference.placement import Array
from plandsl.diagnostics import PlanError
from plandsl.driver import CompiledPlan, compile_text
from plandsl.ir.collectives import AllGather, Slice
from plandsl.ir.compute import Norm
from plandsl.ir.meaning.elementwise import EPSILON, grouped_norm, layer_norm, rms_norm
from plandsl.passes import structure
from plandsl.show import show_plan
from tests.draws import draws

MODEL = """
model m {{
  layers = 2, hidden = 64, heads = {heads}, groups = {groups}, head_dim = 16, vocab = 256, weights = bf16
  activations = bf16, kv_cache = bf16
  embedding w_embed[vocab, hidden]
  block x[tokens, hidden] {{
    v = x @ w_v[hidden, heads, head_dim]
    y = {norm}
    x = x + y @ w_o[heads, head_dim, hidden]
  }}
  head rms_norm(x) @ w_embed[vocab, hidden]
}}
"""
NORM = "rms_norm(v, groups = groups, gain = none) * g[heads, head_dim]"


def plan_of(sharding: str = "tp = 1", norm: str = NORM, heads: int = 16, groups: int = 4) -> CompiledPlan:
    text = MODEL.format(norm=norm, heads=heads, groups=groups)
    text += f"plan p {{ model = m, node = h100_8, sharding {{ {sharding} }}\n"
    (plan,) = compile_text(text + "workload { input = 64, output = 8, batch = 16 } }")
    return plan


def moves(plan: CompiledPlan) -> int:
    """Gathers and slices beside the norm, in a block of a decode step, that concern heads."""
    ops = plan.decode.program.region("block").ops
    return sum(isinstance(op, AllGather | Slice) and op.dim == "heads" for op in ops)


@draws(1)
@given(st.integers(1, 4), st.integers(1, 4), st.sampled_from((1, 3, 8)), st.booleans())
def test_a_group_is_normalised_like_one_long_head(groups: int, each: int, width: int, centred: bool) -> None:
    x: Array = np.random.default_rng(groups + 5 * each).standard_normal((2, groups * each, width, 3))
    found = grouped_norm(layer_norm if centred else rms_norm, x, 2, each)
    for group in range(groups):
        own = x[:, group * each : (group + 1) * each]
        centre = own - own.mean((1, 2), keepdims=True) * centred
        right = centre / np.sqrt((centre**2).mean((1, 2), keepdims=True) + EPSILON)
        assert np.allclose(found[:, group * each : (group + 1) * each], right)


SHARDINGS = [
    ("tp = 2", 4, 0),
    ("tp = 4", 4, 0),
    ("tp = 8", 4, 2),  # two ranks share a group: they gather their heads, and then each goes on with its own
    ("tp = 2", 3, 2),
    ("tp = 2", 1, 2),
    ("mesh a = 4, b = 2; heads -> a, b", 4, 2),
    ("tp = 2, dp = 2", 4, 0),
    ("sp = 2, tp = 2", 4, 0),
    ("tp = 2, pp = 2", 4, 0),
]


@pytest.mark.parametrize(("sharding", "groups", "moved"), SHARDINGS)
def test_a_rank_has_whole_groups(sharding: str, groups: int, moved: int) -> None:
    plan = plan_of(sharding, heads=48 if groups == 3 else 16, groups=groups)
    assert moves(plan) == moved
    verdict = plan.verify()
    assert verdict.ok, verdict.message


def test_groups_that_lie_over_two_axes_are_gathered_over_the_second_alone() -> None:
    plan = plan_of("mesh a = 4, b = 2; heads -> a, b")
    (norm,) = [op for op in plan.decode.program.region("block").ops if isinstance(op, Norm) and op.groups]
    assert norm.x.type.on("heads") == ("a",)


def test_a_norm_of_each_head_differs_from_that_of_a_group() -> None:
    """The law that sharded equals unsharded would hold of both, so that the meaning is looked at too."""
    x: Array = np.arange(12.0).reshape(1, 4, 3)
    assert not np.allclose(grouped_norm(rms_norm, x, 2, 2), rms_norm(x, 2))
    assert np.allclose(grouped_norm(rms_norm, x, 2, 1), rms_norm(x, 2))


def test_plans_whose_ranks_have_parts_of_groups_share_no_program_with_those_that_have_whole_ones() -> None:
    assert structure(plan_of("tp = 4").spec) != structure(plan_of("tp = 8").spec)
    plain = "rms_norm(v, gain = none) * g[heads, head_dim]"
    assert structure(plan_of("tp = 4", plain).spec) == structure(plan_of("tp = 8", plain).spec)
    assert structure(plan_of("tp = 4", plain).spec) != structure(plan_of("tp = 1", plain).spec)
    one, two = (structure(plan_of(f"mesh a = {n}\n heads -> a", plain).spec) for n in (1, 2))
    assert one != two, "an axis of one rank splits nothing"


def test_it_prints_and_reads_back() -> None:
    plan = plan_of("tp = 2")
    text = show_plan(plan.spec)
    assert "groups = groups" in text
    (again,) = compile_text(text)
    assert show_plan(again.spec) == text


@pytest.mark.parametrize(
    ("norm", "what"),
    [
        ("rms_norm(v, groups = 4)", "must name a dimension"),
        ("rms_norm(v, groups = nothing)", "must name a dimension"),
        ("rms_norm(v, groups = vocab)", "do not divide"),
        ("rms_norm(v, over = heads, groups = groups)", "no heads before `heads`"),
    ],
)
def test_wrong_groups_are_errors(norm: str, what: str) -> None:
    with pytest.raises(PlanError) as raised:
        plan_of(norm=norm)
    (error,) = [d for d in raised.value.diagnostics if d.severity == "error"]
    assert error.code == "E575"
    assert what in error.message
