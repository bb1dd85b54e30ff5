"""The scanner: from a `.plan` text to tokens with their places, comments and line ends included."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from itertools import islice
from typing import NamedTuple

from plandsl import limits
from plandsl.diagnostics import Diagnostic, Span
from plandsl.grammar import _tables

CURLY = "\u201c\u201d\u201e\u201f\u00ab\u00bb\u2033\u2018\u2019\u201a\u201b\u2032`\u00b4"
"""Quotes that an editor or another language put in place of ``"``."""

# beside the terminals of the grammar: mistakes that have their own message
_MISTAKES = "|".join(
    [
        r'(?P<OPEN_STRING>"[^"\r\n]*)',
        rf"(?P<QUOTED>[{CURLY}][^\"{CURLY}\r\n]*[\"{CURLY}]|'[^'\r\n]*')",
        r"(?P<COLON>:)",
        rf"(?P<STRAY>[{CURLY}]|[^\x00-\x7f{CURLY}]+|[^ \t\r\n])",
        r"(?P<END>\Z)",  # without it, trailing blanks would be scanned again from each blank
    ]
)

_HINTS = (
    ("\u2212\u2013\u2014\u2010\u2011", "write `-`"),
    ("\u00d7\u00b7\u22c5\u2217", "write `*`"),
    ("\u00f7", "write `/`"),
    ("\u2192\u21d2\u27f6", "write `->`"),
    ("\u2264", "write `<=`"),
    ("\u2265", "write `>=`"),
    ("\u2260", "write `!=`"),
    ("\u00b5\u03bc", "write `u` for micro, as in `2 us`"),
    ("\u2026", "a range is written with two dots: `0..3`"),
    ("\u00a0\u2007\u202f\u3000", "write an ordinary space"),
    ("\ufeff", "a byte order mark is allowed only at the start of a file"),
    ("&", "write `and`"),
    ("|", "write `or`"),
    ("!", "write `not`"),
    ("\\", "a line continues without `\\` after an operator, after a comma of a list, and inside brackets"),
    ("^", "there is no power operator: multiply"),
    ("$", "an amount of money is a number and `USD`, as in `2 USD/h`"),
)

NUMERIC = re.compile(r"[0-9]+(?:_[0-9]+)*(?:\.[0-9]+)?")
"""A number without a unit."""

_DIGITS = re.compile(r"[0-9_.]++(?:[eE][+-]?[0-9]++)?")

KINDS = ("model", "gpu", "node", "cluster", "calibration", "engine", "sharding", "workload", "plan", "search")
"""The words that open a declaration; elsewhere they are names."""

NAMED = "names are of letters, digits and `_`, a letter first"
"""What a name consists of, for a label."""

MEANT = {
    "\u2264": ("COMPARE", "<="),
    "\u2265": ("COMPARE", ">="),
    "\u2260": ("COMPARE", "!="),
    "\u2192": ("ARROW", "->"),
    "\u00d7": ("STAR", "*"),
    "\u00f7": ("MULTIPLY", "/"),
    "\u2212": ("MINUS", "-"),
    "\u2013": ("MINUS", "-"),
}
"""Signs that are not in the language -> the kind and text of the token that they stand for."""

OPENERS = {"LPAR": "RPAR", "LSQB": "RSQB", "LBRACE": "RBRACE"}
CLOSERS = {closer: opener for opener, closer in OPENERS.items()}
KEYWORDS = frozenset(text for text in _tables.FIXED if text.isalpha())
"""The keywords. At most places most of them are names."""


class Token(NamedTuple):
    """One piece of text. ``kind`` is a terminal of plan.lark, or one of the mistakes above."""

    kind: str
    text: str
    span: Span


@cache
def _scanner() -> re.Pattern[str]:
    return re.compile(f"[ \t\r]*+(?:{_tables.PATTERN}|{_MISTAKES})")


