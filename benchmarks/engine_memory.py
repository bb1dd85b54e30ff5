"""Fit what vLLM takes of a GPU besides weights and cache, from logs of starts: `make memory DATA=FOLDER`.

Reads engine_memory.csv of the folder, prints the errors with each model left out in turn, and writes the constants to
`engine_memory.json` beside this file and to the engines of the catalog. `deployments/profile.py` has the formulas.
"""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import median

import numpy as np
from attrs import evolve, frozen

from plandsl.backends.calibrate.solve import polished
from plandsl.backends.cost.deployments.blocks import count_tokens
from plandsl.backends.cost.deployments.memory import MemoryModel
from plandsl.driver import compile_text
from plandsl.spec.hardware import EngineSpec

HERE = Path(__file__).resolve().parent
MODELS_FILE, CONSTANTS_FILE = HERE / "memory_models.plan", HERE / "engine_memory.json"
CATALOG = HERE.parent / "plandsl" / "catalog" / "engines"
GIB = 2**30

VERSION = "0.19.0"
"""The version whose logs the catalog's constants are fitted to: others have few rows, or incomplete ones."""

MODELS = {
    "Llama-3.1-8B": "llama_3_1_8b", "Meta-Llama-3.1-8B": "llama_3_1_8b", "Llama-3.3-70B": "llama_3_3_70b",
    "Llama-2-7b": "llama_2_7b", "CodeLlama-7b": "codellama_7b", "gemma-2-27b": "gemma_2_27b", "phi-2": "phi_2",
    "gemma-2-9b": "gemma_2_9b", "gemma-2-2b": "gemma_2_2b", "gemma-7b": "gemma_7b", "gpt-oss-20b": "gpt_oss_20b",
    "granite-3.1-2b": "granite_3_1_2b", "granite-3.1-8b": "granite_3_1_8b", "granite-vision": "granite_vision_3_3_2b",
    "Mistral-Small": "mistral_small_24b", "Kimi-VL": "kimi_vl_a3b", "Qwen1.5-MoE": "qwen1_5_moe_a2_7b",
    "Qwen2.5-72B": "qwen2_5_72b", "Qwen3-8B": "qwen3_8b", "Qwen3-14B": "qwen3_14b", "Qwen3-0.6B": "qwen3_0_6b",
    "Qwen3-30B-A3B": "qwen3_30b_a3b", "Qwen3-32B": "qwen3_32b", "Qwen2.5-7B": "qwen2_5_7b", "Mixtral": "mixtral_8x7b",
    "gemma-3-27b": "gemma_3_27b", "gemma-3-12b": "gemma_3_12b",
}  # fmt: skip
"""Starts of the names of models in the rows, and the models' names in the catalog or `memory_models.plan`."""

FORMATS = {
    "bf16": "bf16", "fp16": "fp16", "fp32": "fp32", "mxfp4": "", "fp8": "fp8", "int8": "int8_channel",
    "int4 group 128": "int4_128",
}  # fmt: skip
"""Formats of weights in the language (empty: as the model has them); of others the logged bytes count."""

FITTED = ("workspace", "states", "logit")
"""Constants of the profiled step, which are fitted together; the others are medians or a line."""


@frozen(eq=False)
class Start:
    """One start of an engine: the plan's memory, and what the log says, in bytes on a GPU."""

    model: str
    memory: MemoryModel
    row: dict[str, str]
    told: bool

    @property
    def name(self) -> str:
        """The row in a few words."""
        r = self.row
        kv = " kv fp8" if r["kv_dtype"] == "fp8" else ""
        return f"{self.model} {r['weights_format']}{kv} tp{r['tp']} pp{r['pp']}"

    def number(self, column: str) -> float | None:
        """A column of the log in bytes; None where it is empty."""
        return float(self.row[column]) * GIB if self.row[column] else None

    def activations(self, engine: EngineSpec) -> float:
        """Bytes of the profiled step on the stage that the log is of: the first one."""
        return float(self._on(engine).taken[0][0])

    def _on(self, engine: EngineSpec) -> MemoryModel:
        own = self.memory.plan.engine
        assert own is not None, "the plan of a start has an engine"
        changed = evolve(own, **{name: getattr(engine, name) for name in CONSTANTS})
        return self.memory.main.on(evolve(self.memory.plan, engine=changed))

    def predict(self, engine: EngineSpec, logged_weights: bool) -> tuple[float, float]:
        """Bytes of KV cache on the first stage, and tokens as the log counts them."""
        memory = self._on(engine)
        held = self.number("weights_gib")
        if (logged_weights or not self.told) and held is not None:
            memory.weights = [w - memory.weights[0] + held for w in memory.weights]
        plan, block, length = memory.plan, memory.block, int(self.row["max_model_len"])
        tokens = [
            float(count_tokens(memory.layers(s), memory.pool(s), block, length, plan.step_tokens))
            for s in range(len(memory.weights))
        ]
        return float(memory.pool(0)), min(tokens)


