"""Printing with rich, without the trailing spaces that rich pads table lines with."""

from __future__ import annotations

from collections.abc import Iterator

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, Group, RenderableType
from rich.measure import Measurement
from rich.padding import Padding
from rich.segment import Segment
from rich.table import Column, Table
from rich.text import Text


def print_lines(console: Console, *parts: RenderableType, width: int | None = None) -> None:
    """Print ``parts`` one below another, at most ``width`` wide; no line ends in a space."""
    # lines that are as wide as they may be need no second cut
    console.print(_Trimmed(Group(*(_with_light_cells(part, console) for part in parts))), width=width, crop=False)


class _Trimmed:
    """The lines of a group, without trailing spaces."""

    def __init__(self, whole: Group) -> None:
        self.whole = whole

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Segment]:
        for line in console.render_lines(self.whole, options, pad=False):
            while line and not line[-1].text.strip():
                line.pop()
            yield from line[:-1]
            for last in line[-1:]:
                yield Segment(last.text.rstrip(), last.style, last.control)
            yield Segment.line()


def _with_light_cells(part: RenderableType, console: Console) -> RenderableType:
    """``part``, where tables without lines have cells that take rich half the time, and look the same."""
    if isinstance(part, Group):
        return Group(*(_with_light_cells(inner, console) for inner in part.renderables))
    if not isinstance(part, Table) or part.box is not None or part.pad_edge or part.padding[::2] != (0, 0):
        return part

    def light(cell: RenderableType, column: Column) -> RenderableType:
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
