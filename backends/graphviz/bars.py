"""Bars of memory: the parts side by side, with the free memory or the overflow at the end."""

from __future__ import annotations

from typing import NamedTuple

from plandsl.answers.occupancy import Memory
from plandsl.backends.graphviz.canvas import Canvas
from plandsl.backends.graphviz.header import Key
from plandsl.backends.graphviz.palette import BAD, FREE, INK, LINE, MEMORY, MEMORY_NAMES


class Piece(NamedTuple):
    """One part of a bar: key of `MEMORY` (or ``free``), bytes, and its place on the sheet."""

    part: str
    bytes: float
    x: float
    width: float


def memory_parts(held: Memory) -> list[tuple[str, float]]:
    """The parts of a GPU's memory that are not empty, in the order of every bar."""
    sizes = [(name, float(getattr(held, name))) for name in MEMORY]
    return [(name, size) for name, size in sizes if size > 0]


def memory_bar(
    canvas: Canvas, held: Memory, x: float, y: float, w: float, h: float, scale: float, name: str
) -> list[Piece]:
    """Draw a bar in which ``w`` points stand for ``scale`` bytes; returns its pieces."""
    full = w * held.capacity / scale
    canvas.box(x, y, full, h, FREE, name=f"{name} free")
    at, pieces = x, []
    for part, size in memory_parts(held):
        width = w * size / scale
        canvas.box(at, y, width, h, MEMORY[part], name=f"{name} {MEMORY_NAMES[part]}")
        pieces.append(Piece(part, size, at, width))
        at += width
    if held.capacity > held.total:
        pieces.append(Piece("free", held.capacity - held.total, at, x + full - at))
    over = held.total > held.capacity
    canvas.box(
        x,
        y,
        max(full, at - x),
        h,
        fill="",
        stroke=BAD if over else LINE,
        pen=2 if over else 0.75,
        name=f"{name} memory",
    )
    if over:
        canvas.line([(x + full, y - 3), (x + full, y + h + 3)], INK, pen=2, name=f"{name} capacity")
    return pieces


def memory_keys(*stages: Memory) -> list[Key]:
    """The legend of memory bars."""
    shown = {part for held in stages for part, _ in memory_parts(held)}
    keys = [Key("box", MEMORY[p], MEMORY_NAMES[p]) for p in MEMORY if p in shown]
    if any(m.total < m.capacity for m in stages):
        keys.append(Key("box", FREE, "free"))
    if any(m.total > m.capacity for m in stages):
        keys.append(Key("line", BAD, "does not fit; the dark mark is the capacity"))
    return keys
