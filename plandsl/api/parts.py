"""Parts of a plan as Python objects: frozen, compared by what they say, printed as `.plan` text.

A part has the fields that it has in a file. The value of a field is a number, a truth value, a tuple of values, another
part, or the text of a value as a file has it (``"50 ms"``, ``"uniform(100, 900)"``); what is given is brought into this
form, so that parts which say the same are equal.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from inspect import Parameter, Signature
from pathlib import PurePath
from typing import Any, ClassVar, Self, TypeVar

from plandsl.api.texts import read_text_value
from plandsl.arguments import Arguments, describe, guarded
from plandsl.diagnostics import PlanError, suggest
from plandsl.expressions import quote, write_value
from plandsl.grammar.records import REPLACED
from plandsl.grammar.synonyms import FIELDS as OTHER_WORDS
from plandsl.shown import plain_rich, text_html

P = TypeVar("P", bound="Part")

Convert = Callable[["Part", str, Any], Any]
"""Brings what is given for a key of a part into its own form."""

NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")

NAMED = "a name of letters, digits and `_`, a letter first"

QUOTED = ("trace", "measured", "source")
"""Fields whose values are strings: what is given without quotes gets them."""


class Part:
    """A part of a plan, with the ``fields`` that it says; ``origin`` is what it builds on, ``name`` how others call it.

    A part without a name stands where it is used. A part with a name is declared above the plan.
    """

    kind: ClassVar[str] = "section"
    known: ClassVar[tuple[str, ...] | None] = None
    """The names of its fields; None: any name may be one."""
    parts: ClassVar[Mapping[str, type[Part]]] = {}
    """The fields that are parts themselves."""
    special: ClassVar[Mapping[str, Convert]] = {}
    """The keys that stand for items which are no fields, such as `require`."""
    ordered: ClassVar[bool] = False
    """Whether the order of its fields has a meaning."""
    strings: ClassVar[tuple[str, ...]] = QUOTED

    __slots__ = ("fields", "name", "origin")
    origin: str | Part | None
    name: str
    fields: Mapping[str, Any]

    def __init_subclass__(cls, **more: Any) -> None:
        """Give the class a signature with its fields, for help and completion."""
        super().__init_subclass__(**more)
        keyword, alone = Parameter.KEYWORD_ONLY, Parameter.POSITIONAL_ONLY
        fields = [Parameter(key, keyword, default=None) for key in (*(cls.known or ()), *cls.special)]
        rest = [] if cls.known is not None else [Parameter("fields", Parameter.VAR_KEYWORD)]
        head = [Parameter("base", alone, default=None), Parameter("name", keyword, default="")]
        head = [] if "base" in (cls.known or ()) else head
        cls.__signature__ = Signature([*head, *fields, *rest])  # type: ignore[attr-defined]

    def __dir__(self) -> list[str]:
        return sorted({*object.__dir__(self), *(self.known or self.fields), *self.special})

    @guarded
    def __init__(self, base: str | Part | None = None, /, *, name: str = "", **fields: Any) -> None:
        self._fill(base, name, fields)

    def _fill(self, base: object, name: object, given: Mapping[str, Any]) -> None:
        """Set all attributes. Raises `PlanError` for what no such part can have (E445, E446)."""
        call = Arguments(type(self).__name__, **({} if base is None else {"base": base}), **given)
        if not isinstance(name, str) or (name and not NAME.fullmatch(name)):
            named = Arguments(type(self).__name__, name=name)
            raise named.wrong("name", NAMED)
        found = {key: self._convert(call, key, value) for key, value in given.items() if value is not None}
        object.__setattr__(self, "origin", self._base(call, base))
        object.__setattr__(self, "name", name)
        object.__setattr__(self, "fields", self._sorted(found))

    def _base(self, call: Arguments, base: object) -> str | Part | None:
        if base is None or (isinstance(base, Part) and base.kind == self.kind):
            return base
        if isinstance(base, str):
            found = read_text_value(call, "base", base)
            if isinstance(found, str):
                return found
        raise call.wrong("base", f"the name of a {self.kind}, or a {type(self).__name__}")

    def _convert(self, call: Arguments, key: str, value: Any) -> Any:
        """What a key holds, in its own form."""
        if convert := self.special.get(key):
            return convert(self, key, Given(call, key, value))
        if self.known is not None and key not in self.known:
            raise self._unknown(call, key)
        if not NAME.fullmatch(key):
            raise call.error("E446", key, f"`{key}` is not the name of a field")
        made = self.parts.get(key)
        if isinstance(value, Part):
            if made is not None and not isinstance(value, made):
                raise call.wrong(key, f"a {made.__name__}", hint=f"{key}={made.__name__}(...)")
            return bare(value)
        if isinstance(value, Mapping):
            return (made or Section)(**read_names(call, key, value))
        if isinstance(value, str) and key in self.strings and not value.lstrip().startswith(('"', "[")):
            text = quote(value)
            if text is None:
                raise call.wrong(key, "text without quotes and line ends")
            return text
        if isinstance(value, str):
            return read_text_value(call, key, value, made)
        if isinstance(value, Sequence) and not isinstance(value, PurePath) and key in self.strings:
            value = [PurePath(v) if isinstance(v, str) and not v.startswith('"') else v for v in value]
        if (text := write_value(value)) is None or made is not None:
            expected = "a number, a list of values, or text as in a plan"
            raise call.wrong(key, f"a {made.__name__}, or the name of one" if made else expected)
        return read_text_value(call, key, text)

    def _unknown(self, call: Arguments, key: str) -> PlanError:
        names = (*(self.known or ()), *self.special)
        title = type(self).__name__
        if word := OTHER_WORDS.get(key):
            section, _, field = word.path.rpartition(".")
            where = f"`{field}` of `{section}`" if section and section != self.kind else f"`{field}`"
            return call.error("E446", key, f"`{title}` has no `{key}`", hint=f"{word.tool}'s `{key}` is {where} here")
        return call.error("E446", key, f"`{title}` has no `{key}`", hint=suggest(key, names))

    def _sorted(self, found: dict[str, Any]) -> dict[str, Any]:
        """The fields in the order in which they are printed; as given where their order has a meaning."""
        if self.ordered or self.known is None:
            return found
        order = {key: i for i, key in enumerate((*self.known, *self.special))}
        return {key: found[key] for key in sorted(found, key=lambda key: order.get(key, len(order)))}

    # ---- as values

    def __getattr__(self, key: str) -> Any:
        field = key not in Part.__slots__ and not key.startswith("_")
        if field and (self.known is None or key in (*self.known, *self.special)):
            return self.fields.get(key)
        raise AttributeError(f"{type(self).__name__} has no field {key!r}")

    def __setattr__(self, key: str, value: object) -> None:
        raise AttributeError(f"a {type(self).__name__} does not change: with_({key}=...) makes another one")

    def __delattr__(self, key: str) -> None:
        raise AttributeError(f"a {type(self).__name__} does not change: with_({key}=None) makes one without it")

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and isinstance(other, Part) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash((type(self), *map(_hashable, self._key())))

    def _key(self) -> tuple[Any, ...]:
        return self.origin, self.name, tuple(self.fields.items()) if self.ordered else self.fields

    def __reduce__(self) -> tuple[Any, ...]:
        return make_part, (type(self), self.origin, self.name, self.fields)

    def __repr__(self) -> str:
        shown = [] if self.origin is None else [repr(self.origin)]
        shown += [f"name={self.name!r}"] if self.name else []
        shown += [f"{key}={_plain(value)!r}" for key, value in self.fields.items()]
        return f"{type(self).__name__}({', '.join(shown)})"

    def __str__(self) -> str:
        from plandsl.api.write import show_part

        return show_part(self)

    def __rich__(self) -> Any:
        return plain_rich(str(self))

    def _repr_html_(self) -> str:
        return text_html(str(self))

    # ---- other values

    def with_(self, overrides: Mapping[str, Any] | None = None, /, **fields: Any) -> Self:
        """A copy with other values: ``with_({"workload.batch": 8}, sharding={"tp": 4}, chunks=2)``.

        A path reaches into parts. A mapping changes what it names and keeps the rest of a part; any other value takes
        the place of the old one, and None removes it. What says the same in other words goes: with `concurrency` a
        workload has no `batch`.
        """
        call = Arguments("with_", **({} if overrides is None else {"overrides": overrides}), **fields)
        if overrides is not None and not isinstance(overrides, Mapping):
            raise call.wrong("overrides", 'a mapping of paths to values, such as {"workload.batch": 8}')
        made = self
        for path, value in {**(overrides or {}), **fields}.items():
            if not isinstance(path, str) or not all(map(NAME.fullmatch, path.split("."))):
                said = f"a path must be a string such as 'workload.batch', found {describe(path)}"
                raise call.error("E445", "overrides", said)
            made = made._set(call, path, value)
        return made

    def _set(self, call: Arguments, path: str, value: Any) -> Self:
        key, _, rest = path.partition(".")
        if rest:
            value = {rest: value}
        if key == "name" and not rest:
            return self._named(value)
        if isinstance(value, Mapping) and key not in self.special:
            old = self._part(call, key)
            for inner, new in value.items():
                if not isinstance(inner, str):
                    raise call.error(
                        "E445", "overrides", f"a name in `{key}` must be a string, found {describe(inner)}"
                    )
                old = old._set(call, inner, new)
            value = old
        if value is not None:
            value = self._convert(Arguments(type(self).__name__, **{key: value}), key, value)
        gone = (key, *REPLACED.get(self.kind, {}).get(key, ())) if value is not None else (key,)
        if self.ordered and key in self.fields and value is not None:
            return self._remade(self.name, {**self.fields, key: value})
        kept = {k: v for k, v in self.fields.items() if k not in gone}
        return self._remade(self.name, kept if value is None else {**kept, key: value})

    def _named(self, name: object) -> Self:
        if not isinstance(name, str) or not NAME.fullmatch(name):
            raise Arguments("with_", name=name).wrong("name", NAMED)
        return self._remade(name, self.fields)

    def _remade(self, name: str, fields: Mapping[str, Any]) -> Self:
        """The same part with other fields, which are in their form already."""
        return make_part(type(self), self.origin, name, fields)

    def _part(self, call: Arguments, key: str) -> Part:
        """The part in a field, to be changed: an empty one where there is none."""
        made, old = self.parts.get(key, Section), self.fields.get(key)
        if isinstance(old, Part):
            return old
        if old is None:
            return made()
        if isinstance(old, str) and key in self.parts:
            return made(old)
        raise call.error("E445", "overrides", f"`{key}` has a value, {old!r}, and no fields to change")


class Section(Part):
    """A group of fields without a kind of its own, such as ``compute`` of a GPU."""

    __slots__ = ()
    strings = ()


def readread_names(call: Arguments, key: str, value: Mapping[Any, Any]) -> dict[str, Any]:
    """A mapping whose keys are strings. Raises `PlanError` (E445) for others."""
    for name in value:
        if not isinstance(name, str):
            raise call.error("E445", key, f"a name in `{key}` must be a string, found {describe(name)}")
    return dict(value)


class Given:
    """What is given for a key, and the call in which it is wrong if it is."""

    def __init__(self, call: Arguments, key: str, value: Any) -> None:
        self.call, self.key, self.value = call, key, value

    def texts(self) -> list[str]:
        """One text, or several."""
        value = [self.value] if isinstance(self.value, str) else self.value
        if not isinstance(value, Sequence) or not all(isinstance(text, str) for text in value):
            raise self.call.wrong(self.key, "text, or a list of texts")
        return list(value)

    def mapping(self) -> Mapping[str, Any]:
        """A mapping with names as its keys."""
        if isinstance(self.value, Section):
            return self.value.fields
        if not isinstance(self.value, Mapping):
            raise self.call.wrong(self.key, "a mapping of names to values")
        return read_names(self.call, self.key, self.value)


def read_names(call: Arguments, key: str, value: Mapping[Any, Any]) -> dict[str, Any]:
    """A mapping whose keys are strings. Raises `PlanError` (E445) for others."""
    for name in value:
        if not isinstance(name, str):
            raise call.error("E445", key, f"a name in `{key}` must be a string, found {describe(name)}")
    return dict(value)


def ordered_section(fields: dict[str, Any]) -> Section:
    """A section of fields that are in their form already."""
    return make_part(_Ordered, None, "", fields)


class _Ordered(Section):
    """Names and values in the order in which they are given."""

    __slots__ = ()
    ordered = True


def bare(part: Part) -> Part | str:
    """``part``, or its base where it says nothing else: ``Model("x")`` is ``"x"``."""
    return part.origin if isinstance(part.origin, str) and not part.name and not part.fields else part


def inner_parts(part: Part) -> Iterator[Part]:
    """The parts that ``part`` uses itself."""
    if isinstance(part.origin, Part):
        yield part.origin
    for value in part.fields.values():
        yield from (one for one in (value if isinstance(value, tuple) else (value,)) if isinstance(one, Part))


def make_part(kind: type[P], base: Any, name: str, fields: Mapping[str, Any]) -> P:
    """A part whose values are in their form already."""
    made = object.__new__(kind)
    for key, value in (("origin", base), ("name", name), ("fields", made._sorted(dict(fields)))):
        object.__setattr__(made, key, value)
    return made


def _hashable(value: Any) -> Any:
    return frozenset(value.items()) if isinstance(value, dict) else value


def _plain(value: Any) -> Any:
    if isinstance(value, _Ordered):
        return dict(value.fields)
    return list(value) if isinstance(value, tuple) else value
