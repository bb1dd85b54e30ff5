"""What the engine of a plan starts with, and which setting would help where its memory is too small."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from attrs import evolve

from plandsl.answers.estimate import Estimate
from plandsl.answers.occupancy import Memory
from plandsl.answers.start import Knob, Start
from plandsl.backends.cost.deployments.batch import resident_tokens
from plandsl.backends.cost.deployments.deployment import Deployment, Metrics
from plandsl.backends.cost.deployments.profile import largest_fraction
from plandsl.backends.cost.deployments.replicas import Replicas
from plandsl.spec.formats import BITS
from plandsl.spec.hardware import EngineSpec
from plandsl.spec.plan import PlanSpec
from plandsl.units import show_percent

LEAST_STEP = 256
"""The smallest `step_tokens` that is proposed."""

OF_MEMORY = ("memory", "kv_capacity", "max_batch")
"""Metrics whose requirements memory decides."""


def find_start(model: Replicas, metrics: Metrics) -> Start | None:
    """What the plan's engine starts with; None without an engine or without a KV cache."""
    plan, memory, load = model.plan, model.memory, model.plan.workload
    engine, stages = plan.engine, [s for s in memory.distinct if memory.caches[s]]
    if engine is None or not stages:
        return None
    asked = load.input + load.output
    fewest = min(stages, key=lambda s: float(memory.pool(s) / memory.kv_per_request(s, asked)))
    longest, band = memory.longest_request(), engine.band("kv")
    return Start(
        engine=engine.name,
        kv_bytes=float(memory.pool(fewest)),
        kv_tokens=int(memory.kv_tokens(asked)),
        band=band,
        fitted=band is not None and "kv_low" not in dict(engine.assumed),
        longest=longest,
        asked=asked,
        context=plan.model.max_context,
        graphs=max(float(memory.profile.graphs(s)) for s in stages),
        refused=_refuse(model, engine),
        theory=_find_theory(model, metrics),
        step_tokens=plan.full_step,
        max_requests=engine.max_requests,
        limited=_describe_limits(plan, engine),
    )


def _describe_limits(plan: PlanSpec, engine: EngineSpec) -> str:
    """The limits that the engine chose and would not choose on the largest GPUs, and why; empty without any."""
    limits, place = engine.limits, engine.place(kind.node.gpu for kind in plan.kinds)
    if limits is None or place is None:
        return ""
    found = []
    for name, value, shown in (
        ("max_requests", engine.max_requests, f"{engine.max_requests} requests"),
        ("step_tokens", plan.full_step, f"steps of {plan.full_step} tokens"),
    ):
        chosen = limits.values(name)
        if chosen and value == chosen[place.at] != chosen[-1]:
            found.append(shown)
    return f"{', '.join(found)}: {engine.name} on {place.why}" if found else ""


def _refuse(model: Replicas, engine: EngineSpec) -> str:
    """Why an engine does not start; empty where it does."""
    memory, plan = model.memory, model.plan
    if not memory.starts:
        most = largest_fraction(plan, memory.gpus)
        free = f"at most {show_percent(most)}" if most > 0 else "its process takes all memory"
        return f"its share of {show_percent(plan.memory_fraction)} is not free: {free}"
    if not all(memory.pool(s) for s in memory.distinct if memory.caches[s]):
        return "no memory is left for a KV cache"
    return ""


def _find_theory(model: Replicas, metrics: Metrics) -> Memory:
    """What the load takes of the fullest GPU without an engine: weights, its cache, and its own steps."""
    memory, load = model.memory, model.plan.workload
    length, rounds = resident_tokens(model.one, load.input, load.output, ongoing=metrics.served is not None)
    found = []
    for stage, gpu in enumerate(memory.gpus):
        held = memory.held(stage, metrics.batch, length, load.input, rounds)
        activations, buffers = memory.step(stage, metrics.batch, load.input)
        parts = float(held.weights), float(held.kv_cache), float(activations), float(buffers)
        found.append(Memory(*parts, capacity=gpu.memory, adapters=float(held.adapters)))
    return max(found, key=lambda m: m.total / m.capacity)


