"""Parts as `.plan` text, formatted as `planc fmt` formats."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from plandsl.api.parts import Part, inner_parts
from plandsl.api.plans import Whole
from plandsl.diagnostics import Diagnostic, PlanError
from plandsl.expressions import write_value

WIDTH = 100
"""The longest line of a body in one line."""

FILE = ("use", "let", "declare")


def show_part(part: Part) -> str:
    """A plan or a search as a whole file, with the declarations that it uses; another part as it stands in a plan."""
    if not isinstance(part, Whole):
        named = list(_named(part))
        if part.name:
            return "\n".join(_declaration(one) for one in named)
        text = _expression(part) if part.origin is not None else f"{part.kind} {_body(part)}"
        return "\n".join([*(_declaration(one) for one in named), text])
    found = _distinct([one for one in _named(part) if one is not part])
    files = [one for one in (*found, part) if isinstance(one, Whole)]
    uses = dict.fromkeys(text for one in files for text in one.fields.get("use", ()))
    lets: dict[str, Any] = {}
    for one in files:
        lets |= one.fields["let"].fields if "let" in one.fields else {}
    head = "".join(f"use {text}\n" for text in uses)
    head += "".join(f"let {name} = {_value(value)}\n" for name, value in lets.items())
    return "\n".join([*([head] if head else []), *map(_declaration, found), _declaration(part)])


def _named(part: Part) -> Iterator[Part]:
    """The parts with a name that ``part`` uses, those that are used by others first, and itself if it has a name."""
    for one in inner_parts(part):
        if one.kind in ("section", "class"):
            for inner in inner_parts(one):
                yield from _named(inner)
        yield from _named(one)
    if part.name:
        yield part


def _distinct(parts: list[Part]) -> list[Part]:
    """Each part once. Raises `PlanError` (E447) where two parts of one kind have one name."""
    found: dict[tuple[str, str], Part] = {}
    for part in parts:
        key = part.kind, part.name
        if found.setdefault(key, part) != part:
            why = f"two parts are called {part.kind} `{part.name}`, and say different things"
            raise PlanError([Diagnostic("E447", why, hint="give one of them another name")])
    return list(found.values())


def _declaration(part: Part) -> str:
    head = f"{part.kind} {part.name}"
    if part.origin is None:
        return f"{head} {_body(part, long=True)}\n"
    base = part.origin.name if isinstance(part.origin, Part) and part.origin.name else _value(part.origin)
    return f"{head} = {base} with {_body(part, long=True)}\n" if _lines(part) else f"{head} = {base}\n"


def _expression(part: Part) -> str:
    """A part as the value of a field."""
    if part.name:
        return part.name
    base = _value(part.origin)
    return f"{base} with {_body(part)}" if part.fields else base


def _value(value: Any) -> str:
    if isinstance(value, Part):
        return _expression(value)
    if isinstance(value, tuple):
        return f"[{', '.join(map(_value, value))}]"
    return value if isinstance(value, str) else write_value(value) or ""


def _body(part: Part, long: bool = False) -> str:
    """``{ ... }`` on one line, or with a line for each item."""
    lines = _lines(part)
    if not lines:
        return "{}"
    short = "{ " + ", ".join(lines) + " }"
    if not long and len(short) <= WIDTH and all(map(_may_share, lines)):
        return short
    inner = "".join(f"  {row}\n" if row else "\n" for line in lines for row in line.split("\n"))
    return "{\n" + inner + "}"


def _may_share(line: str) -> bool:
    """Whether an item may stand on a line with others."""
    return "\n" not in line and "->" not in line and not line.startswith(("mesh ", "place ", "vary ", "class "))


def _lines(part: Part) -> list[str]:
    """The items of a body."""
    return [line for key, value in part.fields.items() if key not in FILE for line in _items(part, key, value)]


def _items(part: Part, key: str, value: Any) -> Iterator[str]:
    if key not in part.special:
        if isinstance(value, Part) and value.origin is None and not value.name:
            yield f"{key} {_body(value)}"
        else:
            yield f"{key} = {_value(value)}"
        return
    match key:
        case "require" | "where":
            yield from (f"{key} {text}" for text in value)
        case "vary":
            yield from (f"vary {path} in {domain}" for path, domain in value.fields.items())
        case "mesh":
            yield "mesh " + ", ".join(f"{axis} = {_value(size)}" for axis, size in value.fields.items())
        case "classes":
            yield from (f"class {name} {_body(one)}" for name, one in value.fields.items())
        case "embedding" | "head":
            yield f"{key} {value}"
        case _:
            yield from value
