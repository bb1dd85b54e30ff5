"""What a report page is made of: answers about plans and searches, each as the compiler gives it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from plandsl.answers.estimate import Estimate
from plandsl.answers.flows import Flows
from plandsl.backends.cost.answers.simulation import Run
from plandsl.backends.cost.deployments.deployment import Deployment
from plandsl.diagnostics import Diagnostic
from plandsl.spec.plan import PlanSpec


class PlanShown(NamedTuple):
    """A plan, whole. ``devices`` is its picture as SVG, and ``run`` its requests served; where there is none, why.

    ``run`` is None of a plan whose requests do not arrive over time. ``left_out`` says what of the run is missing.
    """

    spec: PlanSpec
    estimate: Estimate
    model: Deployment
    flows: Sequence[Flows]
    devices: str | Diagnostic
    run: Run | Diagnostic | None = None
    left_out: str = ""


class Point(NamedTuple):
    """A configuration of a search: its ``group`` (a plan), its ``label`` in words, and its metrics in SI units.

    ``front`` tells whether nothing beats it, ``rank`` its place among the best (0: none).
    """

    group: str
    label: str
    tpot: float
    ttft: float
    latency: float
    throughput: float
    memory: float
    front: bool
    rank: int


class SearchShown(NamedTuple):
    """A search: what it looks for, the tables that are printed of it, and a sample of its configurations.

    ``seen`` is the number of configurations, ``per_gpu`` whether throughputs are of a GPU. ``requires`` are pairs of a
    metric of `Point` and a bound, with its text.
    """

    name: str
    goals: str
    parts: Sequence[Any]
    points: Sequence[Point]
    seen: int
    per_gpu: bool
    latencies: Sequence[str]
    requires: Sequence[tuple[str, float, str]]


class Page(NamedTuple):
    """A page about a file: plans that are shown whole, and the estimates of all plans that are compared.

    ``left_out`` names the plans that are only compared. ``version`` is the compiler's.
    """

    file: str
    version: str
    plans: Sequence[PlanShown]
    compared: Sequence[tuple[PlanSpec, Estimate]]
    searches: Sequence[SearchShown]
    left_out: Sequence[str] = ()
