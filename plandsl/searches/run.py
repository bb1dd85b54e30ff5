"""Run a search: compile plans once for each structure, evaluate loads as arrays, and add up the results."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from attrs import define, evolve, field
from numpy.typing import NDArray

from plandsl import ending, limits
from plandsl.diagnostics import Diagnostic, PlanError
from plandsl.driver import CompiledPlan, check_spec
from plandsl.passes import structure
from plandsl.progress import Tick, silent
from plandsl.searches.space import Candidate, Grid, Space
from plandsl.searches.tally import NO_ROWS, Rows, Tally, fill_tally
from plandsl.searches.values import METRICS, Values, evaluate_metrics
from plandsl.spec.plan import PlanSpec, RequireSpec
from plandsl.spec.requires import SIMULATED
from plandsl.spec.search import DEGREES, LOADS, Combination, Condition, Goal, SearchSpec

ENDLESS = ("ttft", "latency")
"""Times that grow without end where requests arrive faster than they are served."""

CHUNK = 200_000
"""Configurations that are evaluated at once; their arrays take tens of megabytes."""

MEMORY = "does not fit in memory"
"""The reason that is checked first."""

RATE = "requests arrive faster than they are served"
"""The reason that is checked next, of plans with requests over time."""

MOST_SIMULATED = 32
"""Most candidates of a search over requests that are simulated, unless the caller wants others."""

NEAR = 1.5
"""The factor by which a configuration may miss a requirement in closed form, and still be simulated."""


class Job(NamedTuple):
    """A plan and a part (``slab``) of the grid of loads, to evaluate.

    ``values`` are the values that conditions may read. ``first`` is the number of the plan's first configuration.
    ``tally`` is an empty tally to fill. ``at_mean``: the plan has requests over time, and is evaluated at their mean.
    """

    plan: PlanSpec
    values: dict[str, Any]
    grid: Grid
    slab: tuple[slice, ...]
    first: int
    conditions: tuple[Condition, ...]
    tally: Tally
    at_mean: bool = False

    @property
    def size(self) -> int:
        """Configurations of the job."""
        return math.prod(part.stop - part.start for part in self.slab)


class Done(NamedTuple):
    """The result of a job: its tally, or the errors of its plan; and all its rows, where they are asked for."""

    tally: Tally
    refused: tuple[Diagnostic, ...] = ()
    rows: Table | None = None


class Table(NamedTuple):
    """Every configuration of a job: its row, and ``why`` it is out, an empty string where it meets everything."""

    rows: Rows
    why: NDArray[Any]


NOTHING = Table(NO_ROWS, np.empty(0, object))


class Compiler:
    """Compiles plans one after another, and counts their structures: plans of one structure share a program."""

    def __init__(self) -> None:
        self.structures = set[Hashable]()
        self._last: tuple[PlanSpec, CompiledPlan] | None = None

    def compile(self, plan: PlanSpec) -> CompiledPlan:
        """Compile ``plan``. The last result is kept: jobs of a plan follow one another, on a worker as copies."""
        if self._last is None or (self._last[0] is not plan and self._last[0] != plan):
            self.structures.update(map(structure, plan.modes))
            self._last = plan, CompiledPlan(plan, ())
        return self._last[1]


def do_job(job: Job, compiler: Compiler, every: bool = False) -> Done:
    """Evaluate one job. With ``every``, the result has all its rows."""
    if job.at_mean:
        from plandsl.backends.cost.answers.mean_load import plan_at_mean
        from plandsl.searches.closed_form import evaluate_mean
    compiled = compiler.compile(plan_at_mean(job.plan) if job.at_mean else job.plan)
    found = evolve(job.tally, missed={}, best={})
    if wrong := tuple(d for d in compiled.findings if d.severity == "error"):
        return Done(found, wrong)
    loads = job.grid.loads(job.slab)
    with np.errstate(all="ignore"):
        values = evaluate_mean(compiled.cost, job.plan) if job.at_mean else evaluate_metrics(compiled.cost, loads)
        shape = tuple(part.stop - part.start for part in job.slab)
        given = _admitted(job, loads, shape)
        failing = [(MEMORY, ~_flatten(values.fits, shape, bool), _memory_gap(values, shape))]
        if job.at_mean:
            crowded = _flatten(values.crowded, shape, float)
            failing.append((RATE, crowded > 1, np.log(np.maximum(crowded, 1e-9))))
        late = [r for r in job.plan.requires if job.at_mean and values.crowded > 1 and r.metric in ENDLESS]
        failing += [
            (r.text, ~_flatten(values.holds(r), shape, bool), _requirement_gap(values, r, shape))
            for r in job.plan.requires
            if r not in late  # the rate is what is wrong
        ]
        numbers = job.first + job.grid.numbers(job.slab)
        metrics = {name: _flatten(values.metrics[name], shape, float) for name in METRICS}
        soft = (RATE, *(r.text for r in job.plan.requires if r.metric in SIMULATED)) if job.at_mean else ()
        fill_tally(found, numbers, metrics, failing, given, soft=soft)
    if not every:
        return Done(found)
    why = np.full(len(numbers), "", object)
    for reason, fails, _ in reversed(failing):
        why[fails] = reason
    table = Table(Rows(numbers, np.stack([metrics[name] for name in METRICS], axis=1)), why)
    if given is not None:
        table = Table(table.rows.take(given), why[given])
    return Done(found, (), table)


def _flatten(value: Any, shape: tuple[int, ...], kind: type) -> NDArray[Any]:
    return np.broadcast_to(np.asarray(value, kind), shape).ravel()


def _admitted(job: Job, loads: Mapping[str, Any], shape: tuple[int, ...]) -> NDArray[np.bool_] | None:
    """A mask of the configurations that the conditions admit; None where there are no conditions."""
    if not job.conditions:
        return None
    values = job.values | dict(loads)
    out = np.ones(math.prod(shape), bool)
    for condition in job.conditions:
        out &= _flatten(condition.holds(values), shape, bool)
    return out


def _memory_gap(values: Values, shape: tuple[int, ...]) -> NDArray[np.float64]:
    """The logarithm of the factor by which the memory is exceeded."""
    used: NDArray[np.float64] = _flatten(values.used, shape, float)
    return np.log(np.maximum(used, 1e-9))


def _requirement_gap(values: Values, require: RequireSpec, shape: tuple[int, ...]) -> NDArray[np.float64]:
    """The logarithm of the factor by which a requirement is missed."""
    found = _flatten(values.of(require), shape, float)
    with np.errstate(all="ignore"):
        return np.nan_to_num(np.abs(np.log(found / require.bound)), nan=np.inf, posinf=np.inf)


@define
class Found:
    """The results of a search so far."""

    search: SearchSpec
    space: Space
    tally: Tally
    refused: dict[str, tuple[Diagnostic, int]] = field(factory=dict)
    """By code: the first error that makes a plan invalid, and how many configurations have this code."""
    plans: int = 0
    structures: int = 0
    stopped: bool = False
    """Whether the search was interrupted."""
    _combinations: dict[int, Combination] = field(factory=dict)

    def combination(self, number: int) -> Combination:
        """The value of every choice in a configuration."""
        which, place = divmod(number, self.space.grid.size)
        return (*self._combinations[which], *self.space.grid.at(place))

    def stop(self) -> None:
        """Keep the results so far, after an interruption."""
        self.stopped = True
        ending.go_on()

    def refuse(self, findings: tuple[Diagnostic, ...]) -> None:
        """Count all loads of a plan under its first error."""
        worst = next(d for d in findings if d.severity == "error")
        first, count = self.refused.get(worst.code, (worst, 0))
        self.refused[worst.code] = first, count + self.space.grid.size

    def plan(self, number: int) -> PlanSpec:
        """The plan of a configuration."""
        plan, findings = self.search.resolve(self.combination(number))
        assert plan is not None, findings
        return plan


Sink = Callable[["Found", Table], None]


def combine_sinks(sinks: Sequence[Sink]) -> Sink | None:
    """A sink that passes rows to all of ``sinks``; None where there are none, so that no rows are made."""
    if not sinks:
        return None

    def sink(found: Found, table: Table) -> None:
        for one in sinks:
            one(found, table)

    return sink


class Run:
    """One search to run. ``keep`` is how many of the best configurations are kept; ``sink`` takes every row."""

    def __init__(self, search: SearchSpec, keep: int = 10, sink: Sink | None = None) -> None:
        self.space = Space(search)
        self.keep, self.sink = keep, sink
        self.found = Found(search, self.space, self.empty())

    def empty(self) -> Tally:
        """A tally of no configurations."""
        search = self.space.search
        if search.over_requests:  # of equals, the one that bears the largest rate is simulated first
            goals = (*search.all_goals, Goal("bearable", True))
            return Tally(goals, search.front_goals, self.keep, near=math.log(NEAR))
        return Tally(search.all_goals, search.front_goals, self.keep)

    @cached_property
    def late(self) -> tuple[Condition, ...]:
        """Conditions that need a load, or a value that only the plan has, such as `gpus`."""
        structural = {c.name for c in self.space.structural}
        return tuple(c for c in self.found.search.conditions if not c.names <= structural)

    def jobs(self) -> Iterator[Job]:
        """All jobs of the search. Invalid plans are counted in ``found`` on the way."""
        for candidate in self.space.candidates():
            plan = self._legal_plan(candidate)
            if plan is None:
                continue
            self.found.plans += 1
            if self.found.plans > limits.MAX_COMPILED:
                why = f"this search compiles more than {limits.MAX_COMPILED:,} plans"
                hint = limits.MAX_COMPILED.hint("vary fewer fields, or let the load vary: loads are arrays")
                raise PlanError([Diagnostic("E409", why, self.found.search.span, hint=hint)])
            self.found._combinations[candidate.number] = candidate.combination
            first = candidate.number * self.space.grid.size
            values = _condition_values(plan) | {c.name: s.value for c, s in candidate.combination}
            for slab in self.space.grid.slabs(CHUNK):
                yield Job(
                    plan, values, self.space.grid, slab, first=first, conditions=self.late, tally=self.empty(),
                    at_mean=self.found.search.over_requests,
                )  # fmt: skip

    def _legal_plan(self, candidate: Candidate) -> PlanSpec | None:
        if candidate.plan is None:
            self.found.refuse(candidate.findings)
            return None
        wrong = tuple(d for d in check_spec(candidate.plan) if d.severity == "error")
        if wrong:
            self.found.refuse(wrong)
            return None
        return candidate.plan

    def take(self, done: Done) -> None:
        """Add the result of a job."""
        if done.refused:
            self.found.refuse(done.refused)
            return
        self.found.tally.merge(done.tally)
        if self.sink is not None and done.rows is not None:
            self.sink(self.found, done.rows)

    def run(self, tick: Tick = silent) -> Found:
        """Do all jobs in this process. An interruption keeps the results so far."""
        compiler, total = Compiler(), self.found.search.size
        try:
            for job in self.jobs():
                self.take(do_job(job, compiler, self.sink is not None))
                tick(job.first + job.size, total)
        except KeyboardInterrupt:
            self.found.stop()
        self.found.structures = len(compiler.structures)
        return self.found


def _condition_values(plan: PlanSpec) -> dict[str, Any]:
    """The values that conditions may read beside the choices: degrees, loads and `gpus`."""
    degrees = {name: next((a.size for a in plan.sharding.axes if a.sugar == name), 1) for name in DEGREES}
    loads = {name: getattr(plan.workload, name) or 0 for name in (*LOADS, "in_flight")}
    return {**degrees, **loads, "gpus": plan.ranks}
