"""Quantize: convert activations for GEMMs that multiply in a narrower dtype."""

from __future__ import annotations

from attrs import evolve

from plandsl.ir.compute import Gemm, Quantize
from plandsl.ir.ops import Op
from plandsl.ir.program import Program, Region
from plandsl.ir.types import TensorType, Value
from plandsl.passes.rewrite import Names, each_region
from plandsl.spec.formats import ARITHMETIC, BITS
from plandsl.spec.plan import PlanSpec


def quantize(program: Program, plan: PlanSpec) -> Program:
    """Give each GEMM its input in the dtype that it multiplies in; GEMMs of one input share the conversion.

    Before:  %u : bf16[batch, position, ffn] = gemm %h, %w_up {compute = "fp8"}
    After:   %h.1 : fp8[batch, position, hidden] = quantize %h
             %u : bf16[batch, position, ffn] = gemm %h.1, %w_up {compute = "fp8"}
    """
    return each_region(program, _quantize)


def _quantize(region: Region) -> Region:
    names = Names(region.values())
    made: dict[tuple[str, str], Value] = {}
    ops: list[Op] = []
    for op in region.ops:
        if isinstance(op, Gemm) and _narrower(op.compute, op.x.type.dtype):
            key = (op.x.name, op.compute)
            if key not in made:
                t = op.x.type
                made[key] = Value(names.fresh(op.x.name), TensorType(op.compute, t.dims, t.partial))
                ops.append(Quantize(made[key], op.x, span=op.span))
            op = evolve(op, x=made[key])
        ops.append(op)
    return evolve(region, ops=tuple(ops))


def _narrower(compute: str, stored: str) -> bool:
    return BITS[ARITHMETIC.get(compute, compute)] < BITS[ARITHMETIC.get(stored, stored)]
