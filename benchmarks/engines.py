"""Fit what serving engines add to kernels: `python -m benchmarks.engines DATA [--residuals FILE]`.

Each row is simulated once (`recording`), and the times of its steps are fitted (`steps`). Constants of all engines
together come first; those of each engine are drawn to them, the closer the fewer rows it has. Errors and bands come
from rows that a fit did not see: whole GPUs, models, sources and versions are left out in turn. Writes
`plandsl/catalog/engines/`.
"""

from __future__ import annotations

import argparse
import csv
import pickle
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from attrs import evolve

from benchmarks.engine_files import Found, write
from benchmarks.measured import Measured, read_measured
from benchmarks.recording import Features, Load, Recording, features, record
from benchmarks.steps import LOOSE, METRICS, START, Fit, Steps, fit
from plandsl.backends.accuracy.serving import ENDLESS, ROUNDS
from plandsl.backends.calibrate.fit import Errors, errors
from plandsl.backends.cost.deployments.replicas import Replicas
from plandsl.backends.cost.serving.clock import step_clock
from plandsl.backends.cost.serving.requests import Floats
from plandsl.driver import compile_text

ENGINES = ("vllm", "vllm_rocm", "trtllm", "sglang", "atom")
"""Engines of the catalog."""

FOLDS = ("gpu", "model", "source", "version")
"""What is left out in turn, one value after another."""

JUDGED = FOLDS[:3]
"""Folds that the errors of an engine and its bands are of."""

WIDTHS = (0.25, 0.5, 1.0)
"""How far constants of an engine may be from those of all engines, in `LOOSE`: chosen by errors left out."""

PROCESSES = 2

FEW = 5
"""An engine with fewer rows for each constant has the constants of all engines."""


class Case(NamedTuple):
    """A row, its recording, and what the times of its steps depend on."""

    row: Measured
    recording: Recording
    features: Features

    @property
    def numbers(self) -> list[float]:
        """What was measured, by metric."""
        return [self.row.values[metric] for metric in METRICS]


Recordings = dict[int, Recording | str]
"""Recordings by the place of the row, or why there is none."""


def by_plan(rows: Sequence[Measured]) -> list[list[Measured]]:
    """Rows in groups that share a plan."""
    groups: dict[str, list[Measured]] = {}
    for row in rows:
        groups.setdefault(row.row.plan, []).append(row)
    return list(groups.values())


def record_all(rows: Sequence[Measured]) -> Recordings:
    """The recordings of rows."""
    found: Recordings = {}
    with ProcessPoolExecutor(PROCESSES) as pool:
        for some in pool.map(record_group, by_plan(rows)):
            found |= some
    return found


def record_group(rows: Sequence[Measured]) -> Recordings:
    """The recordings of rows of one plan; equal loads have one."""
    model = model_of(rows[0])
    engine, clock = model.plan.effective_engine, step_clock(model.one)
    made: dict[Load, Recording | str] = {}
    found: Recordings = {}
    for row in rows:
        load = load_of(row, model)
        if load not in made:
            try:
                recording = record(clock, engine.scheduler_name, load)
                made[load] = recording._replace(tokens=recording.tokens * model.n)
            except ValueError as error:
                made[load] = str(error)
        found[row.at] = made[load]
    return found


def model_of(row: Measured) -> Replicas:
    """The deployment of a row, with the constants at which recordings are made."""
    plan = compile_text(row.row.plan)[0]
    assert isinstance(plan.cost, Replicas), "rows have one pool"
    assert plan.spec.engine is not None, "rows have an engine"
    return plan.cost.on(evolve(plan.spec, engine=evolve(plan.spec.engine, **START)))


def cases_of(rows: Sequence[Measured], recordings: Recordings) -> Iterator[Case]:
    """The rows that have a recording, with the kernels of their steps."""
    for group in by_plan(rows):
        server = model_of(group[0]).one
        made: dict[int, Features] = {}
        for row in group:
            recording = recordings[row.at]
            if not isinstance(recording, str):
                key = id(recording)
                if key not in made:
                    made[key] = features(server, recording.shapes)
                yield Case(row, recording, made[key])


