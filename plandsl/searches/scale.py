"""The replicas of a plan over the day of its load, each interval a task, in this process or on a cluster."""

from __future__ import annotations

import re
from argparse import Namespace
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from plandsl.answers.autoscale import Autoscale, Interval
from plandsl.backends.cost.answers.autoscale import REQUESTS, autoscale, fewest_replicas
from plandsl.backends.cost.serving.windows import Window
from plandsl.diagnostics import Diagnostic, PlanError
from plandsl.driver import CompiledPlan
from plandsl.progress import Tick, silent
from plandsl.searches.run import Compiler
from plandsl.searches.spread import Workers
from plandsl.spec.plan import PlanSpec
from plandsl.units import TIME, UNITS

TIMED = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([a-z]+)\s*")


class Task(NamedTuple):
    """A window of the load of a plan, whose replicas bear ``each`` arrivals per second."""

    plan: PlanSpec
    window: Window
    each: float
    requests: int
    least: int


def scale_task(task: Task, compiler: Compiler) -> Interval:
    """The fewest replicas for one window."""
    made = compiler.compile(task.plan)
    return fewest_replicas(made, task.window, each=task.each, requests=task.requests, least=task.least)


def scale(made: CompiledPlan, arguments: Namespace, workers: Workers, tick: Tick) -> Autoscale:
    """The replicas of one plan, its intervals shared by ``workers``."""
    requests, least = arguments.requests or REQUESTS, arguments.least

    def share(parts: Sequence[Window], each: float) -> Iterator[Interval]:
        tasks = [Task(made.spec, part, each, requests=requests, least=least) for part in parts]
        return workers.map(scale_task, tasks, silent)

    return autoscale(made, read_seconds(arguments.every), requests, least, tick=tick, share=share)


def read_seconds(text: str) -> float:
    """The seconds of ``1h`` or ``15 min``. Raises `PlanError` (E400) for anything else."""
    found = TIMED.fullmatch(text)
    factor, dimension = UNITS.get(found[2], (0.0, None)) if found else (0.0, None)
    if found is None or dimension != TIME or not float(found[1]) > 0:
        raise PlanError([Diagnostic("E400", f"`--every {text}` is not a time", hint="--every 1h, --every 15min")])
    return float(found[1]) * factor
