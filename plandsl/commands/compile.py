"""`planc compile`: the estimates of plans, or their programs after a pass."""

from __future__ import annotations

import sys
from argparse import Namespace
from typing import TYPE_CHECKING

from plandsl._version import __version__
from plandsl.commands.console import FAILED, OK, open_console, print_json, spaced
from plandsl.commands.sources import compile_plans
from plandsl.diagnostics import Diagnostic, PlanError, suggest

if TYPE_CHECKING:
    from plandsl.driver import CompiledPlan


COMPARED = 40
"""Most plans of a file that are compared with one another in a table."""


def run_compile(arguments: Namespace) -> int:
    """`planc compile`."""
    plans = compile_plans(arguments)
    if arguments.dump is not None:
        return _dump(arguments, plans)
    estimates = [p.estimate() for p in plans]
    if arguments.json:
        body = {"plandsl": __version__, "file": arguments.file, "plans": [e.as_json() for e in estimates]}
        if len(estimates) > 1:
            from plandsl.answers.estimate import comparisons

            body["comparisons"] = comparisons(estimates[:COMPARED])
        print_json(body)
    else:
        from plandsl.answers.text.estimate import print_comparison, print_estimate

        console = open_console()
        for plan, estimate in spaced(zip(plans, estimates, strict=True), console):
            print_estimate(plan.spec, estimate, console)
        if len(estimates) > 1:
            console.print()
            print_comparison(estimates[:COMPARED], console)
    return OK if all(e.ok for e in estimates) else FAILED


def _dump(arguments: Namespace, plans: list[CompiledPlan]) -> int:
    from plandsl.ir.text import show
    from plandsl.passes import PIPELINE

    names = [step.name for step in PIPELINE]
    name = arguments.dump.replace("_", "-")
    if name not in names:
        raise PlanError([Diagnostic("E404", f"no pass is named `{arguments.dump}`", hint=suggest(name, names))])
    texts = {p.name: show(p.program(arguments.phase, name)) for p in plans}
    if arguments.json:
        print_json({"plandsl": __version__, "pass": name, "phase": arguments.phase, "programs": texts})
    else:
        sys.stdout.write("\n".join(f"# plan {plan}\n{text}" for plan, text in texts.items()))
    return OK
