"""`planc check`: every mistake of some files."""

from __future__ import annotations

import sys
from argparse import Namespace

from plandsl._version import __version__
from plandsl.commands.console import OK, WRONG, print_json, print_text
from plandsl.commands.findings import print_diagnostics
from plandsl.commands.sources import open_module, read_overrides
from plandsl.diagnostics import Diagnostic, PlanError


def run_check(arguments: Namespace) -> int:
    """`planc check`."""
    from plandsl.driver import check_module

    found: list[Diagnostic] = []
    sources: dict[str, str] = {}
    for path in arguments.files:
        try:
            module = open_module(path, read_overrides(arguments))
            found += check_module(module, arguments.plan)
            sources |= module.sources
        except PlanError as error:
            found += error.diagnostics
            sources |= error.sources
    found = list(dict.fromkeys(found))
    errors = [d for d in found if d.severity == "error"]
    _print_findings("json" if arguments.json else arguments.format, found, sources, len(arguments.files))
    return WRONG if errors else OK


def _print_findings(form: str, found: list[Diagnostic], sources: dict[str, str], files: int) -> None:
    """Findings as text on standard error; in another form for machines, also on standard output."""
    shown = [d for d in found if d.severity != "note"]
    if shown:
        print_diagnostics(shown, sources)
    if form == "json":
        print_json({"plandsl": __version__, "diagnostics": [d.as_json() for d in found]})
    elif form != "text":
        from plandsl.annotations import github, sarif

        ordered = sorted(found, key=lambda d: (d.span is None, d.span or ()))
        sys.stdout.write(github(ordered)) if form == "github" else print_json(sarif(ordered))
    elif all(d.severity != "error" for d in found):
        print_text(f"{'1 file' if files == 1 else f'{files} files'}: no errors\n")
