"""Files of engines in the catalog: how engines spend memory, and what was fitted of their times."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.engine_memory import with_memory
from benchmarks.steps import LOOSE, Fit
from plandsl.backends.calibrate.fit import Errors
from plandsl.grammar.fmt import format_text
from plandsl.spec.engine_limits import LIMITED, LimitsSpec
from plandsl.spec.fusions import ANY, FusedSizes
from plandsl.spec.hardware import ENGINE_RATES, ENGINE_SHARES, ENGINE_TIMES, RANK_TIMES

TARGET = Path(__file__).resolve().parent.parent / "plandsl" / "catalog" / "engines"

MIB, GIB = 2**20, 2**30

WAYS = {
    "vllm": {"kept_output": 0.5, "memory_fraction": 0.9, "kv_block": 16, "kernels": "vllm",
             "limits": LimitsSpec("memory", (70 * GIB,), (2048, 8192), (256, 1024), ("a100", "gb10"))},
    "trtllm": {"kept_output": 1.0, "memory_fraction": 0.9, "kv_block": 32, "max_requests": 2048, "step_tokens": 8192,
               "kernels": "trtllm"},
    "sglang": {"kept_output": 0.5, "kv_block": 1, "max_requests": 2048, "kernels": "sglang",
               "limits": LimitsSpec("memory_total", (20 * GIB, 60 * GIB, 160 * GIB), (2048, 4096, 8192, 16384))},
    "atom": {"kept_output": 0.5, "memory_fraction": 0.9, "kv_block": 16, "max_requests": 512, "step_tokens": 16384,
             "kernels": "aiter"},
}  # fmt: skip
"""How the engines spend memory by default, as their documentation of options says.

vLLM: `gpu_memory_utilization`, `block_size`, `max_num_seqs`, `max_num_batched_tokens`, the last two by the GPU as a
server of version 0.19 chooses them (`vllm/engine/arg_utils.py`); it admits a request without room for its output, and
evicts requests when memory runs out. TensorRT-LLM: `free_gpu_memory_fraction`, `tokens_per_block`, `max_batch_size`,
`max_num_tokens`; its scheduler guarantees that no request is evicted. SGLang: `page_size`, `chunked_prefill_size` by
the GPU (version 0.5.23, `arg_groups/memory_hook.py`), as `mem_fraction_static` (`spec/fractions.py`), and the least
`max_running_requests`. While requests grow, they hold half of their output on average. What engines take besides
weights and cache is in `engine_memory.py`.
"""

LIKE = {"vllm_rocm": "vllm"}
"""Engines that use memory as another engine does."""

_QUANTIZING = ("gemm_bias", "residual_norm", "norm_quantize", "activation_quantize")
_SUMMING = ("all_reduce_norm", "all_reduce_norm_quantize")

FUSED: dict[str, dict[str, Any]] = {
    "vllm": {
        "fusions": (*_SUMMING, *_QUANTIZING),
        "fused_sizes": FusedSizes(
            (2, 4, 8), (("fp8", (64 * MIB, 2 * MIB, MIB / 2)), ("fp4", (64 * MIB, 32 * MIB, MIB)))
        ),
    },
    "vllm_rocm": {"fusions": _QUANTIZING},
    "trtllm": {
        "fusions": (
            *_SUMMING, "gemm_bias", "residual_norm", "activation_quantize", "attention_quantize", "norm_rope",
            "rope_cache",
        ),
        "fused_sizes": FusedSizes((2, 8), ((ANY, (16e6, 8e6)),)),
    },
    "sglang": {
        "fusions": ("all_reduce_norm", "gemm_bias", "residual_norm"),
        "fused_sizes": FusedSizes((8,), tuple((name, (28 * MIB,)) for name in ("fp8", "fp4"))),
    },
    "atom": {"fusions": ("all_reduce_norm", *_QUANTIZING)},
}  # fmt: skip
"""What the engines run in one kernel by default, and up to which bytes an all_reduce shares one.

