"""The fitted form of attention: tiles of queries in prefill, reads of the KV cache in decode."""

from typing import NamedTuple

from plandsl.backends.cost.forms.gemm import smooth_max
from plandsl.backends.cost.num import ceil_div, clip, floor, maximum, minimum, where
from plandsl.ir.types import Number
from plandsl.spec.constants import DecodeConstants, MixedConstants, PrefillConstants

TILE = 128
"""Rows of a tile in prefill (queries of one head, or of all heads that share a KV head), and keys of a block."""

LEAST_ROWS = 32
"""The fewest rows that a tile is padded to."""

GROUP = 16
"""Query heads of one KV head that a tile of decode holds: the rows of one matrix instruction."""

DRAW_BLEND = 3.0  # `smooth_max` between the limit of one unit and that of all units; the same in every calibration


class Heads(NamedTuple):
    """Heads of one rank.

    ``head_dim`` is the mean of the dimensions of K and V. ``query_bytes`` are the bytes of one query and its result,
    ``key_bytes`` the bytes of one key and its value, each over all heads.
    """

    heads: Number
    kv_heads: Number
    head_dim: Number
    query_bytes: Number
    key_bytes: Number

    def times(self, queries: Number) -> "Heads":
        """The heads that several ``queries`` of a request are to a kernel of decode: all that share a KV head are rows.

        FlashAttention-3 and FlashInfer pack queries into the rows of a tile so. The constants were fitted to one query.
        """
        return self._replace(heads=self.heads * queries, query_bytes=self.query_bytes * queries)


class Chip(NamedTuple):
    """SMs or CUs, matrix FLOP/s in the dtype that multiplies, and memory bytes/s: all as published."""

    units: int
    peak: float
    bandwidth: float


def visible_pairs(
    position: Number, context: Number, causal: Number, window: Number, chunk: int | None = None
) -> Number:
    """Pairs of query and key for the last ``position`` of ``context`` tokens.

    Query i of 0..context sees ``min(i + 1, window)`` keys when causal, else as many as the window or the context
    has; a ``window`` of 0 is none. With a ``chunk`` it sees ``i mod chunk + 1``, else as many as its chunk has.
    """
    if chunk is not None:
        return _pairs_in_chunks(position, context, causal, chunk)
    seen = _visible_keys(context, window)
    if isinstance(position, int) and position == 1:  # in decode contexts may lie between tokens
        return seen
    before = context - position
    full = clip(where(window > 0, window, context) - before, 0, position)
    pairs = full * before + full * (full + 1) / 2 + (position - full) * seen
    return where(causal, pairs, position * seen)


def running_keys(context: Number, chunk: int) -> Number:
    """Keys that the last query sees of its chunk: 1 to ``chunk``.

    Between tokens it is linear, and it drops half a token behind the last token of a chunk. So the mean over the
    interval of half a token on both sides of a token is the value at that token.
    """
    return (context - 0.5) % chunk + 0.5


def chunk_keys(position: Number, context: Number, chunk: int) -> Number:
    """Keys that any of the last ``position`` of ``context`` tokens sees: from the first one's chunk on."""
    return context - floor((context - position + 0.5) / chunk) * chunk


def _pairs_in_chunks(position: Number, context: Number, causal: Number, chunk: int) -> Number:
    """A causal prefill of n tokens has ``n // chunk`` full triangles, and one of ``n mod chunk`` tokens."""
    if isinstance(position, int) and position == 1:
        return running_keys(context, chunk)
    last = context % chunk
    ends = minimum(position, last)  # queries of the chunk that is not full
    pairs = _triangle_pairs(context, chunk) - _triangle_pairs(context - position, chunk)
    return where(causal, pairs, (position - ends) * chunk + ends * last)


def _triangle_pairs(tokens: Number, chunk: int) -> Number:
    last = tokens % chunk
    return floor(tokens / chunk) * (chunk * (chunk + 1) / 2) + last * (last + 1) / 2


