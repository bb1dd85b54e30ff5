"""The metrics of every configuration, as arrays over the grid of loads of one plan."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from plandsl.backends.cost.answers.estimate import price
from plandsl.backends.cost.answers.shares import shares
from plandsl.backends.cost.deployments.deployment import Deployment
from plandsl.ir.types import Number
from plandsl.spec.plan import RequireSpec

Floats = NDArray[np.float64]

METRICS = (
    "ttft", "tpot", "latency", "throughput", "throughput_per_gpu", "memory", "kv_capacity", "max_batch", "comm_share",
    "mfu", "mbu", "cost", "gpus", "goodput", "bearable",
)  # fmt: skip
"""The metrics of a configuration, in the order of columns.

The last two are of plans with requests over time: the requests/s that keep all bounds, and the largest rate at which
they would. In closed form both are about mean times.
"""

OVER_REQUESTS = ("goodput", "bearable")
"""Metrics that only plans with requests over time have."""

FIELDS = {name: name for name in METRICS} | {
    "ttft": "ttft_s",
    "tpot": "tpot_s",
    "latency": "latency_s",
    "throughput": "throughput_tokens_per_s",
    "throughput_per_gpu": "throughput_per_gpu_tokens_per_s",
    "memory": "memory_per_gpu_bytes",
    "kv_capacity": "kv_capacity_tokens",
    "cost": "cost_usd_per_mtok",
    "goodput": "goodput_requests_per_s",
    "bearable": "bearable_requests_per_s",
}
"""Names of the metrics in JSON and in files, the same as in `planc compile --json`."""

MOST = {"throughput", "throughput_per_gpu", "kv_capacity", "max_batch", "mfu", "mbu", *OVER_REQUESTS}
"""Metrics for which more is better; for all others less is better."""


class Values(NamedTuple):
    """Arrays that broadcast to the grid: ``metrics`` by name, where the plan ``fits``, and memory ``used``.

    ``used`` is the largest share of a GPU's usable memory over all stages. ``crowded`` is the rate of requests over the
    largest rate that is served; 0 without a rate.
    """

    metrics: dict[str, Number]
    fits: Number
    used: Number
    crowded: Number = 0.0

    def of(self, require: RequireSpec) -> Number:
        """The values that a requirement compares with its bound."""
        return self.used if require.metric == "memory" and require.share else self.metrics[require.metric]

    def holds(self, require: RequireSpec) -> Number:
        """Where a requirement is met."""
        return require.holds(self.of(require))


def evaluate_metrics(model: Deployment, loads: Mapping[str, Number]) -> Values:
    """Evaluate all metrics of one plan under ``loads`` (by name; arrays broadcast), in SI units."""
    m = model.evaluate(**loads)
    used, paid = shares(model, m), price(model)
    cost = np.inf if paid is None else paid / m.throughput * 1e6
    metrics = {
        "ttft": m.ttft,
        "tpot": m.tpot,
        "latency": m.latency,
        "throughput": m.throughput,
        "throughput_per_gpu": m.throughput_per_gpu,
        "memory": m.memory,
        "kv_capacity": m.kv_capacity,
        "max_batch": m.max_batch,
        "comm_share": used.comm_share,
        "mfu": used.mfu,
        "mbu": used.mbu,
        "cost": cost,
        "gpus": sum(pool.plan.sharding.ranks for pool in model.pools),
        "goodput": np.nan,
        "bearable": np.nan,
    }
    return Values(metrics, m.fits, m.used)
