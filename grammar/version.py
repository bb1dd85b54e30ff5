"""The line `plandsl = 1`: which version of the language a file is written in.

A file of a newer version may hold words that this compiler cannot read. So the line is looked for among the tokens,
before the text is parsed.
"""

from __future__ import annotations

from plandsl._version import LANGUAGE, __version__
from plandsl.diagnostics import Diagnostic, Span, clip
from plandsl.grammar import syntax as s
from plandsl.grammar.tokens import NUMERIC, scan

WORD = "plandsl"
LINE = f"{WORD} = {LANGUAGE}"
"""The line that a file of this version carries."""

_SEPARATORS = ("NEWLINE", "SEMICOLON")


def newer_version(text: str, file: str) -> Diagnostic | None:
    """The finding that a text is of a newer version of the language than this compiler reads (E600)."""
    if WORD not in text:
        return None
    tokens, depth = scan(text, file), 0
    for at, token in enumerate(tokens[:-2]):
        depth += (token.kind == "LBRACE") - (token.kind == "RBRACE" and depth > 0)
        if token.text != WORD or depth or (at and tokens[at - 1].kind not in (*_SEPARATORS, "COMMENT")):
            continue
        sign, number = tokens[at + 1], tokens[at + 2]
        if sign.kind == "EQ" and NUMERIC.fullmatch(number.text) and float(number.text) > LANGUAGE:
            return _too_new(number.text, number.span)
    return None


def _too_new(number: str, span: Span) -> Diagnostic:
    needs = f"this file is written in version {clip(number)} of the language"
    message = f"{needs}, and plandsl {__version__} reads version {LANGUAGE}"
    hint = f"`pip install --upgrade plandsl`, or write `{LINE}` if the file uses nothing newer"
    return Diagnostic("E600", message, span, label=f"needs a compiler for version {clip(number)}", hint=hint)


def check_version(item: s.Version, first: bool) -> Diagnostic | None:
    """What is wrong with the version line of a file that this compiler can read (E601); None if it is right."""
    value = item.value
    if not first:
        hint = f"one line `{LINE}` at the top of the file"
        return Diagnostic("E601", "the version of the language must be the first line of a file", item.span, hint=hint)
    if isinstance(value, s.Num) and value.unit is None and value.value == LANGUAGE and isinstance(value.value, int):
        return None
    return Diagnostic("E601", "invalid version of the language", value.span, label="a whole number", hint=f"`{LINE}`")
