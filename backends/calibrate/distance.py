"""How far predictions are off by the distance from what was fitted: other shapes, other sizes, another GPU."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from plandsl.backends.calibrate.conformal import NONE, Margin, Residuals, margin, outward, residuals, together, wider
from plandsl.backends.calibrate.kind import AnyKind, Floats, Kind
from plandsl.backends.calibrate.relatives import chip_of
from plandsl.backends.calibrate.solve import Loss, solve_quickly
from plandsl.backends.calibrate.table import Table
from plandsl.spec.constants import C, FormConstants, names
from plandsl.spec.hardware import GpuSpec

EDGE = 0.1
"""Share of the rows of a set that counts as beyond it, at each end of its sizes."""

MOST_ROWS = 400
"""Rows of a set that take part in the fit that its ends are judged with."""


class Left(NamedTuple):
    """Residuals of rows left out of fits, beyond the spread of the rows that the fits saw, by distance.

    ``near``: shapes left out; ``beyond``: sizes beyond the fitted ones; ``lent``: a GPU with a relative's constants.
    """

    near: Residuals = NONE
    beyond: Residuals = NONE
    lent: Residuals = NONE


NOTHING_LEFT = Left()
"""Of a set without rows left out."""


class Margins(NamedTuple):
    """How much wider than the spread of fitted rows the bands of a kind are, by distance: never narrower farther away.

    ``shapes`` are the residuals of shapes left out that ``near`` is made from. ``lent`` is None where no GPU could be
    left out.
    """

    shapes: Residuals = NONE

    near: Margin = (0.0, 0.0)
    beyond: Margin = (0.0, 0.0)
    lent: Margin | None = None


def kind_margins(left: Mapping[str, Sequence[Left]]) -> dict[str, Margins]:
    """The margins of each kind, which borrows from all kinds together where few of its sets or GPUs were left out."""
    everything = [one for found in left.values() for one in found]
    out = {}
    for kind, found in left.items():
        near, beyond, lent = (
            margin((together([one[i] for one in found]), together([one[i] for one in everything]))) for i in range(3)
        )
        near = outward((0.0, 0.0), near)
        beyond = outward(near, beyond)
        known = any(len(one.lent.groups) for one in everything)
        shapes = together([one.near for one in found])
        out[kind] = Margins(shapes, near, beyond, outward(beyond, lent) if known else None)
    return out


def near_band(inner: Margin, left: Residuals, kind: Residuals) -> Margin:
    """The band of a set on shapes that its fit did not see: the spread ``inner`` of those that it saw, moved out.

    By as much as the set's own shapes ``left`` out ask for, each of which counts once; by those of its kind where they
    are few.
    """
    own = left._replace(groups=np.arange(len(left.groups)).astype(np.str_))
    return wider(inner, margin((own, kind)))


def spread(constants: C, kind: Kind[C], gpu: GpuSpec, rows: Table) -> Margin:
    """The logarithms between which the middle 80 % of measured / predicted lie, on rows that a fit saw."""
    logs = np.log(rows.numbers(kind.metric) / kind.seconds(constants, gpu, rows))
    low, high = np.quantile(logs, (0.1, 0.9))
    return float(low), float(high)


def end_rows(kind: AnyKind, gpu: GpuSpec, rows: Table, of: NDArray[np.bool_] | None = None) -> NDArray[np.bool_]:
    """The rows with the smallest and the largest sizes, as large as the ends of the rows ``of``; None: of all.

    The size of a row is the time that its form gives with its starting constants: one figure for work and traffic. A
    measured time would pick slow rows rather than large ones.
    """
    size = kind.seconds(kind.start, gpu, rows)
    low, high = np.quantile(size if of is None else size[of], (EDGE, 1 - EDGE))
    return np.asarray((size <= low) | (size >= high), dtype=np.bool_)


def end_residuals(kind: Kind[C], gpu: GpuSpec, rows: Table, group: str, least: int) -> Residuals:
    """Residuals of the smallest and the largest sizes of a set, by a fit to the others, if these are ``least`` rows."""
    ends = end_rows(kind, gpu, rows)
    inside, outside = rows.where(~ends).thinned(MOST_ROWS), rows.where(ends)
    if len(inside) < max(least, 2 * len(names(type(kind.start)))):
        return NONE
    found = solve_quickly(Loss(kind, {gpu: inside}))
    return off(found, kind, gpu, outside, group).beyond(spread(found, kind, gpu, inside))


class Lender(Protocol):
    """A set of a relative: its constants, and the spread of the rows that they were fitted to."""

    @property
    def constants(self) -> FormConstants:
        """The constants."""

    @property
    def spread(self) -> Margin:
        """The 80 % band of the fitted rows, as logarithms."""


def lent_residuals(
    kind: AnyKind, gpu: GpuSpec, rows: Table, path: str, relatives: Sequence[Mapping[str, Lender]]
) -> Residuals:
    """Residuals of the rows of a set by the constants of the first relative that has some; none without one.

    ``relatives`` have their sets by path.
    """
    names = (path, *kind.instead(path))
    found = next((sets[name] for sets in relatives for name in names if name in sets), None)
    if found is None:
        return NONE
    return off(found.constants, kind, gpu, rows.thinned(MOST_ROWS), chip_of(gpu.name)).beyond(found.spread)


def off(constants: FormConstants, kind: AnyKind, gpu: GpuSpec, rows: Table, group: str) -> Residuals:
    """The residuals of the rows of one GPU and one set by some constants."""
    if not len(rows):
        return NONE
    predicted: Floats = kind.seconds(constants, gpu, rows)
    return residuals(predicted, rows.numbers(kind.metric), group)
