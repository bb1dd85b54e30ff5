"""Reads when requests arrive: `rate = 12 req/s`, `rate = gamma(mean = 8 req/s, cv = 2.5)`."""

from __future__ import annotations

from itertools import pairwise

from plandsl import limits
from plandsl.grammar import syntax as s
from plandsl.grammar.draws import Arguments, Form, read_arguments
from plandsl.grammar.evaluate import Value, describe
from plandsl.grammar.modules import Wrong
from plandsl.grammar.records import Layer
from plandsl.grammar.schema import Reader
from plandsl.grammar.values import expect, span_of
from plandsl.spec.traffic import Arrivals, AtOnce, OnOff, Steady, Traced, Varying
from plandsl.traces import ENDINGS
from plandsl.units import NUMBER, REQUEST_RATE, TIME, Dimension, Quantity

SLOWEST, FASTEST = 1e-9, 1e9
"""Bounds of a rate, in requests per second."""

LONGEST = 1e9
"""Longest duration of a rate, in seconds."""

SHAPES = (1e-4, 1e4)
"""Bounds of `burstiness`, the shape of gamma distributed gaps."""

STEPS = "[[0 h, 2 req/s], [8 h, 20 req/s]]"
FORMS = {
    "poisson": Form(("rate",), (), "poisson(12 req/s)"),
    "constant": Form(("rate",), (), "constant(8 req/s)"),
    "gamma": Form(("mean",), ("cv", "burstiness"), "gamma(mean = 8 req/s, cv = 2.5)"),
    "vllm_rate": Form(("rate",), ("burstiness",), "vllm_rate(8 req/s, burstiness = 0.5)"),
    "on_off": Form(("rate", "on", "off"), ("low", "fixed"), "on_off(20 req/s, on = 30 s, off = 90 s)"),
    "varying": Form(("steps",), ("every",), f"varying({STEPS}, every = 24 h)"),
    "trace_rate": Form(("file", "bin"), ("scale",), 'trace_rate("conv.csv", bin = 5 min)'),
}
"""The forms of `rate` that are calls."""

AT_ONCE = "at_once"


def read_arrivals(reader: Reader, used: bool, layer: Layer) -> Arrivals:
    """The value of `rate`. Raises `Wrong`; E240 where the numbers make no sense."""
    value = layer.value
    if isinstance(value, s.Ref) and value.name == AT_ONCE:
        return AtOnce()
    if isinstance(value, s.Call):
        return _called(read_arguments(reader, layer, FORMS, "form of `rate`", used))
    found = reader.value(layer)
    if not isinstance(found, Quantity | bool | str):
        return Varying(_steps(found, layer))
    return Steady(_checked_rate(found, layer))


def _called(arguments: Arguments) -> Arrivals:
    match arguments.call.func.text:
        case "poisson":
            return Steady(_rate(arguments, "rate"))
        case "constant":
            return Steady(_rate(arguments, "rate"), None)
        case "gamma":
            return Steady(_rate(arguments, "mean"), _shape(arguments))
        case "vllm_rate":
            shape = _burstiness(arguments) if "burstiness" in arguments.given else 1.0
            return Steady(_rate(arguments, "rate"), shape, scaled=True)
        case "on_off":
            on, off = (arguments.number(name, TIME, 1e-6, LONGEST, "E240") for name in ("on", "off"))
            low = arguments.number("low", REQUEST_RATE, 0.0, FASTEST, "E240") if "low" in arguments.given else 0.0
            return OnOff(_rate(arguments, "rate"), on, off, low=low, fixed=arguments.flag("fixed"))
        case "varying":
            return _varying(arguments)
        case _:
            scale = arguments.number("scale", NUMBER, 1e-6, 1e6, "E240") if "scale" in arguments.given else 1.0
            return Traced(arguments.file("file", ENDINGS), arguments.number("bin", TIME, 1e-3, LONGEST, "E240"), scale)


