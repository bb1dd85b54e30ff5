"""Whole plans to draw, their programs, and their text."""

from __future__ import annotations

from attrs import evolve
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy, composite

from plandsl.ir.program import Program
from plandsl.passes import PIPELINE, program_after
from plandsl.passes.build import arithmetic
from plandsl.show import show_plan
from plandsl.spec import ModelSpec, NodeSpec, PlanSpec, RequireSpec, ShardingSpec, WorkloadSpec
from plandsl.testing.hardware import calibrations, nodes
from plandsl.testing.models import models
from plandsl.testing.shardings import shardings
from plandsl.units import BYTES, NUMBER, TIME, TOKEN_RATE, Dimension

BOUNDS: tuple[tuple[str, Dimension, bool], ...] = (
    ("ttft", TIME, False),
    ("tpot", TIME, False),
    ("latency", TIME, False),
    ("throughput", TOKEN_RATE, False),
    ("memory", BYTES, False),
    ("memory", NUMBER, True),
    ("mfu", NUMBER, True),
    ("max_batch", NUMBER, False),
)


@composite
def workloads(draw: DrawFn) -> WorkloadSpec:
    """A static load, down to a single request and a single token."""
    return WorkloadSpec(
        name="w",
        input=draw(st.integers(1, 12) | st.integers(1, 5000)),
        output=draw(st.integers(1, 8) | st.integers(1, 600)),
        batch=draw(st.integers(1, 9) | st.integers(1, 500)),
        in_flight=draw(st.none() | st.integers(1, 6)),
    )


@composite
def _requires(draw: DrawFn) -> RequireSpec:
    metric, dimension, share = draw(st.sampled_from(BOUNDS))
    op = draw(st.sampled_from(("<=", "<", ">=", ">")))
    bound = draw(st.integers(1, 100)) / (100 if share else 1)
    return RequireSpec("", metric, op, bound, dimension, share)


@composite
def plans(
    draw: DrawFn,
    model: SearchStrategy[ModelSpec] | None = None,
    node: SearchStrategy[NodeSpec] | None = None,
    workload: SearchStrategy[WorkloadSpec] | None = None,
    sharding: SearchStrategy[ShardingSpec] | None = None,
) -> PlanSpec:
    """A plan that compiles. What is not given is drawn."""
    where = draw(nodes() if node is None else node)
    what = draw(models() if model is None else model)
    gpus = [gpu for _, gpu in where.groups]
    if any(gpu.peak(dtype) is None for gpu in gpus for dtype in (arithmetic(what, gpu), what.activations)):
        what = evolve(what, compute=None, weights="bf16", activations="bf16")
    own = [(gpu.name, draw(calibrations())) for gpu in gpus]
    return PlanSpec(
        name="p",
        model=what,
        node=where,
        sharding=draw(shardings(what, where) if sharding is None else sharding),
        workload=draw(workloads() if workload is None else workload),
        calibration=own[0][1],
        calibrations=tuple(own) if len(own) > 1 and draw(st.booleans()) else (),
        requires=tuple(draw(st.lists(_requires(), max_size=2))),
        kv_residency=draw(st.sampled_from(("all_batches", "one_batch"))),
        step_tokens=draw(st.sampled_from((0, 64, 8192))),
        memory_fraction=draw(st.sampled_from((1.0, 0.9))),
        hop_tensors=draw(st.sampled_from((1, 2))),
        fuse_norms=draw(st.booleans()),
        overlap=draw(st.sampled_from(("none", "collectives"))),
        chunks=draw(st.sampled_from((1, 1, 2, 3))),
        algorithm=draw(st.sampled_from(("auto", "auto", "ring", "direct", "one_shot", "tree"))),
    )


@composite
def programs(draw: DrawFn) -> Program:
    """The program of either phase of a plan, after any of the passes that make one."""
    step = draw(st.sampled_from(PIPELINE)).name
    return program_after(draw(plans()), draw(st.sampled_from(("prefill", "decode"))), step)


def plan_texts() -> SearchStrategy[str]:
    """Sound `.plan` files, each with one plan and all that it rests on."""
    return plans().map(show_plan)
