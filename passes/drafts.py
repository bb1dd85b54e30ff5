"""Checks of what runs beside a model: a draft and a tower; and notes on what a plan with one of them assumes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from plandsl.diagnostics import Diagnostic, Label
from plandsl.spec.model import Apply, walk
from plandsl.spec.plan import PlanSpec, SpeculateSpec


def check_drafts(plan: PlanSpec, speculate: SpeculateSpec) -> Iterator[Diagnostic]:
    """A note on the acceptance (N322); errors where a step cannot verify guesses, or the draft cannot run (E225)."""
    yield Diagnostic("N322", _show_acceptance(speculate), speculate.span)
    terms = [part for block in plan.model.blocks for s in block.statements for part in walk(s.term)]
    ahead = next((t for t in terms if isinstance(t, Apply) and t.option("causal", True) is False), None)
    if ahead is not None or not plan.model.causal:
        labels = (Label(ahead.span, "this attention sees later tokens"),) if ahead and ahead.span else ()
        why = f"a token of `{plan.model.name}` sees later tokens, so guesses would change the tokens before them"
        hint = "speculation needs a causal model: leave `speculate` out"
        yield Diagnostic("E225", why, speculate.span, hint=hint, labels=labels)
    draft = plan.draft_plan
    if draft is not None:
        yield from check_sharding_beside(plan, draft, DRAFT)
        from plandsl.passes.legality import check

        yield from (d for d in check(draft, drafts=True) if d.severity == "error")


def _show_acceptance(speculate: SpeculateSpec) -> str:
    rates = [f"{100 * a:g} %" for a in dict.fromkeys(speculate.acceptance)]
    free = "" if speculate.draft else ", and a guess costs nothing"
    return f"assumed: {', '.join(rates)} of guesses are right if all guesses before them are{free}"


class Beside(NamedTuple):
    """A model that runs beside another one on the same GPUs: the code of its errors, its name, and what it does."""

    code: str
    word: str
    does: str


DRAFT, TOWER = Beside("E225", "a draft", "drafts"), Beside("E549", "a tower", "encodes images")


def check_tower(plan: PlanSpec, tower: PlanSpec) -> Iterator[Diagnostic]:
    """A note on the images of a load (N525); errors where the tower cannot run on the GPUs of the plan (E549, E301)."""
    load = plan.workload
    if load.images:
        each = "image" if load.images == 1 else "images"
        why = f"assumed: {load.images:g} {each} in every {load.input:,} prompt tokens, spread evenly over the prompts"
        if load.drawn_images is not None:
            why += "; the simulation draws how many each prompt has"
        yield Diagnostic("N525", why, load.span)
    yield from check_sharding_beside(plan, tower, TOWER)
    from plandsl.passes.legality import check

    yield from (d for d in check(tower) if d.severity == "error")


def check_sharding_beside(plan: PlanSpec, other: PlanSpec, kind: Beside) -> Iterator[Diagnostic]:
    """Errors in the sharding of a draft or a tower. Each stage of a replica runs whole copies of it, and is full."""
    ours, theirs = plan.sharding, other.sharding
    staged = next((r for r in theirs.rules if "layers" in r.dims and any(theirs.axis(a) > 1 for a in r.axes)), None)
    have = ours.ranks // ours.replicas
    for a in {axis for rule in ours.rules if "layers" in rule.dims for axis in rule.axes}:
        have //= ours.axis(a)
    if theirs.replicas > 1 or staged is not None:
        span = staged.span if staged else theirs.span
        why = f"{kind.word} has no stages or replicas: it runs whole on the GPUs of each stage of its plan"
        yield Diagnostic(kind.code, why, span, hint="leave `dp` and `pp` out of its sharding")
    elif have % theirs.ranks:
        why = f"`{other.model.name}` {kind.does} on {theirs.ranks} ranks, which do not divide the {have} of a stage"
        labels = (Label(ours.span, f"{have} in each stage"),) if ours.span else ()
        hint = f"give {kind.word} a sharding whose ranks divide {have}, such as `sharding {{ tp = 1 }}`"
        yield Diagnostic(kind.code, why, theirs.span, hint=hint, labels=labels)
