"""Quantize: convert activations for GEMMs that multiply in a narrower dtype."""

from __future__ import annotations

from attrs import evolve

from plandsl.ir.collectives import AllToAll
from plandsl.ir.compute import Gemm, Quantize
from plandsl.ir.names import Places
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

    Tokens that travel to experts of one format are converted before they leave, as libraries for expert parallelism do
    (DeepEP sends fp8): blocks of scales lie within a token, so the order changes no value.
    """
    return each_region(program, _quantize)


def _quantize(region: Region) -> Region:
    names = Names(region.values())
    made: dict[tuple[str, str], Value] = {}
    ops: list[Op] = []

    def convert(x: Value, compute: str, of: Op) -> Value:
        key = (x.name, compute)
        if key not in made:
            made[key] = _narrowed(x, compute, names)
            ops.append(Quantize(made[key], x, span=of.span))
        return made[key]

    sent = _sent_narrow(region)
    for op in region.ops:
        if isinstance(op, AllToAll) and op.out.name in sent:
            compute = sent[op.out.name]
            out = made[op.out.name, compute] = _narrowed(op.out, compute, names)
            op = evolve(op, x=convert(op.x, compute, op), out=out)
        if isinstance(op, Gemm) and _narrower(op.compute, op.x.type.dtype):
            op = evolve(op, x=convert(op.x, op.compute, op))
        ops.append(op)
    return evolve(region, ops=tuple(ops))


def _sent_narrow(region: Region) -> dict[str, str]:
    """The format in which experts read the tokens that arrive, by their name, where nothing else reads them."""
    sent = [op for op in region.ops if isinstance(op, AllToAll) and isinstance(op.split, Places)]
    arrive = {op.out.name for op in sent if not op.x.type.pending}
    read: dict[str, set[str]] = {}
    for op in region.ops:
        narrow = op.compute if isinstance(op, Gemm) and _narrower(op.compute, op.x.type.dtype) else ""
        for x in op.operands:
            if x.name in arrive:
                read.setdefault(x.name, set()).add(narrow)
    for x in region.results:
        read.pop(x.name, None)
    return {name: formats.pop() for name, formats in read.items() if len(formats) == 1 and "" not in formats}


def _narrowed(x: Value, compute: str, names: Names) -> Value:
    return Value(names.fresh(x.name), TensorType(compute, x.type.dims, x.type.partial))


def _narrower(compute: str, stored: str) -> bool:
    return BITS[ARITHMETIC.get(compute, compute)] < BITS[ARITHMETIC.get(stored, stored)]
