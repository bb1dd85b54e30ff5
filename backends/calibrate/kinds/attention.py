"""attention_prefill.csv and attention_decode.csv.

A set is a dtype of arithmetic and of the KV cache where that differs (``attention_prefill.bf16_fp8``), in decode
the dtype of the cache. Libraries' kernels differ too much for one fit (on the same GPU by up to a factor of two), so
suffixes name those that are not the default, which is that of vLLM, or else the only one:

    _trtllm        TensorRT-LLM's; its prefill also unpacks QKV
    _trtllm_heads  decode in its kernel for one query head at a time, where the one for groups does not reach
    _triton        vLLM's fallback for head dimensions that its main kernels lack
    _tlx           Triton with low-level extensions
    _window        decode with a window in FlashAttention-2, which neither packs groups nor splits the context there

Rows of attention_prefill.csv with one query per sequence are decode, and answered by its sets, but for TensorRT-LLM's.
"""

from __future__ import annotations

import attrs
import numpy as np
from numpy.typing import NDArray

from plandsl.backends.calibrate.kind import Floats, Kind
from plandsl.backends.calibrate.table import Table
from plandsl.backends.cost.forms.attention import Chip, Heads, decode_seconds, prefill_seconds
from plandsl.spec.constants import DecodeConstants, PrefillConstants
from plandsl.spec.formats import BITS
from plandsl.spec.hardware import GpuSpec

WIDE = ("bf16", "fp16")
"""Dtypes that share a peak where a GPU lists one of them."""

RESULT = 2.0  # bytes of an element of the result, whatever is multiplied

PACKED = 32
"""Query heads of one KV head that TensorRT-LLM's decode kernel for groups takes at most."""

LIBRARIES = ("", "_trtllm", "_trtllm_heads", "_tlx", "_triton", "_window")
"""Suffixes of sets, those that may answer for the others first."""

DTYPES = ("bf16", "fp16", "bf16_fp8", "fp16_fp8", "fp8")
"""Dtypes that are measured, those that may answer for the others first: what they differ in is bytes and a peak."""

NEAR = {"fp16": ("fp16", "bf16"), "bf16_fp8": ("bf16_fp8", "fp16_fp8", "bf16"), "fp8": ("fp8", "bf16_fp8")}
"""Which to ask before those."""

NO_PEAK = "no peak of this dtype, or no number of units, is published for the GPU"
NO_WIDTH = "a dtype of unknown width"


def _library(rows: Table) -> NDArray[np.str_]:
    framework, kernel = rows.texts("framework"), rows.texts("kernel")
    suffix = np.where(np.char.startswith(framework, "trtllm"), "_trtllm", "")
    suffix = np.where(np.char.find(kernel, "tlx") >= 0, "_tlx", suffix)
    return np.where(np.char.find(kernel, "triton_attn") >= 0, "_triton", suffix)


def dtypes(rows: Table) -> tuple[str, str]:
    """The dtypes of arithmetic and of the cache, of rows that agree in them."""
    dtype = str(rows.texts("dtype")[0])
    return dtype, str(rows.texts("kv_dtype")[0]) or dtype


def name_of(rows: Table) -> NDArray[np.str_]:
    """``bf16``, or ``bf16_fp8`` where the cache has another dtype."""
    dtype, cache = rows.texts("dtype"), rows.texts("kv_dtype")
    same = (cache == "") | (cache == dtype)
    return np.where(same, dtype, np.char.add(np.char.add(dtype, "_"), cache))


def known(rows: Table) -> NDArray[np.bool_]:
    """Rows whose dtypes have a known width; one that names none for the cache stores it in that of arithmetic."""
    widths = np.isin(rows.texts("dtype"), list(BITS)) & np.isin(rows.texts("kv_dtype"), [*BITS, ""])
    return np.asarray(widths, dtype=np.bool_)


def reason(rows: Table) -> NDArray[np.str_]:
    """Why a row has no answer."""
    return np.where(known(rows), NO_PEAK, NO_WIDTH)


