"""Plays a schedule: seconds per op, per region, per stage, and through the pipeline."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import copy
from functools import cached_property, lru_cache
from itertools import pairwise, product
from math import prod
from typing import TYPE_CHECKING, NamedTuple

from attrs import evolve

from plandsl.backends.cost.machine.machine import Machine, Side
from plandsl.backends.cost.num import are_numbers, ceil_div, clip, floor, largest, maximum, minimum, where
from plandsl.backends.cost.time.known import Known
from plandsl.backends.cost.work.costing import Costing
from plandsl.backends.cost.work.work import Binding, Work
from plandsl.ir.base import COMPUTE
from plandsl.ir.extents import Extents
from plandsl.ir.fusions import Kernels
from plandsl.ir.names import SEND, RegionName, RegionRun, RunKey, region_of
from plandsl.ir.ops import Op
from plandsl.ir.program import Program
from plandsl.ir.schedule import Schedule, Slot
from plandsl.ir.skew import Varying
from plandsl.ir.types import Number
from plandsl.spec.plan import PlanSpec
from plandsl.values import sum_up

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

GAUSS = ((5 / 18, 0.5 - 0.15**0.5), (8 / 18, 0.5), (5 / 18, 0.5 + 0.15**0.5))
"""Three-point Gauss-Legendre weights and nodes on 0..1: exact for polynomials up to degree five."""

MOST_CUTS = 32
"""Most windows of attention that cut the contexts of a mean: each adds three contexts at which all ops are asked."""

AT_ONCE = 24
"""So many contexts of a mean, or more, are one array: ops and regions are asked once, not once for each."""

BINDINGS = 64
"""Bindings of plain numbers that are kept, over all phases: an estimate asks for each several times."""

DRAFT, TOWER = "draft", "tower"
"""The ``part`` of the runs of programs that run before the model's own."""

NEAR = RegionRun(SEND, near=True)
"""The run of hops that stay inside a node, in a program with other hops that leave their node."""


class Played(NamedTuple):
    """A region's time: seconds from start to end, and seconds in which its compute stream was busy."""

    span: Number
    compute: Number

    @property
    def exposed(self) -> Number:
        """Seconds of communication beside which no kernel runs."""
        return self.span - self.compute


class Order(NamedTuple):
    """For each slot the slots that it waits for, and for the region the slots that may end last.

    A slot that always ends before another one of the same list is left out.
    """

    waits: tuple[tuple[int, ...], ...]
    last: tuple[int, ...]


def order(slots: Sequence[Slot]) -> Order:
    """What every slot waits for: the slot before it on its stream, and the slots whose results it reads."""
    earlier: list[set[int]] = []  # slots that end no later than this one, whatever each takes
    latest: dict[str, int] = {}
    waits = []
    for i, slot in enumerate(slots):
        needed = {*slot.after, *([latest[slot.stream]] if slot.stream in latest else ())}
        waits.append(_last_of(needed, earlier))
        along = set() if slot.along is None else {slot.along}
        earlier.append(set().union(needed, along, *(earlier[j] for j in (*needed, *along))))
        latest[slot.stream] = i
    return Order(tuple(waits), _last_of(set(latest.values()), earlier))


def _last_of(slots: set[int], earlier: Sequence[set[int]]) -> tuple[int, ...]:
    """The ``slots`` after which none of the other ``slots`` ends."""
    return tuple(sorted(i for i in slots if not any(i in earlier[other] for other in slots)))


def play_slots(
    slots: Sequence[Slot], seconds: Sequence[Number], waits: Sequence[tuple[int, ...]] | None = None
) -> list[tuple[Number, Number]]:
    """Start and end of every slot: it starts when its stream is free and what it waits for is done.

    A slot that runs ``along`` another one gets ``blocks`` blocks from it, and works on the last block after the other
    slot ends. All blocks take equally long, and so do all steps between them.
    """
    times: list[tuple[Number, Number]] = []
    for slot, needed in zip(slots, order(slots).waits if waits is None else waits, strict=True):
        start: Number = 0.0
        for at, other in enumerate(needed):
            start = maximum(start, times[other][1]) if at else times[other][1]
        end = start + seconds[slot.op]
        if slot.along is not None:
            each = seconds[slot.op] / slot.blocks
            for other in slot.before:
                each = each + seconds[other] / slot.blocks
            end = maximum(end, times[slot.along][1] + each)
        times.append((start, end))
    return times


