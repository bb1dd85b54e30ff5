"""Reads the section `bands` of an engine: how far measurements are off, by the distance from what was fitted."""

from __future__ import annotations

from functools import partial

from plandsl import limits
from plandsl.grammar.engine_limits import list_of, read_words
from plandsl.grammar.modules import Wrong
from plandsl.grammar.records import Layer
from plandsl.grammar.schema import Reader
from plandsl.grammar.values import expect, span_of
from plandsl.spec.engine_bands import DISTANCES, LOADS, SERVED, EngineBands, Factors
from plandsl.units import NUMBER

EXAMPLE = "`tpot = [0.9, 1.2]`"
LARGEST = 1e3


def engine_bands(engine: Reader) -> EngineBands | None:
    """The bands of an engine by class; None where it has no such section, or a wrong one."""
    section = engine.section("bands")
    if section is None:
        return None
    reader = Reader(engine.context, section, ("gpus", "models", *LOADS))
    names = partial(read_words, reader, most=limits.MAX_NAMES)
    gpus = reader.read("gpus", partial(names, example='`gpus = ["h100_sxm"]`', what="names of GPUs")) or ()
    models = reader.read("models", partial(names, example='`models = ["llama_3_1_8b"]`', what="names of models")) or ()
    found: list[tuple[str, Factors]] = []
    for load in LOADS:
        inner = _section(reader, load, DISTANCES)
        for distance in DISTANCES if inner else ():
            assert inner is not None
            own = _section(inner, distance, SERVED)
            for metric in SERVED if own else ():
                assert own is not None
                if factors := own.read(metric, partial(_factors, own)):
                    found.append((f"{load}.{distance}.{metric}", factors))
                inner.ok &= own.ok
        reader.ok &= inner is None or inner.ok
    engine.ok &= reader.ok
    return EngineBands(gpus, models, tuple(found)) if reader.ok else None


def _section(outer: Reader, name: str, known: tuple[str, ...]) -> Reader | None:
    section = outer.section(name) if name in outer.record.fields else None
    return None if section is None else Reader(outer.context, section, known)


def _factors(reader: Reader, layer: Layer) -> Factors:
    """Two factors above zero, the first not above the second."""
    found = list_of(reader, layer, lambda item: float(expect(item, NUMBER, layer).value), EXAMPLE)
    if len(found) != 2 or not 0 < found[0] <= found[1] <= LARGEST:
        why = f"`{layer.name.text}` must be the two ends of a band, factors above zero that do not fall"
        raise Wrong("E214", why, span_of(layer), hint=EXAMPLE)
    return found[0], found[1]
