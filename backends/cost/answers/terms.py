"""Breakdowns of a plan's TTFT, TPOT, throughput and memory into terms that add up."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from plandsl.answers.explanation import DUST, Breakdown, Term
from plandsl.answers.occupancy import Memory
from plandsl.answers.phases import OpTime
from plandsl.backends.cost.answers.lines import PhaseLines
from plandsl.backends.cost.answers.responses import BUBBLE, CROWD, OTHERS, PORT, ROOM, Followed, responses, waits
from plandsl.backends.cost.deployments.deployment import Deployment, Metrics
from plandsl.backends.cost.time.phase import PhaseTimes, Played, play_slots
from plandsl.ir.base import COMPUTE
from plandsl.ir.program import DECODE, PREFILL
from plandsl.ir.schedule import Slot
from plandsl.ir.types import Number
from plandsl.values import sum_up


class Terms(NamedTuple):
    """Breakdowns of the times, for the plan's own load; ``waits`` has the share of each wait that follows a figure."""

    ttft: Breakdown
    tpot: Breakdown
    per_token: Breakdown
    waits: Mapping[str, Mapping[str, float]]

    @property
    def all(self) -> tuple[Breakdown, ...]:
        """The breakdowns of all times."""
        return self.ttft, self.tpot, self.per_token


def terms(model: Deployment, metrics: Metrics) -> Terms:
    """TTFT, TPOT and the seconds for each output token of a plan, term by term.

    A term is the exposed time of ops for one batch on its way through all stages. The rest of a phase is the wait for
    the slowest stage, and the rest of the metric is the engine's time.
    """
    joined, gain, s, longer = metrics.joined, float(model.pools[-1].gain), metrics.served, waits(metrics)
    prefill, decode = PhaseLines.of_main(metrics.prefill), PhaseLines.of_main(metrics.decode)
    follow = responses(model, metrics)
    others = longer.pop(OTHERS)
    token_waits = (
        [Term(DECODE, OTHERS, op="mixed", name=OTHERS, value=others, bound="mixed")]
        if others > 0 or (s is not None and not others)  # a negative one makes all terms shorter: `_token_share`
        else []
    )
    longer.pop(PORT, None)  # of two pools, told with the transfer
    waiting = [
        Term(PREFILL, "wait", op="wait", name=name, value=t, bound="wait") for name, t in longer.items() if t > 0
    ]
    share = 1.0 if s is None else float(joined)
    first = _step_terms(PREFILL, metrics.prefill, follow.ops[PREFILL], share)
    whole = _step_terms(DECODE, metrics.decode, follow.ops[DECODE], 1.0)
    taken = _token_share(float(metrics.tpot), others, gain)
    step = [term.times(taken) for term in whole]
    at_first, at_step = _first_ranks(model, metrics), model.pools[-1].plan.rank_seconds * taken
    ttft = _breakdown(
        "ttft", PREFILL, ops=first, span=float(prefill.span) / share, value=metrics.ttft, waits=waiting, ranks=at_first
    )
    if model.transfer is not None:
        from plandsl.backends.cost.answers.pool_terms import label_pools, per_token, transfer_terms

        token_waits = transfer_terms(model, metrics)
    tpot = _breakdown(
        "tpot", DECODE, ops=step, span=float(decode.span) * taken, value=metrics.tpot, waits=token_waits, ranks=at_step
    )
    if model.transfer is None:
        return Terms(ttft, tpot, _per_token(model, metrics, ttft, tpot), follow.waits)
    ttft, tpot = label_pools(ttft), label_pools(tpot)
    return Terms(ttft, tpot, per_token(model, metrics, ttft, tpot), follow.waits)


def _token_share(tpot: float, mixed: float, gain: float) -> float:
    """How much of a decode step the time of a token takes, if steps that are mixed with prompts add ``mixed`` to it.

    A mixed step of few requests may be shorter than a full decode step. Then ``mixed`` is negative, and all terms of
    the decode step count as much less.
    """
    return (tpot / (tpot - mixed) if mixed < 0 else 1.0) / gain


