"""`planc run`: the program of a plan in JAX, beside the reference or beside the prediction."""

from __future__ import annotations

from argparse import Namespace
from typing import TYPE_CHECKING

from attrs import evolve

from plandsl._version import __version__
from plandsl.commands.console import OK, Progress, print_json, print_text
from plandsl.commands.sources import compile_one, compile_plans
from plandsl.commands.verify import check_steps, show_verdicts
from plandsl.ir.program import DECODE, PREFILL
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
    from plandsl.backends.jax import ONLY, time_program

    plan = compile_one(arguments)
    rows = time_program(plan.jax_program())
    foreseen = predicted(plan)
    gpu = plan.spec.machine
    if arguments.json:
        body = [
            {"device": r.device, "sharding": r.sharding, "phase": r.phase, "measured_s": r.seconds,
             "predicted_s": foreseen[r.sharding, r.phase]}
            for r in rows
        ]  # fmt: skip
        print_json({"plandsl": __version__, "plan": plan.name, "steps": body})
        return OK
    for row in rows:
        name = plan.name if row.sharding == ONLY else f"{plan.name}, {row.sharding}"
        wanted = foreseen[row.sharding, row.phase]
        said = f"{row.phase} takes {show_time(row.seconds)} on {row.device}, predicted {show_time(wanted)} on {gpu}"
        print_text(f"{name}: {said} ({row.seconds / wanted:.3g} times)\n")
    return OK


def predicted(plan: CompiledPlan) -> dict[tuple[str, str], float]:
    """The predicted seconds of a step, by sharding and phase.

    A draft and a tower are no part of a step of their model. Of requests over time, the steps are those of a batch that
    starts together.
    """
    from plandsl.driver import CompiledPlan

    found = {}
    for sharding in (s for part, model in plan.parts.items() for s in model.shardings(part)):
        batch = evolve(sharding.spec.workload, traffic=None)
        alone = evolve(sharding.spec, workload=batch, requires=(), tower=None)
        estimate = CompiledPlan(alone, ()).closed_form()
        guesses = estimate.speculate
        found[sharding.name, PREFILL] = estimate.prefill.time_s - estimate.prefill.draft_s
        found[sharding.name, DECODE] = guesses.step_s - guesses.draft_s if guesses else estimate.decode.time_s
    return found
