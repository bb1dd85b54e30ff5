"""GEMMs and their collectives in chunks: meaning by running, time in closed form."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from plandsl.backends.cost.deployments.batch import decode_step
from plandsl.backends.reference.shrink import shrink
from plandsl.backends.reference.verify import verify_programs
from plandsl.diagnostics import PlanError
from plandsl.driver import CompiledPlan, compile_text, plain_programs, programs
from plandsl.ir.chunks import Join, Split
from plandsl.ir.collectives import AllReduce
from plandsl.ir.compute import Gemm
from plandsl.ir.extents import Extents
from plandsl.ir.program import Program
from plandsl.ir.text import read_type, show_op
from plandsl.ir.types import Chunk, Dim, Mesh, TensorType, Value, own_pieces, pieces
from plandsl.testing import assert_laws

PLAN = """plan p {{
  model = {model}
  node = h200_8
  sharding {{ {sharding} }}
  workload {{ input = {input}, output = 100, batch = 16 }}
  {more}
}}"""
MEGATRON = "mesh t = 4\n heads, kv_heads, ffn, vocab -> t\n tokens -> t"


@cache
def plan(sharding: str = "tp = 4", chunks: int = 1, input: int = 1000, model: str = "llama_3_1_8b") -> CompiledPlan:
    text = PLAN.format(model=model, sharding=sharding, input=input, more=f"chunks = {chunks}")
    (made,) = compile_text(text)
    return made


# ---- meaning


@pytest.mark.parametrize("chunks", [2, 3, 7])
@pytest.mark.parametrize("sharding", ["tp = 4", MEGATRON, "sp = 2, tp = 2", "dp = 2, tp = 2", "pp = 2, tp = 2"])
def test_chunks_compute_what_the_whole_does(sharding: str, chunks: int) -> None:
    verdict = plan(sharding, chunks).verify()
    assert verdict.ok, verdict.message


@pytest.mark.parametrize("sharding", ["tp = 3", MEGATRON, "mesh a = 2, b = 2\n heads, ffn -> a, b\n tokens -> b"])
def test_laws_hold_of_chunks(sharding: str) -> None:
    model = "llama_3_1_8b with { heads = 24, kv_heads = 12, ffn = 13824, vocab = 128256 }"
    assert_laws(plan(sharding, 3, 101, model))


def mutants(program: Program) -> list[Program]:
    """Programs in which one chunk is not what it should be."""
    out = []
    block = program.region("block")
    for i, op in enumerate(block.ops):
        changes: list[object] = []
        if isinstance(op, Join):
            changes.append(evolve(op, xs=(op.xs[1], *op.xs[1:])))  # a chunk twice, another one lost
        if isinstance(op, Split):
            changes.append(evolve(op, x=op.x, outs=op.outs[::-1]))  # parts in another order than they are called
        if isinstance(op, AllReduce) and any(d.chunk for d in op.out.type.dims):
            other = next(o for o in block.ops if isinstance(o, AllReduce) and o is not op and o.out.type == op.out.type)
            changes.append(evolve(op, x=evolve(other.x)))  # the sum of another GEMM's chunk
        for change in changes:
            ops = (*block.ops[:i], change, *block.ops[i + 1 :])
            regions = tuple(evolve(r, ops=ops) if r is block else r for r in program.regions)
            out.append(evolve(program, regions=regions))
    return out


@given(
    st.integers(1, 60),
    st.integers(1, 4),
    st.integers(1, 4),
    st.integers(2, 4),
    st.sampled_from(((), ("a",), ("a", "b"))),
)
def test_law_a_rank_has_the_rows_of_its_part_of_a_chunk(
    rows: int, a: int, b: int, of: int, axes: tuple[str, ...]
) -> None:
    """The chunks of each block of the axes ``a, b`` that the axes of a dimension give to its fullest rank."""
    mesh = Mesh((("a", a), ("b", b)))
    blocks = rows * a * b  # equal blocks: of unequal ones the fullest counts
    extents = Extents(Program("m", "prefill", mesh, (("batch", blocks),), ()), {})
    found = 0
    for part in range(of):
        dim = Dim("batch", axes, Chunk(part, of, ("a", "b")))
        own = [sum(e - s for s, e in own_pieces(dim, blocks, mesh, mesh.coordinates(rank))[1]) for rank in range(a * b)]
        assert extents.local(dim) == max(own)
        found += max(own)
    assert found == blocks // mesh.ways(axes)


def test_a_chunk_that_is_lost_or_misplaced_is_caught_by_running() -> None:
    small = shrink(plan("tp = 4", 2).spec)
    plain, made = plain_programs(small), programs(small)
    sizes = {"batch": small.workload.batch, "input": small.workload.input}
    assert verify_programs(made, plain, sizes).ok
    wrong = mutants(made[0])
    assert len(wrong) >= 6
    for program in wrong:
        assert not verify_programs((program, made[1]), plain, sizes).ok


def test_chunks_lie_together_before_and_after_they_are_scattered() -> None:
    mesh = Mesh((("t", 2),))
    first, second = (read_type(f"bf16[batch {i}/2|t]").dims[0] for i in range(2))
    assert pieces(first, 10, mesh) == [(0, 3), (5, 8)]
    assert pieces(second, 10, mesh) == [(3, 5), (8, 10)]
    assert str(first) == "batch 0/2|t"


# ---- communication and time


def test_chunks_carry_the_bytes_of_the_whole() -> None:
    whole, cut = plan().estimate().prefill, plan(chunks=4).estimate().prefill
    for name in ("o", "down"):
        (a,) = [op for op in whole.ops if op.op == "all_reduce" and op.name == name]
        (b,) = [op for op in cut.ops if op.op == "all_reduce" and op.name == name]
        assert (b.count, b.bytes) == (4 * a.count, a.bytes / 4)
    (a,), (b,) = ([op for op in e.ops if (op.op, op.name) == ("gemm", "down")] for e in (whole, cut))
    assert (b.count, b.flops, dict(b.shape)["m"]) == (4 * a.count, a.flops / 4, dict(a.shape)["m"] / 4)
    assert 4 * b.bytes > a.bytes, "the weights are read once for each chunk"


@pytest.mark.parametrize("chunks", [2, 4, 8])
def test_a_chunk_is_computed_while_the_one_before_it_travels(chunks: int) -> None:
    # g + (n - 1) max(g, c) + c: two stations in a row, n equal jobs
    made = plan(chunks=chunks)
    times = made.cost.evaluate().prefill
    ops, seconds = made.prefill.program.region("block").ops, times.seconds["block"]
    g, c, rest = [], [], 0.0
    for op, t in zip(ops, seconds, strict=True):
        if any(d.chunk for v in op.results for d in v.type.dims):
            (g if isinstance(op, Gemm) else c if isinstance(op, AllReduce) else []).append(t)
        elif not isinstance(op, Join):
            rest += t
    wanted = rest
    for i in (0, chunks):
        wanted += g[i] + (chunks - 1) * max(g[i], c[i]) + c[i]
    assert len(g) == len(c) == 2 * chunks
    assert times.regions["block"].span == pytest.approx(wanted, rel=1e-9)


def test_a_long_prefill_gains_and_a_small_decode_step_loses() -> None:
    whole, cut = (plan("tp = 8", n, 4000, "llama_3_1_70b").cost for n in (1, 4))
    assert cut.evaluate().ttft < whole.evaluate().ttft
    assert cut.evaluate(batch=4).tpot > whole.evaluate(batch=4).tpot


@pytest.mark.parametrize("batch", [1, 2, 3, 5, 16])
def test_fewer_rows_than_chunks_leave_chunks_empty(batch: int) -> None:
    made = plan(chunks=4)
    extents = Extents(made.decode.program, {"batch": batch, "input": 1, "context": 100})
    split = next(op for op in made.decode.program.region("block").ops if isinstance(op, Split))
    rows = [extents.local(out.type.dims[0]) for out in split.outs]
    assert sum(rows) == batch
    times = decode_step(made.cost.one, batch, 1000, 2).seconds["block"]
    ran = [t > 0 for op, t in zip(made.decode.program.region("block").ops, times, strict=True) if type(op) is Gemm
           and op.outs[0].type.dims[0].chunk]  # fmt: skip
    assert ran == [n > 0 for n in rows] * 2


def test_numbers_and_arrays_agree_on_chunks() -> None:
    made, batches = plan(MEGATRON, 3), np.array([1, 2, 7, 64])
    together = made.cost.evaluate(batch=batches)
    for i, batch in enumerate(batches):
        alone = made.cost.evaluate(batch=int(batch))
        for name in ("ttft", "tpot", "memory", "max_batch"):
            found = np.broadcast_to(getattr(together, name), batches.shape)
            assert found[i] == pytest.approx(getattr(alone, name), rel=1e-12), (name, batch)


# ---- what a plan says


def test_a_program_without_such_gemms_is_not_cut() -> None:
    made = plan("pp = 4", 4)
    assert made.prefill.program == plan("pp = 4").prefill.program
    assert [n.code for n in made.notes if "chunks" in n.message] == ["N314"]


def test_too_many_chunks_are_refused() -> None:
    with pytest.raises(PlanError, match="E214"):
        plan(chunks=65)


def test_parts_that_do_not_fit_are_unsound() -> None:
    x = Value("x", read_type("bf16[batch@t, d]"))
    assert list(Split((x,), x, "batch", "s").verify())
    halves = tuple(Value(f"x{i}", read_type(f"bf16[batch {i}/2@t, d]")) for i in range(2))
    assert list(Join(x, halves[::-1], "batch").verify()), show_op(Join(x, halves[::-1], "batch"))
    assert Dim("batch") == TensorType("bf16", (Dim("batch"),)).dims[0]
