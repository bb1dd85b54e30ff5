"""`planc autoscale` for people: replicas by interval, and what they cost beside a fixed deployment."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import isfinite

from rich.console import Console, RenderableType
from rich.text import Text

from plandsl.answers.autoscale import Autoscale, Interval
from plandsl.answers.text.words import plain_table
from plandsl.printing import print_lines
from plandsl.spec.plan import PlanSpec
from plandsl.units import show_percent, show_time

SHOWN = 60
"""Most rows that are printed; the JSON has all intervals."""


def print_autoscale(plan: PlanSpec, found: Autoscale, console: Console) -> None:
    """Print the answer for one plan."""
    gpus = f"{found.gpus} GPU{'s' if found.gpus > 1 else ''}"
    title = Text(found.plan, style="bold").append(
        f"  {plan.model.name} on {plan.machine}, replicas of {gpus}, intervals of {show_time(found.every_s)}",
        style="not bold",
    )
    parts: list[RenderableType] = [title, Text(), _table(found), Text(), *_ending(found)]
    print_lines(console, *parts)


def print_costs(found: Sequence[Autoscale], console: Console) -> None:
    """Print what several plans cost, below one another."""
    table = plain_table("l", "r", "r", "r", "r", header=("over the load", "replicas", "GPU hours", "fixed", "scaled"))
    for one in found:
        prices = [_money(one.cost_usd(hours)) for hours in (one.fixed_gpu_hours, one.gpu_hours)]
        table.add_row(one.plan, f"at most {one.peak}", f"{one.gpu_hours:.4g}", *prices)
    print_lines(console, table)


def _table(found: Autoscale) -> RenderableType:
    """A row for each interval; neighbours with one rate share a row."""
    asked = list(dict.fromkeys(r.text for one in found.intervals if one.run for r in one.run.requires))
    heads = ("from", "to", "rate", "replicas", "GPU hours", *asked, "")
    table = plain_table(*"rrrrr", *"r" * len(asked), "l", header=heads, labels=2)
    for one in _joined(found.intervals)[:SHOWN]:
        hours = found.gpus * one.replicas * one.hours
        cells = (_clock(one.start_s), _clock(one.end_s), f"{one.rate:.3g}/s", str(one.replicas), f"{hours:.3g}")
        mark = f"misses {', '.join(one.fails)}" if one.fails else ""
        table.add_row(*cells, *(_requirement(one, text) for text in asked), mark)
    return table


def _joined(intervals: Sequence[Interval]) -> list[Interval]:
    out: list[Interval] = []
    for one in intervals:
        if out and (out[-1].rate, out[-1].replicas) == (one.rate, one.replicas):
            out[-1] = out[-1]._replace(end_s=one.end_s)
        else:
            out.append(one)
    return out


def _requirement(one: Interval, text: str) -> str:
    value = next((r.value for r in one.run.requires if r.text == text), float("nan")) if one.run else float("nan")
    return show_time(value) if isfinite(value) else "-"


def _clock(seconds: float) -> str:
    """Hours and minutes, and seconds where there are any."""
    minutes, rest = divmod(round(seconds, 3), 60)
    said = f"{int(minutes) // 60:02d}:{int(minutes) % 60:02d}"
    return f"{said}:{rest:04.1f}" if rest else said


def _ending(found: Autoscale) -> Iterator[Text]:
    rows = len(_joined(found.intervals))
    if rows > SHOWN:
        yield Text(f"{rows - SHOWN:,} more rows; --json has all", style="dim")
    if isfinite(found.capacity):
        yield Text(f"one replica bears {found.capacity:.3g} arrivals/s")
    else:
        yield Text("one replica misses a requirement at every rate", style="bold red")
    scaled, fixed = found.gpu_hours, found.fixed_gpu_hours
    saved = f", {show_percent(1 - scaled / fixed)} less" if fixed > scaled else ""
    energy = [f"; {kwh:,.4g} kWh" for kwh in found.energy_kwh or ()] or ["", ""]
    yield Text(f"fixed   {found.peak} replica{'s' * (found.peak > 1)}, {_hours(found, fixed)}{energy[1]}")
    yield Text(f"scaled  {_hours(found, scaled)}{saved}{energy[0]}")
    yield Text(f"each interval is served at its mean rate, {found.requests:,} requests for each replica", style="dim")
    for warning in found.warnings:
        yield Text(f"warning: {warning}", style="yellow")


def _hours(found: Autoscale, hours: float) -> str:
    cost = found.cost_usd(hours)
    return f"{hours:.4g} GPU hours" + ("" if cost is None else f", {_money(cost)}")


def _money(cost: float | None) -> str:
    return "-" if cost is None else f"{cost:,.2f} USD"
