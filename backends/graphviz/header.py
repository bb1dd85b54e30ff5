"""The parts of every picture: the title with the plan's figures on top, and the legend below."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from plandsl.answers.estimate import Estimate
from plandsl.backends.graphviz.canvas import Canvas
from plandsl.backends.graphviz.facts import Facts
from plandsl.backends.graphviz.fonts import text_width
from plandsl.backends.graphviz.palette import BAD, BAD_BACK, FAINT, GOOD, GOOD_BACK, INK, MUTED, PANEL
from plandsl.units import show_bytes, show_count, show_percent, show_time

TIMES = "\N{MULTIPLICATION SIGN}"
DOT = " \N{MIDDLE DOT} "
TOP = 82.0
"""The y at which the drawing starts, below the title."""

MIN_WIDTH = 1040.0
CHIP = 116.0


def header(canvas: Canvas, facts: Facts, caption: str, width: float) -> None:
    """Draw the title: plan, model, sharding, load, whether it fits, and its figures."""
    e, plan, load = facts.estimate, facts.plan, facts.plan.workload
    chips = [
        (show_time(e.ttft_s), "latency" if e.encodes else "TTFT", PANEL, INK),
        *(() if e.tpot_s is None else ((show_time(e.tpot_s), "TPOT", PANEL, INK),)),
        (f"{show_count(e.throughput_tokens_per_s)} tok/s", "throughput", PANEL, INK),
    ]
    share = show_percent(e.memory.total / e.memory.capacity)
    if e.fits:
        chips.insert(0, ("fits", f"{share} of memory", GOOD_BACK, GOOD))
    else:
        over = show_bytes(e.memory.total - e.memory.capacity)
        chips.insert(0, ("does not fit", f"{over} over", BAD_BACK, BAD))
    left = width - len(chips) * CHIP - 16
    space = min(text_width(plan.name, 20, True), left * 0.55)
    canvas.text(0, 13, plan.name, size=20, bold=True, width=space + 6)
    canvas.text(space + 16, 14, caption, size=13, color=MUTED, width=left - space - 16)
    taken = f" ({plan.sharding.name})" if e.shift else ""
    where = f"{plan.machine}, {facts.degrees()}{taken}"
    if e.pools is not None:
        where = f"{e.pools.prefill.machine} for prefill, {e.pools.decode.machine} for decode"
    canvas.text(0, 38, f"{plan.model.name} on {where}", size=13, width=left)
    flights = f" {TIMES} {e.in_flight} in flight" if e.in_flight > 1 else ""
    batch = f"batch {load.batch}{flights}"
    if e.pools is not None:
        batch = f"batch {e.pools.prefill.estimate.batch} in prefill, {e.batch} in decode"
    cached = f" ({e.reuse.tokens} cached)" if e.reuse else ""
    out = "nothing" if e.encodes else str(load.output)
    tokens = f"{load.input} tokens in{cached}, {out} out{_show_speculation(e)}"
    canvas.text(0, 60, f"{batch}{DOT}{tokens}", size=13, color=MUTED, width=width)
    for i, (value, label, back, ink) in enumerate(chips):
        x = width - (len(chips) - i) * CHIP + 8
        canvas.box(x, 0, CHIP - 8, 50, back, style="rounded", name=label)
        size = 16 if text_width(value, 16, True) < CHIP - 16 else 13
        canvas.text(x + (CHIP - 8) / 2, 18, value, size=size, bold=True, color=ink, align="c", width=CHIP - 10)
        canvas.text(
            x + (CHIP - 8) / 2,
            38,
            label,
            size=11,
            color=MUTED if ink == INK else ink,
            align="c",
            width=CHIP - 10,
        )


def _show_speculation(e: Estimate) -> str:
    """The speculation of a plan, as text; empty for a plan without."""
    if e.speculate is None:
        return ""
    by = f"by {e.speculate.draft}" if e.speculate.draft else "looked up"
    return f"{DOT}{len(e.speculate.acceptance)} guessed {by}, {e.speculate.tokens_per_step:.3g} tokens a step"


class Key(NamedTuple):
    """An entry of a legend: colour, meaning and ``look``.

    Looks: ``box``, ``frame``, ``line``, ``arrow``, ``both`` (an arrow with two heads) or ``dash``.
    """

    look: str
    color: str
    text: str


def legend(canvas: Canvas, y: float, width: float, keys: Sequence[Key], note: str = "") -> None:
    """Draw the legend: rows that explain every colour, and ``note`` as a line of small print."""
    x = 0.0
    for key in keys:
        need = 22 + text_width(key.text, 11) + 22
        if x and x + need > width:
            x, y = 0.0, y + 19
        heads = {"arrow": key.look == "arrow", "both": key.look == "both"}
        if key.look == "box":
            canvas.box(x, y - 5.5, 15, 11, key.color, name=f"legend: {key.text}")
        elif key.look == "frame":
            canvas.box(x, y - 5.5, 15, 11, fill=key.color, stroke=FAINT, style="dashed", name=f"legend: {key.text}")
        else:
            style, long = "dashed" if key.look == "dash" else "", 22 if key.look == "both" else 16
            canvas.line([(x, y), (x + long, y)], key.color, pen=2, **heads, style=style, name=f"legend: {key.text}")
        gap = 28 if any(heads.values()) else 22
        canvas.text(x + gap, y, key.text, color=MUTED, width=need - 24)
        x += need + gap - 22
    if note:
        canvas.text(0, y + (20 if keys else 0), note, color=MUTED, width=width)


def finish(canvas: Canvas, facts: Facts, caption: str, keys: Sequence[Key], note: str = "") -> str:
    """Add the title and the legend to ``canvas``, and return its DOT text."""
    width = max(canvas.right, MIN_WIDTH)
    bottom = canvas.bottom
    header(canvas, facts, caption, width)
    legend(canvas, bottom + 22, width, keys, note)
    return canvas.dot()
