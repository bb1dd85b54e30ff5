"""From metrics to an `Estimate`: times by op, memory by stage, and which requirements are met."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from plandsl.answers.estimate import BANDED, Estimate, Requirement
from plandsl.answers.occupancy import ClusterUse, Load, Memory, Reuse, StageGpus, StateUse
from plandsl.answers.phases import PhaseEstimate
from plandsl.answers.start import Start
from plandsl.backends.cost.answers.assumed import assumptions
from plandsl.backends.cost.answers.communication import communication
from plandsl.backends.cost.answers.counts import active_parameters, kv_bytes_per_token, parameters
from plandsl.backends.cost.answers.lines import PhaseLines
from plandsl.backends.cost.answers.spent import spend
from plandsl.backends.cost.deployments.batch import resident_tokens
from plandsl.backends.cost.deployments.deployment import Deployment, Metrics
from plandsl.backends.cost.deployments.memory import Held, smallest_gpus
from plandsl.backends.cost.deployments.ongoing import Served
from plandsl.backends.cost.deployments.prefix import reused_tokens
from plandsl.backends.cost.deployments.replicas import Replicas
from plandsl.backends.cost.deployments.server import Server
from plandsl.diagnostics import Diagnostic
from plandsl.ir.program import Part, Program
from plandsl.ir.types import Number
from plandsl.spec.plan import PlanSpec, RequireSpec
from plandsl.values import sum_up


def estimate(model: Deployment, notes: Sequence[Diagnostic] = ()) -> Estimate:
    """The estimate for the plan's own load."""
    metrics = model.own
    if model.transfer is not None:
        from plandsl.backends.cost.answers.pools import estimate_pools

        return estimate_pools(model, metrics, notes)
    return estimate_servers(model.pools[0], metrics, notes)


def estimate_servers(model: Replicas, metrics: Metrics, notes: Sequence[Diagnostic] = ()) -> Estimate:
    """The estimate of servers that run both phases."""
    one, plan, load = model.one, model.plan, model.plan.workload
    served, engine, batch, memory = metrics.served, plan.engine, metrics.batch, one.memory
    length, resident = resident_tokens(one, load.input, load.output, ongoing=served is not None)
    lines = PhaseLines.of_main(metrics.prefill), PhaseLines.of_main(metrics.decode)
    prefill, decode = phase_estimates(one, metrics, *lines)
    held = memory.held_by_stage(batch, length, load.input, resident)
    stages = tuple(_memory(h, capacity) for h, capacity in zip(held, memory.capacities, strict=True))
    program = one.main.prefill.schedule.program
    encoders = parameters(one.tower.prefill.schedule.program) if one.tower is not None else 0
    spent = spend(model, metrics, prefill, decode)
    return Estimate(
        plan=plan.name,
        gpus=plan.sharding.ranks,
        replicas=plan.sharding.replicas,
        mesh=tuple((a.name, a.size) for a in plan.sharding.axes if a.size > 1),
        batch=int(batch),
        in_flight=model.in_flight,
        ttft_s=float(metrics.ttft),
        tpot_s=None if load.encodes else float(metrics.tpot),
        latency_s=float(metrics.latency),
        throughput_tokens_per_s=float(metrics.throughput),
        memory=max(stages, key=lambda m: (m.total / m.capacity, m.total)),
        stages=stages,
        stage_gpus=_stage_gpus(plan, program),
        layers=tuple(_layers(parts) for parts in program.stages),
        kv_capacity_tokens=int(metrics.kv_capacity),
        max_batch=int(metrics.max_batch),
        parameters=parameters(program) + encoders,
        active_parameters=active_parameters(program) + encoders,
        kv_bytes_per_token=kv_bytes_per_token(program),
        prefill=prefill,
        decode=decode,
        requires=tuple(
            requirement(r, metrics, prefill, decode, spent.values) for r in plan.requires if not r.over_requests
        ),
        notes=tuple(notes),
        assumed=tuple(dict.fromkeys(entry for kind in plan.kinds for entry in assumptions(kind))),
        calibration=", ".join(dict.fromkeys(kind.calibration.name for kind in plan.kinds)),
        cost_usd_per_mtok=None if spent.money is None else spent.money.usd_per_mtok,
        money=spent.money,
        energy=spent.energy,
        fleet=spent.fleet,
        engine=None if engine is None else engine.name,
        engine_origin=plan.engine_origin,
        load=None if served is None else _load(load.concurrency or 0, served),
        kv_block=memory.block,
        bands=_bands(plan, metrics, prefill, decode),
        cluster=_cluster_use(plan),
        **_optional_parts(one, metrics, prefill),
        reuse=_reuse(plan),
        communication=communication(metrics, load.output, one.gain, lines),
        start=None if engine is None else _start(model, metrics),
        text=load.input if load.encodes else 0,
        states=_states(one, held, int(batch), int(resident)) if plan.model.stateful else None,
    )


