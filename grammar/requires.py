"""Reads requirements of a plan: one metric compared with a constant."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from functools import partial
from typing import NamedTuple

from plandsl.diagnostics import Label
from plandsl.grammar import syntax as s
from plandsl.grammar.evaluate import Value, describe
from plandsl.grammar.modules import Follows, Unit, Wrong
from plandsl.grammar.schema import Reader
from plandsl.spec.plan import OF_OUTPUT, TIMES, RequireSpec, WorkloadSpec
from plandsl.units import (
    BYTES,
    ENERGY,
    MONEY,
    MONEY_RATE,
    NUMBER,
    POWER,
    REQUEST_RATE,
    TIME,
    TOKEN_RATE,
    Dimension,
    Quantity,
)

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
    "cost_input": Metric((MONEY,), "money per million input tokens", "0.10 USD"),
    "cost_output": Metric((MONEY,), "money per million output tokens", "0.40 USD"),
    "cost_blended": Metric((MONEY,), "money per million tokens", "0.20 USD"),
    "cost_request": Metric((MONEY,), "money per request", "0.001 USD"),
    "spend": Metric((MONEY_RATE,), "money per time", "50 USD/h"),
    "energy": Metric((ENERGY,), "energy per output token", "2 J"),
    "energy_request": Metric((ENERGY,), "energy per request", "500 J"),
    "power": Metric((POWER,), "power", "5 kW"),
    "request_throughput": Metric((REQUEST_RATE,), "requests per second", "10 req/s"),
    "gpus": Metric((NUMBER,), "a number of GPUs", "8"),
}
"""The names usable in `require`, for every load, and as goals of a search."""

OVER_REQUESTS = {"goodput": Metric((REQUEST_RATE,), "requests per second", "10 req/s")}
"""The names usable in `require` where requests arrive over time."""

OVER_TIME = "give the workload `rate = 12 req/s`, a `trace`, or `concurrency = 64`"
"""How a load has requests over time."""

_PERCENTILE = re.compile(r"p([1-9][0-9]?)(?:_([0-9]))?")
_ALL = METRICS | OVER_REQUESTS


class Asked(NamedTuple):
    """A metric, or one of its percentiles."""

    name: str
    percentile: float | None = None


_FLIPPED = {"<": ">", "<=": ">=", ">": "<", ">=": "<=", "==": "==", "!=": "!="}


def read_requirements(reader: Reader) -> tuple[RequireSpec, ...]:
    """The requirements of a record; a `require` with ``and`` gives several."""
    out: list[RequireSpec] = []
    for placed in reader.record.items():
        if isinstance(placed.item, s.Clause) and placed.item.word.text == "require":
            for part in _parts(placed.item.value):
                found = reader.attempt(partial(_requirement, reader, part, placed.unit))
                out += [found] if found else []
        elif isinstance(placed.item, s.Clause) and reader.record.kind in ("plan", "class"):
            word = placed.item.word
            why = f"`{word.text}` belongs in a search, not in a {reader.record.kind}"
            text = reader.context.library.text(placed.item.span)
            hint = (
                f"add `search best {{ plan = {reader.record.name}, {text} }}`" if reader.record.kind == "plan" else ""
            )
            reader.fail(Wrong("E210", why, word.span, hint=hint))
    return tuple(out)


def _parts(expr: s.Expr) -> Iterator[s.Expr]:
    waiting = [expr]
    while waiting:
        part = waiting.pop()
        if isinstance(part, s.Binary) and part.op == "and":
            waiting += [part.b, part.a]
        else:
            yield part


def without_output(metric: str) -> str:
    """Why a load with `output = 0` has no such metric."""
    return f"nothing comes out of this load (`output = 0`), so there is no `{metric}`"


TEXTS = "such as `latency`, `throughput` (of input tokens) or `cost_request`"


def check_load(reader: Reader, requires: tuple[RequireSpec, ...], load: WorkloadSpec) -> None:
    """Check that a load has what is required: percentiles and goodput of requests over time, and figures of output."""
    for require in requires if load.encodes else ():
        if require.metric in OF_OUTPUT:
            reader.fail(Wrong("E481", without_output(require.metric), require.span, hint=TEXTS))
    for require in requires if not load.over_time else ():
        if require.over_requests:
            why = f"`{require.text.split(require.op)[0].strip()}` needs requests over time, and this load is one batch"
            reader.fail(Wrong("E216", why, require.span, hint=OVER_TIME))


def read_metric(expr: s.Expr) -> Asked | None:
    """The metric, or the percentile of a metric, that an expression is; None if it is neither."""
    if isinstance(expr, s.Ref):
        return Asked(expr.name) if expr.name in _ALL else None
    found = _PERCENTILE.fullmatch(expr.func.text) if isinstance(expr, s.Call) else None
    if found is None or not isinstance(expr, s.Call):
        return None
    inner = expr.args[0] if len(expr.args) == 1 and not expr.kwargs and expr.body is None else None
    if not isinstance(inner, s.Ref) or inner.name not in TIMES:
        hint = f"`p99(ttft)`; {', '.join(f'`{name}`' for name in TIMES)} have percentiles"
        raise Wrong("E216", f"`{expr.func.text}` needs a time of requests", expr.span, hint=hint)
    return Asked(inner.name, int(found[1]) + int(found[2] or 0) / 10)


def _requirement(reader: Reader, expr: s.Expr, unit: Unit) -> RequireSpec:
    if not isinstance(expr, s.Binary) or expr.op not in _FLIPPED:
        if unit.reports_line(expr.span.line):
            raise Follows()
        hint = "`require ttft <= 2 s`; `and` joins several requirements"
        raise Wrong("E216", "a requirement compares a metric with a value", expr.span, hint=hint)
    named = partial(_is_let, reader, unit)
    left, right = read_metric(expr.a), read_metric(expr.b)
    if left and right and (named(expr.a) or named(expr.b)):  # a `let` may have the name of a metric
        left, right = (None, right) if named(expr.a) else (left, None)
    if left and right:
        raise Wrong("E216", "a requirement compares one metric with a constant, not two metrics", expr.span)
    asked = left or right
    op, other = (_FLIPPED[expr.op], expr.a) if right else (expr.op, expr.b)
    if inner := next((m for m in _metrics_in(other if asked else expr) if not named(m)), None):
        hint = "compare the metric by itself"
        raise Wrong("E216", f"arithmetic with the metric `{inner.name}` is not allowed", inner.span, hint=hint)
    if asked is None:
        raise _metric_error(reader, expr.b if isinstance(expr.b, s.Ref) else expr.a)
    bound = reader.context.evaluator.value(other, unit)
    quantity = _check_bound(asked.name, bound, other, expr._replace(op=op))
    text = reader.context.library.text(expr.span)
    if text.startswith("(") and text.endswith(")"):
        text = text[1:-1].strip()
    value = float(quantity.value)
    return RequireSpec(
        text,
        asked.name,
        op,
        value,
        dimension=quantity.dimension,
        share=quantity.percent,
        span=expr.span,
        percentile=asked.percentile,
    )


def _is_let(reader: Reader, unit: Unit, expr: s.Expr) -> bool:
    """Whether an expression is the name of a `let`."""
    return isinstance(expr, s.Ref) and reader.context.library.find_let(expr.name, unit) is not None


def _metric_error(reader: Reader, expr: s.Expr) -> Wrong:
    if isinstance(expr, s.Ref):
        return unknown_metric(reader, expr, _ALL)
    hint = "such as `ttft`, `tpot`, `throughput` or `memory`"
    return Wrong("E216", "expected a metric here", expr.span, hint=hint)


def unknown_metric(reader: Reader, name: s.Ref, known: Iterable[str]) -> Wrong:
    """The error for a name that is none of the ``known`` metrics."""
    from plandsl.grammar.near import hint_for_metric  # mistakes alone need it

    hint = hint_for_metric(name.name) or reader.context.library.suggest(name.name, iter(known))
    return Wrong("E216", f"there is no metric `{name.name}`", name.span, hint=hint)


def _metrics_in(expr: s.Expr) -> Iterator[s.Ref]:
    """The metrics in an expression."""
    waiting = [expr]
    while waiting:
        part = waiting.pop()
        match part:
            case s.Ref() if part.name in _ALL:
                yield part
            case s.Binary():
                waiting += [part.a, part.b]
            case s.Unary():
                waiting.append(part.x)


def _check_bound(name: str, bound: Value, expr: s.Expr, whole: s.Binary) -> Quantity:
    metric = _ALL[name]
    hint = f"`require {name} {whole.op} {metric.example}`"
    labels = (Label(whole.op_span, f"`{name}` is {metric.words}"),)
    if not isinstance(bound, Quantity):
        message = f"`{name}` is compared with a number, found {describe(bound)}"
        raise Wrong("E216", message, expr.span, hint=hint)
    bare = bound.dimension == NUMBER and not bound.percent
    unitless = bare and (NUMBER not in metric.dimensions or metric.share == "only %")
    if unitless:
        message = f"`{name}` is {metric.words}, but this number has no unit"
        raise Wrong("E205", message, expr.span, hint=f"write the unit: {hint}")
    wrong_percent = bound.percent and not metric.share
    if bound.dimension not in metric.dimensions or wrong_percent:
        message = f"`{name}` is {metric.words}, found {describe(bound)}"
        raise Wrong("E204", message, expr.span, hint=hint)
    if metric.share == "any" and not 0 <= bound.value <= 1:
        message = f"`{name}` is {metric.words}, found {100 * bound.value:g} %"
        raise Wrong("E214", message, expr.span, labels=labels, hint=hint)
    return bound
