"""Checks single values: their dimension, whole numbers, bounds."""

from __future__ import annotations

from plandsl.diagnostics import Span
from plandsl.grammar import syntax as s
from plandsl.grammar.evaluate import Value, describe
from plandsl.grammar.modules import Wrong
from plandsl.grammar.records import Layer, Record
from plandsl.grammar.tokens import NUMERIC
from plandsl.limits import help_for
from plandsl.spec.hardware import ENGINE_BYTES
from plandsl.units import EXAMPLES, NUMBER, REQUEST_RATE, TOKEN_RATE, Dimension, Quantity


def span_of(layer: Layer) -> Span:
    """The place of the value of a layer."""
    return layer.name.span if isinstance(layer.value, Record) else layer.value.span


FIELD_EXAMPLES = dict.fromkeys(ENGINE_BYTES, "1 GiB") | {"logit": "12 B", "bridge": "56.25 GB/s"}
"""Values of fields that are far from what `units.EXAMPLES` has for their dimension."""


ONLY_UNITS = {REQUEST_RATE: "req/s", TOKEN_RATE: "tok/s"}
"""The unit of dimensions that have only one."""


def expect(value: Value, dimension: Dimension, layer: Layer) -> Quantity:
    """``value`` as a quantity of ``dimension``. Raises `Wrong` (E204, E205, E210)."""
    if isinstance(value, Quantity) and value.dimension == dimension:
        return value
    name, span = layer.name.text, span_of(layer)
    example = f"`{name} = {FIELD_EXAMPLES.get(name) or EXAMPLES.get(dimension, '8')}`"
    hint = "write the number alone, without a unit" if dimension == NUMBER else example
    if not isinstance(value, Quantity):
        if isinstance(value, str) and NUMERIC.fullmatch(value):
            example = f"a number has no quotes: write `{value}`"
        raise Wrong("E210", f"expected {dimension}, found {describe(value)}", span, hint=example)
    if value.dimension == NUMBER:
        message = f"expected {dimension}, found {describe(value)}"
        if dimension in ONLY_UNITS and isinstance(layer.value, s.Num):
            example = f"`{name} = {layer.value.value:g} {ONLY_UNITS[dimension]}`"
        raise Wrong("E205", message, span, hint=f"write the unit: {example}")
    raise Wrong("E204", f"expected {dimension}, found {value.dimension}", span, hint=hint)


def whole(value: Value, layer: Layer, least: int, most: int) -> int:
    """``value`` as a whole number from ``least`` to ``most``. Raises `Wrong` (E214)."""
    name, span = layer.name.text, span_of(layer)
    number = expect(value, NUMBER, layer)
    if number.percent or number.value != int(number.value):
        raise Wrong("E214", f"`{name}` must be a whole number", span)
    if number.value < least:
        wanted = "zero or more" if least == 0 else f"{least} or more"
        raise Wrong("E214", f"`{name}` must be {wanted}, found {number.value:g}", span)
    if number.value > most:
        hint = help_for(most, f"at most `{name} = {most:d}`", number.value)
        raise Wrong("E214", f"`{name}` must be at most {most:,}, found {int(number.value):,}", span, hint=hint)
    return int(number.value)


def flag(value: Value, layer: Layer) -> bool:
    """``value`` as true or false. Raises `Wrong` (E210)."""
    if isinstance(value, bool):
        return value
    raise Wrong("E210", f"`{layer.name.text}` must be true or false, found {describe(value)}", span_of(layer))
