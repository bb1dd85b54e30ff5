"""An engine fitted to a user's own runs: as few of its constants move as the runs can tell apart.

How metrics answer to each constant is known from simulations (`suspects`), and between them is taken as a straight
line in seconds and in times of kernels. A constant joins the fit if it lowers the error of runs that are left out in
turn. Then all runs are simulated with the engine that was found, and the fit is repeated from there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from attrs import evolve

from plandsl.answers.comparison import ComparedRun, FittedConstant, FittedEngine
from plandsl.backends.calibrate.robust import soften
from plandsl.backends.calibrate.solve import least_squares
from plandsl.backends.compare.bands import find_bands, tell_bands, without_stated
from plandsl.backends.compare.predict import Predictor
from plandsl.backends.compare.suspects import JUDGED, KINDS, NOISE, Answers, Cases, Kind, Probed, predict, probe
from plandsl.backends.cost.serving.requests import Floats
from plandsl.diagnostics import Diagnostic, PlanError
from plandsl.show_engine import show_engine
from plandsl.spec.engine_bands import EngineBands
from plandsl.spec.hardware import EngineSpec
from plandsl.units import show_percent

WIDTHS = {True: 0.5, False: 3.0}
"""How far rates, and times, may be from the engine's, as a logarithm: one standard deviation.

