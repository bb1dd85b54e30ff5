"""Answer a search: what its run must keep, then the best and the front, or what the nearest configuration lacks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from plandsl.answers.estimate import BANDED
from plandsl.answers.text.words import origin_names
from plandsl.diagnostics import Diagnostic, PlanError, suggest
from plandsl.grammar.resolve import Module
from plandsl.progress import Tick
from plandsl.searches.answer import (
    alike_ranks,
    configurations,
    estimates,
    misses,
    remedies,
    simulated_band,
    unbanded_ranks,
    value_and_band,
)
from plandsl.searches.run import MOST_SIMULATED, Found
from plandsl.searches.show import Answer
from plandsl.searches.spread import Workers
from plandsl.spec.search import SearchSpec

if TYPE_CHECKING:
    from plandsl.searches.shortlist import Simulated


class Asked(NamedTuple):
    """How much of an answer is wanted: the ``top`` best; of a search over requests, how many are simulated, and for how
    many ``requests`` each. None: as many as is usual.
    """

    top: int = 10
    simulate: int | None = None
    requests: int | None = None


def read_searches(module: Module, name: str | None) -> list[SearchSpec]:
    """All searches of a file, or the one called ``name``. Raises `PlanError` (E401, E201) where there is none."""
    names = module.searches if name is None else [name]
    if not names and module.errors:  # such as a file that cannot be read
        raise PlanError(module.diagnostics, module.sources)
    if not names:
        hint = "add `search NAME { model = ..., node = ..., workload { input = ..., output = ... } }`"
        if module.plans:
            hint = (
                f"add `search best {{ plan = {module.plans[0]} }}`, or estimate the plan: `planc compile {module.path}`"
            )
        raise PlanError([Diagnostic("E401", f"{module.path} has no search to run", module.end, hint=hint)])
    if name is not None and name not in module.searches:
        raise PlanError([Diagnostic("E201", f"there is no search named `{name}`", hint=suggest(name, module.searches))])
    found = [module.spec("search", name) for name in names]
    if module.errors:
        raise PlanError(module.diagnostics, module.sources)
    return [s for s in found if isinstance(s, SearchSpec)]


def keep_most(search: SearchSpec, asked: Asked) -> int:
    """How many of the best configurations a run has to keep."""
    return max(asked.top, asked.simulate or MOST_SIMULATED) if search.over_requests else asked.top


def tell(found: Found, asked: Asked, workers: Workers, tick: Tick) -> Answer:
    """The answer, from what a run found; ``tick`` hears how many of the best are simulated, where any are."""
    return _simulate(found, asked, workers, tick) if found.search.over_requests else _estimate(found)


def _estimate(found: Found) -> Answer:
    """The answer of a search in closed form."""
    top = configurations(found, found.tally.top)
    made = estimates(found, top)
    return Answer(
        top,
        configurations(found, found.tally.front),
        alike=alike_ranks([value_and_band(e, found.search.all_goals[0].metric) for e in made]),
        origins=[origin_names(e) for e in made],
        bands=[{f"{m}_band": None if (b := e.band(m)) is None else list(b) for m in BANDED} for e in made],
        without=unbanded_ranks(made, found.search.all_goals[0].metric),
        **({} if top else _nearest(found)),
    )


def _nearest(found: Found) -> dict[str, Any]:
    """What the nearest configuration misses in closed form, and what would help."""
    nearest = configurations(found, found.tally.nearest)[:1]
    missing = [m for n in nearest for m in misses(found, n)]
    return {"missing": missing, "remedies": [r for n in nearest for r in remedies(found, n)]}


def _simulate(found: Found, asked: Asked, workers: Workers, tick: Tick) -> Answer:
    """The answer of a search over requests: the best of those that were simulated."""
    from plandsl.searches.shortlist import simulate_best

    most = asked.simulate or MOST_SIMULATED
    made = simulate_best(found, workers, count=asked.requests, most=most, tick=tick)
    good = made.good[: asked.top]
    rest: dict[str, Any] = (
        {"missing": [] if good else [m for one in made.others[:1] for m in one.misses]}
        if made.good or made.others
        else _nearest(found)
    )
    return Answer(
        [one.row for one in good],
        configurations(found, found.tally.front),
        alike=_alike_simulated(found, good),
        origins=[found.plan(one.row.number).engine_origin for one in good],
        bands=[{} for _ in good],
        shortlist=made,
        **rest,
    )


def _alike_simulated(found: Found, good: Sequence[Simulated]) -> list[tuple[int, ...]]:
    """The ranks that simulated candidates may trade places with, by the bands of their engines."""
    goal = found.search.all_goals[0]
    values = [one.figures.get(goal.name) for one in good]
    plans = [found.plan(one.row.number) for one in good]
    return alike_ranks(
        [None if v is None else simulated_band(plan, goal, v.value) for plan, v in zip(plans, values, strict=True)]
    )
