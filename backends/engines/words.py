"""Commands of a shell as words with their places: enough of a shell for launch lines, and nothing is run."""

from __future__ import annotations

import re
from collections import ChainMap
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from plandsl import limits
from plandsl.diagnostics import Span

_ENDS = (";", "&&", "||", "|", "&", ";;")
_SIGN = re.compile(r"\\\r?\n|[ \t\r]+|\n|;;|&&|\|\||[;&|]")
_REDIRECTION = re.compile(r"(?:\d+|\{\w+\})?(?:<<<|<<-?|>>|>\||[<>]&|<>|[<>](?!\())|&>>?")
_GAP = re.compile(r"(?:\\\r?\n|[ \t\r])*")
_BLANK = re.compile(r"<[A-Za-z][\w.-]*>(?=\s|$)")
"""A place to fill in, such as ``<model>``, as documentation has them: a word, which gets a message of its own."""

_NAME = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)=(.*)", re.DOTALL)


class Word(NamedTuple):
    """A word without its quotes, and where it stands."""

    text: str
    span: Span


class Command(NamedTuple):
    """A command: the variables that are set before it, here and in the lines above, and its words."""

    environment: Mapping[str, str]
    words: tuple[Word, ...]


def is_whole(text: str) -> bool:
    """Whether a text is a whole number in the digits 0 to 9, of a length that is read."""
    return text.isascii() and text.isdigit() and len(text) <= limits.MAX_DIGITS


def split_commands(text: str, file: str) -> Iterator[Command]:
    """The commands of a script. Variables, loops and documents in the text are read as the words that they are.

    Redirections such as ``> log.txt 2>&1`` are left out, with the files that they name: no program gets them.

    The environment of a command changes when the next one is read: copy what is to be kept. A script of many variables
    and commands would otherwise take time that grows with their product.
    """
    known: dict[str, str] = {}
    words: list[Word] = []
    for word in [*_words(text, file), None]:
        if isinstance(word, Word):
            words.append(word)
            continue
        own: dict[str, str] = {}
        at = 0
        while at < len(words) and (found := _NAME.fullmatch(words[at].text)):
            own[found[1]] = found[2]
            at += 1
        rest = words[at:]
        if not rest:
            known.update(own)  # a line of variables alone
        elif rest[0].text == "export":
            known.update({m[1]: m[2] for w in rest if (m := _NAME.fullmatch(w.text))})
        else:
            yield Command(ChainMap(own, known), tuple(rest))
        words = []
        if word == ";;":
            known = {}  # variables of one case say nothing of the next


def _words(text: str, file: str) -> list[Word | str | None]:
    """The words; the end of a case (``;;``), and None where a command ends otherwise."""
    out: list[Word | str | None] = []
    at, line, start = 0, 1, 0
    while at < len(text):
        if (arrow := _REDIRECTION.match(text, at)) and not _BLANK.match(text, at):
            stop = _redirected(text, arrow.end())
            if breaks := text.count("\n", at, stop):
                line, start = line + breaks, text.rfind("\n", at, stop) + 1
            at = stop
        elif sign := _SIGN.match(text, at):
            found = sign[0]
            if found == "\n" or found in _ENDS:
                out.append(found if found == ";;" else None)
            if "\n" in found:
                line, start = line + 1, sign.end()
            at = sign.end()
        elif text[at] == "#":
            at = (text.find("\n", at) + 1 or len(text) + 1) - 1
        else:
            word, stop = _word(text, at)
            begin = (line, at - start + 1)
            if breaks := text.count("\n", at, stop):
                line, start = line + breaks, text.rfind("\n", at, stop) + 1
            out.append(Word(word, Span(file, *begin, line, stop - start + 1)))
            at = stop
    return out


def _redirected(text: str, at: int) -> int:
    """Where the word behind a sign of redirection ends; the shell allows space between them."""
    gap = _GAP.match(text, at)
    at = at if gap is None else gap.end()
    return at if at == len(text) or _SIGN.match(text, at) or _REDIRECTION.match(text, at) else _word(text, at)[1]


def _word(text: str, at: int) -> tuple[str, int]:
    """The word that starts at ``at``, its quotes removed, and where it ends."""
    parts = []
    if blank := _BLANK.match(text, at):
        return blank[0], blank.end()
    while at < len(text) and not _SIGN.match(text, at):
        mark = text[at]
        if mark in "<>" and not text.startswith("(", at + 1):
            break
        if mark in "'\"":
            stop = at + 1
            while stop < len(text) and text[stop] != mark:
                stop += 2 if text[stop] == "\\" and mark == '"' else 1
            inner = text[at + 1 : stop]
            parts.append(re.sub(r'\\(["\\$`])', r"\1", inner) if mark == '"' else inner)
            at = min(stop + 1, len(text))
        elif mark == "\\" and at + 1 < len(text):
            parts.append(text[at + 1])
            at += 2
        elif text.startswith(("$((", "$(", "${", "<(", ">("), at):
            stop = _closing(text, at)
            parts.append(text[at:stop])
            at = stop
        else:
            parts.append(mark)
            at += 1
    return "".join(parts), at


def _closing(text: str, at: int) -> int:
    """The end of an expansion ``$(...)``, ``${...}``, ``<(...)`` or ``>(...)`` that starts at ``at``."""
    depth = 0
    for stop in range(at + 1, len(text)):
        depth += (text[stop] in "({") - (text[stop] in ")}")
        if depth == 0:
            return stop + 1
    return len(text)
