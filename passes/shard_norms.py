"""Norms over a dimension that is split: each rank sums its part, and the sums travel in the place of the values.

Loaded by the first sharding that splits what a norm reads.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from attrs import evolve

from plandsl.ir.compute import Gemm, Norm
from plandsl.ir.experts import Dispatch
from plandsl.ir.norms import NormSums
from plandsl.ir.ops import Op
from plandsl.ir.rule import Regular
from plandsl.ir.streams import Moments
from plandsl.ir.types import Dim, Value

if TYPE_CHECKING:
    from plandsl.passes.shard import Sharder


def all_take_parts(op: Norm, axes: tuple[str, ...], sharder: Sharder) -> bool:
    """Whether every op that reads the result of ``op`` takes it with its dimension split over ``axes``.

    Where one needs it whole, the values are gathered once, before the norm.
    """
    return all(
        _takes_parts(reader, op.over, axes, sharder) for reader in sharder.region.ops if op.out in reader.operands
    )


def _takes_parts(reader: Op, over: str, axes: tuple[str, ...], sharder: Sharder) -> bool:
    match reader:
        case Norm():  # it decides for itself
            return True
        case Gemm():
            return all(sharder.now[w.name].type.on(over) == axes for w in reader.weights)
        case Dispatch():
            tokens = sharder.tokens(reader.x.type.names, reader.gates.type.names)
            return any(d.name == over and d.axes == axes for d in tokens)
        case Regular():
            return all(over not in rule.whole for rule in reader.rules)
        case _:
            return False


def norm_in_parts(op: Norm, dims: tuple[Dim, ...], sharder: Sharder) -> Norm:
    """``op`` on a rank's part of its operand, laid out as ``dims``, after the sums that it needs.

    Before:  %h : bf16[batch, position, hidden] = norm %x, %gain
    After:   %sums : fp32[batch, position]{+y} = norm_sums %x
             %sums.1 : fp32[batch, position] = reshard %sums
             %h : bf16[batch, position, hidden@y] = norm %x, %gain, %sums.1
    """
    x = sharder.lay(op.x, dims)
    kind = Moments if op.fn == "layer_norm" else NormSums
    summed = kind(op.out, x, op.over, span=op.span)
    sums = Value(sharder.names.fresh("sums"), *summed.infer())
    sharder.ops.append(evolve(summed, out=sums))
    gain = op.gain and sharder.lay(op.gain, tuple([Dim(n, x.type.on(n)) for n in op.gain.type.names]))
    return evolve(op, x=x, gain=gain, sums=sharder.complete(sums))