Wide, so that the runs decide and not the engine's own constants: these only settle what the runs leave open. (The
catalog's engines have narrower ones, `benchmarks.steps`: their rows are of many plans, and errors of kernels of one
plan are no part of them. Here they are to be.)
"""

LEAST = 1e-6
"""Seconds that stand for a time of 0 where the fit starts."""

BETTER = 0.8
"""A constant joins the fit if the error of runs left out falls below this share of the error without it."""

EACH = 2
"""Numbers that were measured for each constant that is fitted, at least."""

ROUNDS = 3
"""How often all runs are simulated with the engine that was found, at most."""

SETTLED, DONE = 0.9, 1e-2
"""The fit ends where a round leaves more than this share of the loss, or less than this loss."""

T80 = 1.2816
"""Standard deviations of a normal distribution on either side with 80 % between them."""


class Point(NamedTuple):
    """An engine on the way: its constants that move, what is predicted with it, and how metrics answer to each."""

    engine: EngineSpec
    cases: Cases
    answers: Mapping[str, Answers]


def check_fit(predictor: Predictor, runs: Sequence[ComparedRun]) -> None:
    """Raise `PlanError` (E566) where the plan names no engine, or no run has what an engine is fitted to."""
    if predictor.engine is None:
        hint = "add the engine that ran, for example `engine = vllm`"
        raise PlanError([Diagnostic("E566", f"`{predictor.plan.name}` names no engine to fit", hint=hint)])
    if len({pool.plan.engine for pool in predictor.pools}) > 1:
        hint = "give both pools the same engine, or compare each pool's engine by itself"
        raise PlanError([Diagnostic("E566", f"the pools of `{predictor.plan.name}` have different engines", hint=hint)])
    if not any(run.find(metric) for run in runs for metric in JUDGED):
        hint = "write TTFT and TPOT: `vllm bench serve --percentile-metrics ttft,tpot`"
        raise PlanError([Diagnostic("E566", "no run has TTFT or TPOT, to which an engine is fitted", hint=hint)])


def fit_engine(predictor: Predictor, probed: Probed, others: Cases, engine: EngineSpec, name: str) -> FittedEngine:
    """The engine that comes closest to the runs, under ``name``, from the predictor's own ``engine``.

    ``others`` are runs that judge nothing: they tell how far the engine is off where it has seen no run.

    Raises `PlanError` (E451) without scipy.
    """
    start = Point(engine, *probed)
    chosen = choose(start, int(np.isfinite(start.cases.measured).sum()))
    points = [start]
    for _ in range(ROUNDS if chosen else 0):
        moved = move(points[-1].engine, chosen, solve(points[-1], chosen, engine))
        points.append(point_at(predictor, start.cases, moved, chosen))
        before, after = (point.cases.loss(point.cases.predicted) for point in points[-2:])
        if after > SETTLED * before or after < DONE:
            break
    best = min(points, key=lambda point: point.cases.loss(point.cases.predicted))
    bands = None
    if len(start.cases.benches) > 1:
        more = others._replace(predicted=predict(predictor, others, lambda _: best.engine))
        unseen = predict_left_out(best, chosen, engine)
        bands = find_bands(best.cases.and_more(more), np.concatenate([unseen, more.predicted]), predictor.plan)
    return tell(name, start, best, chosen, bands)


def point_at(predictor: Predictor, cases: Cases, engine: EngineSpec, names: Sequence[str]) -> Point:
    """All runs simulated with an engine, and how their metrics answer to its constants."""
    here = cases._replace(predicted=predict(predictor, cases, lambda _: engine))
    return Point(engine, *probe(predictor.with_engine(engine), here, engine, names))


# ---- which constants


def choose(point: Point, numbers: int) -> list[str]:
    """The constants that the runs can tell: each lowers the error of runs left out, the most first."""
    chosen: list[str] = []
    alone = len(point.cases.benches) == 1
    error = unseen_error(point, chosen)
    while len(chosen) < max(numbers // EACH, 1) and error > NOISE:
        left = [name for name in point.answers if name not in chosen]
        errors = {name: unseen_error(point, [*chosen, name]) for name in left}
        best = min(errors, key=lambda name: errors[name], default=None)
        if best is None or errors[best] > BETTER * error:
            break
        chosen.append(best)
        error = errors[best]
        if alone:
            break
    return chosen


def unseen_error(point: Point, names: Sequence[str]) -> float:
    """The mean error of runs that a fit of some constants has not seen; of one run, of that run itself."""
    many = len(point.cases.benches)
    if many == 1:
        found = along(point, names, solve(point, names, point.engine))
        return float(point.cases.loss(found) ** 0.5)
    return float(np.mean([abs(error) for _, error in left_out(point, names, point.engine)]))


def left_out(point: Point, names: Sequence[str], first: EngineSpec) -> Iterator[tuple[str, float]]:
    """The metric and the logarithm of the error of each run, by a fit from ``point`` on that has seen the others."""
    errors = point.cases.errors(predict_left_out(point, names, first))
    for row, there in zip(errors, np.isfinite(point.cases.measured), strict=True):
        for metric, error, is_there in zip(JUDGED, row, there, strict=True):
            if is_there:
                yield metric, float(error)


def predict_left_out(point: Point, names: Sequence[str], first: EngineSpec) -> Floats:
    """float64[runs, metrics]: what is predicted of each run by a fit from ``point`` on that has seen the others."""
    many = len(point.cases.benches)
    found = np.full(point.cases.measured.shape, np.nan)
    for out in range(many):
        by = solve(some(point, [i for i in range(many) if i != out]), names, first)
        found[out] = along(some(point, [out]), names, by)[0]
    return found


def some(point: Point, rows: Sequence[int]) -> Point:
    """The same with some of the runs."""
    kept = {name: one._replace(slopes=one.slopes[list(rows)]) for name, one in point.answers.items()}
    return Point(point.engine, point.cases.of(rows), kept)


# ---- the fit


def kind_of(name: str) -> Kind:
    """A suspect by its name."""
    return next(kind for kind in KINDS if kind.name == name)


def now(engine: EngineSpec, kind: Kind) -> float:
    """The constant of a suspect; a time of 0 is `LEAST`, so that it has a logarithm."""
    value = float(getattr(engine, kind.fields[0]))
    return value if kind.rate else max(value, LEAST)


def solve(point: Point, names: Sequence[str], first: EngineSpec) -> Floats:
    """The moves of some constants, as logarithms, with the least robust squares of errors and of the moves.

    ``first`` is the engine before any move, to which constants are drawn.
    """
    if not names:
        return np.zeros(0)
    kinds = [kind_of(name) for name in names]
    width = np.array([WIDTHS[kind.rate] for kind in kinds])
    gone = np.array([np.log(now(point.engine, kind) / now(first, kind)) for kind in kinds]) / width
    there = np.isfinite(point.cases.measured)

    def residuals(y: Floats) -> Floats:
        return np.concatenate([soften(point.cases.errors(along(point, names, y * width))[there]), gone + y])

    found: Floats = least_squares(residuals, np.zeros(len(names))) * width
    return found


def along(point: Point, names: Sequence[str], by: Floats) -> Floats:
    """What is predicted after moves, as a straight line in times."""
    found = point.cases.predicted.copy()
    for name, move_ in zip(names, by, strict=True):
        kind = kind_of(name)
        if name in point.answers:
            moved = np.exp(-move_) - 1 if kind.rate else now(point.engine, kind) * (np.exp(move_) - 1)
            found = found + moved * point.answers[name].slopes
    return np.maximum(found, 1e-9)


def move(engine: EngineSpec, names: Sequence[str], by: Floats) -> EngineSpec:
    """The engine with moved constants, to four digits."""
    values: dict[str, Any] = {}
    for name, move_ in zip(names, by, strict=True):
        kind = kind_of(name)
        values[kind.fields[0]] = float(f"{now(engine, kind) * float(np.exp(move_)):.4g}")
    return evolve(engine, **values)


# ---- as an answer


def tell(name: str, start: Point, end: Point, chosen: Sequence[str], bands: EngineBands | None) -> FittedEngine:
    """What was fitted, what it explains, and what the runs could not tell."""
    several = len(start.cases.benches) > 1
    unseen = list(left_out(end, chosen, start.engine)) if several else []
    wide = intervals(end, chosen)
    constants = tuple(
        FittedConstant(kind.fields[0], float(getattr(start.engine, kind.fields[0])),
                       float(getattr(end.engine, kind.fields[0])), wide[kind.name])
        for kind in map(kind_of, chosen)
    )  # fmt: skip
    many = len(start.cases.benches)
    source = f"{', '.join(c.name for c in constants) or 'nothing'} fitted to {many} run{'s' * (many > 1)}"
    assumed = tuple((field, why) for field, why in end.engine.assumed if field not in {c.name for c in constants})
    made = evolve(
        end.engine, name=name, assumed=assumed, source=f"{source}; the rest of {start.engine.name}", bands=bands,
        limits=None,
    )  # fmt: skip
    made = without_stated(made)
    errors = [by_metric(p.cases, p.cases.predicted) for p in (start, end)]
    mean = {metric: [abs(e) for m, e in unseen if m == metric] for metric, _ in errors[0]}
    left = tuple((metric, float(np.expm1(np.mean(found)))) for metric, found in mean.items() if found)
    return FittedEngine(
        name, f"{comments(made, errors, left)}{show_engine(made)}\n", constants, before=errors[0], after=errors[1],
        left_out=left if several else None, skipped=tuple(_skipped(start, chosen, bands)),
    )  # fmt: skip


def comments(
    engine: EngineSpec, errors: Sequence[tuple[tuple[str, float], ...]], left: Sequence[tuple[str, float]]
) -> str:
    """The first lines of the file of an engine: what was fitted, and what it explains."""
    lines = ["Written by `planc compare --fit`.", f"{engine.source}."]
    before, after, unseen = dict(errors[0]), dict(errors[1]), dict(left)
    for metric, value in before.items():
        out = f", of a run left out {show_percent(unseen[metric])}" if metric in unseen else ""
        lines.append(f"mean error of {metric}: {show_percent(value)} before, {show_percent(after[metric])} after{out}")
    return "".join(f"# {line}\n" for line in lines)


def by_metric(cases: Cases, predicted: Floats) -> tuple[tuple[str, float], ...]:
    """The mean error of each metric, as a factor minus 1."""
    errors = np.abs(cases.errors(predicted))
    there = np.isfinite(cases.measured)
    return tuple(
        (metric, float(np.expm1(errors[there[:, at], at].mean())))
        for at, metric in enumerate(JUDGED)
        if there[:, at].any()
    )


def intervals(point: Point, names: Sequence[str]) -> dict[str, float]:
    """The 80 % interval of each constant, as a factor, from the curvature of the loss."""
    if not names:
        return {}
    width = np.array([WIDTHS[kind_of(name).rate] for name in names])
    there, step = np.isfinite(point.cases.measured), 1e-3

    def residuals(y: Floats) -> Floats:
        return np.concatenate([soften(point.cases.errors(along(point, names, y * width))[there]), y])

    base = residuals(np.zeros(len(names)))
    slopes = np.stack([(residuals(step * unit) - base) / step for unit in np.eye(len(names))], axis=1)
    spread = np.sqrt(np.diag(np.linalg.inv(slopes.T @ slopes)))
    return dict(zip(names, map(float, np.exp(T80 * spread * width)), strict=True))


def _skipped(point: Point, chosen: Sequence[str], bands: EngineBands | None) -> Iterator[str]:
    silent = [kind.fields[0] for kind in KINDS if kind.name not in point.answers]
    left = [kind.fields[0] for kind in KINDS if kind.name in point.answers and kind.name not in chosen]
    if left:
        why = (
            "the run has too few numbers" if len(point.cases.benches) == 1 else "they lower no error of a run left out"
        )
        yield f"not fitted: {', '.join(left)}: {why}"
    if silent:
        yield f"not fitted: {', '.join(silent)}: the runs do not depend on them"
    if len(point.cases.benches) == 1:
        yield "one run: nothing says how far off the engine is at other loads"
    if bands is None:
        yield "the fitted engine has no bands: these runs do not say how far other runs are from it"
    else:
        yield tell_bands(point.engine.name)
