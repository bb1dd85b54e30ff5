"""What a rank of each stage does in one pass of a program: ops with their start and end, layer by layer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from plandsl.answers.phases import OpTime
from plandsl.backends.cost.answers.lines import PhaseLines
from plandsl.backends.cost.time.phase import ProgramRun, play_slots
from plandsl.backends.cost.work.work import Work
from plandsl.ir.names import SEND, RegionName, RunKey
from plandsl.ir.ops import Op
from plandsl.ir.program import Part, Program, Region


class Ran(NamedTuple):
    """An op that takes time, on one rank: from ``start`` to ``end`` in seconds of its layer; ``number`` in its region.

    It works for ``busy`` seconds; where it waits for blocks of a ring in between, that is less than it lasts. ``line``
    is the op as the report shows it, with the numbers of one run.
    """

    number: int
    op: Op
    work: Work
    line: OpTime
    stream: str
    start: float
    end: float
    busy: float


class Layer(NamedTuple):
    """A region that a stage runs once: ``start`` from the begin of the pass, ``number`` of the layer if it is one."""

    region: Region
    number: int | None
    start: float
    seconds: float
    ran: tuple[Ran, ...]

    @property
    def name(self) -> str:
        """``layer 3``, or the name of the region."""
        return str(self.region.name) if self.number is None else f"layer {self.number}"


class StagePass(NamedTuple):
    """One pass on a rank of a stage."""

    layers: tuple[Layer, ...]
    seconds: float


class Passes(NamedTuple):
    """One pass of the program of ``run`` on each stage, and behind each stage but the last the ops of its hop.

    A pass is one of ``run.steps`` equal steps, and has an equal part of the seconds and bytes of ``run``.
    """

    run: ProgramRun
    stages: tuple[StagePass, ...]
    hops: tuple[tuple[Ran, ...], ...]

    @property
    def program(self) -> Program:
        """The program that ran."""
        return self.run.phase.schedule.program

    @property
    def hop_seconds(self) -> list[float]:
        """Seconds of each hop."""
        return [max((ran.end for ran in hop), default=0.0) for hop in self.hops]


def passes_of(run: ProgramRun) -> Passes:
    """One pass of each stage; equal stages share their ops."""
    known: dict[RunKey, tuple[tuple[Ran, ...], float]] = {}
    lines, phase = PhaseLines.of(run), run.phase
    program, share = phase.schedule.program, 1 / float(run.steps)

    def ops(stage: int, name: RegionName) -> tuple[tuple[Ran, ...], float]:
        key = phase.run(stage, name)
        if key not in known:
            known[key] = _play(run, lines, key, name, share)
        return known[key]

    stages = []
    for stage, parts in enumerate(program.stages):
        at, layers = 0.0, []
        for name, number in in_order(parts):
            ran, seconds = ops(stage, name)
            layers.append(Layer(program.region(name), number, at, seconds, ran))
            at += seconds
        stages.append(StagePass(tuple(layers), at))
    return Passes(run, tuple(stages), tuple(ops(stage, SEND)[0] for stage in range(len(stages) - 1)))


def in_order(parts: tuple[Part, ...]) -> Iterator[tuple[RegionName, int | None]]:
    """The regions of a stage in the order in which it runs them, hops apart; of a block each layer by its number."""
    layered = sorted(
        (number, part.region) for part in parts if part.layers is not None for number in part.every.select(part.layers)
    )
    for part in parts:
        if part.layers is not None:
            yield from ((region, number) for number, region in layered)
            layered = []
        elif part.region != SEND:
            yield part.region, None


def _play(
    run: ProgramRun, lines: PhaseLines, key: RunKey, name: RegionName, share: float
) -> tuple[tuple[Ran, ...], float]:
    """The ops of a region that take time, and the seconds of the region."""
    slots = run.phase.schedule.slots_of(name)
    seconds = [float(s) * share for s in run.times.seconds[key]]
    played = play_slots(slots, seconds, run.phase.orders[name].waits)
    told = lines.lines(key, 1)
    ran = tuple(
        Ran(
            slot.op,
            work.op,
            work,
            told[slot.op],
            slot.stream,
            start=float(start),
            end=float(end),
            busy=seconds[slot.op],
        )
        for slot, (start, end) in zip(slots, played, strict=True)
        for work in (run.phase.work[key][slot.op],)
        if seconds[slot.op] > 0
    )
    return ran, max((float(end) for _, end in played), default=0.0)
