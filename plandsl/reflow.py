"""Tables that are wider than the terminal, laid out again so that no word and no number is cut.

Where a table does not fit, its columns are spread over blocks below one another, each with the labels of the rows; or
the figures of a row stand below its label. The layout with the fewest lines is taken.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

from rich.text import Text

from plandsl.tables import Bar, Sheet, cell_text
from plandsl.wrap import indent_of, longest_word, pieces, width_of

INDENT = 4
"""Spaces before the figures of a row that stand below its label."""

HANG = 2
"""Spaces before what goes on of a label."""

SHORT = 12
"""Columns of texts up to this width are not made narrower."""

SMALLEST_BAR = 8


Cell = Text | Bar


class Column(NamedTuple):
    """A column: its ``head`` and ``cells``, their side, the indent of what goes on, its width at best and at least."""

    head: Text
    cells: Sequence[Cell]
    right: bool
    hang: int
    natural: int
    least: int


class Block(NamedTuple):
    """Columns, by number, that stand beside one another, and their widths."""

    columns: tuple[int, ...]
    widths: tuple[int, ...]


class Layout(NamedTuple):
    """The widths of labels, the blocks, and whether figures stand below the labels."""

    labels: Block
    blocks: tuple[Block, ...]
    below: bool


def reflow(sheet: Sheet, width: int) -> list[Text]:
    """The lines of a table, none wider than ``width``."""
    if sheet.pairs:
        return _lines_of(_stack(sheet), width)
    return _lines_of(sheet, width)


def _lines_of(sheet: Sheet, width: int) -> list[Text]:
    grid = [[cell if isinstance(cell, Bar) else cell_text(cell) for cell in column.cells] for column in sheet.columns]
    alone = [_is_alone(cells) for cells in zip(*grid, strict=True)]
    drawings = []
    for whole in (True, False) if sheet.show_header else (True,):
        columns = [_column(sheet, number, cells, alone, whole) for number, cells in enumerate(grid)]
        drawings += [list(_draw(sheet, columns, alone, one, width)) for one in _layouts(sheet, columns, width)]
    return min(drawings, key=len)


def _is_alone(cells: Sequence[Cell]) -> bool:
    """Whether a row has a label and nothing else: it may take the whole width."""
    label, *rest = (cell_text(cell).plain for cell in cells)
    return bool(label) and not any(rest)


def wrap_text(text: Text, width: int, hang: int = 0) -> list[Text]:
    """``text`` in lines of at most ``width`` columns; what goes on is indented as the line, and by ``hang`` more."""
    return [part for line in text.split("\n", allow_blank=True) for part in _wrap_line(line, width, hang)]


def _wrap_line(line: Text, width: int, hang: int) -> Iterator[Text]:
    if line.cell_len <= width:
        yield line
        return
    own = min(indent_of(line.plain), width // 2)
    line = line[indent_of(line.plain) - own :]
    indent = min(own + hang, width // 2)
    for number, (start, end) in enumerate(pieces(line.plain, width, width - indent)):
        part = line[start:end]
        yield Text(" " * indent, style=line.style).append_text(part) if number else part


# ---- columns and their widths


def _column(sheet: Sheet, number: int, cells: Sequence[Cell], alone: Sequence[bool], whole: bool) -> Column:
    """The widths of a column; its head is at best in one line where it is ``whole``, else as narrow as it may be."""
    right = sheet.columns[number].justify == "right"
    hang = HANG if number < sheet.labels and not right else 0
    head = cell_text(sheet.columns[number].header) if sheet.show_header else Text()
    head = Text(head.plain, style=head.style or sheet.header_style)
    sized = [cell for cell, skip in zip(cells, alone, strict=True) if number or not skip]
    texts = [cell for cell in sized if isinstance(cell, Text)]
    bar = any(isinstance(cell, Bar) for cell in sized)
    word = longest_word(head.plain, head.cell_len) if right else _least(head, hang)
    natural = max([head.cell_len if whole else word, Bar.width if bar else 0, *(text.cell_len for text in texts)])
    least = max(word, SMALLEST_BAR if bar else 0)
    if right:
        least = max([least, *(text.cell_len for text in texts)])
    else:
        short = min(SHORT, max((text.cell_len for text in texts), default=0)) if number >= sheet.labels else 0
        least = max([least, short, *(_least(text, hang) for text in texts)])
    return Column(head, cells, right, hang, natural=natural, least=min(least, natural))


def _least(text: Text, hang: int) -> int:
    """The width that a text needs at least to be wrapped between words."""
    indent = indent_of(text.plain)
    widest = indent + longest_word(text.plain, text.cell_len)
    return widest + hang if widest < text.cell_len else widest


def _fill(columns: Sequence[Column], room: int, gap: int) -> tuple[int, ...]:
    """Widths of columns that take ``room`` together: each its best, or as near as the narrowest that are left allow."""
    room -= gap * (len(columns) - 1)
    widths = [column.least for column in columns]
    while sum(widths) > max(room, len(widths)):  # words are cut: there is no other way
        widths[widths.index(max(widths))] -= 1
    spare = max(0, room - sum(widths))
    for left, number in enumerate(sorted(range(len(columns)), key=lambda n: columns[n].natural - columns[n].least)):
        more = min(columns[number].natural - columns[number].least, spare // (len(columns) - left))
        widths[number] += more
        spare -= more
    return tuple(widths)


def _width(widths: Sequence[int], gap: int) -> int:
    return sum(widths) + gap * (len(widths) - 1) if widths else 0


def _layouts(sheet: Sheet, columns: Sequence[Column], width: int) -> Iterator[Layout]:
    """The ways to lay a table out: labels in full beside figures, labels of several lines, labels above figures."""
    gap = sheet.gap
    labels = tuple(range(sheet.labels))
    own = [columns[n] for n in labels]
    for widths in ([c.natural for c in own], [c.least for c in own]):
        room = width - _width(widths, gap) - gap
        blocks = _pack(sheet, columns, room)
        if blocks is not None and room > 0:
            left = width - gap - max(_width(block.widths, gap) for block in blocks)
            yield Layout(Block(labels, _fill(own, left, gap)), blocks, below=False)
    blocks = _pack(sheet, columns, width - INDENT, always=True)
    assert blocks is not None
    yield Layout(Block(labels, _fill(own, width, gap)), blocks, below=True)


def _pack(sheet: Sheet, columns: Sequence[Column], room: int, always: bool = False) -> tuple[Block, ...] | None:
    """Groups of columns, as many side by side as ``room`` has; None where a column is too wide, unless ``always``."""
    gap, out, now = sheet.gap, [], list[int]()
    starts = [*(n for n in sheet.groups if n >= sheet.labels), len(columns)]
    for group in (range(a, b) for a, b in pairwise(starts)):
        if now and _width([columns[n].natural for n in (*now, *group)], gap) > room:
            out.append(now)
            now = []
        if not now and _width([columns[n].least for n in group], gap) > room:
            *full, now = _split(columns, group, room, gap)
            out += full
        else:
            now += group
    out.append(now)
    if not always and any(columns[n].least > room for n in range(sheet.labels, len(columns))):
        return None
    return tuple(Block(tuple(one), _fill([columns[n] for n in one], room, gap)) for one in out)


def _split(columns: Sequence[Column], group: Sequence[int], room: int, gap: int) -> list[list[int]]:
    """A group that is too wide, as several."""
    out: list[list[int]] = [[]]
    for number in group:
        if out[-1] and _width([columns[n].least for n in (*out[-1], number)], gap) > room:
            out.append([])
        out[-1].append(number)
    return out


def _stack(sheet: Sheet) -> Sheet:
    """A table of pairs side by side, a name and its value, as one with a pair in each row."""
    made = Sheet(gap=sheet.gap)
    made.add_column("", no_wrap=True)
    made.add_column("", no_wrap=True)
    columns = [[cell_text(cell) for cell in column.cells] for column in sheet.columns]
    indent = max(indent_of(name.plain) for name in columns[0])
    for first in range(0, len(columns), 2):
        for name, value in zip(columns[first], columns[first + 1], strict=True):
            if name.plain or value.plain:
                made.add_row(name if not first else Text(" " * indent).append_text(name), value)
    return made


# ---- drawing


def _draw(sheet: Sheet, columns: Sequence[Column], alone: Sequence[bool], layout: Layout, width: int) -> Iterator[Text]:
    """The lines of a layout. A row without figures in a block is left out of it."""
    several = len(layout.blocks) > 1
    for number, block in enumerate(layout.blocks):
        if number:
            yield Text()
        if sheet.show_header:
            yield from _row([column.head for column in columns], columns, layout, block, sheet.gap)
        for row, made in enumerate(sheet.rows):
            cells = [column.cells[row] for column in columns]
            lines: Iterable[Text] = ()
            if alone[row]:
                lines = wrap_text(cell_text(cells[0]), width, HANG)
            elif not several or any(cell_text(cells[n]).plain for n in block.columns):
                lines = _row(cells, columns, layout, block, sheet.gap)
            # the style of a row lies below those of its cells
            yield from (Text(style=made.style or "").append_text(line) for line in lines)


def _row(cells: Sequence[Cell], columns: Sequence[Column], layout: Layout, block: Block, gap: int) -> Iterator[Text]:
    """The lines of one row in a block."""
    labels = layout.labels
    if not layout.below:
        yield from _beside(cells, columns, Block(labels.columns + block.columns, labels.widths + block.widths), gap)
        return
    yield from _beside(cells, columns, labels, gap)
    for line in _beside(cells, columns, block, gap):
        yield Text(" " * INDENT).append_text(line)


def _beside(cells: Sequence[Cell], columns: Sequence[Column], block: Block, gap: int) -> Iterator[Text]:
    """Cells beside one another, each as several lines where it is wider than its column."""
    wrapped = [
        _cell_lines(cells[n], width, columns[n].hang) for n, width in zip(block.columns, block.widths, strict=True)
    ]
    for number in range(max(map(len, wrapped))):
        line = Text()
        for place, (n, width) in enumerate(zip(block.columns, block.widths, strict=True)):
            text = wrapped[place][number] if number < len(wrapped[place]) else Text()
            blank = " " * (width - width_of(text.plain))
            line.append(" " * gap if place else "")
            if columns[n].right:
                line.append(blank)
            line.append_text(text)
            if not columns[n].right:
                line.append(blank)
        line.rstrip()
        if line.plain:
            yield line


def _cell_lines(cell: Cell, width: int, hang: int) -> list[Text]:
    return [cell.draw(min(width, Bar.width))] if isinstance(cell, Bar) else wrap_text(cell, width, hang)
