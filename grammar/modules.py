"""Files and the names that they declare: the root file, the files that it uses, and the catalog."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import cache, lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

import plandsl
from plandsl import limits
from plandsl.diagnostics import Diagnostic, Label, Report, Span, clip, suggest
from plandsl.files import read_file
from plandsl.grammar import syntax as s
from plandsl.grammar.parse import decode, parse
from plandsl.grammar.version import check_version

KINDS = ("model", "gpu", "node", "cluster", "calibration", "engine", "sharding", "workload", "plan", "search")
"""The kinds of declarations; each kind has its own namespace."""

IMPORTS = ("hf", "gguf")
"""Calls that stand for the model of a file."""

CATALOG = Path(plandsl.__file__).parent / "catalog"
FOLDERS = {
    "model": "models",
    "gpu": "gpus",
    "node": "nodes",
    "cluster": "clusters",
    "calibration": "calibrations",
    "engine": "engines",
}
"""Where the catalog keeps each kind."""

"""Most steps (values read, fields merged) that one compilation may take (E208)."""

_NODE = re.compile(r"^node (\w+)", re.MULTILINE)
_NAMES_COMPARED = 400  # limits the time for a hint in a file with very many names


class Wrong(Exception):
    """Ends the reading of one value. The caller that catches it records the diagnostic."""

    diagnostic: Diagnostic | None

    def __init__(self, code: str, message: str, span: Span | None, **more: Any) -> None:
        self.diagnostic = Diagnostic(code, message, span, **more)
        super().__init__(message)


class Follows(Wrong):
    """A mistake that follows from a reported one, and has no diagnostic."""

    def __init__(self) -> None:
        Exception.__init__(self)
        self.diagnostic = None


def cycle(names: list[s.Name]) -> Wrong:
    """The error for a circular definition; it is the same for every name at which the circle is entered."""
    first, *others = sorted(names, key=lambda name: name.span)
    labels = tuple(Label(name.span, "through this name") for name in others[:4])
    hint = "a name cannot stand for itself: give one of the two another name" if not others else ""
    return Wrong("E208", f"`{first.text}` is defined by itself", first.span, labels=labels, hint=hint)


class Unit:
    """One source file: its text, its ``tree``, and the names it declares.

    A tree that is given is that of the text, in which nothing is wrong.
    """

    def __init__(
        self, file: str, text: str, path: Path | None = None, in_catalog: bool = False, tree: s.File | None = None
    ) -> None:
        self.file = file
        self.text = text
        self.path = path
        self.in_catalog = in_catalog
        self.lets: dict[str, s.Let] = {}
        self.declared: dict[str, dict[str, s.Decl]] = {kind: {} for kind in KINDS}
        self.declarations: list[s.Decl] = []
        self.uses: list[s.Use] = []
        self.used: list[Unit] = []
        self.found: list[Diagnostic] = []
        self.incomplete = False  # a file that it uses could not be read
        tree, found = parse(text, file) if tree is None else (tree, [])
        self.tree = tree
        self.found += found
        for item in tree.items:
            if isinstance(item, s.Version):
                self._check_version(item, item is tree.items[0])
            else:
                self._take(item)

    def _check_version(self, item: s.Version, first: bool) -> None:
        wrong = check_version(item, first)
        if wrong and not (self.broken and not first):  # the line may be first but for what could not be read
            self.found.append(wrong)

    def _take(self, item: s.Let | s.Use | s.Decl) -> None:
        if isinstance(item, s.Use):
            self.uses.append(item)
        elif isinstance(item, s.Let):
            self._declare(self.lets, item, f"`let {item.name.text}`")
        elif item.kind.text in KINDS:
            self._declare(self.declared[item.kind.text], item, f"{item.kind.text} `{item.name.text}`")
            self.declarations.append(item)
        else:
            message = f"there is no kind of declaration `{item.kind.text}`"
            if len(self.found) < limits.MAX_ERRORS:
                hint = suggest(item.kind.text, (*KINDS, "let", "use"))
                if item.kind.text in ("const", "var", "val", "set", "define") and item.value is not None:
                    hint = f"write `let {item.name.text} = ...` to name a value"
                self.found.append(Diagnostic("E211", message, item.kind.span, hint=hint))

    def _declare(self, names: dict[str, Any], item: s.Let | s.Decl, what: str) -> None:
        name = item.name.text
        if name not in names:
            names[name] = item
            return
        first = Label(names[name].name.span, "first declared here")
        hint = "give one of them another name"
        message = f"{what} is declared twice"
        if len(self.found) < limits.MAX_ERRORS:
            self.found.append(Diagnostic("E202", message, item.name.span, hint=hint, labels=(first,)))

    @property
    def broken(self) -> bool:
        """Whether some of the text could not be understood."""
        return any(found.code.startswith(("E1", "E600")) for found in self.found)

    def reports_line(self, line: int) -> bool:
        """Whether some of a line could not be understood."""
        return any(found.code.startswith("E1") and found.span and found.span.line == line for found in self.found)

    @property
    def unclosed(self) -> bool:
        """Whether a closing bracket is missing in it, so that items may stand in a body that they are not in."""
        return any(found.code == "E104" for found in self.found)

    def everywhere(self) -> Iterator[Unit]:
        """This file, then the files that it uses, directly or through others; each once."""
        seen: set[int] = set()
        waiting = [self]
        while waiting:
            unit = waiting.pop(0)
            if id(unit) not in seen:
                seen.add(id(unit))
                yield unit
                waiting += unit.used


# ---- the catalog


def catalog_unit(folder: str, stem: str) -> Unit | None:
    """A file of the catalog, read once in a process under the same limits; None if it does not exist."""
    return _catalog_unit(folder, stem, limits.SETTING)


@lru_cache(2_000)
def _catalog_unit(folder: str, stem: str, _setting: tuple[int, ...]) -> Unit | None:
    path = CATALOG / folder / f"{stem}.plan"
    if not re.fullmatch("[A-Za-z0-9_]{1,80}", stem) or not path.is_file():
        return None
    text, found = decode(path.read_bytes(), f"catalog/{folder}/{stem}.plan")
    unit = Unit(f"catalog/{folder}/{stem}.plan", text, in_catalog=True)
    unit.found[:0] = found
    return unit


@cache
def catalog_names(kind: str) -> tuple[str, ...]:
    """The names that the catalog offers under ``kind``, without parsing its files."""
    if kind not in FOLDERS:
        return ()
    files = sorted((CATALOG / FOLDERS[kind]).glob("*.plan"))
    if kind != "node":
        return tuple(path.stem for path in files)
    return tuple(name for path in files for name in _NODE.findall(path.read_text("utf-8")))


@cache
def catalog_aliases(kind: str) -> tuple[tuple[str, str], ...]:
    """Aliases in the catalog: pairs of a name and the entry that it stands for, unchanged."""
    declared = [d for n in catalog_names(kind) if (u := catalog_unit(FOLDERS[kind], n)) for d in u.declarations]
    return tuple((d.name.text, d.value.name) for d in declared if isinstance(d.value, s.Ref))


def catalog_find(kind: str, name: str) -> tuple[s.Decl, Unit] | None:
    """The catalog's declaration of ``name``."""
    if kind not in FOLDERS:
        return None
    stems = [name]
    if kind == "node":  # a file holds all sizes of a node, or all machines of a cloud
        stems += ["_".join(name.split("_")[:end]) for end in range(name.count("_"), 0, -1)]
    for stem in stems:
        unit = catalog_unit(FOLDERS[kind], stem)
        if unit is not None and name in unit.declared[kind]:
            return unit.declared[kind][name], unit
    return None


