"""`planc export`."""

from __future__ import annotations

from argparse import Namespace

from plandsl.diagnostics import Diagnostic, PlanError


def run_export(arguments: Namespace) -> int:
    """Refuse a command that this version does not have (E402)."""
    raise PlanError([Diagnostic("E402", f"`planc {arguments.command}` is not supported yet")])
