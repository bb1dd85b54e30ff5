"""Canonical formatting: the tokens of a plan, with standard spaces and indentation.

Comments and line breaks stay as they are, and several blank lines become one. This module decides the spaces between
two tokens of a line, and the indentation before the first one.
"""

from __future__ import annotations

from itertools import groupby
from typing import Any

from plandsl.diagnostics import PlanError
from plandsl.grammar.layout import Layout
from plandsl.grammar.parse import parse
from plandsl.grammar.tokens import CLOSERS, OPENERS, Token, scan, split_number

_BRACES = ("LBRACE", "CALL_BRACE")
_FRESH = ("SEP", *_BRACES)
_VALUE_ENDS = ("NAME", "NUMBER", "STRING", "RPAR", "RSQB", "RBRACE")
_TIGHT_BEFORE = ("COMMA", "SEP", "RPAR", "RSQB", "DOT", "DOTS")
_TIGHT_AFTER = ("LPAR", "LSQB", "ATTRIBUTES", "DOT", "DOTS", "NEGATIVE")


def format_text(text: str, file: str) -> str:
    """The text in canonical form. Raises `PlanError` with the diagnostics on a syntax error."""
    _, found = parse(text, file)
    if found:
        raise PlanError(found, {file: text})
    return _Formatter(scan(text, file)).run()


def same_tree(a: Any, b: Any) -> bool:
    """Whether two syntax trees are equal, apart from their spans."""
    todo = [(a, b)]
    while todo:
        a, b = todo.pop()
        if type(a) is not type(b):
            return False
        if not isinstance(a, tuple):
            if a != b:
                return False
        elif hasattr(a, "_fields"):
            todo += [(getattr(a, f), getattr(b, f)) for f in a._fields if not f.endswith("span")]
        elif len(a) != len(b):
            return False
        else:
            todo += zip(a, b, strict=True)
    return True


class _Formatter:
    def __init__(self, tokens: list[Token]) -> None:
        self.tokens = tokens
        laid = Layout(tokens).tokens
        # the kind that the parser gives each token; it does not see a separator that only repeats another
        self.kinds = {t.span: t.kind for t in laid} | _attribute_brackets(laid)
        self.lines: list[tuple[str, str]] = []  # code and comment
        self.code = ""
        self.comment = ""
        self.last = "SEP"  # kind of the last token the parser sees
        self.gap = ""  # kind of the last token of this line, empty at its start
        self.separator = ""  # waits for an item on the same line
        self.open: list[str] = []

    def run(self) -> str:
        """The formatted text."""
        for token in self.tokens:
            kind = token.kind
            if kind in ("NEWLINE", "END"):
                self._end_line(token)
            elif kind == "COMMENT":
                self._add_comment(token)
            else:
                self._add(token, self.kinds.get(token.span, ""))
        return join_lines(self.lines)

    def _add_comment(self, token: Token) -> None:
        if not self.code:
            self.code = self._indent("")
        self.comment = token.text.rstrip()

    def _end_line(self, token: Token) -> None:
        self.lines.append((self.code.rstrip() if not self.comment else self.code, self.comment))
        self.code = self.comment = self.gap = self.separator = ""
        self.last = self.kinds.get(token.span, self.last)

    def _add(self, token: Token, kind: str) -> None:
        if token.kind in ("COMMA", "SEMICOLON") and kind in ("", "SEP"):
            self.separator = ";" if token.text == ";" or self.separator == ";" else ","
            self.last = "SEP" if kind else self.last
            return
        if kind == "MINUS" and self.last not in _VALUE_ENDS:
            kind = "NEGATIVE"
        if kind == "RBRACE" or not self.gap:
            self.separator = ""
        if kind in ("RPAR", "RSQB") and self.gap == "COMMA":
            self.code, self.gap = self.code.removesuffix(","), "NAME"
        if self.separator:
            self.code, self.gap, self.separator = self.code + self.separator, "SEP", ""
        self.code += self._space(kind) if self.gap else self._indent(kind)
        self.code += " ".join(split_number(token.text)).strip() if kind == "NUMBER" else token.text
        if token.kind in CLOSERS:
            self.open.pop()
        elif token.kind in OPENERS:
            self.open.append(kind)
        self.last = self.gap = kind

    def _indent(self, kind: str) -> str:
        depth = len(self.open)
        if kind in CLOSERS:
            depth -= 1
        elif self.last not in _FRESH and not (self.open and self.open[-1] not in _BRACES):
            depth += 1  # the item began on a line before
        return "  " * depth

    def _space(self, kind: str) -> str:
        before = self.gap
        if kind in _TIGHT_BEFORE or before in _TIGHT_AFTER:
            return ""
        if before in _BRACES and kind == "RBRACE":
            return ""
        if kind in ("LPAR", "LSQB") and before == "NAME":
            return ""
        return " "


def _attribute_brackets(tokens: list[Token]) -> dict[Any, str]:
    """The `[` of ``block dense [layers = 0..3]``: unlike the `[` of a tensor, it has a space before it."""
    found = {}
    for at, token in enumerate(tokens):
        if token.kind == "LSQB" and at > 1 and tokens[at - 2].kind == "BLOCK" and tokens[at + 2].kind == "EQ":
            found[token.span] = "ATTRIBUTES"
    return found


def join_lines(lines: list[tuple[str, str]]) -> str:
    """Lines of code and comment as text, the comments of neighbouring lines below each other."""
    out: list[str] = []
    for lined, group in groupby(_collapse_blank_lines(lines), key=lambda line: bool(line[0].strip() and line[1])):
        run = list(group)
        width = max(len(code) for code, _ in run) + 2 if lined else 0
        out += [(code.ljust(width) + comment) if comment else code for code, comment in run]
    return "".join(line + "\n" for line in out)


def _collapse_blank_lines(lines: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """The lines without two blank lines in a row, and without blank lines at the start or end of a body or the file."""
    out: list[tuple[str, str]] = []
    blank = False
    for code, comment in lines:
        if not code.strip() and not comment:
            blank = bool(out)
            continue
        opened = bool(out) and not out[-1][1] and out[-1][0].endswith(("{", "(", "["))
        closes = code.lstrip().startswith(("}", ")", "]"))
        if blank and not opened and not closes:
            out.append(("", ""))
        out.append((code, comment))
        blank = False
    return out
