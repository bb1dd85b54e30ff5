"""Printing with rich: tables that fit the terminal, and no trailing spaces, which rich pads table lines with."""

from __future__ import annotations

from collections.abc import Iterator

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, Group, RenderableType
from rich.measure import Measurement
from rich.padding import Padding
from rich.segment import Segment
from rich.table import Column, Table
from rich.text import Text

from plandsl.diagnostics import visible
from plandsl.tables import Bar, Sheet, cell_text

WIDE = 100
"""Columns from which on lines of text are wrapped at any space."""


def print_lines(console: Console, *parts: RenderableType, width: int | None = None) -> None:
    """Print ``parts`` one below another, at most ``width`` wide; no line ends in a space."""
    room = min(width or console.width, console.width)
    shown = [line for part in parts for line in _fit(part, room)]
    # lines that are as wide as they may be need no second cut
    console.print(_Trimmed(Group(*(_with_light_cells(part, console) for part in shown))), width=width, crop=False)


def _fit(part: RenderableType, width: int) -> Iterator[RenderableType]:
    """``part``, or the lines of it where it is wider than the terminal."""
    if isinstance(part, Group):
        for inner in part.renderables:
            yield from _fit(inner, width)
    elif isinstance(part, Text) and width < WIDE:
        from plandsl.reflow import wrap_text

        yield from wrap_text(part, width)
    elif isinstance(part, Sheet) and not _fits(part, width):
        from plandsl.reflow import reflow

        yield from reflow(part, width)
    else:
        yield part


def _fits(sheet: Sheet, width: int) -> bool:
    """Whether every cell of a table has room for its text in one line."""
    widths = [max(cell_text(cell).cell_len for cell in (column.header, *column.cells)) for column in sheet.columns]
    return sum(widths) + sheet.gap * (len(widths) - 1) <= width


class _Trimmed:
    """The lines of a group, without trailing spaces and without characters that steer a terminal."""

    def __init__(self, whole: Group) -> None:
        self.whole = whole

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Segment]:
        for line in console.render_lines(self.whole, options, pad=False):
            while line and not line[-1].text.strip():
                line.pop()
            line[-1:] = [last._replace(text=last.text.rstrip()) for last in line[-1:]]
            yield from (segment._replace(text=visible(segment.text)) for segment in line)
            yield Segment.line()


def _with_light_cells(part: RenderableType, console: Console) -> RenderableType:
    """``part``, where tables without lines have cells that take rich half the time, and look the same."""
    if isinstance(part, Group):
        return Group(*(_with_light_cells(inner, console) for inner in part.renderables))
    if not isinstance(part, Table) or part.box is not None or part.pad_edge or part.padding[::2] != (0, 0):
        return part

    def light(cell: RenderableType, column: Column) -> RenderableType:
        cell = cell_text(cell) if isinstance(cell, Bar) else cell
        return _Cell(console.render_str(cell) if isinstance(cell, str) else cell, gap if column is not last else 0)

    last, gap, columns = part.columns[-1], part.padding[1], [column.copy() for column in part.columns]
    for column, old in zip(columns, part.columns, strict=True):
        column.header = light(old.header, old)
    table = Table(*columns, box=None, pad_edge=False, padding=0, show_header=part.show_header)
    table.header_style = part.header_style
    for row, cells in zip(part.rows, zip(*(column.cells for column in part.columns), strict=True), strict=True):
        table.add_row(*map(light, cells, part.columns), style=row.style)
    return table


class _Cell:
    """A cell and the ``gap`` behind it. Plain text that fits is not wrapped, and not padded in a step of its own."""

    def __init__(self, content: RenderableType, gap: int) -> None:
        self.whole, self.gap = Padding(content, (0, gap, 0, 0)), gap
        self.text = content if isinstance(content, Text) and _is_plain(content) else None

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        if self.text is None:
            return Measurement.get(console, options, self.whole)
        longest = max(map(cell_len, self.text.plain.split()), default=0)
        return Measurement(longest + self.gap, self.text.cell_len + self.gap)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType | Segment]:
        blank = -1 if self.text is None else options.max_width - self.gap - self.text.cell_len
        if self.text is None or blank < 0:
            yield self.whole
            return
        words, spaces = self.text.plain, " " * blank
        style = console.get_style(self.text.style)
        yield Segment(spaces + words if options.justify == "right" else words + spaces, style)
        yield Segment(" " * self.gap)


def _is_plain(text: Text) -> bool:
    """Whether a text is one line of one style, with no spaces at its end that rich would move."""
    return not text.spans and "\n" not in text.plain and not text.plain.endswith(" ")
