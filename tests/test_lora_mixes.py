"""Adapters inside experts and on the weights of a latent cache, and how many of them a step reads."""

from __future__ import annotations

import numpy as np
import pytest
from attrs import evolve
from hypothesis import example, given
from hypothesis import strategies as st

from plandsl.backends.cost.deployments.step import Decode, Prompt, Step
from plandsl.backends.cost.serving.distributions import draw_whole
from plandsl.backends.cost.serving.draws import Purpose, Stream
from plandsl.backends.cost.work.adapters import Adapters
from plandsl.backends.cost.work.work import Binding
from plandsl.backends.reference.machine import Machine
from plandsl.backends.reference.placement import Array, difference
from plandsl.backends.reference.shrink import shrink
from plandsl.backends.reference.weights import Weights, make_weights
from plandsl.driver import CompiledPlan, compile_text, plain_programs
from plandsl.ir.adapters import AdapterGemm, distinct, show_mix
from plandsl.spec.adapter_mix import chances_of, mix_of
from plandsl.spec.model import ADAPTERS, LORA_RANK
from plandsl.spec.traffic import AdaptersSpec, Bounds, Exponential, Fixed, Lognormal, Normal, TrafficSpec, Uniform, Zipf
from plandsl.testing.laws_cost import _calls
from tests.draws import draws
from tests.test_lora import plan_of

ALL = "lora { adapters = 1, rank = 4, targets = all }"
UNPACKING = "lora { adapters = 2, rank = 8, targets = [w_uk, w_uv] }"


# ---- what they mean


def merged(weights: Weights, program: object) -> Weights:
    """The weights of a model into which its one adapter is merged, ``W + A B``, without those of the adapter."""
    types = {(r.name, w.name): w.type.names for r in program.regions for w in r.weights}  # type: ignore[attr-defined]
    made: Weights = {}
    for (region, layer, name), array in weights.items():
        if name.endswith(("_a", "_b")):
            continue
        found = array
        if (region, layer, f"{name}_a") in weights:
            a, b = (weights[region, layer, f"{name}_{side}"][0] for side in "ab")
            sides = [types[region, f"{name}_{side}"][1:] for side in "ab"]
            letters = {n: i for i, n in enumerate(dict.fromkeys((*sides[0], *sides[1])))}
            found = array + np.einsum(
                a, [letters[n] for n in sides[0]], b, [letters[n] for n in sides[1]],
                [letters[n] for n in types[region, name]],
            )  # fmt: skip
        made[region, layer, name] = found
    return made


@pytest.mark.parametrize("base", ["llama_3_1_8b", "mixtral_8x7b", "deepseek_v3"])
def test_a_request_with_an_adapter_sees_the_merged_weights_and_one_without_the_bare_ones(base: str) -> None:
    """With one adapter, requests 0, 2, ... have it. Decode absorbs weights of a latent cache, which prefill unpacks."""
    small = shrink(plan_of(ALL, base=base).spec)
    lora = plain_programs(small)
    sizes = tuple((n, s) for n, s in small.model.sizes if n not in (ADAPTERS, LORA_RANK))
    bare = plain_programs(evolve(small, model=evolve(small.model, sizes=sizes, lora=None)))
    bind = {"batch": small.workload.batch, "input": small.workload.input}
    weights = make_weights(lora[0], bind) | make_weights(lora[1], bind)
    ids = np.random.default_rng(0).integers(4, size=(bind["batch"], bind["input"] + 2))

    def logits(programs: tuple, own: Weights) -> list[Array]:  # type: ignore[type-arg]
        machine = Machine(*programs, own, bind, check=True)
        at = bind["input"]
        return [machine.prefill(ids[:, :at]), *(machine.decode(ids[:, i : i + 1]) for i in (at, at + 1))]

    for found, with_it, without in zip(
        logits(lora, weights), logits(bare, merged(weights, lora[0])), logits(bare, weights), strict=True
    ):
        assert difference(found[::2], with_it[::2]) < 1e-10
        assert difference(found[1::2], without[1::2]) < 1e-10
        assert difference(found[::2], without[::2]) > 1e-3


SHARDINGS = [
    ("mixtral_8x7b", "tp = 2, ep = 2"),
    ("gpt_oss_20b", "ep = 2, dp = 2"),  # experts have biases
    ("deepseek_v3", "mesh a = 2, b = 2; context -> a; heads -> b; experts -> a"),
    ("deepseek_v3", "mesh a = 2, b = 2; kv_rank -> a; heads -> b; tokens -> b"),  # a partial sum of `x A`
    ("deepseek_v3_2", "tp = 2"),  # prefill absorbs too
]


