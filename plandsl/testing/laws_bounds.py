"""Laws about what hardware bounds: bytes through a memory, bytes over a link, and one GPU, which has no peer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from attrs import evolve

from plandsl.answers.phases import OpTime
from plandsl.backends.cost.answers.flows import flows
from plandsl.backends.cost.answers.lines import PhaseLines
from plandsl.backends.cost.answers.ranks import ranks_per_node
from plandsl.backends.cost.time.phase import ProgramRun
from plandsl.driver import CompiledPlan
from plandsl.ir.base import LINK
from plandsl.ir.collectives import HOP_WORDS, Ring
from plandsl.ir.compute import Attention, Gemm
from plandsl.ir.experts import GroupedGemm
from plandsl.ir.extents import Extents
from plandsl.ir.latent import LatentAttention
from plandsl.ir.names import axes_of
from plandsl.ir.nodes import groups
from plandsl.ir.program import DECODE, Region
from plandsl.ir.types import Value
from plandsl.spec.formats import item_bytes
from plandsl.spec.hardware import GpuSpec, LinkSpec, NodeSpec
from plandsl.spec.model import ADAPTERS
from plandsl.spec.plan import PlanSpec, ShardingSpec
from plandsl.testing.compare import SLACK
from plandsl.testing.inapplicable import DoesNotApply
from plandsl.values import sum_up


def _runs(plan: CompiledPlan) -> Iterator[ProgramRun]:
    """Every program that runs in a prefill or in a decode step."""
    metrics = plan.cost.evaluate()
    for times in (metrics.prefill,) if plan.spec.workload.encodes else (metrics.prefill, metrics.decode):
        yield from times.ran


def _nodes(spec: PlanSpec) -> tuple[NodeSpec, ...]:
    return (spec.node,) if spec.cluster is None else tuple(node for _, node in spec.cluster.groups)


def _gpus(spec: PlanSpec) -> Iterator[GpuSpec]:
    return (gpu for node in _nodes(spec) for _, gpu in node.groups)


# ---- memory


def steps_read_weights_and_cache(plan: CompiledPlan) -> None:
    """No stage is done before its GPUs have read the weights of its products, and in a decode step the KV cache.

    Each weight is read once, at the nominal bandwidth of the memory; of the experts of a layer, one. Of the cache a
    step reads the keys and values that were there before it: those that a window lets it see, and none where an index
    or attention chunks choose. Other bytes may come from a cache of the chip. Of unlike GPUs the fastest memory counts.
    """
    for run in _runs(plan):
        fastest = max(gpu.bandwidth for gpu in _gpus(run.plan))
        program = run.phase.schedule.program
        extents = Extents(program, {"queries": 1, **run.bind})
        for stage, parts in enumerate(program.stages):
            read = sum_up(part.repeats * _read_bytes(program.region(part.region), extents, run) for part in parts)
            taken = float(run.times.stages[stage].span) / float(run.steps)
            told = f"{program.phase}, stage {stage}: {read:.6g} bytes at {fastest:.4g} bytes/s in {taken:.6g} s"
            assert read <= fastest * taken * SLACK, told


def _read_bytes(region: Region, extents: Extents, run: ProgramRun) -> float:
    """Bytes that a rank reads at least in one pass of a region: weights of products, and what was cached before."""
    found: dict[str, float] = {}
    decodes = run.phase.schedule.program.phase == DECODE
    for op in region.ops:
        if isinstance(op, Gemm) and not any(w.type.names[0] == ADAPTERS for w in op.weights):
            if extents.product(d for d in op.x.type.dims if d.name in ("batch", "position")) > 0:
                found |= {w.name: _weight_bytes(op, w, extents) for w in op.weights}
        elif decodes and isinstance(op, Attention | LatentAttention) and op.among is None and op.chunk is None:
            kept = (op.k, op.v) if isinstance(op, Attention) else (op.k, op.k_rope)
            packed = (x for x in kept if isinstance(op, Attention) or len(x.type.dims) == 3)
            found |= {x.name: _cached_bytes(x, op.window, extents, run) for x in packed}
    return sum_up(found.values())


def _weight_bytes(op: Gemm, weight: Value, extents: Extents) -> float:
    whole = float(extents.bytes(weight.type))
    return whole / max(float(extents.local(weight.type.dims[0])), 1.0) if isinstance(op, GroupedGemm) else whole


def _cached_bytes(kept: Value, window: int, extents: Extents, run: ProgramRun) -> float:
    """Bytes of the keys or values of a rank's requests that were in the cache before the first of the run's steps."""
    before = max(float(run.bind["context"]), 0.0)
    if window:
        before = min(before, window - 1)
    rest = extents.product(d for d in kept.type.dims if d.name not in ("batch", "context"))
    keys = before / float(extents.ways(kept.type.on("context")))
    return float(extents.local(kept.type.dim("batch")) * rest) * item_bytes(kept.type.dtype) * keys


# ---- links


def no_link_beats_its_bandwidth(plan: CompiledPlan) -> None:
    """No GPU sends faster than the nominal bandwidth of its links, and none over a network faster than its port.

    In a node a GPU has one port, on a full mesh a link to each peer, on a ring or a torus two for each dimension; two
    GPUs may have a bridge. Between nodes, what the other nodes need has to pass the k ports of the k ranks of a node:
    (n - k) / n of the payload of an all_gather or reduce_scatter between n ranks, at least as much of an all_reduce,
    and (n - k) / n of the payload of each rank in an all_to_all. Times that a table of measurements answers are what
    was measured.
    """
    asked = False
    for run in _runs(plan):
        lines = PhaseLines.of(run)
        for stage in range(len(run.times.stages)):
            for line in lines.stage_ops(stage, LINK):
                alone = run.phase.schedule.program.mesh.ways(axes_of(line.axis)) == 1
                if line.count and line.wire > 0 and not (alone or line.fused or line.algorithm == "measured"):
                    asked = True
                    _check_link(run, line, plan.spec.model.routed)
    if not asked:
        raise DoesNotApply("its ranks send nothing to one another")


def _check_link(run: ProgramRun, line: OpTime, routed: bool) -> None:
    seconds = line.time_s / line.count
    told = f"{line.op} {line.name} of {run.phase.schedule.program.phase} over {line.axis}, by {line.algorithm}"
    if line.nodes == 1:
        n = run.phase.schedule.program.mesh.ways(axes_of(line.axis))
        port = max(_port(node.link, 2 if line.op in POINT_TO_POINT else n) for node in _nodes(run.plan))
        assert line.wire <= port * seconds * SLACK, f"{told}: {line.wire:.6g} bytes in {seconds:.6g} s over {port:.6g}"
        return
    cluster = run.plan.cluster
    assert cluster is not None, "only a cluster has several nodes"
    far, port = _bytes_between(run, line, routed), _port(cluster.network, cluster.count)
    assert far <= port * seconds * SLACK, f"{told}: {far:.6g} bytes in {seconds:.6g} s over {port:.6g}"


POINT_TO_POINT = (*HOP_WORDS, Ring.facts.word)
"""Messages from one rank to another one."""

ROUND = ("ring", "torus")
"""Topologies in which a GPU has two neighbours along each dimension."""


def _port(link: LinkSpec, n: int) -> float:
    """Nominal bytes/s that one of ``n`` ranks sends over all links of its node."""
    ways = 2 * max(1, len(link.dims)) if link.topology in ROUND else max(n - 1, 1) if link.topology == "mesh" else 1
    return max(link.bandwidth * ways, link.bridge if n == 2 else 0.0)


def _bytes_between(run: ProgramRun, line: OpTime, routed: bool) -> float:
    """Bytes that pass the port of the busiest rank at least, in one call between nodes."""
    if line.op in POINT_TO_POINT:
        return line.bytes
    if line.op == "all_to_all" and routed:  # ranks may hold some experts of a token themselves
        return 0.0
    per_node, least = ranks_per_node(run.plan), 0.0
    for group in groups(run.phase.schedule.program.mesh, line.axis):
        n, k = len(group), max(Counter(rank // per_node for rank in group).values())
        ports = 1 if line.op == "all_to_all" else k
        least = max(least, (n - k) / n * line.bytes / ports)
    return least


# ---- one GPU


def one_gpu_sends_nothing(plan: CompiledPlan) -> None:
    """With all axes of its mesh at size 1 a plan communicates nothing: no call, no byte, no second, no buffer."""
    for pool in plan.pools:
        spec = pool.spec
        changed = evolve(spec, sharding=_alone(spec.sharding), requires=(), micro_batches=1)
        if spec.shift is not None:
            changed = evolve(changed, shift=evolve(spec.shift, tensor=_alone(spec.shift.tensor)))
        if spec.speculate is not None and spec.speculate.sharding is not None:
            changed = evolve(changed, speculate=evolve(spec.speculate, sharding=_alone(spec.speculate.sharding)))
        if spec.tower is not None:
            changed = evolve(changed, tower=_alone(spec.tower))
        made = CompiledPlan(changed, ())
        estimate = made.closed_form()
        sent = [row for row in estimate.communication.rows if row.wire or row.time_s]
        assert not sent, f"one GPU calls {sent[0].op} over {sent[0].axis}: {sent[0].wire} bytes, {sent[0].time_s} s"
        for phase in (estimate.prefill, estimate.decode)[: 1 if spec.workload.encodes else 2]:
            lost = phase.communication_s + phase.overlapped_s
            assert lost == 0, f"one GPU communicates for {lost} s"
        assert all(each.total == 0 for each in flows(made.cost)), "one GPU has peers"
        held = [stage.buffers for stage in estimate.stages]
        assert spec.engine is not None or not any(held), f"one GPU has {held} bytes of buffers for collectives"


def _alone(sharding: ShardingSpec) -> ShardingSpec:
    return evolve(sharding, axes=tuple(axis._replace(size=1) for axis in sharding.axes), cut=None, placed=())
