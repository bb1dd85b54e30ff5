"""`planc simulate --seeds` for people: means over the runs of one load, and how sure they are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import isfinite

from rich.console import Console, RenderableType
from rich.text import Text

from plandsl.answers.seeds import OverSeeds, SeedsRequirement
from plandsl.answers.text.money import spent_line
from plandsl.answers.text.simulation import held_table, side_by_side_table, times_table, title_of_run
from plandsl.answers.text.words import (
    plain_table,
    show_half,
    show_metric,
    show_request_rate,
    show_token_rate,
    verdict,
)
from plandsl.printing import print_lines
from plandsl.spec.plan import PlanSpec


def print_seeds(plan: PlanSpec, found: OverSeeds, console: Console) -> None:
    """Print the whole report of one plan."""
    spent = (
        []
        if found.mean.spent is None
        else [Text(line) for line in spent_line(found.mean.spent, encodes=found.mean.encodes)]
    )
    parts: list[RenderableType] = [title_of_run(plan, found.mean)]
    if found.requires:
        parts += [_requirements(found.requires), Text()]
    parts += [Text(_served(found)), *spent, Text(), times_table(found.mean), Text()]
    if isfinite(found.mean.occupancy.busy):
        parts += [held_table(found.mean.occupancy, "a server had"), Text()]
    print_lines(console, *parts, *_footnotes(found))


def print_seeds_side_by_side(found: Sequence[OverSeeds], console: Console) -> None:
    """Print the means of several plans in columns."""
    seeds = {one.seeds for one in found}
    said = "means over the same seeds" if len(seeds) == 1 else "the plans have different seeds"
    print_lines(console, side_by_side_table([one.mean for one in found]), Text(), Text(said, style="dim"))


def _served(found: OverSeeds) -> str:
    s, runs = found.mean.summary, len(found.seeds)
    rate = f"{show_request_rate(s.request_rate)}{show_half(found.request_rate)}"
    out = f"{show_token_rate(s.output_rate)} out{show_half(found.output_rate)}"
    good = f"goodput {show_request_rate(s.goodput)}{show_half(found.goodput)}"
    first, *_, last = found.seeds
    return f"{runs} runs of {s.requests:,} requests, seeds {first} to {last}: {rate}, {out}, {good}"


def _requirements(requires: Sequence[SeedsRequirement]) -> RenderableType:
    table = plain_table("l", "l", "l")
    for r in sorted(requires, key=lambda r: r.ok):
        value = f"{show_metric(r.text, r.figure.value)}{show_half(r.figure)}"
        table.add_row(*verdict(r.text, r.ok, value), f"in {r.met} of {r.runs} runs")
    return table


def _footnotes(found: OverSeeds) -> Iterator[RenderableType]:
    for warning in found.mean.summary.warnings:
        yield Text(f"warning: {warning}", style="yellow")
    yield Text("means over the runs with their 95 % interval by Student's t, peaks of all runs", style="dim")
