"""`planc search FILE`: run every search of a file, print the answers, write the files that are asked for."""

from __future__ import annotations

import sys
import time
from argparse import Namespace
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from plandsl import plotting
from plandsl._version import __version__
from plandsl.answers.estimate import BANDED
from plandsl.answers.text.words import origin_names
from plandsl.commands.console import FAILED, OK, Progress, open_console, print_json, print_text
from plandsl.commands.sources import open_module, read_overrides
from plandsl.diagnostics import Diagnostic, PlanError, suggest
from plandsl.driver import open_text
from plandsl.files import write_file
from plandsl.grammar.resolve import Module
from plandsl.search.answer import (
    Configuration,
    alike_ranks,
    configurations,
    estimates,
    misses,
    remedies,
    simulated_band,
    unbanded_ranks,
    value_and_band,
)
from plandsl.search.files import write_rows
from plandsl.search.run import MOST_SIMULATED, NOTHING, Found, Run, combine_sinks
from plandsl.search.show import Answer, found_json, print_found
from plandsl.search.spread import Workers, open_workers
from plandsl.sheets import open_sheet
from plandsl.spec.search import SearchSpec

if TYPE_CHECKING:
    from plandsl.search.points import Points
    from plandsl.search.shortlist import Simulated

INTERRUPTED = 130


def run_search(arguments: Namespace) -> int:
    """Run all searches, or the one that ``--search`` names.

    Exit status 0 if some plan of each meets every requirement, 1 if none does. Raises `PlanError` on wrong input.
    """
    module = open_module(arguments.file, read_overrides(arguments))
    searches = _searches(module, arguments.search)
    if len(searches) > 1 and (arguments.rows or arguments.output or (arguments.plot and not _share_picture(searches))):
        names = ", ".join(s.name for s in searches)
        why = f"{arguments.file} has {len(searches)} searches, and an output file holds one: {names}"
        raise PlanError([Diagnostic("E403", why, hint=f"pick one with --search {searches[0].name}")])
    if arguments.top < 1:
        raise PlanError([Diagnostic("E400", f"--top {arguments.top} is not 1 or more")])
    if arguments.plot:
        plotting.check_picture_path(Path(arguments.plot), "a search", "write the rows with --rows")
    for option in ("simulate", "requests"):
        value = getattr(arguments, option)
        if value is not None and value < 1:
            raise PlanError([Diagnostic("E400", f"--{option} {value} is not 1 or more")])
    bodies, drawn, status = [], [], OK
    with open_workers(arguments.scheduler) as workers:
        for search in searches:
            start = time.perf_counter()
            points = _points(search, arguments)
            found = _run(search, arguments, points, workers)
            answer = (_simulate if search.over_requests else _estimate)(found, arguments, workers)
            seconds = time.perf_counter() - start
            status = max(status, INTERRUPTED if found.stopped else OK if answer.top else FAILED)
            if arguments.json:
                bodies.append(found_json(found, answer, seconds))
            else:
                print_found(found, answer, seconds, open_console())
            if arguments.output:
                _write_best(arguments, module, found, answer.top)
            if points is not None:
                drawn.append((found, answer.front, points))
    if drawn:
        from plandsl.search.plot import SearchResult, plot

        plot([SearchResult(*one) for one in drawn], Path(arguments.plot))
        if not arguments.json:
            print_text(f"picture: {arguments.plot}\n")
    if arguments.json:
        print_json({"plandsl": __version__, "file": arguments.file, "searches": bodies})
    return status


def _searches(module: Module, name: str | None) -> list[SearchSpec]:
    names = module.searches if name is None else [name]
    if not names and module.errors:  # such as a file that cannot be read
        raise PlanError(module.diagnostics, module.sources)
    if not names:
        hint = "add `search NAME { model = ..., node = ..., workload { input = ..., output = ... } }`"
        if module.plans:
            hint = (
                f"add `search best {{ plan = {module.plans[0]} }}`, or estimate the plan: `planc compile {module.path}`"
            )
        raise PlanError([Diagnostic("E401", f"{module.path} has no search to run", module.end, hint=hint)])
    if name is not None and name not in module.searches:
        raise PlanError([Diagnostic("E201", f"there is no search named `{name}`", hint=suggest(name, module.searches))])
    found = [module.spec("search", name) for name in names]
    if module.errors:
        raise PlanError(module.diagnostics, module.sources)
    return [s for s in found if isinstance(s, SearchSpec)]


def _share_picture(searches: list[SearchSpec]) -> bool:
    from plandsl.search.plot import same_space

    return same_space(searches)


