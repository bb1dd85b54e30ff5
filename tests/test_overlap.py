"""What runs beside collectives: an order that leaves room for it, by structure alone."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from plandsl.diagnostics import PlanError
from plandsl.driver import CompiledPlan, compile_text
from plandsl.ir.base import LINK
from plandsl.ir.collectives import AllReduce, AllToAll
from plandsl.ir.compute import Map
from plandsl.ir.ops import Op
from plandsl.ir.types import Mesh, TensorType, Value
from plandsl.passes.overlap import Order
from plandsl.testing import assert_laws

PLAN = """plan p {{
  model = {model}
  node = h200_8
  sharding {{ {sharding} }}
  workload {{ input = 1000, output = 100, batch = 64 }}
  {more}
}}"""
BESIDE = "overlap = collectives"


@cache
def plan(sharding: str, more: str = "", model: str = "deepseek_v3") -> CompiledPlan:
    (made,) = compile_text(PLAN.format(model=model, sharding=sharding, more=more))
    return made


# ---- the order


@pytest.mark.parametrize("phase", ["prefill", "decode"])
def test_shared_experts_run_beside_the_dispatch_of_routed_ones(phase: str) -> None:
    # as in vLLM: github.com/vllm-project/vllm/pull/23273
    before, after = plan("ep = 8"), plan("ep = 8", BESIDE)
    times = []
    for made in (before, after):
        found = getattr(made.cost.evaluate(), phase)
        times.append((found.regions["block.sparse"].span, found.seconds["block.sparse"]))
    ops = getattr(after, phase).program.region("block.sparse").ops
    at = next(i for i, op in enumerate(ops) if isinstance(op, AllToAll))
    reader = next(i for i, op in enumerate(ops) if ops[at].results[0] in op.operands)
    assert reader > at + 1, "something runs between the dispatch and who waits for it"
    seconds = times[1][1]
    hidden = min(seconds[at], sum(seconds[at + 1 : reader]))
    assert times[0][0] - times[1][0] == pytest.approx(hidden, rel=1e-9)


def test_what_is_hidden_is_in_the_report() -> None:
    before, after = plan("ep = 8").estimate().prefill, plan("ep = 8", BESIDE).estimate().prefill
    assert before.overlapped_s == 0 < after.overlapped_s
    assert before.time_s - after.time_s == pytest.approx(after.overlapped_s, rel=1e-6)
    assert before.compute_s == pytest.approx(after.compute_s, rel=1e-12)


@pytest.mark.parametrize("sharding", ["tp = 8", "ep = 8", "sp = 2, tp = 4", "ep = 2, tp = 4", "pp = 2, tp = 4"])
def test_the_order_changes_nothing_but_itself(sharding: str) -> None:
    before, after = plan(sharding), plan(sharding, BESIDE)
    for phase in ("prefill", "decode"):
        a, b = (getattr(made, phase).program for made in (before, after))
        for region in a.regions:
            assert sorted(map(str, region.ops)) == sorted(map(str, b.region(region.name).ops))
    assert after.verify().ok


@pytest.mark.parametrize("sharding", ["sp = 4", "cp = 4", "cp = 2, sp = 2", "tp = 2, cp = 2"])
def test_laws_hold_in_this_order(sharding: str) -> None:
    (made,) = compile_text(PLAN.format(model="llama_3_1_8b", sharding=sharding, more=BESIDE))
    assert_laws(made)


def test_memory_counts_values_in_the_order_that_they_are_made_in() -> None:
    region = plan("ep = 8", BESIDE).prefill.program.region("block.sparse")
    alive: set[str] = {v.name for v in region.args}
    wanted = set()
    for i, op in enumerate(region.ops):
        alive |= {v.name for v in op.results}
        wanted.add(frozenset(alive))
        later = {x.name for reader in region.ops[i + 1 :] for x in reader.operands} | {v.name for v in region.results}
        alive &= later
    stored = {w.name for w in region.weights} | {"latents", "rope_keys"}
    sets = {frozenset(s - stored) for s in wanted}
    assert {frozenset(names) for names in region.live} == {s for s in sets if not any(s < o for o in sets)}


def test_numbers_and_arrays_agree() -> None:
    made = plan("ep = 8", BESIDE)
    batches = np.array([8, 64, 512])
    together = made.cost.evaluate(batch=batches)
    for i, batch in enumerate(batches):
        alone = made.cost.evaluate(batch=int(batch))
        assert together.ttft[i] == pytest.approx(alone.ttft, rel=1e-12)
        assert together.tpot[i] == pytest.approx(alone.tpot, rel=1e-12)


# ---- list scheduling, of any program

MESH = Mesh((("a", 2),))
TYPE = TensorType("bf16", (), frozenset())


@st.composite
def straight_lines(draw: st.DrawFn) -> list[Op]:
    """Kernels and collectives, each of which reads some that come before it."""
    ops: list[Op] = []
    for i in range(draw(st.integers(1, 14))):
        read = draw(st.lists(st.integers(0, i - 1), max_size=2, unique=True)) if i else []
        xs = tuple(op.results[0] for op in (ops[n] for n in read)) or (Value("x", TYPE),)
        out = Value(f"v{i}", TYPE)
        ops.append(AllReduce(out, xs[0], "a") if draw(st.booleans()) else Map(out, xs, "add"))
    return ops


@given(straight_lines())
def test_an_order_keeps_every_op_after_what_it_reads(ops: list[Op]) -> None:
    listed = Order(ops, MESH).order()
    assert sorted(map(str, listed)) == sorted(map(str, ops))
    made = {"x"}
    for op in listed:
        assert {x.name for x in op.operands} <= made
        made |= {v.name for v in op.results}


@given(straight_lines())
def test_no_kernel_waits_while_another_one_could_run(ops: list[Op]) -> None:
    """A kernel that waits for a collective under way comes when no other has all that it reads."""
    listed = Order(ops, MESH).order()
    reads = {op.results[0].name: {x.name for x in op.operands} for op in ops}
    linked = {op.results[0].name for op in ops if op.facts.stream == LINK}
    done, sent, over = {"x"}, [], 0
    for op in listed:
        name = op.results[0].name
        if name in linked:
            sent.append(name)
        else:
            waits = max((sent.index(n) + 1 for n in reads[name] & linked), default=0)
            if waits > over:
                ready = [n for n in reads if n not in done and n not in linked and reads[n] <= done]
                free = [n for n in ready if max((sent.index(x) + 1 for x in reads[n] & linked), default=0) <= over]
                assert not free, f"{free} could run before {name}"
            over = max(over, waits)
        done.add(name)


# ---- what a plan says


def test_nothing_to_run_beside_a_collective_is_said() -> None:
    (note,) = [n for n in plan("tp = 8", BESIDE, "llama_3_1_8b").notes if n.code == "N314"]
    assert "changes nothing" in note.message
    assert not [n for n in plan("ep = 8", BESIDE).notes if n.code == "N314"]


def test_a_wrong_word_is_refused_with_the_right_one() -> None:
    with pytest.raises(PlanError, match="did you mean `collectives`"):
        plan("tp = 8", "overlap = collective")


def test_the_order_does_not_depend_on_the_load() -> None:
    made = plan("ep = 8", BESIDE)
    (other,) = compile_text(PLAN.format(model="deepseek_v3", sharding="ep = 8", more=BESIDE).replace("64", "3000"))
    assert other.prefill == made.prefill
    assert other.decode == made.decode
