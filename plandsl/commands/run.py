"""`planc run`: the program of a plan in JAX, beside the reference or beside the prediction."""

from __future__ import annotations

from argparse import Namespace
from typing import TYPE_CHECKING

from plandsl._version import __version__
from plandsl.commands.console import OK, Progress, print_json, print_text
from plandsl.commands.sources import compile_one, compile_plans
from plandsl.commands.verify import check_steps, show_verdicts
from plandsl.units import show_time

if TYPE_CHECKING:
    from plandsl.driver import CompiledPlan


def run_run(arguments: Namespace) -> int:
    """`planc run`."""
    check_steps(arguments)
    return _compare(arguments) if arguments.shrink else _time(arguments)


def _compare(arguments: Namespace) -> int:
    """Small dimensions on devices of the host, beside the reference."""
    plans, verdicts = compile_plans(arguments), {}
    with Progress("running") as tick:
        for plan in plans:
            verdicts[plan.name] = plan.run(arguments.steps, arguments.seed)
            tick(len(verdicts), len(plans))
    return show_verdicts(verdicts, arguments, "in JAX ", "the reference", "host devices")


def _time(arguments: Namespace) -> int:
    """Real sizes on the devices that jax finds: seconds of a prefill and of a decode step beside the prediction."""
    from plandsl.backends.jax import time_program

    plan = compile_one(arguments)
    rows = time_program(plan.jax_program())
    predicted = _predicted(plan)
    if arguments.json:
        body = [
            {"device": r.device, "sharding": r.sharding, "phase": r.phase, "measured_s": r.seconds,
             "predicted_s": predicted[r.phase]}
            for r in rows
        ]  # fmt: skip
        print_json({"plandsl": __version__, "plan": plan.name, "steps": body})
        return OK
    for row in rows:
        print_text(
            f"{plan.name}, {row.sharding} {row.phase} on {row.device}: {show_time(row.seconds)}, "
            f"predicted {show_time(predicted[row.phase])}\n"
        )
    return OK


def _predicted(plan: CompiledPlan) -> dict[str, float]:
    """The predicted seconds of a step of each phase."""
    estimate = plan.estimate()
    return {"prefill": estimate.prefill.time_s, "decode": estimate.decode.time_s}
