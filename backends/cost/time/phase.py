"""Plays a schedule: seconds per op, per region, per stage, and through the pipeline."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property, partial
from itertools import pairwise, product
from math import prod
from typing import TYPE_CHECKING, NamedTuple

from attrs import evolve

from plandsl.backends.cost.forms.attention import decode_seconds, in_chunks, prefill_seconds, running, visible_pairs
from plandsl.backends.cost.forms.collective import collective_seconds
from plandsl.backends.cost.forms.elementwise import kernel_seconds
from plandsl.backends.cost.forms.gemm import gemm_seconds
from plandsl.backends.cost.machine import links
from plandsl.backends.cost.num import ceil_div, clip, floor, largest, maximum, minimum, plain, where
from plandsl.backends.cost.work.costing import (
    AttentionForm,
    Costing,
    ElementForm,
    Exchange,
    ExchangeForm,
    GemmForm,
    Kernel,
    Machine,
    Softmax,
    Work,
)
from plandsl.ir.base import COMPUTE
from plandsl.ir.extents import Extents
from plandsl.ir.program import PREFILL, Program
from plandsl.ir.schedule import Schedule, Slot
from plandsl.ir.skew import Varying
from plandsl.ir.types import Dim, Number

if TYPE_CHECKING:
    from plandsl.backends.cost.work.experts import Experts
    from plandsl.backends.cost.work.latent import LatentForm
    from plandsl.spec.plan import PlanSpec

GAUSS = ((5 / 18, 0.5 - 0.15**0.5), (8 / 18, 0.5), (5 / 18, 0.5 + 0.15**0.5))
"""Three-point Gauss-Legendre weights and nodes on 0..1: exact for polynomials up to degree five."""


SEND, NEAR = "send", "send:node"
"""The region that hands on to the next stage; and the same inside a node, where other stages are in different ones."""


class Played(NamedTuple):
    """A region's time: from start to end, and how long its compute stream was busy."""

    span: Number
    compute: Number

    @property
    def exposed(self) -> Number:
        """Communication that nothing hides."""
        return self.span - self.compute


class Order(NamedTuple):
    """For each slot those whose ends its start waits for, and the slots that may end last.

    A slot that has to end before another of them is left out: its end is never the later one.
    """

    waits: tuple[tuple[int, ...], ...]
    last: tuple[int, ...]


def order(slots: Sequence[Slot]) -> Order:
    """What every slot waits for: the one before it on its stream, and those whose results it reads."""
    earlier: list[set[int]] = []  # slots that end no later than this one, whatever each takes
    latest: dict[str, int] = {}
    waits = []
    for i, slot in enumerate(slots):
        needed = {*slot.after, *([latest[slot.stream]] if slot.stream in latest else ())}
        waits.append(_latest(needed, earlier))
        along = set() if slot.along is None else {slot.along}
        earlier.append(set().union(needed, along, *(earlier[j] for j in (*needed, *along))))
        latest[slot.stream] = i
    return Order(tuple(waits), _latest(set(latest.values()), earlier))


def _latest(slots: set[int], earlier: Sequence[set[int]]) -> tuple[int, ...]:
    """Those of ``slots`` that none of the others comes after."""
    return tuple(sorted(i for i in slots if not any(i in earlier[other] for other in slots)))


