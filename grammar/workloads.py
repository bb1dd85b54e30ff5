"""Reads workloads: a batch, an ongoing load, or requests over time."""

from __future__ import annotations

from functools import partial

from plandsl.diagnostics import Label
from plandsl.grammar import syntax as s
from plandsl.grammar.context import Context
from plandsl.grammar.modules import Wrong
from plandsl.grammar.records import Layer, Record
from plandsl.grammar.schema import Reader
from plandsl.grammar.values import span_of
from plandsl.spec.plan import WorkloadSpec
from plandsl.spec.traffic import Distribution
from plandsl.units import NUMBER, REQUEST_RATE, Quantity

STATIC = ("input", "output", "batch", "in_flight", "concurrency")
TRAFFIC = ("rate", "trace", "speed", "format", "duration", "seed", "sessions", "adapters", "adapted")
"""Fields of a workload with requests over time."""

PREFIX = ("reuse", "prefix")
"""Fields of a workload about tokens that are in the KV cache before their request arrives."""

IMAGES = ("images", "image_tokens")
"""Fields of a workload about images in prompts."""

DEMAND = "demand"
CROWD = ("batch", "concurrency")
"""Fields that say how many requests are in flight."""

EXAMPLES = {"input": "input = 1000", "output": "output = 100"}


def workload_spec(context: Context, record: Record, used: bool = True) -> WorkloadSpec | None:
    """A load. Fields that another field needs may be missing unless a plan has ``used`` the workload."""
    reader = Reader(context, record, (*STATIC, "requests", DEMAND, *PREFIX, *IMAGES, *TRAFFIC))
    encodes = _makes_nothing(reader)
    whole = {name: reader.whole(name) for name in ("batch", "in_flight", "concurrency", "requests")}
    reuse, prefix = _prefix(reader)
    images, image_tokens, drawn = _images(reader)
    demand = reader.number(DEMAND, REQUEST_RATE)
    _check_one_load(reader, used)
    if _varies(record):
        from plandsl.grammar.traffic import traffic_spec

        traffic = traffic_spec(reader, used, encodes)
        sizes = None if traffic is None else traffic.means
    else:
        traffic = None
        size_in, size_out = (reader.whole(name, example, int(name == "input")) for name, example in EXAMPLES.items())
        sizes = None if size_in is None or size_out is None else (size_in, max(size_out, 1))
    if not reader.ok or sizes is None:
        return None
    if drawn is not None and sizes[0] >= image_tokens:
        from plandsl.grammar.towers import mean_images

        images = mean_images(drawn, sizes[0] // image_tokens)
    return WorkloadSpec(
        record.name,
        input=sizes[0],
        output=sizes[1],
        batch=whole["batch"] or 1,
        in_flight=whole["in_flight"],
        concurrency=whole["concurrency"],
        requests=whole["requests"],
        reuse=reuse,
        prefix=prefix,
        traffic=traffic,
        demand=demand,
        chosen=demand is not None and traffic is None and not any(name in record.fields for name in CROWD),
        encodes=encodes,
        images=images,
        image_tokens=image_tokens,
        drawn_images=drawn,
        span=record.span,
    )


def _images(reader: Reader) -> tuple[float, int, Distribution | None]:
    """Images of a request, prompt tokens of each, and what their number is drawn from; nothing for most loads."""
    if not any(name in reader.record.fields for name in IMAGES):
        return 0.0, 0, None
    from plandsl.grammar.towers import images_of

    return images_of(reader)


def _makes_nothing(reader: Reader) -> bool:
    """Whether `output` is the number 0: an encoder reads texts, and nothing comes out."""
    layer = reader.layer("output")
    if layer is None or not isinstance(layer.value, s.Num | s.Ref):
        return False
    value = reader.attempt(lambda: reader.value(layer))
    return isinstance(value, Quantity) and value.dimension == NUMBER and value.value == 0


def _varies(record: Record) -> bool:
    """Whether a workload has requests over time: arrivals, a trace, or something to draw."""
    calls = (record.fields[name][-1].value for name in EXAMPLES if name in record.fields)
    classes = (isinstance(placed.item, s.Class) for placed in record.items())
    return any(name in record.fields for name in TRAFFIC) or any(isinstance(c, s.Call) for c in calls) or any(classes)


def _prefix(reader: Reader) -> tuple[float, str | None]:
    """``reuse``, the share of the input that is in the cache already, and ``prefix``, which says who shares it."""
    reuse = reader.read("reuse", partial(_reuse_share, reader)) or 0.0
    prefix, layer = reader.word("prefix", ("own", "shared")), reader.layer("prefix")
    if layer and not reuse and reader.ok:
        message = "`prefix` has no meaning without `reuse`"
        reader.fail(Wrong("E223", message, layer.name.span, hint="add `reuse = 50 %`, or drop it"))
    return reuse, prefix


def _reuse_share(reader: Reader, layer: Layer) -> float:
    value = float(reader.quantity(layer, NUMBER).value)
    if 0 <= value < 1:
        return value
    message = f"`reuse` is {100 * value:g} %, and must be at least 0 % and below 100 %"
    hint = "for example `reuse = 90 %`; the last token of a prompt is always computed, for its logits"
    raise Wrong("E223", message, span_of(layer), hint=hint)


def _check_one_load(reader: Reader, used: bool) -> None:
    """Check that the load is a batch that starts together, or an ongoing load, but not both."""
    together, ongoing = reader.layer("batch"), reader.layer("concurrency")
    if together and ongoing:
        labels = (Label(together.name.span, "one batch, which starts together"),)
        hint = "drop one of the two: `concurrency` counts the requests of all replicas"
        message = "a workload with `concurrency` is an ongoing load, and has no `batch`"
        reader.fail(Wrong("E221", message, ongoing.name.span, labels=labels, hint=hint))
    requests, flights = reader.layer("requests"), reader.layer("in_flight")
    if used and flights and reader.layer(DEMAND) and not together and not ongoing and not _varies(reader.record):
        why = "`in_flight` counts batches, and with this `demand` the compiler chooses the requests in flight"
        hint = "add `batch = 8`, or drop `in_flight`"
        reader.fail(Wrong("E221", why, flights.name.span, hint=hint))
    if used and requests and not ongoing and not _varies(reader.record):
        hint = "add `concurrency = 64` or `rate = 12 req/s`, or drop it"
        reader.fail(Wrong("E221", "`requests` needs an ongoing load", requests.name.span, hint=hint))
