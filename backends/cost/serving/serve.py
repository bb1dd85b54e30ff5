"""From a deployment to the servers of a simulation: the policy of its engine, its memory in blocks, its clock."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, assert_never

import numpy as np

from plandsl import limits
from plandsl.backends.cost.deployments.batch import resident_tokens
from plandsl.backends.cost.deployments.replicas import Replicas
from plandsl.backends.cost.deployments.server import Server
from plandsl.backends.cost.deployments.transfer import Transfer
from plandsl.backends.cost.serving.clock import Clock, step_clock
from plandsl.backends.cost.serving.pools import Moves, Side, time_moves
from plandsl.backends.cost.serving.records import Records
from plandsl.backends.cost.serving.replica import Adapters, Worker
from plandsl.backends.cost.serving.requests import Closed, Ints, Requests, shares_blocks
from plandsl.backends.cost.serving.scheduler import Policy
from plandsl.backends.cost.serving.sglang import Sglang
from plandsl.backends.cost.serving.simulate import simulate
from plandsl.backends.cost.serving.tiers import LOADING, OWN_WRITE, Tier, Tiers
from plandsl.backends.cost.serving.trtllm import Trtllm
from plandsl.backends.cost.serving.vllm import Vllm
from plandsl.spec.model import ADAPTERS
from plandsl.spec.plan import SplitSpec
from plandsl.spec.scheduler import RouterName, SchedulerName

SPREAD: dict[SchedulerName, RouterName] = {"vllm": "least_loaded", "sglang": "round_robin", "trtllm": "least_loaded"}
"""How each engine deals requests to ranks that share them."""

RANKS = 0.3
"""SGLang's factor of `schedule-conservativeness` where ranks share requests."""


