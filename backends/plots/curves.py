"""A plan under more and more load: its latencies and its throughput at each batch, concurrency or rate."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from math import nan
from typing import Any, NamedTuple

import numpy as np
from attrs import evolve

from plandsl.answers.estimate import Band, Estimate
from plandsl.answers.simulation import Figure, Spread
from plandsl.backends.cost.answers.estimate import estimate
from plandsl.backends.cost.answers.probes import Probe, serve_made
from plandsl.backends.cost.answers.simulation import find_no_room
from plandsl.backends.cost.deployments.build import Compiled, build_deployment
from plandsl.backends.cost.serving.requests import Floats
from plandsl.backends.plots.bounds import METRICS, bounds_of
from plandsl.backends.plots.knee import knee
from plandsl.backends.plots.sweep import Sweep, sweep
from plandsl.progress import Tick, count_parts, silent
from plandsl.spec.plan import PlanSpec

DEEPEST = 4096
"""The largest batch or concurrency of a curve."""

FEW = 400
"""Requests that are served at each point of a simulated curve."""

Percentiles = Mapping[str, float | None]
"""The percentile of each latency that a curve has; None: the mean."""


class Point(NamedTuple):
    """A load, and what comes of it: tokens out per second of each GPU, and latencies by metric with their bands.

    Of a plan that encodes texts it is tokens in, and the latency alone.
    """

    load: float
    throughput_per_gpu: float
    times: dict[str, float]
    bands: dict[str, Band]


class LoadCurve(NamedTuple):
    """A plan from a small load to the largest that fits, or that can be served.

    ``unit`` is the text around a load, ``own`` the number of the point with the load of the plan itself; None where
    that does not fit. ``percentiles`` is empty for estimates.
    """

    plan: PlanSpec
    unit: str
    points: tuple[Point, ...]
    own: int | None
    percentiles: Percentiles

    def times(self, metric: str) -> Floats:
        """A latency at each point, in seconds; not a number where the plan has none."""
        return np.array([p.times.get(metric, nan) for p in self.points])

    @property
    def throughput_per_gpu(self) -> Floats:
        """Output tokens/s of each GPU at each point."""
        return np.array([p.throughput_per_gpu for p in self.points])

    def knee(self, metric: str) -> int | None:
        """The number of the point at the knee of throughput over a latency; None where there is none."""
        return knee(self.times(metric), self.throughput_per_gpu)

    def as_json(self) -> dict[str, Any]:
        """The machine form, in SI units."""
        points = [
            {
                "load": p.load,
                "throughput_per_gpu_tokens_per_s": p.throughput_per_gpu,
                **{f"{name}_s": p.times.get(name) for name in METRICS},
                **{f"{name}_s_band": list(p.bands[name]) if name in p.bands else None for name in METRICS},
            }
            for p in self.points
        ]
        knees = {name: None if (at := self.knee(name)) is None else self.points[at].load for name in METRICS}
        return {"plan": self.plan.name, "load": self.unit.format("").strip(), "points": points, "knee": knees}


def show_load(load: float) -> str:
    """A batch in full, and a rate with three digits."""
    return f"{load:.0f}" if float(load).is_integer() else f"{load:.3g}"


def load_curves(plans: Sequence[Compiled], tick: Tick = silent) -> list[LoadCurve]:
    """The curve of each plan: by estimates, or by simulation where the load or a requirement needs single requests.

    Simulated latencies are those percentiles that the first requirement on each of them is about, and means without
    one. A plan without room for a KV cache has a curve without points. Raises `PlanError` as `sweep` does.
    """
    percentiles = {metric: _percentile([made.spec for made in plans], metric) for metric in METRICS}
    out = []
    for at, made in enumerate(plans):
        part = count_parts(tick, at, len(plans))
        simulated = made.spec.workload.traffic is not None or any(r.over_requests for r in made.spec.requires)
        if not simulated:
            out.append(estimate_curve(made, part))
        elif find_no_room(made) is not None:
            out.append(LoadCurve(made.spec, "{}", (), None, percentiles))
        else:
            ask = tuple((metric, p) for metric, p in percentiles.items() if p is not None)
            out.append(simulated_curve(sweep(made.spec, serve_made(made), FEW, part, ask), percentiles))
    return out


def metrics_of(plan: PlanSpec) -> Collection[str]:
    """The latencies that a request of a plan has: one that is encoded has no tokens to wait for."""
    return ("latency",) if plan.workload.encodes else METRICS


def _percentile(plans: Sequence[PlanSpec], metric: str) -> float | None:
    stated = [b.require.percentile for b in bounds_of(plans, metric)]
    return next((p for p in stated if p is not None), None)


# ---- by simulation


def simulated_curve(served: Sweep, percentiles: Percentiles) -> LoadCurve:
    """The curve of a plan that was served at several rates; its bands are 95 % intervals."""
    stated = {name: percentiles[name] for name in metrics_of(served.plan)}
    points = tuple(_served_point(one, stated) for one in served.runs)
    own = next((i for i, one in enumerate(served.runs) if one.factor == 1.0), None)
    return LoadCurve(served.plan, f"{{}} {served.unit}", points, own, percentiles)


def _served_point(one: Probe, percentiles: Percentiles) -> Point:
    told = one.told
    times, bands = {}, {}
    for metric, percentile in percentiles.items():
        value, half = _figure(one, metric, percentile)
        times[metric] = value
        if np.isfinite(half):
            bands[metric] = (max(value - half, 0.0), value + half)
    return Point(one.load, told.summary.output_rate / told.gpus, times, bands)


def _figure(one: Probe, metric: str, percentile: float | None) -> Figure:
    """The mean or a percentile of a latency; with an interval if it is one that the report has."""
    spread, name = one.spread(metric), "mean" if percentile is None else f"p{percentile:g}"
    if percentile is None or name in Spread._fields:
        found: Figure = getattr(spread, name)
        return found
    return Figure(one.asked[metric, percentile], float("nan"))


# ---- by estimates


def estimate_curve(made: Compiled, tick: Tick = silent) -> LoadCurve:
    """Estimates of a plan over its batch, or over its concurrency, from 1 to the largest that fits."""
    plan, model = made.spec, build_deployment(made)
    varied = "batch" if plan.workload.concurrency is None else "concurrency"
    own = plan.workload.batch if plan.workload.concurrency is None else plan.workload.concurrency

    def at(load: int) -> Estimate:
        return estimate(model.on(_with_load(plan, varied, load)))

    first = at(1)
    largest = min(max(first.max_batch * (1 if varied == "batch" else first.replicas), 1), DEEPEST)
    loads = sorted({*steps_to(largest), *([own] if own <= largest else [])})
    points = []
    for done, load in enumerate(loads, 1):
        found = at(load)
        if found.fits:
            points.append(_estimated_point(load, found, metrics_of(plan)))
        tick(done, len(loads))
    at_own = next((i for i, p in enumerate(points) if p.load == own), None)
    return LoadCurve(plan, f"{varied} {{}}", tuple(points), at_own, {})


def steps_to(largest: int) -> list[int]:
    """1, 2, 3, 4, 6, 8, 12 and so on, and ``largest`` itself."""
    steps = {n for power in range(largest.bit_length()) for n in (2**power, 3 * 2**power // 2) if n < largest}
    return [*sorted(steps), largest]


def _with_load(plan: PlanSpec, varied: str, load: int) -> PlanSpec:
    """The plan with another concurrency, or with another batch: of two pools, only decode changes its batch."""
    alone, split = varied == "batch", plan.split
    workload = evolve(plan.workload, batch=load) if alone else evolve(plan.workload, concurrency=load)
    if split is not None:
        prefill = split.prefill if alone else _with_load(split.prefill, varied, load)
        split = evolve(split, prefill=prefill, decode=_with_load(split.decode, varied, load))
    return evolve(plan, workload=workload, split=split)


def _estimated_point(load: int, found: Estimate, metrics: Collection[str]) -> Point:
    times = {name: float(getattr(found, f"{name}_s")) for name in metrics}
    bands = {name: band for name in metrics if (band := found.band(f"{name}_s")) is not None}
    return Point(load, found.throughput_per_gpu_tokens_per_s, times, bands)
