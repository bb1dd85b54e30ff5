"""Reads two shardings of one plan: `shift { base = NAME, tensor = NAME, threshold = N }`."""

from __future__ import annotations

from collections.abc import Callable
from itertools import permutations
from math import prod

from attrs import evolve

from plandsl.diagnostics import Span
from plandsl.grammar.records import Record
from plandsl.grammar.schema import Reader
from plandsl.grammar.sharding import fit, sharding_spec
from plandsl.grammar.values import span_of
from plandsl.spec.model import ModelSpec
from plandsl.spec.plan import AxisSpec, ShardingSpec, ShiftSpec

SHIFT = ("base", "tensor", "threshold")
EXAMPLE = {"base": "base { sp = 8 }", "tensor": "tensor { tp = 8 }", "threshold": "threshold = 256"}

Axes = tuple[AxisSpec, ...]
Shardings = tuple[ShardingSpec | None, ShiftSpec | None]


def shift_spec(plan: Reader, model: ModelSpec | None, own: Callable[[], ShardingSpec | None]) -> Shardings:
    """The sharding for large steps, and the shift to the sharding for small steps.

    The first is ``base``; if ``base`` is left out, it is the `sharding` of the plan, which ``own`` reads.
    """
    section = plan.section("shift")
    if section is None:
        return None, None
    reader = Reader(plan.context, section, SHIFT)
    beside = "base" not in section.fields and "sharding" in plan.record.fields
    base = own() if beside else sharding_under(reader, "base", plan.record, model)
    tensor = sharding_under(reader, "tensor", plan.record, model)
    threshold = reader.whole("threshold", EXAMPLE["threshold"], least=0)
    plan.ok &= reader.ok
    if base is None or tensor is None or threshold is None:
        return None, None
    tensor = evolve(tensor, axes=_aligned_axes(base.axes, tensor))
    if tensor.name == base.name:  # spelt out in place, or made from the other by `with`
        tensor = evolve(tensor, name=f"{base.name}_tensor")
    return base, ShiftSpec(tensor, threshold, _value_span(reader, "tensor"))


def _aligned_axes(base: Axes, tensor: ShardingSpec) -> Axes:
    """The axes of ``tensor``, ordered so that axes shared with ``base`` run along the same ranks, if an order does so.

    A written mesh, and axes placed in a node, keep their order.
    """
    if tensor.placed or not all(axis.sugar for axis in tensor.axes):
        return tensor.axes
    strides = _strides(base)
    for axes in permutations(tensor.axes):
        if all(strides.get(key, stride) == stride for key, stride in _strides(axes).items()):
            return axes
    return tensor.axes


def _strides(axes: Axes) -> dict[tuple[str, int], int]:
    """(name, size) of each axis -> the distance in rank numbers between neighbours along it."""
    return {(a.name, a.size): prod(b.size for b in axes[i + 1 :]) for i, a in enumerate(axes)}


def sharding_under(reader: Reader, name: str, plan: Record, model: ModelSpec | None) -> ShardingSpec | None:
    """The sharding in field ``name``: declared elsewhere, or in place."""
    if name not in reader.record.fields:
        reader.report_missing(name, EXAMPLE[name])
        return None
    found = reader.attempt(lambda: reader.context.records.section(reader.record, name, "sharding"))
    if found is None:
        return None
    if found.kind != "sharding":
        found = found.copy_as(plan.name, found.span, found.unit)
        found.kind = "sharding"
    spec = reader.context.make(sharding_spec, found)
    spec = fit(reader.context, spec, model) if spec and model else None
    reader.ok &= spec is not None
    return spec


def _value_span(reader: Reader, name: str) -> Span | None:
    layer = reader.layer(name)
    return span_of(layer) if layer else None
