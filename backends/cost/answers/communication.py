"""From metrics to `Communication`: every call of every stage, in both phases and between two pools."""

from collections.abc import Iterator
from typing import NamedTuple

from plandsl.answers.communication import Calls, Communication, Traffic, add_up
from plandsl.answers.phases import OpTime
from plandsl.backends.cost.answers.lines import PhaseLines
from plandsl.backends.cost.deployments.deployment import Metrics
from plandsl.backends.cost.time.phase import PhaseTimes, ProgramRun
from plandsl.ir.base import LINK
from plandsl.ir.program import DECODE, PREFILL
from plandsl.ir.types import Number


class Kind(NamedTuple):
    """The properties that all calls of a row share."""

    op: str
    axis: str
    algorithm: str
    nodes: int
    part: str


class Basis(NamedTuple):
    """What the numbers of one phase are divided by.

    ``time`` is TTFT or TPOT. Seconds of kernels are divided by ``sharers``: the requests of a prefill, or the
    tokens that a decode step brings a request. A request takes ``passes`` passes of the phase, each
    with ``batch`` requests.
    """

    time: Number
    sharers: Number
    passes: Number
    batch: Number


def communication(
    metrics: Metrics, output: int, gain: Number, lines: tuple[PhaseLines, PhaseLines] | None = None
) -> Communication:
    """All calls of a prefill, and of a decode step that brings each request ``gain`` of its ``output`` tokens.

    A request takes its part of one prefill, and of ``(output - 1) / gain`` decode steps. ``lines``: the lines of the
    model's own program in both phases, if the caller has them.
    """
    first, step = bases(metrics, output, gain)
    ours, theirs = lines or (PhaseLines.of_main(metrics.prefill), PhaseLines.of_main(metrics.decode))
    rows = _rows(PREFILL, metrics.prefill, first, ours)
    if metrics.encodes:
        return Communication(tuple(rows), decodes=False)
    return Communication((*rows, *_rows(DECODE, metrics.decode, step, theirs)))


def bases(metrics: Metrics, output: int, gain: Number) -> tuple[Basis, Basis]:
    """What the numbers of prefill and of decode are divided by."""
    joined = metrics.joined
    first = Basis(metrics.ttft, 1.0 if metrics.served is None else joined, 1, joined)
    return first, Basis(metrics.tpot, gain, (output - 1) / gain, metrics.batch)


def _rows(phase: str, times: PhaseTimes, basis: Basis, main: PhaseLines) -> list[Calls]:
    """The calls of all programs that ran in a phase, the longest first; ``main`` are the lines of the first program."""
    found: dict[Kind, list[Traffic]] = {}
    for sent in stage_calls(times, basis, main):
        found.setdefault(sent.kind, []).append(sent.traffic)
    rows = [Calls(phase, **kind._asdict(), **add_up(parts)._asdict()) for kind, parts in found.items()]
    return sorted(rows, key=lambda row: -row.time_s)


class StageCalls(NamedTuple):
    """The calls of one op on one rank of a ``stage`` of a program that ran; the table of communication adds them up."""

    run: ProgramRun
    stage: int
    kind: Kind
    traffic: Traffic


def stage_calls(times: PhaseTimes, basis: Basis, main: PhaseLines) -> Iterator[StageCalls]:
    """The calls of each stage of all programs that ran in a phase; ``main`` are the lines of the first program.

    A hop counts at its sender, which takes the time.
    """
    for at, run in enumerate(times.ran):
        lines = PhaseLines.of(run) if at else main
        for stage in range(len(run.times.stages)):
            for op in lines.stage_ops(stage, LINK):
                if op.time_s > 0:
                    kind = Kind(op.op, op.axis, op.algorithm, op.nodes, run.part)
                    yield StageCalls(run, stage, kind, _traffic(run, op, lines.share_on_way(stage, op), basis))


def _traffic(run: ProgramRun, op: OpTime, along: float, basis: Basis) -> Traffic:
    """One op of a stage; ``along`` is the share of its runs that lies on the way of one batch."""
    count = float(run.count)
    runs, time = op.count * count, op.time_s * count
    return Traffic(
        calls=round(runs * float(run.steps)),
        payload=runs * op.bytes,
        wire=runs * op.wire,
        time_s=time,
        share=time * along / float(basis.sharers) / float(basis.time),
        per_request=runs * op.wire * float(basis.passes) / float(basis.batch),
    )
