"""What commands print on: the console of reports, the machine form, a bar of progress; and exit statuses."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterable, Iterator
from typing import Any, TextIO, TypeVar

from plandsl.diagnostics import visible
from plandsl.wrap import LEAST_WIDTH, wrap

OK, FAILED, WRONG = 0, 1, 2

PIPED = 120
"""Columns of a report in a pipe or a file, which have none."""

MOST_WIDTH = 1000

LINES = 25
"""Lines of a console. No report depends on them."""

Item = TypeVar("Item")


def open_console() -> Any:
    """What reports are printed on: standard output."""
    from rich.console import Console

    # names and texts of a plan are shown as they are written, never read as markup or as the name of an emoji
    # with a size, rich does not read COLUMNS and LINES, where some digits are none for Python
    return Console(highlight=False, markup=False, emoji=False, width=find_width(sys.stdout) or PIPED, height=LINES)


def find_width(stream: TextIO) -> int | None:
    """The columns that a stream is shown in: as ``COLUMNS`` says, or as a terminal has; None for a pipe or a file."""
    asked = os.environ.get("COLUMNS", "")
    if asked.isascii() and asked.isdigit() and int(asked):
        return max(LEAST_WIDTH, min(int(asked), MOST_WIDTH))
    if not stream.isatty():
        return None
    try:
        found = os.get_terminal_size(stream.fileno()).columns
    except (OSError, ValueError):  # a terminal by its word alone
        found = 0
    return max(LEAST_WIDTH, found or 80)


def spaced(items: Iterable[Item], console: Any) -> Iterator[Item]:
    """``items`` one by one, with an empty line printed between any two."""
    for i, item in enumerate(items):
        if i:
            console.print()
        yield item


class Progress:
    """A progress bar with the rate, on standard error if it is a terminal, for work of more than a second."""

    def __init__(self, what: str) -> None:
        self.what, self.start = what, time.monotonic()
        self.bar: Any = None
        self.task: Any = None

    def __enter__(self) -> Progress:
        return self

    def __call__(self, done: int, total: int) -> None:
        """``done`` of ``total`` pieces of work are finished."""
        if self.bar is None and done < total and time.monotonic() - self.start > 1 and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import Progress as Bar

            usual = Bar.get_default_columns()
            console = Console(stderr=True, width=find_width(sys.stderr) or PIPED, height=LINES)
            self.bar = Bar(*usual, "{task.fields[rate]}", console=console, transient=True)
            self.task = self.bar.add_task(self.what, total=total, rate="")
            self.bar.start()
        if self.bar is not None:
            from plandsl.units import show_count

            rate = f"{show_count(done / (time.monotonic() - self.start))}/s"
            self.bar.update(self.task, completed=done, total=total, rate=rate)

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.stop()


def print_text(text: str, hang: int = 4) -> None:
    """Lines that are no report: in a terminal they are wrapped, and what goes on is indented by ``hang``."""
    sys.stdout.write(wrap(visible(text), find_width(sys.stdout), hang))


def print_json(value: object) -> None:
    """The machine form, on standard output, in characters that no terminal obeys."""
    text = json.dumps(value, indent=2, allow_nan=False, default=str)
    sys.stdout.write(text.replace("\x7f", "\\u007f") + "\n")