def load_of(row: Measured, model: Replicas) -> Load:
    """What each replica is asked; of a queue without end, as many requests as run at once are in flight."""
    asked = row.row
    clients, rounds = asked.clients, 1.0
    if asked.kind == "closed_concurrency":
        rounds = float(ROUNDS)
    elif asked.clients >= ENDLESS:
        clients, rounds = float(model.crowd(asked.clients, asked.input, asked.output).runs) * model.n, np.inf
    return Load(asked.input, asked.output, row.spread, max(round(clients / model.n), 1), rounds)


# ---- the fit


def is_fitted(row: Measured) -> bool:
    """Whether constants are fitted to a row: its lengths are known."""
    return row.lengths != "assumed"


def steps_of(cases: Sequence[Case]) -> Steps:
    """The steps of some rows, to be timed at once."""
    recordings = [case.recording for case in cases]
    return Steps(recordings, [case.features for case in cases], np.array([case.numbers for case in cases]))


def counts(cases: Sequence[Case]) -> Floats:
    """How much each row counts: rows of one version, model and GPU together as the square root of their number.

    They are alike, and have one error of kernels in common.
    """
    keys = [(case.row.version, case.row.model, case.row.gpu) for case in cases]
    many = Counter(keys)
    found = np.array([many[key] ** -0.5 for key in keys])
    return found


class Pooled(NamedTuple):
    """The fit of all engines, and that of each engine with enough rows."""

    all: Fit
    engines: dict[str, Fit]

    def of(self, engine: str) -> Fit:
        """The constants of an engine."""
        return self.engines.get(engine, self.all)


def fit_all(cases: Sequence[Case], width: float) -> Pooled:
    """The constants of all engines, then of each, drawn to them by ``width``."""
    seen = [case for case in cases if is_fitted(case.row)]
    own = {name: [case for case in seen if case.row.engine == name] for name in ENGINES}
    weights = counts(seen)
    sums = {name: sum(w for w, case in zip(weights, seen, strict=True) if case.row.engine == name) for name in ENGINES}
    even = np.array([w / sums[case.row.engine] ** 0.5 for w, case in zip(weights, seen, strict=True)])
    everything = fit(steps_of(seen), even, START)
    engines = {
        name: fit(steps_of(some), counts(some), everything.constants, width)
        for name, some in own.items()
        if len(some) >= FEW * len(LOOSE)
    }
    return Pooled(everything, engines)


class Residual(NamedTuple):
    """A metric of a row, as predicted by a fit that did not see the row's ``fold``, and as measured."""

    fold: str
    row: Measured
    metric: str
    predicted: float
    measured: float


def leave_out(cases: Sequence[Case], folds: Sequence[str], width: float) -> Iterator[Residual]:
    """Errors of rows whose GPU, model, source or version is left out of the fit."""
    for fold in folds:
        for value in dict.fromkeys(getattr(case.row, fold) for case in cases):
            unseen = [case for case in cases if getattr(case.row, fold) == value]
            fitted = fit_all([case for case in cases if getattr(case.row, fold) != value], width)
            yield from residuals(unseen, fitted, fold)


def residuals(cases: Sequence[Case], fitted: Pooled, fold: str) -> Iterator[Residual]:
    """What a fit says of rows, by metric, where something was measured."""
    for name in ENGINES:
        mine = [case for case in cases if case.row.engine == name]
        if not mine:
            continue
        predicted = steps_of(mine).predict(fitted.of(name).constants)
        for case, values in zip(mine, predicted.tolist(), strict=True):
            for metric, value, measured in zip(METRICS, values, case.numbers, strict=True):
                if measured > 0:
                    yield Residual(fold, case.row, metric, value, measured)


def choose_width(cases: Sequence[Case]) -> float:
    """The width with the least mean logarithm of errors on GPUs and models left out."""
    found = {}
    for width in WIDTHS:
        off = [abs(np.log(r.predicted / r.measured)) for r in leave_out(cases, FOLDS[:2], width) if is_fitted(r.row)]
        found[width] = float(np.mean(np.minimum(off, 1.0)))
        print(f"width {width:4}: mean error of GPUs and models left out {found[width]:.2%}")
    return min(found, key=lambda width: found[width])


