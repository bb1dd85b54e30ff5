"""A plan as `.plan` text: every declaration that it uses, written out, so that compiling the text gives the same plan.

The text leaves out spans, sources, comments, the wording of assumptions, and the common base of unlike gpus. Tables of
measurements are named, not copied: their paths start at the folder of the plan's root file, where the text belongs.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import attrs
from attrs import evolve

from plandsl.show_engine import show_engine
from plandsl.show_hardware import show_calibration, show_cluster, show_gpu, show_node, show_paths
from plandsl.show_model import show_model
from plandsl.show_traffic import show_distribution, traffic_lines
from plandsl.show_words import UNITS, declaration, percentage, show_flag, show_list, show_name, show_number
from plandsl.spec.plan import PlanSpec, RequireSpec, RuleSpec, ShardingSpec, ShiftSpec, SpeculateSpec, WorkloadSpec

_DEGREES = ("dp", "pp", "cp", "sp", "ep", "tp")


def show_plan(plan: PlanSpec) -> str:
    """Model, hardware, sharding, load and plan, each as a declaration; with two pools, the declarations of both."""
    if plan.split is None:
        body = _fields(plan)
        pools = plan.pools
    else:
        pools = _rename_clashes(plan.split.prefill, plan.split.decode)
        body = [f"{name} {{ {', '.join(_fields(pool))} }}" for name, pool in zip(_POOLS, pools, strict=True)]
        rate, latency = show_number(plan.split.bandwidth), show_number(plan.split.latency)
        body.append(f"transfer {{ bandwidth = {rate} B/s, latency = {latency} s }}")
        if plan.split.kv_transfer is not None:
            body.append(f"kv_transfer = {plan.split.kv_transfer}")
    parts = dict.fromkeys(part for pool in pools for part in _parts(pool))
    return "\n".join([*parts, declaration("plan", plan.name, [*body, *map(_requirement, plan.requires)])])


_POOLS = ("prefill", "decode")
_NAMED = ("model", "node", "cluster", "sharding", "workload", "calibration", "engine")


def _rename_clashes(prefill: PlanSpec, decode: PlanSpec) -> tuple[PlanSpec, PlanSpec]:
    """The two pools, with parts of the decode pool renamed if a different part of the prefill pool has their name."""
    for name in _NAMED:
        ours, theirs = getattr(prefill, name), getattr(decode, name)
        decode = attrs.evolve(decode, **{name: _distinct(ours, theirs, name)})
    if prefill.shift and decode.shift:
        tensor = _distinct(prefill.shift.tensor, decode.shift.tensor, "sharding")
        decode = attrs.evolve(decode, shift=attrs.evolve(decode.shift, tensor=tensor))
    if prefill.speculate and decode.speculate:
        a, b = prefill.speculate, decode.speculate
        draft, sharding = _distinct(a.draft, b.draft, "model"), _distinct(a.sharding, b.sharding, "sharding")
        decode = attrs.evolve(decode, speculate=attrs.evolve(b, draft=draft, sharding=sharding))
    if prefill.tower and decode.tower:
        decode = attrs.evolve(decode, tower=_distinct(prefill.tower, decode.tower, "sharding"))
    first, gpu = prefill.node.gpu, decode.node.gpu
    if first != gpu and show_name(first.name, "gpu") == show_name(gpu.name, "gpu"):
        gpu = attrs.evolve(gpu, name=f"{show_name(gpu.name, 'gpu')}_decode", bases=())
        decode = attrs.evolve(decode, node=attrs.evolve(decode.node, gpu=gpu))
    return prefill, decode


def _distinct(ours: Any, theirs: Any, kind: str) -> Any:
    """``theirs``, by a name of its own where ``ours`` is another one of that name."""
    if ours and theirs and ours != theirs and show_name(ours.name, kind) == show_name(theirs.name, kind):
        return attrs.evolve(theirs, name=f"{show_name(theirs.name, kind)}_decode")
    return theirs


def _fields(plan: PlanSpec) -> list[str]:
    """The fields of a plan, or of a pool, without its requirements."""
    sharding, calibration, home = plan.sharding, plan.calibration, plan.cluster
    return [
        f"model = {show_name(plan.model.name, 'model')}",
        f"node = {show_name(plan.node.name, 'node')}"
        if home is None
        else f"cluster = {show_name(home.name, 'cluster')}",
        f"sharding = {show_name(sharding.name, 'sharding')}",
        *([] if plan.shift is None else [_shift(plan.shift)]),
        *([] if plan.speculate is None else [_speculate(plan.speculate)]),
        *([] if plan.tower is None else [f"tower {{ sharding = {show_name(plan.tower.name, 'sharding')} }}"]),
        f"workload = {show_name(plan.workload.name, 'workload')}",
        *([] if plan.calibrations else [f"calibration = {show_name(calibration.name, 'calibration')}"]),
        *([] if plan.kv_residency == "prompts" else [f"kv_residency = {plan.kv_residency}"]),
        f"step_tokens = {plan.step_tokens}",
        *([] if plan.chunked_prefill is None else [f"chunked_prefill = {plan.chunked_prefill}"]),
        f"memory_fraction = {show_number(plan.memory_fraction)}",
        f"hop_tensors = {plan.hop_tensors}",
        f"fuse_norms = {show_flag(plan.fuse_norms)}",
        f"algorithm = {plan.algorithm}",
        f"router = {plan.router}",
        f"pricing = {plan.pricing}",
        f"overlap = {plan.overlap}",
        f"chunks = {plan.chunks}",
        f"micro_batches = {plan.micro_batches}",
        *([] if plan.engine is None else [f"engine = {show_name(plan.engine.name, 'engine')}"]),
        *([f"measured = {show_paths(plan.measured)}"] if plan.measured else []),
    ]


def _parts(plan: PlanSpec) -> list[str]:
    """Every declaration that a plan, or a pool, names."""
    home = plan.cluster
    return [
        show_model(plan.model),
        *_hardware(plan),
        *([] if home is None else [show_cluster(home)]),
        *(show_sharding(mode.sharding) for mode in plan.modes),
        *(_draft(plan.speculate) if plan.speculate else ()),
        *([] if plan.tower is None else [show_sharding(plan.tower)]),
        show_workload(plan.workload),
        *([] if plan.engine is None else [show_engine(plan.engine)]),
    ]


def _hardware(plan: PlanSpec) -> Iterator[str]:
    """The plan's calibrations, GPUs and nodes, each once; each of unlike GPUs names its calibration."""
    taken = {plan.calibration.name: plan.calibration}
    own = {}
    for gpu_name, calibration in plan.calibrations:
        alike = taken.get(calibration.name, calibration) == calibration  # a relative's has wider bands
        own[gpu_name] = calibration if alike else evolve(calibration, name=f"{calibration.name}_{gpu_name}")
        taken[own[gpu_name].name] = own[gpu_name]
    yield from map(show_calibration, taken.values())
    nodes = {node.name: node for _, node in plan.cluster.groups} if plan.cluster else {plan.node.name: plan.node}
    gpus = {gpu.name: gpu for node in nodes.values() for _, gpu in node.groups}
    firsts = [(gpu.name, *gpu.bases)[-1] for gpu in gpus.values()]
    for gpu in gpus.values():
        bases = gpu.bases if firsts.count((gpu.name, *gpu.bases)[-1]) == 1 else ()
        yield show_gpu(evolve(gpu, bases=bases), own[gpu.name].name if own else "")
    yield from map(show_node, nodes.values())


