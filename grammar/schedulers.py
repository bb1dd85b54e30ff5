"""Reads the scheduler of an engine, and its limits."""

from __future__ import annotations

from functools import partial

from plandsl.diagnostics import Label
from plandsl.grammar import syntax as s
from plandsl.grammar.evaluate import Value, describe
from plandsl.grammar.modules import Wrong
from plandsl.grammar.records import Layer
from plandsl.grammar.schema import Reader
from plandsl.grammar.values import span_of, whole
from plandsl.limits import MAX_DIMENSION, MAX_GRAPHS
from plandsl.spec.scheduler import GRAPHS, LIMITS, SCHEDULERS, Limit, SchedulerName, SchedulerSpec, scheduler_name
from plandsl.units import NUMBER, Quantity

OWN = tuple(dict.fromkeys(name for limits in LIMITS.values() for name in limits))
"""Limits that some scheduler has."""

SCHEDULER = ("scheduler", "prefix_cache", "graph_sizes", *OWN)
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
    read = ((limit, _read(reader, limit, kind)) for limit, kind in LIMITS[effective].items() if reader.layer(limit))
    return SchedulerSpec(
        name or "",
        prefix_cache=reader.flag("prefix_cache", True),
        graphs=reader.read("graph_sizes", partial(_graphs, reader)) or (),
        limits=tuple((limit, value) for limit, value in read if value is not None),
    )


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
    sizes = tuple(whole(item, layer, 1, MAX_DIMENSION) for item in found)
    if not 1 <= len(sizes) <= MAX_GRAPHS or list(sizes) != sorted(set(sizes)):
        why = f"`graph_sizes` must be 1 to {MAX_GRAPHS} sizes that grow"
        raise Wrong("E214", why, span_of(layer), hint="`graph_sizes = [1, 2, 4, 8, 16]`")
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
