"""The share of a GPU's memory that an engine uses where neither the plan nor the engine states it."""

from __future__ import annotations

from bisect import bisect_right
from typing import NamedTuple

from plandsl.spec.hardware import EngineSpec

MIB = 2**20


class Tier(NamedTuple):
    """SGLang's defaults for GPUs of some size: requests of the largest decode graph below tp 4, and from there on."""

    graphs: int
    graphs_wide: int


BOUNDS = tuple(gib * 2**30 for gib in (20, 35, 60, 160))
TIERS = (Tier(8, 8), Tier(48, 160), Tier(32, 160), Tier(256, 512), Tier(512, 512))
"""SGLang's defaults below each of `BOUNDS` (bytes of a GPU), and above the last one.

Source: sglang 0.5.23, `arg_groups/memory_hook.py`.
"""


def default_fraction(engine: EngineSpec, memory: float, ranks: int, chunk: int, latent: bool = False) -> float:
    """The share of ``memory``, the bytes that a driver reports, which ``engine`` uses by default on ``ranks`` GPUs.

    1 but for engines with ``fraction_of = free_before``, which follow SGLang's formula for `mem_fraction_static`, in
    MiB, rounded to three digits:

        (memory - reserved) / memory
        reserved = 512 + 1.5 max(chunk, 2048) + 128 ranks + graphs,    at least 10240 where memory > 60 GiB
        graphs   = 2 largest decode batch + 8 prefill graphs           (latent attention: 1536 for prefill graphs)

    ``chunk`` is the tokens of a step. Source: sglang 0.5.23, `arg_groups/memory_hook.py`. The part for attention data
    parallelism is left out.
    """
    if engine.fraction_of != "free_before":
        return 1.0
    tier = TIERS[bisect_right(BOUNDS, memory)]
    batch = min(tier.graphs if ranks < 4 else tier.graphs_wide, engine.max_requests)
    graphs = 2 * batch + (1536 if latent else 8 * prefill_graphs(chunk))
    reserved = 512 + 1.5 * max(chunk, 2048) + 128 * ranks + graphs
    if memory > 60 * 2**30:
        reserved = max(reserved, 10_240)
    return max(round(1 - reserved * MIB / memory, 3), 0.001)


def prefill_graphs(chunk: int) -> int:
    """How many sizes of prefill graphs SGLang captures up to ``chunk`` tokens.

    4 to 32 by 4, to 256 by 16, to 512 by 32, to 1024 by 64, to 4096 by 256, then by 512
    (`piecewise_cuda_graph_tokens` in logs of servers).
    """
    steps = ((4, 33, 4), (48, 257, 16), (288, 513, 32), (576, 1025, 64), (1280, 4097, 256), (4608, chunk + 1, 512))
    return sum(size <= chunk for step in steps for size in range(*step))
