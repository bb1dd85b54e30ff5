"""Times on unlike GPUs: every rank of a stage runs the same ops on its own GPU, and the slowest decides.

Loaded for plans whose ranks stand on several kinds of GPU. A collective or a hop waits for all its ranks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import copy
from functools import reduce
from itertools import pairwise

from plandsl.backends.cost.machine.machine import Machine
from plandsl.backends.cost.num import largest, maximum
from plandsl.backends.cost.time.phase import NEAR, PhaseModel, Played
from plandsl.backends.cost.work.work import Work
from plandsl.ir.kinds import stage_kinds
from plandsl.ir.names import SEND, RegionName, RegionRun, RunKey
from plandsl.ir.schedule import Schedule
from plandsl.ir.types import Number
from plandsl.spec.plan import PlanSpec

Group = tuple[int, ...]
"""Kinds of GPU that run a region or a hop together, by number in `PlanSpec.kinds`."""


def unlike_phases(plan: PlanSpec, schedules: Iterable[Schedule]) -> list[PhaseModel]:
    """Each schedule on the plan's kinds of GPU."""
    machines = [Machine.of(kind) for kind in plan.kinds]
    return [UnlikePhase(plan, schedule, machines) for schedule in schedules]


class UnlikePhase(PhaseModel):
    """One phase on several kinds of GPU: an op takes as long as on the slowest kind of its stage's ranks.

    ``each`` is the phase on each kind alone. ``runs`` has the run of a kind alone that each run here is made of, and
    the kinds; under the name of the region itself all kinds run it.
    """

    def __init__(self, plan: PlanSpec, schedule: Schedule, machines: list[Machine]) -> None:
        self.schedule, self.machine, self.known = schedule, machines[0], None
        self.each = [PhaseModel(schedule, machine) for machine in machines]
        first = self.each[0]
        self.extents, self.attends = first.extents, first.attends
        self.windows, self.chunks = first.windows, first.chunks
        self.groups = [tuple(sorted(stage)) for stage in stage_kinds(plan, schedule.program)]
        every = tuple(range(len(machines)))
        self.runs: dict[RunKey, tuple[RunKey, Group]] = {name: (name, every) for name in first.work}
        for group in dict.fromkeys(self.groups):
            names = [r.name for r in schedule.program.regions if r.name != SEND]
            self.runs |= {RegionRun(name, near=False, kinds=group): (name, group) for name in names}
        self.boundaries = []
        for (a, b), name in zip(pairwise(self.groups), first.boundaries, strict=True):
            both = tuple(sorted({*a, *b}))
            self.boundaries.append(RegionRun(SEND, near=name == NEAR, kinds=both))
            self.runs[self.boundaries[-1]] = name, both
        self.work = self._work_of_runs()

    def on(self, machines: Sequence[Machine]) -> UnlikePhase:
        """The same phase on another machine of each kind."""
        other = copy(self)
        other.each = [phase.on([machine]) for phase, machine in zip(self.each, machines, strict=True)]
        other.machine = machines[0]
        other.work = other._work_of_runs()
        return other

    def _work_of_runs(self) -> dict[RunKey, list[Work]]:
        """The work of each run, on the first kind."""
        return {run: self.each[0].work[name] for run, (name, _) in self.runs.items()}

    def seconds(self, bind: Mapping[str, Number]) -> Callable[[Number], dict[RunKey, list[Number]]]:
        """A function from the context to the seconds of each op of each run, on the slowest kind."""
        asked = [phase.seconds(bind) for phase in self.each]

        return lambda context: self.slowest_kind([ask(context) for ask in asked])

    @property
    def kinds(self) -> Sequence[PhaseModel]:
        """The phase on each kind alone."""
        return self.each

    def slowest_kind(self, found: Sequence[dict[RunKey, list[Number]]]) -> dict[RunKey, list[Number]]:
        """Seconds of each op of each run: those of the slowest of its kinds."""
        return {
            run: [reduce(maximum, times) for times in zip(*(found[kind][name] for kind in group), strict=True)]
            for run, (name, group) in self.runs.items()
        }

    def run(self, stage: int, region: RegionName) -> RunKey:
        """What a stage runs of a region, on the kinds of its ranks."""
        return self.boundaries[stage] if region == SEND else RegionRun(region, near=False, kinds=self.groups[stage])

    def deciding_work(self, run: RunKey, bind: Mapping[str, Number], context: Number) -> list[tuple[PhaseModel, Work]]:
        """For each op of a run, that of the slowest kind at this context."""
        name, group = self.runs[run]
        times = {kind: self.each[kind].seconds(bind)(context)[name] for kind in group}
        slowest = [max(group, key=lambda kind: float(times[kind][i])) for i in range(len(self.work[run]))]
        return [(self.each[kind], self.each[kind].work[name][i]) for i, kind in enumerate(slowest)]

    def _hops(self, regions: dict[RunKey, Played]) -> tuple[Number, Number]:
        """Seconds of the slowest hop, and of all of them."""
        spans = [regions[name].span for name in self.boundaries]
        total: Number = 0.0
        for span in spans:
            total = total + span
        return (largest(spans) if spans else 0.0), total
