"""Laws about the machine: who talks with whom, how many bytes that takes, what memory holds, what hardware can do."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import isclose
from typing import NamedTuple

from plandsl.answers.estimate import Estimate
from plandsl.answers.occupancy import Memory
from plandsl.answers.phases import OpTime
from plandsl.backends.cost.answers.lines import PhaseLines
from plandsl.backends.cost.time.phase import ProgramRun
from plandsl.driver import CompiledPlan
from plandsl.ir.names import axes_of
from plandsl.ir.nodes import groups
from plandsl.ir.program import Program
from plandsl.ir.types import Mesh
from plandsl.testing.compare import SLACK
from plandsl.testing.inapplicable import DoesNotApply
from plandsl.values import sum_up

# ---- groups


def groups_partition_the_ranks(plan: CompiledPlan) -> None:
    """The groups of each collective partition the ranks: each rank is in exactly one, with all that differ in its axis.

    A group along an axis that is placed inside a node lies on one node.
    """
    asked = False
    for mode in plan.modes:
        for program in (mode.prefill.program, mode.decode.program):
            for axis in _axes(program):
                asked = True
                found = [tuple(group) for group in groups(program.mesh, axis)]
                _check_partition(program.mesh, axis, found)
                if all(mode.spec.sharding.placed and a in _placed(mode) for a in axes_of(axis)):
                    _check_nodes(mode.spec.node.count, axis, found)
    if not asked:
        raise DoesNotApply("its ranks send nothing to one another")


def _axes(program: Program) -> list[str]:
    """The axes along which ops communicate, and along which stages follow one another; ``a*b`` for several."""
    named = {str(getattr(op, "axis", "")) for region in program.regions for op in region.ops}
    stages = {axis for axis in program.stage_axes if program.mesh.size(axis) > 1}
    return sorted(axis for axis in named | stages if axis and program.mesh.ways(axes_of(axis)) > 1)


def _placed(plan: CompiledPlan) -> set[str]:
    return {place.axis for place in plan.spec.sharding.placed}


def _check_partition(mesh: Mesh, axis: str, found: list[tuple[int, ...]]) -> None:
    along = set(axes_of(axis))
    wanted: dict[tuple[tuple[str, int], ...], list[int]] = {}
    for rank in range(mesh.ranks):
        rest = tuple(item for item in mesh.coordinates(rank).items() if item[0] not in along)
        wanted.setdefault(rest, []).append(rank)
    assert sorted(rank for group in found for rank in group) == list(range(mesh.ranks)), f"groups along {axis}: {found}"
    assert {frozenset(group) for group in found} == {frozenset(group) for group in wanted.values()}, (
        f"groups along {axis} are {found}, and {list(wanted.values())} differ in {axis} alone"
    )


def _check_nodes(per_node: int, axis: str, found: list[tuple[int, ...]]) -> None:
    wide = [group for group in found if len({rank // per_node for rank in group}) > 1]
    assert not wide, f"{axis} is placed in a node of {per_node}, and {wide[0]} leaves it"


# ---- bytes


class _Call(NamedTuple):
    """A collective of a stage, by its line in the report, and the ranks of a group."""

    run: ProgramRun
    line: OpTime
    ranks: int


def _calls(plan: CompiledPlan) -> Iterator[_Call]:
    metrics = plan.cost.evaluate()
    for times in (metrics.prefill, metrics.decode):
        for run in times.ran:
            lines, mesh = PhaseLines.of(run), run.phase.schedule.program.mesh
            for stage in range(len(run.times.stages)):
                for line in lines.stage_ops(stage):
                    if line.communicates and line.count and line.bytes > 0:
                        yield _Call(run, line, mesh.ways(axes_of(line.axis)))


def wire_bytes_follow_their_formulas(plan: CompiledPlan) -> None:
    """Each collective sends the bytes of the formula of its algorithm.

    Of n ranks, with V bytes as nccl-tests count them, each sends 2 (n - 1) / n V in an all_reduce, and (n - 1) / n V
    in an all_gather, a reduce_scatter and an exchange; a hop sends V. An all_reduce may also send (n - 1) V in one
    shot, 2 V by a tree, and (n + 1) / n V where the switch adds up. Collectives between nodes have other formulas,
    except hops; between rails a hop sends 2 V, as a rank of the same node passes it on. What is dispatched to experts
    depends on how many of them a rank holds: there a rank sends at most n - 1 copies. In an exchange on a torus ranks
    hand on what others send: each byte that leaves a rank passes one link at least, and fewer than there are places.
    """
    asked = False
    for run, line, n in _calls(plan):
        if line.nodes > 1 and line.op not in HOPS:
            continue
        asked, sent = True, line.wire / line.bytes
        allowed = [form(n) for form in SENT[line.op]]
        if line.nodes > 1 and run.plan.cluster is not None and run.plan.cluster.network.topology == "rail":
            allowed.append(2.0)
        told = f"{line.op} {line.name} of {run.phase.schedule.program.phase}, by {line.algorithm} over {line.axis}"
        routed = line.op == "all_to_all" and plan.spec.model.routed  # ranks may hold some experts of a token themselves
        if line.algorithm == "torus":
            least, most = 0.0 if routed else (n - 1) / n, run.plan.node.count * (n - 1 if routed else 1)
            assert least <= sent * SLACK <= most * SLACK**2, f"{told}: {sent} bytes, not {least} to {most}"
            continue
        if routed:
            assert sent <= (n - 1) * SLACK, f"{told}: sends {sent} bytes for each of its payload, more than {n - 1}"
            continue
        assert any(isclose(sent, form, rel_tol=1e-9) for form in allowed), (
            f"{told}: sends {sent} bytes for each of its payload, and {n} ranks send {allowed}"
        )
    if not asked:
        raise DoesNotApply("its ranks send nothing to one another, or only between nodes")


HOPS = ("send", "ring")
"""Messages from one rank to another one."""

SENT: dict[str, tuple[Callable[[int], float], ...]] = {
    "all_reduce": (lambda n: 2 * (n - 1) / n, lambda n: n - 1.0, lambda n: 2.0, lambda n: (n + 1) / n),
    "all_gather": (lambda n: (n - 1) / n,),
    "reduce_scatter": (lambda n: (n - 1) / n,),
    "rescale": (lambda n: (n - 1) / n,),
    "all_to_all": (lambda n: (n - 1) / n, lambda n: (n - 1) / 2),
    **dict.fromkeys(HOPS, (lambda n: 1.0,)),
}
"""Bytes that one of n ranks sends for each byte of payload. An all_reduce: a ring or two shots, one shot, a tree, and
a multicast by the switch; an exchange: direct, and around a ring."""


# ---- memory


def memory_adds_up(plan: CompiledPlan) -> None:
    """On each stage the parts add up to what is held, no part is negative, and the plan fits where all stages do."""
    for pool in plan.pools:
        _check_memory(pool.closed_form(), pool)


def _check_memory(estimate: Estimate, plan: CompiledPlan) -> None:
    for at, held in enumerate(estimate.stages):
        parts = (held.weights, held.kv_cache, held.activations, held.buffers)
        assert all(part >= 0 for part in parts), f"stage {at}: {held}"
        assert isclose(sum_up(parts), held.total, rel_tol=1e-12), f"stage {at} holds {held.total} bytes, parts {parts}"
    share = max(map(_used, estimate.stages))
    assert isclose(_used(estimate.memory), share, rel_tol=1e-12), f"the fullest stage is said to use {estimate.memory}"
    refused = estimate.start is not None and estimate.start.refused
    assert estimate.fits == (share <= 1 and not refused), f"fits: {estimate.fits}, with {share} of the memory used"


def _used(held: Memory) -> float:
    return held.total / held.capacity


# ---- speed


def no_kernel_beats_the_hardware(plan: CompiledPlan) -> None:
    """No kernel multiplies faster than the peak of the GPU that runs it.

    Its bytes may be faster than memory, since a cache may hold them. Of unlike GPUs, the fastest one counts.
    """
    metrics = plan.cost.evaluate()
    for times in (metrics.prefill, metrics.decode):
        for run in times.ran:
            lines = PhaseLines.of(run)
            for stage in range(len(run.times.stages)):
                for line in lines.stage_ops(stage):
                    if line.count and line.time_s > 0 and not line.fused:
                        _check_speed(run, line)


def _check_speed(run: ProgramRun, line: OpTime) -> None:
    nodes = (run.plan.node,) if run.plan.cluster is None else (node for _, node in run.plan.cluster.groups)
    seconds = line.time_s / line.count
    peak = max(rate for node in nodes for _, gpu in node.groups for _, rate in gpu.compute)
    assert line.flops <= peak * seconds * SLACK, (
        f"{line.op} {line.name}: {line.flops / seconds:.4g} FLOP/s on a GPU of {peak:.4g}"
    )
