"""Where the ranks of a mesh stand on the nodes of a cluster: rank r in node ``r // per_node``."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

from plandsl.ir.types import Mesh, axes_of


class Spread(NamedTuple):
    """How each group of ranks along an axis lies on nodes: ``inside`` of them in each of ``nodes``.

    ``distance`` is that of its nodes, in nodes. Where groups are not ``even``, they count as if each rank stood alone
    (``inside`` 1), and ``spans`` tells how many nodes a group reaches at most.
    """

    inside: int
    nodes: int
    distance: int
    spans: int
    even: bool = True


def spread(mesh: Mesh, axis: str, per_node: int) -> Spread:
    """The groups along ``axis``, or along neighbours ``a*b``, on nodes of ``per_node`` ranks.

    With n ranks at a distance of s: inside a node where it holds whole blocks of ``n s``, one rank a node where s is
    whole nodes, ``per_node / s`` a node where the block is whole nodes.
    """
    n, s = _group(mesh, axis)
    if n == 1 or mesh.ranks <= per_node or per_node % (n * s) == 0:
        return Spread(n, 1, 0, 1)
    if s % per_node == 0:
        return Spread(1, n, s // per_node, n)
    if per_node % s == 0 and (n * s) % per_node == 0:
        nodes = n * s // per_node
        return Spread(per_node // s, nodes, 1, nodes)
    spans = max(len({rank // per_node for rank in group}) for group in groups(mesh, axis))
    return Spread(n, 1, 0, 1) if spans == 1 else Spread(1, n, 1, spans, False)


def _group(mesh: Mesh, axis: str) -> tuple[int, int]:
    """Ranks of a group, and the distance between them."""
    axes = axes_of(axis)
    return mesh.ways(axes), mesh.stride(axes[-1])


def groups(mesh: Mesh, axis: str) -> Iterator[range]:
    """The ranks of each group along ``axis``."""
    n, s = _group(mesh, axis)
    for block in range(0, mesh.ranks, n * s):
        for first in range(block, block + s):
            yield range(first, first + n * s, s)


class Boundary(NamedTuple):
    """What passes from one stage to the next: whether some ranks send to another node, and some inside their own.

    ``turns``: some that send to another node reach a GPU with another place in it.
    """

    far: bool
    near: bool
    turns: bool


def boundaries(mesh: Mesh, stage_axes: tuple[str, ...], per_node: int) -> list[Boundary]:
    """One for each pair of neighbouring stages; a rank sends to the one at its place in the next."""
    offsets = [0]
    for axis in stage_axes:
        offsets = [o + i * mesh.stride(axis) for o in offsets for i in range(mesh.size(axis))]
    firsts = [0]
    for axis, size in mesh.axes:
        if axis not in stage_axes:
            firsts = [f + i * mesh.stride(axis) for f in firsts for i in range(size)]
    out = []
    for a, b in pairwise(offsets):
        far = [(f + a) // per_node != (f + b) // per_node for f in firsts]
        out.append(Boundary(any(far), not all(far), any(far) and (b - a) % per_node > 0))
    return out
