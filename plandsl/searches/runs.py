"""Runs of plans in this process or on the workers of a cluster: what `planc simulate` does, with the same answer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from plandsl.answers.rate import FoundRate
from plandsl.answers.seeds import OverSeeds
from plandsl.answers.simulation import Simulation
from plandsl.backends.cost.answers.find_rate import search_rate
from plandsl.backends.cost.answers.probes import Point, Probe, Serve, probe_at, serve_made
from plandsl.backends.cost.answers.seeds import seeds_of, serve_seed, tell_seeds
from plandsl.backends.cost.answers.simulation import (
    Run,
    apart,
    build_servers,
    draw_load,
    join_replicas,
    serve_replicas,
)
from plandsl.backends.cost.answers.spent import with_spent
from plandsl.backends.cost.deployments.build import Compiled
from plandsl.backends.cost.serving.records import Records
from plandsl.driver import CompiledPlan, simulate
from plandsl.progress import Tick, count_parts
from plandsl.searches.run import Compiler
from plandsl.searches.spread import Ahead, Workers
from plandsl.spec.plan import PlanSpec


class Task(NamedTuple):
    """A plan whose requests are served, so many of them; None: as its workload says. Only by some ``replicas``, if any.

    Replicas are named only where they know nothing of one another.
    """

    plan: PlanSpec
    requests: int | None
    replicas: tuple[int, ...] = ()
    keep_steps: bool = True


class SeedTask(NamedTuple):
    """A run of a plan from another seed."""

    plan: PlanSpec
    seed: int
    requests: int | None


class ProbeTask(NamedTuple):
    """A run of a plan at another rate."""

    plan: PlanSpec
    point: Point


def serve_task(task: Task, compiler: Compiler) -> Run | list[Records]:
    """Serve the requests of one plan: what is told of the run, or what some replicas say of their requests."""
    made = compiler.compile(task.plan)
    if task.replicas:
        return serve_replicas(made, task.requests, task.replicas, keep_steps=task.keep_steps)
    return made.simulate(task.requests, keep_steps=task.keep_steps)


def rate_task(task: Task, compiler: Compiler) -> FoundRate:
    """Find the largest rate of one plan."""
    return compiler.compile(task.plan).find_rate(task.requests)


def probe_task(task: ProbeTask, compiler: Compiler) -> Probe:
    """Serve the requests of one plan at one rate."""
    return probe_at(task.plan, build_servers(compiler.compile(task.plan)), task.point)


def seed_task(task: SeedTask, compiler: Compiler) -> Simulation:
    """Serve the requests of one plan from one seed."""
    return serve_seed(compiler.compile(task.plan), task.seed, task.requests)


def simulate_seeds_with(
    workers: Workers, plans: Sequence[CompiledPlan], number: int, requests: int | None, tick: Tick
) -> list[OverSeeds]:
    """`CompiledPlan.simulate_seeds` of each plan, all runs by ``workers``. Errors are as in `simulate_with`."""
    seeds = [seeds_of(plan.spec, number) for plan in plans]
    tasks = [SeedTask(plan.spec, seed, requests) for plan, own in zip(plans, seeds, strict=True) for seed in own]
    runs = workers.map(seed_task, tasks, tick)
    return [
        tell_seeds(plan.spec, own, [run for _, run in zip(own, runs, strict=False)])
        for plan, own in zip(plans, seeds, strict=True)
    ]


def simulate_with(
    workers: Workers, plans: Sequence[CompiledPlan], requests: int | None, tick: Tick, *, keep_steps: bool = True
) -> list[Run]:
    """`plandsl.driver.simulate`; on a cluster, replicas that know nothing of one another are served apart.

    ``tick`` hears how far the work is. Raises `PlanError` as `simulate` does, and E412 where the cluster cannot do it.
    """
    if workers.client is None:
        return simulate(plans, requests, tick, keep_steps=keep_steps)
    plans = [plan.served for plan in plans]
    tasks = [[t._replace(keep_steps=keep_steps) for t in _tasks(p, requests, workers.threads)] for p in plans]
    results = workers.map(serve_task, [task for some in tasks for task in some], tick)
    return [_join(plan, requests, some, results) for plan, some in zip(plans, tasks, strict=True)]


def _tasks(plan: CompiledPlan, requests: int | None, threads: int) -> list[Task]:
    """The work of one plan, in at most as many parts as there are threads."""
    many = build_servers(plan).deployment.n
    if many == 1 or not apart(plan, draw_load(plan.spec, requests)):
        return [Task(plan.spec, requests)]
    parts = min(many, threads)
    return [Task(plan.spec, requests, tuple(range(at, many, parts))) for at in range(parts)]


def _join(
    plan: CompiledPlan, requests: int | None, tasks: Sequence[Task], results: Iterator[Run | list[Records]]
) -> Run:
    shares: dict[int, Records] = {}
    for task in tasks:
        found = next(results)
        if isinstance(found, Run):
            return found
        shares.update(zip(task.replicas, found, strict=True))
    run = join_replicas(plan, draw_load(plan.spec, requests), [shares[number] for number in sorted(shares)])
    return with_spent(plan.cost, run)


def find_rates_with(
    workers: Workers, plans: Sequence[CompiledPlan], requests: int | None, tick: Tick
) -> list[FoundRate]:
    """`CompiledPlan.find_rate` of each plan.

    A cluster searches several plans at the same time, or, where it has more threads than plans, makes several runs of
    one search at the same time. ``tick`` and errors are as in `simulate_with`.
    """
    if 1 < workers.threads <= len(plans):
        return list(workers.map(rate_task, [Task(plan.spec, requests) for plan in plans], tick))
    found = []
    for at, plan in enumerate(plans):
        with probing(workers, plan) as serve:
            found.append(search_rate(plan.spec, serve, requests, count_parts(tick, at, len(plans))))
    return found


@contextmanager
def probing(workers: Workers, made: Compiled) -> Iterator[Serve]:
    """Runs of a plan at other rates, by ``workers``."""
    if workers.client is None:
        yield serve_made(made)
        return
    ahead = Ahead(workers, probe_task)
    try:
        yield _asking(ahead, made.spec)
    finally:
        ahead.close()


def _asking(ahead: Ahead, plan: PlanSpec) -> Callable[[Iterable[Point], Tick], Probe]:
    def serve(points: Iterable[Point], tick: Tick) -> Probe:
        found: Probe = ahead.ask(ProbeTask(plan, point) for point in points)
        tick(1, 1)
        return found

    return serve
