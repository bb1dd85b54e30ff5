"""A question of the page, as it comes: JSON that anybody may have written."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from plandsl import limits
from plandsl.diagnostics import Diagnostic, clip

FILE = "<playground>"
"""The name of the text in diagnostics. It is the name of no file."""

LONGEST_WORD = 1_000
"""Most characters of a name in a question."""


class Malformed(Exception):
    """The body of a question is not what the page sends (E599)."""

    def __init__(self, message: str) -> None:
        self.diagnostic = Diagnostic("E599", message, hint="docs/playground.md tells what the page sends")
        super().__init__(message)


class Asked(NamedTuple):
    """A question about a ``text``: of the ``plan`` of this name, by default the first; of a ``view`` and a ``phase``.

    The cursor is before the character at ``line`` and ``column``, both from 1; columns are characters as Python counts
    them.
    """

    text: str
    plan: str | None = None
    view: str = "devices"
    phase: str = "prefill"
    line: int = 1
    column: int = 1


def read(body: bytes) -> Asked:
    """The question in a body. Raises `Malformed`."""
    try:
        found = json.loads(body.decode("utf-8"))
    except (UnicodeDecodeError, ValueError, RecursionError):
        raise Malformed("the body is not JSON in UTF-8") from None
    if not isinstance(found, dict):
        raise Malformed(f"the body must be an object, found {_kind(found)}")
    if extra := sorted(set(found) - set(Asked._fields)):
        raise Malformed(f"the body has an unknown field `{clip(extra[0])}`")
    if "text" not in found:
        raise Malformed("the body lacks the field `text`")
    for name, value in found.items():
        if name in ("line", "column"):
            if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= limits.MAX_FILE_BYTES:
                raise Malformed(f"`{name}` must be a whole number from 1 to {limits.MAX_FILE_BYTES:,}")
        elif not (isinstance(value, str) or (name == "plan" and value is None)):
            raise Malformed(f"`{name}` must be a string, found {_kind(value)}")
        elif name != "text" and value is not None and len(value) > LONGEST_WORD:
            raise Malformed(f"`{name}` has more than {LONGEST_WORD:,} characters")
    return Asked(**found)


def _kind(value: Any) -> str:
    """What a value of JSON is, in its own words."""
    names = {type(None): "null", bool: "true or false", int: "a number", float: "a number", str: "a string"}
    return names.get(type(value), "an array" if isinstance(value, list) else "an object")
