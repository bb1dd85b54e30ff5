"""The figures of arXiv 2603.05692, recomputed: latency, communication and throughput of both models.

Lines continue dotted, with hollow marks, where a batch does not fit in memory as the study counts it: weights and the
8-bit KV cache of one in-flight batch.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
from attrs import evolve
from numpy.typing import NDArray

from benchmarks.figures import Line, Panel, panels, scatter
from benchmarks.study_plans import BATCHES, LONG, SHORT, Setup, communication, with_link
from benchmarks.study_ratios import RATIOS, known
from plandsl.driver import CompiledPlan

NAMES = {
    "TP8": "tp = 8",
    "TP4": "tp = 4",
    "TP4 x PP2": "tp = 4, pp = 2",
    "TP2": "tp = 2",
    "TP2 x PP4": "tp = 2, pp = 4",
    "PP8": "pp = 8",
    "DP8": "dp = 8",
}
LATENCY = ("TP8", "TP4", "TP4 x PP2", "TP2", "PP8")
THROUGHPUT = ("DP8", "PP8", "TP2 x PP4", "TP4 x PP2", "TP8")
OVER = {"TP4 x PP2": ("--", 3.5), "TP2 x PP4": ("--", 3.5), "PP8": ("-", 4.0)}
"""Line style and mark size of series that overlap others."""
LINKS = np.arange(128, 1025, 64)
"""Bandwidth of all links of a GPU together, GB/s in one direction."""
TICKS = tuple(map(float, BATCHES[::2]))
BATCH = "requests of one in-flight batch"
FULL = {"does not fit": {"linestyle": ":", "marker": "o", "markerfacecolor": "white", "color": "#555555"}}
PHASES = {
    "prefill": {"linestyle": "-", "color": "#555555"},
    "decode": {"linestyle": "--", "color": "#555555"},
}


@cache
def _capacity(plan: CompiledPlan) -> CompiledPlan:
    """``plan`` with an 8-bit KV cache, as the study counts capacities."""
    return CompiledPlan(evolve(plan.spec, model=evolve(plan.spec.model, kv_cache="fp8")), ())


def _fits(setup: Setup, name: str) -> NDArray[np.bool_]:
    return np.asarray(_capacity(setup.plan(NAMES[name])).cost.evaluate(batch=BATCHES).fits)


def _load(setup: Setup) -> str:
    load = setup.plan("tp = 1").spec.workload
    return f"{load.input} tokens in, {load.output} out"


def _hardware(setup: Setup) -> str:
    spec = setup.plan("tp = 1").spec
    size = "405B" if "405b" in spec.model.name else "70B"
    return f"Llama-3.1-{size} ({spec.model.weights}) on {spec.node.count} x {spec.node.gpu.name.upper()}"


def _sweep(setup: Setup, names: tuple[str, ...], field: str, scale: float = 1.0) -> list[Line]:
    """One line per parallelism over the batches."""
    found = []
    for name in names:
        values = np.asarray(getattr(setup.metrics(NAMES[name]), field)) * scale
        found.append(Line(name, BATCHES, values, _fits(setup, name), *OVER.get(name, ())))
    return found


def latency(pair: tuple[Setup, Setup], path: Path) -> None:
    """TTFT and TPOT over batches, a row for each load."""
    rows = [
        [
            Panel(f"TTFT, {_load(s)}", BATCH, "TTFT (s)", _sweep(s, LATENCY, "ttft"), ticks=TICKS),
            Panel(f"TPOT, {_load(s)}", BATCH, "TPOT (ms)", _sweep(s, LATENCY, "tpot", 1e3), ticks=TICKS),
        ]
        for s in pair
    ]
    panels(rows, path, f"Latency of {_hardware(pair[0])}", list(NAMES), FULL)


def throughput(pair: tuple[Setup, Setup], path: Path) -> None:
    """Output tokens per second of all eight GPUs over batches, for each load."""
    row = [
        Panel(
            _load(s),
            BATCH,
            "output tokens per second",
            _sweep(s, THROUGHPUT, "throughput"),
            log_y=False,
            ticks=TICKS,
        )
        for s in pair
    ]
    panels([row], path, f"Throughput of {_hardware(pair[0])}", list(NAMES), FULL)


def _by_batch(setup: Setup) -> list[Line]:
    found = []
    for name in ("TP2", "TP4", "TP8"):
        m = setup.metrics(NAMES[name])
        found.append(Line(name, BATCHES, communication(m.prefill)))
        found.append(Line(name, BATCHES, communication(m.decode), style="--"))
    return found


def _by_link(setup: Setup) -> list[Line]:
    found = []
    for name in ("TP2", "TP4", "TP8"):
        models = [with_link(setup.plan(NAMES[name]), rate * 1e9).evaluate(batch=32) for rate in LINKS]
        found.append(Line(name, LINKS, [communication(m.prefill) for m in models]))
        found.append(Line(name, LINKS, [communication(m.decode) for m in models], style="--"))
    return found


def share(pair: tuple[Setup, Setup], path: Path) -> None:
    """Exposed communication as a share of each phase: over batches, and over the bandwidth of links."""
    setup = pair[0]
    node = setup.plan("tp = 1").spec.node
    rate = node.link.bandwidth * (node.count - 1) / 1e9
    kind = {"log_y": False, "percent": True}
    row = [
        Panel(f"links of {rate:.0f} GB/s per GPU", BATCH, "share of time", _by_batch(setup), ticks=TICKS, **kind),
        Panel(
            "32 requests",
            "all links of a GPU, one direction (GB/s)",
            "share of time",
            _by_link(setup),
            log_x=False,
            ticks=tuple(range(128, 1025, 128)),
            **kind,
        ),
    ]
    panels([row], path, f"Communication in {_hardware(setup)}, {_load(setup)}", list(NAMES), PHASES)


def ratios(path: Path) -> None:
    """Our ratios against the ratios that the study prints."""
    groups = ["fitted" if r.fit else "unseen" for r in RATIOS]
    ours = [r.predicted(known()) for r in RATIOS]
    scatter([r.printed for r in RATIOS], ours, groups, path, title="Ratios printed for Llama-3.1-405B", names=AXES)


AXES = ("printed in arXiv 2603.05692", "plandsl")
BIG, SEVENTY = zip(LONG, SHORT, strict=True)

FIGURES: dict[str, Callable[[Path], None]] = {
    "latency_405b": lambda path: latency(BIG, path),
    "latency_70b": lambda path: latency(SEVENTY, path),
    "throughput_405b": lambda path: throughput(BIG, path),
    "throughput_70b": lambda path: throughput(SEVENTY, path),
    "communication_405b": lambda path: share(BIG, path),
    "communication_70b": lambda path: share(SEVENTY, path),
    "ratios_405b": ratios,
}
