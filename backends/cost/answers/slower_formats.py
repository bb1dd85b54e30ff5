"""GEMMs of narrow weights that take longer than they would with wider ones, and the measurements that say so."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from attrs import evolve

from plandsl.backends.cost.answers.names import op_names
from plandsl.backends.cost.deployments.deployment import Deployment
from plandsl.backends.cost.time.phase import PhaseModel, ProgramRun
from plandsl.backends.cost.work.costing import Costing
from plandsl.backends.cost.work.work import Binding
from plandsl.diagnostics import Diagnostic
from plandsl.ir.compute import Gemm, Quantize
from plandsl.ir.ops import Op
from plandsl.ir.program import Program, Region
from plandsl.ir.types import TensorType, Value
from plandsl.spec.formats import BITS, as_written, base_format
from plandsl.values import kept, sum_up

EIGHT = "fp8"
"""The format that stands for weights of 8 bits."""

MORE = 1 + 1e-3
"""The factor by which GEMMs must take longer to be told."""

MOST = 2
"""The most GEMMs that a note names, those that lose most first."""


class Pair(NamedTuple):
    """A narrow GEMM and its twin of wider weights: their ops, and the seconds of all runs in a pass.

    The time to quantise its input counts for the narrow one.
    """

    name: str
    op: Gemm
    twin: Gemm
    seconds: float
    theirs: float

    @property
    def lost(self) -> float:
        """Seconds by which the narrow one takes longer."""
        return self.seconds - self.theirs


def slower_notes(model: Deployment) -> list[Diagnostic]:
    """N430 for each phase, at the plan's own load, whose GEMMs take longer than those of wider weights.

    A GEMM takes longer with fewer bits only where kernels of both were measured so: its input is quantised, or the
    library has another kernel. Without measurements it has the form of another kernel, with fewer bytes. Wider weights
    are those of the activations' format, and of 8 bits for weights that have fewer.
    """
    wide = model.plan.model.activations
    phases = (model.own.prefill, model.own.decode)[: 1 if model.plan.workload.encodes else 2]
    found = (_slower_note(times.main, rival, wide) for times in phases for rival in (wide, EIGHT))
    return [note for note in found if note is not None]


def _slower_note(run: ProgramRun, rival: str, wide: str) -> Diagnostic | None:
    """The note on one phase; None where its GEMMs are not slower than with weights of ``rival``."""
    program = run.phase.schedule.program
    narrow = _narrow(program, rival)
    if not narrow or not all(run.phase.machine.gpu.peak(_arithmetic(op, rival, wide)) for op in narrow):
        return None
    twin = Costing(_widened(program, rival, wide), run.phase.machine, run.phase.extents, None)
    pairs = sorted(_pairs(run, twin, wide), key=lambda pair: -pair.lost)
    if sum_up(pair.seconds for pair in pairs) <= MORE * sum_up(pair.theirs for pair in pairs):
        return None
    slow = [pair for pair in pairs if pair.seconds > MORE * pair.theirs]
    ours = Costing(program, run.phase.machine, run.phase.extents, None)
    sets = dict.fromkeys(ours.constants_of(pair.op) for pair in slow)
    names = list(dict.fromkeys(pair.name for pair in slow))
    more = f" and {len(names) - MOST} more" if len(names) > MOST else ""
    stored = dict.fromkeys(as_written(pair.op.weights[0].type.dtype) for pair in slow)
    what = f"{', '.join(stored)} slower than {rival} in {program.phase}, as measured: {', '.join(names[:MOST])}{more}"
    return Diagnostic("N430", f"{what} ({', '.join(sets)})")


def _pairs(run: ProgramRun, twin: Costing, wide: str) -> Iterator[Pair]:
    phase = run.phase
    at = phase.bound_sizes(run.bind, float(run.context))
    for region, other in zip(phase.schedule.program.regions, twin.site.program.regions, strict=True):
        added = _quantising_seconds(phase, region, at)
        for op, theirs, name, work in zip(
            region.ops, other.ops, op_names(region), phase.work[region.name], strict=True
        ):
            if not isinstance(op, Gemm) or not isinstance(theirs, Gemm) or op is theirs:
                continue
            seconds = float(work.seconds(at))
            if theirs.compute == wide:  # else both have to be quantised
                seconds += added.get(op.x.name, 0.0)
            yield Pair(
                name, op, theirs, region.repeats * seconds, region.repeats * float(twin.work(theirs).seconds(at))
            )


@kept(256)
def _narrow(program: Program, rival: str) -> tuple[Op, ...]:
    """The GEMMs of a program whose weights have fewer bits than ``rival``."""
    return tuple(op for region in program.regions for op in region.ops if _is_narrow(op, rival))


def _is_narrow(op: Op, rival: str) -> bool:
    return isinstance(op, Gemm) and BITS[base_format(op.weights[0].type.dtype)] < BITS[rival]


def _arithmetic(op: Op, rival: str, wide: str) -> str:
    """The format in which weights of ``rival`` would be multiplied: unpacked where those of ``op`` are."""
    assert isinstance(op, Gemm), "weights have formats"
    return wide if op.compute == wide else rival


def _quantising_seconds(phase: PhaseModel, region: Region, at: Binding) -> dict[str, float]:
    """Seconds to quantise each value, shared by the GEMMs that read it."""
    readers = [op.x.name for op in region.ops if isinstance(op, Gemm)]
    return {
        op.out.name: float(work.seconds(at)) / max(readers.count(op.out.name), 1)
        for op, work in zip(region.ops, phase.work[region.name], strict=True)
        if isinstance(op, Quantize)
    }


def _widened(program: Program, rival: str, wide: str) -> Program:
    """``program`` with GEMMs whose weights are of ``rival`` where they have fewer bits. All other ops stay."""

    def stored_as(value: Value, dtype: str) -> Value:
        return evolve(value, type=TensorType(dtype, value.type.dims))

    def widen_op(op: Op) -> Op:
        if not isinstance(op, Gemm) or not _is_narrow(op, rival):
            return op
        compute = _arithmetic(op, rival, wide)
        weights = tuple(stored_as(weight, rival) for weight in op.weights)
        return evolve(op, x=stored_as(op.x, compute), weights=weights, compute=compute)

    regions = (evolve(region, ops=tuple(map(widen_op, region.ops))) for region in program.regions)
    return evolve(program, regions=tuple(regions))
