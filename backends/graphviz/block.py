"""The block view: the dataflow of one layer on one GPU, with local shapes, weights and times."""

from __future__ import annotations

import math
from itertools import pairwise

from plandsl.answers.phases import OpTime
from plandsl.backends.graphviz.block_layout import Column, Place, Wire, columns, spine, tracks
from plandsl.backends.graphviz.canvas import Canvas, Point
from plandsl.backends.graphviz.facts import Facts, flops
from plandsl.backends.graphviz.fonts import text_width
from plandsl.backends.graphviz.header import DOT, TIMES, TOP, Key, finish
from plandsl.backends.graphviz.palette import CARD, FRAME, KIND_NAMES, KINDS, LINE, LOOKS, MUTED, PANEL, SPINE
from plandsl.ir.collectives import HOP_WORDS
from plandsl.ir.names import HOPS, SEND
from plandsl.ir.ops import Op
from plandsl.ir.program import Region, show_layers
from plandsl.ir.types import Value
from plandsl.units import show_bytes, show_percent, show_time
from plandsl.values import sum_up

LEAST_W, MOST_W = 300.0, 520.0
"""A card is as wide as its longest line, between these."""

LANE, SIDE, GAP, BETWEEN = 30.0, 32.0, 13.0, 26.0
"""Points: width of the residual stream left of a card, of wires right of it; gaps below it, between columns."""

HEAD, ROW, FIRST = 22.0, 14.5, 46.0
MOST_LINES, TRACKS, MOST_WIDTH = 6, 4, 2040.0
"""Lines of values or weights on a card; tracks beside a column; points across before a new row starts."""

SAND, TINT = "#f6efdf", "#fbeee8"


