"""Reads what is drawn at random: distributions, `lognormal(mean = 900, p95 = 3200)`; and calls with named arguments."""

from __future__ import annotations

import math
import os
from typing import NamedTuple

from plandsl import limits
from plandsl.grammar import syntax as s
from plandsl.grammar.evaluate import describe
from plandsl.grammar.files import locate
from plandsl.grammar.modules import Wrong
from plandsl.grammar.records import Layer
from plandsl.grammar.schema import Reader
from plandsl.grammar.values import expect, flag, span_of, whole
from plandsl.spec.traffic import (
    LOGNORMAL,
    WIDEST,
    Bounds,
    Distribution,
    Empirical,
    Exponential,
    FileSpec,
    Fixed,
    Lognormal,
    Normal,
    Uniform,
    Zipf,
    solve_lognormal,
)
from plandsl.units import NUMBER, TIME, Dimension

# ---- calls


class Form(NamedTuple):
    """The arguments of a call: those needed, in order, which may be written without a name, and those with a name."""

    needed: tuple[str, ...]
    options: tuple[str, ...]
    example: str


class Arguments(NamedTuple):
    """The arguments of a call by name, as expressions; ``used`` as in `read_file_name`."""

    reader: Reader
    call: s.Call
    layer: Layer
    given: dict[str, s.Expr]
    used: bool

    def number(self, name: str, dimension: Dimension, low: float, high: float, code: str) -> float:
        """An argument in SI units. Raises `Wrong`, with ``code`` if it is not from ``low`` to ``high``."""
        found = float(expect(self.reader.value(self._layer(name)), dimension, self._layer(name)).value)
        if low <= found <= high:
            return found
        why = f"`{name}` must be from {low:g} to {high:g}" + (" in SI units" if dimension != NUMBER else "")
        raise Wrong(code, why, self.given[name].span)

    def whole(self, name: str, least: int, most: int) -> int:
        """An argument that is a whole number."""
        return whole(self.reader.value(self._layer(name)), self._layer(name), least, most)

    def file(self, name: str, endings: tuple[str, ...] = (".csv",)) -> FileSpec:
        """A file in the folder of the root file."""
        return read_file_name(self.reader, self._layer(name), endings, self.used)

    def flag(self, name: str) -> bool:
        """``true`` or ``false``; false if it is missing."""
        return name in self.given and flag(self.reader.value(self._layer(name)), self._layer(name))

    def text(self, name: str) -> str:
        """A string."""
        value = self.reader.value(self._layer(name))
        if isinstance(value, str):
            return value
        raise Wrong("E210", f"`{name}` must be a string, found {describe(value)}", self.given[name].span)

    def _layer(self, name: str) -> Layer:
        return Layer(s.Name(name, self.given[name].span), self.given[name], self.layer.unit)


def read_arguments(reader: Reader, layer: Layer, forms: dict[str, Form], what: str, used: bool) -> Arguments:
    """The arguments of the call in ``layer``, which is one of ``forms``. Raises `Wrong` (E201, E206, E210)."""
    call = layer.value
    assert isinstance(call, s.Call), "the caller has looked"
    name, form = call.func.text, forms.get(call.func.text)
    if form is None:
        hint = reader.context.library.suggest(name, iter(forms))
        raise Wrong("E201", f"there is no {what} `{name}`", call.func.span, hint=hint)
    given = dict(zip(form.needed, call.args, strict=False))
    known = (*form.needed, *form.options)
    for option in call.kwargs:
        if option.name.text not in known:
            hint = reader.context.library.suggest(option.name.text, iter(known))
            raise Wrong("E206", f"`{name}` has no option `{option.name.text}`", option.name.span, hint=hint)
        if option.name.text in given:
            raise Wrong("E202", f"`{option.name.text}` is given twice", option.name.span, hint="remove one of them")
        given[option.name.text] = option.value
    missing = [f"`{field}`" for field in form.needed if field not in given]
    if missing or len(call.args) > len(form.needed):
        why = f"`{name}` needs {' and '.join(missing)}" if missing else f"`{name}` has too many arguments"
        raise Wrong("E210", why, call.span, hint=f"`{form.example}`")
    if call.body is not None:
        raise Wrong("E210", f"`{name}` has no block", call.body.span, hint=f"`{form.example}`")
    return Arguments(reader, call, layer, given, used)


