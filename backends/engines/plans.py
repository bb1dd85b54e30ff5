"""From a compiled plan to its `Deployment`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from plandsl.answers.estimate import Estimate
from plandsl.backends.engines.degrees import check_vocab, read_degrees
from plandsl.backends.engines.server import Degrees, Deployment, Draft, HostCache, Lora, Role, Server
from plandsl.backends.engines.towers import read_tower
from plandsl.backends.engines.unsaid import check_program, find_unsaid, find_unsaid_between
from plandsl.diagnostics import Diagnostic, PlanError
from plandsl.spec.model import ADAPTERS, LORA_RANK, inside_experts
from plandsl.spec.plan import PlanSpec
from plandsl.spec.scheduler import SchedulerName, scheduler_name

MEANS: dict[SchedulerName, str] = {"vllm": "device", "sglang": "free_before", "trtllm": "free_after"}
"""Of what each engine's fraction of memory is a share (`EngineSpec.fraction_of`)."""


def deploy(plan: PlanSpec, engine: SchedulerName, estimate: Estimate, sources: Mapping[str, str]) -> Deployment:
    """What ``engine`` is told to do as ``plan`` says; ``estimate`` is the plan's, for its memory.

    Raises `PlanError` at the plan's own words where the engine cannot (E502, E503).
    """
    if plan.split is None:
        pools: list[tuple[PlanSpec, Role, Estimate]] = [(plan, "", estimate)]
    else:
        assert estimate.pools is not None, "the estimate of a plan with two pools has both"
        pools = [
            (plan.split.prefill, "prefill", estimate.pools.prefill.estimate),
            (plan.split.decode, "decode", estimate.pools.decode.estimate),
        ]
    remarks = []
    for pool, _, _ in pools:
        check_program(pool, engine, sources)
        remarks += [*find_unsaid(pool, engine, sources), *check_vocab(pool)]
        remarks += _other_engine(pool, engine)
    remarks += find_unsaid_between(plan, engine, sources)
    servers = tuple(_server(pool, role, engine, found) for pool, role, found in pools)
    return Deployment(plan.name, servers, plan.workload, plan, tuple(dict.fromkeys(remarks)))


def _other_engine(plan: PlanSpec, engine: SchedulerName) -> list[Diagnostic]:
    """A remark where the plan counts with another engine than the one it is exported to (W500)."""
    if plan.engine is None or family(plan) == engine:
        return []
    why = f"the plan counts with the engine `{plan.engine.name}`, and this file is for {engine}"
    hint = f"`--set engine={engine}` shows the times of this engine; its scheduler's own limits are left out here"
    return [Diagnostic("W500", why, plan.span, hint=hint)]


def family(plan: PlanSpec) -> SchedulerName:
    """The engine of a plan, by its scheduler; vLLM where the plan names none."""
    if plan.engine is None:
        return "vllm"
    return scheduler_name(plan.engine.scheduler.name, plan.engine.kernels)


def _server(plan: PlanSpec, role: Role, engine: SchedulerName, estimate: Estimate) -> Server:
    base = plan.modes[0]
    degrees, own = read_degrees(base), plan.engine
    sizes = dict(plan.model.sizes)
    ours = own is not None and family(plan) == engine
    load = plan.workload
    requests = (load.concurrency or load.batch * (load.in_flight or degrees.pipeline)) if not load.traffic else None
    return Server(
        plan.model.name,
        degrees,
        role,
        weights=plan.model.weights,
        kv_cache=plan.model.kv_cache,
        activations=plan.model.activations,
        routed=plan.model.routed,
        dense="ffn" in sizes,
        shift=_shift(plan, degrees),
        step_tokens=plan.step_tokens or None,
        max_requests=own.max_requests if own is not None else requests,
        memory_fraction=_fraction(plan, engine, estimate),
        max_context=_longest(plan, estimate),
        chunk=plan.chunked_prefill,
        prefix_cache=own.scheduler.prefix_cache if own is not None else None,
        kv_block=own.kv_block if ours and own is not None and own.kv_block > 1 else None,
        draft=_draft(plan),
        lora=_lora(plan),
        encodes=load.encodes,
        state_cache=(plan.model.state_cache or plan.model.activations) if plan.model.stateful else "",
        host_cache=_host_cache(plan),
        whole_images=read_tower(plan),
        options=own.scheduler.limits if ours and own is not None else (),
        gpus=plan.node.count,
    )


