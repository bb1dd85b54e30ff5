"""The short answer of a plan whose requests arrive over time: as many of them are served one by one as soon takes."""

from __future__ import annotations

from collections.abc import Iterator
from math import inf, log2
from typing import NamedTuple, assert_never

import numpy as np
from attrs import evolve

from plandsl.answers.estimate import Estimate, Requirement
from plandsl.answers.simulation import Figure, Short, Spread
from plandsl.backends.cost.answers.mean_load import MEANS, mean_load
from plandsl.backends.cost.answers.simulation import (
    Check,
    Run,
    Servers,
    Way,
    build_servers,
    check_requirements,
    draw_load,
    foresee,
    keep_bounds,
    serve_plan,
)
from plandsl.backends.cost.deployments.build import Compiled
from plandsl.backends.cost.deployments.deployment import Deployment
from plandsl.backends.cost.deployments.replicas import Replicas
from plandsl.backends.cost.serving.percentiles import NO_SPREAD, QUANTILES, half_width
from plandsl.backends.cost.serving.replica import Worker
from plandsl.backends.cost.serving.requests import Floats
from plandsl.backends.cost.serving.summary import PER_REQUEST
from plandsl.backends.cost.serving.trtllm import Trtllm
from plandsl.backends.cost.serving.workloads import EACH, REQUESTS
from plandsl.diagnostics import Diagnostic, PlanError
from plandsl.spec.plan import PlanSpec

WORK = 200_000
"""The work of a short simulation, its tables aside, in microseconds of one core, about."""

MOST_SERVERS = 3_000
"""Most replicas that a short simulation serves: each takes some 300 microseconds, whatever it gets to do."""

TOKEN, STEP, BLOCK = 1.0, 25.0, 1.5
"""The work of servers that take each step by itself: for a token of a request that decodes, for a step, and for a block
that prompts may share.
"""

SERVED, CHANGE, THERE, PASSED = 20.0, 110.0, 0.4, 0.7
"""The work of servers that take stretches: for a request, for what ends a stretch (with the steps behind it that are
taken by themselves), for each request that runs then, and for each step of a stretch.
"""

REQUEST, EVENT, LEAPT = 10.0, 5.0, 0.4
"""The work of servers that leap: for a request, for steps that are taken at once, and for each step among them."""

BENDS = 4.0
"""Events while a mean context doubles: the tables of times bend so often."""

EVICTED = 4.0
"""So often requests that are all output are preempted where more are in flight than there is room for, cautiously."""

FEWEST = 20
"""Fewer requests than these give no answer."""

WAVES = (9, 14, 24)
"""Waves of a closed loop that are served: `LEADING` and one more are not measured, so that 5, 10 or 20 are."""

LEADING = 3
"""Waves in which a closed loop of equal requests finds its rhythm."""

SETTLED = 0.02
"""A steady loop has settled when the intervals of its means are this share of them, or less."""


class Answer(NamedTuple):
    """A short simulation and the requirements that it checked, or ``why`` there is none."""

    short: Short | None
    checks: tuple[Check, ...] = ()
    why: str = ""


def add_simulation(made: Compiled, model: Deployment, found: Estimate) -> Estimate:
    """An estimate in closed form with what a short simulation says of the load, and of the requirements that it checks.

    Where there is none, a note tells why (N291). A load that starts together has its answer in closed form.
    """
    plan = made.spec
    if not plan.workload.over_time:
        return found
    answer = short_answer(made, model)
    if answer.short is None:
        return found._replace(notes=(*found.notes, *_without(plan, answer.why)))
    told = {check.text: check.told for check in answer.checks}
    requires = [told.get(r.text) or _of(found, r.text) for r in plan.requires]
    own = {r.text for r in plan.requires}
    requires += [one for text, one in told.items() if text not in own]
    return found._replace(simulated=answer.short, requires=tuple(r for r in requires if r is not None))


def _of(found: Estimate, text: str) -> Requirement | None:
    return next((r for r in found.requires if r.text == text), None)


def _without(plan: PlanSpec, why: str) -> Iterator[Diagnostic]:
    """What is said where there is no simulation."""
    yield Diagnostic("N291", f"closed form alone, not simulated: {why}", plan.workload.span)
    traffic = plan.workload.traffic
    single = [r.text for r in (*plan.requires, *(traffic.requires if traffic else ())) if r.over_requests]
    if single:
        yield Diagnostic("N291", f"not checked without a simulation: {', '.join(single)}", plan.workload.span)


