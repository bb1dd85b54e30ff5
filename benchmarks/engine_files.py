"""Files of engines in the catalog: how engines spend memory, and what was fitted of their times."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from benchmarks.engine_memory import with_memory
from benchmarks.steps import LOOSE, Fit
from plandsl.backends.calibrate.fit import Errors
from plandsl.grammar.fmt import format_text
from plandsl.spec.engine_limits import LIMITED, LimitsSpec
from plandsl.spec.hardware import ENGINE_RATES, ENGINE_SHARES, ENGINE_TIMES, RANK_TIMES

TARGET = Path(__file__).resolve().parent.parent / "plandsl" / "catalog" / "engines"

GIB = 2**30

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

STEP_NODE = 0.4e-3
"""Seconds by which a step on several nodes is longer: assumed, as no row has several nodes.

Two messages between processes over TCP, what to compute and what was computed, at 0.2 ms each: gloo carries out 5,015
operations of 10 elements a second between processes of one host (github.com/meta-pytorch/torchft, pull request 199).
"""

BANDS = (("ttft_s", "ttft"), ("tpot_s", "tpot"), ("output_tok_per_s", "throughput"))
"""Metrics of rows, and how bands of engines call them."""


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
    bands = []
    for metric, short in BANDS:
        if metric in found.errors:
            e = found.errors[metric]
            bands += [f"{short}_low = {e.low:.4g}", f"{short}_high = {e.high:.4g}"]
    fitted = [f"{n} = {quantity(n, found.fit.constants[n])}" for n in LOOSE]
    own = [*fitted, *bands] if found.rows else []
    assumed = [] if found.rows else ["# the constants of all engines: too few rows", *fitted, *bands]
    lines += [f"  {text}" for text in (*own, *way_lines(name))]
    assumed += [f"step_node = {quantity('step_node', STEP_NODE)}"]
    lines += ["  assumed {", *(f"    {text}" for text in assumed), "  }"]
    text = with_memory("\n".join([*lines, "}", ""]), name)
    (TARGET / f"{name}.plan").write_text(format_text(text, name), encoding="utf-8")


def way_lines(name: str) -> Iterator[str]:
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


def quantity(name: str, value: float | str) -> str:
    """A constant in a unit that reads well."""
    if isinstance(value, str):
        return value
    if name in (*ENGINE_RATES, *ENGINE_SHARES):
        return f"{100 * value:.4g} %"
    if name in (*ENGINE_TIMES, *RANK_TIMES):
        return f"{value * 1e3:.4g} ms" if value >= 1e-4 else f"{value * 1e6:.4g} us"
    return f"{value:g}"
