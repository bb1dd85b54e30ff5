"""The lines of an estimate: the time and the bound of each op of a phase, and how well the GPUs are used."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property

from attrs import evolve

from plandsl.answers.phases import OpTime, PhaseEstimate
from plandsl.backends.cost.answers.ideal import Pass, average_gpu, mfu
from plandsl.backends.cost.answers.names import op_names
from plandsl.backends.cost.deployments.server import Server
from plandsl.backends.cost.num import maximum
from plandsl.backends.cost.time.phase import PhaseModel, PhaseTimes, ProgramRun
from plandsl.backends.cost.work.work import Work
from plandsl.ir.collectives import HOP_WORDS
from plandsl.ir.names import RunKey, region_of
from plandsl.ir.program import PREFILL
from plandsl.ir.types import Number
from plandsl.values import sum_up


def phase_band(ops: Sequence[OpTime]) -> tuple[float, float] | None:
    """The band of a sum of ops: errors are equal for ops of one kind, and independent between kinds."""
    total = sum_up(o.time_s for o in ops)
    kinds: dict[tuple[str, tuple[float, float]], float] = {}
    for o in ops:
        if o.band is None:
            if o.time_s > NEGLIGIBLE * total:
                return None
            continue
        key = (o.op, o.band)
        kinds[key] = kinds.get(key, 0.0) + o.time_s
    if not total:
        return None
    low = math.sqrt(sum_up((t * min(b[0] - 1, 0.0)) ** 2 for (_, b), t in kinds.items())) / total
    high = math.sqrt(sum_up((t * max(b[1] - 1, 0.0)) ** 2 for (_, b), t in kinds.items())) / total
    return 1 - low, 1 + high


NEGLIGIBLE = 0.02
"""An op without a band counts as exact if it takes a smaller share of the time than this."""


def _drop_dust(rest: float, time: float) -> float:
    """``rest``, or 0 if it is so small that it is a rounding error of ``time``."""
    return rest if rest > 1e-9 * time else 0.0


def _merge_chunks(lines: Iterable[OpTime]) -> Iterator[OpTime]:
    """One line for all chunks of an op, which share its name; sizes are of the first chunk, which is the fullest."""
    found: dict[tuple[str, str], list[OpTime]] = {}
    for line in lines:
        found.setdefault((line.op, line.name), []).append(line)
    for first, *others in found.values():
        if ran := [line for line in others if line.time_s > 0]:
            count, time = sum_up(line.count for line in ran), sum_up(line.time_s for line in ran)
            yield evolve(first, count=first.count + count, time_s=first.time_s + time)
        else:
            yield first


def mean_contexts(model: PhaseModel, bind: Mapping[str, Number], context: Number) -> list[tuple[Number, Number]]:
    """Pairs of (weight, context) that stand for a step whose mean context is ``context``.

    One pair does, except for decode with attention chunks: there a step at the mean context is not the mean step.
    """
    if not model.chunks or model.schedule.program.phase == PREFILL:
        return [(1.0, context)]
    first = bind["context"]
    return model.contexts(first + 0.5, first + maximum(2 * (context - first) - 0.5, 1.5))


class PhaseLines:
    """One phase of one plan, for plain numbers."""

    def __init__(self, model: PhaseModel, times: PhaseTimes, bind: Mapping[str, Number], context: float) -> None:
        self.model, self.times, self.bind, self.context = model, times, bind, context
        self.contexts = mean_contexts(model, bind, context)
        self.at = model.bound_sizes(bind).at(context, self.contexts)
        self.extents = self.at.extents
        self._known: dict[tuple[RunKey, int, str], list[OpTime]] = {}

    @classmethod
    def of_main(cls, times: PhaseTimes) -> PhaseLines:
        """The lines of the model's own program in a step, without a draft."""
        return cls.of(times.main)

    @classmethod
    def of(cls, run: ProgramRun) -> PhaseLines:
        """The lines of a program that ran in a step."""
        return cls(run.phase, run.times, run.bind, float(run.context))

    def estimate(self, time: Number, server: Server, sharers: Number, waiting: Number, mixed: Number) -> PhaseEstimate:
        """The parts of ``time``, and MFU, MBU and the idle share at the rate at which batches pass.

        The seconds of the kernels are divided by ``sharers``: the requests whose prompts one prefill holds, or the
        tokens that a decode step brings a request, if ``time`` is for one request or token. ``waiting`` and ``mixed``
        are parts of ``time`` in which no kernel of this batch runs. The rest is the engine's time, or without an engine
        the wait for a stage.
        """
        t, plan = self.times, server.plan
        stages = len(t.stages)
        compute = sum_up(s.compute for s in t.stages) + t.again.compute
        exposed = sum_up(s.exposed for s in t.stages) + t.hops + t.again.exposed
        parts = [self._part_ops(s) for s in range(stages)]
        everything = [[op for part in stage for op in part] for stage in parts]
        bandwidth = average_gpu(plan).bandwidth
        moved = sum_up(  # a kernel that is faster than memory finds the rest of its bytes in a cache
            min(o.count * o.bytes, o.time_s * bandwidth) for stage in everything for o in stage if not o.communicates
        )
        per_batch = t.period / server.in_flight
        program = self.model.schedule.program
        busy = t.parts * sum_up(s.span for s in t.stages) / stages
        linked = sum_up(o.time_s for o in everything[t.slowest] if o.communicates and o.op not in HOP_WORDS)
        share = float(sharers)
        kernels, ahead = float(compute + exposed) / share, float(t.drafted) / share
        encoded = float(t.encoded) / share
        rest = float(time - waiting - mixed) - kernels - ahead
        engine = plan.engine is not None
        bubble = max(float(self.span) / share - kernels - ahead, 0.0) if engine else rest
        ops = tuple(op for part in parts[t.slowest] for op in _merge_chunks(part) if op.time_s > 0)
        return PhaseEstimate(
            time_s=float(time),
            compute_s=float(compute) / share,
            communication_s=float(exposed) / share,
            overlapped_s=_drop_dust(float(linked - t.parts * t.stages[t.slowest].exposed) / share, float(time)),
            bubble_s=_drop_dust(bubble, float(time)),
            idle_share=max(0.0, 1 - float((busy + t.drafted) / per_batch)),
            mfu=float(mfu(server, t, (Pass(w, program, self.extents, c) for w, c in self.contexts))),
            mbu=moved / (per_batch * stages * bandwidth),
            ops=ops,
            engine_s=_drop_dust(rest - bubble, float(time)),
            waiting_s=float(waiting),
            mixed_s=float(mixed),
            draft_s=ahead - encoded,
            tower_s=encoded,
            band=phase_band(ops),
        )

    @property
    def span(self) -> Number:
        """Seconds of the kernels and of waits for a stage."""
        return self.times.through if self.model.schedule.program.phase == PREFILL else self.times.period

    def stage_ops(self, stage: int, stream: str = "") -> list[OpTime]:
        """Every op of a stage, or of one of its streams."""
        return [op for part in self._part_ops(stage, stream) for op in part]

    def _part_ops(self, stage: int, stream: str = "") -> list[list[OpTime]]:
        """The ops of each part of a stage."""
        parts, times = self.model.schedule.program.stages[stage], int(self.times.parts)
        return [self.lines(self.model.run(stage, p.region), p.repeats * times, stream) for p in parts]

    def share_on_way(self, stage: int, op: OpTime) -> float:
        """The share of an op's runs that a batch in parts waits for: all runs on the slowest stage, else one part's.

        Where a hop is slower than all stages, its time for the second and later parts counts as a wait.
        """
        times = self.times
        slowest = stage == self.slowest and float(times.stages[stage].span) >= float(times.hop)
        return 1.0 if slowest and op.op not in HOP_WORDS else 1 / float(times.parts)

    @cached_property
    def alike(self) -> list[tuple[int, int]]:
        """One stage of each group of stages that run the same, with their number; the slowest stage stands alone."""
        groups = [[n for n in numbers if n != self.slowest] for numbers in self.model.alike.values()]
        return sorted([(self.slowest, 1), *((numbers[0], len(numbers)) for numbers in groups if numbers)])

    @cached_property
    def slowest(self) -> int:
        """The number of the busiest stage: it is asked for every op of every stage."""
        return self.times.slowest

    def lines(self, run: RunKey, count: int, stream: str = "") -> list[OpTime]:
        """Every op of a run, or of one ``stream``, with ``count`` runs in a pass; equal stages share the lines."""
        key = run, count, stream
        found = self._known.get(key)
        if found is None:
            found = self._known[key] = self._lines(*key)
        return found

    def _lines(self, run: RunKey, count: int, stream: str) -> list[OpTime]:
        if whole := self._known.get((run, count, "")):
            works = self.model.work[run]
            return [line for line, work in zip(whole, works, strict=True) if work.op.facts.stream == stream]
        region = self.model.schedule.program.region(region_of(run))
        answers, seconds = self.model.deciding_work(run, self.bind, self.context), self.times.seconds[run]
        return [
            self._line_of(model, work, name, count, float(each))
            for (model, work), name, each in zip(answers, op_names(region), seconds, strict=True)
            if not stream or stream == work.op.facts.stream
        ]

    def _line_of(self, model: PhaseModel, work: Work, name: str, count: int, each: float) -> OpTime:
        """The line of one op, timed by ``model``: this phase, or the phase on one of several kinds of GPU."""
        if model is self.model:
            return self.line(work, name, count, each)
        found = PhaseLines(model, self.times, self.bind, self.context).line(work, name, count, each)
        return evolve(found, gpu=model.machine.gpu.name)

    def line(self, work: Work, name: str, count: int, each: float) -> OpTime:
        """One op that takes ``each`` seconds and runs ``count`` times in a pass."""
        at, machine = self.at, self.model.machine
        demand, answer, path = work.demand(at), work.answer(at, machine), work.path(self.model.schedule.program)
        return OpTime(
            op=work.op.facts.word,
            name=name,
            count=count * path.calls,
            time_s=each * count,
            flops=float(demand.flops),
            bytes=float(demand.moved + demand.payload),
            bound=work.bound(at, demand),
            layer=answer.layer,
            origin=answer.origin,
            shape=work.shape(at),
            axis=path.axis,
            algorithm=answer.algorithm,
            communicates=path.communicates,
            band=answer.band,
            nodes=path.nodes,
            wire=float(demand.payload * answer.volume),
            fused=answer.fused,
        )
