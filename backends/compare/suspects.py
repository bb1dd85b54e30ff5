"""Possible causes of errors: for each, the one change that brings all runs closest to what was measured.

Each suspect is a constant of the engine, or the room for the KV cache. All runs are simulated with the constant moved,
which says how each metric answers; then the move with the least robust squares of errors is sought, and simulated.
So a suspect is judged by how errors move over load and length: kernels are off by a share of their time at every
load, host work by the same seconds in every step, a client by the same seconds in every first token.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from attrs import evolve

from plandsl.answers.comparison import ComparedRun, Measure, Suspect, distance
from plandsl.backends.calibrate.robust import soften
from plandsl.backends.compare.bench import Bench
from plandsl.backends.compare.predict import Change, Predictor, value_of
from plandsl.backends.cost.serving.requests import Floats
from plandsl.diagnostics import PlanError
from plandsl.progress import Tick, silent
from plandsl.spec.hardware import EngineSpec
from plandsl.units import show_time
from plandsl.values import sum_up

JUDGED = ("ttft", "tpot")
"""Metrics whose errors judge suspects. Throughput follows from them."""

UNSERVED = 5.0
"""The logarithm of the error where a server that was changed serves no request: more than any that is measured."""

NUDGE = 0.2
"""How far a metric is moved, as a share, to see how it answers to a suspect."""

SLOWEST, QUICKEST = 4.0, 0.5
"""Most and least time that kernels and collectives may take, in shares of the predicted."""

NOISE = 0.01
"""By which share two runs of one benchmark differ: assumed."""

PROMISING = 0.8
"""Suspects that leave more than this share of the loss, along a straight line, are not simulated."""

MOST_RUNS = 8
"""Runs that judge suspects; of more, as many are taken evenly over their loads."""

ROOMS = (0.75, 0.5, 0.25)
"""Shares of the room for the KV cache that are tried."""

NEARLY_FULL = 0.4
"""Where less of the KV cache is full at the peak, its room is no suspect."""


class Kind(NamedTuple):
    """A suspect: its name, what reports call it, the constants of the engine, and whether they are rates."""

    name: str
    title: str
    fields: tuple[str, ...]
    rate: bool
    metric: str


KINDS = (
    Kind("prefill_kernels", "kernels of prefill", ("prefill",), rate=True, metric="ttft"),
    Kind("decode_kernels", "kernels of decode", ("decode",), rate=True, metric="tpot"),
    Kind("communication", "communication between GPUs", ("links",), rate=True, metric="tpot"),
    Kind("host_step", "host work of each step", ("step",), rate=False, metric="tpot"),
    Kind("host_request", "host work for each request in a step", ("request",), rate=False, metric="tpot"),
    Kind("client", "client side (tokenizer, network)", ("first",), rate=False, metric="ttft"),
    Kind("client_request", "client side for each request in flight", ("first_request",), rate=False, metric="ttft"),
)  # fmt: skip

MEMORY = "memory"


class Cases(NamedTuple):
    """Runs that judge: float64[runs, metrics] of what was measured and what is predicted; NaN where nothing was."""

    benches: Sequence[Bench]
    statistics: Sequence[dict[str, str]]
    measured: Floats
    predicted: Floats

    def errors(self, predicted: Floats) -> Floats:
        """Logarithms of measured over ``predicted``; 0 where nothing was measured, `UNSERVED` without prediction."""
        with np.errstate(all="ignore"):
            logs: Floats = np.log(self.measured / predicted)
        return np.where(np.isfinite(logs), logs, np.where(np.isfinite(self.measured), UNSERVED, 0.0))

    def loss(self, predicted: Floats) -> float:
        """Robust squares of errors."""
        return float((soften(self.errors(predicted)) ** 2).sum())

    def of(self, rows: Sequence[int]) -> Cases:
        """Some of the runs."""
        at = list(rows)
        return Cases(
            [self.benches[i] for i in at], [self.statistics[i] for i in at], self.measured[at], self.predicted[at]
        )

    def and_more(self, others: Cases) -> Cases:
        """These runs, and others behind them."""
        return Cases(
            [*self.benches, *others.benches],
            [*self.statistics, *others.statistics],
            np.concatenate([self.measured, others.measured]),
            np.concatenate([self.predicted, others.predicted]),
        )

    def mean_error(self, predicted: Floats) -> float:
        """The mean distance from the measured, as a factor minus 1."""
        there = np.isfinite(self.measured)
        return float(np.expm1(np.abs(self.errors(predicted))[there].mean())) if there.any() else float("nan")


def cases_of(benches: Sequence[Bench], runs: Sequence[ComparedRun]) -> tuple[Cases, Cases]:
    """The runs that judge, and the others, with what is predicted of them."""
    gap = largest_gap(runs)
    chosen = pick([bench.clients or bench.rate for bench in benches], keep=0 if gap is None else gap[0])
    others = [at for at in range(len(benches)) if at not in chosen]
    return _cases(benches, runs, chosen), _cases(benches, runs, others)


def _cases(benches: Sequence[Bench], runs: Sequence[ComparedRun], chosen: Sequence[int]) -> Cases:
    statistics = [{m.metric: m.statistic for m in map(run.find, JUDGED) if m} for run in (runs[i] for i in chosen)]
    measured, predicted = np.full((2, len(chosen), len(JUDGED)), np.nan)
    for row, at in enumerate(chosen):
        for column, metric in enumerate(JUDGED):
            if found := runs[at].find(metric):
                measured[row, column], predicted[row, column] = found.measured, found.predicted
    return Cases([benches[i] for i in chosen], statistics, measured, predicted)


def pick(loads: Sequence[float], keep: int) -> list[int]:
    """At most `MOST_RUNS` runs evenly over their loads, and the one to ``keep``, in their order."""
    order = np.argsort(loads, kind="stable")
    places = np.unique(np.rint(np.linspace(0, len(order) - 1, min(len(order), MOST_RUNS))).astype(int))
    return sorted({keep, *(int(order[at]) for at in places)})


def predict(predictor: Predictor, cases: Cases, change: Change) -> Floats:
    """What is predicted with another engine, float64[runs, metrics]; infinite where a run cannot be served."""
    servers = predictor.servers(change)
    found = np.full(cases.measured.shape, np.nan)
    for row, (bench, statistics) in enumerate(zip(cases.benches, cases.statistics, strict=True)):
        try:
            run = predictor.run(bench, servers)
        except PlanError:
            found[row] = np.inf
            continue
        for column, metric in enumerate(JUDGED):
            if metric in statistics:
                found[row, column] = value_of(run, metric, statistics[metric])
    return found


def moved(kind: Kind, by: float) -> Change:
    """The engine whose kernels of this kind take ``1 + by`` times as long, or whose host takes ``by`` more seconds."""

    def change(engine: EngineSpec) -> EngineSpec:
        values = {name: float(getattr(engine, name)) for name in kind.fields}
        new: dict[str, Any] = {name: v / (1 + by) if kind.rate else max(v + by, 0.0) for name, v in values.items()}
        return evolve(engine, **new)

    return change


class Answers(NamedTuple):
    """How metrics answer to a suspect: float64[runs, metrics] for each unit of its move; its least and most move."""

    kind: Kind
    slopes: Floats
    least: float
    most: float

    def predict(self, cases: Cases, by: float) -> Floats:
        """What is predicted after a move, as a straight line."""
        found: Floats = np.maximum(cases.predicted + by * self.slopes, 1e-9)
        return found

    def best(self, cases: Cases) -> float:
        """The move with the least loss: the best of a grid, refined between its neighbours."""
        grid = np.concatenate([np.linspace(self.least, 0.0, 60), np.geomspace(1e-4, 1.0, 120) * self.most])
        losses = [cases.loss(self.predict(cases, float(by))) for by in grid]
        at = int(np.argmin(losses))
        low, high = float(grid[max(at - 1, 0)]), float(grid[min(at + 1, len(grid) - 1)])
        fine = np.linspace(low, high, 60)
        return float(fine[int(np.argmin([cases.loss(self.predict(cases, float(by))) for by in fine]))])


def answers_of(predictor: Predictor, cases: Cases, kind: Kind, engine: EngineSpec) -> Answers | None:
    """How metrics answer to a suspect, None where they do not answer."""
    column = JUDGED.index(kind.metric)
    values = cases.predicted[:, column]
    typical = float(np.nanmedian(values)) if np.isfinite(values).any() else float("nan")
    if not np.isfinite(typical):
        return None
    many = max(float(np.median([bench.clients or 1 for bench in cases.benches])), 1.0)
    each = typical / many if "request" in kind.name else typical
    by = NUDGE if kind.rate else NUDGE * each
    slopes = (predict(predictor, cases, moved(kind, by)) - cases.predicted) / by
    slopes = np.where(np.isfinite(slopes), slopes, 0.0)
    if float(np.nanmax(np.abs(slopes * by / cases.predicted), initial=0.0)) < 1e-4:
        return None
    if kind.rate:
        return Answers(kind, slopes, QUICKEST - 1, SLOWEST - 1)
    now = sum_up(float(getattr(engine, name)) for name in kind.fields)
    largest = float(np.nanmax(cases.measured, initial=typical))
    return Answers(kind, slopes, -now, 10 * largest)


class Tried(NamedTuple):
    """A suspect with its best move, what is then predicted, and the loss that is left."""

    kind: Kind
    by: float
    predicted: Floats
    loss: float
    slopes: Floats | None = None


class Probed(NamedTuple):
    """Runs that judge, and how their metrics answer to each suspect, by its name."""

    cases: Cases
    answers: dict[str, Answers]


def probe(
    predictor: Predictor, cases: Cases, engine: EngineSpec, names: Sequence[str] | None = None, tick: Tick = silent
) -> Probed:
    """How runs answer to suspects, all or some of them, where they answer. ``engine`` is the predictor's own."""
    found: dict[str, Answers] = {}
    kinds = [kind for kind in KINDS if names is None or kind.name in names]
    for done, kind in enumerate(kinds, 1):
        answers = answers_of(predictor, cases, kind, engine)
        if answers is not None:
            found[kind.name] = answers
        tick(done, len(kinds))
    return Probed(cases, found)


