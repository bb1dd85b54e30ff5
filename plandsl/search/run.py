"""Runs a search: plans are compiled once for each structure, loads are arrays, and what is found adds up."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from attrs import define, evolve, field
from numpy.typing import NDArray

from plandsl.diagnostics import Diagnostic, PlanError
from plandsl.driver import CompiledPlan, legal
from plandsl.ir.program import Program
from plandsl.limits import MAX_COMPILED
from plandsl.search.space import Candidate, Grid, Space
from plandsl.search.tally import NO_ROWS, Rows, Tally, tally
from plandsl.search.values import METRICS, Values, evaluated
from plandsl.spec.plan import PlanSpec, RequireSpec
from plandsl.spec.search import DEGREES, LOADS, Combination, Condition, SearchSpec

CHUNK = 200_000
"""Configurations that are evaluated at once: their arrays stay in tens of megabytes."""

MEMORY = "does not fit in memory"
"""The first reason for which a configuration is out."""


class Job(NamedTuple):
    """A plan and a part of the grid of loads; ``first`` is the number of the plan's first configuration, ``tally`` an
    empty one to fill."""

    plan: PlanSpec
    values: dict[str, Any]
    grid: Grid
    slab: tuple[slice, ...]
    first: int
    conditions: tuple[Condition, ...]
    tally: Tally

    @property
    def size(self) -> int:
        """Configurations."""
        return math.prod(part.stop - part.start for part in self.slab)


class Done(NamedTuple):
    """What a job found: its tally, or why its plan is none; and all its rows, where somebody wants them."""

    tally: Tally
    refused: tuple[Diagnostic, ...] = ()
    rows: Table | None = None


class Table(NamedTuple):
    """Every configuration of a job: numbers, metrics, and the reason why it is out, empty where it is not."""

    rows: Rows
    why: NDArray[Any]


NOTHING = Table(NO_ROWS, np.empty(0, object))


class Compiler:
    """Compiles plans one after another; those of one structure share a program."""

    def __init__(self) -> None:
        self.known: dict[Hashable, Program] = {}
        self._last: tuple[PlanSpec, CompiledPlan] | None = None

    def compiled(self, plan: PlanSpec) -> CompiledPlan:
        """The compiled plan; that of the last call is kept, since a plan's jobs come together."""
        if self._last is None or self._last[0] is not plan:
            self._last = plan, CompiledPlan(plan, (), self.known)
        return self._last[1]


def work(job: Job, compiler: Compiler, every: bool = False) -> Done:
    """Evaluate one job; with ``every`` row of it where asked for."""
    compiled = compiler.compiled(job.plan)
    found = evolve(job.tally, missed={}, best={})
    if wrong := tuple(d for d in compiled.findings if d.severity == "error"):
        return Done(found, wrong)
    loads = job.grid.loads(job.slab)
    with np.errstate(all="ignore"):
        values = evaluated(compiled.cost, loads)
        shape = tuple(part.stop - part.start for part in job.slab)
        given = _given(job, loads, shape)
        failing = [(MEMORY, ~_flat(values.fits, shape, bool), _over(values, shape))]
        failing += [(r.text, ~_flat(values.holds(r), shape, bool), _gap(values, r, shape)) for r in job.plan.requires]
        numbers = job.first + job.grid.numbers(job.slab)
        metrics = {name: _flat(values.metrics[name], shape, float) for name in METRICS}
        tally(found, numbers, metrics, failing, given)
    if not every:
        return Done(found)
    why = np.full(len(numbers), "", object)
    for reason, fails, _ in reversed(failing):
        why[fails] = reason
    table = Table(Rows(numbers, np.stack([metrics[name] for name in METRICS], axis=1)), why)
    if given is not None:
        table = Table(table.rows.take(given), why[given])
    return Done(found, (), table)


def _flat(value: Any, shape: tuple[int, ...], kind: type) -> NDArray[Any]:
    return np.broadcast_to(np.asarray(value, kind), shape).ravel()


def _given(job: Job, loads: Mapping[str, Any], shape: tuple[int, ...]) -> NDArray[np.bool_] | None:
    """Where the conditions hold; None: everywhere."""
    if not job.conditions:
        return None
    values = job.values | dict(loads)
    out = np.ones(math.prod(shape), bool)
    for condition in job.conditions:
        out &= _flat(condition.holds(values), shape, bool)
    return out


def _over(values: Values, shape: tuple[int, ...]) -> NDArray[np.float64]:
    """By how much the memory is exceeded, as the logarithm of a factor."""
    used: NDArray[np.float64] = _flat(values.used, shape, float)
    return np.log(np.maximum(used, 1e-9))


