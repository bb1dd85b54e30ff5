"""Closed loops of serving.csv beside two answers, by engine: `python -m benchmarks.traffic DATA [SECONDS]`.

The closed form takes requests to arrive at random; the simulation serves them one by one, as the load generator sent
them: as many as are in flight start at once, and one that ends starts the next. Both use the same engines, whose
constants are fitted through the simulation. Rows with the fewest tokens come first; after ``SECONDS`` (600) the rest is
left out and counted.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from time import monotonic
from typing import NamedTuple

import numpy as np

from plandsl.backends.accuracy.lengths import EVEN, FIXED, draw_lengths
from plandsl.backends.accuracy.serving import NEVER, ROUNDS, Row, engine_of, serving_groups
from plandsl.backends.calibrate.table import Table, read_table
from plandsl.backends.cost.deployments.deployment import Deployment
from plandsl.backends.cost.deployments.replicas import Replicas
from plandsl.backends.cost.serving.requests import Closed, Ints, Requests
from plandsl.backends.cost.serving.serve import serve
from plandsl.backends.cost.serving.summary import summarise
from plandsl.driver import compile_text
from plandsl.entries import catalog_has
from plandsl.spec.scheduler import SchedulerName

SCHEDULERS: dict[str, SchedulerName] = {
    "vllm": "vllm",
    "vllm_rocm": "vllm",
    "sglang": "sglang",
    "trtllm": "trtllm",
    "atom": "vllm",
}
"""The scheduler of each engine of the rows. ATOM's is modelled on vLLM's."""

METRICS = {"ttft": "ttft_s", "tpot": "tpot_s", "throughput": "output_tok_per_s"}


class Case(NamedTuple):
    """A measured closed loop: the deployment, what it was asked, what was measured and what the closed form says.

    ``measured`` and ``formula`` are by metric, in SI units; ``measured`` is NaN where a row does not state it.
    """

    engine: str
    model: Deployment
    row: Row
    measured: dict[str, float]
    formula: dict[str, float]

    @property
    def jitter(self) -> bool:
        """Whether lengths were drawn, from 0.8 to 1 of the nominal; else all are equal."""
        return self.row.requests < NEVER

    @property
    def requests(self) -> int:
        """Requests that the load generator sent; `ROUNDS` for each in flight where the row does not say."""
        return int(self.row.requests if self.jitter else ROUNDS * self.row.clients)

    @property
    def tokens(self) -> float:
        """Output tokens of all requests: what the simulation takes time for."""
        return self.requests * self.row.output


def closed_loops(table: Table) -> Iterator[Case]:
    """The closed loops of models, engines and GPUs in the catalog, on deployments of one pool."""
    engines = np.array(list(map(engine_of, table.texts("framework").tolist(), table.texts("gpu").tolist())))
    closed = table.texts("load_kind") == "closed_concurrency"
    measured = {name: table.numbers(column) for name, column in METRICS.items()}
    for engine in SCHEDULERS:
        there = closed & (engines == engine)
        places = np.flatnonzero(there)
        for model, rows, of in serving_groups(table.where(there), lambda text: compile_text(text)[0].cost, catalog_has):
            for row, at in zip(rows, of, strict=True):
                m = model.evaluate(concurrency=row.clients, input=row.input, output=row.output, requests=row.requests)
                yield Case(
                    engine,
                    model,
                    row,
                    measured={name: float(values[places[at]]) for name, values in measured.items()},
                    formula={name: float(getattr(m, name)) for name in METRICS},
                )


def lengths(case: Case, rng: np.random.Generator) -> tuple[Ints, Ints]:
    """The lengths of all requests, drawn as the load generator draws them."""
    spread = EVEN if case.jitter else FIXED
    input_ = draw_lengths(case.row.input, spread, case.requests, rng)
    return input_, draw_lengths(case.row.output, spread, case.requests, rng)


def simulated(case: Case) -> dict[str, float] | None:
    """What the load generator reports of a run: means, and output tokens per second; None where nothing is served."""
    assert isinstance(case.model, Replicas), "rows have one pool"
    input_, output = lengths(case, np.random.default_rng(0))
    load = Requests(np.zeros(case.requests), input_, output)
    closed = Closed(int(case.row.clients))
    told = summarise(serve(case.model, load, SCHEDULERS[case.engine], closed, caching=False))
    if told.served < told.requests:
        return None
    return {"ttft": told.ttft.mean.value, "tpot": told.tpot.mean.value, "throughput": told.output_rate}


class Error(NamedTuple):
    """Relative errors of both answers on one metric of one case."""

    formula: float
    simulation: float


def main() -> None:
    """Print the table."""
    data, *more = sys.argv[1:]
    seconds = float(more[0]) if more else 600.0
    cases = sorted(closed_loops(read_table(Path(data) / "serving.csv")), key=lambda case: case.tokens)
    found: dict[tuple[str, bool, str], list[Error]] = {}
    left, lost, start = 0, 0, monotonic()
    for case in cases:
        if monotonic() - start > seconds:
            left += 1
            continue
        told = simulated(case)
        if told is None:
            lost += 1
            continue
        for name, measured in case.measured.items():
            if np.isfinite(measured):
                error = Error(case.formula[name] / measured - 1, told[name] / measured - 1)
                found.setdefault((case.engine, case.jitter, name), []).append(error)
    show(found)
    print(f"{len(cases) - left - lost} rows; {left} left out for time, {lost} that the deployment cannot hold")


def show(found: dict[tuple[str, bool, str], list[Error]]) -> None:
    """Median absolute errors, and in brackets median errors with their sign."""
    print(f"{'engine':16} {'lengths':8} {'metric':10} {'rows':>5}   {'closed form':>16} {'simulation':>16}")
    for (engine, jitter, name), errors in sorted(found.items()):
        values = np.array(errors)
        cells = [
            f"{np.median(np.abs(column)):.1%} ({np.median(column):+.1%})" for column in (values[:, 0], values[:, 1])
        ]
        kind = "drawn" if jitter else "equal"
        print(f"{engine:16} {kind:8} {name:10} {len(errors):5}   {cells[0]:>16} {cells[1]:>16}")


if __name__ == "__main__":
    main()
