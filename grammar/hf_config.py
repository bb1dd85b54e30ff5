"""The config.json of a Hugging Face checkpoint: its fields, their places in the text, and findings about them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from typing import Any

from plandsl import limits
from plandsl.diagnostics import Diagnostic, Span, clip
from plandsl.grammar.parse import decode
from plandsl.limits import help_for

Path = tuple[str, ...]
"""The names that lead to a value: ``("text_config", "head_dim")``."""

AROUND = "architectures_around"
"""The key under which a config keeps the architectures of a file around its `text_config`."""

_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[{}\[\]:,]|[^\s{}\[\]:,"]+')
_DEEPEST = 4  # levels of nesting for which the places of values are kept


class Config:
    """The fields of one model. Each method such as ``whole`` or ``flag`` reads a field and records mistakes in it.

    A size that is wrong or missing reads as 0, which later checks ignore: one run finds all mistakes, each once.
    """

    def __init__(self, file: str, values: dict[str, Any], spans: dict[str, Span], span: Span) -> None:
        self.file = file
        self.values = values
        self.spans = spans
        self.span = span
        self.found: list[Diagnostic] = []
        self.used: set[str] = set()
        self.assumed: dict[str, int] = {}  # fields that the file leaves out, with the defaults of its class

    # ---- findings

    def fail(self, code: str, message: str, key: str = "", hint: str = "") -> None:
        """Record a mistake, at the value of ``key`` if the file has it."""
        self.found.append(Diagnostic(code, message, self._span(key), hint=hint))

    def note(self, message: str, key: str = "") -> None:
        """Record a note (N201) about a difference between the model and the checkpoint."""
        self.found.append(Diagnostic("N201", message, self._span(key)))

    def _span(self, key: str) -> Span:
        return self.spans.get(key.partition(".")[0], self.span)

    @property
    def errors(self) -> bool:
        """Whether any finding is an error."""
        return any(found.severity == "error" for found in self.found)

    # ---- fields

    def get(self, key: str) -> Any:
        """The value of ``key``, or of ``outer.inner`` in tables; None if it is missing or null."""
        outer, *inner = key.split(".")
        self.used.add(outer)
        value = self.values.get(outer)
        for name in inner:
            value = value.get(name) if isinstance(value, dict) else None
        return value

    def states(self, key: str) -> bool:
        """Whether the file has ``key``, be it null."""
        return key in self.values

    def skip(self, *keys: str) -> None:
        """Mark these fields as read, because they do not matter for this model."""
        self.used.update(key.partition(".")[0] for key in keys)

    def first(self, *keys: str) -> str:
        """The first of ``keys`` that has a value; if none has, the first."""
        values = [self.get(key) for key in keys]
        return next((key for key, value in zip(keys, values, strict=True) if value is not None), keys[0])

    def whole(self, key: str, default: int | None = None, most: int | None = None, least: int = 1) -> int:
        """A whole number from ``least`` to ``most`` (the largest dimension); without a ``default`` it is required."""
        most = limits.MAX_DIMENSION if most is None else most
        value = self.get(key)
        if value is None:
            if default is None:
                hint = f'add "{key}" with its value: the default of its class would be a guess'
                self.fail("E207", f'{self.file} has no "{key}"', hint=hint)
                return 0
            return default
        if isinstance(value, bool) or not isinstance(value, int):
            self.fail("E210", f'"{key}" must be a whole number, found {json_text(value)}', key)
        elif not least <= value <= most:
            hint = help_for(most, found=value)
            self.fail("E214", f'"{key}" must be from {least} to {most:,}, found {json_text(value)}', key, hint=hint)
        else:
            return value
        return 0

    def known(self, key: str, defaults: dict[str, int], most: int | None = None) -> int:
        """A whole number; if the file leaves it out, the default of its class, which a note then tells."""
        if self.get(key) is None and key in defaults:
            self.assumed[key] = defaults[key]
            self.used.add(key)
            return defaults[key]
        return self.whole(key, most=most)

    def flag(self, key: str, default: bool = False) -> bool:
        """``true`` or ``false``; the default is that of the model's class."""
        value = self.get(key)
        if value is None or isinstance(value, bool):
            return default if value is None else value
        self.fail("E210", f'"{key}" must be true or false, found {json_text(value)}', key)
        return default

    def word(self, key: str) -> str | None:
        """A string."""
        value = self.get(key)
        if value is None or isinstance(value, str):
            return value
        self.fail("E210", f'"{key}" must be a string, found {json_text(value)}', key)
        return None

    def items(self, key: str, kind: type) -> list[Any] | None:
        """A list of whole numbers or of strings."""
        value = self.get(key)
        if value is None:
            return None
        if isinstance(value, list) and all(type(item) is kind for item in value):
            return value
        what = "whole numbers" if kind is int else "strings"
        self.fail("E210", f'"{key}" must be a list of {what}, found {json_text(value)}', key)
        return None

    def table(self, key: str) -> dict[str, Any] | None:
        """An object."""
        value = self.get(key)
        if value is None or isinstance(value, dict):
            return value
        self.fail("E210", f'"{key}" must be an object, found {json_text(value)}', key)
        return None

    def unread(self) -> list[str]:
        """The names of the fields that have a value, but were not read."""
        return [key for key, value in self.values.items() if value not in (None, False) and key not in self.used]


