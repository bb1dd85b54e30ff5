"""The report's tables of resources: what fills the memory of a GPU, and where the time of both phases goes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial

from rich.text import Text

from plandsl.answers.estimate import Estimate
from plandsl.answers.occupancy import Memory
from plandsl.answers.phases import OpTime, PhaseEstimate
from plandsl.answers.text.communication import library
from plandsl.answers.text.words import LABELS, plain_table
from plandsl.tables import Bar, Sheet
from plandsl.units import show_bytes, show_percent, show_time
from plandsl.values import sum_up

PARTS = (("weights", "blue"), ("kv_cache", "cyan"), ("activations", "yellow"), ("buffers", "magenta"))


def memory_table(e: Estimate) -> Sheet:
    """The parts of the fullest GPU's memory, then the memory of each stage where they differ."""
    table = plain_table("l", "r", "r", "l")
    several = len({m.total for m in e.stages}) > 1 or len({g.gpus for g in e.stage_gpus}) > 1
    several = several and e.pools is None
    heading = "memory per GPU, fullest stage" if several else "memory per GPU" + (", fuller pool" if e.pools else "")
    if e.stage_gpus and not several:
        heading += f", of {e.stage_gpus[0].smallest}, the smallest"
    table.starts = (1,)
    table.add_row(Text(heading, style="bold"), "", "", "")
    for part, style in PARTS:
        size = getattr(e.memory, part)
        share = size / e.memory.capacity
        if e.encodes and not size and part == "kv_cache":
            continue
        bar = Bar(partial(_bar, share, style))
        table.add_row("  " + LABELS[part], show_bytes(size), show_percent(share), bar)
        if part == "weights" and (own := e.memory.adapters):
            table.add_row("    of them adapters", show_bytes(own), show_percent(own / e.memory.capacity), "")
        if part == "kv_cache" and e.states is not None:
            held = e.states.gpu / e.memory.capacity
            table.add_row("    of it states", show_bytes(e.states.gpu), show_percent(held), "")
    free = e.memory.capacity - e.memory.total
    word = "  free" if free >= 0 else "  over by"
    whole = Bar(partial(_memory_bar, e.memory))
    table.add_row(word, show_bytes(abs(free)), show_percent(abs(free) / e.memory.capacity), whole)
    if several:
        for first, last, (a, b), m in equal_stages(e):
            name = f"  stage {first}" if first == last else f"  stages {first} to {last}"
            on = f" on {e.stage_gpus[first]}" if e.stage_gpus else ""
            table.add_row(name, show_bytes(m.total), show_percent(m.total / m.capacity), f"layers {a}..{b}{on}")
    return table


def equal_stages(e: Estimate) -> Iterator[tuple[int, int, tuple[int, int], Memory]]:
    """Runs of neighbouring stages with equal memory: the first and last stage, their layers, and the memory of one."""
    start = 0
    for i in range(1, len(e.stages) + 1):
        if i == len(e.stages) or e.stages[i] != e.stages[start] or e.stage_gpus[i:][:1] != e.stage_gpus[start:][:1]:
            yield start, i - 1, (e.layers[start][0], e.layers[i - 1][1]), e.stages[start]
            start = i


def _bar(share: float, style: str, width: int) -> Text:
    return Text("█" * min(width, round(share * width)) or "▏" if share > 0 else "", style=style)


def _memory_bar(m: Memory, width: int) -> Text:
    """All parts of the memory in one bar, then the free rest."""
    out = Text()
    used = 0
    for part, style in PARTS:
        cells = min(width - used, round(getattr(m, part) / m.capacity * width))
        out.append("█" * cells, style=style)
        used += cells
    return out.append("░" * (width - used), style="dim")


def time_table(e: Estimate) -> Sheet:
    """The ops of both phases side by side, the longest in either phase first, then the sums."""
    several, timed = len(e.stages) > 1, tuple(e.timed.values())
    title = "where the time goes" + (", busiest stage" if several else "")
    phases = (column for phase in ("prefill", "decode step")[: len(timed)] for column in (phase, "", "bound"))
    table = plain_table("l", "r", *"rrl" * len(timed), header=(title, "runs", *phases), labels=2)
    table.starts = (2, 5)
    both: dict[tuple[str, str], list[OpTime | None]] = {}
    none: list[OpTime | None] = [None] * len(timed)
    for i, phase_estimate in enumerate(timed):
        for op in phase_estimate.ops:
            both.setdefault((op.op, op.name), [*none])[i] = op
    sums = tuple(sum_up(o.time_s for o in p.ops) or 1.0 for p in timed)

    def weight(pair: list[OpTime | None]) -> float:
        return max(o.time_s / s if o else 0.0 for o, s in zip(pair, sums, strict=True))

    for (kind, name), pair in sorted(both.items(), key=lambda item: -weight(item[1])):
        if weight(pair) < 0.003:
            continue
        count = max(o.count for o in pair if o)
        style = "magenta" if any(o and o.communicates for o in pair) else ""
        cells = [c for o, s in zip(pair, sums, strict=True) for c in _op_cells(o, s)]
        table.add_row("  " + (kind if kind == name else f"{kind} {name}"), str(count), *cells, style=style)
    table.add_section()
    for label, pick in SUMS:
        cells = [c for p in timed for c in _sum_cells(pick(p), p.time_s)]
        if any(pick(p) for p in timed):
            table.add_row(label, "", *cells)
    cells = [c for p in timed for c in (show_time(p.time_s), "", "")]
    table.add_row("total, all stages" if several else "total", "", *cells, style="bold")
    if any(p.idle_share > 0.0005 for p in timed):
        cells = [c for p in timed for c in ("", show_percent(p.idle_share), "")]
        table.add_row("GPUs idle", "", *cells, style="dim")
    cells = [c for p in timed for c in (show_percent(p.mfu), show_percent(p.mbu), "")]
    table.add_row("MFU, MBU", "", *cells, style="dim")
    return table


SUMS: tuple[tuple[str, Callable[[PhaseEstimate], float]], ...] = (
    ("compute", lambda p: p.compute_s),
    ("communication", lambda p: p.communication_s),
    ("draft", lambda p: p.draft_s),
    ("tower", lambda p: p.tower_s),
    ("waiting for a stage", lambda p: p.bubble_s),
    ("prefill of others", lambda p: p.mixed_s),
    ("engine", lambda p: p.engine_s),
    ("waiting", lambda p: p.waiting_s),
)


def _sum_cells(part: float, whole: float) -> tuple[str, str, str]:
    if not part:
        return ("", "", "")
    sign = "-" if part < 0 else ""
    return (sign + show_time(abs(part)), sign + show_percent(abs(part) / whole), "")


def _op_cells(op: OpTime | None, total: float) -> Iterable[str]:
    if op is None:
        return ("", "", "")
    how = library(op.algorithm) if op.communicates else "fused" if op.fused else ""
    bound = f"{op.bound}, {how}" if how else op.bound
    return (show_time(op.time_s), show_percent(op.time_s / total), bound)
