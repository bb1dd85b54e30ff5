"""How published names of models, GPUs, precisions and frameworks are spelled in the catalog."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

Known = Callable[[str, str], bool]
"""Whether the catalog has an entry of a kind and a name."""

# ---- engines

ENGINES = (
    (r"tensorrt|trt", "trtllm"),
    (r"vllm", "vllm"),
    (r"sglang", "sglang"),
    (r"atom", "atom"),
)
"""Engines of the catalog by a part of the name that a row gives. The first one that is found counts."""


def engine_of(framework: str, gpu: str) -> str:
    """The engine of the catalog that a row's framework is; empty for one that the catalog lacks."""
    found = next((name for pattern, name in ENGINES if re.search(pattern, framework.lower())), "")
    return "vllm_rocm" if found == "vllm" and gpu.startswith("mi") else found


# ---- models


def catalog_name(model: str) -> str:
    """How the catalog spells a published name."""
    return re.sub(r"[-. ]", "_", model)


SAME = {
    "deepseek_v3_1_terminus": "deepseek_v3",
    "deepseek_v3_0324": "deepseek_v3",
    "deepseek_r1_distill_llama_70b": "llama_3_3_70b",
    "deepseek_r1_distill_llama_8b": "llama_3_1_8b",
    "deepseek_r1_distill_qwen_32b": "qwen2_5_32b",
    "llama_3_70b": "llama_3_1_70b",
    "llama_3_8b": "llama_3_1_8b",
    "llama_3_1_nemotron_70b": "llama_3_1_70b",
    "qwen2_72b": "qwen2_5_72b",
    "qwq_32b": "qwen2_5_32b",
}
"""Models of the same layers and sizes as one of the catalog: the same architecture in their `config.json`."""

_KINDS = r"instruct|chat|it|hf|base|text|thinking|preview"
_FORMATS = r"fp8|n?v?fp4|mxfp[46]|bf16|fp16|int[48]|w4a16|w8a16|w8a8|awq|gptq|dyn(amic)?|block|ptpc|quark|trtllm"
_TAIL = re.compile(rf"_({_KINDS}|{_FORMATS}|quantized|kv|v\d+(_\d+)?|\d{{4}}|\d+b|\d+e)$")
"""The last word of a name where it says nothing of the layers: how a model was tuned, stored, dated or counted."""


def spellings(model: str) -> Iterator[str]:
    """What the catalog may call a published name, the most exact first."""
    plain = catalog_name(model.strip().lower().rsplit("/", 1)[-1])
    plain = re.sub(r"^(meta_|nvidia_|amd_|openai_)*", "", plain)
    plain = re.sub(r"^llama_?(?=\d)", "llama_", plain)
    yield plain
    found = "_".join(word for word in plain.split("_") if not re.fullmatch(f"{_KINDS}|{_FORMATS}", word))
    while found:
        yield found
        cut = _TAIL.search(found)
        found = found[: cut.start()] if cut else ""


def find_model(model: str, known: Known) -> str:
    """The catalog's entry for a published name; empty where it has none."""
    for name in spellings(model):
        for found in (name, SAME.get(name, "")):
            if found and known("model", found):
                return found
    return ""


# ---- GPUs

_VENDOR = r"nvidia|amd|instinct|geforce|tesla|quadro|superchip|blackwell|server|edition|grace|hopper"
_REST = r"\d+gbx?\d*|hbm\w+|nps\d|spx|\d+w|aarch64"


def find_gpu(gpu: str, known: Known) -> str:
    """The catalog's entry for a GPU: its own name, or without vendor and memory, or the module that goes by it."""
    plain = re.sub(r"[- .]+", "_", gpu.strip().lower())
    words = [w for w in plain.split("_") if not re.fullmatch(f"{_VENDOR}|{_REST}", w)]
    bare = "_".join(words)
    for name in (plain, bare, f"{bare}_sxm", bare.replace("_sxm5", "_sxm").replace("_sxm4", "_sxm")):
        if name and known("gpu", name):
            return name
    return ""


# ---- precisions

PRECISION = {
    "bf16": ("bf16", "bf16"),
    "fp16": ("fp16", "fp16"),
    "fp8": ("fp8", "fp8"),
    "fp4": ("nvfp4", "fp8"),
    "nvfp4": ("nvfp4", "fp8"),
    "mxfp4": ("mxfp4", "fp8"),
    "mxfp6": ("mxfp6", "fp8"),
    "int8": ("int8", "fp16"),
    "int4": ("int4", "fp16"),
}
"""Weights and KV cache that a precision stands for."""

_WORDS = (
    (r"nvfp4", "nvfp4"),
    (r"mxfp4|mx_?fp4", "mxfp4"),
    (r"mxfp6", "mxfp6"),
    (r"fp4", "fp4"),
    (r"w4a16|int4|awq|gptq|4.?bit", "int4"),
    (r"w8a8_int8_or_fp8|fp8|e4m3|ptpc", "fp8"),
    (r"int8|w8a8|w8a16|8.?bit", "int8"),
    (r"bf16|bfloat16", "bf16"),
    (r"fp16|float16|half", "fp16"),
)
"""Precisions by a part of what a row, or the name of its checkpoint, says; the first one that is found counts."""


def precision_of(said: str, checkpoint: str = "") -> str:
    """A precision of `PRECISION`: what a row says, else what the name of its checkpoint says, else 16 bits."""
    for text in (said.lower(), checkpoint.lower()):
        if text in PRECISION:
            return text
        if found := next((name for pattern, name in _WORDS if re.search(pattern, text)), ""):
            return found
        if text and text is not checkpoint.lower() and text not in ("auto", "unset", "unknown", "nan", "none"):
            return ""
    return "bf16"


def kv_dtype(engine: str, gpu: str, weights: str, cache: str) -> str:
    """How the KV cache is stored.

    vLLM stores it at 16 bits unless it is told otherwise, and on Hopper and before the published recipes do not tell
    it; checkpoints for TensorRT-LLM name the 8 bits themselves, as recipes do for Blackwell and AMD.
    """
    if engine in ("vllm", "sglang") and weights == "fp8" and gpu.startswith(("h1", "h2", "h8", "gh", "l40", "rtx_4")):
        return "bf16"
    return cache
