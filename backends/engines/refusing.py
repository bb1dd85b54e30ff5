"""What an engine cannot do, told at the plan's own words."""

from __future__ import annotations

from collections.abc import Collection

from plandsl.diagnostics import Diagnostic, PlanError
from plandsl.spec.plan import PlanSpec


def refuse(plan: PlanSpec, dims: Collection[str], why: str, hint: str) -> PlanError:
    """An error (E503) at the first rule of the plan's sharding that splits one of ``dims``, or at the plan."""
    rules = (rule.span for rule in plan.sharding.rules if set(rule.dims) & set(dims))
    return PlanError([Diagnostic("E503", why, next(rules, plan.span), hint=hint)])
