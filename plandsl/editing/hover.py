"""What an editor says of the word under a cursor: what it means, what it stands for, and what follows from it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from plandsl.diagnostics import Span
from plandsl.editing.derived import OpFact, estimate_table, ops_of_line, weight_of
from plandsl.editing.fields import FUNCTIONS, ITEMS, METRICS, OPTIONS, VARIES, fields_of
from plandsl.editing.place import Place, place_at
from plandsl.editing.reading import Reading
from plandsl.editing.values import show_value
from plandsl.editing.words import KEYWORDS, meaning, metric, option, unit
from plandsl.entries import spec_line
from plandsl.grammar import syntax as s
from plandsl.grammar.arrivals import FORMS as ARRIVALS
from plandsl.grammar.draws import FORMS as DISTRIBUTIONS
from plandsl.grammar.modules import FOLDERS, KINDS, catalog_find
from plandsl.grammar.sharding import LEVELS, SUGAR
from plandsl.grammar.tokens import Token, split_number
from plandsl.spec.formats import BITS, is_storage, item_bytes
from plandsl.units import counted, show_bytes


class Hover(NamedTuple):
    """What is said of a word, as Markdown, and the place of the word."""

    text: str
    span: Span


MOST_OPS = 24
"""Most ops of a line that are listed."""


def hover(reading: Reading, line: int, column: int) -> Hover | None:
    """What to say of the word at ``line`` and ``column``, both from 1; None where there is nothing to say."""
    token, following = _token_at(reading, line, column)
    if token is None:
        return None
    place = place_at(reading.tokens, line, token.span.end_column)
    parts = [part for part in _say(reading, token, following, place, column) if part]
    return Hover("\n\n".join(parts), token.span) if parts else None


def _token_at(reading: Reading, line: int, column: int) -> tuple[Token | None, str]:
    """The word or number at a place, and the kind of the token behind it."""
    tokens = reading.tokens
    for at, token in enumerate(tokens):
        span = token.span
        if span.line > line:
            break
        if (
            span.line == line
            and span.column <= column <= span.end_column
            and token.text[:1].isalnum() | (token.text[:1] == "_")
        ):
            return token, tokens[at + 1].kind if at + 1 < len(tokens) else ""
    return None, ""


def _say(reading: Reading, token: Token, following: str, place: Place, column: int) -> Iterator[str]:
    word = token.text
    if token.kind == "NUMBER":
        yield _number(token, column)
        return
    if place.scope == "file":
        yield from _of_file(reading, word, place)
        return
    starts = not place.statement
    if starts and word in ITEMS.get(place.scope, {}) and following not in ("EQ", "LBRACE"):
        yield f"`{word}`: {ITEMS[place.scope][word]}"
        yield from _line(reading, token)
    elif place.scope == "block":
        yield from _of_block(reading, token, following, place)
    elif (
        place.scope == "search"
        and place.statement
        and place.statement[0].text in ("vary", "where")
        and _varied(word, place)
    ):
        yield _varied(word, place)
    elif starts and (takes := fields_of(place.scope).get(word)) is not None:
        about, default = meaning(place.scope, word)
        yield f"`{word}`: {about}"
        needed = ", needed" if default.startswith("needed") else f", default: {default}" if default else ""
        yield f"takes {takes.what}{needed}"
        yield _stands_for(reading, token, place)
    elif place.scope == "model" and starts:
        yield f"`{word}`: a dimension of the model, {_size(reading, place, word)}"
    elif place.statement and place.statement[0].text in ("require", "maximize", "minimize") and word in METRICS:
        yield f"`{word}`: {metric(word)}"
        yield _verdict(reading, token, place)
    elif place.frame.scope.endswith("()") and not place.item and following == "EQ":
        yield option(place.frame.scope.removesuffix("()"), word)
    elif place.scope in ("sharding", "rules") and (said := _of_sharding(word, place, following)):
        yield said
    else:
        yield from _value(reading, word, place, token, following)


# ---- numbers


def _number(token: Token, column: int) -> str:
    _digits, name = split_number(token.text)
    if not name:
        return ""
    return f"`{token.text}`: {unit(name)}" if unit(name) else ""


# ---- declarations


def _of_file(reading: Reading, word: str, place: Place) -> Iterator[str]:
    statement = place.statement
    if not statement:
        yield ITEMS["file"].get(word, "")
    elif statement[0].text == "let" and len(statement) == 1:
        yield _let(reading, word)
    elif place.kind and len(statement) == 1:
        yield from about(reading, place.kind, word)
    elif word in KEYWORDS:
        yield f"`{word}`: {KEYWORDS[word]}"
    elif place.kind:
        yield from about(reading, place.kind, word)
    else:
        yield from _any(reading, word)


def _any(reading: Reading, word: str) -> Iterator[str]:
    """A name that may be of any kind."""
    if reading.module.library.find_let(word, reading.unit):
        yield _let(reading, word)
        return
    for kind in KINDS:
        if reading.module.library.find(kind, word, reading.unit):
            yield from about(reading, kind, word)
            return


def about(reading: Reading, kind: str, name: str) -> Iterator[str]:
    """What a declaration of the files, or an entry of the catalog, is: its figures and its source."""
    module = reading.module.again()
    found = module.library.find(kind, name, reading.unit)
    if found is None:
        if reading.module.library.find_let(name, reading.unit):
            yield _let(reading, name)
        return
    decl, home = found
    where = "of the catalog" if home.in_catalog else f"of {home.file}" if home is not reading.unit else ""
    yield f"**{kind} `{name}`** {where}".rstrip()
    if kind == "plan":
        yield from _plan(reading, name) if home is reading.unit else ()
        return
    if kind in FOLDERS:
        spec = module.spec(kind, name)
        yield spec_line(spec) if spec is not None else ""
        source = getattr(spec, "source", "")
        yield f"source: {source}" if source and kind != "calibration" else ""
        assumed = getattr(spec, "assumed", ())
        yield "assumed: " + ", ".join(f"{field} = {value}" for field, value in assumed[:6]) if assumed else ""
    else:
        lines = module.library.lines(home.file)[decl.span.line - 1 : decl.span.end_line]
        yield "```plan\n" + "\n".join(lines[:12]) + ("\n..." if len(lines) > 12 else "") + "\n```"


def about_entry(kind: str, name: str) -> str:
    """The same of an entry of the catalog alone; empty where there is none."""
    if catalog_find(kind, name) is None:
        return ""
    return "\n\n".join(part for part in about(Reading("", "<catalog>"), kind, name) if part)


def _let(reading: Reading, name: str) -> str:
    found = reading.module.library.find_let(name, reading.unit)
    if found is None:
        return ""
    let, home = found
    text = reading.module.library.text(let.value.span)
    value = show_value(reading.module.again(), let.value, home)
    return f"**let `{name}`** = `{text}`" + (f", which is {value}" if value and value != text else "")


def _plan(reading: Reading, name: str) -> Iterator[str]:
    e = reading.estimate(name)
    if e is None:
        return
    yield _table(("", ""), estimate_table(e))
    yield "\n".join(f"- require {one.text}: {'met' if one.ok else 'missed'}" for one in e.requires)


def _verdict(reading: Reading, token: Token, place: Place) -> str:
    """What a bound of the plan at the cursor comes to."""
    head = place.frames[1].head if len(place.frames) > 1 else ()
    if len(head) < 2 or head[0].text != "plan":
        return ""
    e = reading.estimate(head[1].text)
    asked = e.requires if e is not None else ()
    text = reading.lines[token.span.line - 1].split("#")[0].partition("require")[2].strip()
    verdicts = [f"`{one.text}` is {'met' if one.ok else 'missed'}" for one in asked if one.text in text]
    return "; ".join(verdicts)


# ---- values


def _value(reading: Reading, word: str, place: Place, token: Token, following: str) -> Iterator[str]:
    takes = place.takes
    called = DISTRIBUTIONS.get(word) or ARRIVALS.get(word)
    if word in KEYWORDS:
        yield f"`{word}`: {KEYWORDS[word]}"
    elif takes is not None and takes.kind and reading.module.library.find(takes.kind, word, reading.unit):
        yield from about(reading, takes.kind, word)
    elif is_storage(word) or word in BITS:
        yield f"`{word}`: a number format, {8 * item_bytes(word):g} bits for each element"
    elif text := meaning("fusion", word).text:
        yield f"`{word}`: {text}"
    elif place.scope == "model" and (size := _size(reading, place, word)):
        yield f"`{word}`: a dimension of the model, {size}"
        yield from _line(reading, token)
    elif place.scope == "model" and word in FUNCTIONS:
        yield f"`{word}`: {meaning('function', word).text}"
        yield from _line(reading, token)
    elif place.scope == "model" and following == "LSQB":
        yield from _line(reading, token, weight=word)
    elif word in OF_EVERY_MODEL and place.frame.scope in ("[dims]", "[attributes]") and following != "EQ":
        yield f"`{word}`: {OF_EVERY_MODEL[word]}; the compiler sets it"
    elif takes is not None and word in takes.calls and called is not None:
        yield f"`{word}`: for example `{called.example}`"
    elif takes is not None and word in takes.words:
        yield f"`{word}`: a value of `{place.field}`, {meaning(place.scope, place.field).text}"
    else:
        yield from _any(reading, word)


def _stands_for(reading: Reading, token: Token, place: Place) -> str:
    """What the value of a field comes to, where it is computed."""
    for value in _values_at(reading, token):
        if isinstance(value, s.Binary | s.Ref | s.Dot | s.Unary):
            module = reading.module.again()
            shown = show_value(module, value, reading.unit, _model_of(place))
            if shown:
                return f"here: {shown}"
    return ""


def _values_at(reading: Reading, token: Token) -> Iterator[s.Expr]:
    for piece in reading.pieces.values():
        if piece.line <= token.span.line <= piece.item.span.end_line:
            yield from (field.value for field in fields_in(piece.item) if field.name.span == token.span)


def fields_in(item: tuple[object, ...]) -> Iterator[s.Field]:
    """Every field below a node of the tree."""
    todo = [item]
    while todo:
        node = todo.pop()
        if isinstance(node, s.Field):
            yield node
        todo += [part for part in node if isinstance(part, tuple) and not isinstance(part, Span)]


def _model_of(place: Place) -> str:
    head = place.frames[1].head if len(place.frames) > 1 else ()
    return head[1].text if len(head) > 1 and head[0].text == "model" else ""


def _size(reading: Reading, place: Place, word: str) -> str:
    """The size of a dimension of the model at the cursor; empty where it has none."""
    name = _model_of(place)
    spec = reading.module.again().spec("model", name) if name else None
    size = dict(getattr(spec, "sizes", ())).get(word)
    return f"{size:,}" if isinstance(size, int) else ""


# ---- shardings and searches


def _of_sharding(word: str, place: Place, following: str) -> str:
    """What a name of a rule, of `place` or of `in` is."""
    words = place.statement
    if words and words[0].text == "in":
        return f"`{word}`: {REGIONS_SAY.get(word, '')}" if word in REGIONS_SAY else ""
    if (words and words[0].text in ("mesh", "place")) or any(token.kind == "ARROW" for token in words):
        of = next((f", which `{name}` makes" for name, sugar in SUGAR.items() if sugar.axis == word), "")
        if words[0].text == "place" and word in LEVELS:
            return f"`{word}`: groups of these axes stay in one {word}"
        return f"`{word}`: an axis of the mesh{of}"
    if following in ("ARROW", "COMMA"):
        return f"`{word}`: a dimension, split over the axes behind `->`" + (
            f": {OF_EVERY_MODEL[word]}" if word in OF_EVERY_MODEL else ""
        )
    return ""


REGIONS_SAY = {
    "attention": "rules for attention alone: its queries, keys and values",
    "experts": "rules for what is inside `experts(...)` alone",
    "embedding": "rules for the embedding alone",
    "head": "rules for the head alone",
}
OF_EVERY_MODEL = {
    "tokens": "the tokens of a step, of all its requests",
    "batch": "the requests of a step",
    "context": "the positions in the KV cache",
    "position": "the positions of a prompt",
    "layers": "the layers of the model",
}
"""Dimensions that the compiler sets."""


def _varied(word: str, place: Place) -> str:
    """What a field that varies is, by its short name."""
    if word == "in":
        return "`in`: the values that the field takes, a list or a range such as `1..64 by * 2`"
    path = VARIES.get(word, "")
    scope, _, name = path.rpartition(".")
    about = meaning(scope, name).text if path else meaning("plan", word).text
    return f"`{word}`: {about}" + (f" (`{path}`)" if path else "") if about else ""


# ---- blocks


def _of_block(reading: Reading, token: Token, following: str, place: Place) -> Iterator[str]:
    word = token.text
    called = place.frame.scope.removesuffix("()")
    if word in OPTIONS.get(called, ()) and following == "EQ":
        yield f"`{word}` of `{called}`: {option(called, word)}"
    elif word in FUNCTIONS:
        yield f"`{word}`: {meaning('function', word).text}"
    elif size := _size(reading, place, word):
        yield f"`{word}`: a dimension of the model, {size}"
    elif word in OF_EVERY_MODEL and place.frame.scope == "[dims]":
        yield f"`{word}`: {OF_EVERY_MODEL[word]}; the compiler sets it"
    yield from _line(reading, token, weight=word if following == "LSQB" else "")


def _line(reading: Reading, token: Token, weight: str = "") -> Iterator[str]:
    """What a line of a model becomes in the first plan that runs it, and first a ``weight`` of that line."""
    line = token.span.line
    for name in plans_of_line(reading, line):
        plan = reading.plan(name) if reading.estimate(name) is not None else None
        if plan is None:
            continue
        if weight and (held := weight_of(plan, weight)) is not None:
            sizes = " x ".join(f"{size:,}" for size in held.local)
            where = f"on one rank of plan `{name}`, {show_bytes(held.bytes)}, in {counted(held.layers, 'layer')}"
            yield f"**weight `{weight}`** `{held.type}`: {sizes} {where}"
        at = reading.line_compiled(("plan", name), line)
        found = {phase: ops_of_line(plan, phase, at, reading.file) for phase in ("prefill", "decode")}
        for phase, facts in found.items():
            if facts:
                yield f"In a {'prefill' if phase == 'prefill' else 'decode step'} of plan `{name}`, on one rank:"
                yield _table(("op", "result", "on one rank", "bytes"), [_row(fact) for fact in facts[:MOST_OPS]])
        if at and not any(found.values()):
            yield f"Plan `{name}` computes this in a kernel of another line."
        return


def plans_of_line(reading: Reading, line: int) -> list[str]:
    """The plans that may run what stands at a line: those that depend on its declaration."""
    keys = [p.key for p in reading.pieces.values() if p.line <= line <= p.item.span.end_line]
    if not keys or keys[0][0] != "model":
        return []
    return [name for name in reading.plans if keys[0] in reading.depends_on(("plan", name))]


def _row(fact: OpFact) -> tuple[str, str, str, str]:
    over = f" over {' and '.join(fact.axes)}" if fact.axes else ""
    sent = f", sends {show_bytes(fact.payload)}" if fact.payload else ""
    return (
        f"{fact.op}{over}{sent}",
        f"`{fact.type}`",
        " x ".join(f"{size:,}" for size in fact.local),
        show_bytes(fact.bytes),
    )


def _table(titles: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [titles, tuple("---" for _ in titles), *rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in lines)
