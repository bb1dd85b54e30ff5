"""Laws that compare a plan with another one of which something is known: more requests, fewer replicas, other names."""

from __future__ import annotations

from collections.abc import Mapping
from math import isclose

import numpy as np
from attrs import evolve, frozen

from plandsl.backends.cost import Metrics
from plandsl.backends.reference.shrink import shrink
from plandsl.backends.reference.verify import verify_programs
from plandsl.driver import CompiledPlan, plain_programs, programs
from plandsl.ir.program import Program
from plandsl.ir.types import Mesh
from plandsl.spec.model import ADAPTERS, LORA_RANK
from plandsl.spec.plan import AxisSpec, PlanSpec, ShardingSpec
from plandsl.testing.compare import compiled
from plandsl.testing.inapplicable import DoesNotApply
from plandsl.values import sum_up

NUMBERS = Metrics._fields[:9]
"""The metrics that are numbers of their own."""

LOST = 0.1
"""The share of throughput that one more request, or twice the requests, may cost.

Kernels are fitted, and fitted forms have tiles, splits and thresholds: of 800 drawn plans, two lost more than 0.05,
which have a row of tiles more, or a wave.
"""

LOST_IN_STEPS = 0.15
"""The same in steps with a budget, of which requests that decode take a part."""

LOADS = (1, 2, 3, 4, 7, 8, 12, 16, 31, 32, 48, 64, 100, 128, 200, 256)


# ---- more requests


def more_requests_hardly_lower_throughput(plan: CompiledPlan) -> None:
    """One request more for each rank with requests of its own, or twice as many, cost at most a tenth of throughput.

    15 % where prompts are computed in chunks; there a step has a token for each of the requests. Prompts that start
    together may need one step of ``chunked_prefill`` more; they are only doubled. Engines have no fusions here, which
    end at a size that they document: beyond it a step has all launches of its own. A batch is not cut into
    micro-batches, nor its rows into `chunks`: one request more may make each of them larger.
    """
    budget = min((pool.chunked_prefill for pool in plan.spec.pools if pool.chunked_prefill is not None), default=None)
    chunked = budget is not None
    each = np.array([load for load in LOADS if budget is None or 2 * load <= budget])
    loads = each * int(plan.cost.pools[0].main.ways)
    if not len(loads):
        raise DoesNotApply(f"a step has a budget of {budget} tokens, which a single request fills")
    kind = "batch" if plan.spec.workload.concurrency is None else "concurrency"
    asked = np.unique([*loads, *(loads + loads[0]), *(2 * loads)]).astype(float)
    metrics = plan.cost.evaluate(**{kind: asked})
    found, fits = (np.broadcast_to(x, asked.shape) for x in (metrics.throughput, metrics.fits))
    steps = kind == "batch" and chunked
    for what, more in (("one more", loads if steps else loads + loads[0]), ("twice as many", 2 * loads)):
        before, after = (np.searchsorted(asked, at) for at in (loads, more))
        kept = np.where(fits[before] & fits[after], found[after] / found[before], 1.0)
        assert kept.min() >= 1 - (LOST_IN_STEPS if chunked else LOST), (
            f"{what} than {loads[kept.argmin()]}: {kept.min():.3f} of the throughput"
        )


# ---- adapters


def adapters_are_never_free(plan: CompiledPlan) -> None:
    """Without its adapters a model is never slower and never holds more; twice the adapters or rank save nothing.

    Of the adapters of a batch, too, there are twice as many. Without an engine's fusions, which the sums of adapters
    may keep apart, and without `chunks`: a product is cut where a collective follows it, and here a sum does.
    """
    model = plan.spec.model
    if model.lora is None:
        raise DoesNotApply("the model has no adapters")
    sizes = dict(model.sizes)
    bare = tuple((name, size) for name, size in model.sizes if name not in (ADAPTERS, LORA_RANK))
    wider = sizes | {LORA_RANK: 2 * sizes[LORA_RANK]}
    more = sizes | {ADAPTERS: 2 * sizes[ADAPTERS]}
    others = {
        "without adapters": evolve(model, sizes=bare, lora=None),
        "with twice the rank": evolve(model, sizes=tuple(wider.items())),
        "with twice the adapters": evolve(
            model, sizes=tuple(more.items()), lora=model.lora._replace(active=2 * model.lora.active)
        ),
    }
    load = evolve(plan.spec.workload, traffic=None, concurrency=None, requests=None)
    own = _taken(evolve(plan.spec, workload=load))
    for what, other in others.items():
        found = _taken(evolve(plan.spec, workload=load, model=other))
        for name, ours, theirs in zip(("TTFT", "TPOT", "weights"), own, found, strict=True):
            low, high = (theirs, ours) if other.lora is None else (ours, theirs)
            assert low <= high * (1 + 1e-9), f"{name} is {ours:g}, {what} {theirs:g}"


def _taken(spec: PlanSpec) -> tuple[float, float, float]:
    """Seconds of TTFT and TPOT, and bytes of weights of all stages."""
    cost = compiled(spec).cost
    metrics = cost.own
    return float(metrics.ttft), float(metrics.tpot), float(sum_up(cost.pools[0].memory.weights))


# ---- replicas


