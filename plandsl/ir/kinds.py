"""Unlike GPUs: the kinds of GPU that a plan runs on, and the kinds that each stage uses.

A kind is a GPU with the links of its node. Only plans on unlike GPUs load this module.
"""

from __future__ import annotations

from collections.abc import Iterator

from attrs import evolve

from plandsl.ir.program import Program
from plandsl.spec.hardware import GpuSpec, LinkSpec, NodeSpec
from plandsl.spec.plan import PlanSpec

Kind = tuple[str, LinkSpec]


def kinds(plan: PlanSpec) -> tuple[PlanSpec, ...]:
    """One plan for each kind of GPU, in the order of ranks: the same plan, as if all GPUs were of that kind."""
    found: dict[Kind, tuple[GpuSpec, NodeSpec]] = {}
    for _, gpu, node in _runs(plan):
        found.setdefault((gpu.name, node.link), (gpu, node))
    return tuple(_plan_on_kind(plan, gpu, node) for gpu, node in found.values())


def stage_kinds(plan: PlanSpec, program: Program) -> list[dict[int, int]]:
    """For each stage, the number of its ranks (over all replicas) by kind; a kind is its index in `kinds`."""
    mesh, axes = program.mesh, program.stage_axes
    found: list[dict[int, int]] = [{} for _ in range(mesh.ways(axes))]
    for rank, kind in enumerate(_rank_kinds(plan)):
        stage = mesh.index(mesh.coordinates(rank), axes)
        found[stage][kind] = found[stage].get(kind, 0) + 1
    return found


def rank_gpus(plan: PlanSpec) -> list[GpuSpec]:
    """The GPU of each rank."""
    return [gpu for count, gpu, _ in _runs(plan) for _ in range(count)]


def _rank_kinds(plan: PlanSpec) -> Iterator[int]:
    """The kind of each rank's GPU."""
    numbers: dict[Kind, int] = {}
    for count, gpu, node in _runs(plan):
        kind = numbers.setdefault((gpu.name, node.link), len(numbers))
        yield from (kind for _ in range(count))


def _runs(plan: PlanSpec) -> Iterator[tuple[int, GpuSpec, NodeSpec]]:
    """Runs of neighbouring ranks on one kind of GPU: their number, the GPU, and its node."""
    left = plan.sharding.ranks
    for many, node in ((1, plan.node),) if plan.cluster is None else plan.cluster.groups:
        for _ in range(many):
            for count, gpu in node.groups:
                if left <= 0:
                    return
                yield min(count, left), gpu, node
                left -= count


def _plan_on_kind(plan: PlanSpec, gpu: GpuSpec, node: NodeSpec) -> PlanSpec:
    node = evolve(node, gpu=gpu, gpus=())
    cluster = None if plan.cluster is None else evolve(plan.cluster, node=node, nodes=())
    calibration = dict(plan.calibrations).get(gpu.name, plan.calibration)
    return evolve(plan, node=node, cluster=cluster, calibration=calibration, calibrations=())
