"""What an item may be that its body cannot hold: another body's, or part of something written differently."""

from __future__ import annotations

import re
from functools import lru_cache

from plandsl.grammar import syntax as s
from plandsl.grammar.modules import Wrong
from plandsl.grammar.near import DEGREE
from plandsl.grammar.records import Placed

_GROUPED = re.compile(r"(?<![\w.])\d{1,3}(?:,\d{3})+(?![\w.])")

_LONGEST = 64
"""Characters of such a number, before and behind a place in it, that are looked at."""

_HOMES: dict[type, tuple[str, str]] = {
    s.Mesh: ("`mesh`", "sharding"),
    s.Rule: ("a rule", "sharding"),
    s.Region: ("`in`", "sharding"),
    s.Place: ("`place`", "sharding"),
    s.Vary: ("`vary`", "search"),
    s.Class: ("`class`", "workload"),
    s.Embedding: ("`embedding`", "model"),
    s.Block: ("`block`", "model"),
    s.Mtp: ("`mtp`", "model"),
    s.Head: ("`head`", "model"),
}
"""The name of an item in messages, and the kind of declaration that it belongs to."""


def misplaced_item(placed: Placed, where: str) -> Wrong:
    """The error for an item that a body, named by ``where``, cannot hold."""
    item = placed.item
    if isinstance(item, s.Clause):
        hint = "it belongs in a plan or a search" if item.word.text == "require" else "it belongs in a search"
        return Wrong("E210", f"`{item.word.text}` does not belong in {where}", item.word.span, hint=hint)
    if isinstance(item, s.Bare):
        return _misplaced_value(placed, item, where)
    what, home = _HOMES.get(type(item), ("this", ""))
    hint = f"it belongs in a {home}" if home else ""
    return Wrong("E210", f"{what} does not belong in {where}", item.span, hint=hint)


@lru_cache(maxsize=2)
def _lines(text: str) -> list[str]:
    return text.split("\n")


def _misplaced_value(placed: Placed, item: s.Bare, where: str) -> Wrong:
    """The error for an expression without a name: part of a number with commas, a degree, or anything else."""
    span = item.span
    line, at = _lines(placed.unit.text)[span.line - 1], span.column - 1
    around = _GROUPED.finditer(line, max(0, at - _LONGEST), at + _LONGEST)  # a line may have thousands of such values
    grouped = (each for each in around if each.start() < at < each.end())
    if number := next(grouped, None):
        whole = span._replace(column=number.start() + 1, end_column=number.end() + 1)
        hint = f"write `{number[0].replace(',', '_')}`: a comma ends a field"
        return Wrong("E210", "a number is written without commas", whole, hint=hint)
    degree = DEGREE.fullmatch(line[span.column - 1 : span.end_column - 1])
    hint = f"write `{degree[1].lower()} = {degree[2]}`" if degree else "a field is written `name = value`"
    return Wrong("E210", f"an expression without a name does not belong in {where}", span, hint=hint)
