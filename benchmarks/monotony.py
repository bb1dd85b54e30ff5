"""How often better hardware makes simulated requests wait longer: a report, not a test.

    python -m benchmarks.monotony [--loads 12] [--seed 0]

Each load is served on a plan and on the same plan with one figure twice as good, with common random numbers: the same
requests at the same times. With other step times other requests share a step, so no law says that each request is
faster. The table says, for each scheduler and figure, on how many loads a mean got worse, and by how much at most.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from random import Random
from typing import NamedTuple

from plandsl.backends.cost.answers.figures import FIGURES, larger_memory
from plandsl.driver import CompiledPlan, compile_text
from plandsl.spec.plan import PlanSpec
from plandsl.spec.scheduler import SCHEDULERS

PLAN = """plan p {{
  model = llama_3_1_8b, node = {node}, sharding {{ {sharding} }}, engine = {engine}, router = {router}
  workload {{ input = {input}, output = {output}, rate = {rate} req/s, requests = 200, seed = {seed} }}
}}"""
SHARDINGS = ("tp = 2", "dp = 2", "pp = 2", "mesh own = 2; batch -> own")
LENGTHS = ("lognormal(mean = 900, sigma = 1)", "uniform(50, 2000)", "exponential(600)")
BETTER = ("memory", "compute", "link", "message", "launch", "engine")
MEANS = ("ttft", "tpot", "latency")

NOTHING = 1e-9
"""A share of a mean that counts as equal."""


class Row(NamedTuple):
    """What a figure that is twice as good does to a mean with a scheduler: on ``worse`` of ``loads`` it gets longer."""

    scheduler: str
    figure: str
    mean: str
    loads: int
    worse: int
    most: float
    """The largest share by which the mean gets longer."""


def draw_plans(scheduler: str, loads: int, seed: int) -> Iterator[PlanSpec]:
    """Plans of one scheduler under drawn loads, from a light one to one that is nearly too much."""
    rng = Random(f"{seed} {scheduler}")
    for at in range(loads):
        (made,) = compile_text(
            PLAN.format(
                node=rng.choice(("h100_8", "a100_sxm_8", "l40s_8")),
                sharding=rng.choice(SHARDINGS),
                engine=scheduler,
                router=rng.choice(("round_robin", "least_loaded", "two_choices")),
                input=rng.choice(LENGTHS),
                output=rng.choice(("uniform(1, 400)", "200")),
                rate=rng.choice((1, 4, 8, 16)),
                seed=at,
            )
        )
        yield made.spec


def improved(spec: PlanSpec) -> Iterator[tuple[str, PlanSpec]]:
    """``spec`` with each figure twice as good."""
    yield from ((FIGURES[key].name, FIGURES[key].improved(spec, 2.0)) for key in BETTER)
    yield "size of the memory", larger_memory(spec, 2.0)


def means(spec: PlanSpec) -> dict[str, float]:
    """The means of a run."""
    told = CompiledPlan(spec, ()).simulate().simulation.summary
    return {name: float(getattr(told, name).mean.value) for name in MEANS}


def report(loads: int, seed: int = 0) -> list[Row]:
    """A row for each scheduler, figure and mean."""
    rows = []
    for scheduler in SCHEDULERS:
        changes: dict[tuple[str, str], list[float]] = {}
        for spec in draw_plans(scheduler, loads, seed):
            before = means(spec)
            for figure, better in improved(spec):
                if better != spec:
                    after = means(better)
                    for name in MEANS:
                        changes.setdefault((figure, name), []).append(after[name] / before[name] - 1)
        for (figure, name), found in changes.items():
            worse = [share for share in found if share > NOTHING]
            most = max(worse, default=0.0)
            rows.append(Row(scheduler, figure, name, loads=len(found), worse=len(worse), most=most))
    return rows


def table(rows: list[Row]) -> str:
    """The rows in which a mean got longer on some load, and sums over all rows."""
    lines = [f"{'scheduler':<10} {'twice as good':<32} {'mean':<8} {'worse':>9}  {'most':>7}"]
    lines += [
        f"{r.scheduler:<10} {r.figure:<32} {r.mean:<8} {f'{r.worse}/{r.loads}':>9}  {r.most:>7.2%}"
        for r in rows
        if r.worse
    ]
    for name in MEANS:
        mine = [r for r in rows if r.mean == name]
        worse, runs = sum(r.worse for r in mine), sum(r.loads for r in mine)
        most = max((r.most for r in mine), default=0.0)
        lines.append(f"{'all':<10} {'':<32} {name:<8} {f'{worse}/{runs}':>9}  {most:>7.2%}")
    return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--loads", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    print(table(report(given.loads, given.seed)))
