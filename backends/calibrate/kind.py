"""What a kind of measurement has to say so that it can be fitted and evaluated."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Generic, TypeAlias

import numpy as np
from attrs import evolve, field, frozen
from numpy.typing import NDArray

from plandsl.backends.calibrate.table import Table
from plandsl.spec.constants import C, FormConstants
from plandsl.spec.hardware import GpuSpec, LinkSpec

Floats = NDArray[np.float64]

HELD = 0.02
"""How far, as a logarithm, a constant strays that another set tells."""


@frozen
class Kind(Generic[C]):
    """One file of measurements and the form that predicts it, with constants of the class ``C``.

    ``sets`` names for each row the constants it uses, as a path in a calibration (``gemm.bf16``), or gives an
    empty text for a row that the form cannot answer; ``reason`` says why. ``seconds(constants, gpu, rows)`` predicts
    rows of one GPU and one set. ``start`` are the constants before fitting and ``loose`` how far each may stray,
    as a logarithm, for the price of one typical error (0.5 where it is not listed).
    ``leans`` tells of the rows of a set that they do not tell all constants, so that rows of a relative join them.
    ``lent`` tells of a set whether a GPU that lacks it takes a part of it from other GPUs (`between`).
    ``most`` bounds constants from above: a share of a published rate is at most 1. ``anchors(path, rows)`` are
    constants that ``rows`` do not tell, and the sets of the same GPU, best first, that do.
    ``shape`` gives a whole number per row, equal for rows of one shape: rows of a shape are held out together.
    ``where`` picks the rows of the file that are this kind's, all by default; the others are some other kind's. Without
    ``fits`` rows are evaluated with constants that another kind has fitted.
    ``linked`` adds the links of the GPU's node to rows whose form needs them. ``answers`` tells whether a GPU
    publishes what the form needs for a set. ``instead(path)`` names the sets, best first, that may answer for one
    that a calibration lacks. ``blank`` are the ``columns`` of numbers whose cells may be empty.
    ``pools`` names the set that many GPUs share for a set of one GPU, empty where none is. ``settled(constants, rows)``
    puts into ``rows`` the ``constants`` that describe the machine of the measurements, which GPUs do not share.
    """

    name: str
    file: str
    columns: tuple[str, ...]
    sets: Callable[[Table], NDArray[np.str_]]
    reason: Callable[[Table], NDArray[np.str_]]
    seconds: Callable[[C, GpuSpec, Table], Floats]
    start: C
    loose: Mapping[str, float]
    shape: Callable[[Table], NDArray[np.int64]]
    answers: Callable[[GpuSpec, str], bool] = lambda gpu, path: True
    metric: str = "time_s"
    linked: Callable[[Table, LinkSpec], Table] | None = None
    where: Callable[[Table], NDArray[np.bool_]] = lambda rows: np.ones(len(rows), dtype=np.bool_)
    fits: bool = True
    instead: Callable[[str], tuple[str, ...]] = lambda path: ()
    blank: tuple[str, ...] = ()
    pools: Callable[[str], str] = lambda path: path
    settled: Callable[[C, Table], Table] = lambda constants, rows: rows
    most: Mapping[str, float] = field(factory=dict)
    leans: Callable[[Table], bool] = lambda rows: False
    lent: Callable[[str], bool] = lambda path: False
    anchors: Callable[[str, Table], Mapping[str, tuple[str, ...]]] = lambda path, rows: {}

    def anchored(self, path: str, rows: Table, found: Mapping[str, FormConstants]) -> Kind[C]:
        """This kind, with `anchors` of ``rows`` taken from sets that were ``found`` before and held there."""
        told = {
            name: getattr(found[first], name)
            for name, paths in self.anchors(path, rows).items()
            if (first := next((p for p in paths if p in found), None))
        }
        if not told:
            return self
        held = {**self.loose, **dict.fromkeys(told, HELD)}
        return evolve(self, start=self.start._replace(**told), loose=held)


AnyKind: TypeAlias = Kind[Any]
"""A kind whose constants are those of some form."""
