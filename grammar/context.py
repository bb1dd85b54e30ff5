"""The state of one compilation while its declarations are resolved."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

from plandsl.diagnostics import Report
from plandsl.grammar.evaluate import Evaluator
from plandsl.grammar.modules import Library, Unit
from plandsl.grammar.records import Record, Records

T = TypeVar("T")


class Context:
    """The findings, files, records and values of one compilation."""

    def __init__(self, texts: Mapping[Path, str] = MappingProxyType({}), *, reads_files: bool = True) -> None:
        self.report = Report()
        self.library = Library(self.report, texts, reads_files=reads_files)
        self.records = Records(self.library)
        self.evaluator = Evaluator(self.library, self.records)
        self._made: dict[tuple[Any, int], tuple[Record, Any]] = {}

    def make(self, maker: Callable[[Context, Record], T], record: Record) -> T:
        """The value that ``maker`` makes of ``record``; each record is made once, however many plans name it."""
        key = maker, id(record)
        if key not in self._made:
            made = self._make_shipped(maker, record) if is_shipped(record) else maker(self, record)
            self._made[key] = record, made  # the record is kept, so its id stays its own
        found: T = self._made[key][1]
        return found

    def _make_shipped(self, maker: Callable[[Context, Record], T], record: Record) -> T:
        """The same of an entry of the catalog, made once in a process unless something is to be said of it."""
        key = maker, record.unit, record.kind, record.name
        if key not in _SHIPPED:
            said = len(self.report.found)
            made = maker(self, record)
            if len(self.report.found) > said:
                return made
            if len(_SHIPPED) >= MOST:
                _SHIPPED.clear()
            _SHIPPED[key] = made
        shipped: T = _SHIPPED[key]
        return shipped


MOST = 2000
"""Values of entries of the catalog that a process keeps."""

_SHIPPED: dict[tuple[Any, Unit, str, str], Any] = {}


def forget_shipped() -> None:
    """Make the values of entries of the catalog anew when they are next needed."""
    _SHIPPED.clear()


def is_shipped(record: Record) -> bool:
    """Whether a record is an entry of the catalog as it stands there: no file of a user adds anything to it."""
    layers = (layer for layers in (*record.fields.values(), tuple(record.axes.values())) for layer in layers)
    return record.shipped or (
        record.unit.in_catalog
        and all(layer.unit.in_catalog for layer in layers)
        and all(item.unit.in_catalog for item in record.items())
    )