def prefill_seconds(
    c: PrefillConstants, chip: Chip, shape: Heads, batch: Number, position: Number, context: Number,
    causal: Number = True, window: Number = 0, chunk: int | None = None,
) -> Number:  # fmt: skip
    """Seconds of attention of ``batch`` sequences, each the last ``position`` of ``context`` tokens.

    Queries stand in tiles of 128 rows. Where a kernel packs the g heads that share a KV head (FlashAttention-3,
    FlashInfer) a sequence has ``ceil(position g / 128)`` tiles for each KV head, else ``g ceil(position / 128)``.
    ``packed`` is the share of kernels that pack, from 0 to 1. A tile takes ``step`` seconds
    and ``4 head_dim`` FLOPs per row and key, padded rows and half a block at the diagonal included, at

        peak / units * compute * head_dim / (head_dim + half_dim)

    FLOP/s: softmax of a pair of query and key takes as long as ``half_dim`` elements of the product, whatever the
    head dimension is. List scheduling of unequal tiles takes at most the mean load of a unit plus the longest tile
    (Graham 1969), of which the share ``tail`` is added:

        seconds = fixed + smooth_max(sum of tiles / units + tail * longest tile, moved / (bandwidth * memory))

    ``moved`` is queries, results and visible keys and values once. Large sizes reach a constant share of ``peak``.
    """
    group = shape.heads / shape.kv_heads
    packed = min(c.packed, 1.0)
    count, pairs = _tiles(position, context, group, causal, window, packed=packed, chunk=chunk)
    height = clip(position * (1 + packed * (group - 1)), LEAST_ROWS, TILE)
    rate = chip.peak / chip.units * c.compute * shape.head_dim / (shape.head_dim + c.half_dim)
    per_pair = 4.0 * shape.head_dim / rate
    share = batch * (shape.kv_heads * count * c.step + shape.heads * pairs * per_pair) / chip.units
    reach = where(window > 0, minimum(context, window + TILE), context)
    keys = where(window > 0, minimum(context, window + position), context)
    if chunk is not None:
        reach, keys = minimum(context, chunk), chunk_keys(position, context, chunk)
    longest = c.step + height * reach * per_pair
    moved = batch * (position * shape.query_bytes + keys * shape.key_bytes)
    memory = moved / (chip.bandwidth * c.memory)
    return c.fixed + smooth_max(share + c.tail * longest, memory, c.blend)


def decode_seconds(
    c: DecodeConstants, chip: Chip, shape: Heads, batch: Number, context: Number, window: Number = 0,
    divides: bool = True, warm: bool = False,
) -> Number:  # fmt: skip
    """Seconds of attention of one query in each of ``batch`` sequences over ``context`` keys.

    There are ``n = batch kv_heads ceil(g / 16)`` tasks of up to 16 of the g query heads that share a KV head, and
    each takes ``step`` seconds on its unit. Arithmetic is that of whole tiles at ``peak * compute``. Where tasks
    do not fill the GPU, the context is split into blocks of 128 keys at least (Flash-Decoding), so that one unit
    reads ``max(min(keys, 128), keys n / units)`` keys, and a unit draws up to ``draw`` times its share of the
    bandwidth; adding the parts up costs ``split`` seconds.

        work    = step n / units + arithmetic
        memory  = (all visible keys and values + queries and results) / (bandwidth * memory)
        alone   = keys of one unit * bytes of a key / (bandwidth * memory * draw / units)
        seconds = fixed + split (1 - 128 / max(keys, 128)) + smooth_max(work, memory, alone)

    Without ``divides`` there is a task for every query head, which reads all keys by itself. A ``warm`` call repeats
    the call before it, as benchmarks do and engines do not: the share ``stays = 2 - bytes / cache``, within 0..1, of
    keys and values is read ``cached`` times as fast, from the last-level cache as in `kernel_seconds`. Large batches
    and contexts reach a constant share of ``bandwidth``, or of ``peak`` where groups are large.
    """
    keys = _visible_keys(context, window)
    group = shape.heads / shape.kv_heads
    tiles = ceil_div(group, GROUP) if divides else group
    tasks = batch * shape.kv_heads * tiles
    arithmetic = 4.0 * GROUP * shape.head_dim * tasks * keys / (chip.peak * c.compute)
    work = c.step * tasks / chip.units + arithmetic
    rate = chip.bandwidth * c.memory
    held = batch * keys * shape.key_bytes
    stays = clip(2 - held / c.cache, 0, 1) if warm else 0
    slow = 1 - stays + stays / maximum(c.cached, 1) if warm else 1
    memory = (held * slow + batch * shape.query_bytes) / rate
    own = maximum(minimum(keys, TILE) if divides else keys, keys * tasks / chip.units)
    alone = own * (shape.key_bytes / shape.kv_heads) * slow / (rate * c.draw / chip.units)
    parts = c.split * (1 - TILE / maximum(keys, TILE))
    return c.fixed + parts + smooth_max(smooth_max(work, memory, c.blend), alone, DRAW_BLEND)


