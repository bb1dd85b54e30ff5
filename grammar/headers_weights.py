"""Which weight of a model each tensor of a checkpoint belongs to, by the modules that its family names."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from math import prod
from typing import Any, NamedTuple

from plandsl.grammar.headers import Tensor
from plandsl.grammar.hf_families import Family
from plandsl.grammar.hf_modules import EMBEDDING, HEAD, Layer, Module, read_pattern
from plandsl.grammar.hf_shape import Shape
from plandsl.grammar.hf_template import render
from plandsl.spec.model import EMBEDDING as EMBEDDING_REGION
from plandsl.spec.model import GAINS
from plandsl.spec.model import HEAD as HEAD_REGION
from plandsl.values import sum_up

MATRIX, BIAS, SCALES = "matrix", "bias", "scales"
"""The role of a tensor in its weight. Scales are what a format needs beside the elements, zero points too."""

_MATRICES = ("", "weight", "qweight", "weight_packed", "blocks")
_BIASES = ("bias", "e_score_correction_bias")
_ROUTERS = ("gate", "router")
_NO_GAIN = re.compile(r"(^|\.)(rotary_emb|inv_freq|rope_freqs)")


class Place(NamedTuple):
    """Where a weight stands: a layer, or a region without layers. The layer of an `mtp` comes after all others."""

    layer: int | str
    weights: tuple[str, ...]


class Claim(NamedTuple):
    """A tensor, and its role in the weights that it belongs to."""

    tensor: Tensor
    role: str


class Sorted(NamedTuple):
    """The tensors of a checkpoint by the weights that they hold, and those that the model has no place for."""

    claims: dict[Place, list[Claim]]
    left: list[Tensor]


def sort_tensors(tensors: Iterable[Tensor], layers: tuple[Layer, ...]) -> Sorted:
    """Every tensor with the weights of the model that it holds."""
    claims: dict[Place, list[Claim]] = defaultdict(list)
    left = []
    known: dict[tuple[int, str], tuple[tuple[str, ...], str] | None] = {}
    for tensor in tensors:
        module = tensor.module or tensor.name
        pattern = read_pattern(module)
        if pattern.layer is None:
            place = _end_of(module)
            if place is None:
                left.append(tensor)
            else:
                role = MATRIX if module.endswith((".weight", ".qweight", ".weight_packed")) else SCALES
                claims[place].append(Claim(tensor, role))
            continue
        there = pattern.layers_in(layers)
        modules = there[0].modules if there else ()
        key = id(modules), pattern.rest
        if key not in known:
            known[key] = _held(pattern.rest, modules)
        if (held := known[key]) is None:
            left.append(tensor)
        else:
            claims[Place(there[0].number, held[0])].append(Claim(tensor, held[1]))
    return Sorted(claims, left)


def _end_of(name: str) -> Place | None:
    """The place of a tensor outside of layers: the embedding, the head, or the last norm."""
    pattern = read_pattern(name)
    if pattern.elsewhere:
        return None
    for end, region in ((EMBEDDING, EMBEDDING_REGION), (HEAD, HEAD_REGION)):
        if f".{end}." in f".{pattern.rest}.":
            return Place(region, (GAINS if name.endswith(".bias") else region,))
    return Place(HEAD_REGION, (GAINS,)) if re.fullmatch(r"(.*\.)?(final_layer)?norm\.(weight|bias)", name) else None


def _held(rest: str, modules: tuple[Module, ...]) -> tuple[tuple[str, ...], str] | None:
    """The weights that the tensor ``rest`` of a layer holds, and its role; None if the model has no place for it."""
    found = max((m for m in modules if _begins(rest, m.name)), key=lambda m: len(m.name), default=None)
    if found is None or _NO_GAIN.search(rest):
        return None
    suffix, last = rest[len(found.name) + 1 :], found.name.rpartition(".")[2]
    if found.weights:
        if suffix in _BIASES:
            return tuple(re.sub("^w_", "b_", weight) for weight in found.weights), BIAS
        return found.weights, MATRIX if suffix in _MATRICES else SCALES
    if last in _ROUTERS:
        return (("b_router",), BIAS) if suffix in _BIASES else (("w_router",), MATRIX)
    if last == "sinks":
        return ("w_sinks",), BIAS
    return ((GAINS,), BIAS) if suffix in ("weight", "bias") else None


def is_of_norm(weight: str) -> bool:
    """Whether a weight of a layer, other than its gains, is of a norm: a bias, or the gains of all heads apart."""
    return weight.startswith("b_norm") or weight in ("g_q", "g_k")


def _begins(rest: str, module: str) -> bool:
    return rest.startswith(module) and rest[len(module) : len(module) + 1] in ("", ".", "_")


# ---- elements


def elements_of(family: Family, shape: Shape) -> Iterator[dict[str, int]]:
    """The elements of each weight by name: layer by layer, then those of the `mtp` if there is one."""
    made: dict[tuple[Any, ...], dict[str, int]] = {}
    for kind in shape.kinds:
        if kind not in made:
            made[kind] = _elements(family, "layer", shape.values | dict(kind) | {"expert_format": ""})
        yield made[kind]
    if shape.of_model.get("predicts"):
        yield _elements(family, "mtp", shape.of_model | {"expert_format": "", "predicting": True})


def ends_of(family: Family, shape: Shape) -> dict[str, int]:
    """The elements of the matrices of the embedding, and of the head unless it is tied to the embedding."""
    embedding, head = (_elements(family, part, shape.of_model) for part in ("embedding", "head"))
    embedding, head = ({n: size for n, size in part.items() if not n.startswith("b_")} for part in (embedding, head))
    found = {EMBEDDING_REGION: sum_up(embedding.values())}
    own = sum_up(n for name, n in head.items() if name not in embedding)
    return found | ({HEAD_REGION: own} if own else {})


def biases_of_head(family: Family, shape: Shape) -> tuple[str, ...]:
    """The names of the biases of the head and of the norm before it."""
    return tuple(name for name in _elements(family, "head", shape.of_model) if name.startswith("b_"))


def _elements(family: Family, part: str, values: dict[str, Any]) -> dict[str, int]:
    found: dict[str, int] = {}
    inside = False
    for line in render(family.parts[part], values, family.parts).splitlines():
        opens = re.search(r"\bexperts\(", line) is not None and line.rstrip().endswith("{")
        inside = (inside and line.strip() != "}") or opens
        for name, dims in re.findall(r"\b([a-z]\w*)\[([a-z_0-9, ]+)\]", line):
            size = prod(int(values.get(dim.strip(), 0)) for dim in dims.split(","))
            found[name] = size * (int(values.get("experts", 1)) if inside and not opens else 1)
    return found
