"""The metrics of every configuration, as arrays over the grid of loads of one plan."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from plandsl.backends.cost.answers.money import Economics, economics, serve_demand
from plandsl.backends.cost.answers.shares import shares
from plandsl.backends.cost.deployments.deployment import COLUMNS, Deployment
from plandsl.ir.types import Number
from plandsl.spec.plan import OF_OUTPUT, RequireSpec

Floats = NDArray[np.float64]

MONEY = {
    "cost_input": "cost_input_usd_per_mtok",
    "cost_output": "cost_output_usd_per_mtok",
    "cost_blended": "cost_blended_usd_per_mtok",
    "cost_request": "cost_usd_per_request",
    "spend": "spend_usd_per_s",
    "energy": "energy_j_per_token",
    "energy_request": "energy_j_per_request",
    "power": "power_w",
    "request_throughput": "requests_per_s",
    "copies": "copies",
}
"""Metrics of money and energy, beside the cost, and their names in JSON and in files."""

METRICS = (
    "ttft", "tpot", "latency", "throughput", "throughput_per_gpu", "memory", "kv_capacity", "max_batch", "comm_share",
    "mfu", "mbu", "cost", *MONEY, "gpus", "goodput", "bearable",
)  # fmt: skip
"""The metrics of a configuration, in the order of columns.

The last two are of plans with requests over time: the requests/s that keep all bounds, and the largest rate at which
they would. In closed form both are about mean times.
"""

OVER_REQUESTS = ("goodput", "bearable")
"""Metrics that only plans with requests over time have."""

FIELDS = {name: COLUMNS.get(name, name) for name in METRICS} | {
    "cost": "cost_usd_per_mtok",
    **MONEY,
    "goodput": "goodput_requests_per_s",
    "bearable": "bearable_requests_per_s",
}
"""Names of the metrics in JSON and in files, the same as in `planc compile --json`."""

MOST = {
    "throughput",
    "throughput_per_gpu",
    "kv_capacity",
    "max_batch",
    "mfu",
    "mbu",
    "request_throughput",
    *OVER_REQUESTS,
}
"""Metrics for which more is better; for all others less is better."""


class Values(NamedTuple):
    """Arrays that broadcast to the grid: ``metrics`` by name, where the plan ``fits``, and memory ``used``.

    ``used`` is the largest share of a GPU's usable memory over all stages. ``crowded`` is the rate of requests over the
    largest rate that is served; 0 without a rate. ``spent`` is what one copy of the plan costs and draws.
    """

    metrics: dict[str, Number]
    fits: Number
    used: Number
    crowded: Number = 0.0
    spent: Economics | None = None

    def of(self, require: RequireSpec) -> Number:
        """The values that a requirement compares with its bound."""
        return self.used if require.metric == "memory" and require.share else self.metrics[require.metric]

    def holds(self, require: RequireSpec) -> Number:
        """Where a requirement is met."""
        return require.holds(self.of(require))


def evaluate_metrics(model: Deployment, loads: Mapping[str, Number]) -> Values:
    """Evaluate all metrics of one plan under ``loads`` (by name; arrays broadcast), in SI units."""
    m = model.evaluate(**loads)
    used, load = shares(model, m), model.plan.workload
    input_, output = loads.get("input", load.input), loads.get("output", load.output)
    spent = economics(model, m, used.phases, input_, output)
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
        **(spent if load.demand is None else serve_demand(spent, load.demand)).metrics,
        "goodput": np.nan,
        "bearable": np.nan,
    }
    if m.encodes:
        metrics |= dict.fromkeys(OF_OUTPUT, np.nan)
    return Values(metrics, m.fits, m.used, spent=spent)
