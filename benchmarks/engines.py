"""Fit what serving engines add to kernels: `python -m benchmarks.engines DATA [--residuals FILE]`.

Each row is simulated once (`recording`), and the times of its steps are fitted (`steps`). Constants of all engines
together come first; those of each engine are drawn to them, the closer the fewer rows it has. Errors and bands come
from rows that a fit did not see: whole GPUs, models, sources and versions are left out in turn. Writes
`plandsl/catalog/engines/` and the tables of docs/calibration.md.
"""

from __future__ import annotations

import argparse
import csv
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np
from attrs import evolve

from benchmarks import bands
from benchmarks.engine_files import Found, write
from benchmarks.engine_page import CLASSES, write_tables
from benchmarks.measured import Measured, read_measured
from benchmarks.recording import ROOM, Features, Load, Recording, features, record, run_worker
from benchmarks.steps import LOOSE, METRICS, START, STARTS, Fit, Steps, fit
from plandsl.backends.accuracy.row import ROUNDS
from plandsl.backends.calibrate.fit import Errors, errors
from plandsl.backends.cost.deployments.replicas import Replicas
from plandsl.backends.cost.serving.clock import ServerClock
from plandsl.backends.cost.serving.requests import Floats
from plandsl.driver import compile_text

ENGINES = ("vllm", "vllm_rocm", "trtllm", "sglang", "atom")
"""Engines of the catalog."""

FOLDS = ("gpu", "model", "source", "version")
"""What is left out in turn, one value after another."""

JUDGED = FOLDS[:3]
"""Folds that the errors of an engine and its bands are of."""

WIDTH = 0.5
"""How far constants of an engine may be from those of all engines, in `LOOSE`.

Of `WIDTHS` the one with the least errors on GPUs and models left out (`--widths`).
"""

WIDTHS = (0.25, 0.5, 1.0)

ALONE = (0.0,)
"""Fits that judge have one start: several have not found another minimum."""

PROCESSES = 2

FEW = 5
"""An engine with fewer rows for each constant has the constants of all engines."""


class Case(NamedTuple):
    """A row, the recording of its load, what the times of the steps depend on, and the ranks that compute them."""

    row: Measured
    recording: Recording
    features: Features
    ranks: int

    @property
    def numbers(self) -> list[float]:
        """What was measured, by metric."""
        return [self.row.values[metric] for metric in METRICS]


class Task(NamedTuple):
    """A load to simulate. Rows with equal keys share steps: their servers have one scheduler, and room for all."""

    key: tuple[object, ...]
    plan: str
    load: Load


def record_all(rows: Sequence[Measured]) -> tuple[list[Case], dict[int, str]]:
    """Rows with their recordings, and why others have none."""
    models = {plan: model_of(plan) for plan in dict.fromkeys(row.row.plan for row in rows)}
    tasks = [task_of(row, models[row.row.plan]) for row in rows]
    distinct = {task.key: task for task in tasks}
    with ProcessPoolExecutor(PROCESSES) as pool:
        made = dict(zip(distinct, pool.map(record_task, distinct.values(), chunksize=4), strict=True))
    found: list[Case] = []
    reasons: dict[int, str] = {}
    known: dict[tuple[str, int], Features] = {}
    for row, task in zip(rows, tasks, strict=True):
        recording, model = made[task.key], models[row.row.plan]
        if isinstance(recording, str):
            reasons[row.at] = recording
            continue
        key = row.row.plan, id(recording)
        if key not in known:
            known[key] = features(model.one, recording.shapes)
        whole = recording._replace(tokens=recording.tokens * model.n)
        found.append(Case(row, whole, known[key], int(model.plan.step_ranks[0])))
    return found, reasons


def model_of(text: str) -> Replicas:
    """The deployment of a plan, with the constants at which ranks that share requests are compared."""
    plan = compile_text(text)[0]
    assert isinstance(plan.cost, Replicas), "rows have one pool"
    assert plan.spec.engine is not None, "rows have an engine"
    return plan.cost.on(evolve(plan.spec, engine=evolve(plan.spec.engine, admit=0.0, **START)))


def task_of(row: Measured, model: Replicas) -> Task:
    """What is to be simulated for a row."""
    load, clock = load_of(row, model), ServerClock(model.one)
    one = run_worker(clock, load, load.draw())
    memory = () if one.blocks == ROOM else (one.blocks, one.block)
    key = (one.policy, load, clock.cuts, memory, row.row.plan if one.ranks > 1 else "")
    return Task(key, row.row.plan, load)


def record_task(task: Task) -> Recording | str:
    """The recording of a load, or why there is none."""
    try:
        return record(ServerClock(model_of(task.plan).one), task.load)
    except ValueError as error:
        return str(error)


