"""Decides the meaning of line ends, commas and keywords: the step between the scanner and the parser.

An item ends at a newline, `,` or `;` directly inside `{ }` or at the top level. It does not end at a newline
after an operator, nor at a comma in a `mesh`, a `vary` or a rule, where the comma continues a list. A word such as
`mesh` is a keyword only at the start of an item, and only if it cannot be a name in front of the next token.
"""

from __future__ import annotations

from plandsl import limits
from plandsl.diagnostics import Diagnostic, Span
from plandsl.grammar._tables import FIXED
from plandsl.grammar.brackets import Brackets, is_word, opens_item
from plandsl.grammar.tokens import KEYWORDS, OPENERS, Token, split_number

"""Longest chain of operators in one item (E107). It limits the stack of every function that walks the tree."""

_INFIX = frozenset({"WITH", "AND", "OR", "NOT", "BY"})
ITEM_KEYWORDS = frozenset(FIXED[word] for word in KEYWORDS) - _INFIX
"""Kinds of the words that start an item."""

_DEEPENS = frozenset({"PLUS", "MINUS", "STAR", "MULTIPLY", "COMPARE", "AND", "OR", "NOT", "DOT", "WITH"})
# a newline after one of these does not end the item: the operand is still to come
_OPEN_ENDED = (_DEEPENS | {"EQ", "ARROW", "DOTS", "BY", "COMMA"}) - {"DOT"}
# tokens that cannot start a line
_CONTINUES = (_DEEPENS | {"EQ", "ARROW", "DOTS", "BY"}) - {"MINUS", "NOT"}
# a keyword before one of these is a name: `mesh = 2`, `head -> tensor`, `embedding { ... }`
_AFTER_NAME = _CONTINUES | {"COMMA", "COLON", "LBRACE"}
_LISTS = frozenset({"MESH", "VARY", "PLACE"})
# tokens that follow the first word of an item, and never a unit
_PLACES = frozenset({"EQ", "ARROW", "IN", "LBRACE", "LPAR", "LSQB", "COLON"})

_OPERANDS = frozenset({"NAME", "NUMBER", "STRING"})


class _Level:
    """An open bracket, or the top level: the state that holds again after an inner bracket closes."""

    __slots__ = ("braces", "chain", "home", "item", "listing")

    def __init__(self, braces: bool, home: int, chain: int) -> None:
        self.braces = braces  # true in a body: it holds items, not arguments
        self.home = home  # number of the body that this is in
        self.chain = chain  # operators that were open before it
        self.listing = False  # in a list that a comma continues
        self.item = ""  # kind of the token that started the item; empty at its start


