"""moe.csv: fused layers of experts of one rank; grouped_gemm.csv: their two GEMMs by themselves.

Sets of moe.csv are ``moe.<dtype>_<library>``: the dtype is that of gemm.csv, or names activations and weights where
those differ (``bf16_mxfp4``). Libraries are those whose kernels the rows name, whoever calls them:

    _triton    Triton, of vLLM and SGLang
    _trtllm    TensorRT-LLM's generated kernels, also by way of FlashInfer
    _modular   the same with routing and quantisation in kernels of their own
    _cutlass   CUTLASS, also by way of FlashInfer
    _marlin    Marlin
    _deepgemm  DeepGEMM
    _aiter     AITER

Sets of grouped_gemm.csv are ``grouped_gemm.<dtype>_<layout>``, with ``_down`` for the second GEMM.
"""

from __future__ import annotations

import attrs
import numpy as np
from numpy.typing import NDArray

from plandsl.backends.calibrate.dealt import dealt_loads
from plandsl.backends.calibrate.kind import Floats, Kind
from plandsl.backends.calibrate.table import Table
from plandsl.backends.cost.forms.attention import Chip
from plandsl.backends.cost.forms.moe import TILES, Layer, Load, Matrix, expert_loads, gemm_seconds, moe_seconds
from plandsl.spec.constants import GroupedConstants, MoeConstants
from plandsl.spec.formats import BITS
from plandsl.spec.hardware import GpuSpec
from plandsl.values import sum_up

STORED = {
    "fp8_block": "fp8", "w8a16": "int8", "w4a16": "int4", "w4a8": "int4", "w4a16_mxfp4": "mxfp4",
    "w4a8_mxfp4": "mxfp4", "bf16_int4": "int4", "bf16_mxfp4": "mxfp4", "fp8_mxfp4": "mxfp4",
    "w8a8_int8_or_fp8": "int8", "fp8_token": "fp8",
}  # fmt: skip
"""How a measured dtype stores weights, where that is not its own name."""

MULTIPLIES = {
    "fp8_block": "fp8", "fp8_token": "fp8", "w8a16": "bf16", "w4a16": "bf16", "w4a8": "fp8", "w4a16_mxfp4": "bf16",
    "w4a8_mxfp4": "fp8", "bf16_int4": "bf16", "bf16_mxfp4": "bf16", "fp8_mxfp4": "fp8", "w8a8_int8_or_fp8": "fp8",
    "fp16": "bf16",
}  # fmt: skip
"""The dtype that it multiplies in, where that is not its own name."""

SCALES = {"per_1x128": "fp8_block", "per_128x128": "fp8_block", "per_1x32": "mxfp8", "per_Token": "fp8_token"}
"""Dtypes of AITER's fp8 by its scales."""

LIBRARIES = ("trtllm", "modular", "cutlass", "triton", "deepgemm", "marlin", "aiter")
"""Suffixes of sets, those that may answer for the others first."""

NEAR = {
    "bf16": ("fp16", "fp8"), "fp16": ("bf16",), "fp8": ("fp8_block", "fp8_token", "mxfp8"),
    "fp8_block": ("fp8", "fp8_token", "mxfp8"), "fp8_token": ("fp8", "fp8_block", "mxfp8"),
    "mxfp8": ("fp8_block", "fp8", "fp8_token"), "nvfp4": ("mxfp4", "w4a8_mxfp4"), "mxfp4": ("nvfp4", "fp8_mxfp4"),
    "w4a16": ("w4a16_mxfp4", "bf16_int4", "bf16_mxfp4", "bf16"),
    "w4a16_mxfp4": ("w4a16", "bf16_mxfp4", "bf16_int4", "bf16"), "bf16_int4": ("w4a16", "bf16_mxfp4", "bf16"),
    "bf16_mxfp4": ("w4a16_mxfp4", "bf16_int4", "bf16"), "w4a8_mxfp4": ("fp8_mxfp4", "w4a8", "fp8_block", "fp8"),
    "w4a8": ("w4a8_mxfp4", "fp8_block", "fp8"), "fp8_mxfp4": ("w4a8_mxfp4", "mxfp4", "fp8_block", "fp8"),
    "w8a16": ("w4a16", "bf16"), "w8a8_int8_or_fp8": ("fp8", "fp8_block"), "int8": ("fp8", "fp8_block"),
}  # fmt: skip
"""Dtypes that may answer for one, best first: of the same arithmetic, then of the same width."""

