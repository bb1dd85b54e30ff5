"""The ideal time of a pass, for MFU: the model's own FLOPs at nominal peaks. FLOPs that ranks repeat count once."""

from __future__ import annotations

from collections.abc import Iterable
from math import prod
from typing import NamedTuple, TypeAlias

from attrs import evolve

from plandsl.backends.cost.deployments.server import Server
from plandsl.backends.cost.forms.attention import visible_pairs
from plandsl.backends.cost.num import minimum
from plandsl.backends.cost.time.phase import PhaseTimes
from plandsl.ir.compute import Attention, Gemm
from plandsl.ir.extents import Extents
from plandsl.ir.index import PickKeys
from plandsl.ir.latent import LatentAttention
from plandsl.ir.program import Program
from plandsl.ir.states import Recurrence
from plandsl.ir.types import Number
from plandsl.spec.hardware import GpuSpec
from plandsl.spec.plan import PlanSpec
from plandsl.values import kept, sum_up


class Pass(NamedTuple):
    """A pass of a program through its model, ``weight`` of the passes of a batch."""

    weight: Number
    program: Program
    extents: Extents
    context: Number


def mfu(server: Server, times: PhaseTimes, passes: Iterable[Pass]) -> Number:
    """Model FLOPs utilisation at the rate at which batches pass: the GPU-seconds of a batch at peak FLOP/s, divided by
    the GPU-seconds that the batch takes.
    """
    gpu, sharding = average_gpu(server.plan), server.plan.sharding
    ideal: Number = 0.0
    for p in passes:
        ideal = ideal + p.weight * ideal_seconds(p.program, gpu, p.extents, p.context)
    per_batch = times.period / server.in_flight / times.parts
    return ideal / (per_batch * (sharding.ranks // sharding.replicas))


def ideal_seconds(program: Program, gpu: GpuSpec, extents: Extents, context: Number) -> Number:
    """Seconds that one GPU would take for one pass of the unsharded model at its nominal peaks.

    GEMMs count at the peak of the dtype that they multiply in; attention, scores of an index and recurrences at the
    peak of the dtype of their activations. MFU is
    this time over GPU-seconds (Chowdhery et al. 2022, "PaLM": model FLOPs count once, recomputed FLOPs do not).
    """
    total: Number = 0.0
    for repeats, op in _arithmetic(program):
        match op:
            case Gemm():
                total = total + repeats * _gemm(op, extents) / _peak(gpu, op.compute)
            case PickKeys():
                total = total + repeats * _scores(op, extents, context) / _peak(gpu, op.q.type.dtype)
            case Recurrence():
                total = total + repeats * _recurrence(op, extents) / _peak(gpu, op.v.type.dtype)
            case _:
                total = total + repeats * _attention(op, extents, context) / _peak(gpu, op.q.type.dtype)
    return total


Arithmetic: TypeAlias = Gemm | Attention | LatentAttention | PickKeys | Recurrence
"""The ops whose FLOPs count."""


@kept(256)
def _arithmetic(program: Program) -> tuple[tuple[int, Arithmetic], ...]:
    """Each such op of a program, with the runs of its region in a pass."""
    ops = ((region.repeats, op) for region in program.regions for op in region.ops)
    return tuple((repeats, op) for repeats, op in ops if isinstance(op, Arithmetic))


def _peak(gpu: GpuSpec, dtype: str) -> float:
    peak = gpu.peak(dtype)
    assert peak is not None, f"legality checked that {gpu.name} multiplies in {dtype}"
    return peak


def _gemm(op: Gemm, extents: Extents) -> Number:
    """``2 m n k`` over whole tensors, or over a chunk of rows; experts count once for each choice of a token."""
    total: Number = 0.0
    chunks = prod(d.chunk.of for d in op.x.type.dims if d.chunk)
    for names in op.multiplied:
        flops: Number = 2.0 / chunks
        for name in names:
            flops = flops * extents.sizes[name]
        total = total + flops
    return total


def _attention(op: Attention | LatentAttention, extents: Extents, context: Number) -> Number:
    """``2 (d_qk + d_v)`` for every head and visible pair of query and key."""
    batch, position, heads, d_qk = (extents.sizes[n] for n in op.q.type.names)
    d_v = extents.sizes[op.v.type.names[-1]]
    if isinstance(op, LatentAttention):
        d_qk = d_qk + extents.sizes[op.k_rope.type.names[-1]]
    pairs = visible_pairs(position, context, op.causal, op.window, op.chunk)
    if op.among is not None:
        picks = extents.sizes[op.among.type.names[-1]]
        pairs = minimum(pairs, visible_pairs(position, context, op.causal, picks))
    return 2 * (d_qk + d_v) * heads * batch * pairs


def _scores(op: PickKeys, extents: Extents, context: Number) -> Number:
    """Two FLOPs for every element of a key, for every head and visible pair of query and key."""
    batch, position, heads, width = (extents.sizes[n] for n in op.q.type.names)
    return 2 * heads * width * batch * visible_pairs(position, context, op.causal, op.window, op.chunk)


def _recurrence(op: Recurrence, extents: Extents) -> Number:
    """Two FLOPs of every token to write an element of its state, two to read it, and two more with the delta rule."""
    tokens = extents.sizes["batch"] * extents.sizes["position"]
    state = prod(extents.sizes[n] for n in op.kept_state.type.names[1:])
    return (6 if op.delta else 4) * state * tokens


def average_gpu(plan: PlanSpec) -> GpuSpec:
    """The plan's GPU; for unlike GPUs one with their mean rates."""
    if len(plan.kinds) == 1:
        return plan.node.gpu
    from plandsl.ir.kinds import rank_gpus

    gpus, common = rank_gpus(plan), plan.common_gpu
    compute = tuple((dtype, sum_up(gpu.peak(dtype) or 0.0 for gpu in gpus) / len(gpus)) for dtype, _ in common.compute)
    return evolve(common, compute=compute, bandwidth=sum_up(gpu.bandwidth for gpu in gpus) / len(gpus))
