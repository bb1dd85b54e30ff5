"""Laws of physics are broken one at a time, and each break is found; simulated queues of every kind serve in order."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from plandsl import driver
from plandsl.answers.autoscale import Autoscale
from plandsl.backends.cost.answers import autoscale
from plandsl.backends.cost.answers.figures import FIGURES
from plandsl.backends.cost.deployments import memory
from plandsl.backends.cost.deployments.memory import MemoryModel
from plandsl.backends.cost.serving import replica
from plandsl.backends.cost.serving.pools import Moves, Side, simulate_pools
from plandsl.backends.cost.serving.records import Records
from plandsl.backends.cost.serving.replica import Replica, Worker
from plandsl.backends.cost.serving.requests import Requests
from plandsl.backends.cost.serving.scheduler import Live, Policy
from plandsl.backends.cost.serving.simulate import simulate
from plandsl.backends.cost.serving.tiers import Shelf
from plandsl.backends.cost.time.phase import PhaseModel, PhaseTimes
from plandsl.backends.cost.work.exchange import Exchange
from plandsl.driver import CompiledPlan, compile_text
from plandsl.ir import extents
from plandsl.spec.scheduler import ROUTERS, RouterName
from plandsl.testing import (
    laws_autoscale,
    laws_bounds,
    laws_cost,
    laws_growth,
    laws_text,
    laws_tiers,
    laws_traffic,
)
from plandsl.testing.known import Law
from tests.draws import some
from tests.serving import Steady
from tests.test_serving import policies

TEXT = """plan p {{
  model = llama_3_2_1b, node = h100_8, sharding {{ {sharding} }}
  workload {{ {load} }}
  {more}
}}"""
BATCH = "input = 64, output = 16, batch = 8"
QUEUE = "input = uniform(20, 900), output = 9, rate = 500 req/s, requests = 40, seed = 3"
FEW = "engine = vllm with { max_requests = 2 }"
DAY = "input = 900, output = 20, rate = varying([[0 s, 60 req/s], [60 s, 240 req/s]], every = 120 s), seed = 3"
"""Arrivals that come and go."""
SHARED = "mesh own = 2\n batch -> own"
"""Each rank has requests of its own."""


NUMBERS = count()


def made(sharding: str = "tp = 2", load: str = BATCH, more: str = "") -> CompiledPlan:
    """A plan that is unlike every other one, so that nothing is known of it yet."""
    share = f"memory_fraction = {0.9 - next(NUMBERS) * 1e-5:.5f}"
    (plan,) = compile_text(TEXT.format(sharding=sharding, load=load, more=f"{share}\n{more}"))
    return plan


def crowded(more: str) -> CompiledPlan:
    """Conversations whose prompts have no room on the GPU for long, so that they come back to a tier."""
    load = f"{QUEUE.replace('40', '60').replace('500', '20')}; sessions {{ turns = 2, think = 1 s }}"
    plan = made("tp = 1", load=load, more=more)
    own = 0.0566 + (plan.spec.memory_fraction - 0.9) / 1000  # some 130 blocks, of which a request takes up to 114
    return CompiledPlan(evolve(plan.spec, memory_fraction=own), ())


def scaled(of: type, name: str, factor: float) -> Any:
    """The method ``name``, whose result is multiplied by ``factor``."""
    real = getattr(of, name)
    return patch.object(of, name, lambda self, *given: real(self, *given) * factor)


def layers_that_tire() -> Any:
    """The more layers a stage has, the longer each of them takes."""
    real = PhaseModel.play_stages

    def slower(self: PhaseModel, *given: Any) -> PhaseTimes:
        found = real(self, *given)
        many = [sum(part.repeats for part in parts) for parts in self.schedule.stages]
        longer = [s._replace(span=s.span * n**1.1) for s, n in zip(found.stages, many, strict=True)]
        return found._replace(stages=longer)

    return patch.object(PhaseModel, "play_stages", slower)


def cache_of_the_mean_rank() -> Any:
    """A rank holds its share of the requests, which may be half a request."""
    return patch.object(memory, "ceil_div", lambda a, b: a / b)


def capacity_that_shrinks() -> Any:
    real = MemoryModel.capacity

    def less(self: MemoryModel, stage: int, *given: Any) -> Any:
        return real(self, stage, *given) * (80e9 / self.gpus[stage].memory) ** 2

    return patch.object(MemoryModel, "capacity", less)


def first_setting_alone() -> Any:
    """Of `--set output=...` and the like nothing arrives."""
    real = driver.set_pairs
    return patch.object(driver, "set_pairs", lambda given: [p for p in real(given) if "output" not in p[0]])


def order_that_counts() -> Any:
    """A file that begins with its plan leaves out its `memory_fraction`."""

    def read(text: str) -> list[CompiledPlan]:
        found = compile_text(text)
        plain = [CompiledPlan(evolve(plan.spec, memory_fraction=0.5), ()) for plan in found]
        return plain if text.startswith("plan ") else found

    return patch.object(laws_text, "compile_text", read)


def slower_transfer() -> Any:
    """What makes the transfer between pools better makes it worse."""
    return patch.dict(FIGURES, transfer=FIGURES["transfer"]._replace(better=-1))


def last_come_first_served() -> Any:
    def arrive(self: Replica, live: Live) -> bool:
        self.state.waiting.appendleft(live)
        self.log.replica[live.index] = self.number
        return True

    return patch.object(replica.Replica, "arrive", arrive)


def lost_requests() -> Any:
    """A request that is refused is said to be served by the first server."""
    real = laws_traffic.serve_some

    def lose(plan: CompiledPlan) -> Any:
        run = real(plan)
        finish = run.records.finish_s.copy()
        finish[3] = np.nan
        return run._replace(records=run.records._replace(finish_s=finish))

    return patch.object(laws_traffic, "serve_some", lose)


def tiers_that_fill_the_gpu() -> Any:
    """With tiers, a GPU has room for more."""
    real = MemoryModel.capacity

    def more(self: MemoryModel, stage: int, *given: Any) -> Any:
        return real(self, stage, *given) + 1e9 * bool(self.plan.effective_engine.scheduler.tiers)

    return patch.object(MemoryModel, "capacity", more)


def shelves_without_end() -> Any:
    """A tier keeps all that comes, whatever its size."""
    return patch.object(Shelf, "put_each", lambda self, keys: self.keys.update(dict.fromkeys(keys)))


def loads_from_nowhere() -> Any:
    """Blocks are loaded of prompts that nobody has computed."""
    real = laws_tiers.serve_some

    def load(plan: CompiledPlan) -> Any:
        run = real(plan)
        return run._replace(records=run.records._replace(loaded=run.records.loaded + 16))

    return patch.object(laws_tiers, "serve_some", load)


def replicas_otherwise(number: Callable[..., int]) -> Any:
    """Another number of replicas in each interval, by the ``number`` of an interval's own."""
    real = autoscale.fewest_replicas

    def fewest(*given: Any) -> Any:
        found = real(*given)
        return found._replace(replicas=number(found.replicas))

    return patch.object(autoscale, "fewest_replicas", fewest)


