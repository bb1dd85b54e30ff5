"""The passes: they turn a plan into a program and the program into a schedule, one idea per pass."""

from __future__ import annotations

from collections.abc import Hashable, Iterator

from attrs import evolve, fields

from plandsl.ir.collectives import Reshard
from plandsl.ir.ops import Op
from plandsl.ir.program import Program
from plandsl.ir.schedule import Schedule
from plandsl.passes.build import build, empty_program, mesh_of
from plandsl.passes.chunk import chunk
from plandsl.passes.cut_stages import cut_stages
from plandsl.passes.fuse import fuse
from plandsl.passes.insert_collectives import insert_collectives
from plandsl.passes.join_kernels import join_kernels
from plandsl.passes.merge_sums import merge_sums
from plandsl.passes.overlap import overlap
from plandsl.passes.place_memory import place_memory
from plandsl.passes.quantize import quantize
from plandsl.passes.runner import Pass, verify_result
from plandsl.passes.schedule import schedule
from plandsl.passes.shard import shard
from plandsl.spec.plan import PlanSpec


def _no_partial_sums(op: Op) -> bool:
    return not any(x.type.pending and x not in op.linear for x in op.operands)


PIPELINE: tuple[Pass, ...] = (
    Pass("build", build, "first: every other pass rewrites its program"),
    Pass(
        "shard", shard, "before insert-collectives: the layouts decide where collectives are needed", _no_partial_sums
    ),
    Pass(
        "insert-collectives",
        insert_collectives,
        "before fusion, which must see the collectives",
        lambda op: not isinstance(op, Reshard),
    ),
    Pass("merge-sums", merge_sums, "after insert-collectives; before fusion, which merges the final additions"),
    Pass(
        "quantize",
        quantize,
        "after insert-collectives: all but dispatch to experts move activations in their own dtype",
    ),
    Pass("fuse", fuse, "after all passes that add ops, so that it sees everything that can be merged"),
    Pass("chunk", chunk, "on fused GEMMs, because these are the kernels that run"),
    Pass(
        "join-kernels", join_kernels, "after chunk, which parts a collective from what follows it; it reads the engine"
    ),
    Pass("overlap", overlap, "when all ops exist; before memory, which depends on their order"),
    Pass("cut-stages", cut_stages, "when regions are final, so that stages only refer to them"),
    Pass("place-memory", place_memory, "on final regions: liveness depends on fusion and order"),
    Pass("schedule", schedule, "last: it puts the final ops on streams"),
)
"""The passes in order, each with the reason for its place."""


def steps(plan: PlanSpec, phase: str, *, check: bool = True) -> Iterator[tuple[Pass, Program | Schedule]]:
    """Run the pipeline of passes on one phase of ``plan``; yields each pass with its result.

    With ``check``, raises `PassError` when a pass makes an unsound program.
    """
    program = empty_program(plan, phase)
    promises: list[Pass] = []
    for step in PIPELINE:
        result = step.run(program, plan)
        if isinstance(result, Schedule):
            yield step, result
            return
        if step.leaves is not None:
            promises.append(step)
        program = verify_result(step, program, result, promises) if check else result
        yield step, program


def compile_phase(plan: PlanSpec, phase: str, known: dict[Hashable, Program] | None = None) -> Schedule:
    """The schedule of one phase.

    Plans that differ only in numbers have the same `structure`. ``known`` keeps the program of each structure, so that
    it is compiled once.
    """
    if known is None:
        for _, result in steps(plan, phase):
            last = result
        assert isinstance(last, Schedule)
        return last
    key = phase, structure(plan)
    if key not in known:
        known[key] = program_after(plan, phase, SIZELESS)
    return _finish(evolve(known[key], mesh=mesh_of(plan)), plan)


SIZELESS = "fuse"
"""The last pass whose result does not depend on axis sizes. The passes after it are cheap."""

NUMBERS = (
    *("name", "node", "cluster", "sharding", "workload", "calibration", "requires", "kv_residency", "step_tokens"),
    *("memory_fraction", "algorithm", "engine", "measured", "micro_batches", "span"),
)
"""Fields of a plan of which the passes up to `SIZELESS` read nothing, or only what `structure` returns."""


def structure(plan: PlanSpec) -> Hashable:
    """A key of everything that determines a plan's program after `SIZELESS`: plans with equal keys share it."""
    sharding = plan.sharding
    # where a norm has groups of heads, the sizes say whether a rank has whole ones
    sized = bool(plan.model.norm_groups)
    axes = tuple((a.name, a.size if sized else a.size > 1) for a in sharding.axes)
    rules = tuple((r.dims, r.axes, r.region) for r in sharding.rules)
    peaks = tuple(dtype for dtype, _ in plan.common_gpu.compute)
    rest = tuple(getattr(plan, f.name) for f in fields(PlanSpec) if f.name not in NUMBERS)
    return axes, rules, sharding.replica_axes, sharding.context_form, peaks, rest


def _finish(program: Program, plan: PlanSpec) -> Schedule:
    """Run the passes after `SIZELESS` on ``program``."""
    after = [step.name for step in PIPELINE].index(SIZELESS) + 1
    for step in PIPELINE[after:]:
        result = step.run(program, plan)
        if isinstance(result, Schedule):
            return result
        program = result
    raise AssertionError("the last pass makes a schedule")


def program_after(plan: PlanSpec, phase: str, name: str) -> Program:
    """The program of one phase after pass ``name`` (KeyError where there is no such pass)."""
    for step, result in steps(plan, phase):
        if step.name == name:
            return result if isinstance(result, Program) else result.program
    raise KeyError(name)


__all__ = ["PIPELINE", "compile_phase", "program_after", "steps"]
