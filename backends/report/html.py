"""HTML as values: all text is escaped, unless it is `Html` already. Reports for rich become tables and paragraphs."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

from rich.console import Group
from rich.text import Text

from plandsl.tables import Bar, Sheet, runs_of

VOID = ("meta", "img", "input", "br")
"""Elements without an end tag."""

STYLES = {"bold": "b", "dim": "dim", "red": "bad", "green": "good", "yellow": "warn"}
"""The class of text in a style of rich; other words of a style change nothing."""


class Html(str):
    """Text that is HTML already."""

    __slots__ = ()


def text(value: object) -> Html:
    """``value`` as HTML: escaped, unless it is HTML."""
    return value if isinstance(value, Html) else Html(escape(str(value)))


def join(parts: Iterable[object], between: str = "") -> Html:
    """Parts one behind another; those that are no HTML are escaped, ``between`` too."""
    return Html(text(between).join(text(part) for part in parts))


def tag(name: str, /, *children: object, **attributes: object) -> Html:
    """An element. ``class_`` is written ``class``, and ``data_x`` is ``data-x``; None leaves an attribute out."""
    given = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(str(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    return Html(f"<{name}{given}>" + ("" if name in VOID else f"{join(children)}</{name}>"))


def json_block(name: str, value: object) -> Html:
    """Data for scripts, in an element that browsers do not run. No sign in it can end the element."""
    told = json.dumps(value, separators=(",", ":"), allow_nan=False)
    for sign in "<>&\u2028\u2029":
        told = told.replace(sign, f"\\u{ord(sign):04x}")
    return Html(f'<script type="application/json" id="{escape(name)}">{told}</script>')


def scrolling(label: str, content: Html) -> Html:
    """What may be wider than the window scrolls by itself; a keyboard reaches it."""
    return tag("div", content, class_="scroll", role="group", tabindex=0, aria_label=label)


# ---- tables


class Cell:
    """A cell with a ``value`` to sort by; numbers sort as numbers. ``look`` is its class."""

    def __init__(self, shown: object, value: float | str | None = None, look: str | None = None) -> None:
        self.shown, self.look = shown, look
        self.value = str(shown) if value is None else value

    @property
    def number(self) -> bool:
        """Whether the column is one of numbers."""
        return not isinstance(self.value, str)


def sorting_table(caption: str, header: Sequence[str], rows: Sequence[Sequence[Cell]]) -> Html:
    """A table whose columns sort: each heading is a button. Without scripts it is a plain table.

    On paper a heading is text: Chromium repeats headings on each page, but draws no button again.
    """
    numeric = [any(row[i].number for row in rows) for i in range(len(header))]
    heads = [
        tag(
            "th",
            tag("button", word, type="button"),
            tag("span", word, class_="onpaper"),
            scope="col",
            class_="n" if number else None,
        )
        for word, number in zip(header, numeric, strict=True)
    ]
    body = [
        tag(
            "tr",
            *(_sorting_cell(cell, number, i == 0) for i, (cell, number) in enumerate(zip(row, numeric, strict=True))),
        )
        for row in rows
    ]
    table = tag(
        "table",
        tag("caption", caption),
        tag("thead", tag("tr", *heads)),
        tag("tbody", *body),
        class_="sorting",
    )
    return scrolling(caption, table)


def _sorting_cell(cell: Cell, number: bool, first: bool) -> Html:
    look = " ".join(filter(None, ("n" if number else "", cell.look or ""))) or None
    value = repr(cell.value) if cell.number else cell.value
    scope = "row" if first else None
    return tag("th" if first else "td", cell.shown, data_sort=value, class_=look, scope=scope)


# ---- from the reports that are printed


def parts_html(parts: Iterable[Any], label: str) -> Html:
    """What a report prints, as HTML: tables, groups of parts, and lines of text; empty lines are left out."""
    return join(_part(part, label) for part in parts)


def _part(part: Any, label: str) -> Html:
    if isinstance(part, Group):
        return parts_html(part.renderables, label)
    if isinstance(part, Sheet):
        return _sheet(part, label)
    if isinstance(part, Text):
        return tag("p", styled(part), class_="said") if part.plain.strip() else Html()
    return tag("p", part, class_="said")


def styled(told: Text) -> Html:
    """A text with its styles."""
    return join(_with_class(piece, style) for piece, style in runs_of(told))


def _with_class(words: str, style: str) -> Html:
    """``words`` in the classes of a style."""
    looks = [STYLES[word] for word in style.split() if word in STYLES]
    return tag("span", words, class_=" ".join(looks)) if looks else text(words)


def _sheet(sheet: Sheet, label: str) -> Html:
    """A table of a report. Columns of bars are left out: the page has charts."""
    if sheet.pairs:
        return _pairs(sheet)
    shown = [c for c in sheet.columns if not any(isinstance(cell, Bar) for cell in c.cells)]
    right = [column.justify == "right" for column in shown]
    heads = [
        tag("th", str(column.header), scope="col", class_="n" if side else None) if str(column.header) else tag("td")
        for column, side in zip(shown, right, strict=True)
    ]
    rows = zip(sheet.rows, zip(*(list(column.cells) for column in shown), strict=True), strict=True)
    body = [_sheet_row(cells, right, str(row.style or "")) for row, cells in rows]
    head = tag("thead", tag("tr", *heads)) if sheet.show_header else Html()
    return scrolling(label, tag("table", head, tag("tbody", *body), class_="sheet"))


LONG = 64
"""A cell with more letters may take several lines."""


def _sheet_row(cells: Sequence[Any], right: Sequence[bool], style: str) -> Html:
    made = []
    for i, (cell, side) in enumerate(zip(cells, right, strict=True)):
        told = _told(cell)
        head = i == 0 and bool(told)
        look = "n" if side else "long" if len(told) > LONG else None
        made.append(tag("th" if head else "td", told, class_=look, scope="row" if head else None))
    return tag("tr", *made, class_="b" if "bold" in style else None)


def _pairs(sheet: Sheet) -> Html:
    """Names and values, in as many lists side by side as there is room for."""
    cells = [[_told(cell) for cell in column.cells] for column in sheet.columns]
    lists = [
        tag("dl", *(tag("div", tag("dt", name), tag("dd", value)) for name, value in zip(*both, strict=True) if name))
        for both in zip(cells[::2], cells[1::2], strict=True)
    ]
    return tag("div", *lists, class_="pairs")


def _told(cell: Any) -> Html:
    told = styled(cell) if isinstance(cell, Text) else text(cell)
    return Html(told.strip())