class Sheet:
    """The sheet of regions side by side, each region as columns of cards."""

    def __init__(self, facts: Facts) -> None:
        self.facts, self.canvas = facts, Canvas(f"{facts.plan.name}: block")
        self.kinds: set[str] = set()
        cards = [(r, i) for r in facts.program.regions if r.name not in HOPS for i in range(len(r.ops))]
        self.w = min(max([LEAST_W, *(self._card_width(*card) for card in cards)]), MOST_W)

    def draw(self) -> str:
        """The whole picture."""
        regions = [r for r in self.facts.program.regions if r.name not in HOPS]
        hops = [r for r in self.facts.program.regions if r.name == SEND]
        x, y, bottom, ends = 0.0, TOP, TOP, []
        for region in regions:
            if x and x + self._width(region) > MOST_WIDTH:
                x, y = 22.0, bottom + 34
            before = x
            x, low, way = self._draw_region(region, x, y)
            bottom = max(bottom, low)
            if region is regions[0] and hops:
                _, low, _ = self._draw_region(hops[0], before, low + 20)
                bottom = max(bottom, low)
            ends.append(way)
        for (_, out), (into, _) in pairwise(ends):
            self._draw_flow(out, into)
        keys = [Key("line", SPINE, "residual stream"), Key("box", SAND, "weights of one GPU")]
        keys += [Key("box", KINDS[k], KIND_NAMES[k]) for k in KINDS if k in self.kinds]
        what = "one prefill pass" if self.facts.phase == "prefill" else "one mean decode step"
        note = (
            f"times and shapes are of {what} on the fullest GPU; bars: share of the time of one run of the frame. "
            "compute, memory, link, latency: what bounds an op"
        )
        return finish(self.canvas, self.facts, f"block: {self.facts.phase} on one GPU", keys, note)

    # ---- a region

    def _draw_region(self, region: Region, x: float, y: float) -> tuple[float, float, tuple[Point, Point]]:
        """Draw a region; returns the x of the next one, its lower edge, and the two ends of its residual stream."""
        cut = columns(region)
        on, names = spine(region)
        heights = [self._height(region, c) for c in cut]
        width = self._width(region)
        height = FIRST + max(heights) + 30
        self.canvas.box(x, y, width, height, fill=PANEL, stroke=FRAME, pen=1.25, style="rounded", name=region.name)
        title, more = self._title(region)
        self.canvas.text(x + 12, y + 16, title, size=15, bold=True, width=width - 24)
        self.canvas.text(x + 12, y + 34, more, size=12, color=MUTED, width=width - 24)
        places: dict[int, Place] = {}
        for c, column in enumerate(cut):
            at = y + FIRST + 22
            for i in column.ops:
                h = self._card_height(region, i)
                left = x + 10 + c * (LANE + self.w + SIDE + BETWEEN)
                inset = 0.0 if i in on else LANE
                places[i] = Place(i, c, x=left + inset, y=at, w=self.w + LANE - inset, h=h)
                at += h + GAP
        tops = [x + 10 + c * (LANE + self.w + SIDE + BETWEEN) + LANE / 2 for c in range(len(cut))]
        self._draw_streams(region, cut, on=on, names=names, places=places, tops=tops, top=y + FIRST)
        for place in places.values():
            self._draw_card(region, place)
        out = (tops[-1], max(places[i].y + places[i].h for i in cut[-1].ops))
        return x + width + 22, y + height, ((tops[0], y + FIRST), out)

    def _title(self, region: Region) -> tuple[str, str]:
        span = float(self.facts.times.regions[region.name].span)
        if region.name == SEND:
            return "between stages", f"{show_time(span)}, from each GPU to its peer"
        if region.layers is None:
            return region.name, f"{show_time(span)} a pass"
        stage = max(sum_up(p.repeats for p in parts if p.region == region.name) for parts in self.facts.program.stages)
        many = f"{stage} {TIMES} {show_time(span)} = {show_time(stage * span)}"
        where = " on the fullest stage" if len(self.facts.program.stages) > 1 else ""
        return f"{region.name}, layers {show_layers(region.layers, region.every)}", many + where

    def _width(self, region: Region) -> float:
        return len(columns(region)) * (LANE + self.w + SIDE + BETWEEN) - BETWEEN + 20

    def _height(self, region: Region, column: Column) -> float:
        return 22 + sum_up(self._card_height(region, i) + GAP for i in column.ops) - GAP

    # ---- lines

    def _draw_streams(
        self,
        region: Region,
        cut: list[Column],
        on: list[int],
        names: set[str],
        places: dict[int, Place],
        tops: list[float],
        top: float,
    ) -> None:
        """Draw the residual stream down each column and up to the next, and every other value from card to card."""
        spans = [(places[c.ops[0]], places[c.ops[-1]]) for c in cut]
        if region.args:
            arg = region.args[0]
            self.canvas.text(tops[0] + 14, top + 7, self._value(arg), size=11, bold=True, color=SPINE, width=self.w)
        made = {v.name: i for i, op in enumerate(region.ops) for v in op.results}
        wires: list[Wire] = []
        for c, (_, last) in enumerate(spans):
            start = top if c or region.args else top + 22
            self.canvas.line([(tops[c], start), (tops[c], last.y + last.h)], SPINE, pen=4, name="residual stream")
            if c + 1 < len(spans):
                side = places[cut[c + 1].ops[0]].column * (LANE + self.w + SIDE + BETWEEN)
                gap = tops[0] - LANE / 2 + side - BETWEEN / 2
                low = last.y + last.h + 12
                path = [(tops[c], last.y + last.h), (tops[c], low), (gap, low), (gap, top), (tops[c + 1], top)]
                self.canvas.line(path, SPINE, pen=4, name="residual stream")
        for i, op in enumerate(region.ops):
            here = places[i]
            latest = max((n for n in on if n < i), default=-1)
            for x in dict.fromkeys(v.name for v in op.operands):
                streamed = x in names and made.get(x, -1) == latest
                if streamed and i not in on:
                    y = here.y + 12
                    self.canvas.line([(tops[here.column], y), (here.x, y)], SPINE, pen=2, arrow=True, name=f"{x} read")
                elif x in made and not streamed:
                    wires.append(Wire(x, places[made[x]], here))
        self._draw_wires(wires, top)

    def _draw_wires(self, wires: list[Wire], top: float) -> None:
        """Draw values from card to card: straight down to the next card, or past other cards on a track."""
        past = []
        for wire in {(w.a.op, w.b.op): w for w in wires}.values():
            a, b = wire.a, wire.b
            if a.column == b.column and b.op == a.op + 1:
                x = max(a.x, b.x) + (self.w - LANE) / 2
                self.canvas.line([(x, a.y + a.h), (x, b.y)], MUTED, pen=1.5, arrow=True, name=wire.name)
            else:
                past.append(wire)
        for (name, a, b), track, start in tracks(past, top):
            edge = a.x + a.w
            right = edge + 8 + 6 * (track % TRACKS)
            path = [(edge, start), (right, start), (right, b.y + 10), (b.x + b.w, b.y + 10)]
            if a.column != b.column:
                middle, above = b.x + b.w / 2, b.y - GAP / 2
                path = [(edge, start), (right, start), (right, above), (middle, above), (middle, b.y)]
            self.canvas.line(path, MUTED, pen=1.5, arrow=True, name=name)

    def _draw_flow(self, a: Point, b: Point) -> None:
        """Draw the residual stream from one region to the next."""
        gap = b[0] - LANE / 2 - 10 - 11
        below = a[1] + 12 if a[0] < b[0] else b[1] - FIRST - 17  # in a new row the stream comes in at its left
        path = [a, (a[0], below), (gap, below), (gap, b[1]), b]
        self.canvas.line(path, SPINE, pen=4, name="residual stream")

    # ---- a card

    def _lines(self, region: Region, i: int) -> tuple[list[str], list[tuple[str, str]], str]:
        """The lines on an op's card: its results, its weights with their bytes, and its work."""
        op, cost = region.ops[i], self.facts.ops[region.name][i]
        weights = {w.name for w in region.weights}
        outs = [self._value(v) for v in op.results]
        held = [
            (self._value(v), show_bytes(self.facts.extents.bytes(v.type))) for v in op.operands if v.name in weights
        ]
        return _first_lines(outs), held[:MOST_LINES], self._work(op, cost)

    def _value(self, value: Value) -> str:
        return f"{value.name} {self.facts.shape(value.type)}"

    def _work(self, op: Op, cost: OpTime) -> str:
        if cost.communicates:
            where = f"over {cost.axis}" if cost.op not in HOP_WORDS else f"over {cost.axis or 'stages'}"
            many = f"{cost.count} {TIMES} " if cost.count > 1 else ""
            return f"{where}, {cost.algorithm}: {many}{show_bytes(cost.bytes)}"
        if cost.flops:
            return f"{flops(cost.flops)}, {show_bytes(cost.bytes)} moved"
        return ""

    def _card_width(self, region: Region, i: int) -> float:
        """The width that the lines of a card need."""
        outs, held, work = self._lines(region, i)
        cost = self.facts.ops[region.name][i]
        title = text_width(cost.name, 13, True) + text_width(self._right(region, i), 11) + 32
        weights = (text_width(line, 11) + 16 + text_width(size, 11) + 20 for line, size in held)
        first = f"{cost.op} {work}"
        return math.ceil(max([title, *weights, *(text_width(line, 11) + 22 for line in (*outs, first))]))

    def _right(self, region: Region, i: int) -> str:
        """The time of an op, its share of the region and its bound."""
        cost = self.facts.ops[region.name][i]
        if cost.time_s <= 0:
            return "takes no time"
        total = sum_up(o.time_s for o in self.facts.ops[region.name]) or 1.0
        return f"{show_time(cost.time_s)}{DOT}{show_percent(cost.time_s / total)}{DOT}{cost.bound}"

    def _card_height(self, region: Region, i: int) -> float:
        outs, held, work = self._lines(region, i)
        return HEAD + ROW * (len(outs) + len(held) + bool(work)) + 9

    def _draw_card(self, region: Region, place: Place) -> None:
        canvas, cost = self.canvas, self.facts.ops[region.name][place.op]
        outs, held, work = self._lines(region, place.op)
        kind = LOOKS[cost.op]
        self.kinds.add(kind)
        x, y, w, h = place.x, place.y, place.w, place.h
        name = cost.op if cost.op == cost.name else f"{cost.name}, {cost.op}"
        back = TINT if kind in ("collective", "hop") else CARD
        canvas.box(x, y, w, h, fill=back, stroke=LINE, name=f"{region.name}: {name}")
        canvas.box(x, y, 6, h, KINDS[kind], name=f"{region.name}: {name} kind")
        total = sum_up(o.time_s for o in self.facts.ops[region.name]) or 1.0
        share = cost.time_s / total
        right, left = self._right(region, place.op), x + 13
        need = text_width(right, 11) + 1
        canvas.text(left, y + 12, cost.name, size=13, bold=True, width=w - need - 28)
        canvas.text(x + w - 8, y + 12, right, size=11, color=MUTED, align="r", width=need)
        at = y + HEAD + ROW / 2
        first = cost.op if cost.op != cost.name else ""
        for line in outs:
            canvas.text(left, at, line, size=11, width=w - 20)
            at += ROW
        for line, size in held:
            canvas.box(left - 3, at - ROW / 2 + 0.5, w - 16, ROW - 1, SAND, name=f"weight {line}")
            room = text_width(size, 11) + 1
            canvas.text(left, at, line, size=11, width=w - 35 - room)
            canvas.text(x + w - 14, at, size, size=11, align="r", width=room)
            at += ROW
        if work:
            canvas.text(left, at, f"{first}{' ' if first else ''}{work}", size=11, color=MUTED, width=w - 20)
        if share > 0:
            canvas.box(x + 6, y + h - 4, max((w - 6) * share, 1), 4, KINDS[kind], name=f"{name} share")


def _first_lines(lines: list[str]) -> list[str]:
    if len(lines) <= MOST_LINES:
        return lines
    return [*lines[: MOST_LINES - 1], f"and {len(lines) - MOST_LINES + 1} more"]


def block(facts: Facts) -> str:
    """Draw the embedding, every kind of block, and the head."""
    return Sheet(facts).draw()