CONSTANTS = (
    "context", "communicators", "libraries", "all_reduce", "workspace", "states", "logit", "graphs", "graph_layer",
)  # fmt: skip


def starts(path: Path, version: str) -> Iterator[Start]:
    """The complete logs of one version of vLLM, each with the memory of its plan."""
    models = MODELS_FILE.read_text(encoding="utf-8")
    for row in rows_of(path):
        if row["engine"] != "vllm" or row["version"] != version or not row["source"].endswith(".log"):
            continue
        model = next((own for start, own in MODELS.items() if row["model"].startswith(start)), None)
        if model is None:
            print(f"left out, no such model here: {row['model']}")
            continue
        weights = FORMATS.get(row["weights_format"])
        activations = "fp32" if row["weights_format"] == "fp32" else "bf16"
        kv = "fp8" if row["kv_dtype"] == "fp8" else activations
        sizes = f"activations = {activations}, kv_cache = {kv}" + (f", weights = {weights}" if weights else "")
        length = int(row["max_model_len"])
        text = f"""{models}
plan start {{
  model = {model} with {{ {sizes} }}
  node = {row["gpu"].removesuffix("_sxm")}_8 with {{ gpu {{ memory = {float(row["gpu_memory_gib"])} GiB }} }}
  sharding {{ tp = {row["tp"]}, pp = {row["pp"]} }}
  engine = vllm with {{ max_requests = {row["max_num_seqs"]}, graphs_in_budget = false, reserve = 0 B }}
  step_tokens = {row["max_batched_tokens"]}
  memory_fraction = {float(row["memory_fraction"])}
  workload {{ input = {length - 192}, output = 192 }}
}}
"""
        memory = compile_text(text)[0].cost.pools[0].memory
        yield Start(model, memory, row, weights is not None)


