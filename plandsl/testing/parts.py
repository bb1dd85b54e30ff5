"""Models and machines by name: of the catalog, of a file, or as they are; and a plan of a sharding of a model."""

from __future__ import annotations

from typing import Any

from attrs import evolve

from plandsl.diagnostics import Diagnostic, PlanError
from plandsl.driver import open_file, open_text
from plandsl.entries import catalog_has
from plandsl.files import split_part
from plandsl.show import show_sharding, show_workload
from plandsl.show_hardware import show_cluster, show_gpu, show_node
from plandsl.show_model import show_model
from plandsl.spec.hardware import ClusterSpec, GpuSpec, NodeSpec
from plandsl.spec.model import ModelSpec
from plandsl.spec.plan import PlanSpec, ShardingSpec, WorkloadSpec

LOAD = WorkloadSpec("load", input=1024, output=128, batch=8)
"""The load of a plan that is made of a sharding alone."""


def model_of(given: object) -> ModelSpec:
    """A model: itself, its name in the catalog, ``FILE.plan:NAME``, or of a plan. Raises `PlanError`."""
    found: ModelSpec = _part(given, ("model",), ModelSpec)
    return found


def machine_of(given: object) -> NodeSpec | ClusterSpec:
    """A node or a cluster, given as a model is for `model_of`."""
    found: NodeSpec | ClusterSpec = _part(given, ("node", "cluster"), (NodeSpec, ClusterSpec))
    return found


def _part(given: Any, kinds: tuple[str, ...], wanted: Any) -> Any:
    if isinstance(given, wanted):
        return given
    spec = getattr(given, "spec", given)
    if isinstance(spec, PlanSpec):
        return spec.cluster or spec.node if "node" in kinds else spec.model
    if not isinstance(given, str):
        why = f"a {kinds[0]} is expected, found {type(given).__name__}"
        hint = f"give the name of a {kinds[0]} of the catalog, FILE.plan:NAME, or a compiled plan"
        raise PlanError([Diagnostic("E454", why, hint=hint)])
    path, part = split_part(given)
    module, name = (open_text(""), given) if part is None else (open_file(path), part)
    named = [kind for kind in kinds if name in module.root.declared.get(kind, {})] if part is not None else []
    found = None
    for kind in (*named, *(_shipped(kinds, name) if part is None else kinds)):
        found = module.spec(kind, name)
        if found is not None:
            return found
    raise PlanError([d for d in module.diagnostics if d.severity == "error"], module.sources)


def _shipped(kinds: tuple[str, ...], name: str) -> tuple[str, ...]:
    """The kinds in which the catalog has a name; the first kind where it has it in none, for a diagnostic."""
    return tuple(kind for kind in kinds if catalog_has(kind, name)) or kinds[:1]


def plan_of(sharding: ShardingSpec, model: object, node: object, workload: WorkloadSpec = LOAD) -> PlanSpec:
    """A plan that shards ``model`` over a node or a cluster, with the calibration that the language gives it.

    Raises `PlanError` where there is no such model or machine, or the sharding cannot be written for it.
    """
    what, machine = model_of(model), machine_of(node)
    homes = [home for _, home in machine.groups] if isinstance(machine, ClusterSpec) else [machine]
    gpus = {gpu.name: gpu for home in homes for _, gpu in home.groups}
    place = f"cluster = {machine.name}" if isinstance(machine, ClusterSpec) else f"node = {machine.name}"
    fields = f"model = {what.name}, {place}, sharding = {sharding.name}, workload = {workload.name}"
    parts = [
        show_model(what),
        *(show_gpu(gpu, _calibration(gpu)) for gpu in gpus.values()),
        *(show_node(home) for home in homes),
        *([show_cluster(machine)] if isinstance(machine, ClusterSpec) else []),
        show_sharding(sharding),
        show_workload(workload),
        f"plan p {{ {fields} }}",
    ]
    module = open_text("\n".join(parts))
    found = module.plan("p")
    if found is None:
        raise PlanError([d for d in module.diagnostics if d.severity == "error"], module.sources)
    return evolve(found, sharding=sharding)


def _calibration(gpu: GpuSpec) -> str:
    """The calibration of the catalog that a GPU names, or that has its name; "" where there is none."""
    return next((name for name in (gpu.calibration, gpu.name) if name and catalog_has("calibration", name)), "")
