"""Texts with a cursor, for tests of editors: ``¦`` marks the place."""

from __future__ import annotations

from pathlib import Path
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


def dense(lines: int = 500) -> str:
    """A file of so many lines: the examples again and again, each time with other names."""
    import re

    folder = Path(__file__).parents[1] / "examples"
    names = ("own_model", "llama3_70b", "experts", "speculate", "split_llama_3_3_70b", "shift_llama_3_3_70b")
    texts = [(folder / f"{name}.plan").read_text("utf-8") for name in names]
    out, turn = "", 0
    while True:
        for text in texts:
            turn += 1
            declared = re.findall(r"^(plan|workload|model|sharding|search|engine|let) (\w+)", text, re.MULTILINE)
            for name in sorted({word for _, word in declared}, key=len, reverse=True):
                text = re.sub(rf"\b{name}\b(?! \{{ base)", f"{name}_{turn}", text)
            out += ("\n" if out else "") + text
            if out.count("\n") >= lines:
                return out
