"""How a group of ranks lies on a torus, and what its links carry.

Places are numbered with the last size of a torus fastest: in ``torus(4, 4)`` ranks 0 to 3 are neighbours in a row.
"""

from __future__ import annotations

from typing import NamedTuple

from plandsl.backends.cost.num import are_numbers
from plandsl.ir.types import Number
from plandsl.values import sum_up


class Stretch(NamedTuple):
    """What a group covers of one axis: ``size`` members, ``step`` places apart.

    ``closed``: the axis closes to a ring and the group goes all around it. ``step`` groups share the links between.
    """

    size: int
    step: int = 1
    closed: bool = False

    @property
    def links(self) -> float:
        """Links that a member has along the axis, in shares of one: two on a ring, one at the end of a line."""
        return (2 if self.closed else 1) / self.step

    @property
    def reach(self) -> int:
        """Links between the two members that are farthest apart."""
        return self.step * (self.size // 2 if self.closed else self.size - 1)

    @property
    def cut(self) -> float:
        """Bytes over each link of a cut through the middle, for each byte that every member sends evenly to all.

        With ``m`` members, halves of h and m - h, and c links for each member of the cut: ``h (m - h) / (m c)``. On a
        ring ``m / 8`` (Dally and Towles, "Principles and Practices of Interconnection Networks", 2004).
        """
        half = self.size // 2
        return half * (self.size - half) / (self.size * self.links)

    @property
    def distance(self) -> float:
        """Links between two members on average, a member and itself included."""
        m = self.size
        return self.step * ((m * m // 4) / m if self.closed else (m * m - 1) / (3 * m))


class Spread(NamedTuple):
    """A group of a torus, by the stretches that it covers: all that the times of collectives depend on."""

    links: Number
    reach: Number
    cut: Number
    distance: Number


def follow(dims: tuple[int, ...], wrap: bool, n: int, stride: int) -> tuple[Stretch, ...] | None:
    """The stretches that ``n`` ranks cover, ``stride`` ranks apart; None if they do not follow the axes of ``dims``."""
    found, rest, step = [], n, stride
    for size in reversed(dims):
        if step >= size:
            if step % size:
                return None
            step //= size
            continue
        along = min(rest, size // step)
        if size % step or rest % along:
            return None
        if along > 1:
            found.append(Stretch(along, step, wrap and size > 2 and along * step == size))
        rest, step = rest // along, 1
    return tuple(found) if rest == 1 else None


def spread(dims: tuple[int, ...], wrap: bool, n: Number, stride: int) -> Spread:
    """How ``n`` ranks lie on a torus, of each number in an array; ranks that do not follow its axes count as a line.

    Without ``dims`` the torus is one ring of ``n``.
    """
    if are_numbers(n):
        return _spread(dims, wrap, round(float(n)), stride)
    import numpy as np

    found = [_spread(dims, wrap, round(float(ranks)), stride) for ranks in np.ravel(n)]
    return Spread(*(np.reshape(values, np.shape(n)) for values in zip(*found, strict=True)))


def _spread(dims: tuple[int, ...], wrap: bool, n: int, stride: int) -> Spread:
    parts = follow(dims or (n,), wrap, n, stride)
    if parts is None:
        parts = (Stretch(n),)
    return Spread(
        sum_up(p.links for p in parts) or 1.0,
        sum_up(p.reach for p in parts),
        max((p.cut for p in parts), default=0.0),
        sum_up(p.distance for p in parts),
    )
