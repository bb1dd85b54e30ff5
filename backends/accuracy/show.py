"""Errors as tables that people read: one for each file and metric."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Console, RenderableType
from rich.text import Text

from plandsl.answers.text.words import plain_table
from plandsl.backends.accuracy.run import Evaluation
from plandsl.backends.accuracy.score import Judged, Score
from plandsl.printing import print_lines

WIDTH = 100
"""Columns that a table takes at most: longer names are folded."""

UNITS = {"time_s": "seconds", "up_time_s": "seconds of gate and up", "down_time_s": "seconds of down"}


def print_evaluation(evaluation: Evaluation, console: Console) -> None:
    """Print every table, then what was left alone."""
    for i, judged in enumerate(evaluation.judged):
        if i:
            console.print()
        print_lines(console, *_parts(judged), width=min(console.width, WIDTH))
    if evaluation.skipped:
        print_lines(
            console, Text(f"\nleft alone, nothing there is predicted: {', '.join(evaluation.skipped)}", style="dim")
        )


def _parts(judged: Judged) -> Iterator[RenderableType]:
    yield Text(f"{judged.file}, {UNITS.get(judged.metric, judged.metric)}", style="bold")
    heads = ("gpu", "group", "rows", "answered", "median", "mean", "p90", "bias", "in band")
    table = plain_table("l", "l", *"r" * 7, header=heads, labels=2, gap=1)
    table.header_style = "dim"
    for gpu, group, some in judged.by_group():
        table.add_row(gpu, group, *_cells(some.score()))
    total = judged.score()
    table.add_row("total", "", *_cells(total), style="bold")
    yield table
    for reason, count in sorted(total.refused, key=lambda pair: (-pair[1], pair[0])):
        yield Text(f"{count} refused: {reason}", style="yellow")


def _cells(score: Score) -> tuple[str, ...]:
    return (
        f"{score.n}", f"{score.answered}", percent(score.median), percent(score.mean), percent(score.p90),
        percent(score.bias, signed=True), percent(score.in_band),
    )  # fmt: skip


def percent(share: float | None, signed: bool = False) -> str:
    """A share for people; a dash for none. Small errors keep a digit behind the point."""
    if share is None:
        return "-"
    sign = "+" if signed else ""
    return f"{100 * share:{sign}.1f} %" if abs(share) < 9.995 else f"{100 * share:{sign}.0f} %"
