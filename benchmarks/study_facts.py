"""Claims of arXiv 2603.05692 about memory, shapes, and how often devices communicate."""

from __future__ import annotations

from math import log2

from benchmarks.claim import Claims, Value
from benchmarks.study_plans import ALL, LONG, SHORT, plans, runs, variant
from plandsl.backends.cost.machine.links import Fabric, all_reduce, seconds
from plandsl.driver import CompiledPlan
from plandsl.ir.compute import Attention

FACTS = Claims()
MLPERF, LONGALPACA = LONG
MODEL_SIZES = ("hidden", "ffn", "heads", "head_dim", "kv_heads")


# ---- memory


def _room(name: str) -> tuple[float, float]:
    """GB of weights and GB of free memory beside them, on the average GPU."""
    stages = plans("capacity")[name].estimate().stages
    weights = sum(s.weights for s in stages) / len(stages) / 1e9
    return weights, stages[0].capacity / 1e9 - weights


def _most(name: str) -> int:
    """The largest batch that fits, as a power of two."""
    return 1 << int(log2(plans("capacity")[name].estimate().max_batch))


def _holds(name: str, batch: int) -> bool:
    return plans("capacity")[name].estimate().max_batch >= batch


@FACTS.add("C1", "405B in fp8 fits one MI325X", False)
def _one_gpu() -> Value:
    return plans("capacity")["one_gpu_fp8"].estimate().fits


@FACTS.add("C2", "GB free for KV on four MI325X, 405B fp8, 2 x TP2", 214, rel=0.01)
def _two_pairs() -> Value:
    return 4 * _room("tp2_x2")[1]


@FACTS.add("C3", "the same with TP4", 619, abs=1)
def _four() -> Value:
    return 4 * _room("tp4")[1]


@FACTS.add("C4", "the one over the other", 2.89, rel=0.01)
def _four_over_pairs() -> Value:
    return _room("tp4")[1] / _room("tp2_x2")[1]


@FACTS.add("C10", "GB of weights, of room for KV per GPU, PP2", (202.5, 53.5), rel=0.01)
def _room_pp2() -> Value:
    return _room("pp2")


@FACTS.add("C11", "the same, PP4", (101.25, 154.75), rel=0.01)
def _room_pp4() -> Value:
    return _room("pp4")


@FACTS.add("C12", "room for KV per GPU, PP4 / PP2", 2.89, rel=0.01)
def _room_ratio() -> Value:
    return _room("pp4")[1] / _room("pp2")[1]


@FACTS.add("C17", "GB of weights, of room for KV, 405B fp4 on one MI355X", (202.5, 85.0), abs=1)
def _one_mi355x() -> Value:
    return _room("one_gpu")


@FACTS.add("C19", "largest batch of 405B MLPerf, one MI355X (power of two)", 32)
def _most_alone() -> Value:
    return _most("one_gpu")


@FACTS.add("C20", "the same, PP4", 256)
def _most_pp4() -> Value:
    return _most("pp4_fp4")


@FACTS.add("C21", "the same, PP8", 512)
def _most_pp8() -> Value:
    return _most("pp8_fp4")


@FACTS.add("C22", "batch 256 of 70B LongAlpaca fits one MI325X, PP2", (False, True))
def _batch_256() -> Value:
    return _holds("one_gpu_70b", 256), _holds("pp2_70b", 256)


@FACTS.add("C23", "batch 256 of 405B MLPerf fits one MI355X, PP2 (against C19)", (False, True), gated=False)
def _batch_256_405b() -> Value:
    return _holds("one_gpu", 256), _holds("pp2_fp4", 256)


@FACTS.add("C24", "batch 1024 of 70B LongAlpaca fits PP8")
def _batch_1024() -> Value:
    return _holds("pp8_70b", 1024)


@FACTS.add("C25", "largest batch of 405B MLPerf, PP8 / one GPU", 16)
def _most_ratio() -> Value:
    return _most("pp8_fp4") / _most("one_gpu")


# ---- shapes


def _gemms(plan: CompiledPlan, phase: str) -> dict[str, dict[str, int]]:
    return {o.name: dict(o.shape) for o in getattr(plan.estimate(), phase).ops if o.op == "gemm"}


@FACTS.add("C6", "query heads per GPU, 70B TP4", 16)
def _heads() -> Value:
    plan = LONGALPACA.plan("tp = 4")
    attention = next(op for op in plan.prefill.program.region("block").ops if isinstance(op, Attention))
    return float(plan.cost.main.prefill.extents.local(attention.q.type.dim("heads")))


@FACTS.add("C7", "TP4 splits outputs of QKV and FC-1, inputs of O and FC-2")
def _shards() -> Value:
    four, whole = (_gemms(LONGALPACA.plan(d), "prefill") for d in ("tp = 4", "tp = 1"))

    def split(name: str, by: str, kept: str) -> bool:
        return whole[name][by] == 4 * four[name][by] and whole[name][kept] == four[name][kept]

    return all(split(n, "n", "k") for n in ("qkv", "gate_up")) and all(split(n, "k", "n") for n in ("o", "down"))


