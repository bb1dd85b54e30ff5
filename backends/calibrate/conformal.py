"""Bands from left-out residuals: conformal prediction on logarithms, for kernels and servers alike.

A residual is ``ln(measured / predicted)`` of a row that the fit did not see. The band of a new row of a class lies
between two quantiles of the class's residuals, each with its finite-sample correction (Vovk, Gammerman and Shafer,
"Algorithmic Learning in a Random World", 2005). Rows of one GPU or one set err together, so what is exchangeable is
groups, not rows: every group weighs the same, and the group of the new row is one more that nobody has seen (Lee,
Barber and Willett, "Distribution-free inference with hierarchical data", 2023). The weight of that group goes to the
residuals of the next wider class, and so does the weight of as many groups as a class lacks of `ENOUGH`:

    F = groups / (groups + lent) F_own + lent / (groups + lent) F_wider,    lent = max(1, ENOUGH - groups)

So a class with few groups borrows most of its band, and one without any takes all of it. The widest class is taken as
it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

LEVEL = 0.8
"""The share of measurements that a band is to hold."""

ENOUGH = 9
"""Groups that can tell the tenths at both ends of a band: fewer cannot, whatever their residuals are."""

Margin = tuple[float, float]
"""How far a band reaches below and above what was predicted, or further than another band: logarithms."""


class Residuals(NamedTuple):
    """Residuals of rows and the group of each.

    ``under`` and ``over`` are equal, but for residuals `beyond` a band: there they count from its lower end and from
    its upper end.
    """

    under: Floats
    over: Floats
    groups: NDArray[np.str_]

    def beyond(self, band: Margin) -> Residuals:
        """The same, counted from the ends of ``band`` (Romano, Patterson and Candes, "Conformalized quantile
        regression", 2019).
        """
        return self._replace(under=self.under - band[0], over=self.over - band[1])

    def where(self, mask: NDArray[np.bool_]) -> Residuals:
        """The rows that ``mask`` picks."""
        return Residuals(self.under[mask], self.over[mask], self.groups[mask])


NONE = Residuals(np.zeros(0), np.zeros(0), np.zeros(0, dtype=np.str_))
"""A class without rows."""


def residuals(predicted: Floats, measured: Floats, group: str) -> Residuals:
    """The residuals of the rows of one group."""
    logs = np.log(measured / predicted)
    return Residuals(logs, logs, np.full(len(logs), group))


def together(parts: Sequence[Residuals]) -> Residuals:
    """The residuals of several groups or classes as one."""
    if not parts:
        return NONE
    under, over, groups = zip(*parts, strict=True)
    return Residuals(np.concatenate(under), np.concatenate(over), np.concatenate(groups))


def margin(classes: Sequence[Residuals], level: float = LEVEL) -> Margin:
    """The band that holds the share ``level`` of new rows from new groups of ``classes[0]``.

    Each class is followed by a wider one. Without any residual the band is empty: (0, 0).
    """
    tail = (1 - level) / 2
    shares = weights(classes)
    under, over = np.concatenate([c.under for c in classes]), np.concatenate([c.over for c in classes])
    if not len(under):
        return 0.0, 0.0
    return -_upper(-under, shares, 1 - tail), _upper(over, shares, 1 - tail)


def wider(inner: Margin, margins: Margin) -> Margin:
    """The band ``inner`` moved out by ``margins``, never in."""
    return inner[0] + min(margins[0], 0.0), inner[1] + max(margins[1], 0.0)


def outward(inner: Margin, outer: Margin) -> Margin:
    """``outer``, but nowhere inside of ``inner``."""
    return min(inner[0], outer[0]), max(inner[1], outer[1])


def weights(classes: Sequence[Residuals]) -> Floats:
    """The weight of each row of ``classes``, one after another: together 1, unless there is no row."""
    told = [found for found in classes if len(found.groups)]
    parts, rest = [], 1.0
    for found in told:
        names, at, rows = np.unique(found.groups, return_inverse=True, return_counts=True)
        lent = max(1, ENOUGH - len(names)) if found is not told[-1] else 0
        each = rest / (len(names) + lent)
        parts.append(each / rows[at])
        rest = each * lent
    return np.concatenate(parts) if parts else np.zeros(0)


def _upper(values: Floats, shares: Floats, share: float) -> float:
    """The least value that at least ``share`` of the weight does not exceed."""
    order = np.argsort(values, kind="stable")
    reached = int(np.searchsorted(np.cumsum(shares[order]), share - 1e-12))
    return float(values[order[min(reached, len(values) - 1)]])
