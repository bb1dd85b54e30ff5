"""`planc laws FILE`: check laws on every plan of a file and on neighbours of each, and print what comes of it."""

from __future__ import annotations

import sys
from argparse import Namespace
from pathlib import Path

from plandsl import limits
from plandsl._version import __version__
from plandsl.commands.console import FAILED, OK, WRONG, Progress, open_console, print_json
from plandsl.commands.findings import show_errors
from plandsl.commands.sources import check_count, compile_plans
from plandsl.diagnostics import Diagnostic, PlanError
from plandsl.files import write_file
from plandsl.progress import count_parts
from plandsl.testing.checked import Checked, checked_text, list_text
from plandsl.testing.known import LAWS, Law, find_law, meaning_of, name_of
from plandsl.testing.laws import find_hypothesis, run
from plandsl.testing.own import load_law

DRAWS = 3
"""Neighbours of each plan, where nobody says how many."""


def run_laws(arguments: Namespace) -> int:
    """Exit status 1 where a law is broken."""
    if arguments.list:
        return _list(arguments)
    if arguments.file is None:
        hint = "planc laws FILE, or planc laws --list"
        raise PlanError([Diagnostic("E400", "`planc laws` needs a file", hint=hint)])
    check_count("draws", arguments.draws, 0, limits.MAX_DRAWS)
    named = [_find(name) for name in arguments.law] or None
    plans = compile_plans(arguments)
    draws, missing = _draws(arguments)
    with Progress("checking laws") as tick:
        ticks = (count_parts(tick, at, len(plans)) for at in range(len(plans)))
        found = [
            run(plan, named, draws=draws, seed=arguments.seed, file=arguments.file, tick=one)
            for plan, one in zip(plans, ticks, strict=True)
        ]
    _print(arguments, found, missing)
    if missing is not None and arguments.draws:
        return max(WRONG, show_errors(missing, False))
    return OK if all(one.ok for one in found) else FAILED


def _find(name: str) -> Law:
    return load_law(name) if ":" in name else find_law(name)


def _draws(arguments: Namespace) -> tuple[int, PlanError | None]:
    """How many neighbours to draw; none, and why, where Hypothesis is missing."""
    wanted: int = DRAWS if arguments.draws is None else arguments.draws
    if not wanted:
        return 0, None
    try:
        find_hypothesis()
    except PlanError as missing:
        return 0, missing
    return wanted, None


def _list(arguments: Namespace) -> int:
    if arguments.json:
        laws = [{"law": name_of(law), "meaning": meaning_of(law)} for law in LAWS]
        print_json({"plandsl": __version__, "laws": laws})
    else:
        sys.stdout.write(list_text(open_console().width))
    return OK


def _print(arguments: Namespace, found: list[Checked], missing: PlanError | None) -> None:
    breaches = [one.broken for plan in found for one in plan.broken if one.broken is not None]
    if arguments.output and breaches:
        write_file(Path(arguments.output), breaches[0].text)
    if arguments.json:
        written = arguments.output if breaches else None
        body = {
            "file": arguments.file,
            "ok": not breaches,
            "output": written,
            "plans": [one.as_json() for one in found],
        }
        print_json({"plandsl": __version__, **body})
        return
    sys.stdout.write(checked_text(found, open_console().width))
    if missing is not None and arguments.draws is None:
        sys.stdout.write("no neighbours were drawn: pip install 'plandsl[testing]'\n")
    if breaches:
        law = next(one.law for plan in found for one in plan.broken)
        again = f"planc laws {arguments.output or 'FILE'} --law {law} --draws 0"
        sys.stdout.write(f"wrote {arguments.output}; now: {again}\n" if arguments.output else "")
