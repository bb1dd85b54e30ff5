"""`planc export --to perfetto` and `--to chakra`: a plan as a timeline."""

from __future__ import annotations

from argparse import Namespace
from typing import TYPE_CHECKING

from plandsl import limits
from plandsl.commands.console import Progress
from plandsl.commands.sources import check_count
from plandsl.diagnostics import Diagnostic, PlanError

if TYPE_CHECKING:
    from plandsl.driver import CompiledPlan


def make_perfetto(plan: CompiledPlan, arguments: Namespace) -> str | bytes:
    """The trace of the plan's steps, or with `--simulate` of its requests; compressed for a name that ends in .gz."""
    text = _trace_requests(plan, arguments) if arguments.simulate else _trace_steps(plan, arguments)
    if not (arguments.output or "").endswith(".gz"):
        return text
    import gzip

    return gzip.compress(text.encode(), mtime=0)


def _trace_steps(plan: CompiledPlan, arguments: Namespace) -> str:
    from plandsl.backends.traces.perfetto import trace_steps

    if arguments.requests is not None:
        hint = "`--simulate` serves requests; without it the trace has the steps of the estimate"
        raise PlanError([Diagnostic("E400", "`--requests` belongs to `--simulate`", hint=hint)])
    return trace_steps(plan.cost, plan.closed_form(), arguments.ranks or "all", _steps(arguments, 2))


def _trace_requests(plan: CompiledPlan, arguments: Namespace) -> str:
    from plandsl.backends.traces.requests import trace_simulation

    for option in ("ranks", "steps"):
        if getattr(arguments, option) is not None:
            hint = "a simulation has the steps of all servers; `--requests N` serves fewer requests"
            raise PlanError([Diagnostic("E400", f"`--{option}` and `--simulate` contradict", hint=hint)])
    check_count("requests", arguments.requests, 1, limits.MAX_REQUESTS)
    with Progress("requests served") as tick:
        return trace_simulation(plan.spec, plan.simulate(arguments.requests, tick))


def make_chakra(plan: CompiledPlan, arguments: Namespace) -> dict[str, str | bytes]:
    """The files of a folder: an execution trace for each phase and rank, and the groups of ranks."""
    from plandsl.backends.traces.graph import trace_ranks

    return trace_ranks(plan.cost, plan.closed_form(), arguments.ranks or "all", _steps(arguments, 1))


def _steps(arguments: Namespace, default: int) -> int:
    """Decode steps. Raises `PlanError` (E400) for none, or too many."""
    steps: int = default if arguments.steps is None else arguments.steps
    check_count("steps", steps, 1, limits.MAX_TRACE_STEPS)
    return steps
