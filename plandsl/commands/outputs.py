"""Output files that need an extra which is missing: a command leaves them out and writes the others."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from plandsl.commands.console import WRONG
from plandsl.commands.findings import print_diagnostics
from plandsl.diagnostics import Diagnostic, PlanError

EXTRAS = ("E410", "E411")
"""Codes of a library that an output needs and that is not installed."""


class Lacking(NamedTuple):
    """A file that cannot be written, and which extra is missing."""

    path: str
    why: Diagnostic


def leave_out_lacking(arguments: Namespace, **checks: Callable[[Path], None]) -> list[Lacking]:
    """Check the output file of each option before work begins, and take the option away where an extra is missing.

    The diagnostics are printed at once, so that whoever needs the file can interrupt. Raises `PlanError` for any other
    mistake.
    """
    found = []
    for option, check in checks.items():
        path = getattr(arguments, option)
        try:
            if path:
                check(Path(path))
        except PlanError as error:
            if any(one.code not in EXTRAS for one in error.diagnostics):
                raise
            found += [Lacking(path, one) for one in error.diagnostics]
            setattr(arguments, option, None)
    if found:
        print_diagnostics([one.why for one in found], {})
    return found


def lacking_json(lacking: list[Lacking]) -> dict[str, Any]:
    """What the machine form says of files that are not written; nothing where all are."""
    return {"diagnostics": [one.why.as_json() for one in lacking]} if lacking else {}


def say_lacking(lacking: list[Lacking], status: int) -> int:
    """Name the files that are not written. Gives the exit status: 2 where there are any, but for an interruption."""
    for one in lacking:
        sys.stderr.write(f"{one.path} is not written: {one.why.message}\n")
    return max(status, WRONG) if lacking else status
