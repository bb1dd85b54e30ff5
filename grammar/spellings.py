"""Units as people write them elsewhere, and what a plan writes for them."""

from __future__ import annotations

import re

from plandsl.grammar import syntax as s
from plandsl.units import UNITS

SPELLINGS = {
    "sec": "s",
    "second": "s",
    "seconds": "s",
    "msec": "ms",
    "usec": "us",
    "nsec": "ns",
    "minutes": "min",
    "hours": "h",
    "hr": "h",
    "bytes": "B",
    "tokens": "tok",
    "tokens/s": "tok/s",
    "tps": "tok/s",
    "requests": "req",
    "rps": "req/s",
    "qps": "req/s",
    "gbps": "Gbit/s",
    "tbps": "Tbit/s",
    "gflops": "GFLOP/s",
    "tflops": "TFLOP/s",
    "pflops": "PFLOP/s",
    "tops": "TOP/s",
    "percent": "%",
    "dollars": "USD",
    "watts": "W",
    "mins": "min",
    "milliseconds": "ms",
    "microseconds": "us",
    "nanoseconds": "ns",
    "kilobytes": "KB",
    "megabytes": "MB",
    "gigabytes": "GB",
    "terabytes": "TB",
    "gibibytes": "GiB",
    "requests/s": "req/s",
    "tf": "TFLOP/s",
    "pf": "PFLOP/s",
    "flops": "FLOP/s",
    "teraflops": "TFLOP/s",
    "petaflops": "PFLOP/s",
}
"""Other spellings that people use -> the unit."""

SECONDS = ("s", "sec", "secs", "second", "seconds")
HOURS = ("h", "hr", "hour", "hours")

_BITS = re.compile(r"([KMGT])b(/s)?")
_PER_SECOND = re.compile(r"([KMGT]i?)B[pP][sS]")
_PREFIXES = {"k": 1_000, "K": 1_000, "M": 1_000_000}
_COUNTED = ("tok", "req")


def hint_for_unit(number: s.Num) -> str:
    """What to write for a number whose unit is none."""
    word, value = number.unit or "", number.value
    if bits := _BITS.fullmatch(word):
        prefix, rate = bits[1], bits[2] or ""
        if rate:
            return f"write `{value:g} {prefix}bit/s` for bits, or `{value:g} {prefix}B/s` for bytes"
        return f"write `{value:g} {prefix}B`, or `{value / 8:g} {prefix}B` if bits are meant"
    if rate := _PER_SECOND.fullmatch(word):
        return f"did you mean `{rate[1]}B/s`?"
    if word in _PREFIXES and float(value * _PREFIXES[word]).is_integer():
        return f"write `{int(value * _PREFIXES[word]):_}`"
    if word in ("G", "T"):
        return f"did you mean `{word}B`?"
    known = SPELLINGS.get(word.lower()) or next((unit for unit in UNITS if unit.lower() == word.lower()), None)
    if known in _COUNTED:
        return f"write `{value:g}` for a count, as of `input`, or `{value:g} {known}` where a unit is needed"
    if word.lower() in ("gpu", "gpus", "layers", "heads", "x"):
        return f"write `{value:g}`: counts have no unit"
    return f"did you mean `{known}`?" if known else "units are written `GB`, `GB/s`, `TFLOP/s`, `ms`, `tok/s`, `%`"


def hint_for_rate(number: s.Num, per: str) -> str:
    """What to write for a unit and the word that it is divided by; empty if the word is no time."""
    word = per.lower()
    time = "s" if word in SECONDS else "h" if word in HOURS else ""
    if time and not number.unit:
        return f"write what is counted too: `{number.value:g} req/{time}`"
    unit = f"{SPELLINGS.get((number.unit or '').lower(), number.unit)}/{time}"
    if time and unit in UNITS:
        return f"did you mean `{unit}`?"
    return f"write `{number.value:g} {number.unit} / 1 min`" if word in ("min", "minute", "minutes", "m") else ""
