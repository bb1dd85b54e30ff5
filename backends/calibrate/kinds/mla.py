"""mla.csv: multi-head latent attention, un-absorbed in prefill and absorbed in decode.

Sets are named as those of attention: ``mla_prefill.bf16``, ``mla_decode.bf16_fp8_trtllm`` (dtype of arithmetic, that of
the cache where it is another, and the library where it is TensorRT-LLM; the others are SGLang, FlashMLA and AITER).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from plandsl.backends.calibrate.kind import Floats, Kind
from plandsl.backends.calibrate.kinds.attention import answers, chip_of, dtypes, instead, known, name_of, reason
from plandsl.backends.calibrate.table import Table
from plandsl.backends.cost.forms.mla import mla_decode_seconds, mla_prefill_seconds
from plandsl.spec.constants import MlaDecodeConstants, MlaPrefillConstants
from plandsl.spec.formats import BITS
from plandsl.spec.hardware import GpuSpec

COLUMNS = ("gpu", "phase", "dtype", "kv_dtype", "batch", "seq_q", "kv_len", "n_heads", "time_s")


def _sets(rows: Table, section: str) -> NDArray[np.str_]:
    library = np.where(np.char.startswith(rows.texts("framework"), "trtllm"), "_trtllm", "")
    return np.where(known(rows), np.char.add(np.char.add(section, name_of(rows)), library), "")


def _of(phase: str, rows: Table) -> NDArray[np.bool_]:
    return np.asarray(rows.texts("phase") == phase, dtype=np.bool_)


def _shape(rows: Table) -> NDArray[np.int64]:
    mixed = np.zeros(len(rows))
    for name in ("n_heads", "batch", "seq_q", "kv_len"):
        mixed = mixed * 8191 + rows.numbers(name, 0.0)
    return mixed.astype(np.int64)


def _prefill(c: MlaPrefillConstants, gpu: GpuSpec, rows: Table) -> Floats:
    dtype, cache = dtypes(rows)
    heads, batch, position, context = (rows.numbers(n) for n in ("n_heads", "batch", "seq_q", "kv_len"))
    time = mla_prefill_seconds(
        c,
        chip_of(gpu, dtype),
        heads,
        batch,
        position=position,
        context=context,
        item=BITS[dtype] / 8,
        cache_item=BITS[cache] / 8,
    )
    return np.asarray(time, dtype=np.float64)


def _decode(c: MlaDecodeConstants, gpu: GpuSpec, rows: Table) -> Floats:
    dtype, cache = dtypes(rows)
    heads, batch, context = (rows.numbers(n) for n in ("n_heads", "batch", "kv_len"))
    time = mla_decode_seconds(
        c, chip_of(gpu, dtype), heads, batch, context, item=BITS[dtype] / 8, cache_item=BITS[cache] / 8
    )
    return np.asarray(time, dtype=np.float64)


MLA_PREFILL = Kind(
    name="mla_prefill",
    file="mla.csv",
    columns=COLUMNS,
    sets=lambda rows: _sets(rows, "mla_prefill."),
    reason=reason,
    seconds=_prefill,
    start=MlaPrefillConstants(
        fixed=1e-5, step=3e-6, compute=0.75, half_dim=30.0, tail=0.7, memory=0.6, blend=2.0,
        write=0.7,
    ),
    loose={"compute": 0.3, "memory": 0.4, "step": 1.0, "half_dim": 1.0, "write": 1.0},
    shape=_shape,
    answers=answers,
    instead=instead,
    where=lambda rows: _of("prefill", rows),
)  # fmt: skip

MLA_DECODE = Kind(
    name="mla_decode",
    file="mla.csv",
    columns=COLUMNS,
    sets=lambda rows: _sets(rows, "mla_decode."),
    reason=reason,
    seconds=_decode,
    start=MlaDecodeConstants(
        fixed=1e-5, step=4e-6, split=2e-6, parts=64.0, again=0.3, compute=0.75, memory=0.85,
        draw=2.5, blend=2.5,
    ),
    loose={"step": 1.0, "split": 1.0, "parts": 1.5, "again": 1.0, "memory": 0.3, "draw": 0.7},
    shape=_shape,
    answers=answers,
    instead=instead,
    where=lambda rows: _of("decode", rows),
)  # fmt: skip
