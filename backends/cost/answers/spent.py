"""From economics to the typed answers of money, energy and fleets."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from plandsl.answers.money import KWH, Energy, Fleet, Money, spent_at
from plandsl.answers.phases import PhaseEstimate
from plandsl.backends.cost.answers.money import Economics, economics, serve_demand
from plandsl.backends.cost.answers.shares import Used, shares
from plandsl.backends.cost.deployments.deployment import Deployment, Metrics
from plandsl.spec.money import MONTH_HOURS, nodes_used, price_sources
from plandsl.spec.plan import PlanSpec
from plandsl.spec.power import POWER_BAND, POWER_FITTED
from plandsl.units import HOUR
from plandsl.values import sum_up

if TYPE_CHECKING:
    from plandsl.backends.cost.answers.simulation import Run


class Spent(NamedTuple):
    """What a plan costs and draws, and the values of its metrics: those of all copies where a demand asks for them."""

    money: Money | None
    energy: Energy | None
    fleet: Fleet | None
    values: dict[str, float]


def spend(model: Deployment, m: Metrics, prefill: PhaseEstimate, decode: PhaseEstimate) -> Spent:
    """What a plan costs and draws under its own load."""
    load, plan = model.plan.workload, model.plan
    used = Used(prefill.mfu, prefill.mbu), Used(decode.mfu, decode.mbu)
    one = economics(model, m, used, load.input, load.output)
    fleet, every = None, one
    if load.demand is not None:
        own = one if load.rate is None else one.scaled(1, min(load.rate, float(one.requests)))
        every = serve_demand(own, load.demand)
        copies = int(every.copies)
        fleet = _fleet(plan, every, load.demand, copies)
    return Spent(_money(plan, one), _energy(plan, one), fleet, {n: float(v) for n, v in every.metrics.items()})


def with_spent(model: Deployment, run: Run) -> Run:
    """A run with what its plan costs and draws at the rate that was served; ``model`` is its load in closed form."""
    m, plan = model.own, model.plan
    one = economics(model, m, shares(model, m).phases, plan.workload.input, plan.workload.output)
    found = spent_at(run.simulation.summary.output_rate, float(m.throughput), _money(plan, one), _energy(plan, one))
    return run._replace(simulation=run.simulation._replace(spent=found))


def _money(plan: PlanSpec, e: Economics) -> Money | None:
    if e.rent is None or e.cost is None or e.request_cost is None:
        return None
    return Money(
        tariff=plan.pricing,
        usd_per_h=float(e.rent) * HOUR,
        usd_per_request=float(e.request_cost),
        usd_per_mtok=float(e.cost),
        input_usd_per_mtok=float(e.input_cost or 0.0),
        output_usd_per_mtok=None if e.encodes else float(e.output_cost or 0.0),
        blended_usd_per_mtok=float(e.blended_cost or 0.0),
        prefill_share=float(e.prefill),
        sources=tuple(price_sources(plan)),
    )


def _energy(plan: PlanSpec, e: Economics) -> Energy | None:
    if e.drawn is None or e.power is None or e.energy is None:
        return None
    idle = float(sum_up((pool.idle + pool.copies * pool.may.overhead) * pool.may.pue for pool in e.drawn))
    most = float(sum_up((pool.may.limit + pool.may.overhead) * pool.may.pue for pool in e.drawn))
    power, gpus = float(e.power), float(e.gpu_power or 0.0)
    beside = sum_up(float(pool.gpus) * pool.may.pue for pool in e.drawn)
    low, high = (power + (factor - 1) * beside for factor in POWER_BAND)
    return Energy(
        power_w=power,
        power_w_band=(max(low, min(idle, power)), min(high, max(most, power))),
        gpu_power_w=gpus,
        idle_w=idle,
        j_per_token=float(e.energy),
        j_per_request=float(e.request_energy or 0.0),
        whole=all(pool.may.whole for pool in e.drawn),
        pue=power / float(sum_up(pool.gpus + pool.copies * pool.may.overhead for pool in e.drawn)),
        fitted=all(_fitted(pool) for pool in plan.pools),
    )


def _fitted(plan: PlanSpec) -> bool:
    """Whether the law of power was fitted on every GPU of a pool."""
    return all({kind.node.gpu.name, *kind.node.gpu.bases} & set(POWER_FITTED) for kind in plan.kinds)


def _fleet(plan: PlanSpec, e: Economics, demand: float, copies: int) -> Fleet:
    rent = None if e.rent is None else float(e.rent) * HOUR
    power = None if e.power is None else float(e.power)
    return Fleet(
        demand=demand,
        copies=copies,
        replicas=copies * plan.sharding.replicas,
        gpus=int(e.gpus),
        nodes=nodes_used(plan, copies),
        requests_per_s_each=demand / copies,
        usd_per_h=rent,
        usd_per_month=None if rent is None else rent * MONTH_HOURS,
        usd_per_mtok=None if e.cost is None else float(e.cost),
        power_w=power,
        kwh_per_month=None if power is None else power * MONTH_HOURS * HOUR / KWH,
        j_per_token=None if e.energy is None else float(e.energy),
    )
