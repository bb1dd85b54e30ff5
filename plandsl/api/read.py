"""From the syntax tree of a text to parts of a plan: names stay names, and nothing is computed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePath
from typing import Any, TypeVar

from plandsl.api.kinds import Calibration, Cluster, Engine, Gpu, Model, Node, RequestClass, Sharding
from plandsl.api.parts import Part, Section, bare, make_part, ordered_section
from plandsl.api.plans import KINDS, Plan, Search, Whole
from plandsl.api.texts import not_there, slice_text
from plandsl.arguments import Arguments
from plandsl.diagnostics import PlanError
from plandsl.driver import check_spec
from plandsl.grammar import syntax as s
from plandsl.grammar.fmt import format_text
from plandsl.grammar.parse import parse
from plandsl.grammar.resolve import Module
from plandsl.grammar.sharding import SUGAR

W = TypeVar("W", Plan, Search)

DECLARED = (Model, Gpu, Node, Cluster, Calibration, Engine, Sharding)


def read_whole(made: type[W], source: str | PurePath, name: str | None, file: str = "") -> W:
    """The plan or the search that a file, or a text that stands for ``file``, holds.

    Raises `PlanError` for what is wrong with it.
    """
    from plandsl.api.sources import open_source

    call = Arguments("read", source=source, name=name)
    if name is not None:
        call.text("name")
    if isinstance(source, Part):
        raise call.wrong("source", "a path or the text of a plan", code="E449")
    module = open_source("read", source, file=file)
    folder = "" if module.path.startswith("<") else str(Path(module.path).parent)
    names = module.plans if made.kind == "plan" else module.searches
    if module.errors:
        raise PlanError(module.diagnostics, module.sources)
    if name is not None and name not in names:
        call.word("name", names, code="E201")
    reading = Reading(format_text(module.root.text, module.path))
    if name is None:
        left = [one for one in names if one not in reading.bases]
        if len(left) != 1:
            raise PlanError([not_there(made.kind, left, module.path)], module.sources)
        name = left[0]
    _check(module, made.kind, name)
    found = reading.declared(made.kind, name)
    assert isinstance(found, made), "a declaration of this kind"
    return found.in_folder(folder)


def _check(module: Module, kind: str, name: str) -> None:
    spec = module.plan(name) if kind == "plan" else module.spec(kind, name)
    found = list(module.diagnostics)
    if kind == "plan" and spec is not None:
        found += check_spec(module.plan(name))  # type: ignore[arg-type]
    if any(d.severity == "error" for d in found):
        raise PlanError([d for d in found if d.severity != "note"], module.sources)


class Reading:
    """A text in canonical form, and the parts that its declarations are."""

    def __init__(self, text: str) -> None:
        self.lines = text.split("\n")
        self.tree, _ = parse(text, "<text>")
        self.named = {(d.kind.text, d.name.text): d for d in self.tree.items if isinstance(d, s.Decl)}
        self.lets = {let.name.text: let for let in self.tree.items if isinstance(let, s.Let)}
        self._made: dict[tuple[str, str], Part] = {}

    @property
    def bases(self) -> set[str]:
        """The plans that other plans build on."""
        values = (_root(d.value) for d in self.named.values() if d.kind.text == "plan" and d.value is not None)
        return {value.name for value in values if isinstance(value, s.Ref)}

    def text(self, node: Any) -> str:
        """The source of a node."""
        return slice_text(self.lines, node.span)

    # ---- declarations

    def declared(self, kind: str, name: str) -> Part:
        """The declaration of a name, with the parts that it uses."""
        key = kind, name
        if key not in self._made:
            self._made[key] = self._declared(KINDS[kind], self.named[key])
        return self._made[key]

    def _declared(self, made: type[Part], decl: s.Decl) -> Part:
        base, body = (None, decl.body) if decl.value is None else self._split(decl.value, made)
        fields = {} if body is None else self._fields(made, body)
        if issubclass(made, Whole):
            fields |= self._file(decl)
        return make_part(made, base, decl.name.text, fields)

    def _file(self, decl: s.Decl) -> dict[str, Any]:
        """What stands beside a declaration in its file: files, names for values, and parts that its texts name."""
        found: dict[str, Any] = {}
        if uses := tuple(self.text(item.path) for item in self.tree.items if isinstance(item, s.Use)):
            found["use"] = uses
        if self.lets:
            found["let"] = ordered_section({name: self.value(let.value) for name, let in self.lets.items()})
        named = [*self._texts(decl, set()), *(ref for let in self.lets.values() for ref in _refs(let.value))]
        parts = {
            (kind, name): None for name in named for kind in (p.kind for p in DECLARED) if (kind, name) in self.named
        }
        if parts:
            found["declare"] = tuple(self.declared(*key) for key in parts)
        return found

    def _texts(self, decl: s.Decl, seen: set[int]) -> Iterator[str]:
        """The names in expressions that are read as texts, in a declaration and in those that it uses."""
        if id(decl) in seen:
            return
        seen.add(id(decl))
        made = KINDS[decl.kind.text]
        if decl.value is not None:
            base, body = _root(decl.value), _bodies(decl.value)
            yield from self._texts_of(made, base, seen)
        else:
            body = [decl.body] if decl.body else []
        for one in body:
            yield from self._texts_in(made, one, seen)

    def _texts_in(self, made: type[Part], body: s.Body, seen: set[int]) -> Iterator[str]:
        for item in body.items:
            match item:
                case s.Section():
                    yield from self._texts_in(made.parts.get(item.name.text, Section), item.body, seen)
                case s.Class():
                    yield from self._texts_in(RequestClass, item.body, seen)
                case s.Field() if (inner := made.parts.get(item.name.text)) is not None:
                    yield from self._texts_of(inner, _root(item.value), seen)
                    for one in _bodies(item.value):
                        yield from self._texts_in(inner, one, seen)
                case s.Field():
                    yield from _refs(item.value)
                case s.Vary():
                    yield from (name for _, domain in item.entries for name in _refs(domain))
                case s.Clause():
                    yield from _refs(item.value)

    def _texts_of(self, made: type[Part], base: s.Expr, seen: set[int]) -> Iterator[str]:
        if isinstance(base, s.Ref) and (decl := self.named.get((made.kind, base.name))):
            yield from self._texts(decl, seen)
        else:
            yield from _refs(base)

    # ---- values

    def value(self, node: s.Expr, made: type[Part] | None = None) -> Any:
        """The value of an expression; where a part of type ``made`` stands, that part or its name."""
        if made is not None:
            return self._part(node, made)
        match node:
            case s.Num(unit=None):
                value = node.value
                return (
                    int(value)
                    if isinstance(value, float) and float(value).is_integer() and abs(value) < 1e15
                    else value
                )
            case s.Unary(op="-", x=s.Num(unit=None)):
                return -self.value(node.x)
            case s.Ref(name="true" | "false"):
                return node.name == "true"
            case s.Seq():
                return tuple(map(self.value, node.items))
            case _:
                return self.text(node)

    def _part(self, node: s.Expr, made: type[Part]) -> Any:
        base, body = self._split(node, made)
        if body is None:
            return base
        return bare(make_part(made, base, "", self._fields(made, body)))

    def _split(self, node: s.Expr, made: type[Part]) -> tuple[Any, s.Body | None]:
        """The base of a value, and the body of its `with`."""
        if not isinstance(node, s.With):
            if isinstance(node, s.Ref) and (made.kind, node.name) in self.named:
                return self.declared(made.kind, node.name), None
            return self.text(node), None
        base, body = self._split(node.base, made)
        if body is not None:
            base = make_part(made, base, "", self._fields(made, body))
        return base, node.body

    # ---- items

    def item(self, node: s.Item) -> str:
        """An item as text."""
        match node:
            case s.Rule():
                return _rule(node)
            case s.Region():
                rules = [self.item(inner) for inner in node.body.items]
                if len(rules) == 1:
                    return f"in {node.name.text} {{ {rules[0]} }}"
                return "\n".join([f"in {node.name.text} {{", *(f"  {rule}" for rule in rules), "}"])
            case _:
                return self.text(node)

    def _fields(self, made: type[Part], body: s.Body) -> dict[str, Any]:
        found: dict[str, Any] = {}

        def add(key: str, value: Any) -> None:
            found[key] = (*found.get(key, ()), value)

        def put(key: str, pairs: dict[str, Any]) -> None:
            old = found[key].fields if key in found else {}
            found[key] = ordered_section({**old, **pairs})

        rules = [i for i, item in enumerate(body.items) if isinstance(item, s.Rule | s.Region | s.Place)]
        for i, item in enumerate(body.items):
            match item:
                case s.Field() if made is Sharding and item.name.text in SUGAR and rules and rules[0] < i < rules[-1]:
                    add("rules", self.item(item))  # between rules, its place decides which rule wins
                case s.Field():
                    found[item.name.text] = self.value(item.value, made.parts.get(item.name.text))
                case s.Section():
                    inner = made.parts.get(item.name.text, Section)
                    found[item.name.text] = make_part(inner, None, "", self._fields(inner, item.body))
                case s.Clause(word=word) if word.text in ("require", "where"):
                    add(word.text, self.text(item.value))
                case s.Clause():
                    add("goals", f"{item.word.text} {self.text(item.value)}")
                case s.Vary():
                    put("vary", {self.text(path): self.text(domain) for path, domain in item.entries})
                case s.Mesh():
                    put("mesh", {axis.name.text: self.value(axis.value) for axis in item.axes})
                case s.Class():
                    fields = self._fields(RequestClass, item.body)
                    put("classes", {item.name.text: make_part(RequestClass, None, "", fields)})
                case s.Embedding():
                    found["embedding"] = self.text(item).removeprefix("embedding").lstrip()
                case s.Head():
                    found["head"] = self.text(item.value)
                case s.Block() | s.Mtp():
                    add("blocks", self.text(item))
                case _:
                    add("rules", self.item(item))
        return found


def _rule(node: s.Rule) -> str:
    dims, axes = (", ".join(name.text for name in names) for names in (node.dims, node.axes))
    return f"{dims} -> {axes}"


def _root(node: s.Expr) -> s.Expr:
    """What a value builds on, without its `with`."""
    while isinstance(node, s.With):
        node = node.base
    return node


def _bodies(node: s.Expr) -> list[s.Body]:
    found = []
    while isinstance(node, s.With):
        found.append(node.body)
        node = node.base
    return found


def _refs(node: Any) -> Iterator[str]:
    """The names that an expression uses."""
    if isinstance(node, s.Ref):
        yield node.name
    elif isinstance(node, tuple):
        for inner in node:
            yield from _refs(inner)
