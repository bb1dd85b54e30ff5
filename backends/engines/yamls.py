"""Writes YAML that every reader takes for what it says: strings are quoted, so `no` and `1e3` stay words."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence

_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_./-]*")
_WORDS = {"y", "n", "yes", "no", "on", "off", "true", "false", "null"}
"""Words that YAML 1.1, which Kubernetes reads, takes for something else than a string."""


def show_yaml(value: Mapping[str, object]) -> str:
    """A mapping as a document of YAML. Strings are written as in JSON, which is a part of YAML."""
    return "\n".join(_mapping(value)) + "\n"


def _mapping(value: Mapping[str, object]) -> Iterator[str]:
    for name, one in value.items():
        key = name if _KEY.fullmatch(name) and name.lower() not in _WORDS else json.dumps(name)
        match one:
            case Mapping() if one:
                yield f"{key}:"
                yield from (f"  {line}" for line in _mapping(one))
            case list() | tuple() if one and not all(isinstance(item, int) for item in one):
                yield f"{key}:"
                yield from _items(one)
            case _:
                yield f"{key}: {_scalar(one)}"


def _items(values: Sequence[object]) -> Iterator[str]:
    for value in values:
        if isinstance(value, Mapping):
            first, *rest = _mapping(value)
            yield f"- {first}"
            yield from (f"  {line}" for line in rest)
        else:
            yield f"- {_scalar(value)}"


def _scalar(value: object) -> str:
    return json.dumps(value)
