"""elementwise.csv: norms, activations, rotary embedding, quantisation, lookups, each a kernel of its own.

Sets: ``elementwise.<op>`` (`ELEMENTWISE`), and ``elementwise.any`` for operations that nobody measured
(`ELEMENTWISE_ANY`, fitted to all rows of a GPU).
"""

from __future__ import annotations

import zlib

import attrs
import numpy as np
from numpy.typing import NDArray

from plandsl.backends.calibrate.kind import Floats, Kind
from plandsl.backends.calibrate.table import Table
from plandsl.backends.cost.forms.elementwise import EAGER, FLAT, MOVED, kernel_seconds, moved_bytes
from plandsl.spec.constants import ElementConstants
from plandsl.spec.formats import BITS
from plandsl.spec.hardware import GpuSpec
from plandsl.values import sum_up

TORCH = "_torch"
"""Ends the sets of rows timed around calls of PyTorch: they hold its overhead."""

UNFUSED = "_eager"
"""Ends the sets of operations that eager PyTorch runs as several kernels, where the others fuse them."""


def _unfused(rows: Table) -> NDArray[np.bool_]:
    """Which rows ran several kernels."""
    eager = rows.texts("framework") == "torch_eager"
    return np.asarray(eager & np.isin(rows.texts("op"), list(EAGER)), dtype=np.bool_)


def _ending(rows: Table) -> NDArray[np.str_]:
    around = np.char.find(rows.texts("framework"), "torch eager") >= 0
    return np.where(_unfused(rows), UNFUSED, np.where(around, TORCH, ""))


def _named(rows: Table, names: NDArray[np.str_]) -> NDArray[np.str_]:
    paths = np.char.add(np.char.add("elementwise.", names), _ending(rows))
    return np.where(np.isin(rows.texts("dtype"), list(BITS)), paths, "")


def _sets(rows: Table) -> NDArray[np.str_]:
    return _named(rows, rows.texts("op"))


def _any(rows: Table) -> NDArray[np.str_]:
    return _named(rows, np.full(len(rows), "any"))


def _instead(path: str) -> tuple[str, ...]:
    """The same operation timed another way after operations at large timed this way."""
    op = path.removeprefix("elementwise.").removesuffix(TORCH).removesuffix(UNFUSED)
    endings = (TORCH, "") if path.endswith(TORCH) else ("", TORCH)
    names = (f"elementwise.{name}{ending}" for ending in endings for name in (op, "any"))
    return tuple(n for n in dict.fromkeys(names) if n != path)


def _seconds(c: ElementConstants, gpu: GpuSpec, rows: Table) -> Floats:
    assert gpu.units is not None, "a GPU is measured with its number of units known"
    ops, dtypes, unfused = rows.texts("op"), rows.texts("dtype"), _unfused(rows)
    m, n = rows.numbers("rows"), rows.numbers("cols")
    row, kernels = np.empty(len(rows)), np.ones(len(rows))
    for op in np.unique(ops):
        for dtype in np.unique(dtypes[ops == op]):
            of = (ops == op) & (dtypes == dtype)
            row[of] = moved_bytes(str(op), 1.0, n[of], BITS[str(dtype)] / 8)
        parts = (ops == op) & unfused
        if parts.any():
            kernels[parts], elements = EAGER[str(op)]
            row[parts] *= elements / sum_up(MOVED[str(op)]) / kernels[parts]
    walked = np.where(np.isin(ops, FLAT), 0.0, row)
    return np.asarray(kernels * kernel_seconds(c, gpu.units, gpu.bandwidth, m * row, walked), dtype=np.float64)


def _shape(rows: Table) -> NDArray[np.int64]:
    op = np.array([zlib.crc32(str(o).encode()) % 9973 for o in rows.texts("op")], dtype=np.int64)
    return op * 7_340_033 + rows.numbers("rows").astype(np.int64) * 131_071 + rows.numbers("cols").astype(np.int64)


ELEMENTWISE = Kind(
    name="elementwise",
    file="elementwise.csv",
    columns=("gpu", "op", "dtype", "rows", "cols", "time_s"),
    sets=_sets,
    reason=lambda rows: np.full(len(rows), "a dtype of unknown width"),
    seconds=_seconds,
    start=ElementConstants(fixed=2.5e-6, memory=0.8, cached=1.5, cache=4e7, unit=1.0, row=1e-8),
    loose={"memory": 0.2, "cached": 0.5, "cache": 0.7, "unit": 1.0, "row": 1.5},
    shape=_shape,
    instead=_instead,
    most={"memory": 1.0},
    lent=lambda path: not path.endswith((TORCH, UNFUSED)),
)

ELEMENTWISE_ANY = attrs.evolve(ELEMENTWISE, name="elementwise_any", sets=_any, lent=lambda path: False)