def policy(name: SchedulerName, server: Server) -> Policy:
    """The scheduler ``name`` with the limits of the server's plan and its engine, the others by default.

    A step has ``chunked_prefill`` tokens on each rank that shares requests, or the engine's ``step_tokens``. SGLang
    divides the latter by the number of ranks, and its conservativeness by 10 / 3.
    """
    plan, engine, ways = server.plan, server.plan.effective_engine, int(server.main.ways)
    budget = plan.chunked_prefill or engine.step_tokens
    own: dict[str, Any] = dict(engine.scheduler.limits) if engine.scheduler_name == name else {}
    match name:
        case "vllm":
            lookahead = int(server.queries) - 1 if server.guesses and server.guesses.draft else 0
            return Vllm(budget, engine.max_requests, lookahead=lookahead, **own)
        case "sglang":
            if ways > 1:
                budget = plan.chunked_prefill or max(engine.step_tokens // ways, 1)
                own["conservativeness"] = RANKS * own.get("conservativeness", 1.0)
            return Sglang(chunk=budget, max_running=engine.max_requests, **own)
        case "trtllm":
            own.setdefault("chunked", plan.chunked_prefill is not None)
            return Trtllm(budget, engine.max_requests, **own)
        case _:
            assert_never(name)


def blocks(server: Server, length: int, input_: int) -> int:
    """Blocks of KV memory beside weights and the largest step, over all ranks that share requests.

    A request of ``length`` tokens, ``input_`` of them its prompt, settles what a token takes: only of caches with a
    window, and of states of fixed size, does it depend on the length, and is a mean.
    """
    engine = server.plan.effective_engine
    if server.plan.workload.encodes and not any(server.memory.caches):  # nothing is kept: steps alone bound a batch
        return limits.MAX_DIMENSION
    most = min(engine.max_requests, engine.step_tokens) * int(server.main.ways)
    _, rounds = resident_tokens(server, input_, length - input_, ongoing=True)
    return int(server.memory.kv_capacity(most, length, input_, rounds)) // engine.kv_block


def worker(
    server: Server,
    requests: Requests,
    scheduler: Policy | SchedulerName,
    caching: bool | None = None,
    clock: Clock | None = None,
) -> Worker:
    """A server of a deployment, as a simulation of ``requests`` has it: their mean lengths settle its blocks.

    ``caching``: None is what the engine says. ``clock``: None makes one; runs with the same server can share it.
    """
    engine = server.plan.effective_engine
    input_, output = (max(int(np.mean(lengths)), 1) for lengths in (requests.input, requests.output))
    return Worker(
        policy=policy(scheduler, server) if isinstance(scheduler, str) else scheduler,
        clock=step_clock(server) if clock is None else clock,
        blocks=blocks(server, input_ + output, input_),
        block=engine.kv_block,
        caching=engine.scheduler.prefix_cache if caching is None else caching,
        in_flight=server.in_flight,
        acceptance=server.guesses.spec.acceptance if server.guesses else (),
        ranks=int(server.main.ways),
        spread=SPREAD[engine.scheduler_name],
        tiers=tiers(server, input_ + output),
        adapters=adapters(server, requests.adapter),
        shared=shares_blocks(requests),
    )


def tiers(server: Server, length: int) -> Tiers | None:
    """Tiers of KV memory as blocks of requests of ``length`` tokens; None where there are none, or nothing to keep."""
    engine = server.plan.effective_engine
    size = block_bytes(server, length)
    if not engine.scheduler.tiers or not size:
        return None
    name = engine.scheduler_name
    return Tiers(
        tuple(Tier(int(t.memory / size), size / t.bandwidth, t.latency) for t in engine.scheduler.tiers),
        engine.scheduler.write or OWN_WRITE[name],
        LOADING[name],
        prompts=name == "vllm",
    )


def adapters(server: Server, named: Ints | None) -> Adapters | None:
    """The adapters of a server's GPUs; None where requests name none. The stage that loads the most bytes counts."""
    plan, memory = server.plan, server.memory.main
    if named is None:
        return None
    lora = plan.model.lora
    assert lora is not None, "E535 refuses the plan"
    assert lora.host_bandwidth is not None, "E535 refuses the plan"
    slots = plan.model.size(ADAPTERS)
    own = max(float(held) for held in server.memory.adapters) / slots
    return Adapters(
        slots,
        lora.load_time + own / lora.host_bandwidth,
        lora.host_adapters,
        disk_s=float(memory.whole_adapter()) / lora.disk_bandwidth if lora.disk_bandwidth else 0.0,
        base=plan.effective_engine.scheduler_name == "sglang",
    )


def block_bytes(server: Server, length: int) -> float:
    """Bytes of a block on a GPU of the stage that keeps the most, as of a request of ``length`` tokens."""
    memory, block = server.memory, server.plan.effective_engine.kv_block
    blocks = -(-length // block)
    return max(float(memory.kv_per_request(stage, blocks * block)) for stage in memory.distinct) / blocks


def sides(pools: Sequence[Replicas], requests: Requests, clocks: Sequence[Clock]) -> tuple[Side, Side]:
    """The servers of two pools. Where requests decode, nothing is known of prompts, as in SGLang."""
    prefill, decode = pools
    workers = [
        worker(pool.one, requests, pool.plan.effective_engine.scheduler_name, caching=caching, clock=clock)
        for pool, caching, clock in zip(pools, (None, False), clocks, strict=True)
    ]
    return Side(workers[:1] * prefill.n, prefill.plan.router), Side(workers[1:] * decode.n, decode.plan.router)


def moves(split: SplitSpec, pools: Sequence[Replicas], requests: Requests) -> Moves:
    """How caches travel between two pools; SGLang asks for room before the prefill."""
    prefill, decode = pools
    early = decode.plan.effective_engine.scheduler_name == "sglang"
    return time_moves(Transfer(split, prefill.memory, decode.memory), prefill, requests, early)


def serve(
    deployment: Replicas,
    requests: Requests,
    scheduler: Policy | SchedulerName,
    closed: Closed | None = None,
    router: RouterName = "round_robin",
    caching: bool | None = None,
    seed: int = 0,
) -> Records:
    """What becomes of ``requests`` on a deployment whose servers run prefill and decode alike."""
    one = worker(deployment.one, requests, scheduler, caching)
    return simulate([one] * deployment.n, requests, closed, by=router, seed=seed)
