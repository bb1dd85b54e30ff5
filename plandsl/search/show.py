"""Print the answer of a search: the best plans, the front, and why the others are out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from plandsl.printing import print_lines
from plandsl.search.answer import Configuration, Miss, Remedy
from plandsl.search.run import Found
from plandsl.search.values import MOST
from plandsl.units import show_bytes, show_count, show_percent, show_time

SHOWN = 12
"""Most rows of the front that are printed; the JSON has all of them."""

WORDS = {"ttft": "TTFT", "tpot": "TPOT", "throughput_per_gpu": "per GPU", "max_batch": "largest batch"}


def metric_text(metric: str, value: float) -> str:
    """The text of a metric with its unit; `-` where it has no value."""
    if not math.isfinite(value):
        return "-"
    if metric in ("ttft", "tpot", "latency"):
        return show_time(value)
    if metric in ("throughput", "throughput_per_gpu"):
        return f"{value:,.0f} tok/s" if value >= 100 else f"{value:.3g} tok/s"
    if metric == "memory":
        return show_bytes(value)
    if metric in ("comm_share", "mfu", "mbu"):
        return show_percent(value)
    if metric == "cost":
        return f"{value:.3g} USD"
    return show_count(value)


def print_found(
    found: Found, top: Sequence[Configuration], front: Sequence[Configuration], same: Sequence[int],
    missing: Sequence[Miss], remedies: Sequence[Remedy], seconds: float, console: Console,
) -> None:  # fmt: skip
    """Print the whole answer. ``same`` are the ranks that lie in one band with the best (`ranks_in_band`)."""
    parts: list[RenderableType] = [_title(found, seconds), Text()]
    if top:
        parts += [_ranking(found, top, same), Text(), _front(found, front), Text()]
    elif found.tally.seen:
        parts += [_nearest_miss(found, missing, remedies), Text()]
    parts += _reasons(found)
    print_lines(console, *parts)


def _title(found: Found, seconds: float) -> Text:
    t = found.tally
    out = Text(found.search.name, style="bold")
    plans = f"{found.plans:,} plan{'s' if found.plans != 1 else ''}"
    out.append(f"  {t.seen:,} configurations of {plans}, {t.met:,} meet all; {show_time(seconds)}", style="not bold")
    if found.stopped:
        out.append("  INTERRUPTED: the best of what was seen", style="bold red")
    return out


def _columns(found: Found) -> list[str]:
    goals = [g.metric for g in found.search.all_goals]
    required = [r.metric for r in found.search.requires]
    return list(dict.fromkeys((*goals, "ttft", "tpot", "throughput", "throughput_per_gpu", *required)))


def _rows(
    table: Table, found: Found, rows: Sequence[Configuration], same: Sequence[int] = (), *, best: bool = False
) -> None:
    columns = _columns(found)
    for name in columns:
        table.add_column(WORDS.get(name, name), justify="right", no_wrap=True)
    for rank, row in enumerate(rows, 1):
        cells = [metric_text(name, row.metrics[name]) for name in columns]
        mark = "=" if rank in same else ""
        table.add_row(f"{rank}{mark}", row.label, *cells, style="bold" if best and rank == 1 else "")


def _table(title: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("", justify="right", no_wrap=True)
    table.add_column(title)
    return table


def _ranking(found: Found, top: Sequence[Configuration], same: Sequence[int]) -> RenderableType:
    goals = ", then ".join(g.text for g in found.search.all_goals)
    table = _table(goals)
    _rows(table, found, top, same, best=True)
    if not same:
        return table
    metric = WORDS.get(found.search.all_goals[0].metric, found.search.all_goals[0].metric)
    return Group(
        table, Text(f"=  within the band of the first, by {metric}: the model cannot tell them apart", style="dim")
    )


def _front(found: Found, front: Sequence[Configuration]) -> RenderableType:
    table = _table(f"Pareto front, {len(front):,} configurations")
    shown = evenly_spaced(front, SHOWN)
    _rows(table, found, shown)
    return table


def evenly_spaced(rows: Sequence[Configuration], most: int) -> list[Configuration]:
    """At most ``most`` of the rows, evenly spaced from the shortest TPOT to the longest."""
    ordered = sorted(rows, key=lambda row: (row.metrics["tpot"], row.number))
    if len(ordered) <= most:
        return ordered
    return [ordered[round(i * (len(ordered) - 1) / (most - 1))] for i in range(most)]


def _nearest_miss(found: Found, missing: Sequence[Miss], remedies: Sequence[Remedy]) -> RenderableType:
    """What the nearest configuration misses, by which factors, and what would make it meet everything."""
    lines = [Text("nothing meets every requirement", style="bold red")]
    for miss in missing:
        value, bound = metric_text(miss.metric, miss.value), metric_text(miss.metric, miss.bound)
        lines.append(Text(f"  {miss.text}: the nearest has {value}, {miss.factor:.3g} times off {bound}"))
        if miss.best is None:
            continue
        best = metric_text(miss.metric, miss.best)
        alone = "some configuration meets it" if miss.alone else "no configuration meets it"
        lines.append(
            Text(f"    {alone}: the {'most' if miss.metric in MOST else 'least'} that fits is {best}", style="dim")
        )
    if remedies:
        ways = ", or ".join(f"{r.factor:.3g} times the {r.what}" for r in remedies)
        lines.append(Text(f"  the nearest would meet all with {ways}"))
    return Group(*lines)


def _reasons(found: Found) -> list[RenderableType]:
    """How many configurations are out for each reason."""
    lines = []
    for reason, count in sorted(found.tally.missed.items(), key=lambda item: -item[1]):
        lines.append(Text(f"out  {count:>12,}  {reason}", style="dim"))
    for code, (finding, count) in sorted(found.refused.items()):
        lines.append(Text(f"invalid {count:>9,}  {code}: for example, {finding.message}", style="dim"))
    return list(lines)


def found_json(
    found: Found, top: Sequence[Configuration], front: Sequence[Configuration], same: Sequence[int],
    missing: Sequence[Miss], remedies: Sequence[Remedy], seconds: float, bands: Sequence[dict[str, Any]],
) -> dict[str, Any]:  # fmt: skip
    """One entry of ``searches`` in the JSON."""
    search, t = found.search, found.tally
    return {
        "search": search.name,
        "goals": [g.text for g in search.all_goals],
        "requires": [r.text for r in search.requires],
        "varies": {c.name: len(c.settings) for c in search.choices},
        "plans": found.plans,
        "structures": found.structures,
        "configurations": t.seen,
        "meet_all": t.met,
        "seconds": seconds,
        "interrupted": found.stopped,
        "top": [row.as_json() | band for row, band in zip(top, bands, strict=True)],
        "within_band_of_first": list(same),
        "front": [row.as_json() for row in front],
        "out": dict(t.missed),
        "refused": [
            {"code": code, "message": finding.message, "configurations": count}
            for code, (finding, count) in sorted(found.refused.items())
        ],
        "nearest": _nearest(missing, remedies),
    }


def _nearest(missing: Sequence[Miss], remedies: Sequence[Remedy]) -> dict[str, Any] | None:
    if not missing:
        return None
    return {
        "missing": [m._asdict() | {"alone": m.alone} for m in missing],
        "would_take": [r._asdict() for r in remedies],
    }
