"""Compile plans, and compare them by their meaning."""

from __future__ import annotations

from attrs import evolve

from plandsl.diagnostics import PlanError
from plandsl.driver import CompiledPlan, check_spec
from plandsl.spec.hardware import CalibrationSpec, ClusterSpec, EngineSpec, GpuSpec, NodeSpec
from plandsl.spec.model import Apply, BlockSpec, ModelSpec, Statement, Term
from plandsl.spec.plan import PlanSpec, RequireSpec, ShardingSpec, SpeculateSpec, WorkloadSpec

SLACK = 1 + 1e-9
"""Rounding that a comparison of numbers forgives."""


def compiled(plan: PlanSpec) -> CompiledPlan:
    """Compile ``plan``, as `compile_text` does. Raises `PlanError` where the plan is illegal."""
    found = check_spec(plan)
    if any(d.severity == "error" for d in found):
        raise PlanError([d for d in found if d.severity != "note"])
    made = CompiledPlan(plan, found)
    if wrong := [d for d in made.findings if d.severity == "error"]:
        raise PlanError(wrong)
    return made


def same(a: PlanSpec, b: PlanSpec) -> bool:
    """Whether two plans mean the same."""
    return bare(a) == bare(b)


def bare(plan: PlanSpec) -> PlanSpec:
    """``plan`` without spans, names, sources and the wording of its figures, so that equal plans mean the same."""
    split = plan.split
    return evolve(
        plan,
        split=None if split is None else evolve(split, prefill=bare(split.prefill), decode=bare(split.decode)),
        name="",
        model=_model(plan.model),
        node=_node(plan.node),
        cluster=_cluster(plan.cluster),
        sharding=_sharding(plan.sharding),
        shift=None if plan.shift is None else evolve(plan.shift, tensor=_sharding(plan.shift.tensor)),
        speculate=None if plan.speculate is None else _speculate(plan.speculate),
        tower=None if plan.tower is None else _sharding(plan.tower),
        workload=_workload(plan.workload),
        engine=None if plan.engine is None else _engine(plan.engine),
        calibration=_calibration(plan.calibration),
        calibrations=tuple((gpu, _calibration(calibration)) for gpu, calibration in plan.calibrations),
        requires=_requires(plan.requires),
    )


def _requires(requires: tuple[RequireSpec, ...]) -> tuple[RequireSpec, ...]:
    return tuple(r._replace(text="", span=None) for r in requires)


def _workload(load: WorkloadSpec) -> WorkloadSpec:
    traffic = load.traffic
    if traffic is not None:
        traffic = evolve(traffic, classes=tuple(evolve(c, requires=_requires(c.requires)) for c in traffic.classes))
    return evolve(load, name="", traffic=traffic)


def _model(model: ModelSpec) -> ModelSpec:
    return evolve(
        model,
        name="",
        source="",
        embedding=model.embedding._replace(span=None),
        entry=None if model.entry is None else _term(model.entry),
        prelude=tuple(_statement(s) for s in model.prelude),
        blocks=tuple(map(_block, model.blocks)),
        mtp=None if model.mtp is None else _block(model.mtp),
        head=_term(model.head),
        tower=None if model.tower is None else _model(model.tower),
    )


def _block(block: BlockSpec) -> BlockSpec:
    return block._replace(span=None, statements=tuple(_statement(s) for s in block.statements))


def _speculate(speculate: SpeculateSpec) -> SpeculateSpec:
    draft, sharding = speculate.draft, speculate.sharding
    bared = None if draft is None else _model(draft), None if sharding is None else _sharding(sharding)
    return evolve(speculate, draft=bared[0], sharding=bared[1])


def _sharding(sharding: ShardingSpec) -> ShardingSpec:
    axes = tuple(a._replace(span=None) for a in sharding.axes)
    rules = tuple(r._replace(span=None) for r in sharding.rules)
    placed = tuple(p._replace(span=None) for p in sharding.placed)
    cut = sharding.cut
    if cut is not None:  # the layers of a balanced cut are not written in its text
        cut = cut._replace(span=None, layers=() if cut.balanced else cut.layers)
    return evolve(sharding, name="", axes=axes, rules=rules, placed=placed, cut=cut)


def _calibration(calibration: CalibrationSpec) -> CalibrationSpec:
    values, assumed = tuple(sorted(calibration.values)), _paths(calibration.assumed)
    return evolve(calibration, name="", source="", values=values, assumed=assumed)


def _engine(engine: EngineSpec) -> EngineSpec:
    return evolve(engine, name="", source="", assumed=_paths(engine.assumed))


def _node(node: NodeSpec) -> NodeSpec:
    gpus = tuple((count, _gpu(gpu)) for count, gpu in node.gpus)
    return evolve(node, name="", source="", assumed=_paths(node.assumed), gpu=_gpu(node.gpu), gpus=gpus)


def _gpu(gpu: GpuSpec) -> GpuSpec:
    compute, assumed = tuple(sorted(gpu.compute)), _paths(gpu.assumed)
    return evolve(gpu, name="", source="", calibration=None, compute=compute, assumed=assumed)


def _cluster(cluster: ClusterSpec | None) -> ClusterSpec | None:
    if cluster is None:
        return None
    nodes = tuple((count, _node(node)) for count, node in cluster.nodes)
    assumed, node = _paths(cluster.assumed), _node(cluster.node)
    return evolve(cluster, name="", source="", assumed=assumed, node=node, nodes=nodes)


NAMED = ("otherwise", "calibration")
"""Fields that name a calibration, whose constants are written out in full."""


def _paths(assumed: tuple[tuple[str, str], ...]) -> tuple[tuple[str, str], ...]:
    return tuple(sorted((path, "") for path, _ in assumed if path not in NAMED))


def _statement(statement: Statement) -> Statement:
    return statement._replace(term=_term(statement.term), span=None)


def _term(term: Term) -> Term:
    if isinstance(term, Apply):
        body = tuple(_statement(s) for s in term.body)
        return term._replace(args=tuple(_term(a) for a in term.args), span=None, body=body)
    return term._replace(span=None)