@pytest.mark.parametrize(("base", "sharding"), SHARDINGS)
def test_experts_and_latent_caches_with_adapters_verify(base: str, sharding: str) -> None:
    verdict = plan_of("lora { adapters = 2, rank = 8, targets = all }", sharding, base).verify()
    assert verdict.ok, verdict.message


@pytest.mark.parametrize(("base", "sharding"), [*SHARDINGS[:3], *SHARDINGS[4:]])
def test_adapters_add_no_collective(base: str, sharding: str) -> None:
    """What they add is completed with the partial sums of their targets, inside experts after these are combined."""
    with_them, bare = (plan_of(lora, sharding, base) for lora in ("lora { adapters = 2, rank = 8, targets = all }", ""))
    for phase in ("prefill", "decode"):
        assert _calls(getattr(with_them, phase).program) == _calls(getattr(bare, phase).program)


# ---- what they hold and cost


def test_each_expert_has_matrices_of_its_own() -> None:
    def held(lora: str, sharding: str = "tp = 1") -> float:
        return plan_of(lora, sharding, "mixtral_8x7b").estimate().memory.weights

    lora = "lora { adapters = 3, rank = 16, targets = [w_up] }"
    each = 32 * 8 * 16 * (4096 + 14336) * 2
    assert held(lora) - held("") == 3 * each
    assert held(lora, "ep = 4") - held("", "ep = 4") == 3 * each / 4
    # the outputs are split, and with them the second matrix alone
    assert held(lora, "tp = 2") - held("", "tp = 2") == 3 * 32 * 8 * 16 * (4096 + 7168) * 2


def test_both_phases_of_a_latent_cache_have_the_same_matrices() -> None:
    plan = plan_of(UNPACKING, base="deepseek_v3")
    found = [
        {w.name: w.type for op in ops if isinstance(op, AdapterGemm) for w in op.weights}
        for ops in (p.program.region("block.dense").ops for p in (plan.prefill, plan.decode))
    ]
    assert found[0] == found[1]
    assert {name: type_.names for name, type_ in found[0].items()} == {
        "w_uk_a": ("adapters", "kv_rank", "lora_rank"),
        "w_uk_b": ("adapters", "lora_rank", "heads", "nope_dim"),
        "w_uv_a": ("adapters", "kv_rank", "lora_rank"),
        "w_uv_b": ("adapters", "lora_rank", "heads", "v_dim"),
    }


def works(plan: CompiledPlan) -> list[Adapters]:
    return [w for ops in plan.cost.main.decode.work.values() for w in ops if isinstance(w, Adapters)]


def read(plan: CompiledPlan, batch: float) -> float:
    """Bytes of matrices that the first product of adapters reads in a decode step."""
    at = plan.cost.main.decode.bound_sizes({"batch": batch, "context": 100, "queries": 1})
    return float(works(plan)[0].read(at))


def test_a_step_reads_no_more_adapters_than_it_has_requests() -> None:
    plan = plan_of("lora { adapters = 16, rank = 16, targets = [w_q], active = 4 }")
    one = 4096 * 16 * 2
    assert [read(plan, n) / one for n in (1, 3, 4, 100)] == [1, 3, 4, 4]
    split = plan_of("lora { adapters = 16, rank = 16, targets = [w_q] }", "mesh a = 4; tokens -> a")
    assert read(split, 8) == 2 * one  # a rank has two of the eight


def test_experts_read_the_matrices_of_adapters_that_meet_them() -> None:
    """One token of each of n requests with an adapter of its own touches 2 of 8 experts of that adapter."""
    plan = plan_of("lora { adapters = 16, rank = 16, targets = [w_up] }", base="mixtral_8x7b")
    one = 4096 * 16 * 2
    assert [read(plan, n) / one for n in (1, 5)] == pytest.approx([2, 10])
    few = plan_of("lora { adapters = 16, rank = 16, targets = [w_up], active = 1 }", base="mixtral_8x7b")
    assert read(few, 2000) / one == pytest.approx(8)


