"""Numbers for the ops of a program, equal where the work is: layers of several kinds have many ops in common."""

from __future__ import annotations

from collections.abc import Hashable
from functools import cache

import attrs

from plandsl.backends.cost.work.costing import JOINED
from plandsl.ir.collectives import AllGather, AllReduce, ReduceScatter
from plandsl.ir.compute import AddNorm, Gemm, Map, Norm, Quantize, Rope
from plandsl.ir.fusions import Kernels
from plandsl.ir.latent import HeadGemm
from plandsl.ir.ops import Op
from plandsl.ir.program import Program
from plandsl.ir.types import Value

LOCAL = frozenset({Gemm, HeadGemm, Norm, AddNorm, Map, Rope, Quantize, AllReduce, ReduceScatter, AllGather})
"""Kinds of ops whose work follows from their attributes and types; that of other ops also from the ops around them."""


def number_ops(program: Program, kernels: Kernels | None) -> dict[int, int]:
    """A number for each op, by its identity: ops of one number have equal work on every machine."""
    known: dict[Hashable, int] = {}
    return {
        id(op): known.setdefault(_facts(op, kernels), len(known)) for region in program.regions for op in region.ops
    }


def _facts(op: Op, kernels: Kernels | None) -> Hashable:
    """All that the work of ``op`` depends on, apart from sizes and machine."""
    if type(op) not in LOCAL or op.meets_experts:  # a layer of experts is one kernel
        return id(op)
    own = _attributes(op)
    if kernels is None or not isinstance(op, JOINED):
        return own
    first = kernels.hosts.first_all_reduce(op)
    places = kernels.place(op, shared=False), kernels.place(op, shared=True)
    return *own, *places, None if first is None else _attributes(first)


def _attributes(op: Op) -> tuple[Hashable, ...]:
    return type(op), *(_without_names(getattr(op, name)) for name in _fields(type(op)))


@cache
def _fields(kind: type[Op]) -> tuple[str, ...]:
    return tuple(field.name for field in attrs.fields(kind) if field.name != "span")


def _without_names(held: object) -> Hashable:
    """An attribute of an op; of values the types."""
    if isinstance(held, Value):
        return held.type
    if type(held) is tuple:
        return tuple(map(_without_names, held))
    return held
