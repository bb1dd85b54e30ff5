"""Claims of arXiv 2603.05692 about how times and throughput change with parallelism, batch and links.

A claim about "70B and 405B" is checked for both models with long prompts, over batches of 1 to 1024, and with short
prompts too unless the claim is about long ones.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from benchmarks.claim import Claims, Value
from benchmarks.study_plans import ALL, LONG, SHORT, Setup, op_share, plans, with_link
from benchmarks.study_ratios import known
from plandsl.backends.cost import Metrics

TRENDS = Claims()
LADDER = ("tp = 8", "tp = 4, pp = 2", "tp = 2, pp = 4", "pp = 8")
LINKS = tuple(rate * 1e9 for rate in (256, 320, 384, 448, 512, 608))
"""Bytes/s of all links of a GPU in one direction."""


def _all(condition: object) -> bool:
    return bool(np.all(condition))  # type: ignore[call-overload]  # a comparison of Numbers: bool or array


def _faster(a: Metrics, b: Metrics) -> bool:
    """Whether a is faster than b in both phases, at every batch."""
    return _all(a.ttft < b.ttft) and _all(a.tpot < b.tpot)


# ---- latency


@TRENDS.add("C37", "TTFT, TPOT are K / TP + constant: TP2 from TP4 and TP8", (1, 1), rel=0.01)
def _law() -> Value:
    found = []
    for field in ("ttft", "tpot"):
        two, four, eight = (float(getattr(known()[f"tp{t}_b256"], field)) for t in (2, 4, 8))
        found.append(two / eight / (1 + 3 * (four / eight - 1)))
    return tuple(found)


@TRENDS.add("C40", "TTFT of TP2 / one GPU, batch 32 (1.15 to 1.22 expected)", 1, bound="above")
def _tp2_loses() -> Value:
    return float(known()["tp2_b32"].ttft / known()["one_gpu_b32"].ttft)


@TRENDS.add("C41", "spread of all_reduce's share of TTFT over TP2, TP4, TP8", 0.07, bound="below")
def _even_share() -> Value:
    shares = [op_share(plans("latency_405b")[f"tp{t}_b32"], "prefill", "all_reduce") for t in (2, 4, 8)]
    return max(shares) - min(shares)


@TRENDS.add("C43", "drop of all_reduce's share of TTFT, 256 to 512 GB/s (against C42)", 0.077, gated=False)
def _share_drop() -> Value:
    slow, fast = (plans("latency_405b")[f"tp8_b32_{rate}"] for rate in (256, 512))
    return op_share(slow, "prefill", "all_reduce") - op_share(fast, "prefill", "all_reduce")


@TRENDS.add("C44", "TTFT, and its all_reduces, fall from 256 to 608 GB/s of links")
def _faster_links() -> Value:
    plan = plans("latency_405b")["tp8_b32"]
    times = [with_link(plan, rate).evaluate().prefill for rate in LINKS]
    whole = [float(t.through) for t in times]
    exposed = [float(t.stages[0].exposed) for t in times]
    return all(a > b for series in (whole, exposed) for a, b in pairwise(series))


@TRENDS.add("C45", "share of hops in TTFT of PP8, batch 512, 32 GB/s links", 0.005, bound="below", gated=False)
def _hop_share() -> Value:
    times = with_link(plans("throughput_405b")["pp8_b512"], 7 * 32e9).evaluate().prefill
    return float(7 * times.hop / times.through)


def _pipeline_excess(setups: tuple[Setup, ...]) -> float:
    """The largest relative difference between the time of a batch through a pipeline and on one GPU, in any phase."""
    worst = 0.0
    for setup in setups:
        alone = setup.metrics("tp = 1")
        for stages in (2, 4, 8):
            m = setup.metrics(f"pp = {stages}")
            for a, b in ((m.prefill, alone.prefill), (m.decode, alone.decode)):
                worst = max(worst, float(np.max(np.abs(a.through / b.through - 1))))
    return worst


@TRENDS.add("C47", "TTFT and TPOT of PP2, PP4, PP8 against one GPU, long prompts", 0.02, bound="below")
def _alike() -> Value:
    return _pipeline_excess(LONG)


@TRENDS.add("C47", "the same, short prompts (all seven hops add up)", 0.02, bound="below", gated=False)
def _alike_short() -> Value:
    return _pipeline_excess(SHORT)


@TRENDS.add("C48", "TP8 has the lowest TTFT and TPOT at every batch")
def _tp8_first() -> Value:
    others = ("tp = 1", "tp = 2", "tp = 4", "pp = 8", "tp = 4, pp = 2", "tp = 2, pp = 4")
    return all(_faster(s.metrics("tp = 8"), s.metrics(d)) for s in ALL for d in others)


@TRENDS.add("C49", "TP4 and TP4 PP2 beat PP, lower TP with PP, and one GPU")
def _tp4_second() -> Value:
    others = ("tp = 1", "pp = 2", "pp = 4", "pp = 8", "tp = 2, pp = 2", "tp = 2, pp = 4")
    firsts = ("tp = 4", "tp = 4, pp = 2")
    return all(_faster(s.metrics(a), s.metrics(b)) for s in ALL for a in firsts for b in others)


@TRENDS.add("C50", "TP4 is faster than TP4 PP2, by less than 2 % and as much as a hop")
def _hop_costs() -> Value:
    found = []
    for setup in ALL:
        four, hybrid = setup.metrics("tp = 4"), setup.metrics("tp = 4, pp = 2")
        gap = hybrid.prefill.through - four.prefill.through
        found += [_faster(four, hybrid), _all(hybrid.ttft / four.ttft < 1.02), np.allclose(gap, hybrid.prefill.hop)]
    return all(found)


@TRENDS.add("C51", "PP alone shortens neither TTFT nor TPOT")
def _pipelines_alone() -> Value:
    found = []
    for setup in ALL:
        alone = setup.metrics("tp = 1")
        for stages in (2, 4, 8):
            m = setup.metrics(f"pp = {stages}")
            found += [_all(m.ttft >= alone.ttft), _all(m.tpot >= alone.tpot)]
    return all(found)


@TRENDS.add("C52", "TP2 / TP8 at batch 256: over 3.5 in TTFT, less in TPOT")
def _scaling() -> Value:
    found = []
    for setup in LONG:
        two, eight = setup.metrics("tp = 2", 256), setup.metrics("tp = 8", 256)
        found += [3.5 < two.ttft / eight.ttft < 4, two.tpot / eight.tpot < two.ttft / eight.ttft]
    return all(found)


@TRENDS.add("C53", "a smaller batch has shorter TTFT and TPOT")
def _batches() -> Value:
    sweeps = [s.metrics(d) for s in ALL for d in ("tp = 1", *LADDER)]
    return all(_all(np.diff(m.ttft) > 0) and _all(np.diff(m.tpot) > 0) for m in sweeps)


@TRENDS.add("C54", "share of KV reads in TPOT, 70B TP8 batch 256", 0.42, rel=0.05, gated=False)
def _kv_share() -> Value:
    return op_share(plans("latency_70b")["tp8_long"], "decode", "attention")


@TRENDS.add("C55", "405B is slower than 70B with TP8, at every batch and load")
def _bigger_is_slower() -> Value:
    return all(_faster(small.metrics("tp = 8"), big.metrics("tp = 8")) for big, small in (LONG, SHORT))


@TRENDS.add("C55", "the same on one GPU (not in TPOT from 256: 4-bit against 8-bit KV)", gated=False)
def _bigger_is_slower_alone() -> Value:
    return all(_faster(small.metrics("tp = 1"), big.metrics("tp = 1")) for big, small in (LONG, SHORT))


# ---- throughput


@TRENDS.add("C64", "405B MLPerf: output * decode / prefill, DP8 of batch 32", 0.549, rel=0.05)
def _decode_part() -> Value:
    m = known()["dp8_b32"]
    return float(684 * m.tpot / m.ttft)


@TRENDS.add("C65", "TP and hybrids have less throughput than PP at every batch")
def _pipelines_first() -> Value:
    return all(_all(s.metrics("pp = 8").throughput > s.metrics(d).throughput) for s in ALL for d in LADDER[:3])


@TRENDS.add("C66", "PP8 has more throughput than TP8 at every batch in flight")
def _pipeline_over_tensor() -> Value:
    return all(_all(s.metrics("pp = 8").throughput > s.metrics("tp = 8").throughput) for s in ALL)


@TRENDS.add("C67", "PP8 passes DP8 only with batches that one GPU cannot hold")
def _pipeline_over_replicas() -> Value:
    """PP8 is not above DP8 at equal batch; it is above with the largest powers of two that fit (C19, C21; C22, C24)."""
    found = []
    for setup in ALL:
        found.append(_all(setup.metrics("pp = 8").throughput <= setup.metrics("dp = 8").throughput))
    for setup, most, alone in ((LONG[0], 512, 32), (LONG[1], 1024, 64)):
        found.append(setup.metrics("pp = 8", most).throughput > setup.metrics("dp = 8", alone).throughput)
    return all(map(bool, found))


@TRENDS.add("C68", "TP8 shortens TTFT and TPOT by less than 8, so throughput falls")
def _less_than_proportional() -> Value:
    found = []
    for setup in ALL:
        one, eight, replicas = (setup.metrics(d) for d in ("tp = 1", "tp = 8", "dp = 8"))
        found += [_all(one.ttft / eight.ttft < 8), _all(one.tpot / eight.tpot < 8)]
        found.append(_all(eight.throughput < replicas.throughput))
    return all(found)


@TRENDS.add("C69", "throughput of PP8 saturates: 512 gains under 3 % over 256")
def _saturation() -> Value:
    found = []
    for setup in ALL:
        m = np.asarray(setup.metrics("pp = 8", np.array([32, 64, 256, 512])).throughput)
        gain = m[1:] / m[:-1]
        found += [_all(gain > 1), gain[2] < gain[1], gain[2] < 1.03]
    return all(map(bool, found))


@TRENDS.add("C70", "PP8 of 512 over DP8 of 1 gains twice as much with short prompts")
def _short_gain() -> Value:
    m = known()
    short = m["short_pp8_b512"].throughput / m["short_dp8_b1"].throughput
    return bool(short > 2 * m["pp8_b512"].throughput / m["dp8_b1"].throughput)


@TRENDS.add("C71", "long prompts: prefill outlasts all of decode, one GPU, batch 32")
def _prefill_dominates() -> Value:
    found = []
    for setup in LONG:
        m, output = setup.metrics("tp = 1", 32), setup.plan("tp = 1").spec.workload.output
        found.append(bool(output * m.tpot < m.ttft))
    return all(found)


@TRENDS.add("C72", "hybrids: throughput grows with PP, latency is that of their TP")
def _hybrids() -> Value:
    """Throughput rises along `LADDER` for every load; ``through`` of each phase is within 2 % of TP alone (as C47)."""
    found = []
    for setup in ALL:
        rungs = [setup.metrics(d).throughput for d in LADDER]
        found += [_all(a < b) for a, b in pairwise(rungs)]
    for setup in LONG:
        for tp, degrees in ((4, LADDER[1]), (2, LADDER[2])):
            own, alone = setup.metrics(degrees), setup.metrics(f"tp = {tp}")
            found += [_all(own.prefill.through < 1.02 * alone.prefill.through)]
            found += [_all(own.decode.through < 1.02 * alone.decode.through)]
    return all(found)