# ---- sharding


def _shift(shift: ShiftSpec) -> str:
    return f"shift {{ tensor = {show_name(shift.tensor.name, 'sharding')}, threshold = {shift.threshold} }}"


def _speculate(speculate: SpeculateSpec) -> str:
    fields = [f"acceptance = [{', '.join(map(show_number, speculate.acceptance))}]"]
    if speculate.draft is not None and speculate.sharding is not None:
        fields.append(f"draft = {'mtp' if speculate.own else show_name(speculate.draft.name, 'model')}")
        fields.append(f"sharding = {show_name(speculate.sharding.name, 'sharding')}")
    return f"speculate {{ {', '.join(fields)} }}"


def _draft(speculate: SpeculateSpec) -> Iterator[str]:
    """The declarations that `speculate` names."""
    if speculate.draft is not None and speculate.sharding is not None:
        if not speculate.own:
            yield show_model(speculate.draft)
        yield show_sharding(speculate.sharding)


def show_sharding(sharding: ShardingSpec) -> str:
    """A sharding as text; a degree is written at the place of its first rule."""
    written = [f"{a.name} = {a.size}" for a in sharding.axes if not a.sugar]
    lines = [f"mesh {', '.join(written)}"] if written else []
    left = {a.sugar: a.size for a in sharding.axes if a.sugar}
    done: set[str] = set()
    for rule in sharding.rules:
        if rule.sugar and rule.sugar not in done:
            done.add(rule.sugar)
            lines.append(f"{rule.sugar} = {left.pop(rule.sugar, None) or _size(sharding, rule)}")
        elif not rule.sugar:
            lines.append(_rule(rule))
    # degrees without rules: replicas, and degrees whose dimensions the model lacks
    lines += [f"{sugar} = {left[sugar]}" for sugar in _DEGREES if sugar in left]
    if sharding.placed:
        lines.append(f"place {', '.join(place.axis for place in sharding.placed)} in node")
    if cut := sharding.cut:
        lines.append(f"cut = {'balanced' if cut.balanced else show_list(map(str, cut.layers))}")
    if sharding.context_form != "ring":
        lines.append(f"context_form = {sharding.context_form}")
    if sharding.hop_tensors is not None:
        lines.append(f"hop_tensors = {sharding.hop_tensors}")
    return declaration("sharding", sharding.name, lines)


