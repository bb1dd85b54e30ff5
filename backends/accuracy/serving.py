"""Predictions of serving.csv and mlperf.csv: how fast we think each deployment was.

A row becomes a plan (model, precision, GPUs, degrees, engine) and a load, which is simulated. Rows of one plan share
its servers, and what their steps cost.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from typing import NamedTuple

import numpy as np

from plandsl.backends.accuracy.answer import Answer, Texts
from plandsl.backends.accuracy.kernels import WRONG_ROW, wrong_cell
from plandsl.backends.accuracy.limits import find_highest_rate
from plandsl.backends.accuracy.mlperf_rows import mlperf_row
from plandsl.backends.accuracy.names import Known, catalog_name, engine_of
from plandsl.backends.accuracy.row import ENDLESS, NEVER, ROUNDS, Cells, Row
from plandsl.backends.accuracy.serving_rows import serving_row
from plandsl.backends.accuracy.simulated import Told, row_servers, simulate_row
from plandsl.backends.accuracy.spread import Refused, with_room
from plandsl.backends.calibrate.table import WRONG, Table
from plandsl.backends.cost.deployments.deployment import Deployment
from plandsl.diagnostics import PlanError
from plandsl.progress import Tick, silent

__all__ = [
    "ENDLESS", "NEVER", "ROUNDS", "Row", "by_column", "by_load", "catalog_name", "engine_of", "predict_rows",
    "read_serving_rows", "serving_groups",
]  # fmt: skip

Compile = Callable[[str], Deployment]
"""Makes the cost model of a plan's text."""

METRICS = {
    "serving": {"ttft_s": "ttft", "tpot_s": "tpot", "output_tok_per_s": "throughput"},
    "mlperf": {"tokens_per_s": "throughput"},
}
"""What is measured in each file, by column, and which prediction it is."""

PREDICTED = ("ttft", "tpot", "throughput")
"""What is predicted of a row."""

READERS: dict[str, Callable[[Cells, Known], Row]] = {"serving": serving_row, "mlperf": mlperf_row}


class Predicted(NamedTuple):
    """Answers by metric of `PREDICTED`, for every row of a file, and what answered: empty where nothing did."""

    answers: dict[str, Answer]
    by: Texts


class Found(NamedTuple):
    """What is predicted of one row: value, low and high of each metric of `PREDICTED`, and what answered."""

    values: tuple[tuple[float, float, float], ...]
    by: str


def group(table: Table) -> Texts:
    """Engine and model of each row, or the benchmark where that is what a row names."""
    if "bench" in table.columns:
        return np.char.add(np.char.add(table.texts("bench"), "/"), np.char.lower(table.texts("scenario")))
    pairs = zip(table.texts("framework"), table.texts("gpu"), strict=True)
    engines = np.array([engine_of(f, g) or f or "unnamed" for f, g in pairs])
    return np.char.add(np.char.add(engines, "/"), table.texts("model"))


def by_column(found: Predicted, file: str) -> dict[str, Answer]:
    """The answers for what is measured in a file, by column."""
    return {column: found.answers[metric] for column, metric in METRICS[file].items()}


