"""Reduce a plan that breaks a law to a small one that still breaks it, and write it as a short `.plan` text."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

from attrs import evolve, fields

from plandsl.diagnostics import PlanError
from plandsl.driver import CompiledPlan, open_text
from plandsl.show import show_plan
from plandsl.spec.earlier import takes_what_is_made
from plandsl.spec.model import EVERY, ModelSpec
from plandsl.spec.plan import AxisSpec, PlanSpec, RuleSpec, ShardingSpec, WorkloadSpec
from plandsl.testing.compare import compiled, same

TRIES = 150
"""Most plans that are compiled to reduce one."""

Breaks = Callable[[CompiledPlan], bool]
"""Whether a plan breaks the law, and in the same way."""


def reduce_plan(spec: PlanSpec, breaks: Breaks, tries: int = TRIES) -> PlanSpec:
    """The smallest plan that was found: a simpler plan that compiles and still ``breaks`` takes the place of the last.

    Greedy: the largest steps are tried first, and again after each that succeeds (Zeller and Hildebrandt 2002). A model
    or a machine of the catalog stays as it is, since its name is its shortest text.
    """
    found, again, seen = spec, True, {spec}
    while again and tries > 0:
        again = False
        for simpler in simpler_plans(found):
            if simpler in seen:
                continue
            seen.add(simpler)
            tries -= 1
            if _breaks(simpler, breaks):
                found, again = simpler, True
                break
            if tries <= 0:
                break
    return found


def _breaks(spec: PlanSpec, breaks: Breaks) -> bool:
    try:
        return breaks(compiled(spec))
    except PlanError:
        return False


# ---- simpler plans

SIMPLIFIED = (
    "requires",
    "chunked_prefill",
    "micro_batches",
    "chunks",
    "overlap",
    "router",
    "measured",
    "kv_residency",
    "algorithm",
    "memory_fraction",
    "step_tokens",
    "hop_tensors",
    "fuse_norms",
)
"""Fields of a plan that may go back to what the language takes where nothing is written."""

DEFAULTS: dict[str, Any] = {name: getattr(fields(PlanSpec), name).default for name in SIMPLIFIED}


def simpler_plans(spec: PlanSpec) -> Iterator[PlanSpec]:
    """Plans that are simpler by one step, the largest steps first."""
    if spec.split is not None:
        yield evolve(spec.split.decode, name=spec.name)
        yield evolve(spec.split.prefill, name=spec.name, kv_residency="all_batches")
        yield from _simpler_pools(spec)
        return
    if spec.shift is not None:
        yield evolve(spec, shift=None)
        yield evolve(spec, shift=None, sharding=spec.shift.tensor)
    if spec.speculate is not None:
        yield evolve(spec, speculate=None)
        yield evolve(spec, speculate=evolve(spec.speculate, acceptance=spec.speculate.acceptance[:1]))
    if spec.engine is not None:
        yield evolve(spec, engine=None)
    plain: dict[str, Any] = {name: value for name, value in DEFAULTS.items() if getattr(spec, name) != value}
    if len(plain) > 1:
        yield evolve(spec, **plain)
    yield from (evolve(spec, **{name: value}) for name, value in plain.items())
    if spec.cluster is not None:
        yield evolve(spec, cluster=None, sharding=evolve(spec.sharding, placed=()))
    if spec.node.gpus:
        yield evolve(spec, node=evolve(spec.node, gpus=()), calibrations=())
    if spec.calibrations:
        yield evolve(spec, calibrations=())
    yield from _smaller_machines(spec)
    yield from (evolve(spec, sharding=sharding) for sharding in _simpler_shardings(spec.sharding, spec.shift is None))
    yield from (evolve(spec, workload=load) for load in _simpler_loads(spec.workload))
    if not _ships("model", spec.model.name):
        yield from (evolve(spec, model=model) for model in _simpler_models(spec.model))


def _simpler_pools(spec: PlanSpec) -> Iterator[PlanSpec]:
    """Two pools, with the same step in both, or in one of them."""
    split = spec.split
    assert split is not None, "asked of a plan with two pools"
    for first in simpler_plans(split.prefill):
        yield evolve(spec, split=evolve(split, prefill=evolve(first, kv_residency="prompts")))
    for then in simpler_plans(split.decode):
        yield evolve(then, name=spec.name, requires=spec.requires, split=evolve(split, decode=then))
    if spec.requires:
        yield evolve(spec, requires=())


def _smaller_machines(spec: PlanSpec) -> Iterator[PlanSpec]:
    """Fewer GPUs in each node, with an axis that is as much smaller, or fewer nodes. Those of the catalog stay."""
    node, cluster = spec.node, spec.cluster
    if node.gpus or (cluster is not None and cluster.nodes) or spec.shift is not None:
        return
    if node.count % 2 == 0 and not _ships("node", node.name) and node.link.topology != "torus":
        home = evolve(node, count=node.count // 2)
        there = None if cluster is None else evolve(cluster, node=home)
        smaller = evolve(spec, node=home, cluster=there)
        yield smaller
        for axis in spec.sharding.axes:
            if axis.size % 2 == 0:
                axes = _resized(spec.sharding.axes, axis.name, axis.size // 2)
                yield evolve(smaller, sharding=evolve(spec.sharding, axes=axes))
    if cluster is not None and cluster.count > 2 and not _ships("cluster", cluster.name):
        yield evolve(spec, cluster=evolve(cluster, count=cluster.count // 2))


def _simpler_shardings(sharding: ShardingSpec, alone: bool) -> Iterator[ShardingSpec]:
    """Fewer axes, smaller axes, fewer rules. (Two shardings of a plan have one mesh, so that only rules may go.)"""
    if alone:
        yield from (_without(sharding, axis.name) for axis in sharding.axes)
        halves = (axis for axis in sharding.axes if axis.size > 2)
        for axis in halves:
            for size in dict.fromkeys((2, axis.size // 2)):
                yield evolve(sharding, axes=_resized(sharding.axes, axis.name, size))
    if sharding.cut is not None:
        yield evolve(sharding, cut=None)
    if sharding.placed:
        yield evolve(sharding, placed=())
    if sharding.context_form != "ring":
        yield evolve(sharding, context_form="ring")
    for at, rule in enumerate(sharding.rules):
        if not rule.sugar:
            rest = sharding.rules[:at], sharding.rules[at + 1 :]
            yield evolve(sharding, rules=(*rest[0], *rest[1]))
            if len(rule.dims) > 1:
                yield from (
                    evolve(sharding, rules=(*rest[0], rule._replace(dims=_all_but(rule.dims, dim)), *rest[1]))
                    for dim in rule.dims
                )


def _resized(axes: tuple[AxisSpec, ...], name: str, size: int) -> tuple[AxisSpec, ...]:
    return tuple(a._replace(size=size) if a.name == name else a for a in axes)


def _without(sharding: ShardingSpec, name: str) -> ShardingSpec:
    """The sharding without one of its axes, and without the rules over that axis alone."""
    kept = (rule._replace(axes=_all_but(rule.axes, name)) for rule in sharding.rules)
    rules: tuple[RuleSpec, ...] = tuple(rule for rule in kept if rule.axes)
    return evolve(
        sharding,
        axes=tuple(a for a in sharding.axes if a.name != name),
        rules=rules,
        replica_axes=_all_but(sharding.replica_axes, name),
        placed=tuple(p for p in sharding.placed if p.axis != name),
    )


def _all_but(names: tuple[str, ...], name: str) -> tuple[str, ...]:
    return tuple(n for n in names if n != name)


def _simpler_loads(load: WorkloadSpec) -> Iterator[WorkloadSpec]:
    if load.over_time:
        fewer = evolve(
            load, traffic=None, concurrency=None, requests=None, batch=max(load.batch, load.concurrency or 1)
        )
        yield fewer
    if load.traffic is not None:
        yield evolve(load, traffic=None, concurrency=load.concurrency or 4)
        if load.requests is None or load.requests > 8:
            yield evolve(load, requests=8)
    if load.reuse:
        yield evolve(load, reuse=0.0, prefix=None)
    if load.in_flight is not None:
        yield evolve(load, in_flight=None)
    if load.traffic is not None:
        return
    sized = ("concurrency", "requests") if load.concurrency is not None else ("batch",)
    for name in ("output", "input", *sized):
        value = getattr(load, name)
        if value is not None and value > 1:
            changes: list[dict[str, Any]] = [{name: size} for size in dict.fromkeys((1, value // 2, value - 1))]
            yield from (evolve(load, **change) for change in changes)


def _simpler_models(model: ModelSpec) -> Iterator[ModelSpec]:
    """Fewer blocks, layers and special formats, and smaller dimensions; what a layer takes, an earlier one makes."""
    return filter(takes_what_is_made, _smaller_models(model))


def _smaller_models(model: ModelSpec) -> Iterator[ModelSpec]:
    if model.mtp is not None:
        yield evolve(model, mtp=None)
    if model.stored:
        yield evolve(model, stored=())
    if len(model.blocks) > 1:
        for block in model.blocks:
            layers = len(block.every.select(block.layers))
            only = block._replace(layers=(0, layers), every=EVERY)
            yield evolve(model, blocks=(only,), layers=layers)
    elif model.layers > 1:
        for layers in dict.fromkeys((1, 2, model.layers // 2)):
            if layers < model.layers:
                only = model.blocks[0]._replace(layers=(0, layers), every=EVERY)
                yield evolve(model, blocks=(only,), layers=layers)
    for name, size in model.sizes:
        if size > 1 and size % 2 == 0:
            sizes = tuple((n, s // 2 if n == name else s) for n, s in model.sizes)
            yield evolve(model, sizes=sizes)


# ---- text

SHIPPED = ("model", "gpu", "node", "cluster", "calibration", "engine")
"""Declarations that the catalog may have too."""

OWN = ("plan", "sharding", "workload")
"""Declarations of which single lines may be left out."""


def _ships(kind: str, name: str) -> bool:
    from plandsl.entries import catalog_has

    return catalog_has(kind, name)


def short_text(spec: PlanSpec, file: str = "<text>") -> str:
    """A plan as `.plan` text, in which nothing stands that the catalog or a default says as well.

    ``file``: what the plan was read from, where its tables and traces lie.
    """
    blocks = show_plan(spec).rstrip("\n").split("\n\n")
    there = [block for block in blocks if block.startswith(SHIPPED) and _ships(*block.split()[:2])]
    for gone in [there, *([block] for block in reversed(there))]:
        for without in (_drop_calibration, _with_formats, list[str]):
            shorter = without([block for block in blocks if block not in gone])
            if len(shorter) < len(blocks) and _says(shorter, spec, file):
                blocks = shorter
    for at, block in enumerate(blocks):
        if block.startswith(OWN):
            blocks = _drop_lines(blocks, at, spec, file)
    for block in [block for block in blocks if not block.startswith("plan")]:
        shorter = [other for other in blocks if other is not block]
        blocks = shorter if _says(shorter, spec, file) else blocks
    return "\n\n".join(blocks) + "\n"


def _drop_calibration(blocks: list[str]) -> list[str]:
    """Blocks in which no plan names its calibration, so that it has the one of its GPU."""
    return [re.sub(r"(^  |, )calibration = \w+(\n)?", "", block, flags=re.MULTILINE) for block in blocks]


def _with_formats(blocks: list[str]) -> list[str]:
    """The same, with weights and KV cache of every model in 8 bits, as many a plan has them."""
    formats = "with { weights = fp8, kv_cache = fp8 }"
    return [re.sub(r"(\bmodel = \w+)", rf"\1 {formats}", block) for block in _drop_calibration(blocks)]


def _drop_lines(blocks: list[str], at: int, spec: PlanSpec, file: str) -> list[str]:
    """The blocks, of which one is without the lines, and the items of lines with braces, that say nothing."""
    found = blocks[at]
    for part in re.findall(r"^  .*\n|(?<=\{ )[^{}\n]*?, |, [^{},\n]*(?= \})", found, re.MULTILINE):
        for piece in dict.fromkeys((part, *(f"{item}, " for item in part.split(", ")[:-1]))):
            shorter = found.replace(piece, "", 1)
            if (
                piece.strip()
                and not piece.endswith("{\n")
                and _says([*blocks[:at], shorter, *blocks[at + 1 :]], spec, file)
            ):
                found = shorter
    return [*blocks[:at], found, *blocks[at + 1 :]]


def _says(blocks: list[str], spec: PlanSpec, file: str) -> bool:
    """Whether a text has one plan, which means what ``spec`` means."""
    try:
        module = open_text("\n\n".join(blocks), file)
        found = module.plan(module.plans[0]) if len(module.plans) == 1 else None
    except PlanError:
        return False
    return found is not None and not any(d.severity == "error" for d in module.diagnostics) and same(found, spec)
