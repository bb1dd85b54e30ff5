"""Records: the merged bodies of declarations.

A record holds the layers of each field, base first, without reading any value: ``with`` adds layers on top.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple, TypeAlias

from plandsl import limits
from plandsl.diagnostics import Label, Span, article, clip
from plandsl.grammar import syntax as s
from plandsl.grammar.modules import IMPORTS, KINDS, Follows, Library, Unit, Wrong, cycle
from plandsl.grammar.tokens import NAMED

ASSUMING = ("gpu", "node", "cluster", "calibration", "engine")
"""Kinds that may hold an ``assumed`` section."""


PRICES = ("price", "price_reserved", "price_source")
KEPT = {"gpu": ("memory", "memory_total", "power", *PRICES), "node": PRICES}
"""Kind -> fields whose layers all stay in a merged record: it matters which of them was changed, and from what."""

REPLACED: dict[str, dict[str, tuple[str, ...]]] = {
    "link": {"bandwidth": ("pcie", "lanes"), "pcie": ("bandwidth",), "lanes": ("bandwidth",)},
    "limits": {"memory": ("memory_total",), "memory_total": ("memory",)},
    "plan": {"node": ("cluster",), "cluster": ("node",)},
    "workload": {
        "batch": ("concurrency", "rate", "requests", "duration", "sessions"),
        "concurrency": ("batch", "rate", "duration", "sessions"),
        "rate": ("batch", "concurrency", "speed"),
    },
}
"""By kind of section: what a field says in other words, so that it takes the place of these fields of a base."""


class Layer(NamedTuple):
    """One value of a field, its name and file, and whether it stands in an ``assumed`` section."""

    name: s.Name
    value: "s.Expr | Record"
    unit: Unit
    assumed: bool = False


class Placed(NamedTuple):
    """An item that is not a field, and its file."""

    item: s.Item
    unit: Unit


Entry: TypeAlias = "str | Placed"

_ID = re.compile(r"[\w./@* -]*[A-Za-z][\w./@* -]*")
"""A name as other places write it: ``meta-llama/Llama-3.1-70B``, ``8 * h100``."""


class Record:
    """The body of a declaration, merged with the bodies that it builds on.

    ``fields`` holds the layers of each field, base first: an expression can only be the first layer, and records
    are merged over it; fields of `KEPT` have one expression a layer. ``entries`` has all items in order, a field by its
    name. ``axes`` are the axes of ``mesh``. ``bases`` names the declarations that it was made from, nearest first.
    """

    __slots__ = ("axes", "bases", "entries", "fields", "flawed", "kind", "name", "shipped", "span", "unit")

    def __init__(self, kind: str, name: str, span: Span | None, unit: Unit) -> None:
        self.kind = kind
        self.name = name
        self.span = span
        self.unit = unit
        self.fields: dict[str, tuple[Layer, ...]] = {}
        self.axes: dict[str, Layer] = {}
        self.entries: list[Entry] = []
        self.bases: tuple[str, ...] = ()
        self.flawed = False  # something is given twice in it
        self.shipped = False  # it is an entry of the catalog as it stands there

    def items(self) -> list[Placed]:
        """The items that are not fields."""
        return [entry for entry in self.entries if isinstance(entry, Placed)]

    def copy_as(self, name: str, span: Span | None, unit: Unit) -> "Record":
        """A copy with the same contents under another name."""
        copy = Record(self.kind, name, span, unit)
        copy.fields, copy.axes, copy.entries, copy.bases = self.fields, self.axes, self.entries, self.bases
        copy.flawed = self.flawed
        return copy


def merge(base: Record, over: Record) -> Record:
    """``base with over``."""
    out = base.copy_as(base.name, base.span, base.unit)
    replaced = REPLACED.get(base.kind, {})
    gone = {old for name in over.fields for old in replaced.get(name, ())} - over.fields.keys()
    out.fields = {name: layers for name, layers in base.fields.items() if name not in gone}
    for name, layers in over.fields.items():
        builds = isinstance(layers[0].value, Record) or name in KEPT.get(base.kind, ())
        out.fields[name] = base.fields.get(name, ()) + layers if builds else layers
    out.axes = {**base.axes, **over.axes}
    out.flawed = base.flawed or over.flawed
    new = [e for e in over.entries if not (isinstance(e, str) and e in base.fields)]
    if base.kind == "sharding":  # the first rule wins, so the new rules come first
        out.entries = new + base.entries
    else:
        kept = [e for e in base.entries if not (isinstance(e, str) and e in gone)]
        out.entries = _drop_replaced(kept, new) + new
    return out


def _drop_replaced(base: list[Entry], over: list[Entry]) -> list[Entry]:
    """The entries of ``base`` that ``over`` does not replace. A block, head, mtp, embedding or class: whole."""
    keys = {_key(entry.item) for entry in over if isinstance(entry, Placed)} - {None}
    return [e for e in base if isinstance(e, str) or _key(e.item) not in keys]


def _key(item: s.Item) -> tuple[str, str] | None:
    match item:
        case s.Embedding():
            return "embedding", ""
        case s.Head():
            return "head", ""
        case s.Mtp():
            return "mtp", ""
        case s.Block(name=name):
            return "block", name.text if name else ""
        case s.Class(name=name):
            return "class", name.text
        case s.Clause(word=word) if word.text in ("maximize", "minimize"):
            return "goal", ""
    return None


def _too_long(name: s.Name) -> Wrong:
    message = f"`{name.text}` depends on a chain of more than {limits.MAX_EXPANSION} declarations"
    return Wrong("E208", message, name.span, hint=limits.MAX_EXPANSION.hint("write the values out"))


def _before_with(value: s.Expr) -> Span:
    """The place of a value without the `with` of its last part: an id with dashes reads as a difference."""
    last = value
    while isinstance(last, s.Binary):
        last = last.b
    return value.span.to(last.base.span) if isinstance(last, s.With) else value.span


_SHIPPED: dict[int, tuple[s.Decl, Record, int]] = {}
"""The records of entries of the catalog that are like no other entry, with their declarations and heights."""


class Records:
    """Makes the records of one compilation; the record of each declaration is made once."""

    def __init__(self, library: Library) -> None:
        self.library = library
        self._known: dict[int, tuple[s.Decl, Record, int]] = {}
        self._open: dict[int, s.Name] = {}
        self._height = 0

    # ---- from a body

    def build(self, kind: str, name: s.Name, body: s.Body, unit: Unit, assumed: bool = False) -> Record:
        """The record of one body; a field given twice is reported."""
        record = Record(kind, name.text, name.span, unit)
        for item in body.items:
            self._take(record, item, unit, assumed)
        return record

    def _take(self, record: Record, item: s.Item, unit: Unit, assumed: bool) -> None:
        match item:
            case s.Section(name=name, body=body) if name.text == "assumed" and record.kind in ASSUMING:
                self._assume(record, self.build(record.kind, name, body, unit, assumed=True))
            case s.Section(name=name, body=body):
                self._set(record, Layer(name, self.build(name.text, name, body, unit, assumed), unit, assumed))
            case s.Field(name=name, value=value):
                self._set(record, Layer(name, value, unit, assumed))
            case s.Mesh(axes=axes):
                for axis in axes:
                    self._axis(record, Layer(axis.name, axis.value, unit))
                record.entries.append(Placed(item, unit))
            case _:
                record.entries.append(Placed(item, unit))

    def _set(self, record: Record, layer: Layer) -> None:
        name = layer.name.text
        before = record.fields.get(name, ())
        if not before:
            record.entries.append(name)
        elif before[0].assumed and isinstance(before[0].value, Record) and isinstance(layer.value, Record):
            record.fields[name] = (*before, layer)
            return
        else:
            self._report_twice(record, f"`{name}`", layer.name, before[0].name)
            return
        record.fields[name] = (layer,)

    def _axis(self, record: Record, layer: Layer) -> None:
        if before := record.axes.get(layer.name.text):
            self._report_twice(record, f"axis `{layer.name.text}`", layer.name, before.name)
        else:
            record.axes[layer.name.text] = layer

    def _report_twice(self, record: Record, what: str, second: s.Name, first: s.Name) -> None:
        record.flawed = True
        labels = (Label(first.span, "first given here"),)
        hint = "remove one of them"
        self.library.record(Wrong("E202", f"{what} is given twice", second.span, labels=labels, hint=hint))

    def _assume(self, record: Record, assumed: Record) -> None:
        """Put the fields of an ``assumed`` section below the fields outside it."""
        for name, layers in assumed.fields.items():
            over = record.fields.get(name, ())
            if not over:
                record.entries.append(name)
            if not over or (isinstance(over[0].value, Record) and isinstance(layers[0].value, Record)):
                record.fields[name] = layers + over
            else:
                self._report_twice(record, f"`{name}`", layers[0].name, over[0].name)
        record.entries += assumed.items()

    # ---- from a declaration or an expression

    def of_declaration(self, decl: s.Decl, unit: Unit) -> Record:
        """The record that a declaration stands for; that of an entry of the catalog is made once in a process."""
        if known := self._known.get(id(decl)) or _SHIPPED.get(id(decl)):
            self._height = max(self._height, known[2])
            return known[1]
        outer, self._height = self._height, 0
        with self._guard_cycle(decl):
            record = self._declared(decl, unit)
        height = self._height + 1
        self._height = max(outer, height)
        if height > limits.MAX_EXPANSION:
            raise _too_long(decl.name)
        record.shipped = unit.in_catalog and decl.body is not None and not record.flawed
        (_SHIPPED if record.shipped else self._known)[id(decl)] = decl, record, height
        return record

    def _declared(self, decl: s.Decl, unit: Unit) -> Record:
        kind = decl.kind.text
        if decl.body is not None:
            return self.build(kind, decl.name, decl.body, unit)
        assert decl.value is not None  # a declaration has a body or a value
        base = self.of_value(kind, decl.value, unit)
        record = base.copy_as(decl.name.text, decl.name.span, unit)
        record.bases = () if unit.in_catalog else (base.name, *base.bases)
        return record

    @contextmanager
    def _guard_cycle(self, item: s.Decl | s.Let) -> Iterator[None]:
        """Mark ``item`` as being resolved. Raises `Wrong` (E208) if it is being resolved already."""
        name = item.name
        if id(item) in self._open:
            keys = list(self._open)
            raise cycle([self._open[key] for key in keys[keys.index(id(item)) :]])
        if len(self._open) >= limits.MAX_EXPANSION:
            raise _too_long(name)
        self._open[id(item)] = name
        try:
            yield
        finally:
            del self._open[id(item)]

    def of_value(self, kind: str, value: s.Expr, unit: Unit) -> Record:
        """The record of kind ``kind`` that an expression stands for."""
        bodies: list[s.Body] = []
        while isinstance(value, s.With):
            bodies.append(value.body)
            value = value.base
            if len(bodies) > limits.MAX_EXPANSION:
                why = f"more than {limits.MAX_EXPANSION} `with` on one value"
                raise Wrong("E208", why, value.span, hint=limits.MAX_EXPANSION.hint("write them as one `with`"))
        record = self._base(kind, value, unit)
        for body in reversed(bodies):
            self.library.spend(body.span, len(record.entries) + len(body.items))
            name = s.Name(record.name, record.span or body.span)
            record = merge(record, self.build(kind, name, body, unit))
        return record

    def _base(self, kind: str, value: s.Expr, unit: Unit) -> Record:
        if isinstance(value, s.Ref):
            return self._by_name(kind, value, unit)
        if isinstance(value, s.Dot):
            inner = self.of_path(value.base, unit)
            found = self.section(inner, value.name.text, kind) if inner else None
            if found is not None:
                return found
        if isinstance(value, s.Call) and value.func.text in IMPORTS and kind == "model":
            return self._import_model(value, unit)
        raise self._not_a_name(kind, value, unit)

    def _not_a_name(self, kind: str, value: s.Expr, unit: Unit) -> Wrong:
        """The error for a value where a name must stand: a string, an id with other signs, or anything else."""
        if self.library.is_reported(value.span, unit):
            return Follows()
        span = _before_with(value)
        text = value.value if isinstance(value, s.Str) else self.library.text(span)
        if isinstance(value, s.Str):
            hint = text if self.library.find(kind, text, unit) else self.library.hint_for_name(kind, text, unit)
            hint = f"a name has no quotes: write `{text}`" if hint == text else f"a name has no quotes: {hint}"
            return Wrong("E210", f"expected the name of {article(kind)}, found a string", value.span, hint=hint)
        if isinstance(value, s.Num | s.Binary | s.Dot) and _ID.fullmatch(text):
            hint = self.library.hint_for_name(kind, text, unit)
            return Wrong("E201", f"there is no {kind} named `{clip(text)}`", span, label=NAMED, hint=hint)
        hint = f"a name, `name with {{ ... }}`, or a section `{kind} {{ ... }}` in a plan"
        return Wrong("E210", f"expected the name of {article(kind)}", value.span, hint=hint)

    def _import_model(self, call: s.Call, unit: Unit) -> Record:
        """The model that ``hf("config.json")`` or ``gguf("model.gguf")`` builds; ``{ }`` counts as ``with``."""
        from plandsl.grammar.hf import import_model  # few plans need it

        record = self.of_declaration(*import_model(self.library, call, unit))
        if call.body is None:
            return record
        return merge(record, self.build("model", s.Name(record.name, call.span), call.body, unit))

    def _by_name(self, kind: str, ref: s.Ref, unit: Unit) -> Record:
        if found := self.library.find(kind, ref.name, unit):
            return self.of_declaration(*found)
        if found_let := self.library.find_let(ref.name, unit):
            let, home = found_let
            with self._guard_cycle(let):
                return self.of_value(kind, let.value, home)
        raise self.library.unknown_name(kind, ref.name, ref.span, unit)

    # ---- within records

    def section(self, record: Record, name: str, kind: str) -> Record | None:
        """The layers of field ``name`` as one record. A name there refers to a ``kind`` ("": no names allowed)."""
        out: Record | None = None
        for layer in record.fields.get(name, ()):
            if isinstance(layer.value, Record):
                out = merge(out, layer.value) if out else layer.value
            elif kind:
                out = self.of_value(kind, layer.value, layer.unit)
            elif isinstance((last := record.fields[name][-1]).value, Record):
                why, base = f"`{name}` has a value already, and takes no section", Label(layer.value.span, "the value")
                raise Wrong("E210", why, last.name.span, hint=f"write `{name} = ...`", labels=(base,))
            else:
                raise Wrong("E210", f"`{name}` is a section", layer.value.span, hint=f"write `{name} {{ ... }}`")
        return out

    def of_path(self, value: s.Expr, unit: Unit) -> Record | None:
        """The record of any kind that ``name`` or ``name.section`` stands for."""
        depth = 0
        names: list[str] = []
        while isinstance(value, s.Dot) and depth < limits.MAX_EXPANSION:
            names.append(value.name.text)
            value = value.base
            depth += 1
        if not isinstance(value, s.Ref):
            return None
        for kind in KINDS:
            if found := self.library.find(kind, value.name, unit):
                return self._follow_path(self.of_declaration(*found), names[::-1])
        return None

    def _follow_path(self, record: Record | None, names: list[str]) -> Record | None:
        for name in names:
            if record is None or name not in record.fields:
                return None
            if name not in KINDS and not isinstance(record.fields[name][-1].value, Record):
                return None  # a value holds nothing
            record = self.section(record, name, name if name in KINDS else "")
        return record
