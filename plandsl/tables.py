"""Tables of reports, with what is needed to lay them out in a narrow terminal."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text


class Bar:
    """A bar in a cell, which ``draw`` makes of any width."""

    width: ClassVar[int] = 30
    """The columns that it takes where there is room."""

    def __init__(self, draw: Callable[[int], Text]) -> None:
        self.draw = draw

    def __rich__(self) -> Text:
        return self.draw(self.width)


class Sheet(Table):
    """A table without lines that can be made narrower.

    Its first ``labels`` columns say what a row is about. ``groups`` are the columns that start a group, which stays
    together where it can; by default each column with a word in the header does. In a table of ``pairs``, names and
    values stand side by side, and may stand below one another.
    """

    def __init__(self, gap: int = 2, header: bool = False, labels: int = 1, pairs: bool = False) -> None:
        super().__init__(box=None, show_header=header, pad_edge=False, padding=(0, gap, 0, 0), header_style="bold")
        self.gap, self.labels, self.pairs = gap, labels, pairs
        self.starts: Sequence[int] = ()

    @property
    def groups(self) -> Sequence[int]:
        """The columns behind the labels that start a group."""
        found = [n for n, column in enumerate(self.columns) if column.header] if self.show_header else []
        return sorted({self.labels, *(self.starts or found)})


def cell_text(cell: RenderableType, style: str = "") -> Text:
    """What a cell of a `Sheet` shows where there is room."""
    if isinstance(cell, Bar):
        return cell.__rich__()
    return cell if isinstance(cell, Text) else Text(str(cell), style=style)
