"""`planc simulate --find-rate` for people: the rate, what binds it, and the run at that rate."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import isfinite

from rich.console import Console, RenderableType
from rich.text import Text

from plandsl.answers.rate import FoundRate
from plandsl.answers.text.simulation import print_simulation
from plandsl.answers.text.words import plain_table, show_metric
from plandsl.printing import print_lines
from plandsl.spec.plan import PlanSpec
from plandsl.units import counted, show_money


def print_rate(plan: PlanSpec, found: FoundRate, console: Console) -> None:
    """Print the answer for one plan, and the run at the rate that was found."""
    lines: list[RenderableType] = [Text(line) for line in _lines(found)]
    lines += [Text(f"warning: {warning}", style="yellow") for warning in found.warnings]
    if not isinstance(lines[0], Text):
        raise AssertionError("the first line is text")
    lines[0].stylize("bold")
    print_lines(console, *lines)
    if found.at is not None:
        console.print()
        print_simulation(plan, found.at, console)


def print_rates(found: Sequence[FoundRate], console: Console) -> None:
    """Print the rates of several plans below one another."""
    table = plain_table("l", *"rrr", "l", header=("largest rate", "GPUs", "rate", "per GPU", "bound by"))
    for f in found:
        each = f"{f.value / f.gpus:.3g}" if f.ok else "-"
        table.add_row(f.plan, str(f.gpus), _show(f.value, f.unit) if f.ok else "none", each, ", ".join(f.binds))
    print_lines(console, table)


def _lines(f: FoundRate) -> Iterator[str]:
    if not f.ok:
        yield f"{f.plan}: no rate meets the requirements"
        yield f"at {_show(f.fails_at, f.unit)} {_fails(f)}; {f.why}"
    else:
        times = "" if f.value == f.factor else f", {f.factor:.3g} times the load of the plan"
        yield f"{f.plan}: at most {_show(f.value, f.unit)}{_interval(f)}{times}"
        if f.binds:
            yield f"at {_show(f.fails_at, f.unit)} {_fails(f)}"
        else:
            yield f"nothing binds: {f.why}"
    if f.demand is not None and f.copies is not None:
        many = "1 copy" if f.copies == 1 else f"{f.copies} copies"
        paid = "" if f.usd_per_h is None else f", {show_money(f.usd_per_h)} an hour"
        yield f"{f.demand:.4g} req/s: {many}, {f.copies * f.gpus} GPUs{paid}"
    yield f"found by {counted(f.runs, 'run')} of the same requests"


def _interval(f: FoundRate) -> str:
    if not isfinite(f.low):
        return ""
    high = f"to {_number(f.high, f.unit)}" if isfinite(f.high) else "or more"
    return f" ({_number(f.low, f.unit)} {high})"


def _fails(f: FoundRate) -> str:
    """What fails at the next rate that was tried: ``p99(ttft) <= 2 s has 2.13 s``."""
    said = [f"`{r.text}` is missed with {show_metric(r.text, r.value)}" for r in f.fails]
    said += [text for text in f.binds if text not in {r.text for r in f.fails}]
    return " and ".join(said)


def _show(value: float, unit: str) -> str:
    return f"{_number(value, unit)} {unit}"


def _number(value: float, unit: str) -> str:
    return f"{value:,.0f}" if unit == "requests in flight" else f"{value:.4g}"
