"""All laws, by name, and what each of them speaks of."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from plandsl.diagnostics import Diagnostic, PlanError, suggest
from plandsl.driver import CompiledPlan
from plandsl.testing import (
    laws_autoscale,
    laws_bounds,
    laws_cost,
    laws_growth,
    laws_machine,
    laws_models,
    laws_program,
    laws_relations,
    laws_schedule,
    laws_text,
    laws_tiers,
    laws_traffic,
)

Law: TypeAlias = Callable[[CompiledPlan], object]

LAWS: tuple[Law, ...] = (
    laws_program.shards_tile_each_tensor,
    laws_program.caches_stay_where_they_are,
    laws_program.work_is_shared_out,
    laws_program.weights_and_cache_are_shared_out,
    laws_program.sharded_equals_unsharded,
    laws_machine.groups_partition_the_ranks,
    laws_machine.wire_bytes_follow_their_formulas,
    laws_machine.memory_adds_up,
    laws_machine.no_kernel_beats_the_hardware,
    laws_bounds.steps_read_weights_and_cache,
    laws_bounds.no_link_beats_its_bandwidth,
    laws_bounds.one_gpu_sends_nothing,
    laws_cost.communication_is_complete,
    laws_cost.parts_add_up,
    laws_cost.terms_add_up,
    laws_cost.tpot_is_the_mean_step,
    laws_cost.largest_batch_is_tight,
    laws_cost.cache_capacity_is_tight,
    laws_cost.better_hardware_is_never_slower,
    laws_growth.more_memory_is_never_worse,
    laws_growth.layers_add_up,
    laws_growth.memory_grows_with_the_load,
    laws_growth.fewer_bits_take_less_memory,
    laws_cost.more_load_is_never_faster,
    laws_cost.larger_batches_never_lower_throughput,
    laws_relations.more_requests_hardly_lower_throughput,
    laws_relations.adapters_are_never_free,
    laws_relations.replicas_change_nothing,
    laws_relations.permuted_ranks_change_nothing,
    laws_relations.names_of_axes_change_nothing,
    laws_cost.degrees_of_one_are_free,
    laws_cost.shares_follow_their_figures,
    laws_schedule.slots_take_turns,
    laws_schedule.pipeline_settles_at_its_period,
    laws_models.encoders_do_not_decode,
    laws_models.states_keep_their_size,
    laws_models.towers_are_never_free,
    laws_traffic.requests_are_served_once,
    laws_traffic.requests_pass_in_order,
    laws_traffic.first_come_first_served,
    laws_traffic.every_request_gets_its_tokens,
    laws_traffic.servers_hold_what_their_requests_need,
    laws_traffic.servers_keep_their_limits,
    laws_traffic.one_seed_is_one_run,
    laws_tiers.tiers_change_no_closed_form,
    laws_tiers.tiers_without_room_are_none,
    laws_tiers.tiers_give_what_was_kept,
    laws_autoscale.replicas_are_paid_by_the_hour,
    laws_autoscale.the_least_replicas_are_a_floor,
    laws_program.passes_keep_their_promises,
    laws_program.fusing_twice_is_fusing_once,
    laws_program.text_reads_back,
    laws_text.set_equals_written,
    laws_text.order_of_declarations_changes_nothing,
    laws_cost.arrays_equal_numbers,
    laws_cost.straight_code_equals_the_model,
    laws_cost.one_structure_serves_all_sizes,
)
"""All laws; the docstring of each states it."""


OF_ONE = frozenset(
    (
        laws_growth.layers_add_up,
        laws_growth.memory_grows_with_the_load,
        laws_growth.fewer_bits_take_less_memory,
        laws_cost.more_load_is_never_faster,
        laws_cost.larger_batches_never_lower_throughput,
        laws_cost.tpot_is_the_mean_step,
        laws_cost.communication_is_complete,
        laws_cost.degrees_of_one_are_free,
        laws_cost.straight_code_equals_the_model,
        laws_cost.one_structure_serves_all_sizes,
        laws_program.weights_and_cache_are_shared_out,
        laws_relations.adapters_are_never_free,
        laws_relations.more_requests_hardly_lower_throughput,
        laws_relations.replicas_change_nothing,
        laws_models.states_keep_their_size,
        *(law for law in LAWS if law.__module__ == laws_schedule.__name__),
    )
)
"""Laws that hold for one sharding, for steps of one token, and without a tower before a step. For example, a step with
one more token may cross the threshold of a `shift` and be faster."""


OF_WHOLE_PROMPTS = frozenset(
    (
        laws_cost.more_load_is_never_faster,
        laws_cost.larger_batches_never_lower_throughput,
        laws_cost.tpot_is_the_mean_step,
        laws_cost.degrees_of_one_are_free,
        laws_cost.shares_follow_their_figures,
        laws_models.states_keep_their_size,
        laws_models.towers_are_never_free,
        laws_relations.adapters_are_never_free,
        laws_schedule.pipeline_settles_at_its_period,
    )
)
"""Laws of prompts that are computed in one step. Where a step has a budget of tokens, one request more may need another
step, in which all others wait, and a token of a request that runs takes its place from the prompts."""


OF_BATCHES = OF_WHOLE_PROMPTS - {laws_cost.more_load_is_never_faster}
"""Laws of a batch that starts together: no request waits for another one that came earlier."""


OF_KERNELS = OF_BATCHES - {laws_cost.shares_follow_their_figures, laws_models.states_keep_their_size}
"""Laws of steps without the time that an engine adds to them."""


OF_TRAFFIC = frozenset(
    (
        laws_tiers.tiers_without_room_are_none,
        laws_tiers.tiers_give_what_was_kept,
        *(law for law in LAWS if law.__module__ in (laws_traffic.__name__, laws_autoscale.__name__)),
    )
)
"""Laws of requests that are served one by one."""


OF_TEXT = frozenset(law for law in LAWS if law.__module__ == laws_text.__name__) | {laws_program.text_reads_back}
"""Laws of the text of a plan."""


OF_ITSELF = OF_TRAFFIC | OF_TEXT
"""Laws that are asked of a plan as it is, with requests that arrive over time."""


OF_POOLS = frozenset(
    (
        laws_program.text_reads_back,
        laws_program.sharded_equals_unsharded,
        laws_cost.better_hardware_is_never_slower,
        laws_growth.more_memory_is_never_worse,
        laws_cost.arrays_equal_numbers,
        laws_cost.parts_add_up,
        laws_cost.terms_add_up,
        laws_cost.shares_follow_their_figures,
        laws_tiers.tiers_change_no_closed_form,
    )
)
"""Laws that two pools keep together, beside each by itself."""


OF_COMPILER = frozenset(
    (
        laws_program.passes_keep_their_promises,
        laws_program.fusing_twice_is_fusing_once,
        laws_program.text_reads_back,
        laws_text.set_equals_written,
        laws_text.order_of_declarations_changes_nothing,
        laws_cost.arrays_equal_numbers,
        laws_cost.straight_code_equals_the_model,
        laws_cost.one_structure_serves_all_sizes,
        laws_cost.shares_follow_their_figures,
    )
)
"""Laws about plandsl rather than about a deployment. `planc laws` asks neighbours of a plan for the others only."""


# ---- names


def name_of(law: Law) -> str:
    """The name of a law: the name of its function, with dashes."""
    return getattr(law, "__name__", "law").strip("<>_").replace("_", "-")


def meaning_of(law: Law) -> str:
    """What a law says: the first sentence of its docstring, or of the paragraph that has it."""
    first = (law.__doc__ or "").strip().split("\n\n")[0]
    return " ".join(first.split()) or "a law of your own"


NAMES: dict[str, Law] = {name_of(law): law for law in LAWS}


def find_law(name: str) -> Law:
    """The law of a name. Raises `PlanError` (E453) where no law has it."""
    found = NAMES.get(name.strip().replace("_", "-").lower())
    if found is None:
        hint = f"{suggest(name.replace('_', '-'), NAMES)}; `planc laws --list` prints all laws"
        raise PlanError([Diagnostic("E453", f"no law is named `{name}`", hint=hint)])
    return found
