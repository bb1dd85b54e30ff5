"""Reads the scheduler of an engine, and its limits."""

from __future__ import annotations

from functools import partial
from typing import assert_never

from plandsl import limits
from plandsl.diagnostics import Label
from plandsl.grammar import syntax as s
from plandsl.grammar.evaluate import Value, describe
from plandsl.grammar.modules import Wrong
from plandsl.grammar.records import Layer
from plandsl.grammar.schema import Reader
from plandsl.grammar.values import span_of, whole
from plandsl.spec.scheduler import (
    GRAPHS,
    LIMITS,
    SCHEDULERS,
    WRITES,
    Limit,
    SchedulerName,
    SchedulerSpec,
    TierSpec,
    scheduler_name,
)
from plandsl.units import BYTE_RATE, BYTES, NUMBER, TIME, Quantity

TIERS = "`kv_tiers = [[200 GB, 50 GB/s], [2 TB, 6 GB/s, 100 us]]`"
"""Host memory and a disk behind each GPU, as a hint."""

SPANS = ((0.0, 1e18), (1e3, 1e15), (0.0, 10.0))
"""Bounds of a tier's bytes, bytes per second, and seconds."""

OWN = tuple(dict.fromkeys(name for limits in LIMITS.values() for name in limits))
"""Limits that some scheduler has."""

SCHEDULER = ("scheduler", "prefix_cache", "graph_sizes", "kv_tiers", "kv_write", *OWN)
"""Fields of an engine that say how it composes steps."""


def scheduler_spec(reader: Reader, kernels: str | None) -> SchedulerSpec:
    """The scheduler of the engine that ``reader`` reads, which runs kernels of the library ``kernels``."""
    word = reader.word("scheduler", SCHEDULERS)
    name = next((one for one in SCHEDULERS if one == word), None)
    effective = scheduler_name(name or "", kernels or "")
    for limit in OWN:
        layer = reader.layer(limit)
        if layer and limit not in LIMITS[effective]:
            reader.fail(_foreign(reader, layer, effective))
    caching = reader.flag("prefix_cache", True)
    tiers = reader.read("kv_tiers", partial(_tiers, reader)) or ()
    word = reader.word("kv_write", WRITES)
    _check_use(reader, caching=bool(caching), tiers=tiers)
    read = ((limit, _read(reader, limit, kind)) for limit, kind in LIMITS[effective].items() if reader.layer(limit))
    return SchedulerSpec(
        name or "",
        prefix_cache=caching,
        graphs=reader.read("graph_sizes", partial(_graphs, reader)) or (),
        limits=tuple((limit, value) for limit, value in read if value is not None),
        tiers=tiers,
        write=next((one for one in WRITES if one == word), ""),
    )


def _tiers(reader: Reader, layer: Layer) -> tuple[TierSpec, ...]:
    """Tiers of KV memory, the fastest first: lists of bytes, bytes per second and, if given, seconds."""
    found: Value = reader.value(layer)
    if isinstance(found, Quantity | bool | str):
        why = f"`kv_tiers` must be a list of tiers, found {describe(found)}"
        raise Wrong("E243", why, span_of(layer), hint=TIERS)
    if len(found) > limits.MAX_TIERS:
        why = f"`kv_tiers` are at most {limits.MAX_TIERS}, found {len(found)}"
        raise Wrong("E243", why, span_of(layer), hint=limits.MAX_TIERS.hint(TIERS, len(found)))
    return tuple(_tier(one, layer) for one in found)


def _tier(value: Value, layer: Layer) -> TierSpec:
    span = span_of(layer)
    if isinstance(value, Quantity | bool | str) or not 2 <= len(value) <= 3:
        what = describe(value) if isinstance(value, Quantity | bool | str) else f"a list of {len(value)}"
        why = f"each tier must be a size and a rate, and may have a latency; found {what}"
        raise Wrong("E243", why, span, hint=TIERS)
    numbers = []
    for one, dimension, (least, most) in zip(value, (BYTES, BYTE_RATE, TIME), SPANS, strict=False):
        if not isinstance(one, Quantity) or one.dimension != dimension:
            raise Wrong("E243", f"expected {dimension} in a tier, found {describe(one)}", span, hint=TIERS)
        if not least <= one.value <= most:
            why = f"{dimension} of a tier must be from {least:g} to {most:g}, found {float(one.value):g}"
            raise Wrong("E243", why, span, hint=TIERS)
        numbers.append(float(one.value))
    return TierSpec(*numbers)


