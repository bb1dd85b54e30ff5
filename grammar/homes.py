"""Where a field belongs that its record does not have: in another section, or under the name that a plan has for it."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from typing import NamedTuple

from plandsl.diagnostics import Label, clip
from plandsl.grammar import syntax as s
from plandsl.grammar.modules import Library, Wrong
from plandsl.grammar.near import catalog_name
from plandsl.grammar.places import SECTIONS, WHOLE
from plandsl.grammar.records import Layer, Record
from plandsl.grammar.synonyms import ENGINES, FIELDS, FORMATS, Synonym, plain, say
from plandsl.grammar.unparse import items_on_one_line
from plandsl.spec.formats import is_storage

PARTS = ("sharding", "workload", "class", "engine")
"""Kinds of records that stand in them."""


class Stray(NamedTuple):
    """A field that its record does not have, and the field of a plan that it stands for, with its value."""

    word: s.Name
    section: str
    name: str
    value: str  # empty where the other tool chooses, or leaves a switch off
    tool: str
    own: bool  # the record itself has the field that it stands for
    switch: bool  # the other tool only switches it on and off

    @property
    def said(self) -> str:
        """What another tool calls the field; empty where the name is the plan's own."""
        if self.word.text == self.name:
            return ""
        return say(self.word.text, self.name, self.tool) + (", a number and no switch" if self.switch else "")

    def said_of(self, where: str) -> str:
        """What another tool calls the field of a section."""
        return f"{say(self.word.text, self.name, self.tool).removesuffix(' here')} in {where}"

    @property
    def text(self) -> str:
        """The field as it must be written."""
        return f"{self.name} = {self.value}"


def stray_fields(library: Library, record: Record, known: tuple[str, ...]) -> Iterator[Stray]:
    """The unknown fields of a record that stand for others of a plan."""
    for word, layers in record.fields.items():
        value = layers[-1].value
        if word in known or isinstance(value, Record):
            continue
        synonym = FIELDS.get(plain(word)) or _misplaced(record, word)
        section, _, name = synonym.path.rpartition(".") if synonym else ("", "", "")
        own = name in known
        if synonym and (own or (section in SECTIONS and record.kind in (*WHOLE, *PARTS))):
            text = _value(library, value, synonym, name)
            yield Stray(
                layers[-1].name,
                section,
                name,
                value=text,
                tool=synonym.tool,
                own=own,
                switch=bool(synonym.switch),
            )


def _misplaced(record: Record, word: str) -> Synonym | None:
    """The field of the same name in another section of a plan."""
    section = next((section for section, names in SECTIONS.items() if word in names), None)
    return None if section is None or record.kind not in (*WHOLE, *PARTS) else Synonym(f"{section}.{word}", "")


def _value(library: Library, value: s.Expr, synonym: Synonym, name: str) -> str:
    """The value of a stray field, as the plan's own field takes it."""
    text = library.text(value.span)
    word = value.value if isinstance(value, s.Str) else text
    if word.lower() in ("auto", "none", "null") or (synonym.switch and word.lower() == "false"):
        return ""
    if synonym.switch:
        return synonym.switch
    if name in ("weights", "kv_cache", "activations"):
        return word if is_storage(word) else FORMATS.get(plain(word), (word,))[0]
    if name in ("model", "node"):
        return catalog_name(name, f"h100_{word}" if word.isdigit() else word) or word
    return f"{text} {synonym.unit}" if synonym.unit and isinstance(value, s.Num) and not value.unit else text


def without_outer(unknown: dict[str, Layer], kind: str) -> dict[str, Layer]:
    """``unknown`` fields of a record without those that only a missing closing bracket puts into it."""
    outer = SECTIONS[""] if kind not in WHOLE else ()
    return {word: layer for word, layer in unknown.items() if not (word in outer and layer.unit.unclosed)}


def hint_for_missing(library: Library, record: Record, name: str) -> str:
    """The hint for a missing field that the record has under the name of another tool; empty if it has not."""
    for word, layers in record.fields.items():
        synonym = FIELDS.get(plain(word))
        if synonym and synonym.path == f"{record.kind}.{name}" and not isinstance(layers[-1].value, Record):
            value = library.text(layers[-1].value.span)
            return f"{say(word, name, synonym.tool)}: write `{name} = {value}`"
    return ""


# ---- findings


