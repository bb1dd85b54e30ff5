"""Laws about schedules: nothing overlaps that may not, nobody starts too early, and pipelines settle."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from math import isclose

from plandsl.backends.cost.pipeline import play_pipeline
from plandsl.backends.cost.times import PhaseTimes, play, play_slots
from plandsl.driver import CompiledPlan
from plandsl.ir.schedule import COMPUTE, LINK, Schedule, Slot

SLACK = 1 + 1e-9
"""Rounding that a comparison forgives."""

ROUNDS = 240
"""Rounds that a pipeline is played for; the second half of them counts."""


def _phases(plan: CompiledPlan) -> Iterator[tuple[Schedule, PhaseTimes]]:
    metrics = plan.cost.evaluate()
    yield plan.prefill, metrics.prefill
    yield plan.decode, metrics.decode


def slots_take_turns(plan: CompiledPlan) -> None:
    """Slots of one stream never overlap, none starts before its operands, and the time is that of the longest chain."""
    for schedule, times in _phases(plan):
        for region in schedule.program.regions:
            slots, seconds = schedule.of(region.name), times.seconds[region.name]
            runs = play_slots(slots, seconds)
            for stream in (COMPUTE, LINK):
                mine = [run for run, slot in zip(runs, slots, strict=True) if slot.stream == stream]
                assert all(a.end <= b.start for a, b in pairwise(map(_Run, mine))), f"{region.name}: {stream} overlaps"
            made = {v.name: i for i, op in enumerate(region.ops) for v in op.results}
            for run, slot in zip(runs, slots, strict=True):
                needs = {made[x.name] for x in region.ops[slot.op].operands if x.name in made} - {slot.along}
                assert all(runs[n][1] <= run[0] for n in needs), f"{region.name}: slot {slot.op} starts too early"
                if slot.along is not None:  # the last of the blocks is still to be worked on when it has come
                    rest = run[1] - runs[slot.along][1]
                    assert rest * SLACK >= seconds[slot.op] / slot.blocks, f"{region.name}: {slot.op} ends too early"
            _spans(slots, seconds, runs)


class _Run:
    def __init__(self, run: tuple[float, float]) -> None:
        self.start, self.end = run


def _spans(slots: Sequence[Slot], seconds: Sequence[float], runs: Sequence[tuple[float, float]]) -> None:
    chain: list[float] = []
    for slot in slots:
        chain.append(seconds[slot.op] + max((chain[i] for i in slot.after), default=0.0))
    busy = [sum(seconds[s.op] for s in slots if s.stream == stream) for stream in (COMPUTE, LINK)]
    least, most = max([*chain, *busy, 0.0]), sum(busy)
    span = play(slots, seconds).span
    assert least <= span * (1 + 1e-12), f"{span} s, but something takes {least} s"
    assert span <= most * (1 + 1e-12), f"{span} s for {most} s of work"
    assert isclose(span, max((end for _, end in runs), default=0.0), rel_tol=1e-12)


def pipeline_settles_at_its_period(plan: CompiledPlan) -> None:
    """Played out, in-flight batches come round once per period, and the first one takes `through`."""
    models = plan.cost.prefill, plan.cost.decode
    for (schedule, times), model in zip(_phases(plan), models, strict=True):
        if schedule.in_flight > 64:
            continue
        spans = [s.span for s in times.stages]
        runs = play_pipeline(spans, model.hop_seconds(times), schedule.in_flight, ROUNDS)
        ends = [r.end for r in runs if r.stage == len(spans) - 1 and r.batch == 0]
        assert isclose(ends[0], times.through, rel_tol=1e-9), f"{ends[0]} s through, not {times.through} s"
        period = (ends[-1] - ends[ROUNDS // 2 - 1]) / (ROUNDS // 2)
        assert isclose(period, times.period, rel_tol=1e-9), f"{period} s a round, not {times.period} s"
