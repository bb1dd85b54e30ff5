"""The table of measurements that answers for an op of a plan, found by all sizes that stay the same between steps."""

from __future__ import annotations

from plandsl.backends.cost.machine.measured import Grid, Line
from plandsl.backends.cost.machine.tables import Measured, Shape, gemm_shape
from plandsl.backends.cost.num import are_numbers
from plandsl.backends.cost.work.attention import Softmax
from plandsl.backends.cost.work.exchange import Exchange
from plandsl.backends.cost.work.kernel import Kernel, turned_share
from plandsl.backends.cost.work.site import ROW_DIMS, Site
from plandsl.backends.cost.work.work import Work
from plandsl.ir.collectives import Recv
from plandsl.ir.compute import AddNorm, Attention, Embed, Gemm, Map, Norm, Quantize, Rope
from plandsl.ir.extents import Extents
from plandsl.ir.types import Number, TensorType
from plandsl.spec.formats import BITS, GGUF, base_format
from plandsl.values import sum_up

TWINS = {"bf16": ("bf16", "fp16"), "fp16": ("fp16", "bf16")}
"""Formats of one width and one peak. Rows of either answer for both; rows of the op's own format come first."""

WEIGHT_ONLY = {8: "w8a16", 4: "w4a16"}
"""Dtypes in gemm.csv of GEMMs that unpack weights to 16 bits, by the bits of a stored weight."""


def attach(work: Work, site: Site, measured: Measured) -> Work:
    """``work`` with the table that has measurements of it, where one has."""
    extents = site.extents
    match work:
        case Softmax():
            return work._replace(table=_attention_table(work, measured, extents, site.program.phase))
        case Exchange():  # measured libraries choose their algorithm themselves; their ranks are in one node
            auto = site.machine.algorithm == "auto"
            return work._replace(table=_exchange_table(work, measured) if auto else None)
        case Kernel(op=Gemm() as op):
            return work._replace(table=_gemm_table(op, measured, extents))
        case Kernel():
            return work._replace(table=_elementwise_table(work, measured, extents))
        case _:  # layers of experts are measured as a whole
            return work


def _twin_dtypes(dtype: str) -> tuple[str, ...]:
    return TWINS.get(dtype, (dtype,))


def _row_width(type_: TensorType, extents: Extents) -> Number:
    """Elements of a row on one rank."""
    return extents.product(d for d in type_.dims if d.name not in ROW_DIMS)


def _gemm_table(op: Gemm, measured: Measured, extents: Extents) -> Line | None:
    """Fixed n and k, interpolated over m. None for a GEMM with a product for each head."""
    inner = op.contracted()
    if any(d.name not in ROW_DIMS and d.name not in inner for d in op.x.type.dims):
        return None
    k = extents.product(op.x.type.dim(name) for name in inner)
    n = sum_up(_row_width(out.type, extents) for out in op.outs)
    if not are_numbers(n, k):
        return None
    return measured.line(
        gemm_shape(dtype, n, k) for dtype in _gemm_dtypes(base_format(op.weights[0].type.dtype), op.compute)
    )


def _gemm_dtypes(weights: str, compute: str) -> tuple[str, ...]:
    """Dtypes in gemm.csv of a GEMM that stores ``weights`` and multiplies in ``compute``."""
    if BITS[weights] >= BITS[compute]:
        return _twin_dtypes(compute)
    stored = WEIGHT_ONLY.get(int(BITS[weights])) if compute in TWINS and weights not in GGUF else None
    return (stored,) if stored else ()


def _attention_table(work: Softmax, measured: Measured, extents: Extents, phase: str) -> Grid | None:
    """Fixed heads and formats, interpolated over batch and context. None where a rank has only some positions."""
    op = work.op
    if not isinstance(op, Attention) or op.chunk is not None or op.among is not None:
        # latent attention is in other tables, chunks and picked keys are in none
        return None
    local, prefill = extents.local, phase == "prefill"
    shared = (*work.position.axes, *(work.context.axes if prefill else ()))
    split, d_v = extents.ways(shared), local(op.v.type.dims[-1])
    sizes = local(op.q.type.dims[2]), local(op.k.type.dims[2]), local(op.q.type.dims[3])
    if not are_numbers(split, d_v, *sizes) or split != 1 or sizes[2] != d_v:
        return None
    q, cache = op.q.type.dtype, op.k.type.dtype
    fixed = (*sizes, op.window)
    shapes: list[Shape] = [("decode", kv, *fixed) for kv in _twin_dtypes(cache)]
    if prefill:
        same = [(d, d) for d in _twin_dtypes(q)] if q == cache else [(d, cache) for d in _twin_dtypes(q)]
        shapes = [("prefill", d, kv, *fixed, op.causal) for d, kv in same]
    return measured.grid(shapes, prefill)


def _elementwise_table(work: Kernel, measured: Measured, extents: Extents) -> Line | None:
    """Fixed operation, format and width of a row, interpolated over rows."""
    op, main = work.op, work.op.results[0].type
    width, cols = _row_width(main, extents), _row_width(main, extents)
    match op:
        case Norm() | AddNorm() if op.fn == "rms_norm":
            cols = extents.local(main.dim(op.over))
            if isinstance(op, Norm) and op.groups is not None:
                cols = cols * extents.sizes[op.heads] // extents.sizes[op.groups]
        case Rope():
            width = cols = sum_up(_row_width(out.type, extents) for out in op.outs) * turned_share(op, extents)
        case Map() if all(x.type.dims == main.dims for x in op.xs):
            pass
        case Quantize() if main.dtype == "fp8":
            main = op.x.type
        case Embed():
            pass
        case _:
            return None
    if not are_numbers(width, cols):
        return None
    shapes = (("elementwise", op.measured_as, dtype, cols) for dtype in _twin_dtypes(main.dtype))
    return measured.line(shapes, width / cols)


def _exchange_table(work: Exchange, measured: Measured) -> Line | None:
    """Fixed operation and ranks, interpolated over bytes."""
    if (
        isinstance(work.op, Recv)
        or not isinstance(work.ranks, int)
        or work.ranks < 2
        or not are_numbers(work.payload_per_row)
    ):
        return None
    word = work.op.measured_as
    return measured.line([("collective", word, work.ranks)], float(work.payload_per_row))
