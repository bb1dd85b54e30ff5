"""Blocks of neighbouring ranks, the ranks of each stage, and sums of bytes from block to block."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from plandsl.answers.flows import Cell
from plandsl.ir.program import Program
from plandsl.ir.types import Mesh
from plandsl.spec.plan import PlanSpec

MOST_BLOCKS, LEAST_BLOCKS = 32, 6
"""Most and fewest blocks of ranks in large machines, where a block is several ranks."""


def ranks_per_node(plan: PlanSpec) -> int:
    """The ranks of a node: all of them without a cluster."""
    return plan.cluster.node.count if plan.cluster is not None else plan.node.count


def rank_blocks(mesh: Mesh, per_node: int, size: int | None = None) -> tuple[range, ...]:
    """Blocks of ``size`` neighbouring ranks; without a size at most `MOST_BLOCKS` of them.

    They are single ranks, else groups along mesh axes or nodes, else of a size that is a power of two.
    """
    if size is None:
        powers = (2**i for i in range(1, mesh.ranks.bit_length()))
        shown = [1, *sorted({mesh.stride(axis) for axis, _ in mesh.axes} | {per_node}), *powers]
        fits = (s for s in shown if mesh.ranks / MOST_BLOCKS <= s <= max(mesh.ranks / LEAST_BLOCKS, 1))
        size = next(fits, -(-mesh.ranks // MOST_BLOCKS))
    return tuple(range(at, min(at + size, mesh.ranks)) for at in range(0, mesh.ranks, size))


def stage_ranks(plan: PlanSpec, program: Program) -> list[list[list[int]]]:
    """The ranks of each replica, by stage."""
    mesh, stages, replicas = program.mesh, program.stage_axes, plan.sharding.replica_axes
    others = mesh.offsets(axis for axis, _ in mesh.axes if axis not in (*stages, *replicas))
    return [[[a + b + c for c in others] for b in mesh.offsets(replicas)] for a in mesh.offsets(stages)]


class Sums:
    """Bytes from blocks of ``size`` ranks to such blocks, by axis."""

    def __init__(self, size: int, other: int | None = None) -> None:
        self.size, self.other = size, other or size
        self.found: dict[tuple[int, int, str], float] = defaultdict(float)

    def add(self, senders: Sequence[int], receivers: Sequence[int], axis: str, wire: float) -> None:
        """Each of ``senders`` sends ``wire`` bytes in equal parts to ``receivers``, of the same group to its peers."""
        same = senders is receivers
        ours = _count(senders, self.size)
        theirs = ours if same and self.size == self.other else _count(receivers, self.other)
        for a, many in ours.items():
            for b, others in theirs.items():
                if pairs := many * (others - (same and a == b)):
                    self.found[a, b, axis] += wire * pairs / (len(receivers) - same)

    def add_hops(
        self, senders: Sequence[Sequence[int]], receivers: Sequence[Sequence[int]], axis: str, wire: float
    ) -> None:
        """Each sender of each replica sends ``wire`` bytes to the receiver of its replica at the same place."""
        size, other, found = self.size, self.other, self.found
        for here, there in zip(senders, receivers, strict=True):
            for a, b in zip(here, there, strict=True):
                found[a // size, b // other, axis] += wire

    def cells(self) -> tuple[Cell, ...]:
        """The sums, by sender and receiver."""
        return tuple(Cell(*key, value) for key, value in sorted(self.found.items()) if value)


def _count(ranks: Sequence[int], size: int) -> dict[int, int]:
    """How many of ``ranks`` each block of ``size`` has: for the few ranks of a group faster than a `Counter`."""
    found: dict[int, int] = {}
    for rank in ranks:
        block = rank // size
        found[block] = found.get(block, 0) + 1
    return found
