"""What a plan costs and draws under a load: money and energy, for numbers or arrays.

The formulas and their sources are in docs/money.md.
"""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, NamedTuple, cast

from plandsl.backends.cost.answers.ideal import average_gpu, ideal_seconds
from plandsl.backends.cost.answers.lines import mean_contexts
from plandsl.backends.cost.answers.shares import Used, memory_bytes
from plandsl.backends.cost.deployments.deployment import Deployment, Metrics
from plandsl.backends.cost.deployments.server import Server
from plandsl.backends.cost.num import ceil_div, clip, maximum, minimum
from plandsl.backends.cost.time.phase import TOWER, PhaseTimes, ProgramRun
from plandsl.ir.extents import Extents
from plandsl.ir.types import Number
from plandsl.spec.money import Draw, Rent, draw, rent
from plandsl.spec.power import ACTIVE, COMPUTE, MEMORY
from plandsl.values import sum_up

if TYPE_CHECKING:
    from plandsl.backends.cost.deployments.pools import Pools

MILLION = 1e6

LEAST = 1e-30
"""Less than any time or rate; keeps quotients finite."""


def rent_of(paid: Rent, copies: Number) -> Number:
    """USD per second of so many copies."""
    total: Number = copies * paid.gpus
    for price, share in paid.nodes:
        total = total + ceil_div(copies, share) * price
    return total


class Drawn(NamedTuple):
    """The power of ``copies`` of one pool: their GPUs draw ``gpus`` W on average; ``may`` is what one copy may draw."""

    may: Draw
    gpus: Number
    copies: Number = 1

    @property
    def idle(self) -> Number:
        """W of the GPUs without work."""
        return self.copies * self.may.idle

    @property
    def power(self) -> Number:
        """W of the GPUs, their share of the nodes' other parts, and the building around both."""
        return (self.gpus + self.copies * self.may.overhead) * self.may.pue

    def scaled(self, copies: Number, busy: Number) -> Drawn:
        """So many copies, each with work in the share ``busy`` of the time."""
        gpus = self.may.idle + busy * (self.gpus - self.may.idle)
        return Drawn(self.may, copies * gpus, copies)