def _points(search: SearchSpec, arguments: Namespace) -> Points | None:
    if not arguments.plot:
        return None
    from plandsl.search.points import Points

    return Points(search)


def _run(search: SearchSpec, arguments: Namespace, points: Points | None, workers: Workers) -> Found:
    with ExitStack() as stack:
        sheets = [write_rows(stack.enter_context(open_sheet(Path(arguments.rows))))] if arguments.rows else []
        tick = stack.enter_context(Progress(f"searching {search.name}"))
        keep = arguments.top
        if search.over_requests:
            keep = max(keep, arguments.simulate or MOST_SIMULATED)
        run = Run(search, keep, combine_sinks([*sheets, *([points] if points else [])]))
        for one in sheets:
            one(run.found, NOTHING)  # the heading, so that a file without rows has it too
        return workers.search(run, tick)


def _estimate(found: Found, arguments: Namespace, workers: Workers) -> Answer:
    """The answer of a search in closed form."""
    top = configurations(found, found.tally.top)
    made = estimates(found, top)
    return Answer(
        top,
        configurations(found, found.tally.front),
        alike=alike_ranks([value_and_band(e, found.search.all_goals[0].metric) for e in made]),
        origins=[origin_names(e) for e in made],
        bands=[{f"{m}_band": None if (b := e.band(m)) is None else list(b) for m in BANDED} for e in made],
        without=unbanded_ranks(made, found.search.all_goals[0].metric),
        **({} if top else _nearest(found)),
    )


def _nearest(found: Found) -> dict[str, Any]:
    """What the nearest configuration misses in closed form, and what would help."""
    nearest = configurations(found, found.tally.nearest)[:1]
    missing = [m for n in nearest for m in misses(found, n)]
    return {"missing": missing, "remedies": [r for n in nearest for r in remedies(found, n)]}


def _simulate(found: Found, arguments: Namespace, workers: Workers) -> Answer:
    """The answer of a search over requests: the best of those that were simulated."""
    from plandsl.search.shortlist import simulate_best

    with Progress(f"simulating {found.search.name}") as tick:
        most = arguments.simulate or MOST_SIMULATED
        made = simulate_best(found, workers, count=arguments.requests, most=most, tick=tick)
    good = made.good[: arguments.top]
    return Answer(
        [one.row for one in good],
        configurations(found, found.tally.front),
        alike=_alike_simulated(found, good),
        origins=[found.plan(one.row.number).engine_origin for one in good],
        bands=[{} for _ in good],
        shortlist=made,
        **(
            {"missing": [] if good else [m for one in made.others[:1] for m in one.misses]}
            if made.good or made.others
            else _nearest(found)
        ),
    )


def _alike_simulated(found: Found, good: Sequence[Simulated]) -> list[tuple[int, ...]]:
    """The ranks that simulated candidates may trade places with, by the bands of their engines."""
    goal = found.search.all_goals[0]
    values = [one.figures.get(goal.name) for one in good]
    plans = [found.plan(one.row.number) for one in good]
    return alike_ranks([v and simulated_band(plan, goal, v.value) for plan, v in zip(plans, values, strict=True)])


def _write_best(arguments: Namespace, module: Module, found: Found, top: list[Configuration]) -> None:
    """Write the best plan as a file. It uses the searched file where it does not compile alone."""
    if not top:
        sys.stderr.write(f"{arguments.output} is not written: nothing meets every requirement\n")
        return
    path, best = Path(arguments.output), top[0]
    text = found.search.write(found.search.name, best.combination)
    said = f"# The best of `search {found.search.name}`: {found.search.all_goals[0].text}.\n"
    plain = open_text(text, str(path))
    plain.check()
    if plain.errors:
        text = _use_statement(arguments.file, path, module) + text
    write_file(path, said + text)
    if not arguments.json:
        print_text(f"best of {found.search.name}: {path}\n")


def _use_statement(file: str, path: Path, module: Module) -> str:
    """A `use` statement for the searched file, which must lie in the folder of the new file or below.

    Raises `PlanError` (E405) where it does not.
    """
    source, folder = Path(file).resolve(), path.resolve().parent
    if file == "-" or not source.is_relative_to(folder):
        why = f"{path} must stand in the folder of {module.path}, or above it: the plan uses its declarations"
        raise PlanError([Diagnostic("E405", why, hint=f"-o {Path(file).with_name('best.plan')}")])
    return f'use "{source.relative_to(folder).as_posix()}"\n\n'
