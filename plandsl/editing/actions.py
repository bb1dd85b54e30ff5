"""Edits that an editor offers: fixes that hints of diagnostics name, the renaming of a name, and the canonical form.

A fix is offered only where it works: the text that it makes is read, and must lack the mistake and have no new one.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from plandsl.diagnostics import Diagnostic, PlanError, Span
from plandsl.editing.reading import Reading
from plandsl.editing.symbols import Occurrence, is_of_the_language, path_of, used
from plandsl.grammar.tokens import CLOSERS, KEYWORDS, OPENERS, Token, scan


class Edit(NamedTuple):
    """A place of the text, and what is written there instead."""

    span: Span
    text: str


class Action(NamedTuple):
    """A fix: its title, the edits that make it, and the finding that it mends."""

    title: str
    edits: tuple[Edit, ...]
    of: Diagnostic


MOST_TRIED = 16
"""Most texts that are read to find the fix of one finding."""

MOST_OFFERED = 3
"""Most fixes of one finding."""

MOST_READ = 80
"""Most texts that are read to find the fixes of several findings; fewer in one of more than `LONG` characters."""

LONG = 32_768

_QUOTED = re.compile(r"`([^`]+)`")
_STRING = re.compile(r'write ("[^"]*")')
_HIDES = {"E1": ("E2", "E3", "W2", "W3"), "E2": ("E3", "W3")}
"""By the first digit of a code: those of findings that are made only where a text has none of it."""

_LEAVES_OUT = re.compile(r"leave the `([^`]+)` out")
_SIGNS = "<>=!"
_REMOVES = re.compile(r"\b(leave (it|this one|the field) out|remove (one|it|this)|drop|is stated: leave)\b")


def actions(reading: Reading, found: Iterable[Diagnostic]) -> list[Action]:
    """The fixes of some findings of a text that work, the likeliest first."""
    made: list[Action] = []
    left = round(MOST_READ * min(1.0, (LONG / (len(reading.text) + 1)) ** 2))
    for diagnostic in found:
        if diagnostic.span is not None and diagnostic.span.file == reading.file:
            fixes, tried = _fixes(reading, diagnostic, min(left, MOST_TRIED))
            made += fixes
            left -= tried
    return made


def _fixes(reading: Reading, diagnostic: Diagnostic, most: int) -> tuple[list[Action], int]:
    """The fixes of one finding, and how many texts were read to find them, at most so many."""
    compiled, library = diagnostic not in reading.look(), reading.module.library
    before = _found(reading, compiled)
    seen = {reading.text}
    made: list[Action] = []
    for title, edits in _candidates(reading, diagnostic):
        if len(seen) > most or len(made) >= MOST_OFFERED:
            break
        text = apply(reading.text, edits)
        if text in seen:
            continue
        seen.add(text)
        after = Reading(text, reading.file, library.texts, before=reading, reads_files=library.reads_files)
        if _mends(diagnostic, before, _found(after, compiled)):
            made.append(Action(title, tuple(edits), diagnostic))
    return made, len(seen) - 1


def _found(reading: Reading, compiled: bool) -> Counter[tuple[str, str]]:
    """The errors and warnings of a text, by code and message; with ``compiled`` those too that its programs show."""
    found = reading.check() if compiled else reading.look()
    return Counter((d.code, d.message) for d in found if d.severity != "note")


def _mends(diagnostic: Diagnostic, before: Counter[tuple[str, str]], after: Counter[tuple[str, str]]) -> bool:
    """Whether an edit mends a finding and brings no other.

    A mistake of syntax may have hidden one in names, and one in names another one in shardings: these are not new.
    """
    key = diagnostic.code, diagnostic.message
    hidden = _HIDES.get(diagnostic.code[:2], ())
    return after[key] < before[key] and all(code[:2] in hidden for code, _ in after - before)


# ---- what a hint may mean


def _candidates(reading: Reading, diagnostic: Diagnostic) -> Iterator[tuple[str, list[Edit]]]:
    """What the hint of a finding may mean: its words in quotes, written at each place that it may speak of."""
    span, hint = diagnostic.span, diagnostic.hint
    assert span is not None, "the caller has looked"
    item = _item_at(reading, span)
    strays = [span, *(label.span for label in diagnostic.labels if "this one" in label.text)]
    if sign := _LEAVES_OUT.search(hint):
        yield f"leave `{sign[1]}` out", [Edit(span, "")]
    for word in _words(hint):
        title = f"write `{_short(word)}`"
        for edits in _places(reading, word, span, item, strays=strays, hint=hint):
            yield title, edits
    if _REMOVES.search(hint):
        for stray in [*strays[::-1], *(label.span for label in diagnostic.labels)]:
            where = _item_at(reading, stray)
            if where is not None and re.match(r"\w", reading.slice(stray)):  # a comma or a bracket is no item
                yield f"remove `{_short(reading.slice(where))}`", [Edit(_whole_item(reading, where), "")]
        yield f"remove `{_short(reading.slice(span))}`", [Edit(span, "")]


def _words(hint: str) -> list[str]:
    """The texts that a hint says to write: those behind "write", if it has this word."""
    _, found, rest = hint.rpartition("write ")
    text = rest if found else hint
    words = [*_QUOTED.findall(text), *_STRING.findall(hint)]
    return list(dict.fromkeys(words))


def _places(
    reading: Reading, word: str, span: Span, item: Span | None, strays: list[Span], hint: str
) -> Iterator[list[Edit]]:
    """The edits that write a word: instead of what is wrong, of the item around it, of one beside it, or in a body."""
    if word.startswith("plan ") and word.endswith("}"):  # the text is of another language
        yield [Edit(Span(span.file, 1, 1, len(reading.lines), len(reading.lines[-1]) + 1), word + "\n")]
    if item is not None and (named := re.match(r"([A-Za-z_]\w*)\s*[={]", word)) is not None:
        yield from _as_item(reading, word, named[1], item, strays)
        for other in _QUOTED.findall(hint):
            yield from ([Edit(one, word)] for one in _items_named(reading, other) if one != item)
    if item is not None and (head := _head(reading, item, span, word)) is not None:
        yield [head]
    yield [Edit(span, word)]
    yield from ([Edit(one, word)] for one in _tokens_around(reading, span, item))
    yield [Edit(_point(span, end=True), f" {word}")]
    yield [Edit(_point(span), word)]
    if item is not None:
        yield [Edit(item, word)]
        yield [Edit(_point(item, end=True), f"\n{_indent(reading, item)}{word}")]
    if (inside := _into_body(reading, span, word)) is not None:
        yield [inside]


def _head(reading: Reading, item: Span, span: Span, word: str) -> Edit | None:
    """A word that starts an item, as in ``plan my_plan {`` or ``let a = ...``: it replaces all up to its sign."""
    start = word.removesuffix("...").rstrip()
    if start[-1:] not in ("{", "="):
        return None
    line = reading.lines[item.line - 1]
    first = re.match(r"\w+", start)
    at = item.column - 1
    if first is not None and (found := line.find(first[0], at)) >= 0:
        at = found
    stop = line.find(start[-1], max(at, span.column - 1 if span.line == item.line else at))
    return Edit(item._replace(column=at + 1, end_line=item.line, end_column=stop + 2), start) if stop >= 0 else None


def _tokens_around(reading: Reading, span: Span, item: Span | None) -> Iterator[Span]:
    """The token that a place is part of, with the signs beside it, with the rest of its item, and the token before."""
    before: Token | None = None
    for token in reading.tokens:
        if _holds(token.span, span) and token.kind != "END":
            line = reading.lines[span.line - 1]
            left, right = token.span.column - 1, token.span.end_column - 1
            while left and line[left - 1] in _SIGNS:
                left -= 1
            while right < len(line) and line[right] in _SIGNS:
                right += 1
            if token.text[:1] in _SIGNS:
                yield token.span._replace(column=left + 1, end_column=right + 1)
            yield token.span
            if item is not None:
                yield span._replace(end_line=item.end_line, end_column=item.end_column)
                yield token.span._replace(end_line=item.end_line, end_column=item.end_column)
            if before is not None and before.kind != "NEWLINE":
                yield before.span
            return
        before = token


def _items_named(reading: Reading, name: str) -> list[Span]:
    return [one for _, one in _items(reading) if re.match(rf"{re.escape(name)}\b", reading.slice(one))]


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 40 else line[:37] + "..."


def _point(span: Span, end: bool = False) -> Span:
    line, column = (span.end_line, span.end_column) if end else (span.line, span.column)
    return Span(span.file, line, column, line, column)


def _as_item(reading: Reading, word: str, name: str, item: Span, strays: list[Span]) -> Iterator[list[Edit]]:
    """A word that is a whole item: it takes the place of the item of that name beside the stray ones, or of these."""
    gone = [_item_at(reading, stray) for stray in strays]
    removed = [Edit(_whole_item(reading, one), "") for one in gone if one is not None]
    for other in _items_beside(reading, item):
        if reading.slice(other).split("{")[0].split("=")[0].strip() == name and other not in gone:
            yield [*removed, Edit(other, word)]
    yield [*removed[1:], Edit(item, word)]
    outer = _outer_item(reading, item)
    if outer is not None:
        yield [*removed, Edit(_point(outer, end=True), f"\n{_indent(reading, outer)}{word}")]


def _indent(reading: Reading, span: Span) -> str:
    line = reading.lines[span.line - 1]
    return line[: len(line) - len(line.lstrip())]


# ---- items, by their tokens


def _levels(tokens: Sequence[Token]) -> Iterator[tuple[int, Token]]:
    """Each token but comments, and how many brackets are open where it stands."""
    depth = 0
    for token in tokens:
        if token.kind in CLOSERS:
            depth -= 1
        if token.kind != "COMMENT":
            yield depth, token
        depth += token.kind in OPENERS


def _items(reading: Reading) -> list[tuple[int, Span]]:
    """Every item of every body: how deep it is, and its place."""
    found: list[tuple[int, Span]] = []
    open_: dict[int, list[Token]] = {}
    for depth, token in _levels(reading.tokens):
        for inner in [d for d in open_ if d > depth]:
            found += _closed(inner, open_.pop(inner))
        current = open_.get(depth, [])
        if token.kind in ("NEWLINE", "COMMA", "SEMICOLON", "END") or (token.kind in CLOSERS and not current):
            found += _closed(depth, open_.pop(depth, []))
        else:
            open_.setdefault(depth, []).append(token)
    for depth, tokens in open_.items():
        found += _closed(depth, tokens)
    return sorted(found, key=lambda one: one[1])


def _closed(depth: int, tokens: list[Token]) -> list[tuple[int, Span]]:
    return [(depth, tokens[0].span.to(tokens[-1].span))] if tokens else []


def _holds(outer: Span, inner: Span) -> bool:
    return outer[1:3] <= inner[1:3] and inner[3:5] <= outer[3:5]


def _item_at(reading: Reading, span: Span) -> Span | None:
    """The innermost item that a place is in."""
    around = [(depth, one) for depth, one in _items(reading) if _holds(one, span) or one[1:3] == span[1:3]]
    return max(around)[1] if around else None


def _outer_item(reading: Reading, item: Span) -> Span | None:
    around = [(depth, one) for depth, one in _items(reading) if _holds(one, item) and one != item]
    return max(around)[1] if around else None


def _items_beside(reading: Reading, item: Span) -> list[Span]:
    """The items of the same body, and of the bodies around it."""
    every = _items(reading)
    depth = next((d for d, one in every if one == item), 0)
    outer = _outer_item(reading, item)
    return [one for d, one in every if d <= depth and (outer is None or _holds(outer, one) or d < depth)]


def _whole_item(reading: Reading, item: Span) -> Span:
    """An item with the comma before or after it, or with its line where nothing else stands there."""
    line = reading.lines[item.line - 1]
    last = reading.lines[item.end_line - 1]
    before, after = line[: item.column - 1], last[item.end_column - 1 :]
    if not before.strip() and not after.strip(" \t,;"):
        return Span(item.file, item.line, 1, item.end_line + 1, 1)
    if (gap := re.match(r"\s*[,;]\s*", after)) is not None:
        return item._replace(end_column=item.end_column + gap.end())
    if (gap := re.search(r"\s*[,;]\s*$", before)) is not None:
        return item._replace(column=gap.start() + 1)
    return item


def _into_body(reading: Reading, span: Span, word: str) -> Edit | None:
    """A word as the last item of the first body that opens on the line of a span, behind its start."""
    closes: list[Token] = []
    first: Token | None = None
    before: Token | None = None
    for token in reading.tokens:
        if first is None:
            starts = token.kind == "LBRACE" and token.span.line == span.line and token.span.column > span.column
            first = token if starts else None
            closes = [token] if starts else []
        elif token.kind in OPENERS:
            closes.append(token)
        elif token.kind in CLOSERS:
            closes.pop()
            if not closes:
                return _before_closing(reading, word, first, before, token)
        if token.kind not in ("NEWLINE", "COMMENT"):
            before = token
    return None


def _before_closing(reading: Reading, word: str, first: Token, before: Token | None, closer: Token) -> Edit:
    last = (before or first).span
    place = Span(last.file, last.end_line, last.end_column, last.end_line, last.end_column)
    if closer.span.line == first.span.line:
        if before is first:
            return Edit(place._replace(end_column=closer.span.column), f" {word} ")
        return Edit(place, f", {word}")
    # behind a comment at the end of the last item's line
    line = reading.lines[closer.span.line - 2]
    above = Span(last.file, closer.span.line - 1, len(line) + 1, closer.span.line - 1, len(line) + 1)
    return Edit(above, f"\n{_indent(reading, closer.span)}  {word}")


# ---- edits


def apply(text: str, edits: Iterable[Edit]) -> str:
    """A text with edits made, which do not overlap; a place past the end of a line is the end of the line."""
    lines = text.split("\n")
    starts = [0]
    for line in lines:
        starts.append(starts[-1] + len(line) + 1)

    def offset(line: int, column: int) -> int:
        if line > len(lines):
            return len(text)
        return starts[line - 1] + min(column - 1, len(lines[line - 1]))

    for span, new in sorted(edits, key=lambda edit: edit.span, reverse=True):
        start, end = offset(span.line, span.column), offset(span.end_line, span.end_column)
        text = text[:start] + new + text[max(start, end) :]
    return text


# ---- renaming


def rename(
    readings: Mapping[str, Reading], found: Sequence[Occurrence], of: Occurrence, name: str
) -> dict[str, list[Edit]]:
    """The edits that give what ``of`` names another name, by the path of the file.

    ``readings`` are the open root files by path, ``found`` all occurrences in them and in the files that they use.
    Raises `PlanError` (E585) where the name cannot be changed to ``name``.
    """
    if reason := _no_name(name):
        raise PlanError([Diagnostic("E585", reason, of.span, hint="letters, digits and `_`, a letter first")])
    if of.symbol.home.startswith("catalog/"):
        why = f"`{of.symbol.name}` belongs to the catalog, whose files are not changed"
        raise PlanError(
            [
                Diagnostic(
                    "E585", why, of.span, hint=f"declare one of your own: `{of.symbol.kind} {name} = {of.symbol.name}`"
                )
            ]
        )
    if is_of_the_language(of, found):
        why = f"`{of.symbol.name}` is the axis of a degree, and always has this name"
        raise PlanError([Diagnostic("E585", why, of.span, hint=f"declare the axis: `mesh {name} = 8`")])
    edits: dict[str, list[Edit]] = {}
    for one in used(found, of):
        edits.setdefault(one.path, []).append(Edit(one.span, name))
    _check_rename(readings, edits, of, name)
    return edits


def _no_name(name: str) -> str:
    tokens = [token for token in scan(name, "<name>") if token.kind != "END"]
    if len(tokens) != 1 or tokens[0].text != name or not re.fullmatch(r"[A-Za-z_]\w*", name, re.ASCII):
        return f"`{name[:40]}` is no name"
    if name in KEYWORDS:
        return f"`{name}` is a word of the language"
    return ""


def _check_rename(readings: Mapping[str, Reading], edits: Mapping[str, list[Edit]], of: Occurrence, name: str) -> None:
    """Raise `PlanError` (E585) where the texts with the new name would have mistakes that they do not have now."""
    changed = {path: apply(text, edits.get(path, ())) for path, text in _texts(readings).items()}
    overlay = {Path(path): text for path, text in changed.items()}
    for path, reading in readings.items():
        before = {d.message for d in reading.look() if d.severity == "error"}
        after = Reading(changed.get(path, reading.text), reading.file, overlay)
        for d in after.look():
            if d.severity == "error" and d.message.replace(f"`{name}`", f"`{of.symbol.name}`") not in before:
                why = f"with the name `{name}` there would be a mistake: {d.message}"
                raise PlanError([Diagnostic("E585", why, of.span, hint="choose a name that nothing else has")])


def _texts(readings: Mapping[str, Reading]) -> dict[str, str]:
    """The texts of all files that are read: by themselves, and because others use them."""
    return {path_of(unit): unit.text for reading in readings.values() for unit in reading.unit.everywhere()}
