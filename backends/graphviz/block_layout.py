"""The layout of the block view: the residual stream, the columns of ops, and the tracks of values beside them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from plandsl.ir.program import Region

MOST_OPS = 14
"""Most ops in a column."""


def spine(region: Region) -> tuple[list[int], set[str]]:
    """The residual stream: the ops on the shortest path from the region's argument to its result, and their values.

    The residual connection is a path around every part of a block, so the shortest path skips all parts.
    """
    if not region.args or not region.results:
        return list(range(len(region.ops))), set()
    steps: dict[str, tuple[int, tuple[int, ...], str]] = {v.name: (0, (), v.name) for v in region.args}
    for i, op in enumerate(region.ops):
        ways = [(steps[x.name], x.name) for x in op.operands if x.name in steps]
        if ways:
            (length, path, _), source = min(ways)
            for value in op.results:
                steps[value.name] = (length + 1, (*path, i), source)
    at = region.results[0].name
    path = steps.get(at, (0, (), at))[1]
    names = {at}
    while at in steps and steps[at][1]:
        at = steps[at][2]
        names.add(at)
    return list(path), names


class Place(NamedTuple):
    """The place of an op's card on the sheet."""

    op: int
    column: int
    x: float
    y: float
    w: float
    h: float


class Wire(NamedTuple):
    """A value that one card makes and another reads."""

    name: str
    a: Place
    b: Place


class Column(NamedTuple):
    """Ops that stand below one another."""

    ops: tuple[int, ...]


def columns(region: Region) -> list[Column]:
    """Cut a region after each op of the residual stream that ends a branch, and where a column grows too long."""
    on, _ = spine(region)
    out: list[Column] = []
    now: list[int] = []
    branched = False
    for i in range(len(region.ops)):
        now.append(i)
        branched = branched or i not in on
        if (i in on and branched and i != len(region.ops) - 1) or len(now) == MOST_OPS:
            out.append(Column(tuple(now)))
            now, branched = [], False
    return [*out, Column(tuple(now))] if now else out


def tracks(wires: list[Wire], top: float) -> Iterator[tuple[Wire, int, float]]:
    """The wires that pass other cards, shortest first, each with a free track and the y at which it starts."""
    busy: dict[int, list[list[tuple[float, float]]]] = {}
    starts: dict[int, int] = {}
    for wire in sorted(wires, key=lambda w: (w.a.column != w.b.column, abs(w.b.op - w.a.op))):
        a, b = wire.a, wire.b
        nth = starts[a.op] = starts.get(a.op, -1) + 1
        start = min(a.y + 28 + 6 * nth, a.y + a.h - 6)
        first, last = sorted((start, b.y + 10 if a.column == b.column else top))
        free = busy.setdefault(a.column, [])
        track = next((t for t, used in enumerate(free) if all(last < u or v < first for u, v in used)), len(free))
        if track == len(free):
            free.append([])
        free[track].append((first, last))
        yield wire, track, start
