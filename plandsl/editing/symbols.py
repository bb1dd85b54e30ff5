"""What each name of a file stands for: where it is declared, where it is used, and how it is renamed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from plandsl import limits
from plandsl.diagnostics import Span
from plandsl.editing.fields import FIELDS, VARIES, fields_of
from plandsl.grammar import syntax as s
from plandsl.grammar.modules import KINDS, Library, Unit
from plandsl.grammar.sharding import EVERY_MODEL, SUGAR
from plandsl.spec.model import EARLIER


class Symbol(NamedTuple):
    """What a name stands for.

    ``kind`` is a kind of declaration, ``let``, ``dimension``, ``weight``, ``value`` (of a block), ``axis``, ``block``
    or ``class``. ``home`` is the file that declares it, ``owner`` the declaration that it belongs to.
    """

    kind: str
    name: str
    home: str
    owner: str = ""


class Occurrence(NamedTuple):
    """A name at a place: of a file, whose catalog entry or text it stands in. ``defines``: it is declared there."""

    symbol: Symbol
    span: Span
    path: str
    defines: bool = False


class _Owner(NamedTuple):
    """The model or the sharding that dimensions, weights and axes belong to; the block that values belong to."""

    home: str
    name: str
    block: str = ""
    sizes: frozenset[str] = frozenset()  # the dimensions that the model declares


def path_of(unit: Unit) -> str:
    """What tells a file from all others: its path with links followed, or the name that it has in diagnostics."""
    return str(unit.path) if unit.path is not None else unit.file


def occurrences(unit: Unit, library: Library) -> list[Occurrence]:
    """Every name of a file that stands for something that a file or the catalog declares, in the order of the text."""
    walker = _Walker(unit, library)
    for let in unit.lets.values():
        walker.put("let", let.name, Symbol("let", let.name.text, path_of(unit)), defines=True)
        walker.value("", let.value, None)
    for decl in unit.declarations:
        walker.declaration(decl)
    walker.earlier()
    return sorted(walker.found, key=lambda one: one.span)


class _Walker:
    def __init__(self, unit: Unit, library: Library) -> None:
        self.unit, self.library = unit, library
        self.path = path_of(unit)
        self.found: list[Occurrence] = []
        self.known: set[Symbol] = set()
        self.waiting: list[tuple[s.Name, str]] = []

    def put(self, kind: str, name: s.Name, symbol: Symbol | None = None, defines: bool = False) -> None:
        symbol = symbol or Symbol(kind, name.text, self.path)
        self.known.add(symbol)
        self.found.append(Occurrence(symbol, name.span, self.path, defines))

    # ---- declarations

    def declaration(self, decl: s.Decl) -> None:
        kind, name = decl.kind.text, decl.name
        self.put(kind, name, Symbol(kind, name.text, self.path), defines=True)
        owner = self.owner_of(kind, name.text, self.unit)
        if decl.value is not None:
            self.value(kind, decl.value, owner)
        if decl.body is not None:
            self.body(kind, decl.body, owner)

    def owner_of(self, kind: str, name: str, unit: Unit) -> _Owner | None:
        """The declaration that a model or sharding is made from in the end: its names are those of that one."""
        if kind not in ("model", "sharding"):
            return None
        found = self.library.find(kind, name, unit)
        sizes: set[str] = set()
        for _ in range(limits.MAX_EXPANSION):
            if found is None:
                return None
            decl, home = found
            base = decl.value
            sizes |= _sizes(decl.body)
            while isinstance(base, s.With):
                sizes |= _sizes(base.body)
                base = base.base
            if not isinstance(base, s.Ref):
                return _Owner(path_of(home), f"{kind} {decl.name.text}", sizes=frozenset(sizes))
            found = self.library.find(kind, base.name, home)
        return None

    # ---- values

    def value(self, kind: str, value: s.Expr, owner: _Owner | None) -> None:
        """Names in an expression, where a name may be that of a ``kind``."""
        match value:
            case s.Ref():
                self.reference(kind, value, owner)
            case s.With(base=base, body=body):
                self.value(kind, base, owner)
                inner = base
                while isinstance(inner, s.With):
                    inner = inner.base
                of = self.owner_of(kind, inner.name, self.unit) if isinstance(inner, s.Ref) else None
                self.body(kind, body, of or owner)
            case s.Dot(base=s.Ref(name=earlier), name=name) if earlier == EARLIER and owner is not None:
                self.waiting.append((name, owner.block))
            case s.Dot(base=base):
                self.value("any", base, owner)
            case s.Seq(items=items):
                for item in items:
                    self.value(kind, item, owner)
            case s.Range(lo=lo, hi=hi, step=step):
                for part in (lo, hi, step):
                    if part is not None:
                        self.value("", part, owner)
            case s.Unary(x=x):
                self.value(kind, x, owner)
            case s.Binary(a=a, b=b):
                self.value(kind, a, owner)
                self.value(kind, b, owner)
            case s.Call(args=args, kwargs=kwargs, body=body):
                for arg in args:
                    self.value(kind, arg, owner)
                for option in kwargs:
                    self.value("", option.value, owner)
                if body is not None:
                    self.statements(body, owner)
            case s.Index(name=name, dims=dims):
                self.weight(name, dims, owner)
            case _:
                pass

    def reference(self, kind: str, ref: s.Ref, owner: _Owner | None) -> None:
        name = s.Name(ref.name, ref.span)
        kinds = KINDS if kind == "any" else (kind,) if kind in KINDS else ()
        for one in kinds:
            if found := self.library.find(one, ref.name, self.unit):
                self.put(one, name, Symbol(one, ref.name, path_of(found[1])))
                return
        if owner is not None and owner.block and self.is_value(ref.name, owner):
            self.put("value", name, Symbol("value", ref.name, self.path, owner.block))
        elif found_let := self.library.find_let(ref.name, self.unit):
            self.put("let", name, Symbol("let", ref.name, path_of(found_let[1])))
        elif owner is not None and ref.name in owner.sizes:
            self.dimension(name, owner)

    def earlier(self) -> None:
        """Names behind ``earlier``: of values that another block of the model makes, wherever it stands."""
        for name, block in self.waiting:
            made = [o.symbol for o in self.found if o.defines and o.symbol[:3] == ("value", name.text, self.path)]
            others = [symbol for symbol in made if symbol.owner != block]
            if others:
                self.put("value", name, others[0])

    def is_value(self, name: str, owner: _Owner) -> bool:
        return Symbol("value", name, self.path, owner.block) in self.known

    def dimension(self, name: s.Name, owner: _Owner, defines: bool = False) -> None:
        if name.text not in EVERY_MODEL and name.text != "position":
            self.put("dimension", name, Symbol("dimension", name.text, owner.home, owner.name), defines)

    def weight(self, name: s.Name, dims: tuple[s.Name, ...], owner: _Owner | None) -> None:
        if owner is None:
            return
        symbol = Symbol("weight", name.text, owner.home, owner.name)
        self.put("weight", name, symbol, defines=symbol not in self.known)
        for dim in dims:
            self.dimension(dim, owner)

    # ---- bodies

    def body(self, scope: str, body: s.Body, owner: _Owner | None) -> None:
        for item in body.items:
            self.item(scope, item, owner)

    def item(self, scope: str, item: s.Item, owner: _Owner | None) -> None:
        match item:
            case s.Field(name=name, value=value):
                self.field(scope, name, value, owner)
            case s.Section(name=name, body=body):
                self.section(scope, name, body, owner)
            case s.Mesh(axes=axes):
                for axis in axes:
                    self.axis(axis.name, owner, defines=True)
            case s.Rule(axes=names) | s.Place(axes=names):
                for one in names:
                    self.axis(one, owner)
            case s.Region(body=body):
                self.body(scope, body, owner)
            case s.Clause(value=value):
                self.value("", value, None)
            case s.Vary(entries=entries):
                for path, domain in entries:
                    self.value(_kind_of_path(path), domain, None)
            case s.Class(name=name, body=body):
                self.put("class", name, Symbol("class", name.text, self.path, str(item.span.line)), defines=True)
                self.body("class", body, owner)
            case s.Embedding(weight=value, name=name, body=body):
                inner = owner._replace(block=str(item.span[1:])) if owner else None
                self.value("", value, inner)
                if name is not None and inner is not None:
                    self.put("value", name, Symbol("value", name.text, self.path, inner.block), defines=True)
                if body is not None:
                    self.statements(body, inner)
            case s.Head(value=value):
                self.value("", value, owner._replace(block=str(item.span[1:])) if owner else None)
            case s.Block(name=block, attributes=attributes, arg=arg, body=body):
                if block is not None and owner is not None:
                    self.put("block", block, Symbol("block", block.text, owner.home, owner.name), defines=True)
                for attribute in attributes:
                    self.value("", attribute.value, owner)
                self.block(item.span, (arg,), body, owner)
            case s.Mtp(arg=arg, token=token, body=body):
                self.block(item.span, (arg, token), body, owner)
            case s.Bare(value=value):
                self.value("", value, owner)
            case _:
                pass

    def field(self, scope: str, name: s.Name, value: s.Expr, owner: _Owner | None) -> None:
        takes = fields_of(scope).get(name.text)
        if scope == "model" and takes is None and owner is not None:
            self.dimension(name, owner, defines=True)
        if scope == "sharding" and name.text in SUGAR:
            self.axis(s.Name(SUGAR[name.text].axis, name.span), owner, defines=True)
        if scope == "stored" and owner is not None and name.text.startswith("w_"):
            self.put("weight", name, Symbol("weight", name.text, owner.home, owner.name))
        inner = owner if scope in ("model", "stored", "lora") else None
        if scope == "model" and takes is not None and takes.kind:
            inner = None
        self.value(takes.kind if takes else "", value, inner)

    def section(self, scope: str, name: s.Name, body: s.Body, owner: _Owner | None) -> None:
        takes = fields_of(scope).get(name.text)
        if scope == "stored":
            if owner is not None:
                self.put("block", name, Symbol("block", name.text, owner.home, owner.name))
            self.body("stored", body, owner)
            return
        inner = takes.section if takes is not None else ""
        if inner in ("model", "sharding") and inner != scope:
            where = f"{inner} at {name.span.line}:{name.span.column}"
            owner = _Owner(self.path, where, sizes=frozenset(_sizes(body)) if inner == "model" else frozenset())
        self.body(inner, body, owner)

    def axis(self, name: s.Name, owner: _Owner | None, defines: bool = False) -> None:
        if owner is not None:
            self.put("axis", name, Symbol("axis", name.text, owner.home, owner.name), defines)

    def block(self, span: Span, arguments: Iterable[s.Index], body: s.Body, owner: _Owner | None) -> None:
        if owner is None:
            return
        inner = owner._replace(block=str(span[1:]))
        for argument in arguments:
            symbol = Symbol("value", argument.name.text, self.path, inner.block)
            self.put("value", argument.name, symbol, defines=True)
            for dim in argument.dims:
                self.dimension(dim, owner)
        self.statements(body, inner)

    def statements(self, body: s.Body, owner: _Owner | None) -> None:
        for item in body.items:
            if isinstance(item, s.Field) and owner is not None:
                self.value("", item.value, owner)
                self.put("value", item.name, Symbol("value", item.name.text, self.path, owner.block), defines=True)
            elif isinstance(item, s.Bare):
                self.value("", item.value, owner)


def _sizes(body: s.Body | None) -> set[str]:
    """The fields of the body of a model that no model has by itself: its dimensions."""
    items = body.items if body is not None else ()
    return {item.name.text for item in items if isinstance(item, s.Field)} - FIELDS["model"].keys()


def _kind_of_path(path: s.Expr) -> str:
    """The kind of declaration that the values of a path of `vary` name; empty for other paths."""
    words: list[str] = []
    while isinstance(path, s.Dot):
        words, path = [path.name.text, *words], path.base
    if not isinstance(path, s.Ref):
        return ""
    words = VARIES.get(path.name, path.name).split(".") + words
    scope, kind = "plan", ""
    for word in words:
        takes = fields_of(scope).get(word)
        if takes is None:
            return ""
        scope, kind = takes.section or takes.kind, takes.kind
    return kind


# ---- questions


def symbol_at(found: Iterable[Occurrence], path: str, line: int, column: int) -> Occurrence | None:
    """The occurrence at a place of a file."""
    for one in found:
        span = one.span
        if one.path == path and span.line == line and span.column <= column <= span.end_column:
            return one
    return None


def definitions(found: Iterable[Occurrence], of: Occurrence) -> list[Occurrence]:
    """Where the symbol of an occurrence is declared; of a value of a block, the assignment that holds there."""
    every = [one for one in found if one.symbol == of.symbol and one.defines]
    if of.symbol.kind == "value":
        before = [one for one in every if one.span < of.span] or every
        return before[-1:]
    return every[:1] if of.symbol.kind == "weight" else every


def is_of_the_language(of: Occurrence, found: Iterable[Occurrence]) -> bool:
    """Whether a name is no user's: an axis that a degree stands for."""
    axes = {sugar.axis for sugar in SUGAR.values()}
    written = [
        one for one in found if one.symbol == of.symbol and one.span.end_column - one.span.column != len(of.symbol.name)
    ]
    return of.symbol.kind == "axis" and of.symbol.name in axes and bool(written)


def used(found: Iterable[Occurrence], of: Occurrence) -> Iterator[Occurrence]:
    """Every occurrence of the same symbol, each place once."""
    seen: set[tuple[str, Span]] = set()
    for one in found:
        place = (one.path, one.span._replace(file=""))
        if one.symbol == of.symbol and place not in seen:
            seen.add(place)
            yield one
