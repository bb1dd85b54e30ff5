"""attention_mixed.csv: one call that serves a chunk of a prefill and the decodes of other sequences.

Sets are ``attention_mixed.<dtype>``, the dtype of arithmetic and of the cache.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from plandsl.backends.calibrate.kind import Floats, Kind
from plandsl.backends.calibrate.kinds.attention import (
    answers,
    chip_of,
    dtypes,
    heads_of,
    instead,
    known,
    name_of,
    reason,
)
from plandsl.backends.calibrate.table import Table
from plandsl.backends.cost.forms.attention import mixed_seconds
from plandsl.spec.constants import MixedConstants
from plandsl.spec.hardware import GpuSpec

SIZES = ("prefill_chunk", "kv_prefill", "n_decode", "kv_decode")


def _shape(rows: Table) -> NDArray[np.int64]:
    """Sizes without those of the heads: two layouts of a batch are held out together."""
    mixed = np.zeros(len(rows), dtype=np.int64)
    for name in SIZES:
        mixed = mixed * 32_749 + rows.numbers(name, 0.0).astype(np.int64)
    return mixed


def _seconds(c: MixedConstants, gpu: GpuSpec, rows: Table) -> Floats:
    dtype, cache = dtypes(rows)
    sizes = (rows.numbers(name, 0.0) for name in SIZES)
    return np.asarray(mixed_seconds(c, chip_of(gpu, dtype), heads_of(rows, dtype, cache), *sizes), dtype=np.float64)


ATTENTION_MIXED = Kind(
    name="attention_mixed",
    file="attention_mixed.csv",
    columns=("gpu", "dtype", "n_heads", "n_kv_heads", "head_dim", *SIZES, "time_s"),
    blank=SIZES,
    sets=lambda rows: np.where(known(rows), np.char.add("attention_mixed.", name_of(rows)), ""),
    reason=reason,
    seconds=_seconds,
    start=MixedConstants(
        fixed=8e-6, step=3e-6, split=2e-6, compute=0.65, memory=0.85, draw=2.5, blend=2.0,
        half_dim=30.0, rows=48.0, cache=6e7,
    ),
    loose={"step": 1.0, "split": 1.0, "compute": 0.3, "memory": 0.3, "draw": 0.7, "rows": 0.7, "cache": 1.0},
    shape=_shape,
    answers=answers,
    instead=instead,
)  # fmt: skip
