"""The passes: a plan becomes a program, and a program a schedule, one idea at a time."""

from __future__ import annotations

from collections.abc import Hashable, Iterator

from attrs import evolve, fields

from plandsl.ir.collectives import Reshard
from plandsl.ir.ops import Op
from plandsl.ir.program import Program
from plandsl.ir.schedule import Schedule
from plandsl.passes.build import build, empty, mesh_of
from plandsl.passes.chunk import chunk
from plandsl.passes.cut_stages import cut_stages
from plandsl.passes.fuse import fuse
from plandsl.passes.insert_collectives import insert_collectives
from plandsl.passes.merge_sums import merge_sums
from plandsl.passes.overlap import overlap
from plandsl.passes.place_memory import place_memory
from plandsl.passes.quantize import quantize
from plandsl.passes.runner import Pass, checked
from plandsl.passes.schedule import schedule
from plandsl.passes.shard import shard
from plandsl.spec.plan import PlanSpec


def _no_partial_sums(op: Op) -> bool:
    return not any(x.type.pending and x not in op.linear for x in op.operands)


PIPELINE: tuple[Pass, ...] = (
    Pass("build", build, "first: everything else rewrites what it makes"),
    Pass("shard", shard, "layouts come before collectives: it says where they are needed", _no_partial_sums),
    Pass(
        "insert-collectives",
        insert_collectives,
        "before fusion, which must see them",
        lambda op: not isinstance(op, Reshard),
    ),
    Pass("merge-sums", merge_sums, "once collectives are there; before fusion, which sees additions as they are run"),
    Pass("quantize", quantize, "after collectives, whose payload is the activations' dtype"),
    Pass("fuse", fuse, "last rewrite of a region, so that it sees all there is to merge"),
    Pass("chunk", chunk, "on fused GEMMs, which are what is launched"),
    Pass("overlap", overlap, "on all ops there will be; memory is counted in the order that they run in"),
    Pass("cut-stages", cut_stages, "regions are final, so stages only refer to them"),
    Pass("place-memory", place_memory, "on final regions: liveness depends on fusion"),
    Pass("schedule", schedule, "last: it orders what is there"),
)
"""The order, with a word on why each pass stands where it does."""


def steps(plan: PlanSpec, phase: str, *, check: bool = True) -> Iterator[tuple[Pass, Program | Schedule]]:
    """Run the pipeline on one phase of ``plan``, giving what each pass made."""
    program = empty(plan, phase)
    promises: list[Pass] = []
    for step in PIPELINE:
        result = step.run(program, plan)
        if isinstance(result, Schedule):
            yield step, result
            return
        if step.leaves is not None:
            promises.append(step)
        program = checked(step, program, result, promises) if check else result
        yield step, program


def compile_phase(plan: PlanSpec, phase: str, known: dict[Hashable, Program] | None = None) -> Schedule:
    """The schedule of one phase.

    Plans that differ in numbers only share a structure: what is ``known`` of one is not worked out again.
    """
    if known is None:
        for _, result in steps(plan, phase):
            last = result
        assert isinstance(last, Schedule)
        return last
    key = phase, structure(plan)
    if key not in known:
        known[key] = program_after(plan, phase, SIZELESS)
    return _finished(evolve(known[key], mesh=mesh_of(plan)), plan)


SIZELESS = "fuse"
"""The last pass that does not care how large the axes are; those behind it take no time."""

NUMBERS = (
    *("name", "node", "cluster", "sharding", "workload", "calibration", "requires", "kv_residency", "step_tokens"),
    *("memory_fraction", "algorithm", "engine", "measured", "micro_batches", "span"),
)
"""Fields of a plan that no pass up to `SIZELESS` reads, or only what `structure` says of them."""


def structure(plan: PlanSpec) -> Hashable:
    """What a plan's program is made from, apart from numbers: plans that agree in it have one program."""
    sharding = plan.sharding
    axes = tuple((a.name, a.size > 1) for a in sharding.axes)
    rules = tuple((r.dims, r.axes, r.region) for r in sharding.rules)
    peaks = tuple(dtype for dtype, _ in plan.common.compute)
    rest = tuple(getattr(plan, f.name) for f in fields(PlanSpec) if f.name not in NUMBERS)
    return axes, rules, sharding.replica_axes, sharding.context_form, peaks, rest


def _finished(program: Program, plan: PlanSpec) -> Schedule:
    """A program after `SIZELESS`, taken through the passes behind it."""
    after = [step.name for step in PIPELINE].index(SIZELESS) + 1
    for step in PIPELINE[after:]:
        result = step.run(program, plan)
        if isinstance(result, Schedule):
            return result
        program = result
    raise AssertionError("the last pass makes a schedule")


def program_after(plan: PlanSpec, phase: str, name: str) -> Program:
    """The program of one phase after pass ``name``."""
    for step, result in steps(plan, phase):
        if step.name == name:
            return result if isinstance(result, Program) else result.program
    raise KeyError(name)


__all__ = ["PIPELINE", "compile_phase", "program_after", "steps"]
