"""Who sends how much to whom: bytes from ranks to ranks in one pass of a phase, by mesh axis."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from plandsl.values import sum_up

if TYPE_CHECKING:
    from plandsl.columns import Table


class Cell(NamedTuple):
    """The bytes that the ranks of one block send to those of another, or of the same, along one axis."""

    sender: int
    receiver: int
    axis: str
    bytes: float


class Flows(NamedTuple):
    """What ranks send to ranks in one phase.

    ``senders`` and ``receivers`` are blocks of ranks, half-open ranges that a `Cell` numbers: blocks of one rank where
    there are few. They are the same blocks, except of a transfer, which goes from a prefill pool to a decode pool.
    ``per_node`` is the number of ranks of a node of the senders and of the receivers, ``between_nodes`` the bytes that
    ranks send to ranks of other nodes.
    """

    phase: str
    senders: tuple[range, ...]
    receivers: tuple[range, ...]
    per_node: tuple[int, int]
    cells: tuple[Cell, ...]
    between_nodes: float = 0.0

    @property
    def total(self) -> float:
        """All bytes that are sent."""
        return sum_up(cell.bytes for cell in self.cells)

    def by_axis(self) -> dict[str, float]:
        """All bytes along each axis, the most first."""
        found: dict[str, float] = {}
        for cell in self.cells:
            found[cell.axis] = found.get(cell.axis, 0.0) + cell.bytes
        return dict(sorted(found.items(), key=lambda pair: -pair[1]))

    def table(self) -> Table:
        """A row for each pair of blocks and axis; a block of several ranks by its first one."""
        from plandsl.answers.tables import flows_table

        return flows_table(self)

    def as_json(self) -> dict[str, Any]:
        """An entry of ``flows``: blocks as their first and last rank."""
        return {
            "phase": self.phase,
            "senders": [[block[0], block[-1]] for block in self.senders],
            "receivers": [[block[0], block[-1]] for block in self.receivers],
            "cells": [cell._asdict() for cell in self.cells],
            "total_bytes": self.total,
            "between_nodes_bytes": self.between_nodes,
        }
