"""How well a plan uses its GPUs, for any load: shares of the time and of the peaks, as numbers or arrays."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from plandsl.backends.cost.answers.lines import around, asked_of
from plandsl.backends.cost.answers.utilisation import average, ideal_seconds
from plandsl.backends.cost.deployments.prefix import reused
from plandsl.backends.cost.deployments.single import CostModel, Metrics
from plandsl.backends.cost.num import maximum, minimum
from plandsl.backends.cost.time.phase import PhaseModel, PhaseTimes
from plandsl.backends.cost.work.costing import Exchange
from plandsl.ir.extents import Extents
from plandsl.ir.program import DECODE, PREFILL
from plandsl.ir.types import Number


class Shares(NamedTuple):
    """``comm_share``: exposed communication over the time, the larger of both phases; MFU and MBU, the smaller."""

    comm_share: Number
    mfu: Number
    mbu: Number


def shares(model: CostModel, m: Metrics, batch: Number, joined: Number, input_: Number, output: Number) -> Shares:
    """Shares of a prefill of ``joined`` requests and a decode step of ``batch``."""
    ongoing, plan = m.served is not None, model.plan
    new = input_ - reused(plan, input_)
    first = {"batch": model.parts(joined)[0], "input": new, "context": input_}
    step = {"batch": batch, "context": input_, "queries": plan.queries}
    used = [
        _used(model, PREFILL, joined * new, m.prefill, first, input_),
        _used(model, DECODE, batch * plan.queries, m.decode, step, input_ + output / 2),
    ]
    share = [
        exposed(m.prefill) / (joined if ongoing else 1.0) / maximum(m.ttft, 1e-30),
        exposed(m.decode) / model.gain / maximum(m.tpot, 1e-30),
    ]
    return Shares(maximum(*share), minimum(used[0][0], used[1][0]), minimum(used[0][1], used[1][1]))


def exposed(times: PhaseTimes) -> Number:
    """Seconds of communication along the way of one batch that nothing hides."""
    total = times.hops + times.again.exposed
    for stage in times.stages:
        total = total + stage.exposed
    return total


def _used(
    model: CostModel, phase: str, tokens: Number, times: PhaseTimes, bind: Mapping[str, Number], context: Number
) -> tuple[Number, Number]:
    """MFU and MBU at the rate that batches come round."""
    gpu, sharding = average(model.plan), model.plan.sharding

    def mean(of: Callable[[PhaseModel, Extents, Number], Number]) -> Number:
        def one(p: PhaseModel) -> Number:
            extents = Extents(p.schedule.program, bind, p.extents.mesh)
            total: Number = 0.0
            for weight, at in around(p, bind, context):
                total = total + weight * of(p, extents, at)
            return total

        return model.by_tokens(phase, tokens, one)

    per_batch = times.period / model.in_flight / times.parts
    ideal = mean(lambda p, extents, at: ideal_seconds(p.schedule.program, gpu, extents, at))
    stages, gpus = len(times.stages), sharding.ranks // sharding.replicas
    return ideal / (per_batch * gpus), mean(moved) / (per_batch * stages * gpu.bandwidth)


def moved(phase: PhaseModel, extents: Extents, context: Number) -> Number:
    """Bytes that the kernels of one rank of every stage move in one pass."""
    total: Number = 0.0
    for parts in phase.schedule.stages:
        for part in parts:
            for work in phase.work[part.region]:
                if not isinstance(work, Exchange):
                    total = total + part.repeats * asked_of(work, extents, context)[1]
    return total