def test_a_mixed_step_counts_prompts_and_requests_that_decode() -> None:
    """Its tokens are bound as those of one request."""
    plan = plan_of("lora { adapters = 64, rank = 256, targets = all }", rest="chunked_prefill = 512")
    bare = plan_of("", rest="chunked_prefill = 512")

    def added(decodes: int) -> float:
        step = Step(Prompt(1, 500 - decodes, chunk=True), Decode(decodes, 500))
        own, without = (float(p.cost.main.step(step, 1).through) for p in (plan, bare))
        return own - without

    one = (plan.estimate().memory.weights - bare.estimate().memory.weights) / 64
    assert 1 < (added(40) - added(4)) / (36 * one / 3.35e12) < 1.5


# ---- which of them requests name

LOGNORMAL = (("p50", 1.0), ("sigma", 1.0))  # as a plan would state it, which the simulation does not read
BOUNDED, OTHERS = (
    st.builds(Zipf, st.floats(0, 2), st.just(1), st.integers(1, 300))
    | st.builds(lambda low, more: Uniform(low, low + more), st.integers(1, 50), st.integers(0, 100))
    | st.builds(Fixed, st.integers(1, 9).map(float)),
    st.builds(Normal, st.floats(1, 40), st.floats(0.5, 20), st.just(Bounds(1.0, 50.0)))
    | st.builds(Exponential, st.floats(1, 40))
    | st.builds(Lognormal, st.just(LOGNORMAL), mu=st.floats(0, 3), sigma=st.floats(0.1, 1)),
)


@draws(1 / 2)
@given(BOUNDED | OTHERS, st.integers(1, 60), st.sampled_from((1.0, 0.4)))
@example(Exponential(6.0, Bounds(3.0, 9.0)), 20, 1.0)
@example(Normal(8.0, 3.0, Bounds(1.0, 12.0)), 20, 0.4)
@example(Lognormal(LOGNORMAL, 1.5, 0.6), 20, 1.0)
def test_the_mean_of_different_adapters_is_that_of_drawn_requests(which: object, n: int, share: float) -> None:
    """Over 400 steps of n requests, drawn as the simulation draws them; within five standard errors."""
    chances = chances_of(which)  # type: ignore[arg-type]
    assert chances is not None
    assert sum(chances.values()) == pytest.approx(1)
    mix = show_mix(mix_of(TrafficSpec(adapters=AdaptersSpec(which, share))))  # type: ignore[arg-type]
    assert mix is not None
    drawn = draw_whole(which, Stream(1, Purpose.ADAPTERS, 0), 400 * n)  # type: ignore[arg-type]
    drawn = np.where(Stream(1, Purpose.ADAPTED, 0).uniform(400 * n) < share, drawn, 0).reshape(400, n)
    seen = np.array([len(set(row.tolist()) - {0}) for row in drawn])
    error = max(5 * float(seen.std()) / 20, 0.02 * n / 60 + 0.05)
    assert abs(float(distinct(mix, n)) - seen.mean()) < error


LOAD = """
plan p {{
  model = llama_3_1_8b with {{ lora {{ adapters = 8, rank = 64, targets = all, host_bandwidth = 25 GB/s }} }}
  node = h100_1
  workload {{ input = 300, output = 20, rate = 4 req/s, {named} }}
}}
"""


@pytest.mark.parametrize(
    ("named", "count"),
    [
        ("adapters = 3", 1.0),
        ("adapters = 3, adapted = 50 %", 1 - 0.5**4),
        ("adapters = uniform(1, 100)", 100 * (1 - 0.99**4)),
        ("adapters = zipf(1, max = 2)", 2 - (1 / 3) ** 4 - (2 / 3) ** 4),
    ],
)
def test_a_load_that_names_adapters_says_how_many_a_step_has(named: str, count: float) -> None:
    (plan,) = compile_text(LOAD.format(named=named))
    at = plan.cost.main.decode.bound_sizes({"batch": 4, "context": 100, "queries": 1})
    assert isinstance(at, Binding)
    assert float(works(plan)[0].met(at)) == pytest.approx(count)


def test_a_class_counts_by_its_share() -> None:
    (plan,) = compile_text("""
        plan p {
          model = llama_3_1_8b with { lora { adapters = 8, rank = 64, targets = all, host_bandwidth = 25 GB/s } }
          node = h100_1
          workload {
            rate = 4 req/s
            class tuned { share = 25 %, input = 300, output = 20, adapters = 7 }
            class plain { share = 75 %, input = 300, output = 20 }
          }
        }
    """)
    assert plan.spec.model.lora is not None
    assert plan.spec.model.lora.mix == ((1, 0.25),)
