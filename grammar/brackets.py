"""Pairs the brackets of a text, so that the parser sees every bracket closed whatever the text says.

A missing closing bracket is reported where it was expected, and inserted; a surplus one is reported and left out.
"""

from __future__ import annotations

from itertools import islice

from plandsl import limits
from plandsl.diagnostics import Diagnostic, Label, Span
from plandsl.grammar.tokens import CLOSERS, KEYWORDS, KINDS, MEANT, NUMERIC, OPENERS, Token, kind_named, lexical_errors

_LEAVES = ("sharding", "workload")
"""Kinds whose bodies name no other declaration."""

_SEPARATORS = ("NEWLINE", "COMMA", "SEMICOLON")
_SIGNS = {"LPAR": "(", "LSQB": "[", "LBRACE": "{", "RPAR": ")", "RSQB": "]", "RBRACE": "}"}


def is_word(token: Token) -> bool:
    """Whether a token is a name, or a keyword that could be one."""
    return token.kind == "NAME" or token.text in KEYWORDS


def opens_item(tokens: list[Token], at: int) -> bool:
    """Whether a new item must start here: a word, and then a token that never follows a word inside an expression."""
    if at + 1 >= len(tokens) or not is_word(tokens[at]):
        return False
    following = tokens[at + 1]
    if following.kind in ("EQ", "LBRACE", "ARROW", "COLON"):
        return tokens[at].kind not in ("WITH", "AND", "OR", "NOT", "BY")
    return following.kind == "NAME" and tokens[at].kind not in ("WITH", "AND", "OR", "NOT", "BY", "IN")


def opens_declaration(tokens: list[Token], at: int) -> bool:
    """Whether ``kind NAME {``, ``kind NAME =``, ``let NAME =`` or ``use "..."`` starts here."""
    if at + 2 >= len(tokens):
        return False
    first, second, third = tokens[at : at + 3]
    if first.kind == "USE":
        return second.kind == "STRING"
    known = first.kind == "LET" or first.text in KINDS
    return known and is_word(second) and third.kind in ("EQ", "LBRACE")


