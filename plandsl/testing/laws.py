"""The laws that every compiled plan obeys. Each law is a function that raises AssertionError where it is broken."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache

from attrs import evolve

from plandsl.driver import CompiledPlan
from plandsl.testing import laws_cost, laws_program, laws_schedule

Law = Callable[[CompiledPlan], None]

LAWS: tuple[Law, ...] = (
    laws_program.shards_tile_each_tensor,
    laws_program.caches_stay_where_they_are,
    laws_program.work_is_shared_out,
    laws_program.weights_and_cache_are_shared_out,
    laws_program.passes_keep_their_promises,
    laws_program.fusing_twice_is_fusing_once,
    laws_program.text_reads_back,
    laws_program.sharded_equals_unsharded,
    laws_schedule.slots_take_turns,
    laws_schedule.pipeline_settles_at_its_period,
    laws_cost.better_hardware_is_never_slower,
    laws_cost.more_load_is_never_faster,
    laws_cost.larger_batches_never_lower_throughput,
    laws_cost.tpot_is_the_mean_step,
    laws_cost.arrays_equal_numbers,
    laws_cost.straight_code_equals_the_model,
    laws_cost.one_structure_serves_all_sizes,
    laws_cost.largest_batch_is_tight,
    laws_cost.cache_capacity_is_tight,
    laws_cost.parts_add_up,
    laws_cost.communication_is_complete,
    laws_cost.terms_add_up,
    laws_cost.shares_follow_their_figures,
    laws_cost.degrees_of_one_are_free,
)
"""All laws; the docstring of each states it."""


OF_ONE = frozenset(
    (
        laws_cost.better_hardware_is_never_slower,
        laws_cost.more_load_is_never_faster,
        laws_cost.larger_batches_never_lower_throughput,
        laws_cost.tpot_is_the_mean_step,
        laws_cost.communication_is_complete,
        laws_cost.degrees_of_one_are_free,
        laws_cost.straight_code_equals_the_model,
        laws_cost.one_structure_serves_all_sizes,
        laws_program.weights_and_cache_are_shared_out,
        *(law for law in LAWS if law.__module__ == laws_schedule.__name__),
    )
)
"""Laws that hold for one sharding and for steps of one token. For example, a step with one more token may cross the
threshold of a `shift` and be faster."""


OF_WHOLE_PROMPTS = frozenset(
    (
        laws_cost.more_load_is_never_faster,
        laws_cost.larger_batches_never_lower_throughput,
        laws_cost.tpot_is_the_mean_step,
        laws_schedule.pipeline_settles_at_its_period,
    )
)
"""Laws of prompts that are computed in one step. Where a step has a budget of tokens, one request more may need another
step, in which all others wait, and a token of a request that runs takes its place from the prompts."""


OF_POOLS = frozenset(
    (
        laws_program.text_reads_back,
        laws_program.sharded_equals_unsharded,
        laws_cost.arrays_equal_numbers,
        laws_cost.parts_add_up,
        laws_cost.terms_add_up,
        laws_cost.shares_follow_their_figures,
    )
)
"""Laws that two pools keep together, beside each by itself."""


def assert_laws(plan: CompiledPlan) -> None:
    """Check every law for ``plan``."""
    for law in LAWS:
        assert_law(law, plan)


def assert_law(law: Law, plan: CompiledPlan) -> None:
    """Hold ``plan`` to a law: every pool of it, and where the law asks for that, each sharding by itself."""
    try:
        for one in _asked(law, plan):
            law(one)
    except AssertionError as broken:
        broken.add_note(f"the law: {law.__doc__}")
        raise


def _asked(law: Law, plan: CompiledPlan) -> Iterator[CompiledPlan]:
    for pool in plan.pools:
        for one in pool.plain.modes if law in OF_ONE else (pool,):
            yield _undivided(one) if law in OF_WHOLE_PROMPTS else one
    if len(plan.pools) > 1 and law in OF_POOLS:
        yield plan


@lru_cache(maxsize=4)
def _undivided(plan: CompiledPlan) -> CompiledPlan:
    """The plan with prompts computed whole, all requests of a batch at once."""
    spec = evolve(plan.spec, chunked_prefill=None, micro_batches=1)
    return plan if spec == plan.spec else CompiledPlan(spec, ())
