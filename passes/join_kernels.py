"""Join kernels: mark the ops that an engine runs in the kernel of an op before them."""

from __future__ import annotations

from collections.abc import Iterator

from attrs import evolve

from plandsl.ir.collectives import AllReduce
from plandsl.ir.compute import AddNorm, Attention, CacheWrite, Gemm, Map, Norm, Quantize, Rope
from plandsl.ir.functions import GATES
from plandsl.ir.fusions import Hosts, show_fused
from plandsl.ir.latent import LatentAttention
from plandsl.ir.ops import Op
from plandsl.ir.program import Program
from plandsl.passes.rewrite import each_region, replace_fields
from plandsl.spec.formats import in_blocks
from plandsl.spec.plan import PlanSpec

BESIDE_ALL_REDUCE = ("fp8", "nvfp4", "fp4")
"""Formats to which kernels with an all_reduce quantise: fp8 with one scale for the tensor, and nvfp4.

`AllReduceFusionOp` of TensorRT-LLM and `AllReduceFusionPattern` of FlashInfer list these two.
"""


def join_kernels(program: Program, plan: PlanSpec) -> Program:
    """With an engine's `fusions`, mark the ops that run in the kernel of an op before them.

    The marked ops compute the same. The cost model leaves out their launch, and the traffic of values that stay inside
    the kernel.

    Before:  %y : bf16[...] = all_reduce %x {axis = "tensor"}
             %r, %h : bf16[...], bf16[...] = add_norm %x.1, %y, %gain {...}
    After:   %y : bf16[...] = all_reduce %x {axis = "tensor"}
             %r, %h : bf16[...], bf16[...] = add_norm %x.1, %y, %gain {..., fused = "all_reduce_norm"}
    """
    named = frozenset(plan.effective_engine.fusions)
    if not named:
        return program
    if "all_reduce_norm_quantize" in named:  # such a kernel holds the norm, with or without a quantisation behind it
        named |= {"all_reduce_norm"}
    hosts = Hosts(program)

    def mark(op: Op) -> Op:
        fused = show_fused([name for name in _fusions(op, hosts) if name in named])
        return replace_fields(op, {"fused": fused}) if fused else op

    return each_region(program, lambda region: evolve(region, ops=tuple(map(mark, region.ops))))


def _fusions(op: Op, hosts: Hosts) -> Iterator[str]:
    """The fusions by which ``op`` would run in the kernel of its host."""
    summed = hosts.first_all_reduce(op) is not None
    match op, hosts.host(op):
        case ((Norm() | AddNorm() | Map()), AllReduce()):
            yield from ["all_reduce_norm"] if _is_residual_or_rms(op) else []
        case Map(), Gemm():
            yield "gemm_bias"
        case Norm(), Map():
            yield from ["all_reduce_norm"] if summed and _is_residual_or_rms(op) else []
            yield "residual_norm"
        case Quantize(), (Norm() | AddNorm()):
            yield from ["all_reduce_norm_quantize"] if summed and _has_one_scale(op, hosts) else []
            yield "norm_quantize"
        case Quantize(), Map() as made:
            yield from ["activation_quantize"] if made.fn in GATES.values() else []
        case Quantize(), (Attention() | LatentAttention()):
            yield "attention_quantize"
        case ((Norm() | Rope()), Norm()):
            yield "norm_rope"
        case CacheWrite(), Rope():
            yield "rope_cache"


def _is_residual_or_rms(op: Op) -> bool:
    """Whether kernels with an all_reduce have such an op: they add the residual, and have the RMS norm alone."""
    return getattr(op, "fn", "") in ("add", "rms_norm")


def _has_one_scale(op: Quantize, hosts: Hosts) -> bool:
    """Whether ``op`` quantises to a format of `BESIDE_ALL_REDUCE`."""
    weights = [w for gemm in hosts.readers(op, op.out) if isinstance(gemm, Gemm) for w in gemm.weights]
    return op.out.type.dtype in BESIDE_ALL_REDUCE and not any(in_blocks(w.type.dtype) for w in weights)