UNGATED = ((2688, 1856), (4096, 2688), (8192, 5120))
"""Hidden and intermediate size of experts that have no gate (Nemotron 3: squared ReLU)."""

SLICING = "sglang-0.5.10"
"""The version of SGLang whose kernels were measured on slices of a rank."""

LAW, ACTIVATED = "power_law_", "activated_experts="
"""How a routing begins that names the exponent of a power law, or the number of experts that get tokens."""

STEEPEST = 100.0
"""The largest exponent of such a law."""

NO_ROUTING = "a routing that cannot be meant"
NO_PEAK = "no peak of this dtype, or no number of units, is published for the GPU"


def _dtypes(rows: Table) -> NDArray[np.str_]:
    """Measured dtypes by the names of this module: ``a_fp8_w_fp8_per_1x128`` is ``fp8_block``."""
    return np.array([_dtype(str(d)) for d in rows.texts("dtype")], dtype=np.str_)


def _dtype(name: str) -> str:
    if not name.startswith("a_") or "_w_" not in name:
        return name
    inputs, _, rest = name.removeprefix("a_").partition("_w_")
    weights, _, scales = rest.partition("_")
    if inputs != weights:
        return f"{inputs}_{weights}"
    if inputs == "fp8":
        return SCALES.get(scales, "fp8")
    return inputs


def _library(framework: str, kernel: str) -> str:
    """Whose kernels a row measures. TensorRT-LLM names none by itself: its default is CUTLASS."""
    if "aiter" in framework or "aiter" in kernel:
        return "aiter"
    if framework.startswith("trtllm"):
        return next((lib for lib in ("deepgemm", "triton") if lib in kernel), _trtllm(kernel))
    for name in ("marlin", "cutlass", "deepgemm"):
        if name in kernel.replace("deep_gemm", "deepgemm"):
            return name
    if "trtllm" in kernel:
        return "modular" if kernel.endswith("modular") else "trtllm"
    return "triton"


def _trtllm(kernel: str) -> str:
    return "trtllm" if any(word in kernel for word in ("min_latency", "low_latency", "trtllm", "gen")) else "cutlass"


def _sets(rows: Table) -> NDArray[np.str_]:
    named = zip(_dtypes(rows), rows.texts("framework"), rows.texts("kernel"), strict=True)
    sets = [f"moe.{d}_{_library(str(f), str(k))}" if _known(str(d)) else "" for d, f, k in named]
    return np.where(_routed(rows), np.array(sets, dtype=np.str_), "")


def _known(dtype: str) -> bool:
    return STORED.get(dtype, dtype) in BITS


def _routed(rows: Table) -> NDArray[np.bool_]:
    """Rows whose routing can be meant: a number that it names lies in the range of such numbers."""
    exponents, experts = (_named(rows, prefix) for prefix in (LAW, ACTIVATED))
    wrong = (exponents < 0) | (exponents > STEEPEST) | (experts < 1) | ~np.isfinite(exponents + experts)
    return np.asarray(~wrong, dtype=np.bool_)


def _named(rows: Table, prefix: str) -> Floats:
    """The number behind ``prefix`` in the routing of each row: 1 where it has no such prefix, nan where it is none."""
    return np.array(
        [_number(str(n).removeprefix(prefix)) if n.startswith(prefix) else 1.0 for n in rows.texts("routing")]
    )


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return np.nan


def _parts(path: str) -> tuple[str, str]:
    """Dtype and library of a set."""
    dtype, _, library = path.partition(".")[2].rpartition("_")
    return dtype, library