def _prefill_sets(rows: Table) -> NDArray[np.str_]:
    sets = np.char.add(np.char.add("attention_prefill.", name_of(rows)), _library(rows))
    return np.where(known(rows), sets, "")


def _one_query(rows: Table) -> NDArray[np.bool_]:
    """Rows of a prefill that run as decode. TensorRT-LLM asks its prefill kernel whatever the number of queries is."""
    return np.asarray((rows.numbers("seq_q") <= 1) & (_library(rows) != "_trtllm"), dtype=np.bool_)


def _decode_sets(rows: Table) -> NDArray[np.str_]:
    unpacked = np.char.endswith(rows.texts("kernel"), "_fa2") & (rows.numbers("window", 0.0) > 0)
    library = _library(rows)
    group = rows.numbers("n_heads") / rows.numbers("n_kv_heads")
    suffix = np.where((library == "_trtllm") & ((group == 1) | (group > PACKED)), "_trtllm_heads", library)
    suffix = np.where(unpacked, "_window", suffix)
    sets = np.char.add(np.char.add("attention_decode.", rows.texts("kv_dtype")), suffix)
    return np.where(np.isin(rows.texts("kv_dtype"), list(BITS)), sets, "")


def instead(path: str) -> tuple[str, ...]:
    """Sets of the same kind that may answer for ``path``: near dtypes first, and of each the libraries in order."""
    section, _, name = path.partition(".")
    own = max((lib for lib in LIBRARIES if name.endswith(lib)), key=len)
    dtype = name.removesuffix(own)
    libraries = dict.fromkeys((own, "_trtllm", *LIBRARIES) if own.startswith("_trtllm") else (own, *LIBRARIES))
    names = dict.fromkeys((*NEAR.get(dtype, (dtype,)), *DTYPES))
    found = (f"{section}.{d}{lib}" for d in names for lib in libraries)
    return tuple(p for p in found if p != path)


def _shape(rows: Table) -> NDArray[np.int64]:
    mixed = np.zeros(len(rows))
    for name in ("n_heads", "n_kv_heads", "head_dim", "window"):
        mixed = mixed * 521 + rows.numbers(name, 0.0)
    return mixed.astype(np.int64)


def chip_of(gpu: GpuSpec, dtype: str) -> Chip:
    """What the forms of attention ask of a GPU that multiplies in ``dtype``."""
    peak = _peak(gpu, dtype)
    assert peak is not None, "rows without a peak have no set"
    assert gpu.units is not None, "a GPU is measured with its number of units known"
    return Chip(gpu.units, peak, gpu.bandwidth)


def heads_of(rows: Table, dtype: str, cache: str) -> Heads:
    """Heads of ``rows``, which multiply in ``dtype`` and hold keys and values in ``cache``."""
    heads, kv_heads, dim = (rows.numbers(n) for n in ("n_heads", "n_kv_heads", "head_dim"))
    return Heads(heads, kv_heads, dim, heads * dim * (BITS[dtype] / 8 + RESULT), 2 * kv_heads * dim * BITS[cache] / 8)


def _prefill_seconds(c: PrefillConstants, gpu: GpuSpec, rows: Table) -> Floats:
    """Attention, and writing the new keys and values to the cache, which the measured calls do before it."""
    dtype, cache = dtypes(rows)
    shape = heads_of(rows, dtype, cache)
    batch, position = rows.numbers("batch"), rows.numbers("seq_q")
    causal = rows.numbers("causal", 1.0) > 0
    time = prefill_seconds(
        c,
        chip_of(gpu, dtype),
        shape,
        batch,
        position,
        context=rows.numbers("seq_kv"),
        causal=causal,
        window=rows.numbers("window", 0.0),
    )
    written = batch * position * shape.key_bytes * (1 + BITS[dtype] / BITS[cache])
    return np.asarray(time + written / (gpu.bandwidth * c.write), dtype=np.float64)