def _states(one: Server, held: Sequence[Held], batch: int, rounds: int) -> StateUse:
    """The states of a batch of requests, on the stage that is the fullest."""
    memory, main = one.memory, one.memory.main
    fullest = max(range(len(held)), key=lambda s: float(held[s].total / memory.capacities[s]))
    local = -(-batch // int(memory.ways(fullest)))
    return StateUse(
        request=float(sum_up(main.whole_states(stage) for stage in range(len(held)))),
        gpu=float(main.state_per_request(fullest)) * local * rounds,
        copies=int(main.states),
    )


def _start(model: Replicas, metrics: Metrics) -> Start | None:
    from plandsl.backends.cost.answers.start import find_start

    return find_start(model, metrics)


def _optional_parts(one: Server, metrics: Metrics, prefill: PhaseEstimate) -> dict[str, Any]:
    """The fields for two shardings, for a draft and for a tower; empty without them."""
    if one.modes is None and one.guesses is None and one.tower is None:
        return {}
    from plandsl.backends.cost.answers.modes import estimate_draft, estimate_shift, estimate_tower

    return {
        "shift": estimate_shift(one, metrics),
        "speculate": estimate_draft(one, metrics),
        "tower": estimate_tower(one, metrics, prefill),
    }


def _stage_gpus(plan: PlanSpec, program: Program) -> tuple[StageGpus, ...]:
    """The GPUs of each stage; empty where all GPUs are of one kind."""
    kinds = plan.kinds
    if len(kinds) == 1:
        return ()
    from plandsl.ir.kinds import stage_kinds

    found = []
    for stage, least in zip(stage_kinds(plan, program), smallest_gpus(plan, program), strict=True):
        counts: dict[str, int] = {}
        for number, count in sorted(stage.items()):
            name = kinds[number].node.gpu.name
            counts[name] = counts.get(name, 0) + count
        found.append(StageGpus(tuple(counts.items()), least.name))
    return tuple(found)


def _reuse(plan: PlanSpec) -> Reuse | None:
    """The tokens of a prompt that are in the cache already; None for a workload without ``reuse``."""
    load = plan.workload
    return Reuse(int(reused_tokens(plan, load.input)), load.prefix or "own") if load.reuse else None


def _cluster_use(plan: PlanSpec) -> ClusterUse | None:
    """The cluster, and how many of its nodes the ranks stand on."""
    if plan.cluster is None:
        return None
    nodes = -(-plan.sharding.ranks // plan.node.count)
    names = ", ".join(dict.fromkeys(node.name for _, node in plan.cluster.groups))
    return ClusterUse(plan.cluster.name, names, plan.cluster.count, nodes, plan.node.count)


def phase_estimates(
    one: Server, m: Metrics, first: PhaseLines, step: PhaseLines
) -> tuple[PhaseEstimate, PhaseEstimate]:
    """Both phases of one server, with waits and other times that the load adds to kernels."""
    s = m.served
    waits = 0.0 if s is None else s.queue + s.line + s.start
    prefill = first.estimate(m.ttft, one, 1.0 if s is None else m.joined, waits, 0.0)
    return prefill, step.estimate(m.tpot, one, one.gain, 0.0, m.mixed if s is None else s.others)


def _load(clients: int, s: Served) -> Load:
    parts = (s.running, s.waiting, s.queue, s.line, s.start, s.prefill, s.first)
    return Load(clients, *map(float, parts))


def _bands(
    plan: PlanSpec, m: Metrics, prefill: PhaseEstimate, decode: PhaseEstimate
) -> tuple[tuple[str, tuple[float, float]], ...]:
    """The bands of 80 % of measurements: from the engine's band where it has one, else from the bands of ops."""
    steps, encodes = max(plan.workload.output - 1, 0), plan.workload.encodes
    first, step = plan.engine_band("ttft") or prefill.band, plan.engine_band("tpot") or decode.band
    ttft = None if first is None else _scale_band(m.ttft, first)
    tpot = None if step is None or encodes else _scale_band(m.tpot, step)
    served, latency, rate = plan.engine_band("throughput"), ttft if encodes else None, None
    if ttft is not None and tpot is not None:
        latency = ttft[0] + steps * tpot[0], ttft[1] + steps * tpot[1]
    if latency is not None:
        made = float(m.throughput * m.latency)
        rate = made / latency[1], made / latency[0]
    if served is not None:
        rate = _scale_band(m.throughput, served)
    found = zip(BANDED, (ttft, tpot, latency, rate), strict=True)
    return tuple((metric, band) for metric, band in found if band is not None)


def _scale_band(value: Number, factors: tuple[float, float]) -> tuple[float, float]:
    return float(value) * factors[0], float(value) * factors[1]


def _layers(parts: Sequence[Part]) -> tuple[int, int]:
    spans = [p.layers for p in parts if p.layers is not None]
    return (min(a for a, _ in spans), max(b for _, b in spans)) if spans else (0, 0)


def _memory(held: Held, capacity: float) -> Memory:
    weights, kv_cache, activations, buffers, adapters = map(float, held)
    return Memory(weights, kv_cache, activations, buffers, capacity=capacity, adapters=adapters)


def requirement(
    r: RequireSpec,
    m: Metrics,
    prefill: PhaseEstimate,
    decode: PhaseEstimate,
    spent: Mapping[str, float],
) -> Requirement:
    """Whether ``r`` holds; ``spent`` has the metrics of money and energy."""
    phases = (prefill,) if m.encodes else (prefill, decode)
    values = {
        "ttft": m.ttft,
        "tpot": m.tpot,
        "latency": m.latency,
        "throughput": m.throughput,
        "throughput_per_gpu": m.throughput_per_gpu,
        "memory": m.used if r.share else m.memory,
        "kv_capacity": m.kv_capacity,
        "max_batch": m.max_batch,
        "comm_share": max(phase.comm_share for phase in phases),
        "mfu": min(phase.mfu for phase in phases),
        "mbu": min(phase.mbu for phase in phases),
        **spent,
    }
    value = float(values[r.metric])
    return Requirement(r.text, value, r.holds(value))
