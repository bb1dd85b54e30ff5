"""`planc verify`: sharded programs beside unsharded ones."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping
from typing import TYPE_CHECKING

from plandsl import limits
from plandsl._version import __version__
from plandsl.commands.console import FAILED, OK, Progress, print_json, print_text
from plandsl.commands.sources import check_count, compile_plans

if TYPE_CHECKING:
    from plandsl.backends.reference.verify import Verdict


def run_verify(arguments: Namespace) -> int:
    """`planc verify`."""
    check_steps(arguments)
    plans = compile_plans(arguments)
    verdicts = {}
    with Progress("verifying") as tick:
        for plan in plans:
            verdicts[plan.name] = plan.verify(arguments.steps, arguments.seed)
            tick(len(verdicts), len(plans))
    return show_verdicts(verdicts, arguments, "", "the unsharded model", "ranks")


def check_steps(arguments: Namespace) -> None:
    """Raise `PlanError` (E400) where `--steps` asks for none or too many."""
    check_count("steps", arguments.steps, 0, limits.MAX_VERIFIED)


def show_verdicts(verdicts: Mapping[str, Verdict], arguments: Namespace, way: str, other: str, devices: str) -> int:
    """Print for each plan whether it computes ``way`` what the ``other`` does, and give the exit status."""
    if arguments.json:
        bodies = [
            {"plan": name, "ok": v.ok, "worst": v.worst if v.ok else None, "ranks": v.ranks, "steps": v.steps,
             "where": v.where, "message": v.message}
            for name, v in verdicts.items()
        ]  # fmt: skip
        print_json({"plandsl": __version__, "plans": bodies})
        return OK if all(v.ok for v in verdicts.values()) else FAILED
    for name, v in verdicts.items():
        run = f"on {v.ranks} {devices}, prefill{f' and {v.steps} decode steps' if v.steps else ''}"
        if v.ok:
            print_text(f"{name}: {way}equal to {other} {run}; largest difference {v.worst:.1e}\n")
        else:
            print_text(f"{name}: {way}DIFFERS from {other} {run}: {v.message}\n")
    return OK if all(v.ok for v in verdicts.values()) else FAILED
