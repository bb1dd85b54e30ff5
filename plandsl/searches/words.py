"""Names of metrics in the tables of a search."""

from __future__ import annotations

WORDS = {"ttft": "TTFT", "tpot": "TPOT", "throughput_per_gpu": "per GPU", "max_batch": "largest batch", "gpus": "GPUs"}
