"""Recovery from syntax errors: reports a token that does not fit, then repairs the item or leaves it out."""

from __future__ import annotations

from plandsl import limits
from plandsl.diagnostics import Diagnostic, Span, clip, suggest
from plandsl.grammar.brackets import is_word, opens_item
from plandsl.grammar.lalr import Machine
from plandsl.grammar.layout import ITEM_KEYWORDS, missing_separator
from plandsl.grammar.tokens import KINDS, Token

_ENDS = ("SEP", "RBRACE", "END")
_VALUES = ("NAME", "NUMBER", "STRING", "LSQB", "LPAR")
_PLAIN_VALUES = ("NAME", "NUMBER", "STRING")
_LISTED = "a comma continues the list: end it with a new line or `;`"
_HOME = {
    "REQUIRE": "a `plan` or `search`",
    "MAXIMIZE": "a `search`",
    "MINIMIZE": "a `search`",
    "WHERE": "a `search`",
    "VARY": "a `search`",
    "MESH": "a `sharding`",
    "PLACE": "a `sharding`",
    "IN": "a `sharding`",
    "EMBEDDING": "a `model`",
    "BLOCK": "a `model`",
    "HEAD": "a `model`",
}
_CLAUSES = tuple(kind.lower() for kind in _HOME)
# descriptions of expected tokens: the first entry whose tokens all fit is used
_WANTED = (
    (("NUMBER",), "a value"),
    (("NAME", "RSQB"), "a name"),
    (("STRING",), "a path in quotes"),
    (("NAME",), "a name"),
    (("LBRACE",), "`{`"),
    (("COMMA", "RPAR"), "`,` or `)`"),
    (("COMMA", "RSQB"), "`,` or `]`"),
    (("EQ",), "`=`"),
    (("IN",), "`in`"),
    (("LSQB",), "`[`"),
    (("STAR",), "`*` or `+`"),
    (("RPAR",), "`)`"),
    (("RSQB",), "`]`"),
)


class Recovery:
    """Reports syntax mistakes, one per item."""

    def __init__(self, faulty: set[Span]) -> None:
        self.found: list[Diagnostic] = []
        self.faulty = faulty
        self._repairs = 0
        self._stray = -2  # end of the last run of items that are at the top level and do not belong there

    def mend(self, machine: Machine) -> None:
        """Report that the next token does not fit, and make the parser able to continue."""
        start = _item_start(machine)
        end = _item_end(machine)
        before = len(machine.tokens)
        silent = len(self.found) >= limits.MAX_ERRORS or self._known(machine, start, end)
        if machine.homes[machine.at] == 0 and _is_stray(machine, start):
            silent = silent or self._stray == start - 1
            self._stray = end
        if not silent or self._repairs < limits.MAX_ERRORS:
            mistake = _Mistake(machine, start)
            diagnostic = mistake.diagnose()
            self.found += [] if silent else [diagnostic]
            self._repairs += mistake.repaired
            if mistake.repaired and self._repairs <= limits.MAX_ERRORS:
                return
        end += len(machine.tokens) - before
        if machine.accepts("SEP") and machine.at > start + 1:
            # the tokens before this one are a complete item: keep them, and leave out only the rest
            machine.at = end - 1
            machine.tokens[machine.at] = Token("SEP", "", machine.tokens[end].span)
        else:
            machine.drop_item()
            machine.at = end

    def _known(self, machine: Machine, start: int, end: int) -> bool:
        """Whether a mistake in this item was reported already."""
        return bool(self.faulty) and any(t.span in self.faulty for t in machine.tokens[start : end + 1])


def _is_stray(machine: Machine, start: int) -> bool:
    """Whether a top-level item belongs in a body: the header of the declaration is likely missing."""
    tokens = machine.tokens
    following = tokens[start + 1].kind
    if tokens[start].text in KINDS:
        return following == "EQ"
    return tokens[start].kind in _HOME or following in ("EQ", "ARROW", "LBRACE", "SEP")


def _item_start(machine: Machine) -> int:
    tokens, homes, at = machine.tokens, machine.homes, machine.at
    home = homes[at]
    while at > 0:
        before = tokens[at - 1].kind
        if before == "SEP" and homes[at - 1] == home:
            return at
        if before in ("LBRACE", "CALL_BRACE") and homes[at - 1] != home and homes[at] == home:
            return at
        at -= 1
    return 0


