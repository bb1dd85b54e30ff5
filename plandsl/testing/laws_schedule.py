"""Laws about schedules: slots do not overlap or start too early, and pipelines settle at their period."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from math import isclose

from plandsl.backends.cost.time.phase import PhaseModel, PhaseTimes, play, play_slots
from plandsl.backends.cost.time.pipeline import Run, play_pipeline, play_sends
from plandsl.driver import CompiledPlan
from plandsl.ir.base import COMPUTE, LINK
from plandsl.ir.collectives import Ring
from plandsl.ir.program import Program, Region
from plandsl.ir.schedule import Schedule, Slot
from plandsl.testing.compare import SLACK
from plandsl.values import sum_up

ROUNDS = 240
"""Rounds over which a pipeline is to keep its period."""


def _phases(plan: CompiledPlan) -> Iterator[tuple[Schedule, PhaseTimes]]:
    metrics = plan.cost.evaluate()
    yield plan.prefill, metrics.prefill
    yield plan.decode, metrics.decode


def slots_take_turns(plan: CompiledPlan) -> None:
    """Slots of one stream never overlap, none starts before its operands, and chains of slots bound the time.

    An operand that comes around a ring block by block lets its reader start with the first block. The last reader ends
    only after every op on the path of a block has worked on the last block.
    """
    for schedule, times in _phases(plan):
        for region in schedule.program.regions:
            slots, seconds = schedule.slots_of(region.name), times.seconds[region.name]
            runs = play_slots(slots, seconds)
            for stream in (COMPUTE, LINK):
                mine = [run for run, slot in zip(runs, slots, strict=True) if slot.stream == stream]
                assert all(a.end <= b.start for a, b in pairwise(map(_Span, mine))), f"{region.name}: {stream} overlaps"
            _check_operands(region, runs)
            _check_last_blocks(schedule.program, region, seconds, runs)
            _check_span(slots, seconds, runs)


def _check_operands(region: Region, runs: Sequence[tuple[float, float]]) -> None:
    """An op that reads a ring's result waits for the operands of the ring only: the first block is the rank's own."""
    made = {v.name: i for i, op in enumerate(region.ops) for v in op.results}
    for i, op in enumerate(region.ops):
        rings = {made[x.name] for x in op.operands if x.name in made and isinstance(region.ops[made[x.name]], Ring)}
        first = [x for n in rings for x in region.ops[n].operands]
        needs = {made[x.name] for x in (*op.operands, *first) if x.name in made} - rings
        assert all(runs[n][1] <= runs[i][0] for n in needs), f"{region.name}: slot {i} starts too early"


def _check_last_blocks(
    program: Program, region: Region, seconds: Sequence[float], runs: Sequence[tuple[float, float]]
) -> None:
    """After the ring ends, each op between the ring and the last reader still has to work on the last block."""
    blocks, passed = region.in_blocks(), dict[str, frozenset[int]]()
    made = {v.name: i for i, op in enumerate(region.ops) for v in op.results}
    for i, op in enumerate(region.ops):
        read = [x.name for x in op.operands if x.name in blocks]
        if isinstance(op, Ring) or not read:
            continue
        chain = frozenset((i,)).union(*(passed.get(name, ()) for name in read))
        passed |= {v.name: chain for v in op.results}
        if not any(v.name in blocks for v in op.results):
            ring = blocks[read[0]]
            rest = runs[i][1] - runs[made[ring.outs[0].name]][1]
            least = sum_up(seconds[n] for n in chain) / program.mesh.size(ring.axis)
            assert rest * SLACK >= least, f"{region.name}: slot {i} ends too early"


class _Span:
    def __init__(self, run: tuple[float, float]) -> None:
        self.start, self.end = run


def _check_span(slots: Sequence[Slot], seconds: Sequence[float], runs: Sequence[tuple[float, float]]) -> None:
    chain: list[float] = []
    for slot in slots:
        chain.append(seconds[slot.op] + max((chain[i] for i in slot.after), default=0.0))
    busy = [sum_up(seconds[s.op] for s in slots if s.stream == stream) for stream in (COMPUTE, LINK)]
    least, most = max([*chain, *busy, 0.0]), sum_up(busy)
    span = play(slots, seconds).span
    assert least <= span * (1 + 1e-12), f"{span} s, but something takes {least} s"
    assert span <= most * (1 + 1e-12), f"{span} s for {most} s of work"
    assert isclose(span, max((end for _, end in runs), default=0.0), rel_tol=1e-12)


def pipeline_settles_at_its_period(plan: CompiledPlan) -> None:
    """In a simulated pipeline, in-flight batches pass once per `period`, and the first batch takes `through`."""
    for model, times in single_steps(plan):
        in_flight = model.schedule.in_flight
        if in_flight > 64:
            continue
        spans, hops = [s.span for s in times.stages], model.hop_seconds(times)
        state = 2 * len(spans) - 1 + in_flight
        runs = play_pipeline(spans, hops, in_flight, ROUNDS + state)
        last = [r.end for r in runs if r.stage == len(spans) - 1]
        assert isclose(last[0], times.through, rel_tol=1e-9), f"{last[0]} s through, not {times.through} s"
        grown = period_excess(runs, play_sends(runs, hops), state, times.period)
        # Rounding: some 24,000 sums on a path, each off by 1e-16 of at most 320 periods, are 9e-10 of one together.
        assert abs(grown) <= 1e-9 * times.period, f"{ROUNDS} rounds of {times.period} s are off by {grown} s"


def single_steps(plan: CompiledPlan) -> Iterator[tuple[PhaseModel, PhaseTimes]]:
    """The prefill, the first and the last decode step; not the mean step, whose times belong to no single step.

    Short and long contexts may have different slowest stages, and a mean of maxima is not the maximum of means.
    """
    load, cost = plan.spec.workload, plan.cost.pools[0]
    yield cost.main.prefill, cost.evaluate().prefill
    for context in (load.input + 1, load.input + max(1, load.output - 1)):
        bind = {"batch": load.batch, "context": load.input}
        yield cost.main.decode, cost.main.decode.at(bind, plan.decode.in_flight, [(1.0, float(context))])


def period_excess(runs: Sequence[Run], sends: Sequence[Run], state: int, period: float) -> float:
    """By how many seconds `ROUNDS` rounds take longer than ``ROUNDS * period``.

    The state of a round is a vector of ``state`` moments: when each stage and each link is free, and each batch is
    back. A round maps the vector by sums and maxima alone (a max-plus matrix). The excess of a moment over
    ``k * period`` after k rounds is the weight of the heaviest path of k arcs, each arc less one ``period``. If no
    circuit has a positive weight, then removing circuits from a path leaves fewer than ``state`` arcs and no less
    weight: the largest excess of ``state`` rounds is never exceeded later. If some circuit has weight 0, then each
    moment on this circuit returns to its largest excess within any ``state`` rounds. Both hold from the first round
    on. How long other moments take to settle has no bound: it depends on how close another circuit is to weight 0.
    (Baccelli, Cohen, Olsder and Quadrat, "Synchronization and Linearity", 1992, sections 3.2 and 3.7.)
    """
    moments: dict[object, list[float]] = {}
    batches = 1 + max(r.batch for r in runs)
    stages = 1 + max(r.stage for r in runs)
    for kind, turns in (("stage", runs), ("link", sends)):
        for r in turns:
            if r.batch == batches - 1:
                moments.setdefault((kind, r.stage), []).append(r.end - r.round * period)
            if kind == "stage" and r.stage == stages - 1:
                moments.setdefault(("batch", r.batch), []).append(r.end - r.round * period)
    return max(max(excess[-state:]) - max(excess[:state]) for excess in moments.values())
