"""The state of one compilation while its declarations are resolved."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from plandsl.diagnostics import Report
from plandsl.grammar.evaluate import Evaluator
from plandsl.grammar.modules import Library
from plandsl.grammar.records import Record, Records

T = TypeVar("T")


class Context:
    """The findings, files, records and values of one compilation."""

    def __init__(self) -> None:
        self.report = Report()
        self.library = Library(self.report)
        self.records = Records(self.library)
        self.evaluator = Evaluator(self.library, self.records)
        self._made: dict[tuple[Any, int], tuple[Record, Any]] = {}

    def make(self, maker: Callable[[Context, Record], T], record: Record) -> T:
        """The value that ``maker`` makes of ``record``; each record is made once, however many plans name it."""
        key = maker, id(record)
        if key not in self._made:
            self._made[key] = record, maker(self, record)  # the record is kept, so its id stays its own
        made: T = self._made[key][1]
        return made
