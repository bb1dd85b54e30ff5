"""How well a plan uses its GPUs: `comm_share`, MFU and MBU as numbers or arrays, for searches.

Reports have the same shares from `lines.PhaseLines.estimate`, which also lists the ops.
"""

from __future__ import annotations

from typing import NamedTuple

from plandsl.backends.cost.answers.ideal import Pass, average_gpu, mfu
from plandsl.backends.cost.answers.lines import mean_contexts
from plandsl.backends.cost.deployments.deployment import Deployment, Metrics
from plandsl.backends.cost.deployments.server import Server
from plandsl.backends.cost.num import maximum, minimum
from plandsl.backends.cost.time.phase import PhaseTimes, ProgramRun
from plandsl.backends.cost.work.work import Binding
from plandsl.ir.extents import Extents
from plandsl.ir.types import Number


class Used(NamedTuple):
    """MFU and MBU of one phase."""

    mfu: Number
    mbu: Number


class Shares(NamedTuple):
    """``comm_share``: exposed communication over the time, the larger of both phases; MFU and MBU, the smaller.

    ``phases`` has MFU and MBU of prefill, and of decode; of an encoder both are those of prefill.
    """

    comm_share: Number
    mfu: Number
    mbu: Number
    phases: tuple[Used, Used]


def shares(model: Deployment, m: Metrics) -> Shares:
    """Shares of a prefill and of a decode step, each on the GPUs of its pool."""
    first, second = model.pools[0].one, model.pools[-1].one
    prefill = _utilisation(first, m.prefill)
    exposed = exposed_seconds(m.prefill) / (1.0 if m.served is None else m.joined) / maximum(m.ttft, 1e-30)
    if m.encodes:  # no step decodes
        return Shares(exposed, prefill.mfu, prefill.mbu, (prefill, prefill))
    used = prefill, _utilisation(second, m.decode)
    share = [exposed, exposed_seconds(m.decode) / second.gain / maximum(m.tpot, 1e-30)]
    return Shares(maximum(*share), minimum(used[0].mfu, used[1].mfu), minimum(used[0].mbu, used[1].mbu), used)


def exposed_seconds(times: PhaseTimes) -> Number:
    """Seconds of exposed communication of one batch on its way through all stages."""
    total = times.hops + times.again.exposed
    for stage in times.stages:
        total = total + stage.exposed
    return total


def _utilisation(server: Server, times: PhaseTimes) -> Used:
    """MFU and MBU of the model, without a draft, at the rate at which batches pass."""
    gpu, passes = average_gpu(server.plan), list[Pass]()
    bytes_: Number = 0.0
    for run in (r for r in times.runs if not r.part):
        program = run.phase.schedule.program
        extents = Extents(program, run.bind, run.phase.extents.mesh)
        for weight, context in mean_contexts(run.phase, run.bind, run.context):
            passes.append(Pass(run.weight * weight, program, extents, context))
        bytes_ = bytes_ + run.weight * memory_bytes(run, gpu.bandwidth)
    per_batch = times.period / server.in_flight / times.parts
    moved = bytes_ / (per_batch * len(times.stages) * gpu.bandwidth)
    return Used(mfu(server, times, passes), moved)


def memory_bytes(run: ProgramRun, bandwidth: float) -> Number:
    """Bytes that the kernels of one rank of every stage move in one run through memories of ``bandwidth`` bytes/s.

    A kernel that is faster than these finds the rest of its bytes in a cache, where the kernel before left them.
    """
    phase = run.phase
    extents = Extents(phase.schedule.program, run.bind, phase.extents.mesh)
    ways = [(weight, Binding(extents, at)) for weight, at in mean_contexts(phase, run.bind, run.context)]
    total: Number = 0.0
    for stage, parts in enumerate(phase.schedule.stages):
        for part in parts:
            key = phase.run(stage, part.region)
            for work, seconds in zip(phase.work[key], run.times.seconds[key], strict=True):
                moved: Number = 0.0
                for weight, at in ways:
                    moved = moved + weight * work.demand(at).moved
                total = total + part.repeats * minimum(moved, seconds * bandwidth)
    return total