def _item_end(machine: Machine) -> int:
    tokens, homes, at = machine.tokens, machine.homes, machine.at
    while tokens[at].kind not in _ENDS or homes[at] != homes[machine.at]:
        at += 1
    return at


def token_text(token: Token) -> str:
    """A token for a message."""
    if token.kind == "END":
        return "the end of the file"
    if token.kind == "SEP" and token.text == "\n":
        return "the end of the line"
    return f"`{clip(token.text)}`"


def _section_of(name: str) -> str:
    """The section of a plan that has a field called ``name``; empty if none has."""
    from plandsl.grammar.places import SECTIONS  # mistakes alone need it

    return next((section for section, names in SECTIONS.items() if section and name in names), "")


class _Mistake:
    """One place where the parser is stuck."""

    def __init__(self, machine: Machine, start: int) -> None:
        self.machine = machine
        self.start = start
        self.token = machine.tokens[machine.at]
        self.following = machine.tokens[min(machine.at + 1, len(machine.tokens) - 1)]
        self.before = machine.tokens[machine.at - 1] if machine.at > start else None
        self.first = machine.tokens[start]
        self.top = machine.homes[machine.at] == 0
        self.repaired = False

    def diagnose(self) -> Diagnostic:
        """The finding; sets ``repaired`` if the parser can now read the next token."""
        found = self._punctuation()
        if found is None and self.before is None:
            found = self._at_start()
        if found is None and self.top:
            found = self._in_header()
        if found is None and self.machine.accepts("SEP"):
            found = self._after_item()
        return found or self._expected()

    def _say(self, message: str, hint: str = "") -> Diagnostic:
        code = "E104" if self.token.kind == "END" else "E101"
        return Diagnostic(code, message, self.token.span, hint=hint)

    def _insert(self, kind: str, text: str) -> None:
        span = self.token.span._replace(end_line=self.token.span.line, end_column=self.token.span.column)
        self.machine.insert(Token(kind, text, span))
        self.repaired = True

    def _replace(self, at: int, kind: str, text: str) -> None:
        self.machine.tokens[at] = Token(kind, text, self.machine.tokens[at].span)
        self.repaired = True

    # ---- cases; each gives None if it does not apply

    def _punctuation(self) -> Diagnostic | None:
        machine, at, kind = self.machine, self.machine.at, self.token.kind
        if kind in ("COLON", "EQ") and at == self.start + 1 and self.first.kind == "STRING":
            return self._quoted_name()
        if kind == "COLON" and self.following.kind == "LBRACE" and machine.accepts("LBRACE"):
            del machine.tokens[at], machine.homes[at]
            self.repaired = True
            words = " ".join(token.text for token in machine.tokens[self.start : at])
            return self._say("unexpected `:` before `{`", f"leave the `:` out: `{clip(words)} {{`")
        if kind == "LBRACE" and self.before is not None and self.before.kind == "EQ" and at - self.start in (2, 3):
            return self._equals_before_brace()
        if kind == "COLON" and machine.accepts("EQ"):
            self._replace(at, "EQ", "=")
            name = token_text(self.before)[1:-1] if self.before else "name"
            rest = clip(self.following.text) if self.following.kind in _PLAIN_VALUES else "..."
            return self._say("expected `=`, found `:`", f"write `{name} = {rest}`")
        if kind == "EQ" and self.before is not None and self.before.kind == "EQ":
            return self._say("expected a value after `=`, found `=`", "`==` compares, `=` sets a value")
        return None

    def _equals_before_brace(self) -> Diagnostic:
        """``plan p = {`` and ``sharding = {``: the sign is read already, and is taken back."""
        machine, sign = self.machine, self._last()
        self._unread()
        del machine.tokens[machine.at], machine.homes[machine.at]
        self.repaired = True
        words = " ".join(token.text for token in machine.tokens[self.start : machine.at])
        hint = f"leave the `=` out: `{clip(words)} {{`"
        return Diagnostic("E101", "unexpected `=` before `{`", sign.span, hint=hint)

    def _unread(self) -> None:
        """Take back the last token."""
        self.machine.at -= 1
        self.machine.states.pop()
        self.machine.values.pop()

    def _quoted_name(self) -> Diagnostic:
        """As in JSON: ``"name": value``."""
        machine, name = self.machine, self.first.text.strip('"')
        span = self.first.span
        if name.isidentifier() and name.isascii():
            self._replace(machine.at, "EQ", "=")
            self._unread()
            self._replace(machine.at, "NAME", name)
        after = machine.tokens[self.start + 2]
        value = after.text.strip('"') if name in KINDS else after.text
        hint = f"write `{clip(name)} = {clip(value) if after.kind in _PLAIN_VALUES else '...'}`"
        return Diagnostic("E101", f"expected a name without quotes, found {token_text(self.first)}", span, hint=hint)

    def _at_start(self) -> Diagnostic | None:
        token = self.token
        if self.top and token.kind in _HOME:
            return self._say(f"{token_text(token)} belongs inside {_HOME[token.kind]}, not at the top level")
        if self.top:
            return self._say(f"expected a declaration, found {token_text(token)}", "such as `plan NAME { ... }`")
        if token.kind in ("LET", "USE"):
            return self._say(f"{token_text(token)} belongs at the top level, outside every `{{ }}`")
        return self._say(f"expected a field or a statement, found {token_text(token)}", "such as `name = value`")

    def _in_header(self) -> Diagnostic | None:
        """In ``kind NAME [= value] {``."""
        place = self.machine.at - self.start
        first, token = self.first, self.token
        if first.kind != "NAME" or place > 2:
            return None
        if place == 2:
            written = f"{first.text} {self.machine.tokens[self.start + 1].text}"
            return self._say(f"expected `{{` or `=` after `{clip(written)}`, found {token_text(token)}")
        if token.kind == "LBRACE" and first.text in KINDS:
            self._insert("NAME", "")
            return self._say(f"expected a name after `{first.text}`", f"write `{first.text} NAME {{ ... }}`")
        if token.kind == "EQ":
            name = clip(first.text)
            if first.text in KINDS:
                hint = f"put it inside `plan NAME {{ ... }}`, or write `{name} NAME = ...` to declare one"
                return self._say(f"`{name} = ...` is a field of a plan, and does not stand alone", hint)
            value = clip(self.following.text) if self.following.kind in _PLAIN_VALUES else "..."
            named = "NAME" if name in ("let", "use") else name
            hint = f"write `let {named} = {value}` to name a value; a field belongs in a `{{ }}`"
            if section := _section_of(first.text):
                hint = f"it belongs in a plan: `plan NAME {{ {section} {{ {name} = {value} }} }}`"
            return self._say(f"`{name}` is not a declaration", hint)
        hint = "" if first.text in KINDS else suggest(first.text, [*KINDS, "let", "use"])
        if token.kind == "STRING" and first.text not in KINDS:
            hint = f"write `use {clip(token.text)}` to read another file"
        return self._say(f"expected a name after `{clip(first.text)}`, found {token_text(token)}", hint)

    def _after_item(self) -> Diagnostic | None:
        """After a complete item that continues without a separator."""
        token, machine = self.token, self.machine
        found = self._after_name() if machine.at == self.start + 1 and self.first.kind == "NAME" else None
        if found is not None:
            return found
        if self._starts_item():
            self._separate()
            return missing_separator(token, items=True)
        if token.kind == "EQ" and self.first.kind in ("REQUIRE", "WHERE") and machine.accepts("COMPARE"):
            return self._compare()
        if token.kind == "COMPARE":
            return self._say("comparisons do not chain", "join two of them with `and`")
        if token.kind == "DOTS":
            hint = "ranges are allowed in `vary`, in lists and in the `[ ]` of a block"
            return self._say("a range is not allowed here", hint)
        hint = ""
        if token.kind == "LBRACE":
            hint = "to change fields of a value: `VALUE with { ... }`"
            if self._last().kind == "NAME":
                hint = f"to change fields of a value: `{clip(self._last().text)} with {{`"
        elif self.first.kind in ("MESH", "VARY") or any(t.kind == "ARROW" for t in self._item()):
            hint = _LISTED
        elif token.kind == "IN":
            hint = "in a search write `vary NAME in ...`"
        elif token.kind == "EQ" and self._last().kind == "NAME":
            hint = "`==` compares; `<=` sets a limit"
        return self._say(f"unexpected {token_text(token)} after {token_text(self._last())}", hint)

    def _after_name(self) -> Diagnostic | None:
        """After the first word of an item: a typo, or a missing `=`."""
        first, token, machine = self.first, self.token, self.machine
        if token.kind == "COMMA":
            return None
        if token.kind == "NAME" and self.following.kind in ("LBRACE", "EQ") and first.text in KINDS:
            hint = f"here write `{first.text} = NAME`, or `{first.text} {{ ... }}` without a name"
            return self._say(f"a `{first.text}` is declared at the top level, outside every `{{ }}`", hint)
        hint = suggest(first.text, _CLAUSES)
        if token.kind in _VALUES and hint.startswith("did you mean"):
            return self._say(f"unexpected {token_text(token)} after `{clip(first.text)}`", hint)
        if self._starts_item() or token.kind not in _VALUES or not machine.accepts("EQ", token.kind):
            return None
        self._insert("EQ", "=")
        rest = clip(token.text) if token.kind in _PLAIN_VALUES else "..."
        return self._say(f"expected `=` after `{clip(first.text)}`", f"write `{clip(first.text)} = {rest}`")

    def _compare(self) -> Diagnostic:
        """``=`` and ``=<`` in a condition: read as ``<=``."""
        machine, following = self.machine, self.following
        if following.kind == "COMPARE" and following.text in "<>":
            sign = f"{following.text}="
            del machine.tokens[machine.at], machine.homes[machine.at]
            self._replace(machine.at, "COMPARE", sign)
            return self._say(f"unexpected `={following.text}` after {token_text(self._last())}", f"write `{sign}`")
        self._replace(machine.at, "COMPARE", "<=")
        bound = clip(following.text) if following.kind in _PLAIN_VALUES else "..."
        hint = f"write `<= {bound}` for an upper limit, or `>= {bound}` for a lower one"
        return self._say(f"unexpected `=` after {token_text(self._last())}", hint)

    def _starts_item(self) -> bool:
        machine = self.machine
        return opens_item(machine.tokens, machine.at) or (
            self.token.kind == "NAME" and self.token.text in _CLAUSES and self.following.kind in _VALUES
        )

    def _separate(self) -> None:
        """Insert the missing separator; the word after it may be a keyword now."""
        machine, token = self.machine, self.token
        kind = token.text.upper()
        if kind in ITEM_KEYWORDS and self.following.kind in _VALUES:
            machine.tokens[machine.at] = Token(kind, token.text, token.span)
        self._insert("SEP", ",")

    def _expected(self) -> Diagnostic:
        machine, token, last = self.machine, self.token, self._last()
        if self.first.kind == "BLOCK" and token.kind == "LBRACE" and last.kind != "RSQB":
            hint = "such as `block x[tokens, hidden] { ... }`; in `stored`, write its weights without the block"
            return self._say("a block needs an argument", hint)
        if machine.accepts("COMMA", "NAME") and is_word(token) and not machine.accepts("IN"):
            return missing_separator(token, items=False)
        if token.kind == "EQ" and machine.accepts("IN"):
            self._replace(machine.at, "IN", "in")
            return self._say(
                f"expected `in` after {token_text(last)}, found `=`", f"write `{clip(last.text)} in [...]`"
            )
        wanted = next((what for kinds, what in _WANTED if all(machine.accepts(k) for k in kinds)), "")
        if not wanted:
            return self._say(f"unexpected {token_text(token)} after {token_text(last)}")
        found = "" if token.kind in (*_ENDS, "COMMA", "RPAR", "RSQB") else f", found {token_text(token)}"
        return self._say(f"expected {wanted} after {token_text(last)}{found}", self._hint(last))

    def _hint(self, last: Token) -> str:
        token, item = self.token, self._item()
        if token.kind == "DOT" and self.following.kind == "NUMBER":
            return f"write `0.{self.following.text}`"
        if last.kind == "WITH":
            return "such as `with { weights = fp8 }`"
        if last.kind == "USE":
            return 'such as `use "other.plan"`'
        if self.first.kind in ("MESH", "VARY") and len(item) > 1 and item[-2].kind == "COMMA":
            return _LISTED
        return ""

    def _last(self) -> Token:
        return self.before or self.token

    def _item(self) -> list[Token]:
        return self.machine.tokens[self.start : self.machine.at]
