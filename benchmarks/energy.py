"""The law of power beside measured servings: what it is fitted to, and how far it is off for models unseen by the fit.

python -m benchmarks.energy FOLDER

FOLDER is `public/data/models` of the ML.ENERGY Leaderboard (github.com/ml-energy/leaderboard; commit 0cd52da, February
2026): text models served by vLLM on H100 and B200 at many batch sizes, with their average power. The constants are in
`plandsl/spec/power.py`, the law in docs/money.md.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from plandsl.backends.cost.answers.shares import shares
from plandsl.backends.cost.deployments.deployment import Deployment
from plandsl.diagnostics import PlanError
from plandsl.driver import compile_cost
from plandsl.entries import catalog_gpu
from plandsl.spec import power

MODELS = {
    "Llama-3.1-8B-Instruct": "llama_3_1_8b", "Llama-3.1-70B-Instruct": "llama_3_1_70b",
    "Llama-3.3-70B-Instruct": "llama_3_3_70b", "Llama-3.1-405B-Instruct": "llama_3_1_405b",
    "Llama-3.1-405B-Instruct-FP8": "llama_3_1_405b", "Llama-4-Scout-17B-16E-Instruct": "llama_4_scout",
    "Qwen3-8B": "qwen3_8b", "Qwen3-14B": "qwen3_14b", "Qwen3-32B": "qwen3_32b",
    "Qwen3-30B-A3B-Instruct-2507": "qwen3_30b_a3b", "Qwen3-30B-A3B-Thinking-2507": "qwen3_30b_a3b",
    "Qwen3-235B-A22B-Instruct-2507": "qwen3_235b_a22b", "Qwen3-235B-A22B-Thinking-2507": "qwen3_235b_a22b",
    "Qwen3-235B-A22B-Instruct-2507-FP8": "qwen3_235b_a22b", "Qwen3-235B-A22B-Thinking-2507-FP8": "qwen3_235b_a22b",
    "gpt-oss-120b": "gpt_oss_120b", "gpt-oss-20b": "gpt_oss_20b", "gemma-3-12b-it": "gemma_3_12b",
    "gemma-3-27b-it": "gemma_3_27b", "DeepSeek-R1-0528": "deepseek_r1", "DeepSeek-V3.1": "deepseek_v3_1",
}  # fmt: skip
"""Name at Hugging Face -> model of the catalog."""

PROMPTS = {"lm-arena-chat": 250, "gpqa": 300}
"""Prompt tokens of a task, assumed: the data has the lengths of answers alone, which take most of the time."""

NODES = {"H100": "h100", "B200": "b200"}

Floats = NDArray[np.float64]


class Row(NamedTuple):
    """A serving: what its GPUs drew above idle, as a share of what they may; and its use of arithmetic and memory."""

    model: str
    above: float
    compute: float
    memory: float
    idle: float
    most: float


def rows(folder: Path) -> Iterator[Row]:
    """Every serving of a model that the catalog has, on the replicas of one engine."""
    known: dict[tuple[Any, ...], Deployment | None] = {}
    for path in sorted(folder.glob("*.json")):
        name, _, task = path.stem.rpartition("__")
        model = MODELS.get(name.rpartition("__")[2])
        if model is None or task not in PROMPTS:
            continue
        body = json.loads(path.read_text("utf-8"))
        for one in body["configurations"]:
            key = model, body["weight_precision"], one["gpu_model"], one["num_gpus"]
            if one["parallelization"]["data_parallel"] > 1:
                continue
            if key not in known:
                known[key] = _cost(*key)
            if (cost := known[key]) is not None:
                yield _row(path.stem, cost, one, PROMPTS[task])


def _cost(model: str, weights: str, gpu: str, gpus: int) -> Deployment | None:
    narrow = " with { weights = fp8 }" if weights == "fp8" and not model.startswith("deepseek") else ""
    load = "workload { input = 100, output = 100 }"
    try:
        return compile_cost(
            f"plan p {{ model = {model}{narrow}, node = {NODES[gpu]}_{gpus}, sharding {{ tp = {gpus} }}, {load} }}"
        )
    except PlanError:
        return None


def _row(name: str, cost: Deployment, one: dict[str, Any], prompt: int) -> Row:
    output, batch, gpus = one["avg_output_len"], one["avg_batch_size"], one["num_gpus"]
    m = cost.evaluate(batch=batch, input=prompt, output=output)
    used, rate = shares(cost, m).phases, one["output_throughput_tokens_per_sec"] / output
    passes = zip(used, (m.prefill.period, m.decode.period), (1, output - 1), strict=True)
    each = [(u, float(period) * n / batch) for u, period, n in passes]
    spec = cost.plan.node.gpu
    idle, most = spec.power_idle or 0.0, spec.power or 0.0
    above = (one["avg_power_watts"] / gpus - idle) / (most - idle)
    compute, memory = (sum(float(getattr(u, field)) * s for u, s in each) * rate for field in ("mfu", "mbu"))
    return Row(name, above, compute=compute, memory=memory, idle=idle, most=most)


def law(constants: Floats, table: Floats) -> Floats:
    """The share of the power above idle for columns of compute and memory."""
    active, compute, memory = constants
    return np.minimum(active + compute * table[:, 0] + memory * table[:, 1], 1.0)


def fit(found: list[Row]) -> Floats:
    """The constants with the least error of the logarithm of power, outliers counted by their size."""
    from scipy.optimize import least_squares

    table, idle, most, above = _columns(found)
    drawn = idle + above * (most - idle)

    def error(constants: Floats) -> Floats:
        return np.asarray(np.log((idle + (most - idle) * law(constants, table)) / drawn), float)

    return np.asarray(least_squares(error, [0.2, 0.5, 0.5], bounds=(0, [1, 3, 3]), loss="soft_l1").x, float)


def _columns(found: list[Row]) -> tuple[Floats, Floats, Floats, Floats]:
    table = np.array([(r.compute, r.memory) for r in found])
    return table, *(np.array([getattr(r, name) for r in found]) for name in ("idle", "most", "above"))


def ratios(constants: Floats, found: list[Row]) -> Floats:
    """Measured over predicted power."""
    table, idle, most, above = _columns(found)
    return np.asarray((idle + above * (most - idle)) / (idle + law(constants, table) * (most - idle)), float)


def main(folder: str) -> None:
    """Print the fitted constants, and the band of models that the fit did not see."""
    found = list(rows(Path(folder)))
    constants = fit(found)
    print(f"{len(found)} servings: {np.round(constants, 3)}; in use {power.ACTIVE} {power.COMPUTE} {power.MEMORY}")
    assert all(catalog_gpu(name) for name in power.POWER_FITTED)
    apart: dict[str, list[Row]] = {}
    for row in found:
        apart.setdefault(row.model.rpartition("__")[0], []).append(row)
    unseen = []
    for name, own in apart.items():
        ratio = ratios(fit([row for row in found if row not in own]), own)
        unseen.append(ratio)
        print(f"{name:<55} {len(own):3}  measured / predicted {np.median(ratio):.2f}")
    every = np.concatenate(unseen)
    low, middle, high = np.quantile(every, (0.1, 0.5, 0.9))
    print(f"unseen: 80 % within {low:.2f} to {high:.2f}, median {middle:.2f}; in use {power.POWER_BAND}")


if __name__ == "__main__":
    main(*sys.argv[1:])
