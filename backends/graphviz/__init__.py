"""Draws a compiled plan: DOT text for five views, and picture files."""

from __future__ import annotations

from plandsl.answers.estimate import Estimate
from plandsl.backends.cost.deployments.deployment import Deployment
from plandsl.backends.graphviz.block import block
from plandsl.backends.graphviz.communication import communication
from plandsl.backends.graphviz.devices import devices
from plandsl.backends.graphviz.facts import Facts
from plandsl.backends.graphviz.memory import memory
from plandsl.backends.graphviz.timeline import timeline
from plandsl.backends.graphviz.write import write
from plandsl.diagnostics import Diagnostic, PlanError, suggest
from plandsl.ir.program import PHASES

VIEWS = {
    "devices": devices,
    "communication": communication,
    "block": block,
    "timeline": timeline,
    "memory": memory,
}
"""The views of a plan, by the name that `planc render --view` takes."""

WHOLE = ("devices", "communication")
"""The views that show both pools of a plan."""


def draw(view: str, model: Deployment, estimate: Estimate, phase: str = "prefill") -> str:
    """One picture of one plan as DOT text. Raises PlanError (E432) for an unknown view or phase."""
    if view not in VIEWS:
        raise PlanError([Diagnostic("E432", f"no view is called `{view[:40]}`", hint=suggest(view, VIEWS))])
    if phase not in PHASES:
        raise PlanError([Diagnostic("E432", f"no phase is called `{phase[:40]}`", hint=suggest(phase, PHASES))])
    return VIEWS[view](Facts(model, estimate, phase))


__all__ = ["PHASES", "VIEWS", "draw", "write"]
