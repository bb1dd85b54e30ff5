"""Money, energy and fleets: what a plan costs and draws, and how many copies of it a demand takes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from attrs import evolve
from hypothesis import assume, given
from hypothesis import strategies as st

from plandsl.answers.estimate import Estimate
from plandsl.answers.money import Served
from plandsl.backends.cost.answers.money import Economics, _level_beside, _request_level, economics
from plandsl.backends.cost.answers.shares import shares
from plandsl.backends.cost.deployments.deployment import Deployment
from plandsl.cli import main
from plandsl.codes_money import MONEY_CODES
from plandsl.diagnostics import PlanError
from plandsl.driver import CompiledPlan, check_module, compile_text, open_text
from plandsl.ir.types import Number
from plandsl.show import show_plan
from plandsl.spec.plan import PlanSpec
from plandsl.spec.power import POWER_BAND
from plandsl.testing import compiled, mixtures, plans
from plandsl.units import ENERGY, MONEY, POWER, UNITS, show_energy, show_money, show_power
from tests.draws import draws

HOUR = 3600.0
LOAD = "workload { input = 1000, output = 200, batch = 16 }"
POOLS = """  prefill { node = h100_8, sharding { tp = 2 } }
  decode { node = h200_8, sharding { tp = 4 } }
  transfer { bandwidth = 50 GB/s, latency = 10 us }
