"""A file as somebody writes it: what it declares, and what is wrong with it, found again only where it changed.

A declaration is checked by itself. What is found of it stays true while its text stays the same, and the texts of all
that it names; it may have moved to other lines, and so have its findings.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple, TypeAlias

from plandsl import limits
from plandsl.answers.estimate import Estimate
from plandsl.diagnostics import Diagnostic, Label, PlanError, Span
from plandsl.driver import CompiledPlan, check_plan
from plandsl.grammar import syntax as s
from plandsl.grammar.modules import Unit
from plandsl.grammar.parse_again import parse_again
from plandsl.grammar.resolve import Module, load
from plandsl.grammar.tokens import Token, scan

Key: TypeAlias = tuple[str, str]
"""The kind and name of a declaration; the kind is ``let`` for a `let`."""

Stopped: TypeAlias = Callable[[], bool]
"""Whether nobody waits for the answer any more."""

_NAME = re.compile(r"[A-Za-z_]\w*")
_READS_FILES = re.compile(r"\b(hf|gguf|measured|trace|empirical|trace_rate)\b")
"""Words of declarations whose meaning depends on other files than plans."""


class Piece(NamedTuple):
    """A declaration of a file: its text, where it starts, and the names that stand in it."""

    key: Key
    item: s.Decl | s.Let
    text: str
    line: int
    column: int
    names: frozenset[str]


class Checked:
    """What was found of one declaration, in the version of the file in which it was looked at.

    ``state`` is all of the text on which it depends, and ``lines`` the first and last line of each declaration of the
    root file among that. ``names`` are the names of the file, which hints of findings may offer; ``unread`` are places
    that could not be understood, which may hide findings.
    """

    def __init__(self, state: object, lines: dict[Key, tuple[int, int]], module: Module) -> None:
        self.state = state
        self.lines = lines
        self.module: Module | None = module  # until its plan is compiled
        self.resolved: tuple[Diagnostic, ...] = ()
        self.compiled: tuple[Diagnostic, ...] | None = None
        self.plan: CompiledPlan | None = None
        self.estimate: Estimate | None = None
        self.names: frozenset[str] = frozenset()
        self.unread: tuple[object, ...] = ()

    @property
    def found(self) -> tuple[Diagnostic, ...]:
        """All that was found so far."""
        return (*self.resolved, *(self.compiled or ()))


class Reading:
    """One version of a root file, with the files that it uses.

    ``texts`` are those of files that are open, by their resolved paths. ``before`` is an earlier version of the same
    file, whose findings are taken over where they still hold. Without ``reads_files``, what names a file gives E597.
    """

    def __init__(
        self,
        text: str,
        file: str = "<text>",
        texts: Mapping[Path, str] = MappingProxyType({}),
        before: Reading | None = None,
        *,
        reads_files: bool = True,
    ) -> None:
        self.text = text
        self.file = file
        good = before._good if before is not None and before.file == file else None
        tree = parse_again(*good, text) if good else None
        self.module = load(text, file, texts=texts, tree=tree, reads_files=reads_files)
        self._good: tuple[s.File, str] | None = (
            (self.unit.tree, text) if not any(d.code[:2] in ("E1", "E6") for d in self.unit.found) else good
        )
        self._before = before._checked if before is not None else {}
        self._checked: dict[Key, Checked] = {}
        self._steps = 0

    # ---- the text

    @property
    def unit(self) -> Unit:
        """The root file."""
        return self.module.root

    @cached_property
    def lines(self) -> list[str]:
        """The lines of the text."""
        return self.text.split("\n")

    @cached_property
    def tokens(self) -> list[Token]:
        """The tokens of the text, comments included; none of a text that is too large to be read."""
        return scan(self.text, self.file) if len(self.text) <= limits.MAX_FILE_BYTES else []

    @cached_property
    def pieces(self) -> dict[Key, Piece]:
        """The declarations of the file, in its order."""
        found: dict[Key, Piece] = {}
        items: list[s.Decl | s.Let] = sorted([*self.unit.lets.values(), *self.unit.declarations], key=lambda i: i.span)
        for item in items:
            key = ("let", item.name.text) if isinstance(item, s.Let) else (item.kind.text, item.name.text)
            text = self.slice(item.span)
            names = frozenset(_NAME.findall(text))
            found.setdefault(key, Piece(key, item, text, line=item.span.line, column=item.span.column, names=names))
        return found

    def slice(self, span: Span) -> str:
        """The text under a span of this file."""
        lines = self.lines[span.line - 1 : span.end_line]
        if not lines:
            return ""
        lines[-1] = lines[-1][: span.end_column - 1]
        lines[0] = lines[0][span.column - 1 :]
        return "\n".join(lines)

    # ---- what is wrong

    def look(self, stopped: Stopped = lambda: False) -> list[Diagnostic]:
        """What can be found without compiling a plan: all of `planc check`, but for what only its programs show."""
        found = [*self.module.diagnostics]
        errors = len(self.module.errors)
        for key in self.pieces:
            if stopped() or self._steps > limits.MAX_WORK or errors >= limits.MAX_ERRORS:
                break
            more = self.findings(key)
            errors += sum(d.severity == "error" for d in more)
            found += more
        return _kept(found)

    def check(self, stopped: Stopped = lambda: False) -> list[Diagnostic]:
        """All findings of `planc check`; the plans are compiled, unless something is wrong already."""
        found = self.look(stopped)
        if any(d.severity == "error" for d in found) or len(self.plans) > limits.MAX_PLANS:
            return found
        for name in self.plans:
            if stopped():
                break
            found += self.findings(("plan", name), compiled=True)
        return _kept(found)

    @property
    def plans(self) -> list[str]:
        """The names of the plans, in the order of the file."""
        return self.module.plans

    def plan(self, name: str) -> CompiledPlan | None:
        """A plan, compiled; None where something is wrong with it."""
        key = ("plan", name)
        if key not in self.pieces:
            return None
        self._compile(key, self._look_at(key))
        return self._look_at(key).plan

    def estimate(self, name: str) -> Estimate | None:
        """The estimate of a plan in closed form; None where it has none."""
        plan = self.plan(name)
        if plan is None:
            return None
        made = self._look_at(("plan", name))
        if made.estimate is None:
            try:
                made.estimate = plan.closed_form()
            except PlanError:
                return None
        return made.estimate

    def line_compiled(self, key: Key, line: int) -> int:
        """The line that the compiled plan of ``key`` has for a line of this text; 0 for one that it does not know."""
        for first, last, by in self._shifts(key):
            if first <= line - by <= last:
                return line - by
        return 0

    def findings(self, key: Key, compiled: bool = False) -> list[Diagnostic]:
        """What is found of one declaration, at the lines of this text."""
        made = self._look_at(key)
        if compiled:
            self._compile(key, made)
        shifts = self._shifts(key)
        return [_shifted(d, self.file, shifts) for d in made.found]

    def _look_at(self, key: Key) -> Checked:
        """What is known of a declaration: from an earlier version, where nothing of it has changed, else from now."""
        if key not in self._checked:
            parts = self._depends_on(key)
            self._steps += len(parts)
            state, lines = self._state(parts), {p.key: (p.line, p.item.span.end_line) for p in parts}
            earlier = self._before.get(key)
            if earlier is not None and earlier.state == state and self._still_holds(earlier):
                self._checked[key] = earlier
            else:
                self._checked[key] = self._resolve(key, Checked(state, lines, self.module.again()))
                self._checked[key].unread = self._unread
        return self._checked[key]

    def _resolve(self, key: Key, made: Checked) -> Checked:
        module = made.module
        assert module is not None, "it is new"
        notes: list[Diagnostic] = []
        kind, name = key
        if kind == "plan":
            _, notes = check_plan(module, name)
        elif kind == "let":
            module.check_let(name)
        else:
            module.spec(kind, name)
        made.resolved = (*module.diagnostics, *notes)
        made.names = self._names
        self._steps += module.library.steps
        return made

    def _compile(self, key: Key, made: Checked) -> None:
        if made.compiled is not None or made.module is None:
            return
        made.compiled = ()
        spec, notes = check_plan(made.module, key[1])
        if spec is not None and not any(d.severity == "error" for d in made.resolved):
            try:
                made.plan = CompiledPlan(spec, notes)
                made.plan.sources = made.module.sources
                made.compiled = tuple(made.plan.findings)
            except PlanError as error:
                made.compiled = error.diagnostics
            if any(d.severity == "error" for d in made.compiled):
                made.plan = None
        made.module = None

    def _shifts(self, key: Key) -> list[tuple[int, int, int]]:
        """First and last line of each declaration where it was looked at, and by how many lines it has moved since."""
        lines = self._look_at(key).lines.items()
        return [(first, last, self.pieces[k].line - first) for k, (first, last) in lines if k in self.pieces]

    # ---- what has changed

    def depends_on(self, key: Key) -> set[Key]:
        """The declaration itself, and all of the file that it may name, directly or through others."""
        return {piece.key for piece in self._depends_on(key)}

    def _depends_on(self, key: Key) -> list[Piece]:
        """The declaration and all of the root file that it may name, directly or through others."""
        by_name: dict[str, list[Piece]] = self._by_name
        found: dict[Key, Piece] = {}
        waiting = [self.pieces[key]]
        while waiting:
            piece = waiting.pop()
            if piece.key not in found:
                found[piece.key] = piece
                waiting += [other for name in piece.names & by_name.keys() for other in by_name[name]]
        return list(found.values())

    @cached_property
    def _by_name(self) -> dict[str, list[Piece]]:
        found: dict[str, list[Piece]] = {}
        for piece in self.pieces.values():
            found.setdefault(piece.key[1], []).append(piece)
        return found

    @cached_property
    def _used(self) -> tuple[tuple[str, str], ...]:
        """The files that this one uses, and their texts."""
        return tuple((unit.file, unit.text) for unit in self.unit.everywhere() if unit is not self.unit)

    @cached_property
    def _unread(self) -> tuple[object, ...]:
        """Places that could not be understood; empty where all could. Findings that may follow from them are hidden."""
        units = list(self.unit.everywhere())
        if not any(u.broken or u.incomplete for u in units):
            return ()
        return tuple((d.code, d.span) for unit in units for d in unit.found)

    def _state(self, parts: list[Piece]) -> object:
        texts = tuple(sorted((p.key, p.text, p.column) for p in parts))
        reads = any(_READS_FILES.search(text) for _, text, _ in texts)
        return texts, self._used, object() if reads else None

    @cached_property
    def _names(self) -> frozenset[str]:
        return frozenset(name for _, name in self.pieces)

    def _still_holds(self, earlier: Checked) -> bool:
        """Whether what was found of the same texts is what would be found now.

        Hints offer names of the file: they hold only while it has the same ones. What cannot be understood hides
        errors, and brings none: where there were none without it, there are none with it.
        """
        if earlier.found and earlier.names != self._names:
            return False
        errors = any(d.severity == "error" for d in earlier.found)
        return earlier.unread == self._unread or (not errors and earlier.unread == ())


def _shifted(found: Diagnostic, file: str, shifts: list[tuple[int, int, int]]) -> Diagnostic:
    def moved(span: Span) -> Span:
        by = next((by for first, last, by in shifts if first <= span.line <= last), 0) if span.file == file else 0
        return span._replace(line=span.line + by, end_line=span.end_line + by) if by else span

    span = None if found.span is None else moved(found.span)
    return found._replace(span=span, labels=tuple(Label(moved(label.span), label.text) for label in found.labels))


def _kept(found: list[Diagnostic]) -> list[Diagnostic]:
    """Each finding once, in the order of the text; at most `MAX_ERRORS` errors, and as many others."""

    def limited() -> Iterator[Diagnostic]:
        counts = {True: 0, False: 0}
        for diagnostic in unique:
            error = diagnostic.severity == "error"
            counts[error] += 1
            if counts[error] <= limits.MAX_ERRORS:
                yield diagnostic

    unique = sorted(dict.fromkeys(found), key=lambda d: (d.span is None, d.span or ()))
    return list(limited())