def play_slots(
    slots: Sequence[Slot], seconds: Sequence[Number], waits: Sequence[tuple[int, ...]] | None = None
) -> list[tuple[Number, Number]]:
    """Start and end of every slot: it starts when its stream is free and what it waits for is done.

    Of the ``blocks`` that a slot gets from one that it runs along, the last waits for that one's end: with equal times
    for all blocks, and for all steps between them, each takes the longer of its own and the next one's way here.
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
    """A region played from start to end."""
    known = known or order(slots)
    times = play_slots(slots, seconds, known.waits)
    compute: Number = 0.0
    for slot in slots:
        if slot.stream == COMPUTE:
            compute = compute + seconds[slot.op]
    return Played(largest([times[i][1] for i in known.last]) if slots else 0.0, compute)


class PhaseTimes(NamedTuple):
    """One phase, timed. Stage times leave hops out; ``hop`` is the slowest boundary's, ``hops`` are all together.

    ``drafted`` are the seconds of a model that guesses tokens for this one before it runs, on the GPUs of every stage.
    ``through`` and ``period`` have them, stages do not. Of a batch that goes through in ``parts``, one behind the
    other, all but ``through`` and ``period`` are those of one; ``again`` is what the slowest stage, or hop, takes for
    the parts behind the first. ``runs`` are the programs that ran, each with times of its own.
    """

    seconds: dict[str, list[Number]]
    regions: dict[str, Played]
    stages: list[Played]
    hop: Number
    through: Number
    period: Number
    hops: Number = 0.0
    drafted: Number = 0.0
    parts: Number = 1
    again: Played = Played(0.0, 0.0)
    runs: tuple[ProgramRun, ...] = ()

    def followed(self, parts: Number, in_flight: Number) -> PhaseTimes:
        """A batch of which this is one of ``parts`` that follow one another, with ``in_flight`` such batches.

        They keep the slowest stage, or hop, busy without a break from the second on, so that

            through = through of one + (parts - 1) slowest,  period = max(through, in_flight parts slowest)

        A draft runs before each part.
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
            parts=parts,
            again=again,
            runs=tuple(r._replace(times=r.times.followed(parts, in_flight)) for r in self.runs),
        )

    def repeated(self, n: Number) -> PhaseTimes:
        """``n`` times the same, each as soon as the one before is done; ``runs`` are those of one."""

        def more(p: Played) -> Played:
            return Played(p.span * n, p.compute * n)

        return PhaseTimes(
            {name: [s * n for s in seconds] for name, seconds in self.seconds.items()},
            {name: more(p) for name, p in self.regions.items()},
            [more(p) for p in self.stages],
            self.hop * n,
            self.period * n,
            self.period * n,
            self.hops * n,
            self.drafted * n,
            self.parts,
            more(self.again),
            self.runs,
        )

    @property
    def main(self) -> ProgramRun:
        """The program of the model itself that ran, for plain numbers, in the time that it has with a draft."""
        run = next(run for run in self.runs if not run.part and run.weight)
        return run._replace(times=run.times._replace(through=self.through, period=self.period, drafted=self.drafted))

    @property
    def slowest(self) -> int:
        """The busiest stage (the first of equals), for plain numbers."""
        spans = [s.span for s in self.stages]
        return spans.index(max(spans))


class ProgramRun(NamedTuple):
    """A program that runs in a step, ``count`` times; ``times`` are those of one run.

    ``part`` is empty for the model itself, else it says for what it runs (``draft``); ``plan`` has its sharding.
    ``weight`` is 1, or 0 where another program of the step ran instead. ``bind`` are the sizes of what it ran on,
    ``context`` the mean context.
    """

    part: str
    plan: PlanSpec
    phase: PhaseModel
    times: PhaseTimes
    bind: Mapping[str, Number]
    context: Number
    count: Number = 1
    weight: Number = 1


