"""Tables of reports, with what is needed to lay them out in a narrow terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import ClassVar

from rich.console import RenderableType
from rich.style import Style
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


def runs_of(text: Text) -> Iterator[tuple[str, str]]:
    """The pieces of a text, each with the names of its styles, for pages that lay it out by themselves."""
    cuts = sorted({0, len(text.plain), *(at for span in text.spans for at in (span.start, span.end))})
    for start, stop in pairwise(cuts):
        styles = (text.style, *(span.style for span in text.spans if span.start <= start and stop <= span.end))
        yield text.plain[start:stop], style_names(styles)


@lru_cache(1_000)
def style_names(styles: tuple[str | Style, ...]) -> str:
    """The names of the styles that are left when each takes effect after the one before: ``bold red``."""
    whole = Style.combine(Style.parse(s) if isinstance(s, str) else s for s in styles)
    colour = whole.color.name if whole.color is not None and not whole.color.is_default else ""
    return " ".join(filter(None, ("bold" if whole.bold else "", "dim" if whole.dim else "", colour)))
