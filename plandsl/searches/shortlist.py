"""Simulate the best candidates of a search over requests: the closed form proposes an order, the simulation decides.

All candidates serve the same requests (common random numbers), so that two of them differ by what they are and not by
chance. Source: Law, "Simulation Modeling and Analysis", 5th edition, section 11.2.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from math import exp, inf, log, nan
from typing import Any, NamedTuple

from plandsl.answers.simulation import GROWS, Figure, Simulation
from plandsl.backends.cost.answers.simulation import Check, simulate_plan, time_of
from plandsl.backends.cost.answers.spent import with_spent
from plandsl.backends.cost.serving.percentiles import figure
from plandsl.diagnostics import PlanError
from plandsl.progress import Tick, silent
from plandsl.searches.answer import Configuration, Miss, configurations
from plandsl.searches.run import Compiler, Found
from plandsl.searches.spread import Workers
from plandsl.searches.values import Floats
from plandsl.spec.plan import TIMES, PlanSpec
from plandsl.spec.search import Goal, metric_name

ROUND = 8
"""Candidates that are simulated before the first look at whether one of them meets every requirement."""


class Task(NamedTuple):
    """A plan to simulate with so many ``requests`` (None: as its workload says), and the goals that rank it."""

    plan: PlanSpec
    goals: tuple[Goal, ...]
    requests: int | None


class Outcome(NamedTuple):
    """A simulation, or ``why`` there is none.

    ``goals`` has the goals that are times of requests, ``values`` the first one by request, where it is a mean.
    """

    simulation: Simulation | None
    checks: tuple[Check, ...] = ()
    goals: tuple[tuple[str, Figure], ...] = ()
    values: Floats | None = None
    why: str = ""


def simulate_task(task: Task, compiler: Compiler) -> Outcome:
    """Serve the requests of one candidate."""
    try:
        made = compiler.compile(task.plan)
        run = with_spent(made.cost, simulate_plan(made, task.requests))
    except PlanError as error:
        found = error.diagnostics[0]
        return Outcome(None, why=f"{found.code}: {found.message}")
    times = [goal for goal in task.goals if goal.metric in TIMES]
    goals = tuple((goal.name, time_of(run.records, goal.metric, goal.percentile)) for goal in times)
    first, *_ = task.goals
    by_request = first in times and first.percentile is None
    values = getattr(run.records, f"{first.metric}_s") if by_request else None
    return Outcome(run.simulation, run.checks, goals, values)


class Simulated(NamedTuple):
    """A candidate that was simulated: its ``place`` in the closed form's order, from 1, and its simulation.

    ``figures`` has the goals and requirements by name, with their intervals where they have them. ``why`` is the first
    thing that rules it out, empty where it meets all; ``misses`` are the requirements that it misses, the largest
    factor first. ``difference`` to the best in the mean of the first goal, over the same requests; None where requests
    do not have the goal one by one.
    """

    row: Configuration
    place: int
    simulation: Simulation | None
    figures: dict[str, Figure]
    why: str = ""
    misses: tuple[Miss, ...] = ()
    difference: Figure | None = None

    @property
    def same(self) -> bool:
        """Whether the simulation cannot tell it from the best: 0 is in the interval of the difference."""
        return self.difference is not None and abs(self.difference.value) <= self.difference.half

    def as_json(self) -> dict[str, Any]:
        """The machine form: the closed form's metrics, the simulated figures, and the whole simulation."""
        body: dict[str, Any] = {"choices": self.row.settings, "closed_form_rank": self.place, "why": self.why}
        body |= {"closed_form": {k: v for k, v in self.row.as_json().items() if k != "choices"}}
        body |= {"figures": {name: figure.as_json() for name, figure in self.figures.items()}}
        body |= {"difference_to_first": None if self.difference is None else self.difference.as_json()}
        return body | {"simulation": None if self.simulation is None else self.simulation.as_json()}


