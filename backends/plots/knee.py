"""The knee of a curve: where more throughput begins to cost much more latency."""

from __future__ import annotations

import numpy as np

from plandsl.backends.cost.serving.requests import Floats

PLAIN = 0.1
"""A curve whose knee lies nearer to its chord has none. Unit: its own extent, on logarithmic axes."""


def knee(latency: Floats, throughput: Floats) -> int | None:
    """The point of a curve that lies farthest above the chord of its ends; None if it is almost a line.

    Of points in the order of the load. Both axes are logarithmic and go from 0 to 1 between the first and the last
    point; the distance is ``y - x``. Source: Satopää, Albrecht, Irwin and Raghavan, "Finding a 'Kneedle' in a
    Haystack", 2011.
    """
    if len(latency) < 3 or not np.all((latency > 0) & (throughput > 0)):  # neither is NaN
        return None
    x, y = np.log(latency), np.log(throughput)
    if x[-1] <= x[0] or y[-1] <= y[0]:
        return None
    above = (y - y[0]) / (y[-1] - y[0]) - (x - x[0]) / (x[-1] - x[0])
    best = int(np.argmax(above))
    return best if above[best] > PLAIN else None
