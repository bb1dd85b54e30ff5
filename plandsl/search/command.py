"""`planc search FILE`: run every search of a file, print the answers, write the files that are asked for."""

from __future__ import annotations

import sys
import time
from argparse import Namespace
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from plandsl import plotting
from plandsl._version import __version__
from plandsl.commands import FAILED, OK, Progress, print_json
from plandsl.diagnostics import Diagnostic, PlanError, suggest
from plandsl.driver import open_text
from plandsl.files import write_file
from plandsl.grammar.resolve import Module
from plandsl.search.answer import Configuration, configurations, estimates, misses, ranks_in_band, remedies
from plandsl.search.files import write_rows
from plandsl.search.run import NOTHING, Found, Run, combine_sinks
from plandsl.search.show import found_json, print_found
from plandsl.sheets import open_sheet
from plandsl.spec.search import SearchSpec

if TYPE_CHECKING:
    from plandsl.search.points import Points

INTERRUPTED = 130


def run_searches(arguments: Namespace, module: Module, console: Callable[[], Any]) -> int:
    """Run all searches, or the one that ``--search`` names. Return the exit status.

    Raises `PlanError` on wrong input.
    """
    searches = _searches(module, arguments.search)
    if len(searches) > 1 and (arguments.rows or arguments.output or (arguments.plot and not _share_picture(searches))):
        names = ", ".join(s.name for s in searches)
        why = f"{arguments.file} has {len(searches)} searches, and an output file holds one: {names}"
        raise PlanError([Diagnostic("E403", why, hint=f"pick one with --search {searches[0].name}")])
    if arguments.top < 1:
        raise PlanError([Diagnostic("E400", f"--top {arguments.top} is not 1 or more")])
    if arguments.plot:
        plotting.check_picture_path(Path(arguments.plot), "a search", "write the rows with --rows")
    bodies, drawn, status = [], [], OK
    for search in searches:
        start = time.perf_counter()
        points = _points(search, arguments)
        found = _run(search, arguments, points)
        top, front = configurations(found, found.tally.top), configurations(found, found.tally.front)
        made = estimates(found, top)
        same = ranks_in_band(made, search.all_goals[0].metric)
        nearest = configurations(found, found.tally.nearest)[:1] if not top else []
        missing = [m for n in nearest for m in misses(found, n)]
        better = [r for n in nearest for r in remedies(found, n)]
        seconds = time.perf_counter() - start
        status = max(status, INTERRUPTED if found.stopped else OK if top else FAILED)
        if arguments.json:
            bands = [{f"{m}_band": list(b) for m, b in e.bands} for e in made]
            bodies.append(
                found_json(found, top, front, same=same, missing=missing, remedies=better, seconds=seconds, bands=bands)
            )
        else:
            print_found(
                found, top, front, same=same, missing=missing, remedies=better, seconds=seconds, console=console()
            )
        if arguments.output:
            _write_best(arguments, module, found, top)
        if points is not None:
            drawn.append((found, front, points))
    if drawn:
        from plandsl.search.plot import SearchResult, plot

        plot([SearchResult(*one) for one in drawn], Path(arguments.plot))
        if not arguments.json:
            sys.stdout.write(f"picture: {arguments.plot}\n")
    if arguments.json:
        print_json({"plandsl": __version__, "file": arguments.file, "searches": bodies})
    return status


def _searches(module: Module, name: str | None) -> list[SearchSpec]:
    names = module.searches if name is None else [name]
    if not names and module.errors:  # such as a file that cannot be read
        raise PlanError(module.diagnostics, module.sources)
    if not names:
        hint = "add `search NAME { model = ..., node = ..., workload { input = ..., output = ... } }`"
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


def _run(search: SearchSpec, arguments: Namespace, points: Points | None) -> Found:
    with ExitStack() as stack:
        sheets = [write_rows(stack.enter_context(open_sheet(Path(arguments.rows))))] if arguments.rows else []
        tick = stack.enter_context(Progress(f"searching {search.name}"))
        run = Run(search, arguments.top, combine_sinks([*sheets, *([points] if points else [])]))
        for one in sheets:
            one(run.found, NOTHING)  # the heading, so that a file without rows has it too
        if arguments.scheduler:
            from plandsl.search.spread import run_on_cluster

            return run_on_cluster(run, arguments.scheduler, tick)
        return run.run(tick)


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
        sys.stdout.write(f"best of {found.search.name}: {path}\n")


def _use_statement(file: str, path: Path, module: Module) -> str:
    """A `use` statement for the searched file, which must lie in the folder of the new file or below.

    Raises `PlanError` (E405) where it does not.
    """
    source, folder = Path(file).resolve(), path.resolve().parent
    if file == "-" or not source.is_relative_to(folder):
        why = f"{path} must stand in the folder of {module.path}, or above it: the plan uses its declarations"
        raise PlanError([Diagnostic("E405", why, hint=f"-o {Path(file).with_name('best.plan')}")])
    return f'use "{source.relative_to(folder).as_posix()}"\n\n'
