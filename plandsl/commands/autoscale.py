"""`planc autoscale FILE`: replicas over the day of a load, for each plan of a file."""

from __future__ import annotations

from argparse import Namespace

from plandsl import limits
from plandsl._version import __version__
from plandsl.answers.text.autoscale import print_autoscale, print_costs
from plandsl.commands.console import FAILED, OK, Progress, open_console, print_json, spaced
from plandsl.commands.sources import check_count, compile_plans
from plandsl.searches.scale import read_seconds, scale
from plandsl.searches.spread import open_workers


def run_autoscale(arguments: Namespace) -> int:
    """Exit status 1 where no number of replicas meets the requirements."""
    read_seconds(arguments.every)
    check_count("requests", arguments.requests, 1, limits.MAX_REQUESTS)
    check_count("least", arguments.least, 0, limits.MAX_COUNT)
    made = compile_plans(arguments)
    found = []
    with open_workers(arguments.scheduler) as workers:
        for plan in made:
            with Progress(f"scaling {plan.name}") as tick:
                found.append(scale(plan, arguments, workers, tick))
    if arguments.json:
        print_json({"plandsl": __version__, "file": arguments.file, "plans": [one.as_json() for one in found]})
        return OK if all(one.ok for one in found) else FAILED
    console = open_console()
    for plan, one in spaced(zip(made, found, strict=True), console):
        print_autoscale(plan.spec, one, console)
    if len(found) > 1:
        console.print()
        print_costs(found, console)
    return OK if all(one.ok for one in found) else FAILED
