"""The memory view: a bar for each kind of GPU, with its capacity."""

from __future__ import annotations

from typing import NamedTuple

from plandsl.answers.occupancy import Memory
from plandsl.backends.graphviz.bars import memory_bar, memory_keys, memory_parts
from plandsl.backends.graphviz.canvas import Canvas
from plandsl.backends.graphviz.facts import Facts, stage_words
from plandsl.backends.graphviz.fonts import text_width
from plandsl.backends.graphviz.header import TIMES, TOP, finish
from plandsl.backends.graphviz.palette import BAD, FREE, INK, LINE, MEMORY, MEMORY_NAMES, MUTED, PANEL, ink_on
from plandsl.units import show_bytes, show_count, show_percent

LEFT, WIDTH, BAR, ROW = 214.0, 900.0, 38.0, 84.0
MOST_ROWS = 12


class Row(NamedTuple):
    """Neighbouring stages, ``first`` to ``last``, with equal memory."""

    first: int
    last: int
    held: Memory
    gpus: str = ""


def rows(facts: Facts) -> list[Row]:
    """The rows of the view; neighbouring stages with equal memory share a row."""
    out: list[Row] = []
    for i, held in enumerate(facts.estimate.stages):
        gpus = "".join(map(str, facts.estimate.stage_gpus[i : i + 1]))
        if out and (out[-1].held, out[-1].gpus) == (held, gpus):
            out[-1] = out[-1]._replace(last=i)
        else:
            out.append(Row(i, i, held, gpus))
    return out


def memory(facts: Facts) -> str:
    """Draw the bars, with a label for every part, and the table of KV capacity."""
    canvas, every = Canvas(f"{facts.plan.name}: memory"), rows(facts)
    shown = every if len(every) <= MOST_ROWS else [*every[: MOST_ROWS - 1], every[-1]]
    capacity = facts.estimate.memory.capacity
    scale = max(max(r.held.capacity, r.held.total) for r in every)
    edge = LEFT + WIDTH * capacity / scale
    top = TOP + 34
    if not facts.gpus:  # unlike GPUs have a capacity each
        canvas.text(edge, TOP + 10, f"capacity {show_bytes(capacity)}", size=13, bold=True, align="r", width=170)
    for i, row in enumerate(shown):
        _draw_row(canvas, facts, row, top + i * ROW, scale)
    bottom = top + len(shown) * ROW - 26
    note = f"{len(every) - len(shown)} more stages are not drawn" if len(shown) < len(every) else ""
    _draw_table(canvas, facts, bottom + 20)
    return finish(canvas, facts, "memory: what fills each GPU", memory_keys(*facts.estimate.stages), note)


def _draw_row(canvas: Canvas, facts: Facts, row: Row, y: float, scale: float) -> None:
    many = row.last > row.first
    title = f"stages {row.first} to {row.last}" if many else f"stage {row.first}"
    if len(facts.estimate.stages) == 1:
        title = f"every GPU ({facts.estimate.gpus})" if facts.estimate.gpus > 1 else "the GPU"
    words = stage_words(facts, row.first)
    if many:
        words = f"layers {facts.estimate.layers[row.first][0]}..{facts.estimate.layers[row.last][1]}"
    canvas.text(0, y + 11, title, size=14, bold=True, width=LEFT - 12)
    canvas.text(0, y + 29, words, size=12, color=MUTED, width=LEFT - 12)
    held = row.held
    for piece in memory_bar(canvas, held, x=LEFT, y=y, w=WIDTH, h=BAR, scale=scale, name=title):
        fill = FREE if piece.part == "free" else MEMORY[piece.part]
        label = f"{MEMORY_NAMES.get(piece.part, 'free')} {show_bytes(piece.bytes)}"
        if piece.width > text_width(label, 13) + 8:
            canvas.text(
                piece.x + piece.width / 2, y + BAR / 2, label, size=13, color=ink_on(fill), align="c",
                width=piece.width - 6,
            )  # fmt: skip
    edge = LEFT + WIDTH * held.capacity / scale
    canvas.line([(edge, y - 8), (edge, y + BAR + 4)], INK, pen=2, name=f"{title}: capacity")
    if row.gpus:
        words = f"{show_bytes(held.capacity)}, {row.gpus}"
        canvas.text(edge, y - 15, words, size=12, bold=True, align="r", width=text_width(words, 12, True) + 1)
    over = held.total > held.capacity
    total = f"{show_bytes(held.total)}, {show_percent(held.total / held.capacity)}"
    canvas.text(0, y + 51, total, size=13, bold=True, color=BAD if over else INK, width=LEFT - 12)
    x = LEFT
    sizes = [(MEMORY_NAMES[p], MEMORY[p], size) for p, size in memory_parts(held)]
    if not over:
        sizes.append(("free", FREE, held.capacity - held.total))
    for name, color, size in sizes:
        line = f"{name} {show_bytes(size)}, {show_percent(size / held.capacity)}"
        canvas.box(x, y + BAR + 8, 10, 10, color, name=f"{title}: {line}")
        need = text_width(line, 12) + 1
        canvas.text(x + 15, y + BAR + 13, line, size=12, width=need)
        x += need + 40


def _draw_table(canvas: Canvas, facts: Facts, y: float) -> None:
    """Draw the KV cache of a token, the capacity for KV cache, and the batches that it holds."""
    e, plan, load = facts.estimate, facts.plan, facts.plan.workload
    resident = e.in_flight if plan.kv_residency == "all_batches" else 1
    requests = f"{load.batch} {TIMES} {resident}" if resident > 1 else f"{load.batch}"
    cells = [
        ("KV cache of a token", show_bytes(e.kv_bytes_per_token), "all layers, the whole model"),
        ("KV capacity", f"{show_count(e.kv_capacity_tokens)} tokens", "all replicas together"),
        (
            "largest batch",
            show_count(e.max_batch),
            f"requests of {load.input + load.output} tokens, a replica",
        ),
        ("this plan's batch", requests, "requests in a replica's cache"),
    ]
    w = (LEFT + WIDTH - 3 * 12) / len(cells)
    for i, (name, value, more) in enumerate(cells):
        x = i * (w + 12)
        canvas.box(x, y, w, 66, fill=PANEL, stroke=LINE, pen=0.75, style="rounded", name=name)
        canvas.text(x + 12, y + 15, name, size=12, color=MUTED, width=w - 20)
        canvas.text(x + 12, y + 34, value, size=16, bold=True, width=w - 20)
        canvas.text(x + 12, y + 53, more, size=11, color=MUTED, width=w - 20)
