"""`planc compare-comm`: what several plans send, side by side."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from plandsl._version import __version__
from plandsl.commands.console import OK, open_console, print_json, print_text
from plandsl.commands.sources import open_module, read_overrides, split_plan
from plandsl.diagnostics import Diagnostic, PlanError

MOST_PLANS = 40
"""Most plans whose communication is compared."""


def run_compare_comm(arguments: Namespace) -> int:
    """`planc compare-comm FILE[:PLAN]...`: the plans of all files side by side."""
    from plandsl.answers.text.compare_comm import print_compared
    from plandsl.driver import compare_communication, compile_module

    sides = dict.fromkeys(split_plan(text, arguments.plan) for text in arguments.files)
    modules = {path: open_module(path, read_overrides(arguments)) for path, _ in sides}
    many = sum(len(modules[path].plans) if name is None else 1 for path, name in sides)
    if many > MOST_PLANS:
        first = next(f"{path}:{plan}" for path, _ in sides for plan in modules[path].plans)
        why = f"{many} plans are too many to compare: at most {MOST_PLANS}"
        raise PlanError([Diagnostic("E458", why, hint=f"name some: planc compare-comm {first}")])
    found = [(path, plan) for path, name in sides for plan in compile_module(modules[path], name)]
    names = [plan.name for _, plan in found]
    labels = [p.name if names.count(p.name) == 1 else f"{Path(path).stem}:{p.name}" for path, p in found]
    compared = compare_communication([plan for _, plan in found], labels)
    if arguments.output:
        from plandsl.backends.graphviz import write
        from plandsl.backends.graphviz.compare import draw_compared

        write(draw_compared(compared), arguments.output)
    if arguments.json:
        more = {"output": arguments.output} if arguments.output else {}
        print_json({"plandsl": __version__, "plans": [one.as_json() for one in compared], **more})
        return OK
    print_compared(compared, open_console())
    if arguments.output:
        print_text(f"\npicture: {arguments.output}\n")
    return OK
