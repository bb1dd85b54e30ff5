"""The files that an editor has open: their texts, the readings of these, and the names in all of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from threading import Lock

from plandsl.diagnostics import Diagnostic, Span
from plandsl.editing.reading import Reading
from plandsl.editing.symbols import Occurrence, definitions, occurrences, path_of, symbol_at
from plandsl.grammar.modules import CATALOG, Unit, catalog_unit


class Desk:
    """Open files by name: a path, or ``<...>`` for a text that has none yet. A reading is made when it is asked for.

    One thread may change texts while another one asks for readings.
    """

    def __init__(self) -> None:
        self._texts: dict[str, str] = {}
        self._readings: dict[str, Reading] = {}
        self._stale: set[str] = set()
        self._lock = Lock()

    def put(self, name: str, text: str) -> None:
        """Open a file, or give it a new text; files that use it will be read again."""
        if self._texts.get(name) == text:
            return
        users = self.users_of(name)
        with self._lock:
            self._texts[name] = text
            self._stale |= {name, *users}

    def close(self, name: str) -> None:
        """Forget a file: from now on those who use it read what is on disk."""
        users = self.users_of(name)
        with self._lock:
            self._stale |= set(users)
            self._texts.pop(name, None)
            self._readings.pop(name, None)
            self._stale.discard(name)

    def touch(self) -> None:
        """Files on disk have changed: read them again."""
        with self._lock:
            self._stale |= set(self._texts)

    @property
    def names(self) -> list[str]:
        """The open files."""
        return list(self._texts)

    def text(self, name: str) -> str:
        """The text of an open file; empty for others."""
        return self._texts.get(name, "")

    def reading(self, name: str) -> Reading:
        """The reading of the text that a file has now."""
        with self._lock:
            before, text = self._readings.get(name), self.text(name)
            if before is not None and name not in self._stale:
                return before
            self._stale.discard(name)  # a change from now on makes it stale again
            unsaved = self._unsaved(name)
        made = Reading(text, name, unsaved, before=before)
        with self._lock:
            if name in self._texts:
                self._readings[name] = made
        return made

    def users_of(self, name: str) -> list[str]:
        """The open files that use a file, directly or through others."""
        path = _resolved(name)
        with self._lock:
            readings = list(self._readings.items())
        # a file that was not there is looked for again once it is open
        return [
            user
            for user, reading in readings
            if user != name
            and (
                (path is not None and any(unit.path == path for unit in reading.unit.everywhere()))
                or any(d.code == "E209" for d in reading.module.diagnostics)
            )
        ]

    def _unsaved(self, name: str) -> dict[Path, str]:
        paths = {other: _resolved(other) for other in self._texts if other != name}
        return {path: self._texts[other] for other, path in paths.items() if path is not None}

    def name_of(self, path: str) -> str:
        """The name of the open file at a path with links followed; the path itself where none is open there."""
        return next((name for name in self.names if name == path or str(_resolved(name)) == path), path)

    # ---- names

    def occurrences(self, name: str | None = None) -> list[Occurrence]:
        """Every name of a file and of those that it uses; of all open files, where none is given."""
        found: list[Occurrence] = []
        for one in [name] if name is not None else self.names:
            reading = self.reading(one)
            for unit in reading.unit.everywhere():
                found += occurrences(unit, reading.module.library)
        return found

    def symbol(self, name: str, line: int, column: int) -> Occurrence | None:
        """The name at a place of an open file."""
        reading = self.reading(name)
        return symbol_at(occurrences(reading.unit, reading.module.library), path_of(reading.unit), line, column)

    def declared_at(self, name: str, line: int, column: int) -> list[tuple[str, Span]]:
        """Where the name at a place is declared: paths of files, the catalog's too, and places in them."""
        reading = self.reading(name)
        for use, used in zip(reading.unit.uses, reading.unit.used, strict=False):
            span = use.path.span
            if span.line == line and span.column <= column <= span.end_column and used.path is not None:
                return [(str(used.path), Span(used.file, 1, 1, 1, 1))]
        one = self.symbol(name, line, column)
        if one is None:
            return []
        home = one.symbol.home
        if home.startswith("catalog/"):
            found = [o for o in _catalog(home, reading) if o.symbol == one.symbol and o.defines]
            return [(str(CATALOG.parent / home), o.span) for o in found[:1]]
        return [(o.path, o.span) for o in definitions(self.occurrences(name), one)]

    # ---- findings

    def placed(self, name: str, found: list[Diagnostic]) -> list[Diagnostic]:
        """Findings with a place in the open file: one in a file that it uses stands at the `use` that leads there."""
        reading = self.reading(name)
        return [self._in_file(reading, diagnostic) for diagnostic in found]

    def _in_file(self, reading: Reading, diagnostic: Diagnostic) -> Diagnostic:
        span = diagnostic.span
        if span is not None and span.file == reading.file:
            return diagnostic
        whole = Span(reading.file, 1, 1, 1, max(2, len(reading.lines[0]) + 1))
        if span is None:
            return diagnostic._replace(span=whole)
        uses = zip(reading.unit.uses, reading.unit.used, strict=False)
        at = next((use.span for use, used in uses if any(unit.file == span.file for unit in used.everywhere())), whole)
        return diagnostic._replace(span=at, message=f"{span.file}:{span.line}:{span.column}: {diagnostic.message}")


def _catalog(home: str, reading: Reading) -> Iterator[Occurrence]:
    """The names of a file of the catalog."""
    path = Path(home)
    unit: Unit | None = catalog_unit(path.parent.name, path.stem)
    if unit is not None:
        yield from occurrences(unit, reading.module.library)


def _resolved(name: str) -> Path | None:
    if name.startswith("<"):
        return None
    try:
        return Path(name).resolve()
    except (OSError, ValueError, RuntimeError):
        return None
