"""Units: quantities become SI floats with a dimension, and are formatted for people.

Inside plandsl everything is seconds, bytes, FLOP, bytes/s and FLOP/s. Decimal prefixes are powers of 1000,
binary ones powers of 1024.
"""

from typing import NamedTuple

HOUR = 3600.0
"""Seconds of an hour."""

BASES = ("B", "s", "FLOP", "tok", "req", "USD", "W")
"""Base units. FLOP and OP are the same unit: a peak in OP/s is the peak of an integer type."""


class Dimension(NamedTuple):
    """Exponents of the base units, in the order of `BASES`."""

    byte: int = 0
    second: int = 0
    flop: int = 0
    token: int = 0
    request: int = 0
    usd: int = 0
    watt: int = 0

    def __str__(self) -> str:
        return _NAMES.get(self) or _spell(self)


NUMBER = Dimension()
BYTES = Dimension(byte=1)
TIME = Dimension(second=1)
FLOPS = Dimension(flop=1)
BYTE_RATE = Dimension(byte=1, second=-1)
FLOP_RATE = Dimension(flop=1, second=-1)
TOKEN_RATE = Dimension(token=1, second=-1)
REQUEST_RATE = Dimension(request=1, second=-1)
MONEY = Dimension(usd=1)
MONEY_RATE = Dimension(usd=1, second=-1)
POWER = Dimension(watt=1)
ENERGY = Dimension(watt=1, second=1)

_NAMES = {
    NUMBER: "a plain number",
    BYTES: "bytes",
    TIME: "a time",
    FLOPS: "a number of operations",
    BYTE_RATE: "bytes per second",
    FLOP_RATE: "operations per second",
    TOKEN_RATE: "tokens per second",
    REQUEST_RATE: "requests per second",
    MONEY: "money",
    MONEY_RATE: "money per time",
    POWER: "power",
    ENERGY: "energy",
}

EXAMPLES = {
    BYTES: "256 GB",
    TIME: "5 us",
    FLOPS: "2 TFLOP/s * 1 s",
    BYTE_RATE: "6 TB/s",
    FLOP_RATE: "1307 TFLOP/s",
    TOKEN_RATE: "1000 tok/s",
    REQUEST_RATE: "12 req/s",
    MONEY: "5 USD",
    MONEY_RATE: "2 USD/h",
    POWER: "700 W",
    ENERGY: "2 J",
    NUMBER: "8",
}


def _spell(dimension: Dimension) -> str:
    def part(exponent: int, name: str) -> str:
        return name if abs(exponent) == 1 else f"{name}^{abs(exponent)}"

    over = [part(e, n) for e, n in zip(dimension, BASES, strict=True) if e > 0]
    under = [part(e, n) for e, n in zip(dimension, BASES, strict=True) if e < 0]
    return (" ".join(over) or "1") + ("/" + "/".join(under) if under else "")


def _table() -> dict[str, tuple[float, Dimension]]:
    table: dict[str, tuple[float, Dimension]] = {"%": (0.01, NUMBER)}
    for power, prefix in enumerate(("", "K", "M", "G", "T")):
        table[prefix + "B"] = (float(1000**power), BYTES)
        table[prefix + "B/s"] = (float(1000**power), BYTE_RATE)
        table[prefix + "bit/s"] = (1000**power / 8, BYTE_RATE)
        if prefix:
            table[prefix + "iB"] = (float(1024**power), BYTES)
            table[prefix + "iB/s"] = (float(1024**power), BYTE_RATE)
    for power, prefix in enumerate(("", "K", "M", "G", "T", "P")):
        for op in ("FLOP", "OP"):
            table[f"{prefix}{op}/s"] = (float(1000**power), FLOP_RATE)
            table[f"{prefix}{op}"] = (float(1000**power), FLOPS)
    for unit, seconds in {"ns": 1e-9, "us": 1e-6, "ms": 1e-3, "s": 1.0, "min": 60.0, "h": HOUR}.items():
        table[unit] = (seconds, TIME)
    table["tok"] = (1.0, Dimension(token=1))
    table["req"] = (1.0, Dimension(request=1))
    table["tok/s"] = (1.0, TOKEN_RATE)
    table["req/s"] = (1.0, REQUEST_RATE)
    table["USD"] = (1.0, MONEY)
    table["USD/h"] = (1 / HOUR, MONEY_RATE)
    for prefix, factor in {"": 1.0, "k": 1e3, "M": 1e6}.items():
        table[prefix + "W"] = (factor, POWER)
        table[prefix + "J"] = (factor, ENERGY)
        table[prefix + "Wh"] = (HOUR * factor, ENERGY)
    return table


