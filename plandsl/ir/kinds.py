"""Unlike GPUs: which kinds a plan runs on, and on which of them each stage lies.

Loaded for plans on unlike GPUs. A kind is a GPU with the links of its node.
"""

from __future__ import annotations

from collections.abc import Iterator

from attrs import evolve

from plandsl.ir.program import Program
from plandsl.spec.hardware import GpuSpec, LinkSpec, NodeSpec
from plandsl.spec.plan import PlanSpec

Kind = tuple[str, LinkSpec]


def kinds(plan: PlanSpec) -> tuple[PlanSpec, ...]:
    """A plan for each kind of GPU that ranks stand on, in the order of ranks, as if all were of that kind."""
    found: dict[Kind, tuple[GpuSpec, NodeSpec]] = {}
    for _, gpu, node in _runs(plan):
        found.setdefault((gpu.name, node.link), (gpu, node))
    return tuple(_alone(plan, gpu, node) for gpu, node in found.values())


def stage_kinds(plan: PlanSpec, program: Program) -> list[dict[int, int]]:
    """For each stage, how many of its ranks, over all replicas, stand on which of the plan's `kinds`, by number."""
    mesh, axes = program.mesh, program.stage_axes
    found: list[dict[int, int]] = [{} for _ in range(mesh.ways(axes))]
    for rank, kind in enumerate(_by_rank(plan)):
        at, stage = mesh.coordinates(rank), 0
        for axis in axes:
            stage = stage * mesh.size(axis) + at[axis]
        found[stage][kind] = found[stage].get(kind, 0) + 1
    return found


def rank_gpus(plan: PlanSpec) -> list[GpuSpec]:
    """The GPU that each rank stands on."""
    return [gpu for count, gpu, _ in _runs(plan) for _ in range(count)]


def _by_rank(plan: PlanSpec) -> Iterator[int]:
    numbers: dict[Kind, int] = {}
    for count, gpu, node in _runs(plan):
        kind = numbers.setdefault((gpu.name, node.link), len(numbers))
        yield from (kind for _ in range(count))


def _runs(plan: PlanSpec) -> Iterator[tuple[int, GpuSpec, NodeSpec]]:
    """Neighbouring ranks on one kind of GPU: how many, and where."""
    left = plan.sharding.ranks
    for many, node in ((1, plan.node),) if plan.cluster is None else plan.cluster.groups:
        for _ in range(many):
            for count, gpu in node.groups:
                if left <= 0:
                    return
                yield min(count, left), gpu, node
                left -= count


def _alone(plan: PlanSpec, gpu: GpuSpec, node: NodeSpec) -> PlanSpec:
    node = evolve(node, gpu=gpu, gpus=())
    cluster = None if plan.cluster is None else evolve(plan.cluster, node=node, nodes=())
    calibration = dict(plan.calibrations).get(gpu.name, plan.calibration)
    return evolve(plan, node=node, cluster=cluster, calibration=calibration, calibrations=())
