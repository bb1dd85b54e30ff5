"""The picture of `planc compare-comm`: for each phase, which share of the step each plan sends, by mesh axis."""

from __future__ import annotations

from collections.abc import Sequence

from plandsl.answers.communication import TRANSFER as TRANSFER_PHASE
from plandsl.answers.communication import Compared
from plandsl.backends.graphviz.canvas import Canvas, Point
from plandsl.backends.graphviz.fonts import text_width
from plandsl.backends.graphviz.header import DOT, MIN_WIDTH, Key, legend
from plandsl.backends.graphviz.palette import AXES, FRAME, HOP, INK, LINE, MUTED, PANEL, TRANSFER, ink_on
from plandsl.ir.collectives import HOP_WORDS
from plandsl.ir.program import DECODE, PREFILL
from plandsl.units import show_bytes, show_percent, show_time

PAD, ROW, BAR, WIDTH = 16.0, 34.0, 22.0, 1160.0
LEAST_SHARE = 0.05
"""The share that the longest bar stands for at least, so that small shares look small."""

MOST_NAME = 300.0
"""The widest column of names, in points."""

PHASES = {
    PREFILL: ("prefill of one batch", "TTFT"),
    DECODE: ("one decode step", "TPOT"),
    TRANSFER_PHASE: ("transfer of one request's cache", "TPOT"),
}
"""The title of each phase, and what shares are shares of."""


def axis_colors(plans: Sequence[Compared]) -> dict[str, str]:
    """A colour for each axis of all plans: hops between stages and between pools have their own."""
    rows = [row for plan in plans for row in plan.sent.rows]
    sent = dict.fromkeys(row.axis for row in rows if row.phase == TRANSFER_PHASE)
    hops = dict.fromkeys(row.axis for row in rows if row.op in HOP_WORDS and row.axis not in sent)
    others = dict.fromkeys(row.axis for row in rows if row.axis not in {**sent, **hops})
    return (
        {axis: AXES[i % len(AXES)] for i, axis in enumerate(others)}
        | dict.fromkeys(hops, HOP)
        | dict.fromkeys(sent, TRANSFER)
    )


def _row_words(plan: Compared, phase: str, metric: str) -> str:
    sums = plan.sent.total(phase)
    if not sums.calls:
        return "sends nothing"
    return f"{show_percent(sums.share)} of {metric}{DOT}{show_time(sums.time_s)}{DOT}{show_bytes(sums.wire)}"


class Bars:
    """The sheet with a panel for each phase."""

    def __init__(self, plans: Sequence[Compared]) -> None:
        self.plans, self.canvas, self.colors = plans, Canvas("communication of plans"), axis_colors(plans)
        self.width = max(MIN_WIDTH, WIDTH)
        names = max(text_width(plan.plan, 13, True) for plan in plans)
        meshes = max(text_width(plan.mesh, 11) for plan in plans)
        self.names = min(max(names, meshes) + 1, MOST_NAME)

    def draw(self) -> str:
        """The whole picture."""
        canvas, y = self.canvas, 52.0
        many = f"communication of {len(self.plans)} plan{'s' if len(self.plans) > 1 else ''}"
        canvas.text(0, 13, many, size=20, bold=True, width=self.width)
        words = "the share of a step in which calls run along each axis, whether kernels hide them or not"
        canvas.text(0, 37, words, size=13, color=MUTED, width=self.width)
        for phase in PHASES:
            shown = [plan for plan in self.plans if phase != TRANSFER_PHASE or plan.sent.of(phase)]
            if shown:
                y = self._draw_phase(shown, phase, y) + 18
        keys = [Key("box", color, f"along {axis}" if axis else "between pools") for axis, color in self.colors.items()]
        legend(canvas, y + 8, self.width, keys, "bytes are on the links, from one GPU of every stage together")
        return canvas.dot()

    def _draw_phase(self, plans: Sequence[Compared], phase: str, y: float) -> float:
        """Draw the panel of a phase; returns its lower edge."""
        canvas, width, (title, metric) = self.canvas, self.width, PHASES[phase]
        height = 48 + ROW * len(plans) + 8
        canvas.box(0, y, width, height, fill=PANEL, stroke=FRAME, pen=1.25, style="rounded", name=phase)
        canvas.text(PAD, y + 20, title, size=15, bold=True, width=width - 2 * PAD)
        words = [_row_words(plan, phase, metric) for plan in plans]
        left = PAD + self.names + 14
        room = width - PAD - left - max(text_width(word, 12) for word in words) - 12
        most = max(LEAST_SHARE, *(plan.sent.total(phase).share for plan in plans))
        for i, (plan, word) in enumerate(zip(plans, words, strict=True)):
            top = y + 46 + i * ROW
            canvas.text(PAD, top + 7, plan.plan, size=13, bold=True, width=self.names)
            canvas.text(PAD, top + 21, plan.mesh, size=11, color=MUTED, width=self.names)
            end = self._draw_bar(plan, phase, (left, top + 3), room / most)
            canvas.text(end + 8, top + 3 + BAR / 2, word, size=12, color=INK, width=text_width(word, 12) + 1)
        return y + height

    def _draw_bar(self, plan: Compared, phase: str, at: Point, scale: float) -> float:
        """Draw the axes of a plan side by side, ``scale`` points for a share of 1; returns the right end."""
        canvas, (start, y) = self.canvas, at
        x = start
        for axis, sums in plan.sent.by_axis(phase).items():
            width, fill, share = sums.share * scale, self.colors[axis], show_percent(sums.share)
            canvas.box(x, y, width, BAR, fill, name=f"{phase}: {plan.plan}, {axis or 'between pools'}: {share}")
            label = f"{axis} {share}" if axis else share
            if width > text_width(label, 11) + 8:
                canvas.text(x + width / 2, y + BAR / 2, label, size=11, color=ink_on(fill), align="c", width=width)
            x += width
        canvas.box(start, y, max(x - start, 2), BAR, stroke=LINE, pen=0.5, name=f"{phase}: {plan.plan}")
        return x


def draw_compared(plans: Sequence[Compared]) -> str:
    """A panel for each phase, in which every plan has a bar of its axes."""
    return Bars(plans).draw()
