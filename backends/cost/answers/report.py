"""From numbers to an `Estimate`: which ops the time goes to, what bounds them, what held."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, cast

from attrs import evolve

from plandsl.backends.cost.answers.names import kind, op_names
from plandsl.backends.cost.answers.utilisation import ideal_seconds
from plandsl.backends.cost.deployments.memory import Held, smallest
from plandsl.backends.cost.deployments.ongoing import Served
from plandsl.backends.cost.deployments.prefix import reused
from plandsl.backends.cost.deployments.single import CostModel, Metrics
from plandsl.backends.cost.machine import links
from plandsl.backends.cost.num import maximum
from plandsl.backends.cost.time.phase import PhaseModel, PhaseTimes, attention_work, fitted_exchange
from plandsl.backends.cost.work.costing import Exchange, ExchangeForm, Kernel, Softmax, Work
from plandsl.diagnostics import Diagnostic
from plandsl.estimate import (
    BANDED,
    Estimate,
    Load,
    Memory,
    OpTime,
    PhaseEstimate,
    Requirement,
    Reuse,
    StageGpus,
    Used,
)
from plandsl.ir.compute import Gemm
from plandsl.ir.extents import Extents
from plandsl.ir.program import DECODE, PREFILL, Part, Program
from plandsl.ir.types import Number
from plandsl.spec.formats import item_bytes
from plandsl.spec.hardware import CONSTANTS, CalibrationSpec, ClusterSpec, GpuSpec, NodeSpec
from plandsl.spec.plan import PlanSpec, RequireSpec
from plandsl.units import TIME

if TYPE_CHECKING:
    from plandsl.backends.cost.work.crossing import Crossing
    from plandsl.backends.cost.work.experts import DispatchForm, Experts

COMPARE = {
    "<=": lambda a, b: a <= b,
    "<": lambda a, b: a < b,
    ">=": lambda a, b: a >= b,
    ">": lambda a, b: a > b,
    "==": lambda a, b: a == b,
    "!=": lambda a, b: a != b,
}


def estimate(model: CostModel, notes: Sequence[Diagnostic] = ()) -> Estimate:
    """The full answer for the plan's own load."""
    plan, load = model.plan, model.plan.workload
    metrics = model.evaluate()
    served, engine = metrics.served, plan.engine
    joined, batch = model.requests(metrics)
    length, resident = model.resident(load.input, load.output, ongoing=served is not None)
    prefill, decode = _phases(model, metrics, joined, batch)
    held = [model.memory.held(s, batch, length, load.input, resident) for s in range(len(model.memory.weights))]
    stages = tuple(_memory(h, capacity) for h, capacity in zip(held, model.memory.capacities, strict=True))
    program = model.prefill.schedule.program
    paid = price(plan)
    cost = None if paid is None else paid / metrics.throughput * 1e6
    return Estimate(
        plan=plan.name,
        gpus=plan.sharding.ranks,
        replicas=plan.sharding.replicas,
        mesh=tuple((a.name, a.size) for a in plan.sharding.axes if a.size > 1),
        batch=int(batch),
        in_flight=model.in_flight,
        ttft_s=float(metrics.ttft),
        tpot_s=float(metrics.tpot),
        latency_s=float(metrics.latency),
        throughput_tokens_per_s=float(metrics.throughput),
        memory=max(stages, key=lambda m: (m.total / m.capacity, m.total)),
        stages=stages,
        stage_gpus=_stage_gpus(plan, program),
        layers=tuple(_layers(parts) for parts in program.stages),
        kv_capacity_tokens=int(metrics.kv_capacity),
        max_batch=int(metrics.max_batch),
        parameters=parameters(program),
        active_parameters=active_parameters(program),
        kv_bytes_per_token=kv_bytes_per_token(program),
        prefill=prefill,
        decode=decode,
        requires=tuple(requirement(r, metrics, prefill, decode, cost) for r in plan.requires),
        notes=tuple(notes),
        assumed=tuple(dict.fromkeys(entry for kind in plan.kinds for entry in _assumed(kind))),
        calibration=", ".join(dict.fromkeys(kind.calibration.name for kind in plan.kinds)),
        cost_usd_per_mtok=cost,
        engine=None if engine is None else engine.name,
        load=None if served is None else _load(load.concurrency or 0, served),
        kv_block=model.memory.block,
        bands=_bands(plan, metrics, prefill, decode),
        cluster=_used(plan),
        shift=model.shift(metrics),
        speculate=model.speculated(metrics),
        reuse=_reuse(plan),
    )


