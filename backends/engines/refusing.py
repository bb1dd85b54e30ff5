"""What an engine cannot do, told at the plan's own words."""

from __future__ import annotations

from collections.abc import Collection

from plandsl.diagnostics import Diagnostic, PlanError
from plandsl.spec.plan import PlanSpec


def refuse(plan: PlanSpec, words: Collection[str], why: str, hint: str) -> PlanError:
    """An error (E503) at the rule or the degree of the plan's sharding that names one of ``words``, or at the plan."""
    for rule in plan.sharding.rules:
        if rule.sugar in words or set(rule.dims) & set(words):
            return PlanError([Diagnostic("E503", why, rule.span, hint=hint)])
    axes = (axis.span for axis in plan.sharding.axes if axis.sugar in words)
    return PlanError([Diagnostic("E503", why, next(axes, plan.span), hint=hint)])
