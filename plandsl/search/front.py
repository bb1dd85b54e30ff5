"""The best of many: the first k by rank, and those that none beats in everything (the Pareto front)."""

from __future__ import annotations

from bisect import bisect_left, bisect_right

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Indices = NDArray[np.intp]

STRONG = 24
"""Points that all others are held against first; what they beat is most of what there is."""

BLOCK = 2048
"""Points that are held against the front at a time."""


def pareto(costs: Floats) -> Indices:
    """Rows of ``costs`` [n, d] that no other row beats: none is as small in all columns and smaller in one.

    Of equal rows the first stands for all. In ascending order of the row.
    """
    kept = np.flatnonzero(np.isfinite(costs).all(axis=1))
    if len(kept) > BLOCK:
        kept = kept[~_beaten(costs[kept], costs[kept[_strong(costs[kept])]])]
    find = _swept if costs.shape[1] <= 3 else _blockwise
    return np.sort(kept[find(costs[kept])])


def _swept(costs: Floats) -> Indices:
    """The front in up to three columns, n log n: rows in order of the first column, against a staircase of the others.

    The staircase holds what no earlier row beats in the last two columns: one rises as the other falls. Source: Kung,
    Luccio and Preparata, "On finding the maxima of a set of vectors", 1975.
    """
    columns = [*costs.T, *(np.zeros(len(costs)) for _ in range(3 - costs.shape[1]))]
    order = np.lexsort([np.arange(len(costs)), *reversed(columns)])
    found, rising, falling = [], [-np.inf], [np.inf]
    for row, x, y in zip(order.tolist(), columns[1][order].tolist(), columns[2][order].tolist(), strict=True):
        at = bisect_right(rising, x)
        if falling[at - 1] <= y:
            continue
        found.append(row)
        end = at = bisect_left(rising, x)
        while end < len(falling) and falling[end] >= y:
            end += 1
        rising[at:end], falling[at:end] = [x], [y]
    return np.array(found, np.intp)


def _blockwise(costs: Floats) -> Indices:
    """The front in any number of columns.

    A row that beats another has the smaller sum of ranks, so that rows taken in that order are never beaten later.
    """
    order = np.argsort(_ranks(costs), kind="stable")
    front = np.empty((0, costs.shape[1]))
    found = [np.empty(0, np.intp)]
    for start in range(0, len(order), BLOCK):
        block = order[start : start + BLOCK]
        block = block[~_beaten(costs[block], front)]
        own = costs[block]
        block = block[~(_beaten(own, own) | _repeated(own, front))]
        found.append(block)
        front = np.concatenate([front, costs[block]])
    return np.concatenate(found)


def _strong(costs: Floats) -> Indices:
    """Rows that are the smallest by some weighting of the columns: each by itself, and mixtures."""
    low, high = costs.min(axis=0), costs.max(axis=0)
    scaled = (costs - low) / np.where(high > low, high - low, 1.0)
    weights = np.concatenate([np.eye(costs.shape[1]), np.random.default_rng(0).dirichlet(np.ones(len(low)), STRONG)])
    return np.unique([np.argmin(scaled @ w) for w in weights])


def _ranks(costs: Floats) -> Floats:
    """The sum of each row's ranks in the columns, equal values alike."""
    total = np.zeros(len(costs))
    for column in costs.T:
        total += np.unique(column, return_inverse=True)[1]
    return total


def _beaten(costs: Floats, by: Floats) -> NDArray[np.bool_]:
    """Which rows some row of ``by`` beats."""
    out = np.zeros(len(costs), bool)
    for start in range(0, len(by), BLOCK):
        part = by[start : start + BLOCK]
        no_more = np.ones((len(costs), len(part)), bool)
        less = np.zeros((len(costs), len(part)), bool)
        for theirs, ours in zip(part.T, costs.T, strict=True):
            no_more &= theirs[None, :] <= ours[:, None]
            less |= theirs[None, :] < ours[:, None]
        out |= (no_more & less).any(axis=1)
    return out


def _repeated(costs: Floats, known: Floats) -> NDArray[np.bool_]:
    """Which rows equal an earlier one, or one of those that are ``known``."""
    seen = {row.tobytes() for row in known}
    out = np.zeros(len(costs), bool)
    for i, row in enumerate(costs):
        key = row.tobytes()
        out[i] = key in seen
        seen.add(key)
    return out


def first(keys: list[Floats], k: int) -> Indices:
    """The ``k`` rows that come first by ``keys``, the most important one first; the smaller the better.

    Rows whose first key is not finite do not count; ties fall to the earlier row.
    """
    main = keys[0]
    rows = np.flatnonzero(np.isfinite(main))
    if len(rows) > 4 * k:
        bound = np.partition(main[rows], k)[k]
        rows = rows[main[rows] <= bound]
    order = np.lexsort([rows, *(key[rows] for key in reversed(keys))])
    return rows[order[:k]]
