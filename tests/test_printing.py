"""Reports look as rich lays them out, but for spaces at the ends of lines."""

from __future__ import annotations

import io

from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from plandsl.printing import print_lines

WORDS = st.text("ab █…表\n", max_size=12)
STYLES = st.sampled_from(["", "bold", "dim", "blue"])
CELLS = st.one_of(
    WORDS,
    st.builds(lambda text, style: Text(text, style=style), WORDS, STYLES),
    st.builds(lambda text, more, style: Text(text).append(more, style=style), WORDS, WORDS, STYLES),
)


@st.composite
def tables(draw: st.DrawFn) -> Table:
    """A table without lines, as reports have them."""
    gap = draw(st.integers(0, 2))
    table = Table(
        box=None, pad_edge=False, padding=(0, gap, 0, 0), header_style="bold", show_header=draw(st.booleans())
    )
    columns = draw(
        st.lists(st.tuples(WORDS, st.sampled_from(["left", "right"]), st.booleans()), min_size=1, max_size=4)
    )
    for header, side, no_wrap in columns:
        table.add_column(header, justify="right" if side == "right" else "left", no_wrap=no_wrap)
    for _ in range(draw(st.integers(0, 4))):
        table.add_row(*(draw(CELLS) for _ in columns), style=draw(STYLES))
    return table


def printed(table: Table, width: int, ours: bool) -> list[list[tuple[str, str]]]:
    """Each character of each line, and its style, without the spaces at the end."""
    file = io.StringIO()
    console = Console(file=file, width=width, force_terminal=True, color_system="truecolor")
    if ours:
        print_lines(console, Group(table))
    else:
        console.print(table)
    found = []
    for line in map(Text.from_ansi, file.getvalue().split("\n")):
        shown = line.plain.rstrip()
        found.append([(c, str(line.get_style_at_offset(console, i))) for i, c in enumerate(shown)])
    return found


@given(tables(), st.integers(4, 80))
def test_a_report_is_what_rich_prints_without_spaces_at_the_ends_of_lines(table: Table, width: int) -> None:
    assert printed(table, width, ours=True) == printed(table, width, ours=False)
