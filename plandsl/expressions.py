"""Values of Python as the text of a value in a plan."""

from __future__ import annotations

from math import isfinite
from numbers import Integral, Real
from pathlib import PurePath

LONGEST = 100_000
"""Most values of a list that are written."""


def write_value(value: object) -> str | None:
    """``8``, ``true``, ``[1, 2]``, or a string as it is; None for what no plan can have as a value.

    A path becomes a string in quotes. numpy's numbers and arrays are taken as Python's.
    """
    if hasattr(value, "tolist") and not isinstance(value, Real):
        value = value.tolist()
    match value:
        case str():
            text = value.strip()
            return text if text and "\n" not in text else None
        case PurePath():
            return quote(value.as_posix())
        case list() | tuple() | range():
            if len(value) > LONGEST:
                return None
            inner = [write_value(item) for item in value]
            return None if None in inner else f"[{', '.join(x for x in inner if x is not None)}]"
        case _:
            return write_number(value)


def write_number(value: object) -> str | None:
    """The shortest text that reads back as a number or a truth value; None for anything else."""
    if isinstance(value, bool) or type(value).__name__ in ("bool_", "bool"):
        return "true" if value else "false"
    if isinstance(value, Integral):
        return str(int(value)) if abs(int(value)) < 10**40 else None
    if not isinstance(value, Real) or not isfinite(value):
        return None
    number = float(value)
    return str(int(number)) if number.is_integer() and abs(number) < 1e15 else repr(number)


def quote(text: str) -> str | None:
    """``text`` as a string of the language; None if it holds what no string can."""
    return None if any(sign in text for sign in '"\r\n') else f'"{text}"'
