"""A load that is served at several rates: how many requests of it at each, and the rate at which they came."""

from __future__ import annotations

import numpy as np

from plandsl.backends.cost.serving.records import Records
from plandsl.backends.cost.serving.workloads import REQUESTS
from plandsl.spec.plan import WorkloadSpec
from plandsl.spec.rates import arrivals_of
from plandsl.spec.traffic import Traced, Varying

WIDEST = 2.0**12
"""Factors from ``1 / WIDEST`` to ``WIDEST`` are tried."""


def requests_at(load: WorkloadSpec, factor: float, count: int | None = None) -> int | None:
    """How many requests of ``load`` to serve at ``factor`` times its rate, ``count`` in place of its own number.

    As many at each rate, but for a closed loop as many for each of its places, and for a rate that changes as many as
    come in the same time. None: as many as a trace or a duration has.
    """
    given, traffic = load.requests if count is None else count, load.traffic
    if given is None and traffic is not None and (traffic.duration is not None or traffic.trace is not None):
        return None
    if load.concurrency is not None:
        return None if given is None else max(round(given * factor), 1)
    if any(isinstance(one, (Varying, Traced)) for one in arrivals_of(load)):
        return max(round((given or REQUESTS) * factor), 1)
    return given


def arrival_span(records: Records) -> tuple[int, float]:
    """How many requests arrived, and the seconds from the first to the last."""
    came = records.arrival_s[np.isfinite(records.arrival_s)]
    return len(came), float(np.ptp(came)) if len(came) else 0.0
