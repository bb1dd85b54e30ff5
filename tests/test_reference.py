"""The reference backend judges meaning; here it is judged itself, by known answers and by wrong programs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import product
from typing import get_args

import numpy as np
import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from plandsl.backends.reference.collectives import communicate
from plandsl.backends.reference.compute import function_of
from plandsl.backends.reference.machine import Machine
from plandsl.backends.reference.placement import Array, Mismatch, Placement, Shards, difference
from plandsl.backends.reference.shrink import shrink
from plandsl.backends.reference.verify import (
    Phases,
    Verdict,
    compare,
    verify_long_prefill,
    verify_plan,
    verify_programs,
)
from plandsl.backends.reference.weights import make_weights
from plandsl.diagnostics import PlanError
from plandsl.driver import compile_text, plain_programs, programs
from plandsl.ir.adapters import AdapterGemm
from plandsl.ir.chunks import Join, Split
from plandsl.ir.collectives import AllGather, AllReduce, AllToAll, ReduceScatter, Slice
from plandsl.ir.compute import Concat, Ids, Merge, Norm, Quantize
from plandsl.ir.earlier import Earlier, Item
from plandsl.ir.index import PickKeys
from plandsl.ir.meaning.attention import Mask, attention, rope
from plandsl.ir.norms import NormSums
from plandsl.ir.ops import OPS, Op
from plandsl.ir.program import Part, Program, Region
from plandsl.ir.program import verify as findings
from plandsl.ir.states import BlockState, BlockTail, Recurrence, ShortConv
from plandsl.ir.streams import Streams
from plandsl.ir.text import read, read_op, read_type, show_op
from plandsl.ir.types import Dim, Mesh, TensorType, Value
from plandsl.spec.hardware import CalibrationSpec, GpuSpec, LinkSpec, NodeSpec
from plandsl.spec.model import Apply, BlockSpec, ModelSpec, Statement, Var, Weight
from plandsl.spec.plan import AxisSpec, PlanSpec, RuleSpec, ShardingSpec, WorkloadSpec
from tests.draws import draws

# ---- programs: IR text, where a result may leave out the type that its op infers

SIZES = {"batch": 3, "input": 5}
DIMS = {"hidden": 6, "heads": 4, "kv_heads": 2, "head_dim": 8, "ffn": 12, "vocab": 16}
DIMS |= {"kv_rank": 5, "nope_dim": 3, "rope_dim": 2}


def filled(line: str, known: dict[str, Value]) -> str:
    """``line`` with the types of its results, from the types of its operands."""
    names, _, rest = line.partition(" = ")
    if not names.startswith("%"):
        return line
    if ":" not in names:
        blank = ", ".join(["bf16[]"] * names.count("%"))
        op = read_op(f"{names} : {blank} = {rest}", known)
        line = f"{names} : {', '.join(map(str, op.infer()))} = {rest}"
    known |= {v.name: v for v in read_op(line, known).results}
    return line


def region(header: str, text: str) -> str:
    typed = [header.partition("(")[2].partition(") ->")[0]]
    typed += [line.strip().removeprefix("weight ") for line in text.splitlines() if "weight " in line]
    known = {v.name: v for line in typed if line for v in [_value(line)]}
    lines = [filled(line.strip(), known) for line in text.strip().splitlines() if line.strip()]
    return "\n".join([f"region {header} {{", *lines, "}"])


def _value(text: str) -> Value:
    name, _, type_ = text.partition(" : ")
    return Value(name.removeprefix("%"), read_type(type_))


def program(phase: str, mesh: str, regions: list[str], stages: str = "") -> Program:
    position, context = ("input", "input") if phase == "prefill" else (1, "context")
    sizes = {"batch": "batch", "position": position, "context": context, **DIMS}
    dims = [f"dim {name} = {size}" for name, size in sizes.items()]
    return read("\n".join([f"program toy {phase}", f"mesh {mesh}".strip(), *dims, *regions, stages]))


def via(name: str, collective: str) -> tuple[str, str]:
    """A line that sends ``name`` through ``collective`` (``?`` is the operand), and the name after it."""
    return (f"{name}_ = {collective.replace('?', name)}", f"{name}_") if collective else ("", name)


def block(
    x: str,
    axis: str = "",
    *,
    enter: str = "",
    leave: str = "",
    attend: tuple[str, str, str] = ("", "", ""),
    window: int = 0,
    layers: int = 2,
) -> str:
    """A transformer block on the stream ``x``, its weights split over ``axis``.

    ``enter`` and ``leave`` are the collectives around each half, ``attend`` those of queries, of keys and
    values, and of the result of attention.
    """
    at = axis and f"@{axis}"
    (into, h), (out, o) = via("%h", enter), via("%o", leave)
    (to_q, q), (to_k, k), (to_v, v) = via("%q", attend[0]), via("%k", attend[1]), via("%v", attend[1])
    back, a = via("%a", attend[2])
    (into2, h2), (out2, d) = via("%h2", enter), via("%d", leave)
    text = f"""
      weight %g1 : bf16[hidden]
      weight %w_q : bf16[hidden, heads{at}, head_dim]
      weight %w_k : bf16[hidden, kv_heads{at}, head_dim]
      weight %w_v : bf16[hidden, kv_heads{at}, head_dim]
      weight %w_o : bf16[heads{at}, head_dim, hidden]
      weight %g2 : bf16[hidden]
      weight %w_gate : bf16[hidden, ffn{at}]
      weight %w_up : bf16[hidden, ffn{at}]
      weight %w_down : bf16[ffn{at}, hidden]
      %h = norm %x, %g1 {{fn = "rms_norm", over = "hidden"}}
      {into}
      %q0, %k0, %v = gemm {h}, %w_q, %w_k, %w_v
      %q, %k = rope %q0, %k0
      {to_q}
      {to_k}
      {to_v}
      %kept_k, %kept_v = cache_write {k}, {v} {{cache = "kv"}}
      %a = attention {q}, %kept_k, %kept_v {{causal = true, window = {window}}}
      {back}
      %o = gemm {a}, %w_o
      {out}
      %x1, %h2 = add_norm %x, {o}, %g2 {{fn = "rms_norm", over = "hidden"}}
      {into2}
      %g, %u = gemm {h2}, %w_gate, %w_up
      %gu = map %g, %u {{fn = "silu_mul"}}
      %d = gemm %gu, %w_down
      {out2}
      %x2 = map %x1, {d} {{fn = "add"}}
    """
    return region(f"block[0..{layers}](%x : bf16[{x}, hidden]) -> %x2", text)


def embedding(ids: str = "batch, position", table: str = "vocab, hidden", then: str = "") -> str:
    line, out = via("%x", then)
    text = f"weight %w_embed : bf16[{table}]\n%x = embed %ids, %w_embed\n{line}"
    return region(f"embedding(%ids : int32[{ids}]) -> {out}", text)


def head(x: str, vocab: str = "vocab", *, before: str = "", last: str = "", then: str = "") -> str:
    (line0, x0), (line1, x1), (line2, out) = via("%x", before), via("%last", last), via("%logits", then)
    text = f"""
      weight %gain : bf16[hidden]
      weight %w_head : bf16[hidden, {vocab}]
      {line0}
      %last = last_token {x0}
      {line1}
      %h = norm {x1}, %gain {{fn = "layer_norm", over = "hidden"}}
      %logits = gemm %h, %w_head
      {line2}
    """
    return region(f"head(%x : bf16[{x}, hidden]) -> {out}", text)


WHOLE = "batch, position"


def both(make: Callable[[str], Program]) -> Phases:
    """The programs of both phases from a function of the phase."""
    return make("prefill"), make("decode")


def plain(window: int = 0, layers: int = 2) -> Phases:
    regions = [embedding(), block(WHOLE, window=window, layers=layers), head(WHOLE)]
    return both(lambda phase: program(phase, "", regions))


def tensor_parallel(ways: int = 2, window: int = 0) -> Phases:
    """Vocabulary, heads and ffn over one axis, an all_reduce after each half."""
    total = 'all_reduce ? {axis = "t"}'
    regions = [
        embedding(table="vocab@t, hidden", then=total),
        block(WHOLE, "t", leave=total, window=window),
        head(WHOLE, "vocab@t", then='all_gather ? {axis = "t", dim = "vocab"}'),
    ]
    return both(lambda phase: program(phase, f"t = {ways}", regions))


def sequence_parallel() -> Phases:
    """The stream split by tokens on the axis that splits the weights: five positions on two ranks."""

    def make(phase: str) -> Program:
        dim = "position" if phase == "prefill" else "batch"
        x = WHOLE.replace(dim, f"{dim}@t")
        gather, scatter = (f'{c} ? {{axis = "t", dim = "{dim}"}}' for c in ("all_gather", "reduce_scatter"))
        whole = 'all_gather ? {axis = "t", dim = "vocab"}'
        if phase == "prefill":
            last = head(x, "vocab@t", last='all_reduce ? {axis = "t"}', then=whole)
        else:
            last = head(x, "vocab@t", before=gather, then=whole)
        regions = [
            embedding(table="vocab@t, hidden", then=scatter),
            block(x, "t", enter=gather, leave=scatter),
            last,
        ]
        return program(phase, "t = 2", regions)

    return both(make)


def ulysses() -> Phases:
    """Tokens over `s`; inside attention heads over both axes, so that two ranks hold each of two kv_heads."""

    def make(phase: str) -> Program:
        dim = "position" if phase == "prefill" else "batch"
        x = WHOLE.replace(dim, f"{dim}@s")
        move = 'all_to_all ? {{axis = "s", gather = "{}", split = "{}"}}'.format
        attend = (move(dim, "heads"), move(dim, "kv_heads"), move("heads", dim))
        total, whole = 'all_reduce ? {axis = "t"}', 'all_gather ? {axis = "t", dim = "vocab"}'
        last = 'all_reduce ? {axis = "s"}' if phase == "prefill" else ""
        regions = [
            embedding(x, "vocab@t, hidden", total),
            block(x, "t", leave=total, attend=attend),
            head(x, "vocab@t", last=last, then=whole),
        ]
        return program(phase, "s = 2, t = 2", regions)

    return both(make)


def pipeline() -> Phases:
    """Three layers on two stages of two ranks each."""
    total = 'all_reduce ? {axis = "t"}'
    stream = "bf16[batch, position, hidden]"
    regions = [
        embedding(),
        block(WHOLE, "t", leave=total, layers=3),
        head(WHOLE),
        f"region send(%x : {stream}) ->  {{\nsend %x\n}}",
        f"region recv() -> %x {{\n%x : {stream} = recv\n}}",
    ]
    stages = "stage 0 = embedding, block[0..2], send\nstage 1 = recv, block[2..3], head"
    return both(lambda phase: program(phase, "p = 2, t = 2\nlayers -> p", regions, stages))


def placeholders() -> Phases:
    """What stands before `insert_collectives`: reshards, and a quantised input."""
    stream = "bf16[batch, position@t, hidden]"
    text = f"""
      weight %w_up : bf16[hidden, ffn@t]
      weight %b : bf16[ffn@t]
      weight %w_down : bf16[ffn@t, hidden]
      %h : bf16[batch, position, hidden] = reshard %x
      %h8 : fp8[batch, position, hidden] = quantize %h
      %u = gemm %h8, %w_up
      %c = map %u, %b {{fn = "add"}}
      %y = gemm %c, %w_down
      %z : {stream} = reshard %y
      %out = map %x, %z {{fn = "sub"}}
    """
    mlp = region(f"block[0..2](%x : {stream}) -> %out", text)
    first = embedding(then='slice ? {axis = "t", dim = "position"}')
    last = head("batch, position@t", last='all_reduce ? {axis = "t"}')
    return both(lambda phase: program(phase, "r = 2, t = 3", [first, mlp, last]))


def plain_placeholders() -> Phases:
    text = """
      weight %w_up : bf16[hidden, ffn]
      weight %b : bf16[ffn]
      weight %w_down : bf16[ffn, hidden]
      %u = gemm %x, %w_up
      %c = map %u, %b {fn = "add"}
      %y = gemm %c, %w_down
      %out = map %x, %y {fn = "sub"}
    """
    mlp = region("block[0..2](%x : bf16[batch, position, hidden]) -> %out", text)
    return both(lambda phase: program(phase, "", [embedding(), mlp, head(WHOLE)]))


def latent(ways: int = 1) -> Phases:
    """Latent attention with its heads over one axis: unpacked in prefill, absorbed in decode."""
    at, total = ("@t", 'all_reduce ? {axis = "t"}') if ways > 1 else ("", "")
    line, o = via("%o", total)
    inner = {
        "prefill": """
          %keys, %values = gemm %c, %w_uk, %w_uv
          %a = latent_attention %q, %qr, %keys, %kr, %values {scaled = "nope_dim"}
        """,
        "decode": """
          %absorbed = head_gemm %q, %w_uk {over = "heads"}
          %mean = latent_attention %absorbed, %qr, %c, %kr, %c {scaled = "nope_dim"}
          %a = head_gemm %mean, %w_uv {over = "heads"}
        """,
    }

    def make(phase: str) -> Program:
        text = f"""
          weight %w_dkv : bf16[hidden, kv_rank]
          weight %w_kr : bf16[hidden, rope_dim]
          weight %w_uq : bf16[hidden, heads{at}, nope_dim]
          weight %w_qr : bf16[hidden, heads{at}, rope_dim]
          weight %w_uk : bf16[kv_rank, heads{at}, nope_dim]
          weight %w_uv : bf16[kv_rank, heads{at}, head_dim]
          weight %w_o : bf16[heads{at}, head_dim, hidden]
          %c0, %kr0 = gemm %x, %w_dkv, %w_kr
          %q, %qr0 = gemm %x, %w_uq, %w_qr
          %qr, %kr1 = rope %qr0, %kr0
          %c, %kr = cache_write %c0, %kr1 {{cache = "kv"}}
          {inner[phase]}
          %o = gemm %a, %w_o
          {line}
          %half = scale {o} {{by = 0.5}}
          %x1 = map %x, %half {{fn = "add"}}
        """
        middle = region("block[0..2](%x : bf16[batch, position, hidden]) -> %x1", text)
        return program(phase, f"t = {ways}" if ways > 1 else "", [embedding(), middle, head(WHOLE)])

    return both(make)


def split_keys() -> Phases:
    """Keys and positions over one axis: a ring in prefill, partial softmaxes in decode."""
    kept = "bf16[batch, context@c, kv_heads, head_dim]"
    meet = {
        "prefill": """
          %all_k, %all_v = ring %kept_k, %kept_v {axis = "c", dim = "context"}
          %a = attention %q, %all_k, %all_v {causal = true, window = 0}
        """,
        "decode": """
          %some = attention %q, %kept_k, %kept_v {causal = true, window = 0}
          %share = rescale %some {axis = "c"}
          %a = all_reduce %share {axis = "c"}
        """,
    }

    def make(phase: str) -> Program:
        text = f"""
          weight %w_q : bf16[hidden, heads, head_dim]
          weight %w_k : bf16[hidden, kv_heads, head_dim]
          weight %w_v : bf16[hidden, kv_heads, head_dim]
          weight %w_o : bf16[heads, head_dim, hidden]
          %q0, %k0, %v = gemm %x, %w_q, %w_k, %w_v
          %q, %k = rope %q0, %k0
          %kept_k, %kept_v : {kept}, {kept} = cache_write %k, %v {{cache = "kv"}}
          {meet[phase]}
          %o = gemm %a, %w_o
          %x1 = map %x, %o {{fn = "add"}}
        """
        ids, x, last = "", WHOLE, ""
        if phase == "prefill":
            ids, x = 'slice ? {axis = "c", dim = "position"}', "batch, position@c"
            last = 'all_reduce ? {axis = "c"}'
        middle = region(f"block[0..2](%x : bf16[{x}, hidden]) -> %x1", text)
        return program(phase, "c = 3", [embedding(then=ids), middle, head(x, last=last)])

    return both(make)


def plain_keys() -> Phases:
    text = """
      weight %w_q : bf16[hidden, heads, head_dim]
      weight %w_k : bf16[hidden, kv_heads, head_dim]
      weight %w_v : bf16[hidden, kv_heads, head_dim]
      weight %w_o : bf16[heads, head_dim, hidden]
      %q0, %k0, %v = gemm %x, %w_q, %w_k, %w_v
      %q, %k = rope %q0, %k0
      %kept_k, %kept_v = cache_write %k, %v {cache = "kv"}
      %a = attention %q, %kept_k, %kept_v {causal = true, window = 0}
      %o = gemm %a, %w_o
      %x1 = map %x, %o {fn = "add"}
    """
    middle = region("block[0..2](%x : bf16[batch, position, hidden]) -> %x1", text)
    return both(lambda phase: program(phase, "", [embedding(), middle, head(WHOLE)]))


MOE = """
model m {
  layers = 2, hidden = 32, heads = 4, kv_heads = 2, head_dim = 8, experts = 8, expert_ffn = 16
  vocab = 64, weights = bf16
  embedding w_embed[vocab, hidden]
  block x[tokens, hidden] {
    h = rms_norm(x)
    a = attention(rope(h @ w_q[hidden, heads, head_dim]), rope(h @ w_k[hidden, kv_heads, head_dim]),
                  h @ w_v[hidden, kv_heads, head_dim])
    x = x + a @ w_o[heads, head_dim, hidden]
    h = rms_norm(x)
    y = experts(h, w_router[hidden, experts], top_k = 2) {
      silu(h @ w_up[hidden, expert_ffn]) @ w_down[expert_ffn, hidden]
    }
    x = x + y
  }
  head rms_norm(x) @ w_head[hidden, vocab]
}
plan p { model = m, node = h100_8, sharding { ep = 2, tp = 2 }, workload { input = 4, output = 4, batch = 2 } }
"""


def experts() -> tuple[Phases, Phases]:
    """Tokens that travel to the ranks of their experts and back."""
    spec = shrink(compile_text(MOE)[0].spec)
    return programs(spec), plain_programs(spec)


CASES: dict[str, tuple[Phases, Phases]] = {
    "experts": experts(),
    "split_keys": (split_keys(), plain_keys()),
    "tensor_parallel": (tensor_parallel(), plain()),
    "replicated_kv_heads": (tensor_parallel(4), plain()),
    "window": (tensor_parallel(window=3), plain(window=3)),
    "sequence_parallel": (sequence_parallel(), plain()),
    "ulysses": (ulysses(), plain()),
    "pipeline": (pipeline(), plain(layers=3)),
    "placeholders": (placeholders(), plain_placeholders()),
    "latent": (latent(2), latent()),
}


# ---- sharded is unsharded


@pytest.mark.parametrize("name", CASES)
def test_sharded_computes_what_unsharded_does(name: str) -> None:
    sharded, whole = CASES[name]
    verdict = verify_programs(sharded, whole, SIZES, steps=3, check=True)
    assert verdict.ok, verdict
    assert verdict.worst < 1e-12
    assert (verdict.steps, verdict.ranks) == (3, sharded[0].mesh.ranks)


@pytest.mark.parametrize("batch", [1, 2, 4])
@pytest.mark.parametrize("length", [1, 2, 3])
@pytest.mark.parametrize("name", ["sequence_parallel", "ulysses"])
def test_short_and_empty_parts_compute_the_same(name: str, batch: int, length: int) -> None:
    sharded, whole = CASES[name]
    assert verify_programs(sharded, whole, {"batch": batch, "input": length}, check=True).ok


@pytest.mark.parametrize("name", CASES)
def test_prefill_then_decode_is_one_long_prefill(name: str) -> None:
    for phases in CASES[name]:
        verdict = verify_long_prefill(phases, SIZES, steps=4)
        assert verdict.ok, verdict


def test_a_window_changes_the_answer() -> None:
    assert not verify_programs(plain(window=3), plain(), SIZES).ok
    assert verify_programs(plain(window=30), plain(), SIZES).ok


def test_replicas_that_no_type_mentions_repeat_the_work() -> None:
    replicated = tuple(evolve(p, mesh=Mesh((("r", 3), *p.mesh.axes))) for p in tensor_parallel())
    assert verify_programs((replicated[0], replicated[1]), plain(), SIZES, check=True).ok


# ---- programs made wrong


Collective = AllReduce | ReduceScatter | AllGather | AllToAll


def collectives(phases: Phases) -> Iterator[tuple[int, str, int, Collective]]:
    for i, one in enumerate(phases):
        for part in one.regions:
            for j, op in enumerate(part.ops):
                if isinstance(op, Collective):
                    yield i, part.name, j, op


def with_op(phases: Phases, phase: int, name: str, at: int, op: Op) -> Phases:
    def change(part: Region) -> Region:
        return evolve(part, ops=(*part.ops[:at], op, *part.ops[at + 1 :])) if part.name == name else part

    changed = list(phases)
    changed[phase] = evolve(phases[phase], regions=tuple(map(change, phases[phase].regions)))
    return changed[0], changed[1]


COMMUNICATING = ["tensor_parallel", "sequence_parallel", "ulysses", "pipeline"]


def judged(mutant: Phases, name: str) -> tuple[Verdict, Verdict]:
    """The verdict on a mutant, and that of running it although it may be unsound."""
    whole = CASES[name][1]
    return verify_programs(mutant, whole, SIZES), compare(mutant, whole, SIZES)


@pytest.mark.parametrize("name", COMMUNICATING)
def test_each_collective_left_out_is_caught_by_running(name: str) -> None:
    phases = CASES[name][0]
    for phase, part, at, op in collectives(phases):
        mutant = with_op(phases, phase, part, at, Quantize(op.results[0], op.operands[0]))
        verdict, ran = judged(mutant, name)
        assert not verdict.ok, show_op(op)
        assert not ran.ok, show_op(op)
        assert ran.message


@pytest.mark.parametrize("name", COMMUNICATING)
def test_each_collective_of_another_kind_is_caught_by_running(name: str) -> None:
    phases = CASES[name][0]
    for phase, part, at, op in collectives(phases):
        for other in others(op):
            mutant = with_op(phases, phase, part, at, other)
            verdict, ran = judged(mutant, name)
            assert not verdict.ok, show_op(other)
            assert not ran.ok, show_op(other)


def others(op: Collective) -> Iterator[Op]:
    """The same value claimed to come from other collectives: another kind, another axis."""
    dim = op.x.type.names[0]
    kinds: list[Op] = [
        AllReduce(op.out, op.x, op.axis),
        ReduceScatter(op.out, op.x, op.axis, dim),
        AllGather(op.out, op.x, op.axis, dim),
        Slice(op.out, op.x, op.axis, dim),
    ]
    # of two that move the same data the result's type says which it is, and that stays as it was
    sums = isinstance(op, AllReduce | ReduceScatter)
    yield from (kind for kind in kinds if isinstance(kind, AllReduce | ReduceScatter) != sums)
    yield from (evolve(op, axis=axis) for axis in ("s", "p") if axis != op.axis)


def test_another_dimension_is_caught() -> None:
    phases = CASES["sequence_parallel"][0]
    for phase, part, at, op in collectives(phases):
        if isinstance(op, ReduceScatter):
            wrong = evolve(op, dim="hidden")
            wrong = evolve(wrong, out=evolve(op.out, type=wrong.infer()[0]))
            for verdict in judged(with_op(phases, phase, part, at, wrong), "sequence_parallel"):
                assert not verdict.ok


def staged(*stages: str) -> Phases:
    cut = tuple(tuple(Part(*_part(word)) for word in stage.split()) for stage in stages)
    first, second = pipeline()
    return evolve(first, stages=cut), evolve(second, stages=cut)


def _part(word: str) -> tuple[str, tuple[int, int] | None]:
    name, bracket, rest = word.partition("[")
    start, _, stop = rest.strip("]").partition("..")
    return name, (int(start), int(stop)) if bracket else None


@pytest.mark.parametrize(
    ("stages", "why"),
    [
        (("embedding block[0..2]", "recv block[2..3] head"), "nobody sends"),
        (("embedding block[0..2] send", "block[2..3] head"), "nothing here makes or receives"),
        (("embedding block[0..2] send", "embedding block[2..3] head"), "never received"),
        (("embedding block[0..2] send", "recv block[2..3] send"), "no stage comes after"),
        (("embedding block[0..2] send", "recv block[1..3] head"), "off by"),
        (("embedding block[0..2] send",), "1 stages"),
    ],
)
def test_stages_that_do_not_hand_on_are_caught(stages: tuple[str, ...], why: str) -> None:
    verdict = verify_programs(staged(*stages), plain(layers=3), SIZES)
    assert not verdict.ok
    assert why in verdict.message


def test_a_collective_across_stages_is_caught() -> None:
    phases = pipeline()
    at, op = next((at, op) for _, part, at, op in collectives(phases) if part == "block")
    mutant = with_op(phases, 0, "block", at, evolve(op, axis="p"))
    assert "runs another stage" in compare(mutant, plain(layers=3), SIZES).message


def test_a_cache_laid_out_otherwise_in_decode_is_caught() -> None:
    mixed = (tensor_parallel()[0], evolve(plain()[1], mesh=tensor_parallel()[1].mesh))
    assert "cache 'kv'" in compare(mixed, plain(), SIZES).message


def test_logits_left_in_parts_are_caught() -> None:
    total = 'all_reduce ? {axis = "t"}'
    regions = [embedding(table="vocab@t, hidden", then=total), block(WHOLE, "t", leave=total), head(WHOLE, "vocab@t")]
    phases = both(lambda phase: program(phase, "t = 2", regions))
    assert not list(findings(phases[0]))
    assert "sampling needs the whole of %logits" in verify_programs(phases, plain(), SIZES).message


def test_key_heads_held_by_another_rank_are_caught() -> None:
    gather = 'all_gather ? {axis = "t", dim = "heads"}'
    attend = (gather, "", 'slice ? {axis = "t", dim = "heads"}')
    regions = [embedding(), block(WHOLE, "t", leave='all_reduce ? {axis = "t"}', attend=attend), head(WHOLE)]
    phases = both(lambda phase: program(phase, "t = 2", regions))
    assert not verify_programs(phases, plain(), SIZES).ok
    assert "of kv_heads only 0..1" in compare(phases, plain(), SIZES).message


# ---- the set is closed


def test_every_op_is_run_by_some_case() -> None:
    programs = [p for sharded, whole in CASES.values() for p in (*sharded, *whole)]
    found = {type(op) for p in programs for r in p.regions for op in r.ops}
    # test_speculate.py runs the `concat` of an `mtp`, test_chunks.py what `chunks` cut, test_states.py states,
    # test_lora.py adapters, test_lookups.py positions and types, test_towers.py what merges tokens, test_earlier.py
    # what layers take from earlier ones, test_streams.py several residual streams, test_norms.py sums for norms,
    # test_state_blocks.py what blocks of positions hand on
    others = {NormSums, Concat, Join, Split, PickKeys, ShortConv, Recurrence, AdapterGemm, Ids, Merge, Earlier, Item}
    others |= {BlockTail, BlockState, *get_args(Streams)}
    assert found | others == set(OPS)


def test_the_cases_are_sound_programs() -> None:
    for sharded, whole in CASES.values():
        for one in (*sharded, *whole):
            assert not list(findings(one))


# ---- collectives keep the value

WAYS = st.sampled_from([1, 2, 3])


@st.composite
def laid_out(draw: st.DrawFn) -> tuple[Placement, Value]:
    """A mesh, and a value on it: dimensions that divide, that are padded and that are replicated."""
    mesh = Mesh(tuple((axis, draw(WAYS)) for axis in draw(st.sampled_from(["a", "ab", "abc"]))))
    known = st.sampled_from(["batch", "position", "hidden", "kv_heads"])
    names = draw(st.lists(known, min_size=1, unique=True))
    small = st.integers(1, 7)
    sizes = {n: mesh.ranks if n == "hidden" else draw(small) for n in names}
    homes = {axis: draw(st.sampled_from([*names, "partial", ""])) for axis, _ in mesh.axes}
    dims = tuple(Dim(n, tuple(a for a, home in homes.items() if home == n)) for n in names)
    partial = frozenset(a for a, home in homes.items() if home == "partial")
    return Placement(mesh, sizes), Value("x", TensorType("bf16", dims, partial))


def scattered(place: Placement, value: Value, whole: Array, rng: np.random.Generator) -> Shards:
    """Parts of ``whole``; where the value is partial, of terms that sum to it."""
    partial = sorted(value.type.partial)
    steps = list(product(*(range(place.mesh.size(a)) for a in partial)))
    terms = [rng.standard_normal(whole.shape) for _ in steps[1:]]
    terms.append(whole - sum(terms))
    cuts = [place.cut(term, value, range(place.mesh.ranks)) for term in terms]
    return {r: cuts[place.index(partial, r)][r] for r in range(place.mesh.ranks)}


def legal(x: Value, mesh: Mesh) -> list[AllReduce | ReduceScatter | AllGather | AllToAll | Slice]:
    out: list[AllReduce | ReduceScatter | AllGather | AllToAll | Slice] = []
    for axis, _ in mesh.axes:
        for dim in x.type.names:
            out += [ReduceScatter(x, x, axis, dim), AllGather(x, x, axis, dim), Slice(x, x, axis, dim)]
            out += [AllToAll(x, x, axis, dim, other) for other in x.type.names]
        out.append(AllReduce(x, x, axis))
    return [op for op in out if not list(op.verify())]


@draws(50 / 3)
@given(laid_out(), st.data())
def test_any_run_of_collectives_keeps_the_value(start: tuple[Placement, Value], data: st.DataObject) -> None:
    place, x = start
    rng = np.random.default_rng(0)
    whole = rng.standard_normal([place.sizes[n] for n in x.type.names])
    shards = scattered(place, x, whole, rng)
    assert difference(place.join(x, shards), whole) < 1e-12
    for _ in range(data.draw(st.integers(1, 4))):
        moves = legal(x, place.mesh)
        if not moves:
            return
        move = data.draw(st.sampled_from(moves))
        out = Value(x.name + "'", move.infer()[0])
        shards = communicate(evolve(move, out=out, x=x), shards, place)
        place.check_shapes(out, shards, move.keyword)
        place.check_copies(out, shards, move.keyword)
        assert difference(place.join(out, shards), whole) < 1e-12
        x = out


# ---- known answers


def test_attention_is_a_weighted_mean_of_what_is_visible() -> None:
    rng = np.random.default_rng(1)
    q, k, v = rng.standard_normal((2, 1, 3, 1, 4)), *rng.standard_normal((2, 1, 5, 1, 4))
    q = q[0]
    positions = np.array([2, 3, 4])
    out = attention(q, k, v, Mask(positions, np.arange(5), window=2))
    for i, at in enumerate(positions):
        keys = [at - 1, at]
        scores = np.exp([q[0, i, 0] @ k[0, j, 0] / 2.0 for j in keys])
        want = sum(s * v[0, j, 0] for s, j in zip(scores, keys, strict=True)) / scores.sum()
        assert difference(out[0, i, 0], want) < 1e-14


def test_what_a_query_sees() -> None:
    at = Mask(np.array([2]), np.arange(4))
    assert at.seen().tolist() == [[True, True, True, False]]
    assert at._replace(window=2).seen().tolist() == [[False, True, True, False]]
    assert at._replace(causal=False).seen().tolist() == [[True] * 4]


def test_rope_sees_the_distance_alone() -> None:
    rng = np.random.default_rng(2)
    a, b = rng.standard_normal((2, 1, 6))

    def product_at(i: int, j: int) -> float:
        return float((rope(a, np.array([i]), 0) * rope(b, np.array([j]), 0)).sum())

    assert product_at(9, 4) == pytest.approx(product_at(5, 0), rel=1e-12)
    assert product_at(9, 4) != pytest.approx(product_at(9, 5), rel=1e-3)
    assert rope(a, np.array([0]), 0) == pytest.approx(a)


def test_functions_at_known_points() -> None:
    one = np.array([1.0])
    assert function_of("silu")(one) == pytest.approx(1 / (1 + np.exp(-1)))
    assert function_of("gelu")(one) == pytest.approx(0.841192, abs=1e-6)
    assert function_of("relu2")(np.array([-2.0, 3.0])).tolist() == [0.0, 9.0]
    assert np.isfinite(function_of("silu")(np.array([-1e4]))).all()


def test_a_tied_head_shares_the_table_of_the_embedding() -> None:
    text = "weight %w_embed : bf16[vocab, hidden]\n%last = last_token %x\n%logits = gemm %last, %w_embed"
    tied = region("head(%x : bf16[batch, position, hidden]) -> %logits", text)
    phases = both(lambda phase: program(phase, "", [embedding(), tied]))
    weights = make_weights(phases[0], SIZES)
    table = weights["embedding", None, "w_embed"]
    assert np.array_equal(weights["head", None, "w_embed"], table)
    ids = np.array([[1, 2], [3, 4]])
    logits = Machine(*phases, weights, {"batch": 2, "input": 2}).prefill(ids)
    assert difference(logits, table[[2, 4]] @ table.T) < 1e-14


def test_weights_do_not_depend_on_the_sharding() -> None:
    sharded, whole = CASES["ulysses"]
    ours, theirs = make_weights(sharded[1], SIZES), make_weights(whole[0], SIZES)
    assert ours.keys() == theirs.keys()
    assert all(np.array_equal(ours[key], theirs[key]) for key in ours)
    assert not np.array_equal(ours["block", 0, "w_q"], ours["block", 1, "w_q"])
    assert not np.array_equal(ours["block", 0, "w_k"], ours["block", 0, "w_v"])


def test_prompts_of_another_shape_are_refused() -> None:
    machine = Machine(*plain(), make_weights(plain()[0], SIZES), SIZES)
    with pytest.raises(Mismatch, match="has shape"):
        machine.prefill(np.zeros((2, 5), int))


def test_a_program_that_asks_for_what_is_not_there_is_refused() -> None:
    weights = make_weights(plain()[0], SIZES)
    gone = {key: array for key, array in weights.items() if key != ("block", 1, "w_q")}
    with pytest.raises(Mismatch, match=r"block: there is no weight .*w_q.* for layer 1"):
        Machine(*plain(), gone, SIZES).prefill(np.zeros((3, 5), int))
    prefill, decode = plain()
    regions = tuple(
        evolve(region, ops=tuple(evolve(op, fn="other_norm") if isinstance(op, Norm) else op for op in region.ops))
        for region in prefill.regions
    )
    with pytest.raises(Mismatch, match="no norm is called 'other_norm'"):
        Machine(evolve(prefill, regions=regions), decode, weights, SIZES).prefill(np.zeros((3, 5), int))
    with pytest.raises(Mismatch, match="no function is called 'nothing'"):
        function_of("nothing")


# ---- shrink

GPU = GpuSpec("gpu", 1e9, 1e9, (("bf16", 1e12),))
NODE = NodeSpec("node", GPU, 64, LinkSpec("mesh", 1e9, 1e-6))
LARGE = {"hidden": 8192, "heads": 64, "kv_heads": 8, "head_dim": 128, "ffn": 28672, "vocab": 128256}


def attend(window: int) -> Apply:
    return Apply("attention", (Var("q"), Var("k"), Var("v")), (("window", window),))


def make_plan(
    axes: dict[str, int],
    rules: dict[str, tuple[str, ...]],
    *,
    layers: int = 80,
    batch: int = 256,
    **sizes: int,
) -> PlanSpec:
    blocks = (
        BlockSpec("dense", (0, 3), "x", (Statement("x", attend(4096)),)),
        BlockSpec("sparse", (3, layers), "x", (Statement("x", Apply("silu", (attend(512),))),)),
    )
    model = ModelSpec(
        "m",
        layers,
        tuple((LARGE | sizes).items()),
        *("bf16", "bf16", "bf16", None),
        embedding=Weight("w", ("vocab", "hidden")),
        blocks=blocks,
        head=Var("x"),
    )
    sharding = ShardingSpec(
        "s",
        tuple(AxisSpec(*axis) for axis in axes.items()),
        tuple(RuleSpec((dim,), where) for dim, where in rules.items()),
    )
    load = WorkloadSpec("w", 9091, 208, batch)
    return PlanSpec("p", model, node=NODE, sharding=sharding, workload=load, calibration=CalibrationSpec("c", ()))


RULES = {
    "layers": ("stage",),
    "tokens": ("seq",),
    "heads": ("tensor", "seq"),
    "kv_heads": ("tensor", "seq"),
    "ffn": ("tensor",),
    "vocab": ("tensor",),
}


def test_shrink_keeps_what_divides_and_makes_the_rest_distinct() -> None:
    small = shrink(make_plan({"stage": 2, "seq": 2, "tensor": 4}, RULES, layers=81))
    sizes = dict(small.model.sizes)
    assert list(sizes) == list(LARGE)
    assert sizes["kv_heads"] % 8 == 0
    assert sizes["heads"] == 2 * sizes["kv_heads"]
    assert sizes["ffn"] % 4 == sizes["vocab"] % 4 == sizes["head_dim"] % 2 == 0
    all_sizes = [*sizes.values(), small.workload.batch, small.workload.input]
    assert len(set(all_sizes)) == len(all_sizes)
    assert max(all_sizes) <= 32
    assert small.workload.input % 2 == 1, "9091 tokens on two ranks are padded, and so are few"
    assert small.workload.batch % 2 == 0
    assert small.sharding == make_plan({"stage": 2, "seq": 2, "tensor": 4}, RULES).sharding


@pytest.mark.parametrize(("kv_heads", "small"), [(8, 2), (2, 2), (1, 1), (16, 16), (64, 16)])
def test_shrink_keeps_replication(kv_heads: int, small: int) -> None:
    plan = make_plan({"tensor": 16}, {"heads": ("tensor",), "kv_heads": ("tensor",)}, kv_heads=kv_heads)
    sizes = dict(shrink(plan).model.sizes)
    assert sizes["kv_heads"] == small
    assert sizes["heads"] % 16 == 0
    assert (sizes["heads"] > small) == (kv_heads < 64)


def test_shrink_keeps_groups_of_heads_whole_where_axes_split_them_otherwise() -> None:
    plan = make_plan({"a": 8, "b": 6}, {"kv_heads": ("a",), "heads": ("b",)}, heads=48, kv_heads=8)
    sizes = dict(shrink(plan).model.sizes)
    assert (sizes["kv_heads"] % 8, sizes["heads"] % 6, sizes["heads"] % sizes["kv_heads"]) == (0, 0, 0)


@pytest.mark.parametrize(
    ("layers", "stages", "small"), [(80, 1, 2), (80, 4, 8), (126, 8, 14), (8, 8, 8), (61, 2, 3), (4, 1, 2)]
)
def test_shrink_keeps_how_layers_are_dealt(layers: int, stages: int, small: int) -> None:
    model = shrink(make_plan({"stage": stages}, {"layers": ("stage",)}, layers=layers)).model
    first, second = (b.layers for b in model.blocks)
    assert model.layers == small == second[1]
    assert (first[0], first[1]) == (0, second[0])
    assert first[1] > 0
    assert second[1] > second[0]


def test_shrink_keeps_the_order_of_windows_and_lets_them_bite() -> None:
    small = shrink(make_plan({}, {}))
    dense, sparse = (b.statements[0].term for b in small.model.blocks)
    assert isinstance(sparse, Apply)
    assert sparse.args == (attend(3),)
    assert dense == attend(4)
    assert small.workload.input > 4


@draws(25 / 3)
@given(
    st.dictionaries(st.sampled_from("abcd"), st.sampled_from([1, 2, 3, 4, 8]), min_size=1).filter(
        lambda axes: np.prod(list(axes.values())) <= 64
    ),
    st.dictionaries(
        st.sampled_from([*LARGE, "batch", "tokens", "layers"]),
        st.lists(st.sampled_from("abcd"), unique=True, min_size=1).map(tuple),
    ),
    st.dictionaries(st.sampled_from(list(LARGE)), st.integers(1, 300)),
    st.integers(1, 100),
)
def test_shrink_keeps_the_situation_of_any_plan(
    axes: dict[str, int], rules: dict[str, tuple[str, ...]], sizes: dict[str, int], batch: int
) -> None:
    plan = make_plan(axes, rules, batch=batch, **sizes)
    small = shrink(plan)
    before, after = dict(plan.model.sizes), dict(small.model.sizes)
    for dim, named in rules.items():
        ways = int(np.prod([axes.get(a, 1) for a in named]))
        if dim in before:
            assert (before[dim] % ways == 0) == (after[dim] % ways == 0)
    assert small.workload.batch <= max(64, batch)
    assert shrink(small).sharding == small.sharding


def test_shrink_refuses_more_ranks_than_it_can_run() -> None:
    with pytest.raises(PlanError, match="65"):
        shrink(make_plan({"tensor": 65}, {}))


def test_verify_plan_runs_the_small_plan() -> None:
    seen: list[PlanSpec] = []

    def compiled(plan: PlanSpec) -> Phases:
        seen.append(plan)
        return tensor_parallel()

    plan = make_plan({"tensor": 2}, {"heads": ("tensor",)})
    verdict = verify_plan(plan, compiled, lambda _: plain())
    assert verdict.ok, verdict
    assert seen == [shrink(plan)]