def _shift(plan: PlanSpec, base: Degrees) -> int | None:
    """The threshold of a plan with two shardings. Raises `PlanError` (E503) if the second is not over heads alone."""
    if plan.shift is None:
        return None
    small = read_degrees(plan.modes[1])
    if base.sequence > 1 and small == base._replace(tensor=base.tensor * base.sequence, sequence=1):
        return plan.shift.threshold
    why = "shift parallelism of an engine goes from sequence and tensor parallelism to tensor parallelism"
    hint = "`base` with sp (and tp), `tensor` with all of heads, kv_heads, ffn and vocab over the same axes"
    raise PlanError([Diagnostic("E503", why, plan.shift.span, hint=hint)])


def _fraction(plan: PlanSpec, engine: SchedulerName, estimate: Estimate) -> float | None:
    """The engine's own fraction of memory. Fractions differ in meaning, so bytes are worked out first.

    With M bytes of memory, W of weights, A of activations and buffers, and the plan's K left for the KV cache:
    vLLM's is (W + A + K) / M, SGLang's (W + K) / M, TensorRT-LLM's K / (M - W - A). None where the plan takes all.
    """
    meaning = plan.engine.fraction_of if plan.engine is not None else "device"
    if plan.memory_fraction == 1 and meaning == "device":
        return None
    if meaning == MEANS[engine]:
        return round(plan.memory_fraction, 6)
    memory = estimate.memory
    whole, weights, rest = memory.capacity, memory.weights, memory.activations + memory.buffers
    if meaning == "device":
        cache = whole * plan.memory_fraction - weights - rest
    elif meaning == "free_before":
        cache = whole * plan.memory_fraction - weights
    else:
        cache = (whole - weights - rest) * plan.memory_fraction
    share = {"vllm": (weights + rest + cache) / whole, "sglang": (weights + cache) / whole}
    found = share.get(engine, cache / (whole - weights - rest) if whole > weights + rest else 1.0)
    return min(0.99, max(0.01, round(found, 3)))


def _longest(plan: PlanSpec, estimate: Estimate) -> int | None:
    """The longest request: what the model takes, but no more than the KV cache of a copy has room for."""
    room = int(estimate.kv_capacity_tokens // max(1, estimate.replicas))
    wished = plan.model.max_context
    return wished if wished is None or room <= 0 else min(wished, room)


def _draft(plan: PlanSpec) -> Draft | None:
    if plan.speculate is None:
        return None
    speculate = plan.speculate
    kind: Literal["model", "mtp", "ngram"] = "mtp" if speculate.own else "model" if speculate.draft else "ngram"
    if speculate.draft is None or speculate.sharding is None or speculate.own:
        return Draft(kind, speculate.tokens)
    draft = plan.draft_plan
    assert draft is not None
    return Draft(kind, speculate.tokens, speculate.draft.name, read_degrees(draft).tensor)


def _host_cache(plan: PlanSpec) -> HostCache | None:
    """The first tier behind the GPUs' memory; engines name no size of further ones."""
    scheduler = plan.engine.scheduler if plan.engine is not None else None
    if scheduler is None or not scheduler.tiers:
        return None
    return HostCache(scheduler.tiers[0].memory, write=scheduler.write)


def _lora(plan: PlanSpec) -> Lora | None:
    lora, sizes = plan.model.lora, dict(plan.model.sizes)
    if lora is None:
        return None
    experts = {w.name for w in inside_experts(s.term for block in plan.model.blocks for s in block.statements)}
    inside = tuple(name for name in lora.targets if name in experts)
    return Lora(sizes[ADAPTERS], sizes[LORA_RANK], lora.host_adapters, lora.targets, inside)
