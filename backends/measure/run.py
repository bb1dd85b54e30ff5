"""Measure cases one after another, within a time, and keep each row as soon as it is there."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from plandsl.backends.measure.cases import (
    COLLECTIVE,
    COPY,
    LAUNCH,
    LEAST_MEMORY,
    MATRIX,
    MEMORY,
    PEAKS,
    READ,
    UNITS,
    Case,
    multiplies,
    peak,
)
from plandsl.backends.measure.devices import Device, Refused, Repetition
from plandsl.backends.measure.table import Rows

FEWEST, LEAST, MOST = 3, 5, 40
"""Repetitions of a case after one that warms up: at least for calls that take long, at least for others, at most.

Assumed, like `SPAN`, `TURN`, `LONGEST` and `LONG`: they trade the seconds of a run for its noise. The file has the
spread of each row, so that a run can be judged by what came of them.
"""

SPAN = 0.5
"""Seconds of repetitions after which a case is done, if it has `LEAST` of them: assumed."""

TURN = 0.01
"""Seconds that one repetition should take, so that the clock and the call do not count: assumed."""

LONGEST = 0.5
"""Seconds that one repetition may take for the sake of operands that are in no cache: assumed."""

WORKING_SET = 2**29
"""Bytes of operands that a repetition goes through, so that none stays in a cache: the largest last-level caches of
GPUs have 256 MB (AMD CDNA 3 white paper: Infinity Cache), and twice as much drops all of it.
"""

LONG = 2.0
"""Seconds after which one call of a kernel is too long to be measured: assumed."""

STACKED = ("gemm.csv", "attention_prefill.csv", "attention_decode.csv")
"""Tables whose kernels read another operand in each turn."""

UNIT = {COPY: "bytes/s", READ: "bytes/s", LAUNCH: "s", MATRIX: "FLOP/s", MEMORY: "bytes", UNITS: ""}
"""Units of the values of `PEAKS`."""


class Done(NamedTuple):
    """What came of a run: rows that were measured, cases that time did not allow, and why others were not measured."""

    measured: int
    left: int
    refused: Mapping[str, tuple[str, ...]]
    """Reason -> the cases."""


class Rates:
    """What the device reached so far: bytes/s, and FLOP/s by format. Nothing is known before the first rows."""

    def __init__(self, rows: Rows) -> None:
        self.bandwidth, self.peaks = 0.0, dict[str, float]()
        for row in rows.results(PEAKS):
            self.hear(row["metric"], row["dtype"], float(row["value"]))

    def hear(self, metric: str, dtype: str, value: float) -> None:
        """A row of `PEAKS`."""
        if metric == MATRIX:
            self.peaks[dtype] = max(value, self.peaks.get(dtype, 0.0))
        elif metric in (COPY, READ):
            self.bandwidth = max(value, self.bandwidth)

    def seconds(self, case: Case) -> tuple[float, float]:
        """About how long arithmetic and memory traffic of one call take; 0 where nothing is known."""
        dtype = dict(case.cells).get("dtype") or dict(case.cells).get("kv_dtype", "")
        peak = self.peaks.get(multiplies(dtype), max(self.peaks.values(), default=0.0))
        return case.flops / peak if peak else 0.0, case.moved / self.bandwidth if self.bandwidth else 0.0


def copies_of(case: Case, arithmetic: float, traffic: float, memory: float) -> int:
    """How many times a repetition runs the kernel, whose parts take about so many seconds (0: unknown).

    Where memory traffic takes longer than arithmetic, operands must not be in a cache. Otherwise caches make no
    difference, and short repetitions find a moment in which nothing else runs.
    """
    seconds = arithmetic + traffic
    if case.file == PEAKS and case.text("metric") != MATRIX:
        return 2
    turns = math.ceil(TURN / max(seconds, 1e-5)) if seconds else 4
    if case.file not in STACKED or arithmetic > traffic:
        return min(turns, 1024)
    held = max(min(math.ceil(WORKING_SET / case.moved), int(memory / 8 / case.moved)), 1)
    return min(max(held, 2), max(math.ceil(LONGEST / max(seconds, 1e-9)), 1), 4096)


def measure(
    device: Device,
    cases: Iterable[Case],
    rows: Rows,
    seconds: float,
    tell: Callable[[Case, float], None] = lambda case, seconds: None,
    clock: Callable[[], float] = time.monotonic,
) -> Done:
    """Measure those of ``cases`` that ``rows`` lack; no case starts after ``seconds``.

    ``tell`` hears of each row and its seconds. A case that the device refuses, or whose call takes more than `LONG`
    seconds by the rates so far, is not measured, and its reason is kept.
    """
    end, measured, left = clock() + seconds, 0, 0
    refused: dict[str, list[str]] = {}
    for metric, number in ((MEMORY, device.about.memory), (UNITS, device.about.units)):
        if number and not rows.has(fact := peak(metric, 0)):
            rows.add(fact, {"value": f"{number:.10g}", "unit": UNIT[metric]} | _labels(fact, device))
    rates = Rates(rows)
    for case in dict.fromkeys(cases):
        if rows.has(case):
            continue
        if clock() >= end:
            left += 1
            continue
        arithmetic, traffic = rates.seconds(case)
        if arithmetic + traffic > LONG:
            refused.setdefault(f"one call takes more than {LONG:.0f} s", []).append(case.words)
            continue
        try:
            copies = copies_of(case, arithmetic, traffic, device.about.memory or LEAST_MEMORY)
            times = _repeat(device.prepare(case, copies), copies, clock)
        except Refused as error:
            refused.setdefault(str(error), []).append(case.words)
            continue
        result = summary(case, times)
        if case.file == PEAKS:
            rates.hear(case.text("metric"), dict(case.cells).get("dtype", ""), float(str(result["value"])))
        rows.add(case, result | _labels(case, device))
        measured += 1
        tell(case, min(times))
    return Done(measured, left, {why: tuple(names) for why, names in refused.items()})


def _repeat(once: Repetition, copies: int, clock: Callable[[], float]) -> list[float]:
    """Seconds of one kernel in each repetition; the first one, which warms up, does not count."""
    once()
    start, times = clock(), list[float]()
    while (spent := clock() - start) < SPAN or len(times) < (LEAST if spent < LONG else FEWEST):
        times.append(once())
        if len(times) == MOST:
            break
    return times


def summary(case: Case, times: list[float]) -> dict[str, object]:
    """The cells of a result. What disturbs a measurement only makes it longer, so ``time_s`` is the least."""
    ordered = sorted(times)
    least, middle, high = ordered[0], ordered[len(ordered) // 2], ordered[math.ceil(0.9 * len(ordered)) - 1]
    found: dict[str, object] = {"time_s": f"{least:.5g}", "median_s": f"{middle:.5g}", "p90_s": f"{high:.5g}"}
    found["repetitions"] = len(times)
    if case.file == PEAKS:
        metric = case.text("metric")
        work = {MATRIX: case.flops, LAUNCH: 0.0}.get(metric, case.moved)
        found |= {"value": f"{work / least if work else least:.5g}", "unit": UNIT[metric]}
    return found


def _labels(case: Case, device: Device) -> dict[str, object]:
    kernel = "exported program" if device.about.library.startswith("jax") else "eager"
    made: dict[str, object] = {"framework": device.about.library, "kernel": kernel}
    if case.file == COLLECTIVE:
        made["backend"] = "xla (host)" if device.about.host else "nccl (xla)"
    return made