# ---- looking names up


class Library:
    """The files of one compilation, and the look-up of names in them."""

    def __init__(
        self, report: Report, texts: Mapping[Path, str] = MappingProxyType({}), *, reads_files: bool = True
    ) -> None:
        self.report = report
        self.texts = texts  # of files that somebody is writing, by their paths: each counts as the file's content
        self.reads_files = reads_files  # beside the root file and the catalog
        self.sources: dict[str, str] = {}
        self.folder: Path | None = None  # of the root file: no file outside it is read
        self.configs: dict[Path, Unit | None] = {}  # the file that `hf` made of each config; None if it is wrong
        self.steps = 0
        self.hidden = 0
        self._kept = {True: 0, False: 0}  # errors and warnings recorded; each has its own limit
        self._lines: dict[str, list[str]] = {}

    def record(self, wrong: Wrong) -> None:
        """Record a finding; after `MAX_ERRORS` errors, or as many warnings, further ones are only counted."""
        if wrong.diagnostic is None:
            return
        error = wrong.diagnostic.severity == "error"
        if self._kept[error] >= limits.MAX_ERRORS:
            self.hidden += 1
        else:
            before = len(self.report.found)
            self.report.put(wrong.diagnostic)
            self._kept[error] += len(self.report.found) - before

    @property
    def exhausted(self) -> bool:
        """Whether this compilation has used all its steps (`limits.MAX_WORK`)."""
        return self.steps > limits.MAX_WORK

    def spend(self, span: Span | None, steps: int = 1) -> None:
        """Count work. Raises `Wrong` (E208) after `limits.MAX_WORK` steps."""
        self.steps += steps
        if self.exhausted:
            raise Wrong(
                "E208", "resolving this file takes too many steps", span, hint=limits.MAX_WORK.hint("split the file")
            )

    def enter(self, unit: Unit) -> None:
        """Add a file's text and findings to this compilation."""
        if unit.file not in self.sources:
            self.sources[unit.file] = unit.text
            for found in unit.found:
                self.report.put(found)

    def lines(self, file: str) -> list[str]:
        """The lines of a source, split once."""
        if file not in self._lines:
            self._lines[file] = self.sources.get(file, "").split("\n")
        return self._lines[file]

    def text(self, span: Span) -> str:
        """The source under ``span``, without comments, white space normalised."""
        lines = self.lines(span.file)[span.line - 1 : span.end_line]
        if not lines:
            return ""
        lines[-1] = lines[-1][: span.end_column - 1]
        lines[0] = lines[0][span.column - 1 :]
        return " ".join(" ".join(line.split("#")[0] for line in lines).split())

    def suggest(self, word: str, names: Iterator[str]) -> str:
        """`suggest` with limits: it compares at most 400 names, and gives no hint after `MAX_ERRORS` findings."""
        if len(self.report.found) >= limits.MAX_ERRORS:
            return ""
        known = [name for _, name in zip(range(_NAMES_COMPARED), names, strict=False)]
        return suggest(word, known)

    def find_let(self, name: str, unit: Unit) -> tuple[s.Let, Unit] | None:
        """The `let` called ``name`` in ``unit`` or the files that it uses."""
        found = [(u.lets[name], u) for u in unit.everywhere() if name in u.lets]
        return self._only(found, unit, f"`let {name}`")

    def find(self, kind: str, name: str, unit: Unit) -> tuple[s.Decl, Unit] | None:
        """The declaration of ``name``: in ``unit``, else in the files that it uses, else in the catalog."""
        found = [(u.declared[kind][name], u) for u in unit.everywhere() if name in u.declared[kind]]
        local = self._only(found, unit, f"{kind} `{name}`")
        if local is None and (local := catalog_find(kind, name)):
            self.enter(local[1])
        return local

    def _only(self, found: list[tuple[Any, Unit]], unit: Unit, what: str) -> tuple[Any, Unit] | None:
        if len(found) > 1 and found[0][1] is not unit:
            first, second = found[0][0].name.span, found[1][0].name.span
            label = Label(first, f"declared here in {first.file}")
            hint = "declare it in the file itself, or rename one of them"
            message = f"two used files declare {what}"
            self.record(Wrong("E202", message, second, hint=hint, labels=(label,)))
        return found[0] if found else None

    def unknown_name(self, kind: str, text: str, span: Span | None, unit: Unit) -> Wrong:
        """The error for a name for which `find` gives None."""
        if self.hides_names(unit) or (span and self.is_reported(span, unit)):
            return Follows()
        others = [k for k in KINDS if k != kind and self.find(k, text, unit)]
        hint = self.hint_for_name(kind, text, unit)
        if others:
            why = f"`{text}` is a {others[0]}, not a {kind}"
            hint = f"{why}: {hint}" if hint.startswith("write") else why
        return Wrong("E201", f"there is no {kind} named `{clip(text)}`", span, hint=hint)

    def hint_for_name(self, kind: str, text: str, unit: Unit) -> str:
        """What to write for ``text`` where the name of a ``kind`` is expected; empty after `MAX_ERRORS` findings."""
        if len(self.report.found) >= limits.MAX_ERRORS:
            return ""
        from plandsl.grammar.near import hint_for_name  # mistakes alone need it

        local = (name for u in unit.everywhere() for name in u.declared[kind])
        return hint_for_name(kind, text, (name for _, name in zip(range(_NAMES_COMPARED), local, strict=False)))

    def is_reported(self, span: Span, unit: Unit) -> bool:
        """Whether the text at a place is reported to be no text of a plan."""
        return any(found.span == span for found in unit.found)

    def hides_names(self, unit: Unit) -> bool:
        """Whether names may be unknown in ``unit`` only because some text could not be read or understood."""
        return any(u.broken or u.incomplete for u in unit.everywhere())


def read_bytes(path: Path, *, resolved: bool = False) -> bytes:
    """The content of an ordinary file, cut one byte past the size that `decode` accepts. Raises `OSError`.

    ``resolved`` as for `plandsl.files.open_ordinary`.
    """
    return read_file(path, limits.MAX_FILE_BYTES, resolved=resolved)
