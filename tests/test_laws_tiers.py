"""Drawn engines with tiers of KV memory: they read back, and keep the laws of memory and of tiers."""

from __future__ import annotations

import pytest
from attrs import evolve
from hypothesis import given

from plandsl.driver import CompiledPlan, compile_text
from plandsl.show import show_plan
from plandsl.spec.hardware import EngineSpec
from plandsl.spec.plan import PlanSpec
from plandsl.testing import engines, laws_cost, laws_growth, laws_machine, laws_tiers, plans, same
from plandsl.testing.ask import ask
from tests.draws import draws

OF_MEMORY = (
    laws_machine.memory_adds_up,
    laws_cost.largest_batch_is_tight,
    laws_cost.cache_capacity_is_tight,
    laws_growth.more_memory_is_never_worse,
    laws_growth.memory_grows_with_the_load,
)

(BASE,) = compile_text("""plan p {
  model = llama_3_2_1b, node = h100_1, sharding { tp = 1 }
  workload { input = uniform(20, 900), output = 9, rate = 20 req/s, requests = 60, seed = 3
    sessions { turns = 2, think = 1 s } }
}""")


@draws(1 / 2)
@given(engine=engines())
def test_law_drawn_engines_read_back_and_their_tiers_change_no_closed_form(engine: EngineSpec) -> None:
    plan = CompiledPlan(evolve(BASE.spec, engine=engine), ())
    (again,) = compile_text(show_plan(plan.spec))
    assert same(plan.spec, again.spec)
    assert bool(ask(laws_tiers.tiers_change_no_closed_form, plan).why_not) == (not engine.scheduler.prefix_cache)


@pytest.mark.slow
@draws(2)
@given(spec=plans(), engine=engines())
def test_law_memory_of_drawn_plans_under_drawn_engines(spec: PlanSpec, engine: EngineSpec) -> None:
    """Some of these engines do not start: their share of memory is not free."""
    plan = CompiledPlan(evolve(spec, engine=engine), ())
    for law in OF_MEMORY:
        ask(law, plan)


@pytest.mark.slow
@draws(4)
@given(engine=engines())
def test_law_tiers_of_drawn_engines_serve_what_was_kept(engine: EngineSpec) -> None:
    plan = CompiledPlan(evolve(BASE.spec, engine=engine), ())
    for law in (laws_tiers.tiers_without_room_are_none, laws_tiers.tiers_give_what_was_kept):
        ask(law, plan)
