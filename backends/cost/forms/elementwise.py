"""The fitted form of norms, activations, rotary embedding and quantisation: memory traffic and a launch."""

from __future__ import annotations

from plandsl.backends.cost.forms.gemm import smooth_max
from plandsl.backends.cost.num import clip, maximum
from plandsl.ir.types import Number
from plandsl.spec.constants import ElementConstants
from plandsl.values import sum_up

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
"""Elements read and written per element of the ``rows x cols`` output; the row's dtype gives their size.

What all rows share (a norm's weights, rotary angles) is not counted. ``silu_and_mul`` reads gate and up, fused
additions read and write the residual, quantisation writes one byte for two, ``sampler`` reads logits.
"""

FLAT = ("gelu", "residual_add")
"""Operations whose kernels distribute single elements to units, not rows."""

EAGER = {"rope": (5, 9), "dropout_residual_layernorm": (3, 7), "rmsnorm": (5, 10), "silu_and_mul": (2, 5)}
"""Kernels, and elements moved per element of the output, of operations written out in eager PyTorch.

``rope``: a product with each of sine and cosine, half of the elements negated, the halves swapped, and a sum.
``dropout_residual_layernorm``: dropout, a sum and a norm. ``rmsnorm``: a square, its mean, two products and a cast.
"""

BLEND = 2.0
"""Exponent of `smooth_max` between two bounds."""

DRAW = 2e10
"""Bytes/s that one unit moves where ``unit`` is 1."""


def moved_bytes(op: str, rows: Number, cols: Number, item: float) -> Number:
    """Bytes moved for ``rows x cols`` outputs of ``item`` bytes; an unknown ``op`` reads and writes each once."""
    return sum_up(MOVED.get(op, (1, 1))) * item * rows * cols


def traffic_seconds(c: ElementConstants, bandwidth: float, moved: Number) -> Number:
    """Seconds of ``moved`` bytes alone, ``stream`` of `kernel_seconds`, of a kernel that is launched anyway."""
    stays = clip(2 - moved / c.cache, 0.0, 1.0)
    return moved / bandwidth * (stays / max(c.cached, c.memory) + (1 - stays) / c.memory)


def kernel_seconds(c: ElementConstants, units: int, bandwidth: float, moved: Number, row: Number) -> Number:
    """Seconds of a kernel that moves ``moved`` bytes, ``row`` of them in each row (0: the kernel has no rows).

        seconds = fixed + (stream^2 + walk^2)^(1/2)
        stream = moved / bandwidth * (stays / cached + (1 - stays) / memory)
                 or, if more, (moved / draw + rows * row) / units
        walk = row / draw

    ``stays = 2 - moved / cache``, within 0..1, is the share that the last-level cache still holds from the kernel
    before: all bytes of a tensor that fits, none of a tensor of twice its size. ``cached`` and ``memory`` are rates as
    shares of ``bandwidth`` (bytes/s); the cache is never slower than memory. One thread block on one unit works on a
    row. It moves ``draw = DRAW * unit`` bytes/s, whatever the memory, and spends ``c.row`` seconds more on every row.
    So a kernel takes at least as long as one row does, ``walk``. A roofline (Williams, Waterman and Patterson 2009)
    with a ceiling of the units; the constants are fitted.
    """
    stream = traffic_seconds(c, bandwidth, moved)
    draw = DRAW * c.unit
    blocks = moved / maximum(row, 1.0) * (row > 0)
    dealt = (moved / draw + blocks * c.row) / units
    return c.fixed + smooth_max(maximum(stream, dealt), row / draw, BLEND)
