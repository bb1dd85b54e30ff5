"""The number formats of a checkpoint, from its config.json."""

from __future__ import annotations

from typing import Any, NamedTuple

from plandsl.diagnostics import suggest
from plandsl.grammar.hf_config import Config, json_text

_DTYPES = {"bfloat16": "bf16", "float16": "fp16", "half": "fp16", "float32": "fp32", "float": "fp32"}
_ALGORITHMS = {"FP8": "fp8", "NVFP4": "nvfp4", "MXFP4": "mxfp4", "MXFP8": "mxfp8"}
_METHODS = ("fp8", "fbgemm_fp8", "mxfp4", "gptq", "awq", "compressed-tensors", "modelopt")
_FIELD = "quantization_config"


class Storage(NamedTuple):
    """Number formats by the names of the language; empty ``compute`` or ``experts`` mean the format of ``weights``."""

    weights: str
    activations: str
    kv_cache: str
    compute: str = ""
    experts: str = ""


class _Quantized(NamedTuple):
    """The format of weights, and whether activations keep their own format in GEMMs."""

    weights: str
    weights_only: bool


def storage_of(config: Config, has_experts: bool) -> Storage:
    """The number formats; findings about wrong or unknown formats are recorded in ``config``."""
    activations = _dtype(config)
    table = config.table(_FIELD)
    if table is None:
        return Storage(activations, activations, activations)
    quantized = _quantized(config, table)
    kv_cache = _kv_cache(table) or activations
    if quantized is None:
        return Storage(activations, activations, kv_cache)
    if table.get("quant_method") == "mxfp4" and has_experts:  # this method stores only experts in mxfp4
        return Storage(activations, activations, kv_cache, activations, quantized.weights)
    what = f"all weights count as {quantized.weights}: weights that the checkpoint keeps in {activations}"
    config.note(f"{what}, and scales of groups, are ignored", _FIELD)
    return Storage(quantized.weights, activations, kv_cache, activations if quantized.weights_only else "")


def _dtype(config: Config) -> str:
    key = config.first("torch_dtype", "dtype")
    word = config.word(key)
    if word is None:
        config.note('there is no "torch_dtype": bf16 is assumed')
        return "bf16"
    name = word.removeprefix("torch.")
    if name not in _DTYPES:
        config.fail("E217", f"`hf` knows no number format {json_text(word)}", key, suggest(name, _DTYPES))
    return _DTYPES.get(name, "bf16")


def _quantized(config: Config, table: dict[str, Any]) -> _Quantized | None:
    method = table.get("quant_method")
    found: _Quantized | None = None
    match method:
        case "fp8" | "fbgemm_fp8":
            found = _Quantized("fp8", False)
        case "mxfp4":
            found = _Quantized("mxfp4", True)
        case "gptq" | "awq" if type(bits := table.get("bits", table.get("w_bit"))) is int and bits in (4, 8):
            found = _Quantized(f"int{bits}", True)
        case "compressed-tensors":
            found = _groups(table)
        case "modelopt" if (algorithm := str(table.get("quant_algo"))) in _ALGORITHMS:
            found = _Quantized(_ALGORITHMS[algorithm], False)
    if found is None:
        known = isinstance(method, str) and method in _METHODS
        hint = "" if known else suggest(str(method), _METHODS)
        more = " with these settings" if known else ""
        config.fail("E232", f'"{_FIELD}": `hf` cannot read the method {json_text(method)}{more}', _FIELD, hint)
    return found


def _groups(table: dict[str, Any]) -> _Quantized | None:
    """The format of compressed-tensors, if all its groups have the same format."""
    groups = table.get("config_groups")
    found = {_group(group) for group in groups.values()} if isinstance(groups, dict) else set()
    return found.pop() if len(found) == 1 else None


def _group(group: Any) -> _Quantized | None:
    weights = group.get("weights") if isinstance(group, dict) else None
    if not isinstance(weights, dict):
        return None
    match weights.get("type"), weights.get("num_bits"), weights.get("group_size"):
        case "float", 4, 16:
            name = "nvfp4"
        case "float", 4, 32:
            name = "mxfp4"
        case "float", 8, _:
            name = "fp8"
        case "int", 4 | 8 as bits, _:
            name = f"int{bits}"
        case _:
            return None
    return _Quantized(name, group.get("input_activations") is None)


def _kv_cache(table: dict[str, Any]) -> str:
    scheme = table.get("kv_cache_scheme")
    if table.get("kv_cache_quant_algo") == "FP8":
        return "fp8"
    if isinstance(scheme, dict) and scheme.get("num_bits") == 8:
        return "int8" if scheme.get("type") == "int" else "fp8"
    return ""
