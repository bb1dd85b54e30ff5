"""The best of many rows: the first k by rank, and the Pareto front, whose rows no other row beats in everything."""

from __future__ import annotations

from bisect import bisect_left, bisect_right

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Indices = NDArray[np.intp]

STRONG = 24
"""Weightings of the columns whose best rows all others are compared with first; these rows beat most others."""

BLOCK = 2048
"""Rows that are compared with the front at a time."""


def pareto(costs: Floats) -> Indices:
    """Rows of ``costs`` [n, d] that no other row beats: no row is as small in all columns and smaller in one.

    Of equal rows only the first counts, and rows that are not finite do not. Ascending row numbers.
    """
    kept = np.flatnonzero(np.isfinite(costs).all(axis=1))
    if len(kept) > BLOCK:
        kept = kept[~_is_beaten(costs[kept], costs[kept[_strong_rows(costs[kept])]])]
    find = _sweep if costs.shape[1] <= 3 else _merge_blocks
    return np.sort(kept[find(costs[kept])])


def _sweep(costs: Floats) -> Indices:
    """The front in up to three columns, in n log n: compare rows, in order of the first column, with a staircase.

    The staircase holds the pairs of the last two columns that no earlier row beats: one rises as the other falls.
    Source: Kung, Luccio and Preparata, "On finding the maxima of a set of vectors", 1975.
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


def _merge_blocks(costs: Floats) -> Indices:
    """The front in any number of columns.

    A row that beats another has a smaller sum of ranks, so no row is beaten by a row that comes later in that order.
    """
    order = np.argsort(_ranks(costs), kind="stable")
    front = np.empty((0, costs.shape[1]))
    found = [np.empty(0, np.intp)]
    for start in range(0, len(order), BLOCK):
        block = order[start : start + BLOCK]
        block = block[~_is_beaten(costs[block], front)]
        own = costs[block]
        block = block[~(_is_beaten(own, own) | _is_repeated(own, front))]
        found.append(block)
        front = np.concatenate([front, costs[block]])
    return np.concatenate(found)


def _strong_rows(costs: Floats) -> Indices:
    """Rows that are smallest under some weighting of the columns: each column alone, and `STRONG` random mixtures."""
    low, high = costs.min(axis=0), costs.max(axis=0)
    scaled = (costs - low) / np.where(high > low, high - low, 1.0)
    weights = np.concatenate([np.eye(costs.shape[1]), np.random.default_rng(0).dirichlet(np.ones(len(low)), STRONG)])
    return np.unique([np.argmin(scaled @ w) for w in weights])


def _ranks(costs: Floats) -> Floats:
    """The sum of each row's ranks in the columns; equal values have equal ranks."""
    total = np.zeros(len(costs))
    for column in costs.T:
        total += np.unique(column, return_inverse=True)[1]
    return total


def _is_beaten(costs: Floats, by: Floats) -> NDArray[np.bool_]:
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


def _is_repeated(costs: Floats, known: Floats) -> NDArray[np.bool_]:
    """Which rows equal an earlier row, or a row of ``known``."""
    seen = {row.tobytes() for row in known}
    out = np.zeros(len(costs), bool)
    for i, row in enumerate(costs):
        key = row.tobytes()
        out[i] = key in seen
        seen.add(key)
    return out


def first_rows(keys: list[Floats], k: int) -> Indices:
    """The first ``k`` rows in ascending order of ``keys``, whose first is the most important.

    Rows whose first key is not finite do not count; ties fall to the earlier row.
    """
    main = keys[0]
    rows = np.flatnonzero(np.isfinite(main))
    if len(rows) > 4 * k:
        bound = np.partition(main[rows], k)[k]
        rows = rows[main[rows] <= bound]
    order = np.lexsort([rows, *(key[rows] for key in reversed(keys))])
    return rows[order[:k]]