vLLM: `docs/design/fusions.md` and `FI_ALLREDUCE_FUSION_MAX_SIZE_MB` of
`vllm/compilation/passes/fusion/allreduce_rms_fusion.py`. `fuse_allreduce_rms` is on by default on Hopper and Blackwell
since pull request 34299 (February 2026); before, InferenceMAX set it in its scripts. Without it vLLM leaves norms,
activations and quantisation to Inductor, which fuses them (`enable_norm_fusion` in `vllm/config/vllm.py`). On AMD GPUs
it needs `VLLM_ROCM_USE_AITER=1` (pull request 37646). TensorRT-LLM, PyTorch flow: `AllReduceFusionOp` in
`modeling_llama.py`, on unless `TRTLLM_LLAMA_EAGER_FUSION_DISABLED`, up to `getMaxRequiredWorkspaceSize` of
`customAllReduceUtils.h`; `fuse_qk_norm_rope` of `QKNormRoPEAttention`; its attention op turns, quantises and writes the
cache. SGLang: an all_reduce of up to 2,048 tokens (`FUSE_ALLREDUCE_MAX_BATCH_SIZE`) on Hopper and Blackwell, on by
default for DeepSeek, GPT-OSS, GLM, Kimi and Qwen mixtures of experts; here 2,048 tokens of DeepSeek's 7,168 elements.
All of them add the bias of a linear layer in its GEMM (PyTorch's `addmm`: `CUBLASLT_EPILOGUE_BIAS`).
ATOM: `ATOM_ENABLE_ALLREDUCE_RMSNORM_FUSION` and the fusions with quantisation, 1 by default (`atom/utils/envs.py`).
"""


FUSED_SOURCE = {
    "vllm": 'vLLM, page "Fusion torch.compile passes"; FI_ALLREDUCE_FUSION_MAX_SIZE_MB (fp8: Hopper, fp4: Blackwell)',
    "vllm_rocm": "as vllm; an all_reduce shares its kernel only with VLLM_ROCM_USE_AITER=1 (pull request 37646)",
    "trtllm": "AllReduceFusionOp, customAllReduceUtils.h, QKNormRoPEAttention; activation, attention, rope: assumed",
    "sglang": "FUSE_ALLREDUCE_MAX_BATCH_SIZE, 2,048 tokens of 7,168 elements; assumed for all models",
    "atom": "defaults of ATOM (atom/utils/envs.py); an all_reduce of any size: assumed",
}
"""Where the fusions of an engine come from, as its file says."""


def fused_of(name: str) -> dict[str, Any]:
    """The fusions of an engine, and up to which size an all_reduce has part in them."""
    return FUSED.get(name) or FUSED[LIKE[name]]


STEP_NODE = 0.4e-3
"""Seconds by which a step on several nodes is longer: assumed, as no row has several nodes.

Two messages between processes over TCP, what to compute and what was computed, at 0.2 ms each: gloo carries out 5,015
operations of 10 elements a second between processes of one host (github.com/meta-pytorch/torchft, pull request 199).
"""


class Found(NamedTuple):
    """What is known of an engine: its constants, the rows behind them (0: the constants of all engines), its errors.

    ``errors`` are of rows that the fit did not see, by metric.
    """

    fit: Fit
    rows: int
    errors: Mapping[str, Errors]


def write(name: str, found: Found) -> None:
    """Write an engine as a `.plan` file: fitted constants first, then assumed ones."""
    lines = ["# Made by `python -m benchmarks.engines`: do not edit.", f"engine {name} {{"]
    lines += [f'  source = "{found.rows} serving rows (docs/calibration.md)"'] if found.rows else []
    lines.append("  # errors on rows whose GPU, model or source was left out of the fit:")
    for metric, e in found.errors.items():
        off = f"off by {100 * e.median:.1f} % (median) and {100 * e.p90:.1f} % (90th percentile)"
        lines.append(f"  # {metric}: {off}, bias {100 * e.bias:+.1f} %, {e.rows} rows")
    fitted = [f"{n} = {quantity(n, found.fit.constants[n])}" for n in LOOSE]
    own = fitted if found.rows else []
    assumed = [] if found.rows else ["# the constants of all engines: too few rows", *fitted]
    lines += [f"  {text}" for text in (*own, *way_lines(name))]
    assumed += [f"step_node = {quantity('step_node', STEP_NODE)}"]
    lines += ["  assumed {", *(f"    {text}" for text in assumed), "  }"]
    text = with_memory("\n".join([*lines, "}", ""]), name)
    (TARGET / f"{name}.plan").write_text(format_text(text, name), encoding="utf-8")


def way_lines(name: str) -> Iterator[str]:
    """The lines of an engine that say how it spends memory, and what it runs in one kernel."""
    yield from memory_lines(name)
    yield f"# fusions: {FUSED_SOURCE.get(name) or FUSED_SOURCE[LIKE[name]]}"
    fused = fused_of(name)
    yield from ("fusions = [", *(f"  {fusion}," for fusion in fused["fusions"]), "]")
    if "fused_sizes" in fused:
        yield from size_lines(fused["fused_sizes"])


def memory_lines(name: str) -> Iterator[str]:
    """The lines of an engine that say how it spends memory."""
    for field, value in WAYS[LIKE.get(name, name)].items():
        if not isinstance(value, LimitsSpec):
            yield f"{field} = {quantity(field, value)}"
            continue
        bounds = ", ".join(f"{bound / GIB:g} GiB" for bound in value.bounds)
        values = [f"{n} = {list(value.values(n))}" for n in LIMITED if value.values(n)]
        words = ", ".join(f'"{word}"' for word in value.small)
        values += [f"small = [{words}]"] if words else []
        yield from ("limits {", f"  {value.of} = [{bounds}]", *(f"  {line}" for line in values), "}")


def size_lines(sizes: FusedSizes) -> Iterator[str]:
    """The section `fused_sizes`."""
    yield "fused_sizes {"
    yield f"  ranks = {list(sizes.ranks)}"
    for name, each in sizes.bytes:
        shown = (f"{size / MIB:g} MiB" if size % (MIB / 2) == 0 else f"{size / 1e6:g} MB" for size in each)
        yield f"  {name} = [{', '.join(shown)}]"
    yield "}"


def quantity(name: str, value: float | str) -> str:
    """A constant in a unit that reads well."""
    if isinstance(value, str):
        return value
    if name in (*ENGINE_RATES, *ENGINE_SHARES):
        return f"{100 * value:.4g} %"
    if name in (*ENGINE_TIMES, *RANK_TIMES):
        return f"{value * 1e3:.4g} ms" if value >= 1e-4 else f"{value * 1e6:.4g} us"
    return f"{value:g}"