def wrong_fields(library: Library, record: Record, title: str, strays: list[Stray]) -> Iterator[Wrong]:
    """One finding for each stray field that the record itself has, and one for each other section."""
    if strays and strays[0].word.span.file == SET:
        yield from (_set_elsewhere(title, stray) for stray in strays)
        return
    for off in (one for one in strays if not one.value):
        hint = f"{say(off.word.text, off.name, off.tool)}: leave it out"
        yield Wrong("E206", f"{title} has no field `{clip(off.word.text)}`", off.word.span, hint=hint)
    strays = [one for one in strays if one.value]
    there = {one: _written(library, record, one) for one in strays}
    for stray, text in there.items():
        if stray.own or text:
            said = stray.said or f"`{stray.name}` belongs in `{stray.section}`"
            hint = f"{said}, and `{text}` is stated: leave this one out" if text else f"{said}: write `{stray.text}`"
            yield Wrong("E206", f"{title} has no field `{clip(stray.word.text)}`", stray.word.span, hint=hint)
    away = sorted(
        (one for one in strays if not one.own and not there[one]), key=lambda one: (one.section, one.word.span)
    )
    for section, group in groupby(away, key=lambda one: one.section):
        yield _moved(library, record, title, section, list(group))


SET = "--set"
"""The file of the spans of an override, which is a path and no text of a plan."""


def _set_elsewhere(title: str, stray: Stray) -> Wrong:
    """The finding about the path of an override."""
    path = f"{stray.section}.{stray.name}" if stray.section else stray.name
    said = stray.said or f"`{stray.name}` belongs in `{stray.section}`"
    value = f"{path}={stray.value}"
    hint = f"{said}: write `--set {value}`" if " " not in value else f"{said}: write `--set '{value}'`"
    return Wrong("E206", f"{title} has no field `{clip(stray.word.text)}`", stray.word.span, hint=hint)


def _written(library: Library, record: Record, stray: Stray) -> str:
    """The field that a stray one stands for, where the same plan states it too; empty where it does not."""
    if not stray.own:
        section = record.fields.get(stray.section, ()) if record.kind in WHOLE else ()
        if not section or not isinstance(section[0].value, Record):
            return ""
        record = section[0].value
    layer = record.fields[stray.name][-1] if stray.name in record.fields else None
    if layer is None or isinstance(layer.value, Record) or layer.unit.in_catalog:
        return ""
    return f"{stray.name} = {library.text(layer.value.span)}"


def _moved(library: Library, record: Record, title: str, section: str, strays: list[Stray]) -> Wrong:
    """The finding about fields that belong in another section, with the text that this section then has."""
    word, within = strays[0].word, record.kind in WHOLE
    where = f"`{section}`" if within else f"the `{section}` of a plan" if section else "the plan"
    own = [f"`{stray.name}`" for stray in strays if stray.word.text == stray.name]
    why = [stray.said_of(where) for stray in strays if stray.word.text != stray.name]
    why += [f"{' and '.join(own)} {'belongs' if len(own) == 1 else 'belong'} in {where}"] if own else []
    text = _with_fields(library, record.fields.get(section, ()) if within else (), section, strays)
    labels = tuple(Label(stray.word.span, "and this one") for stray in strays[1:])
    hint = f"{', and '.join(why)}: write `{text}`{'' if within else ' there'}"
    return Wrong("E206", f"{title} has no field `{clip(word.text)}`", word.span, hint=hint, labels=labels)


def _with_fields(library: Library, layers: tuple[Layer, ...], section: str, strays: list[Stray]) -> str:
    """A section of a plan, which has these ``layers``, with the fields of ``strays`` too."""
    fields = ", ".join(stray.text for stray in strays)
    if not section:
        return fields
    if not layers:
        engine = next((ENGINES[stray.tool] for stray in strays if stray.tool in ENGINES), "vllm")
        instead = {"model": "model = llama_3_1_8b", "engine": f"engine = {engine}"}.get(section)
        return f"{instead} with {{ {fields} }}" if instead else f"{section} {{ {fields} }}"
    first = layers[0].value
    if not isinstance(first, Record):
        short = first.span.line == first.span.end_line
        return f"{section} = {library.text(first.span) if short else '...'} with {{ {fields} }}"
    return f"{section} {{ {items_on_one_line(library, first)}{fields} }}"
