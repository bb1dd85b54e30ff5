"""Reads requests over time: arrivals, traces, conversations and classes of requests."""

from __future__ import annotations

from functools import partial

from plandsl import limits
from plandsl.diagnostics import Label
from plandsl.grammar import syntax as s
from plandsl.grammar.arrivals import AT_ONCE, read_arrivals
from plandsl.grammar.draws import (
    NUMBERS,
    SECONDS,
    TOKENS,
    TURNS,
    Form,
    Kind,
    read_arguments,
    read_distribution,
    read_file_name,
)
from plandsl.grammar.modules import Wrong
from plandsl.grammar.records import Layer, Placed, Record
from plandsl.grammar.requires import read_requirements
from plandsl.grammar.schema import Reader
from plandsl.grammar.values import span_of
from plandsl.grammar.workloads import EXAMPLES
from plandsl.spec.plan import TIMES
from plandsl.spec.traffic import (
    AdaptersSpec,
    AtOnce,
    ClassSpec,
    Distribution,
    Fixed,
    Lengths,
    SessionsSpec,
    TraceSpec,
    TrafficSpec,
)
from plandsl.traces import ENDINGS, FORMATS
from plandsl.units import NUMBER, TIME
from plandsl.values import sum_up

CLASS = ("share", "input", "output", "rate", "sessions", "priority", "adapters", "adapted")
LATENCIES = (*TIMES, "goodput")
"""Fields of a class, and the metrics that it can require."""

MAX_SEED = 2**63 - 1


def traffic_spec(reader: Reader, used: bool, encodes: bool = False) -> TrafficSpec | None:
    """The requests over time of a workload; fields that another one needs may be missing unless it is ``used``."""
    classes = _classes(reader, used)
    trace = _trace(reader, used)
    items = any(isinstance(placed.item, s.Class) for placed in reader.record.items())
    apart = items or "trace" in reader.record.fields
    lengths = None if apart else _lengths(reader, used, encodes)
    arrivals = reader.read("rate", partial(read_arrivals, reader, used))
    sessions = _sessions(reader, used)
    adapters = _adapters(reader, used, traced=trace is not None)
    duration = reader.number("duration", TIME)
    seed = reader.whole("seed", least=0, most=MAX_SEED)
    _check_together(reader)
    if classes:
        _check_classes(reader, classes)
    if used and reader.ok:
        _check_complete(reader, classes, sessions is not None)
    if not reader.ok:
        return None
    return TrafficSpec(
        arrivals, lengths, trace, sessions, classes=classes, duration=duration, seed=seed or 0, adapters=adapters
    )


def _lengths(reader: Reader, used: bool, encodes: bool = False) -> Lengths | None:
    """The lengths of requests; of texts that an encoder reads, one step is the output."""
    read = partial(_distribution, reader, TOKENS, used)
    if encodes:
        texts = reader.read("input", read, EXAMPLES["input"])
        return None if texts is None else Lengths(texts, Fixed(1))
    size_in, size_out = (reader.read(name, read, example) for name, example in EXAMPLES.items())
    return None if size_in is None or size_out is None else Lengths(size_in, size_out)


def _distribution(reader: Reader, kind: Kind, used: bool, layer: Layer) -> Distribution:
    return read_distribution(reader, layer, kind, used)


def _trace(reader: Reader, used: bool) -> TraceSpec | None:
    speed = reader.number("speed", NUMBER)
    named = reader.word("format", FORMATS)
    file = reader.read("trace", lambda layer: read_file_name(reader, layer, ENDINGS, used))
    return None if file is None else TraceSpec(file, 1.0 if speed is None else speed, named or "")


def _sessions(reader: Reader, used: bool) -> SessionsSpec | None:
    section = reader.section("sessions")
    if section is None:
        return None
    inner = Reader(reader.context, section, ("turns", "think", "system"))
    turns = inner.read("turns", partial(_distribution, inner, TURNS, used), "turns = uniform(2, 6)")
    think = inner.read("think", partial(_distribution, inner, SECONDS, used), "think = exponential(30 s)")
    system = inner.whole("system", least=0, most=limits.MAX_DIMENSION)
    reader.ok &= inner.ok
    return None if turns is None or think is None else SessionsSpec(turns, think, system or 0)


COLUMN = "column"


