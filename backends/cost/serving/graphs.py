"""Sizes of captured CUDA graphs, to which an engine pads its steps; larger steps run without a graph, as they are.

Sources: vLLM 0.33 (`config/vllm.py`), SGLang 0.5.23 (`arg_groups/memory_hook.py`), TensorRT-LLM 1.x (`CudaGraphConfig`
with `enable_padding`).
"""

from __future__ import annotations

from bisect import bisect_left
from typing import NamedTuple, assert_never

from plandsl.backends.cost.deployments.server import Server
from plandsl.spec.hardware import EngineSpec
from plandsl.spec.plan import PlanSpec
from plandsl.spec.scheduler import SchedulerName

GIB = 2**30

MOST_BY_MEMORY = ((20, 8, 8), (35, 48, 160), (60, 32, 160), (160, 256, 512))
"""SGLang: GPUs below so many GiB -> the largest graph on fewer than four ranks, and on more; else `LARGEST`."""

LARGEST, LARGEST_BLACKWELL = 512, 1024
"""The largest graph of vLLM, in tokens, and that on a data-centre Blackwell GPU; of SGLang the first, in requests."""

BLACKWELL = ("b200", "b300", "gb200", "gb300")
"""How the names of those GPUs begin."""


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
    plan, engine, queries = server.plan, server.plan.effective_engine, int(server.queries)
    asked = engine.scheduler.graphs
    sizes = asked if isinstance(asked, tuple) else _named_sizes(asked, plan, queries)
    if engine.scheduler_name != "vllm":
        return Graphs(sizes)
    if asked != "vllm":
        return Graphs(tuple(sorted({-(-size // queries) for size in sizes})), sizes)
    return Graphs(tuple(size // queries for size in sizes if size % queries == 0), sizes)


def _named_sizes(name: SchedulerName, plan: PlanSpec, queries: int) -> tuple[int, ...]:
    engine = plan.effective_engine
    match name:
        case "vllm":
            wide = all(kind.node.gpu.name.startswith(BLACKWELL) for kind in plan.kinds)
            return _vllm_sizes(engine, queries, LARGEST_BLACKWELL if wide else LARGEST)
        case "sglang":
            ranks = plan.sharding.ranks // plan.sharding.replicas
            memory = min(kind.node.gpu.reported_memory for kind in plan.kinds) / GIB
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


def _vllm_sizes(engine: EngineSpec, queries: int, ceiling: int) -> tuple[int, ...]:
    """Tokens of vLLM's graphs: steps of 8, from 256 on of 16; the budget; and as many decodes as may run.

    With guesses, the same sizes in requests besides, of ``queries`` tokens each: decodes alone have only such graphs.
    """
    budget, running = engine.step_tokens, engine.max_requests
    most = min(running * queries * 2, ceiling)
    decodes = (*_steps_to(min(running, ceiling)), min(running, ceiling)) if queries > 1 else (running,)
    own = [queries * n for n in decodes if queries * n <= min(most, budget)]
    return tuple(sorted({*_steps_to(min(most, budget)), *own, *([budget] if budget <= most else [])}))


def _steps_to(most: int) -> tuple[int, ...]:
    return tuple(size for size in (1, 2, 4, *range(8, 256, 8), *range(256, most + 1, 16)) if size <= most)
