"""Bands of an engine that was fitted to a user's own runs: how far each run is off that the fit has not seen."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import ceil, exp, floor, log10
from typing import Any

import numpy as np
from attrs import evolve

from plandsl.backends.calibrate.conformal import ENOUGH, Residuals, margin, residuals, together
from plandsl.backends.compare.formats import CLOSED
from plandsl.backends.compare.suspects import JUDGED, Cases
from plandsl.backends.cost.serving.requests import Floats
from plandsl.spec.engine_bands import LOADS, SERVED, EngineBands
from plandsl.spec.hardware import EngineSpec
from plandsl.spec.plan import PlanSpec


def without_stated(engine: EngineSpec) -> EngineSpec:
    """The engine without the bands in its own fields, so that the bands of its classes of loads count."""
    plain: dict[str, Any] = {f"{metric}_{end}": 1.0 for metric in SERVED for end in ("low", "high")}
    return evolve(engine, **plain)


def find_bands(cases: Cases, predicted: Floats, plan: PlanSpec) -> EngineBands | None:
    """The bands of a fitted engine for the GPUs and the model of ``plan``; None where its own engine has none.

    ``predicted`` float64[runs, metrics]: what a fit without a run says of it. Each run is a group. A class of loads has
    its own runs, then all runs, and then the ends of the band that the plan's engine had: fewer than `ENOUGH` runs
    cannot tell the tenths at both ends (`backends/calibrate/conformal.py`).
    """
    served = plan.served()
    factors = []
    for load in LOADS:
        jittered = load.endswith("_jittered")
        if load != served._replace(jittered=jittered).load:
            continue
        for metric in SERVED:
            own = plan.engine_band(metric, jittered)
            rows = dict(_residuals(cases, predicted, metric))
            if own is None or not rows:
                continue
            alike = together([row for at, row in rows.items() if cases.benches[at].differ == jittered])
            ends = Residuals(np.log(own[:1]), np.log(own[1:]), np.array([plan.effective_engine.name]))
            wide = [together(list(rows.values()))] if len(alike.groups) < len(rows) else []
            low, high = margin([alike, *wide, ends])
            factors.append((f"{load}.seen.{metric}", (_digits(low, floor), _digits(high, ceil))))
    if not factors:
        return None
    gpus = tuple(dict.fromkeys(names[0] for names in served.gpus))
    return EngineBands(gpus, (served.model,), tuple(factors))


def _residuals(cases: Cases, predicted: Floats, metric: str) -> Iterator[tuple[int, Residuals]]:
    """The residual of each run that has one, by its place.

    Throughput of a closed loop is what is in flight over the seconds of a request, so that its residual is that of
    the seconds, negative: ``TTFT + (output - 1) TPOT``. Of an open loop the rate says how much is served.
    """
    for at, bench in enumerate(cases.benches):
        if metric in JUDGED:
            column = JUDGED.index(metric)
            ours, theirs = predicted[at, column], cases.measured[at, column]
        elif bench.kind == CLOSED:
            more = np.array([1.0, max(bench.output.mean - 1, 0.0)])
            theirs, ours = predicted[at] @ more, cases.measured[at] @ more
        else:
            continue
        if np.isfinite(ours) and np.isfinite(theirs):
            yield at, residuals(np.array([ours]), np.array([theirs]), str(at))


def _digits(log: float, end: Callable[[float], int]) -> float:
    """``exp(log)`` to four digits, rounded outward, so that the run at the end of a band stays inside."""
    factor = exp(log)
    step = 10.0 ** (floor(log10(factor)) - 3)
    near = round(factor / step)
    return float(f"{(near if abs(near - factor / step) < 1e-6 else end(factor / step)) * step:.4g}")


def tell_bands(engine: str) -> str:
    """Where the bands come from, in words."""
    return (
        f"bands: how far the fit is off for runs that it has not seen; fewer than {ENOUGH} runs cannot tell the ends, "
        f"and then the bands reach as far as those of {engine}"
    )
