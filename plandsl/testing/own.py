"""Laws of a user's own, in a Python file: `planc laws FILE --law my_laws.py:fits_on_two_nodes`."""

from __future__ import annotations

import os
import runpy
from pathlib import Path
from typing import Any

from plandsl.diagnostics import Diagnostic, PlanError, suggest
from plandsl.files import split_part
from plandsl.testing.known import Law


def load_law(named: str) -> Law:
    """The function of ``FILE.py:NAME``, whose file is run. Raises `PlanError` (E456) where there is none."""
    path, part = split_part(named)
    name = part or ""
    if Path(path).suffix != ".py" or not os.path.isfile(path):
        raise PlanError([Diagnostic("E456", f"`{path}` is no Python file", hint="--law FILE.py:FUNCTION")])
    try:
        found: dict[str, Any] = runpy.run_path(path)
    except Exception as error:
        why = f"{path} cannot be run: {type(error).__name__}: {error}"
        raise PlanError([Diagnostic("E456", why, hint=f"python {path} shows where it fails")]) from error
    law = found.get(name)
    if not callable(law):
        known = [
            n for n, value in found.items() if callable(value) and getattr(value, "__module__", "") == "<run_path>"
        ]
        raise PlanError([Diagnostic("E456", f"{path} has no function `{name}`", hint=suggest(name, known))])
    made: Law = law
    return made
