"""The communication view: which GPU sends how much to which, by mesh axis, in each phase."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from plandsl.answers.communication import TRANSFER as TRANSFER_PHASE
from plandsl.answers.communication import Calls, Traffic, add_up
from plandsl.answers.flows import Cell, Flows
from plandsl.backends.cost.answers.flows import flows
from plandsl.backends.graphviz.canvas import Canvas
from plandsl.backends.graphviz.facts import Facts
from plandsl.backends.graphviz.fonts import text_width
from plandsl.backends.graphviz.header import DOT, MIN_WIDTH, TIMES, TOP, finish
from plandsl.backends.graphviz.palette import (
    AXES,
    CARD,
    FAINT,
    FRAME,
    HOP,
    INK,
    LINE,
    MUTED,
    PANEL,
    TRANSFER,
    ink_on,
    mix,
)
from plandsl.ir.collectives import HOP_WORDS
from plandsl.ir.program import PREFILL
from plandsl.units import show_bytes, show_percent, show_time
from plandsl.values import sum_up

SIDE, LEAST, MOST = 420.0, 15.0, 52.0
"""The side of a matrix, and the smallest and largest side of a cell, in points."""

PAD, APART, LABELS = 16.0, 22.0, 22.0
PALE = 0.22
"""The share of an axis' colour in the cell of the fewest bytes."""

RANGE = 10.0
"""The scale of shades is at least this factor long, so that small differences look small."""

SHADES = 5
"""Boxes of the scale below a matrix."""

MOST_OPS = 2
"""Most ops that are named for an axis."""


class Panel(NamedTuple):
    """One phase: what is sent, the rows of the table of communication by axis, and the size of a cell."""

    flows: Flows
    rows: dict[str, tuple[Calls, ...]]
    cell: float
    label: float

    @property
    def blocked(self) -> bool:
        """Whether a row or a column is several GPUs."""
        return max(len(self.flows.senders[0]), len(self.flows.receivers[0])) > 1

    @property
    def ends(self) -> tuple[float, float]:
        """The ends of the scale: the most bytes of a pair, and the fewest, or `RANGE` times fewer than the most."""
        pairs: dict[tuple[int, int], float] = {}
        for one in self.flows.cells:
            pairs[one.sender, one.receiver] = pairs.get((one.sender, one.receiver), 0.0) + one.bytes
        high = max(pairs.values())
        return min(min(pairs.values()), high / RANGE), high

    @property
    def width(self) -> float:
        """The width of the panel with its frame."""
        least = 452.0 if self.rows else 200.0
        return max(self.label + self.cell * len(self.flows.receivers), least) + 2 * PAD

    @property
    def height(self) -> float:
        """The height of the panel with its frame."""
        if not self.rows:
            return 100.0
        return 84 + LABELS + self.cell * len(self.flows.senders) + 30 + 34 * len(self.rows) + 24


def communication(facts: Facts) -> str:
    """Draw a matrix of senders and receivers for each phase, with the sums of the table of communication below it."""
    return Sheet(facts).draw()


def axis_colors(facts: Facts) -> dict[str, str]:
    """The colour of each mesh axis and of groups of them: hops between stages and between pools have their own."""
    table = facts.estimate.communication.rows
    inner = [axis for axis, _ in reversed(facts.inner_axes)]
    hops = {row.axis for row in table if row.op in HOP_WORDS and row.phase != TRANSFER_PHASE}
    others = dict.fromkeys(row.axis for row in table if row.axis not in hops and row.phase != TRANSFER_PHASE)
    order = dict.fromkeys([*inner, *others])
    return {axis: AXES[i % len(AXES)] for i, axis in enumerate(order)} | dict.fromkeys(hops, HOP)


def _panel(facts: Facts, found: Flows) -> Panel:
    rows: dict[str, list[Calls]] = {}
    for row in facts.estimate.communication.of(found.phase):
        rows.setdefault(row.axis, []).append(row)
    many = max(len(found.senders), len(found.receivers))
    label = max(text_width(_label(block), 11) for block in found.senders) + 12
    ordered = {axis: tuple(rows[axis]) for axis in found.by_axis()}
    return Panel(found, ordered, min(max(math.floor(SIDE / many), LEAST), MOST), label)


def _label(block: range) -> str:
    return f"{block[0]}" if len(block) == 1 else f"{block[0]}..{block[-1]}"


TITLES = {
    PREFILL: "prefill of one batch",
    "decode": "one decode step",
    TRANSFER_PHASE: "transfer of one request's cache",
}


def _total_words(found: Flows) -> str:
    """What all GPUs send together, and how much of it leaves a node."""
    far = f", {show_bytes(found.between_nodes)} of it between nodes" if found.between_nodes else ""
    if found.phase == TRANSFER_PHASE:
        return f"{show_bytes(found.total)} from pool to pool"
    return f"all GPUs together send {show_bytes(found.total)}{far}"


