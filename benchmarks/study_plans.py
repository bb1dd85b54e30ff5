"""The plans of the study: the plans of `examples/study_2603_05692/` by name, and variants for its sweeps."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from attrs import evolve
from numpy.typing import NDArray

from plandsl.backends.cost import Deployment, Metrics
from plandsl.backends.cost.time.phase import PhaseTimes
from plandsl.driver import CompiledPlan, compile_file, compile_text
from plandsl.ir.types import Number

ROOT = Path(__file__).resolve().parent.parent
PLANS = ROOT / "examples" / "study_2603_05692"
BATCHES = 2 ** np.arange(11)
"""The study's sweep of one in-flight batch: 1 to 1024."""


@cache
def plans(file: str) -> dict[str, CompiledPlan]:
    """Every plan of one file of the folder, by name."""
    return {p.name: p for p in compile_file(PLANS / f"{file}.plan")}


@cache
def variant(degrees: str, base: str = "times", more: str = "") -> CompiledPlan:
    """A plan of `common.plan` with these degrees, and other changed fields as text in ``more``."""
    text = f'use "common.plan"\nplan p = {base} with {{ sharding {{ {degrees} }}, {more or "workload { batch = 1 }"} }}'
    (plan,) = compile_text(text, str(PLANS / "variant.plan"))
    return plan


class Setup(NamedTuple):
    """A model on its node under one of the study's loads."""

    label: str
    base: str
    workload: str

    def plan(self, degrees: str) -> CompiledPlan:
        """The setup with these degrees of parallelism."""
        return variant(degrees, self.base, f"workload = {self.workload}")

    def metrics(self, degrees: str, batch: Number | NDArray[np.int_] = BATCHES) -> Metrics:
        """The metrics of the setup over batches."""
        return self.plan(degrees).cost.evaluate(batch=batch)


LONG = (Setup("405B MLPerf", "times", "mlperf"), Setup("70B LongAlpaca", "times_70b", "longalpaca"))
SHORT = (Setup("405B short", "times", "benchmarks_405b"), Setup("70B short", "times_70b", "benchmarks_70b"))
ALL = LONG + SHORT


def with_link(plan: CompiledPlan, bandwidth: float) -> Deployment:
    """The cost model of ``plan`` with links of ``bandwidth`` bytes/s in all per GPU and direction."""
    node = plan.spec.node
    link = evolve(node.link, bandwidth=bandwidth / (node.count - 1))
    return plan.cost.on(evolve(plan.spec, node=evolve(node, link=link)))


def communication(times: PhaseTimes) -> Number:
    """Exposed communication of one pass as a share of its time."""
    exposed: Number = (len(times.stages) - 1) * times.hop
    for stage in times.stages:
        exposed = exposed + stage.exposed
    return exposed / times.through


def op_share(plan: CompiledPlan, phase: str, *ops: str) -> float:
    """Share of a phase's time that ops of these kinds or names take on the slowest stage."""
    found = getattr(plan.estimate(), phase)
    return float(sum(o.time_s for o in found.ops if o.op in ops or o.name in ops) / found.time_s)


def runs(plan: CompiledPlan, keyword: str, phase: str = "prefill") -> list[int]:
    """How often each stage runs ops of one kind in a pass, hops included."""
    schedule = getattr(plan, phase)
    counts = []
    for parts in schedule.stages:
        regions = [(schedule.program.region(p.region), p.repeats) for p in parts]
        counts.append(sum(n * sum(op.keyword == keyword for op in region.ops) for region, n in regions))
    return counts