def rows_of(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file as text."""
    with path.open(encoding="utf-8", newline="") as file:
        return [{k: v.strip() for k, v in row.items()} for row in csv.DictReader(file)]


def fit(found: Sequence[Start]) -> EngineSpec:
    """The constants that come closest to the logs; every model counts the same."""
    engine = EngineSpec("vllm")
    alone = [s for s in found if int(s.row["tp"]) * int(s.row["pp"]) == 1]
    several = [s for s in found if int(s.row["tp"]) * int(s.row["pp"]) > 1]
    summing = [s for s in found if int(s.row["tp"]) > 1]
    libraries = middle(alone, lambda s: s.number("nontorch_gib"))
    context = middle(alone, gone_before)
    layers = np.array([[1.0, sum(one.number for one in s.memory.layers(0))] for s in found])
    graphs, layer = least_off(layers, np.array([s.number("graph_gib") or 0.0 for s in found]))
    engine = evolve(
        engine, libraries=libraries, context=context, graphs=graphs, graph_layer=layer,
        communicators=middle(several, gone_before) - context,
        all_reduce=middle(summing, lambda s: s.number("nontorch_gib")) - libraries,
    )  # fmt: skip
    start = np.array([0.05, 2.0, 12.0])
    scale = np.array([GIB, 1.0, 1.0])

    def at(y: np.ndarray) -> EngineSpec:
        values = np.maximum(start * (1 + y), 0.0) * scale
        return evolve(engine, **dict(zip(FITTED, map(float, values), strict=True)))

    def loss(y: np.ndarray) -> float:
        off: dict[str, list[float]] = {}
        for s in found:
            off.setdefault(s.model, []).append(abs(s.activations(at(y)) - (s.number("activation_gib") or 0.0)) / GIB)
        return float(np.mean([np.mean(v) for v in off.values()]) + 1e-4 * (y**2).sum())

    return rounded(at(polished(loss, np.zeros(3))))


def gone_before(s: Start) -> float | None:
    """Bytes that were gone before the engine measured free memory."""
    free = s.number("initial_free_gib")
    return None if free is None else float(s.row["gpu_memory_gib"]) * GIB - free


def middle(found: Sequence[Start], value: Callable[[Start], float | None]) -> float:
    """The median over models of the mean of a value that some starts have."""
    of: dict[str, list[float]] = {}
    for s in found:
        if (number := value(s)) is not None:
            of.setdefault(s.model, []).append(number)
    return median(np.mean(v) for v in of.values())


def least_off(columns: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """The line with the least absolute deviations: reweighted least squares."""
    weight = np.ones(len(y))
    for _ in range(50):
        found = np.linalg.lstsq(columns * weight[:, None], y * weight, rcond=None)[0]
        weight = 1 / np.sqrt(np.maximum(np.abs(columns @ found - y), 1e-3 * GIB))
    return float(found[0]), float(found[1])


def rounded(engine: EngineSpec) -> EngineSpec:
    """The engine with constants of three digits, large ones in MiB."""
    values = {name: (getattr(engine, name), 1.0 if name in ("states", "logit") else 2**20) for name in CONSTANTS}
    return evolve(engine, **{name: float(f"{value / unit:.3g}") * unit for name, (value, unit) in values.items()})


@frozen
class Off:
    """How far a start's cache is off: GiB and tokens, predicted and logged."""

    start: Start
    gib: tuple[float, float]
    tokens: tuple[float, float]

    @property
    def share(self) -> float:
        """The relative error of the tokens."""
        return self.tokens[0] / self.tokens[1] - 1

    @property
    def bytes(self) -> float:
        """The error in GiB on a GPU."""
        return self.gib[0] - self.gib[1]


def judge(s: Start, engine: EngineSpec, logged_weights: bool) -> Off:
    """A start beside its log."""
    pool, tokens = s.predict(engine, logged_weights)
    return Off(s, (pool / GIB, (s.number("kv_gib") or 0.0) / GIB), (tokens, float(s.row["kv_tokens"])))


def left_out(found: Sequence[Start], logged_weights: bool) -> list[Off]:
    """Every start, with constants fitted to the other models."""
    out = []
    for model in dict.fromkeys(s.model for s in found):
        engine = fit([s for s in found if s.model != model])
        out += [judge(s, engine, logged_weights) for s in found if s.model == model]
    return out


def summary(off: Sequence[Off]) -> str:
    """The errors over models: of each model the mean over its starts."""
    by: dict[str, list[Off]] = {}
    for one in off:
        by.setdefault(one.start.model, []).append(one)
    shares = [float(np.mean([abs(o.share) for o in v])) for v in by.values()]
    gibs = [float(np.mean([abs(o.bytes) for o in v])) for v in by.values()]
    inside = [np.mean([abs(o.share) < 0.1 or abs(o.bytes) < 1.5 for o in v]) for v in by.values()]
    near = [np.mean([abs(o.share) < 0.03 or abs(o.bytes) < 0.5 for o in v]) for v in by.values()]
    return (
        f"{len(off)} starts of {len(by)} models: tokens off by {np.median(shares):.1%} (median) and "
        f"{np.quantile(shares, 0.9):.1%} (nine in ten), {np.median(gibs):.2f} and {np.quantile(gibs, 0.9):.2f} GiB; "
        f"within 3 % or 0.5 GiB {np.mean(near):.0%}, within 10 % or 1.5 GiB {np.mean(inside):.0%}"
    )


def old_logit(path: Path, engine: EngineSpec) -> float:
    """What releases 0.11 to 0.16 took for each entry of the logits beside the logits, in bytes.

    The median over rows with the default limits (1024 requests, 8192 tokens) of models whose sampling is the peak.
    """
    found = []
    for row in rows_of(path):
        sizes = VOCABULARIES.get(next((start for start in MODELS if row["model"].startswith(start)), ""))
        if row["engine"] == "vllm" and row["version"] in OLD and sizes is not None:
            vocab, hidden = sizes
            rest = float(row["activation_gib"]) * GIB - engine.workspace - 8192 * hidden * 2
            found.append(rest / (1024 * vocab) - 2)
    return median(found)


OLD = ("0.11.0", "0.15.0", "0.16.0")

VOCABULARIES = {
    "Llama-3.1-8B": (128256, 4096), "Llama-3.3-70B": (128256, 8192), "Qwen3-0.6B": (151936, 1024),
    "Qwen3-14B": (151936, 5120), "gpt-oss-20b": (201088, 2880),
}  # fmt: skip
"""Vocabulary and hidden size of the models whose rows of old releases tell what sampling took."""


# ---- the engines of the catalog

FIELDS = (*CONSTANTS, "fraction_of", "kv_low", "kv_high", "reserve")
"""Fields of an engine that this script writes."""

WIDE = {"kv_low": 0.8, "kv_high": 1.2}
"""The band of the cache of engines that are not fitted: assumed."""

OUTSIDE = ("context", "communicators")

RULES = {
    "vllm": "device", "vllm_rocm": "device", "atom": "device", "sglang": "free_before", "trtllm": "free_after",
}  # fmt: skip
"""What each engine's fraction is a share of, as its documentation says."""

TAKEN = {
    "vllm": CONSTANTS,
    "vllm_rocm": tuple(name for name in CONSTANTS if name != "all_reduce"),
    "atom": tuple(name for name in CONSTANTS if name != "all_reduce"),
    "sglang": OUTSIDE,
    "trtllm": (*OUTSIDE, "libraries"),
}
"""The constants of vLLM that hold for each engine; of others than vLLM they are assumed.

Fused all_reduce kernels, which need buffers, are FlashInfer's: there are none on AMD GPUs.
"""


def memory_values(name: str) -> dict[str, float | str]:
    """The memory fields of an engine of the catalog."""
    told = json.loads(CONSTANTS_FILE.read_text(encoding="utf-8"))["constants"]
    band = {key: told[key] for key in WIDE} if name == "vllm" else WIDE
    rule = {} if RULES[name] == "device" else {"fraction_of": RULES[name]}
    return {**rule, **{key: told[key] for key in TAKEN[name]}, **band}


def memory_lines(name: str) -> tuple[list[str], list[str]]:
    """The lines of an engine's file about memory: outside `assumed`, and inside."""
    values = memory_values(name)
    lines = {key: f"{key} = {show(key, value)}" for key, value in values.items()}
    if name == "vllm":
        source = json.loads(CONSTANTS_FILE.read_text(encoding="utf-8"))["source"]
        wrapped = [f"# memory: {part}" for part in source.split("; ")]
        return [*wrapped, *lines.values()], []
    rule = [lines.pop("fraction_of")] if "fraction_of" in lines else []
    return rule, ["# memory: not fitted; the constants of vllm", *lines.values()]


def show(name: str, value: float | str) -> str:
    """A memory field in a unit that reads well."""
    if isinstance(value, str) or name in ("states", *WIDE):
        return str(value) if isinstance(value, str) else f"{value:g}"
    return f"{value:g} B" if name == "logit" else f"{value / 2**20:.6g} MiB"


def with_memory(text: str, name: str) -> str:
    """The text of an engine's file with its memory fields as this script has them."""
    lines = [line for line in text.splitlines() if not _is_memory(line)]
    own, assumed = memory_lines(name)
    end = lines.index("}", lines.index(f"engine {name} {{"))
    inside = next((i for i, line in enumerate(lines) if line.strip() == "assumed {"), end)
    rest = [line for line in lines[inside + 1 : end - 1] if line.strip()]
    rest += [f"    {line}" for line in assumed]
    block = ["  assumed {", *rest, "  }"] if rest else []
    return "\n".join([*lines[:inside], *(f"  {line}" for line in own), *block, *lines[end:]]) + "\n"


def _is_memory(line: str) -> bool:
    words = line.split()
    return words[:2] == ["#", "memory:"] or (len(words) > 1 and words[0] in FIELDS and words[1] == "=")


def main(data: str) -> None:
    """Fit, judge on models left out in turn, and write the constants."""
    path = Path(data)
    path = path / "engine_memory.csv" if path.is_dir() else path
    found = list(starts(path, VERSION))
    print(f"{'start':52} {'GiB':>7} {'logged':>7} {'tokens':>10} {'logged':>10} {'off':>7}")
    off = left_out(found, logged_weights=False)
    for o in off:
        ours = "" if o.start.told else "  weights as logged"
        print(
            f"{o.start.name:52} {o.gib[0]:7.2f} {o.gib[1]:7.2f} {o.tokens[0]:10.0f} {o.tokens[1]:10.0f} "
            f"{o.share:+7.1%}{ours}"
        )
    print("models left out in turn:", summary(off))
    print("the same with the weights of the logs:", summary(left_out(found, logged_weights=True)))
    engine = fit(found)
    low, high = np.quantile([o.gib[1] / o.gib[0] for o in off], (0.1, 0.9))
    print(f"up to 0.16 the rows say logit = {old_logit(path, engine):.3g} B")
    constants = {name: getattr(engine, name) for name in CONSTANTS}
    constants |= {"kv_low": float(f"{low:.4g}"), "kv_high": float(f"{high:.4g}")}
    told = {"constants": constants, "source": f"vLLM {VERSION}: {summary(off)}"}
    CONSTANTS_FILE.write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
    for file in sorted(CATALOG.glob("*.plan")):
        file.write_text(with_memory(file.read_text(encoding="utf-8"), file.stem), encoding="utf-8")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m benchmarks.engine_memory DATA, a folder with engine_memory.csv")
    main(sys.argv[1])
