"""`planc compare FILE BENCH.json...`: results of benchmarks beside a plan, and the cause of the largest gap."""

from __future__ import annotations

import re
from argparse import Namespace
from pathlib import Path

from plandsl._version import __version__
from plandsl.answers.comparison import Comparison
from plandsl.answers.text.comparison import print_comparison
from plandsl.commands.console import OK, Progress, open_console, print_json, print_text
from plandsl.commands.outputs import lacking_json, leave_out_lacking, say_lacking
from plandsl.commands.sources import compile_one
from plandsl.diagnostics import Diagnostic, PlanError
from plandsl.driver import CompiledPlan
from plandsl.files import write_file
from plandsl.sheets import check_sheet_path, open_sheet


def run_compare(arguments: Namespace) -> int:
    """Exit status 0, whatever the errors are: they are the answer."""
    _check_outputs(arguments)
    lacking = leave_out_lacking(arguments, rows=check_sheet_path)
    made = compile_one(arguments)
    with Progress("comparing") as tick:
        found = made.compare(arguments.benches, fit=_engine_name(arguments.fit), tick=tick)
    _write(arguments, found)
    if arguments.json:
        more = {name: path for name in ("rows", "fit") if (path := getattr(arguments, name))}
        written = {"written": more} if more else {}
        print_json(
            {
                "plandsl": __version__,
                "file": arguments.file,
                **found.as_json(),
                **written,
                **lacking_json(lacking),
            }
        )
        return say_lacking(lacking, OK)
    _print(arguments, made, found)
    return say_lacking(lacking, OK)


def _print(arguments: Namespace, made: CompiledPlan, found: Comparison) -> None:
    print_comparison(made.spec, found, open_console())
    for what, path in (("rows", arguments.rows), ("engine", arguments.fit)):
        if path:
            print_text(f"\n{what}: {path}\n")


def _engine_name(path: str | None) -> str | None:
    """The name of an engine in a file: that of the file, in letters that a name may have."""
    if path is None:
        return None
    name = re.sub(r"\W", "_", Path(path).stem, flags=re.ASCII)
    return name if name[:1].isalpha() else f"engine_{name}"


def _write(arguments: Namespace, found: Comparison) -> None:
    """Write the files that were asked for."""
    if arguments.rows:
        with open_sheet(Path(arguments.rows)) as sheet:
            sheet(found.table("runs").columns)
    if arguments.fit and found.fitted is not None:
        write_file(arguments.fit, found.fitted.text)


def _check_outputs(arguments: Namespace) -> None:
    """Refuse an output that would overwrite an input, or has the wrong ending, and a plan among the results.

    Raises `PlanError` before the work begins: E400, and E542 where plan and results are swapped.
    """
    plans = [path for path in arguments.benches if Path(path).suffix == ".plan"]
    if plans and Path(arguments.file).suffix in (".json", ".jsonl"):
        why = f"`{arguments.file}` is a result, and `{plans[0]}` is a plan: the plan comes first"
        raise PlanError([Diagnostic("E542", why, hint=f"planc compare {plans[0]} {arguments.file}")])
    inputs = [Path(path).resolve() for path in (arguments.file, *arguments.benches) if path != "-"]
    for option in ("rows", "fit"):
        path = getattr(arguments, option)
        if path and Path(path).resolve() in inputs:
            raise PlanError([Diagnostic("E400", f"--{option} {path} would overwrite a file that is compared")])
    if arguments.fit and Path(arguments.fit).suffix != ".plan":
        why = f"--fit {arguments.fit} does not end in .plan"
        raise PlanError([Diagnostic("E400", why, hint="for example --fit mine.plan")])
