"""Tokens dealt to experts as the collector of measured layers deals them, by a power law.

aiconfigurator (``collector/helper.py``) draws a weight for each expert between 1 and 0.8 of the tokens, or between
0.01 and 2 where there are no more pairs than experts. Tokens are dealt by these weights, in whole numbers and at most
all to one expert; what is left over goes to the least loaded experts of all ranks in turn. The fullest rank is
measured. Its draws are not published, so the mean over some takes their place.
"""

from __future__ import annotations

from functools import cache
from itertools import pairwise

import numpy as np

from plandsl.backends.calibrate.kind import Floats
from plandsl.backends.cost.forms.moe import Load

KEPT = 0.8
"""Share of all tokens that the most popular expert draws at most, before the draws are scaled to all pairs."""

FEW = (0.01, 2.0)
"""Least and largest weight where there are no more pairs than experts."""

DRAWS = 16
"""Draws that are averaged."""

GROUPS = 8
"""Groups of experts of the fullest rank with neighbouring loads, of about as many experts each."""


def dealt_loads(points: Floats) -> list[Load]:
    """Loads of the fullest rank, in `GROUPS` groups, an element for each row of ``points``.

    A row has tokens, experts, experts of a token, ranks, and the exponent of the law.
    """
    found = np.array([_groups(*row) for row in points.tolist()])
    return [Load(found[:, g, 0], found[:, g, 1], found[:, g, 2], True) for g in range(GROUPS)]


@cache
def _groups(*point: float) -> tuple[tuple[float, float, float], ...]:
    """(experts, tokens of each, experts with any token) of each group, from the least loaded on."""
    counts = np.sort(deal(*point), axis=1)
    edges = np.linspace(0, counts.shape[1], GROUPS + 1).round().astype(int)
    out = []
    for first, last in pairwise(edges.tolist()):
        part = counts[:, first:last]
        some = part.size > 0
        out.append((last - first, float(part.mean()) if some else 0.0, float((part > 0).sum() / len(counts))))
    return tuple(out)


def deal(tokens: float, experts: float, chosen: float, ranks: float, exponent: float) -> Floats:
    """Tokens of each expert of the fullest rank, a row for each of `DRAWS` draws."""
    local, pairs = max(int(experts // ranks), 1), tokens * chosen
    low, high = (1.0, max(KEPT * tokens, 1.01)) if pairs > experts else FEW
    power = 1 - exponent if abs(1 - exponent) > 1e-3 else 1e-3
    even = np.random.default_rng(1).random((DRAWS, local * int(ranks)))
    weights = (low**power + (high**power - low**power) * even) ** (1 / power)
    counts = np.minimum(np.round(weights / weights.sum(axis=1, keepdims=True) * pairs), tokens)
    shared = counts.reshape(DRAWS, int(ranks), local)
    for draw, rest in zip(shared, pairs - counts.sum(axis=1), strict=True):
        each, more = divmod(int(abs(rest)), len(draw))
        for rank, of in enumerate(draw):
            if amount := each + (rank < more):
                draw[rank] = np.minimum(_filled(of, amount), tokens) if rest > 0 else -_filled(-of, amount)
    fullest = shared.sum(axis=2).argmax(axis=1)
    return np.asarray(np.maximum(shared[np.arange(DRAWS), fullest], 0.0), dtype=np.float64)


def _filled(counts: Floats, amount: int) -> Floats:
    """``counts`` after ``amount`` ones have gone to the least count, one after another."""
    order = np.argsort(counts)
    rising = counts[order]
    below = rising * np.arange(1, len(rising) + 1) - np.cumsum(rising)  # what lifts all before to each count
    n = int(np.searchsorted(below, amount, side="right"))
    total = rising[:n].sum() + amount
    level, over = divmod(total, n)
    rising[:n] = level
    rising[: int(over)] += 1
    out = np.empty_like(counts)
    out[order] = rising
    return out
