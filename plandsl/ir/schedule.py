"""The per-device schedule: for every stage, slots in order on streams, and the slots that each slot waits for.

It has no times: a backend plays it, and adds the seconds.
"""

from typing import NamedTuple

from attrs import field, frozen

from plandsl.ir.names import RegionName
from plandsl.ir.program import Part, Program
from plandsl.values import FrozenValue


class Slot(NamedTuple):
    """One op of a region on a stream; it starts when the stream is free and the slots in ``after`` are done.

    A ring hands blocks on from rank to rank, and a slot may read them one by one. Such a slot does not wait for the
    ring: a rank holds the first block before the ring starts, so ``after`` has the slots that the ring itself waits
    for. A block passes the slots in ``before``, then a last slot. In this last slot ``along`` is the slot of the ring,
    and ``blocks`` is the number of blocks; the last block arrives when the ring ends. The slots in ``before`` and the
    last slot work on one block after the other, though each of them is played in one piece.
    """

    op: int
    stream: str
    after: tuple[int, ...]
    along: int | None = None
    blocks: int = 1
    before: tuple[int, ...] = ()


class Turn(NamedTuple):
    """A stage's run over one in-flight batch: it starts when the stage is free and stage ``after`` is done.

    ``after`` is the stage whose output it needs. It is None on the first stage, which waits until the batch itself is
    back from its previous step.
    """

    stage: int
    after: int | None


@frozen(eq=False, repr=False, slots=False)
class Schedule(FrozenValue):
    """The ops that each device runs, in order. Every rank of a stage runs the same slots on its own shards."""

    program: Program
    slots: tuple[tuple[RegionName, tuple[Slot, ...]], ...]
    turns: tuple[Turn, ...]
    in_flight: int
    _by_name: dict[RegionName, tuple[Slot, ...]] = field(init=False, eq=False, repr=False)

    def __attrs_post_init__(self) -> None:
        object.__setattr__(self, "_by_name", dict(self.slots))

    @property
    def stages(self) -> tuple[tuple[Part, ...], ...]:
        """Parts of each stage."""
        return self.program.stages

    def __repr__(self) -> str:
        slots = sum(len(slots) for _, slots in self.slots)
        stages = f"{len(self.stages)} stage{'s' * (len(self.stages) != 1)}"
        return f"<Schedule {self.program.model} {self.program.phase}: {slots} slots, {stages}>"

    def slots_of(self, region: RegionName) -> tuple[Slot, ...]:
        """The slots of a region, one per op (KeyError where there is no such region)."""
        return self._by_name[region]
