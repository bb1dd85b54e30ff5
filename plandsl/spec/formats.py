"""Number formats: their bits as stored, and the arithmetic in which each is multiplied."""

from __future__ import annotations

BITS = {
    "int32": 32,
    "fp64": 64,
    "fp32": 32,
    "tf32": 32,
    "bf16": 16,
    "fp16": 16,
    "fp8": 8,
    "int8": 8,
    "fp6": 6,
    "fp4": 4,
    "int4": 4,
    # block formats store one 8-bit scale per 32 elements (OCP Microscaling 1.0), nvfp4 one per 16
    "mxfp8": 8.25,
    "mxfp6": 6.25,
    "mxfp4": 4.25,
    "nvfp4": 4.5,
}
"""Bits per element as stored, scales included."""

ARITHMETIC = {"mxfp8": "fp8", "mxfp6": "fp6", "mxfp4": "fp4", "nvfp4": "fp4"}
"""Storage format -> format whose matrix peak applies, if the two differ."""


def item_bytes(dtype: str) -> float:
    """Bytes per element of ``dtype`` as stored."""
    return BITS[dtype] / 8
