"""One set of constants for many GPUs at once, for those that nobody measured."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from plandsl.backends.calibrate.fit import PRIOR, Errors, Fitted, descend, errors, round_to
from plandsl.backends.calibrate.kind import Floats, Kind
from plandsl.backends.calibrate.table import Table
from plandsl.spec.constants import C, made, values
from plandsl.spec.hardware import GpuSpec

MOST_ROWS = 300
"""Rows of one GPU that take part: so many tell what constants all GPUs share, and no GPU outweighs another."""

FEWER_ROWS = 120
"""Rows of one GPU in a first, coarse fit, which is all that a GPU left out is predicted with."""

ROUNDS = 15
"""Rounds of one descent: enough for its steps to shrink to a few thousandths."""


def fit_pooled(kind: Kind[C], rows: Mapping[GpuSpec, Table], path: str) -> Fitted:
    """Fit one set of constants to ``rows`` of many GPUs, all of one set and already linked.

    Each GPU counts the same: the loss is the mean over GPUs of the mean absolute logarithm of predicted / measured.
    ``unseen`` are the errors of leaving one GPU out: each is predicted with constants fitted to the others. None
    where there is but one.
    """
    some = {gpu: thinned(table) for gpu, table in rows.items()}
    fewer = {gpu: thinned(table, FEWER_ROWS) for gpu, table in some.items()}
    constants = _constants(kind, some, _constants(kind, fewer, kind.start))
    out = None
    if len(some) > 1:
        parts = []
        for gpu, table in some.items():
            others = {other: of for other, of in fewer.items() if other != gpu}
            found = _constants(kind, others, kind.start)
            parts.append((kind.seconds(found, gpu, table), table.numbers(kind.metric)))
        out = _errors(parts)
    seen = [(kind.seconds(constants, gpu, table), table.numbers(kind.metric)) for gpu, table in some.items()]
    return Fitted(path, constants, _errors(seen), out)


def thinned(rows: Table, most: int = MOST_ROWS) -> Table:
    """At most ``most`` of ``rows``, picked as by lot, the same ones each time."""
    if len(rows) <= most:
        return rows
    keep = np.zeros(len(rows), dtype=np.bool_)
    keep[np.random.default_rng(1).permutation(len(rows))[:most]] = True
    return rows.where(keep)


def _constants(kind: Kind[C], rows: Mapping[GpuSpec, Table], at: C) -> C:
    """The constants, sought from ``at`` on, that minimise the mean loss over GPUs.

    A weak prior holds each near its start, as in `fit`.
    """
    begin = values(kind.start)
    names = list(begin)
    middle = np.log([begin[n] for n in names])
    loose = np.array([kind.loose.get(n, 0.5) for n in names])
    measured = {gpu: np.log(table.numbers(kind.metric)) for gpu, table in rows.items()}

    def loss(x: Floats) -> float:
        constants = made(type(kind.start), np.exp(x))
        off = [np.abs(np.log(kind.seconds(constants, g, t)) - measured[g]).mean() for g, t in rows.items()]
        return float(np.mean(off) + PRIOR * (((x - middle) / loose) ** 2).sum())

    best = descend(loss, np.log(list(values(at).values())), ROUNDS)
    return made(type(at), [round_to(math.exp(v), 4) for v in best])


def _errors(parts: list[tuple[Floats, Floats]]) -> Errors:
    """Errors over all GPUs together, from pairs of what was predicted and what was measured."""
    return errors(np.concatenate([p for p, _ in parts]), np.concatenate([m for _, m in parts]))


__all__ = ["MOST_ROWS", "fit_pooled", "thinned"]
