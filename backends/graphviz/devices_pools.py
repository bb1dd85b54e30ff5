"""The devices view of a plan with a pool of GPUs for each phase: both pools, and the KV cache between them."""

from __future__ import annotations

from plandsl.answers.pools import Pool, Pools
from plandsl.backends.graphviz.canvas import Canvas
from plandsl.backends.graphviz.devices import machine_drawing
from plandsl.backends.graphviz.facts import Facts
from plandsl.backends.graphviz.header import TOP, Key, finish
from plandsl.backends.graphviz.palette import MUTED, TRANSFER
from plandsl.ir.program import DECODE, PREFILL
from plandsl.units import show_bytes, show_count, show_rate, show_time

ROOM, BETWEEN = 24.0, 64.0
"""Height of a pool's title, and of the arrow between the pools."""


def draw_pools(facts: Facts, found: Pools) -> str:
    """Draw the prefill pool above the decode pool."""
    canvas, y = Canvas(f"{facts.plan.name}: devices"), 0.0
    keys: dict[tuple[str, str], Key] = {}
    pools = ((PREFILL, found.prefill), (DECODE, found.decode))
    both = [machine_drawing(Facts(facts.model, pool.estimate, phase)) for phase, pool in pools]
    width = max(each.width for each in both)
    for (phase, pool), each in zip(pools, both, strict=True):
        if y:
            _draw_transfer(canvas, found, TOP + y)
            y += BETWEEN
        each.paint(width)
        canvas.text(0, TOP + y + 9, f"{phase} pool", size=15, bold=True)
        canvas.text(140, TOP + y + 9, _show_pool(pool), size=12, color=MUTED)
        canvas.place(each.canvas, 0, y + ROOM, phase)
        y += ROOM + each.canvas.bottom - TOP
        keys |= {(key.color, key.text): key for key in each.legend()}
    keys[TRANSFER, ""] = Key("arrow", TRANSFER, "KV cache from pool to pool: bytes, time of a batch")
    return finish(canvas, facts, "devices: both pools, what each GPU holds, and what is sent", list(keys.values()))


def _show_pool(pool: Pool) -> str:
    e = pool.estimate
    return f"{e.gpus} GPUs, batch {e.batch}, sustains {show_count(pool.requests_per_s)} requests/s"


def _draw_transfer(canvas: Canvas, found: Pools, y: float) -> None:
    """Draw the arrow from pool to pool, with the bytes and the time of a transfer."""
    sent = found.sent
    canvas.line([(60, y + 4), (60, y + BETWEEN - 6)], TRANSFER, pen=3, arrow=True, name="KV cache")
    over = sent.between or f"ports of {show_rate(sent.bandwidth)}"
    when = "after the prefill" if sent.when == "after" else "layer by layer"
    first = f"KV cache, {show_bytes(sent.request)} of each request over {over}, {when}"
    ports = f"a port sends {show_bytes(sent.sent)} of it or receives {show_bytes(sent.received)}"
    canvas.text(80, y + 20, first, size=13, bold=True, color=TRANSFER)
    canvas.text(80, y + 40, f"{ports}; a batch takes {show_time(sent.time_s)}", size=12, color=MUTED)