def _instead(path: str) -> tuple[str, ...]:
    """Sets that may answer for ``path``: other libraries of its dtype, then those of near dtypes."""
    dtype, library = _parts(path)
    libraries = dict.fromkeys((library, *LIBRARIES))
    found = (f"moe.{d}_{lib}" for d in dict.fromkeys((dtype, *NEAR.get(dtype, ()))) for lib in libraries)
    return tuple(p for p in found if p != path)


def _shape(rows: Table) -> NDArray[np.int64]:
    mixed = np.zeros(len(rows))
    for name in ("hidden", "inter", "topk", "n_experts", "tp", "ep"):
        mixed = (mixed * 1009 + rows.numbers(name, 1.0)) % 2.0**40
    return mixed.astype(np.int64)


def _loads(rows: Table, tokens: Floats, layer: Layer) -> list[Load]:
    """How tokens fall on the experts of the measured rank.

    ``power_law_x`` deals them by a power law with the exponent x (`dealt`); `balanced` and ``activated_experts`` deal
    them evenly; anything else draws them at random.
    """
    names, law = rows.texts("routing"), _by_law(rows)
    even = law | (names == "balanced") | np.char.startswith(names, ACTIVATED)
    (alike,) = expert_loads(layer, tokens, np.asarray(even, dtype=np.bool_))
    if not law.any():
        return [alike]
    ranks = np.round(layer.n_experts / layer.local)
    chosen, exponent = np.broadcast_to(layer.topk, law.shape), _named(rows, LAW)
    found = dealt_loads(np.stack([tokens, layer.n_experts, chosen, ranks, exponent], axis=1)[law])
    given = []
    for load in found:
        parts = [np.where(law, 0.0, value) for value in (alike.experts, alike.tokens, alike.touched)]
        for part, value in zip(parts, (load.experts, load.tokens, load.touched), strict=True):
            part[law] = value
        given.append(Load(parts[0], parts[1], parts[2], alike.even))
        alike = Load(0.0, 0.0, 0.0, alike.even)
    return given


def _by_law(rows: Table) -> NDArray[np.bool_]:
    """Rows whose tokens are dealt by a power law."""
    return np.asarray(np.char.startswith(rows.texts("routing"), LAW), dtype=np.bool_)


def _layer(rows: Table, dtype: str) -> Layer:
    fewer = np.char.startswith(rows.texts("routing"), ACTIVATED)
    experts = np.where(fewer, _named(rows, ACTIVATED), rows.numbers("n_experts"))
    local = np.maximum(experts / rows.numbers("ep", 1.0), 1.0)
    inter = rows.numbers("inter") / rows.numbers("tp", 1.0)
    hidden, gates = rows.numbers("hidden"), _gates(rows, dtype)
    return Layer(
        hidden, inter, topk=rows.numbers("topk"), n_experts=experts, local=local, weight_bytes=_weight(dtype),
        input_bytes=_input(dtype), gates=gates,
    )  # fmt: skip


def _gates(rows: Table, dtype: str) -> Floats:
    """2, or 1 for experts without a gate where the collector knew of them: SGLang's only in nvfp4, vLLM's of late."""
    sizes = zip(rows.numbers("hidden"), rows.numbers("inter"), strict=True)
    ungated = np.array([size in UNGATED for size in sizes], dtype=np.bool_)
    frameworks = rows.texts("framework")
    gated = np.char.startswith(frameworks, "sglang") & (dtype != "nvfp4") | np.char.startswith(frameworks, "vllm-0.1")
    return np.where(ungated & ~gated, 1.0, 2.0)


def _weight(dtype: str) -> float:
    return BITS[STORED.get(dtype, dtype)] / 8


def _input(dtype: str) -> float:
    return BITS[MULTIPLIES.get(dtype, dtype)] / 8