def _check_use(reader: Reader, caching: bool, tiers: tuple[TierSpec, ...]) -> None:
    """Tiers are found by the prefix cache, and a way to write needs tiers."""
    named, written, off = (reader.layer(name) for name in ("kv_tiers", "kv_write", "prefix_cache"))
    if named and tiers and not caching:
        labels = (Label(off.name.span, "no block is found again"),) if off else ()
        why = "`kv_tiers` keep blocks of the prefix cache, which is off"
        hint = "leave out `prefix_cache = false`, or `kv_tiers`"
        reader.fail(Wrong("E243", why, named.name.span, labels=labels, hint=hint))
    if written and not named:
        reader.fail(Wrong("E243", "`kv_write` needs `kv_tiers`", written.name.span, hint=TIERS))


def _read(reader: Reader, name: str, limit: Limit) -> bool | int | float | str | None:
    match limit.kind:
        case "flag":
            return reader.flag(name, False)
        case "whole":
            return reader.whole(name, least=limit.least)
        case "share":
            return reader.read(name, partial(_share, reader))
        case "number":
            return reader.number(name, NUMBER, zero=True)
        case "word":
            return reader.word(name, limit.words)
        case _:
            assert_never(limit.kind)


def _share(reader: Reader, layer: Layer) -> float:
    """A share below 100 %, which may be zero."""
    value = float(reader.quantity(layer, NUMBER).value)
    if not 0 <= value < 1:
        message = f"`{layer.name.text}` must be a share from 0 % to below 100 %"
        raise Wrong("E214", message, span_of(layer), hint=f"`{layer.name.text} = 1 %`")
    return value


def _graphs(reader: Reader, layer: Layer) -> SchedulerName | tuple[int, ...]:
    """Sizes of CUDA graphs: the name of an engine, `none`, or a list in ascending order."""
    if _is_word(reader, layer):
        word = reader.choice(layer, (*GRAPHS, "none"), "E210")
        return next((name for name in GRAPHS if name == word), ())
    found: Value = reader.value(layer)
    if isinstance(found, Quantity | bool | str):
        words = ", ".join(f"`{name}`" for name in (*GRAPHS, "none"))
        why = f"`graph_sizes` must be a list of sizes, or one of {words}; found {describe(found)}"
        raise Wrong("E210", why, span_of(layer), hint="`graph_sizes = [1, 2, 4, 8, 16]`")
    sizes = tuple(whole(item, layer, 1, limits.MAX_DIMENSION) for item in found)
    if not 1 <= len(sizes) <= limits.MAX_GRAPHS or list(sizes) != sorted(set(sizes)):
        why = f"`graph_sizes` must be 1 to {limits.MAX_GRAPHS} sizes that grow"
        hint = limits.MAX_GRAPHS.hint("`graph_sizes = [1, 2, 4, 8, 16]`", len(sizes))
        raise Wrong("E214", why, span_of(layer), hint=hint)
    return sizes


def _is_word(reader: Reader, layer: Layer) -> bool:
    value = layer.value
    if isinstance(value, s.Ref):
        return reader.context.library.find_let(value.name, layer.unit) is None
    return isinstance(value, s.Str)


def _foreign(reader: Reader, layer: Layer, scheduler: SchedulerName) -> Wrong:
    """The finding that a limit belongs to another scheduler."""
    name = layer.name.text
    having = [f"`{other}`" for other, limits in LIMITS.items() if name in limits]
    named = reader.layer("scheduler") or reader.layer("kernels")
    labels = (Label(named.name.span, f"the scheduler is that of `{scheduler}`"),) if named else ()
    near = reader.context.library.suggest(name, iter(LIMITS[scheduler]))
    hint = near or f"its limits are {', '.join(f'`{own}`' for own in LIMITS[scheduler])}"
    why = f"`{name}` is a limit of the scheduler of {' and '.join(having)}, not of `{scheduler}`"
    return Wrong("E229", why, layer.name.span, labels=labels, hint=hint)
