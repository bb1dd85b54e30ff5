"""The fitted form of the experts of one rank: how tokens fall on experts, and grouped GEMMs of these tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from plandsl.backends.cost.forms.attention import Chip
from plandsl.backends.cost.forms.gemm import smooth_max
from plandsl.backends.cost.num import ceil_div, clip, maximum, minimum, where
from plandsl.ir.types import Number
from plandsl.spec.constants import GroupedConstants, MoeConstants
from plandsl.values import sum_up

TILES = ((8, 128), (16, 128), (32, 128), (64, 128), (128, 128), (128, 256), (256, 256))
"""Output tiles of grouped GEMMs, rows of one expert by columns: libraries swap operands to get below 64 rows."""

POPULARITY = 0.8
"""Of the experts of a rank, the r-th most popular is chosen in proportion to ``r ** -POPULARITY`` by default.

TensorRT-LLM's benchmark of layers with experts has this exponent for the experts of a rank, so that their load is as in
observed traces (github.com/NVIDIA/TensorRT-LLM, pull request 19148).
"""

ROW = 2.0
"""Bytes of an element of activations between the kernels of a layer."""


class Layer(NamedTuple):
    """The experts of one rank.

    ``inter`` is the size of one expert on this rank; ``local`` of ``n_experts`` experts are on it. ``weight_bytes`` and
    ``input_bytes`` are the bytes of one element of a weight, and of an activation as it is multiplied. The first GEMM
    has ``gates`` matrices: gate and up, or up alone.
    """

    hidden: Number
    inter: Number
    topk: Number
    n_experts: Number
    local: Number
    weight_bytes: float
    input_bytes: float
    gates: Number = 2


class Load(NamedTuple):
    """``experts`` of a rank that expect ``tokens`` each, of which ``touched`` get any.

    Where ``even``, all experts get the same number of tokens; otherwise numbers are random.
    """

    experts: Number
    tokens: Number
    touched: Number
    even: Number = False

    def tiles(self, rows: int) -> Number:
        """Tiles of ``rows`` that hold the tokens.

        Random counts vary, so the last tile of an expert is half empty on average: a touched expert has ``u`` tokens
        and takes ``max(1, (u + (rows - 1) / 2) / rows)`` tiles.
        """
        return self.tiles_of(rows)[0]

    def tiles_of(self, *sizes: int) -> list[Number]:
        """`tiles` for each of several sizes of a tile."""
        if self.even is True:
            most = maximum(self.tokens, 1.0)
            return [self.touched * ceil_div(most, rows) for rows in sizes]
        u = self.tokens * self.experts / maximum(self.touched, 1e-12)
        drawn = [maximum(1.0, (u + (rows - 1) / 2) / rows) for rows in sizes]
        if self.even is False:
            return [self.touched * tiles for tiles in drawn]
        most = maximum(self.tokens, 1.0)
        return [
            self.touched * where(self.even, ceil_div(most, rows), tiles)
            for rows, tiles in zip(sizes, drawn, strict=True)
        ]


class Matrix(NamedTuple):
    """The weights of a grouped GEMM, ``depth x columns`` for each expert; bytes are of one element."""

    depth: Number
    columns: Number
    weight_bytes: float
    input_bytes: float


def popular_experts(pairs: Number, local: Number, most: int) -> list[tuple[Number, Number]]:
    """The ``local`` experts of a rank, ``most`` at most, as (experts, chance that a token chooses one of them) pairs.

    A token chooses ``pairs`` of them, the r-th most popular in proportion to ``r ** -POPULARITY``. Those from
    ``2 ** g`` to ``2 ** (g + 1) - 1`` are one group with one chance: the law is integrated over the group, from half a
    place before its first expert to half a place behind its last. Where the first would be chosen more than once by a
    token, all chances are brought towards the mean as far as needed.
    """
    even = pairs / local
    whole = _popularity(0.0, local)
    kept = minimum((1 - even) / maximum(pairs * _popularity(0.0, 1.0) / whole - even, 1e-12), 1.0)
    groups: list[tuple[Number, Number]] = []
    first = 0
    while first < most:
        there = clip(local - first, 0.0, first or 1.0)
        p = pairs * _popularity(first, maximum(there, 1e-9)) / whole / maximum(there, 1e-9)
        groups.append((there, even + kept * (p - even)))
        first = 2 * first or 1
    return groups


def _popularity(first: Number, n: Number) -> Number:
    """What ``n`` experts after the ``first`` most popular ones weigh."""
    power = 1 - POPULARITY
    return ((first + n + 0.5) ** power - (first + 0.5) ** power) / power


def expert_loads(layer: Layer, tokens: Number, even: Number = False) -> list[Load]:
    """How ``tokens * topk`` pairs of token and expert fall on the experts of a rank, where all experts are alike.

    The rank has at least one pair, and no expert has more than all tokens. An expert that expects ``t`` of T tokens
    gets any with the chance ``1 - (1 - t/T)^T`` (at least one expert of the rank always does), or ``min(t, 1)`` where
    tokens are dealt out (``even``).
    """
    most = minimum(tokens * minimum(layer.topk / layer.local, 1.0), tokens)
    each = minimum(maximum(tokens * layer.topk / layer.n_experts, 1 / layer.local), most)
    drawn = maximum(1 - (1 - minimum(each / tokens, 1.0)) ** tokens, 1 / layer.local)
    met = minimum(each, where(even, 1.0, drawn))
    return [Load(layer.local, each, met * layer.local, even)]


def moe_seconds(c: MoeConstants, chip: Chip, layer: Layer, tokens: Number, given: Sequence[Load]) -> Number:
    """Seconds of a fused layer of experts that gets ``tokens`` tokens; ``given`` says how these fall on experts.

        seconds = fixed + token * tokens + grouped GEMMs + activations / (bandwidth * stream)

    Activations are the bytes that pass between kernels. For each pair: its gathered input, gate and up, their product,
    and its output twice (written, and added up); for each token: its input and output, 16 bits wide. Some kernels keep
    rows for pairs of other ranks, and move the share ``away`` of such a pair's bytes. Routing takes ``token`` seconds a
    token; ``fixed`` includes the launches. `grouped_seconds` has the rest.
    """
    up = Matrix(layer.hidden, layer.gates * layer.inter, layer.weight_bytes, layer.input_bytes)
    down = Matrix(layer.inter, layer.hidden, layer.weight_bytes, layer.input_bytes)
    pairs = sum_up(load.experts * load.tokens for load in given)
    row = layer.hidden * (layer.input_bytes + 2 * ROW) + layer.inter * (layer.gates + 1) * ROW
    moved = (pairs + c.away * maximum(tokens * layer.topk - pairs, 0.0)) * row + tokens * layer.hidden * 2 * ROW
    passed = moved / (chip.bandwidth * c.stream)
    return c.fixed + c.token * tokens + grouped_seconds(c, chip, given, (up, down)) + passed


def gemm_seconds(
    c: GroupedConstants, chip: Chip, given: Sequence[Load], matrix: Matrix, tiles: Sequence[tuple[int, int]] = TILES
) -> Number:
    """Seconds of one grouped GEMM by itself, its inputs and outputs moved at ``bandwidth * stream``."""
    pairs = sum_up(load.experts * load.tokens for load in given)
    moved = pairs * (matrix.depth * matrix.input_bytes + matrix.columns * ROW)
    return c.fixed + grouped_seconds(c, chip, given, (matrix,), tiles) + moved / (chip.bandwidth * c.stream)


def grouped_seconds(
    c: GroupedConstants | MoeConstants,
    chip: Chip,
    given: Sequence[Load],
    matrices: Sequence[Matrix],
    tiles: Sequence[tuple[int, int]] = TILES,
) -> Number:
    """Seconds of grouped GEMMs over the same rows, in the best tiling, without launches and activations.

    The tokens of an expert fill whole tiles of ``a x b`` outputs, which units take in turn. A tile takes

        step + depth units (2 a b / (peak * compute) + (a input_bytes + b weight_bytes) / (bandwidth * draw))

    seconds: arithmetic, and loading at ``draw`` times a unit's part of the bandwidth (the cache serves most of it).
    Weights of touched experts come from memory at ``bandwidth * memory``; each further row of tiles reads what exceeds
    a ``cache`` of so many bytes once more. The time is `smooth_max` of both, over all matrices. Padding as in
    "MegaBlocks" (Gale et al. 2023); large sizes reach ``compute`` of the peak, less what loading adds.
    """
    touched = sum_up(load.touched for load in given)
    sizes = dict.fromkeys(a for a, _ in tiles)
    filled = [load.tiles_of(*sizes) for load in given]
    counts = {a: sum_up(many) for a, many in zip(sizes, zip(*filled, strict=True), strict=True)}
    stored = [m.depth * m.columns * m.weight_bytes for m in matrices]
    exceeds = [clip(1 - c.cache / bytes_, 0.0, 1.0) for bytes_ in stored]
    units, rate, drawn, memory = chip.units, chip.peak * c.compute, chip.bandwidth * c.draw, chip.bandwidth * c.memory
    best: Number | None = None
    for a, b in tiles:
        count = counts[a]
        further = maximum(count - touched, 0.0)
        work: Number = 0.0
        read: Number = 0.0
        arithmetic = 2.0 * a * b / rate
        for m, bytes_, share in zip(matrices, stored, exceeds, strict=True):
            read = read + bytes_ * (touched + share * further)
            loading = (a * m.input_bytes + b * m.weight_bytes) / drawn
            tile = c.step + m.depth * units * (arithmetic + loading)
            work = work + maximum(count * ceil_div(m.columns, b) / units, 1.0) * tile
        time = smooth_max(work, read / memory, c.blend)
        best = time if best is None else minimum(best, time)
    assert best is not None, "there are tilings"
    return best