def predict_rows(
    table: Table, file: str, compile_: Compile, known: Known, tick: Tick = silent, jobs: int = 1
) -> Predicted:
    """Answers for every row. ``known`` says what the catalog has, ``tick`` hears how many rows are done.

    With several ``jobs``, processes share the plans where there are many; then ``compile_`` must be a function that
    has a name.
    """
    rows, reasons = read_rows(table, READERS[file], known)
    found: dict[int, Found] = {}
    plans = [{at: rows[at] for at in of} for of in by_plan(rows).values()]
    for answers in _spread(partial(_answer_plan, compile_), plans, min(jobs, len(plans) // EACH)):
        for at, one in answers:
            if isinstance(one, str):
                reasons[at] = one
            else:
                found[at] = one
        tick(len(found) + len(reasons), len(table))
    return _gather(len(table), found, reasons)


EACH = 8
"""Plans that are worth a process of their own."""

Answers = list[tuple[int, "Found | str"]]


def _spread(answer: Callable[[dict[int, Row]], Answers], plans: list[dict[int, Row]], jobs: int) -> Iterator[Answers]:
    """The answers for each of some plans, in their order, by so many processes."""
    if jobs < 2:
        yield from map(answer, plans)
        return
    with ProcessPoolExecutor(jobs, get_context("spawn")) as pool:
        yield from pool.map(answer, plans)


def _gather(n: int, found: Mapping[int, Found], reasons: Mapping[int, str]) -> Predicted:
    reason = np.array([reasons.get(at, "") for at in range(n)], dtype=np.str_)
    by = np.array([found[at].by if at in found else "" for at in range(n)], dtype=np.str_)
    sheet = np.full((len(PREDICTED), 3, n), np.nan)
    for at, one in found.items():
        sheet[:, :, at] = one.values
    answers = {}
    for metric, (value, low, high) in zip(PREDICTED, sheet, strict=True):
        none = np.where((reason == "") & np.isnan(value), NO_VALUE, reason)
        answers[metric] = Answer(value, low, high, none.astype(np.str_))
    return Predicted(answers, by)


NO_ROW = "no plan can be made of such a row"

NO_VALUE = "an answer of one token has no time between tokens"


def _answer_plan(compile_: Compile, rows: dict[int, Row]) -> Answers:
    """Answers for the rows of one plan, or the reason why there is none. Equal loads are answered once."""
    loads = list(dict.fromkeys(rows.values()))
    try:
        plan = fastest(loads[0], compile_) if loads[0].others else loads[0].plan
        known = _answer_loads(plan, loads, compile_)
        lacking = [row for row, found in known.items() if isinstance(found, str)]
        if lacking and with_room(plan) != plan:  # what was measured had room
            again = _answer_loads(with_room(plan), lacking, compile_)
            known |= {row: found for row, found in again.items() if not isinstance(found, str)}
    except PlanError as error:
        return [(at, error.diagnostics[0].message) for at in rows]
    except WRONG_ROW:
        return [(at, NO_ROW) for at in rows]
    return [(at, known[row]) for at, row in rows.items()]


def _answer_loads(plan: str, loads: Sequence[Row], compile_: Compile) -> dict[Row, Found | str]:
    """Answers for loads of a plan, or the reason why there is none. Raises `PlanError` where the plan is wrong."""
    model = compile_(plan)
    servers, many = row_servers(model)
    known: dict[Row, Found | str] = {}
    for row in loads:
        try:
            ask = simulate_row if row.limits is None else find_highest_rate
            known[row] = _with_bands(model, ask(model, servers, many * row.copies(model.plan.ranks), row), row)
        except Refused as why:
            known[row] = str(why)
        except PlanError as error:
            known[row] = error.diagnostics[0].message
        except WRONG_ROW:
            known[row] = NO_ROW
    return known


def _with_bands(model: Deployment, told: Told, row: Row) -> Found:
    """The same with the bands that the engine has for requests that are alike in length, or are not."""
    values, jittered = [], row.spread[0] < row.spread[1] or row.longest > 0
    for metric, value in zip(PREDICTED, (told.ttft, told.tpot, told.rate), strict=True):
        low, high = model.plan.engine_band(metric, jittered) or (np.nan, np.nan)
        values.append((value, value * low, value * high))
    return Found(tuple(values), told.by)


# ---- rows and their plans


def read_rows(table: Table, read: Callable[[Cells, Known], Row], known: Known) -> tuple[dict[int, Row], dict[int, str]]:
    """The rows that have a plan, and the reasons of those that have none."""
    columns = {name: table[name] for name in table.columns}
    rows: dict[int, Row] = {}
    reasons: dict[int, str] = {}
    for at in range(len(table)):
        row = {name: column[at] for name, column in columns.items()}
        if row.get(WRONG):
            reasons[at] = wrong_cell(str(row[WRONG]))
            continue
        try:
            rows[at] = read(row, known)
        except Refused as why:
            reasons[at] = str(why)
        except WRONG_ROW:
            reasons[at] = NO_ROW
    return rows, reasons


def by_plan(rows: Mapping[int, Row]) -> dict[tuple[str, ...], list[int]]:
    """Rows that share a plan, or the plans that may have been run."""
    out: dict[tuple[str, ...], list[int]] = {}
    for at, row in rows.items():
        out.setdefault((row.plan, *row.others), []).append(at)
    return out


def fastest(row: Row, compile_: Compile) -> str:
    """The plan of a row with the highest throughput in closed form, of those that may have been run."""
    rates = {}
    for text in (row.plan, *row.others):
        try:
            model = compile_(text)
            copies = row.copies(model.plan.ranks)
            found = model.evaluate(concurrency=max(row.clients / copies, 1), input=row.input, output=row.output)
            rates[text] = float(found.throughput) * copies if found.fits else 0.0
        except PlanError:
            rates[text] = 0.0
    return max(rates, key=lambda text: rates[text])


def serving_groups(table: Table, compile_: Compile, known: Known) -> Iterator[tuple[Deployment, list[Row], list[int]]]:
    """Rows of serving.csv with one pool by plan and kind of load, compiled: what engines are fitted to."""
    rows, _ = read_serving_rows(table, known)
    for (text, _), of in by_load(rows).items():
        yield compile_(text), [rows[at] for at in of], of


def read_serving_rows(table: Table, known: Known) -> tuple[dict[int, Row], dict[int, str]]:
    """Rows of serving.csv that have a plan of one pool, by their place, and the reasons of the others."""
    rows, reasons = read_rows(table, serving_row, known)
    return {at: row for at, row in rows.items() if row.pools == 1}, reasons | {
        at: "two pools" for at, row in rows.items() if row.pools > 1
    }


def by_load(rows: Mapping[int, Row]) -> dict[tuple[str, str], list[int]]:
    """Rows that share a plan and a kind of load."""
    out: dict[tuple[str, str], list[int]] = {}
    for at, row in rows.items():
        out.setdefault((row.plan, row.kind), []).append(at)
    return out
