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

CACHE = {
    **dict.fromkeys(("a100_sxm", "a800"), 20e6),
    **dict.fromkeys(("h100_sxm", "h100_pcie", "h100_nvl", "h200_sxm", "h200_nvl", "h800", "gh200"), 25e6),
    **dict.fromkeys(("b200_sxm", "b300_sxm", "gb200", "gb300"), 63e6),
    **dict.fromkeys(("mi300x", "mi308x", "mi325x", "mi350x", "mi355x"), 256e6),
    "h20": 30e6, "l40s": 96e6, "rtx_4090": 72e6, "rtx_pro_6000": 128e6,
}  # fmt: skip
"""Bytes of the last-level cache by GPU: L2, and Infinity Cache of AMD's MI300 (data sheets and white papers).

An L2 in two partitions counts as one of them, since each has copies for its own SMs (NVIDIA A100 white paper). GPUs
that are not here have 6 to 8 MB, in which activations take the place of weights.
"""

COPIES = {
    "aic": 6.0,
    **dict.fromkeys(("vidur", "llmcompass", "mlperf51_amd_tuning", "azure", "azure_mi300x"), 1.0),
}
"""Copies of the weights that a source takes turns with. The weights of other sources, as of all models, are not cached.

aiconfigurator's collectors have 5 or 6 (collector/trtllm/collect_gemm.py), the others time one GEMM again and again.
"""

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


def _anchors(path: str, rows: Table) -> dict[str, tuple[str, ...]]:
    """Rows that hold a quantisation do not tell its launches from the GEMM's, which is as long as that of 16 bits."""
    if not (rows.numbers("act_quant_included", 0.0) > 0).any():
        return {}
    libraries = (TRTLLM, "") if path.endswith(TRTLLM) else ("", TRTLLM)
    return {"fixed": tuple(f"gemm.{dtype}{library}" for dtype in ("bf16", "fp16") for library in libraries)}


def _share_in_cache(gpu: GpuSpec, rows: Table, weights: Floats) -> Floats:
    """The share of ``weights`` (bytes) that the last-level cache holds from one call to the next.

    All where the copies fill three quarters of the cache, half where they fill it, none from five quarters on: it then
    drops what comes next. So it is on an RTX PRO 6000, where rows of 15 MB beat the memory and those of 25 MB do not.
    """
    copies = np.array([COPIES.get(str(source), np.inf) for source in rows.texts("source")])
    return np.clip(2.5 - 2 * copies * weights / CACHE.get(gpu.name, 1.0), 0.0, 1.0)


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
    warm = n * k * weight * _share_in_cache(gpu, rows, n * k * weight)
    time = gemm_seconds(c, tiles(c, gpu.units, peak, n, k), gpu.units, gpu.bandwidth, m=m, moved=moved, warm=warm)
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
        fixed=4e-6, step=3e-6, chain=5e-10, compute=0.85, throttle=0.2, memory=0.8, cached=2.0, intensity=10.0,
        blend=3.0, quant_fixed=2e-6, quant_row=QUANT_START[0], quant_walk=QUANT_START[1],
    ),
    loose={
        "compute": 0.2, "memory": 0.3, "intensity": 1.0, "step": 1.0, "blend": 0.5, "chain": 1.5, "throttle": 1.0,
        "cached": 0.5, "quant_fixed": 1.0, "quant_row": 1.5, "quant_walk": 1.5,
    },
    most={"compute": 1.0, "memory": 1.0},
    anchors=_anchors,
    shape=_shape,
    answers=_answers,
    instead=_instead,
)  # fmt: skip
