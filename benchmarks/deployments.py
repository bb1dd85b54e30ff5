"""Sections of the accuracy page on servers: errors by class beside the aims, the choice, and what misses."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks.aims import Table, aims_table, engines_table, misses_table, refusals_table
from benchmarks.choices import LEAST, NOISE, choices_table
from benchmarks.served import Value, counted, left_out_by_rule, read_deployments, read_residuals, values_of
from plandsl.backends.accuracy.answer import Answer
from plandsl.backends.accuracy.rows import NAMES
from plandsl.backends.accuracy.serving import Predicted, predict_rows
from plandsl.backends.calibrate.table import Table as Rows
from plandsl.driver import compile_cost
from plandsl.entries import catalog_has

JOBS = 2
"""Processes that share the plans."""


class Servers(NamedTuple):
    """Rows of deployments by file with what is predicted of them, and what fits said of rows that they did not see."""

    tables: dict[str, Rows]
    predicted: dict[str, Predicted]
    unseen: list[Value]

    @classmethod
    def read(cls, data: Path, residuals: Path | None = None, rows: Path | None = None) -> Servers:
        """Of a folder. ``rows`` is what `planc accuracy DATA --rows` wrote; without it, rows are predicted."""
        tables = dict(read_deployments(data))
        known = {} if rows is None else read_predicted(rows)
        predicted = {
            file: known[file] if file in known else predict_rows(table, file, compile_cost, catalog_has, jobs=JOBS)
            for file, table in tables.items()
        }
        return cls(tables, predicted, [] if residuals is None else read_residuals(residuals))


def read_predicted(path: Path) -> dict[str, Predicted]:
    """What `planc accuracy DATA --rows` wrote, by file."""
    with path.open(newline="", encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    out = {}
    for name in dict.fromkeys(line["file"] for line in lines):
        mine = [line for line in lines if line["file"] == name]
        reason = np.array([line["reason"] for line in mine], dtype=np.str_)
        answers = {}
        for metric, column in NAMES.items():
            ends = (np.array([float(x[f"{column}{end}"] or "nan") for x in mine]) for end in ("", "_low", "_high"))
            predicted, low, high = ends
            none = np.where((reason == "") & np.isnan(predicted), "no such metric", reason)
            answers[metric] = Answer(predicted, low, high, none.astype(np.str_))
        by = np.array([line["answered_by"] for line in mine], dtype=np.str_)
        out[name.removesuffix(".csv")] = Predicted(answers, by)
    return out


INTRO = """\
Measured servers under load (`serving.csv`), each row answered by the simulation of the requests that its load
generator sent (`planc accuracy DATA --rows OUT.csv`). A claim on this page holds for these loads: closed loops,
requests that are all queued at once, and static batches. Beyond MLPerf's highest rates and the 300 requests of one run,
open loops are checked by laws only.

`rows` counts measurements of a metric, `answered` those with a prediction. The error is |predicted / measured - 1|,
`bias` the median of predicted / measured - 1, and `in band` the share of measurements inside the band that should hold
80 %. A class meets its aims if the median is within the aim and nine errors in ten are below 45 %. Rows whose lengths
are only assumed to be fixed are reported apart.
"""

RULES = """\
Rows left out by rule, before any error was looked at, and in no table below:
"""

UNSEEN = """\
Errors of rows whose whole GPU, model or source was left out of the fit of engines, once for each.
"""

SHIPPED = """\
Errors of all rows with the engines and calibrations that ship, which were fitted to some of them.
"""

CHOICE = """\
The choice that people make: of all configurations (degrees and load) of one model, GPU, engine version, precision and
lengths, that of most throughput per GPU whose TPOT keeps a limit. It is chosen by prediction among {least} or more, and
judged by measurement: `within 5 %` is the share of choices that lose at most 5 % of the best measured throughput,
`regret` the share of it that is lost. A choice whose measured TPOT exceeds the limit by more than {noise:.0f} % (two
repeats differ by 3 %) loses all.
"""

MISSES = """\
Engines, GPUs and models whose median error exceeds the aim of their class.
"""


def sections(servers: Servers, markdown: Callable[[Table], str]) -> Iterator[str]:
    """The text of the sections; nothing where the folder has no rows."""
    if not servers.tables:
        return
    left_out = {file: left_out_by_rule(table, file) for file, table in servers.tables.items()}
    shipped = list(_values(servers, left_out))
    yield "## Servers\n"
    yield INTRO
    yield RULES
    yield markdown(counted({(file, at): why for file, some in left_out.items() for at, why in some.items()}))
    told = [("left out of the fit", UNSEEN, servers.unseen), ("as shipped", SHIPPED, shipped)]
    for title, text, values in told:
        of_serving = [v for v in values if v.file == "serving"]
        if of_serving:
            yield f"### Servers, {title}\n"
            yield text
            yield markdown(aims_table(of_serving))
    yield from _choices(servers, shipped, markdown)
    judged = servers.unseen or [v for v in shipped if v.file == "serving"]
    yield "### Servers that miss\n"
    yield MISSES
    yield markdown(misses_table(judged))
    yield "### Servers by engine, GPU and model\n"
    yield markdown(engines_table(judged))
    if mlperf := [v for v in shipped if v.file == "mlperf"]:
        yield "### MLPerf by benchmark\n"
        yield markdown(engines_table(mlperf))
    yield "### Servers without a prediction\n"
    yield markdown(refusals_table(shipped))


def _values(servers: Servers, left_out: Mapping[str, Mapping[int, str]]) -> Iterator[Value]:
    for file, table in servers.tables.items():
        yield from values_of(table, file, servers.predicted[file], left_out[file])


def _choices(servers: Servers, shipped: Sequence[Value], markdown: Callable[[Table], str]) -> Iterator[str]:
    if "serving" not in servers.tables:
        return
    rows = servers.tables["serving"]
    yield "### The choice\n"
    yield CHOICE.format(least=LEAST, noise=100 * NOISE)
    for fold in dict.fromkeys(v.fold for v in servers.unseen):
        yield f"With constants of engines that were fitted without the {fold}:\n"
        yield markdown(choices_table(rows, [v for v in servers.unseen if v.fold == fold]))
    yield "With the engines that ship:\n"
    yield markdown(choices_table(rows, shipped))