class Brackets:
    """One walk over the tokens of a text."""

    def __init__(self, tokens: list[Token]) -> None:
        self.found: list[Diagnostic] = lexical_errors(tokens)
        self.faulty: set[Span] = set()
        """Spans of tokens beside a reported mistake: a second finding about their item would repeat the first."""
        self.tokens = [t for t in tokens if t.kind != "COMMENT"]
        self.out: list[Token] = []
        # the open brackets: each with the word it belongs to, the indentation of its line, and the index after it
        self.open: list[tuple[Token, str, int, int]] = []
        self.first: list[Token | None] = [None]  # the first token of the item under way, per level
        self.indent = 1
        braces = [t.kind for t in self.tokens]
        self.surplus = braces.count("LBRACE") - braces.count("RBRACE")

    def pair(self) -> list[Token]:
        """The tokens with balanced brackets, without strays; `found` and `faulty` say what was wrong."""
        fresh = True
        for at, token in enumerate(self.tokens):
            kind = token.kind
            if fresh and kind != "NEWLINE":
                self._line_starts(at)
                fresh = False
            if self.surplus:
                self._supply_around(at)
            if kind in OPENERS:
                self._open(token, at)
                if len(self.open) > limits.MAX_NESTING:
                    return self._too_deep(token)
            elif kind in CLOSERS:
                self._close(at)
            elif kind == "NEWLINE":
                fresh = True
                self._put(token)
            elif kind == "END":
                self._close_all(token, at_end=True)
                self.out.append(token)
            else:
                self._plain(token, at)
        return self.out

    def _supply_around(self, at: int) -> None:
        """Supply the braces that are missing before a token, in a text with more braces of one kind."""
        while self.surplus > 0 and self._is_outside(at):
            self._supply_before_item()
        if self.surplus < 0 and self.tokens[at].kind != "LBRACE" and self._lacks_brace(at):
            self._supply_opener(at)

    def _put(self, token: Token) -> None:
        self.out.append(token)
        if token.kind in _SEPARATORS:
            self.first[-1] = None
        elif self.first[-1] is None:
            self.first[-1] = token

    def _plain(self, token: Token, at: int) -> None:
        if token.kind == "STRAY":
            self._mark(at)
            if token.text not in MEANT:
                return
            token = Token(*MEANT[token.text], token.span)
        if token.kind in ("QUOTED", "OPEN_STRING"):
            self._mark(at)
            token = self._unquoted(token, at)
            self.faulty.add(token.span)
        self._put(token)

    def _unquoted(self, token: Token, at: int) -> Token:
        """What a text in the wrong quotes is: a name where a declaration is named, else a string."""
        inner = token.text[1:] if token.kind == "OPEN_STRING" else token.text[1:-1]
        if token.kind == "QUOTED" and NUMERIC.fullmatch(inner):
            return Token("NUMBER", inner, token.span)
        if token.kind == "QUOTED" and kind_named(self.tokens, at) and inner.isidentifier() and inner.isascii():
            return Token("NAME", inner, token.span)
        return Token("STRING", token.text if token.kind == "OPEN_STRING" else f'"{inner}"', token.span)

    def _mark(self, at: int) -> None:
        if self.out and self.out[-1].kind not in _SEPARATORS:
            self.faulty.add(self.out[-1].span)
        if at + 1 < len(self.tokens):
            self.faulty.add(self.tokens[at + 1].span)

    # ---- lines

    def _line_starts(self, at: int) -> None:
        """Supply closing brackets that are missing at the end of the line before."""
        token = self.tokens[at]
        self.indent = token.span.column
        if not self.open:
            return
        outermost = self.open[0][2]
        if token.span.column <= outermost and opens_declaration(self.tokens, at):
            self._close_all(token, at_end=False)
        elif self._in_parens() and self._finished() and opens_item(self.tokens, at):
            while self._in_parens():
                self._supply()
        elif token.kind == "RBRACE" and self.surplus > 0:
            self._by_indentation(token)

    def _is_outside(self, at: int) -> bool:
        """Whether an item starts that the innermost `{` cannot hold.

        It is a section of a plan after `sharding {` or `workload {`, or starts a line as far left as the line of the
        `{`, whose body is indented.
        """
        if len(self.open) < 2 or self.first[-1] is not None or self._in_parens() or not opens_item(self.tokens, at):
            return False
        opener, owner, indent, inside = self.open[-1]
        if owner in _LEAVES and self.tokens[at].text in KINDS:
            return True
        first = next(token for token in islice(self.tokens, inside, None) if token.kind != "NEWLINE")
        indented = first.span.line == opener.span.line or first.span.column > indent
        return self.tokens[at - 1].kind == "NEWLINE" and indented and self.tokens[at].span.column <= indent

    def _in_parens(self) -> bool:
        return bool(self.open) and self.open[-1][0].kind != "LBRACE"

    def _finished(self) -> bool:
        before = next((t.kind for t in reversed(self.out) if t.kind != "NEWLINE"), "")
        return before in ("NAME", "NUMBER", "STRING", "RPAR", "RSQB", "RBRACE")

    def _by_indentation(self, closer: Token) -> None:
        """Use indentation in a text that lacks a `}`: a `}` below an outer `{` means that the inner ones are open."""
        column = closer.span.column
        if any(indent == column for _, _, indent, _ in self.open):
            while self.surplus > 0 and self.open and self.open[-1][2] > column:
                self._supply()

    # ---- brackets

    def _open(self, token: Token, at: int) -> None:
        before = self.out[-1].kind if self.out else ""
        if token.kind == "LBRACE" and self._in_parens() and before not in ("RPAR", "WITH"):
            while self._in_parens():  # no bracket holds such a body
                self._supply()
        if token.kind == "LBRACE" and self.surplus > 0 and before == "LBRACE":
            self.surplus -= 1
            self._mark(at)
            message = "unexpected `{` after `{`"
            self.found.append(Diagnostic("E105", message, token.span, hint="remove one of the two"))
            return
        owner = self._owner(token)
        self._put(token)
        self.open.append((token, owner, self.indent, at + 1))
        self.first.append(None)

    def _owner(self, token: Token) -> str:
        first = self.first[-1]
        before = self.out[-1] if self.out else None
        if token.kind != "LBRACE" or first is None or not is_word(first):
            return _SIGNS[token.kind]
        if self.open and before is not None and is_word(before):
            return before.text
        return first.text if not self.open or first.kind == "BLOCK" else "{"

    def _close(self, at: int) -> None:
        token = self.tokens[at]
        wanted = CLOSERS[token.kind]
        if self._too_early(token, at):
            self._unmatched(token, at, f"this `}}` closes the `{self.open[0][1]}`, but more of it follows")
            return
        depth = len(self.open)
        while depth and self.open[depth - 1][0].kind != wanted:
            if self.open[depth - 1][0].kind == "LBRACE":
                depth = 0  # a `)` does not reach across a `{`
            else:
                depth -= 1
        if depth:
            while len(self.open) > depth:
                self._supply()
            self._pop(token)
        elif self._in_parens() and token.kind != "RBRACE" and not self._closed_later(at):
            self._other_kind(token)
        else:
            self._unmatched(token, at, f"`{token.text}` closes nothing")

    def _closed_later(self, at: int) -> bool:
        """Whether a closing bracket for the innermost bracket follows later in the line."""
        depth = 0
        for token in self.tokens[at + 1 : at + 200]:
            depth += (token.kind in OPENERS) - (token.kind in CLOSERS)
            if depth < 0 or token.kind == "NEWLINE":
                return token.kind == OPENERS[self.open[-1][0].kind]
        return False

    def _pop(self, closer: Token) -> None:
        self.open.pop()
        self.first.pop()
        self._put(closer)

    def _too_early(self, token: Token, at: int) -> bool:
        """Whether this `}` is surplus: the text after it still belongs to the body that it would close."""
        if self.surplus >= 0 or token.kind != "RBRACE" or len(self.open) != 1:
            return False
        tokens, after = self.tokens, at + 1
        while tokens[after].kind in _SEPARATORS:
            after += 1
        follows = tokens[after]
        if follows.kind in ("END", "RBRACE") or opens_declaration(tokens, after):
            return False
        if follows.span.line == token.span.line:
            return tokens[at + 1].kind == "COMMA"
        return follows.span.column > self.open[0][2]

    def _unmatched(self, token: Token, at: int, message: str) -> None:
        self.surplus += token.kind == "RBRACE"
        self._mark(at)
        self.found.append(Diagnostic("E105", message, token.span, hint=f"remove this `{token.text}`"))

    def _other_kind(self, token: Token) -> None:
        opener = self.open[-1][0]
        due = _SIGNS[OPENERS[opener.kind]]
        label = Label(opener.span, "opened here")
        message = f"expected `{due}`, found `{token.text}`"
        self.found.append(Diagnostic("E105", message, token.span, labels=(label,)))
        self.faulty.add(token.span)
        self._pop(Token(OPENERS[opener.kind], due, token.span))

    # ---- what is missing

    def _lacks_brace(self, at: int) -> bool:
        """Whether a `{` is missing before this token, in a text with a surplus `}`."""
        first, last, token = self.first[-1], self.out[-1] if self.out else None, self.tokens[at]
        if first is None or last is None or last.kind in _SEPARATORS:
            return False
        ends = token.kind == "NEWLINE"
        if ends and self.tokens[at + 1].kind == "LBRACE":
            return False
        if last.kind == "WITH":
            return True
        before = self.out[-2] if len(self.out) > 1 else None
        if first is before and is_word(last):  # two words started the item
            header = not self.open and first.text in KINDS
            return (header or first.kind == "IN") and token.kind != "EQ"
        if first is last and self.open and first.kind == "NAME":  # a section
            return (ends and first.text in KINDS) or (is_word(token) and self.tokens[at + 1].kind == "EQ")
        return ends and first.kind == "BLOCK" and last.kind == "RSQB"

    def _supply_opener(self, at: int) -> None:
        last = self.out[-1]
        place = last.span._replace(column=last.span.end_column)
        message = f"expected `{{` after `{last.text}`"
        self.found.append(Diagnostic("E101", message, place, hint=f"write `{last.text} {{`"))
        self.surplus += 1
        brace = Token("LBRACE", "{", place)
        owner = self._owner(brace)
        self._put(brace)
        self.open.append((brace, owner, self.indent, at))
        self.first.append(None)

    def _supply(self, place: Span | None = None) -> None:
        """Report the innermost bracket as open, and close it after the last token."""
        opener, owner, _, _ = self.open[-1]
        self.surplus -= opener.kind == "LBRACE"
        due = _SIGNS[OPENERS[opener.kind]]
        while self.out[-1].kind == "NEWLINE" and place is None:
            self.out.pop()
        last = self.out[-1].span
        after = Span(last.file, last.end_line, last.end_column, last.end_line, last.end_column)
        message = f"expected `{due}` to close the `{owner}` opened at line {opener.span.line}"
        label = Label(opener.span, "opened here")
        self.found.append(Diagnostic("E104", message, place or after, hint=f"write `{due}` here", labels=(label,)))
        self.faulty |= {last, after}
        self._pop(Token(OPENERS[opener.kind], due, after))

    def _supply_before_item(self) -> None:
        """Close the innermost bracket before the separator of the item under way."""
        separators: list[Token] = []
        while self.out[-1].kind in _SEPARATORS:
            separators.append(self.out.pop())
        self._supply()
        for token in reversed(separators):
            self._put(token)

    def _close_all(self, token: Token, at_end: bool) -> None:
        had = bool(self.open)
        while self.open:
            self._supply(token.span if at_end else None)
        if had and not at_end:
            self._put(Token("NEWLINE", "\n", token.span._replace(end_column=token.span.column)))

    def _too_deep(self, token: Token) -> list[Token]:
        message = f"brackets are nested deeper than {limits.MAX_NESTING} levels"
        hint = limits.MAX_NESTING.hint("name parts of it with `let`")
        self.found.append(Diagnostic("E107", message, token.span, hint=hint))
        kept = list(self.found)
        while self.open:
            self._supply()
        self.found = kept
        self.out.append(self.tokens[-1])
        return self.out