def memory_terms(memory: Memory) -> Breakdown:
    """What fills the fullest GPU."""
    parts = ("weights", "kv_cache", "activations", "buffers")
    found = tuple(Term("", part, op=part, name=part, value=getattr(memory, part), bound="") for part in parts)
    return Breakdown("memory", memory.total, found)


def _first_ranks(model: Deployment, metrics: Metrics) -> float:
    """What further ranks add to TTFT: once with the first token, and in each step of a prompt that comes in chunks."""
    steps = 0.0 if metrics.served is None else float(metrics.served.steps)
    return model.pools[0].plan.rank_seconds * (1 + steps)


def _breakdown(
    metric: str, phase: str, ops: Iterable[Term], span: float, value: Number, waits: Sequence[Term], ranks: float
) -> Breakdown:
    """The breakdown of a time: ``ops``, the rest of their ``span``, ``waits``, and the rest of ``value``.

    ``ranks`` seconds of the rest are the engine's, for further ranks.
    """
    total, found = float(value), list(ops)
    bubble = span - sum_up(t.value for t in found)
    engine = total - span - sum_up(t.value for t in waits) - ranks
    rests = [
        Term(phase, BUBBLE, op="bubble", name=BUBBLE, value=bubble, bound="bubble"),
        *_engine_terms(phase, engine, ranks),
    ]
    return Breakdown(metric, total, (*found, *waits, *(t for t in rests if t.value > DUST * total)))


class Run(NamedTuple):
    """An op on ``stages`` stages that run the same, its exposed seconds on one of them, and the figure it follows."""

    op: OpTime
    value: float
    bound: str
    stages: int


def _engine_terms(phase: str, engine: float, ranks: float) -> list[Term]:
    """What an engine adds to any step, and since there are several ranks."""
    found = [Term(phase, "engine", op="engine", name="engine", value=engine, bound="engine")]
    if ranks:
        found.append(Term(phase, "engine", op="engine", name="further ranks", value=ranks, bound="ranks"))
    return found


def _op_terms(phase: str, lines: PhaseLines, follow: Followed, share: float) -> Iterator[Term]:
    """A term for all ops of one name on all stages, for one of ``share`` requests.

    The figure that most of its time follows bounds it.
    """
    named: dict[tuple[str, str], list[Run]] = {}
    for stage, count in lines.alike:
        columns = lines.stage_ops(stage), _exposed_in_stage(lines, stage), _followed_in_stage(lines, follow, stage)
        for op, seen, bound in zip(*columns, strict=True):
            if op.time_s > 0:
                value = op.time_s * lines.share_on_way(stage, op) * seen / share
                named.setdefault((op.op, op.name), []).append(Run(op, value, bound, count))
    for (kind, name), runs in named.items():
        most, bounds = max(runs, key=lambda run: run.value).op, dict.fromkeys((run.bound for run in runs), 0.0)
        for run in runs:
            bounds[run.bound] += run.stages * run.value
        yield Term(
            phase,
            _group(most),
            op=kind,
            name=name,
            value=sum_up(run.stages * run.value for run in runs),
            bound=max(bounds, key=lambda key: bounds[key]),
            layer=most.layer,
            origin=most.origin,
            band=most.band,
            runs=sum_up(run.stages * run.op.count for run in runs),
            flops=sum_up(run.stages * run.op.count * run.op.flops for run in runs),
            bytes=sum_up(run.stages * run.op.count * run.op.bytes for run in runs),
        )


def _step_terms(phase: str, times: PhaseTimes, follow: Sequence[Followed], share: float) -> list[Term]:
    """The terms of all programs that ran in a step; a draft's ops count in all its steps."""
    found = list(_op_terms(phase, PhaseLines.of_main(times), follow[0], share))
    for run, own in zip(times.ran[1:], follow[1:], strict=True):
        count, lines = float(run.count), PhaseLines.of(run)
        for term in _op_terms(phase, lines, own, share / count):
            told = term._replace(group=run.part, name=f"{run.part} {term.name}", part=run.part)
            found.append(told._replace(runs=term.runs * count, flops=term.flops * count, bytes=term.bytes * count))
    return found


