"""Claims of related papers, checked with the same kind of plans.

S: arXiv 2509.16495, shift parallelism: an engine holds a model sharded as (sp, tp) and as tp = sp * tp, and takes the
second for steps of few tokens. Here its two shardings are compiled separately.
T: arXiv 2507.14392, how often and how much the ranks of an engine communicate. U: the trade-off of batching.
"""

from __future__ import annotations

from functools import cache

import numpy as np

from benchmarks.claim import Claims, Value
from benchmarks.study_plans import LONG, runs
from plandsl.backends.cost.machine.links import Fabric, all_reduce
from plandsl.driver import CompiledPlan, compile_text
from plandsl.ir.collectives import AllGather, Send
from plandsl.ir.compute import Attention
from plandsl.ir.types import Dim

OTHERS = Claims()
TEXT = """
workload chat { input = 128, output = 128, batch = 1 }
model fp8_70b = llama_3_1_70b with { weights = fp8, stored { embedding = fp8, head = fp8 }, kv_cache = fp8 }
model six_heads = fp8_70b with { heads = 48, kv_heads = 6 }
"""


@cache
def _plan(fields: str, degrees: str, base: str = "") -> CompiledPlan:
    load = base or "workload = chat"
    (plan,) = compile_text(f"{TEXT}plan p {{ {fields}, sharding {{ {degrees} }}, {load} }}")
    return plan


def _shift(degrees: str, batch: int = 1) -> CompiledPlan:
    return _plan("model = fp8_70b, node = h200_8", degrees, f"workload = chat with {{ batch = {batch} }}")


def _small(degrees: str, more: str = "") -> CompiledPlan:
    return _plan("model = llama_3_1_8b, node = h100_8" + more, degrees)


# ---- shift parallelism


@OTHERS.add("S32", "weights of the second sharding over the first's, SP8 (and norms)", 0.125, rel=1e-3)
def _overhead() -> Value:
    second, first = (_shift(d).estimate().memory.weights for d in ("tp = 8", "sp = 8"))
    return second / first


def _block_index(dim: Dim, place: dict[str, int], sizes: dict[str, int]) -> int:
    """The block of ``dim`` that a rank holds: the rank's places on the axes are the digits, major first."""
    index = 0
    for axis in dim.axes:
        index = index * sizes[axis] + place[axis]
    return index


@OTHERS.add("S33", "ranks of SP3 TP2 in the order of their heads", (0, 2, 4, 1, 3, 5))
def _rank_order() -> Value:
    plan = _plan("model = six_heads, node = h200_8", "sp = 3, tp = 2")
    sizes = {a.name: a.size for a in plan.spec.sharding.axes}
    block = plan.decode.program.region("block")
    heads = next(op for op in block.ops if isinstance(op, Attention)).q.type.dim("heads")
    ranks = [dict(zip(sizes, at, strict=True)) for at in np.ndindex(*sizes.values())]
    return tuple(float(r) for r in np.argsort([_block_index(heads, at, sizes) for at in ranks]))


@OTHERS.add("S34", "TP8 decodes few tokens faster, SP8 many, with one threshold")
def _threshold() -> Value:
    """One threshold separates the two shardings, as `shift` assumes."""
    batch = 2 ** np.arange(14)
    base, shifted = (_shift(d).cost.evaluate(batch=batch).tpot for d in ("sp = 8", "tp = 8"))
    second = np.asarray(shifted < base)
    return bool(second[0] and not second[-1] and np.all(np.diff(second.astype(int)) <= 0))


@OTHERS.add("S35", "tokens of the fullest rank, batch 9 over SP8", 2)
def _padding() -> Value:
    qkv = next(o for o in _shift("sp = 8", 9).estimate().decode.ops if o.name == "qkv")
    return dict(qkv.shape)["m"]


# ---- communication of Llama-3.1-8B on H100, prompts and answers of 128 tokens


@OTHERS.add("T1", "8B: all_reduces of a pass with TP2, TP4", (65, 65))
def _reduces() -> Value:
    return tuple(runs(_small(d), "all_reduce", "decode")[0] for d in ("tp = 2", "tp = 4"))


