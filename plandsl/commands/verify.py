"""`planc verify`: sharded programs beside unsharded ones."""

from __future__ import annotations

from argparse import Namespace

from plandsl._version import __version__
from plandsl.commands.console import FAILED, OK, Progress, print_json, print_text
from plandsl.commands.sources import compile_plans
from plandsl.diagnostics import Diagnostic, PlanError


def run_verify(arguments: Namespace) -> int:
    """`planc verify`."""
    if arguments.steps < 0 or arguments.steps > 64:
        raise PlanError([Diagnostic("E400", f"--steps {arguments.steps} is not between 0 and 64")])
    plans = compile_plans(arguments)
    verdicts = {}
    with Progress("verifying") as tick:
        for plan in plans:
            verdicts[plan.name] = plan.verify(arguments.steps, arguments.seed)
            tick(len(verdicts), len(plans))
    if arguments.json:
        bodies = [
            {"plan": name, "ok": v.ok, "worst": v.worst if v.ok else None, "ranks": v.ranks, "steps": v.steps,
             "where": v.where, "message": v.message}
            for name, v in verdicts.items()
        ]  # fmt: skip
        print_json({"plandsl": __version__, "plans": bodies})
        return OK if all(v.ok for v in verdicts.values()) else FAILED
    for name, v in verdicts.items():
        run = f"on {v.ranks} ranks, prefill and {v.steps} decode steps"
        if v.ok:
            print_text(f"{name}: equal to the unsharded model {run}; largest difference {v.worst:.1e}\n")
        else:
            print_text(f"{name}: DIFFERS from the unsharded model {run}: {v.message}\n")
    return OK if all(v.ok for v in verdicts.values()) else FAILED