class Layout:
    """The tokens as the parser reads them, made in one walk.

    ``homes[i]`` numbers the body that token ``i`` stands in, so that recovery finds the end of an item.
    """

    def __init__(self, tokens: list[Token]) -> None:
        brackets = Brackets(tokens)
        self.raw = brackets.pair()
        self.found = brackets.found
        self.faulty = brackets.faulty
        self.tokens: list[Token] = []
        self.homes: list[int] = []
        self._levels = [_Level(True, 0, 0)]
        self._bodies = 0
        self._chain = 0
        self._no_rule = 0  # no rule starts before this index of raw; kept so that it is checked once
        self._run()

    def _run(self) -> None:
        raw = self.raw
        put = self._put
        for at, token in enumerate(raw):
            kind = token.kind
            if kind == "NAME" or kind in ITEM_KEYWORDS or kind in _INFIX:
                self._word(at, token)
            elif kind == "NEWLINE" or kind == "COMMA" or kind == "SEMICOLON":
                self._separator(at, token)
            elif kind in OPENERS:
                self._open(token)
            elif kind in ("RPAR", "RSQB", "RBRACE"):
                put(token)
                self._levels.pop()
            elif kind == "NUMBER":
                self._number(at, token)
            elif kind == "END":
                put(token)
            else:
                put(token)
                self._chain += kind in _DEEPENS
            if self._chain > limits.MAX_CHAIN:
                self._cut(token)
                return

    def _put(self, token: Token) -> None:
        level = self._levels[-1]
        self.tokens.append(token)
        self.homes.append(level.home)
        if not level.item:
            level.item = token.kind

    # ---- separators

    def _separator(self, at: int, token: Token) -> None:
        level = self._levels[-1]
        if not level.braces:
            if token.kind == "COMMA":
                self._chain = level.chain
            if token.kind != "NEWLINE":
                self._put(token)
        elif token.kind == "COMMA" and level.listing:
            self._chain = level.chain
            self._put(token)
        elif token.kind != "NEWLINE" or not self._continues(at):
            self._end_item(token)

    def _end_item(self, token: Token) -> None:
        level = self._levels[-1]
        level.listing = False
        level.item = ""
        self._chain = level.chain
        last = self.tokens[-1].kind if self.tokens else "SEP"
        if last not in ("SEP", "LBRACE", "CALL_BRACE"):
            self.tokens.append(Token("SEP", token.text, token.span))
            self.homes.append(level.home)
        elif token.kind == "COMMA" and self.tokens and self.tokens[-1].kind == "SEP" and self.tokens[-1].text == ",":
            # `a,, b -> x` is not a rule for `a` and `b`
            message = "two commas in a row"
            self.found.append(Diagnostic("E101", message, token.span, hint="remove one"))
            self.faulty.add(token.span)

    def _continues(self, at: int) -> bool:
        """Whether the item continues after the newline at ``at``."""
        raw = self.raw
        last = self.tokens[-1].kind if self.tokens else "SEP"
        if last in ("SEP", "LBRACE", "CALL_BRACE"):
            return False
        after = at + 1
        while raw[after].kind == "NEWLINE":
            after += 1
        if last in _OPEN_ENDED:
            # in `model =` and a field on the next line, the value is missing
            return last == "COMMA" or not opens_item(raw, after)
        return self._misplaced(raw[after])

    def _misplaced(self, token: Token) -> bool:
        """Report a token that belongs to the end of the line before, and continue as if it were there."""
        if token.kind == "LBRACE":
            message = "`{` must be on the same line as the name before it"
            hint = "move it to the end of the line before"
        elif token.kind in _CONTINUES:
            message = f"a line cannot start with `{token.text}`"
            hint = f"put `{token.text}` at the end of the line before: then the item continues on the next line"
        else:
            return False
        self.found.append(Diagnostic("E101", message, token.span, hint=hint))
        self.faulty.add(token.span)
        return True

    # ---- words and numbers

    def _word(self, at: int, token: Token) -> None:
        kind = self._kind(at, token)
        if kind != token.kind:
            token = Token(kind, token.text, token.span)
        level = self._levels[-1]
        if not level.item and level.braces:
            level.listing = kind in _LISTS or (kind == "NAME" and self._rule_starts(at))
        elif kind == "IN" and level.item == "PLACE":
            level.listing = False
        self._put(token)
        self._chain += kind in _DEEPENS

    def _rule_starts(self, at: int) -> bool:
        """Whether ``a, b, c ->`` starts here."""
        raw = self.raw
        if at < self._no_rule:
            return False
        while is_word(raw[at]):
            at += 1
            if raw[at].kind == "ARROW":
                return True
            if raw[at].kind != "COMMA":
                break
            at += 1
            while raw[at].kind == "NEWLINE":
                at += 1
        self._no_rule = at
        return False

    def _kind(self, at: int, token: Token) -> str:
        kind = token.kind
        if kind == "NAME":
            return kind
        following = self.raw[at + 1].kind
        last = self.tokens[-1].kind if self.tokens else ""
        if kind == "PLANDSL" and len(self._levels) == 1 and not self._levels[0].item:
            return kind  # the version of the language, which only the top level has
        if following == "EQ" or last == "DOT":
            return "NAME"
        level = self._levels[-1]
        starts = level.braces and not level.item
        if kind in _INFIX or (kind == "IN" and not starts):
            return kind
        if following == "LBRACE" and kind in ("BLOCK", "IN"):
            return kind if starts else "NAME"
        return kind if starts and following not in _AFTER_NAME else "NAME"

    def _number(self, at: int, token: Token) -> None:
        """Put a number. If its unit is really the start of the next item, report the missing separator between them."""
        digits, unit = split_number(token.text)
        following = self.raw[at + 1].kind
        starts = following in _PLACES or (unit in KEYWORDS and following in _OPERANDS)
        if not starts or not unit.isidentifier():
            self._put(token)
            return
        span = token.span
        unit_span = span._replace(column=span.end_column - len(unit))
        self._put(Token("NUMBER", digits, span._replace(end_column=span.column + len(digits))))
        level = self._levels[-1]
        items = level.braces and not level.listing
        if not any(place.line == span.line for place in self.faulty):
            self.found.append(missing_separator(Token("NAME", unit, unit_span), items))
        self.faulty.add(unit_span)
        gap = Token("COMMA", ",", unit_span._replace(end_column=unit_span.column))
        if items:
            self._end_item(gap)
        else:
            self._put(gap)
        self._word(at, Token(FIXED.get(unit, "NAME"), unit, unit_span))

    # ---- levels

    def _open(self, token: Token) -> None:
        level = self._levels[-1]
        self._chain += 1
        if token.kind == "LBRACE":
            self._bodies += 1
            if level.home and self.tokens and self.tokens[-1].kind == "RPAR":
                token = Token("CALL_BRACE", token.text, token.span)
            self._put(token)
            self._levels.append(_Level(True, self._bodies, self._chain))
        else:
            self._put(token)
            self._levels.append(_Level(False, level.home, self._chain))

    def _cut(self, token: Token) -> None:
        """End the text here: an expression this deep would overflow the stack of functions that walk the tree."""
        message = f"this expression chains more than {limits.MAX_CHAIN} operators"
        hint = limits.MAX_CHAIN.hint("name parts of it with `let`")
        self.found.append(Diagnostic("E107", message, token.span, hint=hint))
        last = token.span
        after = Span(last.file, last.end_line, last.end_column, last.end_line, last.end_column)
        self.faulty |= {last, after}
        closers = {level.home for level in self._levels if level.home}
        for home in sorted(closers, reverse=True):
            self.tokens.append(Token("RBRACE", "}", after))
            self.homes.append(home)
        self.tokens.append(self.raw[-1])
        self.homes.append(0)


def missing_separator(token: Token, items: bool) -> Diagnostic:
    """The finding that the separator between two items, or two arguments, is missing."""
    what, hint = ("a new line or `,`", "items on one line are separated by `,`") if items else ("`,`", "")
    return Diagnostic("E101", f"expected {what} before `{token.text}`", token.span, hint=hint)