UNITS = _table()
"""Unit -> (factor to SI, dimension)."""


class Quantity(NamedTuple):
    """An SI value, its dimension, and whether it was written with ``%``."""

    value: int | float
    dimension: Dimension = NUMBER
    percent: bool = False


def multiply(a: Dimension, b: Dimension, sign: int = 1) -> Dimension:
    """The dimension of ``a * b`` (``sign`` 1) or of ``a / b`` (-1)."""
    return Dimension(*(x + sign * y for x, y in zip(a, b, strict=True)))


def _format_scaled(value: float, steps: tuple[tuple[float, str], ...]) -> str:
    for factor, unit in steps:
        if abs(value) >= factor * 0.9995:
            return f"{_round(value / factor)} {unit}"
    factor, unit = steps[-1]
    return f"{_round(value / factor)} {unit}"


def _round(value: float) -> str:
    """Three significant digits, never in exponent form for everyday sizes."""
    if value == 0:
        return "0"
    size = abs(value)
    if size >= 1e6 or size < 1e-3:
        return f"{value:.3g}"
    digits = 0 if size >= 99.95 else 1 if size >= 9.995 else 2 if size >= 0.9995 else 3
    return f"{value:.{digits}f}"


def show_time(seconds: float) -> str:
    """``0.0123`` -> ``12.3 ms``."""
    if seconds >= 600:
        return _format_scaled(seconds, ((HOUR, "h"), (60.0, "min")))
    return _format_scaled(seconds, ((1.0, "s"), (1e-3, "ms"), (1e-6, "us"), (1e-9, "ns")))


def show_bytes(size: float) -> str:
    """``2.56e11`` -> ``256 GB``."""
    return _format_scaled(size, ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "KB"), (1.0, "B")))


def show_count(count: float, unit: str = "") -> str:
    """``70_553_706_496`` -> ``70.6 G``, with ``unit`` behind the prefix."""
    if abs(count) < 10_000 and float(count).is_integer():
        return f"{int(count)} {unit}".strip()
    steps = ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "K"), (1.0, ""))
    return _format_scaled(count, tuple((f, p + unit) for f, p in steps)).strip()


def counted(many: int, what: str) -> str:
    """``3 more stages``, ``1 GPU``."""
    return f"{many} {what}{'' if many == 1 else 's'}"


def show_rate(rate: float, unit: str = "B/s") -> str:
    """``6e12`` -> ``6.00 TB/s``."""
    return show_count(rate, unit)


def show_power(watts: float) -> str:
    """``5600`` -> ``5.60 kW``."""
    return _format_scaled(watts, ((1e6, "MW"), (1e3, "kW"), (1.0, "W")))


def show_energy(joules: float) -> str:
    """``0.32`` -> ``0.320 J``."""
    return _format_scaled(joules, ((1e9, "GJ"), (1e6, "MJ"), (1e3, "kJ"), (1.0, "J"), (1e-3, "mJ")))


def show_money(usd: float) -> str:
    """``0.0123`` -> ``0.0123 USD``, ``1234.5`` -> ``1,234 USD``."""
    return f"{usd:,.0f} USD" if abs(usd) >= 999.5 else f"{_round(usd)} USD"


def show_percent(share: float) -> str:
    """``0.423`` -> ``42.3 %``."""
    return f"{100 * share:.1f} %"
