"""The fusions that an engine may name: ops that it runs in one kernel, and how large an all_reduce may be in one."""

from __future__ import annotations

from typing import NamedTuple

FUSIONS = {
    "all_reduce_norm": "an all_reduce, the residual addition and the norm that follow it",
    "all_reduce_norm_quantize": "the same, and the quantisation of the norm's result, with one scale or to nvfp4",
    "residual_norm": "the residual addition at the end of a layer, and the norm at the beginning of the next one",
    "norm_quantize": "a norm and the quantisation of its result",
    "activation_quantize": "an activation with its gate and the quantisation of the result",
    "attention_quantize": "attention and the quantisation of its result",
    "gemm_bias": "a GEMM and the addition of its bias",
    "norm_rope": "the norms of queries and keys and their rotary embedding",
    "rope_cache": "rotary embedding and the write of keys and values to the cache",
}
"""Every fusion by its name, and the ops that it joins."""

NARROWEST = ("bf16", "int8", "fp8", "fp4")
"""Formats by which an engine may distinguish GPUs: the narrowest one that a GPU multiplies in."""

ANY = "any"
"""The word for GPUs whose narrowest format has no sizes of its own."""


class FusedSizes(NamedTuple):
    """The most bytes of an all_reduce that shares its kernel with other ops, for groups of 2 ranks and more.

    ``ranks`` rise. A group has the sizes of the first number of ranks that is not below its own; a larger group has no
    such kernel. ``bytes`` are pairs of a format in `NARROWEST`, or `ANY`, and one size for each number of ranks. A
    GPU has the sizes of the narrowest format that it multiplies in, else those of `ANY`, else no such kernel.
    """

    ranks: tuple[int, ...]
    bytes: tuple[tuple[str, tuple[float, ...]], ...]