def _gap(values: Values, require: RequireSpec, shape: tuple[int, ...]) -> NDArray[np.float64]:
    """By how much a requirement is missed, as the logarithm of a factor."""
    found = _flat(values.of(require), shape, float)
    with np.errstate(all="ignore"):
        return np.nan_to_num(np.abs(np.log(found / require.bound)), nan=np.inf, posinf=np.inf)


@define
class Found:
    """What a search has found so far."""

    search: SearchSpec
    space: Space
    tally: Tally
    refused: dict[str, tuple[Diagnostic, int]] = field(factory=dict)
    """By code, the first finding for which plans are none, and how many configurations that is."""
    plans: int = 0
    structures: int = 0
    stopped: bool = False
    """Whether it was interrupted before all was seen."""
    _combinations: dict[int, Combination] = field(factory=dict)

    def combination(self, number: int) -> Combination:
        """What a configuration is: a value for every choice."""
        which, place = divmod(number, self.space.grid.size)
        return (*self._combinations[which], *self.space.grid.at(place))

    def refuse(self, findings: tuple[Diagnostic, ...]) -> None:
        """Take down why all loads of a plan are none."""
        worst = next(d for d in findings if d.severity == "error")
        first, count = self.refused.get(worst.code, (worst, 0))
        self.refused[worst.code] = first, count + self.space.grid.size

    def plan(self, number: int) -> PlanSpec:
        """The plan of a configuration."""
        plan, findings = self.search.resolve(self.combination(number))
        assert plan is not None, findings
        return plan


Tick = Callable[[int, int], None]
Sink = Callable[["Found", Table], None]


def into(sinks: Sequence[Sink]) -> Sink | None:
    """A sink that feeds all of ``sinks``; None where there are none, so that rows need not be made."""
    if not sinks:
        return None

    def sink(found: Found, table: Table) -> None:
        for one in sinks:
            one(found, table)

    return sink


class Run:
    """One search on its way. ``keep`` is how many of the best are kept, ``sink`` takes every row."""

    def __init__(self, search: SearchSpec, keep: int = 10, sink: Sink | None = None) -> None:
        self.space = Space(search)
        self.keep, self.sink = keep, sink
        self.found = Found(search, self.space, self.empty())

    def empty(self) -> Tally:
        """The tally of nothing."""
        search = self.space.search
        return Tally(search.wanted, search.weighed, self.keep)

    @cached_property
    def late(self) -> tuple[Condition, ...]:
        """Conditions that hold or not by the load, or by what only a plan knows."""
        structural = {c.name for c in self.space.structural}
        return tuple(c for c in self.found.search.conditions if not c.names <= structural)

    def jobs(self) -> Iterator[Job]:
        """All there is to do; what is no plan is taken down on the way."""
        for candidate in self.space.candidates():
            plan = self._legal(candidate)
            if plan is None:
                continue
            self.found.plans += 1
            if self.found.plans > MAX_COMPILED:
                why = f"this search compiles more than {MAX_COMPILED:,} plans"
                hint = "vary fewer fields, or let the load vary: loads are arrays"
                raise PlanError([Diagnostic("E409", why, self.found.search.span, hint=hint)])
            self.found._combinations[candidate.number] = candidate.combination
            first = candidate.number * self.space.grid.size
            values = _known(plan) | {c.name: s.value for c, s in candidate.combination}
            for slab in self.space.grid.slabs(CHUNK):
                yield Job(plan, values, self.space.grid, slab, first, self.late, self.empty())

    def _legal(self, candidate: Candidate) -> PlanSpec | None:
        if candidate.plan is None:
            self.found.refuse(candidate.findings)
            return None
        wrong = tuple(d for d in legal(candidate.plan) if d.severity == "error")
        if wrong:
            self.found.refuse(wrong)
            return None
        return candidate.plan

    def take(self, done: Done) -> None:
        """Add what a job found."""
        if done.refused:
            self.found.refuse(done.refused)
            return
        self.found.tally.merge(done.tally)
        if self.sink is not None and done.rows is not None:
            self.sink(self.found, done.rows)

    def here(self, tick: Tick = lambda done, of: None) -> Found:
        """Go through all of it in this process; an interruption keeps what was found."""
        compiler, total = Compiler(), self.found.search.size
        try:
            for job in self.jobs():
                self.take(work(job, compiler, self.sink is not None))
                tick(job.first + job.size, total)
        except KeyboardInterrupt:
            self.found.stopped = True
        self.found.structures = len(compiler.known) // 2
        return self.found


def _known(plan: PlanSpec) -> dict[str, Any]:
    """What conditions may speak of besides what varies."""
    degrees = {name: next((a.size for a in plan.sharding.axes if a.sugar == name), 1) for name in DEGREES}
    loads = {name: getattr(plan.workload, name) or 0 for name in (*LOADS, "in_flight")}
    return {**degrees, **loads, "gpus": plan.sharding.ranks}
