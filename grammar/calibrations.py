"""Calibrations: from records to specs."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial

from attrs import evolve

from plandsl.diagnostics import suggest
from plandsl.grammar import syntax as s
from plandsl.grammar.context import Context
from plandsl.grammar.modules import Unit, Wrong
from plandsl.grammar.records import Layer, Record
from plandsl.grammar.schema import Reader
from plandsl.grammar.values import expect, span_of
from plandsl.spec.constants import BAND, FORMS, MARGINS, FormConstants, missing, names
from plandsl.spec.hardware import (
    CONSTANTS,
    MARGINS_OF,
    CalibrationSpec,
    constant_dimension,
)
from plandsl.units import NUMBER, TIME, Quantity


def calibration_spec(context: Context, record: Record) -> CalibrationSpec | None:
    """A calibration: constants by name, with dotted names in sections; `otherwise` gives the missing ones."""
    return calibration_for(context, record, None)


@cache
def calibration_with(wanted: frozenset[str]) -> Callable[[Context, Record], CalibrationSpec | None]:
    """`calibration_spec`, but reading of `otherwise` ends once every ``wanted`` section is there, to save time."""
    return partial(calibration_for, wanted=wanted)


def calibration_for(context: Context, record: Record, wanted: frozenset[str] | None) -> CalibrationSpec | None:
    """A calibration, completed from `otherwise` until it has the ``wanted`` sections; None: completed in full."""
    own = context.make(_own_constants, record)
    reader = Reader(context, record, None)
    reader.ok &= own is not None
    source = reader.source()
    reader.text("measured")
    spec = evolve(own or CalibrationSpec(record.name, ()), source=source, span=record.span)
    used = []
    for read in reader.read("otherwise", partial(_completing_calibrations, reader)) or ():
        if (wanted is None or not spec.has(wanted)) and (other := read()):
            used.append(other.name)
            spec = spec.fill_from(other)
    if used:
        spec = evolve(spec, assumed=(*spec.assumed, ("otherwise", ", ".join(used))))
    return spec if reader.ok else None


def _completing_calibrations(reader: Reader, layer: Layer) -> list[Callable[[], CalibrationSpec | None]]:
    """One function for each calibration that `otherwise` names, which reads it without its own `otherwise`."""
    value = layer.value
    if isinstance(value, Record):
        raise Wrong("E210", "`otherwise` must name calibrations", span_of(layer), hint="`otherwise = generic`")
    names = value.items if isinstance(value, s.Seq) else (value,)
    return [partial(reader.attempt, partial(_completing_calibration, reader, name, layer.unit)) for name in names]


def _completing_calibration(reader: Reader, name: s.Expr, unit: Unit) -> CalibrationSpec | None:
    found = reader.context.make(_own_constants, reader.context.records.of_value("calibration", name, unit))
    reader.ok &= found is not None
    return found


def _own_constants(context: Context, record: Record) -> CalibrationSpec | None:
    """A calibration without its `otherwise`."""
    reader = Reader(context, record, None)
    values = tuple(_constants(reader, ""))
    assumed = tuple(a for a in reader.assumed_fields() if a[0] != "otherwise")
    return CalibrationSpec(record.name, values, assumed=assumed) if reader.ok else None


def _constants(reader: Reader, path: str) -> list[tuple[str, float]]:
    out: list[tuple[str, float]] = []
    for name, layers in reader.record.fields.items():
        if not path and name in ("source", "measured", "otherwise"):
            continue
        if isinstance(layers[0].value, Record):
            section = reader.section(name)
            inner = Reader(reader.context, section, None) if section else reader
            out += _constants(inner, f"{path}{name}.") if section else []
            reader.ok &= inner.ok
        else:
            value = reader.read(name, partial(_constant, reader, path=path + name))
            out += [] if value is None else [(path + name, value)]
    form, _, rest = path.partition(".")
    if form in FORMS and rest == f"{MARGINS_OF}.":
        _warn_of_unknown(reader, MARGINS, path.removesuffix("."))
    elif form in FORMS and rest:
        _check_form(reader, FORMS[form], path.removesuffix("."))
    return out


def _check_form(reader: Reader, form: type[FormConstants], path: str) -> None:
    """A section of a form needs every constant of it; of others it is told that nothing uses them."""
    known, fields = names(form), reader.record.fields
    _warn_of_unknown(reader, known, path, also=BAND)
    if lacks := missing(form, fields):
        said = ", ".join(f"`{name}`" for name in lacks)
        hint = f"a section of `{path.partition('.')[0]}` has {', '.join(known)}; `planc calibrate` writes all of them"
        reader.fail(Wrong("E207", f"`{path}` has no {said}", reader.record.span, hint=hint))


def _warn_of_unknown(reader: Reader, known: tuple[str, ...], path: str, also: tuple[str, ...] = ()) -> None:
    """Warn of the constants of the section ``path`` that are neither ``known`` nor of ``also``."""
    fields = reader.record.fields
    for name in (f for f in fields if f not in (*known, *also)):
        hint = suggest(name, known) or f"it knows {', '.join(known)}"
        span = fields[name][-1].name.span
        reader.context.report.add("W205", f"nothing uses the constant `{path}.{name}`", span, hint=hint)


def _any_constant(reader: Reader, layer: Layer) -> float:
    value = reader.value(layer)
    number = value if isinstance(value, Quantity) else expect(value, NUMBER, layer)
    if not 0 <= number.value <= 1e30:
        raise Wrong("E214", f"`{layer.name.text}` must be zero or more, and at most 1e30", span_of(layer))
    return float(number.value)


def _constant(reader: Reader, layer: Layer, path: str) -> float:
    """The value of the constant ``path``, in the unit and range of its kind."""
    first, *inner = path.split(".")
    dimension = constant_dimension(path)
    if dimension is not None and len(inner) > 1 and first in FORMS:
        number = float(expect(reader.value(layer), dimension, layer).value)
        if not 0 <= number <= 1e12:
            raise Wrong("E214", f"`{path}` must be zero or more, and at most 1e12", span_of(layer))
        return number
    if dimension is None:
        hint = suggest(first, CONSTANTS)
        reader.context.report.add("W205", f"nothing uses the constant `{path}`", layer.name.span, hint=hint)
        return _any_constant(reader, layer)
    number = float(expect(reader.value(layer), dimension, layer).value)
    if first in ("low", "high"):
        if not 0 < number <= 1e3:
            raise Wrong("E214", f"`{path}` must be a factor above 0 and at most 1000", span_of(layer))
        return number
    least, most = (0, 1) if dimension == TIME else (1e-6, 1)
    if not least <= number <= most:
        what = "between 0 and 1 s" if dimension == TIME else "a share of the peak: above 0 and at most 1"
        raise Wrong("E214", f"`{path}` must be {what}", span_of(layer))
    return number
