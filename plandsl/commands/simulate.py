"""`planc simulate FILE`: requests of one or several plans served one by one, their largest rates, and pictures."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from plandsl import limits
from plandsl._version import __version__
from plandsl.answers.rate import FoundRate
from plandsl.answers.seeds import OverSeeds
from plandsl.answers.simulation import Simulation
from plandsl.answers.text.rate import print_rate, print_rates
from plandsl.answers.text.seeds import print_seeds, print_seeds_side_by_side
from plandsl.answers.text.simulation import print_side_by_side, print_simulation
from plandsl.backends.cost.answers.simulation import Run
from plandsl.commands.console import FAILED, OK, Progress, open_console, print_json, print_text, spaced
from plandsl.commands.outputs import lacking_json, leave_out_lacking, say_lacking
from plandsl.commands.sources import check_count, compile_one, compile_plans
from plandsl.diagnostics import Diagnostic, PlanError, visible
from plandsl.driver import CompiledPlan, find_unserved
from plandsl.searches.runs import find_rates_with, probing, simulate_seeds_with, simulate_with
from plandsl.searches.spread import Workers, open_workers
from plandsl.sheets import check_sheet_path, open_sheet


def run_simulate(arguments: Namespace) -> int:
    """Exit status 1 where a plan cannot be served or misses a requirement."""
    if arguments.requests is not None and arguments.requests < 1:
        raise PlanError([Diagnostic("E400", f"--requests {arguments.requests} is not 1 or more")])
    _check_view(arguments)
    _check_seeds(arguments)
    files = {} if arguments.find_rate or arguments.seeds else {"rows": check_sheet_path, "plot": _check_picture}
    arguments.lacking = leave_out_lacking(arguments, **files)
    with open_workers(arguments.scheduler) as workers:
        if arguments.find_rate:
            return _find_rates(arguments, workers)
        if arguments.seeds is not None:
            return _serve_seeds(arguments, workers)
        return say_lacking(arguments.lacking, _serve_plans(arguments, workers))


def _serve_plans(arguments: Namespace, workers: Workers) -> int:
    unserved: dict[str, Diagnostic] = {}
    if arguments.rows:
        plans = [compile_one(arguments)]
        with open_sheet(Path(arguments.rows)) as sheet:
            runs = _simulate(plans, arguments, workers)
            for columns in runs[0].parts():
                sheet(columns)
    else:
        plans, unserved = _serve_what_fits(compile_plans(arguments))
        _check_rates(arguments, plans)
        runs = _simulate(plans, arguments, workers)

    def print_one(plan: CompiledPlan, found: Simulation, console: Any) -> None:
        print_simulation(plan.spec, found, console)
        _print_lost_rows(plan, console)

    print_all = partial(print_side_by_side, [plan.spec.workload for plan in plans])
    answers = Answers("plans", plans, [run.simulation for run in runs], unserved)
    status = _print_answers(arguments, answers, print_one, print_all)
    _plot_runs(arguments, plans, runs, workers=workers)
    return status


class Answers(NamedTuple):
    """What was ``found`` for each of some plans, by the ``name`` of JSON, and why others cannot be served."""

    name: str
    plans: Sequence[CompiledPlan]
    found: Sequence[Any]
    unserved: dict[str, Diagnostic]


def _print_answers(
    arguments: Namespace,
    answers: Answers,
    print_one: Callable[[CompiledPlan, Any, Any], None],
    print_all: Callable[[Sequence[Any], Any], None],
) -> int:
    """Print the answer for each plan, then all of them side by side; exit status 1 where one of them is not met."""
    name, plans, found, unserved = answers
    if arguments.json:
        told = [one.as_json() | _lost_rows(plan) for plan, one in zip(plans, found, strict=True)]
        print_json(
            {
                "plandsl": __version__,
                "file": arguments.file,
                name: told,
                **_unserved_json(unserved),
                **lacking_json(arguments.lacking),
            }
        )
    else:
        console = open_console()
        for plan, one in spaced(zip(plans, found, strict=True), console):
            print_one(plan, one, console)
        if len(found) > 1:
            console.print()
            print_all(found, console)
        _print_unserved(unserved, console)
    return OK if all(one.ok for one in found) and not unserved else FAILED


def _serve_what_fits(plans: list[CompiledPlan]) -> tuple[list[CompiledPlan], dict[str, Diagnostic]]:
    """The plans that can be served, and why the others cannot. Raises `PlanError` where none can be."""
    unserved = find_unserved(plans)
    if len(unserved) == len(plans):
        raise PlanError(list(unserved.values()))
    return [plan for plan in plans if plan.name not in unserved], unserved


def _print_unserved(unserved: dict[str, Diagnostic], console: Any) -> None:
    for why in unserved.values():
        console.print()
        console.print(f"{visible(why.message)} ({why.code})", style="bold red", soft_wrap=True)


def _unserved_json(unserved: dict[str, Diagnostic]) -> dict[str, Any]:
    return {"unserved": [{"plan": name, **why.as_json()} for name, why in unserved.items()]} if unserved else {}


def _lost_rows(plan: CompiledPlan) -> dict[str, Any]:
    """The notes about rows of a trace that are left out (N452)."""
    found = [note.as_json() for note in plan.notes if note.code == "N452"]
    return {"notes": found} if found else {}


def _print_lost_rows(plan: CompiledPlan, console: Any) -> None:
    for note in plan.notes:
        if note.code == "N452":
            console.print(f"{note.code}  {visible(note.message)}", style="dim", soft_wrap=True)


def _check_seeds(arguments: Namespace) -> None:
    """Refuse what several seeds do not have, before requests are served."""
    if arguments.seeds is None:
        return
    check_count("seeds", arguments.seeds, 2, limits.MAX_SEEDS)
    for option in ("find_rate", "rows", "plot"):
        if getattr(arguments, option):
            why = f"--seeds makes several runs, and --{option.replace('_', '-')} is about one load"
            raise PlanError([Diagnostic("E400", why, hint="run the two one after the other")])


def _serve_seeds(arguments: Namespace, workers: Workers) -> int:
    """`planc simulate --seeds`: exit status 1 where the means of a plan miss a requirement."""
    plans, unserved = _serve_what_fits(compile_plans(arguments))
    with Progress("serving requests from several seeds") as tick:
        found = simulate_seeds_with(workers, plans, arguments.seeds, requests=arguments.requests, tick=tick)

    def print_one(plan: CompiledPlan, one: OverSeeds, console: Any) -> None:
        print_seeds(plan.spec, one, console)
        _print_lost_rows(plan, console)

    return _print_answers(arguments, Answers("plans", plans, found, unserved), print_one, print_seeds_side_by_side)


def _find_rates(arguments: Namespace, workers: Workers) -> int:
    """`planc simulate --find-rate`: exit status 1 where a plan has no rate that meets its requirements."""
    if arguments.rows:
        raise PlanError([Diagnostic("E400", "--rows writes the requests of one run, and --find-rate makes many")])
    if arguments.plot:
        hint = f"planc simulate {arguments.file} --plot {arguments.plot} --view rates"
        raise PlanError([Diagnostic("E400", "--find-rate draws no picture", hint=hint)])
    plans, unserved = _serve_what_fits(compile_plans(arguments))
    with Progress("finding rates") as tick:
        found = find_rates_with(workers, plans, arguments.requests, tick)

    def print_one(plan: CompiledPlan, one: FoundRate, console: Any) -> None:
        print_rate(plan.spec, one, console)

    return _print_answers(arguments, Answers("rates", plans, found, unserved), print_one, print_rates)


def _simulate(plans: list[CompiledPlan], arguments: Namespace, workers: Workers) -> list[Run]:
    with Progress("serving requests") as tick:
        return simulate_with(workers, plans, arguments.requests, tick, keep_steps=bool(arguments.plot))


def _check_picture(path: Path) -> None:
    """Refuse a picture that cannot be drawn."""
    from plandsl.plotting import check_picture_path

    check_picture_path(path, "a simulation", "write the requests with --rows")


def _check_view(arguments: Namespace) -> None:
    """Refuse a view without a file to draw to."""
    if arguments.view and not arguments.plot:
        hint = f"planc simulate {arguments.file} --plot out.svg --view {arguments.view}"
        raise PlanError([Diagnostic("E400", f"--view {arguments.view} needs a file to draw to", hint=hint)])


def _check_rates(arguments: Namespace, plans: list[CompiledPlan]) -> None:
    """Refuse a picture over rates of a load without a rate, before requests are served."""
    if arguments.view == "rates":
        from plandsl.backends.cost.answers.probes import find_scaled

        for plan in plans:
            find_scaled(plan.spec)


def _plot_runs(arguments: Namespace, plans: list[CompiledPlan], runs: list[Run], workers: Workers) -> None:
    """Draw the picture that ``--plot`` asks for."""
    if not arguments.plot:
        return
    from plandsl.backends.plots import Served, draw_runs

    served = [Served(plan, run) for plan, run in zip(plans, runs, strict=True)]
    with Progress("runs at other rates") as tick, ExitStack() as stack:
        draw_runs(
            arguments.view or "latency",
            served,
            Path(arguments.plot),
            requests=arguments.requests,
            tick=tick,
            serve=lambda made: stack.enter_context(probing(workers, made)),
        )
    if not arguments.json:
        print_text(f"picture: {arguments.plot}\n")
