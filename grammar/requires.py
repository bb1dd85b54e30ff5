"""Reads requirements of a plan: one metric compared with a constant."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

from plandsl.diagnostics import Label
from plandsl.grammar import syntax as s
from plandsl.grammar.evaluate import Value, describe
from plandsl.grammar.modules import Unit, Wrong
from plandsl.grammar.schema import Reader
from plandsl.spec.plan import RequireSpec
from plandsl.units import BYTES, MONEY, NUMBER, TIME, TOKEN_RATE, Dimension, Quantity

TOKENS = Dimension(token=1)
REQUESTS = Dimension(request=1)


class Metric(NamedTuple):
    """The dimensions that a bound on a metric may have, the same in words, and an example."""

    dimensions: tuple[Dimension, ...]
    words: str
    example: str
    share: str = ""  # "only %": a share must be written with `%` (memory); "any": a share from 0 to 1


_TIME = Metric((TIME,), "a time", "100 ms")
_RATE = Metric((TOKEN_RATE,), "tokens per second", "1000 tok/s")
_SHARE = Metric((NUMBER,), "a share from 0 to 100 %", "40 %", "any")

METRICS = {
    "ttft": _TIME._replace(example="2 s"),
    "tpot": _TIME,
    "latency": _TIME._replace(example="30 s"),
    "throughput": _RATE,
    "throughput_per_gpu": _RATE,
    "memory": Metric((NUMBER, BYTES), "a share of the GPU's memory with `%`, or bytes", "95 %", "only %"),
    "kv_capacity": Metric((TOKENS, NUMBER), "tokens", "1_000_000 tok"),
    "max_batch": Metric((NUMBER, REQUESTS), "a number of requests", "64"),
    "comm_share": _SHARE,
    "mfu": _SHARE,
    "mbu": _SHARE,
    "cost": Metric((MONEY,), "money per million output tokens", "0.50 USD"),
}
"""The names usable in `require`."""

_FLIPPED = {"<": ">", "<=": ">=", ">": "<", ">=": "<=", "==": "==", "!=": "!="}


def read_requirements(reader: Reader) -> tuple[RequireSpec, ...]:
    """The requirements of a record; a `require` with ``and`` gives several."""
    out: list[RequireSpec] = []
    for placed in reader.record.items():
        if isinstance(placed.item, s.Clause) and placed.item.word.text == "require":
            for part in _parts(placed.item.value):
                found = reader.attempt(partial(_requirement, reader, part, placed.unit))
                out += [found] if found else []
        elif isinstance(placed.item, s.Clause) and reader.record.kind == "plan":
            word = placed.item.word
            reader.fail(Wrong("E210", f"`{word.text}` belongs in a search, not in a plan", word.span))
    return tuple(out)


def _parts(expr: s.Expr) -> Iterator[s.Expr]:
    waiting = [expr]
    while waiting:
        part = waiting.pop()
        if isinstance(part, s.Binary) and part.op == "and":
            waiting += [part.b, part.a]
        else:
            yield part


def _metric(expr: s.Expr) -> str | None:
    return expr.name if isinstance(expr, s.Ref) and expr.name in METRICS else None


def _requirement(reader: Reader, expr: s.Expr, unit: Unit) -> RequireSpec:
    if not isinstance(expr, s.Binary) or expr.op not in _FLIPPED:
        hint = "`require ttft <= 2 s`; `and` joins several requirements"
        raise Wrong("E216", "a requirement compares a metric with a value", expr.span, hint=hint)
    left, right = _metric(expr.a), _metric(expr.b)
    if left and right:
        raise Wrong("E216", "a requirement compares one metric with a constant, not two metrics", expr.span)
    name = left or right or ""
    op, other = (_FLIPPED[expr.op], expr.a) if right else (expr.op, expr.b)
    if inner := next(_metrics_in(other if name else expr), None):
        hint = "compare the metric by itself"
        raise Wrong("E216", f"arithmetic with the metric `{inner.name}` is not allowed", inner.span, hint=hint)
    if not name:
        raise _metric_error(reader, expr.b if isinstance(expr.b, s.Ref) else expr.a)
    bound = reader.context.evaluator.value(other, unit)
    quantity = _check_bound(name, bound, other, expr._replace(op=op))
    text = reader.context.library.text(expr.span)
    if text.startswith("(") and text.endswith(")"):
        text = text[1:-1].strip()
    value = float(quantity.value)
    return RequireSpec(text, name, op, value, dimension=quantity.dimension, share=quantity.percent, span=expr.span)


def _metric_error(reader: Reader, expr: s.Expr) -> Wrong:
    if isinstance(expr, s.Ref):
        hint = reader.context.library.suggest(expr.name, iter(METRICS))
        return Wrong("E216", f"there is no metric `{expr.name}`", expr.span, hint=hint)
    hint = "such as `ttft`, `tpot`, `throughput` or `memory`"
    return Wrong("E216", "expected a metric here", expr.span, hint=hint)


def _metrics_in(expr: s.Expr) -> Iterator[s.Ref]:
    """The metrics in an expression."""
    waiting = [expr]
    while waiting:
        part = waiting.pop()
        match part:
            case s.Ref() if part.name in METRICS:
                yield part
            case s.Binary():
                waiting += [part.a, part.b]
            case s.Unary():
                waiting.append(part.x)


def _check_bound(name: str, bound: Value, expr: s.Expr, whole: s.Binary) -> Quantity:
    metric = METRICS[name]
    hint = f"`require {name} {whole.op} {metric.example}`"
    labels = (Label(whole.op_span, f"`{name}` is {metric.words}"),)
    if not isinstance(bound, Quantity):
        message = f"`{name}` is compared with a number, found {describe(bound)}"
        raise Wrong("E216", message, expr.span, hint=hint)
    bare = bound.dimension == NUMBER and not bound.percent
    unitless = bare and (NUMBER not in metric.dimensions or metric.share == "only %")
    if unitless:
        message = f"`{name}` is {metric.words}, but this number has no unit"
        raise Wrong("E205", message, expr.span, hint=hint)
    wrong_percent = bound.percent and not metric.share
    if bound.dimension not in metric.dimensions or wrong_percent:
        message = f"`{name}` is {metric.words}, found {describe(bound)}"
        raise Wrong("E204", message, expr.span, hint=hint)
    if metric.share == "any" and not 0 <= bound.value <= 1:
        message = f"`{name}` is {metric.words}, found {100 * bound.value:g} %"
        raise Wrong("E214", message, expr.span, labels=labels, hint=hint)
    return bound