class Shortlist(NamedTuple):
    """What was simulated of ``admitted`` candidates that meet everything in closed form, and ``close`` near misses.

    ``good`` meet every requirement, the best first; ``others`` do not, the nearest first, and those without a
    simulation last.
    """

    admitted: int
    close: int
    good: tuple[Simulated, ...]
    others: tuple[Simulated, ...]

    @property
    def simulated(self) -> int:
        """Candidates that were simulated."""
        return sum(one.simulation is not None for one in (*self.good, *self.others))

    @property
    def refused(self) -> tuple[Simulated, ...]:
        """Candidates whose simulation was tried, and could not be."""
        return tuple(one for one in self.others if one.simulation is None)

    @property
    def left(self) -> int:
        """Candidates that meet everything in closed form, and were not tried."""
        tried = sum(one.place <= self.admitted for one in (*self.good, *self.others))
        return self.admitted - tried

    @property
    def turned(self) -> int:
        """Pairs of the ``good`` that the closed form has in the other order."""
        return sum(a.place > b.place for a, b in combinations(self.good, 2))

    def as_json(self) -> dict[str, Any]:
        """The machine form: how many candidates were simulated and how many not, then each that was tried."""
        return {
            "meet_all_in_closed_form": self.admitted, "nearly_meet_all": self.close, "simulated": self.simulated,
            "meet_all": len(self.good), "could_not_be_simulated": len(self.refused), "not_simulated": self.left,
            "pairs_turned_round": self.turned, "candidates": [one.as_json() for one in (*self.good, *self.others)],
        }  # fmt: skip


def simulate_best(found: Found, workers: Workers, count: int | None, most: int, tick: Tick) -> Shortlist:
    """Simulate at most ``most`` candidates: those that meet everything in closed form, then those that nearly do.

    They are simulated in the closed form's order, a round at a time, until one meets every requirement; then those that
    nearly do, and would be better than it, a round at most.
    """
    run = _Trials(found, workers, count, most, tick)
    try:
        for start in range(0, len(run.rows), ROUND):
            run.simulate(range(start, min(start + ROUND, len(run.rows))))
            if any(not one.why for one in run.judged.values()):
                run.simulate(run.challengers()[:ROUND])
                break
    except KeyboardInterrupt:
        found.stop()
    return run.shortlist()


class _Trials:
    """Candidates by index, in the order of the closed form, and what was simulated of them."""

    def __init__(self, found: Found, workers: Workers, count: int | None, most: int, tick: Tick) -> None:
        self.found, self.workers, self.count, self.tick = found, workers, count, tick
        self.goals = found.search.all_goals
        self.top, close = configurations(found, found.tally.top), configurations(found, found.tally.close)
        self.rows = [*self.top, *close][:most]
        self.plans = [found.plan(row.number) for row in self.rows]
        self.outcomes: dict[int, Outcome] = {}
        self.judged: dict[int, Simulated] = {}

    def simulate(self, which: Sequence[int]) -> None:
        """Simulate these candidates."""
        tasks = [Task(self.plans[i], self.goals, self.count) for i in which]
        results = self.workers.map(simulate_task, tasks, silent)
        for i, outcome in zip(which, results, strict=True):
            self.outcomes[i] = outcome
            place = i + 1 if i < len(self.top) else self.found.tally.met + 1 + i - len(self.top)
            self.judged[i] = _judge(self.goals, self.rows[i], self.plans[i], place, outcome)
            self.tick(len(self.judged), len(self.rows))

    def challengers(self) -> list[int]:
        """Candidates not simulated that nearly meet everything, and that the closed form has before the best."""
        best = self._in_order()[0]
        key = _closed_form_key(self.goals, self.rows[best])
        late = range(len(self.top), len(self.rows))
        return [i for i in late if i not in self.judged and _closed_form_key(self.goals, self.rows[i]) < key]

    def _in_order(self) -> list[int]:
        """Those that meet everything, the best first."""
        good = [i for i, one in self.judged.items() if not one.why]
        return sorted(good, key=lambda i: _rank(self.goals, self.judged[i]))

    def shortlist(self) -> Shortlist:
        """What was found."""
        good = self._in_order()
        told = [self.judged[i]._replace(difference=self._difference(i, good[0])) for i in good]
        others = sorted((one for one in self.judged.values() if one.why), key=_distance)
        return Shortlist(self.found.tally.met, len(self.rows) - len(self.top), tuple(told), tuple(others))

    def _difference(self, i: int, best: int) -> Figure | None:
        """The mean difference of the first goal over requests that both candidates served, with its interval."""
        ours, theirs = self.outcomes[i].values, self.outcomes[best].values
        if i == best or ours is None or theirs is None or self.plans[i].workload != self.plans[best].workload:
            return None
        return figure(ours - theirs)


