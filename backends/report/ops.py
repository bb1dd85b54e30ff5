"""The table of ops: all that is known of each, in a table that sorts."""

from __future__ import annotations

from collections.abc import Iterator

from plandsl.answers.estimate import Estimate
from plandsl.answers.phases import OpTime
from plandsl.answers.text.communication import library
from plandsl.backends.report.html import Cell, Html, sorting_table, tag
from plandsl.units import show_bytes, show_count, show_percent, show_time
from plandsl.values import sum_up

MOST_OPS = 1000
"""Most rows, the longest first; a line counts the others."""

HEADER = ("op", "phase", "runs", "time", "share", "FLOP", "bytes", "FLOP/byte", "bound by", "time from",
          "shape, or axis")  # fmt: skip


def ops_table(e: Estimate) -> Iterator[Html]:
    """A row for each op of each phase, the longest share first."""
    rows = sorted(_rows(e), key=lambda row: -row[1])
    stages = " of the busiest stage" if len(e.stages) > 1 else ""
    steps = "; decode is one step" + (" that verifies guesses" if e.speculate else "") if "decode" in e.timed else ""
    yield sorting_table(f"ops{stages}, on one GPU{steps}", HEADER, [cells for cells, _ in rows[:MOST_OPS]])
    if len(rows) > MOST_OPS:
        yield tag(
            "p", f"{len(rows) - MOST_OPS:,} shorter ops are left out; planc compile --json has all.", class_="note"
        )


def _rows(e: Estimate) -> Iterator[tuple[list[Cell], float]]:
    for phase, found in e.timed.items():
        whole = sum_up(op.time_s for op in found.ops) or 1.0
        for op in found.ops:
            yield _cells(op, phase, op.time_s / whole), op.time_s / whole


def _cells(op: OpTime, phase: str, share: float) -> list[Cell]:
    how = library(op.algorithm) if op.communicates else "fused" if op.fused else ""
    intensity = op.flops / op.bytes if op.flops and op.bytes else 0.0
    where = f"{op.axis}{f', {op.nodes} nodes' if op.nodes > 1 else ''}" if op.communicates else ""
    shape = ", ".join(f"{name} {size:,}" for name, size in op.shape)
    on = f"on {op.gpu}" if op.gpu else ""
    return [
        Cell(op.op if op.op == op.name else f"{op.op} {op.name}", None, "comm" if op.communicates else None),
        Cell(phase),
        Cell(f"{op.count:,}", op.count),
        Cell(show_time(op.time_s), op.time_s),
        Cell(show_percent(share), share),
        Cell(show_count(op.flops) if op.flops else "-", op.flops),
        Cell(show_bytes(op.bytes) if op.bytes else "-", op.bytes),
        Cell(show_count(intensity) if intensity else "-", intensity),
        Cell(f"{op.bound}, {how}" if how else op.bound),
        Cell(op.origin if op.origin.startswith(op.layer) else ", ".join(filter(None, (op.layer, op.origin)))),
        Cell(", ".join(filter(None, (where, shape, on)))),
    ]
