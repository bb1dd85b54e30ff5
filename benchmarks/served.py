"""Measured servers beside predictions: a value for each row and metric, from predictions or from residuals of fits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from plandsl.backends.accuracy.names import engine_of, find_model
from plandsl.backends.accuracy.rules import Given, rule_against
from plandsl.backends.accuracy.run import read
from plandsl.backends.accuracy.serving import METRICS, READERS, Predicted, by_plan, read_rows
from plandsl.backends.calibrate.table import Table, read_table
from plandsl.diagnostics import Diagnostic, PlanError
from plandsl.driver import compile_text
from plandsl.entries import catalog_has

LENGTHS = ("jittered", "fixed", "assumed")
"""Lengths of requests: drawn, all equal, or equal since nothing is said of them."""

ORDER = ("ttft", "tpot", "throughput")


class Value(NamedTuple):
    """One metric of one row, measured and predicted with its band (NaN: none); ``reason``: why nothing is predicted.

    ``file`` and ``at`` say which row; ``fold`` what was left out of the fit behind the prediction, if anything.
    """

    file: str
    at: int
    engine: str
    gpu: str
    model: str
    dense: bool
    lengths: str
    metric: str
    measured: float
    predicted: float
    low: float = np.nan
    high: float = np.nan
    reason: str = ""
    fold: str = ""

    @property
    def ratio(self) -> float:
        """Predicted over measured."""
        return self.predicted / self.measured

    @property
    def answered(self) -> bool:
        """Whether something is predicted."""
        return bool(self.predicted > 0)


def is_dense(model: str) -> bool:
    """Whether a model has no experts; of one that the catalog lacks, it is not known, and False."""
    name = find_model(model, catalog_has)
    return bool(name) and not catalog_has("dimension", f"{name}.experts")


def lengths_of(words: str) -> str:
    """The kind of lengths that a row has."""
    if "uniform" in words:
        return "jittered"
    return "assumed" if "assumed" in words else "fixed"


# ---- what is left out by rule


def left_out_by_rule(table: Table, file: str) -> dict[int, str]:
    """The rows that are left out of every judgement, and the rule that says so."""
    rows, _ = read_rows(table, READERS[file], catalog_has)
    measured = {metric: table.numbers(column) for column, metric in METRICS[file].items()}
    notes = table.texts("notes")
    found: dict[int, str] = {}
    for (text, *_), of in by_plan(rows).items():
        try:
            model = compile_text(text)[0].cost
        except PlanError:
            continue
        for at in of:
            values = {metric: float(column[at]) for metric, column in measured.items()}
            if why := rule_against(model, rows[at], Given(str(notes[at]), values)):
                found[at] = why
    return found


def counted(reasons: Mapping[Hashable, str]) -> list[list[str]]:
    """How many rows each rule leaves out."""
    return [["rows", "left out since"], *([str(n), why] for why, n in Counter(reasons.values()).most_common())]


# ---- values


def values_of(table: Table, file: str, found: Predicted, left_out: Mapping[int, str]) -> list[Value]:
    """All that was measured of the rows that are not left out, with what is predicted."""
    named = "bench" if file == "mlperf" else "model"
    texts = {name: table.texts(name) for name in ("framework", "gpu", named, "length_jitter")}
    out = []
    for column, metric in METRICS[file].items():
        measured, answer = table.numbers(column), found.answers[metric]
        for at in np.flatnonzero((measured > 0) & [at not in left_out for at in range(len(table))]).tolist():
            gpu, model = str(texts["gpu"][at]), str(texts[named][at])
            out.append(
                Value(
                    file, at, engine_of(str(texts["framework"][at]), gpu) or "other", gpu, model,
                    dense=is_dense(model.removesuffix("-99.9").removesuffix("-99")),
                    lengths=lengths_of(str(texts["length_jitter"][at])) if file == "serving" else "fixed",
                    metric=metric, measured=float(measured[at]), predicted=float(answer.predicted[at]),
                    low=float(answer.low[at]), high=float(answer.high[at]), reason=str(answer.reason[at]),
                )
            )  # fmt: skip
    return out


JUDGED = ("gpu", "model", "source")
"""What is left out in turn where errors are said to be left out."""


NEEDED = ("engine", "gpu", "model", "metric", "predicted", "measured", "fold")
"""Columns that a table of residuals has in both dialects."""


def read_residuals(path: Path, folds: Sequence[str] = JUDGED) -> list[Value]:
    """What fits say of rows that they did not see: a table as `python -m benchmarks.engines --residuals` writes it.

    Columns: `NEEDED`; ``dense`` (0 or 1, or dense) or ``kind`` (dense or moe); ``lengths`` (of `LENGTHS`) or ``jitter``
    (0 or 1); and ``row``, the place in serving.csv, where it is known. Raises `PlanError` (E450) for what is no table.
    """
    columns = read_table(path, NEEDED).columns
    found = []
    for number, cells in enumerate(zip(*columns.values(), strict=True), 2):
        row = dict(zip(columns, map(str, cells), strict=True))
        try:
            found += [_residual(row)] if row["fold"] in folds else []
        except ValueError as error:
            why = f"{path} cannot be used: row {number}: {error}"
            hint = "`predicted`, `measured` and `row` are numbers"
            raise PlanError([Diagnostic("E450", why, hint=hint)]) from error
    return found


def _residual(row: Mapping[str, str]) -> Value:
    dense = row["dense"] in ("1", "dense", "True") if row.get("dense") else row.get("kind") == "dense"
    lengths = row.get("lengths") or ("jittered" if row.get("jitter") in ("1", "1.0", "True") else "fixed")
    metrics = METRICS["serving"]
    return Value(
        "serving", int(row.get("row") or -1), row["engine"], row["gpu"], row["model"], dense=dense, lengths=lengths,
        metric=metrics.get(row["metric"], row["metric"]), measured=float(row["measured"]),
        predicted=float(row["predicted"]), fold=row["fold"],
    )  # fmt: skip


def read_deployments(data: Path) -> Iterator[tuple[str, Table]]:
    """The files of deployments that a folder has."""
    for file in METRICS:
        if (data / f"{file}.csv").is_file():
            yield file, read(data / f"{file}.csv")