# ---- settings that would help

Recompile = Callable[[str, str], Deployment | None]
"""The cost model of the same plan with another value of a field, given as for ``--set``; None where it is wrong."""


def add_knobs(found: Estimate, model: Deployment, recompile: Recompile) -> Estimate:
    """``found`` with the settings each of which is enough, where memory is too small for the load or a requirement."""
    if found.start is None or found.pools is not None or _is_enough(model):
        return found
    return found._replace(start=found.start._replace(knobs=tuple(_find_knobs(model, recompile))))


def _is_enough(model: Deployment) -> bool:
    """Whether the load fits, at least one request of it, and requirements on memory are met."""
    metrics = model.own
    if not metrics.fits or metrics.max_batch < 1:
        return False
    for r in (r for r in model.plan.requires if r.metric in OF_MEMORY):
        value = metrics.used if r.share else getattr(metrics, r.metric)
        if not r.holds(float(value)):
            return False
    return True


def _find_knobs(model: Deployment, recompile: Recompile) -> Iterator[Knob]:
    plan, engine = model.plan, model.plan.effective_engine
    limits = (("engine.max_requests", _fewer_requests(model)), ("step_tokens", _smaller_steps(model)))
    for path, tries in limits:
        yield from _first_enough(path, tries)
    yield from _first_enough("memory_fraction", _larger_fractions(model))
    if BITS[plan.model.kv_cache] > 8:
        yield from _first_enough("model.kv_cache", ((v, recompile("model.kv_cache", v)) for v in ("fp8",)))
    if plan.shift is None and engine is not None:
        yield from _first_enough("sharding.tp", _more_ranks(model, recompile))


def _first_enough(path: str, tries: Iterator[tuple[str, Deployment | None]]) -> Iterator[Knob]:
    """The first of ``tries`` that is enough, if one is."""
    for value, model in tries:
        if model is not None and _is_enough(model):
            load = model.plan.workload
            yield Knob(path, value, int(model.pools[0].memory.kv_tokens(load.input + load.output)))
            return


def _fewer_requests(model: Deployment) -> Iterator[tuple[str, Deployment]]:
    """Fewer requests by powers of two, as long as the plan's batch runs."""
    engine, least = model.plan.effective_engine, 1 if model.plan.workload.over_time else model.plan.workload.batch
    for requests in _lower_powers(min(engine.max_requests, model.plan.step_tokens), least):
        yield str(requests), model.on(evolve(model.plan, engine=evolve(engine, max_requests=requests)))


def _lower_powers(number: int, least: int) -> Iterator[int]:
    """The powers of two below ``number``, from the largest one down to ``least``."""
    power = 1 << (number - 1).bit_length() - 1 if number > 1 else 0
    while power >= least:
        yield power
        power //= 2


def _smaller_steps(model: Deployment) -> Iterator[tuple[str, Deployment]]:
    """Fewer tokens of a step by powers of two."""
    for step in _lower_powers(model.plan.step_tokens, LEAST_STEP):
        yield str(step), model.on(evolve(model.plan, step_tokens=step))


def _larger_fractions(model: Deployment) -> Iterator[tuple[str, Deployment]]:
    """More per cent of the memory, up to what is free when the engine starts; that, where the plan has more."""
    most = min(int(100 * largest_fraction(model.plan, model.pools[0].memory.gpus)), 99)
    for percent in range(min(int(100 * model.plan.memory_fraction) + 1, most), most + 1):
        yield f"{percent} %", model.on(evolve(model.plan, memory_fraction=percent / 100))


def _more_ranks(model: Deployment, recompile: Recompile) -> Iterator[tuple[str, Deployment | None]]:
    """Twice as many ranks that share each layer, and so on, as long as there are GPUs."""
    sharding, gpus = model.plan.sharding, model.plan.gpus
    degree = next((axis.size for axis in sharding.axes if axis.sugar == "tp"), 1)
    rest = sharding.ranks // degree
    while 2 * degree * rest <= gpus:
        degree *= 2
        yield str(degree), recompile("sharding.tp", str(degree))