def play(slots: Sequence[Slot], seconds: Sequence[Number], known: Order | None = None) -> Played:
    """The time of a region."""
    known = known or order(slots)
    times = play_slots(slots, seconds, known.waits)
    compute: Number = 0.0
    for slot in slots:
        if slot.stream == COMPUTE:
            compute = compute + seconds[slot.op]
    return Played(largest([times[i][1] for i in known.last]) if slots else 0.0, compute)


class PhaseTimes(NamedTuple):
    """The times of one phase. Stages do not include hops; ``hop`` is the slowest hop, ``hops`` the sum of all hops.

    ``drafted`` is the seconds of programs that run before this one on the GPUs of every stage: a draft, and a tower,
    which takes ``encoded`` of them. ``through`` and ``period`` include them, stages do not. Where a batch goes through
    in ``parts``, one behind the other, ``through`` and ``period`` are for the batch and all other times for one part;
    ``again`` is the time of the slowest stage, or hop, for the parts behind the first. ``runs`` are the programs that
    ran, each with times of its own.
    """

    seconds: dict[RunKey, list[Number]]
    regions: dict[RunKey, Played]
    stages: list[Played]
    hop: Number
    through: Number
    period: Number
    hops: Number = 0.0
    drafted: Number = 0.0
    encoded: Number = 0.0
    parts: Number = 1
    again: Played = Played(0.0, 0.0)
    runs: tuple[ProgramRun, ...] = ()

    def split_in_parts(self, parts: Number, in_flight: Number) -> PhaseTimes:
        """The times of a batch in ``parts`` parts like this one, one behind the other, with ``in_flight`` batches.

        From the second part on the slowest stage, or hop, is busy without a break, so that

            through = through of one + (parts - 1) slowest,  period = max(through, in_flight parts slowest)

        A draft or a tower runs before each part.
        """
        slowest = Played(self.hop, 0.0)
        for stage in self.stages:
            more = stage.span >= slowest.span
            slowest = Played(maximum(stage.span, slowest.span), where(more, stage.compute, slowest.compute))
        again = Played((parts - 1) * slowest.span, (parts - 1) * slowest.compute)
        through = self.through - self.drafted + again.span
        period = maximum(through, in_flight * parts * slowest.span)
        drafted = parts * self.drafted
        return self._replace(
            through=through + drafted,
            period=period + in_flight * drafted,
            drafted=drafted,
            encoded=parts * self.encoded,
            parts=parts,
            again=again,
            runs=tuple(r._replace(times=r.times.split_in_parts(parts, in_flight)) for r in self.runs),
        )

    def repeat(self, n: Number) -> PhaseTimes:
        """``n`` such steps, each after the one before; ``runs`` stay the runs of one step."""

        def more(p: Played) -> Played:
            return Played(p.span * n, p.compute * n)

        return PhaseTimes(
            {name: [s * n for s in seconds] for name, seconds in self.seconds.items()},
            {name: more(p) for name, p in self.regions.items()},
            stages=[more(p) for p in self.stages],
            hop=self.hop * n,
            through=self.period * n,
            period=self.period * n,
            hops=self.hops * n,
            drafted=self.drafted * n,
            encoded=self.encoded * n,
            parts=self.parts,
            again=more(self.again),
            runs=self.runs,
        )

    @property
    def main(self) -> ProgramRun:
        """The run of the model's own program, with times that include draft and tower; for numbers, not arrays."""
        run = next(run for run in self.runs if not run.part and run.weight)
        ahead = {"drafted": self.drafted, "encoded": self.encoded}
        return run._replace(times=run.times._replace(through=self.through, period=self.period, **ahead))

    @property
    def ahead(self) -> str:
        """What runs before the model's own program: ``tower``, ``draft``, or both; for numbers, not arrays."""
        parts = ((TOWER, self.encoded), (DRAFT, self.drafted - self.encoded))
        return " and ".join(word for word, seconds in parts if seconds > 0)

    @property
    def ran(self) -> list[ProgramRun]:
        """The programs that ran in a step, the model's own first, then the draft's; for numbers, not arrays."""
        return [run for run in self.runs if run.weight and run.count]

    @property
    def slowest(self) -> int:
        """The number of the busiest stage, of equals the first; for numbers, not arrays."""
        spans = [s.span for s in self.stages]
        return spans.index(max(spans))


