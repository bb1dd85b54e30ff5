"""The values that a family takes from a config.json: sizes, flags and words, and what differs from layer to layer."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

from plandsl import limits
from plandsl.diagnostics import suggest
from plandsl.grammar.hf_config import Config, json_text
from plandsl.grammar.hf_families import Family, Field
from plandsl.grammar.hf_template import evaluate, names_in, render

ACTIVATIONS = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_new": "gelu",
    "gelu_fast": "gelu",
    "gelu_pytorch_tanh": "gelu",
    "quick_gelu": "quick_gelu",
    "relu": "relu",
    "relu2": "relu2",
}
"""Activation in a config.json -> function of the language."""

CHUNK = "attention_chunk_size"
_CONSTANTS: dict[str, Any] = {"true": True, "false": False, "null": None, "predicting": False}
"""What every text may use; `predicting` is true in the layer that predicts further tokens."""
_NOTHING: dict[str, Any] = {
    "each": (),
    "word": "",
    "kinds": None,
    "letters": None,
    "flags": None,
    "wholes": None,
    "numbers": None,
}
"""Kind of a field -> its value if there is none. For every other kind this value is 0."""

_MOST = 1e6  # the largest number that a `number` may be


class Shape(NamedTuple):
    """The values of a family's fields.

    ``values`` has the values of the whole model, ``layers`` the values of each layer. ``labels`` has, by the name of a
    field, the words for a true and a false value, such as ``sliding`` and ``full``. ``stored`` has the formats of
    weights in which layers differ.
    """

    values: dict[str, Any]
    layers: tuple[dict[str, Any], ...]
    labels: dict[str, tuple[str, str]]
    stored: tuple[tuple[tuple[str, str], ...], ...] = ()

    @property
    def kinds(self) -> tuple[tuple[tuple[str, Any], ...], ...]:
        """The kind of each layer: its values, as a key; layers of one kind are alike."""
        return tuple(tuple(values.items()) for values in self.layers)

    @property
    def of_model(self) -> dict[str, Any]:
        """The values for an `mtp` and for the text outside of layers: where layers differ, those of the last layer."""
        return self.values | (self.layers[-1] if self.layers else {})


def shape_of(config: Config, family: Family) -> Shape:
    """The shape of a model; findings about wrong or missing fields are recorded in ``config``."""
    reader = _Reader(config, family)
    for field in family.fields:
        reader.read(field)
    for finding in family.findings:
        if reader.known(finding.condition) and reader.value(finding.condition):
            message = render(finding.message, reader.values, {})
            if finding.code == "N201":
                config.note(message, finding.key)
            else:
                config.fail(finding.code, message, finding.key)
    config.skip(*family.skipped)
    each = [field for field in family.fields if field.kind == "each"]
    count = 0 if config.errors else reader.values["layers"]
    layers = tuple({field.name: reader.values[field.name][layer] for field in each} for layer in range(count))
    return Shape(reader.values, layers, {field.name: _label(field) for field in each if "as" in field.options})


def _label(field: Field) -> tuple[str, str]:
    yes, _, no = field.options["as"].partition(" | ")
    return yes.strip(), no.strip()


class _DependsOnWrong(Exception):
    """A value depends on a field that has a finding already."""


class _Reader:
    """Reads the fields of a family. A field is read after the fields that it needs.

    A wrong value reads as nothing (`_NOTHING`), and so does a value that depends on a wrong one.
    """

    def __init__(self, config: Config, family: Family) -> None:
        self.config, self.family = config, family
        self.fields = {field.name: field for field in family.fields}
        self.values: dict[str, Any] = dict(_CONSTANTS)
        self.wrong: set[str] = set()

    def known(self, text: str) -> bool:
        """Whether all values that an expression reads are right."""
        return not names_in(text) & self.wrong

    def value(self, text: str) -> Any:
        """The value of an expression. Raises `_DependsOnWrong`."""
        if not self.known(text):
            raise _DependsOnWrong
        return evaluate(text, self.values)

    def read(self, field: Field) -> None:
        """Read one field into `values`, unless it is there."""
        if field.name in self.values:
            return
        for name in sorted(set(self.family.needs(field)) & self.fields.keys()):
            self.read(self.fields[name])
        before = len(self.config.found)
        self._clear(field)
        try:
            if "when" not in field.options or self.value(field.options["when"]):
                self.values[field.name] = self._read(field)
        except _DependsOnWrong:
            self.wrong.add(field.name)
        if any(found.severity == "error" for found in self.config.found[before:]):
            self._clear(field)
            self.wrong.add(field.name)

    def _clear(self, field: Field) -> None:
        self.values[field.name] = _NOTHING.get(field.kind, 0)

    def _read(self, field: Field) -> Any:
        read: dict[str, Callable[[Field], Any]] = {
            "whole": self._whole,
            "flag": self._flag,
            "number": self._number,
            "word": self._word,
            "activation": self._activation,
            "kinds": self._kinds,
            "letters": self._letters,
            "flags": self._flags,
            "wholes": self._wholes,
            "numbers": self._numbers,
            "given": self._given,
            "count": self._count,
            "null": self._null,
            "is": self._is,
            "each": self._each,
        }
        return read[field.kind](field)

    def _default(self, field: Field) -> Any:
        return self.value(field.options["else"])

    # ---- kinds of fields

    def _whole(self, field: Field) -> int:
        config, options, key = self.config, field.options, self.config.first(*field.keys)
        most = limits.MAX_LAYERS if field.name == "layers" or options.get("most") == "layers" else limits.MAX_DIMENSION
        least = int(options.get("least", "1"))
        if config.get(key) is not None:
            return config.whole(key, most=most, least=least)
        if "null" in options and config.states(key):
            return int(self.value(options["null"]))
        if "class" in options:
            return config.known(key, {key: int(self.value(options["class"]))})
        if "else" not in options:
            return config.whole(key)
        found = self._default(field)
        if found == int(found) and (found or field.name != "layers"):
            return int(found)
        why = f'{config.file} has no "{key}", and {options["else"]} is no whole number'
        config.fail("E207", why, hint=f'add "{key}" with its value')
        return 0

    def _flag(self, field: Field) -> bool:
        key = self.config.first(*field.keys)
        return self.config.flag(key, bool(self._default(field)) if "else" in field.options else False)

    def _number(self, field: Field) -> float:
        """A number above zero."""
        key = self.config.first(*field.keys)
        value = self.config.get(key)
        if value is None:
            return float(self._default(field))
        number = float(value) if isinstance(value, int | float) and abs(value) < 10 * _MOST else math.nan
        if not isinstance(value, bool) and 0 < number <= _MOST:
            return number
        why = f'"{key}" must be a number above 0, and at most {_MOST:,.0f}, found {json_text(value)}'
        self.config.fail("E214", why, key)
        return 0.0

    def _word(self, field: Field) -> str:
        key = self.config.first(*field.keys)
        word = self.config.word(key)
        if word is None:
            return str(self._default(field))
        known = field.options.get("in", word).split()
        if word not in known:
            why = f'"{key}": `hf` cannot write {json_text(word)}'
            self.config.fail("E232", why, key, suggest(word, known))
        return word

    def _activation(self, field: Field) -> str:
        key = self.config.first(*field.keys)
        word = self.config.word(key)
        if word is None:
            return field.options["else"]
        if word not in ACTIVATIONS:
            self.config.fail("E232", f"`hf` knows no activation {json_text(word)}", key, suggest(word, ACTIVATIONS))
        return ACTIVATIONS.get(word, "")

    def _kinds(self, field: Field) -> list[str] | None:
        """A word for each layer."""
        words = self.config.items(field.source, str)
        return words if words is None else self._one_for_each(field, words, field.options["in"].split())

    def _letters(self, field: Field) -> list[str] | None:
        """A letter for each layer, in one string."""
        word = self.config.word(field.source)
        return word if word is None else self._one_for_each(field, list(word), field.options["in"].split())

    def _flags(self, field: Field) -> list[int] | None:
        """A whole number for each layer."""
        found = self.config.items(field.source, int)
        return self._one_for_each(field, found, []) if found else None

    def _one_for_each(self, field: Field, found: list[Any], known: list[str]) -> list[Any] | None:
        key, count = field.source, self.values["layers"]
        wrong = next((word for word in found if known and word not in known), None)
        if wrong is not None:
            self.config.fail("E232", f'"{key}": `hf` cannot write {json_text(wrong)}', key, suggest(wrong, known))
        elif count and len(found) != count:
            self.config.fail("E214", f'"{key}" lists {len(found)} layers, but the model has {count}', key)
        return found

    def _wholes(self, field: Field) -> list[int] | None:
        """Whole numbers; one by itself counts as a list of one."""
        value = self.config.get(field.source)
        return [value] if type(value) is int else self.config.items(field.source, int)

    def _numbers(self, field: Field) -> list[float] | None:
        """A number from 0 to 1, below 1, for each layer; one by itself is that of every layer."""
        value = self.config.get(field.source)
        if value is None:
            return None
        found = value if isinstance(value, list) else [value] * self.values["layers"]
        wrong = [x for x in found if isinstance(x, bool) or not isinstance(x, int | float) or not 0 <= x < 1]
        if wrong:
            why = f'"{field.source}" must list numbers from 0 to below 1, found {json_text(wrong[0])}'
            self.config.fail("E214", why, field.source)
        return self._one_for_each(field, found, [])

    def _given(self, field: Field) -> bool:
        return self.config.get(field.source) is not None

    def _count(self, field: Field) -> int:
        """The length of a list or a string; 0 if there is none."""
        value = self.config.get(self.config.first(*field.keys))
        return len(value) if isinstance(value, list | str) else 0

    def _null(self, field: Field) -> bool:
        return self.config.states(field.source) and self.config.get(field.source) is None

    def _is(self, field: Field) -> Any:
        return self.value(field.source)

    def _each(self, field: Field) -> list[Any]:
        if not self.known(field.source):
            raise _DependsOnWrong
        values, found = dict(self.values), []
        for values["layer"] in range(self.values["layers"]):
            found.append(evaluate(field.source, values))
        return found
