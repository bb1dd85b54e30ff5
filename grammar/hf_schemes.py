"""How a quantised checkpoint stores weights: the format of each group of modules, from its `quantization_config`."""

from __future__ import annotations

from typing import Any, NamedTuple

from plandsl.spec.formats import BITS, LARGEST_GROUP, is_storage

METHODS = (
    *("fp8", "fbgemm_fp8", "mxfp4", "gptq", "awq", "auto-round", "compressed-tensors", "modelopt", "modelopt_fp4"),
    *("bitsandbytes", "quark"),
)
LISTS = ("modules_to_not_convert", "ignored_layers", "ignore", "exclude_modules", "exclude", "llm_int8_skip_modules")
"""Fields that name the modules which the checkpoint keeps in its own format."""

LINEAR = "Linear"
"""The target that stands for all linear layers."""

_ALGORITHMS = {"FP8": "fp8", "NVFP4": "nvfp4", "MXFP4": "mxfp4", "MXFP8": "mxfp8"}
_DEFAULT_GROUP = 128  # of GPTQ and AWQ configs without `group_size`


class Scheme(NamedTuple):
    """A format of weights, the modules that have it, and whether activations keep their own format in GEMMs."""

    word: str
    weights_only: bool
    targets: tuple[str, ...] = (LINEAR,)


def schemes_of(table: dict[str, Any]) -> tuple[Scheme, ...]:
    """The formats that a `quantization_config` gives to weights; empty where it cannot be read."""
    match table.get("quant_method"):
        case "fp8":
            found = [_fp8(table)]
        case "fbgemm_fp8":
            found = [Scheme("fp8_channel", False)]
        case "mxfp4":
            found = [Scheme("mxfp4", True)]
        case "gptq" | "awq" | "auto-round":
            found = [_integers(table)]
        case "bitsandbytes":
            found = [_bitsandbytes(table)]
        case "modelopt":
            found = [_modelopt(table)]
        case "modelopt_fp4":
            found = [_modelopt({"quant_algo": "NVFP4"} | table)]
        case "quark":
            found = [_quark(table)]
        case "compressed-tensors":
            groups = table.get("config_groups")
            found = [_group(group) for group in groups.values()] if isinstance(groups, dict) else []
        case _:
            found = []
    made = tuple(scheme for scheme in found if scheme is not None and is_storage(scheme.word))
    return made if len(made) == len(found) else ()


def _fp8(table: dict[str, Any]) -> Scheme | None:
    block = table.get("weight_block_size")
    return Scheme("fp8" if block is None else f"fp8_{_block(block)}", False)


def _block(sizes: Any) -> str:
    """``128x128``, from the sizes of a block along outputs and inputs; `none` for anything else."""
    if isinstance(sizes, list) and len(sizes) == 2 and all(map(_is_size, sizes)):
        outputs, inputs = sizes
        return f"{inputs}x{outputs}"
    return "none"


def _is_size(size: Any) -> bool:
    return type(size) is int and 0 < size <= LARGEST_GROUP


def _integers(table: dict[str, Any]) -> Scheme | None:
    bits, size = table.get("bits", table.get("w_bit")), table.get("group_size", table.get("q_group_size"))
    made = _grouped("int", bits, _DEFAULT_GROUP if size is None else size, weights_only=True)
    listed = table.get("modules_in_block_to_quantize")
    if made is None or not listed:
        return made
    parts = listed if isinstance(listed, list) else [None]
    names: list[Any] = [name for part in parts for name in (part if isinstance(part, list) else [None])]
    return made._replace(targets=tuple(names)) if all(isinstance(name, str) for name in names) else None


def _grouped(kind: str, bits: Any, size: Any, *, weights_only: bool) -> Scheme | None:
    """Integers or floats with a scale for ``size`` inputs; -1: for all inputs of an output."""
    name = f"{kind}{bits}"
    if type(bits) is not int or name not in BITS or not (size == -1 or _is_size(size)):
        return None
    return Scheme(f"{name}_channel" if size == -1 else f"{name}_{size}", weights_only)


def _bitsandbytes(table: dict[str, Any]) -> Scheme | None:
    if table.get("load_in_4bit"):
        return Scheme("fp4_64", True)  # nf4 or fp4, with an fp32 scale for 64 elements
    return Scheme("int8_channel", False) if table.get("load_in_8bit") else None


def _modelopt(table: dict[str, Any]) -> Scheme | None:
    algorithm = str(table.get("quant_algo"))
    if algorithm == "W4A16_AWQ":
        return _integers({"bits": 4, "group_size": table.get("group_size")})
    return Scheme(_ALGORITHMS[algorithm], False) if algorithm in _ALGORITHMS else None


def _quark(table: dict[str, Any]) -> Scheme | None:
    """AMD Quark: the format of all layers."""
    config = table.get("global_quant_config")
    weight = config.get("weight") if isinstance(config, dict) else None
    if not isinstance(config, dict) or not isinstance(weight, dict):
        return None
    name = str(weight.get("dtype")).partition("_")[0]
    only, size = config.get("input_tensors") is None, weight.get("group_size")
    match name, weight.get("qscheme"):
        case "fp4", "per_group" if size in (16, 32):
            return Scheme("mxfp4" if size == 32 else "nvfp4", only)
        case "fp8" | "int8" | "int4", "per_tensor":
            return Scheme(name, only)
        case "fp8" | "int8" | "int4", "per_channel":
            return Scheme(f"{name}_channel", only)
        case "fp8" | "int8" | "int4", "per_group" if _is_size(size):
            return Scheme(f"{name}_{size}", only)
    return None


def _group(group: Any) -> Scheme | None:
    """One of the `config_groups` of compressed-tensors."""
    weights = group.get("weights") if isinstance(group, dict) else None
    if not isinstance(weights, dict):
        return None
    targets = group.get("targets", [LINEAR])
    if not isinstance(targets, list) or not all(isinstance(target, str) for target in targets):
        return None
    only = group.get("input_activations") is None
    kind, bits, size = weights.get("type"), weights.get("num_bits"), weights.get("group_size")
    strategy = weights.get("strategy") or ("tensor" if size is None else "channel" if size == -1 else "group")
    made: Scheme | None
    match kind, bits, strategy, size:
        case "float", 4, _, 16:
            made = Scheme("nvfp4", only)
        case "float", 4, _, 32:
            made = Scheme("mxfp4", only)
        case "float" | "int", _, "tensor", _:
            made = Scheme(f"{_KINDS[kind]}{bits}", only)
        case "float" | "int", _, "channel", _:
            made = _grouped(_KINDS[kind], bits, -1, weights_only=only)
        case "float" | "int", _, "group", _:
            made = _grouped(_KINDS[kind], bits, size, weights_only=only)
        case "float", 8, "block", _:
            made = Scheme(f"fp8_{_block(weights.get('block_structure'))}", only)
        case _:
            made = None
    return made and made._replace(targets=tuple(targets))


_KINDS = {"float": "fp", "int": "int"}