def scan(text: str, file: str) -> list[Token]:
    """The tokens of a text, comments included. The last is an END, after the last character that is not blank."""
    fixed = _tables.FIXED
    tokens: list[Token] = []
    line, start = 1, 0  # start: the offset of the column 0 of this line
    offset = 1 if text.startswith("\ufeff") else 0
    start = offset - 1
    for match in _scanner().finditer(text, offset):
        kind = match.lastgroup
        if kind is None or kind == "END":
            break
        here, stop = match.span(kind)
        piece = match[kind]
        if kind in ("NAME", "OPERATOR"):
            kind = fixed.get(piece, "NAME")
        tokens.append(Token(kind, piece, Span(file, line, here - start, line, stop - start)))
        if kind == "NEWLINE":
            line += 1
            start = stop - 1
    tokens.append(Token("END", "", _end(tokens, file)))
    return tokens


def _end(tokens: list[Token], file: str) -> Span:
    last = next((t.span for t in reversed(tokens) if t.kind != "NEWLINE"), Span(file, 1, 1, 1, 1))
    return Span(file, last.end_line, last.end_column, last.end_line, last.end_column + 1)


def split_number(text: str) -> tuple[str, str]:
    """The digits of a NUMBER, and its unit (empty if it has none)."""
    match = _DIGITS.match(text)
    assert match is not None  # the scanner made it so
    return match[0], text[match.end() :].lstrip(" \t")


def lexical_errors(tokens: Sequence[Token]) -> list[Diagnostic]:
    """A diagnostic for every token that is not in the language, at most `MAX_ERRORS`."""
    wrong = (at for at, token in enumerate(tokens) if token.kind in _WRONG)
    return [_lexical_error(tokens[at], kind_named(tokens, at)) for at in islice(wrong, limits.MAX_ERRORS)]


def kind_named(tokens: Sequence[Token], at: int) -> str:
    """The kind of declaration that the token at ``at`` names, as in ``model = NAME``; empty if it names none."""
    named = at > 1 and tokens[at - 1].kind == "EQ" and tokens[at - 2].text in KINDS
    return tokens[at - 2].text if named else ""


_WRONG = ("OPEN_STRING", "QUOTED", "STRAY")
_QUOTES = {"'": "single quotes", "`": "backticks", "\u00b4": "accents"}


def _lexical_error(token: Token, named: str) -> Diagnostic:
    kind, text, span = token
    if kind == "OPEN_STRING":
        hint = 'close it with `"` on the same line'
        return Diagnostic("E103", 'this string has no closing `"`', span, hint=hint)
    if kind == "QUOTED":
        what = _QUOTES.get(text[0], "typographic quotes")
        if named:
            from plandsl.grammar.near import hint_for_name  # mistakes alone need it

            inner = text[1:-1]
            hint = f"write `{inner}`" if inner.isidentifier() else hint_for_name(named, inner)
            return Diagnostic("E102", f"a name has no quotes, found {what}", span, hint=hint)
        if NUMERIC.fullmatch(text[1:-1]):
            return Diagnostic("E102", f"a number has no quotes, found {what}", span, hint=f"write `{text[1:-1]}`")
        hint = f'write "{text[1:-1]}" with straight double quotes'
        return Diagnostic("E102", f"a string must be in double quotes, not in {what}", span, hint=hint)
    return Diagnostic("E102", f"unexpected character {char_text(text)}", span, hint=_stray_hint(text[0]))


def _stray_hint(char: str) -> str:
    if char in CURLY or char == "'":
        return 'write strings in straight double quotes: "text"'
    return next((hint for chars, hint in _HINTS if char in chars), "")


def char_text(text: str) -> str:
    """A character for a message: the character if it is visible, else its code point."""
    seen = text if len(text) <= 8 else text[:8] + "..."
    if seen.isprintable() and not seen.isspace():
        return f"`{seen}`"
    return " ".join(f"U+{ord(c):04X}" for c in text[:4])
