"""From metrics to `Flows`: the bytes of the table of communication, from the ranks that send them to their peers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

from plandsl.answers.flows import Flows
from plandsl.backends.cost.answers.communication import StageCalls, bases, stage_calls
from plandsl.backends.cost.answers.flows_pools import transfer_flows
from plandsl.backends.cost.answers.lines import PhaseLines
from plandsl.backends.cost.answers.ranks import Sums, rank_blocks, ranks_per_node, stage_ranks
from plandsl.backends.cost.deployments.deployment import Deployment
from plandsl.ir.collectives import HOP_WORDS, Ring
from plandsl.ir.names import axes_of
from plandsl.ir.nodes import groups
from plandsl.ir.program import DECODE, PREFILL
from plandsl.ir.types import Mesh
from plandsl.values import sum_up

RINGS = ("ring", "nccl", "torch", "fitted", "measured")
"""Algorithms and libraries that pass the parts of a sum or a gathering around a ring (`forms.collective.ring_way`)."""

AROUND = ("all_reduce", "all_gather", "reduce_scatter", "rescale")
"""The words of the ops that `RINGS` pass around."""

Sent = tuple[Sequence[int], Sequence[int], float]
"""Senders, receivers, and the bytes that each sender spreads evenly over them."""


def flows(model: Deployment, size: int | None = None) -> tuple[Flows, ...]:
    """What ranks send to ranks in a prefill, in a decode step, and between two pools; ``size`` ranks are a block.

    Where nothing comes out of a request, there is no decode step.
    Every byte of the table of communication is here once for each rank that sends it: a `total` is the table's bytes
    of a phase times the ranks of a stage (a draft runs on the ranks of all stages). The bytes of a rank are spread over
    the other ranks of its group as the algorithm sends them (`spread`).
    """
    phases = (PREFILL,) if model.own.encodes else (PREFILL, DECODE)
    found = [phase_flows(model, phase, size) for phase in phases]
    if model.transfer is not None:
        found.append(transfer_flows(model, size))
    return tuple(found)


def phase_flows(model: Deployment, phase: str, size: int | None = None) -> Flows:
    """What ranks send to ranks in one ``phase``, as `flows` has it."""
    metrics = model.own
    first, step = bases(metrics, model.plan.workload.output, model.pools[-1].one.gain)
    times, basis = (metrics.prefill, first) if phase == PREFILL else (metrics.decode, step)
    plan, program = times.main.plan, times.main.phase.schedule.program
    per_node = ranks_per_node(plan)
    blocks = rank_blocks(program.mesh, per_node, size)
    sums = Sums(len(blocks[0]))
    far = sums if sums.size == per_node else Sums(per_node)
    counted = [sums] if far is sums else [sums, far]

    placed = stage_ranks(plan, program)
    wires: dict[tuple[str, int, str, str], float] = {}
    grouped: dict[tuple[str, str], list[list[Sequence[int]]]] = {}
    meshes: dict[str, Mesh] = {}
    for call in stage_calls(times, basis, PhaseLines.of_main(times)):
        meshes[call.run.part] = call.run.phase.schedule.program.mesh
        key = (call.run.part, call.stage, call.kind.axis, _way(call))
        wires[key] = wires.get(key, 0.0) + call.traffic.wire
    for (part, stage, axis, way), wire in wires.items():
        if way == HOP:
            for each in counted:
                each.add_hops(placed[stage], placed[stage + 1], axis, wire)
            continue
        if (part, axis) not in grouped:
            grouped[part, axis] = _groups(part, axis, meshes[part], placed)
        for group in grouped[part, axis][stage]:
            for senders, receivers, sent in spread(group, way, wire, per_node):
                for each in counted:
                    each.add(senders, receivers, axis, sent)
    between = sum_up(value for (a, b, _), value in far.found.items() if a != b)
    return Flows(phase, blocks, blocks, (per_node, per_node), cells=sums.cells(), between_nodes=between)


def _groups(part: str, axis: str, mesh: Mesh, placed: list[list[list[int]]]) -> list[list[Sequence[int]]]:
    """The groups of ranks along ``axis`` in each stage.

    A draft has one stage, and runs in whole copies on the ranks of every stage of the model.
    """
    if not part:
        stage_of = {rank: stage for stage, replicas in enumerate(placed) for ranks in replicas for rank in ranks}
        found: list[list[Sequence[int]]] = [[] for _ in placed]
        for group in groups(mesh, axis):
            found[stage_of[group[0]]].append(group)
        return found
    own = [tuple(group) for group in groups(mesh, axis)]
    copies = (
        ranks[first : first + mesh.ranks]
        for stages in placed
        for ranks in stages
        for first in range(0, len(ranks), mesh.ranks)
    )
    return [[[ranks[i] for i in group] for ranks in copies for group in own]]


# ---- from a rank to its peers

HOP, NEXT, EVEN, TREE, LEVELS, RAILS = "hop", "next", "even", "tree", "levels", "rails"


def _way(call: StageCalls) -> str:
    """How the bytes of a rank are spread: to the next rank, evenly over all others, or by the levels of a cluster."""
    kind, traffic = call.kind, call.traffic
    if kind.op in HOP_WORDS:
        return HOP
    if kind.op == Ring.facts.word:
        return NEXT
    if kind.algorithm in (TREE, LEVELS, RAILS):
        return kind.algorithm
    if kind.op not in AROUND or kind.algorithm not in RINGS:
        return EVEN
    mesh = call.run.phase.schedule.program.mesh
    n = mesh.ways(axes_of(kind.axis))
    switched = kind.op == "all_reduce" and n > 3 and abs(traffic.wire / traffic.payload - 1 - 1 / n) < 1e-9
    link = call.run.plan.node.link.topology
    return EVEN if switched or (link == "mesh" and kind.nodes == 1) else NEXT


def spread(group: Sequence[int], way: str, wire: float, per_node: int) -> Iterator[Sent]:
    """Spread ``wire`` bytes of each rank of a group over its peers.

    - ``next``: a ring, all to the next rank of the group;
    - ``even``: equal parts to all others. A kernel that reads its peers' memory, an exchange, and a sum in the switch,
      whose bytes pass the switch, do so; through a full mesh as many rings run as a rank has peers;
    - ``tree``: equal parts to the parent and the children in a binary tree;
    - ``levels``: between ``m`` nodes of ``k`` ranks, ``n = k m``: ``(m - 1) / (n - 1)`` to the ranks of the same place
      in other nodes, the rest to the ranks of the node (each step sends the least that it can: ``Roads.routes``);
    - ``rails``: the same with ``(k - 1) / k`` inside the node for each ``(m - 1) / m`` along the rails.
    """
    n = len(group)
    if n < 2:
        return
    if way == NEXT:
        yield from (((rank,), (group[(i + 1) % n],), wire) for i, rank in enumerate(group))
    elif way == TREE:
        for i, rank in enumerate(group):
            near = ((i - 1) // 2, 2 * i + 1, 2 * i + 2)
            yield (rank,), [group[j] for j in near if 0 <= j < n], wire
    elif way in (LEVELS, RAILS):
        yield from _spread_levels(group, way, wire, per_node)
    else:
        yield group, group, wire


def _spread_levels(group: Sequence[int], way: str, wire: float, per_node: int) -> Iterator[Sent]:
    nodes = [list(ranks) for _, ranks in groupby(group, lambda rank: rank // per_node)]
    k, m = len(nodes[0]), len(nodes)
    near, far = ((k - 1) / k, (m - 1) / m) if way == RAILS else (m * (k - 1), m - 1)
    for ranks in nodes if k > 1 else []:
        yield ranks, ranks, wire * near / (near + far)
    for along in zip(*nodes, strict=True) if m > 1 else []:
        yield along, along, wire * far / (near + far)