def load_of(row: Measured, model: Replicas) -> Load:
    """What each replica is asked. Where more requests are queued than run at once, one that ends starts the next."""
    asked = row.row
    clients, rounds = asked.clients / model.n, 1.0
    if asked.kind == "closed_concurrency":
        rounds = float(ROUNDS)
    elif asked.kind != "static_batch":
        runs = float(model.crowd(asked.clients, asked.input, asked.output).runs)
        clients, rounds = min(clients, runs), max(clients / runs, 1.0)
    return Load(asked.input, asked.output, asked.spread, max(round(clients), 1), rounds)


# ---- the fit


def is_fitted(row: Measured) -> bool:
    """Whether constants are fitted to a row: its lengths are known."""
    return row.lengths != "assumed"


def steps_of(cases: Sequence[Case]) -> Steps:
    """The steps of some rows, to be timed at once."""
    recordings, known, ranks = ([getattr(case, name) for case in cases] for name in ("recording", "features", "ranks"))
    return Steps(recordings, known, ranks, np.array([case.numbers for case in cases]))


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


def fit_all(cases: Sequence[Case], width: float, starts: Sequence[float] = STARTS) -> Pooled:
    """The constants of all engines, then of each, drawn to them by ``width``."""
    seen = [case for case in cases if is_fitted(case.row)]
    own = {name: [case for case in seen if case.row.engine == name] for name in ENGINES}
    weights = counts(seen)
    sums = {name: sum(w for w, case in zip(weights, seen, strict=True) if case.row.engine == name) for name in ENGINES}
    even = np.array([w / sums[case.row.engine] ** 0.5 for w, case in zip(weights, seen, strict=True)])
    everything = fit(steps_of(seen), even, START, starts=starts)
    engines = {
        name: fit(steps_of(some), counts(some), everything.constants, width, starts)
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
            fitted = fit_all([case for case in cases if getattr(case.row, fold) != value], width, ALONE)
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


def compare_widths(cases: Sequence[Case]) -> None:
    """Print the mean error on GPUs and models left out for each of `WIDTHS`."""
    for width in WIDTHS:
        off = [abs(np.log(r.predicted / r.measured)) for r in leave_out(cases, FOLDS[:2], width) if is_fitted(r.row)]
        print(f"width {width:4}: mean error of GPUs and models left out {np.mean(np.minimum(off, 1.0)):.2%}")


def main(data: Path, residuals_file: Path | None = None, widths: bool = False) -> None:
    """Fit every engine, judge, and write the engines to the catalog."""
    rows, reasons = read_measured(data / "serving.csv" if data.is_dir() else data)
    cases, lost = record_all(rows)
    show_reasons(reasons | lost, len(cases))
    if widths:
        compare_widths(cases)
    fitted = fit_all(cases, WIDTH)
    judged = list(leave_out(cases, FOLDS, WIDTH))
    show(judged, fitted)
    for name in ENGINES:
        write(name, found_of(name, cases, fitted, judged))
    write_tables(errors_by_fold(judged), {"all": fitted.all, **fitted.engines})
    with TemporaryDirectory() as folder:
        file = residuals_file or Path(folder) / "residuals.csv"
        write_residuals(file, judged)
        bands.write(file)


def found_of(name: str, cases: Sequence[Case], fitted: Pooled, judged: Sequence[Residual]) -> Found:
    """What is known of an engine. Errors are of models without experts, where it has rows of any."""
    own = [r for r in judged if r.row.engine == name and r.fold in JUDGED and is_fitted(r.row)]
    rows = sum(case.row.engine == name and is_fitted(case.row) for case in cases) if name in fitted.engines else 0
    dense = by_metric([r for r in own if r.row.dense])
    return Found(fitted.of(name), rows, by_metric([r for r in own if not r.row.dense]) | dense)


def errors_by_fold(judged: Sequence[Residual]) -> dict[tuple[bool, str, str], list[Errors]]:
    """Errors of each class of rows and metric, a fold after the other."""
    out: dict[tuple[bool, str, str], list[Errors]] = {}
    for dense, lengths in CLASSES:
        for fold in FOLDS:
            kind = [r for r in judged if r.fold == fold and r.row.dense == dense and r.row.lengths == lengths]
            for metric, found in by_metric(kind).items():
                out.setdefault((dense, lengths, metric), []).append(found)
    return out


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
    parser.add_argument("--widths", action="store_true", help="compare how closely engines are drawn together")
    return parser.parse_args()


if __name__ == "__main__":
    asked = options()
    main(asked.data, asked.residuals, asked.widths)