def json_text(value: Any) -> str:
    """A value as ASCII for a message, because a JSON string may hold characters that a terminal cannot print."""
    return clip(json.dumps(value))


# ---- from bytes


class _Bad(ValueError):
    """The constant NaN, which Python's reader accepts, and JSON does not have."""


def read(data: bytes, file: str) -> tuple[Config | None, str, list[Diagnostic]]:
    """The config in ``data`` (None if it is not valid), its text, and the findings."""
    text, found = decode(data, file)
    if found:
        return None, text, [_reword(diagnostic) for diagnostic in found]
    try:
        values = json.loads(text, parse_constant=_constant)
    except json.JSONDecodeError as error:
        span = Span(file, error.lineno, error.colno, error.lineno, error.colno + 1)
        return None, text, [_json_error(f"{error.msg[:1].lower()}{error.msg[1:]}", span)]
    except (ValueError, RecursionError) as error:
        why = "it nests too deeply" if isinstance(error, RecursionError) else "it holds an invalid number"
        return None, text, [_json_error(why, Span(file, 1, 1, 1, 2))]
    places, twice = _places(text, file)
    span = places.get((), Span(file, 1, 1, 1, 2))
    if not isinstance(values, dict):
        return None, text, [_json_error(f"expected an object, found {json_text(values)}", span)]
    config = _merge_text_config(file, values, places, span)
    for path, again in twice:
        hint = "remove one of the two"
        config.found.append(Diagnostic("E202", f"{json_text(path[-1])} is given twice", again, hint=hint))
    return config, text, []


def _merge_text_config(file: str, values: dict[str, Any], places: dict[Path, Span], span: Span) -> Config:
    """The fields of the file; ``text_config`` (the language model of a multimodal model) overrides the outer fields."""
    spans = {path[0]: place for path, place in places.items() if len(path) == 1}
    inner = values.get("text_config")
    if isinstance(inner, dict):
        outer = {key: value for key, value in values.items() if key != "text_config"}
        spans |= {path[1]: place for path, place in places.items() if len(path) == 2 and path[0] == "text_config"}
        config = Config(file, outer | inner | {AROUND: outer.get("architectures")}, spans, span)
        # the outer fields describe the vision part, which is not translated
        config.skip(AROUND, *(key for key in outer if key not in inner))
        return config
    return Config(file, values, spans, span)


def _constant(word: str) -> float:
    """``Infinity`` is no JSON, but configs with a limit of time steps have it, because Python writes it."""
    if word == "NaN":
        raise _Bad(word)
    return float(word)


def _json_error(why: str, span: Span) -> Diagnostic:
    hint = "a config.json is one JSON object, as `save_pretrained` writes it"
    return Diagnostic("E230", f"this is not valid JSON: {why}", span, hint=hint)


def _reword(found: Diagnostic) -> Diagnostic:
    if found.code == "E108":
        return found._replace(hint="a config.json is small: is this another file?")
    return found


def _places(text: str, file: str) -> tuple[dict[Path, Span], list[tuple[Path, Span]]]:
    """The places of the values of a valid JSON text, by path, and of names that an object gives twice."""
    places: dict[Path, Span] = {}
    twice: list[tuple[Path, Span]] = []
    path: list[str] = []
    wants_name: list[bool | None] = []  # for each open bracket: whether a name comes next; None in a list
    lists = 0
    for token, span in _tokens(text, file):
        if token in "]}":
            lists -= wants_name.pop() is None
            del path[len(wants_name) :]
        elif token == ",":
            if wants_name[-1] is not None:
                wants_name[-1] = True
        elif token == ":":
            wants_name[-1] = False
        elif wants_name and wants_name[-1]:
            del path[len(wants_name) - 1 :]
            path.append(json.loads(token))
            if not lists and tuple(path) in places:
                twice.append((tuple(path), span))
        else:
            if not lists and len(path) <= _DEEPEST:
                places.setdefault(tuple(path), span)
            if token in "[{":
                lists += token == "["
                wants_name.append(None if token == "[" else True)
                path += [""] * (token == "[")
    return places, twice


def _tokens(text: str, file: str) -> Iterator[tuple[str, Span]]:
    line, start, at = 1, 0, 0
    for match in _TOKEN.finditer(text):
        newlines = text.count("\n", at, match.start())
        if newlines:
            line += newlines
            start = text.rfind("\n", 0, match.start()) + 1
        at = match.start()
        column = at - start + 1
        yield match[0], Span(file, line, column, line, column + len(match[0]))


def json_list(words: Iterable[str]) -> str:
    """Names in quotes, as a list for a message."""
    return ", ".join(map(json_text, words))