def main(data: Path, residuals_file: Path | None = None, recordings: Path | None = None) -> None:
    """Fit every engine, judge, and write the engines to the catalog."""
    cases, reasons = load_cases(data / "serving.csv" if data.is_dir() else data, recordings)
    show_reasons(reasons, len(cases))
    width = choose_width(cases)
    fitted = fit_all(cases, width)
    judged = list(leave_out(cases, FOLDS, width))
    show(judged, fitted)
    if residuals_file is not None:
        write_residuals(residuals_file, judged)
    for name in ENGINES:
        own = [r for r in judged if r.row.engine == name and r.fold in JUDGED and is_fitted(r.row)]
        many = sum(case.row.engine == name and is_fitted(case.row) for case in cases)
        write(name, Found(fitted.of(name), many if name in fitted.engines else 0, by_metric(own)))


def load_cases(data: Path, kept: Path | None) -> tuple[list[Case], dict[int, str]]:
    """Recorded rows, and why the others are left out; ``kept`` is a file with what was recorded, or to be made."""
    rows, reasons = read_measured(data)
    if kept is not None and kept.exists():
        recordings: Recordings = pickle.loads(kept.read_bytes())
        rows = [row for row in rows if row.at in recordings]
    else:
        recordings = record_all(rows)
        if kept is not None:
            kept.write_bytes(pickle.dumps(recordings))
    lost = {at: found for at, found in recordings.items() if isinstance(found, str)}
    return sorted(cases_of(rows, recordings), key=lambda case: case.row.at), reasons | lost


def by_metric(found: Sequence[Residual]) -> dict[str, Errors]:
    """Errors by metric."""
    out = {}
    for metric in METRICS:
        pairs = np.array([(r.predicted, r.measured) for r in found if r.metric == metric])
        if len(pairs):
            out[metric] = errors(pairs[:, 0], pairs[:, 1])
    return out


def show_reasons(reasons: Mapping[int, str], rows: int) -> None:
    """How many rows are left out by which rule."""
    print(f"{rows} rows of servers; left out by rule:")
    for reason, many in Counter(reasons.values()).most_common():
        print(f"  {many:4} {reason}")


def show(judged: Sequence[Residual], fitted: Pooled) -> None:
    """The constants with their 80 % intervals, and errors of what was left out."""
    for name, one in {"all": fitted.all, **fitted.engines}.items():
        told = [f"{n} {value:.4g} (x {one.interval[n]:.2f})" for n, value in one.constants.items()]
        print(f"{name}: {', '.join(told)}")

    def line(title: str, some: Sequence[Residual]) -> None:
        for metric, e in by_metric(some).items():
            print(f"{title:44} {metric:16} {e.rows:5} {e.median:7.1%} p90 {e.p90:7.1%} bias {e.bias:+7.1%}")

    for dense in (True, False):
        for lengths in ("jittered", "fixed", "assumed"):
            kind = [r for r in judged if r.row.dense == dense and r.row.lengths == lengths]
            title = f"{'dense' if dense else 'experts'} {lengths}"
            line(f"{title} gpu, model, source", [r for r in kind if r.fold in JUDGED])
            for fold in FOLDS:
                line(f"{title} {fold}", [r for r in kind if r.fold == fold])
            for name in ENGINES:
                line(f"{title} {name}", [r for r in kind if r.row.engine == name and r.fold in JUDGED])


COLUMNS = (
    "fold", "row", "engine", "version", "gpu", "model", "source", "dense", "lengths", "load", "concurrency", "metric",
    "predicted", "measured",
)  # fmt: skip


def write_residuals(path: Path, judged: Sequence[Residual]) -> None:
    """Write what was left out and how far off it was, a line for each fold and metric."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for fold, row, metric, predicted, measured in judged:
            named = row.engine, row.version, row.gpu, row.model, row.source
            load = row.lengths, row.row.kind, f"{row.row.clients:g}"
            numbers = f"{predicted:.6g}", f"{measured:.6g}"
            writer.writerow([fold, row.at, *named, int(row.dense), *load, metric, *numbers])


def options() -> argparse.Namespace:
    """What the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.engines", description=__doc__)
    parser.add_argument("data", type=Path, help="a folder with serving.csv")
    parser.add_argument("--residuals", type=Path, help="write errors of rows left out to this file")
    parser.add_argument("--recordings", type=Path, help="keep what was simulated in this file, or take it from there")
    return parser.parse_args()


if __name__ == "__main__":
    asked = options()
    main(asked.data, asked.residuals, asked.recordings)
