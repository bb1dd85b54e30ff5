"""Names of number formats in engines, and in the language."""

from __future__ import annotations

from plandsl.diagnostics import Diagnostic, PlanError
from plandsl.spec.plan import PlanSpec
from plandsl.spec.scheduler import SchedulerName

CACHES: dict[SchedulerName, dict[str, str]] = {
    "vllm": {"bf16": "bfloat16", "fp16": "float16", "fp8": "fp8", "nvfp4": "nvfp4"},
    "sglang": {"bf16": "bf16", "fp8": "fp8_e4m3", "mxfp8": "mxfp8", "nvfp4": "nvfp4"},
    "trtllm": {"bf16": "auto", "fp16": "auto", "fp8": "fp8", "nvfp4": "nvfp4"},
}
"""Format of a KV cache in the language -> its name in the engine; ``auto`` is that of activations."""

READ_CACHES: dict[SchedulerName, dict[str, str]] = {
    "vllm": {"fp8_e4m3": "fp8", "fp8_e5m2": "fp8", "fp8_ds_mla": "fp8"},
    "sglang": {"bfloat16": "bf16", "fp8_e5m2": "fp8"},
    "trtllm": {},
}
"""Further names of a cache that an import reads."""

WEIGHTS: dict[SchedulerName, dict[str, str]] = {
    "vllm": {
        "fp8": "fp8_per_tensor",
        "fp8_channel": "fp8_per_channel",
        "fp8_128x128": "fp8_per_block",
        "mxfp8": "mxfp8",
        "int8_channel": "int8_per_channel_weight_only",
    },
    "sglang": {"fp8": "fp8", "mxfp8": "mxfp8"},
    "trtllm": {},
}
"""Formats to which an engine converts weights as it loads them. Others are those of the checkpoint."""

DTYPES = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}
"""Formats of weights that are not quantised, and of activations."""

READ_DTYPES = {theirs: ours for ours, theirs in DTYPES.items()}
"""The same, by their names in engines."""


def cache_word(engine: SchedulerName, format_: str, plan: PlanSpec) -> str:
    """The engine's name of the KV cache's format. Raises `PlanError` (E504) if it has no such cache."""
    known = CACHES[engine]
    if format_ in known:
        return known[format_]
    names = ", ".join(f"`{name}`" for name in known)
    hint = f"it has {names}: `--set model.kv_cache=fp8`"
    raise PlanError([Diagnostic("E504", f"{engine} has no KV cache in `{format_}`", plan.span, hint=hint)])


def state_word(engine: SchedulerName, format_: str, plan: PlanSpec) -> str:
    """The engine's name of the format of states. Raises `PlanError` (E504) if it cannot keep them so."""
    if format_ in DTYPES:
        return DTYPES[format_]
    names = ", ".join(f"`{name}`" for name in DTYPES)
    hint = f"it has {names}: `--set model.state_cache=fp32`"
    raise PlanError([Diagnostic("E504", f"{engine} keeps no states in `{format_}`", plan.span, hint=hint)])


def read_cache(engine: SchedulerName, word: str) -> str | None:
    """The format that an engine's name of a cache means; None for ``auto``."""
    if word == "auto":
        return None
    named = {theirs: ours for ours, theirs in CACHES[engine].items() if theirs != "auto"}
    return (named | READ_CACHES[engine]).get(word)


def read_weights(engine: SchedulerName, word: str) -> str | None:
    """The format that `--quantization` converts to; None where it names what the checkpoint has."""
    return {theirs: ours for ours, theirs in WEIGHTS[engine].items()}.get(word, "fp8" if word == "fp8" else None)