"""


def made(more: str = LOAD, node: str = "h100_8", sharding: str = "tp = 2", model: str = "llama_3_1_8b") -> CompiledPlan:
    place = "" if "prefill {" in more else f"node = {node}, sharding {{ {sharding} }}"
    return compile_text(f"plan p {{ model = {model}\n {place}\n {more}\n}}")[0]


def estimate(more: str = LOAD, node: str = "h100_8", sharding: str = "tp = 2") -> Estimate:
    return made(more, node, sharding).closed_form()


def spent(cost: Deployment, **load: Number) -> Economics:
    m, own = cost.evaluate(**load), cost.plan.workload
    input_, output = load.get("input", own.input), load.get("output", own.output)
    return economics(cost, m, shares(cost, m).phases, input_, output)


def codes(error: PlanError) -> set[str]:
    return {d.code for d in error.diagnostics}


# ---- prices


def test_the_cost_is_the_price_of_all_gpus_over_the_throughput() -> None:
    e = estimate(node="h100_8 with { gpu { price = 3 USD/h } }")
    assert e.money is not None
    assert e.money.usd_per_h == pytest.approx(2 * 3, rel=1e-15)
    assert e.cost_usd_per_mtok == pytest.approx(1e6 * 2 * 3 / HOUR / e.throughput_tokens_per_s, rel=1e-15)
    assert e.money.sources == ()


def test_a_node_with_a_price_is_paid_whole() -> None:
    e = estimate(node="h100_8 with { price = 20 USD/h }")
    assert e.money is not None
    assert e.money.usd_per_h == pytest.approx(20)
    both = made(node="h100_8 with { price = 20 USD/h, gpu { price = 2 USD/h } }")
    assert "N463" in {d.code for d in both.said}
    assert "N463" not in {d.code for d in made(node="h100_8 with { price = 20 USD/h }").said}


def test_pools_pay_for_their_own_nodes() -> None:
    e = estimate(POOLS + LOAD)
    assert e.money is not None
    assert e.money.usd_per_h == pytest.approx(2 * 3.20 + 4 * 3.99)
    assert e.money.prefill_share == pytest.approx(2 * 3.20 / (2 * 3.20 + 4 * 3.99))


def test_a_tariff_picks_the_price() -> None:
    e = estimate("pricing = reserved\n" + LOAD)
    assert e.money is not None
    assert (e.money.tariff, e.money.usd_per_h) == ("reserved", pytest.approx(2 * 2.72))


def test_a_price_that_is_stated_anew_leaves_out_the_others() -> None:
    gpu = made(node="h100_8 with { gpu { price = 1 USD/h } }").spec.node.gpu
    assert (gpu.price, gpu.price_reserved, gpu.price_source) == (1 / HOUR, None, "")
    both = made(node="h100_8 with { gpu { price = 1 USD/h, price_reserved = 0.5 USD/h } }").spec.node.gpu
    assert (both.price_reserved, both.price_source) == (0.5 / HOUR, "")
    kept = made(node="h100_8 with { gpu { bandwidth = 3 TB/s } }").spec.node.gpu
    assert kept.price_source == "Hyperstack price list, 2026-08-26"


@pytest.mark.parametrize(
    "metric", ["cost <= 1 USD", "cost_input <= 1 USD", "spend <= 9 USD/h", "cost_request <= 1 USD"]
)
def test_money_without_a_price_is_an_error_that_names_the_field(metric: str) -> None:
    with pytest.raises(PlanError) as caught:
        made(f"{LOAD}\n require {metric}", node="h20_8")
    assert codes(caught.value) == {"E309"}
    with pytest.raises(PlanError, match="price_reserved"):
        made(f"{LOAD}\n pricing = reserved\n require {metric}", node="l40s_2")
    assert estimate(node="h20_8").money is None


@pytest.mark.parametrize(("more", "node"), [(LOAD, "h20_8"), (LOAD, "h100_nvl_2")])
def test_energy_without_powers_is_an_error(more: str, node: str) -> None:
    with pytest.raises(PlanError) as caught:
        made(f"{more}\n require energy <= 1 J and power <= 9 kW", node=node)
    assert codes(caught.value) == {"E463"}
    assert estimate(node=node).energy is None


@pytest.mark.parametrize("code", [c for c, parts in MONEY_CODES.items() if parts[2]])
def test_each_code_has_an_example_that_causes_it(code: str) -> None:
    assert code in {d.code for d in check_module(open_text(MONEY_CODES[code][2]))}


# ---- input and output


@pytest.mark.parametrize(
    "load",
    [
        LOAD,
        "workload { input = 1000, output = 200, concurrency = 40 }",
        "chunked_prefill = 512\n workload { input = 1000, output = 200, concurrency = 40 }",
        "chunked_prefill = 512\n engine = vllm\n " + LOAD,
        POOLS + LOAD,
        "speculate { draft = llama_3_2_1b, tokens = 2, acceptance = 0.7 }\n " + LOAD,
    ],
)
def test_input_and_output_pay_the_whole_rent(load: str) -> None:
    e = estimate(load)
    assert e.money is not None
    m = e.money
    assert 0 < m.prefill_share < 1
    assert 1000 * m.input_usd_per_mtok + 200 * m.output_usd_per_mtok == pytest.approx(1e6 * m.usd_per_request)
    assert 1200 * m.blended_usd_per_mtok == pytest.approx(1e6 * m.usd_per_request)
    assert 200 * m.usd_per_mtok == pytest.approx(1e6 * m.usd_per_request)


def test_longer_prompts_move_the_rent_to_input() -> None:
    cost = made().cost
    share = spent(cost, input=np.array([10, 100, 1000, 10_000])).prefill
    assert np.all(np.diff(np.asarray(share)) > 0)
    assert float(spent(cost, output=1).prefill) == 1.0


# ---- energy


def test_energy_is_power_over_throughput() -> None:
    e = estimate(node="h100_8 with { overhead = 100 W, pue = 1.5 }")
    assert e.energy is not None
    assert e.energy.power_w == pytest.approx(1.5 * (e.energy.gpu_power_w + 2 * 100))
    assert e.energy.j_per_token == pytest.approx(e.energy.power_w / e.throughput_tokens_per_s)
    assert e.energy.j_per_request == pytest.approx(200 * e.energy.j_per_token)
    assert e.energy.pue == pytest.approx(1.5)
    low, high = e.energy.power_w_band
    assert low <= e.energy.power_w <= high <= 1.5 * 2 * (700 + 100)


MEASURED = (
    ("llama_3_1_8b", "h100_1", 8, 389, 486), ("llama_3_1_8b", "h100_1", 64, 396, 610),
    ("llama_3_1_8b", "h100_1", 256, 404, 691), ("llama_3_1_70b", "h100_4", 8, 350, 441),
    ("llama_3_1_70b", "h100_4", 32, 351, 448), ("llama_3_1_70b", "h100_4", 768, 351, 634),
    ("llama_3_1_70b", "b200_2", 32, 346, 867), ("llama_3_1_70b", "b200_2", 512, 352, 966),
    ("qwen3_32b", "b200_1", 64, 631, 945),
)  # fmt: skip
"""Model, node, requests in flight, output tokens, and W of a GPU as the ML.ENERGY Leaderboard measured them."""


def test_the_law_of_power_meets_servings_that_were_measured() -> None:
    ratios = []
    for model, node, many, output, watts in MEASURED:
        gpus = int(node[-1])
        load = f"engine = vllm, workload {{ input = 250, output = {output}, concurrency = {many} }}"
        e = made(load, node, f"tp = {gpus}", model).closed_form()
        assert e.energy is not None
        ratios.append(watts * gpus / e.energy.gpu_power_w)
    assert all(0.75 <= ratio <= 1.25 for ratio in ratios)
    assert sum(POWER_BAND[0] <= ratio <= POWER_BAND[1] for ratio in ratios) >= 0.8 * len(ratios)


@pytest.mark.parametrize("sharding", ["tp = 2", "tp = 2, pp = 2"])
def test_a_draft_asks_for_what_it_would_as_a_model_of_its_own(sharding: str) -> None:
    """The dynamic power of a model by its MFU and MBU is that by its FLOPs and bytes, as drafts and towers have it."""
    cost = made(sharding=sharding).cost
    m = cost.evaluate()
    for times, used in zip((m.prefill, m.decode), shares(cost, m).phases, strict=True):
        (run,) = times.runs
        alone = _request_level(cost.pools[0].one, times, used)
        assert _level_beside(run, run.bind["batch"]) == pytest.approx(alone, rel=1e-12)


def test_what_computes_draws_more_than_what_waits_for_memory() -> None:
    e = spent(made().cost, batch=np.array([1, 8, 64]))
    power = np.asarray(e.gpu_power)
    assert np.all(np.diff(power) > 0)
    assert np.all(np.diff(np.asarray(e.energy)) < 0)
    assert np.all(power <= 1400)


def test_a_power_limit_bounds_the_power() -> None:
    load = "workload { input = 8000, output = 2, batch = 8 }"
    free, bound = (estimate(load, node=f"h100_8 with {{ {g} }}") for g in ("overhead = 0 W", "gpu { power = 400 W }"))
    assert free.energy is not None
    assert bound.energy is not None
    assert free.energy.gpu_power_w > bound.energy.gpu_power_w
    assert bound.energy.gpu_power_w <= 2 * 400


def test_a_pool_without_prompts_draws_idle_power() -> None:
    rare = "workload { input = 16, output = 2000, batch = 1 }"
    e = estimate(POOLS + rare)
    assert e.energy is not None
    assert e.energy.gpu_power_w < 2 * 75 + 4 * 700
    assert e.energy.gpu_power_w > 2 * 70 + 4 * 76


# ---- laws


def priced(plan: PlanSpec, price: float) -> PlanSpec:
    groups = tuple((n, evolve(gpu, price=price)) for n, gpu in plan.node.groups)
    gpus = groups if plan.node.gpus else ()
    return evolve(plan, requires=(), node=evolve(plan.node, gpu=groups[0][1], gpus=gpus))


@draws(1 / 3)
@given(plans(), st.sampled_from((1, 2, 5)))
def test_money_follows_prices(plan: PlanSpec, cents: int) -> None:
    """The cost is price times GPUs over throughput, to the last digit; twice the price is twice the money."""
    price = cents / 360_000
    one, two = (spent(compiled(priced(plan, p)).cost) for p in (price, 2 * price))
    assume(float(one.requests) > 0)
    rate = float(one.requests) * plan.workload.counted
    assert float(one.cost or 0) == price * plan.sharding.ranks / rate * 1e6
    for a, b in zip(one.metrics.items(), two.metrics.items(), strict=True):
        paid = a[0].startswith("cost") or a[0] == "spend"
        assert float(b[1]) == pytest.approx(float(a[1]) * (2 if paid else 1), rel=1e-12)
    i, o = plan.workload.input, plan.workload.output
    assert i * float(one.input_cost or 0) + o * float(one.output_cost or 0) == pytest.approx(
        1e6 * float(one.request_cost or 0)
    )


@draws(1 / 4)
@given(mixtures())
def test_power_lies_between_idle_and_the_limit(plan: PlanSpec) -> None:
    model = compiled(evolve(plan, requires=())).cost
    e = spent(model)
    assume(e.drawn is not None and float(e.requests) > 0)
    assert e.drawn is not None
    for pool in e.drawn:
        assert pool.may.idle <= float(pool.gpus) * (1 + 1e-12)
        assert float(pool.gpus) <= pool.may.limit * (1 + 1e-12)
    seconds = 1 / float(e.requests)
    assert float(e.request_energy or 0) >= sum(pool.may.idle for pool in e.drawn) * seconds * (1 - 1e-12)


@draws(1 / 3)
@given(plans(), st.floats(0.01, 1e4))
def test_a_demand_takes_the_fewest_copies(plan: PlanSpec, demand: float) -> None:
    e = spent(compiled(priced(plan, 1 / HOUR)).cost)
    assume(float(e.requests) > 0)
    every = compiled(evolve(priced(plan, 1 / HOUR), workload=evolve(plan.workload, demand=demand))).closed_form().fleet
    assert every is not None
    assert every.copies * float(e.requests) >= demand * (1 - 1e-9)
    assert (every.copies - 1) * float(e.requests) < demand
    assert every.usd_per_h == pytest.approx(every.copies * plan.sharding.ranks)


# ---- fleets


def test_the_compiler_chooses_requests_in_flight_that_keep_the_bounds() -> None:
    plan = made("workload { input = 1000, output = 200, demand = 50 req/s }\n require tpot <= 6 ms and ttft <= 1 s")
    e = plan.closed_form()
    assert e.fleet is not None
    assert e.load is not None
    assert e.ok
    assert e.tpot_s <= 6e-3
    assert e.throughput_tokens_per_s / 200 * e.fleet.copies >= 50 * (1 - 1e-9)
    loose = made("workload { input = 1000, output = 200, demand = 50 req/s }\n require tpot <= 100 ms").closed_form()
    assert loose.fleet is not None
    assert loose.fleet.copies < e.fleet.copies
    fewer = plan.cost.evaluate(concurrency=e.load.concurrency - 1)
    assert float(fewer.throughput) / 200 * e.fleet.copies < 50
    assert [d.code for d in plan.said].count("N464") == 1


def test_bounds_that_no_copy_keeps_are_missed() -> None:
    e = estimate("workload { input = 1000, output = 200, demand = 50 req/s }\n require tpot <= 1 us")
    assert not e.ok
    assert e.load is not None
    assert e.load.concurrency == 1


def test_copies_share_nodes() -> None:
    load = "workload { input = 1000, output = 200, batch = 16, demand = 40 req/s }"
    e = estimate(load, node="h100_8 with { price = 20 USD/h }")
    assert e.fleet is not None
    assert 1 < e.fleet.copies <= 4
    assert (e.fleet.nodes, e.fleet.usd_per_h) == (1, pytest.approx(20))
    assert e.fleet.usd_per_month == pytest.approx(20 * 730)


def test_requirements_on_money_are_about_all_copies() -> None:
    more = "\n require gpus <= 4 and spend <= 9 USD/h and request_throughput >= 40 req/s and power >= 1 kW"
    e = estimate("workload { input = 1000, output = 200, batch = 16, demand = 40 req/s }" + more)
    assert e.fleet is not None
    values = {r.text.split()[0]: r.value for r in e.requires}
    assert values["gpus"] == e.fleet.gpus
    assert values["spend"] == pytest.approx((e.fleet.usd_per_h or 0) / HOUR)
    assert values["request_throughput"] == 40
    assert values["power"] == e.fleet.power_w


@pytest.mark.parametrize(
    "more",
    [
        POOLS + "workload { input = 1000, output = 200, demand = 90 req/s }",
        "speculate { draft = llama_3_2_1b, tokens = 2, acceptance = 0.7 }\n"
        "workload { input = 1000, output = 200, demand = 90 req/s }",
        "engine = vllm, chunked_prefill = 2048, workload { input = 1000, output = 200, demand = 90 req/s }",
        "engine = vllm, workload { input = 1000, output = uniform(100, 300), rate = 9 req/s, demand = 90 req/s }",
        "engine = vllm, workload { input = 1000, output = 200, concurrency = 20, demand = 90 req/s }",
    ],
)
def test_every_kind_of_plan_has_a_fleet(more: str) -> None:
    plan = made(more)
    e = plan.closed_form()
    assert e.fleet is not None
    assert e.fleet.copies > 1
    assert show_plan(compile_text(show_plan(plan.spec))[0].spec) == show_plan(plan.spec)


def test_a_cluster_a_shift_and_unlike_gpus_have_fleets() -> None:
    text = """