def _decode_seconds(c: DecodeConstants, gpu: GpuSpec, rows: Table) -> Floats:
    cache = str(rows.texts("kv_dtype")[0])
    dtype = cache if cache in WIDE else "bf16"  # queries stay wide over a narrow cache
    shape, kernel = heads_of(rows, dtype, cache), str(_decode_sets(rows)[0])
    if kernel.endswith("_heads"):  # each query head reads the keys by itself
        shape = shape._replace(kv_heads=shape.heads, key_bytes=shape.key_bytes * shape.heads / shape.kv_heads)
    divides = not kernel.endswith("_window")
    batch, context, window = rows.numbers("batch"), rows.numbers("kv_len"), rows.numbers("window", 0.0)
    time = decode_seconds(c, chip_of(gpu, dtype), shape, batch, context, window=window, divides=divides, warm=True)
    return np.asarray(time, dtype=np.float64)


def _peak(gpu: GpuSpec, dtype: str) -> float | None:
    wide = [gpu.peak(d) for d in WIDE] if dtype in WIDE else []
    return gpu.peak(dtype) or next((p for p in wide if p), None)


def answers(gpu: GpuSpec, path: str) -> bool:
    """Whether ``gpu`` publishes its number of units and a peak of the dtype that a set multiplies in."""
    kind, _, name = path.partition(".")
    dtype = name.split("_")[0]
    if kind == "attention_decode" and dtype not in WIDE:
        dtype = "bf16"
    return gpu.units is not None and _peak(gpu, dtype) is not None


ATTENTION_PREFILL = Kind(
    name="attention_prefill",
    file="attention_prefill.csv",
    columns=("gpu", "dtype", "kv_dtype", "batch", "seq_q", "seq_kv", "n_heads", "n_kv_heads", "head_dim", "time_s"),
    sets=_prefill_sets,
    reason=reason,
    seconds=_prefill_seconds,
    start=PrefillConstants(
        fixed=8e-6, step=2e-6, compute=0.7, half_dim=30.0, tail=0.5, memory=0.6, blend=2.5,
        packed=0.3, write=0.5,
    ),
    loose={"compute": 0.3, "memory": 0.4, "step": 1.0, "half_dim": 1.0, "packed": 1.0, "write": 1.0},
    shape=_shape,
    answers=answers,
    instead=instead,
    where=lambda rows: ~_one_query(rows),
)  # fmt: skip

ATTENTION_DECODE = Kind(
    name="attention_decode",
    file="attention_decode.csv",
    columns=("gpu", "kv_dtype", "batch", "kv_len", "n_heads", "n_kv_heads", "head_dim", "time_s"),
    sets=_decode_sets,
    reason=lambda rows: np.where(np.isin(rows.texts("kv_dtype"), list(BITS)), NO_PEAK, NO_WIDTH),
    seconds=_decode_seconds,
    start=DecodeConstants(
        fixed=9e-6, step=2e-6, split=1e-6, compute=0.5, memory=0.8, draw=2.0, blend=2.0,
        cache=5e7, cached=2.0,
    ),
    loose={
        "step": 1.0, "split": 1.0, "compute": 0.2, "memory": 0.3, "draw": 0.7, "blend": 0.3, "cache": 0.7,
        "cached": 0.7,
    },
    shape=_shape,
    answers=answers,
    instead=instead,
)  # fmt: skip


def _as_decode(rows: Table) -> Table:
    """Rows with one query per sequence in the columns of attention_decode.csv."""
    dtype, cache = rows.texts("dtype"), rows.texts("kv_dtype")
    return Table(rows.columns | {"kv_len": rows["seq_kv"], "kv_dtype": np.where(cache == "", dtype, cache)})


ATTENTION_ONE_QUERY = attrs.evolve(
    ATTENTION_DECODE,
    file=ATTENTION_PREFILL.file,
    columns=ATTENTION_PREFILL.columns,
    sets=lambda rows: _decode_sets(_as_decode(rows)),
    seconds=lambda c, gpu, rows: _decode_seconds(c, gpu, _as_decode(rows)),
    where=_one_query,
    fits=False,
)
"""A prefill of one query per sequence, which kernels run as decode."""
