"""Reports as data for a page: lines and tables of texts with the names of their styles, not laid out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from plandsl.tables import Bar, Sheet, runs_of, style_names
from plandsl.terms import TERMS, find_term

PARTS_OF_BAR = 200
"""Into how many parts a bar is divided: half percents."""

Runs = list[list[str]]
"""Pieces of a text with the names of their styles: ``[["36.0 s", "bold"], [", 30.8 to 48.3 s", "dim"]]``."""


def blocks(parts: Iterable[RenderableType]) -> Iterator[dict[str, Any]]:
    """Each line and each table of a report; empty lines are left out."""
    for part in parts:
        if isinstance(part, Group):
            yield from blocks(part.renderables)
        elif isinstance(part, Table):
            yield {"table": _table(part)}
        elif isinstance(part, Text):
            if part.plain.strip():
                yield {"line": text_runs(part)}
        else:
            yield {"line": [[str(part), ""]]}


def text_runs(text: Text) -> Runs:
    """The pieces of a text, each of one style."""
    return [[piece, style] for piece, style in runs_of(text)]


def _table(table: Table) -> dict[str, Any]:
    """A table: its header, the side of each column, and rows of cells with the style of the row."""
    columns, sheet = table.columns, table if isinstance(table, Sheet) else None
    labels = sheet.labels if sheet is not None else 1
    rows = zip(*(column.cells for column in columns), strict=True)
    return {
        "header": [_cell(column.header, tip=True) for column in columns] if table.show_header else None,
        "sides": "".join("r" if column.justify == "right" else "l" for column in columns),
        "labels": labels,
        "pairs": sheet is not None and sheet.pairs,
        "rows": [
            {
                "style": style_names((row.style,)) if row.style else "",
                "cells": [
                    _cell(cell, tip=at < labels or (sheet is not None and sheet.pairs)) for at, cell in enumerate(cells)
                ],
            }
            for row, cells in zip(table.rows, rows, strict=True)
        ],
    }


def _cell(cell: RenderableType, *, tip: bool) -> dict[str, Any]:
    """A cell: a bar as parts of a hundred with their styles, or pieces of text, and what its word means."""
    if isinstance(cell, Bar):
        drawn = cell.draw(PARTS_OF_BAR)
        return {"bar": [[len(piece) * 100 / PARTS_OF_BAR, style] for piece, style in text_runs(drawn)]}
    words = cell.plain if isinstance(cell, Text) else str(cell)
    runs = text_runs(cell) if isinstance(cell, Text) else [[words, ""]] if words else []
    name = find_term(words.strip()) if tip else None
    return {"runs": runs} | ({"tip": TERMS[name].text} if name else {})
