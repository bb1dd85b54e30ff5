"""One device refuses an op where the parts that it holds do not belong together; runs are judged by their logits."""

from __future__ import annotations

import numpy as np
import pytest
from attrs import evolve

from plandsl.backends.reference.compute import Local, OnDevice, compute
from plandsl.backends.reference.placement import TOLERANCE, Mismatch, Placement, assemble, positions
from plandsl.backends.reference.verify import Expected, judge
from plandsl.ir.compute import Attention, Map, Norm, Rope
from plandsl.ir.experts import TopK
from plandsl.ir.index import PickKeys
from plandsl.ir.latent import LatentAttention
from plandsl.ir.types import Mesh
from tests.test_ir import value

MESH = Mesh((("a", 2), ("b", 2)))
SIZES = {"batch": 4, "position": 4, "context": 4, "hidden": 8, "heads": 6, "groups": 3, "head_dim": 4, "experts": 4}
SIZES |= {"kv_rank": 4, "rope_dim": 2, "nope_dim": 2, "n": 2, "d": 4, "picks.2": 2}


X = value("x", "bf16[batch, position, hidden]")
HEADS = value("h", "bf16[batch, position, heads, head_dim]")
SPLIT_HEADS = value("h", "bf16[batch, position, heads@a, head_dim]")
KEYS = value("k", "bf16[batch, context, heads, head_dim]")
Q, QUERY_ROPE = (
    value("q", "bf16[batch, position, heads, kv_rank]"),
    value("r", "bf16[batch, position, heads, rope_dim]"),
)
PART_OF_KEYS = value("k", "bf16[batch, context@a, kv_rank]")
PART_OF_ROPE = value("s", "bf16[batch, context@a, rope_dim]")
INDEX = value("iq", "bf16[batch, position, n, d]")
PICKED = value("p", "int32[batch, position, picks.2]")

WRONG: dict[str, tuple[OnDevice, str]] = {
    "other requests": (
        Map(X, (X, value("y", "bf16[batch@a, position, hidden]")), "add"),
        r"meets batch 0\.\.4 with 0\.\.2",
    ),
    "half a group": (Norm(SPLIT_HEADS, SPLIT_HEADS, None, over="head_dim", groups="groups"), "a part of a group"),
    "no positions": (
        Rope((value("o", "bf16[batch, hidden]"),), (value("y", "bf16[batch, hidden]"),)),
        "has no positions",
    ),
    "some scores": (TopK(X, value("l", "bf16[batch, experts@a]"), None, 2), "only some of the scores"),
    "keys that others picked": (
        Attention(HEADS, HEADS, KEYS, KEYS, among=value("p", "int32[batch, position@a, picks.2]")),
        "holds other queries in",
    ),
    "some keys to pick": (
        PickKeys(PICKED, INDEX, value("ik", "bf16[batch, context@a, d]"), top_k=2),
        "only some of the context",
    ),
    "some latent keys": (
        LatentAttention(Q, Q, QUERY_ROPE, k=PART_OF_KEYS, k_rope=PART_OF_ROPE, v=PART_OF_KEYS, scaled="nope_dim"),
        "only some of the context",
    ),
}


def local(op: OnDevice, rank: int) -> Local:
    """A device with its part of each operand."""
    place = Placement(MESH, SIZES)
    parts = {v.name: {r: np.ones(place.shape(v.type, r)) for r in range(MESH.ranks)} for v in op.operands}
    return Local(rank, place, parts, past=0, ids=np.zeros((4, 4), int), requests=np.arange(4))


@pytest.mark.parametrize("name", WRONG)
def test_a_device_refuses_parts_that_do_not_belong_together(name: str) -> None:
    op, why = WRONG[name]
    with pytest.raises(Mismatch, match=why):
        compute(op, local(op, 0))


def test_a_device_without_a_part_of_an_operand_is_refused() -> None:
    op = Map(X, (X, X), "add")
    here = local(op, 3)
    del here.values["x"][3]
    with pytest.raises(Mismatch, match="rank 3 holds no part of"):
        compute(op, here)


@pytest.mark.parametrize(("fn", "found"), [("add", 2.0), ("sub", 0.0), ("mul", 1.0)])
def test_maps_of_two_operands(fn: str, found: float) -> None:
    op = Map(X, (X, X), fn)
    (out,) = compute(op, local(op, 0))
    assert np.all(out == found)


def test_gates_add_up_to_one_unless_they_are_scaled() -> None:
    op = TopK(X, value("l", "bf16[batch, experts]"), None, 2)
    assert np.allclose(np.sum(compute(op, local(op, 0)), axis=-1), 1.0)
    assert np.allclose(np.sum(compute(evolve(op, scale=2.5), local(op, 0)), axis=-1), 2.5)


def test_a_norm_is_multiplied_by_its_gain() -> None:
    op = Norm(X, X, value("g", "bf16[hidden]"), over="hidden")
    here = local(op, 0)
    here.values["g"] = {rank: 3 * part for rank, part in here.values["g"].items()}
    (out,) = compute(op, here)
    assert np.allclose(out, 3, atol=1e-4), "of ones, whose root mean square is 1"


def test_without_a_window_a_query_picks_among_all_keys_that_it_sees() -> None:
    op = PickKeys(PICKED, INDEX, value("ik", "bf16[batch, context, d]"), top_k=2)
    (picked,) = compute(op, local(op, 0))
    assert picked[0].tolist() == [[0, -1], [0, 1], [0, 1], [0, 1]], "of equal scores the earlier key"


def test_a_part_is_put_together_from_parts_of_several_ranges() -> None:
    """Each holds elements of both ranges that are wanted: a rank with two runs of a padded dimension."""
    whole = np.arange(10.0)
    blocks = [(((0, 1), (6, 7)),), (((1, 2), (7, 8)),)]
    sources = [(block, whole[list(positions(block[0]))]) for block in blocks]
    assert assemble((((0, 2), (6, 8)),), sources, "x").tolist() == [0, 1, 6, 7]


def test_runs_are_judged_by_their_worst_step() -> None:
    logits = [np.full((2, 3), 4.0), np.full((2, 3), 2.0)]
    known = Expected({}, np.zeros((2, 2)), logits)
    near = [logits[0], logits[1] * (1 + TOLERANCE / 4)]
    verdict = judge({"jax": logits, "numpy": near}, known, ranks=4)
    assert (verdict.ok, verdict.where, verdict.ranks, verdict.steps) == (True, "numpy, decode step 1", 4, 1)
    assert 0 < verdict.worst < TOLERANCE
    verdict = judge({"jax": [logits[0] + 1, logits[1]]}, known, ranks=4)
    assert (verdict.ok, verdict.worst) == (False, pytest.approx(0.25))
    assert verdict.message.startswith("jax, prefill is off by")
    assert not judge({"jax": [np.full((2, 3), np.nan), logits[1]]}, known, ranks=4).ok
