"""What the expressions of a plan come to, for people."""

from __future__ import annotations

from plandsl.diagnostics import PlanError
from plandsl.grammar import syntax as s
from plandsl.grammar.evaluate import Value
from plandsl.grammar.modules import Unit, Wrong
from plandsl.grammar.resolve import Module
from plandsl.units import (
    BYTE_RATE,
    BYTES,
    ENERGY,
    FLOP_RATE,
    FLOPS,
    HOUR,
    MONEY,
    MONEY_RATE,
    POWER,
    REQUEST_RATE,
    TIME,
    TOKEN_RATE,
    Quantity,
    show_bytes,
    show_count,
    show_energy,
    show_money,
    show_power,
    show_rate,
    show_time,
)

_SHOWN = {
    BYTES: show_bytes,
    TIME: show_time,
    BYTE_RATE: show_rate,
    POWER: show_power,
    ENERGY: show_energy,
    MONEY: show_money,
    FLOPS: lambda value: show_count(value, "FLOP"),
    FLOP_RATE: lambda value: show_rate(value, "FLOP/s"),
    TOKEN_RATE: lambda value: f"{value:,.6g} tok/s",
    REQUEST_RATE: lambda value: f"{value:,.6g} req/s",
    MONEY_RATE: lambda value: f"{show_money(value * HOUR)}/h",
}


def show_value(module: Module, value: s.Expr, unit: Unit, model: str = "") -> str:
    """What an expression in ``unit`` comes to, which may name dimensions of ``model``; empty where it has no value."""
    try:
        return show(module.evaluate(value, unit, model))
    except (PlanError, Wrong, RecursionError):
        return ""


def show(value: Value) -> str:
    """A value for people: ``256 GB``, ``4,096``, ``true``."""
    match value:
        case bool():
            return str(value).lower()
        case str():
            return f'"{value}"'
        case Quantity():
            if value.percent:
                return f"{100 * value.value:g} %"
            if value.dimension in _SHOWN:
                return _SHOWN[value.dimension](float(value.value))
            number = f"{value.value:,}" if isinstance(value.value, int) else f"{value.value:,.6g}"
            return number if value.dimension == Quantity(0).dimension else f"{number} {value.dimension}"
        case _:
            inner = ", ".join(show(one) for one in value[:8])
            return f"[{inner}{', ...' if len(value) > 8 else ''}]"
