"""Every configuration of a search as rows of a table."""

from __future__ import annotations

from typing import Any

import numpy as np

from plandsl.searches.run import Found, Sink, Table
from plandsl.searches.values import FIELDS, METRICS, OVER_REQUESTS
from plandsl.sheets import Sheet
from plandsl.spec.search import Choice


def write_rows(sheet: Sheet) -> Sink:
    """A sink that writes the rows of each job into ``sheet``.

    A row has its number, the choices, the metrics, and ``why`` it is out.
    """
    return lambda found, table: sheet(row_columns(found, table))


def row_columns(found: Found, table: Table) -> dict[str, Any]:
    """Columns by name, each an array: number, choices, metrics, ``why``."""
    numbers, grid = table.rows.numbers, found.space.grid
    out: dict[str, Any] = {"configuration": numbers}
    place = numbers % grid.size
    places: dict[str, Any] = {}
    for choice, size in zip(reversed(grid.choices), reversed(grid.shape), strict=True):
        place, i = np.divmod(place, size)
        places[choice.path] = _values(choice)[i]
    combination = {} if not len(numbers) else {c.path: s.value for c, s in found.combination(int(numbers[0]))}
    for choice in found.search.choices:
        known = _values(choice)
        out[choice.name] = places.get(choice.path, np.full(len(numbers), combination.get(choice.path, 0), known.dtype))
    asked = METRICS if found.search.over_requests else [name for name in METRICS if name not in OVER_REQUESTS]
    out |= {FIELDS[name]: table.rows.column(name) for name in asked}
    out["why"] = table.why.astype(str)
    return out


def _values(choice: Choice) -> Any:
    """The values of a field as an array of whole numbers, numbers or words: one type for all plans of the search."""
    values = np.array([s.value for s in choice.settings])
    whole = values.dtype.kind != "U" and (values == np.floor(values)).all()
    return values.astype(np.int64) if whole else values
