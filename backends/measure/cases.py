"""What is measured: a case is a row of a table without its time, with the work that it asks for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from plandsl.backends.cost.forms.attention import visible_pairs
from plandsl.backends.cost.forms.elementwise import moved_bytes
from plandsl.spec.formats import BITS, base_format

PEAKS = "peaks.csv"
"""The rates of the device itself, beside the tables of kernels that docs/calibration.md lists."""

COPY, READ, LAUNCH = "hbm_bandwidth_copy", "hbm_bandwidth_read", "launch"
"""Metrics of `PEAKS`: bytes/s of copying and of reading memory, and seconds of calling a function that does nothing."""

MATRIX = "gemm_peak"
"""FLOP/s of a large square GEMM; ``dtype`` is its format."""

MEMORY, UNITS = "memory", "units"
"""Bytes of memory, and the number of multiprocessors or cores, which the library tells."""

STORED = {"w8a16": ("int8", "bf16"), "w4a16": ("int4", "bf16")}
"""Formats of gemm.csv whose weights are stored in another format than the one that multiplies."""

COLLECTIVES = ("all_reduce", "all_gather", "reduce_scatter", "all_to_all", "p2p")

COLLECTIVE = "collectives.csv"

PAYLOADS = tuple(4**i for i in range(6, 14))
"""Bytes of collectives, from 4 KiB to 64 MiB."""

SIZES = (4, 4**2, 4**3, 4**4, 4**5, 4**6)
"""Rows of kernels. A table is read between neighbours that are a factor of 4 apart at most."""


class Case(NamedTuple):
    """One point to measure: its table, and its cells as the table has them; ``flops`` and bytes ``moved`` of a call."""

    file: str
    cells: tuple[tuple[str, str], ...]
    flops: float
    moved: float

    @property
    def key(self) -> tuple[str, frozenset[tuple[str, str]]]:
        """What tells the case from others."""
        return self.file, frozenset(self.cells)

    def text(self, name: str) -> str:
        """A cell."""
        return dict(self.cells)[name]

    def whole(self, name: str) -> int:
        """The number in a cell."""
        return int(self.text(name))

    @property
    def words(self) -> str:
        """How messages name the case: ``gemm bf16 m=8 n=4096 k=4096``."""
        table = self.file.removesuffix(".csv")
        return " ".join([table, *(v if n in ("op", "metric", "dtype") else f"{n}={v}" for n, v in self.cells)])


def _case(file: str, flops: float, moved: float, **cells: object) -> Case:
    return Case(file, tuple((name, str(value)) for name, value in cells.items()), flops, moved)


def item_bytes(dtype: str) -> float:
    """Bytes of an element as it is stored."""
    return BITS[base_format(STORED.get(dtype, (dtype,))[0])] / 8


def multiplies(dtype: str) -> str:
    """The format that a GEMM of gemm.csv multiplies in."""
    return STORED[dtype][1] if dtype in STORED else dtype


def gemm(dtype: str, m: int, n: int, k: int) -> Case:
    """``[m, k] @ [k, n]``."""
    out = item_bytes(multiplies(dtype))
    moved = n * k * item_bytes(dtype) + (m * k + m * n) * out
    return _case("gemm.csv", 2.0 * m * n * k, moved, dtype=dtype, m=m, n=n, k=k)


class Shape(NamedTuple):
    """Heads of attention on one rank, and its formats: of arithmetic and of the cache."""

    n_heads: int
    n_kv_heads: int
    head_dim: int
    dtype: str
    kv_dtype: str
    window: int = 0
    causal: bool = True


def prefill(shape: Shape, batch: int, tokens: int) -> Case:
    """Attention of ``batch`` prompts of ``tokens`` tokens each."""
    pairs = float(visible_pairs(tokens, tokens, shape.causal, shape.window))
    sizes = shape._asdict() | {"causal": int(shape.causal)}
    moved = _attention_bytes(shape, batch * tokens, batch * tokens)
    flops = 4.0 * batch * shape.n_heads * shape.head_dim * pairs
    return _case("attention_prefill.csv", flops, moved, batch=batch, seq_q=tokens, seq_kv=tokens, **sizes)


def decode(shape: Shape, batch: int, keys: int) -> Case:
    """Attention of one query in each of ``batch`` requests over ``keys`` keys."""
    sizes = shape._asdict()
    del sizes["causal"], sizes["dtype"]
    seen = min(keys, shape.window) if shape.window else keys
    moved, flops = _attention_bytes(shape, batch, batch * seen), 4.0 * batch * shape.n_heads * shape.head_dim * seen
    return _case("attention_decode.csv", flops, moved, batch=batch, kv_len=keys, **sizes)


def _attention_bytes(shape: Shape, queries: int, keys: int) -> float:
    each = 2.0 * shape.head_dim
    return each * (
        queries * shape.n_heads * item_bytes(shape.dtype) + keys * shape.n_kv_heads * item_bytes(shape.kv_dtype)
    )


def elementwise(op: str, dtype: str, rows: int, cols: int) -> Case:
    """A kernel that makes ``rows x cols`` elements."""
    moved = moved_bytes(op, rows, cols, item_bytes(dtype))
    return _case("elementwise.csv", 0.0, moved, op=op, dtype=dtype, rows=rows, cols=cols)


def collective(op: str, ranks: int, size: int) -> Case:
    """A collective of ``ranks`` ranks in one node; ``size`` in bytes as nccl-tests count them."""
    return _case(COLLECTIVE, 0.0, float(size), op=op, n_ranks=ranks, n_nodes=1, bytes=size, cuda_graph=1)


def peak(metric: str, size: int, dtype: str = "") -> Case:
    """A rate of the device itself: ``size`` bytes of memory, or rows and columns of a square GEMM."""
    if metric == MATRIX:
        made = gemm(dtype, size, size, size)
        return _case(PEAKS, made.flops, made.moved, metric=metric, dtype=dtype, config=size)
    moved = {COPY: 2.0 * size, READ: float(size)}.get(metric, 0.0)
    return _case(PEAKS, 0.0, moved, metric=metric, config=size)


# ---- which


LEAST_MEMORY = 2.0**32
"""Bytes that a device of unknown memory is taken to have."""


def device_cases(dtypes: Iterable[str], memory: float) -> Iterator[Case]:
    """The rates of a device with ``memory`` bytes (0: unknown); ``dtypes`` are formats that it may multiply in."""
    yield peak(LAUNCH, 1)
    size = 2**30
    while size > (memory or LEAST_MEMORY) / 16:
        size //= 2
    yield peak(COPY, size)
    yield peak(READ, size)
    for dtype in dict.fromkeys(map(multiplies, dtypes)):
        yield from (peak(MATRIX, size, dtype) for size in (512, 1024, 2048, 4096, 8192))


WIDTHS = (1024, 2048, 4096, 8192)
"""Widths of the model sizes that people serve, on one rank."""


def default_cases(dtype: str, ranks: int) -> Iterator[Case]:
    """Kernels over a range of sizes, small ones first, for a device of which no plan is known."""
    kinds = ("rmsnorm", "fused_add_rmsnorm", "rope", "silu_and_mul", "residual_add")
    for width in WIDTHS:
        for n, k in ((width, width), (3 * width, width), (width, 3 * width)):
            yield from (gemm(dtype, m, n, k) for m in (1, *SIZES))
        shape = Shape(max(width // 128, 1), max(width // 512, 1), 128, dtype, dtype)
        yield from (prefill(shape, batch, tokens) for batch in (1, 4) for tokens in SIZES[2:])
        yield from (decode(shape, batch, keys) for batch in (1, 4, 16, 64) for keys in SIZES[2:])
        yield from (elementwise(op, dtype, rows, width) for op in kinds for rows in (1, *SIZES))
    yield from collective_cases(ranks)


def collective_cases(ranks: int) -> Iterator[Case]:
    """All collectives over groups of 2, 4, ... of ``ranks`` devices."""
    group = 2
    while group <= ranks:
        yield from (collective(op, group, size) for op in COLLECTIVES for size in PAYLOADS)
        group *= 2