def price(plan: PlanSpec) -> float | None:
    """USD per second of all GPUs of a plan, None where one of them has no price."""
    if plan.split is not None:
        pools = [price(pool) for pool in plan.pools]
        return None if None in pools else sum(p for p in pools if p is not None)
    kinds = plan.kinds
    if any(kind.node.gpu.price is None for kind in kinds):
        return None
    if len(kinds) == 1:
        return plan.sharding.ranks * (plan.node.gpu.price or 0.0)
    from plandsl.ir.kinds import rank_gpus

    return sum(gpu.price or 0.0 for gpu in rank_gpus(plan))


def average(plan: PlanSpec) -> GpuSpec:
    """The GPU; of unlike ones, the rates that they have on average."""
    if len(plan.kinds) == 1:
        return plan.node.gpu
    from plandsl.ir.kinds import rank_gpus

    gpus, common = rank_gpus(plan), plan.common
    compute = tuple((dtype, sum(gpu.peak(dtype) or 0.0 for gpu in gpus) / len(gpus)) for dtype, _ in common.compute)
    return evolve(common, compute=compute, bandwidth=sum(gpu.bandwidth for gpu in gpus) / len(gpus))


def _stage_gpus(plan: PlanSpec, program: Program) -> tuple[StageGpus, ...]:
    """On which GPUs each stage lies; empty where all are alike."""
    kinds = plan.kinds
    if len(kinds) == 1:
        return ()
    from plandsl.ir.kinds import stage_kinds

    found = []
    for stage, least in zip(stage_kinds(plan, program), smallest(plan, program), strict=True):
        counts: dict[str, int] = {}
        for number, count in sorted(stage.items()):
            name = kinds[number].node.gpu.name
            counts[name] = counts.get(name, 0) + count
        found.append(StageGpus(tuple(counts.items()), least.name))
    return tuple(found)


def _reuse(plan: PlanSpec) -> Reuse | None:
    """The tokens of a prompt that are in the cache already, where the workload says that some are."""
    load = plan.workload
    return Reuse(int(reused(plan, load.input)), load.prefix or "own") if load.reuse else None