class Economics(NamedTuple):
    """What a plan costs and draws where it serves ``requests`` per second of ``input`` and ``output`` tokens.

    ``paid`` is the rent of one copy, None where a price is not known. ``prefill`` is the share of it that pays for
    input tokens. ``drawn`` has the power of each pool, None where a power is not known. ``copies`` of the plan have
    ``gpus`` GPUs.
    """

    requests: Number
    input: Number
    output: Number
    prefill: Number
    paid: Rent | None
    drawn: tuple[Drawn, ...] | None
    gpus: Number
    copies: Number = 1
    encodes: bool = False

    @property
    def counted(self) -> Number:
        """The tokens of a request that pay its cost: its output tokens, or its input tokens in an encoder."""
        return self.input if self.encodes else self.output

    @property
    def rent(self) -> Number | None:
        """USD per second of all copies. Copies that stand on one node share the price of the node."""
        return None if self.paid is None else rent_of(self.paid, self.copies)

    def _per(self, tokens: Number, share: Number = 1.0) -> Number | None:
        """USD per million of so many tokens of each request, which pay a share of the rent."""
        return None if self.rent is None else self.rent * share / maximum(self.requests * tokens, LEAST) * MILLION

    @property
    def cost(self) -> Number | None:
        """USD per million output tokens, or input tokens of an encoder, where these pay the whole rent."""
        return self._per(self.counted)

    @property
    def input_cost(self) -> Number | None:
        """USD per million input tokens, where these pay for the time of prefills."""
        return self._per(self.input, self.prefill)

    @property
    def output_cost(self) -> Number | None:
        """USD per million output tokens, where these pay for the time of decode steps."""
        return self._per(self.output, 1 - self.prefill)

    @property
    def blended_cost(self) -> Number | None:
        """USD per million tokens, where all tokens pay the same."""
        return self._per(self.input if self.encodes else self.input + self.output)

    @property
    def request_cost(self) -> Number | None:
        """USD per request."""
        found = self._per(1)
        return None if found is None else found / MILLION

    @property
    def power(self) -> Number | None:
        """Average W of GPUs, nodes and building."""
        return None if self.drawn is None else sum_up((pool.power for pool in self.drawn[1:]), self.drawn[0].power)

    @property
    def gpu_power(self) -> Number | None:
        """Average W of the GPUs."""
        return None if self.drawn is None else sum_up((pool.gpus for pool in self.drawn[1:]), self.drawn[0].gpus)

    @property
    def request_energy(self) -> Number | None:
        """J per request."""
        return None if self.power is None else self.power / maximum(self.requests, LEAST)

    @property
    def energy(self) -> Number | None:
        """J per output token, with the input tokens of its request, or per input token of an encoder."""
        found = self.request_energy
        return None if found is None else found / self.counted

    @property
    def metrics(self) -> dict[str, Number]:
        """The metrics of money and energy by name, in SI units; infinite where a price or a power is not known."""
        found = {
            "cost": self.cost,
            "cost_input": self.input_cost,
            "cost_output": self.output_cost,
            "cost_blended": self.blended_cost,
            "cost_request": self.request_cost,
            "spend": self.rent,
            "energy": self.energy,
            "energy_request": self.request_energy,
            "power": self.power,
        }
        known = {name: inf if value is None else value for name, value in found.items()}
        return known | {"request_throughput": self.requests, "copies": self.copies, "gpus": self.gpus}

    def scaled(self, copies: Number, requests: Number) -> Economics:
        """So many copies that serve ``requests`` per second together; between requests they draw idle power."""
        busy = minimum(requests / maximum(copies * self.requests, LEAST), 1.0)
        drawn = None if self.drawn is None else tuple(pool.scaled(copies, busy) for pool in self.drawn)
        return self._replace(requests=requests, drawn=drawn, gpus=self.gpus * copies, copies=copies)


ROUNDING = 1 - 1e-12
"""A rate that is equal to the demand but for rounding bears it."""


def copies_for(demand: float, rate: Number) -> Number:
    """The fewest copies that bear ``demand`` requests per second, each ``rate``."""
    return ceil_div(demand * ROUNDING, rate)


def serve_demand(spent: Economics, demand: float) -> Economics:
    """What all copies for a demand cost and draw together; ``spent`` is one copy at the highest rate that it serves."""
    return spent.scaled(copies_for(demand, spent.requests), demand)


class _Flow(NamedTuple):
    """Requests per second with so many tokens, and the share of the rent that their ``prefill`` pays."""

    requests: Number
    input: Number
    output: Number
    prefill: Number


def economics(model: Deployment, m: Metrics, used: tuple[Used, Used], input_: Number, output: Number) -> Economics:
    """What a deployment costs and draws under the load of ``m``; ``used`` is the utilisation of prefill and decode."""
    flow = _Flow(m.throughput / model.counted(input_, output), input_, output, _prefill_share(model, m, input_, output))
    return Economics(
        requests=flow.requests,
        input=input_,
        output=output,
        prefill=flow.prefill,
        paid=rent(model.plan),
        drawn=_drawn(model, m, used, flow),
        gpus=model.plan.ranks,
        encodes=m.encodes,
    )


# ---- the share of the rent that pays for input


