"""gemm.csv: dense matrix multiplications, dynamic activation quantisation included where the row says so."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from plandsl.backends.calibrate.kind import Floats, Kind
from plandsl.backends.calibrate.table import Table
from plandsl.backends.cost.forms.gemm import QUANT_START, gemm_seconds, quant_seconds, tiles
from plandsl.spec.constants import GemmConstants
from plandsl.spec.formats import BITS
from plandsl.spec.hardware import GpuSpec

WEIGHT = {"fp8_block": "fp8", "w8a16": "int8", "w4a16": "int4", "w8a8_int8_or_fp8": "int8"}
"""How the measured dtype stores weights, where that is not its own name."""

MULTIPLIES = {"fp8_block": "fp8", "w8a16": "bf16", "w4a16": "bf16", "w8a8_int8_or_fp8": "fp8", "fp16": "bf16"}
"""The peak it multiplies at, where that is not its own name's."""

WIDE = ("bf16", "fp16", "w8a16", "w4a16")
"""Dtypes whose activations stay 16 bits wide."""

ACCUMULATES = 2.0  # bytes of an output element

NEAR = {
    "fp8_block": ("fp8", "w8a8_int8_or_fp8", "int8", "mxfp8"),
    "fp8": ("w8a8_int8_or_fp8", "int8", "mxfp8", "fp8_block"),
    "mxfp8": ("fp8", "w8a8_int8_or_fp8", "int8", "fp8_block"),
    "w8a8_int8_or_fp8": ("fp8", "int8", "fp8_block"),
    "int8": ("w8a8_int8_or_fp8", "fp8", "fp8_block"),
    "nvfp4": ("mxfp4", "fp4", "mxfp6", "fp8"),
    "mxfp4": ("nvfp4", "fp4", "mxfp6", "fp8"),
    "fp4": ("nvfp4", "mxfp4", "mxfp6", "fp8"),
    "mxfp6": ("mxfp4", "fp6", "fp8", "nvfp4"),
    "fp6": ("mxfp6", "fp8", "mxfp4", "nvfp4"),
    "w4a16": ("w8a16",),
    "w8a16": ("w4a16",),
    "bf16": ("fp16",),
    "fp16": ("bf16",),
}
"""Dtypes whose kernels are built alike, best first; after them, 16 bits."""

TRTLLM = "_trtllm"


def _sets(rows: Table) -> NDArray[np.str_]:
    """By dtype; TensorRT-LLM's kernels are others than those of vLLM, SGLang and AITER, and a set of their own."""
    dtypes = rows.texts("dtype")
    library = np.where(np.char.startswith(rows.texts("framework"), "trtllm"), TRTLLM, "")
    known = np.isin(dtypes, [*BITS, *WEIGHT])
    return np.where(known, np.char.add(np.char.add("gemm.", dtypes), library), "")


def _reason(rows: Table) -> NDArray[np.str_]:
    known = np.isin(rows.texts("dtype"), [*BITS, *WEIGHT])
    return np.where(known, "no peak of this dtype is published for the GPU", "a dtype of unknown width")


def _instead(path: str) -> tuple[str, ...]:
    """The same dtype of the other library, then the nearest dtypes, each of the same library first."""
    dtype = _dtype(path)
    libraries = (TRTLLM, "") if path.endswith(TRTLLM) else ("", TRTLLM)
    dtypes = dict.fromkeys((dtype, *NEAR.get(dtype, ()), "bf16", "fp16"))
    names = [f"gemm.{d}{library}" for d in dtypes for library in libraries]
    return tuple(n for n in names if n != path)


def _dtype(path: str) -> str:
    return path.removeprefix("gemm.").removesuffix(TRTLLM)


def _shape(rows: Table) -> NDArray[np.int64]:
    return (rows.numbers("n") * 131_071 + rows.numbers("k")).astype(np.int64)


def _seconds(c: GemmConstants, gpu: GpuSpec, rows: Table) -> Floats:
    dtype = str(rows.texts("dtype")[0])
    m, n, k = (rows.numbers(name) for name in ("m", "n", "k"))
    peak = _peak(gpu, dtype)
    assert peak is not None, "rows without a peak have no set"
    assert gpu.units is not None, "a GPU is measured with its number of units known"
    weight = BITS[WEIGHT.get(dtype, dtype)] / 8
    inputs = 2.0 if dtype in WIDE else weight
    moved = n * k * weight + m * k * inputs + m * n * ACCUMULATES
    time = gemm_seconds(c, tiles(c, gpu.units, peak, n, k), gpu.units, gpu.bandwidth, m=m, moved=moved)
    quantised = rows.numbers("act_quant_included", 0.0) > 0
    cost = quant_seconds(c, gpu.units, gpu.bandwidth, m=m, k=k, item=inputs)
    return np.asarray(time + np.where(quantised, cost, 0.0), dtype=np.float64)


def _peak(gpu: GpuSpec, dtype: str) -> float | None:
    """FLOP/s of ``dtype``; of 16 bits where the GPU does not multiply in it, since kernels then unpack it."""
    names = (MULTIPLIES.get(dtype, dtype), "int8" if dtype == "w8a8_int8_or_fp8" else "bf16", "bf16", "fp16")
    return next((peak for name in names if (peak := gpu.peak(name))), None)


def _answers(gpu: GpuSpec, path: str) -> bool:
    return gpu.units is not None and _peak(gpu, _dtype(path)) is not None


GEMM = Kind(
    name="gemm",
    file="gemm.csv",
    columns=("gpu", "dtype", "m", "n", "k", "time_s"),
    sets=_sets,
    reason=_reason,
    seconds=_seconds,
    start=GemmConstants(
        fixed=4e-6, step=3e-6, chain=5e-10, compute=0.85, throttle=0.2, memory=0.8, intensity=10.0,
        blend=3.0, quant_row=QUANT_START[0], quant_walk=QUANT_START[1],
    ),
    loose={
        "compute": 0.2, "memory": 0.3, "intensity": 1.0, "step": 1.0, "blend": 0.5, "chain": 1.5, "throttle": 1.0,
        "quant_row": 1.5, "quant_walk": 1.5,
    },
    shape=_shape,
    answers=_answers,
    instead=_instead,
)  # fmt: skip
