"""`planc search FILE`: run every search of a file, print the answers, write the files that are asked for."""

from __future__ import annotations

import sys
import time
from argparse import Namespace
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from plandsl import plotting
from plandsl._version import __version__
from plandsl.commands.console import FAILED, OK, Progress, open_console, print_json, print_text
from plandsl.commands.outputs import lacking_json, leave_out_lacking, say_lacking
from plandsl.commands.sources import open_module, read_overrides
from plandsl.diagnostics import Diagnostic, PlanError, visible
from plandsl.driver import open_text
from plandsl.files import write_file
from plandsl.grammar.resolve import Module
from plandsl.searches.answer import Configuration
from plandsl.searches.ask import Asked, keep_most, read_searches, tell
from plandsl.searches.files import write_rows
from plandsl.searches.run import NOTHING, Found, Run, combine_sinks
from plandsl.searches.show import found_json, print_found
from plandsl.searches.spread import Workers, open_workers
from plandsl.sheets import check_sheet_path, open_sheet
from plandsl.spec.search import SearchSpec

if TYPE_CHECKING:
    from plandsl.searches.points import Points

INTERRUPTED = 130


def run_search(arguments: Namespace) -> int:
    """Run all searches, or the one that ``--search`` names.

    Exit status 0 if some plan of each meets every requirement, 1 if none does. Raises `PlanError` on wrong input.
    """
    module = open_module(arguments.file, read_overrides(arguments))
    searches = read_searches(module, arguments.search)
    if len(searches) > 1 and (arguments.rows or arguments.output or (arguments.plot and not _share_picture(searches))):
        names = ", ".join(s.name for s in searches)
        why = f"{arguments.file} has {len(searches)} searches, and an output file holds one: {names}"
        raise PlanError([Diagnostic("E403", why, hint=f"pick one with --search {searches[0].name}")])
    if arguments.top < 1:
        raise PlanError([Diagnostic("E400", f"--top {arguments.top} is not 1 or more")])
    draws = partial(plotting.check_picture_path, work="a search", instead="write the rows with --rows")
    lacking = leave_out_lacking(arguments, rows=check_sheet_path, plot=draws)
    for option in ("simulate", "requests"):
        value = getattr(arguments, option)
        if value is not None and value < 1:
            raise PlanError([Diagnostic("E400", f"--{option} {value} is not 1 or more")])
    asked = Asked(arguments.top, arguments.simulate, arguments.requests)
    bodies, drawn, status = [], [], OK
    with open_workers(arguments.scheduler) as workers:
        for search in searches:
            start = time.perf_counter()
            points = _points(search, arguments)
            found = _run(search, asked, arguments.rows, points, workers)
            with Progress(f"simulating {search.name}") as tick:
                answer = tell(found, asked, workers, tick)
            seconds = time.perf_counter() - start
            status = max(status, OK if answer.top else FAILED)
            if arguments.json:
                bodies.append(found_json(found, answer, seconds))
            else:
                print_found(found, answer, seconds, open_console())
            if found.stopped:
                status = _say_unwritten(arguments)
                break
            if arguments.output:
                _write_best(arguments, module, found, answer.top)
            if points is not None:
                drawn.append((found, answer.front, points))
    if drawn and status != INTERRUPTED:
        from plandsl.searches.plot import SearchResult, plot

        plot([SearchResult(*one) for one in drawn], Path(arguments.plot))
        if not arguments.json:
            print_text(f"picture: {arguments.plot}\n")
    if arguments.json:
        print_json({"plandsl": __version__, "file": arguments.file, "searches": bodies} | lacking_json(lacking))
    return say_lacking(lacking, status)


def _share_picture(searches: list[SearchSpec]) -> bool:
    from plandsl.searches.plot import same_space

    return same_space(searches)


def _points(search: SearchSpec, arguments: Namespace) -> Points | None:
    if not arguments.plot:
        return None
    from plandsl.searches.points import Points

    return Points(search)


def _say_unwritten(arguments: Namespace) -> int:
    """Name the files that are not written because the search was interrupted. Gives the exit status."""
    for path in filter(None, (arguments.output, arguments.rows, arguments.plot)):
        sys.stderr.write(visible(f"{path} is not written: the search was interrupted\n"))
    return INTERRUPTED


def _run(search: SearchSpec, asked: Asked, rows: str | None, points: Points | None, workers: Workers) -> Found:
    run = Run(search, keep_most(search, asked))
    with suppress(_Unfinished), ExitStack() as stack:
        sheets = [write_rows(stack.enter_context(open_sheet(Path(rows))))] if rows else []
        tick = stack.enter_context(Progress(f"searching {search.name}"))
        run.sink = combine_sinks([*sheets, *([points] if points else [])])
        for one in sheets:
            one(run.found, NOTHING)  # the heading, so that a file without rows has it too
        workers.search(run, tick)
        if run.found.stopped:
            raise _Unfinished
    return run.found


class _Unfinished(Exception):
    """An interrupted search has not all rows, and its sheet is given up."""


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
