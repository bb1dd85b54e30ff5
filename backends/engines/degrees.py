"""Reads the degrees of engines from the rules of a sharding, or says at which rule no engine shards so."""

from __future__ import annotations

from plandsl.backends.engines.server import Degrees
from plandsl.diagnostics import Diagnostic, PlanError
from plandsl.spec.model import ModelSpec
from plandsl.spec.plan import AxisSpec, PlanSpec, ShardingSpec

WIDTHS = ("ffn", "expert_ffn")
REGIONS = ("", "attention", "experts")
"""Regions whose rules engines follow; they have none for single blocks, or for the embedding alone."""


def read_degrees(plan: PlanSpec) -> Degrees:
    """The degrees of a plan of one sharding. Raises `PlanError` (E502) at an axis that no engine has."""
    sharding, model = plan.sharding, plan.model
    found = Degrees()
    experts = expert_tensor = 1
    for axis in sharding.axes:
        dims = _dims_of(sharding, axis)
        found = _grow(found, sharding, model, axis, dims)
        if "experts" in dims:
            experts *= axis.size
        elif "expert_ffn" in dims:
            expert_tensor *= axis.size
    layers = sharding.cut.layers if sharding.cut is not None else ()
    if not model.routed:
        experts = expert_tensor = 1
    return found._replace(experts=experts, expert_tensor=expert_tensor, layers=layers)


def _dims_of(sharding: ShardingSpec, axis: AxisSpec) -> frozenset[str]:
    """The dimensions that an axis splits. Raises `PlanError` (E502) for a rule of a region that engines do not have."""
    out: set[str] = set()
    for rule in sharding.rules:
        if axis.name not in rule.axes:
            continue
        if rule.region not in REGIONS:
            why = f"a rule for `{rule.region}` alone has no argument in any engine"
            raise PlanError([Diagnostic("E502", why, rule.span, hint="write the rule for the whole model")])
        out.update(rule.dims)
    return frozenset(out)


def _grow(d: Degrees, sharding: ShardingSpec, model: ModelSpec, axis: AxisSpec, dims: frozenset[str]) -> Degrees:
    """``d`` with an axis more, as the degree that the dimensions on it make it."""
    if axis.name in sharding.replica_axes:
        return d._replace(replicas=d.replicas * axis.size)
    if axis.size == 1:
        return d
    if dims == {"layers"}:
        return d._replace(pipeline=d.pipeline * axis.size)
    if "tokens" in dims and dims & {"heads", "kv_heads"} and not dims & {"context", "batch", *WIDTHS}:
        return d._replace(sequence=d.sequence * axis.size)
    if {"tokens", "context"} <= dims and not dims & {"heads", "batch", *WIDTHS}:
        return d._replace(context=d.context * axis.size)
    if "batch" in dims and model.routed and not dims & {"heads", "tokens", "context"}:
        return d._replace(attention=d.attention * axis.size)
    if "heads" in dims and not dims & {"tokens", "batch", "context", "layers"}:
        _check_widths(model, axis, dims)
        return d._replace(tensor=d.tensor * axis.size)
    raise _refuse(axis, "splits " + (", ".join(f"`{d}`" for d in sorted(dims)) or "nothing"))


def _check_widths(model: ModelSpec, axis: AxisSpec, dims: frozenset[str]) -> None:
    """Raise `PlanError` (E502) where an axis of heads leaves a width whole that engines split with them."""
    sizes = dict(model.sizes)
    if missing := [d for d in ("kv_heads", "ffn") if d in sizes and d not in dims]:
        raise _refuse(axis, f"splits `heads` but not `{missing[0]}`")
    if model.routed and not dims & {"experts", "expert_ffn"}:
        raise _refuse(axis, "splits `heads` but neither `experts` nor `expert_ffn`")


def _refuse(axis: AxisSpec, what: str) -> PlanError:
    why = f"the axis `{axis.name}` {what}: no engine has an argument for that"
    hint = "engines have tp, pp, dp, sp, cp and ep; `planc export --to jax` takes any sharding"
    return PlanError([Diagnostic("E502", why, axis.span, hint=hint)])


def check_vocab(plan: PlanSpec) -> list[Diagnostic]:
    """A remark (W500) where the plan leaves the vocabulary whole, which engines split with the heads."""
    sharding = plan.sharding
    for axis in sharding.axes:
        dims = _dims_of(sharding, axis)
        if axis.size > 1 and "heads" in dims and not dims & {"tokens", "vocab"}:
            why = f"engines split the vocabulary over `{axis.name}` too, and the plan does not"
            return [Diagnostic("W500", why, axis.span, hint="add `vocab` to the rule")]
    return []