def mixed_seconds(
    c: MixedConstants, chip: Chip, shape: Heads, chunk: Number, before: Number, decodes: Number, context: Number
) -> Number:
    """Seconds of one call with ``chunk`` queries of a prompt behind ``before`` keys, and ``decodes`` queries more.

    Each of the latter sees ``context`` keys. Without a chunk the time is `decode_seconds`. With one, decodes run in the
    kernel of prefill: no context is split, a query head of a decode is a task padded to ``rows`` queries, and the
    longest context bounds the call:

        work    = (step tasks + 4 head_dim heads (pairs of the chunk + rows decodes context) / rate) / units
        memory  = (queries, results, keys and values + those read again) / (bandwidth * memory)
        alone   = longest context * bytes of a key / (bandwidth * memory * draw / units)
        seconds = fixed + smooth_max(work, memory, alone)

    with the chunk's tiles and ``rate`` as in `prefill_seconds`. Of the g query heads that share a KV head only
    ``units / decodes`` run at a time. The others read its keys again: the share ``s / (s + cache)`` of them, where
    ``s`` is the bytes of all decodes' keys. Source: launch order of FlashAttention-2 (tiles, sequences, then heads).
    """
    lone = decode_seconds(_decode_constants(c), chip, shape, maximum(decodes, 1), context)
    group = shape.heads / shape.kv_heads
    queries = maximum(chunk, 1)
    tiles, pairs = _tiles(queries, before + queries, group, True, 0)
    rate = chip.peak * c.compute * shape.head_dim / (shape.head_dim + c.half_dim)
    tasks = shape.kv_heads * tiles + shape.heads * decodes
    flops = 4.0 * shape.head_dim * shape.heads * (pairs + c.rows * decodes * context)
    work = c.step * tasks / chip.units + flops / rate
    held = decodes * context * shape.key_bytes
    again = group / clip(chip.units / maximum(decodes, 1), 1, group) - 1
    again = again * held / (held + c.cache * shape.kv_heads)
    bandwidth = chip.bandwidth * c.memory
    read = (before + queries) * shape.key_bytes + held * (1 + again)
    memory = ((queries + decodes) * shape.query_bytes + read) / bandwidth
    longest = maximum(before + queries, where(decodes > 0, context, 0))
    alone = longest * shape.key_bytes / shape.kv_heads / (bandwidth * c.draw / chip.units)
    together = c.fixed + smooth_max(smooth_max(work, memory, c.blend), alone, DRAW_BLEND)
    return where(chunk > 0, together, lone)


def _decode_constants(c: MixedConstants) -> DecodeConstants:
    """The constants of a call without a chunk, which finds nothing in the last-level cache."""
    return DecodeConstants(*c[:7], cache=c.cache, cached=1.0)


def _tiles(
    position: Number,
    context: Number,
    group: Number,
    causal: Number,
    window: Number,
    packed: float = 1.0,
    chunk: int | None = None,
) -> tuple[Number, Number]:
    """Tiles of one KV head in prefill, and pairs of query and key of one query head, padding included."""
    count, padded = _padded_tiles(position, group)
    if packed < 1:
        alone, rows = _padded_tiles(position, 1)
        count = packed * count + (1 - packed) * group * alone
        padded = packed * padded + (1 - packed) * rows
    pairs = visible_pairs(position, context, causal, window, chunk) * maximum(padded / position, 1)
    return count, pairs + where(causal, padded * (TILE / 2), 0.0)


def _padded_tiles(position: Number, group: Number) -> tuple[Number, Number]:
    """Tiles that hold the queries of ``group`` heads, and queries of one head, padding included."""
    count = ceil_div(position * group, TILE)
    return count, count * clip(position * group, LEAST_ROWS, TILE) / group


def _visible_keys(context: Number, window: Number) -> Number:
    """Keys that the last query sees."""
    return where(window > 0, minimum(context, window), context)
