"""The number formats of a checkpoint, from its config.json."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from plandsl.diagnostics import suggest
from plandsl.grammar.hf_config import Config, json_list, json_text
from plandsl.grammar.hf_families import Family
from plandsl.grammar.hf_modules import EMBEDDING, HEAD, Layer, Pattern, layers_of, matching, means_end, read_pattern
from plandsl.grammar.hf_patterns import UnreadablePattern
from plandsl.grammar.hf_schemes import LINEAR, LISTS, METHODS, Scheme, schemes_of
from plandsl.grammar.hf_shape import Shape
from plandsl.grammar.hf_template import render

_DTYPES = {"bfloat16": "bf16", "float16": "fp16", "half": "fp16", "float32": "fp32", "float": "fp32"}
_FIELD = "quantization_config"
_MOST_PATTERNS = 100
_KEPT = "activations"

Words = dict[int, dict[str, str]]
"""The format of each weight of each layer."""


class Storage(NamedTuple):
    """Number formats by the names of the language; empty ``compute`` or ``experts`` mean the format of ``weights``.

    ``stored`` has the exceptions of whole models, and ``layers`` those of single layers, as `stored` writes them.
    """

    weights: str
    activations: str
    kv_cache: str
    compute: str = ""
    experts: str = ""
    stored: tuple[tuple[str, str], ...] = ()
    layers: tuple[tuple[tuple[str, str], ...], ...] = ()


def storage_of(config: Config, family: Family, shape: Shape) -> Storage:
    """The number formats; findings about wrong or unknown formats are recorded in ``config``."""
    activations = _dtype(config)
    kept = [("embedding", _KEPT), *([("head", _KEPT)] if "w_head" in _rendered(shape, family, "head") else [])]
    kept += [(weight, _KEPT) for weight in _rendered(shape, family, "kept").split()]
    plain = Storage(activations, activations, activations, stored=tuple(kept))
    table = config.table(_FIELD)
    if table is None:
        return plain
    kv_cache = _kv_cache(table) or activations
    schemes = schemes_of(table)
    if not schemes:
        _refuse(config, table.get("quant_method"))
        return plain._replace(kv_cache=kv_cache)
    if config.errors:  # the modules below are those of a sound shape
        return plain
    compute = activations if all(scheme.weights_only for scheme in schemes) else ""
    found = _Checkpoint(config, table, shape, layers_of(shape, family))
    if table.get("quant_method") == "mxfp4" and "experts" in shape.values:  # this method stores only experts in mxfp4
        found.keep_listed()
        return plain._replace(kv_cache=kv_cache, compute=activations, experts=schemes[0].word)
    for scheme in reversed(schemes):  # the first of several groups that name a module decides
        found.give(scheme)
    found.keep_listed()
    return found.storage(Storage(activations, activations, kv_cache, compute, stored=tuple(kept)))


def _rendered(shape: Shape, family: Family, part: str) -> str:
    return "" if not shape.layers else render(family.parts[part], shape.of_model, family.parts)


def _refuse(config: Config, method: Any) -> None:
    known = isinstance(method, str) and method in METHODS
    way_out = "take the field out of the file, and state `weights` and `stored` in the plan"
    hint = way_out if known else suggest(str(method), METHODS)
    more = " with these settings" if known else ""
    config.fail("E232", f'"{_FIELD}": `hf` cannot read the method {json_text(method)}{more}', _FIELD, hint)


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


def _kv_cache(table: dict[str, Any]) -> str:
    scheme = table.get("kv_cache_scheme")
    if table.get("kv_cache_quant_algo") == "FP8":
        return "fp8"
    if isinstance(scheme, dict) and scheme.get("num_bits") == 8:
        return "int8" if scheme.get("type") == "int" else "fp8"
    return ""


class _Checkpoint:
    """The format of each weight of a checkpoint, while its config is read."""

    def __init__(self, config: Config, table: dict[str, Any], shape: Shape, layers: tuple[Layer, ...]) -> None:
        self.config, self.table, self.shape, self.layers = config, table, shape, layers
        self.words: Words = {
            layer.number: dict.fromkeys((w for m in layer.modules for w in m.weights), _KEPT) for layer in layers
        }
        self.head = _KEPT

    def give(self, scheme: Scheme) -> None:
        """Store the modules that a scheme targets in its format. The `w_join` of an `mtp` is never quantised."""
        for pattern in self._patterns(t for t in scheme.targets if t != LINEAR):
            self._put(pattern, scheme.word)
        if LINEAR in scheme.targets:
            for words in self.words.values():
                words.update((w, scheme.word) for w in words if w != "w_join")
            # only compressed-tensors and some GPTQ configs quantise the head
            if self.table.get("quant_method") == "compressed-tensors" or self.table.get("lm_head") is True:
                self.head = scheme.word

    def keep_listed(self) -> None:
        """Keep the modules that the config lists; a note tells names that mean no weight."""
        listed = [name for key in LISTS for name in self._list(self.table, key)]
        dynamic = self.table.get("dynamic")
        if isinstance(dynamic, dict):
            listed += [f"re:{key[2:]}" for key in dynamic if key.startswith("-:")]
            if changed := [key for key in dynamic if not key.startswith("-:")]:
                self._note(f"settings of single modules are not read: {_some(changed)}")
        if LINEAR in listed:
            self._note(f'"{LINEAR}" in the list of modules to keep is not read')
        unknown, experts = [], dict[tuple[int | None, str], set[int]]()
        for pattern in self._patterns(name for name in listed if name != LINEAR):
            if pattern.expert is not None:
                one = experts.setdefault((pattern.layer, pattern.rest), set())
                one.add(pattern.expert)
                if len(one) < self.shape.values.get("experts", 0):
                    continue
                experts.pop((pattern.layer, pattern.rest))
            if not self._put(pattern, _KEPT) and not pattern.elsewhere:
                unknown.append(pattern.text)
        if unknown:
            self._note(f"names that mean no module of the model: {_some(unknown)}")
        if experts:
            self._note("some experts are kept as they are; all experts of a layer count in the format of the others")

    def _list(self, table: dict[str, Any], key: str) -> list[str]:
        value = table.get(key)
        if value is None:
            return []
        if isinstance(value, list) and all(isinstance(name, str) for name in value):
            return value
        self.config.fail("E210", f'"{key}" must be a list of strings, found {json_text(value)}', _FIELD)
        return []

    def _patterns(self, names: Iterable[str]) -> Iterator[Pattern]:
        unread, tried = [], 0
        for name in dict.fromkeys(names):
            try:
                pattern = read_pattern(name)
            except UnreadablePattern:
                unread.append(name)
                continue
            tried += pattern.automaton is not None
            if tried > _MOST_PATTERNS:
                self.config.fail("E232", f'"{_FIELD}": more than {_MOST_PATTERNS} patterns of names', _FIELD)
                return
            yield pattern
        if unread:
            self._note(f"`hf` cannot read these patterns of names, and passes over them: {_some(unread)}")

    def _put(self, pattern: Pattern, word: str) -> bool:
        """Store what a pattern means in a format. False if it means no module."""
        found = means_end(pattern, EMBEDDING)
        if means_end(pattern, HEAD):
            found, self.head = True, word
        for layer, module in matching(pattern, self.layers):
            found = True
            self.words[layer.number].update(dict.fromkeys(module.weights, word))
        return found

    def _note(self, text: str) -> None:
        self.config.note(f'"{_FIELD}": {text}', _FIELD)

    # ---- as the language says it

    def storage(self, base: Storage) -> Storage:
        """``base`` with the format of most weights, and exceptions for the others."""
        count = len(self.shape.layers)
        main = [self.words[n] for n in range(count)]
        weights = self._most(main)
        stored = dict(base.stored)
        if "head" in stored:
            stored["head"] = self.head
        names = dict.fromkeys(name for words in main for name in words)
        alike = {name: word for name in names if len(word_set := {w[name] for w in main if name in w}) == 1
                 for word in word_set}  # fmt: skip
        stored |= {name: word for name, word in alike.items() if word != weights}
        layers = tuple(
            tuple((name, word) for name, word in words.items() if name not in alike and word != weights)
            for words in main
        )
        if self.shape.of_model.get("predicts"):
            stored |= self._mtp(self.words[count], alike, weights)
        default = base.activations if weights == _KEPT else weights
        return base._replace(weights=default, stored=tuple(stored.items()), layers=layers if any(layers) else ())

    def _most(self, main: list[dict[str, str]]) -> str:
        """The format of most weights of the layers, an expert counted as one."""
        counts = Counter[str]()
        experts = self.shape.values.get("experts", 1)
        for layer, words in zip(self.layers, main, strict=False):
            inside = {w for m in layer.modules if re.search(r"(^|\.)experts\.", m.name) for w in m.weights}
            for name, word in words.items():
                counts[word] += experts if name in inside else 1
        return next((word for word, _ in counts.most_common() if word != _KEPT), _KEPT)

    def _mtp(self, words: dict[str, str], alike: dict[str, str], weights: str) -> dict[str, str]:
        """An exception for the block `mtp`, if its weights are stored otherwise than those of the layers."""
        own = {name: word for name, word in words.items() if name != "w_join"}
        if all(word == alike.get(name, weights) for name, word in own.items()):
            return {}
        if len(set(own.values())) == 1 and all(alike.get(n, weights) in (weights, own[n]) for n in own):
            return {"mtp": next(iter(own.values()))}
        self._note("the layer that predicts further tokens counts in the formats of the other layers")
        return {}


def _some(names: list[str]) -> str:
    return json_list(names[:4]) + (", ..." if len(names) > 4 else "")


def storage_with(
    config: Config, shape: Shape, layers: tuple[Layer, ...], words: list[dict[str, str]], base: Storage
) -> Storage:
    """``base`` with the format of each matrix of each layer as ``words`` say."""
    found = _Checkpoint(config, {}, shape, layers)
    found.words, found.head = dict(enumerate(words)), dict(base.stored).get("head", _KEPT)
    return found.storage(base)
