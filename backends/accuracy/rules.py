"""Rows of deployments that are left out of every judgement by rule, before any error is looked at.

The rules look at what a row says and at the hardware, never at a prediction.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from plandsl.backends.accuracy.row import Row
from plandsl.backends.cost.answers.counts import active_parameters
from plandsl.backends.cost.deployments.deployment import Deployment

BUSIEST = 0.75
"""Rows that imply a larger share of the GPUs' peak arithmetic are left out: the count of something must be wrong."""

UNUSUAL = ("--enforce-eager", "untuned", "early")
"""Words in the notes of rows that were not run as engines are run."""


class Given(NamedTuple):
    """What a row states beside its plan: notes, and measurements (NaN: none) in seconds and tokens per second."""

    notes: str
    measured: Mapping[str, float]


def rule_against(model: Deployment, row: Row, given: Given) -> str:
    """The rule that leaves a row out; empty for a row that stays."""
    found = next((word for word in UNUSUAL if word in given.notes.lower()), "")
    if found:
        return f"its notes say {found}"
    for pool in model.pools:
        memory = pool.memory
        if any(weights > room for weights, room in zip(memory.weights, memory.capacities, strict=True)):
            return "the weights exceed the memory of the GPUs"
    if implied_arithmetic(model, row, output_rate(row, given.measured)) > BUSIEST:
        return f"more than {BUSIEST:.0%} of the GPUs' peak arithmetic"
    if waits_long(model, row, given.measured):
        return "requests queue for a limit that the row does not state"
    return ""


def waits_long(model: Deployment, row: Row, measured: Mapping[str, float]) -> bool:
    """Whether requests of a closed loop wait longer than they run, although the cache has room for all of them."""
    rest = measured.get("tpot", np.nan) * (row.output - 1)
    if row.kind != "closed_concurrency" or row.pools > 1 or not measured.get("ttft", np.nan) > rest:
        return False
    (pool,) = model.pools
    return bool(pool.max_batch(row.input, row.output, ongoing=False) >= row.clients / pool.n)


def output_rate(row: Row, measured: Mapping[str, float]) -> float:
    """Measured output tokens/s, or those of requests in flight that take as long as measured (Little 1961); or NaN."""
    rate = measured.get("throughput", np.nan)
    if rate > 0:
        return rate
    return row.clients * row.output / (measured.get("ttft", np.nan) + measured.get("tpot", np.nan) * (row.output - 1))


def implied_arithmetic(model: Deployment, row: Row, rate: float) -> float:
    """The share of the GPUs' peak that ``rate`` output tokens/s imply, each token with 2 FLOPs for an active parameter.

    The peak is that of the lowest format in which the model multiplies. 0 where there is no rate.
    """
    pool = model.pools[-1]
    program = pool.main.prefill.schedule.program
    formats = {w.type.dtype for region in program.regions for w in region.weights if len(w.type.dims) > 1}
    peak = max((pool.plan.kinds[0].node.gpu.peak(str(dtype)) or 0.0 for dtype in formats), default=0.0)
    needed = rate * (row.input + row.output) / row.output * 2 * active_parameters(program)
    gpus = model.plan.ranks * row.copies(model.plan.ranks)
    return float(needed / (peak * gpus)) if np.isfinite(needed) and peak else 0.0