class ProgramRun(NamedTuple):
    """A program that runs in a step, ``count`` times; ``times`` are the times of one run.

    ``part`` is empty for the model itself, else `DRAFT` or `TOWER`; ``plan`` has the sharding of the part.
    ``weight`` is 1, or 0 where another program of the step ran instead. ``bind`` are its sizes, ``context`` is the mean
    context. ``times`` and ``bind`` cover ``steps`` steps together.
    """

    part: str
    plan: PlanSpec
    phase: PhaseModel
    times: PhaseTimes
    bind: Mapping[str, Number]
    context: Number
    count: Number = 1
    weight: Number = 1
    steps: Number = 1


class PhaseModel:
    """The schedule of one phase on one machine, ready to be timed for any batch and lengths."""

    def __init__(self, schedule: Schedule, machine: Machine, mesh: Mapping[str, Number] | None = None) -> None:
        self.schedule, self.known = schedule, None
        program = schedule.program
        self.extents, self.kernels = _fixed_extents(program, mesh), Kernels.of(program)
        self.costing = Costing(program, machine, self.extents, self.kernels)
        self.varieties = [
            (weight, Costing(one, machine, _fixed_extents(one, self.extents.mesh), self.kernels))
            for weight, one in _load_varieties(program)
        ]
        self.uneven = frozenset((r.name, i) for r in program.regions for i, op in enumerate(r.ops) if op.meets_experts)
        self._price_ops(machine)
        uses = {
            name: {i: use for i, work in enumerate(ops) if (use := work.context_use(self.extents))}
            for name, ops in self.work.items()
        }
        found = [use for each in uses.values() for use in each.values()]
        self.attending = {name: tuple(each) for name, each in uses.items()}
        self.attends = bool(found)
        self.windows = sorted({use.bend for use in found if use.bend})
        self.chunks = sorted({use.chunk for use in found if use.chunk is not None})

    known: Known | None
    """What phases share that were made of one another by `on`; None for others."""

    def on(self, machines: Sequence[Machine]) -> PhaseModel:
        """The same phase on another machine of each kind."""
        other = copy(self)
        other.known = self.known or Known(self.schedule.program, self.kernels)
        other._price_ops(machines[0])
        return other

    def _price_ops(self, machine: Machine) -> None:
        """Make the work of each op on ``machine``."""
        self.machine, program = machine, self.schedule.program
        self.rates = machine.rates_in(program.phase)
        sides = None if self.known is None else self.known.sides(machine)
        costing = self.costing.on(machine)
        make = self._maker(costing, sides, 0)
        self.work: dict[RunKey, list[Work]] = {r.name: [make(op) for op in r.ops] for r in program.regions}
        self.boundaries: list[RunKey] = [SEND] * (len(program.stages) - 1)
        if machine.cluster is not None and self.boundaries:
            self._add_near_hops(costing)
        self.varied = [(w, self._vary_work(one, sides, i)) for i, (w, one) in enumerate(self.varieties, 1)]
        self.scale = self._scale()

    def _maker(self, costing: Costing, sides: Mapping[Side, int] | None, variety: int) -> Callable[[Op], Work]:
        """Gives the work of an op; phases that share what they know have one where ``sides`` of machines are equal.

        Each ``variety`` of the program has other loads of experts.
        """
        known = self.known
        if known is None or sides is None:
            return costing.work
        number = sides.__getitem__

        def make(op: Op) -> Work:
            same, own = known.ops[id(op)]
            key = same, variety, *map(number, own)
            return known.work(key, lambda: costing.work(op))

        return make

    def _vary_work(
        self, costing: Costing, sides: Mapping[Side, int] | None, variety: int
    ) -> dict[tuple[RunKey, int], Work]:
        """Work of the uneven ops in the program of ``costing``, with another load of experts than the schedule's."""
        make, program = self._maker(costing.on(self.machine), sides, variety), self.schedule.program
        return {(name, i): make(program.region(name).ops[i]) for name, i in self.uneven}

    def _add_near_hops(self, costing: Costing) -> None:
        """Give hops inside a node a run of their own (`NEAR`): they are quicker than hops between nodes."""
        from plandsl.backends.cost.work.crossing import near_boundaries

        program = self.schedule.program
        near = near_boundaries(program, self.machine.cluster)
        if any(near) and not all(near):
            self.work[NEAR] = [costing.work_in_node(op) for op in program.region(SEND).ops]
            self.boundaries = [NEAR if n else SEND for n in near]

    def _scale(self) -> dict[RunKey, list[float]] | None:
        """The factor of each op's time under an engine with rates of its own; None without such an engine."""
        if self.machine.rates == (1.0, 1.0, 1.0):
            return None
        return {n: [1 / work.pace(self.rates) for work in ops] for n, ops in self.work.items()}

    def at(
        self, bind: Mapping[str, Number], in_flight: Number, contexts: Sequence[tuple[Number, Number]]
    ) -> PhaseTimes:
        """Times under ``bind``, averaged over ``contexts``, pairs of (weight, context)."""
        seconds = self.seconds(bind)
        if len(contexts) == 1 or not self.attends:
            return self.play_stages(seconds(contexts[0][1]), in_flight)
        weights, each = [w for w, _ in contexts], [c for _, c in contexts]
        if len(each) >= AT_ONCE and are_numbers(in_flight, *bind.values(), *weights, *each):
            import numpy as np

            return _mean_at_once(np.array(weights), self.play_stages(seconds(np.array(each)), in_flight))
        return _mean_times(weights, [self.play_stages(seconds(c), in_flight) for c in each])

    def seconds(self, bind: Mapping[str, Number]) -> Callable[[Number], dict[RunKey, list[Number]]]:
        """A function from the context to the seconds of each op under ``bind``, at the rates of the engine."""
        at, known = self.bound_sizes(bind), self.known
        fixed = {
            name: [0.0 if i in self.attending[name] else self.op_seconds(name, i, at) for i in range(len(ops))]
            for name, ops in self.work.items()
        }

        def in_context(context: Number) -> dict[RunKey, list[Number]]:
            where = at.at(context) if known is None else known.at(at, context)
            return self._at_engine_rates(self._add_attention(fixed, where))

        return in_context

    def bound_sizes(self, bind: Mapping[str, Number], context: Number = 0) -> Binding:
        """The sizes of one pass."""

        if self.known is not None:
            return self.known.binding({**bind, "attended": context}, lambda: self._bind(bind).at(context))
        if not are_numbers(*bind.values()):
            return self._bind(bind).at(context)
        return _bound(self, tuple((name, number.__class__, number) for name, number in bind.items())).at(context)

    def _bind(self, bind: Mapping[str, Number]) -> Binding:
        return Binding(Extents(self.schedule.program, bind, self.extents.mesh), each=bind.get("each", 1))

    def op_seconds(self, run: RunKey, i: int, at: Binding) -> Number:
        """Seconds of op ``i`` of a run, averaged over the loads of experts where these vary."""
        if self.varied and (run, i) in self.uneven:
            return sum_up(weight * self._bounded_seconds(work[run, i], at) for weight, work in self.varied)
        return self._bounded_seconds(self.work[run][i], at)

    def _bounded_seconds(self, work: Work, at: Binding) -> Number:
        """Seconds of ``work`` on its own; at the rates of the engine, no less than the hardware needs."""
        if self.known is not None:
            return self.known.seconds(work, at, self.rates, lambda: self._find_seconds(work, at))
        return self._find_seconds(work, at)

    def _find_seconds(self, work: Work, at: Binding) -> Number:
        time, pace = work.seconds(at), work.pace(self.rates)
        least = work.least(at, self.machine, pace)
        return time if least is None else maximum(time, least * pace)

    def _add_attention(self, fixed: Mapping[RunKey, list[Number]], at: Binding) -> dict[RunKey, list[Number]]:
        """``fixed`` with the seconds of the ops that depend on the context."""
        out = dict(fixed)
        for name, ops in self.attending.items():
            if ops:
                out[name] = times = list(fixed[name])
                for i in ops:
                    times[i] = self.op_seconds(name, i, at)
        return out

    @cached_property
    def orders(self) -> dict[RegionName, Order]:
        """What the slots of each region wait for."""
        return {name: order(slots) for name, slots in self.schedule.slots}

    @property
    def kinds(self) -> Sequence[PhaseModel]:
        """The phase on each kind of GPU that its ranks stand on: this one alone, as all GPUs are alike."""
        return (self,)

    def slowest_kind(self, found: Sequence[dict[RunKey, list[Number]]]) -> dict[RunKey, list[Number]]:
        """Seconds of each op of each run; ``found`` has them for each kind of GPU, and the slowest kind counts."""
        return found[0]

    @cached_property
    def alike(self) -> dict[tuple[tuple[RunKey, int], ...], list[int]]:
        """The stages that run the same, which take equally long, by their runs with the repeats of each."""
        found: dict[tuple[tuple[RunKey, int], ...], list[int]] = {}
        for i, parts in enumerate(self.schedule.stages):
            found.setdefault(tuple((self.run(i, part.region), part.repeats) for part in parts), []).append(i)
        return found

    @cached_property
    def kind_of_stage(self) -> list[int]:
        """For each stage the number of its group in `alike`."""
        found = {stage: kind for kind, numbers in enumerate(self.alike.values()) for stage in numbers}
        return [found[stage] for stage in range(len(found))]

    def run(self, stage: int, region: RegionName) -> RunKey:
        """The run of a region on a stage: a key of `work` and of `PhaseTimes.seconds`."""
        return self.boundaries[stage] if region == SEND else region

    def deciding_work(self, run: RunKey, bind: Mapping[str, Number], context: Number) -> list[tuple[PhaseModel, Work]]:
        """For each op of a run, the work whose seconds count, and the phase that this work belongs to."""
        return [(self, work) for work in self.work[run]]

    def play_stages(self, seconds: dict[RunKey, list[Number]], in_flight: Number) -> PhaseTimes:
        """Stages and hops of one batch, and the period at which in-flight batches come round.

        ``period = max(through, in_flight * slowest stage or hop)``: a batch is back after ``through``, and every batch
        passes every stage and link once per round. This is the cycle mean of the max-plus recurrence; a test plays the
        recurrence out.
        """
        names = {n: region_of(n) for n in seconds}
        regions = {
            n: play(self.schedule.slots_of(names[n]), times, self.orders[names[n]]) for n, times in seconds.items()
        }
        hop, hops = self._hops(regions)
        through, spans = hops, []
        kinds: list[Played] = []
        for runs, numbers in self.alike.items():
            span: Number = 0.0
            compute: Number = 0.0
            for run, repeats in runs:
                if region_of(run) != SEND:
                    span = span + repeats * regions[run].span
                    compute = compute + repeats * regions[run].compute
            through = through + len(numbers) * span
            spans.append(span)
            kinds.append(Played(span, compute))
        stages = [kinds[kind] for kind in self.kind_of_stage]
        slowest = maximum(largest(spans), hop)
        return PhaseTimes(
            seconds,
            regions,
            stages=stages,
            hop=hop,
            through=through,
            period=maximum(through, in_flight * slowest),
            hops=hops,
        )

    def _hops(self, regions: dict[RunKey, Played]) -> tuple[Number, Number]:
        """Seconds of the slowest hop, and of all of them."""
        hop: Number = regions[SEND].span if SEND in regions else 0.0
        if NEAR not in regions:
            return hop, len(self.boundaries) * hop
        near = self.boundaries.count(NEAR)
        all_ = (len(self.boundaries) - near) * hop + near * regions[NEAR].span
        return maximum(hop, regions[NEAR].span), all_

    def _at_engine_rates(self, seconds: dict[RunKey, list[Number]]) -> dict[RunKey, list[Number]]:
        if self.scale is None:
            return seconds
        return {n: [t * f for t, f in zip(ts, self.scale[n], strict=True)] for n, ts in seconds.items()}

    def hop_seconds(self, times: PhaseTimes) -> list[Number]:
        """Seconds of the hop behind each stage but the last."""
        return [times.regions[name].span for name in self.boundaries]

    def contexts(self, first: Number, last: Number) -> list[tuple[Number, Number]]:
        """Pairs of (weight, context) whose mean is that over ``first..last``, cut where attention is not smooth.

        Of many windows some are cuts, evenly chosen: the bend at each one is small where there are many.
        """
        windows = self.windows[:: -(-len(self.windows) // MOST_CUTS) or 1]
        if are_numbers(first, last):
            windows = [w for w in windows if first < w < last]
        cuts: list[Number] = [first, *(clip(w, first, last) for w in windows), last]
        width = maximum(last - first, 1e-9)
        pieces = [(b - a, a, b) for a, b in pairwise(cuts)]
        for chunk in self.chunks:
            pieces = [part for piece in pieces for part in _cut_by_chunks(*piece, chunk)]
        return [(weight * span / width, a + (b - a) * node) for span, a, b in pieces for weight, node in GAUSS]


def _cut_by_chunks(span: Number, first: Number, last: Number, chunk: int) -> Iterator[tuple[Number, Number, Number]]:
    """The interval ``first..last`` of weight ``span``, cut where chunks begin (half a token behind the last token).

    Two whole chunks stand for all of them, one near the begin and one as far from the end. The mean is exact where time
    is linear in the context and in the keys of the running chunk.
    """
    begin = minimum(ceil_div(first - 0.5, chunk) * chunk + 0.5, last)
    count = floor((last - begin) / chunk)
    end = begin + count * chunk
    each = span / maximum(last - first, 1e-9)
    others = maximum(count - 1, 0)
    near = floor(others / 5)
    starts = (begin + near * chunk, begin + (others - near) * chunk)
    parts = [((begin - first) * each, first, begin), ((last - end) * each, end, last)]
    parts += [((end - begin) * each / 2, start, start + chunk) for start in starts]
    return (part for part in parts if not are_numbers(part[0]) or part[0] > 0)


@lru_cache(BINDINGS)
def _bound(phase: PhaseModel, sizes: tuple[tuple[str, type, Number], ...]) -> Binding:
    """The binding of ``sizes``: name, kind of number and number. Whoever asks for it next knows what it has found."""
    return phase._bind({name: number for name, _, number in sizes})


def _fixed_extents(program: Program, mesh: Mapping[str, Number] | None) -> Extents:
    """Sizes for what stays the same from step to step; symbolic sizes are 1."""
    return Extents(program, {s: 1 for _, s in program.sizes if isinstance(s, str)}, mesh)


def _load_varieties(program: Program) -> Iterator[tuple[float, Program]]:
    """(weight, program) to average over where the load of experts varies; none where it does not."""
    varying = [(name, skew.nodes()) for name, skew in program.imbalance if isinstance(skew, Varying)]
    for picked in product(*(nodes for _, nodes in varying)) if varying else ():
        loads = dict(zip((name for name, _ in varying), (load for _, load in picked), strict=True))
        fixed = tuple((name, loads.get(name, skew)) for name, skew in program.imbalance)
        yield prod(weight for weight, _ in picked), evolve(program, imbalance=fixed)


def _mean_times(weights: list[Number], runs: list[PhaseTimes]) -> PhaseTimes:
    """The weighted mean of several timings of one schedule."""

    def mean(values: list[Number]) -> Number:
        total: Number = 0.0
        for w, v in zip(weights, values, strict=True):
            total = total + w * v
        return total

    def played(many: Sequence[Played]) -> Played:
        return Played(mean([p.span for p in many]), mean([p.compute for p in many]))

    first = runs[0]
    alike = list(zip(*(map(id, r.stages) for r in runs), strict=True))
    means = {ids: played([r.stages[i] for r in runs]) for ids, i in {ids: i for i, ids in enumerate(alike)}.items()}
    seconds = {
        name: [
            t if all(r.seconds[name][i] is t for r in runs) else mean([r.seconds[name][i] for r in runs])
            for i, t in enumerate(times)
        ]
        for name, times in first.seconds.items()
    }
    return PhaseTimes(
        seconds,
        {name: played([r.regions[name] for r in runs]) for name in first.regions},
        stages=[means[ids] for ids in alike],
        hop=first.hop,
        through=mean([r.through for r in runs]),
        period=mean([r.period for r in runs]),
        hops=first.hops,
    )


def _mean_at_once(weights: NDArray[np.float64], run: PhaseTimes) -> PhaseTimes:
    """The weighted mean of a timing whose times are arrays over contexts, with the digits of `_mean_times`."""

    def mean(value: Number) -> float:
        return float((weights * value).cumsum()[-1])  # one after the other, as `_mean_times` adds

    def played(p: Played) -> Played:
        return Played(mean(p.span), mean(p.compute))

    means = {id(stage): played(stage) for stage in run.stages}
    return PhaseTimes(
        {name: [t if are_numbers(t) else mean(t) for t in times] for name, times in run.seconds.items()},
        {name: played(region) for name, region in run.regions.items()},
        stages=[means[id(stage)] for stage in run.stages],
        hop=run.hop,
        through=mean(run.through),
        period=mean(run.period),
        hops=run.hops,
    )
