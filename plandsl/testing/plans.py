"""Strategies for whole plans, their programs, and their text."""

from __future__ import annotations

from attrs import evolve
from hypothesis import assume
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy, composite

from plandsl.ir.program import Program
from plandsl.passes import PIPELINE, program_after
from plandsl.passes.build import arithmetic
from plandsl.passes.drafts import check_drafts
from plandsl.show import show_plan
from plandsl.spec.hardware import CalibrationSpec, ClusterSpec, NodeSpec
from plandsl.spec.model import Apply, ModelSpec, walk
from plandsl.spec.plan import OF_OUTPUT, PlanSpec, RequireSpec, ShardingSpec, SpeculateSpec, WorkloadSpec
from plandsl.spec.scheduler import ROUTERS
from plandsl.testing.given import Given, given_machine, given_model, given_part
from plandsl.testing.hardware import calibrations, nodes
from plandsl.testing.models import models
from plandsl.testing.shardings import shardings, stages_of
from plandsl.testing.towers import with_images
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
def workloads(draw: DrawFn, encodes: bool = False) -> WorkloadSpec:
    """A static load, down to one request and one token. Some loads have a part of their input in the cache.

    Where a load ``encodes``, nothing comes out of it.
    """
    reuse = draw(st.sampled_from((0.0, 0.0, 0.1, 0.5, 0.99)))
    return WorkloadSpec(
        name="w",
        input=draw(st.integers(1, 12) | st.integers(1, 5000)),
        output=1 if encodes else draw(st.integers(1, 8) | st.integers(1, 600)),
        encodes=encodes,
        batch=draw(st.integers(1, 9) | st.integers(1, 500)),
        in_flight=draw(st.none() | st.integers(1, 6)),
        reuse=reuse,
        prefix=draw(st.sampled_from((None, "own", "shared"))) if reuse else None,
    )


@composite
def _requires(draw: DrawFn, load: WorkloadSpec) -> RequireSpec:
    known = [bound for bound in BOUNDS if not (load.encodes and bound[0] in OF_OUTPUT)]
    metric, dimension, share = draw(st.sampled_from(known))
    op = draw(st.sampled_from(("<=", "<", ">=", ">")))
    bound = draw(st.integers(1, 100)) / (100 if share else 1)
    return RequireSpec("", metric, op, bound, dimension=dimension, share=share)


@composite
def speculations(draw: DrawFn, model: ModelSpec, node: NodeSpec, around: ShardingSpec) -> SpeculateSpec:
    """Tokens guessed ahead for a causal ``model``, by nobody or by another model with its vocabulary."""
    assume(_is_causal(model))
    rates = tuple(draw(st.lists(st.integers(0, 100).map(lambda n: n / 100), min_size=1, max_size=3)))
    if draw(st.booleans()):
        return SpeculateSpec(rates)
    small = _with_peaks(draw(models(causal=True)), node)
    sizes = tuple((n, model.size("vocab") if n == "vocab" else size) for n, size in small.sizes)
    draft = evolve(small, name="draft", sizes=sizes)
    stage = evolve(node, count=around.ranks // around.replicas // stages_of(around), gpus=())
    how = evolve(draw(shardings(draft, stage, whole=True)), name="guess")
    found = SpeculateSpec(rates, draft, how)
    load, bare = WorkloadSpec("w", 8, 4, 2), CalibrationSpec("c", ())
    plan = PlanSpec("p", model, node, around, workload=load, calibration=bare, speculate=found)
    assume(not any(d.severity == "error" for d in check_drafts(plan, found)))
    return found


def _is_causal(model: ModelSpec) -> bool:
    terms = (part for block in model.blocks for s in block.statements for part in walk(s.term))
    return model.causal and all(not isinstance(t, Apply) or t.option("causal", True) for t in terms)


def _with_peaks(model: ModelSpec, node: NodeSpec) -> ModelSpec:
    """``model``, in bf16 where some GPU of ``node`` cannot multiply in the formats of the model."""
    gpus = [gpu for _, gpu in node.groups]
    if all(gpu.peak(dtype) is not None for gpu in gpus for dtype in (arithmetic(model, gpu), model.activations)):
        return model
    return evolve(model, compute=None, weights="bf16", activations="bf16", stored=())


@composite
def plans(
    draw: DrawFn,
    model: Given[ModelSpec] | None = None,
    node: Given[NodeSpec] | Given[ClusterSpec] | None = None,
    workload: Given[WorkloadSpec] | None = None,
    sharding: Given[ShardingSpec] | None = None,
    speculate: bool = False,
) -> PlanSpec:
    """A plan that compiles. Parts that are not given are drawn; it guesses tokens ahead only with ``speculate``.

    Each part is a strategy, or the part itself; ``model`` and ``node`` may also be names in the catalog,
    ``FILE.plan:NAME``, or a compiled plan that has the part. A ``node`` may be a cluster.
    """
    machine = draw(nodes() if node is None else given_machine(node))
    cluster = machine if isinstance(machine, ClusterSpec) else None
    where = machine if isinstance(machine, NodeSpec) else machine.node
    drawn = models(causal=speculate) if model is None else given_model(model)
    what = _with_peaks(draw(drawn), where)
    own = [(gpu.name, draw(calibrations())) for _, gpu in where.groups]
    how = draw(shardings(what, machine) if sharding is None else given_part(sharding))
    encodes = not speculate and draw(st.integers(0, 7)) == 0
    load = draw(workloads(encodes) if workload is None else given_part(workload))
    plan = PlanSpec(
        name="p",
        model=what,
        node=where,
        cluster=cluster,
        sharding=how,
        speculate=draw(speculations(what, where, how)) if speculate else None,
        workload=load,
        calibration=own[0][1],
        calibrations=tuple(own) if len(own) > 1 and draw(st.booleans()) else (),
        requires=tuple(draw(st.lists(_requires(load), max_size=2))),
        kv_residency=draw(st.sampled_from(("all_batches", "one_batch"))),
        step_tokens=draw(st.sampled_from((0, 64, 8192))),
        memory_fraction=draw(st.sampled_from((1.0, 0.9))),
        hop_tensors=draw(st.sampled_from((1, 2))),
        fuse_norms=draw(st.booleans()),
        overlap=draw(st.sampled_from(("none", "collectives"))),
        chunks=draw(st.sampled_from((1, 1, 2, 3))),
        micro_batches=draw(st.sampled_from((1, 1, 1, 2, 3, 5)).filter(lambda parts: parts <= load.batch)),
        chunked_prefill=draw(st.none() | st.none() | st.integers(load.batch + 1, load.batch + 600)),
        router=draw(st.sampled_from(ROUTERS)),
        algorithm=draw(st.sampled_from(("auto", "auto", "ring", "direct", "one_shot", "tree"))),
    )
    if plan.has_cached_prompts and not _is_causal(what):  # such prompts cannot be computed in parts
        plan = evolve(plan, workload=evolve(load, reuse=0.0, prefix=None), chunked_prefill=None)
    sees = model is None and workload is None and not encodes and what.tower is None
    return draw(with_images(plan)) if sees and draw(st.integers(0, 5)) == 0 else plan


@composite
def programs(draw: DrawFn) -> Program:
    """The program of one phase of a plan, after any pass."""
    step = draw(st.sampled_from(PIPELINE)).name
    return program_after(draw(plans()), draw(st.sampled_from(("prefill", "decode"))), step)


def plan_texts() -> SearchStrategy[str]:
    """Legal `.plan` files, each with one plan and all declarations that it uses."""
    return plans().map(show_plan)