node mixed { gpus = [4 * h100_sxm, 4 * h200_sxm], link { topology = switch, bandwidth = 450 GB/s, latency = 2 us } }
workload w { input = 1000, output = 200, demand = 90 req/s }
plan shifted {
  model = llama_3_1_8b, node = h100_8, workload = w
  shift { threshold = 256, base { sp = 8 }, tensor { tp = 8 } }
}
plan wide { model = llama_3_1_8b, cluster = h100_8x4, sharding { dp = 2, tp = 8 }, workload = w }
plan unlike { model = llama_3_1_8b, node = mixed, sharding { tp = 8 }, workload = w }
plan spread { model = qwen3_30b_a3b, node = h200_8, sharding { ep = 8 }, workload = w }
"""
    found = {one.name: one.closed_form() for one in compile_text(text)}
    fleets = {name: e.fleet for name, e in found.items() if e.fleet}
    assert set(fleets) == {"shifted", "wide", "unlike", "spread"}
    assert fleets["wide"].nodes == 2 * fleets["wide"].copies
    assert found["unlike"].money is not None
    assert found["unlike"].money.usd_per_h == pytest.approx(4 * 3.20 + 4 * 3.99)


# ---- searches


def rows(text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> list[dict[str, float]]:
    file = tmp_path / "s.plan"
    file.write_text(text)
    assert main(["search", str(file), "--json"]) == 0
    (one,) = json.loads(capsys.readouterr().out)["searches"]
    return [dict(row) for row in one["top"]]


SEARCH = """search s {{
  model = llama_3_1_8b, node = h100_8
  workload {{ input = 1000, output = 200, demand = 60 req/s }}
  vary tp in [1, 2, 4, 8]
  require tpot <= 20 ms
  {goal}
}}"""


def test_minimize_gpus_finds_the_fewest_that_meet_the_requirements(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = rows(SEARCH.format(goal="minimize gpus"), tmp_path, capsys)
    load = "workload { input = 1000, output = 200, demand = 60 req/s }\n require tpot <= 20 ms"
    each = [made(load, sharding=f"tp = {n}") for n in (1, 2, 4, 8)]
    gpus = [e.fleet.gpus for plan in each if (e := plan.closed_form()).ok and e.fleet]
    assert found[0]["gpus"] == min(gpus)
    assert [row["gpus"] for row in found] == sorted(gpus)


@pytest.mark.parametrize(
    ("goal", "field"),
    [
        ("minimize spend", "spend_usd_per_s"), ("minimize cost", "cost_usd_per_mtok"),
        ("minimize energy", "energy_j_per_token"), ("minimize power", "power_w"),
        ("minimize cost_input", "cost_input_usd_per_mtok"), ("minimize cost_request", "cost_usd_per_request"),
    ],
)  # fmt: skip
def test_goals_of_money_and_energy_rank(
    goal: str, field: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values = [row[field] for row in rows(SEARCH.format(goal=goal), tmp_path, capsys)]
    assert values == sorted(values)
    assert len(values) > 1


def test_arrays_of_a_search_are_the_numbers_of_a_plan(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = SEARCH.format(goal="minimize energy").replace("tp in [1, 2, 4, 8]", "batch in [4, 32], tp in [1, 2]")
    for row in rows(text, tmp_path, capsys):
        batch, tp = row["choices"]["batch"], row["choices"]["tp"]
        e = estimate(
            f"workload {{ input = 1000, output = 200, batch = {batch}, demand = 60 req/s }}", sharding=f"tp = {tp}"
        )
        assert e.fleet is not None
        assert (row["gpus"], row["copies"]) == (e.fleet.gpus, e.fleet.copies)
        assert row["power_w"] == pytest.approx(e.fleet.power_w, rel=1e-9)
        assert row["energy_j_per_token"] == pytest.approx(e.fleet.j_per_token, rel=1e-9)
        assert row["spend_usd_per_s"] * HOUR == pytest.approx(e.fleet.usd_per_h, rel=1e-9)


# ---- words and units


def test_units_of_energy_convert() -> None:
    assert UNITS["kWh"] == (3.6e6, ENERGY)
    assert UNITS["MJ"][0] == 1e6
    assert UNITS["kW"] == (1000.0, POWER)
    assert UNITS["USD"] == (1.0, MONEY)
    assert [show_energy(0.25), show_energy(5400.0)] == ["250 mJ", "5.40 kJ"]
    assert [show_power(997.0), show_power(2980.0)] == ["997 W", "2.98 kW"]
    assert [show_money(9344.4), show_money(0.0196)] == ["9,344 USD", "0.020 USD"]
    plan = made(LOAD + "\n require energy <= 0.001 kWh and power <= 1 kW * 9 and spend <= 0.01 USD / 1 s")
    assert [r.bound for r in plan.spec.requires] == [3600.0, 9000.0, 0.01]


def test_a_let_may_have_the_name_of_a_metric() -> None:
    text = f"let power = 9 kW\nplan p {{ model = llama_3_1_8b, node = h100_1, {LOAD}\n require power <= power\n}}"
    (plan,) = compile_text(text)
    assert plan.spec.requires[0].bound == 9000


def test_the_report_names_the_price_and_what_the_power_counts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "p.plan"
    load = "workload { input = 1000, output = 200, batch = 16, demand = 40 req/s }"
    file.write_text(f"plan p {{ model = llama_3_1_8b, node = l40s_2\n {load} }}")
    assert main(["compile", str(file)]) == 0
    out = capsys.readouterr().out
    assert "fleet  " in out
    assert "an hour on demand, Crusoe price list, 2026-09-20" in " ".join(out.split())
    assert "power of GPUs alone" in out
    assert "by the law of H100 and B200" in out


# ---- other commands


def test_a_simulation_pays_for_the_rate_that_it_serves() -> None:
    plan = made("workload { input = 300, output = 20, rate = 6 req/s, requests = 100, demand = 40 req/s }")
    e, run = plan.closed_form(), plan.simulate().simulation
    assert e.money is not None
    assert e.energy is not None
    assert run.spent is not None
    assert run.spent.usd_per_h == pytest.approx(e.money.usd_per_h)
    assert run.spent.usd_per_mtok == pytest.approx(e.money.usd_per_h / HOUR / run.summary.output_rate * 1e6)
    assert e.energy.idle_w <= (run.spent.power_w or 0) <= e.energy.power_w
    assert (run.spent.j_per_token or 0) * run.summary.output_rate == pytest.approx(run.spent.power_w)
    seeds = plan.simulate_seeds(2)
    assert seeds.mean.spent is not None
    assert seeds.mean.spent.usd_per_h == pytest.approx(e.money.usd_per_h)
    rate = plan.find_rate()
    assert rate.copies is not None
    assert rate.copies * rate.value >= 40 > (rate.copies - 1) * rate.value
    assert rate.usd_per_h == pytest.approx(rate.copies * e.money.usd_per_h)


def test_a_simulation_without_prices_and_powers_says_neither() -> None:
    run = made("workload { input = 300, output = 20, batch = 2 }", node="h20_8").simulate().simulation
    assert run.spent == Served(None, None, None, None)


def test_one_copy_of_a_fleet_is_served_with_the_requests_that_the_compiler_chose() -> None:
    plan = made("workload { input = 300, output = 20, demand = 40 req/s }")
    assert plan.served.spec.workload.concurrency == plan.cost.plan.workload.concurrency
    assert made().served.spec.workload.concurrency is None


def test_replicas_over_the_day_draw_what_their_rates_take() -> None:
    rate = "rate = varying([[0 h, 2 req/s], [1 h, 30 req/s]], every = 2 h)"
    found = made(f"workload {{ input = 300, output = 20, {rate} }}\n require ttft <= 1 s").autoscale(requests=20)
    assert found.energy_kwh is not None
    scaled, fixed = found.energy_kwh
    assert scaled <= fixed * (1 + 1e-12)
    idle = sum(one.hours * one.replicas for one in found.intervals) * 2 * (70 + 350) / 1000
    limit = sum(one.hours * one.replicas for one in found.intervals) * 2 * (700 + 350) / 1000
    assert idle <= scaled <= limit
    assert scaled == pytest.approx(sum((one.power_w or (0, 0))[0] * one.hours / 1000 for one in found.intervals))
    low, high = ((one.power_w or (0, 0))[0] / one.replicas for one in found.intervals)
    assert low < high


def test_a_replica_pays_its_share_of_a_node() -> None:
    load = "workload { input = 300, output = 20, rate = 2 req/s, requests = 20, duration = 1 h }"
    found = made(load, node="h100_8 with { price = 24 USD/h }").autoscale(requests=20)
    assert found.price_usd_per_h == pytest.approx(6)


def test_differences_and_explanations_tell_money(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "two.plan"
    file.write_text(
        f"plan a {{ model = llama_3_1_8b, node = h100_8, sharding {{ tp = 2 }}, {LOAD} }}\n"
        "plan b = a with { sharding { tp = 4 } }\n"
    )
    a, b = (plan.closed_form() for plan in compile_text(file.read_text()))
    assert a.money is not None
    assert b.energy is not None
    assert main(["diff", str(file), "--json"]) == 0
    first, second = json.loads(capsys.readouterr().out)["plans"]
    assert (first["money"], second["energy"]) == (a.money.as_json(), b.energy.as_json())
    assert main(["diff", str(file)]) == 0
    assert f"{show_money(a.money.usd_per_mtok)} -> " in capsys.readouterr().out
    assert main(["explain", str(file), "--plan", "b"]) == 0
    assert f"energy {show_energy(b.energy.j_per_token)} per output token" in capsys.readouterr().out
