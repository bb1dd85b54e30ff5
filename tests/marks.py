"""Texts with a cursor, for tests of editors: ``¦`` marks the place."""

from __future__ import annotations

from typing import NamedTuple

CURSOR = "¦"


class Marked(NamedTuple):
    """A text, and the line and column of its cursor, from 1."""

    text: str
    line: int
    column: int


def marked(text: str) -> Marked:
    """``text`` without its cursor, and where that stood."""
    before, found, after = text.partition(CURSOR)
    assert found, "the text has a cursor"
    return Marked(before + after, before.count("\n") + 1, len(before) - before.rfind("\n"))