def _followed_in_stage(lines: PhaseLines, follow: Followed, stage: int) -> Iterator[str]:
    """The figure that each op follows, in the order of `PhaseLines.stage_ops`."""
    for part in lines.model.schedule.program.stages[stage]:
        yield from follow[lines.model.run(stage, part.region)]


def _group(op: OpTime) -> str:
    """The group of an op: a kind of collective, GEMMs, attention, or element-wise."""
    if op.communicates or op.op == "attention":
        return op.op
    if op.op == "index":  # the choice of keys is a part of sparse attention
        return "attention"
    return "GEMMs" if "gemm" in op.op else "element-wise"


def _exposed_in_stage(lines: PhaseLines, stage: int) -> Iterator[float]:
    """The share of each op's time that nothing hides, in the order of `PhaseLines.stage_ops`."""
    model, times = lines.model, lines.times
    for part in model.schedule.program.stages[stage]:
        run = model.run(stage, part.region)
        yield from exposed_shares(
            model.schedule.slots_of(part.region), [float(t) for t in times.seconds[run]], times.regions[run]
        )


def exposed_shares(slots: Sequence[Slot], seconds: Sequence[float], played: Played) -> list[float]:
    """The share of each slot's time that counts in a region's span, so that the parts add up to the span.

    Kernels count in full. Communication counts while no kernel runs; a kernel that runs ``along`` another slot and
    waits for input counts as busy at its end. For a mean over steps, exposed time is distributed as in the mean step.
    """
    placed = [(slot, float(a), float(b)) for slot, (a, b) in zip(slots, play_slots(slots, seconds), strict=True)]
    busy = [(end - seconds[slot.op], end) for slot, _, end in placed if slot.stream == COMPUTE]
    bare = {}
    for slot, start, end in (p for p in placed if p[0].stream != COMPUTE):
        hidden = sum_up(max(min(end, b) - max(start, a), 0.0) for a, b in busy)
        bare[slot.op] = max(seconds[slot.op] - hidden, 0.0)
    total, exposed = sum_up(bare.values()), float(played.exposed)
    if total <= DUST * exposed:
        bare = {op: seconds[op] for op in bare}
        total = sum_up(bare.values())
    scale = exposed / total if total else 0.0
    return [bare[i] * scale / t if i in bare and t else 1.0 for i, t in enumerate(seconds)]


def _per_token(model: Deployment, metrics: Metrics, ttft: Breakdown, tpot: Breakdown) -> Breakdown:
    """Seconds per output token: prefill and all steps of a batch, divided by its output tokens.

    Static: (prefill period + admit * batch + first + output * TPOT) / tokens. Under an ongoing load: the time of a
    request in its slot (prefill, wait for other prefills, later tokens) over the tokens of all slots, plus the end of
    the run.
    """
    load, engine, s = model.plan.workload, model.plan.effective_engine, metrics.served
    if s is None:
        slots, steps, rest = model.pools[-1].in_flight * load.batch, load.output, (BUBBLE, "bubble")
        added = engine.admit * load.batch + engine.first
    else:
        slots, steps, rest = s.running, max(load.output - 1, 0), ("the end of the run", "wait")
        added = float(engine.admit + s.first)
    kept = [t for t in ttft.terms if t.bound not in ("engine", "ranks", "bubble") and t.name not in (ROOM, CROWD)]
    ranks = model.plan.rank_seconds
    once = [*kept, *_engine_terms(PREFILL, added - ranks, ranks)]
    weight, total = 1 / (model.plan.sharding.replicas * float(slots) * load.counted), 1 / float(metrics.throughput)
    steps = 0 if load.encodes else steps
    again = [t for t in tpot.terms if s is not None or t.bound != "mixed"]  # prompts of a batch are in its prefill
    found = [t.times(weight) for t in once] + [t.times(weight * steps) for t in again]
    left = total - sum_up(t.value for t in found)
    found.append(Term(PREFILL, rest[0], op=rest[1], name=rest[0], value=left, bound=rest[1]))
    return Breakdown("per_token", total, tuple(t for t in found if abs(t.value) > DUST * total))