def _sliced(rows: Table) -> NDArray[np.bool_]:
    """Rows that present only the tokens of this rank.

    SGLang's Triton and Marlin kernels were given those for a time, and all their pairs: those of other ranks count as
    the first expert's (aiconfigurator, collector/sglang/collect_moe.py).
    """
    kernels = rows.texts("kernel")
    own = (np.char.find(kernels, "marlin") >= 0) | (np.char.find(kernels, "fused_moe_triton") >= 0)
    slicing = np.char.startswith(rows.texts("framework"), SLICING)
    return np.asarray(slicing & own & (rows.numbers("ep", 1.0) > 1), dtype=np.bool_)


def _moe_seconds(c: MoeConstants, gpu: GpuSpec, rows: Table) -> Floats:
    dtype = str(_dtypes(rows)[0])
    layer, tokens = _layer(rows, dtype), rows.numbers("tokens")
    given = _loads(rows, tokens, layer)
    sliced = _sliced(rows)
    if sliced.any():
        law = _by_law(rows)
        tokens, given = _slice(layer, tokens, given, of=sliced, law=law)
    return np.asarray(moe_seconds(c, _chip(gpu, dtype), layer, tokens, given), dtype=np.float64)


def _slice(
    layer: Layer, tokens: Floats, given: list[Load], *, of: NDArray[np.bool_], law: NDArray[np.bool_]
) -> tuple[Floats, list[Load]]:
    """Tokens and loads of `_sliced` rows: tokens with a pair on this rank, and one expert with all foreign pairs."""
    pairs = np.asarray(sum_up(load.experts * load.tokens for load in given))
    met = np.where(law, tokens * (1 - np.exp(-pairs / tokens)), pairs)
    presented = np.where(of, np.clip(met, 1.0, tokens), tokens)
    first = pairs / layer.local + np.maximum(presented * layer.topk - pairs, 0.0)
    kept = np.where(of, 1 - 1 / layer.local, 1.0)
    others = [Load(load.experts * kept, load.tokens, load.touched * kept, load.even) for load in given]
    return presented, [*others, Load(np.where(of, 1.0, 0.0), first, np.where(of, 1.0, 0.0), True)]


def _chip(gpu: GpuSpec, dtype: str) -> Chip:
    peak = _peak(gpu, dtype)
    assert peak is not None, "rows without a peak have no set"
    assert gpu.units is not None, "a GPU is measured with its number of units known"
    return Chip(gpu.units, peak, gpu.bandwidth)


def _peak(gpu: GpuSpec, dtype: str) -> float | None:
    """Matrix FLOP/s in ``dtype``, or in a wider one that a GPU without it falls back to."""
    own = MULTIPLIES.get(dtype, dtype)
    wider = {"nvfp4": ("nvfp4", "bf16"), "mxfp4": ("mxfp4", "fp8", "bf16"), "fp8": ("fp8", "bf16")}.get(own, (own,))
    return next((p for p in map(gpu.peak, (*wider, "fp16")) if p), None)


def _answers(gpu: GpuSpec, path: str) -> bool:
    return gpu.units is not None and _peak(gpu, _parts(path)[0]) is not None


MOE = Kind(
    name="moe",
    file="moe.csv",
    columns=("gpu", "dtype", "tokens", "hidden", "inter", "topk", "n_experts", "tp", "ep", "routing", "time_s"),
    blank=("tp", "ep"),
    sets=_sets,
    reason=lambda rows: np.where(_routed(rows), NO_PEAK, NO_ROUTING),
    seconds=_moe_seconds,
    start=MoeConstants(
        fixed=2e-5, step=2e-7, compute=0.7, draw=4.0, memory=0.8, cache=6e7, blend=2.5,
        stream=0.7, away=0.1, token=2e-9,
    ),
    loose={"compute": 0.3, "memory": 0.3, "step": 1.0, "draw": 1.0, "cache": 0.7, "away": 2.0, "token": 1.0},
    shape=_shape,
    answers=_answers,
    instead=_instead,
)  # fmt: skip

VARIES = 0.3
"""Masked experts of DeepGEMM's benchmark get 1 -+ so much of the mean, rounded down."""


