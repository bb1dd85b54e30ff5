"""KV memory in blocks of layer groups, and the tokens that an engine's log says it holds.

Source: vLLM 0.33, `v1/core/kv_cache_utils.py` and `kv_cache_planning.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from plandsl import limits
from plandsl.backends.cost.num import ceil_div, floor, largest, maximum, minimum
from plandsl.ir.types import Number
from plandsl.values import sum_up


class Layers(NamedTuple):
    """``number`` layers with one ``window`` (0: none), and the ``bytes`` that a token takes in all of them on a GPU.

    ``ways`` ranks share the tokens of a request. A request keeps ``states`` states in each layer with a state, each in
    a block; ``bytes`` is then a block's share for a token.
    """

    window: int
    number: int
    bytes: Number
    ways: Number
    states: Number = 0


def group_layers(layers: Sequence[Layers]) -> tuple[list[int], Number]:
    """The number of groups of each of ``layers``, and the bytes that a token takes in the layers of one group.

    Groups have equally many layers: as many as the smallest kind has, or as the largest one has if it is less than
    1.25 times as large. Where a kind does not fill its groups, the rest is padding. All kinds share one pool of blocks,
    so that a group takes as much as the widest one.
    """
    if len(layers) == 1 or (len({one.window for one in layers}) == 1 and not any(_has_states(layers))):
        return [1] + [0] * (len(layers) - 1), sum_up(one.bytes for one in layers)
    least, most = min(one.number for one in layers), max(one.number for one in layers)
    size = most if most < 1.25 * least else least
    return [-(-one.number // size) for one in layers], largest([one.bytes / one.number * size for one in layers])


def _has_states(layers: Sequence[Layers]) -> list[bool]:
    return [not isinstance(one.states, int) or one.states > 0 for one in layers]


def request_blocks(layers: Sequence[Layers], groups: Sequence[int], block: int, length: Number, step: int) -> Number:
    """Blocks of all groups that the engine counts for a request of ``length`` tokens.

    Layers with a state keep their states alone. Layers with a window keep at most the window and the tokens of a step,
    from anywhere in a block.
    """
    total: Number = 0
    for one, count, state in zip(layers, groups, _has_states(layers), strict=True):
        if state:
            total = total + count * one.states
            continue
        blocks = ceil_div(length, block * one.ways)
        if one.window:
            blocks = minimum(blocks, ceil_div(one.window - 1 + step, block) + 1)
        total = total + count * blocks
    return total


def count_tokens(layers: Sequence[Layers], pool: Number, block: int, longest: Number, step: int) -> Number:
    """Tokens in a pool of ``pool`` bytes as the log of an engine says, where requests have up to ``longest`` tokens.

        tokens = longest * (blocks in the pool / blocks of a request with `longest` tokens)

    in whole blocks of ``block`` tokens. With windows and states it depends on ``longest``, which counts as no less than
    a step. Two logs of a model with states confirm it to the token (benchmarks/field, case 14): there ``longest``
    counts as it is, with windows alone in whole blocks.
    """
    groups, bytes_ = group_layers(layers)
    blocks, ways = floor(pool / (bytes_ * block)), layers[0].ways
    if not any(one.window for one in layers) and not any(_has_states(layers)):
        return blocks * block * ways
    length = maximum(longest, step)
    if not any(_has_states(layers)):
        length = ceil_div(length, block * ways) * block * ways
    return floor(blocks * length / request_blocks(layers, groups, block, length, step))


def find_longest(layers: Sequence[Layers], pool: Number, block: int, step: int) -> int:
    """The most tokens of one request that a pool of ``pool`` bytes holds."""
    groups, bytes_ = group_layers(layers)
    blocks, ways = int(pool // (bytes_ * block)), int(layers[0].ways)
    low, high = 0, limits.MAX_DIMENSION // (block * ways) + 1  # with windows everywhere a request may have any length
    while high - low > 1:
        middle = (low + high) // 2
        fits = request_blocks(layers, groups, block, middle * block * ways, step) <= blocks
        low, high = (middle, high) if fits else (low, middle)
    return low * block * ways