@OTHERS.add("T2", "8B: elements of an all_reduce, prefill of 128 tokens, decode", (128 * 4096, 4096))
def _payload() -> Value:
    estimate = _small("tp = 4").estimate()
    sizes = [{o.bytes / 2 for o in p.ops if o.op == "all_reduce"} for p in (estimate.prefill, estimate.decode)]
    (prefill,), (decode,) = sizes
    return prefill, decode


@OTHERS.add("T3", "8B TP4: gathers of logits in a step, share of the vocabulary per rank", (1, 0.25))
def _gathers() -> Value:
    plan = _small("tp = 4")
    gather = next(op for op in plan.decode.program.region("head").ops if isinstance(op, AllGather))
    vocabulary = plan.cost.main.decode.extents.local(gather.x.type.dim("vocab")) / plan.spec.model.size("vocab")
    return runs(plan, "all_gather", "decode")[0], float(vocabulary)


@OTHERS.add("T4", "8B PP4: tensors sent in a pass, joined and apart", (3, 6))
def _sends() -> Value:
    found = []
    for tensors in (1, 2):
        plan = _small("pp = 4", f", hop_tensors = {tensors}")
        send = plan.prefill.program.region("send").ops[0]
        assert isinstance(send, Send)
        found.append(send.tensors * sum(runs(plan, "send")))
    return tuple(found)


@OTHERS.add("T5", "8B TP2 PP4: all_reduces of each stage", (17, 16, 16, 16))
def _stage_reduces() -> Value:
    return tuple(runs(_small("tp = 2, pp = 4"), "all_reduce"))


@OTHERS.add("T6", "wire bytes of a ring all_reduce per byte and rank, 2, 4, 8 ranks", (1, 1.5, 1.75))
def _wire() -> Value:
    # at one byte per second, seconds per byte of payload are bytes on the wire
    return tuple(float(all_reduce(Fabric("ring", 1.0, 0.0), n)[0].per_byte) for n in (2, 4, 8))


@OTHERS.add("T7", "8B TP4: all_reduces of prefill, of decoding 128 tokens", (65, 8255))
def _calls() -> Value:
    plan = _small("tp = 4")
    steps = plan.spec.workload.output - 1
    return runs(plan, "all_reduce")[0], steps * runs(plan, "all_reduce", "decode")[0]


@OTHERS.add("T8", "8B: a request takes less time with TP4 than with TP2")
def _faster_request() -> Value:
    four, two = (_small(d).estimate().latency_s for d in ("tp = 4", "tp = 2"))
    return four < two


@OTHERS.add("T10", "8B on four: TP is fastest; PP moves the fewest bytes and is slowest")
def _trade() -> Value:
    plans = [_small(d) for d in ("tp = 4", "tp = 2, pp = 2", "pp = 4")]
    times = [p.estimate().latency_s for p in plans]
    moved = [_moved(p) for p in plans]
    return times == sorted(times) and moved == sorted(moved, reverse=True)


def _moved(plan: CompiledPlan) -> float:
    """Bytes on all wires for one token of one request, from stage to stage and by rings within a stage."""
    program, extents = plan.prefill.program, plan.cost.main.prefill.extents
    n = plan.spec.sharding.axis("tensor")
    # what the n ranks of a stage send in all, for each byte of one rank's operand
    wires = {"all_reduce": 2 * (n - 1), "all_gather": n * (n - 1), "send": n}
    total = 0.0
    for parts in plan.prefill.stages:
        for part in parts:
            ops = [op for op in program.region(part.region).ops if op.keyword in wires]
            moved = sum(wires[op.keyword] * float(extents.bytes(op.operands[0].type)) for op in ops)
            total += part.repeats * moved
    return total


@OTHERS.add("U1", "a larger batch has more throughput and a longer latency per request")
def _batching() -> Value:
    sweeps = [s.metrics(d) for s in LONG for d in ("tp = 8", "dp = 8", "pp = 8")]
    return all(bool(np.all(np.diff(m.throughput) > 0) and np.all(np.diff(m.latency) > 0)) for m in sweeps)