def _judge(goals: tuple[Goal, ...], row: Configuration, plan: PlanSpec, place: int, outcome: Outcome) -> Simulated:
    """What the simulation of a candidate says of the goals and requirements."""
    told = outcome.simulation
    if told is None:
        return Simulated(row, place, None, {}, outcome.why)
    fleet = plan.workload.demand is not None
    figures = {goal.name: _figure(goal.metric, told, row, fleet) for goal in goals} | dict(outcome.goals)
    own = [c for c in outcome.checks if c.require in plan.requires]
    figures |= {metric_name(c.require.metric, c.require.percentile): c.figure for c in own}
    missed = sorted((_miss(c) for c in outcome.checks if not c.met()), key=lambda miss: -miss.factor)
    s = told.summary
    why = missed[0].text if missed else ""
    if not s.stable:
        why = GROWS
    if s.served < s.requests:
        why = f"{s.requests - s.served:,} of {s.requests:,} requests are refused"
    return Simulated(row, place, told, figures, why=why, misses=tuple(missed))


PER_TOKEN = ("cost", "cost_input", "cost_output", "cost_blended", "cost_request")
"""Metrics of one plan that fall as its rate grows."""


def _figure(metric: str, told: Simulation, row: Configuration, fleet: bool) -> Figure:
    """A metric of the whole run, or of the closed form where the simulation says nothing of it.

    With a ``fleet``, money is that of all copies, which bear the demand whatever one of them was simulated at.
    """
    match metric:
        case "throughput":
            value = told.summary.output_rate
        case "throughput_per_gpu":
            value = told.summary.output_rate / told.gpus
        case "goodput":
            value = told.summary.goodput
        case _ if metric in PER_TOKEN and not fleet:
            value = row.metrics[metric] * row.metrics["throughput"] / told.summary.output_rate
        case _:
            value = row.metrics[metric]
    return Figure(value, nan)


def _miss(check: Check) -> Miss:
    r, value = check.require, check.figure.value
    gap = abs(log(value / r.bound)) if value > 0 and r.bound > 0 else inf
    return Miss(check.text, r.metric, value=value, bound=r.bound, factor=exp(min(gap, 700.0)), best=None)


def _closed_form_key(goals: tuple[Goal, ...], row: Configuration) -> tuple[float, ...]:
    return tuple(-row.metrics[g.metric] if g.most else row.metrics[g.metric] for g in goals)


def _rank(goals: tuple[Goal, ...], one: Simulated) -> tuple[float, ...]:
    """Candidates in ascending order of this: by the goals, equals by their place in the closed form."""
    values = [one.figures[goal.name].value if one.figures else inf for goal in goals]
    keys = [-value if goal.most else value for goal, value in zip(goals, values, strict=True)]
    return (*(inf if key != key else key for key in keys), one.place)


def _distance(one: Simulated) -> tuple[bool, float, int]:
    """How far a candidate is from meeting everything."""
    return one.simulation is None, max((m.factor for m in one.misses), default=1.0), one.place
