"""From a cost model to an `Explanation`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar

from attrs import evolve

from plandsl.answers.explanation import Explanation
from plandsl.backends.cost.answers.estimate import estimate
from plandsl.backends.cost.answers.sensitivities import Variations, bottlenecks, headroom, sensitivities, unmoved_shares
from plandsl.backends.cost.answers.terms import memory_terms, terms
from plandsl.backends.cost.deployments.deployment import Deployment
from plandsl.diagnostics import Diagnostic
from plandsl.spec.plan import OF_OUTPUT

T = TypeVar("T")


def explain(model: Deployment, notes: Sequence[Diagnostic] = ()) -> Explanation:
    """Where the plan's time and memory go, and which figures would change them."""
    found, metrics = estimate(model, notes), model.own
    variations = Variations(model)
    times = terms(model, metrics) if variations.modelled else variations.own
    slopes, bounds = sensitivities(variations), bottlenecks(variations)
    if found.encodes:
        slopes = tuple(evolve(s, slopes=_of_texts(s.slopes)) for s in slopes)
        bounds = tuple(b for b in bounds if b.metric != "tpot")
    return Explanation(
        found,
        times.ttft,
        tpot=times.tpot,
        per_token=times.per_token,
        memory=memory_terms(found.memory),
        sensitivities=slopes,
        unmoved=_of_texts(unmoved_shares(variations)) if found.encodes else unmoved_shares(variations),
        bottlenecks=bounds,
        headroom=headroom(model, metrics),
        modelled=variations.modelled,
    )


def _of_texts(found: Mapping[str, T]) -> dict[str, T]:
    """Values by metric, of the metrics that a plan without output has."""
    return {metric: value for metric, value in found.items() if metric not in (*OF_OUTPUT, "max_batch")}
