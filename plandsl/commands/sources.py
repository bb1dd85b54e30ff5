"""What commands read: files, overrides, and the plans of a file."""

from __future__ import annotations

import os
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from plandsl.commands.console import Progress
from plandsl.diagnostics import Diagnostic, PlanError
from plandsl.files import split_part

if TYPE_CHECKING:
    from plandsl.driver import CompiledPlan
    from plandsl.grammar.resolve import Module
    from plandsl.limits import Limit


STDIN = "<stdin>"
"""The file name of standard input in diagnostics."""


def read_source(path: str) -> str:
    """The text of a file, or of standard input for ``-``. Raises `PlanError` if it is not text, or is too large."""
    from plandsl import limits
    from plandsl.files import read_input
    from plandsl.grammar.modules import read_bytes
    from plandsl.grammar.parse import decode

    shown = STDIN if path == "-" else path
    try:
        data = read_input(limits.MAX_FILE_BYTES) if path == "-" else read_bytes(Path(path))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise PlanError([Diagnostic("E209", f"cannot read {shown}: {reason}")]) from error
    text, found = decode(data, shown)
    if found:
        raise PlanError(found, {shown: text})
    return text


def read_overrides(arguments: Namespace) -> list[tuple[str, str]]:
    """The path and the value of each `--set`. Raises `PlanError` (E400) for another form."""
    pairs = []
    for text in arguments.overrides:
        path, equals, value = text.partition("=")
        if not equals or not path.strip() or not value.strip():
            why = f"`--set {text}` is not PATH=VALUE"
            raise PlanError([Diagnostic("E400", why, hint="for example --set workload.batch=64")])
        pairs.append((path.strip(), value.strip()))
    return pairs


def check_count(option: str, value: int | None, least: int, most: Limit) -> None:
    """Raise `PlanError` (E400) where the number of an option is below ``least`` or above ``most``; None: not given."""
    if value is None or least <= value <= most:
        return
    hint = most.hint(f"at most `--{option} {most:d}`", value) if value > most else f"at least `--{option} {least}`"
    raise PlanError([Diagnostic("E400", f"--{option} {value} is not from {least} to {most:,}", hint=hint)])


def open_module(path: str, overrides: list[tuple[str, str]] | None = None) -> Module:
    """The declarations of a file, or of standard input for ``-``, some of their fields overridden."""
    from plandsl.driver import open_file, open_text

    if path != "-":
        return open_file(path, overrides or [])
    return open_text(read_source(path), STDIN, overrides or [])


def split_plan(text: str, plan: str | None) -> tuple[str, str | None]:
    """The file and the plan of ``FILE:PLAN``; for FILE alone, the plan is ``plan``."""
    path, name = split_part(text)
    is_file = Path(path).suffix == ".plan" or os.path.isfile(path)
    return (path, name) if name is not None and is_file and not os.path.exists(text) else (text, plan)


def compile_plans(arguments: Namespace) -> list[CompiledPlan]:
    """The plans of the file that `--plan` names, or all."""
    from plandsl.driver import compile_module

    with Progress("compiling") as tick:
        return compile_module(open_module(arguments.file, read_overrides(arguments)), arguments.plan, tick)


def compile_one(arguments: Namespace) -> CompiledPlan:
    """The one plan that an output file holds: the plan named by `--plan`, or the only plan of the file."""
    plans = compile_plans(arguments)
    if len(plans) > 1:
        names = ", ".join(p.name for p in plans)
        why = f"{arguments.file} has {len(plans)} plans: {names}"
        raise PlanError([Diagnostic("E403", why, hint=f"pick one with --plan {plans[0].name}")])
    return plans[0]
