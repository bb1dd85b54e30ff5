"""The fitted form of multi-head latent attention.

In prefill each head has keys of its own, in decode all heads read one latent vector per token.
"""

from __future__ import annotations

from plandsl.backends.cost.forms.attention import DRAW_BLEND, TILE, Chip, Heads, prefill_seconds
from plandsl.backends.cost.forms.gemm import smooth_max
from plandsl.backends.cost.num import ceil_div, maximum, minimum, where
from plandsl.ir.types import Number
from plandsl.spec.constants import MlaDecodeConstants, MlaPrefillConstants, PrefillConstants

KEY, VALUE = 192, 128
"""Dimensions of a head's keys (128, and 64 with a position) and values once they are unpacked (DeepSeek-V2, 2024)."""

LATENT, LATENT_VALUE = 576, 512
"""Elements that the cache holds for a token: 512 for all keys and values, and 64 with a position."""

RESULT = 2.0  # bytes of an element of the result, whatever is multiplied

ROWS = 64
"""Query heads of a tile: the rows of one matrix instruction of a Hopper GPU's warp group."""

FEW, FEW_ROWS = 32, 16
"""Up to `FEW` heads, kernels take tiles of `FEW_ROWS` heads, and each tile reads the cache."""


def mla_prefill_seconds(
    c: MlaPrefillConstants, chip: Chip, heads: Number, batch: Number, position: Number, context: Number,
    item: float, cache_item: float,
) -> Number:  # fmt: skip
    """Seconds of causal attention of ``heads`` heads on unpacked keys and values, and of filling the cache.

    The time is `prefill_seconds`, where each head has its own 192 + 128 elements per token, of ``item`` bytes, plus

        written = batch position 576 (item + cache_item) / (bandwidth * write)

    for the latent vectors of the new tokens. Source: DeepSeek-V2 technical report, 2024, section 2.1.
    """
    shape = Heads(heads, heads, (KEY + VALUE) / 2, heads * (KEY * item + VALUE * RESULT), heads * (KEY + VALUE) * item)
    own = PrefillConstants(*c[:-2], packed=1.0, write=c.write)  # no two heads share keys
    time = prefill_seconds(own, chip, shape, batch, position, context=context)
    return time + batch * position * LATENT * (item + cache_item) / (chip.bandwidth * c.write)


def mla_decode_seconds(
    c: MlaDecodeConstants, chip: Chip, heads: Number, batch: Number, context: Number, item: float, cache_item: float
) -> Number:
    """Seconds of absorbed attention of one query of ``heads`` heads in each of ``batch`` sequences.

    All heads share one KV head of 576 elements of ``cache_item`` bytes, 512 of which are the values too. A sequence has
    ``t`` tasks: one for each 16 heads where there are at most 32 heads, else one for each 64 heads. A task takes
    ``step`` seconds on its unit. Each task but the first reads the share ``again`` of the keys from memory once more;
    the cache of the GPU has the rest. Arithmetic is counted in tiles of 64 rows, at ``peak * compute``. The context is
    split over idle units, into ``parts`` at most (Flash-Decoding; a kernel that never splits has 1), and adding the
    parts up takes ``split`` seconds:

        work    = batch (step t / units + 2 (576 + 512) 64 ceil(heads / 64) keys / (peak * compute))
        memory  = batch (576 keys cache_item (1 + again (t - 1)) + queries and results) / (bandwidth * memory)
        alone   = keys of one unit * 576 cache_item / (bandwidth * memory * draw / units)
        seconds = fixed + split (1 - 128 / max(keys, 128)) + smooth_max(work, memory, alone)

    With many heads the time is a constant share of ``peak``, with few heads of ``bandwidth``.
    Source: DeepSeek-V2 technical report, 2024, section 2.1, and FlashMLA.
    """
    wide = ceil_div(heads, ROWS)
    tiles = where(heads <= FEW, ceil_div(heads, FEW_ROWS), wide)
    tasks = batch * tiles
    arithmetic = 2.0 * (LATENT + LATENT_VALUE) * ROWS * wide * batch * context / (chip.peak * c.compute)
    work = c.step * tasks / chip.units + arithmetic
    rate = chip.bandwidth * c.memory
    key = LATENT * cache_item
    query = heads * (LATENT * item + LATENT_VALUE * RESULT)
    memory = batch * (context * key * (1 + c.again * (tiles - 1)) + query) / rate
    own = maximum(minimum(context, TILE), maximum(context / c.parts, context * tasks / chip.units))
    alone = own * key / (rate * c.draw / chip.units)
    added = c.split * (1 - TILE / maximum(context, TILE))
    return c.fixed + added + smooth_max(smooth_max(work, memory, c.blend), alone, DRAW_BLEND)