def try_all(predictor: Predictor, probed: Probed, runs: Sequence[ComparedRun]) -> list[Tried]:
    """All suspects, those with the least loss first. Those that may be likely are simulated."""
    cases, found = probed.cases, []
    whole = cases.loss(cases.predicted)
    for answers in probed.answers.values():
        by = answers.best(cases)
        line = answers.predict(cases, by)
        one = Tried(answers.kind, by, line, cases.loss(line), answers.slopes)
        found.append(simulated(predictor, cases, one) if one.loss < PROMISING * whole else one)
    if max((run.kv_peak for run in runs), default=0.0) > NEARLY_FULL:
        found += try_rooms(predictor, cases)
    return sorted(found, key=lambda one: one.loss)


def simulated(predictor: Predictor, cases: Cases, one: Tried) -> Tried:
    """The same with what a simulation says after the move, not a straight line."""
    predicted = predict(predictor, cases, moved(one.kind, one.by))
    return one._replace(predicted=predicted, loss=cases.loss(predicted))


def try_rooms(predictor: Predictor, cases: Cases) -> list[Tried]:
    """The room for the KV cache that leaves the least loss: a share of what is predicted."""
    whole = max(map(predictor.kv_bytes, cases.benches))
    found = []
    for share in ROOMS:
        predicted = predict(predictor, cases, _with_room(whole * (1 - share)))
        kind = Kind(MEMORY, "room for the KV cache, and preemption", (), rate=False, metric="ttft")
        found.append(Tried(kind, share, predicted, cases.loss(predicted)))
    return [min(found, key=lambda one: one.loss)]