def _used(plan: PlanSpec) -> Used | None:
    """The cluster, and how many of its nodes the ranks stand on."""
    if plan.cluster is None:
        return None
    nodes = -(-plan.sharding.ranks // plan.node.count)
    names = ", ".join(dict.fromkeys(node.name for _, node in plan.cluster.groups))
    return Used(plan.cluster.name, names, plan.cluster.count, nodes, plan.node.count)


def phase_lines(model: CostModel, m: Metrics, joined: Number, batch: Number) -> tuple[PhaseLines, PhaseLines]:
    """Prefill of ``joined`` requests at once, and a decode step of ``batch`` at the mean context."""
    load = model.plan.workload
    new = load.input - reused(model.plan, load.input)
    step = {"batch": model.parts(joined)[0], "input": new, "context": load.input}
    first = PhaseLines(model.taken(PREFILL, m).prefill, m.prefill, step, load.input)
    step = {"batch": batch, "context": load.input, "queries": model.plan.queries}
    return first, PhaseLines(model.taken(DECODE, m).decode, m.decode, step, load.input + load.output / 2)


def _phases(model: CostModel, m: Metrics, joined: Number, batch: Number) -> tuple[PhaseEstimate, PhaseEstimate]:
    """Both phases, with what the load adds to their kernels."""
    s, (first, step) = m.served, phase_lines(model, m, joined, batch)
    waits = 0.0 if s is None else s.queue + s.line + s.start
    prefill = first.estimate(m.ttft, model, 1.0 if s is None else joined, waits, 0.0)
    return prefill, step.estimate(m.tpot, model, model.gain, 0.0, m.mixed if s is None else s.others)


def _load(clients: int, s: Served) -> Load:
    parts = (s.running, s.waiting, s.queue, s.line, s.start, s.prefill, s.first)
    return Load(clients, *map(float, parts))


def _bands(
    plan: PlanSpec, m: Metrics, prefill: PhaseEstimate, decode: PhaseEstimate
) -> tuple[tuple[str, tuple[float, float]], ...]:
    """Where 80 % of measurements would lie: by the engine's own error where it has one, else by that of the ops."""
    engine, steps, routed = plan.runs_on, max(plan.workload.output - 1, 0), plan.model.routed
    first, step = engine.band("ttft", routed) or prefill.band, engine.band("tpot", routed) or decode.band
    if first is None or step is None:
        return ()
    ttft, tpot = _times(m.ttft, first), _times(m.tpot, step)
    latency = ttft[0] + steps * tpot[0], ttft[1] + steps * tpot[1]
    made = float(m.throughput * m.latency)
    served = engine.band("throughput", routed)
    rate = (made / latency[1], made / latency[0]) if served is None else _times(m.throughput, served)
    return tuple(zip(BANDED, (ttft, tpot, latency, rate), strict=True))


def _times(value: Number, factors: tuple[float, float]) -> tuple[float, float]:
    return float(value) * factors[0], float(value) * factors[1]


def parameters(program: Program) -> int:
    """Parameters of the model: every weight once per layer, tied ones once."""
    whole: dict[tuple[str, str], int] = {}
    sizes = dict(program.sizes)
    for region in program.regions:
        for w in region.weights:
            count = region.repeats
            for dim in w.type.names:
                size = sizes[dim]
                assert isinstance(size, int), "weights have fixed sizes"
                count *= size
            key = ("" if region.layers is None else region.name, w.name)
            whole[key] = count
    return sum(whole.values())


def active_parameters(program: Program) -> int:
    """Parameters that a token meets: of experts' weights, those of as many experts as it goes to."""
    idle, sizes = 0, dict(program.sizes)
    for region in program.regions if program.imbalance else ():
        places: dict[str, str] = {}
        for op in region.ops:
            for name in (n for x in op.operands[:1] for n in x.type.names if n in dict(program.imbalance)):
                places |= {x.name: name for x in op.operands}
        for w in (w for w in region.weights if w.name in places):
            have, chosen = int(sizes[places[w.name]]), int(places[w.name].partition(":")[2])
            each = math.prod(int(sizes[dim]) for dim in w.type.names) // have
            idle += region.repeats * each * (have - chosen)
    return parameters(program) - idle


def kv_bytes_per_token(program: Program) -> float:
    """Bytes that one token adds to the KV cache of the whole model, all layers."""
    sizes = dict(program.sizes)
    total = 0.0
    for region in program.regions:
        for op in region.ops:
            if op.keyword == "cache_write":
                for out in op.results:
                    count = float(region.repeats)
                    for dim in out.type.names[2:]:
                        size = sizes[dim]
                        assert isinstance(size, int), "cached dimensions have fixed sizes"
                        count *= size
                    total += count * item_bytes(out.type.dtype)
    return total


def _layers(parts: Sequence[Part]) -> tuple[int, int]:
    spans = [p.layers for p in parts if p.layers is not None]
    return (min(a for a, _ in spans), max(b for _, b in spans)) if spans else (0, 0)


def _memory(held: Held, capacity: float) -> Memory:
    return Memory(float(held.weights), float(held.kv_cache), float(held.activations), float(held.buffers), capacity)


def _assumed(plan: PlanSpec) -> tuple[tuple[str, str, str], ...]:
    hardware = tuple((e.name, path, text) for e in _parts(plan) for path, text in e.assumed)
    fitted = plan.calibration
    if plan.speculate is not None and plan.speculate.draft is None:
        hardware = (*hardware, ("speculate", "draft", "none, at no cost"))
    stated = hardware + tuple((fitted.name, path, text) for path, text in fitted.assumed if fitted.needs(path))
    unset = _unset(plan.calibration)
    if _network_unknown(plan) and not any(name == "link" for name, _ in unset):
        unset.append(("link", "100 % of the network, not set"))
    return stated + tuple((plan.calibration.name, name, text) for name, text in unset)


def _network_unknown(plan: PlanSpec) -> bool:
    """Whether ranks stand on several nodes, and the calibration says nothing of what passes between these."""
    between = plan.cluster is not None and plan.sharding.ranks > plan.node.count
    known = {name.partition(".")[0] for name, _ in plan.calibration.values}
    return between and known.isdisjoint(("link", "collective_nodes"))


def _parts(plan: PlanSpec) -> list[GpuSpec | NodeSpec | ClusterSpec]:
    """The hardware whose figures may be assumed."""
    return [plan.node.gpu, plan.node, *([] if plan.cluster is None or plan.cluster.count == 1 else [plan.cluster])]


def _unset(calibration: CalibrationSpec) -> list[tuple[str, str]]:
    """Constants that a calibration leaves out, and what is taken instead."""
    have = {name.split(".")[0] for name, _ in calibration.values}
    instead = {"attention_decode": "attention_prefill", "launch_elementwise": "launch", "launch_collective": "launch"}
    missing = [
        n for n in CONSTANTS if n not in (*have, "low", "high") and instead.get(n) not in have and calibration.needs(n)
    ]
    return [(n, "0 s, not set" if CONSTANTS[n] == TIME else "100 %, not set") for n in missing]


def requirement(
    r: RequireSpec,
    m: Metrics,
    prefill: PhaseEstimate,
    decode: PhaseEstimate,
    cost: float | None,
) -> Requirement:
    """Whether ``r`` holds."""
    values = {
        "ttft": m.ttft,
        "tpot": m.tpot,
        "latency": m.latency,
        "throughput": m.throughput,
        "throughput_per_gpu": m.throughput_per_gpu,
        "memory": m.used if r.share else m.memory,
        "kv_capacity": m.kv_capacity,
        "max_batch": m.max_batch,
        "comm_share": max(prefill.comm_share, decode.comm_share),
        "mfu": min(prefill.mfu, decode.mfu),
        "mbu": min(prefill.mbu, decode.mbu),
        "cost": float("inf") if cost is None else cost,
    }
    value = float(values[r.metric])
    return Requirement(r.text, value, COMPARE[r.op](value, r.bound))


def band_of(constants: Mapping[str, float]) -> tuple[float, float] | None:
    """The 80 % band of measured / predicted that goes with ``constants``, if they say."""
    low, high = constants.get("low"), constants.get("high")
    return None if low is None or high is None else (low, high)


def phase_band(ops: Sequence[OpTime]) -> tuple[float, float] | None:
    """The band of a sum of ops: errors of one kind of op go together, those of different kinds are independent."""
    total = sum(o.time_s for o in ops)
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
    low = math.sqrt(sum((t * min(b[0] - 1, 0.0)) ** 2 for (_, b), t in kinds.items())) / total
    high = math.sqrt(sum((t * max(b[1] - 1, 0.0)) ** 2 for (_, b), t in kinds.items())) / total
    return 1 - low, 1 + high


def asked_of(work: Kernel | Softmax | Experts, extents: Extents, context: Number) -> tuple[Number, Number]:
    """FLOPs and bytes of one run of an op on the compute units."""
    if isinstance(work, Softmax):
        return attention_work(work, extents, context)
    rows = extents.product(work.rows)
    if isinstance(work, Kernel):
        return work.flops_per_row * rows, work.bytes_fixed + work.bytes_per_row * rows
    from plandsl.backends.cost.work.experts import asked

    flops, _, moved = asked(work, rows)
    return flops, moved


def _crossing(work: Exchange) -> Crossing | None:
    """What times an exchange between nodes; None inside a node, and for experts' own libraries."""
    if work.nodes == 1:
        return None
    from plandsl.backends.cost.work.crossing import Crossing

    return work.form if isinstance(work.form, Crossing) else None


NEGLIGIBLE = 0.02
"""An op with less of the time does not spoil a band by having none."""


def _positive(rest: float, time: float) -> float:
    """What is left after subtracting, without the dust of rounding."""
    return rest if rest > 1e-9 * time else 0.0


def _together(lines: Iterable[OpTime]) -> Iterator[OpTime]:
    """Chunks of one op share its name: they are counted together, as runs of the first, which is the fullest."""
    found: dict[tuple[str, str], list[OpTime]] = {}
    for line in lines:
        found.setdefault((line.op, line.name), []).append(line)
    for first, *others in found.values():
        ran = [line for line in others if line.time_s > 0]
        count, time = sum(line.count for line in ran), sum(line.time_s for line in ran)
        yield evolve(first, count=first.count + count, time_s=first.time_s + time) if ran else first


def around(model: PhaseModel, bind: Mapping[str, Number], context: Number) -> list[tuple[Number, Number]]:
    """Contexts, and their weights, that stand for a step at the mean ``context``.

    In decode over chunks the middle says nothing of the mean.
    """
    if not model.chunks or model.schedule.program.phase == PREFILL:
        return [(1.0, context)]
    first = bind["context"]
    return model.contexts(first + 0.5, first + maximum(2 * (context - first) - 0.5, 1.5))


class PhaseLines:
    """One phase of one plan, for plain numbers."""

    def __init__(self, model: PhaseModel, times: PhaseTimes, bind: Mapping[str, Number], context: float) -> None:
        self.model, self.times, self.bind, self.context = model, times, bind, context
        self.extents = Extents(model.schedule.program, bind, model.extents.mesh)
        self.nodes = around(model, bind, context)

    def estimate(self, time: Number, model: CostModel, shared: Number, waiting: Number, mixed: Number) -> PhaseEstimate:
        """Time along the way of one batch, and utilisation at the rate that batches come round.

        The kernels' time is shared by ``shared`` requests (or tokens) where ``time`` is one's; ``waiting`` and
        ``mixed`` are parts of ``time`` that no kernel of this batch takes. What is left over is the engine's, or else a
        wait for a stage.
        """
        t, plan = self.times, model.plan
        stages = len(t.stages)
        compute = sum(s.compute for s in t.stages) + t.again.compute
        exposed = sum(s.exposed for s in t.stages) + t.hops + t.again.exposed
        everything = [self.stage_ops(s) for s in range(stages)]
        moved = sum(o.count * o.bytes for stage in everything for o in stage if not o.communicates)
        per_batch = t.period / model.in_flight
        program = self.model.schedule.program
        gpus, mean = plan.sharding.ranks // plan.sharding.replicas, average(plan)
        ideal = float(t.parts) * sum(w * float(ideal_seconds(program, mean, self.extents, c)) for w, c in self.nodes)
        busy = t.parts * sum(s.span for s in t.stages) / stages
        linked = sum(o.time_s for o in everything[t.slowest] if o.communicates and o.op not in ("send", "recv"))
        share = float(shared)
        kernels, drafted = float(compute + exposed) / share, float(t.drafted) / share
        rest = float(time - waiting - mixed) - kernels - drafted
        engine = plan.engine is not None
        bubble = max(float(self.span) / share - kernels - drafted, 0.0) if engine else rest
        ops = tuple(o for o in self._shown(t.slowest) if o.time_s > 0)
        return PhaseEstimate(
            time_s=float(time),
            compute_s=float(compute) / share,
            communication_s=float(exposed) / share,
            overlapped_s=_positive(float(linked - t.parts * t.stages[t.slowest].exposed) / share, float(time)),
            bubble_s=_positive(bubble, float(time)),
            idle_share=max(0.0, 1 - float((busy + t.drafted) / per_batch)),
            mfu=ideal / float(per_batch * gpus),
            mbu=moved / (per_batch * stages * mean.bandwidth),
            ops=ops,
            engine_s=_positive(rest - bubble, float(time)),
            waiting_s=float(waiting),
            mixed_s=float(mixed),
            draft_s=drafted,
            band=phase_band(ops),
        )

    @property
    def span(self) -> Number:
        """Seconds of the kernels, waits for a stage included."""
        return self.times.through if self.model.schedule.program.phase == PREFILL else self.times.period

    def stage_ops(self, stage: int) -> list[OpTime]:
        """Every op of a stage; blocks of one kind that a stage runs in two parts count together."""
        program = self.model.schedule.program
        lines: list[OpTime] = []
        for part in program.stages[stage]:
            lines += self.lines(self.model.run(stage, part.region), part.repeats * int(self.times.parts))
        return lines

    def _shown(self, stage: int) -> Iterator[OpTime]:
        """The ops of a stage that take time, chunks of one as one."""
        for part in self.model.schedule.program.stages[stage]:
            yield from _together(self.lines(self.model.run(stage, part.region), part.repeats * int(self.times.parts)))

    def lines(self, run: str, count: int) -> list[OpTime]:
        """Every op of a run that a pass repeats ``count`` times."""
        region = self.model.schedule.program.region(self.model.region(run))
        answers, seconds = self.model.answers(run, self.bind, self.context), self.times.seconds[run]
        return [
            self._on(model, work, name, count, float(each))
            for (model, work), name, each in zip(answers, op_names(region), seconds, strict=True)
        ]

    def _on(self, model: PhaseModel, work: Work, name: str, count: int, each: float) -> OpTime:
        """One op that ``model`` answers for: this one, or that of one of several kinds of GPU."""
        if model is self.model:
            return self.line(work, name, count, each)
        found = PhaseLines(model, self.times, self.bind, self.context).line(work, name, count, each)
        return evolve(found, gpu=model.machine.gpu.name)

    def line(self, work: Work, name: str, count: int, each: float) -> OpTime:
        """One op that takes ``each`` seconds and runs ``count`` times in a pass."""
        layer, band = self._answered(work)
        word = kind(work.op)
        if isinstance(work, Exchange):
            payload = float(work.payload_per_row * self.extents.product(work.rows))
            if layer == "measured":
                algorithm = layer
                bound = "link" if payload / self.model.machine.link.bandwidth * 2 >= each else "latency"
            elif crossing := _crossing(work):
                route, bound = crossing.fastest(payload), crossing.bound(payload)
                algorithm, band = route.name, band if route.constants is None else band_of(route.constants)
            elif work.form is not None and not isinstance(work.form, ExchangeForm):
                library = cast("DispatchForm", work.form)
                algorithm, band = library.name, band_of(library.constants)
                across = self.model.machine.cluster if work.nodes > 1 else None
                port = (across.network if across else self.model.machine.link).bandwidth
                bound = "link" if payload / port * 2 >= each else "latency"
            elif work.form is not None:
                times = [float(t) for t in fitted_exchange(work, work.form, payload)[1]]
                name_, constants, _ = work.form.libraries[times.index(min(times))]
                algorithm, band = name_.removesuffix("_exchange"), band_of(constants)
                bound = "link" if payload / work.form.link.bandwidth * 2 >= min(times) else "latency"
            else:
                linked = links.seconds(work.ways, payload)
                moving = min(w.per_byte * payload for w in work.ways)
                bound = "link" if moving * 2 >= linked + work.launch else "latency"
                algorithm = links.fastest(work.ways, payload)
            time, tensors = each * count, getattr(work.op, "tensors", 1)
            count *= tensors * int(work.times)
            payload /= tensors
            axis = self._along(work.axis)
            return OpTime(
                word, name, count, time, 0.0, payload, bound, layer, (), axis, algorithm, True, band, work.nodes
            )
        if isinstance(work, Softmax):
            asked_for = [(weight, attention_work(work, self.extents, c)) for weight, c in self.nodes]
            flops, moved = (sum(weight * each[i] for weight, each in asked_for) for i in (0, 1))
        else:
            flops, moved = asked_of(work, self.extents, self.context)
        arithmetic, memory = flops / work.rate, moved / work.bandwidth
        bound = "latency" if work.launch > max(arithmetic, memory) else "compute" if arithmetic > memory else "memory"
        shape = self._shape(work)
        return OpTime(word, name, count, each * count, float(flops), float(moved), bound, layer, shape, band=band)

    def _along(self, axis: str) -> str:
        """The axis of an exchange; of several, those that have ranks. Stages hand on along theirs."""
        program = self.model.schedule.program
        axes = axis.split("*") if axis else program.stage_axes
        return "*".join([a for a in axes if program.mesh.size(a) > 1] or axes)

    def _answered(self, work: Work) -> tuple[str, tuple[float, float] | None]:
        """The layer that timed an op, and how far measurements lie from it; how they repeat, a table does not say."""
        calibration = self.model.machine.calibration
        if self._measured(work):
            return "measured", (1.0, 1.0)
        if isinstance(work, Exchange) or work.form is None:
            crossing = _crossing(work) if isinstance(work, Exchange) else None
            form = work.form is not None if crossing is None else crossing.fitted
            flat = dict(calibration.values)
            return "fitted" if form else "constant" if flat else "roofline", band_of(flat)
        return "fitted", band_of(work.form.constants)

    def _measured(self, work: Work) -> bool:
        """Whether a table answered; in a decode step, at the mean context."""
        if work.table is None:
            return False
        if isinstance(work, Softmax):
            batch, position = self.extents.local(work.batch), self.extents.sizes[work.position.name]
            return bool(work.table.at(batch, position, self.context) > 0)
        return bool(work.table.at(self.extents.product(work.rows)) > 0)

    def _shape(self, work: Work) -> tuple[tuple[str, int], ...]:
        if not isinstance(work, Kernel) or not isinstance(work.op, Gemm):
            return ()
        op = work.op
        k = self.extents.product(op.x.type.dim(n) for n in op.contracted())
        m = self.extents.product(d for d in op.x.type.dims if d.name not in op.contracted())
        n = sum(self.extents.elements(out.type) for out in op.outs) // max(m, 1)
        return (("m", int(m)), ("n", int(n)), ("k", int(k)))
