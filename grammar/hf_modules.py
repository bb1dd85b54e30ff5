"""Which weights of a model a name in a quantisation config means: from ``model.layers.3.mlp.up_proj`` to ``w_up``.

The file of a family lists the names: the modules of Hugging Face transformers, and those that engines merge
(``qkv_proj``).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from plandsl.grammar.hf_families import Family
from plandsl.grammar.hf_patterns import Automaton, State, read_regex, read_wildcards
from plandsl.grammar.hf_shape import Shape
from plandsl.grammar.hf_template import render

EMBEDDING, HEAD = "embed_tokens", "lm_head"
PREDICTING = -1
"""In a name, the layer of an `mtp` in a checkpoint that does not number it: ``mtp.layers.0.mlp.up_proj``."""

_PREFIXES = ("model.language_model.", "language_model.model.", "language_model.", "model.")
_PREDICTING = re.compile(r"mtp(?:\.layers\.0)?(?:\.|$)")
_NO_TEXT = re.compile(r"(^|[.*])(vis|audio|image|img|mm_|multi_modal|multimodal|patch)")


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
    """The modules of one layer, with its index: the number of layers for that of an `mtp`, which ``predicts``."""

    number: int
    modules: tuple[Module, ...]
    predicts: bool = False

    @property
    def prefixes(self) -> tuple[str, ...]:
        """What checkpoints write before the names of its modules, and a dot."""
        number = f"layers.{self.number}"
        return (number, "mtp.layers.0", "mtp") if self.predicts else (number,)


def layers_of(shape: Shape, family: Family) -> tuple[Layer, ...]:
    """The layers of a model; the layer of an `mtp` is the last. Layers with equal values have the same modules."""
    kinds = {kind: _modules(family, "modules", shape.values | dict(kind)) for kind in dict.fromkeys(shape.kinds)}
    found = [Layer(n, kinds[kind]) for n, kind in enumerate(shape.kinds)]
    if shape.of_model.get("predicts"):
        parts = [_modules(family, part, shape.of_model | {"predicting": True}) for part in ("modules", "mtp_modules")]
        found.append(Layer(len(found), (*parts[0], *parts[1]), predicts=True))
    return tuple(found)


def _modules(family: Family, part: str, values: Mapping[str, Any]) -> tuple[Module, ...]:
    """The modules that a part of a family lists: ``mlp.{gate_proj,w1}: w_gate`` names two with one weight."""
    found = []
    for line in render(family.parts[part], values, family.parts).splitlines():
        names, _, weights = line.strip().partition(":")
        found += [Module(name, tuple(weights.split())) for name in _alternatives(names)]
    return tuple(found)


def _alternatives(text: str) -> Iterator[str]:
    """``a.{b,c}`` stands for ``a.b`` and ``a.c``."""
    found = re.fullmatch(r"([^{]*)\{([^}]*)\}(.*)", text)
    if found is None:
        yield text
        return
    for word in found[2].split(","):
        yield from _alternatives(f"{found[1]}{word}{found[3]}")


# ---- names


class Pattern(NamedTuple):
    """A name of a config, ready to match: one layer, all (None) or `PREDICTING`, and the rest of the name or a pattern.

    ``expert``: the name means this expert alone.
    """

    text: str
    layer: int | None
    rest: str
    automaton: Automaton | None = None
    expert: int | None = None

    @property
    def elsewhere(self) -> bool:
        """Whether the name means modules that are not written: of vision or audio."""
        return _NO_TEXT.search(self.text.removeprefix("re:")) is not None

    def layers_in(self, layers: tuple[Layer, ...]) -> tuple[Layer, ...]:
        """Those of all layers that the name may mean."""
        if self.layer == PREDICTING:
            return tuple(layer for layer in layers if layer.predicts)
        return layers if self.layer is None else layers[self.layer : self.layer + 1]


def read_pattern(text: str) -> Pattern:
    """The pattern that a name of a list stands for. Raises `UnreadablePattern`."""
    if text.startswith("re:"):
        return Pattern(text, None, "", read_regex(text[3:]))
    name = next((text.removeprefix(p) for p in _PREFIXES if text.startswith(p)), text).strip(".")
    layer: int | None = None
    if (found := re.match(r"layers\.(\d{1,6})(?:\.|$)", name)) is not None:
        layer, name = int(found[1]), name[found.end() :]
    elif (found := _PREDICTING.match(name)) is not None:
        layer, name = PREDICTING, name[found.end() :]
    elif name.startswith("layers.*"):
        name = name.removeprefix("layers.*").strip(".")
        if not name:
            return Pattern(text, None, "*", read_wildcards("*"))
    if "*" in name or "?" in name:
        return Pattern(text, layer, name, read_wildcards(name))
    if (one := re.search(r"(?:^|\.)experts\.(\d{1,6})(?:\.|$)", name)) is not None:
        name = re.sub(r"(^|\.)experts\.\d+", r"\1experts", name)
        return Pattern(text, layer, name, expert=int(one[1]))
    return Pattern(text, layer, name)


def matching(pattern: Pattern, layers: tuple[Layer, ...]) -> Iterator[tuple[Layer, Module]]:
    """The modules that a pattern means, layer by layer.

    Most patterns mean the same modules in all layers of one kind. Layers whose modules are the same, and whose prefixes
    lead to the same states of a pattern, are looked at once.
    """
    tried: dict[object, tuple[Module, ...]] = {}
    for layer in pattern.layers_in(layers):
        states = _states_before(pattern, layer)
        key = states, id(layer.modules)
        if key not in tried:
            tried[key] = tuple(m for m in layer.modules if _means(pattern, m, states))
        yield from ((layer, module) for module in tried[key])


def _states_before(pattern: Pattern, layer: Layer) -> tuple[State, ...]:
    """The states of a pattern after each prefix of a layer; none where it has no automaton, or begins in the layer."""
    automaton = pattern.automaton
    if automaton is None or pattern.layer is not None:
        return ()
    before = (*_PREFIXES, "") if pattern.text.startswith("re:") else ("",)
    return tuple(automaton.walk(automaton.start, f"{b}{prefix}") for prefix in layer.prefixes for b in before)


def _means(pattern: Pattern, module: Module, states: tuple[State, ...]) -> bool:
    """Whether a pattern means a module of a layer, after whose prefixes it is in ``states``."""
    automaton = pattern.automaton
    if automaton is None:
        return not pattern.rest or f".{pattern.rest}." in f".{module.name}."
    if not pattern.text.startswith("re:") and any(map(automaton.matches, module.ancestors)):
        return True
    names = [f".{name}".rstrip(".") for name in module.ancestors]
    names += [name.replace(".experts.", ".experts.0.") for name in names if ".experts." in name]
    return any(automaton.walk(state, name).ends for state in dict.fromkeys(states) for name in names)


def means_end(pattern: Pattern, name: str) -> bool:
    """Whether a pattern means `EMBEDDING` or `HEAD`."""
    if pattern.layer is not None:
        return False
    if pattern.automaton is None:
        return f".{pattern.rest}." in f".{name}."
    return any(map(pattern.automaton.matches, (name, *(f"{prefix}{name}" for prefix in _PREFIXES))))
