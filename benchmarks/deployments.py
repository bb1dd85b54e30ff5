"""Two sections of the accuracy page on whole deployments: engines on unseen models, and choices of parallelism."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks.engines import ENGINES, JUDGED, WIDTH, by_metric, is_fitted, leave_out, record_all
from benchmarks.measured import read_measured
from plandsl.backends.accuracy.serving import METRICS, predict
from plandsl.backends.accuracy.show import percent
from plandsl.backends.calibrate.table import Table as Rows
from plandsl.backends.calibrate.table import read_table
from plandsl.driver import compile_text
from plandsl.entries import catalog_has

Table = list[list[str]]

CHOICES = 3
"""Fewest parallelisms measured under the same conditions that count as a choice."""

SAME = ("gpu", "model", "precision", "framework", "source", "isl_tokens", "osl_tokens", "concurrency", "load_kind")
"""Columns that are equal in rows which differ only in parallelism."""


def left_out(path: Path) -> Table:
    """Errors of engines on rows whose GPU, model or source the fit did not see."""
    judged = list(leave_out(record_all(read_measured(path)[0])[0], JUDGED, WIDTH))
    out = [["engine", "metric", "rows", "median", "mean", "p90", "bias"]]
    for name in ENGINES:
        for metric, e in by_metric([r for r in judged if r.row.engine == name and is_fitted(r.row)]).items():
            line = [f"`{name}`", metric, str(e.rows), percent(e.median), percent(e.mean), percent(e.p90)]
            out.append([*line, percent(e.bias, signed=True)])
    return out


def choices(rows: Rows) -> Table:
    """How well the model predicts the order of parallelisms, for one model under one load on one kind of GPU."""
    found = predict(rows, "serving", lambda text: compile_text(text)[0].cost, catalog_has)
    out = [
        ["metric", "choices", "mean rank correlation", "best one chosen", "within a tenth of the best", "median loss"]
    ]
    for metric, better in (("ttft_s", min), ("tpot_s", min), ("output_tok_per_s", max)):
        pairs = list(_alternatives(rows, found[metric].predicted, metric))
        if not pairs:
            continue
        ranks = [spearman(p, m) for p, m in pairs]
        losses = np.array([_loss(p, m, better) for p, m in pairs])
        out.append([
            metric, str(len(pairs)), f"{np.mean(ranks):.2f}", percent(float((losses == 0).mean())),
            percent(float((losses <= 0.1).mean())), percent(float(np.median(losses))),
        ])  # fmt: skip
    return out


def _alternatives(rows: Rows, predicted: np.ndarray, metric: str) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Predicted and measured values of rows that differ only in parallelism."""
    measured = rows.numbers(metric)
    columns = [rows[name] if name in rows.columns else np.full(len(rows), "") for name in SAME]
    keys: dict[tuple[str, ...], list[int]] = {}
    for at in np.flatnonzero((measured > 0) & ~np.isnan(predicted)):
        keys.setdefault(tuple(str(column[at]) for column in columns), []).append(int(at))
    for members in keys.values():
        if len(members) >= CHOICES:
            yield predicted[members], measured[members]


def spearman(a: np.ndarray, b: np.ndarray) -> float:
    """Rank correlation (Spearman 1904)."""
    x, y = (np.argsort(np.argsort(v)).astype(float) for v in (a, b))
    return float(np.corrcoef(x, y)[0, 1])


def _loss(predicted: np.ndarray, measured: np.ndarray, better: object) -> float:
    """How much worse the measurement of the predicted best is than the best measurement, as a share."""
    sign = 1.0 if better is min else -1.0
    chosen = measured[np.argmin(sign * predicted)]
    best = measured[np.argmin(sign * measured)]
    return float(abs(chosen / best - 1))


def sections(data: Path) -> list[str]:
    """Both sections with their tables; empty where the folder has no deployments."""
    from benchmarks.accuracy import markdown

    path = data / "serving.csv"
    if not path.is_file():
        return []
    rows = read_table(path)
    assert set(METRICS["serving"]) == {"ttft_s", "tpot_s", "output_tok_per_s"}
    return [
        "## Engines on unseen models\n",
        "Each GPU, model and source is left out of the fit of engines once, and predicted from the others.\n",
        markdown(left_out(path)),
        "## Choosing a parallelism\n",
        f"For rows that share model, GPU, engine and load, and were measured with {CHOICES} parallelisms or more: how"
        " well the model predicts their order, and how much worse than the best measurement its choice is.\n",
        markdown(choices(rows)),
    ]
