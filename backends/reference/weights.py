"""Random global weights: every sharding of a model gets the same weights."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import TypeAlias

import numpy as np

from plandsl.backends.reference.placement import Array
from plandsl.ir.names import Blocks, Merged, RegionName
from plandsl.ir.program import Program, Region
from plandsl.ir.types import Value

Key: TypeAlias = tuple[RegionName, int | None, str]
"""Region, layer (None outside blocks) and name of a weight."""

Weights: TypeAlias = dict[Key, Array]


def global_sizes(program: Program, bind: Mapping[str, int]) -> dict[str, int]:
    """The size of each dimension with the symbols bound; dimensions with an unbound symbol are left out."""
    bound = {n: bind.get(s) if isinstance(s, str) else s for n, s in program.sizes}
    bound |= {n: program.mesh.ways(n.axes) for n in bound if isinstance(n, Blocks)}
    return merged_sizes({n: s for n, s in bound.items() if s is not None})


def merged_sizes(sizes: Mapping[str, int]) -> dict[str, int]:
    """``sizes``, in which each dimension of merged tokens has the size that follows from its tokens."""
    return {n: -(-sizes[n.of] // n.by) if isinstance(n, Merged) and n.of in sizes else s for n, s in sizes.items()}


def make_weights(program: Program, bind: Mapping[str, int], seed: int = 0) -> Weights:
    """The whole float64 array of every weight of every layer.

    A weight depends on its names, its shape and ``seed`` only, not on the sharding or on other weights.
    """
    sizes = global_sizes(program, bind)
    out: Weights = {}
    for region in program.regions:
        layers = [None] if region.layers is None else region.every.select(region.layers)
        for layer in layers:
            for weight in region.weights:
                out[region.name, layer, weight.name] = _draw(region, layer, weight, sizes, seed)
    return out


def _draw(region: Region, layer: int | None, weight: Value, sizes: Mapping[str, int], seed: int) -> Array:
    """Random gains around 1; other weights are scaled by the first dimension as fan-in, so that values keep scale."""
    shape = tuple(sizes[n] for n in weight.type.names)
    # outside of blocks, equal names and dimensions are one weight: an embedding tied to the head
    place = "" if region.layers is None else f"{region.name} {layer}"
    text = f"{seed} {place} {weight.name} {weight.type.names} {shape}"
    noise = np.random.default_rng(list(hashlib.sha256(text.encode()).digest())).standard_normal(shape)
    return 1.0 + 0.2 * noise if len(shape) == 1 else noise / np.sqrt(shape[0])
