"""The layout of the devices view: which part of a large machine is drawn, and the grid that fills a slide best."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

from plandsl.backends.graphviz.facts import Facts, stage_words
from plandsl.backends.graphviz.fonts import text_width
from plandsl.backends.graphviz.header import MIN_WIDTH, TOP
from plandsl.backends.graphviz.palette import AXES, GPUS
from plandsl.units import counted

MOST_CARDS, MOST_IN_STAGE, MOST_SHARES = 32, 16, 7
"""Most GPUs drawn, in all and of a stage (a note counts the rest), and most split dimensions named on a GPU."""

CARD_W, GAP, PAD, TITLE = 200.0, 14.0, 14.0, 28.0
MOST_CARD_W = 340.0
"""A card is as wide as its longest line, between `CARD_W` and this."""

HOP_X, HOP_Y = 92.0, 46.0
"""Space for an arrow and its label between stages side by side, and between rows of stages."""

BUS, LINE_H, IDLE_H, REST_H = 14.0, 15.0, 44.0, 34.0
MARK = 24.0
"""The length of the arrow before a line of text about what is sent."""

WIDE = 1.9
"""The ratio of width to height that fills a slide below its title."""


class Grid(NamedTuple):
    """The number of GPUs, stages and replicas side by side."""

    cards: int
    stages: int
    replicas: int


class Sizes(NamedTuple):
    """Width and height of a card, a stage with its frame, a replica with its frame, and the whole drawing."""

    card: tuple[float, float]
    stage: tuple[float, float]
    replica: tuple[float, float]
    all: tuple[float, float]


def _block(n: int, across: int, w: float, h: float, gap_x: float, gap_y: float) -> tuple[float, float]:
    """Width and height of ``n`` boxes of ``w`` by ``h`` in rows of ``across``."""
    across, rows = min(n, across), -(-n // across)
    return across * (w + gap_x) - gap_x, rows * (h + gap_y) - gap_y


def gpu_colors(facts: Facts) -> dict[str, str]:
    """A colour for each kind of GPU, by name; empty where all GPUs are of one kind."""
    names = dict.fromkeys(gpu.name for gpu in facts.gpus)
    return {name: GPUS[i % len(GPUS)] for i, name in enumerate(names)}


def ranged(what: str, first: int, last: int) -> str:
    """``stage 8``, ``stage 8 to 63``."""
    return f"{what} {first}" if first == last else f"{what} {first} to {last}"


def card_lines(facts: Facts, rank: int, shares: list[str]) -> list[str]:
    """The lines on the card of a rank: its GPU where GPUs differ, its layers, its part of each dimension."""
    stage = facts.index(rank, facts.program.stage_axes)
    lines = [stage_words(facts, stage), *shares]
    if len(lines) > MOST_SHARES + 1:
        lines = [*lines[:MOST_SHARES], f"and {len(lines) - MOST_SHARES} more dimensions"]
    return [*(gpu.name for gpu in facts.gpus[rank : rank + 1]), *lines]


def card_place(facts: Facts, rank: int) -> str:
    """The place of a rank on the mesh: ``stage 0, tensor 1``."""
    at = facts.program.mesh.coordinates(rank)
    return ", ".join(f"{name} {at[name]}" for name, size in facts.program.mesh.axes if size > 1)


def card_width(facts: Facts, shares: dict[int, list[str]]) -> float:
    """The width that the longest line of all cards needs."""
    widest = CARD_W
    for rank, own in shares.items():
        title = text_width(f"GPU {rank}", 14, True) + 12 + text_width(card_place(facts, rank), 11)
        widest = max(widest, 22 + title, *(22 + text_width(line, 11) for line in card_lines(facts, rank, own)))
    return min(math.ceil(widest), MOST_CARD_W)


class Layout:
    """The number of GPUs, stages and replicas that are drawn, and their grid."""

    def __init__(self, facts: Facts) -> None:
        self.facts = facts
        sharding = facts.plan.sharding
        self.total = (sharding.replicas, len(facts.program.stages))
        self.in_stage = sharding.ranks // (self.total[0] * self.total[1])
        self.cards = min(self.in_stage, MOST_IN_STAGE)
        self.shown = self.cards - (self.cards < self.in_stage)  # the last card counts the others
        self.stages = min(self.total[1], MOST_CARDS // self.cards)
        self.replicas = min(self.total[0], max(1, MOST_CARDS // (self.cards * self.stages)))
        self.shares = {rank: facts.shares(rank) for rank in self._ranks()}
        self.kinds = gpu_colors(facts)
        self.card_w = card_width(facts, self.shares)
        lines = max(len(s) for s in self.shares.values())
        self.card_h = 86 + LINE_H * (min(lines, MOST_SHARES) + bool(self.kinds))
        order = {axis: i for i, (axis, _) in enumerate(reversed(facts.inner_axes))}
        self.colors = {axis: AXES[i % len(AXES)] for axis, i in order.items()}
        self.traffic = [sorted(facts.traffic(s), key=lambda t: order.get(t.axis, 99)) for s in range(self.stages)]
        self.lines = max(len(t) for t in self.traffic)
        self.grid = min(self._grids(), key=self._score)

    def _ranks(self) -> Iterator[int]:
        for r in range(self.replicas):
            for s in range(self.stages):
                yield from self.facts.groups[r, s][: self.shown]

    def rest(self) -> list[tuple[str, str]]:
        """What is counted below the drawing: a title and its details for stages, and for replicas."""
        found = []
        if more := self.total[1] - self.stages:
            words = f"{ranged('stage', self.stages, self.total[1] - 1)}, {counted(more * self.in_stage, 'GPU')}"
            found.append((counted(more, "more stage"), f"{words} of each replica" if self.total[0] > 1 else words))
        if more := self.total[0] - self.replicas:
            words = f"{ranged('replica', self.replicas, self.total[0] - 1)}, "
            words += f"{counted(more * self.in_stage * self.total[1], 'GPU')}, the same as those drawn"
            found.append((counted(more, "more replica"), words))
        return found

    # ---- layout

    def _grids(self) -> Iterator[Grid]:
        axes = self.facts.inner_axes
        cards = range(min(2, self.cards), min(self.cards, 8) + 1)
        if len(axes) > 1 and axes[-1][1] <= min(self.cards, 8):
            cards = range(axes[-1][1], min(self.cards, 8) + 1, axes[-1][1])
        for c in cards:
            for s in range(1, min(self.stages, 8) + 1):
                for r in range(1, min(self.replicas, 8) + 1):
                    yield Grid(c, s, r)

    def _score(self, grid: Grid) -> float:
        """A penalty (least is best): how far a grid is from filling a slide, plus ragged rows and tiny print."""
        w, h = self.sizes(grid).all
        w, h = max(w, MIN_WIDTH), h + TOP + 120
        ragged = sum(n % across > 0 for n, across in zip((self.cards, self.stages, self.replicas), grid, strict=True))
        return abs(math.log(w / h / WIDE)) + 0.3 * ragged + max(0.0, w - 1400) / 800

    def sizes(self, grid: Grid) -> Sizes:
        """The sizes of all boxes, frames and gaps included."""
        bus = (BUS + 8 * (len(self.majors()) > 0)) if self.cards > 1 and self.lines else 0.0
        below = GAP - 4 if bus else GAP
        w, h = _block(self.cards, grid.cards, w=self.card_w, h=self.card_h + bus, gap_x=GAP, gap_y=below)
        stage = (w + 2 * PAD, h + TITLE + PAD + self.lines * LINE_H + (4 if self.lines else 0))
        w, h = _block(self.stages, grid.stages, *stage, HOP_X, HOP_Y)
        framed = self.replicas > 1 and self.stages > 1
        replica = (w + 2 * PAD, h + TITLE + PAD + 4) if framed else (w, h)
        w, h = _block(self.replicas, grid.replicas, *replica, GAP + 4, GAP + 4)
        return Sizes((self.card_w, self.card_h + bus), stage, replica, (w, h))

    def majors(self) -> list[str]:
        """The axes within a stage, except the last, over which something is sent."""
        used = {t.axis for stage in self.traffic for t in stage}
        return [name for name, _ in self.facts.inner_axes[:-1] if name in used]
