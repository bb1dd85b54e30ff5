"""`planc report`: the plans and searches of a file as one HTML page that needs no network."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from plandsl._version import __version__
from plandsl.backends.cost.answers.simulation import Run
from plandsl.backends.report import Page, PlanShown, SearchShown, write_page
from plandsl.commands.console import OK, Progress, print_json, print_text
from plandsl.commands.findings import print_diagnostics
from plandsl.commands.sources import STDIN, open_module, read_overrides
from plandsl.diagnostics import Diagnostic, PlanError, clip
from plandsl.driver import CompiledPlan, compile_module, find_unserved, open_text
from plandsl.files import write_file
from plandsl.grammar.resolve import Module
from plandsl.searches.ask import Asked, keep_most, read_searches, tell
from plandsl.searches.page import show_search
from plandsl.searches.points import Points
from plandsl.searches.run import Run as Search
from plandsl.searches.spread import open_workers

SUFFIXES = (".html", ".htm")

MOST_WHOLE = 12
"""Most plans of a file that are shown whole; the others are compared."""

MOST_REQUESTS = 10_000
"""Most requests of a load that are served for a page, unless `--requests` says another number."""


class Made(NamedTuple):
    """A page, and what was left out of it."""

    page: Page
    left_out: list[Diagnostic]


def run_report(arguments: Namespace) -> int:
    """Write the page to the file that `-o` names, or to standard output for ``-``."""
    _check(arguments)
    made = _make(arguments)
    content = write_page(made.page).encode()
    if arguments.output == "-":
        print_diagnostics(made.left_out, {}) if made.left_out else None
        sys.stdout.flush()
        sys.stdout.buffer.write(content)
        return OK
    write_file(arguments.output, content)
    _tell(arguments, made, len(content))
    return OK


def _check(arguments: Namespace) -> None:
    """Refuse, before work begins, an output that is no page, and numbers that mean nothing."""
    if arguments.output == "-":
        if arguments.json:
            why = "`-o -` writes the page to standard output, and --json writes there too"
            raise PlanError([Diagnostic("E400", why, hint="name a file with -o, or leave out --json")])
    elif Path(arguments.output).suffix.lower() not in SUFFIXES:
        name = clip(Path(arguments.output).name, 60)
        raise PlanError([Diagnostic("E590", f"`{name}` does not end in .html", hint=_other_command(arguments))])
    if arguments.requests is not None and arguments.requests < 1:
        raise PlanError([Diagnostic("E400", f"--requests {arguments.requests} is not 1 or more")])
    if arguments.plan and arguments.search:
        why = "--plan shows plans, and --search shows a search"
        raise PlanError([Diagnostic("E400", why, hint="leave out one of them")])


def _other_command(arguments: Namespace) -> str:
    """What to do for a file of another format."""
    suffix = Path(arguments.output).suffix.lower()
    if suffix == ".pdf":
        return f"write {Path(arguments.output).with_suffix('.html')}, and print it from a browser"
    if suffix in (".svg", ".png", ".dot"):
        return f"planc render {arguments.file} -o {arguments.output} draws one picture"
    if suffix == ".json":
        return f"planc compile {arguments.file} --json prints the numbers"
    return f"-o {Path(arguments.output).with_suffix('.html')}"


def _make(arguments: Namespace) -> Made:
    module = open_module(arguments.file, read_overrides(arguments))
    left_out: list[Diagnostic] = []
    wanted = not arguments.search and (bool(module.plans) or not module.searches)
    plans: list[CompiledPlan] = []
    if wanted or arguments.plan:
        with Progress("compiling") as tick:
            plans = compile_module(module, arguments.plan or None, tick)
    searches: list[SearchShown] = []
    if not arguments.plan and (module.searches or arguments.search):
        searches, best = _search(arguments, module)
        plans = plans or best
    estimates = [plan.estimate() for plan in plans]
    whole = plans[:MOST_WHOLE]
    rest = [plan.name for plan in plans[MOST_WHOLE:]]
    if rest:
        why = f"{len(rest)} of {len(plans)} plans are compared, but not shown whole: {', '.join(rest[:5])}"
        left_out.append(Diagnostic("N550", f"{why}, and others" if len(rest) > 5 else why, hint="--plan NAME"))
    unserved = find_unserved([plan for plan in whole if plan.spec.workload.over_time])
    shown = []
    with Progress("serving requests") as tick:
        for number, (plan, estimate) in enumerate(zip(whole, estimates, strict=False)):
            tick(number, len(whole))
            of = None if estimate.simulated is None else estimate.simulated.of
            run, said = _serve(plan, of, arguments.requests, unserved)
            devices = _draw(plan)
            if isinstance(devices, Diagnostic):
                left_out.append(
                    Diagnostic("N551", f"no map of the devices of {plan.name}: {devices.message}", hint=devices.hint)
                )
            shown.append(
                PlanShown(
                    plan.spec, estimate, model=plan.cost, flows=plan.flows(), devices=devices, run=run, left_out=said
                )
            )
    file = "standard input" if module.path == STDIN else Path(module.path).name
    compared = [(plan.spec, estimate) for plan, estimate in zip(plans, estimates, strict=True)]
    return Made(Page(file, __version__, plans=shown, compared=compared, searches=searches, left_out=rest), left_out)


def _draw(plan: CompiledPlan) -> str | Diagnostic:
    """The map of the devices as SVG, or why there is none."""
    try:
        return plan.draw("devices").svg
    except PlanError as error:
        return error.diagnostics[0]


def _serve(
    plan: CompiledPlan, of: int | None, requests: int | None, unserved: dict[str, Diagnostic]
) -> tuple[Run | Diagnostic | None, str]:
    """The requests of a plan served one by one, or why they are not; and what of the load is left out."""
    if not plan.spec.workload.over_time:
        return None, ""
    if plan.name in unserved:
        return unserved[plan.name], ""
    count = requests or (MOST_REQUESTS if of is not None and of > MOST_REQUESTS else None)
    try:
        run = plan.simulate(count)
    except PlanError as error:
        return error.diagnostics[0], ""
    said = (
        f"The first {count:,} of {of:,} requests are served; --requests N serves another number."
        if count and of and not requests
        else ""
    )
    return run, said


def _search(arguments: Namespace, module: Module) -> tuple[list[SearchShown], list[CompiledPlan]]:
    """The searches of the file, and the best plan of each."""
    asked = Asked(requests=arguments.requests)
    shown, best = [], []
    with open_workers(None) as workers:
        for search in read_searches(module, arguments.search):
            points = Points(search)
            with Progress(f"searching {search.name}") as tick:
                found = workers.search(Search(search, keep_most(search, asked), points), tick)
            with Progress(f"simulating {search.name}") as tick:
                answer = tell(found, asked, workers, tick)
            if found.stopped:
                raise KeyboardInterrupt
            shown.append(show_search(found, answer, points))
            if answer.top:
                name = f"{search.name}_best"
                text = f"{module.root.text}\n{search.write(name, answer.top[0].combination)}"
                best += compile_module(open_text(text, module.path, read_overrides(arguments)), name)
    return shown, best


def _tell(arguments: Namespace, made: Made, size: int) -> None:
    """Say what was written."""
    page = made.page
    if arguments.json:
        body = {"plandsl": __version__, "file": arguments.file, "output": arguments.output, "bytes": size,
                "plans": [e.plan for _, e in page.compared], "whole": [one.estimate.plan for one in page.plans],
                "searches": [one.name for one in page.searches]}  # fmt: skip
        print_json(body | ({"diagnostics": [one.as_json() for one in made.left_out]} if made.left_out else {}))
        return
    if made.left_out:
        print_diagnostics(made.left_out, {})
    print_text(f"report of {_names(page)}: {arguments.output}\n")


def _names(page: Page) -> str:
    names: Sequence[str] = [*(e.plan for _, e in page.compared), *(f"search {one.name}" for one in page.searches)]
    return ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")