class PhaseModel:
    """The schedule of one phase on one machine, ready to be timed for any batch and lengths."""

    def __init__(self, schedule: Schedule, machine: Machine, mesh: Mapping[str, Number] | None = None) -> None:
        self.schedule, self.machine = schedule, machine
        program = schedule.program
        self.extents = _unbound(program, mesh)
        costing = Costing(program, machine, self.extents)
        self.varied = [(weight, self._costed(one)) for weight, one in _varieties(program)]
        self.work: dict[str, list[Work]] = {r.name: [costing.work(op) for op in r.ops] for r in program.regions}
        self.boundaries = [SEND] * (len(program.stages) - 1)
        if machine.cluster is not None and self.boundaries:
            self._mixed_hops(costing)
        self.scale = self._scale()
        attentions = [w for ops in self.work.values() for w in ops if isinstance(w, Softmax)]
        self.attends = bool(attentions)
        self.windows = sorted({_bend(w, self.extents) for w in attentions if w.op.window})
        self.chunks = sorted({w.op.chunk for w in attentions if w.op.chunk is not None})

    def _costed(self, program: Program) -> dict[str, list[Work]]:
        """Work of ``program``, which differs from the schedule's in numbers alone."""
        costing = Costing(program, self.machine, _unbound(program, self.extents.mesh))
        return {r.name: [costing.work(op) for op in r.ops] for r in program.regions}

    def _mixed_hops(self, costing: Costing) -> None:
        """Boundaries inside a node are quicker than those between nodes."""
        from plandsl.backends.cost.work.crossing import inside

        program = self.schedule.program
        near = inside(program, self.machine.cluster)
        if any(near) and not all(near):
            self.work[NEAR] = [costing.within(op) for op in program.region(SEND).ops]
            self.boundaries = [NEAR if n else SEND for n in near]

    def _scale(self) -> dict[str, list[float]] | None:
        """What each op's time is multiplied with where an engine has rates of its own."""
        if self.machine.rates == (1.0, 1.0, 1.0):
            return None
        prefill, decode, links = self.machine.rates
        rate = prefill if self.schedule.program.phase == PREFILL else decode
        return {n: [1 / (links if isinstance(w, Exchange) else rate) for w in ops] for n, ops in self.work.items()}

    def at(self, bind: Mapping[str, Number], in_flight: Number, nodes: Sequence[tuple[Number, Number]]) -> PhaseTimes:
        """Times under ``bind``, averaged over ``nodes`` of (weight, context)."""
        seconds = self.seconds(bind)
        if len(nodes) == 1 or not self.attends:
            return self._pipeline(seconds(nodes[0][1]), in_flight)
        return _mean([w for w, _ in nodes], [self._pipeline(seconds(c), in_flight) for _, c in nodes])

    def seconds(self, bind: Mapping[str, Number]) -> Callable[[Number], dict[str, list[Number]]]:
        """Seconds of each op under ``bind``, by the context: at the rates of an engine, where it has its own."""
        extents = Extents(self.schedule.program, bind, self.extents.mesh)
        rows: dict[tuple[Dim, ...], Number] = {}
        fixed = {name: [self._seconds(w, extents, rows) for w in ops] for name, ops in self.work.items()}
        for name in self.varied[0][1] if self.varied else ():
            shares = [[weight * self._seconds(w, extents, rows) for w in work[name]] for weight, work in self.varied]
            fixed[name] = [sum(times) for times in zip(*shares, strict=True)]
        return lambda context: self._scaled(self._bound(fixed, extents, context))

    @cached_property
    def orders(self) -> dict[str, Order]:
        """What the slots of each region wait for."""
        return {name: order(slots) for name, slots in self.schedule.slots}

    @property
    def kinds(self) -> Sequence[PhaseModel]:
        """The phase on each kind of GPU that its ranks stand on: here one."""
        return (self,)

    def slowest_kind(self, found: Sequence[dict[str, list[Number]]]) -> dict[str, list[Number]]:
        """Seconds of each op of what stages run, given those on each kind of GPU."""
        return found[0]

    def run(self, stage: int, region: str) -> str:
        """What a stage runs of a region: a key of `work`, and of times."""
        return self.boundaries[stage] if region == SEND else region

    def region(self, run: str) -> str:
        """The region of a key of `work`."""
        return SEND if run == NEAR else run

    def answers(self, run: str, bind: Mapping[str, Number], context: Number) -> list[tuple[PhaseModel, Work]]:
        """For each op of a run, the work that its seconds are those of, and whose it is."""
        return [(self, work) for work in self.work[run]]

    def _seconds(self, work: Work, extents: Extents, rows: dict[tuple[Dim, ...], Number]) -> Number:
        """Seconds of an op whose work does not depend on the context; others get theirs in `_bound`."""
        if isinstance(work, Softmax):
            return 0.0
        n = rows.get(work.rows)
        if n is None:
            n = rows[work.rows] = extents.product(work.rows)
        runs: Number = True
        if any(d.chunk for d in work.rows):  # an empty chunk is not launched
            runs, n = n > 0, maximum(n, 1)
        time = _modelled(work, n) if work.table is None else work.table.seconds(n, partial(_modelled, work, n))
        time = _completed(work, n, time) if isinstance(work, Exchange) else time
        return time if runs is True else time * runs

    def _bound(self, fixed: dict[str, list[Number]], extents: Extents, context: Number) -> dict[str, list[Number]]:
        out = {}
        for name, ops in self.work.items():
            out[name] = [
                attention_seconds(w, extents, context) if isinstance(w, Softmax) else t
                for w, t in zip(ops, fixed[name], strict=True)
            ]
        return out

    def _pipeline(self, seconds: dict[str, list[Number]], in_flight: Number) -> PhaseTimes:
        """Stages and hops of one batch, and the period at which in-flight batches come round.

        A batch is back after ``through``; a stage, or a link, that every batch passes once per round bounds the
        period from below. This is the cycle mean of the max-plus recurrence; a test plays it out.
        """
        names = {n: self.region(n) for n in seconds}
        regions = {n: play(self.schedule.of(names[n]), times, self.orders[names[n]]) for n, times in seconds.items()}
        stages = []
        for i, parts in enumerate(self.schedule.stages):
            span: Number = 0.0
            compute: Number = 0.0
            for part in parts:
                if part.region != SEND:
                    played = regions[self.run(i, part.region)]
                    span = span + part.repeats * played.span
                    compute = compute + part.repeats * played.compute
            stages.append(Played(span, compute))
        hop, hops = self._hops(regions)
        through = hops
        for stage in stages:
            through = through + stage.span
        slowest = maximum(largest([s.span for s in stages]), hop)
        return PhaseTimes(seconds, regions, stages, hop, through, maximum(through, in_flight * slowest), hops)

    def _hops(self, regions: dict[str, Played]) -> tuple[Number, Number]:
        """Seconds of the slowest hop, and of all of them."""
        hop: Number = regions[SEND].span if SEND in regions else 0.0
        if NEAR not in regions:
            return hop, len(self.boundaries) * hop
        near = self.boundaries.count(NEAR)
        all_ = (len(self.boundaries) - near) * hop + near * regions[NEAR].span
        return maximum(hop, regions[NEAR].span), all_

    def _scaled(self, seconds: dict[str, list[Number]]) -> dict[str, list[Number]]:
        if self.scale is None:
            return seconds
        return {n: [t * f for t, f in zip(ts, self.scale[n], strict=True)] for n, ts in seconds.items()}

    def hop_seconds(self, times: PhaseTimes) -> list[Number]:
        """Seconds of the hop behind each stage but the last."""
        return [times.regions[name].span for name in self.boundaries]

    def contexts(self, first: Number, last: Number) -> list[tuple[Number, Number]]:
        """Nodes to average over contexts ``first..last``: attention is smooth between windows, and in a chunk."""
        cuts: list[Number] = [first, *(clip(w, first, last) for w in self.windows), last]
        width = maximum(last - first, 1e-9)
        pieces = [(b - a, a, b) for a, b in pairwise(cuts)]
        for chunk in self.chunks:
            pieces = [part for piece in pieces for part in _by_chunks(*piece, chunk)]
        return [(weight * span / width, a + (b - a) * node) for span, a, b in pieces for weight, node in GAUSS]