def replicas_change_nothing(plan: CompiledPlan) -> None:
    """Of two or more replicas, each takes as long and holds as much as a single one; together they serve n times more.

    A plan of one replica is compared with two, where its machine has idle GPUs.
    """
    spec = _doubled(plan.spec)
    plan = plan if spec is plan.spec else CompiledPlan(spec, ())
    replicas = spec.sharding.replicas
    if spec.node.gpus or (spec.cluster is not None and spec.cluster.nodes):
        raise DoesNotApply("replicas on unlike GPUs differ")
    if replicas == 1:
        raise DoesNotApply("it has one replica, and its machine has no room for two")
    alone = spec.sharding.ranks // replicas
    if spec.cluster is not None and spec.node.count % alone and alone % spec.node.count:
        raise DoesNotApply("its replicas lie on nodes in different ways")
    load = spec.workload
    if load.concurrency is not None:
        if load.concurrency % replicas or (load.requests or 0) % replicas:
            raise DoesNotApply("its replicas have different numbers of requests")
        each = None if load.requests is None else load.requests // replicas
        load = evolve(load, concurrency=load.concurrency // replicas, requests=each)
    one = CompiledPlan(evolve(spec, sharding=_single(spec.sharding), workload=load, requires=()), ())
    before, after = plan.cost.evaluate(), one.cost.evaluate()
    for name in NUMBERS:
        many = replicas if name in ("throughput", "kv_capacity") else 1
        was, now = float(getattr(before, name)), float(getattr(after, name)) * many
        assert isclose(was, now, rel_tol=1e-9), f"{name} is {was} with {replicas} replicas, {now} by {many} times one"


def _doubled(spec: PlanSpec) -> PlanSpec:
    """The plan with a second replica, where it has one and its node has room for two."""
    sharding, load = spec.sharding, spec.workload
    if sharding.replicas > 1 or spec.cluster is not None or 2 * sharding.ranks > spec.gpus:
        return spec
    sharding = evolve(
        sharding,
        axes=(AxisSpec("replica", 2), *(a for a in sharding.axes if a.name not in sharding.replica_axes)),
        replica_axes=("replica",),
    )
    twice = {name: 2 * value for name in ("concurrency", "requests") if (value := getattr(load, name)) is not None}
    return evolve(spec, sharding=sharding, workload=evolve(load, **twice), requires=())


def _single(sharding: ShardingSpec) -> ShardingSpec:
    axes = tuple(a._replace(size=1) if a.name in sharding.replica_axes else a for a in sharding.axes)
    return evolve(sharding, axes=axes)


# ---- names and places


@frozen
class Permuted(Mesh):
    """A mesh in which the ranks of every axis stand in the reverse order."""

    def coordinates(self, rank: int) -> dict[str, int]:
        """The position of ``rank``, counted from the end of each axis."""
        return {name: self.size(name) - 1 - at for name, at in super().coordinates(rank).items()}

    def rank(self, coordinates: Mapping[str, int]) -> int:
        """The rank at ``coordinates``."""
        return super().rank({name: size - 1 - coordinates.get(name, 0) for name, size in self.axes})


def permuted_ranks_change_nothing(plan: CompiledPlan) -> None:
    """Run with the ranks of every axis in reverse order, the program computes what the unsharded one does."""
    small = shrink(plan.spec)
    plain = plain_programs(evolve(small, speculate=None))
    load = {"batch": small.workload.batch, "input": small.workload.input, "queries": small.queries}
    for mode in small.modes:
        prefill, decode = map(_permuted, programs(mode))
        verdict = verify_programs((prefill, decode), plain, {**load, "queries": mode.queries}, 1)
        assert verdict.ok, verdict.message


def _permuted(program: Program) -> Program:
    return evolve(program, mesh=Permuted(program.mesh.axes))


def names_of_axes_change_nothing(plan: CompiledPlan) -> None:
    """With other names for the axes of its mesh, a plan has the same times, throughput and memory."""
    before = plan.cost.evaluate()
    after = compiled(_renamed(plan.spec)).cost.evaluate()
    for name in NUMBERS:
        was, now = float(getattr(before, name)), float(getattr(after, name))
        assert isclose(was, now, rel_tol=1e-12), f"{name} is {was}, and {now} with other names"


def _renamed(spec: PlanSpec) -> PlanSpec:
    if spec.split is not None:
        first, then = map(_renamed, spec.pools)
        return evolve(then, shift=None, split=evolve(spec.split, prefill=first, decode=then))
    spec = evolve(spec, sharding=_rename(spec.sharding))
    if spec.shift is not None:
        spec = evolve(spec, shift=evolve(spec.shift, tensor=_rename(spec.shift.tensor)))
    if spec.speculate is not None and spec.speculate.sharding is not None:
        spec = evolve(spec, speculate=evolve(spec.speculate, sharding=_rename(spec.speculate.sharding)))
    return spec


def _rename(sharding: ShardingSpec) -> ShardingSpec:
    def other(name: str) -> str:
        return f"{name}_by_another_name"

    return evolve(
        sharding,
        axes=tuple(a._replace(name=other(a.name), sugar="") for a in sharding.axes),
        rules=tuple(r._replace(axes=tuple(map(other, r.axes)), sugar="") for r in sharding.rules),
        replica_axes=tuple(map(other, sharding.replica_axes)),
        placed=tuple(p._replace(axis=other(p.axis)) for p in sharding.placed),
    )
