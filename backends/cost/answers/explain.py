"""From a cost model to an `Explanation`."""

from __future__ import annotations

from collections.abc import Sequence

from plandsl.answers.explanation import Explanation
from plandsl.backends.cost.answers.estimate import estimate
from plandsl.backends.cost.answers.sensitivities import Variations, bottlenecks, headroom, sensitivities, unmoved_shares
from plandsl.backends.cost.answers.terms import memory_terms, terms
from plandsl.backends.cost.deployments.deployment import Deployment
from plandsl.diagnostics import Diagnostic


def explain(model: Deployment, notes: Sequence[Diagnostic] = ()) -> Explanation:
    """Where the plan's time and memory go, and which figures would change them."""
    found, metrics = estimate(model, notes), model.own
    variations = Variations(model)
    times = terms(model, metrics) if variations.modelled else variations.own
    slopes = sensitivities(variations)
    return Explanation(
        found,
        times.ttft,
        tpot=times.tpot,
        per_token=times.per_token,
        memory=memory_terms(found.memory),
        sensitivities=slopes,
        unmoved=unmoved_shares(variations),
        bottlenecks=bottlenecks(variations),
        headroom=headroom(model, metrics),
        modelled=variations.modelled,
    )