def _grouped_sets(rows: Table) -> NDArray[np.str_]:
    layout = np.where(np.char.find(rows.texts("kernel"), "masked") >= 0, "_masked", "_contiguous")
    sets = np.char.add(np.char.add("grouped_gemm.", rows.texts("dtype")), layout)
    return np.where([_known(str(d)) for d in rows.texts("dtype")], sets, "")


def _grouped_loads(rows: Table) -> list[Load]:
    """Tokens of the local experts: as many each, or for masked experts spread around the mean."""
    mean, experts = rows.numbers("tokens_per_local_expert"), rows.numbers("n_local_experts")
    if not str(_grouped_sets(rows)[0]).endswith("_masked"):
        return [Load(experts, mean, experts * np.minimum(mean, 1.0), True)]
    made = []
    for i in range(8):
        tokens = np.floor(mean * (1 - VARIES + 2 * VARIES * (i + 0.5) / 8) + 1e-9)
        made.append(Load(experts / 8, tokens, experts / 8 * np.minimum(tokens, 1.0), True))
    return made


def _grouped_seconds(c: GroupedConstants, gpu: GpuSpec, rows: Table, down: bool) -> Floats:
    dtype = str(rows.texts("dtype")[0])
    hidden, inter = rows.numbers("hidden"), rows.numbers("inter")
    depth, columns = (inter, hidden) if down else (hidden, 2 * inter)
    matrix = Matrix(depth, columns, _weight(dtype), _input(dtype))
    large = [tile for tile in TILES if tile[0] >= 64]  # DeepGEMM has no smaller ones
    time = gemm_seconds(c, _chip(gpu, dtype), _grouped_loads(rows), matrix, large)
    return np.asarray(time, dtype=np.float64)


def _grouped_shape(rows: Table) -> NDArray[np.int64]:
    mixed = np.zeros(len(rows))
    for name in ("hidden", "inter", "n_experts", "n_local_experts"):
        mixed = mixed * 1009 + rows.numbers(name)
    return mixed.astype(np.int64)


def _grouped_answers(gpu: GpuSpec, path: str) -> bool:
    dtype = path.removeprefix("grouped_gemm.").removesuffix("_down").rpartition("_")[0]
    return gpu.units is not None and _peak(gpu, dtype) is not None


def _grouped_instead(path: str) -> tuple[str, ...]:
    """The other GEMM of the same layout, then the other layout."""
    stem = path.removesuffix("_down")
    other = stem.replace("_masked", "_contiguous") if stem.endswith("_masked") else f"{stem.rpartition('_')[0]}_masked"
    ends = ("_down", "") if path.endswith("_down") else ("", "_down")
    return tuple(p for s in (stem, other) for p in (s + end for end in ends) if p != path)


GROUPED_UP = Kind(
    name="grouped_gemm",
    file="grouped_gemm.csv",
    columns=(
        "gpu", "dtype", "kernel", "n_experts", "n_local_experts", "hidden", "inter", "tokens_per_local_expert",
        "up_time_s", "down_time_s",
    ),
    sets=_grouped_sets,
    reason=lambda rows: np.full(len(rows), NO_PEAK),
    seconds=lambda c, gpu, rows: _grouped_seconds(c, gpu, rows, down=False),
    start=GroupedConstants(
        fixed=5e-6, step=2e-7, compute=0.8, draw=6.0, memory=0.8, cache=5e7, blend=3.0,
        stream=1.5,
    ),
    loose={"compute": 0.3, "memory": 0.3, "step": 1.0, "draw": 1.0, "cache": 0.7, "stream": 0.7},
    shape=_grouped_shape,
    answers=_grouped_answers,
    metric="up_time_s",
    instead=_grouped_instead,
)  # fmt: skip

GROUPED_DOWN = attrs.evolve(
    GROUPED_UP,
    sets=lambda rows: np.where(_grouped_sets(rows) == "", "", np.char.add(_grouped_sets(rows), "_down")),
    seconds=lambda c, gpu, rows: _grouped_seconds(c, gpu, rows, down=True),
    metric="down_time_s",
)
