"""The per-device schedule: for every stage, slots in order on streams, and what each slot waits for.

No times: a backend that knows seconds plays it.
"""

from __future__ import annotations

from typing import NamedTuple

from attrs import field, frozen

from plandsl.ir.program import Part, Program

COMPUTE, LINK = "compute", "link"
"""Streams of a device: kernels, and communication."""


class Slot(NamedTuple):
    """One op of a region on a stream; it starts when the stream is free and the slots in ``after`` are done.

    A slot that reads what a ring brings, block by block, does not wait for the ring: a rank holds the first block
    before the ring turns, so ``after`` has what the ring itself waits for. The last slot that a block passes runs
    ``along`` the ring: it works on ``blocks`` blocks in turn, and the last one comes when the ring ends. Each block
    passes the slots in ``before`` first; they take turns with it block by block, though each is played in one piece.
    """

    op: int
    stream: str
    after: tuple[int, ...]
    along: int | None = None
    blocks: int = 1
    before: tuple[int, ...] = ()


class Turn(NamedTuple):
    """A stage's run over one in-flight batch: it starts when the stage is free and ``after`` is done.

    ``after`` is the stage whose output it needs (None on the first stage, where the batch itself must be back).
    """

    stage: int
    after: int | None


@frozen
class Schedule:
    """What each device runs, in order. Every rank of a stage runs the same slots on its own shards."""

    program: Program
    slots: tuple[tuple[str, tuple[Slot, ...]], ...]
    turns: tuple[Turn, ...]
    in_flight: int
    _by_name: dict[str, tuple[Slot, ...]] = field(init=False, eq=False, repr=False)

    def __attrs_post_init__(self) -> None:
        object.__setattr__(self, "_by_name", dict(self.slots))

    @property
    def stages(self) -> tuple[tuple[Part, ...], ...]:
        """Parts of each stage."""
        return self.program.stages

    def of(self, region: str) -> tuple[Slot, ...]:
        """Slots of a region, one per op."""
        return self._by_name[region]