def _size(sharding: ShardingSpec, rule: RuleSpec) -> int:
    """The size of a degree whose axis `mesh` declares too."""
    return sharding.axis(rule.axes[-1])


def _rule(rule: RuleSpec) -> str:
    text = f"{', '.join(rule.dims)} -> {', '.join(rule.axes)}"
    return f"in {rule.region} {{ {text} }}" if rule.region else text


# ---- load and requirements


def show_workload(load: WorkloadSpec) -> str:
    """A workload as text."""
    fields = [] if load.traffic else [f"input = {load.input}", f"output = {0 if load.encodes else load.output}"]
    if load.concurrency is not None:
        fields.append(f"concurrency = {load.concurrency}")
    elif load.traffic is None and not load.chosen:
        fields.append(f"batch = {load.batch}")
    for name in ("in_flight", "requests"):
        if (value := getattr(load, name)) is not None:
            fields.append(f"{name} = {value}")
    if load.demand is not None:
        fields.append(f"demand = {show_number(load.demand)} req/s")
    if load.reuse:
        fields.append(f"reuse = {percentage(load.reuse)}")
    if load.prefix is not None:
        fields.append(f"prefix = {load.prefix}")
    if load.images:
        each = (
            show_number(load.images) if load.drawn_images is None else show_distribution(load.drawn_images, show_number)
        )
        fields += [f"images = {each}", f"image_tokens = {load.image_tokens}"]
    if load.traffic is not None:
        fields += traffic_lines(load.traffic, show_number, percentage, _requirement, load.encodes)
    return declaration("workload", load.name, fields)


def _requirement(r: RequireSpec) -> str:
    bound = percentage(r.bound) if r.share else f"{show_number(r.bound)} {UNITS.get(r.dimension, '')}".strip()
    asked = r.metric if r.percentile is None else f"p{show_number(r.percentile).replace('.', '_')}({r.metric})"
    return f"require {asked} {r.op} {bound}"
