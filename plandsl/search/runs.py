"""Runs of several plans on the workers of a cluster: what `planc simulate --scheduler` does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from plandsl.answers.rate import FoundRate
from plandsl.backends.cost.answers.simulation import Run
from plandsl.driver import CompiledPlan
from plandsl.progress import Tick
from plandsl.search.run import Compiler
from plandsl.search.spread import open_workers
from plandsl.spec.plan import PlanSpec


class Task(NamedTuple):
    """A plan whose requests are served, so many of them; None: as its workload says."""

    plan: PlanSpec
    requests: int | None


def serve_task(task: Task, compiler: Compiler) -> Run:
    """Serve the requests of one plan."""
    return compiler.compile(task.plan).simulate(task.requests)


def rate_task(task: Task, compiler: Compiler) -> FoundRate:
    """Find the largest rate of one plan."""
    return compiler.compile(task.plan).find_rate(task.requests)


def simulate_on(address: str, plans: Sequence[CompiledPlan], requests: int | None, tick: Tick) -> list[Run]:
    """`plandsl.driver.simulate` on the cluster at ``address``; ``tick`` hears how many plans are done.

    Raises `PlanError` as that does, and E412 where the cluster cannot do the work.
    """
    with open_workers(address) as workers:
        return list(workers.map(serve_task, [Task(plan.spec, requests) for plan in plans], tick))


def find_rates_on(address: str, plans: Sequence[CompiledPlan], requests: int | None, tick: Tick) -> list[FoundRate]:
    """`CompiledPlan.find_rate` of each plan on the cluster at ``address``, as `simulate_on`."""
    with open_workers(address) as workers:
        return list(workers.map(rate_task, [Task(plan.spec, requests) for plan in plans], tick))
