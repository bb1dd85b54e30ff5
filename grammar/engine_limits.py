"""Reads the section `limits` of an engine: the limits that it chooses by the memory of the GPU."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import TypeVar

from plandsl import limits
from plandsl.diagnostics import Label
from plandsl.grammar.evaluate import Value, describe
from plandsl.grammar.modules import Wrong
from plandsl.grammar.records import Layer
from plandsl.grammar.schema import Reader
from plandsl.grammar.values import expect, span_of, whole
from plandsl.limits import help_for
from plandsl.spec.engine_limits import LIMITED, MEMORIES, LimitsSpec, MemoryName
from plandsl.units import BYTES, Quantity

T = TypeVar("T")

EXAMPLES = {
    "memory": "`memory = [70 GiB]`",
    "memory_total": "`memory_total = [20 GiB, 60 GiB]`",
    "step_tokens": "`step_tokens = [2048, 8192]`",
    "max_requests": "`max_requests = [256, 1024]`",
    "small": '`small = ["a100"]`',
}


def engine_limits(engine: Reader) -> LimitsSpec | None:
    """The limits that an engine chooses by the GPU; None where it has no such section, or a wrong one."""
    section = engine.section("limits")
    if section is None:
        return None
    reader = Reader(engine.context, section, EXAMPLES)
    layers = [layer for name in MEMORIES if (layer := reader.layer(name))]
    if not layers:
        reader.report_missing("memory", "memory = [70 GiB]")
    elif len(layers) > 1:
        first, second = (layer.name.span for layer in layers)
        why, hint = "limits follow `memory` or `memory_total`, not both", "drop one of the two"
        reader.fail(Wrong("E202", why, second, hint=hint, labels=(Label(first, "the other one"),)))
    if not any(map(reader.layer, LIMITED)):
        reader.report_missing("step_tokens", "step_tokens = [2048, 8192]")
    of = next((name for name in MEMORIES if reader.layer(name)), MEMORIES[0])
    bounds = reader.read(of, partial(_bounds, reader)) or ()
    values = {name: reader.read(name, partial(_values, reader, of, len(bounds))) or () for name in LIMITED if bounds}
    small = reader.read("small", partial(read_words, reader, example=EXAMPLES["small"])) or ()
    engine.ok &= reader.ok
    return LimitsSpec(of, bounds, **values, small=small) if reader.ok else None


def _bounds(reader: Reader, layer: Layer) -> tuple[float, ...]:
    """Bytes of memory that rise."""
    found = list_of(reader, layer, lambda item: float(expect(item, BYTES, layer).value), EXAMPLES[layer.name.text])
    if not 1 <= len(found) <= limits.MAX_BOUNDS or found[0] <= 0 or any(a >= b for a, b in pairwise(found)):
        why = f"`{layer.name.text}` must be 1 to {limits.MAX_BOUNDS} sizes above zero that grow"
        hint = limits.MAX_BOUNDS.hint(EXAMPLES[layer.name.text], len(found))
        raise Wrong("E214", why, span_of(layer), hint=hint)
    return found


def _values(reader: Reader, of: MemoryName, bounds: int, layer: Layer) -> tuple[int, ...]:
    """One value more than the field ``of`` has bounds."""
    found = list_of(reader, layer, lambda item: whole(item, layer, 1, limits.MAX_DIMENSION), EXAMPLES[layer.name.text])
    if len(found) != bounds + 1:
        why = f"`{layer.name.text}` must have {bounds + 1} values, found {len(found)}"
        hint = "give one below each size of the memory, and one from the last size on"
        memory = reader.layer(of)
        labels = (Label(memory.name.span, f"sizes: {bounds}"),) if memory else ()
        raise Wrong("E214", why, span_of(layer), hint=hint, labels=labels)
    return found


def read_words(
    reader: Reader, layer: Layer, example: str, what: str = "words of GPUs", most: int | None = None
) -> tuple[str, ...]:
    """A list of at most so many words or names; ``what`` says which."""
    most = limits.MAX_BOUNDS if most is None else most
    name = layer.name.text

    def word(item: Value) -> str:
        if isinstance(item, str):
            return item
        raise Wrong(
            "E210", f"`{name}` must be a list of {what}, found {describe(item)} in it", span_of(layer), hint=example
        )

    found = list_of(reader, layer, word, example)
    if len(found) > most:
        why = f"`{name}` has at most {most} words, found {len(found)}"
        raise Wrong("E214", why, span_of(layer), hint=help_for(most, "keep the first ones", len(found)))
    return found


def list_of(reader: Reader, layer: Layer, read: Callable[[Value], T], example: str) -> tuple[T, ...]:
    """The items of a list, each as ``read`` gives it. Raises `Wrong` (E210) with an ``example`` for anything else."""
    found: Value = reader.value(layer)
    if isinstance(found, Quantity | bool | str):
        name = layer.name.text
        raise Wrong("E210", f"`{name}` must be a list, found {describe(found)}", span_of(layer), hint=example)
    return tuple(map(read, found))
