"""Arguments of engines, as data: those that say something of a plan, and those that say nothing.

The names and their meanings were read from the releases that `READ_FROM` names. The names of all arguments stand in the
files of `recorded/`: an import tells of those that it does not read, and an export writes none of them.
"""

from __future__ import annotations

from functools import cache, lru_cache
from pathlib import Path
from typing import Literal, NamedTuple, TypeAlias

from plandsl.backends.engines.formats import DTYPES
from plandsl.spec.scheduler import SchedulerName

Value: TypeAlias = "bool | int | float | str | dict[str, object] | list[object]"
"""The value of an argument: a switch, a number, a word, or an object or a list of JSON."""

Settings: TypeAlias = "dict[str, Value]"
"""Arguments of one server by their long names, without the dashes in front."""

Kind: TypeAlias = Literal["switch", "pair", "whole", "number", "word", "words", "json"]
"""What follows a flag.

Nothing (a ``pair`` also has a ``--no-`` form), a whole number, a number, a word, several words, or JSON.
"""

READ_FROM: dict[SchedulerName, str] = {
    "vllm": "the wheel of vLLM 0.33.0 (vllm/engine/arg_utils.py, vllm/entrypoints/common/cli_args.py), and "
    "snowflakedb/ArcticInference at commit 066f489 (arctic_inference/vllm/args.py)",
    "sglang": "the wheel of SGLang 0.5.23 (sglang/srt/arg_groups/fields)",
    "trtllm": "NVIDIA/TensorRT-LLM at commits 0004396 (tensorrt_llm/llmapi/llm_args.py) and 9e7f85f "
    "(tests/unittest/api_stability/references/trtllm_serve_cli.yaml)",
}
"""The texts whose definitions of arguments the tables below follow."""

SHOWN: dict[SchedulerName, str] = {
    "vllm": "vLLM 0.33.0",
    "sglang": "SGLang 0.5.23",
    "trtllm": "TensorRT-LLM (commit 0004396)",
}


class Flag(NamedTuple):
    """An argument: its long name, what follows it, other spellings, and the least whole number that it takes."""

    name: str
    kind: Kind = "whole"
    also: tuple[str, ...] = ()
    least: int = 1
    words: tuple[str, ...] = ()


_CACHES = (
    "auto", "float16", "bfloat16", "fp8", "fp8_e4m3", "fp8_e5m2", "fp8_inc", "fp8_ds_mla", "nvfp4_ds_mla",
    "turboquant_k8v4", "turboquant_4bit_nc", "turboquant_k3v4_nc", "turboquant_3bit_nc", "octave_k3v4", "octave_k3v3",
    "octave_k3v3_compact", "ultraquant_4bit", "int4_per_token_head", "int8_per_token_head", "fp8_per_token_head",
    "nvfp4", "nvfp4_4over6",
)  # fmt: skip

VLLM = (
    Flag("model", "word"),
    Flag("served-model-name", "word"),
    Flag("tensor-parallel-size", also=("-tp",)),
    Flag("pipeline-parallel-size", also=("-pp",)),
    Flag("data-parallel-size", also=("-dp",)),
    Flag("data-parallel-size-local", also=("-dpl",)),
    Flag("prefill-context-parallel-size", also=("-pcp",)),
    Flag("decode-context-parallel-size", also=("-dcp",)),
    Flag("enable-expert-parallel", "pair", ("-ep",)),
    Flag("ulysses-sequence-parallel-size"),
    Flag("enable-shift-parallel", "switch"),
    Flag("shift-parallel-threshold", least=0),
    Flag("dtype", "word", words=("auto", "half", "float16", "bfloat16", "float", "float32")),
    Flag("quantization", "word", ("-q",)),
    Flag("kv-cache-dtype", "word", words=_CACHES),
    Flag("max-num-seqs"),
    Flag("max-num-batched-tokens"),
    Flag("max-model-len", least=-1),
    Flag("enable-chunked-prefill", "pair"),
    Flag("long-prefill-token-threshold", least=0),
    Flag("long-prefill-token-threshold-adaptive", "pair"),
    Flag("enable-prefix-caching", "pair"),
    Flag("gpu-memory-utilization", "number", ("--device-memory-utilization",)),
    Flag("block-size"),
    Flag("scheduling-policy", "word", words=("fcfs", "priority")),
    Flag("watermark", "number"),
    Flag("async-scheduling", "pair"),
    Flag("speculative-config", "json", ("-sc",)),
    Flag("kv-transfer-config", "json"),
    Flag("enable-lora", "pair"),
    Flag("max-loras"),
    Flag("max-lora-rank"),
    Flag("max-cpu-loras"),
    Flag("lora-target-modules", "words"),
    Flag("runner", "word", words=("auto", "generate", "pooling", "draft")),
    Flag("convert", "word", words=("auto", "none", "embed", "classify", "reward")),
    Flag("kv-offloading-size", "number"),
    Flag("kv-offloading-backend", "word", words=("native", "lmcache")),
    Flag("mamba-cache-dtype", "word", words=("auto", *DTYPES.values())),
    Flag("mamba-ssm-cache-dtype", "word", words=("auto", *DTYPES.values())),
    Flag("mm-encoder-tp-mode", "word", words=("weights", "data")),
    Flag("scheduler-reserve-full-isl", "pair"),
    Flag("nnodes", also=("-n",)),
)