def _with_room(less: float) -> Change:
    return lambda engine: evolve(engine, reserve=engine.reserve + less)


# ---- as answers


def suspect_of(cases: Cases, one: Tried, engine: EngineSpec, row: int, metric: str) -> Suspect:
    """What is told of a suspect; ``row`` and ``metric`` have the largest gap."""
    column = JUDGED.index(metric)
    before, after = (cases.errors(p)[row, column] for p in (cases.predicted, one.predicted))
    explained = 1 - abs(after) / abs(before) if before else 0.0
    return Suspect(
        one.kind.name,
        one.kind.title,
        describe(one, engine),
        share=share_of(cases, one, engine, row, column),
        explained=float(explained),
        error=cases.mean_error(one.predicted),
    )


def share_of(cases: Cases, one: Tried, engine: EngineSpec, row: int, column: int) -> float:
    """The part of a predicted metric that a suspect takes, as the simulation answers to it."""
    if one.slopes is None:
        return float("nan")
    unit = 1.0 if one.kind.rate else sum_up(float(getattr(engine, name)) for name in one.kind.fields)
    return float(one.slopes[row, column] * unit / cases.predicted[row, column])


def describe(one: Tried, engine: EngineSpec) -> str:
    """``1.35 times as long``, ``1.2 ms instead of 0.26 ms``."""
    if one.kind.name == MEMORY:
        return f"{one.by:.0%} of the predicted room"
    if one.kind.rate:
        return f"{1 + one.by:.3g} times as long"
    now = sum_up(float(getattr(engine, name)) for name in one.kind.fields)
    return f"{show_time(max(now + one.by, 0.0))} instead of {show_time(now)}"


def largest_gap(runs: Sequence[ComparedRun]) -> tuple[int, Measure] | None:
    """The run and the latency that lies farthest from the prediction, those outside their band first."""
    found = [(i, m) for i, run in enumerate(runs) for metric in JUDGED if (m := run.find(metric)) is not None]
    return max(found, key=lambda pair: (pair[1].inside is False, distance(pair[1])), default=None)