def read_file_name(reader: Reader, layer: Layer, endings: tuple[str, ...], used: bool) -> FileSpec:
    """The file that a layer names. Raises `Wrong` (E210) if it is no string, and if it is ``used`` and may not be read.

    The file of a workload that no plan has ``used`` need not exist.
    """
    text, unit = layer.value, layer.unit
    if isinstance(text, s.Ref) and (found := reader.context.library.find_let(text.name, unit)):
        text, unit = found[0].value, found[1]
    name = layer.name.text
    if not isinstance(text, s.Str):
        hint = f'`"{text.name}.csv"`' if isinstance(text, s.Ref) else '`"lengths.csv"`'
        raise Wrong("E210", f"`{name}` must be a string in quotes", span_of(layer), hint=hint)
    if not used:
        return FileSpec(text.value, "", text.span)
    library = reader.context.library
    ending = next((e for e in endings if text.value.endswith(e)), endings[0])
    path = locate(library, text, unit, f"`{name}`", ending)
    assert unit.path is not None, "a located path starts somewhere"
    assert library.folder is not None, "a located path is in a folder"
    shown = os.path.relpath(unit.path.parent / text.value, library.folder).replace(os.sep, "/")
    return FileSpec(shown, str(path), text.span)


# ---- distributions


class Kind(NamedTuple):
    """What a distribution is of: its dimension, its least and greatest value, and whether it is in whole numbers."""

    dimension: Dimension
    least: float
    highest: float | str
    whole: bool

    @property
    def most(self) -> float:
        """The greatest value; ``highest`` may name the limit that says it."""
        return limits.current(self.highest) if isinstance(self.highest, str) else self.highest


TOKENS = Kind(NUMBER, 1, "dimension", True)
TURNS = Kind(NUMBER, 1, "turns", True)
SECONDS = Kind(TIME, 0, 1e9, False)
NUMBERS = Kind(NUMBER, 1, "dimension", True)

LIMITS = ("min", "max")
TWO = "lognormal(mean = 900, p95 = 3200)"
FORMS = {
    "uniform": Form(("low", "high"), (), "uniform(100, 2000)"),
    "normal": Form(("mean", "sigma"), LIMITS, "normal(mean = 900, sigma = 200)"),
    "lognormal": Form((), (*LOGNORMAL, *LIMITS), TWO),
    "exponential": Form(("mean",), LIMITS, "exponential(30 s)"),
    "zipf": Form(("exponent", "max"), ("min",), "zipf(1.2, max = 8192)"),
    "empirical": Form(("file",), ("column",), 'empirical("lengths.csv")'),
    "vllm_range": Form(("length",), ("ratio",), "vllm_range(1024, ratio = 0.2)"),
    "sglang_range": Form(("length",), ("ratio",), "sglang_range(1024, ratio = 0.2)"),
}
"""The distributions."""

STEEPEST = 10.0
"""Largest exponent of `zipf`."""


ORDER = "swap the two, or correct one of them"


def read_distribution(reader: Reader, layer: Layer, kind: Kind, used: bool) -> Distribution:
    """A number, or a distribution. Raises `Wrong`; E241 if the numbers of a distribution fit no distribution."""
    if not isinstance(layer.value, s.Call):
        return Fixed(_plain(reader, layer, kind))
    arguments = read_arguments(reader, layer, FORMS, "distribution", used)
    match arguments.call.func.text:
        case "uniform":
            low, high = (_value(arguments, name, kind) for name in ("low", "high"))
            if high < low:
                raise Wrong("E241", f"`high` must be at least `low`, {low:g}", arguments.given["high"].span, hint=ORDER)
            return Uniform(low, high)
        case "normal":
            return Normal(_value(arguments, "mean", kind), _spread(arguments, kind), _bounds(arguments, kind))
        case "exponential":
            return Exponential(_value(arguments, "mean", kind), _bounds(arguments, kind))
        case "lognormal":
            return _lognormal(arguments, kind)
        case "zipf":
            return _zipf(arguments, kind)
        case "empirical":
            column = arguments.text("column") if "column" in arguments.given else layer.name.text
            return Empirical(arguments.file("file"), column)
        case name:
            return _ranged(arguments, name, kind)