def _prefill_share(model: Deployment, m: Metrics, input_: Number, output: Number) -> Number:
    """The share of the rent that pays for input tokens: the share of the GPUs' time that prefill takes.

    Two pools pay separate rents: input tokens pay the rent of the prefill pool, or its share of the GPUs where a price
    is not known. In an ongoing load, prefill is the request's own prefill, and the time by which prefills of other
    requests lengthen its decode steps. In a batch, prefill is the time that decode steps leave.
    """
    steps = maximum(output - 1, 0)
    if m.encodes:
        return 1.0
    if model.transfer is not None:
        paid = [one.one for pool in model.pools if (one := rent(pool.plan)) is not None]
        if len(paid) < len(model.pools) or not sum_up(paid):
            paid = [float(pool.plan.sharding.ranks) for pool in model.pools]
        return paid[0] / sum_up(paid)
    if m.served is not None:
        s = m.served
        prefills, decodes = s.prefill + steps * s.others, steps * (s.step + s.host)
    else:
        (pool,) = model.pools
        step = m.tpot - m.mixed
        whole = pool.n * pool.in_flight * m.batch * output / m.throughput
        prefills, decodes = maximum(whole - output * step, 0.0) + steps * m.mixed, steps * step
    return clip(prefills / maximum(prefills + decodes, LEAST), 0.0, 1.0)


# ---- power


def _drawn(model: Deployment, m: Metrics, used: tuple[Used, Used], flow: _Flow) -> tuple[Drawn, ...] | None:
    """The power of each pool; None where the power of a GPU is not known."""
    first, second = model.pools[0], model.pools[-1]
    steps = maximum(flow.output - 1, 0) / second.gain
    prompts = _request_level(first.one, m.prefill, used[0])
    tokens = _request_level(second.one, m.decode, used[1]) * steps
    if model.transfer is not None:
        busy = _busy_pools(cast("Pools", model), m, flow)
        work = [(first.plan, [(busy[0], prompts)]), (second.plan, [(busy[1], tokens)])]
    else:
        work = [(first.plan, [(flow.prefill, prompts), (1 - flow.prefill, tokens)])]
    found = []
    for plan, phases in work:
        may = draw(plan)
        if may is None:
            return None
        level: Number = 0.0
        for time, each in phases:
            level = level + minimum(time, ACTIVE * time + flow.requests * each / may.gpus)
        found.append(Drawn(may, minimum(may.idle + (may.board - may.idle) * level, may.limit)))
    return tuple(found)


def _busy_pools(model: Pools, m: Metrics, flow: _Flow) -> tuple[Number, Number]:
    """The shares of the time in which each of two pools has work."""
    rates = model.rates(m, flow.input, flow.output)
    prefill = minimum(flow.requests / rates.prefill, 1.0)
    return prefill, 1.0 if m.served is not None else minimum(flow.requests / rates.decode, 1.0)


def _request_level(server: Server, times: PhaseTimes, used: Used) -> Number:
    """GPU-seconds at full dynamic power that one pass asks of each request, beyond those of being active.

    ``COMPUTE`` for each GPU-second of arithmetic at the peak, ``MEMORY`` for each of kernels' bytes at the bandwidth;
    the GPU-seconds of a draft and of a tower are added.
    """
    sharding, run = server.plan.sharding, times.runs[0]
    gpus = sharding.ranks // sharding.replicas
    seconds = times.period / server.in_flight / times.parts * gpus
    level = (COMPUTE * used.mfu + MEMORY * used.mbu) * seconds / run.bind["batch"]
    for other in times.runs:
        if other.part:
            level = level + _level_beside(other, (run if other.part == TOWER else other).bind["batch"])
    return level


def _level_beside(run: ProgramRun, requests: Number) -> Number:
    """The same of a draft or a tower, which runs ``count`` times before each step of ``requests``."""
    program, gpu, sharding = run.phase.schedule.program, average_gpu(run.plan), run.plan.sharding
    extents = Extents(program, run.bind, run.phase.extents.mesh)
    ranks = sharding.ranks // sharding.replicas / len(run.phase.schedule.stages)
    total = MEMORY * memory_bytes(run, gpu.bandwidth) * ranks / gpu.bandwidth
    for weight, context in mean_contexts(run.phase, run.bind, run.context):
        total = total + weight * COMPUTE * ideal_seconds(program, gpu, extents, context)
    return run.weight * run.count * total / requests
