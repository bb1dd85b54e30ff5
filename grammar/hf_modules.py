"""Which weights of a model a name in a quantisation config means: from ``model.layers.3.mlp.up_proj`` to ``w_up``.

Source of the names: the modules of Hugging Face transformers, and those that engines merge (``qkv_proj``).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from plandsl.grammar.hf_families import Family
from plandsl.grammar.hf_patterns import Group, matches_any, read_regex, read_wildcards
from plandsl.grammar.hf_shape import Shape

EMBEDDING, HEAD = "embed_tokens", "lm_head"

_PREFIXES = ("model.language_model.", "language_model.model.", "language_model.", "model.")
_NO_TEXT = re.compile(r"(^|[.*])(vis|audio|image|img|mm_|multi_modal|multimodal|patch)")
_ATTENTION = {
    "q_proj": ("w_q",),
    "k_proj": ("w_k",),
    "v_proj": ("w_v",),
    "qkv_proj": ("w_q", "w_k", "w_v"),
    "o_proj": ("w_o",),
    "q_norm": (),
    "k_norm": (),
    "sinks": (),
}
_LATENT = {
    "q_a_proj": ("w_dq",),
    "q_b_proj": ("w_uq", "w_qr"),
    "q_proj": ("w_uq", "w_qr"),
    "kv_a_proj_with_mqa": ("w_dkv", "w_kr"),
    "fused_qkv_a_proj": ("w_dq", "w_dkv", "w_kr"),
    "kv_b_proj": ("w_uk", "w_uv"),
    "o_proj": ("w_o",),
    "q_a_layernorm": (),
    "kv_a_layernorm": (),
}
_RANKED = ("q_a_proj", "q_b_proj", "fused_qkv_a_proj", "q_a_layernorm")
_MLP = {
    "gate_proj": ("gate",),
    "up_proj": ("up",),
    "down_proj": ("down",),
    "gate_up_proj": ("gate", "up"),
    "w1": ("gate",),
    "w3": ("up",),
    "w2": ("down",),
}
_NORMS = (
    *("input_layernorm", "post_attention_layernorm", "pre_feedforward_layernorm", "post_feedforward_layernorm"),
    *("enorm", "hnorm", "shared_head", "norm"),
)
_FEEDS = {"Llama4ForCausalLM": "feed_forward", "MixtralForCausalLM": "block_sparse_moe"}


class Module(NamedTuple):
    """A module of a layer: its name within the layer, and the weights that it holds; `experts` for all experts."""

    name: str
    weights: tuple[str, ...]

    @property
    def ancestors(self) -> Iterator[str]:
        """The name, and the names of the modules around it, down to the layer itself ("")."""
        name = self.name
        while name:
            yield name
            name = name.rpartition(".")[0]
        yield ""


class Layer(NamedTuple):
    """The modules of one layer. ``number`` is its index, at least the number of layers for a layer of an `mtp`."""

    number: int
    modules: tuple[Module, ...]


def layers_of(shape: Shape, family: Family) -> tuple[Layer, ...]:
    """The layers of a model, with that of its `mtp` last."""
    kinds = {sparse: _modules(shape, family, sparse) for sparse in {kind.sparse for kind in shape.layers}}
    found = [Layer(n, kinds[kind.sparse]) for n, kind in enumerate(shape.layers)]
    if shape.predicts:
        found.append(Layer(len(found), (*kinds[shape.layers[-1].sparse], Module("eh_proj", ("w_join",)))))
    return tuple(found)


def _modules(shape: Shape, family: Family, sparse: bool) -> tuple[Module, ...]:
    attention = _LATENT if shape.latent else _ATTENTION
    absent = () if not shape.latent else ("q_proj",) if "q_rank" in shape.sizes else _RANKED
    feed = _FEEDS.get(family.architecture, "mlp")
    found = [Module(f"self_attn.{name}", weights) for name, weights in attention.items() if name not in absent]
    found += [Module(name, ()) for name in _NORMS]
    if not sparse:
        own = "feed_forward" if feed == "feed_forward" else "mlp"
        found += [Module(f"{own}.{name}", tuple(f"w_{w}" for w in parts)) for name, parts in _MLP.items()]
        return tuple(found)
    found += [Module(f"{feed}.{router}", ()) for router in ("gate", "router")]
    found += [Module(f"{feed}.experts.{name}", tuple(f"w_{w}" for w in parts)) for name, parts in _MLP.items()]
    if shape.sizes.get("shared"):
        for shared in ("shared_experts", "shared_expert"):
            found += [
                Module(f"{feed}.{shared}.{name}", tuple(f"w_shared_{w}" for w in ws)) for name, ws in _MLP.items()
            ]
    return tuple(found)


# ---- names


class Pattern(NamedTuple):
    """A name of a config, ready to match: one layer or all (None), and the rest of the name, or a pattern.

    ``expert``: the name means this expert alone.
    """

    text: str
    layer: int | None
    rest: str
    group: Group | None = None
    each_layer: bool = False
    expert: int | None = None

    @property
    def elsewhere(self) -> bool:
        """Whether the name means modules that are not written: of vision or audio."""
        return _NO_TEXT.search(self.text.removeprefix("re:")) is not None


def read_pattern(text: str) -> Pattern:
    """The pattern that a name of a list stands for. Raises `UnreadablePattern`."""
    if text.startswith("re:"):
        plain = re.sub(r"\[[^\]]*\]|\\.", "", text[3:])
        return Pattern(text, None, "", read_regex(text[3:]), bool(re.search(r"\d", plain)))
    name = next((text.removeprefix(p) for p in _PREFIXES if text.startswith(p)), text).strip(".")
    layer: int | None = None
    if (found := re.match(r"layers\.(\d{1,6})(?:\.|$)", name)) is not None:
        layer, name = int(found[1]), name[found.end() :]
    elif name.startswith("layers.*"):
        name = name.removeprefix("layers.*").strip(".")
        if not name:
            return Pattern(text, None, "*", read_wildcards("*"))
    if "*" in name or "?" in name:
        return Pattern(text, layer, name, read_wildcards(name), bool(re.search(r"\d", name)))
    if (one := re.search(r"(?:^|\.)experts\.(\d{1,6})(?:\.|$)", name)) is not None:
        name = re.sub(r"(^|\.)experts\.\d+", r"\1experts", name)
        return Pattern(text, layer, name, expert=int(one[1]))
    return Pattern(text, layer, name)


def matching(pattern: Pattern, layers: tuple[Layer, ...]) -> Iterator[tuple[Layer, Module]]:
    """The modules that a pattern means, layer by layer.

    Most patterns mean the same modules in all layers of one kind, so each is tried once for each kind, and length of a
    layer's number.
    """
    tried: dict[object, tuple[Module, ...]] = {}
    for layer in layers if pattern.layer is None else layers[pattern.layer : pattern.layer + 1]:
        key = layer.number if pattern.each_layer else (len(str(layer.number)), id(layer.modules))
        if key not in tried:
            tried[key] = tuple(m for m in layer.modules if _means(pattern, m, layer.number))
        yield from ((layer, module) for module in tried[key])


def _means(pattern: Pattern, module: Module, number: int) -> bool:
    if pattern.group is None:
        return not pattern.rest or f".{pattern.rest}." in f".{module.name}."
    names = [f"layers.{number}.{name}".strip(".") for name in module.ancestors]
    names += [name.replace(".experts.", ".experts.0.") for name in names if ".experts." in name]
    if pattern.layer is not None:  # wildcards after the number of a layer
        return matches_any(pattern.group, module.ancestors)
    if not pattern.text.startswith("re:"):
        return matches_any(pattern.group, (*names, *module.ancestors))
    return matches_any(pattern.group, (f"{prefix}{name}" for name in names for prefix in (*_PREFIXES, "")))


def means_end(pattern: Pattern, name: str) -> bool:
    """Whether a pattern means `EMBEDDING` or `HEAD`."""
    if pattern.layer is not None:
        return False
    if pattern.group is None:
        return f".{pattern.rest}." in f".{name}."
    return matches_any(pattern.group, (name, *(f"{prefix}{name}" for prefix in _PREFIXES)))