def _adapters(reader: Reader, used: bool, traced: bool = False) -> AdaptersSpec | None:
    """Which adapters requests name; of a trace also as one of its columns says."""
    named = reader.read("adapters", partial(_naming, reader, used, traced))
    share, layer = reader.read("adapted", partial(_adapted, reader)), reader.layer("adapted")
    if layer and not reader.layer("adapters"):
        hint = "add `adapters = zipf(1.1, max = 100)`, or drop it"
        reader.fail(Wrong("E221", "`adapted` has no meaning without `adapters`", layer.name.span, hint=hint))
    if layer and named is not None and named.which is None:
        why = "the trace says which requests name an adapter, so `adapted` cannot"
        reader.fail(Wrong("E221", why, layer.name.span, hint="drop `adapted`"))
    return None if named is None else named._replace(share=1.0 if share is None else share)


def _naming(reader: Reader, used: bool, traced: bool, layer: Layer) -> AdaptersSpec:
    value = layer.value
    if not isinstance(value, s.Call) or value.func.text != COLUMN:
        return AdaptersSpec(read_distribution(reader, layer, NUMBERS, used))
    form = Form(("name",), (), f'{COLUMN}("adapter")')
    name = read_arguments(reader, layer, {COLUMN: form}, "form of `adapters`", used).text("name")
    if not traced and used:
        why = "`column` names a column of a trace, and these requests come from none"
        raise Wrong("E221", why, value.span, hint="write a distribution, such as `adapters = zipf(1.1, max = 100)`")
    return AdaptersSpec(None, column=name)


def _adapted(reader: Reader, layer: Layer) -> float:
    """A share above 0 %, which may be 100 %."""
    value = float(reader.quantity(layer, NUMBER).value)
    if 0 < value <= 1:
        return value
    why = f"`adapted` is {100 * value:g} %, and must be above 0 % and at most 100 %"
    raise Wrong("E214", why, span_of(layer), hint="`adapted = 80 %`")


# ---- classes


def _classes(reader: Reader, used: bool) -> tuple[ClassSpec, ...]:
    found: dict[str, ClassSpec | None] = {}
    items = [placed for placed in reader.record.items() if isinstance(placed.item, s.Class)]
    for placed in items[: limits.MAX_CLASSES]:
        assert isinstance(placed.item, s.Class), "filtered above"
        name = placed.item.name
        if name.text in found:
            reader.fail(Wrong("E202", f"class `{name.text}` is given twice", name.span, hint="rename one of them"))
        found[name.text] = _class(reader, placed, placed.item, used)
    if len(items) > limits.MAX_CLASSES:
        span = items[limits.MAX_CLASSES].item.span
        why = f"a workload has at most {limits.MAX_CLASSES} classes, found {len(items)}"
        reader.fail(Wrong("E242", why, span, hint=limits.MAX_CLASSES.hint("join classes that are alike", len(items))))
    return tuple(one for one in found.values() if one)


def _class(outer: Reader, placed: Placed, item: s.Class, used: bool) -> ClassSpec | None:
    record: Record = outer.context.records.build("class", item.name, item.body, placed.unit)
    reader = Reader(outer.context, record, CLASS)
    share = reader.read("share", reader.share)
    lengths = _lengths(reader, used)
    arrivals = reader.read("rate", partial(read_arrivals, reader, used))
    sessions = _sessions(reader, used)
    priority = reader.whole("priority", least=0) or 0
    adapters = _adapters(reader, used)
    requires = read_requirements(reader)
    for require in requires:
        if require.metric not in LATENCIES:
            why = f"a class of requests cannot require `{require.metric}`"
            hint = "a class requires `ttft`, `tpot`, `latency`, percentiles of these, or `goodput`; move it to the plan"
            reader.fail(Wrong("E216", why, require.span, hint=hint))
    outer.ok &= reader.ok
    if not reader.ok or lengths is None:
        return None
    return ClassSpec(
        item.name.text,
        lengths,
        share=share,
        arrivals=arrivals,
        sessions=sessions,
        adapters=adapters,
        requires=requires,
        priority=priority,
        span=item.name.span,
    )


