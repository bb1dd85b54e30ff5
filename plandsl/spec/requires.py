"""All requirements of a plan: its own, and those of the classes of its requests."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from plandsl.spec.plan import TIMES, PlanSpec, RequireSpec

SIMULATED = (*TIMES, "throughput", "throughput_per_gpu", "goodput")
"""Metrics that a run of requests says something of."""


class Asked(NamedTuple):
    """A requirement; ``kind`` is the number of the class that states it, None for the plan's own.

    ``text`` names the class.
    """

    text: str
    require: RequireSpec
    kind: int | None = None


def all_requirements(plan: PlanSpec) -> Iterator[Asked]:
    """The plan's own first, then those of its classes."""
    for r in plan.requires:
        yield Asked(r.text, r)
    for kind, one in enumerate(plan.workload.traffic.classes if plan.workload.traffic else ()):
        for r in one.requires:
            yield Asked(f"{r.text} ({one.name})", r, kind)