def _nodes(blocks: Sequence[range], per_node: int) -> list[tuple[int, int, int]]:
    """The blocks of each node, first to last, where there are several nodes and none has only a part of a block."""
    if len(blocks[0]) > per_node or blocks[-1][-1] < per_node:
        return []
    found: dict[int, list[int]] = {}
    for i, block in enumerate(blocks):
        found.setdefault(block[0] // per_node, []).append(i)
    return [(own[0], own[-1] + 1, node) for node, own in found.items()]


def _look(own: Sequence[Cell], low: float, high: float, colors: dict[str, str]) -> tuple[str, float]:
    """The fill of a pair, and its bytes: the axis with the most bytes gives the colour."""
    total = sum_up(one.bytes for one in own)
    most = max(own, key=lambda one: one.bytes)
    return mix(colors.get(most.axis, TRANSFER), _shade(total, low, high)), round(total, 3)


def _shade(value: float, low: float, high: float) -> float:
    """From `PALE` to 1, by the logarithm of bytes."""
    return PALE + (1 - PALE) * math.log(value / low) / math.log(high / low)


def _calls_words(panel: Panel, rows: Sequence[Calls], sums: Traffic) -> str:
    """The calls of an axis by op, their time and its share."""
    times: dict[str, int] = {}
    for row in rows:
        word = f"{row.part} {row.op}".strip()
        times[word] = times.get(word, 0) + row.calls
    named = [f"{op} {TIMES} {calls}" for op, calls in times.items()]
    more = [f"{len(named) - MOST_OPS} more"] if len(named) > MOST_OPS else []
    metric = "TTFT" if panel.flows.phase == PREFILL else "TPOT"
    return f"{', '.join([*named[:MOST_OPS], *more])}: {show_time(sums.time_s)}, {show_percent(sums.share)} of {metric}"


def _note(panels: Sequence[Panel]) -> str:
    """What the figures count, and how many GPUs a row stands for."""
    words = ["bytes on the links, of all replicas; a sum in the switch counts as sent to all"]
    if any(panel.blocked for panel in panels):
        many = max(len(block) for panel in panels for block in panel.flows.senders + panel.flows.receivers)
        words.append(f"a row or a column is {many} GPUs, which send to one another on the diagonal")
    if any(panel.flows.phase == TRANSFER_PHASE for panel in panels):
        words.append("the transfer goes from replica 0 to replica 0")
    return DOT.join(words)


class Sheet:
    """The sheet with a panel for each phase."""

    def __init__(self, facts: Facts) -> None:
        self.facts, self.canvas = facts, Canvas(f"{facts.plan.name}: communication")
        self.colors = axis_colors(facts)

    def draw(self) -> str:
        """The whole picture."""
        panels = [_panel(self.facts, one) for one in flows(self.facts.model)]
        x, height = 0.0, max(panel.height for panel in panels)
        spare = max(MIN_WIDTH - sum_up(panel.width + APART for panel in panels) + APART, 0.0) / len(panels)
        for panel in panels:
            self._draw_panel(panel, x, panel.width + spare, height)
            x += panel.width + spare + APART
        caption = "communication: which GPU sends how much to which"
        return finish(self.canvas, self.facts, caption, [], _note(panels))

    # ---- a panel

    def _draw_panel(self, panel: Panel, x: float, width: float, height: float) -> None:
        found = panel.flows
        self.canvas.box(x, TOP, width, height, fill=PANEL, stroke=FRAME, pen=1.25, style="rounded", name=found.phase)
        self.canvas.text(x + PAD, TOP + 19, TITLES[found.phase], size=15, bold=True, width=width - 2 * PAD)
        if not panel.rows:
            self.canvas.text(x + PAD, TOP + 40, "no GPU sends anything", size=12, color=MUTED, width=width - 2 * PAD)
            return
        self.canvas.text(x + PAD, TOP + 39, _total_words(found), size=12, color=MUTED, width=width - 2 * PAD)
        left = x + PAD + panel.label
        top = TOP + 84 + LABELS
        self._draw_labels(panel, left, top)
        w, h = panel.cell * len(found.receivers), panel.cell * len(found.senders)
        self.canvas.box(left, top, w, h, fill=CARD, stroke=LINE, name=f"{found.phase}: all pairs")
        self._draw_cells(panel, left, top)
        self._draw_grid(panel, left, top)
        y = top + h + 18
        self._draw_scale(panel, left, y)
        for i, (axis, rows) in enumerate(panel.rows.items()):
            self._draw_axis(panel, axis, rows, (x + PAD, y + 26 + 34 * i), width - 2 * PAD)

    def _draw_labels(self, panel: Panel, left: float, top: float) -> None:
        """Number the rows and the columns, and name the nodes where there are several."""
        found, cell = panel.flows, panel.cell
        words = ("to decode GPU", "from prefill GPU") if found.phase == TRANSFER_PHASE else ("to GPU", "from GPU")
        self.canvas.text(left, top - 44, f"{words[1]} (rows) {words[0]} (columns)", size=11, color=FAINT)
        for i, block in enumerate(found.senders):
            self.canvas.text(
                left - 6, top + (i + 0.5) * cell, _label(block), size=11, color=MUTED, align="r", width=panel.label
            )
        wide = max(text_width(_label(block), 11) for block in found.receivers) + 5
        step = max(math.ceil(wide / cell), 1)
        for i, block in list(enumerate(found.receivers))[::step]:
            self.canvas.text(
                left + (i + 0.5) * cell, top - 10, _label(block), size=11, color=MUTED, align="c", width=wide
            )
        for first, last, node in _nodes(found.receivers, found.per_node[1]):
            name, space = f"node {node}", (last - first) * cell
            if space > text_width(name, 11, True) + 6:
                self.canvas.text(
                    left + first * cell + space / 2, top - 26, name, size=11, bold=True, align="c", width=space
                )

    def _draw_cells(self, panel: Panel, left: float, top: float) -> None:
        """Draw a box for each pair, in the colour of its axis; equal neighbours share one box."""
        cell, found = panel.cell, panel.flows
        pairs: dict[tuple[int, int], list[Cell]] = {}
        for one in found.cells:
            pairs.setdefault((one.sender, one.receiver), []).append(one)
        low, high = panel.ends
        shown = text_width(show_bytes(high), 11) + 4 <= cell
        drawn = [(at, _look(own, low, high, self.colors)) for at, own in sorted(pairs.items())]
        while drawn:
            (row, column), look = drawn.pop(0)
            last = column
            while not shown and drawn and drawn[0] == ((row, last + 1), look):
                drawn.pop(0)
                last += 1
            own = pairs[row, column]
            sender, receiver = _label(found.senders[row]), _label(found.receivers[column])
            receiver += f" and on to {_label(found.receivers[last])}" if last > column else ""
            said = ", ".join(f"{show_bytes(one.bytes)} over {one.axis or 'the link'}" for one in own)
            x, y, w = left + column * cell, top + row * cell, (last - column + 1) * cell
            self.canvas.box(x, y, w, cell, look[0], name=f"{found.phase}: {sender} to {receiver}: {said}")
            if shown:
                words = show_bytes(sum_up(one.bytes for one in own))
                self.canvas.text(
                    x + cell / 2, y + cell / 2, words, size=11, align="c", color=ink_on(look[0]), width=cell
                )

    def _draw_grid(self, panel: Panel, left: float, top: float) -> None:
        """Draw fine lines between ranks, and strong ones between nodes."""
        cell, found = panel.cell, panel.flows
        w, h = cell * len(found.receivers), cell * len(found.senders)
        rows = {first for first, _, _ in _nodes(found.senders, found.per_node[0])}
        columns = {first for first, _, _ in _nodes(found.receivers, found.per_node[1])}
        for i in range(1, len(found.receivers)):
            look = (INK, 1.5) if i in columns else (FRAME, 0.5)
            self.canvas.line([(left + i * cell, top), (left + i * cell, top + h)], look[0], pen=look[1], name="grid")
        for i in range(1, len(found.senders)):
            look = (INK, 1.5) if i in rows else (FRAME, 0.5)
            self.canvas.line([(left, top + i * cell), (left + w, top + i * cell)], look[0], pen=look[1], name="grid")

    # ---- below a matrix

    def _draw_scale(self, panel: Panel, x: float, y: float) -> None:
        """Draw the scale of shades, from few bytes to the most."""
        low, high = panel.ends
        room = text_width(show_bytes(low), 11) + 1
        self.canvas.text(x, y, show_bytes(low), size=11, color=MUTED, width=room)
        for i in range(SHADES):
            fill = mix(INK, PALE + (1 - PALE) * i / (SHADES - 1))
            self.canvas.box(x + room + 6 + 22 * i, y - 5.5, 22, 11, fill, name=f"{panel.flows.phase}: shade {i + 1}")
        words = f"{show_bytes(high)} from {'row to column' if panel.blocked else 'GPU to GPU'}, log scale"
        self.canvas.text(x + room + 12 + 22 * SHADES, y, words, size=11, color=MUTED)

    def _draw_axis(
        self,
        panel: Panel,
        axis: str,
        rows: Sequence[Calls],
        at: tuple[float, float],
        width: float,
    ) -> None:
        """Write the row of the table of communication for an axis: what a rank sends, by which calls, in which time."""
        x, y = at
        sums = add_up(row.traffic for row in rows)
        self.canvas.box(x, y - 6, 18, 12, self.colors.get(axis, TRANSFER), name=f"{panel.flows.phase}: {axis}")
        title = f"{axis or 'link'}: {self._sends(panel, sums)}"
        self.canvas.text(x + 26, y, title, size=12, bold=True, width=width - 26)
        self.canvas.text(x + 26, y + 15, _calls_words(panel, rows, sums), size=11, color=MUTED, width=width - 26)

    def _sends(self, panel: Panel, sums: Traffic) -> str:
        if panel.flows.phase == TRANSFER_PHASE:
            return f"the busiest GPU sends {show_bytes(sums.wire)}"
        found = self.facts.estimate.pools
        estimate = self.facts.estimate if found is None else getattr(found, panel.flows.phase).estimate
        if len(estimate.stages) == 1:
            return f"each GPU sends {show_bytes(sums.wire)}"
        return f"{show_bytes(sums.wire)}, from one GPU of each stage together"
