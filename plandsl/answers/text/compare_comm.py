"""`planc compare-comm` for people: what several plans send, phase by phase and axis by axis."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from plandsl.answers.communication import TRANSFER, Compared, Traffic
from plandsl.answers.text.words import bold, plain_table
from plandsl.ir.program import DECODE, PREFILL
from plandsl.printing import print_lines
from plandsl.units import show_bytes, show_percent, show_time

NOTE = (
    "sends: bytes on the links, from one GPU of every stage together, for a prefill of one batch, for one decode step, "
    "and for the transfer of one request's cache; share: of TTFT in prefill, else of TPOT"
)


def print_compared(plans: Sequence[Compared], console: Console) -> None:
    """Print a line for each plan, phase and axis; a plan with several axes has a line for their sum."""
    table = plain_table("l", "l", *"rrrr", header=("communication", "along", "calls", "sends", "time", "share"))
    for phase in (PREFILL, DECODE, TRANSFER):
        shown = [plan for plan in plans if phase != TRANSFER or plan.sent.of(phase)]
        if shown:
            table.add_row(bold(phase))
        for plan in shown:
            _add_plan(table, plan, phase)
    parts: list[RenderableType] = [table, Text(), _per_request(plans), Text(), Text(NOTE, style="dim")]
    print_lines(console, *parts)


def _add_plan(table: Table, plan: Compared, phase: str) -> None:
    """The lines of a plan in one phase, under its name."""
    axes = plan.sent.by_axis(phase)
    if not axes:
        table.add_row(f"  {plan.plan}", Text("nothing", style="dim"))
    for i, (axis, sums) in enumerate(axes.items()):
        table.add_row("" if i else f"  {plan.plan}", axis, *_cells(sums))
    if len(axes) > 1:
        table.add_row("", "all", *_cells(plan.sent.total(phase)), style="bold")


def _cells(sums: Traffic) -> tuple[str, ...]:
    return str(sums.calls), show_bytes(sums.wire), show_time(sums.time_s), show_percent(sums.share)


def _per_request(plans: Sequence[Compared]) -> Table:
    """What one request sends from its prompt to its last token, beside the plan that sends least."""
    least = min((plan.sent.per_request for plan in plans if plan.sent.per_request), default=0.0)
    table = plain_table("l", "l", "r", "r", header=("one request", "mesh", "sends", "of the least"))
    for plan in plans:
        sent = plan.sent.per_request
        times = f"{sent / least:.3g}x" if least and sent else ""
        table.add_row(f"  {plan.plan}", plan.mesh, show_bytes(sent), times)
    return table
