"""Expressions: arithmetic on quantities, with dimension checking."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeAlias, assert_never

from plandsl import limits
from plandsl.diagnostics import Label, Span, clip
from plandsl.grammar import syntax as s
from plandsl.grammar.modules import IMPORTS, KINDS, Follows, Library, Unit, Wrong, cycle
from plandsl.grammar.records import Layer, Record, Records
from plandsl.spec.plan import COMPARE
from plandsl.units import NUMBER, UNITS, Quantity, multiply

Value: TypeAlias = "Quantity | bool | str | tuple[Value, ...]"
"""The value of an expression: a quantity, true or false, a string, or a list."""

_TRUTHS = {"true": "true", "yes": "true", "on": "true", "false": "false", "no": "false", "off": "false"}
_DEEPEST = 160  # levels of brackets and operators, including the levels of every `let` that an expression uses


def describe(value: Value) -> str:
    """The type of a value, for a message: ``bytes``, ``a string``."""
    if isinstance(value, Quantity):
        return "a percentage" if value.percent else str(value.dimension)
    if isinstance(value, bool):
        return "true or false"
    return "a string" if isinstance(value, str) else "a list"


class Evaluator:
    """Evaluates the expressions of one compilation, and each `let` once."""

    def __init__(self, library: Library, records: Records) -> None:
        self.library = library
        self.records = records
        self._known: dict[int, tuple[s.Let, Value, int]] = {}
        self._open: dict[int, s.Name] = {}
        self._height = 0
        self._depth = 0

    def value(self, expr: s.Expr, unit: Unit, within: Record | None = None) -> Value:
        """The value of ``expr``, in which names refer to ``unit``, and to the fields of ``within`` if given."""
        self._depth += 1
        self.library.spend(expr.span)
        try:
            if self._depth > _DEEPEST:
                raise Wrong("E208", "this expression is too long", expr.span, hint="split it with `let`")
            return self._value(expr, unit, within)
        finally:
            self._depth -= 1

    def _value(self, expr: s.Expr, unit: Unit, within: Record | None) -> Value:
        match expr:
            case s.Num():
                return self._number(expr)
            case s.Str(value=text):
                return text
            case s.Ref():
                return self._name(expr, unit, within)
            case s.Unary():
                return self._unary(expr, self.value(expr.x, unit, within))
            case s.Binary(op="@", op_span=span):
                raise Wrong("E210", "`@` contracts tensors, and is allowed only in the block of a model", span)
            case s.Binary():
                return self._chain(expr, unit, within)
            case s.Seq(items=items):
                return tuple(self.value(item, unit, within) for item in items)
            case s.Dot():
                return self._dot(expr, unit)
            case s.Call(func=func):
                raise Wrong("E210", f"`{func.text}(...)` is not a value here", expr.span)
            case s.Index(name=name):
                raise Wrong("E210", f"`{name.text}[...]` is a tensor, and is allowed only in a model", expr.span)
            case s.Range():
                raise Wrong("E210", "a range is allowed only after `layers =` or in `vary`", expr.span)
            case s.With():
                raise Wrong("E210", "expected a value, found a declaration", expr.span)
            case _:
                assert_never(expr)

    # ---- leaves

    def _number(self, num: s.Num) -> Quantity:
        if num.unit is None:
            return Quantity(num.value)
        if num.unit not in UNITS:
            from plandsl.grammar.spellings import hint_for_unit  # mistakes alone need it

            raise Wrong("E203", f"there is no unit `{clip(num.unit)}`", num.unit_span, hint=hint_for_unit(num))
        factor, dimension = UNITS[num.unit]
        return Quantity(_to_si(num.value, factor, num.span), dimension, percent=num.unit == "%")

    def _name(self, ref: s.Ref, unit: Unit, within: Record | None) -> Value:
        if within is not None and (layers := within.fields.get(ref.name)):
            return self.layer(layers[-1], within, ref.span)
        if found := self.library.find_let(ref.name, unit):
            return self._let(*found)
        if ref.name in ("true", "false"):
            return ref.name == "true"
        raise self._unknown(ref, unit)

    def _unknown(self, ref: s.Ref, unit: Unit) -> Wrong:
        kind = next((k for k in KINDS if self.library.find(k, ref.name, unit)), None)
        if kind:
            message, hint = f"expected a value, found a {kind}", f"`{ref.name}` is declared as a {kind}"
            return Wrong("E210", message, ref.span, hint=hint)
        if self.library.hides_names(unit):
            return Follows()
        if ref.name.lower() in _TRUTHS:
            message, hint = f"there is no value named `{ref.name}`", f"write `{_TRUTHS[ref.name.lower()]}`"
            return Wrong("E201", message, ref.span, hint=hint)
        hint = self.library.suggest(ref.name, (name for u in unit.everywhere() for name in u.lets))
        hint = hint or f"`let {ref.name} = ...` would give it a value"
        return Wrong("E201", f"there is no value named `{ref.name}`", ref.span, hint=hint)

    def _let(self, let: s.Let, unit: Unit) -> Value:
        if known := self._known.get(id(let)):
            self._height = max(self._height, known[2])
            return known[1]
        outer, self._height = self._height, 0
        value = self._guard_cycle(let.name, id(let), let.name.span, lambda: self.value(let.value, unit))
        height = self._height + 1
        self._height = max(outer, height)
        if height > limits.MAX_EXPANSION:
            raise _too_long(let.name)
        self._known[id(let)] = let, value, height
        return value

    def check_let(self, let: s.Let, unit: Unit) -> None:
        """Evaluate a `let`, unless it may stand for a word or a declaration."""
        model = isinstance(let.value, s.Call) and let.value.func.text in IMPORTS
        if not model and not isinstance(let.value, s.Ref | s.With):
            self._let(let, unit)

    def layer(self, layer: Layer, within: Record | None, span: Span | None = None) -> Value:
        """The value of a field."""
        expr = layer.value
        if isinstance(expr, Record):
            raise Wrong("E210", f"`{layer.name.text}` is a section, not a value", span or layer.name.span)
        if isinstance(expr, s.Num) and not self._open:  # most fields: a number needs no other value
            self.library.spend(expr.span)
            return self._number(expr)
        unit = layer.unit
        return self._guard_cycle(layer.name, id(expr), layer.name.span, lambda: self.value(expr, unit, within))

    def _guard_cycle(self, name: s.Name, key: int, span: Span, read: Callable[[], Value]) -> Value:
        """Read the value of ``name``. Raises `Wrong` (E208) if reading it needs ``name`` itself."""
        if key in self._open:
            keys = list(self._open)
            raise cycle([self._open[other] for other in keys[keys.index(key) :]])
        if len(self._open) >= limits.MAX_EXPANSION:
            raise _too_long(name)
        self._open[key] = name
        try:
            return read()
        finally:
            del self._open[key]

    def _dot(self, dot: s.Dot, unit: Unit) -> Value:
        record = self.records.of_path(dot.base, unit)
        if record is None:
            text = clip(self.library.text(dot.base.span))
            raise Wrong("E201", f"there is no declaration `{text}`", dot.base.span)
        if layers := record.fields.get(dot.name.text):
            return self.layer(layers[-1], record if record.kind == "model" else None, dot.name.span)
        hint = self.library.suggest(dot.name.text, iter(record.fields))
        message = f"{record.kind} `{record.name}` has no field `{dot.name.text}`"
        raise Wrong("E206", message, dot.name.span, hint=hint)

    # ---- operators

    def _chain(self, expr: s.Binary, unit: Unit, within: Record | None) -> Value:
        """``a + b + c + ...``: a loop, however long."""
        links = [expr]
        while isinstance(links[-1].a, s.Binary) and links[-1].a.op != "@":
            links.append(links[-1].a)
        try:
            out = self.value(links[-1].a, unit, within)
        except Wrong as wrong:
            raise _wrong_rate(links[-1], wrong) from None
        for link in reversed(links):
            try:
                over = self.value(link.b, unit, within)
            except Wrong as wrong:
                raise _wrong_rate(link, wrong) from None
            out = self._binary(link, out, over)
        return out

    def _unary(self, expr: s.Unary, x: Value) -> Value:
        if expr.op == "not":
            if not isinstance(x, bool):
                raise Wrong("E210", f"`not` needs true or false, found {describe(x)}", expr.span)
            return not x
        if not isinstance(x, Quantity):
            raise Wrong("E210", f"`-` needs a number, found {describe(x)}", expr.span)
        return x._replace(value=-x.value)

    def _binary(self, expr: s.Binary, a: Value, b: Value) -> Value:
        op = expr.op
        if op in ("and", "or"):
            if not isinstance(a, bool) or not isinstance(b, bool):
                raise Wrong("E210", f"`{op}` needs true or false on both sides", expr.span, hint=_sides_hint(a, b))
            return (a and b) if op == "and" else (a or b)
        if not isinstance(a, Quantity) or not isinstance(b, Quantity):
            raise Wrong("E210", f"`{op}` needs numbers on both sides", expr.op_span, hint=_sides_hint(a, b))
        if op in ("*", "/"):
            return _product(expr, a, b)
        if a.dimension != b.dimension:
            labels = (Label(expr.b.span, _type_label(b)),)
            message = f"`{op}` needs the same dimension on both sides, found {a.dimension} and {b.dimension}"
            raise Wrong("E204", message, expr.a.span, label=_type_label(a), labels=labels)
        if op in COMPARE:
            return bool(COMPARE[op](a.value, b.value))
        value = a.value + b.value if op == "+" else a.value - b.value
        return Quantity(_check_finite(value, expr.span), a.dimension, a.percent or b.percent)


def _wrong_rate(expr: s.Binary, wrong: Wrong) -> Wrong:
    """``wrong``, or what is wrong with ``GB/sec``, which reads as a division by the value `sec`."""
    if expr.op != "/" or not isinstance(expr.b, s.Ref) or not isinstance(expr.a, s.Num):
        return wrong
    from plandsl.grammar.spellings import hint_for_rate  # mistakes alone need it

    hint = hint_for_rate(expr.a, expr.b.name)
    place = (expr.a.unit_span or expr.op_span).to(expr.b.span)
    unit = f"{expr.a.unit or ''}/{expr.b.name}"
    return Wrong("E203", f"there is no unit `{unit}`", place, hint=hint) if hint else wrong


def _too_long(name: s.Name) -> Wrong:
    message = f"`{name.text}` depends on a chain of more than {limits.MAX_EXPANSION} names"
    return Wrong("E208", message, name.span, hint=limits.MAX_EXPANSION.hint("write the value out"))


def _type_label(value: Quantity) -> str:
    return f"this is {describe(value)}"


def _sides_hint(a: Value, b: Value) -> str:
    return f"found {describe(a)} and {describe(b)}"


def _product(expr: s.Binary, a: Quantity, b: Quantity) -> Quantity:
    if expr.op == "*":
        value = _check_finite(a.value * b.value, expr.span)
        return Quantity(value, multiply(a.dimension, b.dimension), a.percent != b.percent)
    if b.value == 0:
        raise Wrong("E212", "division by zero", expr.b.span)
    dimension = multiply(a.dimension, b.dimension, -1)
    percent = a.percent and not b.percent and b.dimension == NUMBER
    if isinstance(a.value, int) and isinstance(b.value, int) and a.value % b.value == 0:
        return Quantity(a.value // b.value, dimension, percent)
    return Quantity(_check_finite(a.value / b.value, expr.span), dimension, percent)


def _to_si(value: int | float, factor: float, span: Span) -> int | float:
    """``value`` in SI units, rounded once: a factor below one is the inverse of a whole number."""
    if factor >= 1:
        return _check_finite(value * (int(factor) if factor.is_integer() else factor), span)
    return value / round(1 / factor)


def _check_finite(value: int | float, span: Span) -> int | float:
    too_large = abs(value) >= 10**limits.MAX_DIGITS if isinstance(value, int) else not math.isfinite(value)
    if too_large:
        raise Wrong(
            "E212",
            "the result is too large",
            span,
            hint=limits.MAX_DIGITS.hint(f"at most {limits.MAX_DIGITS} digits are kept"),
        )
    return value
