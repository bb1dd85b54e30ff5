"""The number formats of plans as `jax.numpy` has them."""

from __future__ import annotations

from plandsl.diagnostics import Diagnostic, PlanError
from plandsl.spec.formats import base_format

NAMES = {
    "int32": "int32",
    "fp64": "float64",
    "fp32": "float32",
    "tf32": "float32",
    "bf16": "bfloat16",
    "fp16": "float16",
    "fp8": "float8_e4m3fn",
    "int8": "int8",
    "fp4": "float4_e2m1fn",
    "int4": "int4",
    "mxfp8": "float8_e4m3fn",
    "mxfp4": "float4_e2m1fn",
    "nvfp4": "float4_e2m1fn",
}
"""Format of a plan -> type of `jax.numpy`. Scales of blocks and groups are not held."""


def type_name(word: str) -> str:
    """The type of `jax.numpy` for elements of format ``word``. Raises `PlanError` (E516) where there is none."""
    if (name := NAMES.get(base_format(word))) is None:
        why = f"jax.numpy has no type for the format `{word}`"
        raise PlanError([Diagnostic("E516", why, hint="set weights, activations and cache to another format")])
    return name
