"""A time axis: from seconds to points, with round ticks."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

from plandsl.backends.graphviz.canvas import Canvas
from plandsl.backends.graphviz.fonts import text_width
from plandsl.backends.graphviz.palette import FAINT, FRAME, MUTED
from plandsl.units import show_time


class Axis(NamedTuple):
    """``start..start + span`` seconds over ``width`` points from ``left``."""

    start: float
    span: float
    left: float
    width: float

    def x(self, seconds: float) -> float:
        """The x coordinate of a time, clipped to the axis."""
        share = (seconds - self.start) / self.span if self.span else 0.0
        return self.left + self.width * min(max(share, 0.0), 1.0)

    def ticks(self) -> Iterator[float]:
        """Six to twelve ticks, at round steps, in seconds after the start."""
        if self.span <= 0:
            return
        rough = self.span / 9
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(f * power for f in (1, 2, 2.5, 5, 10) if f * power >= rough * 0.999)
        for i in range(int(self.span / step * 1.0000001) + 1):
            yield i * step

    def draw(self, canvas: Canvas, top: float, bottom: float, above: bool = False) -> None:
        """Faint lines at the ticks from ``top`` to ``bottom``, with their times below.

        Times ``above`` leave room for the line that marks the end there.
        """
        unit = max(self.span, 1e-12)
        for tick in self.ticks():
            x = self.x(self.start + tick)
            canvas.line([(x, top - 4 * above), (x, bottom + 4 * (not above))], FRAME, pen=0.75, name="tick")
            label = _show_tick(tick, unit)
            if above and x + text_width(label, 11) / 2 > self.left + self.width - 4:
                continue  # there stands the line of the end
            canvas.text(x, top - 13 if above else bottom + 13, label, color=MUTED, align="c", width=70)
        edge = top if above else bottom
        canvas.line([(self.left, edge), (self.left + self.width, edge)], FAINT, name="time")


def _show_tick(seconds: float, span: float) -> str:
    """The label of a tick, in one unit for the whole axis."""
    if seconds == 0:
        return "0"
    for factor, unit in ((3600.0, "h"), (60.0, "min"), (1.0, "s"), (1e-3, "ms"), (1e-6, "us"), (1e-9, "ns")):
        if span >= factor * (10 if factor >= 60 else 1):
            return f"{seconds / factor:.4g} {unit}"
    return show_time(seconds)
