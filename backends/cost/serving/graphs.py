"""Sizes of captured CUDA graphs, to which an engine pads its steps; larger steps run without a graph, as they are.

Sources: vLLM 0.33 (`config/vllm.py`), SGLang 0.5.23 (`arg_groups/memory_hook.py`), TensorRT-LLM 1.x (`CudaGraphConfig`
with `enable_padding`).
"""

from __future__ import annotations

from bisect import bisect_left
from typing import NamedTuple, assert_never

from plandsl.backends.cost.deployments.server import Server
from plandsl.spec.scheduler import SchedulerName

GIB = 2**30

MOST_BY_MEMORY = ((20, 8, 8), (35, 48, 160), (60, 32, 160), (160, 256, 512))
"""SGLang: GPUs below so many GiB -> the largest graph on fewer than four ranks, and on more; else `LARGEST`."""

LARGEST = 512


class Graphs(NamedTuple):
    """Sizes of graphs in the order of size: ``decodes`` in requests of steps that only decode, ``mixed`` in tokens."""

    decodes: tuple[int, ...] = ()
    mixed: tuple[int, ...] = ()

    def padding(self, decodes: int, prompt_tokens: int, queries: int) -> int:
        """How many requests a step with ``decodes`` requests has in addition, which are of nobody."""
        if not decodes:
            return 0
        if not prompt_tokens:
            return _next_size(self.decodes, decodes) - decodes
        tokens = prompt_tokens + decodes * queries
        return (_next_size(self.mixed, tokens) - tokens) // queries


def _next_size(sizes: tuple[int, ...], number: int) -> int:
    at = bisect_left(sizes, number)
    return sizes[at] if at < len(sizes) else number


def graphs_of(server: Server) -> Graphs:
    """The graphs of a server's engine. vLLM counts tokens and pads mixed steps too, the others count requests."""
    engine, queries = server.plan.effective_engine, int(server.queries)
    asked = engine.scheduler.graphs
    sizes = asked if isinstance(asked, tuple) else _named(asked, server, queries)
    if engine.scheduler_name != "vllm":
        return Graphs(sizes)
    return Graphs(tuple(sorted({-(-size // queries) for size in sizes})), sizes)


def _named(name: SchedulerName, server: Server, queries: int) -> tuple[int, ...]:
    plan, engine = server.plan, server.plan.effective_engine
    match name:
        case "vllm":
            most = min(engine.max_requests * queries * 2, LARGEST, engine.step_tokens)
            return tuple(size for size in (1, 2, 4, *range(8, 256, 8), *range(256, most + 1, 16)) if size <= most)
        case "sglang":
            ranks = plan.sharding.ranks // plan.sharding.replicas
            memory = min(kind.node.gpu.memory for kind in plan.kinds) / GIB
            known = (few if ranks < 4 else many for below, few, many in MOST_BY_MEMORY if memory < below)
            most = min(next(known, LARGEST), engine.max_requests)
            if queries == 1:
                steps = (1, 2, 4, *range(8, 17, 4), *range(24, 257, 8), *range(272, 497, 16))
            else:
                steps = (*range(1, 9), *range(10, 33, 2), *range(40, 65, 4), *range(72, 257, 8), *range(272, 497, 16))
            return tuple(size for size in (*steps, LARGEST) if size <= most)
        case "trtllm":
            return tuple(size for size in (1, 2, 4, *range(8, 129, 8)) if size <= engine.max_requests)
        case _:
            assert_never(name)