def _plain(reader: Reader, layer: Layer, kind: Kind) -> float:
    value = reader.value(layer)
    if kind.whole:
        most = kind.most
        return whole(value, layer, int(kind.least), most if isinstance(most, int) else int(most))
    found = float(expect(value, kind.dimension, layer).value)
    if not kind.least <= found <= kind.most:
        why = f"`{layer.name.text}` must be from {kind.least:g} to {kind.most:g} in SI units"
        raise Wrong("E214", why, span_of(layer))
    return found


def _value(arguments: Arguments, name: str, kind: Kind) -> float:
    """A value of the distribution; the ends of a range of whole numbers are whole."""
    if kind.whole and name in ("low", "high", "length", *LIMITS):
        most = kind.most
        return arguments.whole(name, int(kind.least), most if isinstance(most, int) else int(most))
    return arguments.number(name, kind.dimension, kind.least, kind.most, "E241")


def _spread(arguments: Arguments, kind: Kind) -> float:
    return arguments.number("sigma", kind.dimension, 0.0, kind.most, "E241")


def _bounds(arguments: Arguments, kind: Kind) -> Bounds:
    low, high = (_value(arguments, name, kind) if name in arguments.given else None for name in LIMITS)
    if low is not None and high is not None and high < low:
        raise Wrong("E241", f"`max` must be at least `min`, {low:g}", arguments.given["max"].span, hint=ORDER)
    return Bounds(low, high)


def _lognormal(arguments: Arguments, kind: Kind) -> Lognormal:
    names = [name for name in LOGNORMAL if name in arguments.given]
    if len(names) != 2:
        raise Wrong("E210", "`lognormal` needs two options", arguments.call.span, hint=f"`{TWO}`")
    given = {name: _lognormal_number(arguments, name, kind) for name in names}
    found = solve_lognormal(given)
    if found is None:
        one, two = (f"`{name} = {given[name]:g}`" for name in names)
        hint = "p50 <= p95 <= p99; with sigma at most 10, a mean has a p50 below it, and a p95 or p99 above it"
        raise Wrong("E241", f"no lognormal distribution has {one} and {two}", arguments.call.span, hint=hint)
    a, b = names
    return Lognormal(((a, given[a]), (b, given[b])), *found, _bounds(arguments, kind))


def _lognormal_number(arguments: Arguments, name: str, kind: Kind) -> float:
    if name == "sigma":
        return arguments.number(name, NUMBER, 0.0, WIDEST, "E241")
    return arguments.number(name, kind.dimension, max(kind.least, 1e-9), kind.most, "E241")


def _zipf(arguments: Arguments, kind: Kind) -> Zipf:
    if not kind.whole:
        raise _lengths_alone("`zipf` draws whole numbers, not times", arguments)
    exponent = arguments.number("exponent", NUMBER, 0.0, STEEPEST, "E241")
    low = arguments.whole("min", 1, limits.MAX_ZIPF) if "min" in arguments.given else 1
    return Zipf(exponent, low, arguments.whole("max", low, limits.MAX_ZIPF))


def _lengths_alone(why: str, arguments: Arguments) -> Wrong:
    """What is wrong with a distribution of whole numbers that stands where times are drawn."""
    hint = "for times write `lognormal(p50 = 20 s, p95 = 2 min)` or the like"
    return Wrong("E241", why, arguments.call.func.span, hint=hint)


def _ranged(arguments: Arguments, name: str, kind: Kind) -> Uniform:
    """The lengths that a load generator draws for a length and a `ratio`, which means opposite things in the two.

    vLLM: whole numbers from floor(L (1 - r)) to ceil(L (1 + r)), r below 1, default 0. SGLang: from max(1, int(L r))
    to L, default 0. Source: `vllm bench serve` and `sglang.bench_serving`, `--random-range-ratio`.
    """
    if not kind.whole:
        raise _lengths_alone(f"`{name}` draws lengths, not times", arguments)
    length = int(_value(arguments, "length", kind))
    ratio = arguments.number("ratio", NUMBER, 0.0, 1.0, "E241") if "ratio" in arguments.given else 0.0
    if name == "sglang_range":
        return Uniform(max(1, int(length * ratio)), length)
    if ratio == 1:
        raise Wrong(
            "E241", "`ratio` of `vllm_range` must be below 1", arguments.given["ratio"].span, hint="`ratio = 0.9`"
        )
    return Uniform(max(1, math.floor(length * (1 - ratio))), math.ceil(length * (1 + ratio)))
