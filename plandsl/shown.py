"""How answers show themselves: reports as text for rich, and as HTML for notebooks."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from html import escape
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType

WIDTH = 110
"""The width of a report in a notebook, in characters."""

STYLE = "white-space:pre;overflow-x:auto;line-height:1.25;font-family:Menlo,Consolas,'DejaVu Sans Mono',monospace"

PLAIN: dict[str, Any] = {
    "force_terminal": True, "force_jupyter": False, "color_system": "standard", "highlight": False, "markup": False,
    "emoji": False, "legacy_windows": False,
}  # fmt: skip
"""How a report is printed to be shown elsewhere: with colours, and its texts as they are."""

Print = Callable[["Console"], None]
"""Prints a report on a console."""


class Printed:
    """A report for rich, in the width that there is."""

    def __init__(self, print_report: Print) -> None:
        self.print_report = print_report

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        from rich.console import Console
        from rich.text import Text

        file = io.StringIO()
        inner = Console(file=file, width=options.max_width, **PLAIN)
        self.print_report(inner)
        yield Text.from_ansi(file.getvalue().rstrip("\n"), no_wrap=True, overflow="ignore")


def report_html(print_report: Print) -> str:
    """A report as HTML, in the colours of the page but for what stands out."""
    from rich.console import Console
    from rich.terminal_theme import TerminalTheme

    # bright enough on dark pages, dark enough on light ones
    ansi = [(90, 90, 90), (205, 60, 60), (35, 140, 60), (170, 120, 0), (50, 110, 210), (160, 70, 160), (0, 135, 150)]
    theme = TerminalTheme((128, 128, 128), (110, 110, 110), [*ansi, (130, 130, 130)])
    console = Console(file=io.StringIO(), record=True, width=WIDTH, **PLAIN)
    print_report(console)
    return console.export_html(theme=theme, inline_styles=True, code_format=f'<pre style="{STYLE}">{{code}}</pre>')


def text_html(text: str) -> str:
    """Plain text as HTML."""
    return f'<pre style="{STYLE}">{escape(text)}</pre>'


def plain_rich(text: str) -> Any:
    """Plain text for rich, which reads no markup in it."""
    from rich.text import Text

    return Text(text)
