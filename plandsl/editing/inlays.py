"""Short texts that an editor shows between the words of a plan: what an expression comes to, what a plan achieves."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from plandsl.editing.derived import OpFact, ops_by_line, summary
from plandsl.editing.hover import fields_in, plans_of_line
from plandsl.editing.reading import Reading, Stopped
from plandsl.editing.values import show_value
from plandsl.grammar import syntax as s
from plandsl.grammar.sharding import SUGAR


class Inlay(NamedTuple):
    """A text behind a place of a line, and what more it says."""

    line: int
    column: int
    text: str
    about: str = ""


MOST_PLANS = 12
"""Most plans of one answer whose numbers are shown: each must be compiled."""


def inlays(reading: Reading, first: int, last: int, stopped: Stopped = lambda: False) -> list[Inlay]:
    """The texts of lines ``first`` to ``last``, in the order of the text."""
    found: list[Inlay] = []
    plans = 0
    for (kind, name), piece in reading.pieces.items():
        if stopped():
            break
        if piece.line > last or piece.item.span.end_line < first:
            continue
        found += _values(reading, piece.item, name if kind == "model" else "")
        if kind == "plan" and (plans := plans + 1) <= MOST_PLANS:
            found += _plan(reading, name, piece.item)
        if kind == "model":
            found += _shapes(reading, piece.line, piece.item.span.end_line)
    return sorted(one for one in set(found) if first <= one.line <= last)


# ---- what expressions come to


def _values(reading: Reading, item: s.Let | s.Decl, model: str) -> Iterator[Inlay]:
    if isinstance(item, s.Let):
        yield from _value(reading, item.value, "")
        return
    in_blocks = {id(field) for block in _blocks(item) for field in fields_in(block)}
    for field in fields_in(item):
        if id(field) not in in_blocks:
            yield from _value(reading, field.value, model)
    for body in _shardings(item):
        degrees = [
            i for i in body.items if isinstance(i, s.Field) and i.name.text in SUGAR and isinstance(i.value, s.Num)
        ]
        if len(degrees) > 1:
            total = 1
            for degree in degrees:
                total *= int(degree.value.value) if isinstance(degree.value, s.Num) else 1
            last = degrees[-1].span
            yield Inlay(last.end_line, last.end_column, f"= {total} GPUs", "the product of the degrees")


def _value(reading: Reading, value: s.Expr, model: str) -> Iterator[Inlay]:
    if isinstance(value, s.Binary | s.Dot | s.Unary) and value.span.file == reading.file:
        shown = show_value(reading.module.again(), value, reading.unit, model)
        if shown:
            yield Inlay(value.span.end_line, value.span.end_column, f"= {shown}")


def _blocks(item: s.Decl) -> list[s.Block | s.Mtp | s.Head | s.Embedding]:
    body = item.body or (item.value.body if isinstance(item.value, s.With) else None)
    return [i for i in (body.items if body else ()) if isinstance(i, s.Block | s.Mtp | s.Head | s.Embedding)]


def _shardings(item: s.Decl) -> Iterator[s.Body]:
    if item.kind.text == "sharding" and item.body is not None:
        yield item.body
    todo: list[object] = [item]
    while todo:
        node = todo.pop()
        if isinstance(node, s.Section) and node.name.text == "sharding":
            yield node.body
        if isinstance(node, tuple):
            todo += [part for part in node if isinstance(part, tuple)]


# ---- what plans achieve


def _plan(reading: Reading, name: str, item: s.Let | s.Decl) -> Iterator[Inlay]:
    e = reading.estimate(name)
    if e is None:
        return
    line = item.name.span.line
    code = reading.lines[line - 1].split("#")[0].rstrip()
    missed = [f"`require {one.text}` is missed" for one in e.requires if not one.ok]
    yield Inlay(line, len(code) + 1, summary(e), "; ".join(missed) or "in closed form, of the plan's load")


def _shapes(reading: Reading, first: int, last: int) -> Iterator[Inlay]:
    """What each line of a model makes on one rank, in a prefill of the first plan that runs it."""
    for name in plans_of_line(reading, first):
        plan = reading.plan(name) if reading.estimate(name) is not None else None
        if plan is None:
            continue
        ops = ops_by_line(plan, "prefill", reading.file)
        for line in range(first, last + 1):
            if facts := ops.get(reading.line_compiled(("plan", name), line)):
                code = reading.lines[line - 1].split("#")[0].rstrip()
                yield Inlay(line, len(code) + 1, _shape(facts), f"a prefill of plan `{name}`, on one rank")
        return


def _shape(facts: list[OpFact]) -> str:
    """The result of a line on one rank, and its collectives."""
    sizes = " x ".join(f"{size:,}" for size in facts[-1].local)
    sent = [f"{fact.op} over {' and '.join(fact.axes)}" for fact in facts if fact.axes]
    return ", ".join(dict.fromkeys([sizes, *sent]))
