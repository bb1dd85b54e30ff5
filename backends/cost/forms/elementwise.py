"""Norms, activations, rotary embedding, quantisation: memory traffic and a launch."""

from __future__ import annotations

from plandsl.backends.cost.forms.gemm import smooth_max
from plandsl.backends.cost.num import clip, maximum
from plandsl.ir.types import Number
from plandsl.spec.constants import ElementConstants

MOVED = {
    "rmsnorm": (1, 1),
    "layernorm": (1, 1),
    "softmax": (1, 1),
    "qk_rmsnorm": (1, 1),
    "gelu": (1, 1),
    "rope": (1, 1),
    "embedding": (1, 1),
    "embedding_vocab_sharded": (1, 1),
    "silu_and_mul": (2, 1),
    "residual_add": (2, 1),
    "fused_add_rmsnorm": (2, 2),
    "dropout_residual_layernorm": (2, 2),
    "static_quant_fp8": (1, 0.5),
    "dynamic_quant_fp8": (1, 0.5),
    "per_token_quant_fp8": (1, 0.5),
    "sampler": (1, 0),
}
"""Elements read and written per element of the ``rows x cols`` output, of the size that the row's dtype stores.

What all rows share (a norm's weights, rotary angles) is not counted. ``silu_and_mul`` reads gate and up, fused
additions read and write the residual, quantisation writes one byte for two, ``sampler`` reads logits.
"""

FLAT = ("gelu", "residual_add")
"""Operations whose kernels know no rows: they deal out elements."""

EAGER = {"rope": (5, 9), "dropout_residual_layernorm": (3, 7), "rmsnorm": (5, 10), "silu_and_mul": (2, 5)}
"""Kernels, and elements moved per element of the output, of operations written out in eager PyTorch.

``rope``: a product with each of sine and cosine, half of the elements negated, the halves swapped, and a sum.
``dropout_residual_layernorm``: dropout, a sum and a norm. ``rmsnorm``: a square, its mean, two products and a cast.
"""

BLEND = 2.0
"""How far two bounds that come close add up: as the sides of a right angle."""

DRAW = 2e10
"""Bytes/s that one unit moves where ``unit`` is 1."""


def moved_bytes(op: str, rows: Number, cols: Number, item: float) -> Number:
    """Bytes that ``op`` reads and writes for ``rows x cols`` outputs of ``item`` bytes; one each if it is not known."""
    return sum(MOVED.get(op, (1, 1))) * item * rows * cols


def kernel_seconds(c: ElementConstants, units: int, bandwidth: float, moved: Number, row: Number) -> Number:
    """Seconds of a kernel that moves ``moved`` bytes, ``row`` of them in each row (0: dealt out without rows).

        seconds = fixed + (stream^2 + walk^2)^(1/2)
        stream = moved / bandwidth * (stays / cached + (1 - stays) / memory)
                 or, if more, (moved / draw + rows * row) / units
        walk = row / draw

    ``stays = 2 - moved / cache``, within 0..1, is the part that the last-level cache still holds from the kernel
    before: all of what fits in it, nothing of twice its size. ``cached`` and ``memory`` are rates as shares of
    ``bandwidth`` (bytes/s), and the cache counts as no slower. A row is the work of one thread block in one unit, which
    moves ``draw = DRAW * unit`` bytes/s, whatever the memory, and spends ``c.row`` seconds on every row besides. One
    wide row takes its walk, however few there are. A roofline (Williams, Waterman and Patterson 2009) with a ceiling of
    the units; the constants are fitted.
    """
    stays = clip(2 - moved / c.cache, 0.0, 1.0)
    stream = moved / bandwidth * (stays / max(c.cached, c.memory) + (1 - stays) / c.memory)
    draw = DRAW * c.unit
    blocks = moved / maximum(row, 1.0) * (row > 0)
    dealt = (moved / draw + blocks * c.row) / units
    return c.fixed + smooth_max(maximum(stream, dealt), row / draw, BLEND)
