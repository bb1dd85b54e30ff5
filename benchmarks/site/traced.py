"""What the readers ask of each field, seen while they read: nothing about a field is written a second time for a page.

Every field of a plan goes through a method of `Reader` (`grammar/schema.py`), which is told its dimension, its bounds
or its words. `asked` watches these calls while the catalog, the examples and the examples of codes are read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any

from plandsl.codes import CODES
from plandsl.diagnostics import PlanError, article
from plandsl.driver import check_module, open_file, open_text
from plandsl.grammar import catalog
from plandsl.grammar.context import forget_shipped
from plandsl.grammar.schema import Reader
from plandsl.spec.formats import BITS
from plandsl.units import EXAMPLES, NUMBER, Dimension

ROOT = Path(__file__).parents[2]


class Asked:
    """Of one field: the values that it takes, and their range."""

    def __init__(self) -> None:
        self.values: dict[str, None] = {}
        self.ranges: dict[str, None] = {}
        self.needed = False


Fields = dict[str, dict[str, Asked]]
"""Kind of record -> name of a field -> what is asked of it."""


def units_of(dimension: Dimension) -> str:
    """A quantity of a dimension with its units, for people; a number without dimension has none."""
    if dimension == NUMBER:
        return "number or `%`"
    return f"{dimension}, as `{EXAMPLES[dimension]}`" if dimension in EXAMPLES else f"{dimension}"


def asked(read: Callable[[], None]) -> Fields:
    """What readers ask of fields while ``read`` runs."""
    found: Fields = {}
    forget_shipped()  # entries of the catalog that the process has read already would not be read again
    with _watched(found):
        read()
    return found


def read_everything() -> None:
    """Read every plan of the repository: the catalog, the examples, and the examples of codes."""
    module = open_text("", "all.plan")
    for kind in ("gpu", "node", "cluster", "calibration", "engine", "model"):
        for name in catalog.names(kind):
            module.spec(kind, name)
    for path in sorted(ROOT.glob("examples/**/*.plan")):
        check_module(open_file(path))
    for code in CODES.values():
        if code.example:
            try:
                check_module(open_text(code.example, "example.plan"))
            except PlanError:
                continue


@contextmanager
def _watched(found: Fields) -> Iterator[None]:
    """Patch the methods of `Reader`, which are told what a field must be."""

    def note(reader: Reader, name: str, value: str = "", bounds: str = "") -> Asked:
        one = found.setdefault(reader.record.kind, {}).setdefault(name, Asked())
        one.values.update({value: None} if value else {})
        one.ranges.update({bounds: None} if bounds else {})
        return one

    def init(reader: Reader, context: Any, record: Any, known: Any) -> None:
        for name in known or ():
            found.setdefault(record.kind, {}).setdefault(name, Asked())

    def number(reader: Reader, name: str, dimension: Dimension, example: str = "", zero: bool = False) -> None:
        note(reader, name, units_of(dimension), "0 or more" if zero else "above 0").needed |= bool(example)

    def whole(reader: Reader, name: str, example: str = "", least: int = 1, most: int = 0) -> None:
        bounds = f"{least} to {most:,}" if most else f"{least} or more"
        note(reader, name, "whole number", bounds).needed |= bool(example)

    def share(reader: Reader, layer: Any) -> None:
        note(reader, layer.name.text, "share, as `90 %`", "above 0 %, up to 100 %")

    def word(reader: Reader, name: str, choices: tuple[str, ...]) -> None:
        note(reader, name, " ".join(f"`{choice}`" for choice in choices))

    def choice(reader: Reader, layer: Any, choices: tuple[str, ...], code: str, what: str = "") -> None:
        if not set(BITS) <= set(choices):
            note(reader, layer.name.text, " ".join(f"`{one}`" for one in choices))

    def quantity(reader: Reader, layer: Any, dimension: Dimension) -> None:
        if not note(reader, layer.name.text).values:
            note(reader, layer.name.text, units_of(dimension))

    def section(reader: Reader, name: str, example: str = "") -> None:
        note(reader, name, "a section `{ }`").needed |= bool(example)

    def declaration(reader: Reader, kind: str, example: str = "") -> None:
        note(reader, kind, article(kind)).needed |= bool(example)

    def missing(reader: Reader, name: str, example: str) -> None:
        note(reader, name).needed = True

    say = {
        "dtype": lambda r, name, *_: note(r, name, "number format"),
        "stored": lambda r, name, *_: note(r, name, "number format, with scales or without"),
        "text": lambda r, name: note(r, name, "string"),
        "source": lambda r: note(r, "source", "string, or a list of strings"),
        "flag": lambda r, name, *_: note(r, name, "`true` `false`"),
        "__init__": init, "number": number, "whole": whole, "share": share, "word": word, "choice": choice,
        "quantity": quantity, "section": section, "declaration": declaration, "report_missing": missing,
    }  # fmt: skip
    plain = {name: getattr(Reader, name) for name in say}
    for name, tell in say.items():
        setattr(Reader, name, _told(plain[name], tell))
    try:
        yield
    finally:
        for name, method in plain.items():
            setattr(Reader, name, method)


def _told(method: Callable[..., Any], tell: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(method)
    def told(reader: Reader, *given: Any, **named: Any) -> Any:
        if hasattr(reader, "record") or tell.__name__ == "init":
            tell(reader, *given, **named)
        return method(reader, *given, **named)

    return told
