"""The fitted form of a GEMM: tiles and waves against memory, with split-K where tiles do not fill the GPU."""

from __future__ import annotations

from collections.abc import Sequence
from math import isclose
from typing import NamedTuple

from plandsl.backends.cost.num import ceil_div, maximum, minimum, where
from plandsl.ir.types import Number
from plandsl.spec.constants import GemmConstants

TILES = ((16, 16), (16, 32), (16, 64), (32, 32), (32, 64), (64, 64), (64, 128), (128, 128), (128, 256), (256, 256))
"""Output tiles that libraries choose from, rows by columns."""

MOST_SPLITS = 8.0
"""The most parts that the contracted dimension is cut into."""

TAIL = 0.25
"""The share of a last wave's idle units that is lost, and of the rows that the last tiles lack.

Persistent kernels give idle units work of the next waves, and libraries have more tile heights than `TILES`.
"""

LONG = 1e-3
"""Seconds at which half of ``throttle`` counts: longer kernels draw full power."""

QUANT_START = (2e-7, 1e-10)
"""``quant_row`` and ``quant_walk`` where a fit starts, and stays without rows that include quantisation."""


class Tile(NamedTuple):
    """One way to tile ``[m, k] @ [k, n]``: its rows, the columns of tiles, and the seconds of one tile."""

    rows: int
    columns: Number
    seconds: Number


def tiles(c: GemmConstants, units: int, peak: float, n: Number, k: Number, packing: float = 1.0) -> list[Tile]:
    """Every tiling of a GEMM whose ``n`` and ``k`` are known.

    A tile of ``a x b`` outputs takes, in one unit of ``peak / units * compute`` FLOP/s, seconds of

        k * (2 (a b + intensity (a + b packing)) / rate + chain)

    Loading an element takes as long as ``intensity`` multiplications, and a weight is ``packing`` of an element. Each
    contracted element takes at least ``chain`` seconds however small the tile, since the steps along k follow one
    another. ``units`` are SMs or CUs, ``peak`` is in FLOP/s. Arithmetic intensity of tiles as in NVIDIA's "Matrix
    Multiplication Background User's Guide".
    """
    rate = peak / units * c.compute
    loads = [(a, b, a * b + c.intensity * (a + b * packing)) for a, b in TILES]
    return [Tile(a, ceil_div(n, b), (2.0 * work / rate + c.chain) * k) for a, b, work in loads]


def gemm_seconds(
    c: GemmConstants, ways: Sequence[Tile], units: int, bandwidth: float, m: Number, moved: Number, warm: Number = 0.0
) -> Number:
    """Seconds of ``[m, k] @ [k, n]`` that moves ``moved`` bytes, ``ways`` being its `tiles`.

    There are ``t = h ceil(n/b)`` tiles in ``w = t / units`` waves, at least one. Rounding up to whole waves adds time,
    of which the share `TAIL` counts. Of rounding the height ``h = m/a >= 1`` up to whole tiles the share
    ``TAIL (1 - 1/h)`` counts (assumed): for few rows libraries have heights between those of `TILES`. Where tiles do
    not fill the GPU, k may be cut into ``floor(units / t)`` parts, whose sum takes ``step`` seconds. The best tiling
    counts:

        seconds = fixed + (arithmetic^blend + (moved / (bandwidth * memory))^blend)^(1/blend)

    where ``throttle`` is the share by which long arithmetic slows down at the power limit. ``warm`` of the bytes come
    from the last-level cache, at ``cached`` of the bandwidth where that is more: a measurement that repeats a GEMM
    finds its weights there, and a step of a model does not.
    ``bandwidth`` in bytes/s. Waves as in NVIDIA's "Matrix Multiplication Background User's Guide"; split-K and
    persistent kernels as in CUTLASS; the constants are fitted.
    """
    best: Number | None = None
    for rows, columns, tile in ways:
        high = maximum(m / rows, 1.0)
        count = (high + TAIL * (1 - 1 / high) * (-(-m // rows) - high)) * columns
        whole = tile * maximum(1.0, (1 - TAIL) * count / units + TAIL * -(-count // units))
        if (count >= units) is True:  # a number, and no tile is left to split
            time = whole
        else:
            splits = minimum(maximum(units / count // 1, 1.0), MOST_SPLITS)
            time = where(splits > 1, minimum(whole, tile / splits + c.step), whole)
        best = time if best is None else minimum(best, time)
    assert best is not None, "there are tilings"
    slow = best * (1 + c.throttle * best / (best + LONG))
    streamed = (moved - warm) / (bandwidth * c.memory) + warm / (bandwidth * max(c.cached, c.memory))
    return c.fixed + smooth_max(slow, streamed, c.blend)


def quant_seconds(c: GemmConstants, units: int, bandwidth: float, m: Number, k: Number, item: float) -> Number:
    """Seconds to quantise ``m x k`` elements from 16 bits to ``item`` bytes, in one kernel or several.

        seconds = quant_fixed + ((m k (2 + item) / bandwidth)^2 + (m / units * (quant_row + k quant_walk))^2)^(1/2)

    Each row is the work of one thread block: ``quant_row`` seconds of a unit for the row and ``quant_walk`` for each
    of its elements, unless memory (``bandwidth``, bytes/s) takes longer. The constants are fitted.
    """
    walk = m / units * (c.quant_row + k * c.quant_walk)
    return c.quant_fixed + smooth_max(m * k * (2.0 + item) / bandwidth, walk, 2.0)


def has_quantisation(c: GemmConstants) -> bool:
    """Whether the constants were fitted to rows that include the quantisation of the input.

    Their ratio tells, which stays as times are scaled.
    """
    row, walk = QUANT_START
    return c.quant_walk > 0 and not isclose(c.quant_row / c.quant_walk, row / walk)


def smooth_max(a: Number, b: Number, blend: float) -> Number:
    """``(a^blend + b^blend)^(1/blend)``: the larger of two times, or more where neither hides the other."""
    high, low = maximum(a, b), minimum(a, b)
    return high * (1 + (low / maximum(high, 1e-30)) ** blend) ** (1 / blend)
