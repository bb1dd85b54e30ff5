"""What follows from a plan for a line of its model: shapes on one rank, their bytes, and the collectives."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from plandsl.answers.estimate import Estimate
from plandsl.driver import CompiledPlan
from plandsl.ir.collectives import AllReduce, Collective, ReduceScatter
from plandsl.ir.extents import Extents
from plandsl.ir.ops import Op
from plandsl.ir.program import Region
from plandsl.ir.types import TensorType
from plandsl.units import show_bytes, show_percent, show_time
from plandsl.values import sum_up


class OpFact(NamedTuple):
    """One op of a line: its word, the sharded type of its result, and what one rank holds of it.

    ``local`` are the sizes of the result on the fullest rank, ``bytes`` what they take. A collective has the
    ``axes`` that it runs over, and ``payload``, the bytes of its operand on one rank.
    """

    op: str
    name: str
    type: str
    local: tuple[int, ...]
    bytes: float
    axes: tuple[str, ...] = ()
    payload: float = 0.0
    layers: int = 1


def ops_of_line(plan: CompiledPlan, phase: str, line: int, file: str) -> list[OpFact]:
    """The ops that a line of the model became, in the order in which they run in ``phase``."""
    return ops_by_line(plan, phase, file).get(line, [])


def ops_by_line(plan: CompiledPlan, phase: str, file: str) -> dict[int, list[OpFact]]:
    """The same of every line of a file that became ops."""
    metrics = plan.cost.evaluate()
    run = (metrics.prefill if phase == "prefill" else metrics.decode).main
    program = run.phase.schedule.program
    extents = Extents(program, run.bind, run.phase.extents.mesh)
    found: dict[int, dict[OpFact, None]] = {}
    for region in program.regions:
        for op, at in zip(region.ops, _lines(region, file), strict=True):
            if at and op.results:
                found.setdefault(at, {})[_fact(op, region, extents)] = None
    return {line: list(facts) for line, facts in found.items()}


class WeightFact(NamedTuple):
    """A weight: its sharded type, what the fullest rank holds of it in one layer, and how many layers have it."""

    type: str
    local: tuple[int, ...]
    bytes: float
    layers: int


def weight_of(plan: CompiledPlan, name: str) -> WeightFact | None:
    """A weight of the model that a plan runs; None where no region has one of this name."""
    run = plan.cost.evaluate().prefill.main
    program = run.phase.schedule.program
    extents = Extents(program, run.bind, run.phase.extents.mesh)
    held = [(region, value) for region in program.regions for value in region.weights if value.name == name]
    if not held:
        return None
    type_ = held[0][1].type
    layers = sum_up(region.repeats for region, _ in held)
    return WeightFact(str(type_), _local(type_, extents), bytes=float(extents.bytes(type_)), layers=layers)


def _fact(op: Op, region: Region, extents: Extents) -> OpFact:
    value = op.results[0]
    axes: tuple[str, ...] = ()
    payload = 0.0
    if isinstance(op, Collective):
        axes, payload = op.axes, float(extents.bytes(op.operands[0].type))
    return OpFact(
        op.keyword,
        value.name,
        str(value.type),
        local=_local(value.type, extents),
        bytes=float(extents.bytes(value.type)),
        axes=axes,
        payload=payload,
        layers=region.repeats,
    )


def _local(type_: TensorType, extents: Extents) -> tuple[int, ...]:
    return tuple(int(-(-float(extents.local(dim)) // 1)) for dim in type_.dims)


def _lines(region: Region, file: str) -> list[int]:
    """The line of each op of a region; 0 for ops of no line.

    A collective that the compiler put in belongs to a line too. One that completes a partial sum belongs to the line
    that made the sum, any other to the line that needs its result.
    """
    lines = [op.span.line if op.span is not None and op.span.file == file else 0 for op in region.ops]
    made: dict[str, int] = {}
    for at, op in enumerate(region.ops):
        if not lines[at] and isinstance(op, AllReduce | ReduceScatter):
            lines[at] = max((made.get(x.name, 0) for x in op.operands), default=0)
        made |= {x.name: lines[at] for x in op.results}
    needed: dict[str, int] = {}
    for at in range(len(region.ops) - 1, -1, -1):
        op = region.ops[at]
        if not lines[at]:
            lines[at] = max((needed.get(x.name, 0) for x in op.results), default=0)
        for x in op.operands:
            needed[x.name] = lines[at] or needed.get(x.name, 0)
    return lines


# ---- a plan in one line


def summary(e: Estimate) -> str:
    """The numbers of a plan that matter most, in one line."""
    return ", ".join(_numbers(e))


def _numbers(e: Estimate) -> Iterator[str]:
    yield f"TTFT {show_time(e.ttft_s)}"
    if e.tpot_s is not None:
        yield f"TPOT {show_time(e.tpot_s)}"
    share = show_percent(e.memory.total / e.memory.capacity)
    yield f"fits, {share}" if e.fits else f"does not fit, {share}"
    missed = sum(not one.ok for one in e.requires)
    if e.requires:
        yield f"{missed} of {len(e.requires)} requirements missed" if missed else "all requirements met"


def estimate_table(e: Estimate) -> list[tuple[str, str]]:
    """The overview of a plan's estimate: names and values."""
    rows = [("GPUs", f"{e.gpus}: {' x '.join(f'{name} {size}' for name, size in e.mesh)}" if e.mesh else str(e.gpus))]
    rows.append(("TTFT", _banded(show_time(e.ttft_s), e, "ttft_s")))
    if e.tpot_s is not None:
        rows.append(("TPOT", _banded(show_time(e.tpot_s), e, "tpot_s")))
    rows.append(("latency", _banded(show_time(e.latency_s), e, "latency_s")))
    rows.append(("throughput", f"{e.throughput_tokens_per_s:,.0f} tok/s"))
    used = f"{show_bytes(e.memory.total)} of {show_bytes(e.memory.capacity)}"
    rows.append(("fits", f"{'yes' if e.fits else 'no'}, {used} ({show_percent(e.memory.total / e.memory.capacity)})"))
    parts = (("weights", e.memory.weights), ("KV cache", e.memory.kv_cache), ("activations", e.memory.activations))
    rows += [(name, show_bytes(size)) for name, size in parts]
    if e.cost_usd_per_mtok is not None:
        rows.append(("cost", f"{e.cost_usd_per_mtok:.3g} USD per million output tokens"))
    return rows


def _banded(text: str, e: Estimate, metric: str) -> str:
    band = e.band(metric)
    return text if band is None else f"{text}, {show_time(band[0])} to {show_time(band[1])}"