SGLANG = (
    Flag("model-path", "word", ("--model",)),
    Flag("served-model-name", "word"),
    Flag("tp-size", also=("--tensor-parallel-size", "--tp")),
    Flag("pp-size", also=("--pipeline-parallel-size",)),
    Flag("dp-size", also=("--data-parallel-size", "--dp")),
    Flag("attn-dp-size", also=("--attention-data-parallel-size",)),
    Flag("enable-dp-attention", "switch"),
    Flag("ep-size", also=("--expert-parallel-size", "--ep")),
    Flag("moe-dense-tp-size"),
    Flag("dtype", "word", words=("auto", "half", "float16", "bfloat16", "float", "float32")),
    Flag("quantization", "word"),
    Flag("kv-cache-dtype", "word",
         words=("auto", "fp8_e5m2", "fp8_e4m3", "mxfp8", "bf16", "bfloat16", "nvfp4", "fp4_mx_block16")),
    Flag("max-running-requests"),
    Flag("max-prefill-tokens"),
    Flag("chunked-prefill-size", least=-1),
    Flag("enable-mixed-chunk", "switch"),
    Flag("prefill-max-requests"),
    Flag("context-length"),
    Flag("disable-radix-cache", "switch"),
    Flag("mem-fraction-static", "number"),
    Flag("page-size"),
    Flag("schedule-policy", "word", words=("lpm", "random", "fcfs", "dfs-weight", "lof", "priority", "routing-key",
                                           "hrrn", "shortest-prefill-first")),
    Flag("enable-priority-scheduling", "switch"),
    Flag("schedule-conservativeness", "number"),
    Flag("disable-overlap-schedule", "switch"),
    Flag("speculative-algorithm", "word"),
    Flag("speculative-draft-model-path", "word", ("--speculative-draft-model",)),
    Flag("speculative-num-steps", least=0),
    Flag("speculative-eagle-topk"),
    Flag("speculative-num-draft-tokens"),
    Flag("disaggregation-mode", "word", words=("null", "prefill", "decode")),
    Flag("disaggregation-transfer-backend", "word",
         words=("mooncake", "nixl", "ascend", "fake", "mori", "mooncake_tcp")),
    Flag("enable-lora", "switch"),
    Flag("max-loras-per-batch"),
    Flag("max-lora-rank"),
    Flag("max-loaded-loras"),
    Flag("lora-target-modules", "words"),
    Flag("is-embedding", "switch"),
    Flag("enable-hierarchical-cache", "switch", ("--enable-hicache",)),
    Flag("hicache-size", least=0),
    Flag("hicache-ratio", "number"),
    Flag("hicache-write-policy", "word", words=("write_back", "write_through", "write_through_selective")),
    Flag("mamba-ssm-dtype", "word", words=tuple(DTYPES.values())),
    Flag("mm-enable-dp-encoder", "pair"),
    Flag("nnodes"),
)  # fmt: skip

TRTLLM = (
    Flag("model", "word"),
    Flag("served_model_name", "word"),
    Flag("tensor_parallel_size", also=("--tp_size",)),
    Flag("pipeline_parallel_size", also=("--pp_size",)),
    Flag("moe_tensor_parallel_size"),
    Flag("moe_expert_parallel_size", also=("--ep_size",)),
    Flag("enable_attention_dp", "switch"),
    Flag("pp_partition", "json"),
    Flag("max_batch_size"),
    Flag("max_num_tokens"),
    Flag("max_seq_len"),
    Flag("enable_chunked_prefill", "switch"),
    Flag("disable_overlap_scheduler", "switch"),
    Flag("kv_cache_config", "json"),
    Flag("free_gpu_memory_fraction", "number", ("--kv_cache_free_gpu_memory_fraction",)),
    Flag("scheduler_config", "json"),
    Flag("speculative_config", "json"),
    Flag("cache_transceiver_config", "json"),
    Flag("lora_config", "json"),
    Flag("dtype", "word"),
)

FLAGS: dict[SchedulerName, tuple[Flag, ...]] = {"vllm": VLLM, "sglang": SGLANG, "trtllm": TRTLLM}
"""Arguments that say something of a plan."""

