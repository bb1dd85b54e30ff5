"""What a plan predicts for the load of a run: its requests served one by one, also with other constants."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import copy

import numpy as np
from attrs import evolve

from plandsl.answers.comparison import Measure
from plandsl.backends.compare.bench import Bench
from plandsl.backends.compare.formats import METRICS, RATES
from plandsl.backends.compare.loads import count_of, plan_under, requests_of
from plandsl.backends.cost.answers.simulation import Run, Servers, join_servers, serve_load, tell_run, time_of
from plandsl.backends.cost.deployments.build import Compiled, build_deployment
from plandsl.backends.cost.deployments.deployment import Deployment
from plandsl.backends.cost.deployments.replicas import Replicas
from plandsl.backends.cost.serving.clock import server_clock, table_clock
from plandsl.backends.cost.serving.serve import block_bytes, worker
from plandsl.spec.hardware import EngineSpec
from plandsl.spec.plan import PlanSpec

Change = Callable[[EngineSpec], EngineSpec]
"""Makes another engine of a plan's engine."""


class Predictor:
    """Serves runs on the servers of a plan. Kernels are tabulated once for engines under which they take as long."""

    def __init__(self, made: Compiled) -> None:
        self.plan = made.spec
        self.deployment: Deployment = build_deployment(made)
        self.pools: Sequence[Replicas] = self.deployment.pools
        make = table_clock if len(self.pools) == 1 else server_clock
        self.clocks = [make(pool.one) for pool in self.pools]
        self.alone: Servers = join_servers(self.pools, self.clocks)

    @property
    def engine(self) -> EngineSpec | None:
        """The engine of the servers that decode; None where the plan names none."""
        return self.pools[-1].plan.engine

    def with_engine(self, engine: EngineSpec) -> Predictor:
        """A predictor of the same plan with another engine."""
        other = copy(self)
        other.pools = [pool.on(with_engine(pool.plan, lambda _: engine)) for pool in self.pools]
        other.clocks = [clock.on(pool.one) for clock, pool in zip(self.clocks, other.pools, strict=True)]
        other.alone = join_servers(other.pools, other.clocks)
        return other

    def servers(self, change: Change) -> Servers:
        """The servers with another engine."""
        pools = [pool.on(with_engine(pool.plan, change)) for pool in self.pools]
        return join_servers(pools, [clock.on(pool.one) for clock, pool in zip(self.clocks, pools, strict=True)])

    def count(self, bench: Bench) -> int:
        """How many requests of a run are simulated."""
        return count_of(bench)

    def run(self, bench: Bench, servers: Servers) -> Run:
        """What becomes of the requests of a run. Raises `PlanError` (E328) where no KV cache fits."""
        count = self.count(bench)
        plan = plan_under(self.plan, bench, count)
        load = requests_of(plan, bench, count)
        rooms, records = serve_load(plan, servers, load, keep_steps=True)
        return tell_run(plan, servers, load, rooms, records)

    def kv_bytes(self, bench: Bench) -> float:
        """Bytes of KV cache on a GPU of the servers that decode."""
        plan = plan_under(self.plan, bench, self.count(bench))
        requests, one = requests_of(plan, bench, self.count(bench)).requests, self.pools[-1].one
        made = worker(one, requests, one.plan.effective_engine.scheduler_name, clock=self.alone.clock)
        length = round(bench.input.mean + bench.output.mean)
        return block_bytes(one, max(length, 1)) * made.blocks / max(int(one.main.ways), 1)


def with_engine(plan: PlanSpec, change: Change) -> PlanSpec:
    """The plan with another engine."""
    return plan if plan.engine is None else evolve(plan, engine=change(plan.engine))


def value_of(run: Run, metric: str, statistic: str) -> float:
    """A statistic of a metric of a simulated run; NaN where there is none."""
    summary = run.simulation.summary
    if metric in RATES:
        rates = summary.output_rate, summary.request_rate, summary.output_rate + summary.input_rate
        return dict(zip(RATES, rates, strict=True))[metric]
    if metric == "itl":
        figure = getattr(summary.itl, statistic, None)
        return float("nan") if figure is None else float(figure.value)
    percentile = None if statistic == "mean" else float(statistic.removeprefix("p"))
    return time_of(run.records, metric, percentile).value


def order_of(key: tuple[str, str]) -> tuple[int, float]:
    """Where a statistic stands in a report: by metric, the mean first, then percentiles."""
    metric, statistic = key
    return (*METRICS, *RATES).index(metric), 0.0 if statistic == "mean" else float(statistic.removeprefix("p"))


BANDS = {"ttft": "ttft", "tpot": "tpot", "itl": "tpot", **dict.fromkeys(RATES, "throughput")}
"""The metric whose band holds for a metric.

Bands were found from means and medians; percentiles of requests are taken to have the same. Of the gaps that ITL pools,
only the mean has a band.
"""


def measures_of(plan: PlanSpec, bench: Bench, run: Run) -> tuple[Measure, ...]:
    """Each statistic that was measured, beside its prediction and the band of the engine around it."""
    found = []
    bands = {name: plan.engine_band(name, bench.differ) for name in ("ttft", "tpot", "throughput")}
    for metric, statistic in sorted(bench.measured, key=order_of):
        predicted = value_of(run, metric, statistic)
        if not np.isfinite(predicted) or predicted <= 0:
            continue
        if metric == "latency":
            low, high = _latency_band(bands, run, predicted)
        else:
            band = None if metric == "itl" and statistic != "mean" else bands[BANDS[metric]]
            low, high = (None, None) if band is None else (predicted * band[0], predicted * band[1])
        found.append(Measure(metric, statistic, bench.measured[metric, statistic], predicted, low=low, high=high))
    return tuple(found)


def _latency_band(
    bands: dict[str, tuple[float, float] | None], run: Run, predicted: float
) -> tuple[float | None, float | None]:
    """The band of a whole request: that of TTFT for the part before the first token, that of TPOT for the rest."""
    first, later = bands["ttft"], bands["tpot"]
    summary = run.simulation.summary
    if first is None or later is None or not summary.latency.mean.value > 0:
        return None, None
    share = min(summary.ttft.mean.value / summary.latency.mean.value, 1.0)
    low, high = (share * first[at] + (1 - share) * later[at] for at in (0, 1))
    return predicted * low, predicted * high
