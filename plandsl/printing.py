"""Printing with rich, without the trailing spaces that rich pads table lines with."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Console, ConsoleOptions, Group, RenderableType
from rich.segment import Segment


def print_lines(console: Console, *parts: RenderableType, width: int | None = None) -> None:
    """Print ``parts`` one below another, at most ``width`` wide; no line ends in a space."""
    console.print(_Trimmed(Group(*parts)), width=width, crop=False)


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
