"""Rows of measured servers that engines are fitted to and judged on, and why others are not."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from benchmarks.served import is_dense, lengths_of
from plandsl.backends.accuracy.row import Row
from plandsl.backends.accuracy.rules import Given, rule_against
from plandsl.backends.accuracy.serving import METRICS, by_load, engine_of, read_serving_rows
from plandsl.backends.calibrate.table import read_table
from plandsl.diagnostics import PlanError
from plandsl.driver import compile_text
from plandsl.entries import catalog_has

LOADS = ("closed_concurrency", "static_batch", "offline_all_at_once", "burst_all_at_once")
"""Loads in which seconds hardly matter to which requests share a step."""


class Measured(NamedTuple):
    """A row: who served what where, under what load, and what was measured (``values`` by metric, NaN: not stated).

    ``lengths``: `jittered`, `fixed`, or `assumed` where nothing but habit says that they were fixed.
    """

    at: int
    engine: str
    version: str
    gpu: str
    model: str
    source: str
    lengths: str
    row: Row
    values: dict[str, float]

    @property
    def dense(self) -> bool:
        """Whether the model has no experts."""
        return is_dense(self.model)


def read_measured(path: Path) -> tuple[list[Measured], dict[int, str]]:
    """The rows of a `serving.csv`, and why each of the others is left out."""
    table = read_table(path)
    rows, reasons = read_serving_rows(table, catalog_has)
    texts = {name: table.texts(name) for name in ("framework", "gpu", "model", "source", "length_jitter", "notes")}
    numbers = {column: table.numbers(column) for column in METRICS["serving"]}
    found: list[Measured] = []
    for (text, kind), of in by_load(rows).items():
        if kind not in LOADS:
            reasons |= dict.fromkeys(of, f"a load that is {kind}")
            continue
        try:
            model = compile_text(text)[0].cost
        except PlanError as error:
            reasons |= dict.fromkeys(of, error.diagnostics[0].message)
            continue
        if model.pools[0].in_flight > 1:
            reasons |= dict.fromkeys(of, "several batches in flight: which requests share a step depends on seconds")
            continue
        for at in of:
            values = {column: float(of_all[at]) for column, of_all in numbers.items()}
            said = {name: values[column] for column, name in METRICS["serving"].items()}
            why = rule_against(model, rows[at], Given(str(texts["notes"][at]), said))
            engine = engine_of(str(texts["framework"][at]), str(texts["gpu"][at]))
            if why or not engine:
                reasons[at] = why or "no such engine"
                continue
            version, gpu, named, source = (str(texts[name][at]) for name in ("framework", "gpu", "model", "source"))
            found.append(
                Measured(
                    at, engine, version, gpu, model=named, source=source,
                    lengths=lengths_of(str(texts["length_jitter"][at])), row=rows[at], values=values,
                )
            )  # fmt: skip
    return sorted(found, key=lambda m: m.at), reasons
