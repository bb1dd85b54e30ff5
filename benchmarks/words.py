"""Write what an editor says of each field, from the tables of docs/language.md: `python -m benchmarks.words`.

So a page and a hover say the same. `tests/test_editing_words.py` fails where the file is older than the page.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "language.md"
TARGET = ROOT / "plandsl" / "editing" / "words.json"

TABLES: dict[tuple[str, str], tuple[str, ...]] = {
    ("model", "field"): ("model",),
    ("The block", "expression"): ("function",),
    ("Several residual streams", ""): ("function",),
    ("Experts", "option"): ("experts()",),
    ("Layers with a state", "argument by name"): ("recurrence()",),
    ("Adapters", "field"): ("lora",),
    ("gpu", "field"): ("gpu",),
    ("node", "field"): ("node",),
    ("node", "field of `link`"): ("link",),
    ("sharding", "degree"): ("sharding",),
    ("workload", "field"): ("workload",),
    ("Requests over time", "field"): ("class", "workload"),
    ("engine", "field"): ("engine",),
    ("Limits by the GPU", "field"): ("limits",),
    ("Fusions", "fusion"): ("fusion",),
    ("Schedulers", "field"): ("engine",),
    ("Tiers of KV memory", "field"): ("engine",),
    ("plan", "field"): ("plan",),
    ("plan", "metric"): ("metric",),
    ("Two shardings", "field"): ("shift",),
    ("Guessing ahead", "field"): ("speculate",),
    ("Two pools", "field"): ("plan",),
    ("cluster", "field"): ("cluster",),
}
"""The heading above a table and the title of its first column -> the scopes whose words it explains."""

_LINK = re.compile(r"\[([^]]*)\]\([^)]*\)")
_WORD = re.compile(r"`([A-Za-z_][A-Za-z0-9_]*)")


def rows(page: str) -> Iterator[tuple[tuple[str, str], dict[str, str]]]:
    """Each row of each table of a page: the heading and first title above it, and its cells by their titles."""
    heading, titles, fenced = "", [], False
    for line in page.split("\n"):
        fenced ^= line.startswith("```")
        if fenced:
            continue
        if line.startswith("#"):
            heading = line.lstrip("# ")
        if not line.startswith("|"):
            titles = []
            continue
        cells = [cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line.strip().strip("|"))]
        if not titles:
            titles = cells
        elif not set(cells[0]) <= {"-", " "}:
            yield (heading, titles[0]), dict(zip(titles, cells, strict=False))


def words(page: str) -> dict[str, dict[str, list[str]]]:
    """Scope -> word -> what it means, and its default ("" where none is told)."""
    found: dict[str, dict[str, list[str]]] = {}
    for table, cells in rows(page):
        first, *rest = (_LINK.sub(r"\1", cell) for cell in cells.values())
        titles = list(cells)[1:]
        told = dict(zip(titles, rest, strict=True))
        default = told.pop("default", told.pop("without it", ""))
        if table == ("plan", "metric"):
            text = "; ".join(filter(None, rest))
        else:
            text = ". ".join(_said(title, cell) for title, cell in told.items() if cell)
        for scope in TABLES.get(table, ()):
            for word in _WORD.findall(first):
                found.setdefault(scope, {}).setdefault(word, [text, default])
    return found


def _said(title: str, cell: str) -> str:
    """A cell, behind the title of its column where that says more than "what"."""
    return cell if title in ("what", "means", "what it is", "dimension", "ops in one kernel") else f"{title}: {cell}"


def main() -> None:
    """Write the file."""
    TARGET.write_text(text(), encoding="utf-8")


def text() -> str:
    """The file's text."""
    return json.dumps(words(PAGE.read_text("utf-8")), indent=1, sort_keys=True, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    main()
