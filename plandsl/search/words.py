"""Metrics of a search for people: their names in tables, and their values with units."""

from __future__ import annotations

import math

from plandsl.spec.plan import TIMES
from plandsl.units import show_bytes, show_count, show_percent, show_time

WORDS = {"ttft": "TTFT", "tpot": "TPOT", "throughput_per_gpu": "per GPU", "max_batch": "largest batch", "gpus": "GPUs"}


def metric_text(metric: str, value: float) -> str:
    """The text of a metric with its unit; `-` where it has no value."""
    if not math.isfinite(value):
        return "-"
    if metric in TIMES:
        return show_time(value)
    if metric in ("throughput", "throughput_per_gpu"):
        return f"{value:,.0f} tok/s" if value >= 100 else f"{value:.3g} tok/s"
    if metric in ("goodput", "bearable"):
        return f"{value:.3g} req/s"
    if metric == "memory":
        return show_bytes(value)
    if metric in ("comm_share", "mfu", "mbu"):
        return show_percent(value)
    if metric == "cost":
        return f"{value:.3g} USD"
    return show_count(value)