POOLS = "prefill { batch = 2 }, decode { }, transfer { bandwidth = 1 GB/s, latency = 1 us }"
BREAKS: dict[str, tuple[Law, Callable[[], CompiledPlan], Callable[[], Any], str]] = {
    "kernels faster than memory": (
        laws_bounds.steps_read_weights_and_cache,
        made,
        lambda: scaled(PhaseModel, "_bounded_seconds", 0.1),
        "are read|bytes at",
    ),
    "links faster than their ports": (
        laws_bounds.no_link_beats_its_bandwidth,
        lambda: made(load="input = 4096, output = 2, batch = 64"),
        lambda: scaled(Exchange, "modelled_seconds", 0.3),
        "bytes in .* s over",
    ),
    "a collective of one rank that takes time": (
        laws_bounds.one_gpu_sends_nothing,
        made,
        lambda: patch.object(Exchange, "modelled_seconds", lambda self, n: 1e-6),
        "one GPU calls all_reduce",
    ),
    "layers that tire": (laws_growth.layers_add_up, lambda: made("tp = 1"), layers_that_tire, "more thrice"),
    "KV memory of the mean rank": (
        laws_growth.memory_grows_with_the_load,
        lambda: made(SHARED),
        cache_of_the_mean_rank,
        "requests hold",
    ),
    "formats of one width": (
        laws_growth.fewer_bits_take_less_memory,
        made,
        lambda: patch.object(extents, "item_bytes", lambda dtype: 2.0),
        "always take",
    ),
    "memory that shrinks as it grows": (
        laws_growth.more_memory_is_never_worse,
        made,
        capacity_that_shrinks,
        "with more memory",
    ),
    "a setting that does not arrive": (laws_text.set_equals_written, made, first_setting_alone, "workload.output"),
    "order that counts": (laws_text.order_of_declarations_changes_nothing, made, order_that_counts, "memory_fraction"),
    "a transfer that bandwidth slows": (
        laws_cost.better_hardware_is_never_slower,
        lambda: made(more=POOLS),
        slower_transfer,
        "throughput goes|goes from",
    ),
    "requests that are lost": (
        laws_traffic.requests_are_served_once,
        lambda: made(load=QUEUE, more=FEW),
        lost_requests,
        "neither served nor refused",
    ),
    "more requests than may run": (
        laws_traffic.servers_keep_their_limits,
        lambda: made(load=QUEUE, more=FEW),
        lambda: patch.object(laws_traffic, "_limit_of", lambda pool: 1),
        "are allowed",
    ),
    "last come, first served": (
        laws_traffic.first_come_first_served,
        lambda: made("dp = 2", load=QUEUE, more=f"{FEW}\n  router = least_loaded"),
        last_come_first_served,
        "which came earlier",
    ),
    "tiers that leave more room": (
        laws_tiers.tiers_change_no_closed_form,
        lambda: made(more="engine = vllm"),
        tiers_that_fill_the_gpu,
        "without tiers",
    ),
    "tiers that keep more than they hold": (
        laws_tiers.tiers_without_room_are_none,
        lambda: crowded("engine = vllm"),
        shelves_without_end,
        "without room",
    ),
    "prompts that come from nowhere": (
        laws_tiers.tiers_give_what_was_kept,
        lambda: crowded("engine = vllm with { kv_tiers = [[1 GB, 50 GB/s]] }"),
        loads_from_nowhere,
        "are loaded",
    ),
    "hours that are forgotten": (
        laws_autoscale.replicas_are_paid_by_the_hour,
        lambda: made("tp = 1", load=DAY, more="engine = vllm"),
        lambda: patch.object(Autoscale, "gpu_hours", property(lambda self: 2 * self.fixed_gpu_hours)),
        "GPU hours are told",
    ),
    "a floor that nobody keeps": (
        laws_autoscale.the_least_replicas_are_a_floor,
        lambda: made("tp = 1", load=DAY, more="engine = vllm"),
        lambda: replicas_otherwise(lambda own: 1),
        "at least 3",
    ),
}


