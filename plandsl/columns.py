"""Tables of answers: an array for each column, for numpy, and by the Arrow interface for pandas, polars and duckdb.

A dict of arrays, not a structured array: each column keeps a dtype of its own, words have any length, and a column is
contiguous, as numpy's functions and Arrow want it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from plandsl.arguments import Arguments
from plandsl.diagnostics import Diagnostic, PlanError, suggest

if TYPE_CHECKING:
    from rich.table import Table as Grid

SHOWN = 20
"""Most rows that are shown; the others are counted."""


class Table:
    """A table: ``columns`` are read-only arrays of one length, by name. NaN and None stand where there is no value.

    ``table["time_s"]`` is a column, ``len(table)`` the number of rows, and iteration gives each row as a dict.
    ``pandas.DataFrame(table.columns)`` needs no extra; with the extra ``arrow``, ``pyarrow.table(table)``,
    ``polars.DataFrame(table)`` and ``duckdb.sql("from table")`` take it as it is.
    """

    def __init__(self, name: str, columns: Mapping[str, Any]) -> None:
        self.name = name
        arrays = {key: np.asarray(value) for key, value in columns.items()}
        for array in arrays.values():
            array.flags.writeable = False
        self.columns: dict[str, NDArray[Any]] = arrays

    @classmethod
    def of_rows(cls, name: str, rows: Iterable[Mapping[str, Any]], columns: Sequence[str] = ()) -> Table:
        """A table of rows, each a mapping of columns to values; ``columns`` are those of a table without rows."""
        every = list(rows)
        names = dict.fromkeys([*(key for row in every for key in row), *([] if every else columns)])
        return cls(name, {key: _array([row.get(key) for row in every]) for key in names})

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()), ()))

    def __iter__(self) -> Iterator[dict[str, Any]]:
        names, lists = list(self.columns), [column.tolist() for column in self.columns.values()]
        return (dict(zip(names, row, strict=True)) for row in zip(*lists, strict=True))

    def __getitem__(self, column: str) -> NDArray[Any]:
        if not isinstance(column, str) or column not in self.columns:
            call = Arguments("table", column=column)
            hint = suggest(column, self.columns) if isinstance(column, str) else ""
            raise call.error("E445", "column", f"the table `{self.name}` has no column {column!r}", hint=hint)
        return self.columns[column]

    def __repr__(self) -> str:
        rows = f"{len(self):,} row{'s' * (len(self) != 1)}"
        return f"<Table {self.name}: {rows} of {', '.join(self.columns)}>"

    def __rich__(self) -> Grid:
        from rich.table import Table as Grid

        grid = Grid(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
        for name, column in self.columns.items():
            grid.add_column(name, justify="right" if column.dtype.kind in "iuf" else "left", no_wrap=True)
        for row in self._shown():
            grid.add_row(*row)
        return grid

    def _repr_html_(self) -> str:
        from html import escape

        align = ["right" if c.dtype.kind in "iuf" else "left" for c in self.columns.values()]

        def line(tag: str, cells: Iterable[str]) -> str:
            styled = (f'<{tag} style="text-align:{a}">{escape(x)}</{tag}>' for x, a in zip(cells, align, strict=True))
            return f"<tr>{''.join(styled)}</tr>"

        body = "".join(line("td", row) for row in self._shown())
        more = f"<p>{len(self):,} rows, the first {SHOWN} are shown</p>" if len(self) > SHOWN else ""
        return f"<table><thead>{line('th', self.columns)}</thead><tbody>{body}</tbody></table>{more}"

    def _shown(self) -> Iterator[list[str]]:
        """The first rows as text."""
        for row in zip(*(column[:SHOWN].tolist() for column in self.columns.values()), strict=True):
            yield [_cell(value) for value in row]

    # ---- Arrow (https://arrow.apache.org/docs/format/CDataInterface/PyCapsuleInterface.html)

    def to_arrow(self) -> Any:
        """The table as a ``pyarrow.Table``, null where there is no value. Raises `PlanError` (E448) without pyarrow."""
        try:
            import pyarrow
        except ImportError:
            hint = "pip install 'plandsl[arrow]', or take the arrays of `table.columns`"
            raise PlanError([Diagnostic("E448", "the Arrow interface needs pyarrow", hint=hint)]) from None
        arrays = {}
        for name, column in self.columns.items():
            plain = column.tolist() if column.dtype.kind in "OU" else column
            kind = pyarrow.string() if column.dtype.kind in "OU" else None
            arrays[name] = pyarrow.array(plain, kind, from_pandas=True)
        return pyarrow.table(arrays)

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        return self.to_arrow().__arrow_c_stream__(requested_schema)

    def __arrow_c_schema__(self) -> object:
        return self.to_arrow().schema.__arrow_c_schema__()


def _array(values: list[Any]) -> NDArray[Any]:
    """Values of a column as an array of one type; None among numbers is NaN."""
    there = [value for value in values if value is not None]
    if there and all(isinstance(value, bool | np.bool_) for value in there) and len(there) == len(values):
        return np.array(values, bool)
    if all(isinstance(value, int | float | np.number) and not isinstance(value, bool) for value in there):
        whole = len(there) == len(values) and all(isinstance(value, int | np.integer) for value in there)
        small = whole and all(abs(value) < 2**63 for value in there)
        return np.array([math.nan if value is None else value for value in values], np.int64 if small else np.float64)
    if all(isinstance(value, str) for value in values):
        return np.array(values)
    return np.array([value if value is None else str(value) for value in values], object)


def _cell(value: object) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def pick_table(name: object, known: Mapping[str, Any]) -> Table:
    """The table ``name`` of an answer; ``known`` has a function that makes each. Raises `PlanError` (E445)."""
    made: Table = known[Arguments("table", name=name).word("name", known)]()
    return made
