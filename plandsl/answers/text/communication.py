"""The report's table of communication: what each phase sends, by kind of call, over all stages."""

from __future__ import annotations

from typing import NamedTuple

from plandsl.answers.communication import Communication, Traffic, add_up
from plandsl.answers.text.words import plain_table
from plandsl.tables import Sheet
from plandsl.units import show_bytes, show_percent, show_time

COLUMNS = ("along", "by", "calls", "payload", "sends", "time", "share", "per request")


class Line(NamedTuple):
    """The first three columns of a line of the table."""

    what: str
    along: str
    by: str


def communication_table(found: Communication, stages: int) -> Sheet:
    """A line for each kind of call, and what one request sends in all; modes of one library are counted together."""
    title = "communication" + (", all stages" if stages > 1 else "")
    sides = ("l" if name in ("along", "by") else "r" for name in COLUMNS)
    table = plain_table("l", *sides, header=(title, *COLUMNS), labels=3)
    lines: dict[Line, list[Traffic]] = {}
    for row in found.rows:
        nodes = f", {row.nodes} nodes" if row.nodes > 1 else ""
        what = " ".join(word for word in (row.phase, row.part, row.op) if word)
        lines.setdefault(Line("  " + what, row.axis + nodes, library(row.algorithm)), []).append(row.traffic)
    for line, calls in lines.items():
        table.add_row(*line, *_cells(add_up(calls)))
    table.add_row("total", *[""] * (len(COLUMNS) - 1), show_bytes(found.per_request), style="bold")
    return table


def _cells(sums: Traffic) -> tuple[str, ...]:
    sizes = show_bytes(sums.payload), show_bytes(sums.wire)
    return str(sums.calls), *sizes, show_time(sums.time_s), show_percent(sums.share), show_bytes(sums.per_request)


def library(algorithm: str) -> str:
    """The library of an algorithm; the library's modes and halves are in JSON."""
    return algorithm.partition("_normal")[0].partition("_low_latency")[0]
