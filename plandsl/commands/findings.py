"""Diagnostics, printed."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from plandsl._version import __version__
from plandsl.commands.console import WRONG, find_width, print_json
from plandsl.commands.sources import read_source
from plandsl.diagnostics import Diagnostic, PlanError, coloured, plain, render


def show_errors(error: PlanError, as_json: bool) -> int:
    """Print diagnostics on standard error and, with ``as_json``, as JSON on standard output. Gives the exit status."""
    print_diagnostics(error.diagnostics, _with_files(error))
    if as_json:
        print_json({"plandsl": __version__, "diagnostics": [d.as_json() for d in error.diagnostics]})
    return WRONG


def print_diagnostics(found: Sequence[Diagnostic], sources: Mapping[str, str]) -> None:
    """On standard error, in colour if a terminal shows it; `NO_COLOR` and `FORCE_COLOR` decide where they are set."""
    terminal = sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
    colours = not os.environ.get("NO_COLOR") and (bool(os.environ.get("FORCE_COLOR")) or terminal)
    sys.stderr.write(render(found, sources, coloured if colours else plain, find_width(sys.stderr)) + "\n")


def _with_files(error: PlanError) -> dict[str, str]:
    """The sources of an error. What is found after a file is compiled comes without them, so they are read again."""
    found = dict(error.sources)
    for file in {d.span.file for d in error.diagnostics if d.span is not None} - set(found):
        if Path(file).suffix == ".plan" and os.path.isfile(file):
            found[file] = read_source(file)
    return found
