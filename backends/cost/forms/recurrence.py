"""FLOPs and bytes of recurrences: scans of prompts in chunks, as the kernels of engines run them, and decode steps.

Where ranks share the positions of a prompt, each first computes what its block of positions does to a state, as fla's
`pre_process_fwd_kernel_merged` does (fla/ops/cp/chunk_delta_h.py). With the delta rule,

    FLOPs = 2 (2 n p + n^2 + n^3 / C),

and 2 n p without it, where A has one factor for each row.

All counts are for one head and one token. C is the length of a chunk, n and p are the sizes of a key and of a value.

A scan (Dao and Gu, "Transformers are SSMs", 2024, section 6; the kernels chunk_state, state_passing, bmm_chunk and
chunk_scan of mamba_ssm): scores in a chunk and their product with the values, the state of each chunk, and its product
with the queries,

    FLOPs = 2 (C n + C p + 2 n p)

The delta rule first solves a triangular system in each chunk (Yang et al., "Gated Delta Networks", 2025, and the six
kernels of fla's `chunk_gated_delta_rule_fwd`),

    FLOPs = 2 (3 C n + 2 C p + 3 n p)

Between kernels, what they make goes through the memory: the state of each chunk is written and read once (twice where a
kernel of its own adds them up), and for the delta rule the system of each chunk, its solution and the new values.
"""

from __future__ import annotations

from typing import NamedTuple

from plandsl.ir.types import Number

SCAN_SHARE = 0.4
"""The share of the memory bandwidth that kernels of a scan reach with this traffic.

On B200, fla's kernels take 1.492 ms for 8192 tokens of 96 heads with n = p = 128, and 0.774 ms for 4096 tokens
(flashinfer-ai/flashinfer, pull request 2742): 1.9 ns for each head and token, in which they move 5.1 kB.
"""

BAND = (0.4, 2.0)
"""The band of a recurrence's time: kernels that keep a chunk on the chip take 0.4 times as long there (the same table).

The upper end is assumed.
"""


class Shape(NamedTuple):
    """The sizes of a recurrence on one rank: ``heads`` heads in ``groups``, keys of ``n`` and values of ``p`` elements.

    ``item`` and ``state`` are the bytes of an element of the values and of the state.
    """

    heads: Number
    groups: Number
    n: Number
    p: Number
    chunk: int
    item: float
    state: float
    delta: bool


def scan_flops(s: Shape) -> Number:
    """FLOPs of a token of a prompt, over all heads of a rank."""
    a, b, c = (3, 2, 3) if s.delta else (1, 1, 2)
    return 2 * s.heads * (a * s.chunk * s.n + b * s.chunk * s.p + c * s.n * s.p)


def scan_bytes(s: Shape) -> Number:
    """Bytes of a token of a prompt that a scan's kernels move beside its operands and results.

    Delta rule: keys three more times, w and u (of n and p) written and read, new values written and read, states of
    chunks written and read, and 12 bytes for each element of the system. Otherwise: values and keys once more, states
    written and read twice, and 8 bytes for each score of a group.
    """
    states = s.n * s.p / s.chunk
    if s.delta:
        return s.heads * ((5 * s.n + 4 * s.p + 2 * states) * s.item + 12 * s.chunk)
    return s.heads * (s.p * s.item + 4 * states * s.state) + s.groups * (s.n * s.item + 8 * s.chunk)


def block_flops(s: Shape) -> Number:
    """FLOPs of a token of a prompt for what a block of positions does to a state, over all heads of a rank.

    The state of a chunk is a product of keys and values. With the delta rule it also takes in the state before the
    chunk, and the matrix of the block is multiplied by that of the chunk.
    """
    if not s.delta:
        return 2 * s.heads * s.n * s.p
    return 2 * s.heads * (2 * s.n * s.p + s.n * s.n + s.n**3 / s.chunk)


def block_bytes(s: Shape) -> Number:
    """Bytes of a token of a prompt beside operands: with the delta rule w (of n) is read, which the scan has made."""
    return s.heads * s.n * s.item if s.delta else 0.0


def block_step_flops(s: Shape) -> Number:
    """FLOPs of a token of a prompt where each element of a state decays by itself: it decays and takes in."""
    return 3 * s.heads * s.n * s.p


def step_flops(s: Shape) -> Number:
    """FLOPs of a token by itself: each element of the state decays, takes in and is read, for the delta rule twice."""
    return s.heads * s.n * s.p * (7 if s.delta else 5)


def kernels(s: Shape) -> int:
    """Kernels of a scan: with the delta rule, also two that divide queries and keys by their lengths."""
    return 8 if s.delta else 5
