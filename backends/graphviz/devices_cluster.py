"""The devices view of a plan on several nodes: a box for each node with its GPUs, and what nodes send."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import cached_property
from itertools import pairwise
from typing import NamedTuple

from plandsl.backends.cost.answers.flows import phase_flows
from plandsl.backends.cost.work.crossing import near_boundaries
from plandsl.backends.graphviz.canvas import Canvas, Point
from plandsl.backends.graphviz.devices import Devices, describe, describe_torus
from plandsl.backends.graphviz.devices_layout import (
    BUS,
    GAP,
    HOP_X,
    HOP_Y,
    IDLE_H,
    LINE_H,
    MARK,
    MOST_CARDS,
    MOST_IN_STAGE,
    MOST_SHARES,
    PAD,
    REST_H,
    TITLE,
    WIDE,
    Grid,
    Sizes,
    card_width,
    gpu_colors,
    ranged,
)
from plandsl.backends.graphviz.facts import Facts, stage_words
from plandsl.backends.graphviz.fonts import text_width
from plandsl.backends.graphviz.header import DOT, MIN_WIDTH, TIMES, TOP, Key
from plandsl.backends.graphviz.palette import AXES, FAINT, FRAME, HOP, IDLE, LINE, MUTED, PANEL
from plandsl.ir.nodes import groups, node_span
from plandsl.spec.hardware import ClusterSpec
from plandsl.units import counted, show_bytes, show_rate, show_time

MOST_LINES, MOST_IDLE = 6, 8
"""Most lines of text below the GPUs of a node, and most idle nodes that are drawn."""

MOST_LINE_W = 480.0
"""A node is wide enough for its longest line of text, up to this."""

LANE, LANE_DOWN, LANE_ACROSS = 9.0, 46.0, 150.0
"""Distance between arrows of different lanes: in the gap between rows, side by side, and down from row to row."""


class Joint(NamedTuple):
    """An arrow from one node to another: a hop of the pipeline, or with two heads an exchange along ``axis``.

    ``label`` is the bytes and the seconds of a hop, or the bytes that leave a node along the axis.
    """

    start: int
    end: int
    axis: str
    label: tuple[str, ...]

    @property
    def lane(self) -> tuple[str, bool]:
        """Arrows of one lane lie on one line: those of an axis, and hops in one direction."""
        return self.axis, self.start < self.end


class Nodes(Devices):
    """The drawing of a cluster, with a box for each node."""

    def __init__(self, facts: Facts, cluster: ClusterSpec) -> None:
        self.facts, self.cluster = facts, cluster
        self.canvas = Canvas(f"{facts.plan.name}: devices")
        self.ranks, self.per_node = facts.plan.sharding.ranks, cluster.node.count
        self.total = (facts.plan.sharding.replicas, len(facts.program.stages))
        self.used = -(-self.ranks // self.per_node)
        self.cards = self.most = min(self.per_node, MOST_IN_STAGE)
        self.shown = self.most - (self.most < self.per_node)  # the last card counts the others
        self.drawn = min(self.used, max(1, MOST_CARDS // self.most))
        self.idle_nodes = min(cluster.count - self.used, MOST_IDLE) if self.drawn == self.used else 0
        self.shares = {rank: facts.shares(rank) for node in range(self.drawn) for rank in self._drawn_ranks(node)}
        self.kinds, self.card_w = gpu_colors(facts), card_width(facts, self.shares)
        lines = min(max(len(s) for s in self.shares.values()), MOST_SHARES)
        self.card_h = 86 + LINE_H * (lines + bool(self.kinds))
        order = {axis: i for i, (axis, _) in enumerate(reversed(facts.inner_axes))}
        self.colors = {axis: AXES[i % len(AXES)] for axis, i in order.items()}
        self.traffic = [sorted(facts.traffic(s), key=lambda t: order.get(t.axis, 99)) for s in range(self.total[1])]
        self.text = [self._lines(node) for node in range(self.drawn)]
        self.lines = max(len(t) for t in self.text)
        self.taken: list[tuple[float, float, float]] = []  # ends and middles of the labels between nodes
        wide = [text_width(line, 11) + MARK + 9 for own in self.text for line, _ in own]
        titles = [text_width(self._words(node), 12) + 80 for node in range(self.drawn)]
        self.line_w = min(max([*wide, *titles]), MOST_LINE_W)
        self.grid = min(self._grids(), key=self._score)

    def rest(self) -> list[tuple[str, str]]:
        """What is counted below the drawing: the nodes that are not drawn."""
        if self.drawn == self.used:
            return []
        gpus = counted(self.ranks - self.drawn * self.per_node, "GPU")
        names = ranged("node", self.drawn, self.used - 1)
        return [(counted(self.used - self.drawn, "more node"), f"{names}, {gpus} in use")]

    # ---- the nodes

    def _drawn_ranks(self, node: int) -> range:
        """The ranks of a node that are drawn."""
        first = node * self.per_node
        return range(first, min(first + self.shown, self.ranks))

    def _stages(self, node: int) -> list[int]:
        first = node * self.per_node
        ranks = range(first, min(first + self.per_node, self.ranks))
        return sorted({self.facts.index(rank, self.facts.program.stage_axes) for rank in ranks})

    def _nodes_reached(self, axis: str) -> int:
        return node_span(self.facts.program.mesh, axis, self.per_node).spans

    def _lines(self, node: int) -> list[tuple[str, str]]:
        """The lines below a node, with their colours: its collectives, and hops inside the node."""
        found: list[tuple[str, str]] = []
        stages = self._stages(node)
        for s in stages:
            before = f"stage {s}: " if len(stages) > 1 else ""
            for t in self.traffic[s]:
                reach = f" on {n} nodes" if (n := self._nodes_reached(t.axis)) > 1 else ""
                words = f"{before}{t.op} {TIMES} {t.runs} over {t.axis}{reach}: "
                words += f"{show_bytes(t.bytes)} in {show_time(t.seconds)}"
                found.append((words, self.colors.get(t.axis, AXES[0])))
            if s + 1 in stages and self._stays_inside(s):
                size, seconds = self._hop_of(s)
                found.append((f"stage {s} to {s + 1}: {size} from each GPU, {seconds}", HOP))
        more = len(found) - MOST_LINES
        return [*found[: MOST_LINES - 1], (f"and {more + 1} more", MUTED)] if more > 0 else found

    def _stays_inside(self, s: int) -> bool:
        return near_boundaries(self.facts.program, self.cluster)[s]

    def _hop_of(self, s: int) -> tuple[str, str]:
        return show_bytes(self.facts.hop[0]), show_time(self._hop_seconds(s))

    def _hop_seconds(self, s: int) -> float:
        return float(self.facts.times.regions[self.facts.phase_model.boundaries[s]].span)

    @cached_property
    def joints(self) -> tuple[Joint, ...]:
        """The arrows between nodes. The layout asks for them several times, and each counts what all ranks send."""
        return tuple(self._joints())

    def _joints(self) -> Iterator[Joint]:
        """The arrows between nodes: one for each axis and pair of neighbours that exchange, and one for each hop."""
        program, per = self.facts.program, self.per_node
        leaving = self._leaving()
        for axis in self.colors:
            if self._nodes_reached(axis) > 1 and any(t.axis == axis for s in self.traffic for t in s):
                pairs: dict[tuple[int, int], None] = {}
                for group in groups(program.mesh, axis):
                    nodes = sorted({rank // per for rank in group})
                    pairs |= dict.fromkeys(pairwise(nodes))
                label = (show_bytes(leaving[axis]),) if axis in leaving else ()
                yield from (Joint(a, b, axis, label) for a, b in sorted(pairs))
        slowest: dict[tuple[int, int], int] = {}  # several hops may join two nodes
        for s in sorted(range(self.total[1] - 1), key=self._hop_seconds):
            for r in range(self.total[0]):
                ranks = zip(self.facts.groups[r, s], self.facts.groups[r, s + 1], strict=True)
                slowest |= dict.fromkeys(((a // per, b // per) for a, b in ranks if a // per != b // per), s)
        yield from (Joint(a, b, "", self._hop_of(s)) for (a, b), s in sorted(slowest.items()))

    def _dips(self) -> bool:
        """Whether an arrow passes below the last row, to a node of the row that is no neighbour."""
        across = self.grid.stages
        last = (self.drawn - 1) // across
        return any(
            joint.start // across == joint.end // across == last and abs(joint.start - joint.end) > 1
            for joint in self.joints
            if max(joint.start, joint.end) < self.drawn
        )

    def _leaving(self) -> dict[str, float]:
        """The bytes that leave the first node along each axis, in the phase of the picture."""
        found = phase_flows(self.facts.model, self.facts.phase, size=self.per_node)
        sums: dict[str, float] = {}
        for cell in found.cells:
            if cell.sender == 0 != cell.receiver:
                sums[cell.axis] = sums.get(cell.axis, 0.0) + cell.bytes
        return sums

    # ---- layout

    def _grids(self) -> Iterator[Grid]:
        columns = range(min(2, self.most), min(self.most, 8) + 1)
        for cards in [n for n in columns if self.most % n == 0] or columns:  # a prime leaves the last row short
            yield from (Grid(cards, nodes, 1) for nodes in range(1, min(self.drawn, 8) + 1))

    def _score(self, grid: Grid) -> float:
        w, h = self.sizes(grid).all
        w, h = max(w, MIN_WIDTH), h + TOP + 120
        ragged = 0.3 * (self.drawn % grid.stages > 0)
        return abs(math.log(w / h / WIDE)) + ragged + max(0.0, w - 2200) / 800

    def sizes(self, grid: Grid) -> Sizes:
        """The sizes of a card, a node, and all nodes."""
        bus = BUS + 8 * (len(self.majors()) > 0) if self.lines else 0.0
        rows = -(-self.most // grid.cards)
        card_h = self.card_h + bus
        w = max(grid.cards * (self.card_w + GAP) - GAP, self.line_w) + 2 * PAD
        h = rows * (card_h + GAP - 4) - (GAP - 4) + TITLE + PAD + self.lines * LINE_H + 6
        across, down = min(self.drawn, grid.stages), -(-self.drawn // grid.stages)
        whole = across * (w + HOP_X) - HOP_X, down * (h + HOP_Y) - HOP_Y
        return Sizes((self.card_w, card_h), (w, h), (w, h), whole)

    def majors(self) -> list[str]:
        """The axes, except the last, over which GPUs of one node exchange."""
        used = {t.axis for stage in self.traffic for t in stage}
        mesh = self.facts.program.mesh
        return [n for n, _ in self.facts.inner_axes[:-1] if n in used and node_span(mesh, n, self.per_node).inside > 1]

    # ---- drawing

    def paint(self, width: float) -> None:
        """Draw all but the title and the legend, ``width`` points wide."""
        facts, canvas, cluster = self.facts, self.canvas, self.cluster
        sizes = self.sizes(self.grid)
        top, x0 = TOP + 72, (width - sizes.all[0]) / 2
        rest = len(self.rest()) * (REST_H + 8) + 4 * bool(self.rest())
        bottom = top + sizes.all[1] + rest + (IDLE_H + 12 if self.idle_nodes else 0)
        bottom += HOP_Y - PAD if self._dips() else 0.0
        canvas.box(
            0, TOP, width, bottom + PAD - TOP, fill=PANEL, stroke=FRAME, pen=1.5, style="rounded", name=cluster.name
        )
        canvas.text(PAD, TOP + 19, cluster.name, size=15, bold=True, width=width * 0.4)
        net = cluster.network
        shape = describe_torus(net) if net.dims else net.topology
        rate = f"{show_rate(net.bandwidth)} one way for each GPU, {show_time(net.latency)}"
        made_of = ", ".join(f"{count} {TIMES} {node.name}" for count, node in cluster.groups)
        words = f"{made_of}, network {shape}: {rate}"
        canvas.text(PAD, TOP + 38, words, size=12, color=MUTED, width=width - 2 * PAD)
        each = f"each node {describe(cluster.node)}"
        if cluster.nodes:
            each = "; ".join(
                f"{name}: {describe(node)}" for name, node in {n.name: n for _, n in cluster.nodes}.items()
            )
        canvas.text(PAD, TOP + 55, each, size=12, color=MUTED, width=width - 2 * PAD)
        words = f"{self.ranks} of {facts.plan.gpus} GPUs in use, on {self.used} of {cluster.count} nodes"
        canvas.text(width - PAD, TOP + 19, words, size=13, color=MUTED, align="r", width=width * 0.5)
        w, h = sizes.stage
        places = []
        for node in range(self.drawn):
            row, col = divmod(node, self.grid.stages)
            places.append((x0 + col * (w + HOP_X), top + row * (h + HOP_Y)))
            self._draw_node(node, *places[-1], sizes)
        self._draw_joints(places, sizes.stage, width)
        self._draw_rest(top + sizes.all[1] + 12 + (HOP_Y - PAD if self._dips() else 0.0), width)
        self._draw_idle_nodes(bottom - IDLE_H, width)

    def _words(self, node: int) -> str:
        """The stages of a node, or its replicas."""
        if self.total[1] > 1:
            return DOT.join(f"stage {s}: {stage_words(self.facts, s)}" for s in self._stages(node))
        if self.total[0] == 1:
            return ""
        axes = self.facts.plan.sharding.replica_axes
        found = sorted({self.facts.index(r, axes) for r in self._drawn_ranks(node)})
        return "replica " + ", ".join(map(str, found)) if len(found) <= 4 else f"{len(found)} replicas"

    def _draw_node(self, node: int, x: float, y: float, sizes: Sizes) -> None:
        canvas, (w, h) = self.canvas, sizes.stage
        canvas.box(x, y, w, h, fill="#eef2f6", stroke=LINE, style="rounded", name=f"node {node}")
        canvas.text(x + PAD, y + 15, f"node {node}", size=13, bold=True)
        stages, words = self._stages(node), self._words(node)
        canvas.text(x + w - PAD, y + 15, words, size=12, color=MUTED, align="r", width=w - 2 * PAD - 70)
        card_w, card_h = sizes.card
        top, shown = y + TITLE, self._drawn_ranks(node)
        for i in range(self.most):
            row, col = divmod(i, self.grid.cards)
            place = x + PAD + col * (card_w + GAP), top + row * (card_h + GAP - 4)
            others = range(shown[-1] + 1, min((node + 1) * self.per_node, self.ranks))
            if i < len(shown):
                self._draw_card(shown[i], self.facts.index(shown[i], self.facts.program.stage_axes), *place)
            elif others:
                self._draw_others(others, stages[-1], *place)
            else:
                self._draw_idle_gpu(node * self.per_node + i, *place)
        self.cards = len(shown) + (self.shown < self.most)
        minor = self.facts.inner_axes[-1][0] if self.facts.inner_axes else ""
        if minor and self.facts.program.mesh.stride(minor) == 1:
            self._draw_buses(stages[0], x, top, sizes)
        rows = -(-self.most // self.grid.cards)
        below = top + rows * (card_h + GAP - 4) - (GAP - 4) + LINE_H / 2 + 4
        for i, (line, color) in enumerate(self.text[node]):
            at = x + PAD, below + i * LINE_H
            if color == MUTED:
                canvas.text(at[0] + MARK + 8, at[1], line, color=color, width=w - 2 * PAD - MARK - 8)
            else:
                self.draw_line(at, line, color, w - 2 * PAD, hop=color == HOP)

    def _draw_idle_gpu(self, rank: int, x: float, y: float) -> None:
        name = f"GPU {rank}"
        self.canvas.box(x, y, self.card_w, self.card_h, fill=IDLE, stroke=LINE, style="rounded,dashed", name=name)
        self.canvas.text(x + 10, y + 15, name, size=14, bold=True, color=FAINT, width=self.card_w - 14)
        self.canvas.text(x + 10, y + 35, "idle", color=MUTED, width=self.card_w - 14)

    def _draw_idle_nodes(self, y: float, width: float) -> None:
        """Draw the nodes without ranks."""
        left = self.cluster.count - self.used
        each = min(self.card_w, (width - 2 * PAD + GAP) / max(self.idle_nodes, 1) - GAP)
        x0 = (width - self.idle_nodes * (each + GAP) + GAP) / 2
        for i in range(self.idle_nodes):
            name, words = f"node {self.used + i}", f"{self.per_node} GPUs, idle"
            if i == MOST_IDLE - 1 and left > MOST_IDLE:
                name, words = f"node {self.used + i} and others", f"{left - i} nodes, idle"
            x = x0 + i * (each + GAP)
            self.canvas.box(x, y, each, IDLE_H, fill=IDLE, stroke=LINE, style="rounded,dashed", name=name)
            self.canvas.text(x + 10, y + 15, name, size=14, bold=True, color=FAINT, width=each - 14)
            self.canvas.text(x + 10, y + 32, words, color=MUTED, width=each - 14)

    # ---- between nodes

    def _draw_joints(self, places: list[Point], size: tuple[float, float], width: float) -> None:
        """Draw all arrows between nodes, and then their labels, on a ground that hides arrows below them."""
        joints = [joint for joint in self.joints if max(joint.start, joint.end) < self.drawn]
        lanes = list(dict.fromkeys(joint.lane for joint in joints))
        apart = min(LANE_ACROSS, (size[0] - 30) / max(len(lanes), 1))
        drawn = []
        for joint in joints:
            at = lanes.index(joint.lane) - (len(lanes) - 1) / 2
            hop = not joint.axis
            color = HOP if hop else self.colors[joint.axis]
            points = self._path(places[joint.start], places[joint.end], size, at, apart)
            name = f"node {joint.start} to node {joint.end}, {joint.axis or 'stages'}"
            self.canvas.line(points, color, pen=2, arrow=hop, both=not hop, name=name)
            drawn.append((points, joint.label, color))
        for points, label, color in drawn:
            self._draw_label(points, label, color, (apart, width))

    def _path(self, a: Point, b: Point, size: tuple[float, float], at: float, apart: float) -> list[Point]:
        """The points of an arrow from one box to another, around the boxes between them, in its lane ``at``.

        Lanes that go down are ``apart`` points from one another.
        """
        (w, h), off = size, 5.0
        beside, across, near = at * LANE_DOWN, at * apart, at * LANE
        if a[1] == b[1] and abs(a[0] - b[0]) < w + HOP_X + 1:
            y = a[1] + h / 2 + beside
            right, left = (a[0] + w + off, y), (b[0] - off, y)
            return [right, left] if a[0] < b[0] else [(a[0] - off, y), (b[0] + w + off, y)]
        start, end = a[0] + w / 2 + across, b[0] + w / 2 + across
        if a[1] == b[1]:
            down = a[1] + h + HOP_Y / 2 + near
            return [(start, a[1] + h + off), (start, down), (end, down), (end, b[1] + h + off)]
        up = b[1] < a[1]
        first, last = (a[1] - off, b[1] + h + off) if up else (a[1] + h + off, b[1] - off)
        if a[0] == b[0] and abs(a[1] - b[1]) < h + HOP_Y + 1:
            return [(start, first), (end, last)]
        middle = (b[1] + h + HOP_Y / 2 if up else b[1] - HOP_Y / 2) + near
        side = start
        if abs(a[1] - b[1]) > h + HOP_Y + 1:
            side = a[0] - HOP_X / 2 + near if a[0] > 0 else start
        turn = first + (near if side != start else 0)
        return [(start, first), (start, turn), (side, turn), (side, middle), (end, middle), (end, last)]

    def _draw_label(self, points: list[Point], label: tuple[str, ...], color: str, room: tuple[float, float]) -> None:
        """Write the label above and below a level arrow, or beside the end of another.

        ``room``: the distance of the lanes, and the right edge of the sheet.
        """
        (ax, ay), (bx, by) = points[0], points[-1]
        if ay == by and len(points) == 2:
            for words, y in zip(label, (ay - 11, ay + 12), strict=False):
                self._write((ax + bx - text_width(words, 11)) / 2, y, words, color)
            return
        words = ", ".join(label)
        if text_width(words, 11) + 16 > room[0]:
            words = label[0] if label else ""
        middle = (ay + by) / 2 if len(points) == 2 else None
        last = (by + points[-2][1]) / 2 if middle is None else middle
        first = (ay + points[1][1]) / 2 if middle is None else middle
        for shown in dict.fromkeys((words, *label[:1])):
            wide = text_width(shown, 11) + 1
            for x, y in ((bx + 8, last), (bx - 8 - wide, last), (ax + 8, first), (ax - 8 - wide, first)):
                if x >= PAD and x + wide <= room[1] - PAD and self._is_free(x, y, wide):
                    self._write(x, y, shown, color)
                    return

    def _is_free(self, x: float, y: float, wide: float) -> bool:
        """Whether no label stands where one of ``wide`` points would."""
        return all(x + wide + 6 < left or right + 6 < x or abs(y - at) > 16 for left, right, at in self.taken)

    def _write(self, left: float, y: float, words: str, color: str) -> None:
        """Write words on a ground that hides what lies below them."""
        if words:
            wide = text_width(words, 11) + 1
            self.taken.append((left, left + wide, y))
            self.canvas.box(left - 2, y - 7, wide + 4, 14, PANEL, name=f"ground of {words}")
            self.canvas.text(left, y, words, color=color, width=wide)

    # ---- the legend

    def legend(self) -> list[Key]:
        """Every colour and its meaning."""
        keys = super().legend()
        if any(joint.axis for joint in self.joints):
            keys.append(Key("both", MUTED, "between nodes: bytes that leave a node along the axis"))
        return keys

    def _note(self) -> str:
        what = "prefill of one batch" if self.facts.phase == "prefill" else "one decode step of a batch"
        return f"collectives: every run in the {what}, together; bytes of a GPU's buffers" if self.lines else ""