def _by_chunks(span: Number, first: Number, last: Number, chunk: int) -> Iterator[tuple[Number, Number, Number]]:
    """The stretch ``first..last``, which counts as ``span``, cut where chunks begin (half a token behind the last one).

    Of the whole chunks in it, one near its begin and one as far from its end stand for all: the mean is exact where
    time is linear in the context and in the keys of the running chunk.
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
    return (part for part in parts if not plain(part[0]) or part[0] > 0)


def _unbound(program: Program, mesh: Mapping[str, Number] | None) -> Extents:
    """Sizes of what does not change from step to step."""
    return Extents(program, {s: 1 for _, s in program.sizes if isinstance(s, str)}, mesh)


def _varieties(program: Program) -> Iterator[tuple[float, Program]]:
    """Weights and programs to average over where the load of experts varies; none where it does not."""
    varying = [(name, skew.nodes()) for name, skew in program.imbalance if isinstance(skew, Varying)]
    for picked in product(*(nodes for _, nodes in varying)) if varying else ():
        loads = dict(zip((name for name, _ in varying), (load for _, load in picked), strict=True))
        fixed = tuple((name, loads.get(name, skew)) for name, skew in program.imbalance)
        yield prod(weight for weight, _ in picked), evolve(program, imbalance=fixed)


def _modelled(work: Kernel | Exchange | Experts, n: Number) -> Number:
    """Seconds of ``n`` rows by the calibrated model."""
    if isinstance(work, Exchange):
        return exchanged(work, n)
    if not isinstance(work, Kernel):
        from plandsl.backends.cost.work.experts import seconds

        return seconds(work, n)
    if work.form is not None:
        return _fitted_kernel(work, work.form, n)
    moving = (work.bytes_fixed + work.bytes_per_row * n) / work.bandwidth
    return maximum(work.flops_per_row * n / work.rate, moving) + work.launch


def _completed(work: Exchange, n: Number, time: Number) -> Number:
    """All ``times`` of an exchange that takes ``time``, and the kernel that goes with it."""
    if work.kernel is not None:
        time = time + _modelled(work.kernel, n) * (work.ranks > 1)
    return time if isinstance(work.times, int) and work.times == 1 else time * work.times


def exchanged(work: Exchange, n: Number) -> Number:
    """Seconds of an exchange of ``n`` rows by the calibrated model: nothing travels along an axis of size 1."""
    if isinstance(work.ranks, int) and work.ranks == 1:
        return 0.0
    if isinstance(work.form, ExchangeForm):
        return fitted_exchange(work, work.form, work.payload_per_row * n)[0]
    if work.form is not None:
        time = work.form.seconds(work.ranks, n)
        return time if isinstance(work.ranks, int) else time * (work.ranks > 1)
    time = links.seconds(work.ways, work.payload_per_row * n) + work.launch
    return time if isinstance(work.ranks, int) else time * (work.ranks > 1)


def attention_seconds(work: Softmax, extents: Extents, context: Number) -> Number:
    """Seconds of attention: measured where a table answers, else those of the calibrated model."""
    modelled = partial(_modelled_attention, work, extents, context)
    if work.table is None:
        return modelled()
    batch, position = extents.local(work.batch), extents.sizes[work.position.name]
    return work.table.seconds(batch, position, attended(work, extents, context), modelled)


def _bend(work: Softmax, extents: Extents) -> Number:
    """The context from which on a window hides keys of a rank."""
    return work.op.window * extents.ways(work.context.axes)


def attended(work: Softmax, extents: Extents, context: Number) -> Number:
    """Of ``context`` keys, those that a rank attends to: they are dealt out evenly."""
    return context / extents.ways(work.context.axes) if work.context.axes else context


def _modelled_attention(work: Softmax, extents: Extents, context: Number) -> Number:
    """Roofline of attention: arithmetic on visible pairs, or queries, results and visible keys moved once."""
    if work.form is not None:
        return _fitted_attention(work, work.form, extents, context)
    flops, moved = attention_work(work, extents, context)
    return maximum(flops / work.rate, moved / work.bandwidth) + work.launch * work.blocks


def _fitted_kernel(work: Kernel, form: GemmForm | ElementForm, n: Number) -> Number:
    moved = work.bytes_fixed + work.bytes_per_row * n
    if isinstance(form, GemmForm):
        return gemm_seconds(form.constants, form.tilings, form.units, work.bandwidth, n, moved)
    return kernel_seconds(form.constants, form.units, work.bandwidth, moved, work.bytes_per_row if form.rows else 0.0)


def fitted_exchange(work: Exchange, form: ExchangeForm, payload: Number) -> tuple[Number, list[Number]]:
    """Seconds of the fastest library, and of each."""
    times = [
        collective_seconds(constants, form.link, form.op, work.ranks, payload, own)
        for _, constants, own in form.libraries
    ]
    best = times[0]
    for time in times[1:]:
        best = minimum(best, time)
    return best, times


def _fitted_attention(work: Softmax, form: AttentionForm | LatentForm, extents: Extents, context: Number) -> Number:
    batch, position = extents.local(work.batch), extents.sizes[work.position.name]
    if not isinstance(form, AttentionForm):
        whole = form.seconds(batch, position, context if form.prefill else attended(work, extents, context))
    elif form.prefill:
        whole = prefill_seconds(
            form.constants, form.chip, form.heads, batch, position, context, work.op.causal, work.op.window,
            work.op.chunk,
        )  # fmt: skip
    else:
        own, window = attended(work, extents, context), work.op.window and work.op.window + position - 1
        own = own if work.op.chunk is None else minimum(own, running(context, work.op.chunk) + position - 1)
        whole = decode_seconds(form.constants, form.chip, form.heads.times(position), batch, own, window, form.divides)
    if not form.prefill:
        return whole
    split = extents.ways((*work.position.axes, *work.context.axes))
    time = whole if isinstance(split, int) and split == 1 else whole / split
    if isinstance(work.blocks, int) and work.blocks == 1:
        return time
    return time + (work.blocks - 1) * work.launch  # a kernel for each block


def attention_work(work: Softmax, extents: Extents, context: Number) -> tuple[Number, Number]:
    """FLOPs and bytes of attention on one rank. Split positions are taken as balanced (zigzag).

    That of one query too, but for a window or a chunk: all keys that it sees may lie on one rank.
    """
    op = work.op
    batch, position = extents.local(work.batch), extents.sizes[work.position.name]
    split, own = extents.ways((*work.position.axes, *work.context.axes)), attended(work, extents, context)
    pairs = visible_pairs(position, context, op.causal, op.window, op.chunk) / split
    keys = minimum(own, position + op.window - 1) if op.window else own
    if op.chunk is not None:
        keys = minimum(own, in_chunks(position, context, op.chunk))
    if (op.window or op.chunk is not None) and work.context.axes:
        pairs = maximum(pairs, keys)
    moved = batch * (work.bytes_per_row * extents.local(work.position) * work.blocks + work.bytes_per_key * keys)
    return work.flops_per_pair * batch * pairs, moved


def _mean(weights: list[Number], runs: list[PhaseTimes]) -> PhaseTimes:
    """The weighted mean of several timings of one schedule."""

    def mean(values: list[Number]) -> Number:
        total: Number = 0.0
        for w, v in zip(weights, values, strict=True):
            total = total + w * v
        return total

    def played(many: list[Played]) -> Played:
        return Played(mean([p.span for p in many]), mean([p.compute for p in many]))

    first = runs[0]
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
        [played([r.stages[i] for r in runs]) for i in range(len(first.stages))],
        first.hop,
        mean([r.through for r in runs]),
        mean([r.period for r in runs]),
        first.hops,
    )
