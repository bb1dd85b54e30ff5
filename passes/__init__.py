"""The passes: they turn a plan into a program and the program into a schedule, one idea per pass."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from functools import lru_cache

from attrs import evolve, field, fields, frozen

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
from plandsl.values import kept


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


def steps(
    plan: PlanSpec, phase: str, *, check: bool = True, after: Program | None = None
) -> Iterator[tuple[Pass, Program | Schedule]]:
    """Run the pipeline of passes on one phase of ``plan``; yields each pass with its result.

    It starts behind `SIZELESS` where the program ``after`` that pass is given. With ``check``, raises `PassError` when
    a pass makes an unsound program.
    """
    program, done = (empty_program(plan, phase), 0) if after is None else (after, SIZED)
    promises = [step for step in PIPELINE[:done] if step.leaves is not None]
    for step in PIPELINE[done:]:
        result = step.run(program, plan)
        if isinstance(result, Schedule):
            yield step, result
            return
        if step.leaves is not None:
            promises.append(step)
        program = verify_result(step, program, result, promises) if check else result
        yield step, program


SIZELESS = "fuse"
"""The last pass whose result does not depend on axis sizes. The passes after it are cheap."""

SIZED = 1 + [step.name for step in PIPELINE].index(SIZELESS)
"""How many passes there are up to `SIZELESS`."""

KEPT = 128
"""Programs that are kept. Those of a plan take some 100 KB."""


def compile_phase(plan: PlanSpec, phase: str) -> Schedule:
    """The schedule of one phase. Plans that differ only in numbers share a program up to `SIZELESS`."""
    return _schedule(plan.unloaded, phase)


@kept(KEPT)
def _schedule(plan: PlanSpec, phase: str) -> Schedule:
    return finish(_program(_Form(phase, structure(plan), plan)), plan)


@frozen
class _Form:
    """What determines a program up to `SIZELESS`. ``plan`` is one of the plans of this ``structure``."""

    phase: str
    structure: Hashable
    plan: PlanSpec = field(eq=False)


@lru_cache(KEPT)
def _program(form: _Form) -> Program:
    return program_after(form.plan, form.phase, SIZELESS)


def finish(program: Program, plan: PlanSpec) -> Schedule:
    """The schedule of ``plan`` from the program after `SIZELESS` of a plan with the same `structure`."""
    for _, result in steps(plan, program.phase, after=evolve(program, mesh=mesh_of(plan))):
        last = result
    assert isinstance(last, Schedule), "the last pass makes a schedule"
    return last


NUMBERS = (
    *("name", "node", "cluster", "sharding", "workload", "calibration", "requires", "kv_residency", "step_tokens"),
    *("memory_fraction", "algorithm", "engine", "measured", "micro_batches", "span", "calibrations", "router"),
    *("pricing", "chunked_prefill"),
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
    keeps = plan.has_cached_prompts, plan.workload.encodes
    rest = tuple(getattr(plan, f.name) for f in fields(PlanSpec) if f.name not in NUMBERS)
    return axes, rules, sharding.replica_axes, sharding.context_form, peaks, keeps, rest


def program_after(plan: PlanSpec, phase: str, name: str) -> Program:
    """The program of one phase after pass ``name`` (KeyError where there is no such pass)."""
    for step, result in steps(plan, phase):
        if step.name == name:
            return result if isinstance(result, Program) else result.program
    raise KeyError(name)


__all__ = ["PIPELINE", "compile_phase", "finish", "program_after", "steps", "structure"]