def _rate(arguments: Arguments, name: str) -> float:
    return arguments.number(name, REQUEST_RATE, SLOWEST, FASTEST, "E240")


def _burstiness(arguments: Arguments) -> float:
    return arguments.number("burstiness", NUMBER, *SHAPES, "E240")


def _shape(arguments: Arguments) -> float:
    """The shape of gamma distributed gaps: `burstiness`, or 1 / cv^2."""
    if len({"cv", "burstiness"} & set(arguments.given)) != 1:
        raise Wrong(
            "E210", "`gamma` needs `cv` or `burstiness`", arguments.call.span, hint=f"`{FORMS['gamma'].example}`"
        )
    if "cv" in arguments.given:
        return arguments.number("cv", NUMBER, 0.01, 100.0, "E240") ** -2
    return _burstiness(arguments)


def _checked_rate(value: Value, layer: Layer) -> float:
    found = float(expect(value, REQUEST_RATE, layer).value)
    if SLOWEST <= found <= FASTEST:
        return found
    raise Wrong("E240", f"a rate must be from {SLOWEST:g} to {FASTEST:g} req/s", span_of(layer))


def _varying(arguments: Arguments) -> Varying:
    layer = Layer(s.Name("steps", arguments.given["steps"].span), arguments.given["steps"], arguments.layer.unit)
    found = arguments.reader.value(layer)
    if isinstance(found, Quantity | bool | str):
        hint = f"`{FORMS['varying'].example}`"
        raise Wrong("E240", f"`varying` needs a list, found {describe(found)}", span_of(layer), hint=hint)
    if "every" not in arguments.given:
        return Varying(_steps(found, layer))
    steps, every = _steps(found, layer, again=True), arguments.number("every", TIME, 1e-3, LONGEST, "E240")
    if every <= steps[-1][0]:
        why = f"`every` must be later than the last change, at {steps[-1][0]:g} s"
        raise Wrong("E240", why, arguments.given["every"].span)
    return Varying(steps, every)


def _steps(value: tuple[Value, ...], layer: Layer, again: bool = False) -> tuple[tuple[float, float], ...]:
    """Pairs of a time and a rate, the first at time 0; the last rate is above zero unless the list starts ``again``."""
    span, hint = span_of(layer), f"`rate = {STEPS}`"
    if not 1 <= len(value) <= limits.MAX_STEPS:
        why = f"a rate changes from 1 to {limits.MAX_STEPS:,} times, found {len(value):,}"
        raise Wrong("E240", why, span, hint=limits.MAX_STEPS.hint(hint, len(value)))
    steps = [_step(pair, layer) for pair in value]
    if steps[0][0] != 0:
        raise Wrong("E240", f"the first time must be 0, found {steps[0][0]:g} s", span, hint=hint)
    for (before, _), (after, _) in pairwise(steps):
        if after <= before:
            raise Wrong("E240", f"times must increase, found {after:g} s after {before:g} s", span, hint=hint)
    if not any(rate for _, rate in steps) or not (steps[-1][1] or again):
        hint = f"`varying({STEPS}, every = 24 h)` starts the list again"
        raise Wrong("E240", "the last rate must be above zero, since it stays", span, hint=hint)
    return tuple(steps)


def _step(pair: Value, layer: Layer) -> tuple[float, float]:
    if not isinstance(pair, Quantity | bool | str) and len(pair) == 2:
        at, rate = (_si(value, dimension) for value, dimension in zip(pair, (TIME, REQUEST_RATE), strict=True))
        if 0 <= at <= LONGEST and 0 <= rate <= FASTEST:
            return at, rate
    why = f"each step must be a time and a rate, up to {LONGEST:g} s and {FASTEST:g} req/s"
    raise Wrong("E240", why, span_of(layer), hint=f"`rate = {STEPS}`")


def _si(value: Value, dimension: Dimension) -> float:
    """A quantity in SI units; -1 if it is none of this dimension."""
    return float(value.value) if isinstance(value, Quantity) and value.dimension == dimension else -1.0