@pytest.mark.parametrize("share", range(4))
def test_a_law_of_physics_fails_where_what_it_names_breaks(share: int) -> None:
    for name in some(sorted(BREAKS)[share::4], 4, share):
        check_break(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", BREAKS)
def test_each_law_of_physics_fails_where_what_it_names_breaks(name: str) -> None:
    check_break(name)


def check_break(name: str) -> None:
    """Break what a law is about, and see that it says so."""
    law, plan, broken, words = BREAKS[name]
    law(plan())
    laws_traffic.serve_some.cache_clear()
    with broken(), pytest.raises(AssertionError, match=words):
        law(plan())
    laws_traffic.serve_some.cache_clear()


# ---- first come, first served, with step times held fixed


@st.composite
def plain_loads(draw: st.DrawFn) -> Requests:
    """Requests that share no blocks; one comes after the other."""
    n = draw(st.integers(2, 14))
    inputs, outputs = (draw(st.lists(st.integers(1, top), min_size=n, max_size=n)) for top in (20, 9))
    gaps = draw(st.lists(st.integers(1, 6), min_size=n, max_size=n))
    return Requests(np.cumsum(gaps) / 4.0, np.array(inputs, np.int64), np.array(outputs, np.int64))


def first_requests(load: Requests, k: int) -> Requests:
    return Requests(*(values[:k] for values in load[:3]))


@given(
    policies(), plain_loads(), st.data(), st.integers(6, 14), st.integers(1, 3), st.sampled_from(ROUTERS), st.booleans()
)  # fmt: skip
def test_law_who_comes_later_delays_no_admission(
    policy: Policy, load: Requests, data: st.DataObject, blocks: int, servers: int, by: RouterName, pools: bool
) -> None:
    """Where all steps take equally long, a request is admitted by the same server at the same time without later ones.

    With each scheduler, behind each router, and in two pools.
    """
    one = Worker(policy, Steady(1.0), blocks, 4, caching=False)

    def played(of: Requests) -> Records:
        if not pools:
            return simulate([one] * servers, of, by=by, seed=5)
        none = np.zeros(len(of.input))
        moves = Moves(none, none, none, 0.0, early=False)
        return simulate_pools(Side([one] * servers, by), Side([one] * servers, by), of, moves, seed=5)

    k = data.draw(st.integers(1, len(load.input)))
    whole, alone = played(load), played(first_requests(load, k))
    names = ("admitted_s", "replica") if not pools else ("admitted_s", "prefill_replica")
    for name in names:
        np.testing.assert_array_equal(getattr(whole, name)[:k], getattr(alone, name), name)


def test_formats_are_compared_with_one_cut() -> None:
    """With weights of 4 bits the fastest cut gives a stage a layer more, which leaves room for fewer requests."""
    link = "link { topology = switch, bandwidth = 450 GB/s, latency = 2 us }"
    node = f"node mixed {{ gpus = [1 * h100_sxm, 1 * h200_sxm], {link} }}"
    text = TEXT.format(sharding="pp = 2, cut = balanced", load="input = 2000, output = 500, batch = 64", more="")
    (plan,) = compile_text(f"{node}\n{text.replace('llama_3_2_1b', 'llama_3_1_8b').replace('h100_8', 'mixed')}")
    model = evolve(plan.spec.model, compute=plan.spec.model.activations, stored=())
    plans = {bits: CompiledPlan(evolve(plan.spec, model=evolve(model, weights=bits)), ()) for bits in ("fp4", "fp8")}
    room = {bits: one.cost.evaluate().max_batch for bits, one in plans.items()}
    assert room["fp4"] < room["fp8"], "what the law must not say"
    laws_growth.fewer_bits_take_less_memory(plan)


def test_requests_always_in_flight_may_wait_for_more_prompts_with_twice_the_layers() -> None:
    """The engine's part of a first token stays as long, so that more of the three requests are in steps."""
    text = TEXT.format(sharding="tp = 1", load="input = 1, output = 1, concurrency = 3", more="engine = vllm")
    (plan,) = compile_text(text.replace("llama_3_2_1b", "llama_3_1_8b"))
    (deeper,) = compile_text(text.replace("llama_3_2_1b", "llama_3_1_8b with { layers = 64 }"))
    assert deeper.cost.own.tpot > 2 * plan.cost.own.tpot, "what the law must not say"
    laws_growth.layers_add_up(plan)
