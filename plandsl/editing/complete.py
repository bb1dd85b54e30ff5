"""What an editor offers at a cursor: names, fields, units, entries of the catalog and words of the language."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from typing import NamedTuple

from plandsl.editing.fields import FIELDS, FUNCTIONS, ITEMS, METRICS, OPTIONS, VARIES, Takes, fields_of
from plandsl.editing.place import Place, names_before, place_at
from plandsl.editing.reading import Reading
from plandsl.editing.symbols import occurrences
from plandsl.editing.words import KEYWORDS, meaning, metric, option, unit
from plandsl.grammar import syntax as s
from plandsl.grammar.arrivals import FORMS as ARRIVALS
from plandsl.grammar.draws import FORMS as DISTRIBUTIONS
from plandsl.grammar.modules import KINDS, catalog_names
from plandsl.grammar.sharding import EVERY_MODEL, LEVELS, REGIONS, SUGAR
from plandsl.grammar.tokens import Token
from plandsl.grammar.version import LINE, WORD
from plandsl.spec.formats import BITS
from plandsl.spec.model import EARLIER
from plandsl.units import UNITS, Dimension

MOST = 1_000
"""Most completions of one place."""

MAX_LISTED = 200
"""Most files of a folder that are offered after `use`."""


class Completion(NamedTuple):
    """A word that may stand at the cursor.

    ``kind`` is ``field``, ``section``, ``word`` (of the language), ``value``, ``unit``, ``name`` (of the files),
    ``entry`` (of the catalog), ``function``, ``metric`` or ``file``. ``insert`` is what is written in its place, where
    that is more than the word. ``about`` says what it means, as Markdown; of entries, `plandsl.editing.hover` says it.
    """

    label: str
    kind: str
    detail: str = ""
    about: str = ""
    insert: str = ""
    of: str = ""  # the kind of declaration of a name or an entry


class Completions(NamedTuple):
    """What may stand at a cursor, and the column at which the word starts that it replaces."""

    column: int
    items: list[Completion]


def complete(reading: Reading, line: int, column: int) -> Completions:
    """What may stand before the character at ``line`` and ``column``, both from 1, in order of use."""
    if reading.text and not reading.tokens:  # too large to be read
        return Completions(column, [])
    place = place_at(reading.tokens, line, column)
    if place.inside == "comment":
        return Completions(column, [])
    if place.inside == "text":
        return Completions(place.column + 1, list(_files(reading, place)))
    found = {item.label: item for item in reversed([*_offers(reading, place)])}
    fits = [item for item in reversed(found.values()) if _fits(place.prefix, item.label)]
    fits.sort(key=lambda item: not item.label.lower().startswith(place.prefix.lower()))
    return Completions(place.column, fits[:MOST])


def _fits(prefix: str, label: str) -> bool:
    """Whether the letters of ``prefix`` stand in ``label`` in this order, the first of them at the start of a word."""
    rest, low = iter(label.lower()), prefix.lower()
    return not prefix or (
        any(w.startswith(low[0]) for w in re.split(r"_|(?<=\d)(?=[a-z])", label.lower()))
        and all(c in rest for c in low)
    )


def _offers(reading: Reading, place: Place) -> Iterator[Completion]:
    if place.number:
        yield from _units(_dimension(place))
        return
    last = place.item[-1] if place.item else None
    if last is not None and last.kind == "DOT":
        yield from _parts(reading, place)
    elif place.scope == "file":
        yield from _of_file(reading, place)
    elif place.scope == "block":
        yield from _of_block(reading, place)
    elif place.scope == "rules":
        yield from _of_rule(reading, place)
    elif not place.statement:
        yield from _starts(reading, place)
    else:
        yield from _inside(reading, place)


# ---- where an item starts


def _starts(reading: Reading, place: Place) -> Iterator[Completion]:
    """Fields that are not given yet, sections, and words that start an item."""
    scope = place.scope
    for name, takes in fields_of(scope).items():
        if name in place.given:
            continue
        about, default = meaning(scope, name)
        detail = takes.what + (f"; default: {default}" if default and default != "needed" else "")
        detail += "; needed" if default.startswith("needed") else ""
        section = takes.section and takes.kind in ("", "sharding", "workload")  # these are mostly written in place
        insert = f"{name} {{ $0 }}" if section else f"{name} = "
        yield Completion(name, "section" if section else "field", detail, about, insert)
    yield from _keywords(scope)
    if scope == "sharding":
        yield from _of_rule(reading, place)
    if scope == "stored":
        yield from (Completion(name, "name", "a weight of the model") for name in _weights(reading))


def _keywords(scope: str) -> Iterator[Completion]:
    for word, about in ITEMS.get(scope, {}).items():
        yield Completion(word, "word", "", about, LINE if word == WORD else f"{word} ")


def _of_file(reading: Reading, place: Place) -> Iterator[Completion]:
    words = place.statement
    if not words:
        yield from _keywords("file")
    elif words[0].text == "let" and len(words) > 2:
        yield from _values(reading, None)
        for kind in KINDS:
            yield from _names(reading, kind)
    elif place.kind and len(words) > 2:
        if words[-1].kind == "EQ":
            yield from _names(reading, place.kind)
        else:
            yield Completion("with", "word", "", KEYWORDS["with"], "with { $0 }")


# ---- within an item


def _inside(reading: Reading, place: Place) -> Iterator[Completion]:
    first = place.statement[0].text
    if place.frame.scope.endswith("()"):
        yield from _arguments(place)
    if place.scope in ("plan", "search", "class") and first in ("require", "maximize", "minimize"):
        yield from _of_metric(place)
    elif place.scope == "search" and first == "vary":
        yield from _of_vary(reading, place)
    elif place.scope == "search" and first == "where":
        yield from (Completion(name, "name", "a field that varies") for name in _varied(reading, place))
        yield Completion("gpus", "metric", "number of GPUs", metric("gpus"))
        yield from _keywords_of("and", "or", "not")
    elif place.scope == "sharding" and place.field == "":
        yield from _of_rule(reading, place)
    elif place.takes is not None:
        yield from _value(reading, place, place.takes)
    elif place.scope == "stored":
        yield from _formats()
    elif place.field:
        yield from _values(reading, place)
        yield from (
            (Completion(n, "name", "a dimension") for n in _dimensions(reading)) if place.scope == "model" else ()
        )
    elif place.scope == "model":
        yield from _of_block(reading, place)


def _value(reading: Reading, place: Place, takes: Takes) -> Iterator[Completion]:
    previous = place.statement[-1]
    if takes.kind and previous.kind in ("NAME", "RPAR"):
        yield Completion("with", "word", "", KEYWORDS["with"], "with { $0 }")
        return
    if takes.kind:
        yield from _names(reading, takes.kind)
        if takes.kind == "model":
            yield Completion("hf", "function", "a config.json", "the model that a config.json describes", 'hf("$0")')
            yield Completion("gguf", "function", "a GGUF file", "the model of a GGUF file", 'gguf("$0")')
    for word in takes.words:
        scope = "fusion" if word in FIELDS else ""
        bits = BITS.get(word)
        about = f"{bits:g} bits for each element" if bits and len(takes.words) > 6 else meaning("fusion", word).text
        yield Completion(word, "value", "", about or scope)
    for name in takes.calls:
        form = DISTRIBUTIONS.get(name) or ARRIVALS.get(name)
        yield Completion(name, "function", form.example if form else "", "", f"{name}($0)")
    if not takes.words or takes.dimension is not None:
        yield from _values(reading, place)
    if place.scope == "model":
        yield from (Completion(name, "name", "a dimension") for name in _dimensions(reading))


def _values(reading: Reading, place: Place | None) -> Iterator[Completion]:
    """Names of values: every `let` of the files."""
    for one in reading.unit.everywhere():
        for name, let in one.lets.items():
            if place is None or name not in [token.text for token in place.statement[:1]]:
                yield Completion(name, "name", "let", f"`{_short(reading, let.value)}`", of="let")


def _short(reading: Reading, value: s.Expr) -> str:
    return reading.module.library.text(value.span)[:120]


def _names(reading: Reading, kind: str) -> Iterator[Completion]:
    """Names of declarations of a kind: those of the files, then the entries of the catalog."""
    own: dict[str, str] = {}
    for one in reading.unit.everywhere():
        for name in one.declared[kind]:
            own.setdefault(name, one.file)
    for name, file in own.items():
        yield Completion(name, "name", f"{kind}, {file}" if file != reading.file else kind, of=kind)
    for one in reading.unit.everywhere():
        yield from (
            Completion(n, "name", "let", f"`{_short(reading, let.value)}`", of="let") for n, let in one.lets.items()
        )
    yield from (Completion(name, "entry", f"{kind} of the catalog", of=kind) for name in catalog_names(kind))


def _formats() -> Iterator[Completion]:
    yield from (Completion(name, "value", f"{bits:g} bits for each element") for name, bits in BITS.items())
    yield Completion("activations", "value", "the format of activations")


def _keywords_of(*words: str) -> Iterator[Completion]:
    yield from (Completion(word, "word", "", KEYWORDS[word], f"{word} ") for word in words)


def _arguments(place: Place) -> Iterator[Completion]:
    """Arguments with a name of the call at the cursor."""
    if any(token.kind == "EQ" for token in place.item):
        return
    name = place.frame.scope.removesuffix("()")
    for word in (one for one in OPTIONS.get(name, ()) if one not in place.given):
        yield Completion(word, "field", f"of `{name}`", option(name, word), f"{word} = ")
    form = DISTRIBUTIONS.get(name) or ARRIVALS.get(name)
    if form is not None:
        yield from (
            Completion(w, "field", f"of `{name}`", f"`{form.example}`", f"{w} = ")
            for w in (*form.needed, *form.options)
        )


# ---- requirements and searches


def _of_metric(place: Place) -> Iterator[Completion]:
    compared = any(token.kind == "COMPARE" for token in place.statement)
    if not compared:
        for name, bound in METRICS.items():
            yield Completion(name, "metric", bound.words, metric(name))
        for name in ("p50", "p90", "p95", "p99"):
            yield Completion(
                name, "function", "a percentile over requests", meaning("metric", "p99").text, f"{name}($0)"
            )


def _of_vary(reading: Reading, place: Place) -> Iterator[Completion]:
    entry = _entry_of_list(place)
    inside = next((at for at, token in enumerate(entry) if token.kind == "IN"), None)
    if inside is None:
        if entry:
            yield from _keywords_of_in()
            return
        for name, path in VARIES.items():
            yield Completion(name, "field", path, _about_path(path))
        for path in ("node", "cluster", "engine", "sharding", "model.weights", "model.kv_cache", *fields_of("plan")):
            yield Completion(path, "field", "a field of the plan", _about_path(path))
        return
    path = "".join(token.text for token in entry[:inside])
    takes = _takes_of_path(VARIES.get(path, path))
    if takes is not None:
        yield from _value(reading, place, takes)
    yield from _keywords_of("by")


def _keywords_of_in() -> Iterator[Completion]:
    yield Completion("in", "word", "", "the values that the field takes: a list, or a range", "in ")


def _entry_of_list(place: Place) -> list[Token]:
    """The tokens of the entry of a `vary` at the cursor."""
    tokens = list(place.statement[1:])
    for at in range(len(tokens) - 1, -1, -1):
        if tokens[at].kind == "COMMA":
            return list(tokens[at + 1 :])
    return list(tokens)


def _takes_of_path(path: str) -> Takes | None:
    scope, takes = "plan", None
    for word in path.split("."):
        takes = fields_of(scope).get(word)
        if takes is None:
            return None
        scope = takes.section or takes.kind
    return takes


def _about_path(path: str) -> str:
    scope, _, name = path.rpartition(".")
    return meaning(scope or "plan", name).text


def _varied(reading: Reading, place: Place) -> list[str]:
    """The short names that the search at the cursor varies."""
    head = place.frames[place.body].head
    if len(head) < 2:
        return []
    decl = reading.unit.declared["search"].get(head[1].text)
    items = decl.body.items if decl is not None and decl.body is not None else ()
    entries = [path for item in items if isinstance(item, s.Vary) for path, _ in item.entries]
    return [path.name for path in entries if isinstance(path, s.Ref)] or list(VARIES)


# ---- shardings


def _of_rule(reading: Reading, place: Place) -> Iterator[Completion]:
    words = place.statement
    first = words[0].text if words else ""
    if first == "place":
        if any(token.kind == "IN" for token in words):
            yield from (Completion(name, "value", "a level of the machine") for name in LEVELS)
        else:
            yield from (Completion(name, "name", "an axis") for name in _axes(reading, place))
            yield from _keywords_of_in()
    elif first == "in":
        yield from (Completion(name, "value", "a region of the model") for name in REGIONS)
    elif any(token.kind == "ARROW" for token in words):
        yield from (Completion(name, "name", "an axis") for name in _axes(reading, place))
    elif first not in ("mesh",):
        dims = dict.fromkeys(
            (*EVERY_MODEL, *_dimensions(reading), *(d for s_ in SUGAR.values() for r in s_.rules for d in r[1]))
        )
        yield from (Completion(name, "name", "a dimension: `DIMENSION -> AXIS`") for name in dims)


def _axes(reading: Reading, place: Place) -> list[str]:
    """The axes that the sharding at the cursor has, then those that degrees stand for."""
    head = next((frame.head for frame in reversed(place.frames) if frame.scope == "sharding"), ())  # not that of `in`
    names: list[str] = []
    depth, in_mesh, before = 0, False, reading.tokens[0]
    for token in reading.tokens:
        if head and token.span < head[0].span:
            continue
        depth += (token.kind == "LBRACE") - (token.kind == "RBRACE")
        if token.kind == "RBRACE" and depth <= 0:
            break
        if token.kind == "COMMENT":
            continue
        if token.kind in ("NEWLINE", "SEMICOLON"):
            in_mesh = in_mesh and before.kind == "COMMA"  # axes go on behind a comma
            continue
        if token.kind == "EQ" and in_mesh:
            names.append(before.text)
        in_mesh = in_mesh or token.kind == "MESH"
        before = token
    return list(dict.fromkeys((*names, *(sugar.axis for sugar in SUGAR.values()))))


# ---- models


def _of_block(reading: Reading, place: Place) -> Iterator[Completion]:
    if place.frame.scope in ("[dims]", "[attributes]"):
        if place.frame.scope == "[attributes]":  # or the dimensions of the value that the block takes
            yield Completion("layers", "field", "the layers that are such blocks", "", "layers = ")
        known = (*_dimensions(reading), *EVERY_MODEL)
        yield from (Completion(name, "name", "a dimension of the model") for name in dict.fromkeys(known))
        return
    if place.frame.scope.endswith("()"):
        yield from _arguments(place)
    if not place.statement:
        return
    yield from (
        Completion(name, "name", "a value of the block") for name in reversed(names_before(reading.tokens, place))
    )
    for name in FUNCTIONS:
        yield Completion(name, "function", "", meaning("function", name).text, f"{name}($0)")
    yield from (Completion(name, "name", "a weight of the model") for name in _weights(reading))


def _dimensions(reading: Reading) -> list[str]:
    """The dimensions of the models that the files declare."""
    known, found = FIELDS["model"], []
    for one in reading.unit.everywhere():
        for decl in one.declared["model"].values():
            body = decl.body or (decl.value.body if isinstance(decl.value, s.With) else None)
            found += [
                i.name.text for i in (body.items if body else ()) if isinstance(i, s.Field) and i.name.text not in known
            ]
    return list(dict.fromkeys(found))


def _weights(reading: Reading) -> list[str]:
    """Names before a `[`, as weights of models have."""
    tokens = reading.tokens
    pairs = itertools.pairwise(tokens)
    found = (a.text for a, b in pairs if a.kind == "NAME" and b.kind == "LSQB" and a.text.startswith("w_"))
    return list(dict.fromkeys(found))


# ---- parts, units, files


def _parts(reading: Reading, place: Place) -> Iterator[Completion]:
    """The fields of the declaration before a dot; behind ``earlier``, the values of other blocks."""
    if place.item[-2:-1] and place.item[-2].text == EARLIER and place.scope == "block":
        found = occurrences(reading.unit, reading.module.library)
        names = dict.fromkeys(o.symbol.name for o in found if o.defines and o.symbol.kind == "value")
        yield from (Completion(name, "name", "a value of an earlier layer") for name in names)
        return
    words = [token.text for token in place.item if token.kind != "DOT"]
    name = words[-1] if words else ""
    in_vary = place.statement and place.statement[0].text == "vary"
    if in_vary and name in fields_of("plan"):
        takes = fields_of("plan")[name]
        scope = takes.section or takes.kind
        yield from (Completion(n, "field", t.what, meaning(scope, n).text) for n, t in fields_of(scope).items())
        return
    for kind in KINDS:
        if reading.module.library.find(kind, name, reading.unit):
            for field, takes in fields_of(kind).items():
                yield Completion(field, "field", takes.what, meaning(kind, field).text)
            return


def _dimension(place: Place) -> Dimension | None:
    """The dimension of the quantity at the cursor; None where it may be any."""
    statement = place.statement
    if statement and statement[0].text == "require":
        name = next((t.text for t in reversed(statement) if t.text in METRICS), "")
        return METRICS[name].dimensions[0] if name else None
    takes = place.takes
    if statement and statement[0].text == "vary":
        words = [token.text for token in _entry_of_list(place)]  # type: ignore[attr-defined]
        path = "".join(words[: words.index("in")]) if "in" in words else ""
        takes = _takes_of_path(VARIES.get(path, path))
    return takes.dimension if takes else None


def _units(dimension: Dimension | None) -> Iterator[Completion]:
    known = [name for name, (_, of) in UNITS.items() if dimension is None or of == dimension]
    yield from (Completion(name, "unit", str(UNITS[name][1]), unit(name)) for name in known)


def _files(reading: Reading, place: Place) -> Iterator[Completion]:
    """Files below the folder of the root file that a `use` may name; the folder of another field is not listed."""
    folder = reading.module.library.folder
    if folder is None or not place.statement or place.statement[0].text != "use":
        return
    here = reading.unit.path.parent if reading.unit.path else folder
    typed = place.prefix[1:].rpartition("/")[0]
    try:
        at = (here / typed).resolve()
        if not at.is_relative_to(folder) or not at.is_dir():
            return
        entries = sorted(at.iterdir())[:MAX_LISTED]
    except (OSError, ValueError, RuntimeError):
        return
    for entry in entries:
        name = f"{typed}/{entry.name}" if typed else entry.name
        if not name.startswith(place.prefix[1:]):
            continue
        if entry.is_symlink() or entry == reading.unit.path or entry.name.startswith("."):
            continue
        if entry.is_dir():
            yield Completion(f"{name}/", "file", "a folder")
        elif entry.suffix == ".plan":
            yield Completion(name, "file", "a file of plans")
