"""What must hold of a plan that guesses tokens ahead, and what it takes for granted."""

from __future__ import annotations

from collections.abc import Iterator

from plandsl.diagnostics import Diagnostic, Label
from plandsl.spec.model import Apply, walk
from plandsl.spec.plan import PlanSpec, SpeculateSpec


def drafts(plan: PlanSpec, speculate: SpeculateSpec) -> Iterator[Diagnostic]:
    """A note on the guesses; errors where a step cannot verify them, or the draft cannot run beside the model."""
    yield Diagnostic("N322", _taken(speculate), speculate.span)
    terms = [part for block in plan.model.blocks for s in block.statements for part in walk(s.term)]
    ahead = next((t for t in terms if isinstance(t, Apply) and t.option("causal", True) is False), None)
    if ahead is not None or not plan.model.causal:
        labels = (Label(ahead.span, "this attention sees all"),) if ahead and ahead.span else ()
        why = f"a token of `{plan.model.name}` sees those after it, so guesses would change what checks them"
        hint = "speculation is for causal models: leave `speculate` out"
        yield Diagnostic("E225", why, speculate.span, hint=hint, labels=labels)
    draft = plan.drafting
    if draft is not None:
        yield from _beside(plan, draft)
        from plandsl.passes.legality import check

        yield from (d for d in check(draft) if d.severity == "error")


def _taken(speculate: SpeculateSpec) -> str:
    rates = [f"{100 * a:g} %" for a in dict.fromkeys(speculate.acceptance)]
    free = "" if speculate.draft else ", and to cost nothing (assumed)"
    return f"a guess is taken to be right {', '.join(rates)} of the time if all before it are{free}"


def _beside(plan: PlanSpec, draft: PlanSpec) -> Iterator[Diagnostic]:
    """A draft runs whole on some of the GPUs that a stage of a replica has, and as often as those hold it."""
    ours, theirs = plan.sharding, draft.sharding
    staged = next((r for r in theirs.rules if "layers" in r.dims and any(theirs.axis(a) > 1 for a in r.axes)), None)
    have = ours.ranks // ours.replicas
    for a in {axis for rule in ours.rules if "layers" in rule.dims for axis in rule.axes}:
        have //= ours.axis(a)
    if theirs.replicas > 1 or staged is not None:
        span = staged.span if staged else theirs.span
        why = "a draft runs whole, on the GPUs of each stage and replica of its plan"
        yield Diagnostic("E225", why, span, hint="leave `dp` and `pp` out of its sharding")
    elif have % theirs.ranks:
        why = f"`{draft.model.name}` drafts on {theirs.ranks} ranks, and a stage has {have}"
        labels = (Label(ours.span, f"{have} in each stage"),) if ours.span else ()
        hint = f"give the draft a sharding whose ranks divide {have}, such as `sharding {{ tp = 1 }}`"
        yield Diagnostic("E225", why, theirs.span, hint=hint, labels=labels)