def _check_classes(reader: Reader, classes: tuple[ClassSpec, ...]) -> None:
    """Check that all classes have a share of the workload's arrivals, or all have arrivals of their own.

    A class has no number of requests: of several classes, one that arrives at once would have the first `requests` all.
    """
    whole = reader.layer("rate") or reader.layer("concurrency")
    for one in classes:
        if whole and (one.share is None or one.arrivals is not None):
            labels = (Label(whole.name.span, "the arrivals of all classes"),)
            why = f"class `{one.name}` needs a `share` of the workload's `{whole.name.text}`, and no `rate`"
            reader.fail(Wrong("E242", why, one.span, labels=labels, hint="`share = 70 %`"))
        elif not whole and (one.share is not None or one.arrivals is None):
            why = f"class `{one.name}` needs a `rate`, and no `share`, since the workload has no `rate`"
            reader.fail(Wrong("E242", why, one.span, hint="`rate = 8 req/s`"))
        elif isinstance(one.arrivals, AtOnce) and len(classes) > 1:
            why = f"class `{one.name}` has `rate = {AT_ONCE}`: all `requests` would be of this class"
            hint = f"write `rate = {AT_ONCE}` in the workload, and a `share` in each class"
            reader.fail(Wrong("E242", why, one.span, hint=hint))
    total = sum_up(one.share or 0.0 for one in classes)
    if reader.ok and whole and abs(total - 1) > 1e-9:
        why = f"the shares of the classes add up to {100 * total:g} %"
        reader.fail(Wrong("E242", why, classes[-1].span, hint="make them add up to 100 %"))


# ---- what fits together

APART = (
    ("trace", ("input", "output", "sessions", "reuse"), "the trace has the requests"),
    ("rate", ("batch", "concurrency"), "requests arrive at this rate"),
    ("rate", ("speed",), "the times of the trace are not used"),
    ("trace", ("batch",), "requests arrive as in the trace"),
    ("concurrency", ("speed", "duration", "sessions"), "a request starts when another one ends"),
    ("sessions", ("batch", "reuse"), "the requests of a conversation reuse its cache"),
)
"""Fields that contradict each other, with what the first one says."""


def _check_together(reader: Reader) -> None:
    for name, others, why in APART:
        first = reader.layer(name)
        for other in others if first else ():
            if second := reader.layer(other):
                assert first is not None, "the loop is empty otherwise"
                _fail_apart(reader, (name, first), (other, second), why)
    placed = next((p.item for p in reader.record.items() if isinstance(p.item, s.Class)), None)
    for name in ("input", "output", "trace", "sessions", "batch", "reuse", "adapters"):
        if placed is not None and (layer := reader.layer(name)):
            labels = (Label(placed.span, "a class of requests"),)
            hint = "write it in each class" if name in CLASS else "drop one of the two"
            why = f"a workload with classes has no `{name}` of its own"
            reader.fail(Wrong("E221", why, layer.name.span, labels=labels, hint=hint))


def _fail_apart(reader: Reader, first: tuple[str, Layer], second: tuple[str, Layer], why: str) -> None:
    labels = (Label(first[1].name.span, why),)
    message = f"a workload with `{first[0]}` has no `{second[0]}`"
    reader.fail(Wrong("E221", message, second[1].name.span, labels=labels, hint="drop one of the two"))


NEEDS = {
    "speed": ("trace", 'trace = "conv.csv"'),
    "format": ("trace", 'trace = "conv.csv"'),
    "sessions": ("rate", "rate = 2 req/s"),
}
"""Field -> the field that it has no meaning without, and an example of that."""


def _check_complete(reader: Reader, classes: tuple[ClassSpec, ...], talks: bool) -> None:
    """Check that the load says when requests arrive, and that each setting has an effect."""
    for name, (needed, example) in NEEDS.items():
        layer = reader.layer(name)
        if layer and not reader.layer(needed):
            why = f"`{name}` has no meaning without `{needed}`"
            reader.fail(Wrong("E221", why, layer.name.span, hint=f"add `{example}`, or drop it"))
    ongoing = any(reader.layer(name) for name in ("rate", "trace", "concurrency")) or classes
    drawn = next((reader.layer(n) for n in ("input", "output") if _is_call(reader.layer(n))), None)
    alone = drawn or reader.layer("seed") or reader.layer("duration") or reader.layer("adapters")
    if not ongoing and alone and not talks:
        what = "lengths that vary need" if drawn else f"`{alone.name.text}` needs"
        hint = "add `rate = 12 req/s` or `concurrency = 64`, or drop it"
        reader.fail(Wrong("E221", f"{what} requests over time", alone.name.span, hint=hint))
    counted = reader.layer("requests") or reader.layer("trace")
    arrivals = reader.layer("rate")
    if arrivals and not counted and isinstance(arrivals.value, s.Ref) and arrivals.value.name == AT_ONCE:
        reader.report_missing("requests", "requests = 1000")


def _is_call(layer: Layer | None) -> bool:
    return layer is not None and isinstance(layer.value, s.Call)
