"""Global weights, drawn so that any sharding of one model gets the same ones."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import TypeAlias

import numpy as np

from plandsl.backends.reference.placement import Array
from plandsl.ir.program import Program, Region
from plandsl.ir.types import Value

Key: TypeAlias = tuple[str, int | None, str]
"""Region, layer (None outside blocks) and name of a weight."""

Weights: TypeAlias = dict[Key, Array]


def global_sizes(program: Program, bind: Mapping[str, int]) -> dict[str, int]:
    """Each dimension's size with the symbols bound; one whose symbol is not bound is left out."""
    bound = {n: bind.get(s) if isinstance(s, str) else s for n, s in program.sizes}
    return {n: s for n, s in bound.items() if s is not None}


def make_weights(program: Program, bind: Mapping[str, int], seed: int = 0) -> Weights:
    """A float64 array in full for every weight of every layer.

    Each is drawn from its names and shape alone: neither the sharding nor the other weights have a say.
    """
    sizes = global_sizes(program, bind)
    out: Weights = {}
    for region in program.regions:
        layers = [None] if region.layers is None else region.every.of(region.layers)
        for layer in layers:
            for weight in region.weights:
                out[region.name, layer, weight.name] = _draw(region, layer, weight, sizes, seed)
    return out


def _draw(region: Region, layer: int | None, weight: Value, sizes: Mapping[str, int], seed: int) -> Array:
    """Gains lie around 1; else the first dimension stands for the fan-in, so that values keep their scale."""
    shape = tuple(sizes[n] for n in weight.type.names)
    # outside blocks a name with the same dimensions is the same weight: an embedding tied to the head
    place = "" if region.layers is None else f"{region.name} {layer}"
    text = f"{seed} {place} {weight.name} {weight.type.names} {shape}"
    noise = np.random.default_rng(list(hashlib.sha256(text.encode()).digest())).standard_normal(shape)
    return 1.0 + 0.2 * noise if len(shape) == 1 else noise / np.sqrt(shape[0])
