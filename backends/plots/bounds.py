"""The requirements of plans as lines on an axis: equal ones of several plans are one line."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from plandsl.spec.plan import PlanSpec, RequireSpec
from plandsl.spec.requires import all_requirements

METRICS = {"ttft": "TTFT", "tpot": "TPOT", "latency": "latency"}
"""Latencies, with the names that pictures give them."""

NEAR = 8.0
"""A bound that lies more than this factor beyond all curves is named below the axes and not drawn."""


class Bound(NamedTuple):
    """A requirement, and its text; the text names the plans that state it where others do not."""

    text: str
    require: RequireSpec


def bounds_of(plans: Sequence[PlanSpec], metric: str) -> list[Bound]:
    """The bounds of a metric that plans and the classes of their requests state, each once."""
    stated: dict[str, tuple[RequireSpec, list[str]]] = {}
    for plan in plans:
        for text, require, _ in all_requirements(plan):
            if require.metric == metric and require.op in ("<", "<=", ">", ">="):
                names = stated.setdefault(text, (require, []))[1]
                names += [plan.name] if plan.name not in names else []
    return [
        Bound(text if len(names) == len(plans) else f"{', '.join(names)}: {text}", require)
        for text, (require, names) in stated.items()
    ]


def widen(place: Any, bounds: Sequence[Bound], along_x: bool) -> tuple[list[Bound], list[str]]:
    """Widen an axis, so that bounds near its curves lie on it. Return these bounds, and the texts of the others."""
    low, high = place.get_xlim() if along_x else place.get_ylim()
    near = [b for b in bounds if low / NEAR <= b.require.bound <= high * NEAR]
    values = [b.require.bound for b in near]
    ends = min([low, *(v / 1.2 for v in values)]), max([high, *(v * 1.2 for v in values)])
    (place.set_xlim if along_x else place.set_ylim)(*ends)
    return near, [b.text for b in bounds if b not in near]
