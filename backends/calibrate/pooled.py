"""One set of constants for many GPUs at once, for those that nobody measured."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np

from plandsl.backends.calibrate.conformal import residuals, together
from plandsl.backends.calibrate.distance import Left
from plandsl.backends.calibrate.fit import Errors, Fitted, errors
from plandsl.backends.calibrate.kind import Floats, Kind
from plandsl.backends.calibrate.relatives import chip_of
from plandsl.backends.calibrate.solve import Loss, solve, solve_quickly
from plandsl.backends.calibrate.table import Table
from plandsl.spec.constants import C, FormConstants
from plandsl.spec.hardware import GpuSpec

MOST_ROWS = 300
"""Rows of one GPU that take part: so many tell what constants all GPUs share, and no GPU outweighs another."""

FEWER_ROWS = 120
"""Rows of one GPU in the fits that a GPU left out is predicted with."""


def fit_pooled(
    kind: Kind[C], rows: Mapping[GpuSpec, Table], path: str, found: Mapping[str, FormConstants] = MappingProxyType({})
) -> Fitted:
    """Fit one set of constants to ``rows`` of many GPUs, all of one set and already linked.

    ``unseen`` are the errors of leaving one GPU out: each is predicted with constants fitted to the others. None
    where there is but one. ``found`` are sets that were fitted before, for constants that these rows do not tell.
    ``left`` of the result has the residuals.
    """
    kind = kind.anchored(path, next(iter(rows.values())), found)
    some = {gpu: table.thinned(MOST_ROWS) for gpu, table in rows.items()}
    fewer = {gpu: table.thinned(FEWER_ROWS) for gpu, table in some.items()}
    constants = solve(Loss(kind, some))
    out, lent = None, []
    if len(some) > 1:
        parts = []
        for gpu, table in some.items():
            others = solve_quickly(Loss(kind, {other: of for other, of in fewer.items() if other != gpu}))
            parts.append((kind.seconds(others, gpu, table), table.numbers(kind.metric)))
            lent.append(residuals(*parts[-1], chip_of(gpu.name)))
        out = _errors(parts)
    seen = [(kind.seconds(constants, gpu, table), table.numbers(kind.metric)) for gpu, table in some.items()]
    return Fitted(path, constants, _errors(seen), out, left=Left(lent=together(lent)))


def _errors(parts: list[tuple[Floats, Floats]]) -> Errors:
    """Errors over all GPUs together, from pairs of what was predicted and what was measured."""
    return errors(np.concatenate([p for p, _ in parts]), np.concatenate([m for _, m in parts]))
