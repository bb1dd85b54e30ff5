"""Rows of measured servers that engines are fitted to and judged on, and those left out by rule.

The rules look at what a row says and at the hardware, never at a prediction.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

from plandsl.backends.accuracy.lengths import EVEN, FIXED
from plandsl.backends.accuracy.serving import (
    METRICS,
    Row,
    by_load,
    catalog_name,
    engine_of,
    read_serving_rows,
)
from plandsl.backends.calibrate.table import read_table
from plandsl.backends.cost.answers.counts import active_parameters
from plandsl.backends.cost.deployments.deployment import Deployment
from plandsl.diagnostics import PlanError
from plandsl.driver import compile_text
from plandsl.entries import catalog_has

BUSIEST = 0.75
"""Rows that imply a larger share of the GPUs' peak arithmetic are left out: the count of something must be wrong."""

UNUSUAL = ("--enforce-eager", "untuned", "early")
"""Words in the notes of rows that were not run as engines are run."""

LOADS = ("closed_concurrency", "static_batch", "offline_all_at_once", "burst_all_at_once")
"""Loads in which seconds hardly matter to which requests share a step."""


class Measured(NamedTuple):
    """A row: who served what where, under what load, and what was measured (``values`` by metric, NaN: not stated).

    ``lengths``: `jittered`, `fixed`, or `assumed` where nothing but habit says that they were fixed.
    """

    at: int
    engine: str
    version: str
    gpu: str
    model: str
    source: str
    lengths: str
    row: Row
    values: dict[str, float]

    @property
    def dense(self) -> bool:
        """Whether the model has no experts."""
        return not catalog_has("dimension", f"{catalog_name(self.model)}.experts")

    @property
    def spread(self) -> tuple[float, float]:
        """The least and the greatest length, in shares of their mean."""
        return EVEN if self.lengths == "jittered" else FIXED


def read_measured(path: Path) -> tuple[list[Measured], dict[int, str]]:
    """The rows of a `serving.csv`, and why each of the others is left out."""
    table = read_table(path)
    rows, reasons = read_serving_rows(table, catalog_has)
    texts = {name: table.texts(name) for name in ("framework", "gpu", "model", "source", "length_jitter", "notes")}
    numbers = {name: table.numbers(name) for name in METRICS["serving"]}
    found: list[Measured] = []
    for (text, kind), of in by_load(rows).items():
        if kind not in LOADS:
            reasons |= dict.fromkeys(of, f"a load that is {kind}")
            continue
        try:
            plan = compile_text(text)[0]
        except PlanError as error:
            reasons |= dict.fromkeys(of, error.diagnostics[0].message)
            continue
        for at in of:
            engine = engine_of(texts["framework"][at], texts["gpu"][at])
            values = {name: float(column[at]) for name, column in numbers.items()}
            why = _why_left_out(plan.cost, rows[at], values, texts["notes"][at]) if engine else "no such engine"
            if why:
                reasons[at] = why
                continue
            named = (str(texts[name][at]) for name in ("framework", "gpu", "model", "source"))
            found.append(Measured(at, engine, *named, _lengths(texts["length_jitter"][at]), rows[at], values))
    return sorted(found, key=lambda m: m.at), reasons


def _lengths(words: str) -> str:
    if "uniform" in words:
        return "jittered"
    return "assumed" if "assumed" in words else "fixed"


def _why_left_out(model: Deployment, row: Row, values: dict[str, float], notes: str) -> str:
    """The rule that leaves a row out; empty for a row that stays."""
    if any(word in notes for word in UNUSUAL):
        return f"its notes say {next(word for word in UNUSUAL if word in notes)}"
    if model.in_flight > 1:
        return "several batches in flight: which requests share a step depends on seconds"
    memory = model.memory
    if any(weight > room for weight, room in zip(memory.weights, memory.capacities, strict=True)):
        return "the weights exceed the memory of the GPUs"
    if _arithmetic(model, row, values) > BUSIEST:
        return f"more than {BUSIEST:.0%} of the GPUs' arithmetic"
    if _queues(model, row, values):
        return "requests queue for a limit that the row does not state"
    return ""


def _queues(model: Deployment, row: Row, values: dict[str, float]) -> bool:
    """Whether requests of a closed loop wait longer than they run, although the cache has room for all of them."""
    first, rest = values["ttft_s"], values["tpot_s"] * (row.output - 1)
    if row.kind != "closed_concurrency" or not first > rest:
        return False
    (pool,) = model.pools
    clients = row.clients / pool.n
    return bool(pool.max_batch(row.input, row.output, ongoing=False) >= clients)


def _arithmetic(model: Deployment, row: Row, values: dict[str, float]) -> float:
    """The share of the GPUs' peak that a row implies: tokens per second, each with 2 FLOPs for an active parameter."""
    rate = values["output_tok_per_s"]
    if not rate > 0:
        rate = row.clients * row.output / (values["ttft_s"] + values["tpot_s"] * (row.output - 1))
    program = model.main.prefill.schedule.program
    needed = rate * (row.input + row.output) / row.output * 2 * active_parameters(program)
    gpu = model.plan.kinds[0].node.gpu
    formats = {w.type.dtype for region in program.regions for w in region.weights if len(w.type.dims) > 1}
    peak = max((gpu.peak(str(dtype)) or 0.0 for dtype in formats), default=0.0)
    return float(needed / (peak * model.plan.sharding.ranks)) if np.isfinite(needed) and peak else 0.0
