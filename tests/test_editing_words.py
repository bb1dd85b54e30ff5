"""The table of fields that editors use says what the readers of the grammar say, and every field has a meaning."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.words import TARGET, text
from plandsl.driver import open_file
from plandsl.editing.fields import FIELDS, FUNCTIONS, ITEMS, METRICS, OPTIONS, READERS, Takes
from plandsl.editing.words import meaning, metric, option, undocumented, unit
from plandsl.grammar.context import forget_shipped
from plandsl.grammar.modules import FOLDERS, catalog_names
from plandsl.grammar.resolve import load
from plandsl.grammar.schema import ITEMS as BODIES
from plandsl.grammar.schema import Reader
from plandsl.units import UNITS, Dimension
from tests.draws import pick, some

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("scope", READERS)
def test_every_scope_has_the_fields_that_its_reader_knows(scope):
    assert set(FIELDS[scope]) == set(READERS[scope])


def test_words_are_those_of_the_page():
    assert TARGET.read_text("utf-8") == text(), "run make words"


def test_every_word_has_a_meaning():
    assert undocumented() == []
    assert [name for name in METRICS if len(metric(name)) < 20] == []
    assert [name for name in FUNCTIONS if not meaning("function", name).text] == []
    assert [(f, o) for f, options in OPTIONS.items() for o in options if not option(f, o)] == []
    assert [name for name in UNITS if not unit(name)] == []
    assert set(BODIES) <= set(ITEMS), "a body that holds other items has words for them"


WITHOUT_A_TABLE = ("mesh", "dense_fixed", "dense_jittered", "moe_fixed", "moe_jittered")
"""Sections whose fields are names of the user, or whose scope has another name."""


def agrees(takes: Takes, how: str, given: object) -> bool:
    """Whether an editor would offer what a reader asks for."""
    match how:
        case "number":
            return takes.dimension == given
        case "whole":
            return takes.dimension == Dimension() or takes.section != ""
        case "word":
            return set(takes.words) >= set(given)  # type: ignore[call-overload]
        case "flag":
            return set(takes.words) == {"true", "false"}
        case "dtype" | "stored":
            return "fp8" in takes.words
        case "declaration":
            return takes.kind != ""
        case "section":
            return takes.section != ""
        case _:
            return takes.dimension is None


def overheard(how: str, asked: set[tuple[str, str, str, object]]) -> Callable[..., object]:
    """A method of `Reader` that also notes what it is asked for."""
    own = getattr(Reader, how)

    def read(self: Reader, field: str, *rest: object, **named: object) -> object:
        given = rest[0] if rest and how in ("number", "word") else None
        asked.add((self.record.kind, field, how, given))
        return own(self, field, *rest, **named)

    return read


def test_readers_ask_for_what_editors_offer(monkeypatch):
    asked: set[tuple[str, str, str, object]] = set()
    forget_shipped()  # entries of the catalog that the process has read already would not be read again
    for how in ("number", "word", "whole", "flag", "dtype", "stored", "section", "declaration", "text"):
        monkeypatch.setattr(Reader, how, overheard(how, asked))
    for path in some(sorted((ROOT / "examples").glob("*.plan")), 3, "examples"):
        module = open_file(path)
        module.check()
    catalog = load("", "<catalog>")
    for kind in FOLDERS:
        names = catalog_names(kind)
        catalog.spec(kind, names[pick(len(names), kind)])
    assert len(asked) > 100
    for kind, field, how, given in asked:
        takes = FIELDS.get(kind, {}).get(field)
        if takes is not None and kind not in WITHOUT_A_TABLE and (how, field) != ("section", "topology"):
            assert agrees(takes, how, given), (kind, field, how, given, takes)