@FACTS.add("C8", "tokens of a GEMM, batch 256 of 9092: prefill, decode", (256 * 9092, 256))
def _gemm_tokens() -> Value:
    plan = plans("latency_70b")["tp8_long"]
    prefill, decode = ({g["m"] for n, g in _gemms(plan, p).items() if n != "head"} for p in ("prefill", "decode"))
    (first,), (then,) = prefill, decode
    return first, then


@FACTS.add("C9", "first and last layer of each stage, 70B PP4", (0, 20, 20, 40, 40, 60, 60, 80))
def _layers() -> Value:
    return tuple(edge for span in LONGALPACA.plan("pp = 4").estimate().layers for edge in span)


@FACTS.add("C14", "405B TP2 PP2: blocks of each stage; share of a kernel per GPU", (63, 63, 0.5))
def _hybrid() -> Value:
    plan, whole = MLPERF.plan("tp = 2, pp = 2"), MLPERF.plan("tp = 1")
    down, full = (next(o for o in p.estimate().prefill.ops if o.name == "down") for p in (plan, whole))
    return *(b - a for a, b in plan.estimate().layers), down.flops / full.flops


@FACTS.add(
    "C16",
    "layers, hidden, ffn, heads, head_dim, kv_heads of 70B, of 405B",
    (80, 8192, 28672, 64, 128, 8, 126, 16384, 53248, 128, 128, 8),
)
def _sizes() -> Value:
    models = [s.plan("tp = 1").spec.model for s in (LONGALPACA, MLPERF)]
    return tuple(n for m in models for n in (m.layers, *map(m.size, MODEL_SIZES)))


@FACTS.add("C18", "prompt, answer: LongAlpaca; short 70B, 405B; MLPerf", (9092, 208, 106, 26, 89, 20, 9428, 684))
def _workloads() -> Value:
    loads = [s.plan("tp = 1").spec.workload for s in (LONGALPACA, SHORT[1], SHORT[0], MLPERF)]
    return tuple(n for w in loads for n in (w.input, w.output))


# ---- communication


@FACTS.add("C5", "steps of a ring all_reduce, TP4, TP2", (6, 2))
def _ring_steps() -> Value:
    # with no time on the wire, a latency of one second counts the steps
    four, two = (all_reduce(Fabric("ring", 1e9, 1.0), n)[0].fixed for n in (4, 2))
    return float(four), float(two)


@FACTS.add("C13", "405B: sends of PP8; all_reduces of TP8 in blocks, embedding", (7, 252, 1))
def _operations() -> Value:
    sends, tp8 = sum(runs(MLPERF.plan("pp = 8"), "send")), MLPERF.plan("tp = 8")
    embedding = sum(op.keyword == "all_reduce" for op in tp8.prefill.program.region("embedding").ops)
    return sends, runs(tp8, "all_reduce")[0] - embedding, embedding


@FACTS.add("C15", "a hop carries the same bytes in PP2, PP4 and PP8")
def _payloads() -> Value:
    schedules = [MLPERF.plan(f"pp = {n}").cost.main.prefill for n in (2, 4, 8)]
    hops = [s.schedule.program.region("send").ops for s in schedules]
    return (
        len({tuple(s.extents.bytes(op.operands[0].type) for op in ops) for s, ops in zip(schedules, hops, strict=True)})
        == 1
    )


@FACTS.add("C46", "transmissions between stages of PP8, every load", (7, 7, 7, 7))
def _hops() -> Value:
    return tuple(sum(runs(s.plan("pp = 8"), "send")) for s in ALL)


@FACTS.add("C76", "ring all_reduce of 1 GB over 8 GPUs, 25 / 150 GB/s (6 to 8)", 6, rel=0.01)
def _across_nodes() -> Value:
    inside, across = (all_reduce(Fabric("ring", b, 5e-6), 8) for b in (150e9, 25e9))
    return float(seconds(across, 1e9) / seconds(inside, 1e9))


@FACTS.add("C56", "throughput against its formula, TP8, DP8, PP8", (1, 1, 1))
def _throughput_formula() -> Value:
    """``in_flight * batch * output * replicas / (prefill period + output * decode period)``, ours over the formula."""
    found = []
    for degrees in ("tp = 8", "dp = 8", "pp = 8"):
        plan, m = LONGALPACA.plan(degrees), LONGALPACA.metrics(degrees, 64)
        tokens = plan.spec.sharding.replicas * plan.decode.in_flight * 64 * 208
        found.append(float(m.throughput * (m.prefill.period + 208 * m.decode.period) / tokens))
    return tuple(found)


@FACTS.add("C75", "405B fp8 TP8 on MI325X: FFN and all_reduce over half of both phases")
def _heavy() -> Value:
    plans = [_fp8(batch) for batch in (1, 32, 64)]
    return all(_heavy_share(p, phase) > 0.5 for p in plans for phase in ("prefill", "decode"))


def _fp8(batch: int) -> CompiledPlan:
    return variant("tp = 8", "times_70b", f"model = fp8_405b, workload = longalpaca with {{ batch = {batch} }}")


def _heavy_share(plan: CompiledPlan, phase: str) -> float:
    ops = getattr(plan.estimate(), phase).ops
    heavy = [o.time_s for o in ops if o.op == "all_reduce" or o.name in ("gate_up", "down")]
    return float(sum(heavy) / sum(o.time_s for o in ops))
