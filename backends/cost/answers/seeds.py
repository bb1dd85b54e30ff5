"""One load from several seeds: its runs, and what they say together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import isfinite, nan

import numpy as np
from attrs import evolve

from plandsl.answers.estimate import Requirement
from plandsl.answers.money import Served
from plandsl.answers.seeds import OverSeeds, SeedsRequirement
from plandsl.answers.simulation import GROWS, Figure, Occupancy, Simulation, Spread, Summary
from plandsl.backends.cost.answers.mean_load import WithLoad, build_cost
from plandsl.backends.cost.answers.simulation import build_servers, seed_of, serve_plan
from plandsl.backends.cost.answers.spent import with_spent
from plandsl.backends.cost.deployments.build import Compiled
from plandsl.backends.cost.serving.percentiles import half_width
from plandsl.diagnostics import Diagnostic, PlanError
from plandsl.spec.plan import PlanSpec
from plandsl.spec.requires import all_requirements
from plandsl.values import sum_up


def with_seed(plan: PlanSpec, seed: int) -> PlanSpec:
    """``plan`` with another seed of its load."""
    traffic = plan.workload.traffic
    assert traffic is not None, "a load that draws has a seed"
    return evolve(plan, workload=evolve(plan.workload, traffic=evolve(traffic, seed=seed)))


def seeds_of(plan: PlanSpec, number: int) -> range:
    """``number`` seeds, of which the first is the load's own. Raises `PlanError` (E400) where nothing is drawn."""
    traffic = plan.workload.traffic
    replays = traffic is not None and traffic.trace is not None and traffic.arrivals is None
    if traffic is None or (replays and plan.router != "two_choices" and plan.speculate is None):
        why = f"`{plan.name}` draws nothing from a seed: every run of its load is the same"
        hint = "give the workload a `rate`, or leave --seeds out"
        raise PlanError([Diagnostic("E400", why, plan.workload.span or plan.span, hint=hint)])
    return range(seed_of(plan), seed_of(plan) + number)


def serve_seed(made: Compiled, seed: int, count: int | None = None) -> Simulation:
    """The run of a plan from one seed. Raises as `serve_plan` does."""
    run = serve_plan(with_seed(made.spec, seed), build_servers(made), count, keep_steps=False)
    return with_spent(build_cost(WithLoad(made, lambda plan: with_seed(plan, seed))), run).simulation


def tell_seeds(plan: PlanSpec, seeds: Sequence[int], runs: Sequence[Simulation]) -> OverSeeds:
    """What the runs of ``plan`` with these ``seeds`` say together."""
    first = runs[0]
    summary = _mean_summary([run.summary for run in runs])
    requires = tuple(_requirements(plan, runs))
    mean = first._replace(
        summary=summary,
        occupancy=_mean_occupancy([run.occupancy for run in runs]),
        requires=tuple(Requirement(r.text, r.figure.value, r.ok) for r in requires),
        spent=_mean_spent([run.spent for run in runs if run.spent is not None]),
    )
    return OverSeeds(
        seeds=tuple(seeds),
        mean=mean,
        request_rate=_over(runs, lambda run: run.summary.request_rate),
        output_rate=_over(runs, lambda run: run.summary.output_rate),
        goodput=_over(runs, lambda run: run.summary.goodput),
        requires=requires,
        runs=tuple(runs),
    )


def mean_over(values: Sequence[float]) -> Figure:
    """The mean of a value over independent runs, with its 95 % interval by Student's t; NaN counts as no value.

    Source: Law, "Simulation Modeling and Analysis", 5th edition, section 9.4.1 (independent replications).
    """
    there = [value for value in values if isfinite(value)]
    return Figure(float(np.mean(there)), half_width(there)) if there else Figure(nan, nan)


def _over(runs: Sequence[Simulation], value: Callable[[Simulation], float]) -> Figure:
    return mean_over([value(run) for run in runs])


def _requirements(plan: PlanSpec, runs: Sequence[Simulation]) -> list[SeedsRequirement]:
    found = []
    for asked in all_requirements(plan):
        told = [r for run in runs for r in run.requires if r.text == asked.text]
        if told:
            figure = mean_over([r.value for r in told])
            ok = bool(asked.require.holds(figure.value))
            met = sum_up(r.ok for r in told)
            found.append(SeedsRequirement(asked.text, figure, ok, met=met, runs=len(told)))
    return found


def _mean_spent(runs: Sequence[Served]) -> Served | None:
    def mean(values: Sequence[float | None]) -> float | None:
        there = [value for value in values if value is not None]
        return mean_over(there).value if there else None

    return Served(*map(mean, zip(*runs, strict=True))) if runs else None


def _mean_summary(runs: Sequence[Summary]) -> Summary:
    """Means over the runs. The queue of the summary grows if the queue of one run grows."""
    grows = [run.bearable for run in runs if not run.stable]
    refused = sum(run.served < run.requests for run in runs)
    warnings = [f"{GROWS} in {len(grows)} of {len(runs)} runs"] if grows else []
    warnings += [f"requests are not served in {refused} of {len(runs)} runs"] if refused else []
    return Summary(
        requests=round(np.mean([run.requests for run in runs])),
        served=round(np.mean([run.served for run in runs])),
        duration_s=mean_over([run.duration_s for run in runs]).value,
        request_rate=mean_over([run.request_rate for run in runs]).value,
        input_rate=mean_over([run.input_rate for run in runs]).value,
        output_rate=mean_over([run.output_rate for run in runs]).value,
        goodput=mean_over([run.goodput for run in runs]).value,
        ttft=_mean_spread([run.ttft for run in runs]),
        tpot=_mean_spread([run.tpot for run in runs]),
        itl=_mean_spread([run.itl for run in runs]),
        latency=_mean_spread([run.latency for run in runs]),
        preemptions=round(np.mean([run.preemptions for run in runs])),
        bearable=mean_over(grows).value,
        warnings=tuple(warnings),
    )


def _mean_spread(runs: Sequence[Spread]) -> Spread:
    mean, p50, p90, p95, p99 = (
        mean_over([f.value for f in column]) for column in zip(*(r[:-1] for r in runs), strict=True)
    )
    return Spread(mean, p50, p90, p95=p95, p99=p99, number=sum_up(run.number for run in runs))


def _mean_occupancy(runs: Sequence[Occupancy]) -> Occupancy:
    """Means over the runs, and the largest peaks."""

    def both(each: Sequence[tuple[float, float]]) -> tuple[float, float]:
        return float(np.mean([mean for mean, _ in each])), max(peak for _, peak in each)

    return Occupancy(
        both([run.running for run in runs]),
        both([run.waiting for run in runs]),
        both([run.kv_cache for run in runs]),
        busy=float(np.mean([run.busy for run in runs])),
    )