def short_answer(made: Compiled, model: Deployment) -> Answer:
    """Serve as many requests of the load as little work allows. ``model`` is its steady load in closed form."""
    plan, load = made.spec, made.spec.workload
    if load.reuse and load.prefix != "shared":
        return Answer(None, why="a simulation does not know `reuse` of blocks that each request has for itself")
    try:
        servers = build_servers(made)
        if load.traffic is None and load.requests is None:
            return steady_loop(plan, servers)
        count = _affordable(plan, servers, model, _find_work(plan, servers))
        if count is None:
            return Answer(None, why=TOO_LONG)
        run = serve_plan(plan, servers, count)
    except PlanError as error:
        if error.diagnostics[0].code not in UNSERVED:
            raise
        return Answer(None, why=UNSERVED[error.diagnostics[0].code])
    return Answer(_short(run, _whole(plan) or _number(plan)), run.checks)


UNSERVED = {"E328": "there is no room for a KV cache"}
"""Plans that no simulation serves, by the code of the diagnostic."""


TOO_LONG = "it takes long, see `planc simulate`"


class _Work(NamedTuple):
    """What a request costs a simulation on servers of ``plan``, each of which is a ``worker``."""

    plan: PlanSpec
    worker: Worker
    way: Way
    chunk: int

    def of(self, input_: int, output: int, clients: float, arrivals: float = 1.0) -> float:
        """The work of a request with so many ``clients`` of its server; ``arrivals``: events of its own.

        Without such events requests are all alike: those whose prompts are in one step end together as well. Where
        other servers prefill, each asks for blocks, and its cache arrives, by itself.
        """
        arrivals += 3 if self.plan.split is not None else 0
        runs = max(min(clients, self.plan.effective_engine.max_requests, self._beside(input_)), 1.0)
        room = max(self.worker.blocks // -(-(input_ + output) // self.worker.block), 1)
        crowded, runs = runs > room, min(runs, room)
        prompts, steps = input_ / self.chunk, output / runs
        single = (STEP + TOKEN * runs) * steps
        match self.way:
            case "leap":
                evicted = EVICTED * output / (input_ + output) if crowded else 0.0
                events = arrivals + 2 * prompts + (2 + BENDS * log2(1 + output / input_)) / runs
                events += 2 * evicted * (1 + (input_ + output) / self.chunk)
                return REQUEST + EVENT * events + LEAPT * steps
            case "stretch":
                together = 1.0 if arrivals or (crowded and self._evicts) else max(min(1 / prompts, runs), 1.0)
                changes = (CHANGE + THERE * runs) * (1 + arrivals) / together
                work = changes + PASSED * steps + STEP * max(prompts, 1 / together)
                return SERVED + min(work, single) + self._blocks(input_, output)
            case "step":
                return single + self._blocks(input_, output)
            case _:
                assert_never(self.way)

    def _blocks(self, input_: int, output: int) -> float:
        """The work of blocks that prompts may share."""
        return BLOCK * (input_ + output) / self.worker.block if self.worker.shared else 0.0

    def _beside(self, input_: int) -> float:
        """The most requests that decode beside a prompt, where it has to be whole in a step."""
        policy = self.worker.policy
        return max(policy.budget - input_, 0) + 1 if isinstance(policy, Trtllm) and not policy.chunked else inf

    @property
    def _evicts(self) -> bool:
        """Whether requests are admitted that may lack blocks later."""
        policy = self.worker.policy
        return not isinstance(policy, Trtllm) or policy.room == "max_utilisation"


def _find_work(plan: PlanSpec, servers: Servers) -> _Work:
    """What a simulation costs, as the first requests of the load tell."""
    worker, way = foresee(plan, servers, draw_load(plan, FEWEST))
    return _Work(plan, worker, way, plan.chunked_prefill or plan.effective_engine.step_tokens)


def _affordable(plan: PlanSpec, servers: Servers, model: Deployment, work: _Work) -> int | None:
    """How many requests to serve; None where so few are no answer."""
    if servers.deployment.n > MOST_SERVERS:
        return None
    load, steady = plan.workload, model.plan.workload
    each = work.of(steady.input, steady.output, (steady.concurrency or 1) / servers.deployment.n)
    most, whole = int(WORK / each), _whole(plan)
    if whole is not None and whole <= most:
        return None if load.traffic is None and load.requests is None else whole
    if load.traffic is None or (load.concurrency is not None and most < LEADING * load.concurrency):
        return (
            None  # a part of a closed loop is another load: it starts and ends as often, and runs in between for less
        )
    return _round(most) if most >= FEWEST else None


def _whole(plan: PlanSpec) -> int | None:
    """The number of requests of the load; None where a trace or a duration tells."""
    load, traffic = plan.workload, plan.workload.traffic
    if load.requests is not None:
        return load.requests
    if load.concurrency is not None:
        return EACH * load.concurrency
    return None if traffic is None or traffic.trace is not None or traffic.duration is not None else REQUESTS


def _number(plan: PlanSpec) -> int:
    """The number of requests of a trace, or of a duration: by the mean rate where they are many."""
    mean, traffic = mean_load(plan.workload), plan.workload.traffic
    long = 0.0 if traffic is None or traffic.trace is not None else (traffic.duration or 0.0) * (mean.rate or 0.0)
    return max(mean.drawn, round(long)) if mean.drawn >= MEANS else mean.drawn


def _round(count: int) -> int:
    """``count`` with two digits."""
    unit = int(10 ** max(len(str(count)) - 2, 0))
    return count // unit * unit


def _short(run: Run, whole: int | None) -> Short:
    s = run.simulation.summary
    percentiles = any(check.require.percentile is not None for check in run.checks)
    return Short(
        kind="requests",
        requests=s.served,
        of=whole if whole is not None and whole > s.requests else None,
        ttft=s.ttft,
        tpot=s.tpot,
        latency=s.latency,
        request_rate=s.request_rate,
        output_rate=s.output_rate,
        goodput=s.goodput,
        running=run.simulation.occupancy.running[0],
        preemptions=s.preemptions,
        warnings=tuple(w for w in s.warnings if percentiles or "too few" not in w),
    )


# ---- a closed loop without end


def steady_loop(plan: PlanSpec, servers: Servers, work: float = WORK) -> Answer:
    """A closed loop of equal requests, once it runs steadily: what a load generator sees in the middle of a long run.

    As many requests as are in flight make a wave: they end together and come back together, unless something parts
    them. The first waves and the last are served, and not measured. The interval is that of the means of waves; more
    waves are served until it is below 2 % for TTFT and TPOT, within ``work``.
    """
    alike = _alike(plan, servers)
    if alike > 1:
        servers = servers._replace(deployment=Replicas(1, servers.deployment.one))
    load = evolve(plan.workload, concurrency=(plan.workload.concurrency or 1) // alike)
    one = evolve(plan, workload=load)
    places = load.concurrency or 1
    each = _find_work(one, servers).of(load.input, load.output, places / servers.deployment.n, arrivals=0.0)
    spent, answer = 0.0, Answer(None, why=TOO_LONG)
    for waves in WAVES:
        spent += waves * places * each
        if spent > work:
            break
        answer = _measure(plan, serve_plan(one, servers, waves * places), waves, alike)
        if answer.short is not None and not answer.short.warnings:
            break
    return answer


def _alike(plan: PlanSpec, servers: Servers) -> int:
    """How many servers see the same, so that one of them tells all: of a loop whose places they share evenly.

    Equal requests end together on all of them, and a router that deals them out evenly gives each as many again.
    """
    n, places = servers.deployment.n, plan.workload.concurrency or 1
    even = servers.prefill is None and plan.router in ("round_robin", "least_loaded")
    return n if even and not places % n else 1


def _measure(plan: PlanSpec, run: Run, waves: int, alike: int) -> Answer:
    """What the waves in the middle say on one of ``alike`` servers.

    Throughput is that of all requests in flight (Little 1961).
    """
    all_places = plan.workload.concurrency or 1
    places = all_places // alike
    records, kept = run.records, slice(LEADING * places, (waves - 1) * places)
    if not records.served.all():
        return Answer(None, why="some requests are longer than a server holds")
    many = waves - 1 - LEADING
    ttft, tpot, latency = (
        _by_waves(values[kept], many) for values in (records.ttft_s, records.tpot_s, records.latency_s)
    )
    rate = all_places / latency.mean.value
    loose = [
        f"{name} has an interval of +-{100 * spread.mean.half / spread.mean.value:.2g} %"
        for name, spread in (("TTFT", ttft), ("TPOT", tpot))
        if spread.number and not spread.mean.half <= SETTLED * spread.mean.value
    ]
    middle = records._replace(**{name: getattr(records, name)[kept] for name in PER_REQUEST})
    checks = check_requirements(plan, middle, rate, rate * plan.workload.counted)
    short = Short(
        kind="steady loop",
        requests=many * all_places,
        of=None,
        ttft=ttft,
        tpot=tpot,
        latency=latency,
        request_rate=rate,
        output_rate=rate * plan.workload.counted,
        goodput=rate * float(keep_bounds(plan, middle).mean()),
        running=run.simulation.occupancy.running[0],
        preemptions=alike * int(records.preemptions[kept].sum()),
        warnings=tuple(loose),
    )
    return Answer(short, checks)


def _by_waves(values: Floats, waves: int) -> Spread:
    """The mean with the interval of the means of ``waves``, and percentiles over all values."""
    there = values[np.isfinite(values)]
    if not len(there):
        return NO_SPREAD
    half = half_width(values.reshape(waves, -1).mean(axis=1).tolist())
    p50, p90, p95, p99 = (Figure(float(np.quantile(there, q)), float("nan")) for q in QUANTILES)
    return Spread(Figure(float(there.mean()), half), p50, p90, p95=p95, p99=p99, number=len(there))
