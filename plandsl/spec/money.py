"""What GPUs and nodes cost and draw: the rent of a plan, and the limits of its power."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from plandsl.spec.hardware import GpuSpec, NodeSpec
from plandsl.spec.plan import TARIFFS, PlanSpec
from plandsl.values import sum_up

MONTH_HOURS = 730.0
"""Hours of a month, a twelfth of a year of 8,760 hours, by which clouds quote."""

PAID = ("cost", "cost_input", "cost_output", "cost_blended", "cost_request", "spend")
"""Metrics that need a price of every GPU."""

DRAWN = ("energy", "energy_request", "power")
"""Metrics that need the power of every GPU."""


class Host(NamedTuple):
    """A node on which some ranks of a plan stand, and how many GPUs of each kind they stand on."""

    node: NodeSpec
    gpus: tuple[tuple[int, GpuSpec], ...]


def hosts(plan: PlanSpec) -> Iterator[Host]:
    """The nodes of one pool that its ranks stand on, in the order of ranks."""
    left = plan.sharding.ranks
    for many, node in ((1, plan.node),) if plan.cluster is None else plan.cluster.groups:
        for _ in range(many):
            taken = []
            for count, gpu in node.groups:
                taken += [(min(count, left), gpu)] if left > 0 else []
                left -= count
            if not taken:
                return
            yield Host(node, tuple(taken))


def price_of(of: GpuSpec | NodeSpec, tariff: str) -> float | None:
    """USD per second by a tariff; None where it is not known."""
    return of.price if tariff == TARIFFS[0] else of.price_reserved


class Rent(NamedTuple):
    """What a plan pays, in USD/s: for the GPUs that it uses, and for each pool whose nodes are paid whole.

    ``nodes`` has the price of such a pool's nodes, and how many copies of the plan share them.
    """

    gpus: float
    nodes: tuple[tuple[float, int], ...] = ()

    @property
    def one(self) -> float:
        """USD/s of one copy of the plan."""
        return self.gpus + sum_up(price for price, _ in self.nodes)

    @property
    def share(self) -> float:
        """USD/s of one of many copies: of a node that several copies share, it pays its part."""
        return self.gpus + sum_up(price / copies for price, copies in self.nodes)


def rent(plan: PlanSpec) -> Rent | None:
    """What a plan pays; None where the price of one of its GPUs is not known.

    A node with a price of its own by the plan's tariff is paid whole, whatever GPUs of it are used; of other nodes, the
    GPUs that ranks stand on are paid.
    """
    gpus: dict[float, int] = {}  # how many at each price: so many times the price is exact, a sum of prices is not
    nodes = []
    for pool in plan.pools:
        whole = 0.0
        for node, used in hosts(pool):
            price = price_of(node, pool.pricing)
            whole += price or 0.0
            for count, gpu in used if price is None else ():
                own = price_of(gpu, pool.pricing)
                if own is None:
                    return None
                gpus[own] = gpus.get(own, 0) + count
        nodes += [(whole, copies_on_node(pool))] if whole else []
    return Rent(sum_up(count * price for price, count in gpus.items()), tuple(nodes))


def copies_on_node(pool: PlanSpec) -> int:
    """How many copies of a pool stand on one node; 1 where one copy takes a node or more."""
    return max(pool.node.count // pool.sharding.ranks, 1) if pool.cluster is None else 1


def unpriced(plan: PlanSpec) -> list[str]:
    """The GPUs of a plan that have no price by its tariff, by name."""
    found = (
        gpu.name
        for pool in plan.pools
        for node, gpus in hosts(pool)
        for _, gpu in gpus
        if price_of(node, pool.pricing) is None and price_of(gpu, pool.pricing) is None
    )
    return list(dict.fromkeys(found))


def price_sources(plan: PlanSpec) -> list[str]:
    """Whose prices a plan pays, each once; empty where the plan states them."""
    found = (
        one.price_source
        for pool in plan.pools
        for node, gpus in hosts(pool)
        for one in ((node,) if price_of(node, pool.pricing) is not None else (gpu for _, gpu in gpus))
        if one.price_source
    )
    return list(dict.fromkeys(found))


def nodes_used(plan: PlanSpec, copies: int = 1) -> int:
    """The nodes on which the ranks of so many copies stand, in all pools."""
    return sum_up(-(-copies // copies_on_node(pool)) * sum(1 for _ in hosts(pool)) for pool in plan.pools)


class Draw(NamedTuple):
    """What the GPUs of one pool may draw, in W: ``idle`` without work, ``board`` at full work, ``limit`` at most.

    ``overhead`` is what hosts, fans and network cards draw, 0 where it is not known (not ``whole``); ``pue`` the mean
    factor of the building.
    """

    gpus: int
    idle: float
    board: float
    limit: float
    overhead: float
    whole: bool
    pue: float


def draw(plan: PlanSpec) -> Draw | None:
    """What the GPUs of one pool may draw; None where the power or the idle power of one is not known."""
    places = list(hosts(plan))
    gpus = [found for place in places for found in place.gpus]
    if any(gpu.power is None or gpu.power_idle is None for _, gpu in gpus):
        return None
    used = [sum_up(n for n, _ in place.gpus) for place in places]
    return Draw(
        gpus=sum_up(used),
        idle=sum_up(n * (gpu.power_idle or 0.0) for n, gpu in gpus),
        board=sum_up(n * (gpu.power_max or gpu.power or 0.0) for n, gpu in gpus),
        limit=sum_up(n * (gpu.power or 0.0) for n, gpu in gpus),
        overhead=sum_up(n * (node.overhead or 0.0) for n, (node, _) in zip(used, places, strict=True)),
        whole=all(node.overhead is not None for node, _ in places),
        pue=sum_up(n * node.pue for n, (node, _) in zip(used, places, strict=True)) / sum_up(used),
    )


def powerless(plan: PlanSpec) -> tuple[str, str] | None:
    """A GPU of a plan whose power is not known, and the field that it lacks; None where all have both."""
    for pool in plan.pools:
        for _, gpus in hosts(pool):
            for _, gpu in gpus:
                for name in ("power", "power_idle"):
                    if getattr(gpu, name) is None:
                        return gpu.name, name
    return None


def power_missing(gpu: str, name: str) -> str:
    """What is wrong with a GPU that lacks the power field ``name``."""
    what = "idle power" if name == "power_idle" else "power"
    return f"the {what} of `{gpu}` is not known, so there is no energy"


def power_hint(lacks: str) -> str:
    """How to state the power that ``gpu.field`` lacks."""
    example = "power_idle = 75 W" if lacks.endswith("power_idle") else "power = 700 W"
    return f"state it: `node = ... with {{ gpu {{ {example} }} }}`"