OTHER: dict[SchedulerName, dict[str, int]] = {
    "vllm": {
        "host": 1, "port": 1, "trust-remote-code": 0, "api-key": 1, "seed": 1, "tokenizer": 1, "revision": 1,
        "download-dir": 1, "load-format": 1, "disable-log-requests": 0, "enable-log-requests": 0,
        "no-enable-log-requests": 0, "disable-log-stats": 0, "node-rank": 1, "master-addr": 1, "master-port": 1,
        "headless": 0, "distributed-executor-backend": 1, "data-parallel-address": 1, "data-parallel-rpc-port": 1,
        "data-parallel-start-rank": 1, "data-parallel-hybrid-lb": 0, "data-parallel-external-lb": 0,
        "data-parallel-backend": 1, "enforce-eager": 0, "compilation-config": 1, "tool-call-parser": 1,
        "enable-auto-tool-choice": 0, "reasoning-parser": 1, "chat-template": 1, "all2all-backend": 1,
        "disable-custom-all-reduce": 0, "swap-space": 1, "tokenizer-mode": 1, "generation-config": 1,
        "disaggregation-mode": 1,
        "enable-eplb": 0, "eplb-config": 1, "enable-dbo": 0, "cudagraph-capture-sizes": 1, "hf-overrides": 1,
        "limit-mm-per-prompt": 1, "attention-backend": 1, "max-cudagraph-capture-size": 1, "calculate-kv-scales": 0,
        "no-calculate-kv-scales": 0, "num-gpu-blocks-override": 1, "kv-cache-memory-bytes": 1,
    },
    "sglang": {
        "host": 1, "port": 1, "trust-remote-code": 0, "api-key": 1, "random-seed": 1, "tokenizer-path": 1,
        "revision": 1, "download-dir": 1, "load-format": 1, "node-rank": 1, "dist-init-addr": 1, "log-level": 1,
        "enable-metrics": 0, "attention-backend": 1, "moe-a2a-backend": 1, "moe-runner-backend": 1,
        "tool-call-parser": 1, "reasoning-parser": 1, "chat-template": 1, "disable-cuda-graph": 0,
        "cuda-graph-max-bs": 1, "watchdog-timeout": 1, "load-balance-method": 1, "disaggregation-bootstrap-port": 1,
        "disaggregation-ib-device": 1, "enable-two-batch-overlap": 0, "enable-eplb": 0, "base-gpu-id": 1,
        "max-total-tokens": 1,
    },
    "trtllm": {
        "host": 1, "port": 1, "backend": 1, "trust_remote_code": 0, "tokenizer": 1, "log_level": 1, "config": 1,
        "extra_llm_api_options": 1, "gpus_per_node": 1, "num_postprocess_workers": 1, "reasoning_parser": 1,
        "cuda_graph_config": 1, "moe_config": 1, "print_iter_log": 1,
        "trust-remote-code": 0, "cluster_size": 1,
    },
}  # fmt: skip
"""Arguments that an import does not read, and how many words follow each."""

CHANGES: dict[SchedulerName, frozenset[str]] = {
    "vllm": frozenset({
        "enforce-eager", "compilation-config", "enable-eplb", "eplb-config", "enable-dbo", "cudagraph-capture-sizes",
        "hf-overrides", "max-cudagraph-capture-size", "num-gpu-blocks-override", "kv-cache-memory-bytes", "swap-space",
    }),
    "sglang": frozenset({
        "disable-cuda-graph", "cuda-graph-max-bs", "enable-two-batch-overlap", "enable-eplb", "max-total-tokens",
    }),
    "trtllm": frozenset({"cuda_graph_config", "moe_config"}),
}  # fmt: skip
"""Those of `OTHER` that change how an engine runs the model, or how much it holds. The others say nothing of a plan."""

MODEL_FLAG: dict[SchedulerName, str] = {"vllm": "model", "sglang": "model-path", "trtllm": "model"}
"""The argument that names the checkpoint."""


@lru_cache(maxsize=1024)
def find_flag(engine: SchedulerName, word: str) -> Flag | None:
    """The flag of an engine that ``word`` (with its dashes) is a spelling of; None where the engine has none."""
    plain = normal(engine, word.lstrip("-"))
    for flag in FLAGS[engine]:
        if word in flag.also or normal(engine, flag.name) == plain:
            return flag
        if flag.kind == "pair" and plain == f"no-{flag.name}":
            return flag
        if any(normal(engine, one.lstrip("-")) == plain for one in flag.also if one.startswith("--")):
            return flag
    return None


@cache
def recorded(engine: SchedulerName) -> dict[str, tuple[str, ...]]:
    """All names of an engine's arguments with their other spellings, from the files in `recorded/`."""
    lines = (Path(__file__).parent / "recorded" / f"{engine}.txt").read_text(encoding="utf-8").splitlines()
    names = (line.split() for line in lines if not line.startswith("#"))
    return {name.removeprefix("--"): tuple(others) for name, *others in names}


def is_recorded(engine: SchedulerName, word: str) -> bool:
    """Whether ``word`` (with its dashes) is an argument of the engine, or the `--no-` form of one."""
    plain, known = normal(engine, word.lstrip("-")), recorded(engine)
    if word in {one for others in known.values() for one in others}:
        return True
    return word.startswith("--") and (plain in known or plain.removeprefix("no-") in known)


def normal(engine: SchedulerName, name: str) -> str:
    """A name in the engine's own spelling: TensorRT-LLM's has underscores, the others take `_` for `-`."""
    return name.replace("-", "_") if engine == "trtllm" else name.replace("_", "-")
