"""How the groups of ranks of a mesh lie on the nodes of a cluster: rank r is in node ``r // per_node``."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

from plandsl.ir.names import axes_of
from plandsl.ir.types import Mesh


class NodeSpan(NamedTuple):
    """How each group of ranks along an axis lies on nodes: ``inside`` ranks in each of ``nodes`` nodes.

    ``distance`` is the distance between neighbouring nodes of a group, in nodes. ``spans`` is the largest number of
    nodes that a group reaches. Groups that are not ``even`` count as if each rank had a node to itself (``inside`` 1).
    """

    inside: int
    nodes: int
    distance: int
    spans: int
    even: bool = True


def node_span(mesh: Mesh, axis: str, per_node: int) -> NodeSpan:
    """How groups along ``axis``, or along neighbouring axes ``a*b``, lie on nodes of ``per_node`` ranks.

    A group has n ranks, s ranks apart, and so reaches over a block of ``n s`` ranks:

    - ``per_node`` is a multiple of ``n s``: the group is inside one node.
    - s is a multiple of ``per_node``: one rank in each of n nodes.
    - ``n s`` is a multiple of ``per_node``, and ``per_node`` of s: ``per_node / s`` ranks in each node.
    """
    n, s = _group(mesh, axis)
    if n == 1 or mesh.ranks <= per_node or per_node % (n * s) == 0:
        return NodeSpan(n, 1, 0, 1)
    if s % per_node == 0:
        return NodeSpan(1, n, s // per_node, n)
    if per_node % s == 0 and (n * s) % per_node == 0:
        nodes = n * s // per_node
        return NodeSpan(per_node // s, nodes, 1, nodes)
    spans = max(len({rank // per_node for rank in group}) for group in groups(mesh, axis))
    return NodeSpan(n, 1, 0, 1) if spans == 1 else NodeSpan(1, n, 1, spans, False)


def _group(mesh: Mesh, axis: str) -> tuple[int, int]:
    """The number of ranks in a group, and the distance between neighbours."""
    axes = axes_of(axis)
    return mesh.ways(axes), mesh.stride(axes[-1])


def groups(mesh: Mesh, axis: str) -> Iterator[range]:
    """The ranks of each group along ``axis``."""
    n, s = _group(mesh, axis)
    for block in range(0, mesh.ranks, n * s):
        for first in range(block, block + s):
            yield range(first, first + n * s, s)


class Boundary(NamedTuple):
    """How ranks send from one stage to the next: some to another node (``far``), some inside their node (``near``).

    ``turns``: some ranks send to a GPU that has another place in its node than the sender has.
    """

    far: bool
    near: bool
    turns: bool


def boundaries(mesh: Mesh, stage_axes: tuple[str, ...], per_node: int) -> list[Boundary]:
    """The boundary between each pair of neighbouring stages; a rank sends to the same rank of the next stage."""
    others = [axis for axis, _ in mesh.axes if axis not in stage_axes]
    firsts = {first % per_node for first in mesh.offsets(others)}  # whole nodes before a rank change nothing
    out = []
    for a, b in pairwise(mesh.offsets(stage_axes)):
        far = [(f + a) // per_node != (f + b) // per_node for f in firsts]
        out.append(Boundary(any(far), not all(far), any(far) and (b - a) % per_node > 0))
    return out
