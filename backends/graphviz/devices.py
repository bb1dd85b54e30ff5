"""The devices view of a plan on one node: its GPUs, what each GPU holds, and what GPUs send."""

from __future__ import annotations

from collections.abc import Sequence

from plandsl.backends.graphviz.bars import memory_bar, memory_keys
from plandsl.backends.graphviz.canvas import Canvas, Point
from plandsl.backends.graphviz.devices_layout import (
    GAP,
    HOP_X,
    HOP_Y,
    IDLE_H,
    LINE_H,
    MARK,
    PAD,
    REST_H,
    TITLE,
    Layout,
    Sizes,
    card_lines,
    card_place,
    ranged,
)
from plandsl.backends.graphviz.facts import Facts, stage_words
from plandsl.backends.graphviz.fonts import text_width
from plandsl.backends.graphviz.header import DOT, MIN_WIDTH, TIMES, TOP, Key, finish
from plandsl.backends.graphviz.palette import (
    AXES,
    BAD,
    CARD,
    FAINT,
    FRAME,
    HOP,
    IDLE,
    INK,
    LINE,
    MUTED,
    PANEL,
)
from plandsl.spec.hardware import LinkSpec, NodeSpec
from plandsl.units import counted, show_bytes, show_percent, show_rate, show_time


class Devices(Layout):
    """The drawing of a node, with a card for each GPU."""

    def __init__(self, facts: Facts) -> None:
        super().__init__(facts)
        self.canvas = Canvas(f"{facts.plan.name}: devices")

    # ---- drawing

    def draw(self) -> str:
        """The whole picture."""
        self.paint(self.width)
        return finish(self.canvas, self.facts, self._caption(), self.legend(), self._note())

    @property
    def width(self) -> float:
        """The width that the machine needs."""
        return max(self.sizes(self.grid).all[0] + 2 * PAD + 8, MIN_WIDTH)

    def paint(self, width: float) -> None:
        """Draw all but the title and the legend, ``width`` points wide."""
        facts, node, canvas = self.facts, self.facts.plan.node, self.canvas
        sizes = self.sizes(self.grid)
        idle = max(0, node.count - facts.plan.sharding.ranks)
        top = TOP + 54
        x0 = (width - sizes.all[0]) / 2
        rest_top = top + sizes.all[1] + 12
        bottom = top + sizes.all[1] + len(self.rest()) * (REST_H + 8) + 4 * bool(self.rest())
        idle_rows, across, each = self._idle_rows(idle, width)
        if idle:
            bottom += 8 + idle_rows * (IDLE_H + 8)
        canvas.box(
            0, TOP, width, bottom + PAD - TOP, fill=PANEL, stroke=FRAME, pen=1.5, style="rounded", name=node.name
        )
        canvas.text(PAD, TOP + 19, node.name, size=15, bold=True, width=width * 0.4)
        canvas.text(PAD, TOP + 38, describe(node), size=12, color=MUTED, width=width - 2 * PAD)
        words = f"{facts.estimate.gpus} of {node.count} GPUs in use"
        canvas.text(width - PAD, TOP + 19, words, size=13, color=MUTED, align="r", width=width * 0.4)
        for r in range(self.replicas):
            row, col = divmod(r, self.grid.replicas)
            w, h = sizes.replica
            self._draw_replica(r, x0 + col * (w + GAP + 4), top + row * (h + GAP + 4), sizes)
        self._draw_rest(rest_top, width)
        self._draw_idle(idle, bottom - idle_rows * (IDLE_H + 8) + 8, width, across, each)

    def _caption(self) -> str:
        return f"devices: what each GPU holds, and what {self.facts.phase} sends"

    def _draw_replica(self, r: int, x: float, y: float, sizes: Sizes) -> None:
        if self.replicas > 1 and self.stages > 1:
            w, h = sizes.replica
            self.canvas.box(x, y, w, h, fill=CARD, stroke=LINE, style="rounded", name=f"replica {r}")
            self.canvas.text(x + PAD, y + 14, f"replica {r}", size=13, bold=True)
            x, y = x + PAD, y + TITLE + 4
        places = []
        w, h = sizes.stage
        for s in range(self.stages):
            row, col = divmod(s, self.grid.stages)
            places.append((x + col * (w + HOP_X), y + row * (h + HOP_Y)))
            self._draw_stage(r, s, *places[-1], sizes)
        for s in range(self.stages - 1):
            self._draw_hop(s, places[s], places[s + 1], sizes.stage)

    def _draw_stage(self, r: int, s: int, x: float, y: float, sizes: Sizes) -> None:
        facts, canvas = self.facts, self.canvas
        w, h = sizes.stage
        title = f"stage {s}" if self.total[1] > 1 else f"replica {r}" if self.total[0] > 1 else "all layers"
        inner = "#eef2f6"
        canvas.box(x, y, w, h, fill=inner, stroke=LINE, style="rounded", name=title)
        canvas.text(x + PAD, y + 15, title, size=13, bold=True)
        held = stage_words(facts, s) if self.total[1] > 1 else "all layers" if self.total[0] > 1 else ""
        if self.in_stage == 1:
            held = ""  # the card says it
        words = ", ".join(w for w in (f"{self.in_stage} GPUs" if self.in_stage > 1 else "", held) if w)
        canvas.text(x + w - PAD, y + 15, words, size=12, color=MUTED, align="r", width=w - 2 * PAD - 70)
        ranks = facts.groups[r, s]
        card_w, card_h = sizes.card
        top = y + TITLE
        for i, rank in enumerate(ranks[: self.cards]):
            row, col = divmod(i, self.grid.cards)
            gap = GAP - 4 if card_h > self.card_h else GAP
            place = x + PAD + col * (card_w + GAP), top + row * (card_h + gap)
            if i < self.shown:
                self._draw_card(rank, s, *place)
            else:
                self._draw_others(ranks[i:], s, *place)
        if card_h > self.card_h:
            self._draw_buses(s, x, top, sizes)
        rows = -(-self.cards // self.grid.cards)
        below = top + rows * (card_h + GAP - 4) - (GAP - 4) + LINE_H / 2 + 4
        for i, t in enumerate(self.traffic[s]):
            line = f"{t.op} {TIMES} {t.runs} over {t.axis}: {show_bytes(t.bytes)} in {show_time(t.seconds)}"
            self.draw_line((x + PAD, below + i * LINE_H), line, self.colors.get(t.axis, AXES[0]), w - 2 * PAD)

    def draw_line(self, at: Point, line: str, color: str, width: float, hop: bool = False) -> None:
        """Write what is sent, behind an arrow: with two heads for an exchange, with one for a hop."""
        x, y = at
        self.canvas.line([(x, y), (x + MARK, y)], color, pen=1.5, arrow=hop, both=not hop, name=f"arrow: {line}")
        self.canvas.text(x + MARK + 8, y, line, color=color, width=width - MARK - 8)

    def _draw_buses(self, s: int, x: float, top: float, sizes: Sizes) -> None:
        """Lines under the cards: one for each group along the last axis, and one that joins them for other axes."""
        minor, members = self.facts.inner_axes[-1]
        across, (card_w, card_h) = self.grid.cards, sizes.card
        used = {t.axis for t in self.traffic[s]}
        rows = [range(r, min(r + across, self.cards)) for r in range(0, self.cards, across)]
        left, levels = x + PAD / 2, []
        for row, here in enumerate(rows):
            bottom = top + row * (card_h + GAP - 4) + self.card_h
            middles = [x + PAD + col * (card_w + GAP) + card_w / 2 for col in range(len(here))]
            levels.append(bottom + 9)
            wide = across > members or across % members == 0
            ends = [middles[k : k + members] for k in range(0, len(middles), members)] if wide else [middles]
            if minor in used:
                for m in middles:
                    self._draw_link(minor, (m, bottom), (m, bottom + 9))
                for group in ends:
                    self._draw_link(minor, (group[0] if wide else left, bottom + 9), (group[-1], bottom + 9))
            for axis in self.majors()[:1]:
                centres = [(group[0] + group[-1]) / 2 for group in ends]
                for c in centres if wide else []:
                    self._draw_link(axis, (c, bottom + 9), (c, bottom + 17))
                self._draw_link(axis, (left if len(rows) > 1 else centres[0], bottom + 17), (centres[-1], bottom + 17))
        if across < members and minor in used:
            for first in range(0, len(rows), -(-members // across)):
                last = min(first + -(-members // across), len(rows)) - 1
                self._draw_link(minor, (left, levels[first]), (left, levels[last]))
        elif len(rows) > 1:
            for axis in self.majors()[:1]:
                self._draw_link(axis, (left, levels[0] + 8), (left, levels[-1] + 8))

    def _draw_link(self, axis: str, a: tuple[float, float], b: tuple[float, float]) -> None:
        self.canvas.line([a, b], self.colors[axis], pen=2, name=f"{axis} link")

    def _draw_card(self, rank: int, stage: int, x: float, y: float) -> None:
        facts, canvas = self.facts, self.canvas
        held = facts.memory_of(rank, stage)
        over = held.total > held.capacity
        inside = self.card_w - 20
        fill = self.kinds[facts.gpus[rank].name] if facts.gpus else CARD
        edge, pen = (BAD, 2) if over else (LINE, 1)
        canvas.box(x, y, self.card_w, self.card_h, fill=fill, stroke=edge, pen=pen, style="rounded", name=f"GPU {rank}")
        title = text_width(f"GPU {rank}", 14, True)
        canvas.text(x + 10, y + 15, f"GPU {rank}", size=14, bold=True, width=title + 1)
        canvas.text(
            x + self.card_w - 10, y + 15, card_place(facts, rank), color=MUTED, align="r", width=inside - title - 8
        )
        for i, line in enumerate(card_lines(facts, rank, self.shares[rank])):
            canvas.text(x + 10, y + 35 + i * LINE_H, line, color=INK if i == 0 else MUTED, width=inside)
        top = y + self.card_h - 38
        line = f"{show_bytes(held.total)} of {show_bytes(held.capacity)}"
        canvas.text(x + 10, top + 6, line, color=BAD if over else INK, bold=over, width=inside - 52)
        share = show_percent(held.total / held.capacity)
        canvas.text(x + self.card_w - 10, top + 6, share, color=BAD if over else MUTED, align="r", width=52)
        scale = max(held.total, held.capacity)
        memory_bar(canvas, held, x=x + 10, y=top + 17, w=inside, h=12, scale=scale, name=f"GPU {rank}:")

    def _draw_others(self, ranks: Sequence[int], stage: int, x: float, y: float) -> None:
        """Draw a card that counts the GPUs of a stage which have none of their own."""
        canvas, held = self.canvas, self.facts.estimate.stages[stage]
        title, inside = counted(len(ranks), "more GPU"), self.card_w - 20
        canvas.box(x, y, self.card_w, self.card_h, fill=CARD, stroke=LINE, style="rounded,dashed", name=title)
        canvas.text(x + 10, y + 15, title, size=14, bold=True, width=inside)
        near = ranks[-1] - ranks[0] == len(ranks) - 1
        where = ranged("GPU", ranks[0], ranks[-1]) if near else f"GPU {ranks[0]}, ... and {ranks[-1]}"
        lines = [where, "the next part of each dimension"]
        for i, line in enumerate(lines):
            canvas.text(x + 10, y + 35 + i * LINE_H, line, color=INK if i == 0 else MUTED, width=inside)
        canvas.text(x + 10, y + self.card_h - 32, f"each at most {show_bytes(held.total)}", width=inside)

    def _draw_rest(self, y: float, width: float) -> None:
        """Draw a strip for each kind of part that is counted and not drawn."""
        for i, (title, words) in enumerate(self.rest()):
            top = y + i * (REST_H + 8)
            self.canvas.box(
                PAD, top, width - 2 * PAD, REST_H, fill=CARD, stroke=LINE, style="rounded,dashed", name=title
            )
            space = text_width(title, 14, True) + 1
            self.canvas.text(PAD + 14, top + REST_H / 2, title, size=14, bold=True, width=space)
            left = PAD + 14 + space + 12
            self.canvas.text(left, top + REST_H / 2, words, size=12, color=MUTED, width=width - left - PAD - 12)

    def _draw_hop(self, s: int, a: tuple[float, float], b: tuple[float, float], stage: tuple[float, float]) -> None:
        size, seconds = self.facts.hop
        first, second = show_bytes(size), show_time(seconds)
        w, h = stage
        name = f"stage {s} to stage {s + 1}"
        if a[1] == b[1]:
            y = a[1] + h / 2
            self.canvas.line([(a[0] + w + 5, y), (b[0] - 5, y)], HOP, pen=2, arrow=True, name=name)
            middle = (a[0] + w + b[0]) / 2
            self.canvas.text(middle, y - 11, first, color=HOP, align="c", width=HOP_X - 6)
            self.canvas.text(middle, y + 12, second, color=HOP, align="c", width=HOP_X - 6)
            return
        x, y, top = a[0] + w / 2, a[1] + h, b[1]
        middle = (y + top) / 2
        bend = [(x, y + 5), (x, middle), (b[0] + w / 2, middle), (b[0] + w / 2, top - 5)]
        points = [bend[0], bend[-1]] if a[0] == b[0] else bend
        self.canvas.line(points, HOP, pen=2, arrow=True, name=name)
        at = middle if a[0] == b[0] else middle + 13
        self.canvas.text(b[0] + w / 2 + 12, at, f"{first}, {second}", color=HOP, width=w / 2 - 12)

    # ---- idle GPUs and the legend

    def _idle_rows(self, idle: int, width: float) -> tuple[int, int, float]:
        """The number of rows of idle GPUs, the GPUs in each row, and the width of one."""
        shown = min(idle, 16)
        across = min(shown, 8) or 1
        each = min(self.card_w, (width - 2 * PAD - 4 - (across - 1) * GAP) / across)
        return -(-shown // across), across, each

    def _draw_idle(self, idle: int, y: float, width: float, across: int, each: float) -> None:
        shown = min(idle, 16)
        first = self.facts.plan.sharding.ranks
        x0 = (width - across * (each + GAP) + GAP) / 2
        for i in range(shown):
            row, col = divmod(i, across)
            name, words = f"GPU {first + i}", "idle"
            if i == 15 and idle > 16:
                name, words = f"GPU {first + i} and others", f"{idle - 15} more, idle"
            x, top = x0 + col * (each + GAP), y + row * (IDLE_H + 8)
            self.canvas.box(x, top, each, IDLE_H, fill=IDLE, stroke=LINE, style="rounded,dashed", name=name)
            if words == "idle":
                self.canvas.text(x + 10, top + 15, name, size=14, bold=True, color=FAINT, width=each - 14)
            self.canvas.text(x + 10, top + 32, words, color=MUTED, width=each - 14)

    def legend(self) -> list[Key]:
        """Every colour and its meaning."""
        facts = self.facts
        keys = memory_keys(*facts.estimate.stages)
        keys += [Key("box", fill, name) for name, fill in self.kinds.items()]
        used = {t.axis for stage in self.traffic for t in stage}
        keys += [Key("line", c, f"collectives over {a}") for a, c in self.colors.items() if a in used]
        if self.total[1] > 1:
            keys.append(Key("arrow", HOP, "to the next stage: bytes from each GPU, time"))
        if facts.plan.gpus > facts.plan.sharding.ranks:
            keys.append(Key("frame", IDLE, "idle"))
        return keys

    def _note(self) -> str:
        what = "prefill of one batch" if self.facts.phase == "prefill" else "one decode step of a batch"
        return f"collectives: every run in the {what}, together; bytes of a GPU's buffers" if self.lines else ""


def describe(node: NodeSpec) -> str:
    """The GPUs and links of a node, in one line of text."""
    link = node.link
    gpus = (
        f"{count} {TIMES} {gpu.name}: {show_bytes(gpu.memory)} at {show_rate(gpu.bandwidth)}"
        for count, gpu in node.groups
    )
    words = {
        "mesh": "full mesh, each pair",
        "switch": "switch, each GPU",
        "pcie": "PCIe, each GPU",
        "ring": "ring, each neighbour",
    }
    across = words.get(link.topology, f"{link.topology}, each link")
    if link.dims:
        across = f"{describe_torus(link)}, each link"
    return DOT.join(
        [
            ", ".join(gpus),
            f"{across} {show_rate(link.bandwidth)} one way, {show_time(link.latency)}",
            *(["by the memory of the host"] if link.host else []),
            *([f"bridged pairs {show_rate(link.bridge)}"] if link.bridge else []),
        ]
    )


def describe_torus(link: LinkSpec) -> str:
    """``torus 4 x 4``, and whether its axes are open at the ends."""
    return f"{link.topology} {TIMES.join(map(str, link.dims))}{'' if link.wrap else ' with open ends'}"


def machine_drawing(facts: Facts) -> Devices:
    """The drawing of a plan's machine, still empty: of one node, or of each node of a cluster."""
    if facts.plan.cluster is not None and facts.plan.cluster.count > 1:
        from plandsl.backends.graphviz.devices_cluster import Nodes

        return Nodes(facts, facts.plan.cluster)
    return Devices(facts)


def devices(facts: Facts) -> str:
    """The whole picture of a plan: its machine, or the machines of both pools, once for each of two shardings."""
    if facts.estimate.pools is not None or facts.estimate.shift is not None:
        from plandsl.backends.graphviz.devices_sections import draw_sections

        return draw_sections(facts)
    return machine_drawing(facts).draw()
