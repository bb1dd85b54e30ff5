"""Reads the fields of a record: checks their names and values, and reports mistakes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from plandsl import limits
from plandsl.diagnostics import article, clip, nearest
from plandsl.grammar import syntax as s
from plandsl.grammar.context import Context
from plandsl.grammar.evaluate import Value, describe
from plandsl.grammar.modules import KINDS, Library, Unit, Wrong
from plandsl.grammar.records import Layer, Record, merge
from plandsl.grammar.values import expect, flag, span_of, whole
from plandsl.spec.formats import BITS, FORMS, SCALED, is_storage
from plandsl.units import NUMBER, Dimension, Quantity

T = TypeVar("T")

_SMALLEST, _LARGEST = 1e-15, 1e30  # bounds of a quantity in SI units, so that results computed from it stay finite

ITEMS: dict[str, tuple[type, ...]] = {
    "model": (s.Embedding, s.Block, s.Mtp, s.Head),
    "sharding": (s.Mesh, s.Rule, s.Region, s.Place),
    "workload": (s.Class,),
    "class": (s.Clause,),
    "plan": (s.Clause,),
    "search": (s.Clause, s.Vary),
}
"""Items that a body may hold beside fields and sections."""


class Reader:
    """Reads one record, field by field. ``ok`` becomes false at the first finding; reading continues."""

    def __init__(self, context: Context, record: Record, known: Iterable[str] | None) -> None:
        self.context = context
        self.record = record
        self.ok = not record.flawed
        self._stood_in: set[str] = set()  # fields that an unknown field stands for: they are not missing
        self._check_items()
        if known is not None:
            self._check_names(tuple(known))

    @property
    def title(self) -> str:
        """The name of the record for a message: ``gpu `mi325x```."""
        record = self.record
        return f"{record.kind} `{record.name}`" if record.kind in KINDS and record.name else f"`{record.kind}`"

    # ---- findings

    def fail(self, wrong: Wrong) -> None:
        """Record a finding."""
        self.ok = False
        self.context.library.record(wrong)

    def attempt(self, read: Callable[[], T]) -> T | None:
        """The result of ``read``; None and a finding if it raises `Wrong`."""
        try:
            return read()
        except Wrong as wrong:
            self.fail(wrong)
            return None

    def report_missing(self, name: str, example: str) -> None:
        """Record that the field ``name`` is missing."""
        self.ok = False
        if not self.record.unit.broken and name not in self._stood_in:
            from plandsl.grammar.homes import hint_for_missing  # mistakes alone need it

            hint = hint_for_missing(self.context.library, self.record, name) or f"add a line such as `{example}`"
            self.fail(Wrong("E207", f"{self.title} has no `{name}`", self.record.span, hint=hint))

    def _check_names(self, known: tuple[str, ...]) -> None:
        unknown = {name: layers[-1] for name, layers in self.record.fields.items() if name not in known}
        if not unknown:
            return
        from plandsl.grammar.homes import stray_fields, without_outer, wrong_fields  # mistakes alone need them

        self.ok, library = False, self.context.library
        unknown = without_outer(unknown, self.record.kind)
        strays = [stray for stray in stray_fields(library, self.record, known) if stray.word.text in unknown]
        for wrong in wrong_fields(library, self.record, self.title, strays):
            self.fail(wrong)
        self._stood_in = {stray.name if stray.own else stray.section for stray in strays}
        told = {stray.word.text for stray in strays}
        for name in [name for name in unknown if name not in told]:
            near = nearest(name, known)
            self._stood_in |= set(near) if len(near) == 1 else set()
            self.report_unknown(unknown[name].name, known)

    def report_unknown(self, name: s.Name, known: Iterable[str]) -> None:
        """Record that the record has no field ``name``."""
        hint = self.context.library.suggest(name.text, iter(known))
        self.fail(Wrong("E206", f"{self.title} has no field `{clip(name.text)}`", name.span, hint=hint))

    def _check_items(self) -> None:
        allowed = ITEMS.get(self.record.kind, ())
        for placed in self.record.items():
            if not isinstance(placed.item, allowed):
                from plandsl.grammar.misplaced import misplaced_item  # mistakes alone need it

                kind = self.record.kind
                self.fail(misplaced_item(placed, article(kind) if kind in KINDS else f"`{kind}`"))

    # ---- fields

    def layer(self, name: str) -> Layer | None:
        """The last layer of field ``name``; None if there is no such field."""
        layers = self.record.fields.get(name)
        return layers[-1] if layers else None

    def times(self, name: str) -> int:
        """How often a field of `KEPT` is stated, in the declaration and the ones that it was made from."""
        return len(self.record.fields.get(name, ()))

    def read(self, name: str, convert: Callable[[Layer], T], example: str = "") -> T | None:
        """Field ``name`` converted; None if wrong or missing. With an ``example``, a missing field is an error."""
        layer = self.layer(name)
        if layer is not None:
            found = layer
            return self.attempt(lambda: convert(found))
        if example:
            self.report_missing(name, example)
        return None

    def value(self, layer: Layer) -> Value:
        """The value of a layer; fields of a model may refer to one another."""
        within = self.record if self.record.kind == "model" else None
        return self.context.evaluator.layer(layer, within)

    def quantity(self, layer: Layer, dimension: Dimension) -> Quantity:
        """The value of a layer as a quantity of ``dimension``."""
        return expect(self.value(layer), dimension, layer)

    def number(self, name: str, dimension: Dimension, example: str = "", zero: bool = False) -> float | None:
        """A positive quantity in SI units; with ``zero`` it may be zero."""
        return self.read(name, lambda layer: self._positive(layer, dimension, zero), example)

    def _positive(self, layer: Layer, dimension: Dimension, zero: bool) -> float:
        value = float(self.quantity(layer, dimension).value)
        if value < 0 or (value == 0 and not zero):
            least = "zero or more" if zero else "more than zero"
            raise Wrong("E214", f"`{layer.name.text}` must be {least}", span_of(layer))
        if value and not _SMALLEST <= value <= _LARGEST:
            why = f"`{layer.name.text}` must be from {_SMALLEST:g} to {_LARGEST:g} in SI units"
            raise Wrong("E214", why, span_of(layer))
        return value

    def share(self, layer: Layer) -> float:
        """A share above 0 % and up to 100 %."""
        value = self.quantity(layer, NUMBER).value
        if not 0 < value <= 1:
            message = f"`{layer.name.text}` must be a share, above 0 % and up to 100 %"
            raise Wrong("E214", message, span_of(layer), hint=f"`{layer.name.text} = 90 %`")
        return float(value)

    def whole(self, name: str, example: str = "", least: int = 1, most: int | None = None) -> int | None:
        """A whole number from ``least`` to ``most`` (the largest dimension)."""
        top = limits.MAX_DIMENSION if most is None else most
        return self.read(name, lambda layer: whole(self.value(layer), layer, least, top), example)

    def word(self, name: str, choices: tuple[str, ...]) -> str | None:
        """One of a few words, bare or in quotes, or a `let` of one."""
        return self.read(name, lambda layer: self.choice(layer, choices, "E210"))

    def dtype(self, name: str, example: str = "") -> str | None:
        """The name of a number format."""
        return self.read(name, lambda layer: self.choice(layer, tuple(BITS), "E217"), example)

    def stored(self, name: str, example: str = "") -> str | None:
        """The name of a format of weights, which may have scales."""
        return self.read(name, self.format, example)

    def format(self, layer: Layer, words: tuple[str, ...] = ()) -> str:
        """The format of weights that a layer stands for, or one of ``words``."""
        text = _stated_format(layer.value) or self._word(layer.value, layer.unit, words)
        if text is not None and (text in words or is_storage(text)):
            return text
        if text is not None and (hint := _hint_for_format(text)):
            raise Wrong("E217", f"there is no number format `{clip(text)}`", span_of(layer), hint=hint)
        if text is not None and (base := text.partition("_")[0]) in SCALED and base != text:
            why = f"`{clip(text)}` is no format with scales"
            raise Wrong("E217", why, span_of(layer), hint=f"forms: {FORMS}")
        return self.choice(layer, (*BITS, *words), "E217")

    def choice(self, layer: Layer, choices: tuple[str, ...], code: str, what: str = "") -> str:
        """The word that a layer stands for, which must be among ``choices``; a message calls it ``what``."""
        text = self._word(layer.value, layer.unit, choices)
        if text is None:
            wanted = "a number format" if code == "E217" else " or ".join(f"`{c}`" for c in choices)
            found = describe(self.value(layer))
            raise Wrong("E210", f"`{layer.name.text}` must be {wanted}, found {found}", span_of(layer))
        if text in choices:
            return text
        what = what or ("number format" if code == "E217" else layer.name.text.replace("_", " "))
        hint = _hint_for_format(text, choices) if code == "E217" else _hint_for_word(text, choices)
        hint = hint or self.context.library.suggest(text, iter(choices))
        raise Wrong(code, f"there is no {what} `{clip(text)}`", span_of(layer), hint=hint)

    def _word(self, expr: s.Expr | Record, unit: Unit, choices: tuple[str, ...]) -> str | None:
        for _ in range(8):  # a `let` may stand for another
            if isinstance(expr, s.Str):
                return expr.value
            if not isinstance(expr, s.Ref):
                return None
            if expr.name in choices or not (found := self.context.library.find_let(expr.name, unit)):
                return expr.name
            expr, unit = found[0].value, found[1]
        return None

    def text(self, name: str) -> str:
        """A string, empty if the field is missing."""
        return self.read(name, self._text) or ""

    def _text(self, layer: Layer) -> str:
        name = layer.name.text
        if isinstance(layer.value, s.Ref) and not self.context.library.find_let(layer.value.name, layer.unit):
            hint = f'`{name} = "{layer.value.name}"`'
            raise Wrong("E210", f"`{name}` must be a string in quotes", layer.value.span, hint=hint)
        value = self.value(layer)
        if isinstance(value, str):
            return value
        message = f"`{name}` must be a string, found {describe(value)}"
        raise Wrong("E210", message, span_of(layer), hint=f'`{name} = "..."`')

    def source(self) -> str:
        """`source`, a string or a list of strings: what they say, in one string."""
        return self.read("source", self._source) or ""

    def _source(self, layer: Layer) -> str:
        if not isinstance(layer.value, s.Seq):
            return self._text(layer)
        parts = [self._text(layer._replace(value=item)) for item in layer.value.items]
        return "; ".join(parts)

    def flag(self, name: str, default: bool) -> bool:
        """``true`` or ``false``."""
        value = self.read(name, lambda layer: flag(self.value(layer), layer))
        return default if value is None else value

    # ---- sections and declarations

    def section(self, name: str, example: str = "") -> Record | None:
        """The section ``name { }``."""
        if name not in self.record.fields:
            if example:
                self.report_missing(name, example)
            return None
        return self.attempt(lambda: self.context.records.section(self.record, name, ""))

    def declaration(self, kind: str, example: str = "") -> Record | None:
        """The record of kind ``kind`` that this record names, or declares in place."""
        if kind not in self.record.fields:
            if example:
                self.report_missing(kind, example)
            return None
        found = self.attempt(lambda: self.context.records.section(self.record, kind, kind))
        inline = isinstance(self.record.fields[kind][0].value, Record)
        return found.copy_as(self.record.name, found.span, found.unit) if found and inline else found

    def assumed_fields(self) -> tuple[tuple[str, str], ...]:
        """The fields of ``assumed`` sections, with their values as written."""
        return tuple(_assumed(self.context.library, self.record, ""))


def unknown_format(library: Library, name: s.Name) -> Wrong:
    """The error for a word that is no number format."""
    hint = _hint_for_format(name.text) or library.suggest(name.text, iter(BITS))
    return Wrong("E217", f"there is no number format `{clip(name.text)}`", name.span, hint=hint)


def _hint_for_format(text: str, choices: tuple[str, ...] = ()) -> str:
    from plandsl.grammar.near import hint_for_format  # mistakes alone need it

    return hint_for_format(text, choices)


def _stated_format(value: s.Expr | Record) -> str:
    """``int4_128(4.14)``: a format with its bits for each element, as a word; empty for anything else."""
    if isinstance(value, s.Call) and len(value.args) == 1 and isinstance(value.args[0], s.Num) and not value.kwargs:
        return f"{value.func.text}({value.args[0].value})" if value.args[0].unit is None else ""
    return ""


def _hint_for_word(text: str, choices: tuple[str, ...]) -> str:
    from plandsl.grammar.near import hint_for_word  # mistakes alone need it

    return hint_for_word(text, choices)


def _assumed(library: Library, record: Record, path: str) -> Iterator[tuple[str, str]]:
    for name, layers in record.fields.items():
        for section in layers:
            if isinstance(section.value, Record):
                merged = _merge_sections(layers)
                yield from _assumed(library, merged, f"{path}{name}.")
                break
        else:
            last = layers[-1]
            if last.assumed and not isinstance(last.value, Record):
                yield path + name, library.text(last.value.span)


def _merge_sections(layers: tuple[Layer, ...]) -> Record:
    """The sections among ``layers``, merged."""
    records = [layer.value for layer in layers if isinstance(layer.value, Record)]
    out = records[0]
    for record in records[1:]:
        out = merge(out, record)
    return out
