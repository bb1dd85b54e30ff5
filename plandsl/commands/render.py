"""`planc render`: a picture of a plan, or of the tradeoff of plans."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from plandsl._version import __version__
from plandsl.commands.console import OK, Progress, print_json, print_text
from plandsl.commands.sources import compile_one, compile_plans
from plandsl.diagnostics import Diagnostic, PlanError


def run_render(arguments: Namespace) -> int:
    """`planc render`."""
    if arguments.view == "tradeoff":
        return _render_tradeoff(arguments)
    if arguments.against:
        raise PlanError([Diagnostic("E400", "--against chooses a latency of `--view tradeoff`")])
    from plandsl.backends.graphviz import write

    plan = compile_one(arguments)
    write(plan.draw(arguments.view, arguments.phase), arguments.output)
    if arguments.json:
        more = {"flows": [one.as_json() for one in plan.flows()]} if arguments.view == "communication" else {}
        body = {"plandsl": __version__, "plan": plan.name, "view": arguments.view, "output": arguments.output}
        print_json(body | more)
    else:
        print_text(f"{arguments.view} of {plan.name}: {arguments.output}\n")
    return OK


def _render_tradeoff(arguments: Namespace) -> int:
    """Draw all plans of a file over their load."""
    from plandsl.plotting import check_picture_path

    path = Path(arguments.output)
    check_picture_path(path, "a tradeoff", "use another view, or the numbers of `planc compile --json`")
    plans = compile_plans(arguments)
    from plandsl.backends.plots import draw_tradeoff, load_curves

    with Progress("points of curves") as tick:
        curves = load_curves(plans, tick)
    draw_tradeoff(curves, path, dict.fromkeys(arguments.against or ("ttft", "tpot", "latency")))
    names = [plan.name for plan in plans]
    if arguments.json:
        print_json({"plandsl": __version__, "plans": names, "view": "tradeoff", "output": arguments.output,
                    "curves": [curve.as_json() for curve in curves]})  # fmt: skip
    else:
        print_text(f"tradeoff of {', '.join(names)}: {arguments.output}\n")
    return OK
