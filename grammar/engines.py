"""Serving engines: from records to specs."""

from __future__ import annotations

from typing import Any

from plandsl import limits
from plandsl.grammar.context import Context
from plandsl.grammar.engine_bands import engine_bands
from plandsl.grammar.engine_limits import engine_limits
from plandsl.grammar.fusions import fused_sizes, fusions
from plandsl.grammar.modules import Wrong
from plandsl.grammar.records import Record
from plandsl.grammar.schedulers import SCHEDULER, scheduler_spec
from plandsl.grammar.schema import Reader
from plandsl.grammar.values import span_of
from plandsl.spec.hardware import (
    ENGINE_BANDS,
    ENGINE_BYTES,
    ENGINE_COUNTS,
    ENGINE_RATES,
    ENGINE_SHARES,
    ENGINE_TIMES,
    FRACTIONS,
    RANK_TIMES,
    EngineSpec,
)
from plandsl.units import BYTES, NUMBER, TIME

LIBRARIES = ("vllm", "sglang", "trtllm", "aiter")
"""Kernel libraries that an engine may name; a calibration may have a section for each."""

NUMBERS = (*ENGINE_RATES, *ENGINE_SHARES, *ENGINE_TIMES, *RANK_TIMES, *ENGINE_COUNTS, *ENGINE_BYTES, *ENGINE_BANDS)
WORDS = ("fraction_of", "states", "graphs_in_budget", "kernels", "fusions")
ENGINE = (*NUMBERS, "limits", "bands", "fused_sizes", *WORDS, *SCHEDULER, "source")


def engine_spec(context: Context, record: Record) -> EngineSpec | None:
    """An engine; a field that the record leaves out has the default of `EngineSpec`, which costs nothing."""
    reader = Reader(context, record, ENGINE)
    given: dict[str, Any] = {}
    for name in ENGINE_SHARES:
        given[name] = reader.read(name, reader.share)
    for name in (*ENGINE_TIMES, *RANK_TIMES):
        given[name] = reader.number(name, TIME, zero=True)
    for name, least in ENGINE_COUNTS.items():
        given[name] = reader.whole(name, least=least, most=limits.MAX_DIMENSION)
    given["limits"] = engine_limits(reader)
    given["bands"] = engine_bands(reader)
    for name in ENGINE_BYTES:
        given[name] = reader.number(name, BYTES, zero=True)
    given["states"] = reader.number("states", NUMBER, zero=True)
    given["fraction_of"] = reader.word("fraction_of", FRACTIONS)
    given["graphs_in_budget"] = reader.flag("graphs_in_budget", False)
    for name in (*ENGINE_RATES, *ENGINE_BANDS):
        given[name] = reader.number(name, NUMBER)
    _check_bands(reader, given)
    given["kernels"] = reader.word("kernels", LIBRARIES)
    given["fusions"] = fusions(reader)
    given["fused_sizes"] = fused_sizes(reader)
    given["scheduler"] = scheduler_spec(reader, given["kernels"])
    source = reader.source()
    if not reader.ok:
        return None
    given = {name: value for name, value in given.items() if value is not None}
    return EngineSpec(record.name, **given, source=source, assumed=reader.assumed_fields(), span=record.span)


def _check_bands(reader: Reader, given: dict[str, Any]) -> None:
    """The lower end of a band is not above its upper end; an end that is not given is 1."""
    for low in (name for name in ENGINE_BANDS if name.endswith("_low")):
        high = low.removesuffix("low") + "high"
        least, most = given[low] or 1.0, given[high] or 1.0
        if least > most:
            layers = [layer for name in (low, high) if (layer := reader.layer(name))]
            layer = next((one for one in layers if one.unit is reader.record.unit), layers[0])
            why = f"`{low}` must be at most `{high}`, found {least:g} and {most:g}"
            reader.fail(Wrong("E214", why, span_of(layer), hint=f"`{low} = 0.9, {high} = 1.2`"))
